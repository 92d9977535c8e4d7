"""What rounding makes of an energy error: the estimate against steps that make no error but that one."""

import math

import pytest
import torch
from torch.func import vmap

import aits_func as af
from aits_func.base.tree import cast
from aits_func.timestep.rounding import MARGIN, rounding_error
from aits_func.timestep.step import limit_of

GRAVITY = af.build_gravity()
POLICY = af.build_criterion_policy(af.p_norm(GRAVITY, eta=1.0))
DTYPES = (torch.float64, torch.float32)
# Of a free-fall time: a leapfrog's own error, some eta³, is far below rounding, and its steps still move all bodies.
SHORT = {torch.float64: 1e-6, torch.float32: 1e-3}


def estimate(systems, energy_scale="total", evaluations=1):
    def of_one(system):
        return rounding_error(system, gravity=GRAVITY, energy_scale=energy_scale, evaluations=evaluations)

    return vmap(of_one)(systems)


def short_steps(systems, energy_scale="total", integrator="leapfrog_kdk", n_steps=1, trials=48):
    """Energy errors (trials, B) of steps of slightly different length, all short."""
    scheme, dtype = af.build_integrator(integrator, GRAVITY), systems.mass.dtype
    step = af.build_step(POLICY, GRAVITY, scheme, n_steps=n_steps, energy_scale=energy_scale)
    samples, rows = vmap(af.first_sample)(systems), []
    for k in range(trials):
        eta = SHORT[dtype] * (1 + 0.5 * k / trials)
        _, info = vmap(step, in_dims=(None, 0))({"log_eta": torch.tensor(math.log(eta), dtype=dtype)}, samples)
        rows.append(info.energy_error.double())
    return torch.stack(rows)


def rms(errors):
    return errors.pow(2).mean(0).sqrt()


def cluster(bodies, count=16):
    return af.gaussian_cluster(0, count, bodies=bodies, position_scale=1.0, velocity_scale=0.5)


def far_from_home():
    systems = af.binaries(0, 16)
    return systems._replace(position=systems.position + torch.tensor([1e3, 7e2], dtype=torch.float64))


def nearly_unbound():
    """K = (1 − 1e-3)|W|: energy of a thousandth."""
    systems = af.binaries(0, 16)
    potential, total = vmap(GRAVITY.potential_energy)(systems), vmap(GRAVITY.energy)(systems)
    factor = (-potential * (1 - 1e-3) / (total - potential)).sqrt()
    return systems._replace(velocity=systems.velocity * factor[:, None, None])


KINDS = {
    "pairs": lambda: cluster(2),
    "eights": lambda: cluster(8),
    "twenties": lambda: cluster(20, 4),
    "eccentric binaries": lambda: af.binaries(0, 16),
    "hierarchies": lambda: af.hierarchical_triple(0, 16),
    "far from the origin": far_from_home,
    "nearly unbound": nearly_unbound,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_short_steps_have_the_error_that_rounding_was_estimated_to_make(kind, dtype):
    systems = cast(KINDS[kind](), dtype=dtype)
    ratio = rms(short_steps(systems)) / estimate(systems)
    # The law is a sum of independent roundings of mean size; which digits a number has is luck, a factor of two.
    assert 0.5 < float(ratio.median()) < 2
    assert float(ratio.max()) < 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_the_kinetic_scale_the_estimate_is_that_of_the_kinetic_error(dtype):
    systems = cast(nearly_unbound(), dtype=dtype)
    ratio = rms(short_steps(systems, "kinetic")) / estimate(systems, "kinetic")
    assert 0.5 < float(ratio.median()) < 2  # as above
    # |E|/(K + |W|) = 1e-3/1.999; float32 changes an energy of a thousandth by 1e-4
    between = estimate(systems, "kinetic") / estimate(systems)
    torch.testing.assert_close(between, torch.full_like(between, 1e-3 / 1.999), rtol=1e-2, atol=0)


@pytest.mark.parametrize(("integrator", "n_steps", "evaluations"), [("yoshida8", 1, 15), ("leapfrog_kdk", 9, 9)])
def test_roundings_add_up_over_the_force_evaluations_of_a_step(integrator, n_steps, evaluations):
    systems = cast(cluster(3), dtype=torch.float32)
    ratio = rms(short_steps(systems, integrator=integrator, n_steps=n_steps)) / estimate(systems, "total", evaluations)
    assert 0.5 < float(ratio.median()) < 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_threshold_of_ten_rounding_errors_is_met_by_every_short_step_and_one_below_by_chance_alone(dtype):
    systems = cast(af.binaries(0, 16), dtype=dtype)
    errors, floor = short_steps(systems), estimate(systems)
    assert bool((errors < 10 * floor).all())
    met = (errors < MARGIN * floor).double().mean()
    # A normal error is below half its width in 38 % of tries. Float64 energies are equal to the last digit in a third.
    assert float(met) < 0.6


def test_without_energy_nothing_can_be_met_on_the_total_scale():
    mass = torch.tensor([1.0, 1.0], dtype=torch.float64)
    x = torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)  # K = 1 = −W
    parabola = af.make_system(mass, x, v)
    assert GRAVITY.energy(parabola) == 0
    kwargs = {"gravity": GRAVITY}
    # Sums of numbers of size 1 in float64 over the guard of 1e-12; and over K + |W| = 2.
    assert float(rounding_error(parabola, energy_scale="total", **kwargs)) > 1e-5
    assert 2e-17 < float(rounding_error(parabola, energy_scale="kinetic", **kwargs)) < 4e-16


def test_a_limit_is_known_of_steps_that_were_built_and_counts_their_evaluations():
    step = af.build_step(POLICY, GRAVITY, af.build_yoshida(GRAVITY, order=4), n_steps=3, energy_threshold=1e-7)
    limit, systems = limit_of(step), cast(cluster(3), dtype=torch.float32)
    assert limit.energy_threshold == 1e-7
    # In float32 the state is all that counts: 9 evaluations make the root of 9.
    torch.testing.assert_close(vmap(limit.rounding_error)(systems), 3 * estimate(systems), rtol=1e-6, atol=0)
    assert limit_of(lambda params, sample: None) is None
