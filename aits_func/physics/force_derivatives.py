"""Derivatives of the acceleration of ONE system that criteria ask for beyond jerk and snap: one more along the
motion, and the one in space.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..base.forward_mode import jvp
from ..base.types import System
from .gravity import Derivatives, Gravity, at_bodies
from .pairs import inverse_distance


class FourDerivatives(NamedTuple):
    """Acceleration of every body and its first three time derivatives along the motion, (N, D) each."""

    acceleration: Tensor  # (N, D)  length / time²
    jerk: Tensor  # (N, D)  length / time³
    snap: Tensor  # (N, D)  length / time⁴
    crackle: Tensor  # (N, D)  length / time⁵


def derivatives_to_crackle(gravity: Gravity, system: System) -> FourDerivatives:
    """Acceleration, jerk and snap in closed form, and crackle by forward mode of the snap along the motion.

    Args:
        gravity: forces.
        system: one system.

    Returns:
        `FourDerivatives`, four (N, D).
    """

    def along(position: Tensor, velocity: Tensor, time: Tensor) -> Derivatives:
        return gravity.derivatives(system._replace(position=position, velocity=velocity, time=time))

    here = (system.position, system.velocity, system.time)
    acceleration = gravity.acceleration(system.mass, system.position, system.time)
    motion = (system.velocity, acceleration, torch.ones_like(system.time))
    value, rate = jvp(along, here, motion)
    return FourDerivatives(value.acceleration, value.jerk, value.snap, rate.snap)


def crackle(gravity: Gravity, system: System) -> Tensor:
    """The third time derivative of every acceleration along the motion, d³a/dt³.

    Args:
        gravity: forces.
        system: one system.

    Returns:
        (N, D), length / time⁵.
    """
    return derivatives_to_crackle(gravity, system).crackle


def tidal_tensor(gravity: Gravity, system: System) -> Tensor:
    """How the acceleration of every body changes with its own place, Tᵢ = ∂aᵢ/∂xᵢ, the other bodies held:

        Tᵢ = Σⱼ≠ᵢ G mⱼ (3 d dᵀ/R⁵ − I/R³) + ∂a_ext/∂x,   d = xⱼ − xᵢ,  R² = d² + s²

    always in three dimensions: bodies in a plane have a tide across it, −Σ G mⱼ/R³. The part of an external
    field is known in the D dimensions of the system alone, and stands in the first D rows and columns.

    Args:
        gravity: forces, external field included.
        system: one system.

    Returns:
        (N, 3, 3), 1 / time².
    """
    dimensions = system.position.shape[1]
    flat = torch.nn.functional.pad(system.position, (0, 3 - dimensions))
    d = flat[None, :, :] - flat[:, None, :]  # (N, N, 3), from i to j
    inverse = inverse_distance(d, gravity.softening)
    weight = gravity.G * system.mass * inverse**3
    unit = d * inverse[:, :, None]  # so that no power above R⁻³ can overflow
    identity = torch.eye(3, dtype=flat.dtype, device=flat.device)
    mutual = torch.einsum("ij,ijk,ijl->ikl", 3 * weight, unit, unit) - weight.sum(1)[:, None, None] * identity
    return mutual + torch.nn.functional.pad(_external_tide(gravity, system), (0, 3 - dimensions, 0, 3 - dimensions))


def _external_tide(gravity: Gravity, system: System) -> Tensor:
    """∂a_ext/∂x at every body, (N, D, D): what a lone body without mass feels is the external field alone."""
    massless = torch.zeros_like(system.mass[:1])

    def acceleration(position: Tensor) -> Tensor:
        return at_bodies(lambda x, t: gravity.acceleration(massless, x[None], t)[0], position, system.time)

    # All bodies by one axis after the other: a Jacobian would be forward mode inside of a map more, see `at_bodies`.
    here = system.position
    axes = torch.eye(here.shape[1], dtype=here.dtype, device=here.device)
    return torch.stack([jvp(acceleration, (here,), (axis.expand_as(here),))[1] for axis in axes], -1)
