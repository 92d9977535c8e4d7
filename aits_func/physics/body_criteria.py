"""Time-step criteria of ONE system that are read off each body's own motion: a = |acceleration|, j = |jerk|,
s = |snap|, c = |crackle|, or its tide. The body with the shortest time decides.

The four norms of a body are taken in units of the system's free-fall time, and divided by the largest of them: their
products overflow float32 at close encounters long before their ratio does. Both units are constants to
the derivative, and every formula here has none.
"""

import math
from functools import partial

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number
from ..base.types import System
from .criterion import Criterion, criterion_of_rate, rate_p_norm, root, vector_norm
from .force_derivatives import derivatives_to_crackle, tidal_tensor
from .gravity import Gravity
from .pair_criteria import free_fall_unit
from .pairs import pair_difference, pair_distance, pair_indices

BALANCED = 1e-3
"""Below this part of the sum of what the other bodies do to it, an acceleration counts as zero in `prs23_moving`.

A number without unit, so that the rule is free of scale. It is far above the rounding of the sum in float32 (N · 6e-8:
below that, the direction itself is noise), and a body that stands in balance to 1e-3 by chance is rare (1e-9 of
places in space). Between, a smaller number buys nothing: near a passage through a = 0 the time a/j of the body shrinks
with the distance in time to the passage, so every factor of ten costs about eight more steps on each side.
"""


def aarseth(gravity: Gravity, *, eta: float = 0.02, p: float = math.inf) -> Criterion:
    """dt = minᵢ (η (a s + j²)/(j c + s²))^{1/2}.

    Args:
        gravity: forces.
        eta: η > 0, the start value of the parameter ``log_eta``; dt goes with its root.
        p: exponent > 0; infinite for the minimum over bodies, finite for the p-norm of their rates.

    Returns:
        A `Criterion`; a body whose snap and jerk are 0 does not count, and dt () is very large but finite
        if none does. Never smooth, see below.

    Raises:
        ValueError: if eta or p is not > 0.

    Source: Aarseth 1985, in Multiple Time Scales (Brackbill & Cohen), 377; Makino & Aarseth 1992, Publications of
        the Astronomical Society of Japan 44, 141, equation 7.
    """
    require(p > 0, f"aarseth: p must be > 0 (infinite for the minimum), got {p}")

    def rate(system: System) -> Tensor:
        (a, j, s, c), time = _norms(gravity, system, crackle=True)
        return rate_p_norm(_ratio(j * c + s * s, a * s + j * j), p) / time

    # Not smooth at a finite p either: the products a s and j c have kinks where one of their norms passes through 0,
    # as a does at a collinear passage of a symmetric orbit.
    unit = partial(free_fall_unit, gravity)
    return criterion_of_rate(rate, eta=eta, where="aarseth", smooth=False, power=0.5, unit=unit)


def prs23(gravity: Gravity, *, eta: float = 0.175) -> Criterion:
    """dt = η minᵢ (2 a²/(j² + a s))^{1/2}: the orbital period of two bodies up to a factor, whatever they do.

    Where a body passes through a = 0, as the middle one does at a collinear passage of a symmetric orbit, dt is 0 up to
    rounding and a run stands still: that is the criterion. `prs23_moving` skips such bodies.

    Args:
        gravity: forces.
        eta: η > 0, the start value of the parameter ``log_eta``; 0.175 = (5040 · 1e-9)^{1/7} is that of REBOUND's IAS15
            at its default accuracy.

    Returns:
        A `Criterion`; a body whose jerk and snap are 0 does not count, and dt () is very large but finite
        if none does. Where it is 0, a number > 0 stands instead, too small to move anything.

    Raises:
        ValueError: if eta is not > 0.

    Source: Pham, Rein & Spiegel 2024, Open Journal of Astrophysics 7 (arXiv:2401.02849).
    """
    unit = partial(free_fall_unit, gravity)
    return criterion_of_rate(partial(_prs23_rate, gravity), eta=eta, where="prs23", smooth=False, unit=unit)


def prs23_moving(gravity: Gravity, *, eta: float = 0.175) -> Criterion:
    """`prs23` without the bodies that stand in balance: those with a ≤ 10⁻³ Σⱼ |aᵢⱼ|, the accelerations by each other
    body added without their directions (see `BALANCED` for why this number).

    Args:
        gravity: forces.
        eta: η > 0, the start value of the parameter ``log_eta``.

    Returns:
        A `Criterion`; dt () is very large but finite if no body counts.

    Raises:
        ValueError: if eta is not > 0.

    Source: Pham, Rein & Spiegel 2024, Open Journal of Astrophysics 7 (arXiv:2401.02849); what is skipped, and
        when, is ours (REBOUND skips a body only where a is 0 to the last bit).
    """

    def rate(system: System) -> Tensor:
        return _prs23_rate(gravity, system, balanced=BALANCED)

    unit = partial(free_fall_unit, gravity)
    return criterion_of_rate(rate, eta=eta, where="prs23_moving", smooth=False, unit=unit)


def gadget(gravity: Gravity, *, eta: float = 0.025) -> Criterion:
    """The time in which the strongest acceleration crosses the softening length, dt = minᵢ (2 η s/a)^{1/2}.

    Args:
        gravity: forces, and the softening s > 0.
        eta: η > 0, the start value of the parameter ``log_eta``; dt goes with its root.

    Returns:
        A `Criterion`, with a position form; dt () is very large but finite if nothing is accelerated.

    Raises:
        ValueError: if eta is not > 0, or gravity has no softening.

    Source: Springel 2005, Monthly Notices of the Royal Astronomical Society 364, 1105, equation 34.
    """
    softening = gravity.softening
    require(softening > 0, f"gadget: needs a softening length > 0, got {softening}; soften gravity, or use tidal")

    def rate(system: System) -> Tensor:
        acceleration = gravity.acceleration(system.mass, system.position, system.time)
        largest = vector_norm(acceleration).amax()
        return root(largest / number(2 * softening, largest))

    unit = partial(free_fall_unit, gravity)
    return criterion_of_rate(rate, eta=eta, where="gadget", smooth=False, power=0.5, positions_only=True, unit=unit)


def tidal(gravity: Gravity, *, eta: float = 4e-4, p: float = math.inf) -> Criterion:
    """dt = η^{1/2} minᵢ (‖Tᵢ‖²/6)^{-1/4}, T the tidal tensor and ‖T‖² the sum of its squared elements.

    Near a point mass M this is the free-fall time (η r³/GM)^{1/2}.

    Args:
        gravity: forces.
        eta: η > 0, the start value of the parameter ``log_eta``; dt goes with its root. The default is
            the square of `free_fall`'s, to make the two alike.
        p: exponent > 0; infinite for the minimum over bodies, finite for the p-norm of their rates.

    Returns:
        A `Criterion`, with a position form; dt () is very large but finite if there is no tide. Smooth for 2 < p < ∞.

    Raises:
        ValueError: if eta or p is not > 0.

    Source: Grudić & Hopkins 2020, Monthly Notices of the Royal Astronomical Society 495, 4306.
    """
    require(p > 0, f"tidal: p must be > 0 (infinite for the minimum), got {p}")

    def rate(system: System) -> Tensor:
        tide = tidal_tensor(gravity, system)
        largest = tide.detach().abs().amax()
        scale = torch.where(largest > 0, largest, torch.ones_like(largest))  # ‖T‖² overflows float32 long before T
        rate_to_the_fourth = (tide / scale).pow(2).sum((1, 2)) / 6
        # (Σ x^{p/4})^{1/p} of x = rate⁴, which has no kink itself
        return root(rate_p_norm(rate_to_the_fourth, p / 2)) * scale.sqrt()

    # rate^p = ‖T‖^{p/2} is differentiable where the tides on a body cancel, as in the middle of a tetrahedron, for
    # p > 2 alone, and as often as one likes where p is a multiple of 4.
    return criterion_of_rate(rate, eta=eta, where="tidal", smooth=2 < p < math.inf, power=0.5, positions_only=True)


def _norms(gravity: Gravity, system: System, *, crackle: bool) -> tuple[tuple[Tensor, ...], Tensor]:
    """a, j, s and with ``crackle`` c of every body, (N,) each, in the units said at the top, and that of time ()."""
    derivatives = derivatives_to_crackle(gravity, system) if crackle else gravity.derivatives(system)
    time = free_fall_unit(gravity, system)
    vectors = torch.stack([vector * time**power for power, vector in enumerate(derivatives)])  # (4, N, D)
    largest = vectors.detach().abs().amax((0, 2))
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    return vector_norm(vectors / scale[:, None]).unbind(0), time


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top/bottom ≥ 0, 0 where both are, and very large but finite, with its derivatives, where only the bottom is 0."""
    least = torch.finfo(top.dtype).tiny ** 0.5
    positive = top > 0
    safe = torch.where(positive, torch.maximum(bottom, least * top), torch.ones_like(top))
    return torch.where(positive, top / safe, torch.zeros_like(top))


def _prs23_rate(gravity: Gravity, system: System, balanced: float | None = None) -> Tensor:
    (a, j, s), time = _norms(gravity, system, crackle=False)
    rates_squared = _ratio(j * j + a * s, 2 * a * a)
    if balanced is not None:
        acceleration = gravity.acceleration(system.mass, system.position, system.time)
        moves = vector_norm(acceleration) > balanced * _pull(gravity, system)
        rates_squared = torch.where(moves, rates_squared, torch.zeros_like(rates_squared))
    return root(rates_squared.amax()) / time


def _pull(gravity: Gravity, system: System) -> Tensor:
    """Σⱼ |aᵢⱼ|, (N,): what the others do to each body, added without directions."""
    first, second = pair_indices(system.mass.shape[0], system.mass.device)
    apart = vector_norm(pair_difference(system.position))
    strength = gravity.G * apart / pair_distance(system.position, gravity.softening) ** 3
    pull = torch.zeros_like(system.mass)
    return pull.index_add(0, first, strength * system.mass[second]).index_add(0, second, strength * system.mass[first])
