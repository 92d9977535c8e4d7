"""Kepler orbits of two bodies: from orbital elements to a system, and back.

The orbit is that of body 1 about body 0, r = x₁ − x₀, with the parameter μ = G (m₀ + m₁). Angles
are in radians and have the usual meaning (Murray & Dermott 1999, §2.8): the orbit lies in the xy
plane with its pericentre on the +x axis, and is then turned by R_z(Ω) R_x(i) R_z(ω). In two
dimensions i = 0 and only Ω + ω counts.

Shapes: elements () or (B,), mass (2,) or (B, 2), position and velocity (2, D) or (B, 2, D).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..base.check import make_system, require
from ..base.types import System
from .draws import check_positive

Number: TypeAlias = float | Tensor
"""One number, or a tensor () or (B,)."""

_KEPLER_ITERATIONS = 4
"""Corrections in `eccentric_anomaly`: over all M and e the third is the last that changes anything."""


class OrbitalElements(NamedTuple):
    """Size and shape of a Kepler orbit. Shapes: as the batch of the system, () or (B,)."""

    semi_major_axis: Tensor  # (...)  length; negative on a hyperbola, infinite on a parabola
    eccentricity: Tensor  # (...)  dimensionless; below 1 if and only if bound


def two_body_orbit(
    *,
    mass: Tensor | Sequence[float],
    semi_major_axis: Number,
    eccentricity: Number,
    true_anomaly: Number | None = None,
    mean_anomaly: Number | None = None,
    inclination: Number = 0.0,
    longitude_of_ascending_node: Number = 0.0,
    argument_of_pericentre: Number = 0.0,
    dimensions: int = 2,
    G: float = 1.0,
) -> System:
    """Two bodies on a bound Kepler orbit, seen from their centre of mass. With E the eccentric anomaly,

        r = a (cos E − e, √(1−e²) sin E),   v = √(μ/a) (−sin E, √(1−e²) cos E) / (1 − e cos E)

    in the orbit's own frame; body 0 is at −(m₁/M) r and body 1 at (m₀/M) r.

    Args:
        mass: (2,) or (B, 2), ≥ 0, not both zero.
        semi_major_axis: a of the relative orbit, () or (B,), length, > 0.
        eccentricity: e, () or (B,), 0 ≤ e < 1.
        true_anomaly: angle from pericentre, () or (B,), radians.
        mean_anomaly: the same moment as 2π (time since pericentre) / period, () or (B,), radians.
            Give at most one of the two; with neither the bodies are at pericentre.
        inclination: i, () or (B,), radians; must be 0 in two dimensions.
        longitude_of_ascending_node: Ω, () or (B,), radians.
        argument_of_pericentre: ω, () or (B,), radians.
        dimensions: D, 2 or 3.
        G: gravitational constant, > 0.

    Returns:
        A `System` (2 bodies), batched if any argument is, in the dtype and on the device of
        ``mass`` (float64 if that is no tensor).

    Raises:
        ValueError: if an element is out of its range, shapes disagree, both anomalies are given,
            or the orbit is inclined in two dimensions.

    Source: Murray & Dermott 1999, Solar System Dynamics, §2.4 and §2.8.

    Example:
        >>> system = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.5)
        >>> system.position[1].tolist()
        [0.25, 0.0]
    """
    where = "two_body_orbit"
    require(dimensions in (2, 3), f"{where}: dimensions must be 2 or 3, got {dimensions}")
    check_positive(where, "G", G, "1 in N-body units")
    require(
        true_anomaly is None or mean_anomaly is None,
        f"{where}: true_anomaly and mean_anomaly say the same thing; give one of them, or neither for pericentre",
    )
    m = mass if isinstance(mass, Tensor) else torch.tensor(mass, dtype=torch.float64)
    anomaly = mean_anomaly if true_anomaly is None else true_anomaly
    given = {
        "semi_major_axis": semi_major_axis,
        "eccentricity": eccentricity,
        "mean_anomaly" if true_anomaly is None else "true_anomaly": 0.0 if anomaly is None else anomaly,
        "inclination": inclination,
        "longitude_of_ascending_node": longitude_of_ascending_node,
        "argument_of_pericentre": argument_of_pericentre,
    }
    elements = {name: torch.as_tensor(value, dtype=m.dtype, device=m.device) for name, value in given.items()}
    _check_elements(where, m, elements, dimensions)
    total = m.sum(-1)
    mu, a, e, angle, i, node, pericentre = torch.broadcast_tensors(G * total, *elements.values())
    E = eccentric_anomaly(angle, e) if true_anomaly is None else _from_true_anomaly(angle, e)
    r, v = relative_orbit(mu, a, e, E, rotation(node, i, pericentre))
    shares = torch.stack([-m[..., 1] / total, m[..., 0] / total], -1)[..., None]
    position, velocity = (shares * x[..., None, :dimensions] for x in (r, v))
    return make_system(m.expand(position.shape[:-1]).clone(), position, velocity)


def _check_elements(where: str, mass: Tensor, elements: dict[str, Tensor], dimensions: int) -> None:
    require(
        mass.ndim in (1, 2) and mass.shape[-1] == 2,
        f"{where}: mass must have shape (2,) or (B, 2), got {tuple(mass.shape)}",
    )
    require(
        bool((mass >= 0).all() & (mass.sum(-1) > 0).all() & mass.isfinite().all()),
        f"{where}: mass must be >= 0 and finite, and not both zero, got {mass.tolist()}",
    )
    sizes = {x.shape for x in (mass[..., 0], *elements.values()) if x.ndim}
    require(
        len(sizes) <= 1 and all(len(size) == 1 for size in sizes),
        f"{where}: mass and elements must be of one system or of one batch (B,), got batches "
        f"{sorted(tuple(size) for size in sizes)}",
    )
    for name, value in elements.items():
        require(bool(value.isfinite().all()), f"{where}: {name} must be finite, got NaN or infinity in it")
    a, e, i = elements["semi_major_axis"], elements["eccentricity"], elements["inclination"]
    require(bool((a > 0).all()), f"{where}: semi_major_axis must be > 0 (bound orbits only), got {a.min()}")
    require(
        bool(((e >= 0) & (e < 1)).all()),
        f"{where}: eccentricity must be in [0, 1) (bound orbits only), got {e.min()} to {e.max()}",
    )
    require(
        dimensions == 3 or bool((i == 0).all()),
        f"{where}: inclination must be 0 in two dimensions, got up to {i.abs().max()}; set dimensions=3",
    )


def relative_orbit(mu: Tensor, a: Tensor, e: Tensor, E: Tensor, orientation: Tensor) -> tuple[Tensor, Tensor]:
    """Relative position and velocity on a Kepler orbit (formula in `two_body_orbit`), unchecked.

    Args:
        mu: G (m₀ + m₁), (...), length³ / time².
        a: semi-major axis, (...), length.
        e: eccentricity, (...).
        E: eccentric anomaly, (...), radians.
        orientation: rotation out of the orbit's own frame, (..., 3, 3).

    Returns:
        r and v, (..., 3) each, length and length / time.
    """
    minor = ((1 - e) * (1 + e)).sqrt()
    r = a[..., None] * _vector(E.cos() - e, minor * E.sin())
    v = ((mu / a).sqrt() / (1 - e * E.cos()))[..., None] * _vector(-E.sin(), minor * E.cos())
    plane = orientation[..., :2]
    return (plane @ r[..., None])[..., 0], (plane @ v[..., None])[..., 0]


def _vector(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(x, y), -1)


def rotation(node: Tensor, inclination: Tensor, pericentre: Tensor) -> Tensor:
    """The matrix R_z(Ω) R_x(i) R_z(ω), whose columns are the axes of the orbit's own frame.

    Args:
        node: Ω, (...), radians.
        inclination: i, (...), radians.
        pericentre: ω, (...), radians.

    Returns:
        (..., 3, 3), orthogonal.
    """
    node, inclination, pericentre = torch.broadcast_tensors(node, inclination, pericentre)
    zero, one = torch.zeros_like(node), torch.ones_like(node)

    def matrix(rows: list[list[Tensor]]) -> Tensor:
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def about_z(x: Tensor) -> Tensor:
        return matrix([[x.cos(), -x.sin(), zero], [x.sin(), x.cos(), zero], [zero, zero, one]])

    tilt = matrix(
        [[one, zero, zero], [zero, inclination.cos(), -inclination.sin()], [zero, inclination.sin(), inclination.cos()]]
    )
    return about_z(node) @ tilt @ about_z(pericentre)


def eccentric_anomaly(mean_anomaly: Tensor, eccentricity: Tensor) -> Tensor:
    """Solves Kepler's equation E − e sin E = M.

    Newton's iteration with Danby's terms up to the third derivative, on |M|, kept between |M| and
    |M| + e, where the root is. The number of corrections is fixed, and nothing branches.

    Deviation: Danby starts from |M| + 0.85 e, which is far off for small M at e near 1. We take
    the least of that and of the two limits of small M, (6 |M|)^{1/3} for e = 1 and |M| / (1 − e)
    for e < 1, after which three corrections do where twelve left an error of 6e-15.

    Args:
        mean_anomaly: M, (...), radians, any.
        eccentricity: e, (...), 0 ≤ e < 1.

    Returns:
        E, (...), radians, in [−π, π].

    Source: Danby 1988, Fundamentals of Celestial Mechanics, §6.6.
    """
    # Not remainder(M + π) − π, which would round a small M.
    signed = mean_anomaly - 2 * math.pi * (mean_anomaly / (2 * math.pi)).round()
    M, e = signed.abs(), eccentricity
    E = torch.minimum(M + 0.85 * e, torch.minimum((6 * M) ** (1 / 3), M / (1 - e)))
    for _ in range(_KEPLER_ITERATIONS):
        second, third = e * E.sin(), e * E.cos()
        value, slope = E - second - M, 1 - third
        step = -value / slope
        step = -value / (slope + step * second / 2)
        step = -value / (slope + step * second / 2 + step**2 * third / 6)
        E = torch.minimum(torch.maximum(E + step, M), (M + e).clamp(max=math.pi))
    return torch.copysign(E, signed)


def _from_true_anomaly(f: Tensor, e: Tensor) -> Tensor:
    """tan(E/2) = √((1−e)/(1+e)) tan(f/2), with atan2, so that f = π is nothing special."""
    return 2 * torch.atan2((1 - e).sqrt() * (f / 2).sin(), (1 + e).sqrt() * (f / 2).cos())


def orbital_elements(system: System, *, G: float = 1.0) -> OrbitalElements:
    """Osculating size and shape of the orbit of two bodies,

        1/a = 2/r − v²/μ,   e = |(v²/μ − 1/r) r − (r·v/μ) v|,   μ = G (m₀ + m₁).

    The eccentricity is the length of a vector, not √(1 − h²/(μa)), which loses half the digits
    of a nearly circular orbit.

    Args:
        system: of 2 bodies, one or a batch, not at one place.
        G: gravitational constant, > 0.

    Returns:
        `OrbitalElements`, () or (B,) each; a < 0 and e > 1 if the two are not bound.

    Raises:
        ValueError: if there are not 2 bodies, or G is not > 0.

    Source: Murray & Dermott 1999, Solar System Dynamics, §2.8.
    """
    mu, r, v = _relative(system, G, "orbital_elements")
    distance, speed2 = r.pow(2).sum(-1).sqrt(), v.pow(2).sum(-1)
    along = (r * v).sum(-1) / mu
    vector = (speed2 / mu - 1 / distance)[..., None] * r - along[..., None] * v
    return OrbitalElements(1 / (2 / distance - speed2 / mu), vector.pow(2).sum(-1).sqrt())


def orbital_period(system: System, *, G: float = 1.0) -> Tensor:
    """Osculating Kepler period of two bodies, P = 2π √(a³/μ), infinite where they are not bound.

    Args:
        system: of 2 bodies, one or a batch, not at one place.
        G: gravitational constant, > 0.

    Returns:
        () or (B,), time.

    Raises:
        ValueError: if there are not 2 bodies, or G is not > 0.

    Source: Kepler 1619; Murray & Dermott 1999, Solar System Dynamics, §2.4.
    """
    mu, r, v = _relative(system, G, "orbital_period")
    inverse = 2 / r.pow(2).sum(-1).sqrt() - v.pow(2).sum(-1) / mu
    bound = inverse > 0
    # Masked before the root and after it, or the gradient of an unbound pair would be NaN.
    rate = (mu * torch.where(bound, inverse, 1.0) ** 3).sqrt()
    return torch.where(bound, 2 * math.pi / rate, math.inf)


def _relative(system: System, G: float, where: str) -> tuple[Tensor, Tensor, Tensor]:
    bodies = system.mass.shape[-1]
    require(bodies == 2, f"{where}: 2 bodies are needed, got N = {bodies}; pick a pair of them")
    check_positive(where, "G", G, "1 in N-body units")
    x, v = system.position, system.velocity
    return G * system.mass.sum(-1), x[..., 1, :] - x[..., 0, :], v[..., 1, :] - v[..., 0, :]
