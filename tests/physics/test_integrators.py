"""The leapfrogs against REBOUND, against plain loops and exact orbits, and what they conserve."""

import math

import pytest
import torch
from torch.func import jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import INTEGRATORS, build_integrator, evolve
from aits_func.physics.invariants import angular_momentum, linear_momentum
from aits_func.physics.orbits import two_body_orbit

F = torch.float64
LEAPFROGS = ["leapfrog_kdk", "leapfrog_dkd"]
EVERY = sorted(INTEGRATORS)


def tensor(values):
    return torch.tensor(values, dtype=F)


def random_system(N, D, seed=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[2:3] = 0  # with three bodies or more one of them is a test particle
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 0.25)


def distance(one, other):
    return torch.cat([one.position - other.position, one.velocity - other.velocity]).abs().max().item()


def naive(name, system, dt, n_steps, G, softening):
    """Positions and velocities after a loop in plain Python."""
    mass, x, v = system.mass.tolist(), system.position.tolist(), system.velocity.tolist()
    bodies, axes = range(len(mass)), range(len(x[0]))

    def drift(h):
        for i in bodies:
            x[i] = [x[i][k] + h * v[i][k] for k in axes]

    def kick(h):
        for i in bodies:
            for j in bodies:
                if i != j:
                    cube = (math.dist(x[i], x[j]) ** 2 + softening**2) ** 1.5
                    v[i] = [v[i][k] + h * G * mass[j] * (x[j][k] - x[i][k]) / cube for k in axes]

    outer, inner = (kick, drift) if name == "leapfrog_kdk" else (drift, kick)
    for _ in range(n_steps):
        outer(dt / 2)
        inner(dt)
        outer(dt / 2)
    return system._replace(position=tensor(x), velocity=tensor(v))


# Softened by half the mean distance, so that no encounter amplifies roundings: 100 steps of about 10
# roundings of 1e-16 each. (Measured: at most 9e-15.)
AFTER_100_STEPS = 1e-13


@pytest.mark.parametrize("name", LEAPFROGS)
@pytest.mark.parametrize(("N", "D"), [(2, 2), (3, 3), (5, 2), (8, 3)])
def test_a_hundred_steps_are_those_of_a_loop_in_plain_python(N, D, name):
    system = random_system(N, D)
    integrator = build_integrator(name, build_gravity(G=1.3, softening=0.7))
    ours = evolve(integrator, system, tensor(0.01), n_steps=100)
    assert distance(ours, naive(name, system, 0.01, 100, 1.3, 0.7)) < AFTER_100_STEPS


@pytest.mark.parametrize(("N", "D"), [(2, 2), (3, 3), (5, 2), (8, 3)])
def test_a_hundred_steps_of_drift_kick_drift_are_those_of_rebound(N, D):
    rebound = pytest.importorskip("rebound")
    simulation = rebound.Simulation()
    simulation.G, simulation.softening, simulation.integrator, simulation.dt = 1.3, 0.7, "leapfrog", 0.01
    system = random_system(N, D)
    for m, x, v in zip(system.mass.tolist(), system.position.tolist(), system.velocity.tolist(), strict=True):
        x, v = [*x, 0.0][:3], [*v, 0.0][:3]
        simulation.add(m=m, x=x[0], y=x[1], z=x[2], vx=v[0], vy=v[1], vz=v[2])
    simulation.steps(100)
    theirs = system._replace(
        position=tensor([p.xyz[:D] for p in simulation.particles]),
        velocity=tensor([p.vxyz[:D] for p in simulation.particles]),
    )
    integrator = build_integrator("leapfrog_dkd", build_gravity(G=1.3, softening=0.7))
    ours = evolve(integrator, system, tensor(0.01), n_steps=100)
    assert distance(ours, theirs) < AFTER_100_STEPS


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", LEAPFROGS)
def test_the_error_against_a_kepler_orbit_is_of_second_order(name, dimensions):
    def orbit(mean_anomaly):
        tilt = 0.4 if dimensions == 3 else 0.0
        return two_body_orbit(
            mass=[1.0, 0.5],
            semi_major_axis=1.0,
            eccentricity=0.3,
            mean_anomaly=mean_anomaly,
            inclination=tilt,
            dimensions=dimensions,
            G=2.0,
        )

    integrator = build_integrator(name, build_gravity(G=2.0))
    rate = math.sqrt(2.0 * 1.5)  # (G M / a³)^½

    def error(n_steps):
        after = evolve(integrator, orbit(0.3), tensor(2.0 / n_steps), n_steps=n_steps)
        return distance(after, orbit(0.3 + 2.0 * rate))

    # 2², up to a term of fourth order: (rate · dt at pericentre)² = (3 · 0.01)² = 1e-3
    assert error(200) / error(400) == pytest.approx(4, rel=0.002)
    assert error(400) < 1e-3  # (rate · dt)² = 1e-4 times the phase run through, 3.5 radians


@pytest.mark.parametrize("name", LEAPFROGS)
def test_the_energy_error_of_one_step_is_of_third_order(name):
    gravity, system = build_gravity(), random_system(4, 3)
    integrator = build_integrator(name, gravity)
    before = gravity.energy(system)
    errors = [gravity.energy(evolve(integrator, system, tensor(dt))) - before for dt in (2e-3, 1e-3)]
    # 2³, up to the term of fourth order, dt over the shortest time scale, about 0.3
    assert (errors[0] / errors[1]).item() == pytest.approx(8, rel=0.02)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", LEAPFROGS)
def test_momentum_and_angular_momentum_are_kept(name, dimensions):
    system = random_system(5, dimensions)
    after = evolve(build_integrator(name, build_gravity(softening=0.1)), system, tensor(0.02), n_steps=100)
    assert distance(after, system) > 0.1
    # exact in exact arithmetic: 100 steps of roundings of sums of order 10
    for kept in (linear_momentum, angular_momentum):
        torch.testing.assert_close(kept(after), kept(system), rtol=0, atol=1e-13)


def moving_field(D):
    return build_tidal_field(5.0, straight_path([4.0, -3.0, 2.0][:D], [0.5, 1.0, -0.3][:D]))


@pytest.mark.parametrize("field", [None, moving_field(3)], ids=["isolated", "moving field"])
@pytest.mark.parametrize("name", LEAPFROGS)
def test_the_way_back_is_the_way_there(name, field):
    system = random_system(4, 3)
    integrator = build_integrator(name, build_gravity(softening=0.7, field=field))
    there = evolve(integrator, system, tensor(0.02), n_steps=50)
    back = evolve(integrator, there, tensor(-0.02), n_steps=50)
    assert distance(there, system) > 0.1
    for leaf, start in zip(back, system, strict=True):
        torch.testing.assert_close(leaf, start, rtol=0, atol=AFTER_100_STEPS)


@pytest.mark.parametrize("name", LEAPFROGS)
def test_reversed_velocities_retrace_the_path(name):
    system = random_system(4, 3)
    integrator = build_integrator(name, build_gravity(softening=0.7))

    def turn(state):
        return state._replace(velocity=-state.velocity)

    there = evolve(integrator, system, tensor(0.02), n_steps=50)
    back = turn(evolve(integrator, turn(there), tensor(0.02), n_steps=50))
    assert distance(back, system) < AFTER_100_STEPS


@pytest.mark.parametrize("field", [None, moving_field(3)], ids=["isolated", "moving field"])
@pytest.mark.parametrize("name", EVERY)
def test_a_step_of_length_zero_changes_nothing(name, field):
    system = random_system(4, 3)._replace(work=tensor(0.3))
    after = evolve(build_integrator(name, build_gravity(field=field)), system, tensor(0.0), n_steps=3)
    for leaf, start in zip(after, system, strict=True):
        assert torch.equal(leaf, start)


@pytest.mark.parametrize("name", EVERY)
def test_force_evaluations_are_as_many_as_declared(name):
    gravity, calls = build_gravity(), []

    def counted(mass, position, time):
        calls.append(1)
        return gravity.acceleration(mass, position, time)

    integrator, system = build_integrator(name, gravity._replace(acceleration=counted)), random_system(3, 2)
    carry = integrator.init(system)
    assert len(calls) == integrator.evaluations_at_start
    for k in range(1, 6):
        system, carry = integrator.step(system, carry, tensor(0.01))
        assert len(calls) == integrator.evaluations_at_start + k * integrator.evaluations_per_step
    calls.clear()
    evolve(integrator, system, tensor(0.01), n_steps=7)
    assert len(calls) == integrator.evaluations_at_start + 7 * integrator.evaluations_per_step


# Hermite hands on the force at the predicted state, by design another than at the corrected one.
@pytest.mark.parametrize("name", [name for name in EVERY if name != "hermite"])
def test_seven_steps_are_three_and_then_four(name):
    system = random_system(4, 2)
    integrator = build_integrator(name, build_gravity(softening=0.1, field=moving_field(2)))
    whole = evolve(integrator, system, tensor(0.01), n_steps=7)
    parts = evolve(integrator, evolve(integrator, system, tensor(0.01), n_steps=3), tensor(0.01), n_steps=4)
    for ours, theirs in zip(whole, parts, strict=True):
        assert torch.equal(ours, theirs)  # the force handed on is the one that would be evaluated again


@pytest.mark.parametrize("name", EVERY)
def test_the_clock_advances_by_the_steps_and_the_masses_stay(name):
    system = random_system(3, 2)
    after = evolve(build_integrator(name, build_gravity(softening=0.1)), system, tensor(0.125), n_steps=4)
    # The stages of a composition sum to 1 but for the rounding of up to 15 numbers below 2, at each of 4 steps.
    torch.testing.assert_close(after.time, system.time + 0.5, rtol=0, atol=1e-14 if "yoshida" in name else 0)
    assert torch.equal(after.mass, system.mass)
    assert after.work == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_short_step_follows_velocity_and_force(name):
    system, gravity = random_system(3, 2), build_gravity()
    integrator = build_integrator(name, gravity)
    _, slope = jvp(lambda dt: evolve(integrator, system, dt), (tensor(0.0),), (tensor(1.0),))
    # derivatives at dt = 0: the same sums, in another order
    torch.testing.assert_close(slope.position, system.velocity, rtol=1e-14, atol=0)
    force = gravity.acceleration(system.mass, system.position, system.time)
    torch.testing.assert_close(slope.velocity, force, rtol=1e-13, atol=0)
    # a sum of up to 15 stages below 2, which is 1 but for its rounding
    torch.testing.assert_close(slope.time, tensor(1.0), rtol=3e-15 if "yoshida" in name else 0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_with_a_step_for_every_system_is_the_systems_one_by_one(name):
    systems, steps = [random_system(3, 2, seed=k) for k in range(3)], tensor([0.0, 0.01, 0.02])
    integrator = build_integrator(name, build_gravity(softening=0.1))
    batch = vmap(lambda system, dt: evolve(integrator, system, dt, n_steps=2))(tree.stack(systems), steps)
    for k, system in enumerate(systems):
        # vmap and a Python loop agree to rounding, not bit for bit
        assert distance(tree.take(batch, k), evolve(integrator, system, steps[k], n_steps=2)) < 1e-14


@pytest.mark.parametrize("name", EVERY)
def test_single_precision_stays_single(name):
    system = tree.cast(random_system(3, 2), dtype=torch.float32)
    integrator = build_integrator(name, build_gravity(field=moving_field(2)))
    after = evolve(integrator, system, torch.tensor(0.01), n_steps=2)
    assert all(leaf.dtype == torch.float32 for leaf in after)


def test_an_unknown_integrator_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^build_integrator: name must be one of leapfrog_kdk, .*, got 'euler'$"):
        build_integrator("euler", build_gravity())
