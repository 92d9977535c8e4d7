"""CUDA graphs give what the function gives, for arguments of every call."""

import pytest
import torch

from aits_func.base.cuda_graphs import LARGEST, capture

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: CUDA graphs not run")


def sums_and_products(x, y):
    return [x + y, (x * y).sum()]


@needs_cuda
def test_a_captured_graph_reads_its_arguments_anew_and_its_results_are_kept():
    one, two = (torch.full((5,), value, device="cuda", dtype=torch.float64) for value in (1.0, 2.0))
    graph = capture(sums_and_products, [one, two])
    first, second = graph(one, two), graph(two, two)
    assert [leaf.tolist() for leaf in first] == [[3.0] * 5, 10.0]  # not overwritten by the second call
    assert [leaf.tolist() for leaf in second] == [[4.0] * 5, 20.0]


def test_large_arguments_are_left_to_the_function_itself():
    large = torch.empty(LARGEST // 8 + 1, dtype=torch.float64)
    assert capture(sums_and_products, [large]) is sums_and_products
