"""Pairs written out for a compiler against pairs taken by index."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.physics.gravity import mutual_acceleration, mutual_potential_energy
from aits_func.physics.pairs import FEW_BODIES, pair_distance, pair_rows, written_out


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


@pytest.mark.parametrize("count", [3, FEW_BODIES])
def test_few_bodies_leave_no_index_in_a_traced_graph(count):
    targets = {str(node.target) for node in make_fx(forces)(*bodies(count)).graph.nodes}
    assert "aten.index.Tensor" not in targets
    assert "aten.triu_indices.default" not in targets


def test_pairs_are_written_out_for_a_compiler_alone():
    assert not written_out(3)
