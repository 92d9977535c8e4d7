"""Compiled against eager: the same numbers, compiled once for every shape, and a reason where not at all."""

import shutil
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.base import engine as engines
from aits_func.base.engine import (
    MODES,
    Compilation,
    build_engine,
    is_traced,
    is_tracked,
    missing_compiler,
    outside_transforms,
    remember,
    watch_compilation,
)

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")


class Bodies(NamedTuple):
    mass: Tensor  # (B, N)
    position: Tensor  # (B, N, 2)


class Outcome(NamedTuple):
    slopes: Bodies
    value: Tensor  # (B,)
    given: Tensor  # (B, N), the masses as they came


def energy(scale, bodies):
    """Something with a square root, a power and a sum over pairs, of ONE set of bodies."""
    first, second = torch.triu_indices(len(bodies.mass), len(bodies.mass), 1)
    distance = (bodies.position[first] - bodies.position[second]).pow(2).sum(-1).sqrt()
    return (scale["a"] * bodies.mass[first] * bodies.mass[second] / distance**1.5).sum()


def slopes_of(scale, bodies):
    slopes, value = vmap(grad_and_value(energy, argnums=1), in_dims=(None, 0))(scale, bodies)
    return Outcome(slopes, value, bodies.mass)


def bodies_of(count, n=3, seed=0):
    make = torch.Generator().manual_seed(seed)
    return Bodies(
        1 + torch.rand(count, n, generator=make, dtype=torch.float64),
        torch.randn(count, n, 2, generator=make, dtype=torch.float64),
    )


SCALE = {"a": torch.tensor(1.3, dtype=torch.float64)}


@pytest.fixture(scope="module")
def compiled():
    """An engine that is compiled already, for four sets of three bodies."""
    engine = build_engine(slopes_of, mode="on")
    engine(SCALE, bodies_of(4))
    assert engine.reason == ""
    return engine


def assert_close(ours, theirs):
    # The same twenty operations; machine code contracts products and sums and takes another root: 1e-16 each.
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def assert_same_outcome(ours, theirs):
    assert type(ours) is Outcome
    assert type(ours.slopes) is Bodies
    for a, b in zip((*ours.slopes, *ours[1:]), (*theirs.slopes, *theirs[1:]), strict=True):
        assert_close(a, b)


# --- compiled --------------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_compiled_map_over_gradients_is_the_eager_one_and_keeps_its_trees(compiled):
    for seed in range(3):
        bodies = bodies_of(4, seed=seed)
        assert_same_outcome(compiled(SCALE, bodies), slopes_of(SCALE, bodies))
    assert compiled.compile_seconds > 0


@needs_compiler
def test_the_values_of_all_arguments_are_read_anew(compiled):
    one, other = (compiled({"a": torch.tensor(a, dtype=torch.float64)}, bodies_of(4)) for a in (1.0, 2.0))
    assert_close(other.value, 2 * one.value)


@needs_compiler
def test_the_same_shapes_are_compiled_for_once_and_new_ones_anew(compiled):
    before = compiled.compile_seconds
    compiled(SCALE, bodies_of(4, seed=9))
    assert compiled.compile_seconds == before
    assert_same_outcome(compiled(SCALE, bodies_of(5)), slopes_of(SCALE, bodies_of(5)))
    between = compiled.compile_seconds
    assert between > before
    compiled(SCALE, bodies_of(4))
    compiled(SCALE, bodies_of(5))
    assert compiled.compile_seconds == between  # both are kept


@needs_compiler
def test_arguments_may_lie_in_memory_as_they_like(compiled):
    wide = bodies_of(4).position.transpose(0, 2).contiguous().transpose(0, 2)  # not contiguous
    one = bodies_of(1)
    for bodies in (
        bodies_of(4)._replace(position=wide),
        Bodies(one.mass.expand(4, 3), one.position.expand(4, 3, 2)),  # one memory four times
        Bodies(bodies_of(8).mass[::2], bodies_of(8).position[4:]),  # strides and offsets
    ):
        assert_same_outcome(compiled(SCALE, bodies), slopes_of(SCALE, bodies))


@needs_compiler
def test_a_result_that_is_an_argument_is_a_memory_of_its_own(compiled):
    bodies = bodies_of(4)
    mass = bodies.mass.clone()
    outcome = compiled(SCALE, bodies)
    assert torch.equal(outcome.given, mass)
    assert outcome.given.data_ptr() != bodies.mass.data_ptr()
    outcome.given.zero_()
    assert torch.equal(bodies.mass, mass)
    again = compiled(SCALE, bodies)
    assert torch.equal(again.given, mass)  # nor does the next call give the same memory


@needs_compiler
def test_two_arguments_of_one_memory_are_two_arguments(compiled):
    bodies = bodies_of(4)
    same = Bodies(bodies.position[..., 0], bodies.position)
    assert_same_outcome(compiled(SCALE, same), slopes_of(SCALE, same))


@needs_compiler
def test_machine_code_changes_no_argument_and_asks_for_no_gradient(compiled):
    bodies = bodies_of(4)
    before = [leaf.clone() for leaf in bodies]
    outcome = compiled(SCALE, bodies)
    assert all(torch.equal(leaf, old) for leaf, old in zip(bodies, before, strict=True))
    assert not any(leaf.requires_grad for leaf in outcome.slopes)


# --- one system per vector lane --------------------------------------------------------------------------------------


def advance(scale, bodies):
    """A short way down the slopes, and how far that was."""
    slopes = vmap(grad(energy, argnums=1), in_dims=(None, 0))(scale, bodies)
    moved = bodies._replace(position=bodies.position - 0.01 * slopes.position)
    return moved, slopes.position.pow(2).sum((1, 2)), slopes.position.mean()


@pytest.fixture(scope="module")
def in_lanes():
    """An engine over a batch, compiled for nine sets of three bodies, and what was told of it meanwhile."""
    engine, told = build_engine(advance, mode="on", batched=(False, True), label="a move"), []
    with watch_compilation(told.append):
        engine(SCALE, bodies_of(9))
    return engine, told


@needs_compiler
def test_a_batch_in_vector_lanes_is_the_eager_one(in_lanes):
    engine, _ = in_lanes
    for seed in range(3):
        bodies = bodies_of(9, seed=seed)
        (ours, length, mean), (theirs, true_length, true_mean) = engine(SCALE, bodies), advance(SCALE, bodies)
        assert type(ours) is Bodies
        assert_close(ours.mass, theirs.mass)
        assert_close(ours.position, theirs.position)
        assert_close(length, true_length)
        assert_close(mean, true_mean)  # over the batch: a number
    assert engine.reason == ""


@needs_compiler
def test_a_result_has_its_batch_in_front_and_lies_as_the_next_call_wants_it(in_lanes, monkeypatch):
    engine, _ = in_lanes
    seen, compiled_in = [], engine.compile_seconds
    first, *_ = engine(SCALE, bodies_of(9))
    assert (first.mass.shape, first.position.shape) == ((9, 3), (9, 3, 2))
    assert all(leaf.movedim(0, -1).is_contiguous() for leaf in first)
    to_last = engines._to_last
    monkeypatch.setattr(engines, "_to_last", lambda x, axis: seen.append((x, to_last(x, axis))) or seen[-1][1])
    second, *_ = engine(SCALE, first)
    assert [given is leaf for (given, _), leaf in zip(seen, first, strict=True)] == [True, True]
    assert [given.data_ptr() == lying.data_ptr() for given, lying in seen] == [True, True]  # nothing was moved
    assert engine.compile_seconds == compiled_in  # nor compiled anew
    assert_close(second.position, advance(SCALE, advance(SCALE, bodies_of(9))[0])[0].position)


@needs_compiler
def test_who_watches_is_told_when_a_compilation_begins_and_ends(in_lanes):
    engine, told = in_lanes
    became = Compilation("a move", engine.compile_seconds, "", "inductor", "aten.triu_indices.default is not known")
    assert told == [Compilation("a move", None, ""), became]
    assert (engine.back_end, engine.fallback) == ("inductor", "aten.triu_indices.default is not known")
    with watch_compilation(told.append):
        engine(SCALE, bodies_of(9, seed=4))
    assert len(told) == 2  # of what is compiled already there is nothing to tell


# --- differentiated --------------------------------------------------------------------------------------------------


@needs_compiler
def test_what_is_differentiated_runs_eagerly_and_has_the_right_gradients(compiled):
    bodies, before = bodies_of(4), compiled.compile_seconds

    def through(function):
        def total(position):
            return function(SCALE, bodies._replace(position=position)).value.pow(2).sum()

        leaf = bodies.position.clone().requires_grad_()
        (by_autograd,) = torch.autograd.grad(total(leaf), leaf)
        by_func = grad(total)(bodies.position)
        forward = jvp(total, (bodies.position,), (torch.ones_like(bodies.position),))[1]
        mapped = vmap(total)(torch.stack([bodies.position, 2 * bodies.position]))
        return by_autograd, by_func, forward, mapped

    for ours, theirs in zip(through(compiled), through(slopes_of), strict=True):
        assert torch.equal(ours, theirs)  # the very same code
    # And right, not only the same: V² with V = Σ mm/r^1.5 has the gradient 2 V ∇V, and ∇V is what the function gives.
    known = slopes_of(SCALE, bodies)
    assert_close(through(compiled)[1], 2 * known.value[:, None, None] * known.slopes.position)
    assert (compiled.compile_seconds, compiled.reason) == (before, "")  # it did not give up compiling


@needs_compiler
def test_with_gradients_switched_off_a_leaf_that_requires_one_is_no_obstacle(compiled):
    bodies = bodies_of(4)
    leaf = bodies.position.clone().requires_grad_()
    assert is_tracked(leaf)
    with torch.no_grad():
        assert not is_tracked(leaf)
        outcome = compiled(SCALE, bodies._replace(position=leaf))
    assert not outcome.value.requires_grad
    assert torch.equal(outcome.value, compiled(SCALE, bodies).value)  # the same machine code


@needs_compiler
def test_outside_of_the_transforms_machine_code_runs_in_the_midst_of_a_gradient(compiled):
    bodies, seen = bodies_of(4), []

    def total(position):
        inside = compiled(SCALE, bodies._replace(position=position))
        with outside_transforms() as plain:
            seen.append((is_tracked(position), is_tracked(plain(position))))
            outside = compiled(SCALE, bodies._replace(position=plain(position)))
            seen.append(is_tracked(outside.value))
        # what was computed outside is a constant to the gradient, and inside it goes on
        return (outside.value * inside.value).sum()

    slope = grad(total)(bodies.position)
    assert seen == [(True, False), False]
    known = slopes_of(SCALE, bodies)
    assert_close(slope, known.value[:, None, None] * known.slopes.position)


def test_outside_of_nested_transforms_a_tensor_is_as_it_was_given():
    x, seen = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), []

    def inner(row):
        with outside_transforms() as plain:
            seen.append(plain(row))
        return row.pow(3).sum()

    second = grad(lambda rows: vmap(grad(inner))(rows).sum())(x)
    assert torch.equal(seen[0], x)  # every level is peeled off, the mapped axis included
    assert not seen[0].requires_grad
    torch.testing.assert_close(second, 6 * x, rtol=1e-15, atol=0)  # and the gradients go on: 6x of x³


# --- not compiled ----------------------------------------------------------------------------------------------------


def test_off_runs_eagerly_and_says_so():
    engine = build_engine(slopes_of, mode="off")
    assert engine.reason == "compile is off"
    for ours, theirs in zip(engine(SCALE, bodies_of(2))[1:], slopes_of(SCALE, bodies_of(2))[1:], strict=True):
        assert torch.equal(ours, theirs)
    assert engine.compile_seconds == 0


def test_without_a_compiler_auto_runs_eagerly_and_on_refuses(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    engine = build_engine(slopes_of, mode="auto")
    assert engine.reason == ""
    assert torch.equal(engine(SCALE, bodies_of(2)).value, slopes_of(SCALE, bodies_of(2)).value)
    assert engine.reason == "no C++ compiler was found"
    assert torch.equal(engine(SCALE, bodies_of(3)).value, slopes_of(SCALE, bodies_of(3)).value)
    with pytest.raises(
        ValueError, match=r'^compile = "on": no C\+\+ compiler was found; use compile = "auto" or "off"$'
    ):
        build_engine(slopes_of, mode="on")(SCALE, bodies_of(2))


def test_any_of_the_usual_compilers_will_do(monkeypatch):
    for name in ("g++", "clang++", "c++"):
        monkeypatch.setattr(shutil, "which", lambda asked, name=name: "/bin/it" if asked == name else None)
        assert missing_compiler(torch.device("cpu")) == ""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert missing_compiler(torch.device("cuda")) == ""  # a GPU's compiler comes with torch


def branching(x):
    return 2 * x if x.sum() > 0 else -x


def test_a_function_that_branches_on_a_tensor_runs_eagerly_with_a_reason_of_one_line():
    engine, x = build_engine(branching, mode="auto"), torch.tensor([1.0, 2.0])
    for value in (x, -x, x):  # a trace would have kept the branch of the first
        assert torch.equal(engine(value), branching(value))
    assert engine.reason.startswith("torch could not compile it: ")
    assert "\n" not in engine.reason
    assert len(engine.reason) < 240


def test_a_function_that_cannot_be_compiled_is_refused_where_compiling_was_asked_for():
    engine = build_engine(branching, mode="on")
    for _ in range(2):  # and again, if somebody goes on
        with pytest.raises(ValueError, match=r'^compile = "on": torch could not compile it: .*use compile = "auto"'):
            engine(torch.tensor([1.0, 2.0]))


def test_a_function_without_tensors_is_run_as_it_is():
    engine = build_engine(lambda: (), mode="auto")
    assert engine() == ()
    assert engine.reason == "there is no tensor to compile for"


def test_an_error_of_the_function_itself_is_its_own():
    def wrong(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        build_engine(wrong, mode="auto")(torch.ones(2))


def test_another_mode_is_refused():
    assert MODES == ("auto", "on", "off")
    with pytest.raises(ValueError, match="build_engine: compile must be one of auto, on, off, got 'yes'"):
        build_engine(slopes_of, mode="yes")


# --- those who watch, remember and ask -------------------------------------------------------------------------------


def test_who_watches_is_told_why_something_runs_eagerly(monkeypatch):
    monkeypatch.setattr(engines, "missing_compiler", lambda device: f"no compiler for {device.type}")
    outer, inner = [], []
    engine = build_engine(torch.sin, mode="auto", label="a sine")
    with watch_compilation(outer.append):
        with watch_compilation(inner.append):
            engine(torch.ones(2))
            engine(torch.zeros(2))  # the same shape
        begin, end = inner
        assert begin == Compilation("a sine", None, "")
        why = "no compiler for cpu"
        assert end == Compilation("a sine", engine.compile_seconds, why, "eager", why)
        assert 0 < end.seconds < 1  # the host's clock around next to nothing
        assert outer == []  # the innermost watches
        engine(torch.ones(3))
        assert [event.seconds is None for event in outer] == [True, False]
    engine(torch.ones(4))
    assert (len(outer), len(inner)) == (2, 2)  # nobody watches any more


def test_what_is_off_has_no_compilation_to_tell_of():
    told = []
    with watch_compilation(told.append):
        build_engine(torch.sin, mode="off")(torch.ones(2))
    assert told == []


def test_a_builder_that_remembers_gives_the_same_object_for_equal_arguments():
    calls = []

    @remember
    def build(first, *, second=0):
        """What it makes."""
        calls.append((first, second))
        return object()

    one = build((1, "a"), second=2)
    assert build((1, "a"), second=2) is one
    assert build((1, "a"), second=3) is not one
    assert build((1, "b"), second=2) is not one
    assert len(calls) == 3
    assert (build.__name__, build.__doc__) == ("build", "What it makes.")


@pytest.mark.parametrize("unhashable", [[1], {"a": 1}, ([1],)], ids=["list", "dict", "nested"])
def test_a_builder_that_remembers_builds_anew_for_what_cannot_be_hashed(unhashable):
    @remember
    def build(first, *, second=()):
        return [first, second]

    for options in [{"first": unhashable}, {"first": 1, "second": unhashable}]:
        one, other = build(**options), build(**options)
        assert one == other == [options["first"], options.get("second", ())]
        assert one is not other


def test_an_error_of_a_builder_that_remembers_is_its_own_and_is_not_kept():
    calls = []

    @remember
    def build(first):
        calls.append(first)
        raise TypeError("mine")

    for _ in range(2):
        with pytest.raises(TypeError, match=r"^mine$"):
            build(1)
    assert calls == [1, 1]


def test_a_function_can_tell_whether_it_is_being_traced():
    seen = []

    def asking(x):
        seen.append(is_traced())
        return x * 2

    asking(torch.ones(2))
    graph = make_fx(asking)(torch.ones(2))
    graph(torch.ones(2))  # the graph asks no more
    vmap(grad(lambda x: asking(x).sum()))(torch.ones(3, 2))  # a transform is no trace
    make_fx(vmap(grad(lambda x: asking(x).sum())))(torch.ones(3, 2))
    assert seen == [False, True, False, True]
    assert not is_traced()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_compiled_tanh_is_tanh_to_the_last_digits_for_small_and_large_numbers(dtype):
    exponents = torch.linspace(-300 if dtype == torch.float64 else -35, 2.5, 4001, dtype=dtype)
    ends = torch.tensor([0.0, 19.9, 20.1, 400.0, torch.inf, torch.nan], dtype=dtype)
    x = torch.cat([10**exponents, ends])
    x = torch.cat([x, -x])
    # Where the series ends, at 0.1, 1 − 2/(e²ˣ + 1) has ten times the rounding of 1.
    torch.testing.assert_close(
        build_engine(torch.tanh, mode="on")(x), x.tanh(), rtol=20 * torch.finfo(dtype).eps, atol=0, equal_nan=True
    )


@needs_compiler
def test_the_derivatives_of_a_compiled_tanh_are_those_of_tanh():
    x = torch.linspace(-30, 30, 301, dtype=torch.float64)
    second = vmap(grad(grad(torch.tanh)))
    # 1 − tanh² has the rounding of tanh, which is 20 of 1e-16 at most, where tanh is nearly 1.
    torch.testing.assert_close(build_engine(second, mode="on")(x), second(x), rtol=1e-12, atol=4e-15)


# --- forward mode ----------------------------------------------------------------------------------------------------


def along(function, x, direction):
    return jvp(function, (x,), (direction,))[1]


FORWARD = {
    "a number": lambda x: along(lambda y: (2 * y + 1).sin(), x, torch.ones_like(x)),
    "a constant": lambda x: along(lambda y: (y / y.detach()).sin() * x + y.detach(), x, x),
    "a rate of a rate": lambda x: along(lambda y: along(lambda z: (x - z) / 2 - x.sin() * z, y, y), x, x),
    "a constant of a rate": lambda x: along(lambda y: along(lambda z: (z / z.detach()) ** 2, y, y), x, x),
}


@needs_compiler
@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_through_what_does_not_change_is_compiled(name):
    # its tangent is 0 everywhere: torch keeps it without memory, and leaves its traces on the device "meta"
    x = bodies_of(8).position
    engine = build_engine(vmap(FORWARD[name]), mode="on", batched=(True,))
    assert_close(engine(x), vmap(FORWARD[name])(x))
    assert engine.fallback == ""


@needs_compiler
def test_values_that_torch_traces_without_memory_are_computed_eagerly():
    def doubled(x):  # forward mode inside of two maps
        return vmap(vmap(lambda a: vmap(lambda t: along(lambda y: 2 * y, a, t))(a.expand(2, 2))))(x)

    x = bodies_of(8).position
    engine = build_engine(doubled, mode="auto", batched=(True,))
    ours = engine(x)
    assert "without memory" in engine.reason
    assert_close(ours, 2 * x[:, :, None].expand(8, 3, 2, 2))


@needs_compiler
def test_what_would_be_compiled_for_many_minutes_runs_eagerly_with_the_reason_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(engines, "_MOST", 10)
    x, seen = torch.randn(32, 3, dtype=torch.float64), []

    def long(x):
        for _ in range(8):
            x = x.sin() * 0.5
        return x.sum(1)

    with watch_compilation(seen.append):
        short = build_engine(vmap(lambda row: row.sin().sum()), mode="auto", batched=(True,))
        auto = build_engine(vmap(lambda row: long(row[None])), mode="auto", batched=(True,))
        on = build_engine(vmap(lambda row: long(row[None])), mode="on", batched=(True,))
        outcomes = [engine(x) for engine in (auto, on)]
        short(x)
    assert auto.reason == (
        'it has more than 10 operations, and compilers would take many minutes for them; compile = "on" waits'
    )
    assert [event.back_end for event in seen if event.seconds is not None] == ["eager", "native", "native"]
    assert (on.reason, short.reason) == ("", "")
    torch.testing.assert_close(*outcomes, rtol=1e-14, atol=0)  # sines of two libraries
