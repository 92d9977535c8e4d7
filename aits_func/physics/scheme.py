"""What a scheme is: a way to use a step function τ(x) to advance ONE system, as a pure (init, step) pair.

A leapfrog whose step is read off the current state is no longer reversible, and its energy drifts. The
schemes differ in how they use τ:

    direct               dt = h τ(x)                                  not reversible
    implicit symmetric   dt = ½ h (τ(x) + τ(x')), iterated            nearly reversible
    Hairer–Söderlind     dt = h/ρ, ρ follows 1/τ                      reversible, explicit
    time-transformed     dt = ½ h/W + ½ h/W', W follows Ω(x) = 1/τ    reversible, explicit; Kepler exact

h is a plain factor, 1 for the step function's own step: the knob of a work-precision curve. A
negative h goes back along the path. The two explicit ones are symmetric maps in h, so `compose` raises
their order. ρ and W are state: they start from τ and follow it, and are never reset along a run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number
from ..base.types import System
from .step_function import StepFunction, Traits


class SchemeStep(NamedTuple):
    """The outcome of one step.

    Shapes: one `System`, dt () in units of time.
    """

    system: System
    carry: Any  # what the next step needs
    dt: Tensor  # ()  time
    valid: Tensor  # ()  bool; False where ρ or W is no longer positive: the run ends there


class SchemeInit(Protocol):
    """``init(rule, system, compensated) -> carry``."""

    def __call__(self, rule: StepFunction, system: System, compensated: bool = False) -> Any: ...


class Turn(Protocol):
    """``turn(rule, system, carry, compensated) -> carry`` of a system whose velocities were just reversed."""

    def __call__(self, rule: StepFunction, system: System, carry: Any, compensated: bool = False) -> Any: ...


class Scheme(NamedTuple):
    """A way to use a step function.

    ``init(rule, system, compensated=False) -> carry`` and ``step(rule, system, carry, h) ->``
    `SchemeStep`. A step is made of one or several stages of one map, of lengths cᵢ h, some of them backwards.
    Shapes: one `System`; h (), dimensionless.
    """

    name: str
    init: SchemeInit
    stage: Callable[[StepFunction, System, Any, Tensor], SchemeStep]  # one stage; arguments as those of ``step``
    turn: Turn
    traits: Traits  # what it asks of a step function
    reversible: bool  # explicit and symmetric: it may be composed, and retraced by −h
    position_form: bool  # whether it reads Ω(x) of the positions alone
    equal_steps: int  # n, where at constant τ a step takes the time n h τ; 0 where dt follows from ρ, W or an iteration
    evaluations_at_start: int  # force evaluations of ``init``
    evaluations_per_stage: int  # force evaluations of one ``stage``
    rule_evaluations_per_stage: int  # evaluations of the step function, with its derivative where needed
    stages: tuple[float, ...] = (1.0,)  # c₁, c₂, …

    def step(self, rule: StepFunction, system: System, carry: Any, h: Tensor) -> SchemeStep:
        """One step: all stages in turn; dt is their sum, and the step is valid if all of them are."""
        first, *others = self.stages
        out = self.stage(rule, system, carry, number(first, h) * h)
        for coefficient in others:
            out = join(out, self.stage(rule, out.system, out.carry, number(coefficient, h) * h))
        return out

    @property
    def evaluations_per_step(self) -> int:
        """Force evaluations of one ``step``."""
        return self.evaluations_per_stage * len(self.stages)

    @property
    def rule_evaluations(self) -> int:
        """Evaluations of the step function of one ``step``."""
        return self.rule_evaluations_per_stage * len(self.stages)


def join(first: SchemeStep, second: SchemeStep) -> SchemeStep:
    """Two stages as one: where the second ends, and what holds of both."""
    return second._replace(dt=first.dt + second.dt, valid=first.valid & second.valid)


def check_traits(scheme: Scheme, traits: Traits, where: str) -> None:
    """Refuse a step function that a scheme cannot use.

    Raises:
        ValueError: naming the trait that is missing.
    """
    reasons = {
        "smooth": "is not smooth (a min, max, clip or relu in it); use p-norms and tanh, silu or gelu",
        "memoryless": "remembers past states; use features without history",
        "even": "changes when all velocities are reversed; use a rule that is even in them",
    }
    for trait, reason in reasons.items():
        require(
            getattr(traits, trait) or not getattr(scheme.traits, trait),
            f"{where}: the scheme {scheme.name} is reversible, and this step function {reason}, or use the direct "
            "scheme (a rule of your own declares what holds: traits = Traits(smooth=True, memoryless=True, even=True))",
        )


def reverse_velocities(system: System) -> System:
    """The same system with all velocities reversed."""
    return system._replace(velocity=-system.velocity)


def all_valid(dt: Tensor) -> Tensor:
    """True, (): what a step is that has no ρ or W."""
    return torch.ones_like(dt, dtype=torch.bool)
