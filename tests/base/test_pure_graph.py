"""Functions that write, as graphs that do not: what torch does eagerly, alone, mapped and differentiated."""

from functools import partial

import pytest
import torch
from torch.func import grad, vmap

import aits_func as af
from aits_func.base import strided
from aits_func.base.engine import build_engine, missing_compiler
from aits_func.base.native_graph import UnsuitableError, build_program
from aits_func.base.pure_graph import ImpureError, trace, trace_pure

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
B = 33


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """A graph that is wrong is to be seen here, and not mended by the comparison with eager code."""
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = random(B, 4)


def writing(write):
    """An ordinary pure function: a new array, written to, and returned; of x (4,) or (B, 4)."""

    def function(x):
        y = x * 2
        out = write(y, x)
        return y if out is None else out

    return function


# Rows are (…, 4): every case works on one row and on a batch of rows.
WRITES = {
    "setitem of one place": lambda y, x: y.__setitem__((..., 1), x[..., 0]),
    "setitem of a slice": lambda y, x: y.__setitem__((..., slice(1, None)), x[..., :3].sin()),
    "setitem of a number": lambda y, x: y.__setitem__((..., 2), -0.5),
    "setitem with a step": lambda y, x: y.__setitem__((..., slice(None, None, 2)), x[..., 1::2]),
    "setitem by index": lambda y, x: y.__setitem__((..., torch.tensor([2, 0])), x[..., :2]),
    "copy_": lambda y, x: y.copy_(x.cos()),
    "copy_ into a view of a view": lambda y, x: y[..., 1:][..., 1].copy_(x[..., 3]),
    "copy_ of one number to all": lambda y, x: y.copy_(x[..., :1]),
    "fill_": lambda y, x: y[..., 0].fill_(3.0),
    "fill_ with a tensor": lambda y, x: y[..., 0].fill_(torch.tensor(3.0, dtype=torch.float64)),
    "zero_": lambda y, x: y[..., 3].zero_(),
    "add_": lambda y, x: y[..., 0].add_(x[..., 1]),
    "add_ with a factor": lambda y, x: y[..., 0].add_(x[..., 1], alpha=3),
    "sub_": lambda y, x: y[..., :2].sub_(x[..., 2:]),
    "mul_": lambda y, x: y[..., 1].mul_(x[..., 2]),
    "div_": lambda y, x: y[..., 1].div_(x[..., 2]),
    "pow_": lambda y, x: y[..., 1].pow_(2),
    "neg_": lambda y, x: y[..., 1].neg_(),
    "exp_": lambda y, x: y[..., 1:3].exp_(),
    "sqrt_": lambda y, x: y[..., 0].abs_().sqrt_(),
    "clamp_": lambda y, x: y[..., 1:].clamp_(-0.5, 0.5),
    "lerp_": lambda y, x: y[..., 0].lerp_(x[..., 1], 0.25),
    "addcmul_": lambda y, x: y[..., 0].addcmul_(x[..., 1], x[..., 2]),
    "masked_fill_": lambda y, x: y.masked_fill_(x > 0, 0.25),
    "augmented assignment to a place": lambda y, x: y.__setitem__((..., 0), y[..., 0].__iadd__(x[..., 3])),
    "index_put_ with adding up": lambda y, x: y.movedim(-1, 0).index_put_(
        (torch.tensor([0, 0]),), x.movedim(-1, 0)[:2], accumulate=True
    )[0],
    "index_copy_": lambda y, x: y.index_copy_(-1, torch.tensor([3, 1]), x[..., :2]),
    "index_add_": lambda y, x: y.index_add_(-1, torch.tensor([0, 0]), x[..., :2]),
    "index_fill_": lambda y, x: y.index_fill_(-1, torch.tensor([1]), 0.5),
    "scatter_": lambda y, x: y.scatter_(-1, torch.zeros_like(x[..., :1], dtype=torch.int64), x[..., 3:]),
    "scatter_add_": lambda y, x: y.scatter_add_(-1, torch.zeros_like(x[..., :1], dtype=torch.int64), x[..., 3:]),
    "a transposed view": lambda y, x: y.movedim(-1, 0)[2].copy_(x[..., 0]),
    "a diagonal": lambda y, x: y.unflatten(-1, (2, 2)).diagonal(dim1=-2, dim2=-1).mul_(x[..., :2]),
    "unbound pieces": lambda y, x: [piece.mul_(k) for k, piece in enumerate(y.unbind(-1))] and None,
    "a view that was made before": lambda y, x: (y[..., :2], y.mul_(x))[0] + 1,
    "a base that was read before": lambda y, x: (_z := y + 1, y[..., 0].zero_())[0] + y,
    "several lists at once": lambda y, x: torch._foreach_add_([y[..., 0], y[..., 1]], [x[..., 2], x[..., 3]]) and None,
}
WAYS = ("alone", "mapped", "its slope", "the slope of each")
LEFT_OUT = {
    # torch itself cannot do these
    "unbound pieces": ("its slope", "the slope of each"),
    "several lists at once": ("mapped", "its slope", "the slope of each"),
    # of a diagonal of matrices that lie in rows the slope goes by places in memory; see below
    "a diagonal": ("its slope", "the slope of each"),
}
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, eagerly as well


def total(function):
    return lambda x: function(x).pow(2).sum()


def in_this_way(way, name):
    function = writing(WRITES[name])
    return {
        "alone": function,
        "mapped": vmap(function),
        "its slope": grad(total(function)),
        "the slope of each": vmap(grad(total(function))),
    }[way]


def cases():
    return [(name, way) for name in WRITES for way in WAYS if way not in LEFT_OUT.get(name, ())]


def assert_same(ours, theirs, name):
    # Numbers that are moved are the same; a product and a sum may be contracted: 1e-16 of numbers of order ten.
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14, msg=lambda m: f"{name}: {m}")


def writes(graph):
    targets = [node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    return [target for target in targets if target._schema.is_mutable]


@pytest.mark.parametrize(("name", "way"), cases())
def test_a_function_that_writes_is_a_graph_that_does_not(name, way):
    function, given = in_this_way(way, name), X.clone()

    def of(x):
        return (function(x),)

    graph = trace_pure(of, [X])
    assert writes(graph) == []
    assert not {node.target for node in graph.graph.nodes} & strided.FORMULAS.keys()  # nor goes by places in memory
    assert_same(graph(given)[0], function(X.clone()), name)
    assert torch.equal(given, X)  # the argument is as it was


def test_the_cases_above_do_write():
    for name in WRITES:
        function = in_this_way("alone", name)
        assert writes(trace(partial(listed, function), [X])), name


def listed(function, x):
    return [function(x)]


def split():
    """The cases that are native code, and the others."""
    natives, others = [], []
    for name, way in cases():
        try:
            build_program(trace_pure(partial(listed, in_this_way(way, name)), [X]), [X], [True])
            natives.append((name, way))
        except UnsuitableError:
            others.append((name, way))
    return natives, others


def assert_compiled(chosen, back_end):
    functions = [in_this_way(way, name) for name, way in chosen]
    engine = build_engine(partial(all_of, functions), mode="on", batched=(True,))
    for case, mine, function in zip(chosen, engine(X), functions, strict=True):
        assert_same(mine, function(X.clone()), f"{back_end} {case}")
    assert engine.back_end == back_end


def all_of(functions, x):
    return [function(x) for function in functions]


@needs_compiler
@pytest.mark.parametrize("ways", [("its slope",), pytest.param(WAYS, marks=pytest.mark.slow)], ids=["slopes", "all"])
def test_those_that_are_native_code_are_right(ways):
    natives, others = split()
    assert len(natives) > 1.5 * len(others)
    assert_compiled([case for case in natives if case[1] in ways], "native")


@needs_compiler
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["some", "all"])
def test_those_of_torch_inductor_are_right(few):
    some = {("index_put_ with adding up", "mapped"), ("scatter_", "alone"), ("index_copy_", "its slope")}
    assert_compiled([case for case in split()[1] if case in some or not few], "inductor")


def test_what_goes_by_places_in_memory_and_is_no_slice_is_not_compiled():
    with pytest.raises(ImpureError, match="memory is looked at by strides that are no multiples of each other"):
        trace_pure(partial(listed, grad(total(writing(WRITES["a diagonal"])))), [X])
    with pytest.raises(ImpureError, match="memory is looked at across the ends of rows"):
        trace_pure(lambda x: [x.as_strided((3, 3), (1, 1))], [X])
    with pytest.raises(ImpureError, match="memory with gaps is looked at by strides"):
        trace_pure(lambda x: [x[:, 1:].as_strided((3,), (1,))], [X])
    with pytest.raises(ImpureError, match="memory is looked at beyond the end of an array"):
        trace_pure(lambda x: [x[:2].as_strided((3, 3), (4, 1))], [X])


@pytest.mark.parametrize(
    ("size", "stride", "start"),
    [
        ((33, 2), (4, 1), 1),
        ((2, 33), (1, 4), 2),
        ((11, 2), (12, 4), 0),
        ((33, 4), (4, 1), 0),
        ((5, 33, 1), (0, 4, 7), 3),
        ((), (), 131),
        ((16, 4), (8, 1), 4),
    ],
)
def test_a_view_by_strides_is_a_slice(size, stride, start):
    for x in (X, X.reshape(-1), X.t().contiguous().t(), X.reshape(11, 3, 4).transpose(1, 2).contiguous()):
        view = x.as_strided(size, stride, start)
        assert torch.equal(strided.as_strided(x, size, stride, start), view)
        if 0 in stride:
            with pytest.raises(strided.StridedError, match="several numbers are written to one place"):
                strided.as_strided_scatter(x, view, size, stride, start)
        else:
            part = random(*size, seed=3)
            ours, theirs = (
                f(x, part, size, stride, start) for f in (strided.as_strided_scatter, torch.as_strided_scatter)
            )
            assert torch.equal(ours, theirs)


@needs_compiler
def test_a_field_that_fills_its_acceleration_place_by_place_acts_on_a_compiled_system_too():
    def bar(x, t):
        a = torch.zeros_like(x)
        a[0] = -4.0 * x[0]
        return a

    gravity = af.build_gravity(field=af.Field(bar, lambda x, t: 2.0 * x[0] ** 2, static=True))
    policy, systems = af.build_criterion_policy(af.constant(dt=0.01)), af.binaries(0, B)
    options = {"policy": policy, "gravity": gravity, "scheme": af.build_leapfrog_kdk(gravity), "steps": 20}
    ends = [af.simulate(policy.init(0), systems, **options, compile=mode)[0] for mode in ("off", "on")]
    # Twenty steps of an orbit that is integrated with a hundred or more: roundings grow by 10 or so.
    torch.testing.assert_close(ends[1].position, ends[0].position, rtol=1e-13, atol=1e-13)


# --- what is not compiled


def into_its_argument(x):
    return x.add_(1)


def into_a_view_of_it(x):
    x[:, 0] = 0
    return x * 2


KEPT = torch.zeros(4, dtype=torch.float64)


def into_a_tensor_from_outside(x):
    KEPT.add_(1)
    return x + KEPT


def with_random_numbers(x):
    return x + torch.randn_like(x)


WRITES_ELSEWHERE = "it writes into its arguments, or into a tensor that it was not given"
DRAWS = "it draws random numbers, of which compiled code would draw others"


@needs_compiler
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (into_its_argument, WRITES_ELSEWHERE),
        (into_a_view_of_it, WRITES_ELSEWHERE),
        (into_a_tensor_from_outside, WRITES_ELSEWHERE),
        (with_random_numbers, DRAWS),
    ],
)
def test_what_is_more_or_less_than_its_result_runs_eagerly(function, reason):
    with pytest.raises(ImpureError, match=reason):
        trace_pure(partial(listed, function), [X])
    before = KEPT.clone()
    engine = build_engine(function, batched=(True,))
    given, again = X.clone(), X.clone()
    torch.manual_seed(0)
    ours = engine(given)
    left = KEPT.clone()
    KEPT.copy_(before)
    torch.manual_seed(0)
    assert torch.equal(ours, function(again))
    assert torch.equal(given, again)  # what eager code leaves behind, once
    assert torch.equal(left, KEPT)
    KEPT.copy_(before)
    assert (engine.back_end, engine.reason, engine.fallback) == ("eager", reason, reason)
