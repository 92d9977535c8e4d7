"""The laws of a scheme: what must hold of any way to use a step function."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.func import grad, vmap

from ..base import tree
from ..base.types import Params, System
from ..physics.gravity import Gravity, build_gravity
from ..physics.pair_criteria import p_norm
from ..physics.scheme import Scheme, SchemeStep, reverse_velocities
from ..physics.step_function import StepFunction
from ..physics.time_transformations import pair_norm
from ..timestep.binding import bind
from ..timestep.energies import energies, largest, weigh
from ..timestep.policy import Policy, build_criterion_policy, traits_of
from ..timestep.window import empty_window
from .derivatives import demand_derivatives, demand_float32, demand_single, demand_slopes_close, weighted_sum
from .draws import numbers
from .frames import Units, frames, in_units, seen_from, units
from .law import Draw, Law, check_laws, demand, demand_close, demand_pure, demand_trees_close, measured_order
from .strategies import systems as any_systems

_SOFTENINGS = st.sampled_from([0.0, 0.3])
_OURS = Units(1.0, 1.0, 1.0)
_ETA = 0.1  # of the criterion: two such steps are a fifth of the shortest time scale
_STEPS = 2  # what the first hands on enters the second
_ROUNDED = 2e-15  # an energy error below this share of K + |W| is rounding, and measures no order


class _Subject(NamedTuple):
    build: Callable[[Gravity], Scheme]
    order: int
    policy: Callable[[Gravity], Policy] | None
    systems: SearchStrategy[System]
    tolerance: float


def check_scheme(
    build: Callable[[Gravity], Scheme],
    *,
    order: int = 2,
    policy: Callable[[Gravity], Policy] | None = None,
    systems: SearchStrategy[System] | None = None,
    tolerance: float = 1e-12,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of schemes on yours: on drawn systems, softened or not, with a step function of your choice.

        valid        steps are > 0, finite and valid, and the clock shows their sum
        step size    short steps are h times those that the step function asks for
        order        the energy error of a step, and that of each test particle, is of order h^(order + 1), or higher
        there        two steps, velocities reversed and the carry turned, two steps: the start, if ``reversible``
        retraced     two steps and two of −h lead back, if ``reversible``
        frames       the same wherever the system is, turned or mirrored, in motion, in any order of the bodies
        units        the same in other units, and so are the derivatives by masses, places, velocities, h and
                     parameters, in reverse mode
        derivatives  reverse mode, forward mode and central differences of the motion are the same
        compensated  compensated sums change nothing but roundings
        single       float32 in, float32 out, and so are the derivatives in forward mode
        pure         the same bits when called again; nothing changed in place, nothing drawn
        vmap         many systems at once are the systems one by one

    Not to be called inside a test that is itself under ``given``.

    Args:
        build: makes the `Scheme` of a `Gravity`.
        order: p ≥ 1, of the scheme.
        policy: makes the step function of a `Gravity`, a policy tried with its first parameters. None: a p-norm
            of free-fall and fly-by times, or, for a scheme that reads positions alone, of Ω = Σ m m'/r.
        systems: a strategy of one `System`; None for 2 to 4 bodies in which gravity decides: two at least have
            mass, and speeds are at most 0.5 along every axis.
        tolerance: of two outcomes that should be the same, relative to the largest number in each. 1e-12: roundings
            of coordinates up to 5, and of speeds, rates and their derivatives of order 10.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name.

    Example:
        >>> import aits_func as af
        >>> check_scheme(lambda gravity: af.build_scheme("hairer_soderlind", gravity), laws=["there"])
    """
    # A product of masses does not see a single one, and Ω = 0 is no time transformation. Where bodies merely fly
    # apart, ρ = 1/τ of free fall ends at 0.
    massive = any_systems(bodies=(2, 4), mass=(1.0, 10.0), massless=True, max_speed=0.5).filter(
        lambda system: bool((system.mass > 0).sum() > 1)
    )
    subject = _Subject(build, order, policy, massive if systems is None else systems, tolerance)
    check_laws("check_scheme", SCHEME_LAWS, subject, only=laws, without=without, settings=settings)


class _Case(NamedTuple):
    """What a law is tried on."""

    scheme: Scheme
    policy: Policy
    params: Params
    system: System
    gravity: Gravity

    @property
    def rule(self) -> StepFunction:
        window = empty_window(self.system, 0)
        return bind(self.policy, self.params, window, scheme=self.scheme, gravity=self.gravity)


class _Outcome(NamedTuple):
    system: System
    carry: Any
    dt: Tensor  # (steps,)


def _case(subject: _Subject, system: System, *, softening: float, G: float = 1.0) -> _Case:
    gravity = build_gravity(G=G, softening=softening)
    scheme = subject.build(gravity)
    if subject.policy is not None:
        policy = subject.policy(gravity)
    elif scheme.position_form:
        policy = build_criterion_policy(pair_norm(gravity, eta=_ETA))
    else:
        policy = build_criterion_policy(p_norm(gravity, eta=_ETA, pairs=("free_fall", "fly_by")))
    return _Case(scheme, policy, policy.init(0), system, gravity)


def _drawn(subject: _Subject, draw: Draw) -> _Case:
    return _case(subject, draw(subject.systems), softening=draw(_SOFTENINGS))


def _start(case: _Case) -> _Outcome:
    return _Outcome(case.system, case.scheme.init(case.rule, case.system), torch.zeros_like(case.system.time[None][:0]))


def _step(case: _Case, now: _Outcome, h: float | Tensor) -> SchemeStep:
    return case.scheme.step(case.rule, now.system, now.carry, torch.as_tensor(h, dtype=now.system.time.dtype))


def _go(case: _Case, now: _Outcome, h: float | Tensor = 1.0) -> _Outcome:
    for _ in range(_STEPS):
        out = _step(case, now, h)
        now = _Outcome(out.system, out.carry, torch.cat([now.dt, out.dt[None]]))
    return now


def _same(subject: _Subject, ours: _Outcome, theirs: _Outcome, message: str, factor: float = 1.0) -> None:
    tolerance = factor * subject.tolerance
    demand_close(ours.dt, theirs.dt, f"{message}: the steps", tolerance=tolerance)
    for name in ("position", "velocity", "time"):
        pair = getattr(ours.system, name), getattr(theirs.system, name)
        demand_close(*pair, f"{message}: {name}", tolerance=tolerance, scale=1.0 if name == "velocity" else 0.0)


def _valid(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    now = _start(case)
    for _ in range(_STEPS):
        out = _step(case, now, 1.0)
        demand(out.valid.dtype == torch.bool and out.valid.shape == (), "valid must be a () bool")
        demand(out.valid, "a short step of a system that gravity holds together must be valid")
        demand(out.dt.isfinite() & (out.dt > 0), f"dt must be > 0 and finite, got {out.dt.item()}")
        elapsed = out.system.time - now.system.time
        demand_close(elapsed, out.dt, "the time of a step", tolerance=subject.tolerance, scale=1.0)
        now = _Outcome(out.system, out.carry, now.dt)


def _step_size(subject: _Subject, draw: Draw) -> None:
    case, h = _drawn(subject, draw), 1e-3
    asked = h * case.rule.timescale(case.system) * max(case.scheme.equal_steps, 1)
    # Of so short a step the step function itself changes by h η = 1e-4, times the rate of change of a close pair.
    demand_close(_step(case, _start(case), h).dt, asked, "dt of a short step", tolerance=1e-2)


def _order(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    before, scale = weigh(case.system, case.gravity, "kinetic")
    start = _start(case)

    def error(h: Tensor) -> Tensor:
        after = case.scheme.step(case.rule, start.system, start.carry, h).system
        return largest((energies(after, case.gravity, "kinetic") - before).abs() / scale)

    seen = measured_order(error, 1.0, _ROUNDED) - 1
    # Less by 3/4: what is left of the next term where rounding ends the series; a wrong scheme misses a whole one.
    demand(seen > subject.order - 0.75, f"the order of its energy error is {seen:.2f}, which is not {subject.order}")


def _there(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    if not case.scheme.reversible:
        return
    turned = _go(case, _start(case))
    back = reverse_velocities(turned.system)
    carry = case.scheme.turn(case.rule, back, turned.carry)
    end = _go(case, _Outcome(back, carry, turned.dt))
    home = end.system._replace(velocity=-end.system.velocity, time=case.system.time)
    expected = _Outcome(case.system, end.carry, end.dt)
    _same(subject, end._replace(system=home), expected, "there and back with velocities reversed")
    first, second = end.dt[:_STEPS], end.dt[_STEPS:].flip(0)
    demand_close(second, first, "the steps of the way back", tolerance=subject.tolerance)


def _retraced(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    if not case.scheme.reversible:
        return
    end = _go(case, _go(case, _start(case)), -1.0)
    elapsed = end.system.time - case.system.time
    demand_close(
        elapsed, torch.zeros_like(elapsed), "the time, there and back by −h", tolerance=subject.tolerance, scale=1.0
    )
    home = end._replace(system=end.system._replace(time=case.system.time))
    _same(subject, home, end._replace(system=case.system), "there and back by −h")


def _frames(subject: _Subject, draw: Draw) -> None:
    system, softening = draw(subject.systems), draw(_SOFTENINGS)
    frame = draw(frames(*system.position.shape, turned=True, mirrored=True, shift=3.0, boost=3.0, mixed=True))
    here, there = (_case(subject, s, softening=softening) for s in (system, seen_from(frame, system)))
    ours, theirs = _go(there, _start(there)), _go(here, _start(here))
    expected = theirs._replace(system=seen_from(frame, theirs.system))
    # Ten times: a frame adds coordinates up to 10, whose roundings the encounters feel too.
    _same(subject, ours, expected, "another frame", factor=10)


def _units(subject: _Subject, draw: Draw) -> None:
    system, softening, scale = draw(subject.systems), draw(_SOFTENINGS), draw(units(None))
    here, G = _case(subject, system, softening=softening), scale.gravitational_constant
    there = _case(subject, in_units(scale, system), softening=scale.length * softening, G=G)
    ours, theirs = _go(there, _start(there)), _go(here, _start(here))
    seen = ours._replace(
        system=theirs.system._replace(
            position=ours.system.position / scale.length,
            velocity=ours.system.velocity * scale.time / scale.length,
            time=ours.system.time / scale.time,
        ),
        dt=ours.dt / scale.time,
    )
    _same(subject, seen, theirs, "other units", factor=10)
    at, there_at = (_arguments(case) for case in (here, there))
    slopes = grad(_of_numbers(there, scale), argnums=tuple(range(len(at))))(*there_at)
    factors = (scale.mass, scale.length, scale.length / scale.time, *[1.0] * len(at[3:]))
    demand_slopes_close(
        [slope * factor for slope, factor in zip(slopes, factors, strict=True)],
        grad(_of_numbers(here), argnums=tuple(range(len(at)))),
        at,
        "the derivative of the motion in other units",
        ("masses", "positions", "velocities", "h", *(f"parameter {name}" for name in tree.named_leaves(here.params))),
        tolerance=10 * subject.tolerance,
        scale=1.0,
    )


def _derivatives(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    smooth = traits_of(case.policy).smooth
    message, tolerance = "the derivative of the motion", 10 * subject.tolerance
    demand_derivatives(_of_numbers(case), _arguments(case), message, tolerance=tolerance, smooth=smooth)


def _arguments(case: _Case) -> tuple[Tensor, ...]:
    """Those of `_of_numbers`: masses, positions, velocities, h and the leaves of the parameters."""
    return (*case.system[:3], torch.ones_like(case.system.time), *tree.leaves(case.params))


def _of_numbers(case: _Case, scale: Units = _OURS) -> Callable[..., Tensor]:
    """A sum of the coordinates and speeds at the end, and of the steps, in those units, as a function of numbers."""

    def end(mass: Tensor, position: Tensor, velocity: Tensor, h: Tensor, *leaves: Tensor) -> Tensor:
        system = case.system._replace(mass=mass, position=position, velocity=velocity)
        now = case._replace(system=system, params=tree.replace_leaves(case.params, leaves))
        after = _go(now, _start(now), h)
        speed = after.system.velocity * (scale.time / scale.length)
        return weighted_sum(after.system.position / scale.length, speed, after.dt / scale.time)

    return end


def _compensated(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    careful = _start(case)._replace(carry=case.scheme.init(case.rule, case.system, compensated=True))
    _same(subject, _go(case, careful), _go(case, _start(case)), "compensated sums")


def _single(subject: _Subject, draw: Draw) -> None:
    drawn = _drawn(subject, draw)
    system, params = (tree.cast(x, dtype=torch.float32) for x in (drawn.system, drawn.params))
    case = drawn._replace(system=system, params=params)
    demand_float32(_go(case, _start(case)), "what a step hands on")
    demand_single(_of_numbers(case), _arguments(case), "the motion")


def _pure(subject: _Subject, draw: Draw) -> None:
    case = _drawn(subject, draw)
    carry = demand_pure(lambda system: case.scheme.init(case.rule, system), case.system)
    demand_pure(
        lambda *state: case.scheme.step(case.rule, *state), case.system, carry, torch.ones_like(case.system.time)
    )


def _vmap(subject: _Subject, draw: Draw) -> None:
    case, factors = _drawn(subject, draw), draw(st.tuples(*[numbers(0.5, 1.0)] * 3))
    rows = [case.system._replace(velocity=k * case.system.velocity) for k in factors]

    def two_steps(system: System) -> System:
        return _go(case, _start(case._replace(system=system))).system

    together = vmap(two_steps)(tree.stack(rows))
    alone = tree.stack([two_steps(row) for row in rows])
    demand_trees_close(together, alone, "three systems at once", tolerance=subject.tolerance, scale=1.0)


SCHEME_LAWS: dict[str, Law] = {
    "valid": _valid,
    "step size": _step_size,
    "order": _order,
    "there": _there,
    "retraced": _retraced,
    "frames": _frames,
    "units": _units,
    "derivatives": _derivatives,
    "compensated": _compensated,
    "single": _single,
    "pure": _pure,
    "vmap": _vmap,
}
"""The laws of `check_scheme`, by name."""
