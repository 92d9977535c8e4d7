"""What laws ask of derivatives: that reverse mode, forward mode and differences agree, and that units change nothing.

Derivatives of a state that is special, by symmetry or as two pairs have the same distance, may be made of rounding: a
logarithm near 0 has them, and a minimum is one value or the other. So every bound allows for what derivatives change
by if the state is moved by a few roundings.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ..base import forward_mode
from ..base.tree import leaves
from .law import demand

Scalar: TypeAlias = Callable[..., Tensor]
"""A function of several tensors, () out."""

_MOVES = 2  # of the state by a few roundings
_ROUNDINGS = 1e-14  # of numbers of size 1
_STEPS = 1e-2 * 4.0 ** -torch.arange(9, dtype=torch.float64)  # of differences, down to 1.5e-7
_DIFFERENCES = 1e-6  # relative: of differences, extrapolated once, some digits more are right where they are any good
_KINK = 1e-3  # a jump of the slope by this part of it is one; differences of functions with smaller ones are as good


def numbers_like(*tensors: Tensor, seed: int = 0) -> tuple[Tensor, ...]:
    """Numbers between −1 and 1 in the shape of each tensor: directions to differentiate in, or weights of a sum.

    Multiples of the golden angle, as nothing may be drawn under ``vmap``; every tensor has others.
    """
    starts = itertools.accumulate((x.numel() for x in tensors), initial=1 + 1000 * seed)
    angle = math.pi * (3 - math.sqrt(5))
    return tuple(
        (angle * torch.arange(start, start + x.numel(), dtype=torch.float64)).cos().reshape(x.shape).to(x)
        for x, start in zip(tensors, starts, strict=False)
    )


def weighted_sum(*tensors: Tensor) -> Tensor:
    """One number () of many, in which all of them count."""
    return torch.stack([(w * x).sum() for w, x in zip(numbers_like(*tensors, seed=7), tensors, strict=True)]).sum()


def demand_derivatives(
    function: Scalar, at: Sequence[Tensor], message: str, *, tolerance: float, smooth: bool = True, masses: bool = True
) -> None:
    """Raise `LawError` unless reverse mode, forward mode and central differences agree, along all arguments at once.

    Args:
        function: of the tensors ``at``; numbers of size 1 in, () out.
        at: where.
        message: what is differentiated.
        tolerance: of both modes, relative to the terms that make up the derivative.
        smooth: False if there may be kinks: where there is one, differences are not asked for.
        masses: whether the first argument are masses: bodies without any stay so in differences.

    Raises:
        LawError: if they do not agree, or are not finite.
    """
    along = numbers_like(*at)
    slopes = grad(function, argnums=tuple(range(len(at))))(*at)
    terms = [s * d for s, d in zip(slopes, along, strict=True)]
    reverse, size = sum(t.sum() for t in terms), float(sum(t.abs().sum() for t in terms))
    forward = _forward(function, at, along)
    demand(
        abs(float(reverse - forward)) <= tolerance * size,
        f"{message}: reverse mode gives {float(reverse):.9g}, forward mode {float(forward):.9g}",
    )
    if masses:  # of which there are none below 0
        along = (torch.where(at[0] > 0, along[0], torch.zeros_like(at[0])), *along[1:])
    _demand_differences(function, at, along, message, size=size, smooth=smooth)


def demand_single(function: Scalar, at: Sequence[Tensor], message: str) -> None:
    """Raise `LawError` unless a function of float32 is one, and has finite float32 derivatives in forward mode.

    Args:
        function: of the tensors ``at``, () out.
        at: where; float32.
        message: what it is.

    Raises:
        LawError: if a type is another one, or the derivative is not finite.
    """
    value, slope = forward_mode.jvp(function, tuple(at), numbers_like(*at))
    demand_float32(value, message)
    demand_float32(slope, f"the derivative of {message}")
    demand(slope.isfinite(), f"the derivative of {message} in float32 must be finite, got {float(slope)}")


def demand_float32(tree: Any, message: str) -> None:
    """Raise `LawError` unless all leaves of real numbers are float32, as what they are made of."""
    for leaf in leaves(tree):
        fits = leaf.dtype == torch.float32 or not leaf.is_floating_point()
        demand(fits, f"{message} of a float32 system must be float32, got {leaf.dtype}")


def demand_slopes_close(
    ours: Sequence[Tensor],
    slopes: Callable[..., Sequence[Tensor]],
    at: Sequence[Tensor],
    message: str,
    names: Sequence[str],
    *,
    tolerance: float,
    scale: float,
) -> None:
    """Raise `LawError` unless derivatives in other units are those in ours, up to what roundings of the state change.

    Args:
        ours: derivatives from other units, converted; one tensor for each of ``names``.
        slopes: (*at) -> those expected, in the same order.
        at: a state in units in which it is of size 1.
        message: what is differentiated.
        names: what it is differentiated by.
        tolerance: relative to the largest number in each, or to ``scale``.
        scale: of the function's value.

    Raises:
        LawError: if they differ by more.
    """
    together = vmap(slopes)(*_together([at, *(_moved(at, seed) for seed in range(_MOVES))]))
    for k, name in enumerate(names):
        theirs, *moved = together[k]
        noise = max(_largest(other - theirs) for other in moved)
        bound = tolerance * max(scale, _largest(theirs)) + 10 * noise
        worst = _largest(ours[k] - theirs)
        demand(
            worst <= bound,
            f"{message} by the {name}: got {ours[k].tolist()} instead of {theirs.tolist()}, off by {worst:.3g} > "
            f"{bound:.3g}",
        )


def _demand_differences(
    function: Scalar, at: Sequence[Tensor], along: Sequence[Tensor], message: str, *, size: float, smooth: bool
) -> None:
    def beside(step: Tensor) -> Tensor:
        return function(*(x + step * d for x, d in zip(at, along, strict=True)))

    values = vmap(beside)(torch.cat([torch.zeros_like(_STEPS[:1]), _STEPS, -_STEPS]))
    here, ahead, behind = values[0], *values[1:].chunk(2)
    kink = ((ahead - here) / _STEPS - (here - behind) / _STEPS).abs()[-4:].min()
    if not smooth and float(kink) > _KINK * size:
        return
    central = (ahead - behind) / (2 * _STEPS)
    better = (16 * central[1:] - central[:-1]) / 15  # of steps that are shorter by 4: the error is of fourth order
    unsure = better.diff().abs()
    best = int(unsure.argmin())
    places = [[x + step * d for x, d in zip(at, along, strict=True)] for step in (0.0, _STEPS[-1], -_STEPS[-1])]
    places += [_moved(at, seed) for seed in range(_MOVES)]
    forward, *aside = vmap(lambda *place: _forward(function, place, along))(*_together(places))
    noise = max(abs(float(other - forward)) for other in aside)
    rounded = _ROUNDINGS * float(here.abs()) / float(_STEPS[best + 2])
    bound = _DIFFERENCES * size + 10 * (float(unsure[best]) + noise + rounded)
    demand(
        abs(float(better[best + 1] - forward)) <= (bound if smooth else max(bound, 10 * _KINK * size)),
        f"{message}: forward mode gives {float(forward):.9g}, central differences {float(better[best + 1]):.9g}",
    )


def _forward(function: Scalar, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    tangent: Any = jvp(function, tuple(at), tuple(along))[1]
    return tangent


def _together(places: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Many places as one batch: every argument with a leading axis."""
    return [torch.stack(leaves) for leaves in zip(*places, strict=True)]


def _moved(at: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The state, moved by a few roundings; the first argument, of masses, by a part of each."""
    first, *moves = numbers_like(*at, seed=100 + seed)
    return [at[0] * (1 + _ROUNDINGS * first), *(x + _ROUNDINGS * d for x, d in zip(at[1:], moves, strict=True))]


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0
