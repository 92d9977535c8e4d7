"""Softened Newtonian gravity of ONE system, with an optional external field.

    aᵢ = G Σⱼ≠ᵢ mⱼ (xⱼ − xᵢ) / (|xⱼ − xᵢ|² + s²)^{3/2} + a_ext(xᵢ, t)
    W  = −G Σ_{i<j} mᵢ mⱼ / (|xⱼ − xᵢ|² + s²)^{1/2} + Σ mᵢ Φ_ext(xᵢ, t)

Shapes: mass (N,), position and velocity (N, D), time (). Everything here is a pure function of
one system; lift it with ``torch.func.vmap``.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require
from ..base.forward_mode import jvp, number
from ..base.tree import cast
from ..base.types import System
from .fields import Field
from .invariants import at_rest_as_a_whole
from .pairs import inverse_distance, pair_difference, pair_distance, pair_rows, written_out
from .potentials import mutual_potential_rate, mutual_potentials
from .tiled_gravity import MANY_BODIES, tiled_acceleration, tiled_potential_energy


class Derivatives(NamedTuple):
    """Acceleration of every body and its first two time derivatives along the motion, (N, D) each."""

    acceleration: Tensor  # (N, D)  length / time²
    jerk: Tensor  # (N, D)  length / time³
    snap: Tensor  # (N, D)  length / time⁴


class Gravity(NamedTuple):
    """What nature does to one system: pure functions, and the constants they close over.

    Made by `build_gravity`. Shapes: ``System`` in, as commented on the fields out.
    """

    acceleration: Callable[[Tensor, Tensor, Tensor], Tensor]  # (mass, position, time) -> (N, D)
    derivatives: Callable[..., Derivatives]  # (System, unit=, places=) -> acceleration, jerk, snap: three (N, D)
    potential_energy: Callable[[System], Tensor]  # -> (); all of it, external field included
    external_energy: Callable[[System], Tensor]  # -> (); the part of it that the external field makes
    energy: Callable[[System], Tensor]  # -> (); the conserved one, K + W − work
    energy_size: Callable[[System], Tensor]  # -> (); K + |W|, a scale that is > 0 where the total energy is 0
    power: Callable[[Tensor, Tensor, Tensor], Tensor]  # (mass, position, time) -> (); Σ mᵢ ∂ₜΦ
    potentials: Callable[[System], Tensor]  # -> (N,); φ at every body: of the others, and of the field
    potential_rates: Callable[[System], Tensor]  # -> (N,); ∂ₜφ there, at a place that rests in the frame of `judged`
    judged: Callable[[System], System]  # -> System; as errors see it: its centre of mass at rest, if there is no field
    G: float  # gravitational constant, in the caller's units
    softening: float  # length s


def build_gravity(*, G: float = 1.0, softening: float = 0.0, field: Field | None = None) -> Gravity:
    """Gravity with its constants fixed, ready for integrators, criteria and features.

    Args:
        G: gravitational constant in the caller's units, > 0.
        softening: Plummer softening length s, ≥ 0.
        field: an external field that acts on every body, or None.

    Returns:
        A `Gravity` of pure functions of one system.

    Raises:
        ValueError: if G is not > 0 or softening is not ≥ 0.
    """
    require(G > 0, f"build_gravity: G must be > 0 (1 in N-body units), got {G}")
    require(softening >= 0, f"build_gravity: softening must be >= 0 (a length; 0 for none), got {softening}")

    def acceleration(mass: Tensor, position: Tensor, time: Tensor) -> Tensor:
        own = mutual_acceleration(mass, position, G=G, softening=softening)
        return own if field is None else own + at_bodies(field.acceleration, position, time)

    def derivatives(system: System, unit: Tensor | None = None, places: Tensor | None = None) -> Derivatives:
        return system_derivatives(system, field, G=G, softening=softening, unit=unit, places=places)

    def external_energy(system: System) -> Tensor:
        if field is None:
            return torch.zeros_like(system.time)
        return _field_energy(field, system.mass, system.position, system.time)

    def potential_energy(system: System) -> Tensor:
        own = mutual_potential_energy(system.mass, system.position, G=G, softening=softening)
        return own if field is None else own + external_energy(system)

    def energy(system: System) -> Tensor:
        return kinetic_energy(system) + potential_energy(system) - work_on_all(system)

    def energy_size(system: System) -> Tensor:
        return kinetic_energy(system) + potential_energy(system).abs()

    def power(mass: Tensor, position: Tensor, time: Tensor) -> Tensor:
        if field is None or field.static:
            return torch.zeros_like(time)
        rate: Tensor = jvp(lambda t: _field_energy(field, mass, position, t), (time,), (torch.ones_like(time),))[1]
        return rate

    def potentials(system: System) -> Tensor:
        own = mutual_potentials(system.mass, system.position, G=G, softening=softening)
        return own if field is None else own + at_bodies(field.potential, system.position, system.time)

    def potential_rates(system: System) -> Tensor:
        seen = judged(system)
        own = mutual_potential_rate(seen.mass, seen.position, seen.velocity, G=G, softening=softening)
        if field is None or field.static:
            return own
        here = (system.time,), (torch.ones_like(system.time),)
        rates: Tensor = jvp(lambda t: at_bodies(field.potential, system.position, t), *here)[1]
        return own + rates

    def judged(system: System) -> System:
        return at_rest_as_a_whole(system) if field is None else system

    return Gravity(
        acceleration,
        derivatives,
        potential_energy,
        external_energy,
        energy,
        energy_size,
        power,
        potentials,
        potential_rates,
        judged,
        G,
        softening,
    )


def mutual_acceleration(mass: Tensor, position: Tensor, *, G: float, softening: float) -> Tensor:
    """Accelerations that the bodies give each other.

    Args:
        mass: (N,).
        position: (N, D), no two bodies at one place unless softened.
        G: gravitational constant.
        softening: length s.

    Returns:
        (N, D), length / time²; 0 of one body alone.
    """
    if mass.shape[0] == 1:  # no pair, and torch 2.13 traces no forward mode through arrays without elements
        return torch.zeros_like(position)
    if written_out(mass.shape[0]):
        return _acceleration_pair_by_pair(mass, position, G, softening)
    if mass.shape[0] >= MANY_BODIES:
        return tiled_acceleration(mass, position, G, softening)
    separation = position[None, :, :] - position[:, None, :]  # (N, N, D), from i to j
    weight = G * mass * inverse_distance(separation, softening) ** 3  # (N, N)
    return (weight[:, :, None] * separation).sum(1)


def _acceleration_pair_by_pair(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
    """The same, every pair once, written out for a compiler."""
    bodies = mass.shape[0]
    difference = pair_difference(position)
    pull = (difference.pow(2).sum(-1) + softening**2).rsqrt().pow(3)[:, None] * difference
    attraction = G * mass  # first: in metres and kilograms G/R³ has no digits in float32, and then none
    sums = list(torch.zeros_like(position).unbind(0))
    for pair, (i, j) in enumerate(itertools.combinations(range(bodies), 2)):
        sums[i] = sums[i] + attraction[j] * pull[pair]
        sums[j] = sums[j] - attraction[i] * pull[pair]
    return torch.stack(sums)


def system_derivatives(
    system: System,
    field: Field | None = None,
    *,
    G: float,
    softening: float,
    unit: Tensor | None = None,
    places: Tensor | None = None,
) -> Derivatives:
    """Acceleration, jerk and snap in closed form. With α = d·v/R² and β = (v² + d·a)/R² + α² for each pair,

        jerk = G mⱼ v/R³ − 3α A,   snap = G mⱼ a/R³ − 6α J − 3β A,   R² = d² + s²,

    and those of an external field by forward mode along each body's path.

    Args:
        system: one system.
        field: an external field, or None.
        G: gravitational constant.
        softening: length s.
        unit: a time () in units of which they are wanted, 1 if None. In a close encounter a snap overflows float32, and
            a change of units afterwards comes too late.
        places: where the field is asked, (N, D), if not at the bodies: in coordinates of the centre of mass, say, to
            which the bodies cannot be moved without rounding the separation of a close pair.

    Returns:
        `Derivatives`, three (N, D): a, j and s times the square, cube and fourth power of the unit.

    Source: Nitadori & Makino 2008, New Astronomy 13, 498, equations 3 to 6.
    """
    tick = torch.ones_like(system.time) if unit is None else unit
    velocity = system.velocity if unit is None else system.velocity * unit
    d, v = (x[None, :, :] - x[:, None, :] for x in (system.position, velocity))
    inverse = inverse_distance(d, softening)[:, :, None]
    # In units of time the cube is that of numbers near 1: that of 1/R has derivatives that float32 does not.
    weight = G * system.mass[None, :, None] * (inverse if unit is None else inverse * unit.pow(2 / 3)) ** 3
    pair_a = weight * d
    acceleration = pair_a.sum(1)
    if field is not None:
        there = system._replace(velocity=velocity, position=system.position if places is None else places)
        acceleration = acceleration + at_bodies(field.acceleration, there.position, system.time) * tick * tick
    a = acceleration[None, :, :] - acceleration[:, None, :]
    direction, turn = d * inverse, v * inverse  # first, for the same reason
    alpha = (direction * turn).sum(-1, keepdim=True)
    beta = (turn * turn + direction * (a * inverse)).sum(-1, keepdim=True) + alpha**2
    pair_j = weight * v - 3 * alpha * pair_a
    pair_s = weight * a - 6 * alpha * pair_j - 3 * beta * pair_a
    jerk, snap = pair_j.sum(1), pair_s.sum(1)
    if field is not None:
        external_jerk, external_snap = _field_derivatives(field, there, acceleration, tick)
        jerk, snap = jerk + external_jerk * tick * tick, snap + external_snap * tick * tick
    return Derivatives(acceleration, jerk, snap)


def mutual_potential_energy(mass: Tensor, position: Tensor, *, G: float, softening: float) -> Tensor:
    """Potential energy of the bodies in each other's field, −G Σ_{i<j} mᵢ mⱼ / (r² + s²)^{1/2}.

    Args:
        mass: (N,).
        position: (N, D).
        G: gravitational constant.
        softening: length s.

    Returns:
        (), mass · length² / time²; 0 of one body alone.
    """
    if mass.shape[0] == 1:
        return torch.zeros_like(mass[0])
    if mass.shape[0] >= MANY_BODIES:
        return tiled_potential_energy(mass, position, G, softening)
    first, second = pair_rows(mass)
    total = (first * second / pair_distance(position, softening)).sum()
    return number(-G, total) * total


def kinetic_energy(system: System) -> Tensor:
    """Kinetic energy ½ Σ mᵢ |vᵢ|², shape ()."""
    return (0.5 * system.mass * system.velocity.pow(2).sum(-1)).sum()


def work_on_all(system: System) -> Tensor:
    """The work of a time-dependent field on the system as a whole, ()."""
    return system.work[0] if system.work.ndim else system.work


def in_double(system: System) -> System:
    """A system as its energy is weighed: in float64, whatever the dtype of its motion.

    An energy error of 1e-6 is a difference in the last digits of a float32. With energies summed in float32 a tenth of
    small steps have an error of exactly 0, which has no derivative, and the others one of 1e-7 that is rounding; summed
    in float64 what is left is the rounding of the state itself, some 1e-8. Forces, steps and networks stay in float32.
    """
    return system if system.time.device.type == "mps" else cast(system, dtype=torch.float64)  # which has no float64


def _field_energy(field: Field, mass: Tensor, position: Tensor, time: Tensor) -> Tensor:
    return (mass * at_bodies(field.potential, position, time)).sum()


def at_bodies(function: Callable[[Tensor, Tensor], Tensor], position: Tensor, time: Tensor) -> Tensor:
    """A function of one place (D,) and the time () at every body: (N, D) -> (N, ...).

    Few bodies are taken one by one where a compiler traces: forward mode inside of two maps, over systems and over
    bodies, ends in values without memory in the traces of torch 2.13.
    """
    if written_out(position.shape[0]):
        return torch.stack([function(place, time) for place in position.unbind(0)])
    return vmap(function, in_dims=(0, None))(position, time)


def _field_derivatives(field: Field, system: System, acceleration: Tensor, tick: Tensor) -> tuple[Tensor, Tensor]:
    """How the field at each body changes on its path, and how that does, by forward mode; time in ticks."""

    def jerk(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        return jvp(lambda x, t: at_bodies(field.acceleration, x, t), (x, t), (v, tick))[1]

    start = (system.position, system.velocity, system.time)
    value, derivative = jvp(jerk, start, (system.velocity, acceleration, tick))
    return value, derivative
