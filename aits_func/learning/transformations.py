"""What every optimizer is, and what can be put around one.

A `GradientTransformation` is a pair of pure functions, after optax:

    init(params) -> state
    update(grads, state, params) -> (updates, new_state)      updates are ADDED to the parameters

``params``, ``grads`` and ``updates`` are pytrees of one structure; states are pytrees of tensors,
() if there is nothing to carry. Nothing is written in place, so that all of it passes ``vmap``,
``grad`` and ``torch.compile(fullgraph=True)``.

Why by hand: TorchOpt 0.7.3 is dormant, fails under ``torch.compile`` (adam) and ``vmap`` (clip),
and mutates by default; ``torch.optim`` holds its state in objects. ``torch.optim`` is the oracle
of the tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base import tree
from ..base.check import require
from ..base.types import Params
from .schedules import require_positive


class GradientTransformation(NamedTuple):
    """A rule that turns gradients into updates.

    Shapes: ``init(params) -> state``; ``update(grads, state, params) -> (updates, state)``, where
    grads and updates have the structure, shapes and dtypes of params.
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params], tuple[Params, Any]]


class SkipState(NamedTuple):
    """What `skip_nonfinite` carries.

    Shapes: as commented on the fields.
    """

    inner: Any  # the state of the inner transformation
    skipped: Tensor  # ()  int64; number of updates skipped so far


class RateState(NamedTuple):
    """What `with_rate` carries.

    Shapes: as commented on the fields.
    """

    rate: Tensor  # ()  float64; a factor on the updates
    inner: Any  # the state of the inner transformation


def apply_updates(params: Params, updates: Params) -> Params:
    """The parameters after an update: θ + Δ.

    Args:
        params: pytree of tensors.
        updates: pytree of the same structure and shapes.

    Returns:
        A new pytree; each leaf keeps its dtype.
    """
    return tree.map_leaves(lambda leaf, update: leaf + cast_like(update, leaf), params, updates)


def cast_like(value: Tensor, leaf: Tensor) -> Tensor:
    """A tensor in the dtype and on the device of a leaf.

    A () factor would leave a larger leaf in its dtype, but promote a () leaf; so every factor is
    cast before it multiplies.

    Args:
        value: any shape.
        leaf: any shape.

    Returns:
        The shape of ``value``, the dtype and device of ``leaf``.
    """
    return value.to(leaf)


def safe_root(square: Tensor) -> Tensor:
    """√x with derivative 0 at x = 0, where that of ``sqrt`` is infinite.

    A weight that no sample reaches has a gradient, and so a second moment, of exactly 0; a
    derivative through the update (of the learning rate, say) would be 0 · ∞ = NaN there.

    Args:
        square: any shape, ≥ 0.

    Returns:
        The same shape.
    """
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def count_zero(params: Params) -> Tensor:
    """A counter at 0, on the device of the parameters.

    Args:
        params: pytree of tensors, at least one.

    Returns:
        () int64.

    Raises:
        ValueError: if there is no tensor in it, and so nothing to optimize.
    """
    leaves = tree.leaves(params)
    require(len(leaves) > 0, "init: params must hold at least one tensor, got an empty tree")
    return torch.zeros((), dtype=torch.int64, device=leaves[0].device)


def clip_by_global_norm(max_norm: float | Tensor) -> GradientTransformation:
    """Shorten the gradient to a norm of at most c: g min(1, c / (‖g‖ + 10⁻⁶)), ‖g‖ of all leaves together.

    The 10⁻⁶ is that of ``torch.nn.utils.clip_grad_norm_``: a gradient that is clipped ends a
    millionth (absolute, before the scaling, in the unit of the gradient) short of c. There a norm whose square
    overflows gives 0; here every finite gradient is shortened, one of 10²⁰⁰ or one whose norm itself overflows too.

    Args:
        max_norm: c > 0, a number or a () tensor, in the unit of the gradient.

    Returns:
        A `GradientTransformation` with the empty state (); it does not look at params.

    Raises:
        ValueError: if ``max_norm`` is a number and not > 0 and finite.

    Source: Pascanu, Mikolov & Bengio 2013, ICML, arXiv:1211.5063, algorithm 1.
    """
    require_positive("clip_by_global_norm", "max_norm", max_norm, "1.0")

    def update(grads: Params, state: tuple[()], params: Params) -> tuple[Params, tuple[()]]:
        size, unit = tree.scaled_norm(grads)
        length = max_norm / (size + 1e-6 / unit)  # that is left, over the size; a factor on grads might underflow
        short = length >= unit

        def shorten(leaf: Tensor) -> Tensor:
            return torch.where(short, leaf, leaf / cast_like(unit, leaf) * cast_like(length, leaf))

        return tree.map_leaves(shorten, grads), state

    return GradientTransformation(lambda params: (), update)


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """One transformation after the other: the updates of each are the gradients of the next.

    Args:
        transformations: in the order in which the gradient passes them; none is the identity.

    Returns:
        A `GradientTransformation` whose state is the tuple of their states.

    Example:
        >>> import torch
        >>> clipped = chain(clip_by_global_norm(1.0), clip_by_global_norm(0.5))
        >>> updates, _ = clipped.update(torch.tensor([3.0, 4.0]), clipped.init(torch.zeros(2)), torch.zeros(2))
        >>> updates
        tensor([0.3000, 0.4000])
    """

    def init(params: Params) -> tuple[Any, ...]:
        return tuple(each.init(params) for each in transformations)

    def update(grads: Params, state: tuple[Any, ...], params: Params) -> tuple[Params, tuple[Any, ...]]:
        after = []
        for each, before in zip(transformations, state, strict=True):
            grads, new = each.update(grads, before, params)
            after.append(new)
        return grads, tuple(after)

    return GradientTransformation(init, update)


def skip_nonfinite(inner: GradientTransformation, *, squares: bool = True) -> GradientTransformation:
    """Leave out the updates whose gradient is not finite: Δ = 0, and the inner state stays.

    "Not finite" means that the norm of all leaves together is not: an element is NaN or infinite. With ``squares``
    it means that the square of the norm is not: an element may also be so large (1e154 in float64, 1e19 in float32)
    that Adam's second moment would be infinite from then on, and all later updates 0.

    The gradient is set to 0 before it enters ``inner``, not only the updates after: the derivative
    of ``where`` is NaN if the branch not taken is.

    Args:
        inner: the transformation to protect. To protect a chain, put this around the whole of it.
        squares: whether it squares what it is given; False if it clips first.

    Returns:
        A `GradientTransformation` with state `SkipState`, which counts what it skipped.

    Source: the idea is optax's ``apply_if_finite``, without its limit on failures in a row: how
        many are too many is for the caller to say, who sees the count.
    """

    def init(params: Params) -> SkipState:
        return SkipState(inner.init(params), count_zero(params))

    def update(grads: Params, state: SkipState, params: Params) -> tuple[Params, SkipState]:
        size, unit = tree.scaled_norm(grads)
        usable = ((size * unit) ** 2 if squares else size).isfinite()
        zeros = tree.map_leaves(torch.zeros_like, grads)
        updates, after = inner.update(tree.select(usable, grads, zeros), state.inner, params)
        skipped = state.skipped + usable.logical_not().to(state.skipped.dtype)
        return tree.select(usable, updates, zeros), SkipState(tree.select(usable, after, state.inner), skipped)

    return GradientTransformation(init, update)


def with_rate(inner: GradientTransformation, rate: float = 1.0) -> GradientTransformation:
    """A factor on the updates that stands in the state: Δ = rate · Δ_inner.

    Around an optimizer of learning rate 1 it is the learning rate, and as part of the state it can differ between
    the members of an ensemble, be changed between two updates, and be differentiated by.

    Args:
        inner: the transformation whose updates are multiplied.
        rate: at the start, > 0; change it with ``state._replace(rate=...)``.

    Returns:
        A `GradientTransformation` with state `RateState`.

    Raises:
        ValueError: if ``rate`` is not > 0 and finite.

    Example:
        >>> import torch
        >>> halved = with_rate(chain(), 0.5)
        >>> halved.update(torch.tensor([3.0, 4.0]), halved.init(torch.zeros(2)), torch.zeros(2))[0]
        tensor([1.5000, 2.0000])
    """
    require_positive("with_rate", "rate", rate, "1e-3")

    def init(params: Params) -> RateState:
        return RateState(count_zero(params).double() + rate, inner.init(params))

    def update(grads: Params, state: RateState, params: Params) -> tuple[Params, RateState]:
        updates, after = inner.update(grads, state.inner, params)
        scaled = tree.map_leaves(lambda leaf: cast_like(state.rate, leaf) * leaf, updates)
        return scaled, state._replace(inner=after)

    return GradientTransformation(init, update)
