"""The integrators against REBOUND, plain loops and exact orbits: their order, what they conserve, and their sums."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch.func import jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import (
    INTEGRATORS,
    YOSHIDA,
    build_hermite,
    build_integrator,
    build_leapfrog_dkd,
    build_leapfrog_kdk,
    build_yoshida,
    evolve,
    move,
    nothing_lost,
)
from aits_func.physics.invariants import angular_momentum, linear_momentum
from aits_func.physics.orbits import two_body_orbit

F = torch.float64
LEAPFROGS = ["leapfrog_kdk", "leapfrog_dkd"]
EVERY = sorted(INTEGRATORS)
YOSHIDAS = [f"yoshida{order}" for order in YOSHIDA]
ORDERS = {"leapfrog_kdk": 2, "leapfrog_dkd": 2, "hermite": 4, "yoshida4": 4, "yoshida6": 6, "yoshida8": 8}


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
@pytest.mark.parametrize("name", LEAPFROGS + YOSHIDAS)
def test_the_way_back_is_the_way_there(name, field):
    system = random_system(4, 3)
    integrator = build_integrator(name, build_gravity(softening=0.7, field=field))
    n_steps = 100 // integrator.evaluations_per_step  # 100 stages
    there = evolve(integrator, system, tensor(1.0 / n_steps), n_steps=n_steps)
    back = evolve(integrator, there, tensor(-1.0 / n_steps), n_steps=n_steps)
    assert distance(there, system) > 0.1
    for leaf, start in zip(back, system, strict=True):
        torch.testing.assert_close(leaf, start, rtol=0, atol=AFTER_100_STEPS)


@pytest.mark.parametrize("name", LEAPFROGS + YOSHIDAS)
def test_reversed_velocities_retrace_the_path(name):
    system = random_system(4, 3)
    integrator = build_integrator(name, build_gravity(softening=0.7))

    def turn(state):
        return state._replace(velocity=-state.velocity)

    n_steps = 100 // integrator.evaluations_per_step  # 100 stages
    there = evolve(integrator, system, tensor(1.0 / n_steps), n_steps=n_steps)
    back = turn(evolve(integrator, turn(there), tensor(1.0 / n_steps), n_steps=n_steps))
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
    assert after.work[0] == 0  # that of a field; one of the bodies is massless


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


# --- order


def three_bodies():
    """With a softening of 1 nothing happens faster than in a time of 1: a mild problem, for orders."""
    position = tensor([[-1.0, 0.1], [1.1, 0.0], [0.1, 0.9]])
    velocity = tensor([[0.1, 0.5], [-0.1, -0.6], [0.3, -0.1]])
    return make_system(tensor([1.0, 0.8, 1.3]), position, velocity)


# How far three step lengths, dt, dt/2 and dt/4, leave the exponent from the order: what stands beside the leading term
# is smaller by (c dt)², c the longest stage, or by dt with Hermite. (Measured: from half of these numbers down.)
NEAR = {"leapfrog_kdk": 0.01, "leapfrog_dkd": 0.01, "hermite": 0.2, "yoshida4": 0.12, "yoshida6": 0.1, "yoshida8": 0.25}


@pytest.mark.parametrize(
    ("name", "moving"),
    # without the one that takes as long as all others
    [(name, moving) for name in EVERY for moving in (False, True) if (name, moving) != ("yoshida8", True)],
)
def test_halving_dt_shows_the_order_of_positions_velocities_and_work(name, moving):
    gravity = build_gravity(softening=1.0, field=moving_field(2) if moving else None)
    integrator, first = build_integrator(name, gravity), 12 if name == "yoshida8" else 8
    ends = [evolve(integrator, three_bodies(), tensor(2.0 / n), n_steps=n) for n in (first, 2 * first, 4 * first)]
    states = [torch.cat([end.position.flatten(), end.velocity.flatten(), end.work[None]]) for end in ends]
    coarse, fine = ((one - other).norm().item() for one, other in itertools.pairwise(states))
    assert fine > 1e-12  # some hundred roundings of 1e-16 are far below
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[name], abs=NEAR[name])


@pytest.mark.parametrize("name", ["leapfrog_kdk", "leapfrog_dkd", "hermite", "yoshida4"])
def test_in_a_moving_field_the_energy_less_the_work_is_kept_to_the_order(name):
    gravity = build_gravity(softening=1.0, field=moving_field(2))
    integrator, start = build_integrator(name, gravity), three_bodies()
    ends = [evolve(integrator, start, tensor(2.0 / n), n_steps=n) for n in (16, 32)]
    errors = [(gravity.energy(end) - gravity.energy(start)).abs().item() for end in ends]
    assert ends[1].work.abs() > 10 * errors[0]
    # up to (dt)² = 1e-2; Hermite does better here, as the leading terms partly cancel
    assert math.log2(errors[0] / errors[1]) > ORDERS[name] - 0.05


@pytest.mark.parametrize(("name", "order"), [("hermite", 4), ("yoshida4", 4), ("yoshida6", 6), ("yoshida8", 8)])
def test_the_error_against_a_kepler_orbit_is_of_that_order(name, order):
    def orbit(mean_anomaly):
        return two_body_orbit(mass=[1.0, 0.5], semi_major_axis=1.0, eccentricity=0.1, mean_anomaly=mean_anomaly)

    integrator, n_steps = build_integrator(name, build_gravity()), {4: 100, 6: 40, 8: 40}[order]

    def error(n_steps):
        after = evolve(integrator, orbit(0.3), tensor(2.0 / n_steps), n_steps=n_steps)
        return distance(after, orbit(0.3 + 2.0 * math.sqrt(1.5)))

    # up to terms smaller by rate · dt, a twentieth, with coefficients of several
    assert math.log2(error(n_steps) / error(2 * n_steps)) == pytest.approx(order, abs=0.3)
    assert error(n_steps) < 1e-5


# --- Hermite


def forces_and_jerks(mass, x, v, G, softening):
    """In plain Python: Σ G m d/R³ and Σ G m (u/R³ − 3 (d·u) d/R⁵)."""
    bodies, axes = range(len(mass)), range(len(x[0]))
    a, j = ([[0.0 for _ in axes] for _ in bodies] for _ in "aj")
    for one in bodies:
        for other in bodies:
            if one != other:
                d, u = ([y[other][k] - y[one][k] for k in axes] for y in (x, v))
                R = math.sqrt(sum(c * c for c in d) + softening**2)
                product = sum(c * e for c, e in zip(d, u, strict=True))
                for k in axes:
                    a[one][k] += G * mass[other] * d[k] / R**3
                    j[one][k] += G * mass[other] * (u[k] / R**3 - 3 * product * d[k] / R**5)
    return a, j


def naive_hermite(system, dt, n_steps, G, softening):
    mass, x, v = system.mass.tolist(), system.position.tolist(), system.velocity.tolist()
    places = list(itertools.product(range(len(mass)), range(len(x[0]))))
    a, j = forces_and_jerks(mass, x, v, G, softening)
    for _ in range(n_steps):
        xp, vp = [row[:] for row in x], [row[:] for row in v]
        for i, k in places:
            xp[i][k] = x[i][k] + v[i][k] * dt + a[i][k] * dt**2 / 2 + j[i][k] * dt**3 / 6
            vp[i][k] = v[i][k] + a[i][k] * dt + j[i][k] * dt**2 / 2
        a1, j1 = forces_and_jerks(mass, xp, vp, G, softening)  # once per step, and handed on as they are
        for i, k in places:
            old = v[i][k]
            v[i][k] = old + (a[i][k] + a1[i][k]) * dt / 2 + (j[i][k] - j1[i][k]) * dt**2 / 12
            x[i][k] += (old + v[i][k]) * dt / 2 + (a[i][k] - a1[i][k]) * dt**2 / 12
        a, j = a1, j1
    return system._replace(position=tensor(x), velocity=tensor(v))


@pytest.mark.parametrize(("N", "D"), [(2, 2), (3, 3), (5, 2)])
def test_fifty_steps_of_hermite_are_those_of_a_loop_in_plain_python(N, D):
    system = random_system(N, D)
    ours = evolve(build_hermite(build_gravity(G=1.3, softening=0.7)), system, tensor(0.02), n_steps=50)
    assert distance(ours, naive_hermite(system, 0.02, 50, 1.3, 0.7)) < AFTER_100_STEPS


def test_hermite_hands_on_the_force_and_jerk_of_the_predicted_state():
    gravity, system = build_gravity(softening=0.5, field=moving_field(2)), three_bodies()
    integrator, dt = build_hermite(gravity), 0.2
    carry = integrator.init(system)
    held = gravity.derivatives(system)
    for ours, expected in ((carry.acceleration, held.acceleration), (carry.jerk, held.jerk)):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-14)  # of another formula
    after, new = integrator.step(system, carry, tensor(dt))
    predicted = system._replace(
        position=system.position + dt * system.velocity + dt**2 / 2 * carry.acceleration + dt**3 / 6 * carry.jerk,
        velocity=system.velocity + dt * carry.acceleration + dt**2 / 2 * carry.jerk,
        time=system.time + dt,
    )
    held = gravity.derivatives(predicted)
    for ours, expected in ((new.acceleration, held.acceleration), (new.jerk, held.jerk)):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-14)
    assert distance(after, predicted) > 1e-4


def test_hermite_does_not_come_back():
    system = three_bodies()
    integrator = build_hermite(build_gravity(softening=1.0))
    there = evolve(integrator, system, tensor(0.1), n_steps=20)
    assert distance(evolve(integrator, there, tensor(-0.1), n_steps=20), system) > 1e-7


# --- Yoshida


@pytest.mark.parametrize("order", YOSHIDA)
def test_the_stages_of_yoshida_are_a_palindrome_whose_odd_powers_cancel(order):
    stages = YOSHIDA[order]
    assert len(stages) == 2 ** (order // 2) - 1
    assert stages == stages[::-1]
    assert math.fsum(stages) == pytest.approx(1.0, abs=1e-15)
    for power in range(3, order, 2):
        # coefficients of up to 2, printed to 15 digits; a power of 7 multiplies that by up to 7 · 2⁶
        assert math.fsum(c**power for c in stages) == pytest.approx(0.0, abs=1e-11)
    assert abs(math.fsum(c ** (order + 1) for c in stages)) > 0.1


@pytest.mark.parametrize("order", YOSHIDA)
def test_a_step_of_yoshida_is_kick_drift_kick_stage_by_stage(order):
    gravity, system = build_gravity(softening=0.5, field=moving_field(2)), three_bodies()
    ours = evolve(build_yoshida(gravity, order=order), system, tensor(0.2))
    stages, state = build_leapfrog_kdk(gravity), system
    carry = stages.init(state)
    for coefficient in YOSHIDA[order]:
        state, carry = stages.step(state, carry, coefficient * tensor(0.2))
    for leaf, expected in zip(ours, state, strict=True):
        assert torch.equal(leaf, expected)


@pytest.mark.parametrize(
    ("name", "costs"),
    [
        ("leapfrog_kdk", (1, 1)),
        ("leapfrog_dkd", (0, 1)),
        ("hermite", (1, 1)),  # of force and jerk together
        ("yoshida4", (1, 3)),
        ("yoshida6", (1, 7)),
        ("yoshida8", (1, 15)),
    ],
)
def test_force_evaluations_at_the_start_and_per_step(name, costs):
    integrator = build_integrator(name, build_gravity())
    assert (integrator.evaluations_at_start, integrator.evaluations_per_step) == costs


# --- compensated sums


def kahan(total, increments):
    """(sum, lost) of a loop in plain Python."""
    lost = 0.0
    for increment in increments:
        rest = increment - lost
        new = total + rest
        lost = (new - total) - rest
        total = new
    return total, lost


def test_compensated_sums_are_those_of_kahan_bit_by_bit():
    system = random_system(3, 2)
    make = torch.Generator().manual_seed(1)
    moves = [(torch.randn(3, 2, generator=make, dtype=F), torch.randn((), generator=make, dtype=F)) for _ in range(50)]
    state, lost = system, nothing_lost(system, True)
    for displacement, dt in moves:
        state, lost = move(state, lost, 1e-3 * displacement, 1e-3 * dt)
    for i, k in itertools.product(range(3), range(2)):
        expected = kahan(system.position[i, k].item(), [1e-3 * x[i, k].item() for x, _ in moves])
        assert (state.position[i, k].item(), lost.position[i, k].item()) == expected
    assert (state.time.item(), lost.time.item()) == kahan(system.time.item(), [1e-3 * dt.item() for _, dt in moves])


def drifts_of(name, dt):
    """The lengths of the drifts that a step of that integrator is made of, as it rounds them."""
    stages = YOSHIDA[int(name[-1])] if name in YOSHIDAS else (1.0,)
    parts = [coefficient * dt for coefficient in stages]
    return [dt / 2, dt / 2] if name == "leapfrog_dkd" else parts


@pytest.mark.parametrize("name", EVERY)
def test_over_many_tiny_steps_compensated_sums_stay_within_a_rounding_of_the_exact_one(name):
    """A massive body beside a test particle feels no force: its path is known to the last bit."""
    position, velocity = tensor([[1.0, -1.5], [5.0, 5.0]]), tensor([[0.3, 0.7], [0.0, 0.0]])
    system = make_system(tensor([1.0, 0.0]), position, velocity, 1.75)
    integrator, dt, n_steps = build_integrator(name, build_gravity()), tensor(1e-7), 100
    errors = {}
    for compensated in (False, True):
        state, carry = system, integrator.init(system, compensated)
        for _ in range(n_steps):
            state, carry = integrator.step(state, carry, dt)
        assert torch.equal(state.velocity[0], velocity[0])
        steps = drifts_of(name, dt.item())
        ulp = Fraction(2) ** -52  # of numbers between 1 and 2
        time, x, y = (
            abs(Fraction(now.item()) - Fraction(start.item()) - n_steps * sum(Fraction(step * speed) for step in steps))
            for now, start, speed in (
                (state.time, system.time, 1.0),
                (state.position[0, 0], position[0, 0], 0.3),
                (state.position[0, 1], position[0, 1], 0.7),
            )
        )
        errors[compensated] = [float(error / ulp) for error in (time, x, y)]
    # A plain sum loses the same part of an ulp every time; a compensated one is the number nearest to the exact sum,
    # but for roundings of what is lost.
    assert max(errors[True]) < 0.51
    assert max(errors[False]) > 10


@pytest.mark.parametrize("name", EVERY)
def test_a_compensated_step_differs_from_a_plain_one_by_a_rounding_and_leaves_velocities_alone(name):
    gravity, system = build_gravity(softening=0.7), three_bodies()
    integrator = build_integrator(name, gravity)
    ends = []
    for compensated in (False, True):
        state, carry = system, integrator.init(system, compensated)
        for _ in range(10):
            state, carry = integrator.step(state, carry, tensor(0.02))
        ends.append(state)
        held = carry if name == "leapfrog_dkd" else carry.lost
        assert bool(held) == compensated
    assert distance(*ends) < AFTER_100_STEPS
    # the first step, from the same places, kicks alike in both
    first = [integrator.step(system, integrator.init(system, c), tensor(0.02))[0].velocity for c in (False, True)]
    torch.testing.assert_close(*first, rtol=0, atol=1e-15)


def test_an_integrator_by_name_is_the_one_of_that_name():
    gravity, system = build_gravity(softening=0.3), three_bodies()
    same = {
        "leapfrog_kdk": build_leapfrog_kdk(gravity),
        "leapfrog_dkd": build_leapfrog_dkd(gravity),
        "hermite": build_hermite(gravity),
        "yoshida4": build_yoshida(gravity, order=4),
        "yoshida6": build_yoshida(gravity, order=6),
        "yoshida8": build_yoshida(gravity, order=8),
    }
    assert sorted(same) == EVERY
    for name, integrator in same.items():
        ours = evolve(build_integrator(name, gravity), system, tensor(0.1), n_steps=2)
        theirs = evolve(integrator, system, tensor(0.1), n_steps=2)
        assert distance(ours, theirs) == 0
    ends = [evolve(integrator, system, tensor(0.1)) for integrator in same.values()]
    assert all(distance(one, other) > 0 for one, other in itertools.combinations(ends, 2))


@pytest.mark.parametrize("order", [2, 3, 10])
def test_another_order_of_yoshida_is_refused_with_the_known_ones(order):
    with pytest.raises(ValueError, match=rf"^build_yoshida: order must be one of 4, 6, 8, got {order}$"):
        build_yoshida(build_gravity(), order=order)


def test_an_unknown_integrator_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^build_integrator: name must be one of leapfrog_kdk, .*, got 'euler'$"):
        build_integrator("euler", build_gravity())
