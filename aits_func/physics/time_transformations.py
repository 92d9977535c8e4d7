"""Time transformations of ONE system: step rules dt = η U/Ω(x) whose rate Ω is a smooth function of the positions.

Ω says where the steps are short, and the constant U, an Ω times a time, gives it a unit. Where Ω tends to
mᵢmⱼ/rᵢⱼ, times a constant, as two bodies approach, the time-transformed leapfrog follows a Kepler orbit exactly.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.forward_mode import number
from ..base.types import Params, System
from .criterion import Criterion, bounded_exp, log_parameter, no_constants, rate_p_norm, time_of
from .gravity import Gravity
from .invariants import at_rest_as_a_whole
from .pair_criteria import free_fall_rate_squared, pair_mass
from .pairs import pair_distance, pair_rows
from .step_function import REVERSIBLE, PositionForm

UNITS = ("natural", "one")
UNBOUND = 1e-2
"""Below this part of the energy size, 2|E| is no scale to take a length from; from twice it on it is one."""


def pair_norm(
    gravity: Gravity, *, eta: float = 0.02, p: float = 2.0, weights: str = "mass_product", unit: str = "natural"
) -> Criterion:
    """dt = η U/Ω(x) with Ω(x) = (Σ_ij (w_ij/r_ij)^p)^{1/p}, r softened, and w = mᵢmⱼ or (mᵢ + mⱼ)^{1/2}.

    In natural units U = Ω_* t_* is what the energy E (that of a centre of mass at rest), the masses and nothing else
    make of it:

        R = G Σ_{i<j} mᵢmⱼ / 2|E|,   t_* = (R³ / G Σmᵢ)^{1/2},   Ω_* = (Σ_ij w_ij^p)^{1/p} / R

    and where E ≈ 0 (2|E| below 10⁻² of the energy size K + |W|), or at most one body has mass,
    U = Ω τ, with τ the `p_norm` of free-fall times for p = 2 and η = 1; between 10⁻² and 2·10⁻² it goes smoothly from
    the one to the other. In the position form U is read once, where a run begins, and stays. ``timescale`` has a
    present state only: there U belongs to that, and changes in a deep encounter, in which K + |W| outgrows |E| a
    hundredfold. For schemes that take ``timescale``, unit = "one" or a `p_norm` is the better choice.

    Args:
        gravity: supplies G, the softening and the energy.
        eta: η > 0, the start value of the parameter ``log_eta``.
        p: exponent > 0, finite.
        weights: "mass_product" or "root_sum". The second is the better one for unequal masses, and the only
            one that sees a test particle. Products of masses are squared: in float32 masses end at 1e9.
        unit: "natural", or "one" for U = 1 in the caller's units.

    Returns:
        A `Criterion` with a position form, whose constants are U (). dt () is very large but finite, and the rate 0,
        if every weight is 0.

    Raises:
        ValueError: if eta is not > 0, p is not > 0 and finite, or weights or unit is another word.

    Source: Mikkola & Aarseth 2002, Celestial Mechanics and Dynamical Astronomy 84, 343, for general Ω; the p-norm
        and the unit are ours.
    """
    return _pair_norm(gravity, eta, p, weights, unit, "pair_norm")


def logarithmic(gravity: Gravity, *, eta: float = 0.02, unit: str = "natural") -> Criterion:
    """The logarithmic Hamiltonian's time, dt = η U/Ω(x) with Ω(x) = Σ_ij mᵢmⱼ/r_ij: `pair_norm` with p = 1.

    Args:
        gravity: supplies G, the softening and the energy.
        eta: η > 0, the start value of the parameter ``log_eta``.
        unit: "natural" or "one", see `pair_norm`.

    Returns:
        A `Criterion` with a position form, whose constants are U ().

    Raises:
        ValueError: if eta is not > 0, or unit is another word.

    Source: Mikkola & Tanikawa 1999, Monthly Notices of the Royal Astronomical Society 310, 745; Preto & Tremaine
        1999, Astronomical Journal 118, 2532.
    """
    return _pair_norm(gravity, eta, 1.0, "mass_product", unit, "logarithmic")


def from_omega(
    omega: Callable[..., Tensor], *, eta: float = 0.02, init: Callable[[], Params] | None = None, smooth: bool = True
) -> Criterion:
    """A step rule from a time transformation of one's own, dt = η/Ω(x).

    Args:
        omega: a function of mass (N,) and position (N, D) -> () > 0; with ``init``, of params, mass and position.
            Up to η it is in units of 1 / time.
        eta: η > 0, the start value of the parameter ``log_eta``, in the unit of Ω times a time.
        init: returns the start values of Ω's own parameters, a pytree; without it Ω has none.
        smooth: whether Ω is differentiable wherever bodies are apart; say False if there is a min, a max or a
            clip in it.

    Returns:
        A `Criterion` with a position form without constants. Its parameters are ``log_eta`` and, with
        ``init``, ``omega``.

    Raises:
        ValueError: if eta is not > 0.

    Source: Mikkola & Aarseth 2002, Celestial Mechanics and Dynamical Astronomy 84, 343.

    Example:
        >>> import torch
        >>> def omega(mass, position):
        ...     return 1 / (position[1] - position[0]).pow(2).sum().sqrt()
        >>> criterion = from_omega(omega, eta=0.1)
        >>> criterion.traits.smooth
        True
    """
    start = log_parameter("log_eta", eta, "from_omega")

    def rate(params: Params, system: System, constants: Any) -> Tensor:
        own = () if init is None else (params["omega"],)
        return omega(*own, system.mass, system.position) / bounded_exp(params["log_eta"])

    return Criterion(
        start if init is None else lambda: {**start(), "omega": init()},
        lambda params, system: time_of(rate(params, system, ())),
        REVERSIBLE._replace(smooth=smooth),
        PositionForm(no_constants, rate),
    )


def _pair_norm(gravity: Gravity, eta: float, p: float, weights: str, unit: str, where: str) -> Criterion:
    require(0 < p < math.inf, f"{where}: p must be > 0 and finite (e.g. 2), got {p}")
    require_choice(where, "weights", weights, WEIGHTS)
    require_choice(where, "unit", unit, UNITS)

    def omega(system: System) -> Tensor:
        return rate_p_norm(
            pair_weights_squared(system, weights) / pair_distance(system.position, gravity.softening) ** 2, p
        )

    def constants(params: Params, system: System) -> Tensor:
        if unit == "one":
            return torch.ones_like(system.time)
        return _natural_unit(gravity, system, rate_p_norm(pair_weights_squared(system, weights), p), omega(system))

    def rate(params: Params, system: System, constants: Tensor) -> Tensor:
        return omega(system) * time_of(constants) / bounded_exp(params["log_eta"])

    def timescale(params: Params, system: System) -> Tensor:
        return time_of(rate(params, system, constants(params, system)))

    init = log_parameter("log_eta", eta, where)
    return Criterion(init, timescale, REVERSIBLE, PositionForm(constants, rate))


def pair_weights_squared(system: System, weights: str) -> Tensor:
    """w² of the pairs i < j, (P,): of "mass_product" (mᵢmⱼ)², of "root_sum" mᵢ + mⱼ."""
    return _WEIGHTS_SQUARED[weights](system)


def _natural_unit(gravity: Gravity, system: System, weight: Tensor, omega: Tensor) -> Tensor:
    """U (), in units of Ω times a time, from the norm of the weights () and the present Ω ()."""
    resting = at_rest_as_a_whole(system)  # a boost makes nothing deeper
    depth = 2 * gravity.energy(resting).abs()
    products, total = _mass_product(system).sum(), system.mass.sum()
    binding = number(gravity.G, products) * products
    size = gravity.energy_size(resting)
    share = _smooth_step(depth / torch.where(size > 0, size, torch.ones_like(size)) / number(UNBOUND, depth) - 1)
    bound = (share > 0) & (binding > 0)
    # masked before and after: the R of the other branch may be 0/0
    R = torch.where(bound, binding, torch.ones_like(depth)) / torch.where(bound, depth, torch.ones_like(depth))
    natural = weight * (R / (number(gravity.G, total) * total)).sqrt()  # ‖w‖/R · (R³/G Σm)^½
    present = omega * time_of(rate_p_norm(free_fall_rate_squared(gravity, system), 2.0))
    some = torch.where(bound, present, torch.ones_like(present))
    mixed = some * (torch.where(bound, natural, torch.ones_like(natural)) / some) ** share
    return torch.where(bound, torch.where(share < 1, mixed, natural), present)


def _smooth_step(x: Tensor) -> Tensor:
    """0 for x ≤ 0, 1 for x ≥ 1, and in between a rise all of whose derivatives exist, 1/(1 + e^{1/x − 1/(1−x)})."""
    inside = (x > 0) & (x < 1)
    safe = torch.where(inside, x, torch.full_like(x, 0.5))
    return torch.where(inside, torch.sigmoid(1 / (1 - safe) - 1 / safe), (x >= 1).to(x.dtype))


def _mass_product(system: System) -> Tensor:
    """mᵢ mⱼ of the pairs i < j, (P,)."""
    first, second = pair_rows(system.mass)
    return first * second


_WEIGHTS_SQUARED: dict[str, Callable[[System], Tensor]] = {
    "mass_product": lambda system: _mass_product(system) ** 2,
    "root_sum": pair_mass,
}
WEIGHTS = tuple(_WEIGHTS_SQUARED)
