"""Time-step criteria of ONE system that are made of times of its pairs i < j.

r is the softened distance everywhere. P = N(N−1)/2 pairs; pair rates are (P,). Two massless bodies do not act on each
other: their pair counts nothing, however close they pass.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.types import Params, System
from .criterion import Criterion, bounded_exp, criterion_of_rate, log_parameter, rate_p_norm, root, time_of
from .gravity import Gravity
from .pairs import inverse_cube, pair_difference, pair_distance, pair_rows
from .step_function import Traits


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
    return _of_pairs(gravity, ("free_fall",), math.inf, eta, "free_fall")


def fly_by(gravity: Gravity, *, eta: float = 0.02) -> Criterion:
    """The shortest time in which a pair crosses its own distance, dt = η min_ij r/v, over pairs with mass.

    No bound at all while the bodies rest; combine it with free fall in a `p_norm` then.

    Args:
        gravity: supplies the softening, by which r is softened.
        eta: η > 0, the start value of the parameter ``log_eta``.

    Returns:
        A `Criterion`; dt () is very large but finite if nothing moves, or nothing has mass.

    Raises:
        ValueError: if eta is not > 0.

    Source: Pelupessy, Jänes & Portegies Zwart 2012, New Astronomy 17, 711, equation 9.
    """
    return _of_pairs(gravity, ("fly_by",), math.inf, eta, "fly_by")


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
        A `Criterion`; dt () is very large but finite if every rate is 0. It is smooth if free-fall times
        are in the sum, and with fly-by times if p > 1: the rate |v|/r has a kink at v = 0.

    Raises:
        ValueError: if eta or p is not > 0, or pairs names something else.

    Source: the p-norm of rates as step function of reversible schemes, e.g. Hairer & Söderlind
        2005, SIAM Journal on Scientific Computing 26, 1838 (there with one body and p = 2).
    """
    require(p > 0, f"p_norm: p must be > 0 (e.g. 2), got {p}")
    require(len(pairs) > 0, "p_norm: pairs must name at least one of free_fall, fly_by")
    for name in pairs:
        require_choice("p_norm", "pairs", name, tuple(_RATES))
    return _of_pairs(gravity, pairs, p, eta, "p_norm")


def hut_makino(gravity: Gravity, *, eta: float = 0.03, p: float = math.inf) -> Criterion:
    """The shorter of fly-by and free-fall time, dt = η min_ij min(r/v, (r³ / G(mᵢ + mⱼ))^{1/2}).

    Args:
        gravity: supplies G and the softening, by which r is softened.
        eta: η > 0, the start value of the parameter ``log_eta``.
        p: exponent > 0; infinite for the minimum itself, finite for the p-norm of all the rates, which is
            the `p_norm` of both times.

    Returns:
        A `Criterion`; dt () is very large but finite if no pair attracts or moves. Smooth for 1 < p < ∞.

    Raises:
        ValueError: if eta or p is not > 0.

    Source: the step of the Hermite code of Hut & Makino, as in AMUSE, with its η = 0.03; Hut, Makino &
        McMillan 1995, Astrophysical Journal Letters 443, L93.
    """
    require(p > 0, f"hut_makino: p must be > 0 (infinite for the minimum), got {p}")
    return _of_pairs(gravity, ("free_fall", "fly_by"), p, eta, "hut_makino")


def huayno(gravity: Gravity, *, eta: float = 0.03) -> Criterion:
    """Pair steps τ made symmetric in time to first order, dt = min_ij τ / (1 − dτ/2), with τ of both kinds:

        free fall:  τ = η (r³ / G(mᵢ + mⱼ))^{1/2},  dτ = (3/2) τ (v·r)/r²
        fly-by:     τ = η r/v,                      dτ = τ (v·r)/r² · (1 + G(mᵢ + mⱼ)/(v² r))

    where dτ, the derivative of τ along the orbit of the pair, is capped at 1. It is odd in the velocities, so this is
    a rule for the direct scheme alone: a reversible one would count the correction twice. Bodies that have only just
    left rest, apart, get a short step by the fly-by time (dτ is very negative or capped): about the time since rest.

    Args:
        gravity: supplies G and the softening, by which r is softened.
        eta: η > 0, the start value of the parameter ``log_eta``; it enters τ, so that dt is not proportional to it.

    Returns:
        A `Criterion`; dt () is very large but finite if no pair attracts or moves. Neither smooth nor even.

    Raises:
        ValueError: if eta is not > 0.

    Source: Pelupessy, Jänes & Portegies Zwart 2012, New Astronomy 17, 711, equations 8 to 13 (as in `free_fall`,
        without the factor 2^{-1/2} that their code gives the free-fall time).
    """

    def timescale(params: Params, system: System) -> Tensor:
        per_eta = bounded_exp(-params["log_eta"])
        rates = [
            _symmetrised(per_eta * root(_RATES[kind](gravity, system)), growth(gravity, system))
            for kind, growth in (("free_fall", _free_fall_growth), ("fly_by", _fly_by_growth))
        ]
        return time_of(torch.cat(rates).amax())

    return Criterion(log_parameter("log_eta", eta, "huayno"), timescale, Traits(memoryless=True))


def free_fall_rate_squared(gravity: Gravity, system: System) -> Tensor:
    """G(mᵢ + mⱼ)/r³ of the pairs i < j, (P,), 1 / time²."""
    return gravity.G * pair_mass(system) * inverse_cube(pair_distance(system.position, gravity.softening))


def free_fall_unit(gravity: Gravity, system: System) -> Tensor:
    """(Σ G(mᵢ + mⱼ)/r³)^{-1/2}, (): a time of any system with mass, constant to the derivative."""
    return time_of(rate_p_norm(free_fall_rate_squared(gravity, system), 2.0)).detach()


def fly_by_rate_squared(gravity: Gravity, system: System) -> Tensor:
    """v²/r² of the pairs i < j, (P,), 1 / time²; 0, with all derivatives, of two massless bodies."""
    speed_squared = pair_difference(system.velocity).pow(2).sum(-1)
    attract = pair_mass(system) > 0
    return torch.where(attract, speed_squared, torch.zeros_like(speed_squared)) / _square(gravity, system)


def pair_mass(system: System) -> Tensor:
    """mᵢ + mⱼ of the pairs i < j, (P,)."""
    first, second = pair_rows(system.mass)
    return first + second


_RATES: dict[str, Callable[[Gravity, System], Tensor]] = {
    "free_fall": free_fall_rate_squared,
    "fly_by": fly_by_rate_squared,
}


def _of_pairs(gravity: Gravity, pairs: tuple[str, ...], p: float, eta: float, where: str) -> Criterion:
    def rate(system: System) -> Tensor:
        return rate_p_norm(torch.cat([_RATES[name](gravity, system) for name in pairs]), p)

    # Free-fall rates never vanish, fly-by rates do at v = 0. There |v|^p has a kink for p ≤ 1; and if nothing moves
    # and no free-fall rate stands beside it, so has the sum's root for any p.
    kinks = "fly_by" in pairs and not (p > 1 and "free_fall" in pairs)
    return criterion_of_rate(
        rate,
        eta=eta,
        where=where,
        smooth=p < math.inf and not kinks,
        positions_only="fly_by" not in pairs,
        unit=None if "free_fall" in pairs else partial(free_fall_unit, gravity),
    )


def _symmetrised(rate: Tensor, growth: Tensor) -> Tensor:
    """(1 − ½ min(1, dτ))/τ with dτ = τ · growth, (P,): as a maximum there is nothing to divide by. Rate 0 stays 0."""
    symmetric = torch.maximum(rate / 2, rate - growth / 2)
    return torch.where(rate > 0, symmetric, torch.zeros_like(rate))


def _free_fall_growth(gravity: Gravity, system: System) -> Tensor:
    """dτ/τ of free-fall times, (P,), 1 / time."""
    return 1.5 * _expansion(gravity, system)


def _fly_by_growth(gravity: Gravity, system: System) -> Tensor:
    """dτ/τ of fly-by times, (P,), 1 / time; of a pair at rest what stands there is never used."""
    speed_squared = pair_difference(system.velocity).pow(2).sum(-1)
    safe = torch.where(speed_squared > 0, speed_squared, torch.ones_like(speed_squared))
    distance = _square(gravity, system).sqrt()
    return _expansion(gravity, system) * (1 + gravity.G * pair_mass(system) / (safe * distance))


def _expansion(gravity: Gravity, system: System) -> Tensor:
    """(v·r)/r² of the pairs, (P,), 1 / time; of two massless bodies what stands there is never used."""
    product = (pair_difference(system.position) * pair_difference(system.velocity)).sum(-1)
    return product / _square(gravity, system)


def _square(gravity: Gravity, system: System) -> Tensor:
    """r² of the pairs, (P,), and 1 of two massless bodies, so that nothing overflows there; not to be used."""
    square = pair_difference(system.position).pow(2).sum(-1) + gravity.softening**2
    return torch.where(pair_mass(system) > 0, square, torch.ones_like(square))
