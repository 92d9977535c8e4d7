"""Jerk, snap, crackle and the tidal tensor against nested automatic differentiation of the acceleration."""

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.force_derivatives import crackle, derivatives_to_crackle, tidal_tensor
from aits_func.physics.gravity import build_gravity

F = torch.float64
ROUNDING = 1e-13  # sums of at most 8 terms of a few roundings each, of which some exceed their sum by 100
SHAPES = [(N, D) for N in (2, 3, 5) for D in (2, 3)]
FIELDS = {
    "none": lambda D: None,
    "tidal": lambda D: build_tidal_field(20.0, [4.0, -3.0, 2.0][:D], G=1.3),
    "moving": lambda D: build_tidal_field(20.0, straight_path([4.0, -3.0, 2.0][:D], [0.5, 1.0, -0.3][:D]), G=1.3),
}


def random_system(N, D, *, seed=0, massless=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 0.7)


def assert_near(actual, expected, tolerance=ROUNDING):
    """Equal up to ``tolerance`` times the largest element."""
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_jerk_snap_and_crackle_are_nested_derivatives_of_the_acceleration_along_the_motion(N, D, softening, field):
    system = random_system(N, D, massless=N // 3)
    gravity = build_gravity(G=1.7, softening=softening, field=FIELDS[field](D))
    unit = torch.ones_like(system.time)

    def acceleration(x, v, t):
        return gravity.acceleration(system.mass, x, t)

    def along_the_motion(function):
        return lambda x, v, t: jvp(function, (x, v, t), (v, acceleration(x, v, t), unit))[1]

    here, function = (system.position, system.velocity, system.time), acceleration
    # each derivative multiplies a term by v/r, and adds terms: 10 times the roundings for each
    for order, ours in enumerate(derivatives_to_crackle(gravity, system)):
        assert_near(ours, function(*here), 10**order * ROUNDING)
        function = along_the_motion(function)
    assert torch.equal(crackle(gravity, system), ours)


def test_of_a_circular_orbit_every_derivative_turns_the_last_one_by_a_right_angle():
    position = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F)
    velocity = torch.tensor([[0.0, 0.5], [0.0, -0.5]], dtype=F)  # masses 1 at distance 2: v² = 1/4, angular speed 1/2
    system = make_system(torch.ones(2, dtype=F), position, velocity)
    turn = torch.tensor([[0.0, 0.5], [-0.5, 0.0]], dtype=F)
    expected = position @ turn @ turn
    for ours in derivatives_to_crackle(build_gravity(), system):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-15)  # a few roundings of numbers below 1/4
        expected = expected @ turn


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_the_tidal_tensor_is_the_derivative_of_each_acceleration_by_the_body_s_own_place(N, D, softening, field):
    system = random_system(N, D, massless=N // 3)
    gravity = build_gravity(G=1.7, softening=softening, field=FIELDS[field](D))
    jacobian = jacfwd(lambda x: gravity.acceleration(system.mass, x, system.time))(system.position)
    own = torch.stack([jacobian[i, :, i, :] for i in range(N)])
    assert_near(tidal_tensor(gravity, system)[:, :D, :D], own)


@pytest.mark.parametrize("softening", [0.0, 0.3])
def test_a_planar_system_has_the_tide_of_the_same_one_in_space(softening):
    flat, gravity = random_system(4, 2, massless=1), build_gravity(G=1.7, softening=softening)
    position, velocity = (torch.nn.functional.pad(x, (0, 1)) for x in (flat.position, flat.velocity))
    in_space = make_system(flat.mass, position, velocity)
    assert_near(tidal_tensor(gravity, flat), tidal_tensor(gravity, in_space), 1e-15)
    across = [
        -sum(1.7 * m / ((x - y).pow(2).sum() + softening**2) ** 1.5 for y, m in zip(*others, strict=True))
        for x, others in (
            (x, (flat.position[[j for j in range(4) if j != i]], flat.mass[[j for j in range(4) if j != i]]))
            for i, x in enumerate(flat.position)
        )
    ]
    assert_near(tidal_tensor(gravity, flat)[:, 2, 2], torch.stack(across))


def test_without_softening_and_field_the_tide_has_no_trace_and_its_norm_is_that_of_a_point_mass():
    mass, position = torch.tensor([3.0, 0.0], dtype=F), torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=F)
    system = make_system(mass, position, torch.zeros_like(position))
    tide = tidal_tensor(build_gravity(), system)
    expected = torch.diag(torch.tensor([2.0, -1.0, -1.0], dtype=F)) * 3 / 8
    torch.testing.assert_close(tide, torch.stack([torch.zeros_like(expected), expected]), rtol=1e-15, atol=0)


@pytest.mark.parametrize("function", [crackle, tidal_tensor])
@pytest.mark.parametrize("field", ["none", "moving"])
def test_they_can_be_batched_and_differentiated_in_spite_of_the_self_pairs(function, field):
    gravity = build_gravity(field=FIELDS[field](3))
    systems = [random_system(3, 3, seed=seed) for seed in range(3)]
    batch = vmap(lambda system: function(gravity, system))(tree.stack(systems))
    # vmap and a Python loop agree to rounding, not bit for bit; three derivatives of it
    assert_near(batch, torch.stack([function(gravity, system) for system in systems]), 1000 * 1e-15)
    slope = grad(lambda x: function(gravity, systems[0]._replace(position=x)).pow(2).sum())(systems[0].position)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


@pytest.mark.parametrize("length", [1e-12, 1e-3, 1.0, 1e6, 1.5e11, 3e16])
@pytest.mark.parametrize("name", ["jerk", "snap", "crackle", "tide"])
def test_they_have_the_same_derivatives_in_both_modes_and_in_any_units(name, length):
    system, gravity = random_system(3, 2), build_gravity()

    # With masses in units of length³ the unit of time stays.
    def of(x, unit):
        here = system._replace(mass=unit**3 * system.mass, position=x, velocity=unit * system.velocity)
        return tidal_tensor(gravity, here) if name == "tide" else getattr(derivatives_to_crackle(gravity, here), name)

    backwards, forwards = (mode(of)(length * system.position, length) for mode in (jacrev, jacfwd))
    expected = jacfwd(of)(system.position, 1.0)
    tolerance = 100 * ROUNDING  # each derivative multiplies a term by v/r: as above
    assert_near(backwards, forwards, tolerance)
    assert_near(backwards * (length if name == "tide" else 1.0), expected, tolerance)
