"""When a step was good enough, and how far it missed: relative energy error and the band loss.

These functions see numbers, not particles: an energy before, an energy after, a step.
"""

import math

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number
from ..base.types import Reference

_POWER = 3.0  # of dt in the energy error of one step of order 2; that of any higher order is steeper
_WILD = 1e6  # an energy error beyond which its slope tells nothing; below, it tells which steps to shorten
_GUARD = 1e-12  # on numbers without unit: relative energies, and the ε in a logarithm
SOURCE_GUARD = 1e-12
"""The source system's guard on an energy, in the caller's units: the one number here that is bound to a unit."""


def relative_energy_error(energy_before: Tensor, energy_after: Tensor, scale: Tensor | None = None) -> Tensor:
    """Relative energy error ε = |E₁ − E₀| / |E₀ + 1e-12 |E₀| + 1e-12|, or |E₁ − E₀| / scale.

    Without a scale it is the source system's, and bound to a unit: its guard of 1e-12 is an energy in the caller's
    units, beside which energies should be large (those of a grain of dust in SI units are not).

    Args:
        energy_before: E₀, any shape.
        energy_after: E₁, the same shape.
        scale: an energy > 0 to divide by instead, e.g. `guarded_energy`, or K₀ + |W₀| where E₀ may be 0.

    Returns:
        ε, the same shape, dimensionless; NaN or infinite where an energy is.
    """
    return (energy_after - energy_before).abs() / energy_divisor(energy_before, scale)


def energy_divisor(energy_before: Tensor, scale: Tensor | None = None) -> Tensor:
    """What energy errors are relative to: |E₀ + 1e-12 |E₀| + 1e-12|, or the scale if one is given; ≥ 0, like E₀."""
    return (energy_before + _GUARD * energy_before.abs() + SOURCE_GUARD).abs() if scale is None else scale


def guarded_energy(energy: Tensor, size: Tensor) -> Tensor:
    """|E₀|, but at least 10⁻¹² of K₀ + |W₀|: a scale for errors, the same in any units.

    Args:
        energy: E₀, any shape.
        size: K₀ + |W₀|, the same shape.

    Returns:
        The same shape, an energy; 0 only where the size is.
    """
    return torch.maximum(energy.abs(), _GUARD * size)


def check_energy_threshold(
    energy_before: Tensor, energy_after: Tensor, energy_threshold: float = 2e-4, *, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Whether a step kept the energy: ε < threshold. NaN and infinity are rejections.

    Args:
        energy_before: E₀, any shape.
        energy_after: E₁, the same shape.
        energy_threshold: > 0, on the relative energy error.
        scale: as in `relative_energy_error`.

    Returns:
        (accepted, ε), bool and dimensionless, in the shape of the energies.

    Raises:
        ValueError: if energy_threshold is not > 0.
    """
    require(
        energy_threshold > 0,
        f"check_energy_threshold: energy_threshold must be > 0 (a relative energy error, e.g. 2e-4), "
        f"got {energy_threshold}",
    )
    error = relative_energy_error(energy_before, energy_after, scale)
    return error < energy_threshold, error


def band_residual(
    energy_error: Tensor,
    dt: Tensor,
    exploded: Tensor,
    *,
    E_lower: float = 1e-6,
    E_upper: float = 1e-4,
    reference: Reference | None = None,
) -> Tensor:
    """Signed distance, in ln ε, from the band [E_lower, E_upper]: negative below, positive above.

        x = ln(ε + 1e-12),   r = max(x − ln E_upper, 0) − max(ln E_lower − x, 0)

    At most one of the two is not 0, so r² is the band loss. A step that exploded has no usable ε:
    it counts as ε = 1, and its residual −ln E_upper + (ln dt − stop_gradient(ln dt)) still pushes
    dt down. (In the source system its gradient is zero or NaN, and a network that explodes
    everywhere never recovers.)

    With a reference, whose time is T, both ends lead back from however far: where ln ε has no slope that means
    anything, r has that of ln dt, and its value goes on with dt, so that r² has no plateau to be lost on.

        ε < f, below the band:  −r = L + g(ln(1 + f^{1/3} T/dt)),   ∂r/∂ ln dt > 0,
                                f = max(rounding, 1e-12), L = ln E_lower − ln(f + 1e-12)
        ε > w:                   r = W + g(ln ε/w),   ∂r/∂ ln dt > 0 that of an error ~ dt³, as ln ε of that size has
                                any slope; w = max(10⁶, E_upper), W = ln w/E_upper
        exploded:                r = U + g(max(ln(dt/T) − U, 0)),   ∂r/∂ ln dt > 0, U = −ln E_upper

    with g(z) = √(R² + 2Rz) − R, R the L, U or W that stands before it (at least 1): r² grows like z, so that the
    gradient is as large far away as near. f^{1/3} T is where a step of order 2 might have the error f.

    Args:
        energy_error: ε ≥ 0, any shape.
        dt: the predicted step > 0, the same shape.
        exploded: bool, the same shape; where True, ε is not used.
        E_lower: lower edge of the band, > 0.
        E_upper: upper edge, > E_lower.
        reference: what is known of rounding and of time, the same shape; None for nothing.

    Returns:
        r, the same shape, dimensionless, and its gradient, finite for finite dt.
    """
    x = (torch.where(exploded, torch.ones_like(energy_error), energy_error) + number(_GUARD, energy_error)).log()
    above, below = (x - number(math.log(E_upper), x)).clamp(min=0), (math.log(E_lower) - x).clamp(min=0)
    usable = dt.isfinite() & (dt > 0)
    positive = torch.where(usable, dt, torch.ones_like(dt))
    log_dt = positive.log()
    push, far = log_dt - log_dt.detach(), torch.full_like(x, -math.log(E_upper))  # far: where ε is 1
    if reference is None:
        return torch.where(exploded, push + far, above - below)
    usable = usable & reference.time.isfinite() & (reference.time > 0)
    length = log_dt - torch.where(usable, reference.time, positive).log()
    floor = reference.rounding.clamp(min=_GUARD)
    lost = ~exploded & usable & floor.isfinite() & (energy_error < floor) & (below > 0)
    floor = torch.where(lost, floor, torch.ones_like(floor))  # before it is used: that of an exploded one is none
    # A floor above the band tells no more than ε itself.
    low = math.log(E_lower) - torch.where(floor < E_lower, (floor + _GUARD).log(), x).detach()
    short = torch.where(lost, floor.log() / _POWER - length, torch.zeros_like(length)).detach()
    deep = low + _grow(_log_one_plus_exp(short) - push, low)
    edge = math.log(max(_WILD, E_upper))  # in ln ε
    beyond = (x.detach() - edge).clamp(min=0) + number(_POWER, push) * push
    high = torch.where(x > edge, far + edge + _grow(beyond, far + edge), above)
    burst = far + _grow((length - far).clamp(min=0).detach() + push, far)
    return torch.where(exploded, burst, high - torch.where(lost, deep, below))


def _grow(z: Tensor, base: Tensor) -> Tensor:
    """√(R² + 2Rz) − R with R = max(base, 1), of z ≥ 0."""
    R = base.clamp(min=1)
    return (R * R + 2 * R * z).sqrt() - R


def _log_one_plus_exp(x: Tensor) -> Tensor:
    """ln(1 + eˣ), which does not overflow."""
    return x.clamp(min=0) + (1 + (-x.abs()).exp()).log()


def compute_single_step_loss(
    energy_error: Tensor, dt: Tensor, exploded: Tensor, *, E_lower: float = 1e-6, E_upper: float = 1e-4
) -> Tensor:
    """Band loss of one step: max(ln E_lower − x, 0)² + max(x − ln E_upper, 0)² with x = ln(ε + 1e-12).

    Args:
        energy_error: ε ≥ 0, any shape.
        dt: the predicted step > 0, the same shape.
        exploded: bool, the same shape; such a step counts as ε = 1 and its gradient pushes dt down.
        E_lower: lower edge of the band, > 0.
        E_upper: upper edge, > E_lower.

    Returns:
        The loss, the same shape, ≥ 0: the square of `band_residual` without a reference. (What training minimises has
        one, as `build_objective` says: below rounding, above ε = 10⁶ and where a step explodes it is another number.)

    Raises:
        ValueError: unless 0 < E_lower < E_upper.
    """
    check_band("compute_single_step_loss", E_lower, E_upper)
    return band_residual(energy_error, dt, exploded, E_lower=E_lower, E_upper=E_upper) ** 2


def check_all_pass(accepted: Tensor) -> Tensor:
    """Whether every sample passed, (B,) bool -> () bool. Of no samples: True."""
    return accepted.all()


def aggregate_minibatch_loss(losses: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Mean loss of the chosen samples, of none 0.

    Args:
        losses: (B,).
        chosen: (B,) bool, the samples that count; all of them if None.

    Returns:
        (), dimensionless.
    """
    if chosen is None:
        chosen = torch.ones_like(losses, dtype=torch.bool)
    total = torch.where(chosen, losses, torch.zeros_like(losses)).sum()
    return total / chosen.sum().clamp(min=1)


def check_band(where: str, E_lower: float, E_upper: float) -> None:
    """Raise ``ValueError`` unless 0 < E_lower < E_upper."""
    require(E_lower > 0, f"{where}: E_lower must be > 0 (a relative energy error, e.g. 1e-6), got {E_lower}")
    require(E_upper > E_lower, f"{where}: E_upper must be > E_lower = {E_lower}, got {E_upper}")


def check_resolution(where: str, name: str, value: float) -> None:
    """Raise ``ValueError`` if a relative energy error is smaller than the precision in which energies are summed."""
    least = torch.finfo(torch.float64).eps
    require(
        value >= least,
        f"{where}: {name} must be >= {least:.2g}, the precision of energies in float64, got {value}: below it only "
        "chance, or a step that moves nothing, has such an error; 1e-13 is within reach of most systems",
    )
