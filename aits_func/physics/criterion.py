"""What a time-step criterion of ONE system is, and the pieces that all of them are made of.

A criterion is a pair of functions: ``init() -> params`` gives its constants as a pytree, and
``timescale(params, system) -> dt`` reads the step off the present state. The constants are
parameters like any others, so the training loop can tune them. They are stored as logarithms,
so that they stay positive under any update.

Rates are used instead of times: a pair that never meets (bodies at rest, no mass), or a body that
nothing acts on, has rate 0, which is finite, and drops out of a maximum or a sum by itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number
from ..base.types import Params, System
from .step_function import PositionForm, Traits


class Criterion(NamedTuple):
    """A step rule: ``init() -> params`` and ``timescale(params, system) -> dt``.

    Shapes: one `System` in, dt () out, > 0, in units of time.
    """

    init: Callable[[], Params]
    timescale: Callable[[Params, System], Tensor]
    traits: Traits = Traits()  # what is known about it; reversible schemes ask
    position_form: PositionForm | None = None  # given if the step depends on positions alone


def criterion_of_rate(
    rate: Callable[[System], Tensor],
    *,
    eta: float,
    where: str,
    smooth: bool,
    power: float = 1.0,
    positions_only: bool = False,
    unit: Callable[[System], Tensor] | None = None,
) -> Criterion:
    """dt = η^power / rate(system), for a rate that is memoryless and even in the velocities.

    Args:
        rate: one `System` in, () out, 1 / time, ≥ 0; rate 0 gives a step that is very long, but finite.
        eta: η > 0, the start value of the parameter ``log_eta``.
        where: the name of the criterion, for the error message.
        smooth: whether the rate is differentiable wherever bodies are apart.
        power: that of η.
        positions_only: whether the rate reads mass, position and time alone; then there is a position form.
        unit: for a rate that is 0 in systems with mass: a time () of such a system, see `time_of`.

    Returns:
        A `Criterion`.

    Raises:
        ValueError: if eta is not > 0.
    """

    def factor(params: Params) -> Tensor:
        log_eta = params["log_eta"]
        return bounded_exp(number(power, log_eta) * log_eta)

    def timescale(params: Params, system: System) -> Tensor:
        return factor(params) * time_of(rate(system), None if unit is None else unit(system))

    def rate_of_positions(params: Params, system: System, constants: Any) -> Tensor:
        return rate(system) / factor(params)

    return Criterion(
        log_parameter("log_eta", eta, where),
        timescale,
        Traits(smooth=smooth, memoryless=True, even=True),
        PositionForm(no_constants, rate_of_positions) if positions_only else None,
    )


def no_constants(params: Params, system: System) -> tuple[()]:
    """The constants of a position form that has none: ()."""
    return ()


def log_parameter(key: str, value: float, where: str, name: str = "eta") -> Callable[[], Params]:
    """``init`` of one positive constant, stored as its logarithm under ``key``, a tensor ().

    Raises:
        ValueError: naming the criterion ``where`` and the constant ``name``, if value is not > 0 and finite.
    """
    require(0 < value < math.inf, f"{where}: {name} must be > 0 and finite (e.g. 0.02), got {value}")
    # float64 whatever the default dtype is: parameters are cast as one tree (tree.cast).
    return lambda: {key: torch.tensor(math.log(value), dtype=torch.float64)}


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x), held at the square root of the largest number, with a gradient that goes on beyond.

    An overflow would make the gradient of a whole minibatch NaN. A plain clamp would make it 0, and the
    parameter could never come back.
    """
    highest = math.log(torch.finfo(x.dtype).max) / 2
    return (x + (x.clamp(max=highest) - x).detach()).exp()


def rate_p_norm(rates_squared: Tensor, p: float) -> Tensor:
    """(Σ rate^p)^{1/p} from squared rates (P,) -> (), 0 if all are; the largest rate if p is infinite.

    The largest rate is divided out first, as rate^p overflows float32 long before the norm does.
    A rate of 0 is masked before and after the power, whose derivative there may be infinite.
    """
    if p == math.inf:
        return root(rates_squared.amax())
    if p == 2:
        return root(rates_squared.sum())
    largest = rates_squared.detach().amax()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    positive = rates_squared > 0
    ratio = torch.where(positive, rates_squared / scale, torch.ones_like(rates_squared))
    total = torch.where(positive, ratio ** (p / 2), torch.zeros_like(ratio)).sum()
    safe = torch.where(largest > 0, total, torch.ones_like(total))
    return torch.where(largest > 0, safe ** (1 / p) * scale.sqrt(), torch.zeros_like(total))


def root(x: Tensor) -> Tensor:
    """√x of any shape, x ≥ 0, with derivative 0 where x = 0: masked before and after."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


def vector_norm(x: Tensor) -> Tensor:
    """|x| over the last axis, (..., D) -> (...), with derivative 0 where x = 0."""
    return root(x.pow(2).sum(-1))


def time_of(rate: Tensor, unit: Tensor | None = None) -> Tensor:
    """1/rate; of rate 0 a time so long that it stands for infinity, yet finite: 1e77, or 4e9 in float32.

    An infinite step has an infinite derivative, which would make the gradient of a whole minibatch NaN.

    Args:
        rate: (), 1 / time, ≥ 0.
        unit: (), the time that the long one is measured in: one of the system, or 4e9 would be short in seconds. None
            where a rate of 0 means that nothing has mass, so that the system has no time of its own.

    Returns:
        (), time > 0.
    """
    positive = rate > 0
    longest = torch.full_like(rate, torch.finfo(rate.dtype).max ** 0.25)
    if unit is not None:
        longest = longest * unit
    return torch.where(positive, torch.where(positive, rate, torch.ones_like(rate)).reciprocal(), longest)


def scaled_log(x: Tensor) -> Tensor:
    """ln x of x > 0, with no power of 1/x in its derivatives: those of a time of 1e-20 are no float32."""
    size = x.detach()
    return (x / size).log() + size.log()


def scaled_reciprocal(x: Tensor) -> Tensor:
    """1/x of x > 0, with no power of 1/x beyond the first in its derivatives."""
    size = x.detach()
    return (x / size).reciprocal() / size
