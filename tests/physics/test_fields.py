"""The tidal field: its formula, its limit nearby, and the work that it does when the perturber moves."""

import math

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.fields import Field, build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import build_integrator, evolve

F = torch.float64
PLACE, DRIFT = [4.0, -3.0, 2.0], [0.5, 1.0, -0.3]
LEAPFROGS = ["leapfrog_kdk", "leapfrog_dkd"]


def tensor(values):
    return torch.tensor(values, dtype=F)


def make_field(kind, dimensions=3):
    place, drift = PLACE[:dimensions], DRIFT[:dimensions]
    return build_tidal_field(20.0, place if kind == "fixed" else straight_path(place, drift), G=1.3)


def naive_acceleration(x, R, strength):
    d, distance = [b - a for a, b in zip(x, R, strict=True)], math.dist(x, R)
    return [strength * (u / distance**3 - w / math.hypot(*R) ** 3) for u, w in zip(d, R, strict=True)]


def naive_potential(x, R, strength):
    far, along = math.hypot(*R), sum(a * b for a, b in zip(x, R, strict=True))
    return -strength * (1 / math.dist(x, R) - 1 / far - along / far**3)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("time", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["fixed", "moving"])
def test_the_field_is_that_of_the_formula(kind, time, dimensions):
    field = make_field(kind, dimensions)
    moved = time if kind == "moving" else 0.0
    R = [r + moved * v for r, v in zip(PLACE, DRIFT, strict=True)][:dimensions]
    for x in ([0.5, -0.2, 0.9], [-1.0, 0.3, 0.0]):
        ours, potential = (part(tensor(x[:dimensions]), tensor(time)) for part in field[:2])
        # differences of terms about 10 times as large, each a few roundings of 1e-16
        torch.testing.assert_close(ours, tensor(naive_acceleration(x[:dimensions], R, 26.0)), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(potential, tensor(naive_potential(x[:dimensions], R, 26.0)), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["fixed", "moving"])
def test_the_acceleration_is_minus_the_gradient_of_the_potential(kind, dimensions):
    field = make_field(kind, dimensions)
    make = torch.Generator().manual_seed(dimensions)
    for x in torch.randn(5, dimensions, generator=make, dtype=F):
        slope = grad(field.potential)(x, tensor(0.7))
        # differences of terms about 10 times as large, each a few roundings of 1e-16
        torch.testing.assert_close(field.acceleration(x, tensor(0.7)), -slope, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", ["fixed", "moving"])
def test_the_origin_falls_freely(kind):
    field = make_field(kind)
    assert not field.acceleration(torch.zeros(3, dtype=F), tensor(0.7)).any()
    assert field.potential(torch.zeros(3, dtype=F), tensor(0.7)) == 0


def test_near_the_origin_the_field_is_the_tidal_tensor():
    field, R = make_field("fixed"), tensor(PLACE)
    tensor_ = 26.0 / R.norm() ** 3 * (3 * torch.outer(R, R) / R.norm() ** 2 - torch.eye(3, dtype=F))
    direction = tensor([0.6, -0.5, 0.3])

    def errors(size):
        x = size * direction
        linear, quadratic = tensor_ @ x, -x @ tensor_ @ x / 2
        acceleration = (field.acceleration(x, tensor(0.0)) - linear).norm() / linear.norm()
        potential = (field.potential(x, tensor(0.0)) - quadratic).abs() / quadratic.abs()
        return torch.stack([acceleration, potential])

    # The next terms of the expansion are |x|/|R| times the first: 0.01 · 0.84/5.4 · a factor of order 1 ...
    assert (errors(0.01) < 0.01).all()
    # ... and halve with x, up to the term after that, which is smaller by another |x|/|R| = 0.0016 · order 1.
    torch.testing.assert_close(errors(0.01) / errors(0.005), tensor([2.0, 2.0]), rtol=0.01, atol=0)


def test_a_moving_field_is_at_every_moment_that_of_a_perturber_at_rest_there():
    x, t = tensor([0.5, -0.2, 0.9]), tensor(1.5)
    there = straight_path(PLACE, DRIFT)(t)
    moving, fixed = make_field("moving"), build_tidal_field(20.0, there.tolist(), G=1.3)
    assert torch.equal(moving.acceleration(x, t), fixed.acceleration(x, t))
    assert torch.equal(moving.potential(x, t), fixed.potential(x, t))


def test_only_a_perturber_at_rest_makes_a_static_field():
    assert make_field("fixed").static
    assert not make_field("moving").static
    assert not Field(lambda x, t: x, lambda x, t: x).static


def test_a_straight_path_is_start_plus_velocity_times_time_in_the_dtype_of_the_time():
    path = straight_path([1.0, 2.0], [0.5, -1.0])
    assert path(tensor(2.0)).tolist() == [2.0, 0.0]
    assert path(torch.tensor(2.0)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["fixed", "moving"])
def test_a_field_keeps_single_precision(kind):
    field = make_field(kind)
    at = (torch.tensor([0.5, -0.2, 0.9]), torch.tensor(0.7))
    assert field.acceleration(*at).dtype == field.potential(*at).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_tidal_field(0.0, PLACE), r"^build_tidal_field: mass must be > 0, got 0.0$"),
        (lambda: build_tidal_field(-1.0, PLACE), r"^build_tidal_field: mass must be > 0, got -1.0$"),
        (lambda: build_tidal_field(math.nan, PLACE), r"^build_tidal_field: mass must be > 0, got nan$"),
        (lambda: build_tidal_field(1.0, PLACE, G=0.0), r"^build_tidal_field: G must be > 0, got 0.0$"),
        (lambda: build_tidal_field(1.0, PLACE, G=math.nan), r"^build_tidal_field: G must be > 0, got nan$"),
        (lambda: build_tidal_field(1.0, [0.0, 0.0]), r"position must be finite and not the origin, got \[0.0, 0.0\]"),
        (lambda: build_tidal_field(1.0, [math.inf, 0.0]), r"position must be finite and not the origin"),
        (lambda: build_tidal_field(1.0, [1.0, math.nan]), r"position must be finite and not the origin"),
        (lambda: straight_path([1.0, 2.0], [1.0]), r"^straight_path: .* same length, got 2 and 1$"),
        (lambda: straight_path([0.0, 0.0], [1.0, 0.0]), r"^straight_path: position must be finite and not the origin"),
        (lambda: straight_path([1.0, math.inf], [1.0, 0.0]), r"^straight_path: position must be finite"),
        (lambda: straight_path([1.0, 0.0], [1.0, math.nan]), "velocity finite"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def three_bodies():
    """Three bodies of order 1 apart, the perturber at a distance of 5 and of mass 20."""
    mass = tensor([1.0, 0.7, 0.4])
    position = tensor([[0.0, 0.1, 0.0], [1.1, 0.0, 0.3], [-0.4, -0.9, 0.5]])
    velocity = tensor([[0.1, -0.3, 0.2], [0.0, 0.8, -0.1], [-0.7, 0.4, 0.0]])
    return make_system(mass, position, velocity, 0.2)


def errors_of_steps(name, field, dt, n_steps=1):
    """Changes of E − work and of E alone."""
    gravity, system = build_gravity(field=field), three_bodies()
    after = evolve(build_integrator(name, gravity), system, tensor(dt), n_steps=n_steps)
    conserved = gravity.energy(after) - gravity.energy(system)
    return conserved, conserved + after.work - system.work


@pytest.mark.parametrize("kind", ["fixed", "moving"])
@pytest.mark.parametrize("name", LEAPFROGS)
def test_the_energy_error_of_one_step_is_of_third_order_in_it(name, kind):
    errors = [errors_of_steps(name, make_field(kind), dt)[0] for dt in (2e-3, 1e-3)]
    # 2³, up to the term of fourth order, which is smaller by dt over a time scale of about 1: 0.2 %
    assert (errors[0] / errors[1]).item() == pytest.approx(8, rel=0.005)


@pytest.mark.parametrize("name", LEAPFROGS)
def test_without_the_work_the_energy_error_in_a_moving_field_is_of_first_order(name):
    errors = [errors_of_steps(name, make_field("moving"), dt)[1] for dt in (2e-3, 1e-3)]
    assert (errors[0] / errors[1]).item() == pytest.approx(2, rel=0.005)  # the next order, as above


@pytest.mark.parametrize("name", LEAPFROGS)
def test_over_a_fixed_time_the_energy_error_in_a_moving_field_is_of_second_order(name):
    errors = [errors_of_steps(name, make_field("moving"), 0.4 / n, n)[0] for n in (100, 200)]
    # 2², up to terms that are smaller by (dt over a time scale of about 1)² = 2e-5, and their coefficients
    assert (errors[0] / errors[1]).item() == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("name", LEAPFROGS)
def test_a_static_field_does_no_work_and_a_perturber_that_does_not_move_is_bit_for_bit_static(name):
    resting = straight_path(PLACE, [0.0, 0.0, 0.0])
    after = [
        evolve(build_integrator(name, build_gravity(field=field)), three_bodies(), tensor(0.01), n_steps=20)
        for field in (make_field("fixed"), build_tidal_field(20.0, resting, G=1.3))
    ]
    assert after[0].work == 0
    for ours, theirs in zip(*map(tree.leaves, after), strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_of_bodies_in_a_moving_field_is_the_bodies_one_by_one():
    field, time = make_field("moving"), tensor(0.7)
    places = three_bodies().position
    together = vmap(field.acceleration, in_dims=(0, None))(places, time)
    # vmap and a Python loop agree to rounding, not bit for bit
    torch.testing.assert_close(together, torch.stack([field.acceleration(x, time) for x in places]), rtol=1e-13, atol=0)
