"""What energy errors are relative to: the same in any units, but for the source's own number."""

import math

import pytest
import torch
from torch.func import grad

import aits_func as af
from aits_func.learning.losses import relative_energy_error
from aits_func.timestep.energies import weigh

GRAVITY = af.build_gravity()
ROUNDING = 1e-12  # ε is a difference of energies, 1e-3 of their size, which carry 1e-15
UNITS = [(length, mass) for length in (1e-12, 1.0, 1.5e11, 1e17) for mass in (1e-12, 1.0, 2e30)]


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def triple():
    return af.System(*(leaf[0] for leaf in af.gaussian_cluster(3, 1, position_scale=1.0, velocity_scale=0.3)))


def parabola(closer=1.0):
    """Two bodies of mass 1 at distance 2 ``closer``, each at a speed of 1/√2: K = ½ and W = −½/closer."""
    x, v = tensor([[1.0, 0.0], [-1.0, 0.0]]) * closer, tensor([[0.5, 0.5], [-0.5, -0.5]])
    return af.make_system(torch.ones(2, dtype=torch.float64), x, v)


def in_units(system, length, mass):
    """The system where G stays 1: times in units of (length³/mass)^½."""
    time = math.sqrt(length**3 / mass)
    return system._replace(
        mass=mass * system.mass, position=length * system.position, velocity=length / time * system.velocity
    ), time


def test_the_scales_are_the_energy_its_size_and_the_source_s_own():
    system = triple()
    energy, size = GRAVITY.energy(system), GRAVITY.energy_size(system)
    for name, scale in (("total", energy.abs()), ("kinetic", size)):
        assert weigh(system, GRAVITY, name) == (energy, scale)  # to the bit
    weighed, scale = weigh(system, GRAVITY, "source")
    assert weighed == energy
    assert (energy * 1.25 - energy).abs() / scale == relative_energy_error(energy, energy * 1.25)


@pytest.mark.parametrize("mass", [1e-12, 1.0, 2e30])
def test_a_total_energy_that_vanishes_is_guarded_by_a_part_of_the_size_of_the_energy(mass):
    system, _ = in_units(parabola(), 1.5e11, mass)
    _, scale = weigh(system, GRAVITY, "total")
    torch.testing.assert_close(scale, 1e-12 * GRAVITY.energy_size(system), rtol=1e-15, atol=0)


@pytest.mark.parametrize(("length", "mass"), UNITS)
@pytest.mark.parametrize("energy_scale", ["total", "kinetic"])
def test_the_error_of_a_step_and_its_derivative_are_the_same_in_any_units(energy_scale, length, mass):
    policy = af.build_criterion_policy(af.p_norm(GRAVITY, eta=0.3))
    step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_scale=energy_scale)

    def error(log_eta, system):
        return step({"log_eta": log_eta}, af.first_sample(system))[1].energy_error

    for system in (triple(), parabola(closer=0.9)):
        scaled, _ = in_units(system, length, mass)
        here = tensor(-1.0)
        torch.testing.assert_close(error(here, scaled), error(here, system), rtol=0, atol=ROUNDING)
        ours, theirs = grad(error)(here, scaled), grad(error)(here, system)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
        assert theirs.abs() > 1e-4


def test_the_source_s_error_of_a_step_is_bound_to_the_unit_of_energy():
    policy = af.build_criterion_policy(af.p_norm(GRAVITY, eta=0.3))
    step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_scale="source")
    small, _ = in_units(triple(), 1.0, 1e-8)  # E of some 1e-16, beside which the guard is all
    after, info = step(policy.init(0), af.first_sample(small))
    before, later = GRAVITY.energy(small), GRAVITY.energy(after)
    assert info.energy_error == relative_energy_error(before, later)
    assert info.energy_error < 1e-3 * (later - before).abs() / before.abs()
