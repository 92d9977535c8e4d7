"""Integrators of ONE system: pure (init, step) pairs.

``init`` evaluates what the first step needs (for kick–drift–kick the force), ``step`` advances by
dt and hands the force at the end on to the next step, so that a chain of steps evaluates it once
per step. Time and the work of a time-dependent field are integrated as a further position and its
conjugate momentum (dt/dt = 1, d work/dt = Σ mᵢ ∂ₜΦ), so that E − work is conserved to the
integrator's own order and a static field changes nothing. To a massless body the bodies with mass are
such a field (see `massless`): where a system has room for it, the work on each is integrated as well.

Over millions of steps the rounding of positions and time adds up. ``init(system, compensated=True)``
makes the carry hold what the sums have lost so far, and every drift gives it back.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..base.check import has_room, require, require_choice
from ..base.forward_mode import jvp, number
from ..base.types import System
from .gravity import Gravity
from .massless import work_rates


class Init(Protocol):
    """``init(system, compensated) -> carry``."""

    def __call__(self, system: System, compensated: bool = False) -> Any: ...


class Integrator(NamedTuple):
    """A one-step method.

    ``init(system, compensated=False) -> carry`` and ``step(system, carry, dt) -> (system, carry)``;
    the carry is a pytree, () if the method needs none. Shapes: one `System`; dt ().
    """

    init: Init
    step: Callable[[System, Any, Tensor], tuple[System, Any]]
    evaluations_at_start: int  # force evaluations of ``init``
    evaluations_per_step: int  # force evaluations of one ``step``


class Lost(NamedTuple):
    """What compensated sums have lost to rounding so far; () stands for plain sums."""

    position: Tensor  # (N, D) length
    time: Tensor  # ()     time


class KickCarry(NamedTuple):
    """The force at hand."""

    acceleration: Tensor  # (N, D) length / time²
    power: Tensor  # ()     energy / time, Σ mᵢ ∂ₜΦ
    lost: Any  # `Lost` or ()


class HermiteCarry(NamedTuple):
    """The force at hand and its time derivative."""

    acceleration: Tensor  # (N, D) length / time²
    jerk: Tensor  # (N, D) length / time³
    power: Tensor  # like the work of the system, energy / time
    power_rate: Tensor  # the same, energy / time²
    lost: Any  # `Lost` or ()


def build_leapfrog_kdk(gravity: Gravity) -> Integrator:
    """Kick–drift–kick leapfrog (velocity Verlet): second order, symplectic, reversible at fixed dt.

    Args:
        gravity: forces, from `build_gravity`.

    Returns:
        An `Integrator`; one force evaluation per step and one at the start. Its carry is the
        force at hand, a `KickCarry`.

    Source: Verlet 1967, Physical Review 159, 98; the kick-drift form after Quinn et al. 1997,
        astro-ph/9710043.
    """

    def init(system: System, compensated: bool = False) -> KickCarry:
        return KickCarry(*_force(gravity, system), nothing_lost(system, compensated))

    def step(system: System, carry: KickCarry, dt: Tensor) -> tuple[System, KickCarry]:
        half = kick(gravity, system, carry.acceleration, carry.power, dt / 2)
        drifted, lost = drift(half, carry.lost, dt)
        carry = KickCarry(*_force(gravity, drifted), lost)
        return kick(gravity, drifted, carry.acceleration, carry.power, dt / 2), carry

    return Integrator(init, step, evaluations_at_start=1, evaluations_per_step=1)


def build_leapfrog_dkd(gravity: Gravity) -> Integrator:
    """Drift–kick–drift leapfrog (position Verlet): second order, symplectic, reversible at fixed dt.

    Args:
        gravity: forces, from `build_gravity`.

    Returns:
        An `Integrator`; one force evaluation per step. Its carry is `Lost`, or () for plain sums.

    Source: Verlet 1967, Physical Review 159, 98; the kick-drift form after Quinn et al. 1997,
        astro-ph/9710043.
    """

    def step(system: System, lost: Any, dt: Tensor) -> tuple[System, Any]:
        half, lost = drift(system, lost, dt / 2)
        return drift(kick(gravity, half, *_force(gravity, half), dt), lost, dt / 2)

    return Integrator(nothing_lost, step, evaluations_at_start=0, evaluations_per_step=1)


def build_hermite(gravity: Gravity) -> Integrator:
    """Hermite predictor–corrector (PEC): fourth order, for smooth forces and steps that vary.

        xₚ = x + v dt + ½ a dt² + ⅙ j dt³,   vₚ = v + a dt + ½ j dt²
        v' = v + ½(a + a') dt + (j − j') dt²/12,   x' = x + ½(v + v') dt + (a − a') dt²/12

    with a', j' evaluated at the predicted state, once per step, and handed on as they are.

    Args:
        gravity: forces, from `build_gravity`.

    Returns:
        An `Integrator`; one evaluation of force and jerk per step and one at the start. Its carry is a
        `HermiteCarry`. Neither symplectic nor reversible.

    Source: Makino & Aarseth 1992, Publications of the Astronomical Society of Japan 44, 141.
    """

    def evaluate(system: System) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def force(position: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            return _force(gravity, system._replace(position=position, time=time))

        unit = torch.ones_like(system.time)
        here, along = (system.position, system.time), (system.velocity, unit)
        (a, power), (jerk, rate) = jvp(force, here, along)
        return a, jerk, power, rate

    def with_own_powers(system: System, carry: HermiteCarry) -> HermiteCarry:
        """The carry with what the others do to each body, which depends on velocities."""
        if not has_room(system):
            return carry

        def powers(position: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
            there = system._replace(position=position, velocity=velocity, time=time)
            return work_rates(gravity, there, gravity.power(there.mass, position, time))

        here = (system.position, system.velocity, system.time)
        motion = (system.velocity, carry.acceleration, torch.ones_like(system.time))
        power, rate = jvp(powers, here, motion)
        return carry._replace(power=power, power_rate=rate)

    def init(system: System, compensated: bool = False) -> HermiteCarry:
        return with_own_powers(system, HermiteCarry(*evaluate(system), nothing_lost(system, compensated)))

    def step(system: System, carry: HermiteCarry, dt: Tensor) -> tuple[System, HermiteCarry]:
        a, j = carry.acceleration, carry.jerk
        predicted = system._replace(
            position=system.position + dt * (system.velocity + dt * (a / 2 + dt * j / 6)),
            velocity=system.velocity + dt * (a + dt * j / 2),
            time=system.time + dt,
        )
        new = HermiteCarry(*evaluate(predicted), carry.lost)
        velocity = system.velocity + dt * ((a + new.acceleration) / 2 + dt * (j - new.jerk) / 12)
        # A predicted velocity is good enough for forces, and one order short of what a power wants.
        new = with_own_powers(predicted._replace(velocity=velocity), new)
        moved = dt * ((system.velocity + velocity) / 2 + dt * (a - new.acceleration) / 12)
        gained = dt * ((carry.power + new.power) / 2 + dt * (carry.power_rate - new.power_rate) / 12)
        after, lost = move(system, carry.lost, moved, dt)
        return after._replace(velocity=velocity, work=system.work + gained), new._replace(lost=lost)

    return Integrator(init, step, evaluations_at_start=1, evaluations_per_step=1)


def build_yoshida(gravity: Gravity, *, order: int = 4) -> Integrator:
    """Yoshida's compositions of the leapfrog: order 4, 6 or 8, symplectic, reversible at fixed dt.

    Args:
        gravity: forces, from `build_gravity`.
        order: 4 (3 forces per step), 6 (7) or 8 (15).

    Returns:
        An `Integrator`; stages of kick–drift–kick, some of them backwards.

    Raises:
        ValueError: if order is another number.

    Source: Yoshida 1990, Physics Letters A 150, 262: the triple jump, solution A of order 6, solution D
        of order 8.
    """
    require(order in YOSHIDA, f"build_yoshida: order must be one of {', '.join(map(str, YOSHIDA))}, got {order}")
    return _compose(build_leapfrog_kdk(gravity), YOSHIDA[order])


def build_integrator(name: str, gravity: Gravity) -> Integrator:
    """The integrator of that name.

    Args:
        name: one of `INTEGRATORS`: "leapfrog_kdk", "leapfrog_dkd", "hermite", "yoshida4", "yoshida6" or "yoshida8".
        gravity: forces.

    Returns:
        An `Integrator`.

    Raises:
        ValueError: if there is none of that name.
    """
    require_choice("build_integrator", "name", name, INTEGRATORS)
    if name.startswith("yoshida"):
        return build_yoshida(gravity, order=int(name.removeprefix("yoshida")))
    makers = {"leapfrog_kdk": build_leapfrog_kdk, "leapfrog_dkd": build_leapfrog_dkd, "hermite": build_hermite}
    return makers[name](gravity)


INTEGRATORS = ("leapfrog_kdk", "leapfrog_dkd", "hermite", "yoshida4", "yoshida6", "yoshida8")


def evolve(integrator: Integrator, system: System, dt: Tensor, *, n_steps: int = 1) -> System:
    """One system after ``n_steps`` steps of one length.

    Args:
        integrator: a one-step method.
        system: where it starts.
        dt: (), the step; negative runs backwards, 0 is the identity.
        n_steps: how many.

    Returns:
        The `System` at time + n_steps · dt.
    """
    carry = integrator.init(system)
    for _ in range(n_steps):
        system, carry = integrator.step(system, carry, dt)
    return system


def nothing_lost(system: System, compensated: bool = False) -> Any:
    """The `Lost` that compensated sums begin with, or () for plain ones."""
    return Lost(torch.zeros_like(system.position), torch.zeros_like(system.time)) if compensated else ()


def kick(gravity: Gravity, system: System, acceleration: Tensor, power: Tensor, dt: Tensor) -> System:
    """Velocity and work after dt at a constant force, all bodies where they are.

    The work on each body is that at the mean of the velocities before and after: of a force that does not change this
    is exact, so that a composition of kicks and drifts has the order for the work that it has for the motion.
    """
    velocity = system.velocity + dt * acceleration
    gained = work_rates(gravity, system._replace(velocity=(system.velocity + velocity) / 2), power)
    return system._replace(velocity=velocity, work=system.work + dt * gained)


def drift(system: System, lost: Any, dt: Tensor) -> tuple[System, Any]:
    """Position and time after dt at constant velocity, and what their sums have lost."""
    return move(system, lost, dt * system.velocity, dt)


def move(system: System, lost: Any, displacement: Tensor, dt: Tensor) -> tuple[System, Any]:
    """Position and time after given increments, and what their sums have lost.

    Source of the compensation: Kahan 1965, Communications of the ACM 8, 40.
    """
    if not lost:
        return system._replace(position=system.position + displacement, time=system.time + dt), lost
    position, lost_position = _add(system.position, displacement, lost.position)
    time, lost_time = _add(system.time, dt, lost.time)
    return system._replace(position=position, time=time), Lost(lost_position, lost_time)


def _add(total: Tensor, increment: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    increment = increment - lost
    new = total + increment
    return new, (new - total) - increment


def _force(gravity: Gravity, system: System) -> tuple[Tensor, Tensor]:
    at = (system.mass, system.position, system.time)
    return gravity.acceleration(*at), gravity.power(*at)


def _compose(base: Integrator, coefficients: Sequence[float]) -> Integrator:
    """One step of length dt as stages of lengths cᵢ dt."""

    def step(system: System, carry: Any, dt: Tensor) -> tuple[System, Any]:
        for coefficient in coefficients:
            system, carry = base.step(system, carry, number(coefficient, dt) * dt)
        return system, carry

    return Integrator(base.init, step, base.evaluations_at_start, base.evaluations_per_step * len(coefficients))


def _palindrome(*half: float) -> tuple[float, ...]:
    """Stage lengths from the first to the last but the middle one, which makes their sum 1."""
    return (*half, 1 - 2 * sum(half), *reversed(half))


YOSHIDA = {
    4: _palindrome(1 / (2 - 2 ** (1 / 3))),
    6: _palindrome(0.784513610477560, 0.235573213359357, -1.17767998417887),
    8: _palindrome(
        0.914844246229740,
        0.253693336566229,
        -1.44485223686048,
        -0.158240635368243,
        1.93813913762276,
        -1.96061023297549,
        0.102799849391985,
    ),
}
