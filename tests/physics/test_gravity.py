"""Gravity against a double loop in plain Python, against REBOUND, and against automatic differentiation."""

import ctypes
import math

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.fields import Field, build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity, kinetic_energy, mutual_acceleration, mutual_potential_energy
from aits_func.physics.pairs import pair_difference, pair_distance, pair_indices

F = torch.float64
# Sums of at most 8 terms of a few roundings (1e-16) each, compared relative to the largest result.
# The positions are Gaussian, so that terms may exceed their sum by 100 at most: 1e-16 · 10 · 100.
ROUNDING = 1e-13
SHAPES = [(N, D) for N in (2, 3, 5, 8) for D in (2, 3)]
FIELDS = {
    "none": lambda D: None,
    "tidal": lambda D: build_tidal_field(20.0, [4.0, -3.0, 2.0][:D], G=1.3),
    "moving": lambda D: build_tidal_field(20.0, straight_path([4.0, -3.0, 2.0][:D], [0.5, 1.0, -0.3][:D]), G=1.3),
}


def random_system(N, D, *, seed=0, massless=0):
    """Gaussian positions and velocities, masses in [0.5, 1.5], the last ``massless`` of them zero."""
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 0.7)


def assert_near(actual, expected, tolerance=ROUNDING):
    """Equal up to ``tolerance`` times the largest element."""
    expected = torch.as_tensor(expected, dtype=F)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def forces(gravity, system):
    return gravity.acceleration(system.mass, system.position, system.time)


def naive_acceleration(system, G, softening):
    mass, position = system.mass.tolist(), system.position.tolist()
    result = []
    for i, xi in enumerate(position):
        total = [0.0] * len(xi)
        for j, xj in enumerate(position):
            if i != j:
                d = [b - a for a, b in zip(xi, xj, strict=True)]
                cube = (sum(x * x for x in d) + softening**2) ** 1.5
                total = [t + G * mass[j] * x / cube for t, x in zip(total, d, strict=True)]
        result.append(total)
    return result


def naive_potential(system, G, softening):
    mass, position = system.mass.tolist(), system.position.tolist()
    total = 0.0
    for i in range(len(mass)):
        for j in range(i):
            total -= G * mass[i] * mass[j] / math.sqrt(math.dist(position[i], position[j]) ** 2 + softening**2)
    return total


@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_acceleration_and_potential_are_those_of_a_double_loop(N, D, softening):
    system = random_system(N, D, massless=N // 3)
    gravity = build_gravity(G=1.7, softening=softening)
    assert_near(forces(gravity, system), naive_acceleration(system, 1.7, softening))
    assert_near(gravity.potential_energy(system), naive_potential(system, 1.7, softening))


def in_rebound(system, G, softening):
    rebound = pytest.importorskip("rebound")
    simulation = rebound.Simulation()
    simulation.G, simulation.softening = G, softening
    for m, x, v in zip(system.mass.tolist(), system.position.tolist(), system.velocity.tolist(), strict=True):
        place, motion = zip("xyz", x, strict=False), zip(("vx", "vy", "vz"), v, strict=False)
        simulation.add(m=m, **dict(place), **dict(motion))
    rebound.clibrebound.reb_simulation_update_acceleration(ctypes.byref(simulation))
    return simulation


@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_acceleration_is_that_of_rebound(N, D, softening):
    system = random_system(N, D, massless=N // 3)
    simulation = in_rebound(system, 1.7, softening)
    theirs = [[p.ax, p.ay, p.az][:D] for p in simulation.particles]
    assert_near(forces(build_gravity(G=1.7, softening=softening), system), theirs)


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_energy_is_that_of_rebound(N, D):
    system = random_system(N, D, massless=N // 3)  # unsoftened: REBOUND's energy knows no softening
    assert_near(build_gravity(G=1.7).energy(system), in_rebound(system, 1.7, 0.0).energy())


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_jerk_and_snap_are_the_time_derivatives_of_the_acceleration(N, D, softening, field):
    system = random_system(N, D, massless=N // 3)
    gravity = build_gravity(G=1.7, softening=softening, field=FIELDS[field](D))
    unit = torch.ones_like(system.time)

    def acceleration(x, t):
        return gravity.acceleration(system.mass, x, t)

    def jerk(x, v, t):
        return jvp(acceleration, (x, t), (v, unit))[1]

    at = (system.position, system.velocity, system.time)
    along = (system.velocity, acceleration(system.position, system.time), unit)
    derivatives = gravity.derivatives(system)
    assert_near(derivatives.acceleration, along[1])
    # each derivative multiplies a term by v/r, and adds terms: 10 times the roundings for each
    assert_near(derivatives.jerk, jerk(*at), 10 * ROUNDING)
    assert_near(derivatives.snap, jvp(jerk, at, along)[1], 100 * ROUNDING)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_the_force_is_minus_the_gradient_of_the_potential(N, D, softening, field):
    system = random_system(N, D, massless=N // 3)
    gravity = build_gravity(G=1.7, softening=softening, field=FIELDS[field](D))
    slope = grad(lambda x: gravity.potential_energy(system._replace(position=x)))(system.position)
    assert_near(system.mass[:, None] * forces(gravity, system), -slope)


@pytest.mark.parametrize("field", ["none", "tidal", "moving"])
def test_the_derivatives_of_the_force_are_finite_in_spite_of_the_self_pairs(field):
    system = random_system(3, 3)
    gravity = build_gravity(field=FIELDS[field](3))
    jacobian = jacrev(lambda x: gravity.acceleration(system.mass, x, system.time))(system.position)
    assert jacobian.isfinite().all()
    second = jacrev(jacrev(lambda x: gravity.potential_energy(system._replace(position=x))))(system.position)
    assert second.isfinite().all()


def relative_difference(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize("length", [1e-12, 1e-9, 1.0, 1e3, 1e6, 1.5e11, 3e16, 1e17])
@pytest.mark.parametrize("N", [2, 3, 5, 9])
def test_reverse_mode_forward_mode_and_the_derivatives_of_other_units_are_the_same_numbers(N, length, softening):
    system, gravity = random_system(N, 3), build_gravity(G=1.7, softening=length * softening)
    scaled, theirs = system._replace(position=length * system.position), build_gravity(G=1.7, softening=softening)
    functions = {
        "acceleration": (lambda g, m, x: g.acceleration(m, x, system.time), 2),
        "potential energy": (lambda g, m, x: g.potential_energy(system._replace(mass=m, position=x)), 1),
    }
    for function, power in functions.values():
        for argument, further in ((0, 0), (1, 1)):  # by masses and by positions
            here = (gravity, scaled.mass, scaled.position)
            of_argument = [mode(function, argnums=1 + argument)(*here) for mode in (jacrev, jacfwd)]
            expected = jacfwd(function, argnums=1 + argument)(theirs, system.mass, system.position)
            # A few roundings in sums of at most 8 terms, as in the values themselves.
            assert relative_difference(*of_argument) < ROUNDING
            assert relative_difference(of_argument[0] * length ** (power + further), expected) < ROUNDING


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6, 1.5e11])
def test_second_derivatives_of_the_force_are_the_same_in_both_modes_and_in_any_units(length):
    system, gravity = random_system(3, 2), build_gravity()

    def force(x):
        return gravity.acceleration(system.mass, x, system.time)

    x = length * system.position
    backwards, mixed, expected = (
        jacrev(jacrev(force))(x),
        jacfwd(jacrev(force))(x),
        jacfwd(jacfwd(force))(system.position),
    )
    assert relative_difference(backwards, mixed) < ROUNDING
    assert relative_difference(backwards * length**4, expected) < ROUNDING


@pytest.mark.parametrize("length", [1e-8, 1e-3, 1.0, 1e6, 1e10])
def test_in_single_precision_derivatives_are_right_in_any_units_whose_fifth_powers_it_has(length):
    # Reverse mode goes through 1/R³ and R², and forward mode through the rate of 1/R, which is 1/R³ times a length:
    # with numbers up to 3e38 and down to 1e-38 lengths end at 1e-12 and 1e12, and a pair may be ten times closer.
    system = tree.cast(random_system(3, 2), dtype=torch.float32)
    gravity = build_gravity()

    def force(x):
        return gravity.acceleration(system.mass, x, system.time)

    backwards, forwards = jacrev(force)(length * system.position), jacfwd(force)(length * system.position)
    assert relative_difference(backwards, forwards) < 5e8 * ROUNDING
    expected = jacfwd(force)(system.position)
    assert relative_difference(backwards.double() * length**3, expected.double()) < 5e8 * ROUNDING


def test_two_bodies_attract_each_other_by_the_inverse_square():
    mass, position = torch.tensor([2.0, 3.0], dtype=F), torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=F)
    system = make_system(mass, position, torch.zeros_like(position))
    gravity = build_gravity(G=10.0)
    assert_near(forces(gravity, system), [[0.0, 7.5], [0.0, -5.0]])
    assert_near(gravity.potential_energy(system), -30.0)


def test_a_test_particle_feels_and_does_not_pull():
    system = random_system(4, 3, massless=1)
    gravity = build_gravity()
    alone = tree.map_leaves(lambda leaf: leaf[:3] if leaf.ndim else leaf, system)
    assert_near(forces(gravity, system)[:3], forces(gravity, alone))
    assert_near(gravity.energy(system), gravity.energy(alone))
    assert forces(gravity, system)[3].norm() > 0


def test_softened_bodies_at_one_place_do_not_attract_each_other():
    position = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=F)
    system = make_system(torch.ones(2, dtype=F), position, torch.zeros_like(position), softening=0.5)
    gravity = build_gravity(softening=0.5)
    assert not forces(gravity, system).any()
    assert gravity.potential_energy(system) == -2
    assert all(x.isfinite().all() for x in gravity.derivatives(system))


def test_kinetic_energy_is_half_mass_times_speed_squared():
    system = make_system(
        torch.tensor([2.0, 3.0], dtype=F),
        torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=F),
        torch.tensor([[3.0, 4.0], [0.0, -2.0]], dtype=F),
    )
    assert kinetic_energy(system) == 31


@pytest.mark.parametrize("field", FIELDS)
def test_energy_is_kinetic_plus_potential_minus_work(field):
    system = random_system(3, 2)._replace(work=torch.tensor(0.25, dtype=F))
    gravity = build_gravity(field=FIELDS[field](2))
    expected = kinetic_energy(system) + gravity.potential_energy(system) - 0.25
    assert_near(gravity.energy(system), expected)


@pytest.mark.parametrize("field", FIELDS)
def test_the_size_of_the_energy_is_kinetic_plus_the_magnitude_of_the_potential(field):
    system = random_system(3, 2)._replace(work=torch.tensor(0.25, dtype=F))
    gravity = build_gravity(field=FIELDS[field](2))
    assert_near(gravity.energy_size(system), kinetic_energy(system) + gravity.potential_energy(system).abs())


@pytest.mark.parametrize("field", FIELDS)
def test_potential_energy_is_mutual_plus_external(field):
    system = random_system(3, 2)
    external = FIELDS[field](2)
    gravity = build_gravity(G=1.7, softening=0.1, field=external)
    own = mutual_potential_energy(system.mass, system.position, G=1.7, softening=0.1)
    rows = zip(system.mass, system.position, strict=True)
    theirs = 0.0 if external is None else sum(m * external.potential(x, system.time) for m, x in rows)
    assert_near(gravity.external_energy(system), theirs)
    assert_near(gravity.potential_energy(system), own + theirs)


def test_an_external_field_adds_to_the_acceleration_of_every_body():
    system = random_system(3, 2, massless=1)
    field = FIELDS["moving"](2)
    gravity = build_gravity(G=1.7, softening=0.1, field=field)
    own = mutual_acceleration(system.mass, system.position, G=1.7, softening=0.1)
    theirs = torch.stack([field.acceleration(x, system.time) for x in system.position])
    assert_near(forces(gravity, system), own + theirs)


def test_power_is_the_rate_at_which_the_external_energy_changes_at_fixed_places():
    system = random_system(3, 2)
    gravity = build_gravity(field=FIELDS["moving"](2))
    h = 1e-4
    later, earlier = (gravity.external_energy(system._replace(time=system.time + x)) for x in (h, -h))
    # a central difference of a field that changes over a time of about 3: (h/3)² ≈ 1e-9, rounding 1e-16/h
    power = gravity.power(system.mass, system.position, system.time)
    torch.testing.assert_close(power, (later - earlier) / (2 * h), rtol=1e-8, atol=0)


@pytest.mark.parametrize("field", ["none", "tidal"])
def test_without_a_moving_field_there_is_no_power(field):
    system = random_system(3, 2)
    gravity = build_gravity(field=FIELDS[field](2))
    assert gravity.power(system.mass, system.position, system.time) == 0
    if field == "none":
        assert gravity.external_energy(system) == 0


def test_pairs_are_counted_once_and_in_one_order_everywhere():
    system = random_system(4, 3)
    first, second = pair_indices(4, system.mass.device)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    difference = pair_difference(system.position)
    assert torch.equal(difference, system.position[second] - system.position[first])
    assert_near(pair_distance(system.position, 0.5), (difference.pow(2).sum(-1) + 0.25).sqrt())


def test_a_batch_is_the_systems_one_by_one():
    systems = [random_system(4, 3, seed=seed) for seed in range(3)]
    batch = tree.stack(systems)
    gravity = build_gravity(G=1.7, softening=0.1, field=FIELDS["moving"](3))
    # vmap and a Python loop agree to rounding, not bit for bit
    for k, system in enumerate(systems):
        assert_near(vmap(gravity.energy)(batch)[k], gravity.energy(system))
        derivatives = gravity.derivatives(system)
        for ours, one in zip(vmap(gravity.derivatives)(batch), derivatives, strict=True):
            assert_near(ours[k], one)


@pytest.mark.parametrize("field", FIELDS)
def test_single_precision_stays_single_and_agrees_to_its_rounding(field):
    system = random_system(5, 3)
    single = tree.cast(system, dtype=torch.float32)
    gravity = build_gravity(G=1.7, softening=0.1, field=FIELDS[field](3))
    results = [forces(gravity, single), *gravity.derivatives(single), gravity.energy(single)]
    results += [gravity.power(single.mass, single.position, single.time), gravity.external_energy(single)]
    assert all(x.dtype == torch.float32 for x in results)
    # roundings of 6e-8 where float64 has 1e-16: ROUNDING times 5e8
    assert_near(results[0].double(), forces(gravity, system), 5e8 * ROUNDING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"G": 0.0}, r"^build_gravity: G must be > 0 \(1 in N-body units\), got 0.0$"),
        ({"G": -1.0}, "G must be > 0"),
        ({"G": math.nan}, "G must be > 0"),
        ({"softening": -0.1}, r"^build_gravity: softening must be >= 0 \(a length; 0 for none\), got -0.1$"),
        ({"softening": math.nan}, "softening must be >= 0"),
    ],
)
def test_constants_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_gravity(**options)


def test_a_static_field_is_never_asked_for_its_time_derivative():
    def refuse(x, t):
        raise AssertionError("a static field has no power")

    gravity = build_gravity(field=Field(refuse, refuse, static=True))
    system = random_system(2, 2)
    assert gravity.power(system.mass, system.position, system.time) == 0


def test_the_constants_can_be_read_off():
    gravity = build_gravity(G=2.0, softening=0.5)
    assert (gravity.G, gravity.softening) == (2.0, 0.5)


@pytest.mark.parametrize("field", [None, build_tidal_field(5.0, straight_path([4.0, -3.0], [0.3, 0.2]))])
def test_derivatives_in_another_unit_of_time_are_multiplied_by_its_powers(field):
    system, gravity = random_system(4, 2), build_gravity(field=field)
    unit = torch.tensor(0.25, dtype=torch.float64)  # a power of two: no rounding
    for power, ours, theirs in zip(
        (2, 3, 4), gravity.derivatives(system, unit), gravity.derivatives(system), strict=True
    ):
        # Of a field, forward mode multiplies in another order.
        torch.testing.assert_close(ours, theirs * unit**power, rtol=1e-13, atol=1e-16)


def test_a_field_can_be_asked_elsewhere():
    gravity, system = build_gravity(field=build_tidal_field(5.0, [4.0, -3.0])), random_system(4, 2)
    moved = system._replace(position=system.position + 7.0)
    for ours, theirs in zip(
        gravity.derivatives(moved, places=system.position), gravity.derivatives(system), strict=True
    ):
        # Positions were rounded by 1e-15 when they were moved; the snap of a pair goes with r⁻⁵.
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
