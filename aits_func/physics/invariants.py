"""What the motion of ONE isolated system conserves, besides its energy (see gravity)."""

import torch
from torch import Tensor

from ..base.types import System


def centre_of_mass(system: System) -> tuple[Tensor, Tensor]:
    """Position and velocity of the centre of mass, (D,) each.

    Args:
        system: one system with some mass.

    Returns:
        (position, velocity), in units of length and length / time.
    """
    weight = (system.mass / system.mass.sum())[:, None]
    return (weight * system.position).sum(0), (weight * system.velocity).sum(0)


def to_centre_of_mass(system: System) -> System:
    """The same system seen from its centre of mass: positions and velocities relative to it.

    Args:
        system: one system with some mass.

    Returns:
        A `System` whose centre of mass rests at the origin.
    """
    position, velocity = centre_of_mass(system)
    return system._replace(position=system.position - position, velocity=system.velocity - velocity)


def linear_momentum(system: System) -> Tensor:
    """Σ mᵢ vᵢ, shape (D,), mass · length / time."""
    return (system.mass[:, None] * system.velocity).sum(0)


def angular_momentum(system: System) -> Tensor:
    """Σ mᵢ xᵢ × vᵢ about the origin: () in two dimensions, (3,) in three; mass · length² / time."""
    x, v = system.position, system.velocity
    if x.shape[-1] == 2:
        return (system.mass * (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0])).sum()
    return (system.mass[:, None] * torch.linalg.cross(x, v)).sum(0)


def at_rest_as_a_whole(system: System) -> System:
    """The same system with its centre of mass at rest. The places stay as they are: an external field knows them."""
    return system._replace(velocity=system.velocity - centre_of_mass(system)[1])
