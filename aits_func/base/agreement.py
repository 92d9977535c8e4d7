"""Whether compiled results are those of eager code, up to what roundings make of them.

Two correct ways to compute a number differ by roundings, and how much that is depends on the function: an energy error
of 1e-12 is the difference of two energies that are known to 1e-16, so that a few digits of it are all there is. No
fixed tolerance fits. So whatever differs visibly is measured against eager code itself, run again with other roundings:
its arguments and the result of every operation that rounds are moved by a few units in the last place, at random (as in
stochastic arithmetic; Vignes 1993, Mathematics and Computers in Simulation 35, 233). Results may differ by what that
changes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .pure_graph import trace_pure

_aten = torch.ops.aten

_UNITS = 4  # ε, by which numbers are moved: a little more than another order of sums or a contracted product does
_MARGIN = 16  # how much more than the largest change that was seen may come of other roundings
_OCTAVES = 7  # above an element's own size, up to which others are like it
_FIRST, _LAST = 2, 8  # runs with other roundings: so many at once, and at most

# fmt: off
_ROUND = frozenset(
    (
        "add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv", "reciprocal", "pow", "sqrt", "rsqrt", "square", "exp",
        "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "sin", "cos", "tan", "asin", "acos", "atan",
        "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma",
        "hypot", "lerp", "sigmoid", "silu", "gelu", "softplus", "elu", "mish", "log_sigmoid_forward", "_softmax",
        "_log_softmax", "logsumexp", "tanh_backward", "sigmoid_backward", "silu_backward", "gelu_backward",
        "softplus_backward", "elu_backward", "mish_backward", "sum", "mean", "prod", "cumsum", "cumprod", "std", "var",
        "norm", "linalg_vector_norm", "mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm",
        "linalg_cross", "cross",
    )
)
# fmt: on
"""Operations whose results are rounded. Those that move or choose numbers are exact: copies of a number stay equal.

The campaign of random programs has a list of its own, so that it does not judge by this one.
"""


def describe_difference(
    ours: Sequence[Tensor],
    theirs_of: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    arguments: Sequence[Tensor],
    skips: bool = False,
) -> str:
    """How results differ from those of eager code by more than roundings, in one line.

    A real number may be off by √ε of itself, ε the resolution of its dtype, NaN is NaN, and all else is the same (but
    for numbers below the normal ones, whose digits are few). What is off by more may be off by 16 times what other
    roundings of up to 4 ε make of it in eager code.

    Args:
        ours: the results in question.
        theirs_of: eager code, from arguments to results.
        arguments: of both; their values decide the test, which is therefore one of this call.
        skips: whether ours are allowed to leave out systems that a mask leaves out, and so to have a number where
            eager code has NaN of 0 · ∞ or 0 · NaN.

    Returns:
        Which result differs, where and by how much; "" if none does.
    """
    ours, theirs = _as_numbers(ours), _as_numbers(theirs_of(arguments))
    if len(ours) != len(theirs):
        return f"there are {len(ours)} results and not {len(theirs)}"
    for number, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"result {number} is {_kind(x)} and not {_kind(y)}"
    wrong = [_differs(x, y, skips) for x, y in zip(ours, theirs, strict=True)]
    if not any(bool(each.any()) for each in wrong):
        return ""
    seen = [_Seen.of(y) for y in theirs]
    graph = trace_pure(lambda *given: tuple(theirs_of(given)), arguments)
    for run in range(_LAST):
        otherwise = _OtherRoundings(graph, run)
        moved = _as_numbers(otherwise.run(*(otherwise.move(x) for x in arguments)))
        seen = [each.after(m, y) for each, m, y in zip(seen, moved, theirs, strict=True)]
        if run + 1 >= _FIRST:
            every = zip(wrong, seen, ours, theirs, strict=True)
            wrong = [still & ~each.explains(x, y, still) for still, each, x, y in every]
            if not any(bool(each.any()) for each in wrong):
                return ""
    found = zip(range(len(ours)), ours, theirs, wrong, strict=True)
    return next(_words(*each) for each in found if bool(each[-1].any()))


class _Seen(NamedTuple):
    """What other roundings were seen to do to one result, element by element."""

    change: Tensor  # largest change, float64, of runs in which a number stayed a number
    breaks: Tensor  # bool; whether a number became NaN or infinite, or the other way round, or something else

    @staticmethod
    def of(y: Tensor) -> "_Seen":
        """Nothing yet."""
        return _Seen(torch.zeros(y.shape, dtype=torch.float64), torch.zeros(y.shape, dtype=torch.bool))

    def after(self, moved: Tensor, y: Tensor) -> "_Seen":
        """After one more run."""
        away, broken = _distance(moved, y)
        return _Seen(torch.maximum(self.change, away), self.breaks | broken)

    def explains(self, x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        """Where a result may be x, if eager code says y; looked at where that is asked."""
        away, broken = _distance(x, y)
        close = away <= _MARGIN * torch.maximum(self.change, self._of_neighbours(x, y, asked))
        return torch.where(broken, self.breaks, close)

    def _of_neighbours(self, x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        """Half of the results of an element's size, or below, change by this.

        By chance an element may have stood still each time: an energy error that is a difference of one last digit
        often does. So none is held to less than half of those like it are; larger ones have nothing to say of it.
        """
        out = torch.zeros_like(self.change)
        size = torch.maximum(x.to(torch.float64).abs(), y.to(torch.float64).abs()).nan_to_num(nan=torch.inf)
        octave = torch.where(asked, size.log2().nan_to_num(neginf=-1100.0, posinf=1100.0).ceil(), torch.inf)
        for each in octave[asked].unique().tolist():
            out[octave == each] = self.change[size <= 2.0 ** min(each + _OCTAVES, 1023)].median()
        return out


class _OtherRoundings(fx.Interpreter):
    """Operations that round, rounded otherwise: by up to so many ε more, at random but the same for the same seed.

    They are those of a trace: torch 2.13 dies of a dispatch mode around the forward derivative of a ``sub`` with alpha.
    """

    def __init__(self, graph: fx.GraphModule, seed: int) -> None:
        super().__init__(graph)
        self._make = torch.Generator("cpu").manual_seed(seed)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        out = super().call_function(target, args, kwargs)
        if not isinstance(target, torch._ops.OpOverload) or not isinstance(out, Tensor) or "out" in kwargs:
            return out
        narrows = target is _aten._to_copy.default and isinstance(args[0], Tensor) and out.itemsize < args[0].itemsize
        return self.move(out) if narrows or target.overloadpacket.__name__ in _ROUND else out

    def move(self, x: Tensor) -> Tensor:
        """Other numbers in the neighbourhood; 0 stays 0, and so does whatever is no real number."""
        if not x.is_floating_point():
            return x
        share = torch.rand(x.shape, generator=self._make, dtype=torch.float64, device="cpu") * 2 - 1
        return x * (1 + _UNITS * torch.finfo(x.dtype).eps * share).to(x)


def _differs(x: Tensor, y: Tensor, skips: bool) -> Tensor:
    """Where two results are not the same at first sight."""
    if not y.is_floating_point():
        return x != y
    numbers = torch.finfo(y.dtype)
    close = torch.isclose(x, y, rtol=numbers.eps**0.5, atol=numbers.tiny, equal_nan=True)
    return ~(close | (y.isnan() & x.isfinite())) if skips else ~close


def _distance(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """|x − y| as float64, 0 where one of them is no number; and where that is so, unless both are the same."""
    same = (x == y) | ((x != x) & (y != y))
    away = (x.to(torch.float64) - y.to(torch.float64)).abs()
    # Whole numbers beyond 2⁵³ may differ and be the same as real ones.
    away = away if y.is_floating_point() else away.clamp(min=1.0)
    return torch.where(same | ~away.isfinite(), torch.zeros_like(away), away), ~same & ~away.isfinite()


def _as_numbers(results: Sequence[Tensor]) -> list[Tensor]:
    """On the CPU, where there is float64, and complex ones as two real ones each."""
    return [torch.view_as_real(x.resolve_conj()).cpu() if x.is_complex() else x.cpu() for x in results]


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"


def _words(number: int, x: Tensor, y: Tensor, where: Tensor) -> str:
    place = tuple(int(k) for k in where.nonzero()[0])
    return (
        f"result {number}, {_kind(y)}, differs in {int(where.sum())} of {y.numel()} elements, the first at "
        f"{list(place)}: {x[place].item():.17g} and not {y[place].item():.17g}"
    )
