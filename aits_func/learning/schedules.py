"""Learning-rate schedules: pure functions of the number of updates made so far.

    schedule(count) -> rate      count () integer, 0 at the first update; rate () float64

The rate comes in float64 whatever the parameters are, since the ratio of two counts is exact to
1e-16 only there; an optimizer casts it to the dtype of each leaf where it multiplies. It is one
scalar, so the cast costs nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..base.check import require

Schedule: TypeAlias = Callable[[Tensor], Tensor]
"""``schedule(count) -> rate``: count () integer, rate () float64."""

LearningRate: TypeAlias = float | Tensor | Schedule
"""A number, a () tensor through which gradients may flow, or a schedule."""


def as_real(count: Tensor) -> Tensor:
    """A count (or a truth value) as float64: exact up to 2⁵³.

    ``count / n`` and ``factor ** count`` would otherwise come in the default dtype, float32, and
    1 − 0.999ᵗ has lost four of its seven digits there.

    Args:
        count: any shape, integer or bool.

    Returns:
        The same shape, float64.
    """
    return count.double()


def require_positive(where: str, name: str, value: float | Tensor, remedy: str) -> None:
    """Raise unless a number is > 0 and finite, or a tensor is ().

    The value of a tensor is not looked at: it may be traced or batched, and then is not one value.

    Args:
        where: the function that was called.
        name: the argument.
        value: its value.
        remedy: an example that would do, e.g. "1e-3".

    Raises:
        ValueError: if ``value`` is a number and is not > 0, or is infinite; or a tensor with axes.
    """
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        require(value.ndim == 0, f"{where}: {name} must be a number or a () tensor (vmap it for many), got {shape}")
        return
    require(value > 0, f"{where}: {name} must be > 0 (e.g. {remedy}), got {value}")
    require(math.isfinite(value), f"{where}: {name} must be finite (e.g. {remedy}), got {value}")


def as_schedule(where: str, learning_rate: LearningRate) -> Schedule:
    """The schedule that a learning rate stands for.

    Args:
        where: the function that was called, for the error message.
        learning_rate: a number, a () tensor, or a schedule, which is returned as it is.

    Returns:
        A schedule.

    Raises:
        ValueError: if a number is not > 0 and finite.
    """
    if callable(learning_rate):
        return learning_rate
    require_positive(where, "learning_rate", learning_rate, "1e-3")
    return lambda count: torch.ones_like(as_real(count)) * learning_rate


def constant_schedule(value: float | Tensor) -> Schedule:
    """The same rate at every update: η(t) = η₀.

    Args:
        value: η₀, a number > 0 or a () tensor.

    Returns:
        A schedule, count () → rate ().

    Raises:
        ValueError: if ``value`` is a number and not > 0 and finite.
    """
    require_positive("constant_schedule", "value", value, "1e-3")
    return as_schedule("constant_schedule", value)


def exponential_decay(initial: float | Tensor, decay_rate: float | Tensor, *, decay_steps: float = 1) -> Schedule:
    """A rate that falls by one factor every ``decay_steps`` updates, smoothly: η(t) = η₀ γ^(t / T).

    Args:
        initial: η₀, a number > 0 or a () tensor.
        decay_rate: γ > 0, the factor.
        decay_steps: T, updates per factor; 1 is torch's ``ExponentialLR``.

    Returns:
        A schedule, count () → rate ().

    Raises:
        ValueError: if a number is not > 0 and finite.

    Example:
        >>> import torch
        >>> exponential_decay(0.1, 0.5, decay_steps=100)(torch.tensor(200))
        tensor(0.0250, dtype=torch.float64)
    """
    where = "exponential_decay"
    require_positive(where, "initial", initial, "1e-3")
    require_positive(where, "decay_rate", decay_rate, "0.99")
    require_positive(where, "decay_steps", decay_steps, "100")
    return lambda count: initial * decay_rate ** (as_real(count) / decay_steps)


def step_decay(initial: float | Tensor, decay_steps: int, *, factor: float | Tensor = 0.1) -> Schedule:
    """A rate that drops by a factor after every ``decay_steps`` updates: η(t) = η₀ γ^⌊t / T⌋.

    Args:
        initial: η₀, a number > 0 or a () tensor.
        decay_steps: T ≥ 1, updates between two drops.
        factor: γ > 0.

    Returns:
        A schedule, count () → rate ().

    Raises:
        ValueError: if ``decay_steps`` is < 1, or another number not > 0 and finite.
    """
    require_positive("step_decay", "initial", initial, "1e-3")
    require_positive("step_decay", "factor", factor, "0.1")
    require(decay_steps >= 1, f"step_decay: decay_steps must be >= 1 (e.g. 100), got {decay_steps}")
    return lambda count: initial * factor ** as_real(torch.div(count, decay_steps, rounding_mode="floor"))


def piecewise_decay(initial: float | Tensor, milestones: Sequence[int], *, factor: float | Tensor = 0.1) -> Schedule:
    """A rate that drops by a factor at each milestone: η(t) = η₀ γ^#{m : m ≤ t}.

    Args:
        initial: η₀, a number > 0 or a () tensor.
        milestones: counts at which the rate drops, rising, at least one.
        factor: γ > 0.

    Returns:
        A schedule, count () → rate ().

    Raises:
        ValueError: if there are no milestones, they do not rise, or a number is not > 0 and finite.
    """
    where, marks = "piecewise_decay", tuple(milestones)
    require_positive(where, "initial", initial, "1e-3")
    require_positive(where, "factor", factor, "0.1")
    require(len(marks) > 0, f"{where}: milestones must hold at least one count (e.g. (100, 200)), got none")
    rising = all(early < late for early, late in zip((0, *marks), marks, strict=False))
    require(rising, f"{where}: milestones must be > 0 and rise (e.g. (100, 200)), got {marks}")
    return lambda count: initial * factor ** as_real(torch.stack([count >= mark for mark in marks])).sum(0)


def cosine_decay(initial: float | Tensor, decay_steps: float, *, final: float | Tensor = 0.0) -> Schedule:
    """Half a cosine from one rate to another: η(t) = η₁ + (η₀ − η₁)(1 + cos(π min(t/T, 1)))/2.

    Stays at η₁ after T updates, where torch's ``CosineAnnealingLR`` would climb again.

    Args:
        initial: η₀, a number > 0 or a () tensor.
        decay_steps: T > 0, updates from η₀ to η₁.
        final: η₁ ≥ 0.

    Returns:
        A schedule, count () → rate ().

    Raises:
        ValueError: if ``final`` is < 0, or another number is not > 0 and finite.

    Source: Loshchilov & Hutter 2017, ICLR, arXiv:1608.03983 (SGDR), eq. 5, without restarts.

    Example:
        >>> import torch
        >>> cosine_decay(0.1, 100)(torch.tensor(50))
        tensor(0.0500, dtype=torch.float64)
    """
    _check_cosine("cosine_decay", "initial", initial, decay_steps, final)

    def schedule(count: Tensor) -> Tensor:
        progress = (as_real(count) / decay_steps).clamp(0.0, 1.0)
        return final + (initial - final) * (1 + torch.cos(math.pi * progress)) / 2

    return schedule


def warmup_cosine(
    peak: float | Tensor, warmup_steps: int, decay_steps: float, *, final: float | Tensor = 0.0
) -> Schedule:
    """A linear rise, then half a cosine: η(t) = ηₚ (t + 1)/(W + 1) for t < W, then `cosine_decay` of t − W.

    The rise starts at ηₚ/(W + 1), not at 0, so that the first update is not wasted; the cosine
    starts at t = W with ηₚ.

    Args:
        peak: ηₚ, a number > 0 or a () tensor.
        warmup_steps: W ≥ 0, updates before the peak; 0 is `cosine_decay`.
        decay_steps: T > 0, updates from the peak to ``final``, so W + T in all (optax counts the
            warm-up in).
        final: η₁ ≥ 0, the rate after that.

    Returns:
        A schedule, count () → rate ().

    Raises:
        ValueError: if ``warmup_steps`` or ``final`` is < 0, or another number is not > 0 and finite.

    Source: Goyal et al. 2017, arXiv:1706.02677, for the warm-up; Loshchilov & Hutter 2017, ICLR,
        arXiv:1608.03983, for the cosine.
    """
    _check_cosine("warmup_cosine", "peak", peak, decay_steps, final)
    require(warmup_steps >= 0, f"warmup_cosine: warmup_steps must be >= 0 (e.g. 100), got {warmup_steps}")
    decay = cosine_decay(peak, decay_steps, final=final)

    def schedule(count: Tensor) -> Tensor:
        rise = ((as_real(count) + 1) / (warmup_steps + 1)).clamp(max=1.0)
        return rise * decay(count - warmup_steps)  # one factor is always neutral: rise = 1 from W on, decay = ηₚ before

    return schedule


def _check_cosine(where: str, name: str, value: float | Tensor, decay_steps: float, final: float | Tensor) -> None:
    require_positive(where, name, value, "1e-3")
    require_positive(where, "decay_steps", decay_steps, "1000")
    if not isinstance(final, Tensor):
        require(0 <= final < math.inf, f"{where}: final must be >= 0 and finite (e.g. 0), got {final}")
