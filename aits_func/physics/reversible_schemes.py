"""Explicit time-reversible schemes of ONE system: Hairer–Söderlind, and the time-transformed leapfrog."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from ..base.check import has_room, require_choice
from ..base.forward_mode import jvp
from ..base.types import System
from .criterion import scaled_log
from .gravity import Gravity
from .integrators import build_leapfrog_dkd, build_leapfrog_kdk, drift, kick, nothing_lost
from .scheme import Scheme, SchemeStep
from .step_function import REVERSIBLE, StepFunction


class RhoCarry(NamedTuple):
    """State of the Hairer–Söderlind scheme."""

    rho: Tensor  # ()  1 / time; follows 1/τ
    slope: Tensor  # ()  1 / time; −d ln τ/dt along the motion, at the present state
    constants: Any  # those of a step function of positions; () otherwise
    integrator: Any  # the leapfrog's carry


def build_hairer_soderlind(gravity: Gravity, *, base: str = "kdk") -> Scheme:
    """Explicit reversible variable steps: ρ follows 1/τ by the slope G = −d ln τ/dt along the motion.

        ρ ← ρ + ½ h G(x, v);   dt = h/ρ;   a leapfrog step of dt;   ρ ← ρ + ½ h G(x', v')

    One force per step, and one G, which the next step inherits. With "dkd" the leapfrog is drift–kick–drift, and τ is
    read as a function of positions (G needs the acceleration otherwise, at a place where it is not known); a policy
    that is none is taken at rest, see `at_rest`. With "kdk" τ may depend on velocities: G takes the force at hand.

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
                return scaled_log(rule.rate(system._replace(position=position, time=time), constants))

            return jvp(log_rate, (system.position, system.time), (system.velocity, unit))

        def minus_log(position: Tensor, velocity: Tensor, time: Tensor, work: Tensor) -> Tensor:
            return -scaled_log(rule.timescale(System(system.mass, position, velocity, time, work)))

        # No step depends on the work on a single body: that on the whole is enough.
        power = carry.power
        if has_room(system):
            power = torch.cat([power[None], torch.zeros_like(system.mass)])
        motion = (system.velocity, carry.acceleration, unit, power)
        return jvp(minus_log, tuple(system[1:]), motion)

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
        lambda rule, system, carry, compensated=False: carry._replace(slope=-carry.slope),
        REVERSIBLE,
        reversible=True,
        position_form=base == "dkd",
        equal_steps=0,
        evaluations_at_start=leapfrog.evaluations_at_start,
        evaluations_per_stage=1,
        rule_evaluations_per_stage=1,
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

        def log_rate(position: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            omega = rule.rate(half._replace(position=position, time=time), carry.constants)
            return scaled_log(omega), omega

        # Of ln Ω, as δ ∇Ω = h ∇ ln Ω: in a close encounter the derivatives of Ω itself leave float32.
        slopes = grad_and_value(log_rate, argnums=(0, 1), has_aux=True)(half.position, half.time)
        (gradient, change), (_, omega) = slopes
        delta = h / omega
        at = (half.mass, half.position, half.time)
        kicked = kick(gravity, half, gravity.acceleration(*at), gravity.power(*at), delta)
        W = carry.W + h * ((gradient * (half.velocity + kicked.velocity) / 2).sum() + change)
        second = h / W / 2
        after, lost = drift(kicked, lost, second)
        return SchemeStep(after, TransformedCarry(W, carry.constants, lost), first + second, (W > 0) & (omega > 0))

    return Scheme(
        "time_transformed",
        init,
        step,
        lambda rule, system, carry, compensated=False: carry,
        REVERSIBLE,
        reversible=True,
        position_form=True,
        equal_steps=0,
        evaluations_at_start=0,
        evaluations_per_stage=1,
        rule_evaluations_per_stage=1,
    )
