"""The laws of an optimizer: what must hold of any pair of pure functions that turns gradients into updates."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from ..base import tree
from ..base.types import Params
from ..learning.transformations import GradientTransformation, apply_updates
from .law import Draw, Law, check_laws, demand, demand_close, demand_pure, demand_trees_close
from .learned import filled, signed, structures

_DESCENT = 20  # updates after which a bowl must have been descended
_BAD = (float("nan"), float("inf"), -float("inf"))


class _Subject(NamedTuple):
    optimizer: GradientTransformation
    oracle: Callable[[list[Tensor]], torch.optim.Optimizer] | None
    skips_nonfinite: bool
    tolerance: float


class _Run(NamedTuple):
    params: Params
    gradients: list[Params]


def check_optimizer(
    optimizer: GradientTransformation,
    *,
    oracle: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    skips_nonfinite: bool = False,
    tolerance: float = 1e-12,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of optimizers on yours: on drawn trees of parameters and sequences of gradients.

        structure      updates are like the parameters; the state is made of tensors and keeps its form
        zero gradient  moves nothing, where there is neither memory nor a parameter to decay
        descent        the first update of parameters at 0 goes downhill
        bowl           ½|θ|² is smaller after 20 updates
        finite         finite gradients, 1e-6 to 1e6, make finite updates
        pure           the same bits when called again; nothing changed in place, nothing drawn
        vmap           many trainings at once are the trainings one by one
        single         float32 parameters stay float32
        oracle         as ``oracle`` does it, if there is one
        nonfinite      an update with NaN or infinity in its gradient is as if it had not been, if ``skips_nonfinite``

    Gradients are 0 or between 0.5 and 1000 in size and parameters at most 1, so that weight decay does not cancel
    a gradient to a rounding error, which adaptive methods would divide by itself. Not to be called inside
    a test that is itself under ``given``.

    Args:
        optimizer: a `GradientTransformation`, the pair of ``init(params) -> state`` and
            ``update(grads, state, params) -> (updates, state)``.
        oracle: makes the object of ``torch.optim``, for a list of leaves, that it should agree with.
        skips_nonfinite: whether it promises to.
        tolerance: relative to the largest parameter, or to 1: five updates of a few roundings each.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name.

    Example:
        >>> import torch
        >>> import aits_func as af
        >>> check_optimizer(af.sgd(0.01), oracle=lambda leaves: torch.optim.SGD(leaves, lr=0.01), laws=["oracle"])
    """
    subject = _Subject(optimizer, oracle, skips_nonfinite, tolerance)
    check_laws("check_optimizer", OPTIMIZER_LAWS, subject, only=laws, without=without, settings=settings)


def _run(draw: Draw, low: float = 0.5, high: float = 1e3) -> _Run:
    structure = draw(structures())
    gradient = filled(structure, signed(low, high))
    return _Run(draw(filled(structure, signed(0.1, 1.0))), draw(st.lists(gradient, min_size=1, max_size=5)))


def _after(optimizer: GradientTransformation, run: _Run) -> Params:
    params, state = run.params, optimizer.init(run.params)
    for gradient in run.gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = apply_updates(params, updates)
    return params


def _form(value: Any) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    named = tree.named_leaves(value)
    for name, leaf in named.items():
        demand(isinstance(leaf, Tensor), f"a state must be made of tensors, got {type(leaf).__name__} in {name}")
    return [(name, tuple(leaf.shape), leaf.dtype) for name, leaf in named.items()]


def _structure(subject: _Subject, draw: Draw) -> None:
    run = _run(draw)
    state = subject.optimizer.init(run.params)
    before = _form(state)
    for gradient in run.gradients:
        updates, state = subject.optimizer.update(gradient, state, run.params)
        demand(_form(updates) == _form(run.params), f"updates are {_form(updates)}, parameters {_form(run.params)}")
        demand(_form(state) == before, f"the state was {before} and became {_form(state)}")


def _zeros(params: Params) -> Params:
    return tree.map_leaves(torch.zeros_like, params)


def _zero_gradient(subject: _Subject, draw: Draw) -> None:
    nothing = _zeros(_run(draw).params)
    updates, _ = subject.optimizer.update(nothing, subject.optimizer.init(nothing), nothing)
    for name, leaf in tree.named_leaves(updates).items():
        demand(not bool(leaf.any()), f"a zero gradient moved {name} at 0 by {leaf.tolist()}")


def _descent(subject: _Subject, draw: Draw) -> None:
    run = _run(draw)
    nothing, gradient = _zeros(run.params), run.gradients[0]
    if not any(bool(leaf.any()) for leaf in tree.leaves(gradient)):
        return
    updates, _ = subject.optimizer.update(gradient, subject.optimizer.init(nothing), nothing)
    slope = sum(float((u * g).sum()) for u, g in zip(tree.leaves(updates), tree.leaves(gradient), strict=True))
    demand(slope < 0, f"the first update must go downhill: its product with the gradient is {slope:.3g}")


def _bowl(subject: _Subject, draw: Draw) -> None:
    params = start = _run(draw).params
    state = subject.optimizer.init(params)
    for _ in range(_DESCENT):
        updates, state = subject.optimizer.update(params, state, params)  # the gradient of ½|θ|² is θ
        params = apply_updates(params, updates)
    before, after = float(tree.global_norm(start)), float(tree.global_norm(params))
    demand(after < before or before == 0, f"|θ| was {before:.3g} and is {after:.3g} after {_DESCENT} updates")


def _finite(subject: _Subject, draw: Draw) -> None:
    after = _after(subject.optimizer, _run(draw, 1e-6, 1e6))
    for name, leaf in tree.named_leaves(after).items():
        demand(leaf.isfinite().all(), f"finite gradients must make finite parameters, got {leaf.tolist()} in {name}")


def _pure(subject: _Subject, draw: Draw) -> None:
    run = _run(draw)
    state = demand_pure(subject.optimizer.init, run.params)
    for gradient in run.gradients:
        _, state = demand_pure(subject.optimizer.update, gradient, state, run.params)


def _vmap(subject: _Subject, draw: Draw) -> None:
    run = _run(draw)
    rows = [_Run(tree.map_leaves(lambda leaf: k * leaf, run.params), run.gradients) for k in (1.0, 2.0, 0.5)]  # noqa: B023, called at once
    params = tree.stack([row.params for row in rows])
    state = vmap(subject.optimizer.init)(params)
    for gradient in run.gradients:
        updates, state = vmap(subject.optimizer.update, in_dims=(None, 0, 0))(gradient, state, params)
        params = apply_updates(params, updates)
    alone = tree.stack([_after(subject.optimizer, row) for row in rows])
    demand_trees_close(params, alone, "three trainings at once", tolerance=subject.tolerance, scale=1.0)


def _single(subject: _Subject, draw: Draw) -> None:
    run = _run(draw)
    params, gradient = tree.cast((run.params, run.gradients[0]), dtype=torch.float32)
    updates, _ = subject.optimizer.update(gradient, subject.optimizer.init(params), params)
    for name, leaf in tree.named_leaves(updates).items():
        demand(leaf.dtype == torch.float32, f"the update of a float32 parameter is {leaf.dtype} in {name}")


def _oracle(subject: _Subject, draw: Draw) -> None:
    if subject.oracle is None:
        return
    run = _run(draw)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(run.params)]
    theirs = subject.oracle(leaves)
    for gradient in run.gradients:
        for leaf, value in zip(leaves, tree.leaves(gradient), strict=True):
            leaf.grad = value.clone()
        theirs.step()
    for ours, leaf in zip(tree.leaves(_after(subject.optimizer, run)), leaves, strict=True):
        demand_close(ours, leaf.detach(), "what the oracle makes", tolerance=subject.tolerance, scale=1.0)


def _nonfinite(subject: _Subject, draw: Draw) -> None:
    if not subject.skips_nonfinite:
        return
    run, value = _run(draw), draw(st.sampled_from(_BAD))
    bad = tree.map_leaves(lambda leaf: torch.full_like(leaf, value), run.params)
    mixed = list(run.gradients)
    for place in draw(st.lists(st.integers(0, len(mixed)), min_size=1, max_size=3)):
        mixed.insert(place, bad)
    ours = _after(subject.optimizer, run._replace(gradients=mixed))
    for leaf, other in zip(tree.leaves(ours), tree.leaves(_after(subject.optimizer, run)), strict=True):
        demand(
            torch.equal(leaf, other), f"gradients of {value} were not skipped: {leaf.tolist()}, not {other.tolist()}"
        )


OPTIMIZER_LAWS: dict[str, Law] = {
    "structure": _structure,
    "zero gradient": _zero_gradient,
    "descent": _descent,
    "bowl": _bowl,
    "finite": _finite,
    "pure": _pure,
    "vmap": _vmap,
    "single": _single,
    "oracle": _oracle,
    "nonfinite": _nonfinite,
}
"""The laws of `check_optimizer`, by name."""
