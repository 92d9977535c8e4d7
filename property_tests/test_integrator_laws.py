"""The laws of the leapfrogs, on any system: reversibility, order, symmetry, and what they conserve."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacfwd

from aits_func.base.check import make_system
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import INTEGRATORS, build_integrator, evolve
from aits_func.physics.invariants import angular_momentum, centre_of_mass, linear_momentum
from aits_func.physics.pair_criteria import p_norm
from aits_func.testing import numbers, orbits, permutations, rotations, systems

LEAPFROGS = pytest.mark.parametrize("name", ["leapfrog_kdk", "leapfrog_dkd"])
ANY = systems(bodies=(2, 5), massless=True, max_time=3.0)
SOFTENINGS = st.sampled_from([0.0, 0.3])
# Some steps of a tenth of the shortest time scale: nothing comes much closer, so that roundings of 1e-16 of
# coordinates up to 5 and speeds up to 50 hardly grow. Relative to the largest coordinate or speed.
ROUNDING = 1e-13


def moving_field(D):
    return build_tidal_field(50.0, straight_path([8.0, -6.0, 3.0][:D], [0.5, 1.0, -0.3][:D]))


def make(name, *, softening=0.0, field=None):
    gravity = build_gravity(softening=softening, field=field)
    return gravity, build_integrator(name, gravity)


def short_step(gravity, system, fraction=0.1):
    criterion = p_norm(gravity, eta=fraction, pairs=("free_fall", "fly_by"))
    return criterion.timescale(criterion.init(), system)


def assert_same_state(one, other, tolerance=ROUNDING):
    for name in ("position", "velocity", "time", "work"):
        ours, theirs = getattr(one, name), getattr(other, name)
        error, scale = (ours - theirs).abs().max().item(), max(1.0, theirs.abs().max().item())
        assert error <= tolerance * scale, name


@LEAPFROGS
@given(system=ANY, softening=SOFTENINGS, n_steps=st.integers(1, 5), moving=st.booleans())
def test_there_and_back_again(name, system, softening, n_steps, moving):
    field = moving_field(system.position.shape[1]) if moving else None
    gravity, integrator = make(name, softening=softening, field=field)
    dt = short_step(gravity, system)
    there = evolve(integrator, system, dt, n_steps=n_steps)
    assert_same_state(evolve(integrator, there, -dt, n_steps=n_steps), system)


@LEAPFROGS
@given(system=ANY, softening=SOFTENINGS, n_steps=st.integers(1, 5))
def test_with_velocities_reversed_the_system_comes_back(name, system, softening, n_steps):
    gravity, integrator = make(name, softening=softening)
    dt = short_step(gravity, system)
    there = evolve(integrator, system, dt, n_steps=n_steps)
    back = evolve(integrator, there._replace(velocity=-there.velocity), dt, n_steps=n_steps)
    assert_same_state(back._replace(velocity=-back.velocity, time=system.time), system)


@pytest.mark.parametrize("name", sorted(INTEGRATORS))
@given(system=ANY, n_steps=st.integers(1, 3), moving=st.booleans())
def test_steps_of_length_zero_are_the_identity(name, system, n_steps, moving):
    _, integrator = make(name, field=moving_field(system.position.shape[1]) if moving else None)
    after = evolve(integrator, system, torch.zeros_like(system.time), n_steps=n_steps)
    for leaf, start in zip(after, system, strict=True):
        assert torch.equal(leaf, start)


@LEAPFROGS
@given(system=ANY, softening=SOFTENINGS)
def test_one_step_is_of_second_order(name, system, softening):
    gravity, integrator = make(name, softening=softening)
    dt = short_step(gravity, system, 0.02)

    def defect(dt):
        """Phase-space distance, lengths over dt, between one step and two of half its length: c·dt³ + …"""
        one, two = evolve(integrator, system, dt), evolve(integrator, system, dt / 2, n_steps=2)
        parts = ((one.position - two.position) / short_step(gravity, system, 1.0), one.velocity - two.velocity)
        return torch.cat(parts).norm().item()

    # 2³, up to terms smaller by 0.02 and a coefficient of order 1 (10 where the leading term is small)
    assert defect(dt) / defect(dt / 2) == pytest.approx(8, rel=0.1)


@LEAPFROGS
@given(system=ANY, softening=SOFTENINGS, n_steps=st.integers(1, 5))
def test_momenta_are_kept_and_the_centre_of_mass_moves_straight_on(name, system, softening, n_steps):
    gravity, integrator = make(name, softening=softening)
    dt = short_step(gravity, system)
    after = evolve(integrator, system, dt, n_steps=n_steps)
    # total masses of at most 50, coordinates up to 5, speeds up to 50
    scale = system.mass.sum().item() * after.velocity.abs().max().clamp(min=1).item()
    tolerance = {"rtol": 0, "atol": ROUNDING * scale}
    torch.testing.assert_close(linear_momentum(after), linear_momentum(system), **tolerance)
    tolerance["atol"] *= 5
    torch.testing.assert_close(angular_momentum(after), angular_momentum(system), **tolerance)
    place, speed = centre_of_mass(system)
    torch.testing.assert_close(centre_of_mass(after)[0], place + n_steps * dt * speed, **tolerance)


@LEAPFROGS
@given(data=st.data(), system=ANY, softening=SOFTENINGS)
def test_the_motion_is_the_same_in_every_frame(name, data, system, softening):
    gravity, integrator = make(name, softening=softening)
    N, D = system.position.shape
    turn, order = data.draw(rotations(D)), data.draw(permutations(N))
    shift, boost = (torch.tensor(data.draw(st.tuples(*[numbers(-3, 3)] * 3)), dtype=torch.float64)[:D] for _ in "ab")
    dt = short_step(gravity, system)

    def seen(state):
        x = state.position @ turn.T + shift + boost * state.time
        return make_system(state.mass[order], x[order], (state.velocity @ turn.T + boost)[order], state.time)

    after = evolve(integrator, system, dt, n_steps=3)
    # ten times: a frame adds coordinates up to 10, whose roundings the encounters feel too
    assert_same_state(evolve(integrator, seen(system), dt, n_steps=3), seen(after), 10 * ROUNDING)


@LEAPFROGS
@given(system=ANY, softening=SOFTENINGS)
def test_test_particles_change_nothing_for_the_others(name, system, softening):
    gravity, integrator = make(name, softening=softening)
    heavy = system.mass > 0

    def without(state):
        return state._replace(mass=state.mass[heavy], position=state.position[heavy], velocity=state.velocity[heavy])

    dt = short_step(gravity, system)
    alone = evolve(integrator, without(system), dt, n_steps=3)
    assert_same_state(without(evolve(integrator, system, dt, n_steps=3)), alone)


@LEAPFROGS
@given(system=systems(bodies=(2, 3), massless=True), softening=SOFTENINGS)
def test_a_step_is_symplectic(name, system, softening):
    gravity, integrator = make(name, softening=softening)
    dt = short_step(gravity, system)
    N, D = system.position.shape

    def flow(state):
        x, v = state.reshape(2, N, D)
        after = evolve(integrator, system._replace(position=x, velocity=v), dt)
        return torch.stack([after.position, after.velocity]).reshape(-1)

    jacobian = jacfwd(flow)(torch.stack([system.position, system.velocity]).reshape(-1))
    weight = torch.diag(system.mass.repeat_interleave(D))
    nothing = torch.zeros_like(weight)
    form = torch.cat([torch.cat([nothing, weight], 1), torch.cat([-weight, nothing], 1)])
    # sums of products of elements of the Jacobian with masses, each rounded at 1e-16
    scale = jacobian.abs().max().item() ** 2 * system.mass.max().item()
    torch.testing.assert_close(jacobian.T @ form @ jacobian, form, rtol=0, atol=ROUNDING * max(1.0, scale))


@LEAPFROGS
@given(system=orbits(eccentricity=(0.0, 0.5)))
def test_a_bound_orbit_stays_bound_and_its_energy_comes_back(name, system):
    gravity, integrator = make(name)
    dt = short_step(gravity, system, 0.05)
    before = gravity.energy(system)
    after = gravity.energy(evolve(integrator, system, dt, n_steps=200))
    # an error of order (dt/τ)² = 2.5e-3 that oscillates and does not grow; at e = 0.5 with a factor 4
    assert (after - before).abs() < 0.01 * before.abs()
