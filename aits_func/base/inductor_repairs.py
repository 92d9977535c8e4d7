"""What TorchInductor (2.13) is not given as it stands, because it would come out wrong, inaccurate or slow.

It computes eˣ − 1 by subtraction, of which at x = 1e-12 four digits are left, and so what is made of it; in float32 the
error function too. And it writes in place where that is seen (`REPAIRS`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten

# Coefficients of x, x³, x⁵, …
_TANH_SERIES = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075)
_ERF_SERIES = tuple(2 / math.sqrt(math.pi) * (-1) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(7))


def _series(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    square = x * x
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = coefficient + square * total
    return x * total


def tanh(x: Tensor) -> Tensor:
    """1 − 2/(e²ˣ + 1), and the Taylor series where that would lose digits: to 20 roundings, relative.

    The vector library's own tanh takes three times as long, and half of the time of a network outside its products.
    """
    grown = (2 * x.clamp(-20, 20)).exp()  # tanh is 1 to the last digit beyond 20
    return torch.where(x.abs() < 0.1, _series(x, _TANH_SERIES), 1 - 2 / (grown + 1))


def expm1(x: Tensor) -> Tensor:
    """eˣ − 1 = 2t/(1 − t) with t = tanh(x/2), where the difference would lose digits."""
    half = tanh(0.5 * x)
    return torch.where(x.abs() < 1, 2 * half / (1 - half), x.exp() - 1)


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """The exponential linear unit: scale · x, for x ≤ 0 scale · alpha · (e^(input_scale · x) − 1)."""
    return torch.where(x > 0, scale * x, scale * alpha * expm1(input_scale * x))


def atanh(x: Tensor) -> Tensor:
    """½ ln(1 + 2x/(1 − x)), of |x| so that it is odd to the last digit."""
    away = x.abs()
    return torch.copysign(0.5 * torch.log1p(2 * away / (1 - away)), x)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` of x/α times α."""
    return elu(x, alpha, 1.0, 1.0 / alpha)


def erf(x: Tensor) -> Tensor:
    """1 − erfc(x), and the Taylor series where that would lose digits; in float64 it is accurate as it is."""
    if x.dtype == torch.float64:
        return NotImplemented
    return torch.where(x.abs() < 0.1, _series(x, _ERF_SERIES), 1 - torch.erfc(x))


CPU_FORMULAS: Mapping[Any, Callable[..., Tensor]] = {
    _aten.tanh.default: tanh,
    _aten.expm1.default: expm1,
    _aten.elu.default: elu,
    _aten.celu.default: celu,
    _aten.atanh.default: atanh,
    _aten.erf.default: erf,
}
"""Operations that are written as others for it on the CPU."""

REPAIRS: Mapping[str, Any] = {"disabled_passes": "reinplace_inplaceable_ops"}
"""Options of it: nothing is written in place that was written elsewhere.

The pass looks at who reads the array that is written to after the write, and not at what the write itself reads in it:
``index_put``, ``index_copy``, ``index_add``, ``index_fill`` and ``put`` take numbers from that array that are no longer
there, and change all of one that is one number in memory (``expand``).
"""
