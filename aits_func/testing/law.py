"""What a law is, and how one is tried: on drawn examples, until one breaks it.

A law is a function ``law(subject, draw)`` of what is tested and of hypothesis's ``draw``; it draws the
systems it needs and raises `LawError` if the subject does not obey. The subject is what the user handed in,
with what the laws have to know about it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import hypothesis
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from torch import Tensor
from torch.func import vmap

from ..base import tree
from ..base.check import require

Tree = TypeVar("Tree")
Draw: TypeAlias = Callable[..., Any]
"""``draw(strategy) -> example`` of hypothesis."""

Law: TypeAlias = Callable[[Any, Draw], None]
"""``law(subject, draw)``, which raises `LawError` if the subject breaks it."""

_OCTAVES = 8  # of step lengths, in which an order is measured


class LawError(AssertionError):
    """A law does not hold; hypothesis adds the simplest example that it found."""


def check_laws(
    where: str,
    laws: Mapping[str, Law],
    subject: Any,
    *,
    only: Sequence[str] | None,
    without: Sequence[str],
    settings: hypothesis.settings | None,
) -> None:
    """Try some laws, one after the other.

    Args:
        where: the function that was called, for error messages.
        laws: all there are, by name.
        subject: what they are tried on.
        only: the names of those to try; None for all.
        without: the names of those to leave out.
        settings: of hypothesis; None for those of the current profile, without a deadline.

    Raises:
        LawError: if one does not hold; the message begins with ``where`` and the law's name.
        ValueError: if there is no law of a name.
    """
    for name in (*(only or ()), *without):
        require(name in laws, f"{where}: there is no law {name!r}; there are {', '.join(laws)}")
    for name in laws if only is None else only:
        if name not in without:
            _try(f"{where}: {name}", laws[name], subject, settings)


def _try(title: str, law: Law, subject: Any, settings: hypothesis.settings | None) -> None:
    def holds(data: DataObject) -> None:
        law(subject, data.draw)

    # The name under which hypothesis keeps the examples that broke a law, and prints them.
    holds.__name__ = re.sub(r"\W+", "_", title)
    if settings is None:  # a first call into torch compiles or imports for seconds
        settings = hypothesis.settings(deadline=None)
    tried = hypothesis.settings(settings, report_multiple_bugs=False)(given(st.data())(holds))
    try:
        tried()
    except LawError as error:
        error.args = (f"{title}: {error.args[0]}",)
        raise
    except Exception as error:
        error.add_note(f"while the law was tried: {title}")
        raise


def demand(condition: Any, message: str) -> None:
    """Raise `LawError` unless a condition, a bool or a () tensor, holds. Write it so that NaN fails."""
    if not bool(condition):
        raise LawError(message)


def demand_close(actual: Tensor, expected: Tensor, message: str, *, tolerance: float, scale: float = 0.0) -> None:
    """Raise `LawError` unless two tensors agree to a share of the largest number in them, or of a scale.

    Args:
        actual: any shape.
        expected: the same shape and dtype.
        message: what should have been the same.
        tolerance: relative to the largest magnitude in ``expected``.
        scale: a magnitude that it is relative to where that is larger.

    Raises:
        LawError: if they differ in shape or dtype, by more than that, or are NaN.
    """
    demand(
        actual.shape == expected.shape and actual.dtype == expected.dtype,
        f"{message}: got {tuple(actual.shape)} {actual.dtype} instead of {tuple(expected.shape)} {expected.dtype}",
    )
    if expected.numel() == 0 or torch.equal(actual, expected):
        return
    worst = float((actual - expected).abs().max())
    bound = tolerance * max(scale, float(expected.abs().max()))
    demand(
        worst <= bound,
        f"{message}: got {_brief(actual)} instead of {_brief(expected)}, off by {worst:.3g} > {bound:.3g}",
    )


def demand_trees_close(actual: Tree, expected: Tree, message: str, *, tolerance: float, scale: float = 0.0) -> None:
    """`demand_close` of every leaf of two pytrees of one structure; the message names the leaf."""
    theirs = tree.named_leaves(expected)
    ours = tree.named_leaves(actual)
    demand(list(ours) == list(theirs), f"{message}: got the leaves {list(ours)} instead of {list(theirs)}")
    for name, leaf in ours.items():
        demand_close(leaf, theirs[name], f"{message}, {name}" if name else message, tolerance=tolerance, scale=scale)


def demand_pure(call: Callable[..., Tree], *arguments: Any) -> Tree:
    """Call a function twice: the same bits, arguments as they were, nothing drawn from torch's generator.

    Args:
        call: the function.
        *arguments: pytrees of tensors.

    Returns:
        What it returns.

    Raises:
        LawError: if it is not a pure function.
    """
    before, generator = [leaf.clone() for leaf in tree.leaves(arguments)], torch.get_rng_state()
    first = tree.map_leaves(torch.clone, call(*arguments))
    second = call(*arguments)
    demand(torch.equal(torch.get_rng_state(), generator), "it drew from torch's global generator; take a seed")
    changed = [not _same_bits(a, b) for a, b in zip(tree.leaves(arguments), before, strict=True)]
    demand(not any(changed), "it changed an argument in place; make a new tensor, or _replace")
    for name, leaf in tree.named_leaves(first).items():
        other = tree.named_leaves(second)[name]
        demand(
            _same_bits(leaf, other), f"called twice it gave {_brief(leaf)} and {_brief(other)}{name and f' in {name}'}"
        )
        demand(not leaf.requires_grad, "it returned a tensor with requires_grad; use torch.func.grad")
    return first


def measured_order(error: Callable[[Tensor], Tensor], longest: float, rounded: float) -> float:
    """With which power of the step an error falls: the highest between neighbouring octaves of steps.

    Where the leading term happens to cancel with the next one, an error falls to nothing at one step length and rises
    again, and long steps may not yet show the leading term. The largest of three errors in every octave and the highest
    of the powers are fair to a method wherever that happens; a single example may so flatter one, but not all examples.

    Args:
        error: of one step of a length (), ≥ 0.
        longest: of all steps; they go down from it over eight octaves.
        rounded: an error below this is rounding.

    Returns:
        The power, or infinity if fewer than three octaves have an error that is not rounding: too few to tell.
    """
    thirds = torch.arange(3 * _OCTAVES, dtype=torch.float64) / 3
    errors = vmap(error)(longest * 2**-thirds).reshape(_OCTAVES, 3).amax(1)
    octaves = int((errors > rounded).int().cumprod(0).sum())
    if octaves < 3:
        return math.inf
    powers = (errors[: octaves - 1] / errors[1:octaves]).log2()
    return float(powers.max())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal, and NaN where the other is NaN."""
    same = (one == other) | (one.isnan() & other.isnan()) if one.is_floating_point() else one == other
    return one.shape == other.shape and bool(same.all())


def _brief(value: Tensor) -> str:
    """A tensor on one line: all of a small one, the shape of another."""
    return f"{value.tolist()}" if value.numel() <= 6 else f"a tensor {tuple(value.shape)}"
