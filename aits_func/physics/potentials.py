"""The potential at every body of ONE system, in the field of the others, and how fast it changes there.

    φᵢ = −G Σⱼ≠ᵢ mⱼ/R,   ∂ₜφᵢ = G Σⱼ mⱼ d·vⱼ/R³,   d = xⱼ − xᵢ,   R² = |d|² + s²

The second is that at a fixed place: what the motion of the others does to a body besides accelerating it.
"""

import torch
from torch import Tensor

from ..base.forward_mode import jvp
from .pairs import inverse_distance
from .tiled_gravity import MANY_BODIES, tiled_acceleration, tiled_potentials


def mutual_potentials(mass: Tensor, position: Tensor, *, G: float, softening: float) -> Tensor:
    """The potential at every body, of all others.

    Args:
        mass: (N,).
        position: (N, D).
        G: gravitational constant.
        softening: length s.

    Returns:
        (N,), (length / time)²; 0 of one body alone.
    """
    if mass.shape[0] == 1:
        return torch.zeros_like(mass)
    if mass.shape[0] >= MANY_BODIES:
        return tiled_potentials(mass, position, G, softening)
    separation = position[None, :, :] - position[:, None, :]
    return -G * (mass * inverse_distance(separation, softening)).sum(1)


def mutual_potential_rate(mass: Tensor, position: Tensor, velocity: Tensor, *, G: float, softening: float) -> Tensor:
    """How fast the potential changes at the place of every body, as the others move.

    Args:
        mass: (N,).
        position: (N, D).
        velocity: (N, D), of the bodies against the places: in another frame other places are fixed.
        G: gravitational constant.
        softening: length s.

    Returns:
        (N,), (length / time)² / time.
    """
    if mass.shape[0] == 1:
        return torch.zeros_like(mass)
    if mass.shape[0] >= MANY_BODIES:  # the change along the path of the body, less that which its own motion makes
        along: Tensor = jvp(lambda x: tiled_potentials(mass, x, G, softening), (position,), (velocity,))[1]
        return along + (tiled_acceleration(mass, position, G, softening) * velocity).sum(-1)
    separation = position[None, :, :] - position[:, None, :]
    weight = G * mass * inverse_distance(separation, softening) ** 3  # (N, N)
    return (weight[:, :, None] * separation * velocity).sum((1, 2))
