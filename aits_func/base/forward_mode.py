"""Forward mode in the type of the numbers: a float32 has a float32 derivative.

Of a float32 () plus, minus, times or over a Python float, torch 2.13 makes the tangent under ``torch.func.jvp`` a
float64: it takes the number for a tensor () of that type. What is computed from it is float64 as well, and a network
then refuses to multiply it by its float32 weights. Python integers, powers and tensors with an axis are not concerned,
nor is reverse mode.

So the library differentiates by `jvp`, whatever a criterion, a policy or a field of a user's own does with numbers; and
where it computes with a () itself, `number` keeps the type also where a user differentiates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import vmap

from .tree import map_leaves


def jvp(function: Callable[..., Any], here: tuple[Any, ...], along: tuple[Any, ...]) -> tuple[Any, Any]:
    """A function's value and its derivative along a direction, both in the type of its value.

    It is differentiated as a map over one row, so that nothing that has a tangent is ().

    Args:
        function: of as many arguments as ``here`` has, each a tensor or a pytree of them, to a pytree of tensors; one
            that passes ``vmap``.
        here: where, of any shapes, () among them.
        along: the direction, of the same structure, shapes and types.

    Returns:
        (value, derivative), two pytrees of what the function returns.
    """
    value, rate = torch.func.jvp(vmap(function), _with_row(here), _with_row(along))  # type: ignore[misc]
    return _of_row(value), _of_row(rate)


def number(value: float, like: Tensor) -> Any:
    """A Python float to add to a tensor, or to multiply or divide it by, such that its tangent keeps its type.

    Args:
        value: the number.
        like: the tensor, of any shape.

    Returns:
        A tensor () of that type in forward mode if ``like`` is (), and otherwise the value as it is.
    """
    if like.ndim or forward_ad._current_level < 0:
        return value
    return torch.full_like(like, value)


def _with_row(tree: Any) -> Any:
    return map_leaves(lambda leaf: leaf.unsqueeze(0), tree)


def _of_row(tree: Any) -> Any:
    return map_leaves(lambda leaf: leaf.squeeze(0), tree)
