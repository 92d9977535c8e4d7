"""What rounding alone does to the energy of ONE step, and so which thresholds can be met at all.

A step that is too short to make an error of its own still has one: coordinates are rounded to their dtype after every
kick and drift, and both energies are sums that were rounded too. A threshold below that is met by chance, or by a step
so short that it changes no number: that one has an error of 0, and is the cheat dt → 0 at its plainest. (So strictly
every threshold can be met; what is said here is whether a step that moves the bodies can meet it.)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.types import Reference, System
from ..physics.gravity import Gravity, in_double
from ..physics.massless import own_energies
from .energies import energy_and_size, largest, weigh

MARGIN = 0.5
"""Thresholds below this part of the rounding error are called out of reach: at most two attempts in five meet them.

The estimate is right within a factor of two (`rounding_error`), so one that could be met honestly is not."""

SAFE = 10.0
"""A threshold of so many rounding errors is met by every step that is short enough."""

_ROUNDING = 24**-0.5  # rms of one rounding, of a number whose last digit is worth between eps/2 and eps of it
_SUMS = 8**-0.5  # rms of a sum that was rounded, in eps of its largest partial sum: two energies of some terms each


class Limit(NamedTuple):
    """What a step is judged by, and what rounding makes of that."""

    energy_threshold: float
    rounding_error: Callable[[System], Tensor]  # of ONE system -> (); of the relative energy error
    time: Callable[[System], Tensor] | None = None  # of ONE system -> (), as `time_of_change`; None: the loss is the
    # source system's, which knows neither

    def reference(self, system: System) -> Reference | tuple[()]:
        """What the loss of a step of ONE system compares ε and dt with; () where the loss is the source system's."""
        if self.time is None:
            return ()
        rounding, time = (f(system).to(system.time) for f in (self.rounding_error, self.time))
        return Reference(SAFE * rounding, time)


def time_of_change(system: System, *, gravity: Gravity) -> Tensor:
    """The shortest time in which a body of ONE system is accelerated to a speed such as it has or falls with.

        T = min over bodies of ((v² + |φ|) / a²)^{1/2},   v as energies are weighed

    Args:
        system: one system.
        gravity: its forces, and the frame in which energies are weighed.

    Returns:
        (), time, constant to the derivative; infinite if nothing accelerates any body. It is a scale and no more: a
        constant in the potential of an external field, which means nothing, makes it longer.
    """
    heavy = in_double(system)
    squared = gravity.judged(heavy).velocity.pow(2).sum(-1) + gravity.potentials(heavy).abs()
    force = gravity.acceleration(heavy.mass, heavy.position, heavy.time).pow(2).sum(-1)
    moved = force > 0
    ratio = squared / torch.where(moved, force, torch.ones_like(force))
    return torch.where(moved, ratio, torch.full_like(ratio, torch.inf)).amin(0).sqrt().detach()


def rounding_error(system: System, *, gravity: Gravity, energy_scale: str, evaluations: int = 1) -> Tensor:
    """The relative energy error that rounding gives a step of ONE system, however short: its standard deviation.

        σ² = ε_E² (K + |W|)²/8 + n ε² (2 Σ (m v²)² + Σ (m a x)²)/24,   divided by the energy that errors are relative to

    with ε_E the precision of energies (float64), ε that of the state, and sums over bodies and coordinates: each of n
    kick-drift-kicks rounds every velocity twice, which costs m v δv, and every position once, which costs the force
    times δx. A position is rounded by a part of ITS size: a binary far from the origin has a large error, and should be
    moved there; so with velocities, one v of the two in v² being that in the frame in which energies are weighed.
    Roundings are independent, so their squares add up. Where K and W cancel, all is divided by little. Of a massless
    body it is the same without m, and the largest is returned.

    Measured over random steps of clusters of 2 to 256 bodies, eccentric, hierarchical and displaced binaries, in both
    precisions, with all integrators, the rms error was between 0.5 and 4 times this, for most within a factor of 1.5.

    Args:
        system: one system.
        gravity: weighs the energy.
        energy_scale: "total", "kinetic" or "source", as in `attempt_single_step`.
        evaluations: n ≥ 1, force evaluations of a step.

    Returns:
        (), dimensionless, in float64 (on devices without it in the system's dtype).
    """
    heavy = in_double(system)
    seen = heavy if energy_scale == "source" else gravity.judged(heavy)
    force = gravity.acceleration(heavy.mass, heavy.position, heavy.time)
    # Of every body and per unit of its mass. Velocities are rounded as they are given, and weighed as they are judged.
    kicks, drifts = (seen.velocity * heavy.velocity).pow(2).sum(-1), (force * heavy.position).pow(2).sum(-1)
    spread = evaluations * (2 * kicks + drifts)
    squares = (heavy.mass**2 * spread).sum()
    size = energy_and_size(heavy, gravity, energy_scale)[1] + gravity.external_energy(heavy).abs()
    _, scale = weigh(heavy, gravity, energy_scale)
    if scale.ndim:  # massless bodies have errors of their own; where a body has none, it is relative to 1, and 0
        massless = heavy.mass == 0
        own = torch.where(massless, own_energies(gravity, heavy)[1], torch.zeros_like(spread))
        squares = torch.cat([squares[None], torch.where(massless, spread, torch.zeros_like(spread))])
        size = torch.cat([size[None], own])
    of_state = _ROUNDING * torch.finfo(system.mass.dtype).eps * squares.sqrt()
    of_sums = _SUMS * torch.finfo(heavy.mass.dtype).eps * size
    return largest(((of_state / scale).square() + (of_sums / scale).square()).sqrt())
