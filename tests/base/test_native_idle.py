"""Passes that leave systems out, and values that are put off: what comes out is the same, and less is done for it."""

import optree
import pytest
import torch
from torch.func import grad, vmap

from aits_func.base.engine import build_engine, missing_compiler
from aits_func.base.native_delay import delay
from aits_func.base.native_graph import build_program
from aits_func.base.native_idle import find_idle
from aits_func.base.native_layout import Layout
from aits_func.base.pure_graph import trace

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
B, WIDTH = 700, 20  # two chunks


def random(*shape, seed):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = (random(WIDTH, 5, seed=0), random(WIDTH, seed=1), random(WIDTH, WIDTH, seed=2), random(WIDTH, seed=3))
X, TARGET = random(B, 5, seed=4), random(B, seed=5)


def predict(weights, x):
    first, a, second, b = weights
    return torch.tanh(second @ torch.tanh(first @ x + a) + b).sum()


def slopes(weights, x, target, counted):
    """Of the mean loss over those that count and miss by enough."""

    def loss(weights):
        miss = (vmap(predict, in_dims=(None, 0))(weights, x) - target).abs()
        chosen = counted & (miss > 1e-3)
        return torch.where(chosen, miss.square(), 0.0).sum() / chosen.sum().clamp(min=1)

    return grad(loss)(weights), loss(weights)


def program_of(function, *example):
    """Of a function of (weights, batched arguments ...)."""
    leaves, structure = optree.tree_flatten(example)

    def flat(*leaves):
        return tuple(x.clone() for x in optree.tree_leaves(function(*optree.tree_unflatten(structure, leaves))))

    return build_program(trace(flat, leaves), leaves, [len(leaf) == B for leaf in leaves])


@pytest.fixture(scope="module")
def native():
    engine = build_engine(slopes, mode="on", batched=(False, True, True, True))
    engine(WEIGHTS, X, TARGET, torch.ones(B, dtype=torch.bool))
    assert engine.fallback == ""
    return engine


@needs_compiler
@pytest.mark.parametrize("which", ["none", "one", "few", "half", "all but one", "all", "the last", "the second chunk"])
def test_whoever_counts_the_gradient_is_that_of_all_systems(native, which):
    draw = torch.rand(B, generator=torch.Generator().manual_seed(6))
    place = torch.arange(B)
    counted = {
        "none": draw < 0,
        "one": place == 345,
        "few": draw < 0.05,
        "half": draw < 0.5,
        "all but one": place != 345,
        "all": draw < 2,
        "the last": place == B - 1,
        "the second chunk": place >= 400,
    }[which]
    ours, theirs = native(WEIGHTS, X, TARGET, counted), slopes(WEIGHTS, X, TARGET, counted)
    for mine, expected in zip(optree.tree_leaves(ours), optree.tree_leaves(theirs), strict=True):
        # Means of up to 700 products of numbers below one, each with a rounding of 1e-16, in another order.
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-15)


@needs_compiler
def test_what_does_not_count_is_not_looked_at(native):
    counted = torch.arange(B) % 3 == 0
    expected = native(WEIGHTS, X, TARGET, counted)
    spoilt = torch.where(counted, TARGET, torch.nan)
    ours = native(WEIGHTS, X, spoilt, counted)
    for mine, other in zip(optree.tree_leaves(ours), optree.tree_leaves(expected), strict=True):
        assert torch.equal(mine, other)


def test_the_masks_of_a_loss_say_who_is_idle_in_its_gradient():
    program = program_of(slopes, WEIGHTS, X, TARGET, torch.ones(B, dtype=torch.bool))
    cases = find_idle(program, 1)
    assert {(case.mask.op, case.value) for case in cases} >= {("and", False)}  # counted & (miss > 1e-3)
    assert all(case.mask.level == 0 and case.mask.dtype == torch.bool for case in cases)
    assert find_idle(program, 0) == []  # the count itself is a sum over all


def test_nobody_is_idle_in_a_mean_over_all_systems():
    def over_all(weights, x, target):
        def loss(weights):
            miss = (vmap(predict, in_dims=(None, 0))(weights, x) - target).square()
            return (miss * (miss / miss.mean())).mean()

        return grad(loss)(weights)

    assert find_idle(program_of(over_all, WEIGHTS, X, TARGET), 1) == []


def test_a_pass_that_leaves_something_for_every_system_leaves_none_out():
    def moved(weights, x, target, counted):
        return slopes(weights, x, target, counted), x * counted.sum()

    assert find_idle(program_of(moved, WEIGHTS, X, TARGET, torch.ones(B, dtype=torch.bool)), 1) == []


@needs_compiler
def test_a_sum_over_some_is_a_factor_for_all():
    def sums(matrix, x, mask, count):
        some = torch.where(mask, x[:, 0], 0.0).sum()
        rows = (x @ matrix).tanh()
        column = torch.where(mask[:, None], rows, 0.0).sum(0)
        return (x[:, 0] * some).sum(), (rows.sin() * column).sum(0), ((~count) * (x[:, 1] - x[:, 1].mean()) ** 2).sum()

    engine = build_engine(sums, mode="on", batched=(False, True, True, True))
    arguments = (random(5, 20, seed=1), X, X[:, 2] > 0, (10 * X[:, 3]).long())
    for ours, theirs in zip(engine(*arguments), sums(*arguments), strict=True):
        # Sums of 700 numbers of order one, with a rounding of 1e-16 each, in another order.
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert engine.fallback == ""


def test_the_derivative_of_an_activation_is_put_off_until_it_is_wanted():
    program = program_of(slopes, WEIGHTS, X, TARGET, torch.ones(B, dtype=torch.bool))
    later = delay(program)
    assert len(later.nodes) == len(program.nodes)
    moved = [(a, b) for a, b in zip(program.nodes, later.nodes, strict=True) if a.level != b.level]
    assert {a.op for a, _ in moved if a.kind == "row"} == {"mul", "sub"}  # 1 − y²
    assert all(b.level > a.level for a, b in moved)
    # Of the first layer y alone outlives its pass, not 1 − y² beside it; of the last one 1 − y², as nobody wants y.
    rows = [n for n in later.nodes if n.kind == "row" and Layout(later).place.get(n.serial, "").startswith("kept")]
    assert sorted(n.op for n in rows) == ["assemble", "sub", "tanh"]


def test_nothing_is_put_off_beyond_those_who_use_it():
    program = delay(program_of(slopes, WEIGHTS, X, TARGET, torch.ones(B, dtype=torch.bool)))
    for node in program.nodes:
        for arg in node.nodes:
            after_the_pass = not arg.spread and node.spread  # arrays and numbers are made between passes
            assert arg.level <= node.level - after_the_pass
