"""Classical time-step criteria of ONE system, behind one interface.

A criterion is a pair of functions: ``init() -> params`` gives its constants as a pytree, and
``timescale(params, system) -> dt`` reads the step off the present state. The constants are
parameters like any others, so the training loop can tune them. They are stored as logarithms,
so that they stay positive under any update.

Pair rates are used instead of pair times: a pair that never meets (bodies at rest, no mass) has
rate 0, which is finite, and drops out of a maximum or a sum by itself.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.types import Params, System
from .gravity import Gravity, pair_difference, pair_distance, pair_indices
from .step_function import PositionForm, Traits


class Criterion(NamedTuple):
    """A step rule: ``init() -> params`` and ``timescale(params, system) -> dt``.

    Shapes: one `System` in, dt () out, > 0, in units of time.
    """

    init: Callable[[], Params]
    timescale: Callable[[Params, System], Tensor]
    traits: Traits = Traits()  # what is known about it; reversible schemes ask
    position_form: PositionForm | None = None  # given if the step depends on positions alone


def free_fall(gravity: Gravity, *, eta: float = 0.02) -> Criterion:
    """The shortest free-fall time of a pair, dt = η min_ij (r³ / G(mᵢ + mⱼ))^{1/2}.

    Args:
        gravity: supplies G and the softening, by which r is softened.
        eta: η > 0, the start value of the parameter ``log_eta``.

    Returns:
        A `Criterion`; dt () is very large but finite if no pair attracts.

    Raises:
        ValueError: if eta is not > 0.

    Source: the dynamical time of a two-body orbit; as a step rule e.g. Pelupessy, Jänes &
        Portegies Zwart 2012, New Astronomy 17, 711, equation 8.
    """
    return _minimum(lambda system: free_fall_rate_squared(gravity, system), eta, "free_fall")


def fly_by(gravity: Gravity, *, eta: float = 0.02) -> Criterion:
    """The shortest time in which a pair crosses its own distance, dt = η min_ij r/v.

    No bound at all while the bodies rest; combine it with free fall in a `p_norm` then.

    Args:
        gravity: supplies the softening, by which r is softened.
        eta: η > 0, the start value of the parameter ``log_eta``.

    Returns:
        A `Criterion`; dt () is very large but finite if nothing moves.

    Raises:
        ValueError: if eta is not > 0.

    Source: Pelupessy, Jänes & Portegies Zwart 2012, New Astronomy 17, 711, equation 9.
    """
    return _minimum(lambda system: fly_by_rate_squared(gravity, system), eta, "fly_by")


def p_norm(
    gravity: Gravity, *, eta: float = 0.02, p: float = 2.0, pairs: tuple[str, ...] = ("free_fall",)
) -> Criterion:
    """A smooth minimum over pair times, dt = η (Σ_ij τ_ij^-p)^{-1/p}.

    Args:
        gravity: supplies G and the softening.
        eta: η > 0, the start value of the parameter ``log_eta``.
        p: exponent > 0; towards the minimum as it grows.
        pairs: which pair times enter the sum: "free_fall", "fly_by" or both.

    Returns:
        A `Criterion`, smooth wherever no two bodies coincide; dt () is very large
        but finite if every rate is 0.

    Raises:
        ValueError: if eta or p is not > 0, or pairs names something else.

    Source: the p-norm of rates as step function of reversible schemes, e.g. Hairer & Söderlind
        2005, SIAM Journal on Scientific Computing 26, 1838 (there with one body and p = 2).
    """
    require(p > 0, f"p_norm: p must be > 0 (e.g. 2), got {p}")
    require(len(pairs) > 0, "p_norm: pairs must name at least one of free_fall, fly_by")
    for name in pairs:
        require_choice("p_norm", "pairs", name, tuple(_RATES))

    def timescale(params: Params, system: System) -> Tensor:
        rates_squared = torch.cat([_RATES[name](gravity, system) for name in pairs])
        return bounded_exp(params["log_eta"]) * _time(rate_p_norm(rates_squared, p))

    return Criterion(_log_parameter("log_eta", eta, "p_norm"), timescale)


def constant(*, dt: float) -> Criterion:
    """The same step everywhere.

    Args:
        dt: > 0, in units of time; the start value exp of the parameter ``log_dt``.

    Returns:
        A `Criterion` with dt ().

    Raises:
        ValueError: if dt is not > 0.
    """
    return Criterion(
        _log_parameter("log_dt", dt, "constant", name="dt"), lambda params, system: bounded_exp(params["log_dt"])
    )


def build_criterion(name: str, gravity: Gravity, *, eta: float = 0.02, p: float = 2.0, dt: float = 1e-3) -> Criterion:
    """The criterion of that name.

    Args:
        name: "free_fall", "fly_by", "p_norm" (of free-fall times), "p_norm_both" (of free-fall and
            fly-by times) or "constant".
        gravity: supplies G and the softening.
        eta: accuracy parameter η of all but "constant".
        p: exponent of the p-norms.
        dt: the step of "constant", in units of time.

    Returns:
        A `Criterion` with dt ().

    Raises:
        ValueError: if there is none of that name, or its constant is not > 0.
    """
    makers = {
        "free_fall": lambda: free_fall(gravity, eta=eta),
        "fly_by": lambda: fly_by(gravity, eta=eta),
        "p_norm": lambda: p_norm(gravity, eta=eta, p=p),
        "p_norm_both": lambda: p_norm(gravity, eta=eta, p=p, pairs=("free_fall", "fly_by")),
        "constant": lambda: constant(dt=dt),
    }
    require_choice("build_criterion", "name", name, tuple(makers))
    return makers[name]()


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x), held at the square root of the largest number, with a gradient that goes on beyond.

    An overflow would make the gradient of a whole minibatch NaN. A plain clamp would make it 0, and the
    parameter could never come back.
    """
    highest = math.log(torch.finfo(x.dtype).max) / 2
    return (x + (x.clamp(max=highest) - x).detach()).exp()


def free_fall_rate_squared(gravity: Gravity, system: System) -> Tensor:
    """G(mᵢ + mⱼ)/r³ of the pairs i < j, (P,), 1 / time²."""
    first, second = pair_indices(system.mass.shape[0], system.mass.device)
    pair_mass = system.mass[first] + system.mass[second]
    return gravity.G * pair_mass / pair_distance(system.position, gravity.softening) ** 3


def fly_by_rate_squared(gravity: Gravity, system: System) -> Tensor:
    """v²/r² of the pairs i < j, (P,), 1 / time²."""
    speed_squared = pair_difference(system.velocity).pow(2).sum(-1)
    return speed_squared / pair_distance(system.position, gravity.softening) ** 2


def rate_p_norm(rates_squared: Tensor, p: float) -> Tensor:
    """(Σ rate^p)^{1/p} from squared rates (P,) -> (), 0 if all are.

    The largest rate is divided out first, as rate^p overflows float32 long before the norm does.
    A rate of 0 is masked before and after the power, whose derivative there may be infinite.
    """
    if p == 2:
        return rates_squared.sum().sqrt()
    largest = rates_squared.detach().amax()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    positive = rates_squared > 0
    ratio = torch.where(positive, rates_squared / scale, torch.ones_like(rates_squared))
    total = torch.where(positive, ratio ** (p / 2), torch.zeros_like(ratio)).sum()
    safe = torch.where(largest > 0, total, torch.ones_like(total))
    return torch.where(largest > 0, safe ** (1 / p) * scale.sqrt(), torch.zeros_like(total))


_RATES: dict[str, Callable[[Gravity, System], Tensor]] = {
    "free_fall": free_fall_rate_squared,
    "fly_by": fly_by_rate_squared,
}


def _time(rate: Tensor) -> Tensor:
    """1/rate; of rate 0 a time so long that it stands for infinity, yet finite.

    An infinite step has an infinite derivative, which would make the gradient of a whole minibatch NaN.
    """
    positive = rate > 0
    longest = torch.full_like(rate, torch.finfo(rate.dtype).max ** 0.25)
    return torch.where(positive, torch.where(positive, rate, torch.ones_like(rate)).reciprocal(), longest)


def _minimum(rates_squared: Callable[[System], Tensor], eta: float, where: str) -> Criterion:
    def timescale(params: Params, system: System) -> Tensor:
        return bounded_exp(params["log_eta"]) * _time(rates_squared(system).amax().sqrt())

    return Criterion(_log_parameter("log_eta", eta, where), timescale)


def _log_parameter(key: str, value: float, where: str, name: str = "eta") -> Callable[[], Params]:
    require(0 < value < math.inf, f"{where}: {name} must be > 0 and finite (e.g. 0.02), got {value}")
    # float64 whatever the default dtype is: parameters are cast as one tree (tree.cast).
    return lambda: {key: torch.tensor(math.log(value), dtype=torch.float64)}
