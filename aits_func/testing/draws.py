"""What everything else is drawn from: round numbers, rotations, orders, and ranges of shapes."""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..base.check import require

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as error:
    raise ImportError("aits_func.testing needs hypothesis; pip install 'aits_func[testing]'") from error

Range: TypeAlias = int | tuple[int, int]
"""One number, or the smallest and the largest of a range."""

_GRAIN = 1000  # numbers are multiples of 1/1000: printed in full by torch, and never denormal


def numbers(low: float, high: float) -> SearchStrategy[float]:
    """Multiples of 0.001 between two bounds, of which 0 or the one nearest to it is the simplest.

    Args:
        low: smallest, rounded up to a multiple.
        high: largest, rounded down to a multiple.

    Returns:
        A strategy of floats, without shape.

    Raises:
        ValueError: if there is no multiple of 0.001 between the bounds.
    """
    first, last = math.ceil(low * _GRAIN - 1e-9), math.floor(high * _GRAIN + 1e-9)
    require(first <= last, f"numbers: there must be a multiple of 0.001 between low and high, got {low} and {high}")
    return st.integers(first, last).map(lambda k: k / _GRAIN)


def rotations(dimensions: int) -> SearchStrategy[Tensor]:
    """Rotations of space, proper ones: by an angle in the plane, by a unit quaternion in space.

    Args:
        dimensions: D, 2 or 3.

    Returns:
        A strategy of orthogonal matrices (D, D) of determinant 1; ``position @ R.T`` turns a system.

    Raises:
        ValueError: if dimensions is not 2 or 3.
    """
    dimension_counts("rotations", dimensions)
    if dimensions == 2:
        return numbers(-math.pi, math.pi).map(_from_angle)
    # Small integers: all directions are reached, and the identity is the simplest.
    return st.tuples(*[st.integers(-9, 9)] * 4).map(_from_quaternion)


def permutations(n: int) -> SearchStrategy[Tensor]:
    """Orders of n bodies, as an index: ``position[order]``.

    Args:
        n: how many, ≥ 1.

    Returns:
        A strategy of int64 tensors of shape (n,), each number 0 … n − 1 once.

    Raises:
        ValueError: if n is not ≥ 1.
    """
    require(n >= 1, f"permutations: n must be >= 1, got {n}")
    return st.permutations(range(n)).map(torch.tensor)


def _from_angle(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return as_tensor([[c, -s], [s, c]])


def _from_quaternion(parts: tuple[int, ...]) -> Tensor:
    """The rotation of w + ix + jy + kz; that of the identity for 0."""
    norm = math.sqrt(sum(part**2 for part in parts))
    w, x, y, z = (part / norm for part in parts) if norm > 0 else (1.0, 0.0, 0.0, 0.0)
    return as_tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def as_tensor(values: Any) -> Tensor:
    """A float64 tensor of numbers."""
    return torch.tensor(values, dtype=torch.float64)


def bounds(where: str, name: str, value: Range, least: int, most: int | None) -> tuple[int, int]:
    """The smallest and the largest of a range, checked: ``where`` and ``name`` are what the error calls it."""
    low, high = (value, value) if isinstance(value, int) else value
    allowed = f">= {least}" if most is None else f"between {least} and {most}"
    require(
        least <= low <= high and (most is None or high <= most),
        f"{where}: {name} must be a number or a (smallest, largest) {allowed}, got {value}",
    )
    return low, high


def integers(where: str, name: str, value: Range, least: int, most: int | None = None) -> SearchStrategy[int]:
    """Integers of a checked range."""
    return st.integers(*bounds(where, name, value, least, most))


def dimension_counts(where: str, dimensions: Range) -> SearchStrategy[int]:
    """Numbers of dimensions: 2, 3, or either."""
    return integers(where, "dimensions", dimensions, 2, 3)
