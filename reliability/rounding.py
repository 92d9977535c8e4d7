"""Whether two results of one program differ by more than the roundings of its operations make of it.

Compiled and eager code sum in other orders, contract products with sums, and have sines of their own: every operation
may be off by a few units in the last place. What becomes of that on the way to a result is measured: the program is run
eagerly again, several times, with a random error of a few units in every operation that rounds. A result that differs
by more than `MARGIN` times what this does to it is wrong. Where it makes another whole number or truth value of a
result, such as at x > y with x and y equal but for rounding, or changes it by more than `LOST` of the largest element,
nothing can be said; the element is *undecided*, and counted.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

RUNS = 8
UNITS = 4.0
"""Units in the last place by which an operation may be off; the functions of both libraries promise one to four."""

MARGIN = 32.0
"""The largest of `RUNS` random errors is some third of the largest possible one for a sum, less for a long chain."""

LOST = {torch.float64: 1e-5, torch.float32: 1e-2, torch.float16: 1.0, torch.bfloat16: 1.0}


def _names(block: str) -> frozenset[str]:
    return frozenset(block.split())


_EXACT = _names("""
    neg abs where masked_fill copy clone _to_copy cat stack index gather scatter index_put maximum minimum fmax fmin
    amax amin aminmax max min clamp clamp_min clamp_max relu sign sgn floor ceil round trunc fill zero zeros_like
    ones_like full_like full zeros ones eye arange empty empty_like new_empty new_zeros new_ones new_full
    select_backward slice_backward diagonal_backward unsqueeze_copy flip roll sort topk constant_pad_nd
    threshold_backward masked_scatter tril triu diag_embed copysign nan_to_num lift_fresh lift_fresh_copy detach
    repeat index_select scalar_tensor set_ unfold_backward cummax cummin median heaviside hardtanh hardtanh_backward
    value_selecting_reduction_backward select_scatter slice_scatter diagonal_scatter index_copy index_fill
    masked_select _unsafe_view contiguous alias
""")
"""Operations that only choose, move or cast: the same bits of the same bits."""

_MANY = _names("""
    sum mean mm bmm addmm baddbmm addbmm addmv dot mv vdot cumsum var std var_mean std_mean norm linalg_vector_norm
    prod logsumexp _softmax _log_softmax index_add scatter_add scatter_reduce nansum cumprod trace linalg_cross
    _softmax_backward_data _log_softmax_backward_data _cdist_forward _cdist_backward lerp addcmul addcdiv
""")
"""Operations of several terms, which may cancel: the terms are what is off."""


class Verdict(NamedTuple):
    """What is said of a result."""

    wrong: str  # what is wrong, in one line; "" if nothing is
    undecided: int  # elements of which nothing can be said


Operation = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""How an operation of torch is done with these arguments."""


class Traced:
    """A function of tensors as the operations that it consists of, one after the other."""

    def __init__(self, function: Callable[..., Any], values: Sequence[Tensor]) -> None:
        def flat(*given: Tensor) -> tuple[Tensor, ...]:
            return tuple(optree.tree_leaves(function(*given)))

        self._graph = make_fx(flat)(*[value.clone() for value in values])
        self._values = [value.clone() for value in values]

    def run(self, do: Operation) -> list[Tensor]:
        """The leaves of its result, every operation being done like that."""
        return list(_Interpreter(self._graph, do).run(*[value.clone() for value in self._values]))

    def looked_at(self) -> "Look":
        """What happens on the way."""
        look = Look()
        self.run(look)
        return look

    def rounded(self) -> list[list[Tensor]]:
        """Results with random errors, of `RUNS` runs, and before them the one without."""
        plain = self.run(lambda operation, args, kwargs: operation(*args, **kwargs))
        return [plain, *(self.run(Rounded(seed)) for seed in range(RUNS))]


class _Interpreter(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, do: Operation) -> None:
        super().__init__(graph)
        self._do = do

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._do(target, args, kwargs)


_CASTING = ("copy_", "index_put_", "_to_copy", "sum", "scatter_", "prod", "cumsum", "index_put", "fill_", "mean")


class Look:
    """Looks at every operation: for numbers that are not finite, and for casts that mean nothing."""

    def __init__(self) -> None:
        self.not_finite = False
        self.senseless = False  # a real number that no whole one is near was cast to a whole one: anything may come out

    def __call__(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _name(operation) in _CASTING:
            given = _tensors((args, kwargs))
            to = kwargs.get("dtype") or given[0].dtype
            if not to.is_floating_point and to != torch.bool:
                limits = torch.iinfo(to)
                for x in given:
                    if x.is_floating_point():
                        # With some distance to the limits: 2⁶³ − 1 is no real number.
                        inside = (x >= limits.min) & (x < limits.max * (1 - 1e-6))
                        self.senseless |= not bool(inside.all())
        out = operation(*args, **kwargs)
        if not _name(operation).startswith(("empty", "new_empty")):
            self.not_finite |= not all(bool(x.isfinite().all()) for x in _tensors(out) if x.is_floating_point())
        return out


class Rounded:
    """Puts a random error of a few units in the last place into every operation that rounds."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = _name(operation)
        plain = name if name in _MANY or name in _EXACT else name.rstrip("_")
        if plain in _EXACT or not isinstance(operation, torch._ops.OpOverload) or operation.is_view:
            return operation(*args, **kwargs)
        written = name.endswith("_") or "out" in kwargs
        if plain in _MANY and not written:
            args = optree.tree_map(self._noisy, args)  # type: ignore[arg-type]
        out = operation(*args, **kwargs)
        if not written:
            return optree.tree_map(self._noisy, out)
        for x in _tensors(out):
            if x.is_floating_point():
                x.copy_(self._noisy(x))
        return out

    def _noisy(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        limits = torch.finfo(x.dtype)
        error = torch.rand(x.shape, generator=self._generator, dtype=torch.float64) * 2 - 1
        # Below the smallest normal number a unit is an absolute one.
        unit = torch.maximum(x.abs() * limits.eps, x.abs().gt(0) * (limits.tiny * limits.eps))
        return torch.where(x.isfinite(), x + (UNITS * error).to(x.dtype) * unit, x)


def _name(operation: Any) -> str:
    return operation._schema.name.split("::")[1] if isinstance(operation, torch._ops.OpOverload) else ""


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in optree.tree_leaves(tree) if isinstance(x, Tensor)]


def compare(ours: Any, eager: Any, traced: Traced) -> Verdict:
    """Compiled against eager.

    Args:
        ours: what compiled code gave.
        eager: what eager code gave.
        traced: the program.

    Returns:
        A `Verdict`.
    """
    mine, structure = optree.tree_flatten(ours)
    theirs, expected = optree.tree_flatten(eager)
    if structure != expected:
        return Verdict(f"the structure is {structure} for {expected}", 0)
    for number, (x, y) in enumerate(zip(mine, theirs, strict=True)):
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            return Verdict(f"result {number} is {tuple(x.shape)} {x.dtype} for {tuple(y.shape)} {y.dtype}", 0)
    if all(_is_near(x, y).all() for x, y in zip(mine, theirs, strict=True)):
        return Verdict("", 0)
    runs = traced.rounded()
    undecided = 0
    for number, (x, y) in enumerate(zip(mine, theirs, strict=True)):
        wrong, unsaid = _judge(x, y, [run[number] for run in runs])
        undecided += unsaid
        if wrong:
            return Verdict(f"result {number}: {wrong}", undecided)
    return Verdict("", undecided)


def _is_near(x: Tensor, y: Tensor) -> Tensor:
    """Where two results are the same, but for some roundings of the last operation."""
    if not y.is_floating_point():
        return x == y
    close = (x - y).abs() <= 16 * torch.finfo(y.dtype).eps * y.abs()
    return (x == y) | (x.isnan() & y.isnan()) | (close & y.isfinite())


def _judge(x: Tensor, y: Tensor, runs: Sequence[Tensor]) -> tuple[str, int]:
    near, (plain, *noisy) = _is_near(x, y), runs
    if not y.is_floating_point():
        unstable = torch.stack([run != plain for run in noisy]).any(0)
    else:
        kinds = torch.stack([(run.isnan() != plain.isnan()) | (run.isinf() != plain.isinf()) for run in noisy]).any(0)
        finite = y[y.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 0.0
        spread = torch.stack([(run - plain).abs() for run in noisy]).nan_to_num(math.inf).amax(0)
        unstable = kinds | (spread > LOST[y.dtype] * scale) & y.isfinite()
        tiny = torch.finfo(y.dtype).tiny * torch.finfo(y.dtype).eps
        near = near | ((x - y).abs() <= MARGIN * spread + 16 * tiny) & y.isfinite() & x.isfinite()
    wrong = ~near & ~unstable
    if not wrong.any():
        return "", int((~near).sum())
    place = wrong.nonzero()[0].tolist()
    where = tuple(place)
    return f"at {place} {x[where].item()!r} for {y[where].item()!r} ({int(wrong.sum())} of {wrong.numel()})", 0
