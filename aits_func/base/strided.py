"""``as_strided`` in terms of slices, so that where numbers lie in memory does not matter to whoever reads a graph.

The derivative of a write through a view looks at memory by strides, ``as_strided(x, size, stride, start)``: the place
of element (i, j, …) is start + i·stride₀ + j·stride₁ + …. A compiler that lays arrays in memory in its own way cannot
follow that. Where every stride is a multiple of the next smaller one, they are the axes of a reshaped array, and the
view is a slice of it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_aten = torch.ops.aten


class StridedError(Exception):
    """A view by strides is no slice."""


class _Slice(NamedTuple):
    """Where a view lies in an array reshaped to ``base``: ``number`` places of every axis, beginning at ``begin``."""

    base: list[int]
    begin: list[int]
    number: list[int]
    axes: list[int]  # of the view, one for every axis of the base but the last, of which it has one place

    @property
    def cuts(self) -> list[tuple[int, int, int]]:
        """Axis, first place and the one behind the last, of those of which it does not have all places."""
        every = enumerate(zip(self.base, self.begin, self.number, strict=True))
        return [(axis, first, first + count) for axis, (size, first, count) in every if count < size]


def as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], start: int | None = None) -> Tensor:
    """The view by strides of an array, as a slice of it.

    Args:
        x: of any shape, without gaps in memory.
        size: of the result.
        stride: of the result, in elements.
        start: place of its first element.

    Returns:
        The same numbers.

    Raises:
        StridedError: if it is no slice.
    """
    lying, _ = _in_order(x)
    where = _find(x.numel(), size, stride, start or 0)
    part = _filled_up(lying, where).reshape(where.base)
    for axis, first, last in where.cuts:
        part = _aten.slice.Tensor(part, axis, first, last)
    part = _permuted(part.squeeze(-1), sorted(range(len(where.axes)), key=where.axes.__getitem__))
    for axis in range(len(size)):
        if axis not in where.axes:
            part = part.unsqueeze(axis)
    return part.expand(list(size))


def as_strided_scatter(
    x: Tensor, part: Tensor, size: Sequence[int], stride: Sequence[int], start: int | None = None
) -> Tensor:
    """An array with other elements in the places at which `as_strided` looks.

    Args:
        x: as there.
        part: the elements, of shape size.
        size: as there.
        stride: as there.
        start: as there.

    Returns:
        An array like x.

    Raises:
        StridedError: if the view is no slice, or has a place twice.
    """
    lying, back = _in_order(x)
    where = _find(x.numel(), size, stride, start or 0)
    for axis in reversed(range(len(size))):
        if size[axis] > 1 and axis not in where.axes:
            raise StridedError("several numbers are written to one place in memory")
        part = part if axis in where.axes else part.select(axis, 0)
    rank = {axis: k for k, axis in enumerate(sorted(where.axes))}
    whole = _permuted(part, [rank[axis] for axis in where.axes]).unsqueeze(-1)
    bases = [_filled_up(lying, where).reshape(where.base)]
    for axis, first, last in where.cuts:
        bases.append(_aten.slice.Tensor(bases[-1], axis, first, last))
    for (axis, first, last), base in zip(reversed(where.cuts), reversed(bases[:-1]), strict=True):
        whole = _aten.slice_scatter.default(base, whole, axis, first, last)
    if whole.numel() > x.numel():
        whole = _aten.slice.Tensor(whole.reshape(-1), 0, 0, x.numel())
    return _permuted(whole.reshape(lying.shape), back)


FORMULAS: dict[Any, Any] = {_aten.as_strided.default: as_strided, _aten.as_strided_scatter.default: as_strided_scatter}
"""What torch calls them, and the formulas."""


def _find(total: int, size: Sequence[int], stride: Sequence[int], start: int) -> _Slice:
    if start + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= total and 0 not in size:
        raise StridedError("memory is looked at beyond the end of an array")
    axes = [k for k, n in enumerate(size) if n > 1 and stride[k] > 0]
    axes.sort(key=lambda k: -stride[k])
    base: list[int] = []
    begin: list[int] = []
    rest = total if not axes else -(-total // stride[axes[0]]) * stride[axes[0]]  # whole rows
    for step in [*(stride[k] for k in axes), 1]:
        if rest % step:
            raise StridedError("memory is looked at by strides that are no multiples of each other")
        base.append(rest // step)
        begin.append(start // step)
        rest, start = step, start % step
    count = [*(size[k] for k in axes), 1]
    if any(b + c > n for n, b, c in zip(base, begin, count, strict=True)):
        raise StridedError("memory is looked at across the ends of rows")
    return _Slice(base, begin, count, axes)


def _permuted(x: Tensor, order: list[int]) -> Tensor:
    return x if order == sorted(order) else x.permute(order)


def _filled_up(lying: Tensor, where: _Slice) -> Tensor:
    """The array with its last row filled up, where it ends with what the view needs of it."""
    missing = math.prod(where.base) - lying.numel()
    return torch.cat([lying.reshape(-1), lying.new_zeros(missing)]) if missing else lying


def _in_order(x: Tensor) -> tuple[Tensor, list[int]]:
    """The array with its axes in the order of memory, and the order that turns them back."""
    strides = list(x.stride())
    order = sorted(range(x.ndim), key=lambda k: -strides[k])
    lying = _permuted(x, order)
    if not lying.is_contiguous() or x.storage_offset():
        raise StridedError("memory with gaps is looked at by strides")
    return lying, sorted(range(x.ndim), key=order.__getitem__)
