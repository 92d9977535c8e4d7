"""One system per vector lane: a rewritten graph computes what the graph does, and stores its results batch-last."""

import operator
from types import SimpleNamespace

import pytest
import torch
from torch import fx
from torch.func import grad, hessian, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.base import lanes
from aits_func.base.lanes import LONGEST, WIDEST, Lanes, put_together, spread, take_apart

aten = torch.ops.aten
B, OTHER = 9, 11  # batches of sizes that no other axis here has


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def renewed(example):
    """Other numbers of the same shapes: a graph must not have kept those that it was traced with."""
    return [x.roll(1, 0) if x.dtype == torch.bool else random(*x.shape, seed=7, dtype=x.dtype) for x in example]


def assert_spread_is_the_graph(graph, example, batched):
    """`spread` of a graph, run on other numbers, against the graph; returns the rewritten graph."""
    rewritten = spread(graph, example, batched)
    assert rewritten is not None
    code, moved = rewritten
    values = renewed(example)
    lying = [x.movedim(0, -1).contiguous() if has else x for x, has in zip(values, batched, strict=True)]
    sizes = {len(x) for x, has in zip(values, batched, strict=True) if has}
    ours, theirs = code(*lying), graph(*values)
    for mine, expected, last in zip(ours, theirs, moved, strict=True):
        assert last == (expected.ndim > 0 and expected.shape[0] in sizes)
        assert mine.is_contiguous()
        assert mine.dtype == expected.dtype
        # The same operations; a sum of at most 64 numbers of order one may be taken in another order: 64 · 1e-16.
        torch.testing.assert_close(mine.movedim(-1, 0) if last else mine, expected, rtol=1e-14, atol=1e-14)
    return code


def traced(function, example):
    def flat(*arguments):
        results = function(*arguments)
        return tuple(results) if isinstance(results, (tuple, list)) else (results,)

    return make_fx(flat)(*example)


def assert_same(function, example, batched):
    """The function of whole batches."""
    return assert_spread_is_the_graph(traced(function, example), example, batched)


def assert_same_mapped(function, example, batched):
    """The function of one system, lifted by ``vmap``."""
    return assert_same(vmap(function, in_dims=tuple(0 if has else None for has in batched)), example, batched)


def targets(graph):
    return {node.target for node in graph.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("bodies", [1, 3])
def test_whether_any_or_all_of_some_numbers_are_not_zero_is_a_truth_value(bodies):
    """Of one number as well, of which nothing is combined."""

    def both(x):
        whole = x.round().to(torch.int64)
        return x.any(1), x.all(1, keepdim=True), whole.any(1), whole.all(1), whole.sum(1), (x > 0).amax(1)

    assert_same(both, [random(B, bodies)], [True])


# --- every operation that is known -----------------------------------------------------------------------------------

ARRAYS = {
    "x": random(B, 2, 3),
    "y": random(B, 2, 3, seed=1),
    "z": random(B, 3, 2, seed=2),
    "flat": random(B),
    "thin": random(B, 1, 3, 1, seed=3),
    "mask": random(B, 2, 3, seed=4) > 0,
}

OPERATIONS = [
    (aten.clone.default, lambda a: (a.x,)),
    (aten.detach.default, lambda a: (a.x,)),
    (aten.alias.default, lambda a: (a.x,)),
    (aten.contiguous.default, lambda a: (a.x,)),
    (aten._to_copy.default, lambda a: (a.x, {"dtype": torch.float32})),
    (aten._to_copy.default, lambda a: (a.x,)),
    (aten._to_copy.default, lambda a: (a.mask, {"dtype": torch.float64})),
    (aten.zeros_like.default, lambda a: (a.x,)),
    (aten.zeros_like.default, lambda a: (a.x, {"dtype": torch.bool})),
    (aten.ones_like.default, lambda a: (a.x,)),
    (aten.full_like.default, lambda a: (a.x, 2.5)),
    (aten.full_like.default, lambda a: (a.x, 2, {"dtype": torch.int64})),
    (aten.permute.default, lambda a: (a.x, [0, 2, 1])),
    (aten.permute.default, lambda a: (a.x, [1, 2, 0])),
    (aten.permute.default, lambda a: (a.thin, [-1, 0, 2, 1])),
    (aten.transpose.int, lambda a: (a.x, 0, 2)),
    (aten.transpose.int, lambda a: (a.x, -1, -2)),
    (aten.t.default, lambda a: (a.flat,)),
    (aten.select.int, lambda a: (a.x, 1, -1)),
    (aten.select.int, lambda a: (a.x, -1, 1)),
    (aten.unbind.int, lambda a: (a.x, 1)),
    (aten.unbind.int, lambda a: (a.x, -1)),
    (aten.slice.Tensor, lambda a: (a.x, 2, 1, 9223372036854775807)),
    (aten.slice.Tensor, lambda a: (a.x, 2, 0, -1)),
    (aten.slice.Tensor, lambda a: (a.x, 2, 0, 3, 2)),
    (aten.slice.Tensor, lambda a: (a.x, 0, 0, 9223372036854775807)),
    (aten.split.Tensor, lambda a: (a.x, 2, 2)),
    (aten.split_with_sizes.default, lambda a: (a.x, [1, 2], -1)),
    (aten.unsqueeze.default, lambda a: (a.x, 0)),
    (aten.unsqueeze.default, lambda a: (a.x, 2)),
    (aten.unsqueeze.default, lambda a: (a.x, -1)),
    (aten.squeeze.default, lambda a: (a.thin,)),
    (aten.squeeze.dim, lambda a: (a.thin, -1)),
    (aten.squeeze.dim, lambda a: (a.x, 1)),
    (aten.squeeze.dims, lambda a: (a.thin, [1, 3])),
    (aten.expand.default, lambda a: (a.thin, [B, 4, 3, 2])),
    (aten.expand.default, lambda a: (a.thin, [2, -1, -1, -1, -1])),
    (aten.view.default, lambda a: (a.x, [B, 6])),
    (aten.view.default, lambda a: (a.x, [-1, 3, 2])),
    (aten._unsafe_view.default, lambda a: (a.x, [B, 1, -1])),
    (aten.reshape.default, lambda a: (a.x, [1, B, 6])),
    (aten.cat.default, lambda a: ([a.x, a.y], 1)),
    (aten.cat.default, lambda a: ([a.x, a.y, a.x], -1)),
    (aten.stack.default, lambda a: ([a.x, a.y],)),
    (aten.stack.default, lambda a: ([a.x, a.y], 2)),
    (aten.stack.default, lambda a: ([a.x, a.y], -1)),
    (aten.sum.dim_IntList, lambda a: (a.x, [-1])),
    (aten.sum.dim_IntList, lambda a: (a.x, [1, 2])),
    (aten.sum.dim_IntList, lambda a: (a.x, [1], True)),
    (aten.sum.dim_IntList, lambda a: (a.mask, [1])),
    (aten.mean.dim, lambda a: (a.x, [-1, 1])),
    (aten.mean.dim, lambda a: (a.x, [2], True)),
    (aten.amax.default, lambda a: (a.x, [2])),
    (aten.amin.default, lambda a: (a.x, [-2], True)),
    (aten.any.dim, lambda a: (a.mask, 1)),
    (aten.all.dim, lambda a: (a.mask, -1, True)),
    (aten.bmm.default, lambda a: (a.x, a.z)),
    (aten.select_backward.default, lambda a: (a.flat, [B, 4], 1, 2)),
    (aten.select_backward.default, lambda a: (a.x, [B, 2, 5, 3], 2, 4)),
    (aten.slice_backward.default, lambda a: (a.x, [B, 2, 7], 2, 1, 7, 2)),
]


def called(arguments):
    *args, last = arguments
    return (tuple(args), last) if isinstance(last, dict) else (tuple(arguments), {})


def used(arguments):
    """The names of the arrays among these arguments."""
    return [name for name in ARRAYS if name in arguments.__code__.co_names]


def by_hand(target, arguments):
    """A graph of one operation: ``make_fx`` would take some of them to pieces."""
    graph = fx.Graph()
    args, kwargs = called(arguments(SimpleNamespace(**{name: graph.placeholder(name) for name in used(arguments)})))
    result = graph.call_function(target, args, kwargs)
    several = target in (aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default)
    count = len(target(*called(arguments(SimpleNamespace(**ARRAYS)))[0])) if several else 0
    items = [graph.call_function(operator.getitem, (result, k)) for k in range(count)]
    graph.output(tuple(items) if several else (result,))
    return fx.GraphModule({}, graph)


@pytest.mark.parametrize(
    ("target", "arguments"), OPERATIONS, ids=[f"{k}-{target}" for k, (target, _) in enumerate(OPERATIONS)]
)
def test_every_known_operation_is_done_in_lanes_and_gives_what_torch_gives(target, arguments):
    example = [ARRAYS[name] for name in used(arguments)]
    assert_spread_is_the_graph(by_hand(target, arguments), example, [True] * len(example))
    args, kwargs = called(arguments(SimpleNamespace(**{name: take_apart(x) for name, x in ARRAYS.items()})))
    ours = lanes._KNOWN[target](*args, **kwargs)
    args, kwargs = called(arguments(SimpleNamespace(**ARRAYS)))
    theirs = target(*args, **kwargs)
    if isinstance(ours, Lanes):
        ours, theirs = [ours], [theirs]
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == expected.shape
        assert mine.shape[mine.axis] == B
        # a mean of six numbers of order one, in another order
        torch.testing.assert_close(put_together(mine), expected, rtol=1e-15, atol=1e-15)


def test_the_table_above_leaves_no_known_operation_out():
    assert {target for target, _ in OPERATIONS} == set(lanes._KNOWN)


MOVES = {
    "select": lambda x: [x.select(k, -1) for k in range(3)],
    "unbind": lambda x: [piece for k in range(3) for piece in x.unbind(k)],
    "slice": lambda x: [x.narrow(k, 1, 1) for k in range(3)],
    "whole slice": lambda x: [x[:, :, :] * 2],
    "split": lambda x: [piece for k in range(3) for piece in x.split(2, k)],
    "unsqueeze": lambda x: [x.unsqueeze(k) for k in range(4)],
    "squeeze": lambda x: [x.unsqueeze(k).squeeze(k) for k in range(4)] + [x.unsqueeze(1).unsqueeze(-1).squeeze()],
    "permute": lambda x: [x.permute(p) for p in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 2, 1), (1, 0, 2))],
    "unflatten": lambda x: [x.unsqueeze(k).expand(*x.shape[:k], 4, *x.shape[k:]) for k in range(4)],
    "cat": lambda x: [torch.cat([x, -x], k) for k in range(3)],
    "stack": lambda x: [torch.stack([x, -x], k) for k in range(4)],
    "sum": lambda x: [x.sum(k) for k in range(3)] + [x.sum((0, 1)), x.sum((1, 2), keepdim=True), x.sum()],
    "mean": lambda x: [x.mean(k, keepdim=True) for k in range(3)] + [x.mean((0, 2)), x.mean()],
    "amax": lambda x: [x.amax(k) for k in range(3)] + [x.amin((1, 2)), x.amin()],
    "any": lambda x: [(x > 1).any(k) for k in range(3)] + [(x > -1).all(k) for k in range(3)] + [(x > 1).sum(1)],
    "broadcast": lambda x: [x * x.sum(k, keepdim=True) for k in range(3)] + [x - x.select(0, 0)],
    "cumsum": lambda x: [x.cumsum(k) for k in range(3)],
    "sort": lambda x: [x.sort(k)[0] for k in range(3)],
}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", MOVES)
def test_wherever_the_batch_axis_stands_every_axis_may_be_worked_on(name, axis):
    assert_same(lambda x: MOVES[name](x.movedim(0, axis) + 1), [random(B, 2, 3)], [True])


# --- functions of one system -----------------------------------------------------------------------------------------


def pairs(mass, position):
    """The potential energy of one system, with everything that such a thing is made of."""
    first, second = torch.triu_indices(len(mass), len(mass), 1)
    distance = (position[first] - position[second]).pow(2).sum(-1).sqrt()
    return (mass[first] * mass[second] / distance).sum()


def by_slices(position):
    """The same differences, by slices and selections."""
    return torch.stack([(position[k + 1 :] - position[k]).pow(2).sum() for k in range(len(position) - 1)]).sum()


MASS, POSITION = random(B, 3, seed=5).abs() + 1, random(B, 3, 2, seed=6)

FUNCTIONS = {
    "arithmetic": (lambda x: (x.sin() * 2 - x.exp() / (1 + x**2), x.tanh().sigmoid()), [POSITION], [True]),
    "with an unbatched array": (lambda x, u: (x + u, u - x, x * u[0], x + u[:, :1]), [POSITION, random(3, 2)], [1, 0]),
    "with an unbatched scalar": (lambda x, u: (x * u, u / x), [POSITION, random()], [1, 0]),
    "with a larger unbatched array": (lambda x, u: x * u, [POSITION, random(4, 3, 2)], [1, 0]),
    "a number per system": (lambda x: (x + 1, x.expand(4), x[None, None] * 2), [random(B)], [1]),
    "outer products": (lambda x, y: x[:, None] * y[None, :], [random(B, 4), random(B, 5, seed=1)], [1, 1]),
    "comparisons": (lambda x, y: (x > y, (x > 0) & ~(y > 0), x.isfinite()), [POSITION, -POSITION.roll(1, 0)], [1, 1]),
    "counting": (lambda x: ((x > 0).sum(), (x > 0).sum(0), (x > 0).any(), (x > 9).all(1)), [POSITION], [1]),
    "where": (
        lambda x, u: (torch.where(x > 0, x, u), torch.where(x > 0, 1.0, x), torch.where(u > 0, x, 0.0)),
        [POSITION, random(3, 2)],
        [1, 0],
    ),
    "where with one condition": (lambda x: torch.where(x[0, 0] > 0, x, -x), [POSITION], [1]),
    "masked": (lambda x: (x.masked_fill(x > 0, 2.0), x.clamp(min=0), x.clamp(-1, 1)), [POSITION], [1]),
    "means and extremes": (lambda x: (x.mean(), x.mean(0), x.amax(), x.amin(1), x.amax(0)), [POSITION], [1]),
    "joined": (lambda x, u: (torch.cat([x, u]), torch.cat([u, x, u], 1)), [POSITION, random(3, 2)], [1, 0]),
    "stacked with an unbatched one": (lambda x, u: torch.stack([x, u]), [POSITION, random(3, 2)], [1, 0]),
    "rolled": (lambda x: torch.cat([x[1:], x.sum(0, keepdim=True)]), [POSITION], [1]),
    "matrices": (lambda x: (x @ x.T, x.T @ x, x[0] @ x[1], x @ x[0]), [POSITION], [1]),
    "a layer": (lambda x, w, b: (w @ x.flatten() + b).tanh(), [POSITION, random(5, 6), random(5)], [1, 0, 0]),
    "indexed": (lambda x: x[torch.tensor([2, 0, 0])], [POSITION], [1]),
    "scattered": (lambda x: torch.zeros(3, 2, dtype=x.dtype).index_add(0, torch.tensor([2, 0, 2]), x), [POSITION], [1]),
    "pairs": (pairs, [MASS, POSITION], [1, 1]),
    "forces": (grad(pairs, argnums=1), [MASS, POSITION], [1, 1]),
    "forces by slices": (grad(by_slices), [POSITION], [1]),
    "a jacobian": (jacrev(grad(by_slices)), [POSITION], [1]),
    "a hessian": (hessian(pairs, argnums=1), [MASS[:, :2], POSITION[:, :2]], [1, 1]),
    "constants": (lambda x: (torch.ones(3, dtype=x.dtype), x * torch.eye(2, dtype=x.dtype)[0]), [POSITION], [1]),
    "the argument itself": (lambda x, u: (x, u, x), [POSITION, random(3)], [1, 0]),
    "single precision": (lambda x: (x.double() / 3, x * 0.5), [POSITION.float()], [1]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_mapped_function_is_the_same_in_lanes(name):
    function, example, batched = FUNCTIONS[name]
    assert_same_mapped(function, example, [bool(has) for has in batched])


def test_the_derivatives_of_selections_and_slices_are_among_what_was_tried():
    graph = traced(vmap(grad(by_slices)), [POSITION])
    assert {aten.select_backward.default, aten.slice_backward.default} <= targets(graph)


def test_of_small_arrays_nothing_is_left_but_vectors():
    mapped = vmap(grad(by_slices))
    code = assert_same(mapped, [POSITION], [True])
    kept = {aten.sum.dim_IntList, aten.select_backward.default, aten.slice_backward.default, aten.expand.default}
    assert kept & targets(traced(mapped, [POSITION]))
    assert not (kept - {aten.expand.default}) & targets(code)
    arithmetic = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.pow.Tensor_Scalar}
    shapes = [n.meta["tensor_meta"].shape for n in code.graph.nodes if n.target in arithmetic]
    assert len(shapes) > 10
    assert set(shapes) == {(B,)}


# --- over the batch, and several batches -----------------------------------------------------------------------------


def test_what_reduces_or_mixes_the_batch_is_done_on_arrays():
    def function(x, w):
        return (
            x.sum(0),
            x.amax((0, 1)),
            x.cumsum(0),
            x.flip(0),
            x[2],
            x[1:4],
            x[:, None, :, 0] * x[None, :, :, 1],  # every system with every other
            (x.reshape(B, 6) @ w).relu(),
            x.reshape(B * 3, 2) @ x.reshape(2, B * 3)[:, :4],
            x.mean(),
        )

    assert_same(function, [POSITION, random(6, 4)], [True, False])


def test_the_gradient_of_a_sum_over_the_batch_is_the_same_in_lanes():
    def loss(w, x):
        return vmap(lambda row: (row.flatten() @ w).tanh().sum())(x).mean()

    assert_same(grad(loss), [random(6, 4), POSITION], [False, True])


def test_an_unbatched_array_may_happen_to_have_as_many_rows_as_a_batch():
    def function(x, u):
        return x + u, 2 * u, u[:, 0], u.sum(0)

    assert_same(function, [random(B, 3), random(B, 3, seed=1)], [True, False])


def test_batches_may_differ_in_size():
    def function(x, y, u):
        crossed = x.sum(1)[:, None] * y.sum(1)[None, :]
        return x * 2 + u, y.mean(1), crossed, torch.cat([x.sum(1), y.sum(1)]), (x.sum() + y.sum())

    example = [random(B, 2), random(OTHER, 3, seed=1), random(2, seed=2)]
    _, moved = spread(traced(function, example), example, [True, True, False])
    assert moved == [True, True, True, False, False]
    assert_same(function, example, [True, True, False])


# --- open: what does not work yet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 2])
def test_the_batch_may_be_flattened_into_another_axis_wherever_it_stands(axis):
    def function(x):
        x = (x.movedim(0, axis) + 1).contiguous()
        return x.flatten(), x.flatten(0, 1), x.flatten(1, 2)

    assert_same(function, [random(B, 2, 3)], [True])


def test_a_wide_array_times_an_unbatched_matrix_is_the_same_in_lanes():
    example = [random(B, 10, 9), random(9, 4)]
    assert WIDEST < 10 * 9
    assert_same_mapped(lambda x, w: (x @ w, torch.nn.functional.linear(x, w.T)), example, [True, False])


def test_a_small_array_times_an_unbatched_matrix_is_the_same_in_lanes():
    assert_same_mapped(lambda x, w: (w @ x, x.T @ w.T), [POSITION, random(4, 3)], [True, False])


def test_the_dtype_of_a_result_is_that_of_arrays_and_not_of_their_elements():
    assert_same_mapped(lambda x, u: (x + u, x * u[0]), [POSITION.float(), random(3, 2)], [True, False])


def test_integers_are_summed_in_long_ones_and_any_of_them_is_a_truth():
    assert_same_mapped(lambda x: (x.to(torch.int32).sum(0), x[:1].to(torch.int32).any(0)), [POSITION], [True])


# --- what is empty, wide or long -------------------------------------------------------------------------------------


def test_arrays_without_elements_go_through():
    def function(x, nothing):
        return (
            nothing * 2,
            torch.cat([nothing, x]),
            x[:0] * 3,
            x[:, 2:],
            nothing.sum(),
            nothing.sum(0),
            torch.cat([x[:0], nothing])[:, :1],
            x + nothing.sum(),
        )

    assert_same_mapped(function, [POSITION, random(B, 0, 2)], [True, True])


@pytest.mark.parametrize("width", [WIDEST - 1, WIDEST, WIDEST + 1, 2 * WIDEST])
def test_arrays_of_any_width_give_the_same(width):
    def function(x, y, u):
        return x * u, x.sum(), x[:5] * y, (x[:, None] * y).sum(0), torch.cat([x, y]) + 1, x.amax(), x.flip(0)

    code = assert_same_mapped(function, [random(B, width), random(B, 5, seed=1), random(width)], [True, True, False])
    whole = {node.meta["tensor_meta"].shape for node in code.graph.nodes if node.target is aten.mul.Tensor}
    assert ((B, width) in whole) == (width > WIDEST)  # taken apart up to WIDEST


def test_a_product_of_small_arrays_may_be_too_wide_to_be_taken_apart():
    example = [random(B, 8), random(B, 9, seed=1)]
    assert WIDEST < 8 * 9
    code = assert_same_mapped(lambda x, y: (x[:, None] * y, (x[:, None] * y).sum(0) * 2), example, [True, True])
    assert (B, 8, 9) in {n.meta["tensor_meta"].shape for n in code.graph.nodes if n.target is aten.mul.Tensor}
    assert_same_mapped(lambda x, y: x @ y, [random(B, 5, 4), random(B, 4, 6, seed=1)], [True, True])


def test_a_graph_of_too_many_operations_stays_as_it_was(monkeypatch):
    graph = traced(vmap(lambda x: x * 2 + 1), [POSITION])  # two operations on six elements
    assert LONGEST > 12
    for longest, kept in [(11, True), (12, False)]:
        monkeypatch.setattr(lanes, "LONGEST", longest)
        assert (spread(graph, [POSITION], [True]) is None) is kept


def test_lanes_put_together_are_the_array_that_was_taken_apart():
    apart = take_apart(POSITION)
    assert (apart.shape, apart.axis, apart.batch, len(apart.parts)) == ((B, 3, 2), 0, B, 6)
    assert torch.equal(apart.parts[2, 1], POSITION[:, 2, 1])
    assert torch.equal(put_together(apart), POSITION)
