"""Checked uniform draws, for the generators of initial conditions."""

import math
from numbers import Integral, Real
from typing import TypeAlias

import torch
from torch import Tensor

from ..base.check import require

Range: TypeAlias = tuple[float, float]
"""(low, high) of a uniform draw; (x, x) is exactly x."""


def uniform(rng: torch.Generator, bounds: Range, *shape: int) -> Tensor:
    """Uniform numbers in [low, high].

    Args:
        rng: a CPU generator, from `generator`.
        bounds: low and high, in any unit.
        shape: of the result.

    Returns:
        A tensor of that shape, float64, on the CPU.
    """
    low, high = (torch.tensor(float(bound), dtype=torch.float64) for bound in bounds)
    return torch.lerp(low, high, torch.rand(shape, generator=rng, dtype=torch.float64))


def inclinations(rng: torch.Generator, bounds: Range, count: int) -> Tensor:
    """Angles between an axis and isotropic directions: cos i, so sin²(i/2), uniform in its range.

    Args:
        rng: a CPU generator, from `generator`.
        bounds: of the angle, radians, within [0, π]; (0, π) is isotropic.
        count: B.

    Returns:
        (B,), radians. sin²(i/2) keeps a small angle, of which cos i would keep nothing.
    """
    low, high = (math.sin(angle / 2) ** 2 for angle in bounds)
    return 2 * uniform(rng, (low, high), count).clamp(0, 1).sqrt().asin()


def orientations(rng: torch.Generator, count: int, dimensions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ω, i and ω of isotropic orientations, or of random turns of the plane.

    Args:
        rng: a CPU generator, from `generator`.
        count: B.
        dimensions: D; with 2, Ω and i are zero.

    Returns:
        Three (B,), radians.
    """
    node, pericentre = (uniform(rng, (-math.pi, math.pi), count) for _ in range(2))
    inclination = inclinations(rng, (0.0, math.pi), count)
    if dimensions == 2:
        return torch.zeros_like(node), torch.zeros_like(node), pericentre
    return node, inclination, pericentre


def check_counts(where: str, count: int, *, bodies: int = 2, dimensions: int = 2) -> None:
    """Raise unless count ≥ 1 and bodies ≥ 2 are whole numbers and dimensions is 2 or 3.

    Args:
        where: name of the function, for the message.
        count: number of systems B.
        bodies: N.
        dimensions: D.

    Raises:
        ValueError: otherwise.
    """
    for name, value, least in (("count", count, 1), ("bodies", bodies, 2)):
        require(
            isinstance(value, Integral) and value >= least,
            f"{where}: {name} must be a whole number >= {least}, got {value!r}",
        )
    require(dimensions in (2, 3), f"{where}: dimensions must be 2 or 3, got {dimensions!r}")


def check_positive(where: str, name: str, value: float, hint: str) -> None:
    """Raise unless a number is > 0 and finite.

    Args:
        where: name of the function, for the message.
        name: of the parameter.
        value: the number.
        hint: what it is, or a usual value.

    Raises:
        ValueError: otherwise.
    """
    require(0 < value < math.inf, f"{where}: {name} must be > 0 and finite ({hint}), got {value}")


def check_range(where: str, name: str, bounds: Range, within: str) -> None:
    """Raise unless bounds are two finite numbers, low ≤ high, within an interval.

    Args:
        where: name of the function, for the message.
        name: of the parameter.
        bounds: low and high.
        within: the interval as one writes it, e.g. "[0, 1)", "(0, inf)" or "[0, pi]".

    Raises:
        ValueError: otherwise.
    """
    rule = f"{where}: {name} must be a pair (low, high) of numbers in {within} with low <= high"
    require(
        isinstance(bounds, tuple | list) and len(bounds) == 2 and all(isinstance(x, Real) for x in bounds),
        f"{rule}, got {bounds!r}",
    )
    low, high = bounds
    least, most = (math.pi if text == "pi" else float(text) for text in within[1:-1].split(", "))
    above = low >= least if within[0] == "[" else low > least
    below = high <= most if within[-1] == "]" else high < most
    require(above and below and low <= high, f"{rule}, got {tuple(bounds)}; write (x, x) for exactly x")
