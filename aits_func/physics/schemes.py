"""Schemes: how a step function τ(x) is used to advance ONE system. Pure (init, step) pairs.

A leapfrog whose step is read off the current state is no longer reversible, and its energy drifts. The
schemes here differ in how they use τ:

    direct               dt = h τ(x)                                  not reversible
    implicit symmetric   dt = ½ h (τ(x) + τ(x')), iterated            nearly reversible
    Hairer–Söderlind     dt = h/ρ, ρ follows 1/τ                      reversible, explicit
    time-transformed     dt = ½ h/W + ½ h/W', W follows Ω(x) = 1/τ    reversible, explicit; Kepler exact

h is a plain factor, 1 for the step function's own step: the knob of a work-precision curve. A
negative h goes back along the path. The two explicit ones are symmetric maps in h, so `compose` raises
their order. ρ and W are state: they start from τ and follow it, and are never reset along a run.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.func import grad_and_value, jvp

from ..base.check import require, require_choice
from ..base.types import System
from .gravity import Gravity
from .integrators import (
    Integrator,
    build_integrator,
    build_leapfrog_dkd,
    build_leapfrog_kdk,
    drift,
    kick,
    nothing_lost,
)
from .step_function import REVERSIBLE, StepFunction, Traits


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


class Scheme(NamedTuple):
    """A way to use a step function.

    ``init(rule, system, compensated=False) -> carry`` and ``step(rule, system, carry, h) ->``
    `SchemeStep`. Shapes: one `System`; h (), dimensionless.
    """

    name: str
    init: SchemeInit
    step: Callable[[StepFunction, System, Any, Tensor], SchemeStep]
    reverse: Callable[[Any], Any]  # the carry after all velocities were reversed
    traits: Traits  # what it asks of a step function
    reversible: bool  # explicit and symmetric: it may be composed, and retraced by −h
    position_form: bool  # whether it reads Ω(x) of the positions alone
    equal_steps: int  # n, where a step is n times dt = h τ(x) with τ read once; 0 where dt follows otherwise
    evaluations_at_start: int  # force evaluations of ``init``
    evaluations_per_step: int  # force evaluations of one ``step``
    rule_evaluations: int  # evaluations of the step function, with its derivative where needed, of one ``step``


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
        return SchemeStep(system, carry, n_steps * dt, torch.ones_like(dt, dtype=torch.bool))

    return Scheme(
        "direct",
        init,
        step,
        _unchanged,
        Traits(),
        reversible=False,
        position_form=False,
        equal_steps=n_steps,
        evaluations_at_start=integrator.evaluations_at_start,
        evaluations_per_step=n_steps * integrator.evaluations_per_step,
        rule_evaluations=1,
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
        return SchemeStep(after, ImplicitCarry(forces, tau), dt, torch.ones_like(dt, dtype=torch.bool))

    return Scheme(
        "implicit_symmetric",
        init,
        step,
        _unchanged,
        REVERSIBLE,
        reversible=False,
        position_form=False,
        equal_steps=0,
        evaluations_at_start=integrator.evaluations_at_start,
        evaluations_per_step=iterations * integrator.evaluations_per_step,
        rule_evaluations=iterations,
    )


class RhoCarry(NamedTuple):
    """State of the Hairer–Söderlind scheme."""

    rho: Tensor  # ()  1 / time; follows 1/τ
    slope: Tensor  # ()  1 / time; −d ln τ/dt along the motion, at the present state
    constants: Any  # those of a step function of positions; () otherwise
    integrator: Any  # the leapfrog's carry


def build_hairer_soderlind(gravity: Gravity, *, base: str = "kdk") -> Scheme:
    """Explicit reversible variable steps: ρ follows 1/τ by the slope G = −d ln τ/dt along the motion.

        ρ ← ρ + ½ h G(x, v);   dt = h/ρ;   a leapfrog step of dt;   ρ ← ρ + ½ h G(x', v')

    One force per step, and one G, which the next step inherits. With "dkd" the leapfrog is
    drift–kick–drift, and τ has to depend on positions alone (G needs the acceleration otherwise, at a
    place where it is not known). With "kdk" τ may depend on velocities: G takes the force at hand.

    Args:
        gravity: forces.
        base: "kdk" or "dkd".

    Returns:
        A `Scheme`; its carry is a `RhoCarry`.

    Raises:
        ValueError: if base is another word.

    Source: Hairer & Söderlind 2005, SIAM Journal on Scientific Computing 26, 1838.
    """
    require_choice("build_hairer_soderlind", "base", base, ("kdk", "dkd"))
    leapfrog = {"kdk": build_leapfrog_kdk, "dkd": build_leapfrog_dkd}[base](gravity)

    def slope(rule: StepFunction, system: System, constants: Any, carry: Any) -> tuple[Tensor, Tensor]:
        """(ln 1/τ, its rate of change along the motion)."""
        unit = torch.ones_like(system.time)
        if base == "dkd":

            def log_rate(position: Tensor, time: Tensor) -> Tensor:
                return rule.rate(system._replace(position=position, time=time), constants).log()

            return jvp(log_rate, (system.position, system.time), (system.velocity, unit))  # type: ignore[return-value]

        def minus_log(position: Tensor, velocity: Tensor, time: Tensor, work: Tensor) -> Tensor:
            return -rule.timescale(System(system.mass, position, velocity, time, work)).log()

        motion = (system.velocity, carry.acceleration, unit, carry.power)
        return jvp(minus_log, tuple(system[1:]), motion)  # type: ignore[return-value]

    def init(rule: StepFunction, system: System, compensated: bool = False) -> RhoCarry:
        carry = leapfrog.init(system, compensated)
        constants = rule.constants(system) if base == "dkd" else ()
        log_rate, change = slope(rule, system, constants, carry)
        return RhoCarry(log_rate.exp(), change, constants, carry)

    def step(rule: StepFunction, system: System, carry: RhoCarry, h: Tensor) -> SchemeStep:
        middle = carry.rho + h * carry.slope / 2
        dt = h / middle
        after, forces = leapfrog.step(system, carry.integrator, dt)
        _, change = slope(rule, after, carry.constants, forces)
        rho = middle + h * change / 2
        return SchemeStep(after, RhoCarry(rho, change, carry.constants, forces), dt, (middle > 0) & (rho > 0))

    return Scheme(
        "hairer_soderlind",
        init,
        step,
        lambda carry: carry._replace(slope=-carry.slope),
        REVERSIBLE,
        reversible=True,
        position_form=base == "dkd",
        equal_steps=0,
        evaluations_at_start=leapfrog.evaluations_at_start,
        evaluations_per_step=1,
        rule_evaluations=1,
    )


class TransformedCarry(NamedTuple):
    """State of the time-transformed leapfrog."""

    W: Tensor  # ()  1 / time; follows Ω = 1/τ
    constants: Any  # those of the step function
    lost: Any  # `Lost` or ()


def build_time_transformed_leapfrog(gravity: Gravity) -> Scheme:
    """Time-transformed leapfrog: a positive function of positions Ω(x) = 1/τ(x), and W, which follows it.

        x ← x + ½(h/W) v;   δ = h/Ω(x);   v' = v + δ a(x);   W' = W + δ ½(v + v')·∇Ω(x);   x ← x + ½(h/W') v'

    For any Ω that tends to a constant times m₁m₂/r when two bodies approach, a Kepler orbit comes out
    exact up to its phase, at any eccentricity. One force per step.

    Args:
        gravity: forces.

    Returns:
        A `Scheme`; its carry is a `TransformedCarry`.

    Source: Mikkola & Aarseth 2002, Celestial Mechanics 84, 343; with Ω the potential it is the logarithmic
        Hamiltonian of Mikkola & Tanikawa 1999, Celestial Mechanics 74, 287, and Preto & Tremaine 1999,
        Astronomical Journal 118, 2532.
    """

    def init(rule: StepFunction, system: System, compensated: bool = False) -> TransformedCarry:
        constants = rule.constants(system)
        return TransformedCarry(rule.rate(system, constants), constants, nothing_lost(system, compensated))

    def step(rule: StepFunction, system: System, carry: TransformedCarry, h: Tensor) -> SchemeStep:
        first = h / carry.W / 2
        half, lost = drift(system, carry.lost, first)

        def rate(position: Tensor, time: Tensor) -> Tensor:
            return rule.rate(half._replace(position=position, time=time), carry.constants)

        (gradient, change), omega = grad_and_value(rate, argnums=(0, 1))(half.position, half.time)
        delta = h / omega
        at = (half.mass, half.position, half.time)
        kicked = kick(half, gravity.acceleration(*at), gravity.power(*at), delta)
        W = carry.W + delta * ((gradient * (half.velocity + kicked.velocity) / 2).sum() + change)
        second = h / W / 2
        after, lost = drift(kicked, lost, second)
        return SchemeStep(after, TransformedCarry(W, carry.constants, lost), first + second, (W > 0) & (omega > 0))

    return Scheme(
        "time_transformed",
        init,
        step,
        _unchanged,
        REVERSIBLE,
        reversible=True,
        position_form=True,
        equal_steps=0,
        evaluations_at_start=0,
        evaluations_per_step=1,
        rule_evaluations=1,
    )


def compose(scheme: Scheme, order: int) -> Scheme:
    """A scheme of higher order from a symmetric one of order 2, as stages of h cᵢ, some of them backwards.

    Args:
        scheme: explicit and reversible.
        order: 2 (the scheme itself), 4 (5 stages), 6 (9) or 8 (17).

    Returns:
        A `Scheme`; the carry is the base's.

    Raises:
        ValueError: if the scheme is not a symmetric map, or order is another number.

    Source: order 4 Suzuki 1990, Physics Letters A 146, 319; orders 6 and 8 Kahan & Li 1997, Mathematics of
        Computation 66, 1089.
    """
    require(order in COMPOSITIONS, f"compose: order must be one of {', '.join(map(str, COMPOSITIONS))}, got {order}")
    if order == 2:
        return scheme
    require(
        scheme.reversible,
        f"compose: only an explicit reversible scheme can be raised to order {order}; {scheme.name} is not: use "
        "hairer_soderlind or time_transformed, or order = 2",
    )
    return chain(scheme, COMPOSITIONS[order])


def chain(scheme: Scheme, coefficients: Sequence[float]) -> Scheme:
    """One step of h as stages of h cᵢ; (1, 1, …) simply repeats it. Valid if all stages are."""

    def step(rule: StepFunction, system: System, carry: Any, h: Tensor) -> SchemeStep:
        out = SchemeStep(system, carry, torch.zeros_like(h), torch.ones_like(h, dtype=torch.bool))
        for coefficient in coefficients:
            stage = scheme.step(rule, out.system, out.carry, coefficient * h)
            out = stage._replace(dt=out.dt + stage.dt, valid=out.valid & stage.valid)
        return out

    return scheme._replace(
        step=step,
        evaluations_per_step=scheme.evaluations_per_step * len(coefficients),
        rule_evaluations=scheme.rule_evaluations * len(coefficients),
    )


def build_scheme(
    name: str, gravity: Gravity, *, order: int = 2, integrator: str = "leapfrog_kdk", positions_only: bool = False
) -> Scheme:
    """The scheme of that name.

    Args:
        name: one of `SCHEMES`: "direct", "implicit_symmetric", "hairer_soderlind" or "time_transformed".
        gravity: forces.
        order: 2, 4, 6 or 8; above 2 for the two explicit reversible schemes alone.
        integrator: what the direct scheme, and the implicit one, step with; see `build_integrator`.
        positions_only: whether the step function has a form of positions alone; then Hairer–Söderlind is built on
            drift–kick–drift.

    Returns:
        A `Scheme`.

    Raises:
        ValueError: on an unknown name, or an order that it does not have.
    """
    require_choice("build_scheme", "name", name, SCHEMES)
    if name == "direct":
        return compose(build_direct(build_integrator(integrator, gravity)), order)
    if name == "implicit_symmetric":
        return compose(build_implicit_symmetric(build_integrator(integrator, gravity)), order)
    if name == "hairer_soderlind":
        return compose(build_hairer_soderlind(gravity, base="dkd" if positions_only else "kdk"), order)
    return compose(build_time_transformed_leapfrog(gravity), order)


SCHEMES = ("direct", "implicit_symmetric", "hairer_soderlind", "time_transformed")


def as_scheme(scheme: Scheme | Integrator, *, n_steps: int = 1) -> Scheme:
    """An integrator as the direct scheme with n_steps of one dt; a scheme repeated n_steps times."""
    if isinstance(scheme, Integrator):
        return build_direct(scheme, n_steps=n_steps)
    return scheme if n_steps == 1 else chain(scheme, (1.0,) * n_steps)


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


def _unchanged(carry: Any) -> Any:
    return carry


def _palindrome(*half: float) -> tuple[float, ...]:
    """Stage lengths from the first to the middle one, and back."""
    return (*half, *reversed(half[:-1]))


_SUZUKI = 1 / (4 - 4 ** (1 / 3))
COMPOSITIONS: dict[int, tuple[float, ...]] = {
    2: (1.0,),
    4: _palindrome(_SUZUKI, _SUZUKI, 1 - 4 * _SUZUKI),
    6: _palindrome(
        0.39216144400731413928,
        0.33259913678935943860,
        -0.70624617255763935981,
        0.082213596293550800230,
        0.79854399093482996340,
    ),
    8: _palindrome(
        0.13020248308889008088,
        0.56116298177510838456,
        -0.38947496264484728641,
        0.15884190655515560090,
        -0.39590389413323757734,
        0.18453964097831570709,
        0.25837438768632204729,
        0.29501172360931029887,
        -0.60550853383003451170,
    ),
}
