"""Pytrees: the one place that talks to pytree libraries.

optree throughout: its ``tree_map`` is several times faster than torch's own, and leaf lists of
the two must never be zipped (optree sorts dict keys, torch keeps insertion order). The empty tree
is ``()``; ``None`` is a leaf to torch and no leaf to optree, so it is not used.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor

Tree = TypeVar("Tree")


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``function`` of the corresponding leaves of one or several trees of one structure."""
    return optree.tree_map(function, tree, *others)


def leaves(tree: Any) -> list[Tensor]:
    """The leaves of a tree, in the order in which `named_leaves` names them."""
    return optree.tree_leaves(tree)


def take(tree: Tree, index: Tensor | int | slice) -> Tree:
    """Rows ``index`` of the leading axis of every leaf."""
    return map_leaves(lambda leaf: leaf[index], tree)


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one structure and shape, stacked along a new leading axis."""
    return map_leaves(lambda *same: torch.stack(same), *trees)


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Batches of one structure, joined along their leading axis."""
    if len(trees) == 1:
        return trees[0]
    return map_leaves(lambda *same: torch.cat(same), *trees)


def length(tree: Any) -> int:
    """Size of the leading axis (of the first leaf)."""
    return leaves(tree)[0].shape[0]


def select(condition: Tensor, if_true: Tree, if_false: Tree) -> Tree:
    """Leafwise ``torch.where``; ``condition`` has the leading axes of the leaves, () or (B,)."""

    def choose(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(condition.reshape(condition.shape + (1,) * (yes.ndim - condition.ndim)), yes, no)

    return map_leaves(choose, if_true, if_false)


def expand(tree: Tree, size: int) -> Tree:
    """The same tree ``size`` times, as a batch (a view; nothing is copied)."""
    return map_leaves(lambda leaf: leaf.expand(size, *leaf.shape), tree)


def cast(tree: Tree, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tree:
    """Floating-point leaves in ``dtype``, all leaves on ``device``."""

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return map_leaves(move, tree)


def in_order(leaf: Tensor) -> Tensor:
    """The same numbers, lying in memory as in a tensor that was just read from a file; the leaf itself if they do.

    ``contiguous`` leaves the strides of an axis of length 1 as they are: of a weight (1, 8) they may be (9, 1), cut out
    of a larger draw, or (8, 1). A matrix product may then take another way and round otherwise.
    """
    leaf = leaf.resolve_neg().contiguous()
    strides = _row_major(leaf.shape)
    return leaf if leaf.stride() == strides else leaf.as_strided(leaf.shape, strides)


@lru_cache(maxsize=4096)
def _row_major(shape: torch.Size) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def global_norm(tree: Any) -> Tensor:
    """Euclidean norm of all leaves together, shape (), wherever it is a number; not finite if an element is not.

    Its derivative where all are 0 is 0.
    """
    size, unit = scaled_norm(tree)
    return size * unit


def scaled_norm(tree: Any) -> tuple[Tensor, Tensor]:
    """Euclidean norm of all leaves together, as a number and the unit that it is in, () each: neither overflows.

    Squares of elements beyond the root of the largest number, or below that of the smallest, are none. So elements are
    divided by the mean of their sizes first (which a native loop can sum; a maximum over many elements it cannot).
    """
    some = [leaf for leaf in leaves(tree) if leaf.numel()]
    count = sum(leaf.numel() for leaf in some)
    mean = torch.stack([(leaf.detach().abs() / count).sum() for leaf in some]).sum()
    least = torch.finfo(mean.dtype).tiny ** 0.5  # 0 as well is divided by a number
    unit = torch.where(mean.isfinite(), mean, torch.ones_like(mean)).clamp(min=least)
    square = torch.stack([(leaf / unit).pow(2).sum() for leaf in some]).sum()
    positive = square > 0  # masked before and after the root, whose derivative at 0 is infinite; NaN stays NaN
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), square), unit


def leaf_names(tree: Any) -> list[str]:
    """The dotted path of every leaf, in the order of `leaves`; {"a.b": x, "a": {"b": y}} has two of one path."""
    return [".".join(map(_entry_name, path)) for path in optree.tree_accessors(tree)]


def named_leaves(tree: Any) -> dict[str, Tensor]:
    """Leaves by their dotted path: field names of NamedTuples, keys of dicts, indices of tuples."""
    return dict(zip(leaf_names(tree), leaves(tree), strict=True))


def _entry_name(entry: Any) -> str:
    return str(getattr(entry, "field", entry.entry))


def replace_leaves(tree: Tree, new: Sequence[Tensor]) -> Tree:
    """The same structure with other leaves, in the order of `leaves`."""
    structure: Any = optree.tree_structure(tree)  # type: ignore[arg-type]
    return optree.tree_unflatten(structure, new)  # type: ignore[return-value]
