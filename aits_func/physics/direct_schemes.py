"""Schemes of ONE system that step an integrator by what τ says at the ends of a step: direct, implicit symmetric."""

from typing import Any, NamedTuple

from torch import Tensor

from ..base.check import require
from ..base.types import System
from .integrators import Integrator
from .scheme import Scheme, SchemeStep, all_valid
from .step_function import REVERSIBLE, StepFunction, Traits


def build_direct(integrator: Integrator, *, n_steps: int = 1) -> Scheme:
    """The direct scheme, dt = h τ(x): any integrator, any step function; not reversible where τ varies.

    Args:
        integrator: a one-step method.
        n_steps: integrator steps of one dt, ≥ 1.

    Returns:
        A `Scheme`; its carry is the integrator's.

    Raises:
        ValueError: if n_steps < 1.
    """
    require(n_steps >= 1, f"build_direct: n_steps must be >= 1, got {n_steps}")

    def init(rule: StepFunction, system: System, compensated: bool = False) -> Any:
        return integrator.init(system, compensated)

    def step(rule: StepFunction, system: System, carry: Any, h: Tensor) -> SchemeStep:
        dt = h * rule.timescale(system)
        for _ in range(n_steps):
            system, carry = integrator.step(system, carry, dt)
        return SchemeStep(system, carry, n_steps * dt, all_valid(dt))

    def turn(rule: StepFunction, system: System, carry: Any, compensated: bool = False) -> Any:
        return integrator.init(system, compensated)

    return Scheme(
        "direct",
        init,
        step,
        turn,
        Traits(),
        reversible=False,
        position_form=False,
        equal_steps=n_steps,
        evaluations_at_start=integrator.evaluations_at_start,
        evaluations_per_stage=n_steps * integrator.evaluations_per_step,
        rule_evaluations_per_stage=1,
    )


class ImplicitCarry(NamedTuple):
    """State of the implicit symmetric scheme."""

    integrator: Any  # the integrator's carry
    tau: Tensor  # ()  time; τ at the present state


def build_implicit_symmetric(integrator: Integrator, *, iterations: int = 3) -> Scheme:
    """The step that is the mean of τ at both its ends, dt = ½ h (τ(x) + τ(x')), by fixed-point iteration.

    Args:
        integrator: a one-step method.
        iterations: integrator steps per step, ≥ 2; the first takes dt = h τ(x).

    Returns:
        A `Scheme`. It costs ``iterations`` times the integrator's forces, and is reversible up to what the iteration
        leaves.

    Raises:
        ValueError: if iterations < 2.

    Source: Hut, Makino & McMillan 1995, Astrophysical Journal Letters 443, L93.
    """
    require(
        iterations >= 2, f"build_implicit_symmetric: iterations must be >= 2 (1 is the direct scheme), got {iterations}"
    )

    def init(rule: StepFunction, system: System, compensated: bool = False) -> ImplicitCarry:
        return ImplicitCarry(integrator.init(system, compensated), rule.timescale(system))

    def step(rule: StepFunction, system: System, carry: ImplicitCarry, h: Tensor) -> SchemeStep:
        dt = h * carry.tau
        for iteration in range(iterations):
            after, forces = integrator.step(system, carry.integrator, dt)
            tau = rule.timescale(after)
            if iteration < iterations - 1:
                dt = h * (carry.tau + tau) / 2
        return SchemeStep(after, ImplicitCarry(forces, tau), dt, all_valid(dt))

    def turn(rule: StepFunction, system: System, carry: ImplicitCarry, compensated: bool = False) -> ImplicitCarry:
        return ImplicitCarry(integrator.init(system, compensated), carry.tau)

    return Scheme(
        "implicit_symmetric",
        init,
        step,
        turn,
        REVERSIBLE,
        reversible=False,
        position_form=False,
        equal_steps=0,
        evaluations_at_start=integrator.evaluations_at_start,
        evaluations_per_stage=iterations * integrator.evaluations_per_step,
        rule_evaluations_per_stage=iterations,
    )
