"""Pairs written out for a compiler against pairs taken by index."""

import pytest
import torch
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.physics.gravity import mutual_acceleration, mutual_potential_energy
from aits_func.physics.pairs import FEW_BODIES, inverse_cube, pair_distance, pair_rows, written_out


def bodies(count):
    generator = torch.Generator().manual_seed(count)
    return (
        torch.rand(count, generator=generator, dtype=torch.float64),
        torch.randn(count, 3, generator=generator, dtype=torch.float64),
    )


def forces(mass, position):
    return (
        mutual_acceleration(mass, position, G=2.5, softening=0.1),
        mutual_potential_energy(mass, position, G=2.5, softening=0.1),
        pair_distance(position, 0.1),
        *pair_rows(mass),
    )


@pytest.mark.parametrize("count", [2, 3, 5, FEW_BODIES, FEW_BODIES + 1])
def test_traced_forces_and_pairs_are_the_eager_ones(count):
    traced = make_fx(forces)(*bodies(count))
    for got, want in zip(traced(*bodies(count)), forces(*bodies(count)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)  # a handful of sums in another order


@pytest.mark.parametrize("distance", [1.5e11, 7.8e11, 3e12], ids=["Earth", "Jupiter", "Uranus"])
def test_traced_forces_of_planets_in_metres_and_kilograms_have_all_digits_of_float32(distance):
    """G/R³ alone is 2e-44 at the Earth and 0 at Jupiter; a guard that asks eager code does not see it."""

    def force(mass, position):
        return mutual_acceleration(mass, position, G=6.674e-11, softening=0.0)

    planets = torch.tensor([2e30, 1e27]), torch.tensor([[0.0, 0.0], [distance, 0.0]])
    exact = force(*(x.double() for x in planets))
    # an inverse root, its cube, and three products
    torch.testing.assert_close(make_fx(force)(*planets)(*planets).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [3, FEW_BODIES])
def test_few_bodies_leave_no_index_in_a_traced_graph(count):
    targets = {str(node.target) for node in make_fx(forces)(*bodies(count)).graph.nodes}
    assert "aten.index.Tensor" not in targets
    assert "aten.triu_indices.default" not in targets


def test_pairs_are_written_out_for_a_compiler_alone():
    assert not written_out(3)


def test_the_inverse_cube_of_a_millionth_has_two_derivatives_in_float32():
    distance = torch.tensor(1e-6, dtype=torch.float32)
    first = grad(inverse_cube)
    # -3 R^-4 and 12 R^-5 to a few roundings of 6e-8; of a quotient both would be infinite.
    torch.testing.assert_close(float(first(distance)), -3 * float(distance) ** -4, rtol=1e-6, atol=0)
    torch.testing.assert_close(float(grad(first)(distance)), 12 * float(distance) ** -5, rtol=1e-6, atol=0)
