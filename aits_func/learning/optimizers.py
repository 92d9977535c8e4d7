"""Optimizers: stochastic gradient descent, Adam and AdamW as pairs of pure functions.

    optimizer = build_optimizer("adam", 1e-3, clip_norm=1.0)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    params = apply_updates(params, updates)

See `transformations` for what a `GradientTransformation` is, and why these are written by hand.
They agree with ``torch.optim`` to rounding, its order of operations included: the weight decay of
``sgd`` and ``adam`` enters the gradient, that of ``adamw`` does not; bias corrections count from
1; a schedule is evaluated at the number of updates made before this one, from 0.

Parameters of any floating-point dtype keep it: counts and rates are () tensors in float64 and are
cast to the leaf that they multiply.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base import tree
from ..base.check import require, require_choice
from ..base.types import Params
from .schedules import LearningRate, as_real, as_schedule, require_positive
from .transformations import GradientTransformation as GradientTransformation
from .transformations import apply_updates as apply_updates  # so that using an optimizer takes one import
from .transformations import cast_like, chain, clip_by_global_norm, count_zero, safe_root, skip_nonfinite


class SgdState(NamedTuple):
    """What `sgd` carries.

    Shapes: as commented on the fields.
    """

    updates_made: Tensor  # ()  int64
    velocity: Any  # like params; running sum of the gradients; () without momentum


class AdamState(NamedTuple):
    """What `adam` and `adamw` carry.

    Shapes: as commented on the fields.
    """

    updates_made: Tensor  # ()  int64
    first_moment: Params  # like params; running mean of the gradient
    second_moment: Params  # like params; running mean of its square


def sgd(
    learning_rate: LearningRate,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> GradientTransformation:
    """Gradient descent with momentum: d = g + λθ; v ← μv + (1 − τ)d; Δ = −ηv.

    The first velocity is d, undampened. Without momentum Δ = −ηd; with Nesterov's,
    Δ = −η(d + μv).

    Args:
        learning_rate: η > 0; a number, a () tensor, or a schedule.
        momentum: μ, in [0, 1).
        dampening: τ, in [0, 1].
        nesterov: whether the velocity looks one step ahead; needs momentum and no dampening.
        weight_decay: λ ≥ 0, an L2 term in the gradient.

    Returns:
        A `GradientTransformation` with state `SgdState`.

    Raises:
        ValueError: if a number is out of its range, or ``nesterov`` comes without momentum or with
            dampening.

    Source: Sutskever, Martens, Dahl & Hinton 2013, ICML, for the momentum, and for that of
        Nesterov 1983, Soviet Mathematics Doklady 27, 372; in the form of ``torch.optim.SGD``.
    """
    schedule = as_schedule("sgd", learning_rate)
    _require_fraction("sgd", "momentum", momentum)
    require(0 <= dampening <= 1, f"sgd: dampening must be in [0, 1] (e.g. 0), got {dampening}")
    _require_decay("sgd", weight_decay)
    if nesterov:
        require(momentum > 0, f"sgd: nesterov needs momentum > 0 (e.g. 0.9), got {momentum}")
        require(dampening == 0, f"sgd: nesterov needs dampening = 0, got {dampening}")

    def init(params: Params) -> SgdState:
        return SgdState(count_zero(params), tree.map_leaves(torch.zeros_like, params) if momentum else ())

    def update(grads: Params, state: SgdState, params: Params) -> tuple[Params, SgdState]:
        descent = decayed = _add_decay(grads, params, weight_decay)
        velocity = state.velocity
        if momentum:
            share = 1 - dampening * as_real(state.updates_made > 0)  # the first velocity is the whole gradient
            velocity = tree.map_leaves(lambda v, d: momentum * v + cast_like(share, d) * d, velocity, decayed)
            descent = tree.map_leaves(lambda d, v: d + momentum * v, decayed, velocity) if nesterov else velocity
        return _descend(schedule(state.updates_made), descent), SgdState(state.updates_made + 1, velocity)

    return GradientTransformation(init, update)


def adam(
    learning_rate: LearningRate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> GradientTransformation:
    """Adam: d = g + λθ; m ← β₁m + (1 − β₁)d; v ← β₂v + (1 − β₂)d²; Δ = −η m̂ / (√v̂ + ε).

    m̂ = m/(1 − β₁ᵗ) and v̂ = v/(1 − β₂ᵗ) with t = 1 at the first update. The weight decay is an L2
    term in the gradient, as in ``torch.optim.Adam``, and so is rescaled with it; see `adamw`.

    Args:
        learning_rate: η > 0; a number, a () tensor, or a schedule.
        b1: β₁, in [0, 1).
        b2: β₂, in [0, 1).
        eps: ε > 0, in the unit of the gradient (0 would give 0/0 where a gradient is 0).
        weight_decay: λ ≥ 0.

    Returns:
        A `GradientTransformation` with state `AdamState`.

    Raises:
        ValueError: if a number is out of its range.

    Source: Kingma & Ba 2015, ICLR, arXiv:1412.6980, algorithm 1.

    Example:
        >>> import torch
        >>> optimizer = adam(0.1)
        >>> params = {"weight": torch.tensor([1.0, 2.0])}
        >>> updates, state = optimizer.update({"weight": torch.tensor([5.0, -0.3])}, optimizer.init(params), params)
        >>> apply_updates(params, updates)
        {'weight': tensor([0.9000, 2.1000])}
    """
    return _build_adam("adam", learning_rate, b1, b2, eps, weight_decay, decoupled=False)


def adamw(
    learning_rate: LearningRate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> GradientTransformation:
    """Adam with decoupled weight decay: Δ = −η (m̂ / (√v̂ + ε) + λθ), with m̂ and v̂ of the gradient alone.

    Args:
        learning_rate: η > 0; a number, a () tensor, or a schedule. It multiplies the decay as well,
            as in ``torch.optim.AdamW``.
        b1: β₁, in [0, 1).
        b2: β₂, in [0, 1).
        eps: ε > 0, in the unit of the gradient.
        weight_decay: λ ≥ 0.

    Returns:
        A `GradientTransformation` with state `AdamState`.

    Raises:
        ValueError: if a number is out of its range.

    Source: Loshchilov & Hutter 2019, ICLR, arXiv:1711.05101, algorithm 2.
    """
    return _build_adam("adamw", learning_rate, b1, b2, eps, weight_decay, decoupled=True)


def build_optimizer(
    name: str,
    learning_rate: LearningRate,
    *,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    momentum: float = 0.0,
) -> GradientTransformation:
    """An optimizer by name, its gradient clipped if wanted, its updates skipped where not finite.

    Args:
        name: "sgd", "adam" or "adamw".
        learning_rate: η > 0; a number, a () tensor, or a schedule.
        weight_decay: λ ≥ 0; None: the optimizer's own default (0; 1e-2 for "adamw").
        clip_norm: largest norm of the gradient, > 0, before anything else is done with it; None: any.
        momentum: μ in [0, 1), for "sgd" only.

    Returns:
        A `GradientTransformation`, ``skip_nonfinite(chain(clip_by_global_norm, optimizer))``, with
        state `SkipState`.

    Raises:
        ValueError: if the name is unknown, a number is out of its range, or "adam" or "adamw" is
            given a momentum.

    Source: see `sgd`, `adam`, `adamw` and `clip_by_global_norm`.

    Example:
        >>> import torch
        >>> optimizer = build_optimizer("sgd", 0.5, clip_norm=1.0)
        >>> params = torch.tensor([1.0, 2.0])
        >>> updates, state = optimizer.update(torch.tensor([torch.nan, 1.0]), optimizer.init(params), params)
        >>> updates, state.skipped
        (tensor([0., 0.]), tensor(1))
    """
    require_choice("build_optimizer", "name", name, ("sgd", "adam", "adamw"))
    require(
        name == "sgd" or momentum == 0,
        f"build_optimizer: momentum must be 0 with {name}, which has its own (b1); or use sgd, got {momentum}",
    )
    builders: dict[str, Callable[..., GradientTransformation]]
    builders = {"sgd": partial(sgd, momentum=momentum), "adam": adam, "adamw": adamw}
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    optimizer = builders[name](learning_rate, **decay)
    if clip_norm is None:
        return skip_nonfinite(optimizer)
    return skip_nonfinite(chain(clip_by_global_norm(clip_norm), optimizer), squares=False)  # what is clipped is small


def _build_adam(
    where: str, learning_rate: LearningRate, b1: float, b2: float, eps: float, weight_decay: float, *, decoupled: bool
) -> GradientTransformation:
    schedule = as_schedule(where, learning_rate)
    _require_fraction(where, "b1", b1)
    _require_fraction(where, "b2", b2)
    require_positive(where, "eps", eps, "1e-8")
    _require_decay(where, weight_decay)

    def init(params: Params) -> AdamState:
        first, second = (tree.map_leaves(torch.zeros_like, params) for _ in range(2))  # unshared memory
        return AdamState(count_zero(params), first, second)

    def update(grads: Params, state: AdamState, params: Params) -> tuple[Params, AdamState]:
        count = state.updates_made + 1
        grads = grads if decoupled else _add_decay(grads, params, weight_decay)
        first = tree.map_leaves(lambda m, g: b1 * m + (1 - b1) * g, state.first_moment, grads)
        second = tree.map_leaves(lambda v, g: b2 * v + (1 - b2) * g * g, state.second_moment, grads)
        unbias_first, unbias_second = 1 - b1 ** as_real(count), (1 - b2 ** as_real(count)).sqrt()

        def normalize(m: Tensor, v: Tensor) -> Tensor:
            return m / cast_like(unbias_first, m) / (safe_root(v) / cast_like(unbias_second, v) + eps)

        descent = tree.map_leaves(normalize, first, second)
        descent = _add_decay(descent, params, weight_decay) if decoupled else descent
        return _descend(schedule(state.updates_made), descent), AdamState(count, first, second)

    return GradientTransformation(init, update)


def _descend(rate: Tensor, descent: Params) -> Params:
    return tree.map_leaves(lambda leaf: -cast_like(rate, leaf) * leaf, descent)


def _add_decay(descent: Params, params: Params, weight_decay: float) -> Params:
    if weight_decay == 0:
        return descent
    return tree.map_leaves(lambda leaf, parameter: leaf + weight_decay * parameter, descent, params)


def _require_fraction(where: str, name: str, value: float) -> None:
    require(0 <= value < 1, f"{where}: {name} must be in [0, 1) (e.g. 0.9), got {value}")


def _require_decay(where: str, value: float) -> None:
    require(0 <= value < math.inf, f"{where}: weight_decay must be >= 0 and finite (e.g. 1e-2), got {value}")
