"""Massless bodies of ONE system: the energy of each, and the work that the others do on it.

No energy of the system depends on a massless body. To it the bodies with mass are a field that moves, and as in an
external field that does

    hᵢ = ½|vᵢ|² + φ(xᵢ, t) − ∫ ∂ₜφ(xᵢ, t) dt

is conserved, in any frame that moves uniformly; here in that of the centre of mass, where the work is small beside h.
(With an external field it is the frame of that.) hᵢ is the energy that a body of mass m would have and exchange with
the others, per m, as m → 0.

A system with massless bodies carries the work on each behind that on the whole: ``work`` is (1 + N,), and () where all
bodies have mass, which then cost nothing.
"""

import torch
from torch import Tensor

from ..base.check import has_room
from ..base.types import System
from .gravity import Gravity


def work_rates(gravity: Gravity, system: System, power: Tensor) -> Tensor:
    """How fast the work of ONE system grows, in the shape that it has.

    Args:
        gravity: the forces.
        system: where, and how fast the bodies move.
        power: (), what a field does to the system as a whole.

    Returns:
        () or (1 + N,): mass · length² / time³, and after the first per unit of mass.
    """
    if not has_room(system):
        return power
    return torch.cat([power[None], gravity.potential_rates(system)])


def own_energies(gravity: Gravity, system: System) -> tuple[Tensor, Tensor]:
    """hᵢ of every body of ONE system that carries the work on each, and ½|vᵢ|² + |φᵢ|.

    Of a body with mass h is not conserved, as it acts on the others.

    Args:
        gravity: the forces.
        system: one system, `has_room`.

    Returns:
        (h, size), (N,) each, (length / time)².
    """
    kinetic, potential = 0.5 * gravity.judged(system).velocity.pow(2).sum(-1), gravity.potentials(system)
    return kinetic + potential - system.work[1:], kinetic + potential.abs()
