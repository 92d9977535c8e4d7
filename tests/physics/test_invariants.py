"""What motion conserves, against plain loops, and how it changes with the frame."""

import pytest
import torch
from torch.func import vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.invariants import angular_momentum, centre_of_mass, linear_momentum, to_centre_of_mass

F = torch.float64
# Sums of at most 6 products of order 1, each rounded a few times at 1e-16.
ROUNDING = {"rtol": 0, "atol": 1e-14}
SHAPES = [(N, D) for N in (2, 6) for D in (2, 3)]


def random_system(N, D, seed=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F)
    mass[-1] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 0.5)


def weighted_sum(mass, rows):
    return [sum(m * row[k] for m, row in zip(mass.tolist(), rows.tolist(), strict=True)) for k in range(rows.shape[1])]


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_the_centre_of_mass_and_the_momentum_are_weighted_sums(N, D):
    system = random_system(N, D)
    total = sum(system.mass.tolist())
    for ours, rows in zip(centre_of_mass(system), (system.position, system.velocity), strict=True):
        expected = torch.tensor(weighted_sum(system.mass, rows), dtype=F) / total
        torch.testing.assert_close(ours, expected, **ROUNDING)
    momentum = torch.tensor(weighted_sum(system.mass, system.velocity), dtype=F)
    torch.testing.assert_close(linear_momentum(system), momentum, **ROUNDING)


@pytest.mark.parametrize("N", [2, 6])
def test_angular_momentum_is_a_vector_in_space(N):
    system = random_system(N, 3)
    total = [0.0, 0.0, 0.0]
    for m, (x, y, z), (u, v, w) in zip(*(leaf.tolist() for leaf in system[:3]), strict=True):
        terms = (m * (y * w - z * v), m * (z * u - x * w), m * (x * v - y * u))
        total = [a + b for a, b in zip(total, terms, strict=True)]
    torch.testing.assert_close(angular_momentum(system), torch.tensor(total, dtype=F), **ROUNDING)


@pytest.mark.parametrize("N", [2, 6])
def test_angular_momentum_in_the_plane_is_the_component_along_the_third_axis(N):
    flat = random_system(N, 2)
    lifted = flat._replace(
        position=torch.nn.functional.pad(flat.position, (0, 1)), velocity=torch.nn.functional.pad(flat.velocity, (0, 1))
    )
    assert angular_momentum(flat).shape == ()
    torch.testing.assert_close(angular_momentum(flat), angular_momentum(lifted)[2], **ROUNDING)
    assert not angular_momentum(lifted)[:2].any()


def test_a_body_that_moves_counter_clockwise_has_positive_angular_momentum():
    system = make_system(
        torch.tensor([2.0, 1.0]), torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    )
    assert angular_momentum(system) == 3


@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_seen_from_its_centre_of_mass_a_system_rests_at_the_origin_and_is_otherwise_the_same(N, D):
    system = random_system(N, D)
    seen = to_centre_of_mass(system)
    for x in centre_of_mass(seen):
        torch.testing.assert_close(x, torch.zeros_like(x), **ROUNDING)
    for ours, before in ((seen.position, system.position), (seen.velocity, system.velocity)):
        torch.testing.assert_close(ours - ours[0], before - before[0], **ROUNDING)
    for name in ("mass", "time", "work"):
        assert torch.equal(getattr(seen, name), getattr(system, name))


def test_the_angular_momentum_splits_into_that_of_the_centre_and_that_about_it():
    system = random_system(6, 3)
    place, speed = centre_of_mass(system)
    of_centre = system.mass.sum() * torch.linalg.cross(place, speed)
    torch.testing.assert_close(
        angular_momentum(system), angular_momentum(to_centre_of_mass(system)) + of_centre, **ROUNDING
    )


@pytest.mark.parametrize("function", [centre_of_mass, linear_momentum, angular_momentum, to_centre_of_mass])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_batch_is_the_systems_one_by_one(dimensions, function):
    systems = [random_system(3, dimensions, seed) for seed in range(3)]
    batch = vmap(function)(tree.stack(systems))
    one_by_one = tree.stack([function(system) for system in systems])
    for ours, theirs in zip(tree.leaves(batch), tree.leaves(one_by_one), strict=True):
        torch.testing.assert_close(ours, theirs, **ROUNDING)  # vmap and a loop agree to rounding
