"""Compiled against eager, judged: a fault is seen, a rounding is none, and what was wrong stays eager."""

import threading
import warnings

import numpy as np
import pytest
import torch
from torch.func import grad, jvp, vmap

from aits_func.base import engine as engines
from aits_func.base import native_graph, native_source
from aits_func.base.agreement import describe_difference
from aits_func.base.engine import Compilation, build_engine, missing_compiler, watch_compilation

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


X = random(40, 3)


def judge(ours, theirs, x=X, skips=False):
    """The verdict on one function against another, at x."""
    return describe_difference(ours(x), theirs, [x], skips)


# --- the verdict


def test_a_forward_derivative_through_a_difference_with_a_factor_is_judged():
    def derivative(x):
        return jvp(lambda y: torch.sub(y, torch.ones(3, dtype=y.dtype), alpha=-0.5), (x,), (x,))[1]

    assert judge(lambda x: [derivative(x) * (1 + 1e-6)], lambda given: [derivative(given[0])]) != ""
    assert judge(lambda x: [derivative(x) * (1 + 1e-15)], lambda given: [derivative(given[0])]) == ""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "way",
    [
        lambda x: x.sum(1),
        lambda x: x.softmax(1),
        lambda x: ((x + 1e6) ** 2).sum(1) - ((x + 1e6) ** 2).flip(1).sum(1),  # nothing is left but roundings
        lambda x: (x.exp() - x.exp().flip(0)).sum(),
        lambda x: vmap(grad(grad(lambda y: (6 * y).tanh().sum())))(x.flatten() * 3),  # 1 − tanh² where tanh is nearly 1
        lambda x: x.sum(1) * 3 > (3 * x).sum(1),  # a verdict of roundings alone
        lambda x: (1e5 * x).sin(),
    ],
    ids=["sum", "softmax", "a difference of equals", "a total", "saturated", "a narrow verdict", "many turns"],
)
def test_another_order_of_sums_and_other_roundings_are_no_difference(way, dtype):
    x = random(200, 3, dtype=dtype)
    in_double = lambda given: [way(given.double()).to(way(given).dtype)]  # noqa: E731 - better roundings, others for sure
    assert judge(in_double, lambda a: [way(a[0])], x) == ""


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (lambda x: x * (1 + 1e-6), "result 0, (40, 3) of float64, differs in 120 of 120 elements, the first at [0, 0]"),
        (
            lambda x: torch.where(torch.arange(40)[:, None] == 39, 0.0, x),
            "differs in 3 of 120 elements, the first at [39",
        ),
        (lambda x: x.index_fill(0, torch.tensor([7]), torch.nan), "the first at [7, 0]: nan and not"),
        (lambda x: x[:, :2], "result 0 is (40, 2) of float64 and not (40, 3) of float64"),
        (lambda x: x.float(), "result 0 is (40, 3) of float32 and not (40, 3) of float64"),
    ],
)
def test_a_difference_is_told_with_its_place_and_size(ours, words):
    assert words in judge(lambda x: [ours(x)], lambda a: [a[0] * 1.0])


def test_whole_numbers_and_masks_have_to_be_the_same():
    large = torch.tensor([2**60, 3])
    assert judge(lambda x: [x + 1], lambda a: [a[0]], large) != ""  # the same as real numbers
    assert judge(lambda x: [x > 0.5], lambda a: [a[0] > 0]) != ""
    assert judge(lambda x: [x > 0], lambda a: [a[0] > 0]) == ""
    assert judge(lambda x: [x, x], lambda a: [a[0]]) == "there are 2 results and not 1"


def test_nan_is_nan_and_a_system_that_is_left_out_may_have_a_number_instead():
    infinite = torch.tensor([torch.inf, 1.0, -torch.inf, torch.nan], dtype=torch.float64)
    assert judge(lambda x: [x], lambda a: [a[0]], infinite) == ""
    left_out = lambda x: [torch.zeros_like(x)]  # noqa: E731
    assert "and not nan" in judge(left_out, lambda a: [a[0] * 0], infinite)
    assert judge(left_out, lambda a: [a[0] * 0], infinite, skips=True) == ""
    assert (
        judge(lambda a: [a[0] * 0], lambda x: [torch.zeros_like(x[0])], infinite, skips=True) != ""
    )  # not the reverse


def test_large_results_excuse_no_small_ones_and_nan_excuses_no_number():
    sizes = torch.tensor([1e16] * 6 + [0.5] * 4, dtype=torch.float64)
    flipped = lambda x: [torch.where(x < 1, -x, x)]  # noqa: E731
    assert "differs in 4 of 10" in judge(flipped, lambda a: [a[0] * 1.0], sizes)
    of_nothing = lambda x: (x - x * 1.0).sqrt() + x  # noqa: E731 - other roundings make it NaN
    assert judge(lambda x: [-of_nothing(x)], lambda a: [of_nothing(a[0])]) != ""
    few = X[:2]
    assert judge(lambda x: [of_nothing(x) * torch.nan], lambda a: [of_nothing(a[0])], few) == ""  # as ours may be


def test_complex_results_are_compared_like_real_ones():
    x = torch.complex(X, X.cos())
    assert judge(lambda x: [x * x * (1 + 2e-16)], lambda a: [a[0] * a[0]], x) == ""
    assert judge(lambda x: [x.conj()], lambda a: [a[0] * 1], x) != ""


def test_the_smallest_numbers_are_not_compared_by_their_digits():
    tiny = torch.tensor([5e-324, 1e-320], dtype=torch.float64)
    assert judge(lambda x: [x * 0], lambda a: [a[0]], tiny) == ""


# --- the engine


@pytest.fixture
def sums_are_differences(monkeypatch):
    """A defect in the native compiler."""
    monkeypatch.setitem(native_source._FORMULAS, "add", "{} - {}")


@needs_compiler
def test_what_comes_out_wrong_is_eager_from_then_on_and_a_warning_names_it(sums_are_differences):
    engine, told = build_engine(lambda x, y: x + y, batched=(True, True), label="a sum"), []
    with (
        watch_compilation(told.append),
        pytest.warns(RuntimeWarning, match=r"^a sum runs eagerly: its compiled results"),
    ):
        assert torch.equal(engine(X, X.cos()), X + X.cos())
    reason = engine.reason
    assert reason.startswith(
        "its compiled results were not the eager ones: result 0, (40, 3) of float64, differs in 120"
    )
    assert told[1] == Compilation("a sum", told[1].seconds, reason, "eager", reason)
    with warnings.catch_warnings(action="error"):  # once is enough
        assert torch.equal(engine(X.cos(), X), X.cos() + X)
    assert engine.back_end == "eager"


@needs_compiler
def test_calls_in_turn_and_side_by_side_and_compiled_by_force_are_looked_at_too(sums_are_differences):
    turns = build_engine(lambda c, x: (c + x, c), batched=(True, True), label="turns")
    with pytest.warns(RuntimeWarning, match="turns runs eagerly"):
        last, _ = turns.scan(X, torch.stack([X, X, X]))
    assert torch.equal(last, X + X + X + X)
    members = build_engine(lambda x: x + 1, mode="on", batched=(True,), label="members", mapped=True)
    with pytest.warns(RuntimeWarning, match="members runs eagerly"):
        assert torch.equal(members(torch.stack([X, 2 * X])), torch.stack([X, 2 * X]) + 1)


@needs_compiler
def test_the_comparison_can_be_switched_off(sums_are_differences, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    engine = build_engine(lambda x: x + 1, mode="on", batched=(True,))
    assert torch.equal(engine(X), X - 1)  # the defect is there, and nobody looks
    assert "and not" in engine.difference(X)  # but whoever asks


@needs_compiler
def test_a_gap_in_the_native_compiler_warns_and_the_other_one_takes_over(monkeypatch):
    def fails(self, *args):
        raise KeyError("a gap")

    monkeypatch.setattr(native_graph._Reader, "_call", fails)
    engine = build_engine(lambda x: x.sin(), batched=(True,), label="a sine")
    with pytest.warns(RuntimeWarning, match=r"^a sine: the native compiler failed: KeyError: 'a gap'; TorchInductor"):
        engine(X)
    assert (engine.back_end, engine.reason) == ("inductor", "")
    assert engine.fallback == "the native compiler failed: KeyError: 'a gap'"


@needs_compiler
def test_a_gap_in_what_rewrites_graphs_warns_and_the_graph_stays_as_it_is(monkeypatch):
    def fails(*args):
        raise IndexError("a gap")

    monkeypatch.setattr(engines, "spread", fails)
    engine = build_engine(lambda x: x.erfinv(), batched=(True,), label="a curve")
    with pytest.warns(
        RuntimeWarning, match=r"^a curve: it could not be rewritten for vector lanes \(IndexError: a gap\)"
    ):
        assert torch.allclose(engine(X), X.erfinv(), rtol=1e-12, atol=0, equal_nan=True)  # some roundings
    assert engine.back_end == "inductor"


@needs_compiler
def test_a_number_that_is_read_of_a_tensor_from_outside_is_noticed_when_it_changes():
    t, place, array = torch.tensor(2.0), torch.tensor(0), np.ones(3)
    seen = torch.from_numpy(array)
    ways = {
        "a number": (lambda x: x * float(t), lambda: t.add_(1)),
        "an index": (lambda x: x[:, place] * 2, lambda: place.add_(1)),
        "behind torch's back": (lambda x: x * seen, lambda: array.__iadd__(1)),
        "data": (lambda x: x * t, lambda: t.data.add_(1)),
    }
    for name, (function, change) in ways.items():
        engine = build_engine(function, mode="on", batched=(True,))
        for _ in range(2):
            assert torch.equal(engine(X), function(X)), name
            change()


@needs_compiler
def test_a_negated_view_is_read_as_the_numbers_that_it_stands_for():
    engine = build_engine(lambda x, s: x * s, mode="on", batched=(True, False))
    for s in (torch.tensor(2.0, dtype=torch.float64), torch.tensor(1 + 2j, dtype=torch.complex128).conj().imag):
        assert torch.equal(engine(X, s), X * s)


@needs_compiler
def test_what_is_differentiated_says_that_it_ran_eagerly():
    engine = build_engine(lambda x: x.sin(), mode="on", batched=(True,))
    engine(X)
    grad(lambda x: engine(x).sum())(X)
    assert (engine.back_end, engine.fallback) == ("eager", "somebody differentiates its arguments, or maps over them")


@needs_compiler
def test_a_tensor_from_outside_that_was_written_to_is_compiled_for_anew():
    factor = torch.full((3,), 2.0, dtype=torch.float64)
    engine = build_engine(lambda x: factor * x, mode="on", batched=(True,))
    assert torch.equal(engine(X), 2 * X)
    factor.mul_(2)
    assert torch.equal(engine(X), 4 * X)
    spent = engine.compile_seconds
    engine(X)
    assert engine.compile_seconds == spent
    # Who writes to it again and again does not wait for the compiler again and again.
    engine = build_engine(lambda x: factor * x, batched=(True,))
    for _ in range(4):
        factor.add_(1)
        assert torch.equal(engine(X), factor * X)
    assert (engine.back_end, engine.reason) == (
        "eager",
        "a tensor that it was not given is written to again and again; give it as an argument",
    )


@needs_compiler
def test_threads_that_compile_at_the_same_time_wait_for_each_other():
    functions = [lambda x, k=k: (x * k).sin().sum(1) for k in range(1, 7)]
    faults, start = [], threading.Barrier(len(functions))

    def work(function):
        # Half of them by TorchInductor, which has threads of its own.
        engine = build_engine(function, mode="on", batched=(True,) if function(X)[0] > 0 else ())
        start.wait()
        if not torch.allclose(engine(X), function(X), rtol=1e-12, atol=1e-12):  # a sum of three sines
            faults.append("a wrong result")

    def catching(function):
        try:
            work(function)
        except Exception as error:
            faults.append(error)

    together = [threading.Thread(target=catching, args=(function,)) for function in functions]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert faults == []


@needs_compiler
def test_one_engine_in_many_threads_is_compiled_once():
    engine, counted, start = build_engine(lambda x: x.cos() * 3, mode="on", batched=(True,)), [], threading.Barrier(4)
    make = engine._compile
    engine._compile = lambda *args: counted.append(1) or make(*args)

    def work():
        start.wait()
        engine(X)

    together = [threading.Thread(target=work) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len(counted) == 1


@needs_compiler
def test_how_an_argument_lies_in_memory_leaves_no_trace_in_the_machine_code(monkeypatch):
    seen = []
    make = engines._machine_code
    monkeypatch.setattr(engines, "_machine_code", lambda graph, given: seen.extend(given) or make(graph, given))
    weight = random(1, 9)[:, :8]  # as a fresh one lies that was cut out of a larger draw; one from a file: (8, 1)
    engine = build_engine(lambda w: w.erfinv().cumsum(1), mode="on")
    engine(weight)
    assert weight.stride() == (9, 1)
    assert [x.stride() for x in seen] == [(8, 1)]
