"""Integrators of ONE system: pure (init, step) pairs.

``init`` evaluates what the first step needs (for kick–drift–kick the force), ``step`` advances by
dt and hands the force at the end on to the next step, so that a chain of steps evaluates it once
per step. Time and the work of a time-dependent field are integrated as a further position and its
conjugate momentum (dt/dt = 1, d work/dt = Σ mᵢ ∂ₜΦ), so that E − work is conserved to the
integrator's own order and a static field changes nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..base.check import require_choice
from ..base.types import System
from .gravity import Gravity


class Integrator(NamedTuple):
    """A one-step method.

    ``init(system) -> carry`` and ``step(system, carry, dt) -> (system, carry)``; the carry is a
    pytree, () if the method needs none. Shapes: one `System`; dt ().
    """

    init: Callable[[System], Any]
    step: Callable[[System, Any, Tensor], tuple[System, Any]]
    evaluations_at_start: int  # force evaluations of ``init``
    evaluations_per_step: int  # force evaluations of one ``step``


def build_leapfrog_kdk(gravity: Gravity) -> Integrator:
    """Kick–drift–kick leapfrog (velocity Verlet): second order, symplectic, reversible at fixed dt.

    Args:
        gravity: forces, from `build_gravity`.

    Returns:
        An `Integrator`; one force evaluation per step and one at the start. Its carry is the
        force at hand: acceleration (N, D) and power ().

    Source: Verlet 1967, Physical Review 159, 98; the kick-drift form after Quinn et al. 1997,
        astro-ph/9710043.
    """

    def force(system: System) -> tuple[Tensor, Tensor]:
        at = (system.mass, system.position, system.time)
        return gravity.acceleration(*at), gravity.power(*at)

    def step(system: System, carry: tuple[Tensor, Tensor], dt: Tensor) -> tuple[System, tuple[Tensor, Tensor]]:
        drifted = _drift(_kick(system, *carry, dt / 2), dt)
        carry = force(drifted)
        return _kick(drifted, *carry, dt / 2), carry

    return Integrator(force, step, evaluations_at_start=1, evaluations_per_step=1)


def build_leapfrog_dkd(gravity: Gravity) -> Integrator:
    """Drift–kick–drift leapfrog (position Verlet): second order, symplectic, reversible at fixed dt.

    Args:
        gravity: forces, from `build_gravity`.

    Returns:
        An `Integrator`; one force evaluation per step, an empty carry.

    Source: Verlet 1967, Physical Review 159, 98; the kick-drift form after Quinn et al. 1997,
        astro-ph/9710043.
    """

    def step(system: System, carry: tuple[()], dt: Tensor) -> tuple[System, tuple[()]]:
        half = _drift(system, dt / 2)
        at = (half.mass, half.position, half.time)
        kicked = _kick(half, gravity.acceleration(*at), gravity.power(*at), dt)
        return _drift(kicked, dt / 2), carry

    return Integrator(lambda system: (), step, evaluations_at_start=0, evaluations_per_step=1)


INTEGRATORS: dict[str, Callable[[Gravity], Integrator]] = {
    "leapfrog_kdk": build_leapfrog_kdk,
    "leapfrog_dkd": build_leapfrog_dkd,
}


def build_integrator(name: str, gravity: Gravity) -> Integrator:
    """The integrator of that name.

    Args:
        name: "leapfrog_kdk" or "leapfrog_dkd".
        gravity: forces, from `build_gravity`.

    Returns:
        An `Integrator` of one system.

    Raises:
        ValueError: if there is none of that name.
    """
    require_choice("build_integrator", "name", name, tuple(INTEGRATORS))
    return INTEGRATORS[name](gravity)


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


def _kick(system: System, acceleration: Tensor, power: Tensor, dt: Tensor) -> System:
    return system._replace(velocity=system.velocity + dt * acceleration, work=system.work + dt * power)


def _drift(system: System, dt: Tensor) -> System:
    return system._replace(position=system.position + dt * system.velocity, time=system.time + dt)
