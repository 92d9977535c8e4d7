"""The laws of gravity, on any system: symmetries, scaling, and force from potential."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.gravity import build_gravity, kinetic_energy
from aits_func.physics.invariants import angular_momentum, linear_momentum
from aits_func.testing import Units, batches, fields, in_units, numbers, permutations, rotations, systems, units
from aits_func.testing.derivatives import weighted_sum

SOFTENINGS = st.sampled_from([0.0, 0.1, 1.0])
ANY = systems(massless=True, max_time=3.0)
# Relative to what the pairs would do without cancelling: a few roundings of 1e-16 of at most 15 terms,
# of which the separations, 0.25 at least, are differences of coordinates of at most 3: times 10, cubed in 1/r³.
ROUNDING = 1e-13
# Coordinates shifted by up to 10 are rounded at 1e-15, and separations of 0.25 then at 4e-15.
SHIFTED = 1e-12


def forces(gravity, system):
    return gravity.acceleration(system.mass, system.position, system.time)


def strength(gravity, system):
    """The largest sum of the magnitudes of all pulls on a body: what rounding errors are relative to."""
    distance = (torch.cdist(system.position, system.position).pow(2) + gravity.softening**2).sqrt()
    pull = gravity.G * system.mass / distance.fill_diagonal_(torch.inf) ** 2
    return pull.sum(1).amax().item()


def assert_near(actual, expected, scale, tolerance=ROUNDING):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(scale))


def any_field(dimensions):
    """No field, or the tidal field of a perturber, at rest or moving."""
    return st.none() | fields(dimensions, G=1.7)


@given(ANY, SOFTENINGS)
def test_action_is_reaction(system, softening):
    gravity = build_gravity(G=1.7, softening=softening)
    total = (system.mass[:, None] * forces(gravity, system)).sum(0)
    assert_near(total, torch.zeros_like(total), system.mass.sum() * strength(gravity, system))


@given(st.data(), ANY, SOFTENINGS)
def test_gravity_does_not_know_where_it_is(data, system, softening):
    gravity = build_gravity(G=1.7, softening=softening)
    shift = torch.tensor(data.draw(st.tuples(*[numbers(-10, 10)] * 3)), dtype=torch.float64)[: system.position.shape[1]]
    moved = system._replace(position=system.position + shift)
    assert_near(forces(gravity, moved), forces(gravity, system), strength(gravity, system), SHIFTED)
    potential = gravity.potential_energy(system)
    assert_near(gravity.potential_energy(moved), potential, potential.abs(), SHIFTED)


@given(st.data(), ANY, SOFTENINGS)
def test_gravity_does_not_know_directions(data, system, softening):
    gravity, turn = build_gravity(G=1.7, softening=softening), data.draw(rotations(system.position.shape[1]))
    turned = system._replace(position=system.position @ turn.T, velocity=system.velocity @ turn.T)
    assert_near(forces(gravity, turned), forces(gravity, system) @ turn.T, strength(gravity, system), SHIFTED)
    potential, kinetic = gravity.potential_energy(system), kinetic_energy(system)
    assert_near(gravity.energy(turned), potential + kinetic, kinetic - potential, SHIFTED)
    spin = angular_momentum(system)
    # masses and positions and speeds of at most 10, 3 and 3, of 6 bodies
    assert_near(angular_momentum(turned), spin if spin.ndim == 0 else turn @ spin, 1000)


@given(st.data(), ANY)
def test_a_boost_leaves_forces_alone_and_adds_the_energy_of_the_common_motion(data, system):
    gravity = build_gravity(G=1.7)
    boost = torch.tensor(data.draw(st.tuples(*[numbers(-10, 10)] * 3)), dtype=torch.float64)[: system.position.shape[1]]
    boosted = system._replace(velocity=system.velocity + boost)
    assert torch.equal(forces(gravity, boosted), forces(gravity, system))
    added = linear_momentum(system) @ boost + 0.5 * system.mass.sum() * boost @ boost
    assert_near(kinetic_energy(boosted), kinetic_energy(system) + added, kinetic_energy(boosted) + added.abs())


@given(st.data(), ANY, SOFTENINGS)
def test_bodies_have_no_order(data, system, softening):
    gravity, order = build_gravity(G=1.7, softening=softening), data.draw(permutations(len(system.mass)))
    mixed = make_system(system.mass[order], system.position[order], system.velocity[order])
    assert_near(forces(gravity, mixed), forces(gravity, system)[order], strength(gravity, system))
    kinetic, potential = kinetic_energy(system), gravity.potential_energy(system)
    assert_near(gravity.energy(mixed), kinetic + potential, kinetic - potential)
    for ours, theirs in zip(gravity.derivatives(mixed), gravity.derivatives(system), strict=True):
        # jerk and snap are relative to (v/r)^k times the strength, and v/r is 7/0.25 at most
        assert_near(ours, theirs[order], strength(gravity, system) * 30**2 + theirs.abs().amax())


@given(ANY, SOFTENINGS, units(None))
def test_forces_energies_and_their_derivatives_scale_with_the_units(system, softening, scale):
    length, mass, time = scale
    gravity = build_gravity(G=1.7, softening=softening)
    scaled = build_gravity(G=1.7 * scale.gravitational_constant, softening=length * softening)
    other = in_units(scale, system)
    unit = length / time**2
    assert_near(forces(scaled, other), unit * forces(gravity, system), unit * strength(gravity, system), SHIFTED)
    unit = mass * length**2 / time**2
    kinetic, potential = kinetic_energy(system), gravity.potential_energy(system)
    assert_near(scaled.potential_energy(other), unit * potential, unit * potential.abs(), SHIFTED)
    assert_near(kinetic_energy(other), unit * kinetic, unit * kinetic, SHIFTED)

    def number(gravity, scale, mass, position):
        there = system._replace(mass=mass, position=position)
        unit = scale.length / scale.time**2
        return weighted_sum(
            gravity.acceleration(mass, position, system.time) / unit,
            gravity.potential_energy(there) / (scale.mass * scale.length * unit),
        )

    by_mass, by_place = grad(number, argnums=(2, 3))(scaled, scale, other.mass, other.position)
    expected = grad(number, argnums=(2, 3))(gravity, Units(1.0, 1.0, 1.0), system.mass, system.position)
    # Of every pair they are 1/r times what the pair does; what cancels among 15 pairs is below 4 times as much of each.
    bound = 60 * (strength(gravity, system) + potential.abs() / system.mass.sum())
    assert_near(by_mass * mass, expected[0], bound * system.mass.sum(), SHIFTED)
    assert_near(by_place * length, expected[1], bound * system.mass.sum(), SHIFTED)


@given(st.data(), ANY, SOFTENINGS)
def test_backwards_in_time_the_force_and_the_snap_are_the_same_and_the_jerk_is_reversed(data, system, softening):
    field = data.draw(st.none() | fields(system.position.shape[1], static=True, G=1.7))
    gravity = build_gravity(G=1.7, softening=softening, field=field)
    forth, back = (gravity.derivatives(system._replace(velocity=sign * system.velocity)) for sign in (1, -1))
    assert torch.equal(back.acceleration, forth.acceleration)
    assert torch.equal(back.jerk, -forth.jerk)
    assert torch.equal(back.snap, forth.snap)


@given(st.data(), ANY, SOFTENINGS)
def test_jerk_and_snap_are_the_time_derivatives_of_the_acceleration(data, system, softening):
    gravity = build_gravity(G=1.7, softening=softening, field=data.draw(any_field(system.position.shape[1])))
    derivatives, unit = gravity.derivatives(system), torch.ones_like(system.time)

    def jerk(x, v, t):
        return jvp(lambda x, t: gravity.acceleration(system.mass, x, t), (x, t), (v, unit))[1]

    at = (system.position, system.velocity, system.time)
    ours, snap = jvp(jerk, at, (system.velocity, forces(gravity, system), unit))
    rate = 30  # of speeds of 7 at most over separations of 0.25 at least; acceleration/separation is its square at most
    scale = strength(gravity, system) + 3.4  # of the pairs and of the field
    assert_near(derivatives.jerk, ours, scale * rate)
    assert_near(derivatives.snap, snap, scale * (rate**2 + scale / 0.25))


@given(st.data(), ANY, SOFTENINGS)
def test_the_force_is_minus_the_gradient_of_the_potential_in_any_field(data, system, softening):
    gravity = build_gravity(G=1.7, softening=softening, field=data.draw(any_field(system.position.shape[1])))
    slope = grad(lambda x: gravity.potential_energy(system._replace(position=x)))(system.position)
    # the tidal field is a difference of two pulls of G M/R² = 1.7 · 50/(10 − 5)² at most
    scale = system.mass.sum() * (strength(gravity, system) + 3.4)
    assert_near(system.mass[:, None] * forces(gravity, system), -slope, scale)


@given(ANY, SOFTENINGS)
def test_what_has_no_mass_does_not_pull(system, softening):
    gravity, heavy = build_gravity(G=1.7, softening=softening), system.mass > 0
    alone = system._replace(mass=system.mass[heavy], position=system.position[heavy], velocity=system.velocity[heavy])
    assert_near(forces(gravity, system)[heavy], forces(gravity, alone), strength(gravity, system))
    energy = gravity.energy(alone)
    assert_near(gravity.energy(system), energy, kinetic_energy(alone) - gravity.potential_energy(alone))


@pytest.mark.parametrize("softening", [0.0, 0.1])
@given(batch=batches(massless=True))
def test_a_batch_is_its_systems_one_by_one(softening, batch):
    gravity = build_gravity(G=1.7, softening=softening)
    together = vmap(lambda system: (forces(gravity, system), gravity.potential_energy(system)))(batch)
    for k in range(len(batch.mass)):
        system = tree.take(batch, k)
        assert_near(together[0][k], forces(gravity, system), strength(gravity, system))
        potential = gravity.potential_energy(system)
        assert_near(together[1][k], potential, potential.abs())
