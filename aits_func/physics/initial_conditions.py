"""Generators of initial conditions: (seed, count, *, parameters) -> a batch of systems.

Every generator returns ``count`` systems of one shape as a batched `System`: leading axis B =
``count``, float64 on the CPU, at time 0, seen from their centre of mass. The same seed gives the
same bits. A parameter of type `Range` is a pair (low, high), drawn from uniformly; (x, x) is
exactly x.
"""

import math

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import make_system, require, require_choice
from ..base.rng import generator
from ..base.types import System
from .draws import Range, check_counts, check_positive, check_range, inclinations, orientations, uniform
from .invariants import to_centre_of_mass
from .orbits import eccentric_anomaly, relative_orbit, rotation, two_body_orbit

_MAX_ROUNDS = 1000  # of redrawing; at most 3 in 4 draws are refused, and 0.75**1000 is 1e-125


def gaussian_cluster(
    seed: int,
    count: int,
    *,
    bodies: int = 3,
    dimensions: int = 2,
    position_scale: float = 0.1,
    velocity_scale: float = 1.0,
    mass_range: Range = (1.0, 1.0),
) -> System:
    """Bodies with Gaussian positions and velocities, moved to their centre of mass.

    Args:
        seed: key of the draw.
        count: number of systems B, ≥ 1.
        bodies: N, ≥ 2.
        dimensions: D, 2 or 3.
        position_scale: standard deviation of each coordinate before centring, length, > 0.
        velocity_scale: the same of each velocity component, length / time, ≥ 0 (0: at rest).
        mass_range: range of each mass, > 0.

    Returns:
        A batched `System`: mass (B, N), position and velocity (B, N, D).

    Raises:
        ValueError: if a parameter is out of its range.

    Source: the defaults are those of the training routine that this package grew from.
    """
    where = "gaussian_cluster"
    check_counts(where, count, bodies=bodies, dimensions=dimensions)
    check_positive(where, "position_scale", position_scale, "a length")
    require(
        0 <= velocity_scale < math.inf,
        f"{where}: velocity_scale must be >= 0 and finite (0 for bodies at rest), got {velocity_scale}",
    )
    check_range(where, "mass_range", mass_range, "(0, inf)")
    rng = generator(seed, where)
    shape = (count, bodies, dimensions)
    position = position_scale * torch.randn(shape, generator=rng, dtype=torch.float64)
    velocity = velocity_scale * torch.randn(shape, generator=rng, dtype=torch.float64)
    return _centred(uniform(rng, mass_range, count, bodies), position, velocity)


def binaries(
    seed: int,
    count: int,
    *,
    eccentricity: Range = (0.6, 0.95),
    semi_major_axis: Range = (0.8, 1.2),
    mass_ratio: Range = (1.0, 1.0),
    total_mass: float = 2.0,
    dimensions: int = 2,
    phase: str = "pericentre",
    G: float = 1.0,
) -> System:
    """Bound two-body orbits with elements drawn uniformly, turned at random.

    In three dimensions the orientation is isotropic. In two the argument of pericentre is uniform
    and every orbit runs counter-clockwise. With ``phase="random"`` the mean anomaly is uniform,
    as if the binary were met at a random time. The default total mass 2 makes two bodies of mass 1.

    Args:
        seed: key of the draw.
        count: number of systems B, ≥ 1.
        eccentricity: range of e, within [0, 1).
        semi_major_axis: range of a, length, > 0.
        mass_ratio: range of m₁/m₀, ≥ 0 (0: body 1 is a test particle).
        total_mass: m₀ + m₁, > 0.
        dimensions: D, 2 or 3.
        phase: where on the orbit to start, "pericentre" or "random".
        G: gravitational constant, > 0.

    Returns:
        A batched `System` of 2 bodies: mass (B, 2), position and velocity (B, 2, D).

    Raises:
        ValueError: if a parameter is out of its range.

    Source: the defaults are those of the training routine that this package grew from.
    """
    where = "binaries"
    check_counts(where, count, dimensions=dimensions)
    check_range(where, "eccentricity", eccentricity, "[0, 1)")
    check_range(where, "semi_major_axis", semi_major_axis, "(0, inf)")
    check_range(where, "mass_ratio", mass_ratio, "[0, inf)")
    check_positive(where, "total_mass", total_mass, "2 for two bodies of mass 1")
    check_positive(where, "G", G, "1 in N-body units")
    require_choice(where, "phase", phase, ("pericentre", "random"))
    rng = generator(seed, where)
    e, a, q = (uniform(rng, bounds, count) for bounds in (eccentricity, semi_major_axis, mass_ratio))
    node, inclination, pericentre = orientations(rng, count, dimensions)
    mean_anomaly = uniform(rng, (-math.pi, math.pi), count)
    return two_body_orbit(
        mass=total_mass * torch.stack([1 / (1 + q), q / (1 + q)], -1),
        semi_major_axis=a,
        eccentricity=e,
        mean_anomaly=mean_anomaly if phase == "random" else None,
        inclination=inclination,
        longitude_of_ascending_node=node,
        argument_of_pericentre=pericentre,
        dimensions=dimensions,
        G=G,
    )


def hierarchical_triple(
    seed: int,
    count: int,
    *,
    inner_semi_major_axis: Range = (1.0, 1.0),
    semi_major_axis_ratio: Range = (10.0, 20.0),
    inner_eccentricity: Range = (0.0, 0.5),
    outer_eccentricity: Range = (0.0, 0.5),
    mutual_inclination: Range = (0.0, 0.0),
    mass_range: Range = (1.0, 1.0),
    dimensions: int = 2,
    G: float = 1.0,
) -> System:
    """A binary (bodies 0 and 1) and a third body (2) on a wide orbit about its centre of mass.

    Both orbits are osculating Kepler orbits with the elements drawn uniformly, their arguments of
    pericentre and mean anomalies uniform over the circle, the inner node uniform on the outer
    plane, cos(mutual inclination) uniform in its range, so that (0, π) is isotropic; then the
    whole is turned at random. For equal masses the defaults are stable by Mardling & Aarseth;
    other ranges need not be: only orbits that could cross are refused.

    Args:
        seed: key of the draw.
        count: number of systems B, ≥ 1.
        inner_semi_major_axis: range of a_in, length, > 0.
        semi_major_axis_ratio: range of a_out / a_in.
        inner_eccentricity: range of e_in, within [0, 1).
        outer_eccentricity: range of e_out, within [0, 1).
        mutual_inclination: range, radians, within [0, π]; (0, 0) in two dimensions.
        mass_range: range of each of the three masses, > 0.
        dimensions: D, 2 or 3.
        G: gravitational constant, > 0.

    Returns:
        A batched `System` of 3 bodies: mass (B, 3), position and velocity (B, 3, D).

    Raises:
        ValueError: if a parameter is out of its range, or the smallest outer pericentre
            ratio · (1 − e_out) is not above the largest inner apocentre 1 + e_in.

    Source: Mardling & Aarseth 2001, MNRAS 321, 398, equation 90 (stability).
    """
    where = "hierarchical_triple"
    check_counts(where, count, dimensions=dimensions)
    check_range(where, "inner_semi_major_axis", inner_semi_major_axis, "(0, inf)")
    check_range(where, "semi_major_axis_ratio", semi_major_axis_ratio, "(0, inf)")
    check_range(where, "inner_eccentricity", inner_eccentricity, "[0, 1)")
    check_range(where, "outer_eccentricity", outer_eccentricity, "[0, 1)")
    check_range(where, "mutual_inclination", mutual_inclination, "[0, pi]")
    check_range(where, "mass_range", mass_range, "(0, inf)")
    check_positive(where, "G", G, "1 in N-body units")
    require(
        dimensions == 3 or mutual_inclination[1] == 0,
        f"{where}: mutual_inclination must be (0, 0) in two dimensions, got {mutual_inclination}; set dimensions=3",
    )
    closest, widest = semi_major_axis_ratio[0] * (1 - outer_eccentricity[1]), 1 + inner_eccentricity[1]
    require(
        closest > widest,
        f"{where}: the outer pericentre, ratio (1 - e) = {closest:g} inner axes, must be > the inner apocentre, "
        f"1 + e = {widest:g}; raise semi_major_axis_ratio or lower the eccentricities",
    )
    rng = generator(seed, where)
    mass = uniform(rng, mass_range, count, 3)
    a_in = uniform(rng, inner_semi_major_axis, count)
    a_out = a_in * uniform(rng, semi_major_axis_ratio, count)
    e_in, e_out = uniform(rng, inner_eccentricity, count), uniform(rng, outer_eccentricity, count)
    tilt = inclinations(rng, mutual_inclination, count)
    whole = rotation(*orientations(rng, count, dimensions))
    node, pericentre, phase_in, phase_out = (uniform(rng, (-math.pi, math.pi), count) for _ in range(4))
    pair = mass[:, :2].sum(-1)
    inner = relative_orbit(
        G * pair, a_in, e_in, eccentric_anomaly(phase_in, e_in), whole @ rotation(node, tilt, pericentre)
    )
    outer = relative_orbit(G * mass.sum(-1), a_out, e_out, eccentric_anomaly(phase_out, e_out), whole)
    share = (mass[:, 1] / pair)[:, None]

    def place(near: Tensor, far: Tensor) -> Tensor:
        """Jacobi coordinates to those of the bodies, the inner centre of mass at the origin."""
        return torch.stack([-share * near, (1 - share) * near, far], 1)[..., :dimensions]

    return _centred(mass, place(inner[0], outer[0]), place(inner[1], outer[1]))


def free_fall_triple(
    seed: int,
    count: int,
    *,
    minimum_separation: float = 0.01,
    mass_range: Range = (1.0, 1.0),
    dimensions: int = 2,
) -> System:
    """Three bodies at rest: bodies 0 and 1 at (∓½, 0), body 2 uniform in Agekian & Anosova's region D,

        x ≥ 0,   y ≥ 0,   (x + ½)² + y² ≤ 1,

    which holds every shape of triangle once: the first two are the farthest apart, and body 2 is
    nearer to body 1. Then the centre of mass is moved to the origin, and in three dimensions the
    plane is turned at random. A place within ``minimum_separation`` of body 1, where the two would
    collide at once, is drawn again; the number of draws depends on nothing but the arguments.

    Args:
        seed: key of the draw.
        count: number of systems B, ≥ 1.
        minimum_separation: smallest distance of bodies 1 and 2, length, 0 < s ≤ 0.5 (the distance
            of bodies 0 and 1 is 1).
        mass_range: range of each of the three masses, > 0.
        dimensions: D, 2 or 3.

    Returns:
        A batched `System` of 3 bodies: mass (B, 3), position (B, 3, D), velocity zero.

    Raises:
        ValueError: if a parameter is out of its range.

    Source: Agekian & Anosova 1967, Astronomicheskii Zhurnal 44, 1261.
    """
    where = "free_fall_triple"
    check_counts(where, count, dimensions=dimensions)
    check_range(where, "mass_range", mass_range, "(0, inf)")
    require(
        0 < minimum_separation <= 0.5,
        f"{where}: minimum_separation must be in (0, 0.5] (bodies 0 and 1 are 1 apart), got {minimum_separation}",
    )
    rng = generator(seed, where)
    mass = uniform(rng, mass_range, count, 3)
    third = _draw_in_region(rng, count, minimum_separation)
    first = torch.tensor([[-0.5, 0.0], [0.5, 0.0]], dtype=torch.float64).expand(count, 2, 2)
    position = torch.cat([first, third[:, None, :]], 1)
    if dimensions == 3:
        plane = rotation(*orientations(rng, count, dimensions))[..., :2]
        position = position @ plane.mT
    return _centred(mass, position, torch.zeros_like(position))


def _draw_in_region(rng: torch.Generator, count: int, separation: float) -> Tensor:
    """Uniform places (count, 2) in region D, farther than ``separation`` from (½, 0), by redrawing."""
    box = torch.tensor([0.5, math.sqrt(0.75)], dtype=torch.float64)
    place = torch.zeros(count, 2, dtype=torch.float64)
    missing = torch.ones(count, dtype=torch.bool)
    for _ in range(_MAX_ROUNDS):
        draw = box * torch.rand(count, 2, generator=rng, dtype=torch.float64)
        x, y = draw.unbind(-1)
        inside = ((x + 0.5) ** 2 + y**2 <= 1) & (torch.hypot(x - 0.5, y) > separation)
        place = torch.where((missing & inside)[:, None], draw, place)
        missing = missing & ~inside
        if not bool(missing.any()):
            return place
    raise RuntimeError("free_fall_triple: no place found in region D; please report the arguments as a bug")


def _centred(mass: Tensor, position: Tensor, velocity: Tensor) -> System:
    return vmap(to_centre_of_mass)(make_system(mass, position, velocity))
