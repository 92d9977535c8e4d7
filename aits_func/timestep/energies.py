"""What ONE system is judged by: its energy and those of its massless bodies, and what errors of them are relative to.

Energies that judge are internal ones. How fast a system moves as a whole is no property of its steps, and would be a
scale that makes every error small; so the centre of mass is at rest where energies are weighed. With an external field
the frame is the field's, in which alone its potential is conserved.

No energy of the system depends on a massless body. Each is judged by its own (see `massless`), relative to ½v² + |φ|,
and the error of a system is the largest of all. So an array of energies is () for a system whose bodies all have mass,
and else (1 + N,): that of the system, and one for each body, 0 where it has mass.
"""

import torch
from torch import Tensor

from ..base.check import has_room
from ..base.types import System
from ..learning.losses import energy_divisor, guarded_energy
from ..physics.gravity import Gravity, kinetic_energy, work_on_all
from ..physics.massless import own_energies

ENERGY_SCALES = ("total", "kinetic", "source")
"""What an error of the system's energy is relative to: |E₀| (at least 10⁻¹² of K₀ + |W₀|); K₀ + |W₀|; or, as in the
source system, |E₀ + 10⁻¹² |E₀| + 10⁻¹²|, which is bound to the unit of energy. The last is that system's number as it
stands: in the frame that is given, and blind to massless bodies."""


def energies(system: System, gravity: Gravity, energy_scale: str) -> Tensor:
    """The conserved energies of a system.

    Args:
        system: one system, in the dtype in which it is to be weighed (see `in_double`).
        gravity: weighs the energy.
        energy_scale: one of `ENERGY_SCALES`.

    Returns:
        () or (1 + N,): mass · length² / time², and after the first (length / time)².
    """
    energy, _ = energy_and_size(system, gravity, energy_scale)
    if energy_scale == "source" or not has_room(system):
        return energy
    return torch.cat([energy[None], _of_massless(system, gravity)[0]])


def weigh(system: System, gravity: Gravity, energy_scale: str) -> tuple[Tensor, Tensor]:
    """The energies of a system, and what errors of them are relative to.

    Args:
        system: one system, in the dtype in which it is to be weighed (see `in_double`).
        gravity: weighs the energy.
        energy_scale: one of `ENERGY_SCALES`.

    Returns:
        (E₀, scale), () or (1 + N,) each; the scale is > 0, and the smallest number for a system that has no energy.
    """
    energy, size = energy_and_size(system, gravity, energy_scale)
    if energy_scale == "source":
        return energy, energy_divisor(energy)
    scale = size if energy_scale == "kinetic" else guarded_energy(energy, size)
    if has_room(system):
        own, own_size = _of_massless(system, gravity)
        energy, scale = torch.cat([energy[None], own]), torch.cat([scale[None], own_size])
    return energy, scale.clamp(min=torch.finfo(scale.dtype).tiny)  # of a system without energy the error is 0


def _of_massless(system: System, gravity: Gravity) -> tuple[Tensor, Tensor]:
    """h and ½v² + |φ| of every massless body of a system that has room, (N,) each; 0 and 1 where the body has mass."""
    massless = system.mass == 0
    own, size = own_energies(gravity, system)
    return torch.where(massless, own, torch.zeros_like(own)), torch.where(massless, size, torch.ones_like(own))


def energy_and_size(system: System, gravity: Gravity, energy_scale: str) -> tuple[Tensor, Tensor]:
    """The energy of a system as a whole, E = K + W − work, and K + |W|.

    Args:
        system: one system, in the dtype in which it is to be weighed (see `in_double`).
        gravity: weighs the energy.
        energy_scale: one of `ENERGY_SCALES`; of "source" K is that in the frame that is given.

    Returns:
        (E, K + |W|), () each, mass · length² / time².
    """
    kinetic = kinetic_energy(system if energy_scale == "source" else gravity.judged(system))
    potential = gravity.potential_energy(system)
    return kinetic + potential - work_on_all(system), kinetic + potential.abs()


def potentials_of(system: System, gravity: Gravity, energy_scale: str) -> Tensor:
    """|W| of a system and |φ| of its bodies, in the shape of its `energies`; infinite where the body has mass.

    Args:
        system: one system, in the dtype in which it is to be weighed.
        gravity: weighs the energy.
        energy_scale: one of `ENERGY_SCALES`.

    Returns:
        () or (1 + N,), ≥ 0.
    """
    whole = gravity.potential_energy(system).abs()
    if energy_scale == "source" or not has_room(system):
        return whole
    own = gravity.potentials(system).abs()
    return torch.cat([whole[None], torch.where(system.mass == 0, own, torch.full_like(own, torch.inf))])


def largest(errors: Tensor) -> Tensor:
    """The largest of the relative errors of one system, () or (1 + N,), as (); NaN if one is."""
    return errors.amax(0) if errors.ndim else errors


def unseen(system: System) -> Tensor:
    """Whether ONE system has massless bodies and no room for the work on them, so that their errors are not known; ().

    `make_system` and the loops make the room (see `make_room`); inside of ``vmap`` nobody can.
    """
    if has_room(system):
        return torch.zeros_like(system.time, dtype=torch.bool)
    return (system.mass == 0).any()
