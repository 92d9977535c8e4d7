"""What the energy error of ONE system is relative to: the choices of ``energy_scale``."""

import torch
from torch import Tensor

from ..base.types import System
from ..learning.losses import energy_divisor, guarded_energy
from ..physics.gravity import Gravity, kinetic_energy

ENERGY_SCALES = ("total", "kinetic", "source")
"""|E₀| (at least 10⁻¹² of K₀ + |W₀|), K₀ + |W₀|, and the source system's |E₀ + 10⁻¹² |E₀| + 10⁻¹²|, which is bound to
the unit of energy."""


def weigh(system: System, gravity: Gravity, energy_scale: str) -> tuple[Tensor, Tensor]:
    """The energy of a system, and what an error of it is relative to.

    Args:
        system: one system, in the dtype in which it is to be weighed (see `in_double`).
        gravity: weighs the energy.
        energy_scale: one of `ENERGY_SCALES`.

    Returns:
        (E₀, scale), () each, mass · length² / time²; the scale is > 0, and the smallest number for a system that has no
        energy.
    """
    kinetic, potential = kinetic_energy(system), gravity.potential_energy(system)
    energy, size = kinetic + potential - system.work, kinetic + potential.abs()
    if energy_scale == "source":
        return energy, energy_divisor(energy)
    scale = size if energy_scale == "kinetic" else guarded_energy(energy, size)
    return energy, scale.clamp(min=torch.finfo(scale.dtype).tiny)  # of a system without energy the error is 0
