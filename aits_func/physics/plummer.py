"""Plummer's star cluster as initial conditions, in Hénon's N-body units."""

import math

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import make_system
from ..base.rng import generator
from ..base.types import System
from .draws import check_counts, check_positive
from .gravity import kinetic_energy, mutual_potential_energy
from .invariants import to_centre_of_mass

_CUT = 10.0  # radius at which the sphere ends, in Plummer lengths


def plummer_sphere(seed: int, count: int, *, bodies: int = 16, exact_units: bool = True, G: float = 1.0) -> System:
    """Star clusters of equal masses after Plummer, in Hénon's units: total mass 1, energy −G/4.

    With X uniform, a body stands at r = (X^{−2/3} − 1)^{−1/2} in a random direction and moves at
    q times the local escape speed √2 (1 + r²)^{−1/4}, q with density ∝ q² (1 − q²)^{7/2}. Then
    lengths are multiplied by 3π/16 and speeds by √(16/3π), and the centre of mass is moved to rest
    at the origin.

    These units hold on average over many bodies, and within 3 % for the cut below. With
    ``exact_units`` positions and velocities are then scaled (virial scaling) so that every system
    has W = −G/2 and K = G/4 to rounding: energy −G/4, virial ratio K/|W| = 1/2.

    Deviations: q and the direction of motion come from twelve Gaussian numbers, as q² is
    χ²(3) / χ²(12) distributed and the number of draws is then fixed, not by rejection; and the
    sphere ends at 10 Plummer lengths (outside of which are 1.5 % of the mass), as one body in
    a thousand would else be at more than 38.

    Args:
        seed: key of the draw.
        count: number of systems B, ≥ 1.
        bodies: N, ≥ 2.
        exact_units: whether to scale every system to W = −G/2 and K = G/4.
        G: gravitational constant, > 0.

    Returns:
        A batched `System` in three dimensions: mass 1/N (B, N), position and velocity (B, N, 3).

    Raises:
        ValueError: if a parameter is out of its range.

    Source: Plummer 1911, MNRAS 71, 460; Aarseth, Hénon & Wielen 1974, A&A 37, 183, appendix; units:
        Heggie & Mathieu 1986, in The Use of Supercomputers in Stellar Dynamics, 233.
    """
    where = "plummer_sphere"
    check_counts(where, count, bodies=bodies)
    check_positive(where, "G", G, "1 in N-body units")
    rng = generator(seed, where)
    inside = (1 + _CUT**-2) ** -1.5
    X = inside * torch.rand(count, bodies, generator=rng, dtype=torch.float64)
    radius = X ** (1 / 3) / (1 - X ** (2 / 3)).sqrt()
    direction = torch.randn(count, bodies, 3, generator=rng, dtype=torch.float64)
    gaussian = torch.randn(count, bodies, 12, generator=rng, dtype=torch.float64)
    escape = (4 / (1 + radius**2)) ** 0.25
    length, speed = 3 * math.pi / 16, math.sqrt(16 * G / (3 * math.pi))
    position = length * radius[..., None] * direction / _norm(direction)
    velocity = speed * escape[..., None] * gaussian[..., :3] / _norm(gaussian)
    mass = torch.full((count, bodies), 1 / bodies, dtype=torch.float64)
    system = vmap(to_centre_of_mass)(make_system(mass, position, velocity))
    return vmap(lambda one: _to_exact_units(one, G))(system) if exact_units else system


def _to_exact_units(system: System, G: float) -> System:
    """Positions and velocities scaled to W = −G/2 and K = G/4."""
    W = mutual_potential_energy(system.mass, system.position, G=G, softening=0.0)
    K = kinetic_energy(system)
    return system._replace(position=system.position * (-W / (G / 2)), velocity=system.velocity * (G / 4 / K).sqrt())


def _norm(x: Tensor) -> Tensor:
    return x.pow(2).sum(-1, keepdim=True).sqrt()
