"""Operations that are given the memory that they write to: the same in any order, or not compiled."""

import pytest
import torch
from torch.func import vmap

from aits_func.base.engine import build_engine, missing_compiler
from aits_func.base.pure_graph import ImpureError, trace_pure

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def first_added_to_the_others(x):
    y = x.abs()
    y[:, :3] += y[..., :1]
    return y


def two_exchanged(x):
    y = x * 2
    y[..., torch.tensor([1, 0])] = y[..., :2]
    return y


def all_moved_by_one(x):
    y = x * 2
    y[:, 1:] = y[:, :-1]
    return y


def added_up_where_they_lie(x):
    y = x[:, :, None].expand(*x.shape, x.shape[1]) * 2
    torch.sum(y, 1, out=y[..., 0])
    return y


def twice_in_one_list(x):
    y = x * 2
    torch._foreach_mul_([y, y], 0.5)
    return y


def one_after_the_other(x):
    y, z = x * 2, x * 3
    torch._foreach_add_([y, z], [z, y])
    return y, z


MIXED = first_added_to_the_others, two_exchanged, all_moved_by_one, added_up_where_they_lie
LISTS = twice_in_one_list, one_after_the_other


@pytest.mark.parametrize("function", [*MIXED, *LISTS], ids=lambda function: function.__name__)
def test_what_reads_the_memory_that_it_writes_to_is_not_compiled(function):
    with pytest.raises(ImpureError, match="reads memory"):
        trace_pure(lambda x: (function(x),), [random(9, 4)])


@needs_compiler
@pytest.mark.parametrize("function", LISTS, ids=lambda function: function.__name__)
def test_lists_that_are_written_to_one_by_one_give_what_torch_gives(function, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    engine = build_engine(function, batched=(True,))
    ours, theirs = engine(random(9, 4)), function(random(9, 4))
    assert all(map(torch.equal, torch.utils._pytree.tree_leaves(ours), torch.utils._pytree.tree_leaves(theirs)))
    assert engine.back_end == "eager"
    assert "reads memory" in engine.reason


def a_column_from_another(x):
    y = x * 2
    y[:, 1] = y[:, 0]
    return y


def a_first_one(x):
    y = x * 2
    y[1] += y[0]
    y *= y
    return y


def each_with_itself(x):
    y = x * 2
    y += y
    torch.maximum(y, y, out=y)
    y[:, 0] *= y[:, 0]
    return y


def rows_of_a_list(x):
    y = x * 2
    torch._foreach_mul_([y[..., 0], y[..., 1]], 0.5)
    return y


@needs_compiler
@pytest.mark.parametrize(
    "function",
    [a_column_from_another, vmap(a_first_one), each_with_itself, rows_of_a_list],
    ids=["a column from another", "under vmap", "each with itself", "rows of a list"],
)
def test_what_reads_elsewhere_or_element_by_element_is_compiled(function, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    monkeypatch.setattr("aits_func.base.engine._machine_code", lambda graph, example: graph)
    x = random(9, 4)
    engine = build_engine(function, mode="on", batched=(True,))
    assert torch.equal(engine(x), function(x))  # products by 2 and 0.5, and sums of two: the same roundings
