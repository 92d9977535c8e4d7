"""Native code of every operation that is known: what torch gives, to the rounding, for the strangest of numbers."""

import itertools
import math
import operator
import re
from types import SimpleNamespace

import pytest
import torch
from torch import fx

from aits_func.base import native_graph
from aits_func.base.engine import missing_compiler
from aits_func.base.native_graph import UnsuitableError, build_program
from aits_func.base.native_library import load
from aits_func.base.pure_graph import trace

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")

aten = torch.ops.aten
END = 9223372036854775807
B = 37  # a batch of a size that no other axis here has: not whole vectors, not a whole tile


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def native(graph, example, batched):
    """Native code of a graph, called with these arguments; it is built for zeros, and can know nothing of them."""
    zeros = [torch.zeros_like(x) for x in example]
    code = load(build_program(graph, zeros, batched), zeros, batched)
    pairs = zip(example, code.lying, strict=True)
    laid = [torch.empty_strided(x.shape, lying, dtype=x.dtype).copy_(x) for x, lying in pairs]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills new memory: what is not written is not right by chance
    try:
        return code(laid)
    finally:
        torch.use_deterministic_algorithms(before)


class Sheet:
    """A graph written by hand, next to what torch gives: ``make_fx`` would take some operations to pieces."""

    def __init__(self, arrays):
        self.graph, self.outputs, self.expected, self.labels = fx.Graph(), [], [], []
        self.example = list(arrays.values())
        self.real = next(x.dtype for x in self.example if x.is_floating_point())
        self.names = {name: self.note(self.graph.placeholder(name), x) for name, x in arrays.items()}

    def note(self, node, value):
        node.meta["val"] = value
        return node

    def call(self, target, *args, **kwargs):
        """One operation more; its arguments may be nodes."""
        node = self.graph.call_function(target, args, kwargs)
        # Clones: an operation in place would change the values of others.
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda x: _cloned(x.meta["val"]))
        return self.note(node, target(*args, **kwargs))

    def write(self, target, arguments):
        """One case of a table; of an operation with several results, all of them."""
        args, kwargs = called(arguments(SimpleNamespace(**self.names)))
        node = self.call(target, *args, **kwargs)
        several = isinstance(node.meta["val"], (tuple, list))
        count = len(node.meta["val"]) if several else 0
        return [self.call(operator.getitem, node, k) for k in range(count)] if several else [node]

    def put_out(self, node, label, target=None):
        self.outputs.append(node)
        self.expected.append(node.meta["val"])
        self.labels.append((label, target))

    def run(self, batched):
        self.graph.output(tuple(self.outputs))
        ours = native(fx.GraphModule({}, self.graph), self.example, batched)
        return zip(self.labels, ours, self.expected, strict=True)


def _cloned(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def called(arguments):
    *args, last = arguments
    return (tuple(args), last) if isinstance(last, dict) else (tuple(arguments), {})


def used(arguments):
    return set(arguments.__code__.co_names)


def roundings(ours, theirs):
    """How many steps from one number to the next lie between these; ∞ where one is no finite number."""
    size = theirs.abs()
    up, down = (torch.nextafter(size, torch.full_like(size, end)) for end in (math.inf, 0.0))
    step = torch.where(up.isinf(), size - down, up - size)
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    return torch.where(same, 0.0, ((ours - theirs).abs() / step).nan_to_num(math.inf, math.inf))


# --- pointwise -------------------------------------------------------------------------------------------------------


def special(dtype):
    """Numbers at which something may go wrong."""
    tiny, eps, most = torch.finfo(dtype).tiny, torch.finfo(dtype).eps, torch.finfo(dtype).max
    some = [math.nan, math.inf, 0.0, 1.0, 0.3, 2.5, 20.1, tiny, tiny * eps, tiny / 3, eps, most, most / 3, most**0.5]
    return [*some, *(-x for x in some[1:])]


def operands(dtype, pairs):
    """x, y: reals; m, n: masks; i, j: whole numbers; k: the same, but positive; p: 0 to 0.7; f: of a moderate size."""
    count = len(pairs)
    x, y = torch.tensor(pairs, dtype=torch.float64).to(dtype).unbind(1)
    make = torch.Generator().manual_seed(3)
    m, n = (torch.rand(count, generator=make) > 0.5 for _ in range(2))
    i, j = (torch.randint(-5, 6, (count,), generator=make) for _ in range(2))
    p = 0.7 * torch.rand(count, generator=make, dtype=torch.float64).to(dtype)
    return {"x": x, "y": y, "m": m, "n": n, "i": i, "j": j, "k": j.abs(), "p": p, "f": 5 * random(count, dtype=dtype)}


ARITHMETIC, COMPARISONS = ("add", "sub", "mul", "div"), ("eq", "ne", "lt", "le", "gt", "ge")


def each(names, overload, arguments):
    return [(getattr(getattr(aten, name), overload), arguments) for name in names]


POINTWISE = [
    *each(ARITHMETIC + COMPARISONS, "Tensor", lambda a: (a.x, a.y)),
    *each(ARITHMETIC + COMPARISONS, "Scalar", lambda a: (a.x, 2.5)),
    *each(("add", "mul", *COMPARISONS), "Tensor", lambda a: (a.x, a.m)),
    *each(("add", "mul", "eq", "ne"), "Tensor", lambda a: (a.m, a.n)),
    *each(("eq", "ne"), "Scalar", lambda a: (a.m, True)),
    (aten.add.Tensor, lambda a: (a.x, 2)),
    (aten.mul.Tensor, lambda a: (a.x, -0.0)),
    (aten.sub.Tensor, lambda a: (a.x, a.y, {"alpha": 1})),
    (aten.add.Scalar, lambda a: (a.x, 2.5, 1)),
    *each(("neg", "abs", "exp", "log", "sqrt", "tanh", "sin", "cos"), "default", lambda a: (a.x,)),
    *each(("maximum", "minimum"), "default", lambda a: (a.x, a.y)),
    *each(("maximum", "minimum", "logical_and", "logical_or"), "default", lambda a: (a.m, a.n)),
    *each(("logical_and", "logical_or"), "default", lambda a: (a.x, a.m)),
    *each(("bitwise_and", "bitwise_or"), "Tensor", lambda a: (a.m, a.n)),
    *each(("bitwise_not", "logical_not"), "default", lambda a: (a.m,)),
    (aten.logical_not.default, lambda a: (a.x,)),
    (aten.where.self, lambda a: (a.m, a.x, a.y)),
    (aten.where.self, lambda a: (a.m, a.n, a.m)),
    (aten.masked_fill.Scalar, lambda a: (a.x, a.m, -math.inf)),
    (aten.masked_fill.Scalar, lambda a: (a.n, a.m, True)),
    (aten.clamp.default, lambda a: (a.x, -1.5, 2)),
    (aten.clamp.default, lambda a: (a.x, None, 0.5)),
    (aten.clamp.default, lambda a: (a.x, 0.5)),
    (aten.clamp_min.default, lambda a: (a.x, 0.25)),
    (aten.clamp_max.default, lambda a: (a.x, 0.25)),
    (aten.rsub.Scalar, lambda a: (a.x, 2.5)),
    (aten.rsub.Scalar, lambda a: (a.x, 2, 1)),
    *each(("reciprocal", "rsqrt"), "default", lambda a: (a.x,)),
    *[
        (aten.pow.Tensor_Scalar, lambda a, power=power: (a.x, power))
        for power in (0.5, -0.5, -1, -2.0, 1, 2, 3, 4, 0, 1.5, -3)
    ],
    (aten.pow.Scalar, lambda a: (2.0, a.x)),
    (aten.pow.Tensor_Tensor, lambda a: (a.x, a.y)),
    *each(("sgn", "sign", "isinf", "isnan", "relu", "sigmoid", "silu"), "default", lambda a: (a.x,)),
    (aten.threshold_backward.default, lambda a: (a.y, a.x, 0)),
    (aten.tanh_backward.default, lambda a: (a.x, a.p)),
    (aten.sigmoid_backward.default, lambda a: (a.x, a.p)),
    *each(("clone", "detach", "alias", "contiguous", "lift_fresh_copy", "_to_copy"), "default", lambda a: (a.x,)),
    (aten.clone.default, lambda a: (a.m,)),
    (aten._to_copy.default, lambda a: (a.x, {"dtype": torch.bool})),
    (aten._to_copy.default, lambda a: (a.m, {"dtype": a.x.meta["val"].dtype})),
]
WHOLE = [  # with whole numbers among arguments or results, which there are beside reals of 64 bits only
    *each(("add", "sub", "mul", *COMPARISONS), "Tensor", lambda a: (a.i, a.j)),
    *each(("add", "sub", "mul", *COMPARISONS), "Tensor", lambda a: (a.i, a.x)),
    *each(("add", "mul", *COMPARISONS), "Tensor", lambda a: (a.m, a.i)),
    *each(("add", "sub", "mul", *COMPARISONS), "Scalar", lambda a: (a.i, 2)),
    *each(("lt", "le", "gt", "ge"), "Tensor", lambda a: (a.m, a.n)),
    *each(("neg", "abs", "sgn", "sign", "isinf", "isnan", "bitwise_not", "logical_not"), "default", lambda a: (a.i,)),
    *each(("maximum", "minimum"), "default", lambda a: (a.i, a.j)),
    *each(("logical_and", "logical_or"), "default", lambda a: (a.i, a.m)),
    *each(("bitwise_and", "bitwise_or"), "Tensor", lambda a: (a.i, a.j)),
    (aten.where.self, lambda a: (a.m, a.i, a.j)),
    (aten.where.self, lambda a: (a.m, a.x, a.i)),
    (aten.masked_fill.Scalar, lambda a: (a.i, a.m, 7)),
    (aten.clamp.default, lambda a: (a.i, -1, 2)),
    (aten.rsub.Scalar, lambda a: (a.i, 2)),
    (aten.pow.Tensor_Scalar, lambda a: (a.i, 26)),  # 5²⁶ is beyond 2⁵³, up to which a double has all whole numbers
    (aten.pow.Tensor_Tensor, lambda a: (a.i, a.k)),
    (aten.clone.default, lambda a: (a.i,)),
    (aten._to_copy.default, lambda a: (a.i, {"dtype": torch.bool})),
    (aten._to_copy.default, lambda a: (a.m, {"dtype": torch.int64})),
    (aten._to_copy.default, lambda a: (a.f, {"dtype": torch.int64})),  # cut off, on both sides of 0
    (aten._to_copy.default, lambda a: (a.i, {"dtype": torch.float64})),
]
# In roundings. One operation is one rounding, and the same one, with these exceptions: torch's functions of vectors
# are right to one rounding and so is libm, so that two of them differ by two at most.
ROUNDINGS = {
    aten.sqrt.default: 1,  # ours is the nearest number, torch's is not always
    aten.exp.default: 2,
    aten.log.default: 2,
    aten.sin.default: 2,
    aten.cos.default: 2,
    aten.pow.Tensor_Tensor: 2,
    aten.pow.Scalar: 2,
    aten.pow.Tensor_Scalar: 3,  # x⁴ is a product of squares here, each a rounding, of which the first counts twice
    aten.tanh.default: 4,  # a quotient of rounded numbers: two of e, one of e + 2, one of the division
    aten.rsqrt.default: 2,  # one of the root, and one of the quotient
    aten.sigmoid.default: 4,  # two of exp, one of the sum, one of the quotient
    aten.silu.default: 6,  # and one of the product, and one more of torch's
    aten.tanh_backward.default: 3,  # torch may contract 1 − y², which is more than ½ here
    aten.sigmoid_backward.default: 3,  # of products taken in another order
}
UNSIGNED = {aten.maximum.default, aten.minimum.default, aten.clamp.default, aten.relu.default}  # of 0 and −0, either


def assert_same_numbers(case, ours, theirs):
    label, target = case
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), label
    if not theirs.is_floating_point():
        assert torch.equal(ours, theirs), label
        return
    apart = roundings(ours, theirs)
    assert apart.max() <= ROUNDINGS.get(target, 0), (label, apart.max(), ours[apart.argmax()], theirs[apart.argmax()])
    if target not in UNSIGNED:
        zero = (theirs == 0) & (ours == 0)
        assert torch.equal(ours[zero].signbit(), theirs[zero].signbit()), label


def cases(dtype):
    return [*POINTWISE, *WHOLE] if dtype == torch.float64 else POINTWISE


def pairs_of(dtype):
    return list(itertools.product(special(dtype), repeat=2))


def assert_pointwise(sheet, batched, chosen, shown=lambda sheet, node: node):
    for number, (target, arguments) in enumerate(chosen):
        (node,) = sheet.write(target, arguments)
        sheet.put_out(shown(sheet, node), f"{number} {target}", target)
    for case, ours, theirs in sheet.run(batched):
        assert_same_numbers(case, ours, theirs)


def as_real(sheet, node):
    value = node.meta["val"]
    if value.is_floating_point():
        return node
    # Of whole numbers cut off from reals a compiler may make −0.
    return sheet.call(aten.add.Tensor, sheet.call(aten._to_copy.default, node, dtype=sheet.real), 0.0)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_on_lanes_every_pointwise_operation_gives_what_torch_gives(dtype):
    double = dtype == torch.float64
    arrays = {k: x for k, x in operands(dtype, pairs_of(dtype)).items() if double or x.dtype != torch.int64}
    assert_pointwise(Sheet(arrays), [True] * len(arrays), cases(dtype))


@needs_compiler
def test_on_arrays_without_a_batch_every_pointwise_operation_gives_what_torch_gives():
    dtype = torch.float64
    arrays = operands(dtype, pairs_of(dtype))
    sheet = Sheet({**arrays, "one": torch.ones(3, dtype=dtype)})
    assert_pointwise(sheet, [False] * len(arrays) + [True], cases(dtype), as_real)  # no array of masks is a result


@needs_compiler
def test_on_numbers_without_a_batch_every_pointwise_operation_gives_what_torch_gives():
    dtype = torch.float64
    numbers = [x for x in special(dtype) if not 0 < abs(x) < 0.1 and abs(x) not in (1, 0.3, 1e154)][:14]
    assert len(numbers) <= native_graph.SMALL  # more of them would be an array
    arrays = operands(dtype, list(zip(numbers, numbers[3:] + numbers[:3], strict=True)))
    sheet = Sheet({**arrays, "one": torch.ones(3, dtype=dtype)})
    assert_pointwise(sheet, [False] * len(arrays) + [True], cases(dtype))


@needs_compiler
def test_on_rows_every_pointwise_operation_gives_what_torch_gives():
    dtype = torch.float64
    arrays = operands(dtype, pairs_of(dtype))
    sheet = Sheet({**arrays, "ones": torch.ones(20, dtype=dtype)})
    for name, x in arrays.items():  # a lane times an array is a row
        row = sheet.call(aten.unsqueeze.default, as_real(sheet, sheet.names[name]), 1)
        row = sheet.call(aten.mul.Tensor, row, sheet.names["ones"])
        sheet.names[name] = row if x.dtype == dtype else sheet.call(aten._to_copy.default, row, dtype=x.dtype)
    once = {target: (target, arguments) for target, arguments in reversed(cases(dtype))}.values()
    last = lambda sheet, node: sheet.call(aten.slice.Tensor, node, 1, 19, END)  # noqa: E731
    assert_pointwise(sheet, [True] * len(arrays) + [False], once, last)


def test_the_tables_above_leave_no_pointwise_operation_out():
    assert {target for target, _ in (*POINTWISE, *WHOLE)} == set(native_graph._POINTWISE)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_functions_are_right_to_the_last_digits_over_their_whole_range(dtype):
    double = dtype == torch.float64
    tiny, most = (-1074, 1023) if double else (-149, 127)  # exponents of the smallest and the largest number
    steps = torch.linspace(0, 1, 3001, dtype=torch.float64)
    powers = torch.pow(2.0, tiny + steps * (most - tiny))  # as many of every size
    both = torch.cat([powers, -powers])
    even = torch.cat([(2 * steps - 1) * (750 if double else 105), 3 * (2 * steps - 1)])[:6002]
    near_one = torch.cat([powers, 1 + (2 * steps - 1) / 3])
    ranges = [x.to(dtype) for x in (both, even, near_one)]
    functions = [torch.exp, torch.tanh, torch.sigmoid, aten.silu]
    allowed = [2, 2, 4, 4, 4, 4, 6, 6, 2, 2, 2]  # the reasons are those of ROUNDINGS

    def all_of(small, even, near_one):
        return (*[f(x) for f in functions for x in (small, even)], near_one.log(), even.sin(), even.cos())

    ours = native(trace(all_of, ranges), ranges, [True] * 3)
    # Of 32 bits the exact oracle is right to the last digit, torch itself to one rounding.
    exact = [x.to(dtype) for x in all_of(*(x.double() for x in ranges))]
    exact[4:8] = all_of(*ranges)[4:8]  # the sigmoid is 0, for both, where e⁻ˣ is too large for the type
    for number, (mine, theirs, most_roundings) in enumerate(zip(ours, exact, allowed, strict=True)):
        assert roundings(mine, theirs).max() <= most_roundings, number


# --- movers ----------------------------------------------------------------------------------------------------------

ARRAYS = {
    "x": random(B, 2, 3),
    "y": random(B, 2, 3, seed=1),
    "z": random(B, 3, 2, seed=2),
    "flat": random(B),
    "thin": random(B, 1, 3, 1, seed=3),
    "flat_rows": random(B, 3, seed=10),
    "pairs": random(B, 2, 2, seed=11),
    "few": random(2, 3, seed=5),  # numbers
    "six": random(6, seed=12),
    "four": random(4, 2, seed=13),
    "many": random(4, 6, seed=6),  # an array
    "more": random(4, 6, seed=7),
    "slim": random(1, 20, 1, seed=8),
    "none": random(0, 3),
    "mask": random(B, 2, 3, seed=4) > 0,
    "whole": (5 * random(B, 2, 3, seed=9)).to(torch.int64),
}
BATCHED = [len(x) == B for x in ARRAYS.values()]

MOVES = [
    (aten.permute.default, lambda a: (a.x, [0, 2, 1])),
    (aten.permute.default, lambda a: (a.mask, [1, 2, 0])),
    (aten.permute.default, lambda a: (a.thin, [-1, 0, 2, 1])),
    (aten.permute.default, lambda a: (a.many, [1, 0])),
    (aten.transpose.int, lambda a: (a.x, 0, 2)),
    (aten.transpose.int, lambda a: (a.whole, -1, -2)),
    (aten.transpose.int, lambda a: (a.few, 0, 1)),
    (aten.t.default, lambda a: (a.flat,)),
    (aten.t.default, lambda a: (a.many,)),
    (aten.select.int, lambda a: (a.x, 1, -1)),
    (aten.select.int, lambda a: (a.mask, -1, 1)),
    (aten.select.int, lambda a: (a.many, 0, 2)),
    (aten.select.int, lambda a: (a.many, 1, -1)),
    (aten.unbind.int, lambda a: (a.x, 1)),
    (aten.unbind.int, lambda a: (a.x, -1)),
    (aten.unbind.int, lambda a: (a.few,)),
    (aten.slice.Tensor, lambda a: (a.x, 2, 1, END)),
    (aten.slice.Tensor, lambda a: (a.x, 2, 0, -1)),
    (aten.slice.Tensor, lambda a: (a.x, 2, 0, 3, 2)),
    (aten.slice.Tensor, lambda a: (a.x, 0, 0, END)),
    (aten.slice.Tensor, lambda a: (a.many, 1, 1, END, 2)),
    (aten.split.Tensor, lambda a: (a.x, 2, 2)),
    (aten.split.Tensor, lambda a: (a.x, B)),
    (aten.split.Tensor, lambda a: (a.many, 3)),
    (aten.split_with_sizes.default, lambda a: (a.x, [1, 2], -1)),
    (aten.split_with_sizes.default, lambda a: (a.x, [B])),
    (aten.unsqueeze.default, lambda a: (a.x, 0)),
    (aten.unsqueeze.default, lambda a: (a.x, 2)),
    (aten.unsqueeze.default, lambda a: (a.many, -1)),
    (aten.squeeze.default, lambda a: (a.thin,)),
    (aten.squeeze.default, lambda a: (a.slim,)),
    (aten.squeeze.dim, lambda a: (a.thin, -1)),
    (aten.squeeze.dim, lambda a: (a.x, 1)),
    (aten.squeeze.dims, lambda a: (a.thin, [1, 3])),
    (aten.expand.default, lambda a: (a.thin, [B, 4, 3, 2])),
    (aten.expand.default, lambda a: (a.thin, [2, -1, -1, -1, -1])),
    (aten.expand.default, lambda a: (a.slim, [1, 20, 3])),
    (aten.view.default, lambda a: (a.x, [B, 6])),
    (aten.view.default, lambda a: (a.x, [-1, 3, 2])),
    (aten.view.default, lambda a: (a.many, [3, 8])),
    (aten._unsafe_view.default, lambda a: (a.x, [B, 1, -1])),
    (aten.reshape.default, lambda a: (a.x, [1, B, 6])),
    (aten.reshape.default, lambda a: (a.flat, [1, 1, B, 1])),
    (aten.cat.default, lambda a: ([a.x, a.y], 1)),
    (aten.cat.default, lambda a: ([a.x, a.y, a.x], -1)),
    (aten.cat.default, lambda a: ([a.many, a.more], 1)),
    (aten.stack.default, lambda a: ([a.x, a.y],)),
    (aten.stack.default, lambda a: ([a.x, a.y], 2)),
    (aten.stack.default, lambda a: ([a.mask, a.mask], -1)),
    (aten.stack.default, lambda a: ([a.many, a.more], 1)),
    (aten.select_backward.default, lambda a: (a.flat, [B, 4], 1, 2)),
    (aten.select_backward.default, lambda a: (a.x, [B, 2, 5, 3], 2, 4)),
    (aten.select_backward.default, lambda a: (a.x, [2, B, 2, 3], 0, 1)),
    (aten.select_backward.default, lambda a: (a.few, [2, 4, 3], 1, 3)),
    (aten.slice_backward.default, lambda a: (a.x, [B, 2, 7], 2, 1, 7, 2)),
    (aten.slice_backward.default, lambda a: (a.x, [B, 2, 3], 0, 0, END, 1)),
    (aten.slice_backward.default, lambda a: (a.many, [4, 8], 1, 2, END, 1)),
    (aten.select_scatter.default, lambda a: (a.x, a.flat_rows, 1, -1)),
    (aten.select_scatter.default, lambda a: (a.many, a.six, 0, 2)),
    (aten.slice_scatter.default, lambda a: (a.x, a.pairs, 2, 1, END)),
    (aten.slice_scatter.default, lambda a: (a.mask, a.mask, 1)),
    (aten.slice_scatter.default, lambda a: (a.many, a.more, 1, 0, END, 1)),
    (aten.slice_scatter.default, lambda a: (a.many, a.four, 1, 1, END, 3)),
    (aten.diagonal.default, lambda a: (a.pairs, 1, 1, 2)),
    (aten.diagonal.default, lambda a: (a.x, -1, -1, 1)),
    (aten.diagonal.default, lambda a: (a.many,)),
    # not movers, but as exact
    (aten.zeros_like.default, lambda a: (a.x,)),
    (aten.ones_like.default, lambda a: (a.x, {"dtype": torch.bool})),
    (aten.full_like.default, lambda a: (a.x, 2.5)),
    (aten.new_zeros.default, lambda a: (a.x, [3])),
    (aten.new_ones.default, lambda a: (a.x, [2, 20])),
    (aten.new_full.default, lambda a: (a.x, [4], -0.1)),
    (aten.fill.Scalar, lambda a: (a.mask, True)),
    (aten.zero.default, lambda a: (a.whole,)),
    (aten.new_empty.default, lambda a: (a.x, [0])),
    (aten.new_empty_strided.default, lambda a: (a.x, [0], [1])),
    (aten.empty_strided.default, lambda a: ([0], [1], {"dtype": torch.float64})),
    (aten.empty.memory_format, lambda a: ([0, 3], {"dtype": torch.float64})),
    (aten.empty_like.default, lambda a: (a.none,)),
    (aten.scalar_tensor.default, lambda a: (1.5, {"dtype": torch.float64})),
    (aten.eye.default, lambda a: (3, {"dtype": torch.float64})),
    (aten.zeros.default, lambda a: ([2], {"dtype": torch.bool})),
    (aten.ones.default, lambda a: ([2, 2], {"dtype": torch.float64})),
    (aten.full.default, lambda a: ([3], -0.0, {"dtype": torch.float64})),
    (aten.arange.default, lambda a: (4,)),
    (aten.arange.start, lambda a: (-2, 3)),
    (aten.arange.start_step, lambda a: (0, 1, 0.25, {"dtype": torch.float64})),
]


@needs_compiler
def test_what_only_moves_elements_gives_the_very_elements_that_torch_gives():
    sheet = Sheet(ARRAYS)
    for number, (target, arguments) in enumerate(MOVES):
        for piece in sheet.write(target, arguments):
            sheet.put_out(piece, f"{number} {target}")
    for (label, _), ours, theirs in sheet.run(BATCHED):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), label
        assert torch.equal(ours, theirs), label
        if ours.is_floating_point():
            assert torch.equal(ours.signbit(), theirs.signbit()), label  # −0 too


def test_the_table_above_leaves_no_mover_out():
    made = {*native_graph._FILLED, *native_graph._MADE}
    assert {target for target, _ in MOVES} == {*native_graph._MOVES, *made}


# --- folds -----------------------------------------------------------------------------------------------------------

OVER = [[1], [-1], [1, 2], [0], [0, 2], [2, 0, 1], [1, 0]]


def folds():
    """Over systems' axes, over the batch, over both; with axes that stay and without."""
    for number, (over, keeps) in enumerate(itertools.product(OVER, (False, True))):
        yield aten.sum.dim_IntList, (("x", "mask", "whole")[number % 3], over, keeps)
        yield aten.mean.dim, ("x", over, keeps)
        yield aten.amax.default, (("gaps", "whole", "x", "mask")[number % 4], over, keeps)
        yield aten.amin.default, (("whole", "gaps", "mask", "x")[number % 4], over, keeps)
        yield aten.any.dims, (("rare", "gaps", "whole")[number % 3], over, keeps)
        yield aten.all.dims, (("mask", "whole", "gaps")[number % 3], over, keeps)
    for axis, keeps in ((0, False), (1, True), (-1, False)):
        yield aten.any.dim, ("rare", axis, keeps)
        yield aten.all.dim, ("mask", axis, keeps)
    for name in ("x", "few"):
        yield aten.sum.default, (name,)
        yield aten.mean.default, (name,)
    yield aten.sum.default, ("mask",)
    for name in ("rare", "few"):
        yield aten.any.default, (name,)
        yield aten.all.default, (name,)
    yield aten.sum.dim_IntList, ("few", [1], True)
    for over in ([1, 2], [0], [0, 2]):  # every element as another type, and then the sum
        yield aten.sum.dim_IntList, ("x", over, False, {"dtype": torch.int64})
        yield aten.sum.dim_IntList, ("x", over, False, {"dtype": torch.bool})
        yield aten.mean.dim, ("whole", over, False, {"dtype": torch.float64})
    yield aten.amax.default, ("few", [0])
    yield aten.sum.default, ("many",)
    yield aten.mean.default, ("many",)


def fold_arrays(batch):
    x = random(batch, 2, 3)
    gaps = x + torch.tensor([10.0, -10.0], dtype=torch.float64)[:, None]  # all on one side of 0
    gaps[batch // 2, 0, 1] = torch.nan
    gaps[-1, 0, 2] = torch.inf
    rare = torch.zeros(batch, 2, 3, dtype=torch.bool)
    rare[-1, 1, 0] = True
    whole = (5 * random(batch, 2, 3, seed=9)).to(torch.int64) - 100  # below 0, where sums begin
    return {
        "x": x,
        "gaps": gaps,
        "rare": rare,
        "whole": whole,
        "mask": x > 0,
        "few": random(2, 3),
        "many": random(4, 6),
    }


@needs_compiler
def test_folds_over_systems_or_over_the_batch_or_both_give_what_torch_gives():
    batch = 701  # two chunks of many tiles, the last one of neither a whole tile nor whole vectors
    arrays = fold_arrays(batch)
    sheet = Sheet(arrays)
    for target, (name, *rest) in folds():
        (node,) = sheet.write(target, lambda a, name=name, rest=rest: (getattr(a, name), *rest))
        sheet.put_out(node, f"{target} of {name} {rest}")
    for (label, _), ours, theirs in sheet.run([len(x) == batch for x in arrays.values()]):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), label
        # Sums of at most 6 · 701 numbers of order one, 4206 roundings of a sum of order 65 at most, and at random.
        tolerance = 1e-12 if "sum" in label or "mean" in label else 0.0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance, equal_nan=True, msg=lambda m, at=label: at + m)


def test_the_folds_above_leave_none_out():
    assert {target for target, _ in folds()} == set(native_graph._FOLDS)


@needs_compiler
def test_rows_are_summed_over_themselves_and_over_the_batch():
    x, w = random(700, 3), random(3, 20, seed=1)

    def of(x, w):
        rows = x @ w
        return rows.sum(1), rows.mean(1, keepdim=True), rows.sum(0), rows.mean(0), rows.mean(), (rows > 0)[:, 7].sum(0)

    ours, theirs = native(trace(of, [x, w]), [x, w], [True, False]), of(x, w)
    for mine, expected in zip(ours, theirs, strict=True):
        assert (mine.shape, mine.dtype) == (expected.shape, expected.dtype)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)  # 1.4e4 numbers of order one, and at random


# --- what is refused -------------------------------------------------------------------------------------------------

X, W = random(5, 3), random(4, 6)
MIXED, NO_BATCH = "elements of the batch are mixed", "an array is as long as the batch and is no batch"
REFUSED = {
    "a flip of the batch": (lambda x: x.flip(0), [X], [], "aten.flip.default is not known"),
    "a running sum": (lambda x: x.cumsum(0), [X], [], "aten.cumsum.default is not known"),
    "sorting": (lambda x: x.sort(0)[0], [X], [], "aten.sort.default is not known"),
    "the first system": (lambda x: x[0], [X], [], MIXED),
    "the second system": (lambda x: x[1] * x, [X], [], MIXED),
    "some systems": (lambda x: x[1:], [X], [], MIXED),
    "every other system": (lambda x: x[::2], [X], [], MIXED),
    "the first two systems": (lambda x: x[:2], [X], [], MIXED),
    "systems behind each other": (lambda x: torch.cat([x, x]), [X], [], MIXED),
    "systems and their elements in one": (lambda x: x.reshape(-1), [X], [], MIXED),
    "systems in groups": (lambda x: x.reshape(2, 3, 3), [random(6, 3)], [], MIXED),
    "a square and its transpose": (lambda x: x + x.t(), [random(3, 3)], [], "batches lie in different places"),
    "a Gram matrix": (lambda x: x @ x.t(), [X], [], "there is a matrix product along and across the batch"),
    "two batches": (lambda x, y: (x, y), [X, random(6, 3)], [], "there is not one batch, of more than two systems"),
    "two systems": (lambda x: 2 * x, [X[:2]], [], "there is not one batch, of more than two systems"),
    "two types": (lambda x, y: (x, y), [X, X.float()], [], "there is not one type of floating-point numbers"),
    "no reals": (lambda x: x + 1, [X.long()], [], "there is not one type of floating-point numbers"),
    "half precision": (lambda x: x + 1, [X.half()], [], "there is not one type of floating-point numbers"),
    "another type in between": (lambda x: x.float().double(), [X], [], "there are values of torch.float32"),
    "an argument of 32 bits": (lambda x, k: x + k, [X, X.int()], [], "there is an argument of torch.int32"),
    "a result of 32 bits": (lambda x: (x > 0).to(torch.int32), [X], [], "there are values of torch.int32"),
    "bytes": (lambda x: (x > 0).to(torch.uint8) * 255 + 3, [X], [], "there are values of torch.uint8"),
    "a factor": (lambda x: torch.add(x, x, alpha=3), [X], [], "there is an operation with a factor"),
    "a factor by position": (lambda x: aten.add.Scalar(x, 2, 3), [X], [], "there is an operation with a factor"),
    "a factor the other way": (lambda x: torch.rsub(x, 2, alpha=3), [X], [], "there is an operation with a factor"),
    "a sum over nothing": (lambda x: x[:, :0].sum(1), [X], [], "there is a sum over nothing"),
    "a large constant": (lambda x: (x, torch.arange(12_001)), [X], [], "there is a large constant"),
    "wide systems": (lambda x: x.sum(1), [random(5, 65)], [], "there are more than 64 elements per system"),
    "wide systems of images": (
        lambda x: x.sum((1, 2)),
        [random(5, 13, 5)],
        [],
        "there are more than 64 elements per system",
    ),
    "no matrix of a batch": (lambda x, w: (x, w @ w.t()), [X], [W], "there is a matrix product that has nothing to do"),
    "a matrix of ones": (
        lambda x: x @ torch.ones(3, 20, dtype=torch.float64),
        [X],
        [],
        "there is a matrix of equal elements",
    ),
    "a large matrix": (lambda x, w: x @ w, [random(5, 64)], [random(64, 513)], "a matrix of more than 32768 elements"),
    "the length of the batch": (lambda x, u: x[:, 0] + u, [X], [random(5)], NO_BATCH),
    "counted units": (lambda x, w: (x @ w > 0).sum(1), [X], [random(3, 20)], "a sum of many elements of torch.bool"),
    "counted weights": (lambda x, w: x * (w > 0).sum(), [X], [W], "a sum of many elements of torch.bool"),
    "a sum of indices": (lambda x, k: x * (k + 1).sum(), [X], [W.long()], "a sum of many elements of torch.int64"),
    "an index": (lambda x, k: x * (k + 1)[1, 2], [X], [W.long()], "an element of an array of whole numbers"),
    "masks in a row": (
        lambda x, w: x * torch.where(torch.cat([w > 0, w > 1]), 1.0, torch.cat([w, w])).sum(),
        [X],
        [W],
        "there is an array of torch.bool that is put together",
    ),
    "a mask of weights": (lambda x, w: (x, w > 0), [X], [W], "there is an array of masks among the results"),
    "three axes": (lambda x, w: (x, w.permute(2, 0, 1)), [X], [random(2, 3, 4)], "an array of three axes"),
    "the largest of many units": (lambda x, w: (x @ w).amax(1), [X], [random(3, 20)], "a fold of a part of a loop"),
    "the largest of every unit": (lambda x, w: (x @ w).amax(0), [X], [random(3, 20)], "many elements that is no sum"),
    "indices of systems in 32 bits": (lambda x, k: x * k, [X.float(), X.long()], [], "whole numbers of 64 bits beside"),
    "indices in 32 bits": (
        lambda x, k: x * (k * 2 > 5)[0, 0],
        [X.float()],
        [W.long()],
        "whole numbers of 64 bits beside",
    ),
}


@needs_compiler
@pytest.mark.parametrize("name", REFUSED)
def test_what_native_code_cannot_do_right_is_refused_with_a_reason(name):
    function, batched, others, reason = REFUSED[name]
    example, has = [*batched, *others], [True] * len(batched) + [False] * len(others)
    graph = trace(lambda *x: function(*x) if isinstance(function(*x), tuple) else (function(*x),), example)
    with pytest.raises(UnsuitableError, match=re.escape(reason)):
        load(build_program(graph, example, has), example, has)


def test_a_program_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(native_graph, "LONGEST", 20)
    graph = trace(lambda x: (sum((x + k).sin() for k in range(4)),), [X])
    with pytest.raises(UnsuitableError, match="there are more than 20 operations"):
        build_program(graph, [X], [True])
