"""The run of ONE system: its state on the way, one step of it, and how it lands on a given time.

Everything here is a pure function of one system; the loops lift it and decide.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.forward_mode import jvp
from ..base.tree import map_leaves, select
from ..base.types import Params, System, Window
from ..physics.gravity import Gravity, in_double
from ..physics.pairs import pair_distance
from ..physics.scheme import Scheme, SchemeStep, all_valid, join, reverse_velocities
from ..physics.step_function import StepFunction
from .binding import bind
from .energies import largest, potentials_of, weigh
from .policy import Policy
from .window import empty_window, push

RUNNING, FINISHED, STEP_LIMIT, NOT_FINITE, STALLED, NOT_POSITIVE, ARRIVED = range(7)
STATUS_NAMES = (
    "running",
    "finished",
    "step limit",  # max_steps reached
    "not finite",  # the step or its energy; the last finite state is kept
    "stalled",  # a step below the floor, by default too small to change the time
    "transformation not positive",  # ρ or W ≤ 0: h is too large for this encounter
    "arrived",  # on its way to a later time; never reported
)
_ROUNDS = 8  # in which bodies are put together that are bound: few, as each looks at all pairs
_LANDING_ITERATIONS = 6  # of the secant method: six steps leave rounding alone, starting within a factor of 2


class Start(NamedTuple):
    """What a system is measured against, and where it has to stop."""

    energy: Tensor  # () float64  E₀; with massless bodies (1 + N,), theirs besides (see `energies`)
    scale: Tensor  # the same; what errors of them are relative to
    time: Tensor  # ()  time
    min_dt: Tensor  # ()  time; the floor of a step
    max_steps: Tensor  # ()  int64; steps after which the run ends


class Statistics(NamedTuple):
    """What adds up along a run. Shapes: () where none is given.

    |E − E₀| / scale is the largest of a system's error and those of its massless bodies.
    """

    over_threshold: Tensor  # int64; steps whose own energy error reached the threshold, which training would reject
    max_error: Tensor  # largest |E − E₀| / scale
    max_potential_error: Tensor  # largest |E − E₀| / |W(t)|
    error_integral: Tensor  # ∫ |E − E₀| / scale dt, time
    signed_integral: Tensor  # () or (1 + N,)  ∫ (E − E₀) / scale dt of each energy, time
    moment: Tensor  # () or (1 + N,)  ∫ (t − t₀) (E − E₀) / scale dt of each, time²
    closest_distance: Tensor  # length; of any pair at the end of any step; infinite if not watched
    encounter_time: Tensor  # time at which a pair first was closer than asked; infinite: never
    escape_time: Tensor  # time at which a body was first found to escape; infinite: never
    escaper: Tensor  # int64, which body, of a group its first; −1: none


class Run(NamedTuple):
    """One system on its way."""

    system: System
    window: Window
    carry: Any  # the scheme's
    dt: Tensor  # ()  time; the last step
    status: Tensor  # () int64
    steps: Tensor  # () int64; predicted steps
    output_steps: Tensor  # () int64; side steps to outputs, and steps that passed one and were forgotten
    energy: Any  # () or (1 + N,) float64  E, to weigh the next step by
    scale: Any  # the same; what the next step's own error is relative to
    error: Tensor  # ()  |E − E₀| / scale; without statistics 0, or NaN if the state is not finite
    statistics: Any  # `Statistics`; without them it, energy and scale are the empty tree


class Watch(NamedTuple):
    """Which events are looked for: plain numbers."""

    encounter_distance: float = 0.0  # length; 0: not watched
    escape_distance: float = math.inf  # length; infinite: not watched


class Stepper(NamedTuple):
    """The functions of one run, made by `build_stepper`.

    Shapes: one system; parameters and h are shared by all.
    """

    begin: Callable[..., Run]  # (params, system, start) -> Run
    advance: Callable[..., Run]  # (params, h, start, run, target) -> Run; does nothing unless it is running
    stage: Callable[..., SchemeStep]  # (params, c · h, run, SchemeStep so far) -> SchemeStep: what advance is made of,
    conclude: Callable[..., Run]  # (start, run, SchemeStep, target) -> Run: and what it ends with
    land: Callable[..., Run]  # (params, h, start, run, target) -> Run at time ``target``
    turn: Callable[..., Run]  # (params, run) -> Run; on its way back, its velocities reversed, all else as at a start


def build_stepper(
    policy: Policy,
    gravity: Gravity,
    scheme: Scheme,
    *,
    history_len: int,
    energy_threshold: float,
    watch: Watch,
    energy_scale: str = "total",
    statistics: bool = True,
    block: int = 1,
) -> Stepper:
    """A policy in a scheme as the functions of one run.

    Args:
        policy: predicts dt.
        gravity: weighs energies.
        scheme: advances.
        history_len: H of the windows.
        energy_threshold: what a step's own error is counted against.
        watch: which events are looked for.
        energy_scale: one of `ENERGY_SCALES`.
        statistics: False to weigh no energies and look for no events on the way, which costs more than a leapfrog step.
        block: steps of one ``advance``, which are judged together; without statistics, and towards no target.

    Returns:
        A `Stepper`.
    """

    def begin(params: Params, system: System, start: Start) -> Run:
        window = empty_window(system, history_len)
        carry = scheme.init(_bind(params, window), system, compensated=True)
        return fresh(system, window, carry, start.energy, start.scale)

    def fresh(system: System, window: Window, carry: Any, energy: Tensor, scale: Tensor) -> Run:
        zero = torch.zeros_like(system.time)
        count = torch.zeros_like(zero, dtype=torch.int64)
        kept = (energy, scale, zero, _no_statistics(system, energy, watch)) if statistics else ((), (), zero, ())
        return Run(system, window, carry, zero, count, count, count, *kept)

    def turn(params: Params, run: Run) -> Run:
        back, window = reverse_velocities(run.system), empty_window(run.system, history_len)
        carry = scheme.turn(_bind(params, window), back, run.carry, compensated=True)
        return fresh(back, window, carry, run.energy, run.scale)

    def _bind(params: Params, window: Window) -> StepFunction:
        return bind(policy, params, window, scheme=scheme, gravity=gravity)

    def taken(start: Start, run: Run, out: SchemeStep) -> Run:
        """The run after a step, whatever came of it."""
        after, window = out.system, push(run.window, run.system, out.dt)
        if not statistics:
            error = torch.where(_is_finite(after), torch.zeros_like(out.dt), torch.full_like(out.dt, math.nan))
            empty: tuple[()] = ()
            counts = run.status, run.steps + block, run.output_steps
            return Run(after, window, out.carry, out.dt, *counts, empty, empty, error, empty)
        heavy = in_double(after)
        energy, scale = weigh(heavy, gravity, energy_scale)
        errors = ((energy - start.energy) / start.scale).to(out.dt.dtype)
        # As `attempt_single_step` judges it: relative to what the step began with, not to what the run did.
        over = largest((energy - run.energy).abs() / run.scale) >= energy_threshold
        depth = potentials_of(heavy, gravity, energy_scale)
        return Run(
            after,
            window,
            out.carry,
            out.dt,
            run.status,
            run.steps + 1,
            run.output_steps,
            energy,
            scale,
            largest(errors.abs()),
            _add_up(run.statistics, start, after, out.dt, errors, depth, over, watch, gravity.G),
        )

    def stage(params: Params, size: Tensor, run: Run, out: SchemeStep) -> SchemeStep:
        return join(out, scheme.stage(_bind(params, run.window), out.system, out.carry, size))

    def advance(params: Params, h: Tensor, start: Start, run: Run, target: Tensor) -> Run:
        rule = _bind(params, run.window)
        out = scheme.step(rule, run.system, run.carry, h)
        for _ in range(block - 1):
            out = join(out, scheme.step(rule, out.system, out.carry, h))
        return conclude(start, run, out, target)

    def conclude(start: Start, run: Run, out: SchemeStep, target: Tensor) -> Run:
        moved = taken(start, run, out)
        running = run.status == RUNNING
        # A step function that knows no bound (bodies that hardly feel each other) may pass the target by infinity.
        arrived = out.valid & ((out.system.time >= target) | (out.dt >= target - run.system.time))
        status = torch.where(moved.steps >= start.max_steps, STEP_LIMIT, RUNNING)
        # Too short to change the time, or to get anywhere in as many steps as there are numbers.
        ahead = (target - run.system.time).abs()
        longest = torch.maximum(run.system.time.abs(), torch.where(ahead.isfinite(), ahead, torch.zeros_like(ahead)))
        floor = torch.finfo(out.dt.dtype).eps * longest
        status = torch.where(out.dt > torch.maximum(floor, start.min_dt), status, STALLED)
        status = torch.where(moved.error.isfinite() & out.dt.isfinite(), status, NOT_FINITE)
        status = torch.where(out.valid, status, NOT_POSITIVE)
        status = torch.where(arrived, ARRIVED, status)
        kept = (status == RUNNING) | (status == STEP_LIMIT)
        new = select(running & kept, moved, run)
        return new._replace(
            status=torch.where(running, status, run.status), output_steps=run.output_steps + (running & arrived)
        )

    def land(params: Params, h: Tensor, start: Start, run: Run, target: Tensor) -> Run:
        rule, duration = _bind(params, run.window), target - run.system.time
        if scheme.equal_steps:
            fixed = rule._replace(timescale=lambda system: duration / scheme.equal_steps)
            out, spent = scheme.step(fixed, run.system, run.carry, torch.ones_like(duration)), 0
        else:
            size, slope = _solve(scheme, _bind(map_leaves(torch.detach, params), run.window), run, h, duration)
            # One Newton step from the solution changes nothing but its derivatives.
            trial = scheme.step(rule, run.system, run.carry, size)
            out = scheme.step(rule, run.system, run.carry, size + (duration - trial.dt) / slope)
            spent = _LANDING_ITERATIONS + 4  # a whole step, the derivative, the trial, and the step itself
        landed = taken(start, run, out)
        time = landed.system.time
        tolerance = max(1e-12, 32 * torch.finfo(time.dtype).eps)  # the rounding of seventeen stages, in float32
        close = (time - target).abs() <= tolerance * torch.maximum(target.abs(), duration.abs())
        good = landed.error.isfinite() & close
        exact = landed._replace(
            system=landed.system._replace(time=target), status=torch.full_like(run.status, FINISHED)
        )
        lost = run._replace(status=torch.full_like(run.status, NOT_FINITE))
        return select(good, exact, lost)._replace(output_steps=run.output_steps + spent)

    return Stepper(begin, advance, stage, conclude, land, turn)


def no_step(run: Run) -> SchemeStep:
    """What the stages of a step begin with."""
    zero = torch.zeros_like(run.dt)
    return SchemeStep(run.system, run.carry, zero, all_valid(zero))


def _solve(scheme: Scheme, rule: StepFunction, run: Run, h: Tensor, duration: Tensor) -> tuple[Tensor, Tensor]:
    """(the h whose step takes that time, d dt/dh there), by the secant method, without gradient.

    The derivative is exact, as the derivatives of the landing are made of it; a secant through the last two points
    would be made of rounding.
    """
    system, carry, h, duration = map_leaves(torch.detach, (run.system, run.carry, h, duration))

    def time_of(size: Tensor) -> Tensor:
        return scheme.step(rule, system, carry, size).dt

    old, old_time = torch.zeros_like(h), torch.zeros_like(duration)
    whole = time_of(h)
    new, slope = h * duration / whole, whole / h
    for _ in range(_LANDING_ITERATIONS):
        time = time_of(new)
        apart = (new - old).abs() > torch.finfo(new.dtype).eps ** 0.5 * new.abs()
        secant = (time - old_time) / torch.where(apart, new - old, torch.ones_like(new))
        slope = torch.where(apart & (secant > 0), secant, slope)
        old, old_time, new = new, time, new + (duration - time) / slope
    slope = jvp(time_of, (new,), (torch.ones_like(new),))[1]
    return new.detach(), slope.detach()


def _is_finite(system: System) -> Tensor:
    return system.position.isfinite().all() & system.velocity.isfinite().all()


def _no_statistics(system: System, energy: Tensor, watch: Watch) -> Statistics:
    zero, never = torch.zeros_like(system.time), torch.full_like(system.time, math.inf)
    of_each = torch.zeros_like(energy, dtype=zero.dtype)
    none = torch.zeros_like(zero, dtype=torch.int64)
    closest, met = never, never
    if watch.encounter_distance > 0:
        closest = pair_distance(system.position, 0.0).amin()
        met = torch.where(closest < watch.encounter_distance, system.time, never)
    return Statistics(none, zero, zero, zero, of_each, of_each, closest, met, never, none - 1)


def _add_up(
    so_far: Statistics,
    start: Start,
    after: System,
    dt: Tensor,
    errors: Tensor,
    depth: Tensor,
    over_threshold: Tensor,
    watch: Watch,
    G: float,
) -> Statistics:
    size, change = largest(errors.abs()), errors.abs() * start.scale
    none = change == 0  # so that what has no potential energy, and needs none, has no error of it
    potential_error = largest((torch.where(none, change, change / depth)).to(size.dtype))
    new = so_far._replace(
        over_threshold=so_far.over_threshold + over_threshold,
        max_error=torch.maximum(so_far.max_error, size),
        max_potential_error=torch.maximum(so_far.max_potential_error, potential_error),
        error_integral=so_far.error_integral + size * dt,
        signed_integral=so_far.signed_integral + errors * dt,
        moment=so_far.moment + (after.time - dt / 2 - start.time) * errors * dt,
    )
    if watch.encounter_distance > 0:
        distance = pair_distance(after.position, 0.0).amin()
        first = so_far.encounter_time.isinf() & (distance < watch.encounter_distance)
        new = new._replace(
            closest_distance=torch.minimum(so_far.closest_distance, distance),
            encounter_time=torch.where(first, after.time, so_far.encounter_time),
        )
    if watch.escape_distance < math.inf:
        leaves = escaping(after, watch.escape_distance, G=G)
        first = so_far.escape_time.isinf() & leaves.any()
        new = new._replace(
            escape_time=torch.where(first, after.time, so_far.escape_time),
            escaper=torch.where(first, leaves.to(torch.int64).argmax(), so_far.escaper),
        )
    return new


def escaping(system: System, distance: float, *, G: float) -> Tensor:
    """Which bodies leave for good, as far as two-body motion tells: (N,) bool.

    Bodies that are bound to each other are judged as one, as a member of a tight binary is often faster than its whole
    system lets go: the two bodies of the shortest period are put together, then that group with the next, and so on
    (see `_bound_groups`). A group escapes, with all its bodies, whose centre of mass is farther than ``distance`` from
    that of all other bodies, moves away from it, and is not bound to it: ½v² > GM/r, M the total mass. What has more
    than half of the mass stays: the others leave it.

    Args:
        system: one system.
        distance: length.
        G: gravitational constant.

    Returns:
        (N,) bool.
    """
    member = _bound_groups(system, G)
    mass, (place, speed) = _groups(member, system)
    total = system.mass.sum()
    rest = (system.mass * ~member).sum(1)[:, None]  # exactly 0 where a group is everything
    others = (rest > 0) & (rest >= mass[:, None])
    share = torch.where(others, total / torch.where(others, rest, torch.ones_like(rest)), torch.zeros_like(rest))
    weight = (system.mass / total)[:, None]
    # x_g − (M X − m_g x_g)/(M − m_g) = (x_g − X) M/(M − m_g)
    r, v = (share * (x - (weight * y).sum(0)) for x, y in ((place, system.position), (speed, system.velocity)))
    radius, speed_squared = r.pow(2).sum(-1).sqrt(), v.pow(2).sum(-1)
    leaves = (radius > distance) & ((r * v).sum(-1) > 0) & (speed_squared * radius > 2 * G * total)
    return (member & leaves[:, None]).any(0)


def _bound_groups(system: System, G: float) -> Tensor:
    """Which bodies belong together, (N, N) bool: row k are the members of the group whose first body is k, or empty.

    In every round two groups become one that are bound, ½v² < GM/r with M the mass of both, and of which each has the
    shortest period with the other; so tight pairs come before what they are part of. Of N bodies the groups are
    complete after N − 2 rounds, when two are left; among more than `_ROUNDS` + 2, those of up to `_ROUNDS` + 1 are.
    """
    count = system.mass.shape[0]
    number = torch.arange(count, device=system.mass.device)
    itself = number[:, None] == number
    member = itself
    for _ in range(min(count - 2, _ROUNDS)):
        mass, (place, speed) = _groups(member, system)
        both = mass[:, None] + mass
        square = (place[:, None] - place).pow(2).sum(-1)
        speed_squared = (speed[:, None] - speed).pow(2).sum(-1)
        real = member.any(1)
        apart = real[:, None] & real & ~itself & (both > 0)
        square, some = (torch.where(apart, x, torch.ones_like(x)) for x in (square, both))
        # M^⅓/a, which falls as the period rises; > 0 if bound. Massless bodies are bound to bodies with mass alone.
        tightness = some.pow(1 / 3) * (2 / square.sqrt() - speed_squared / (G * some))
        tightness = torch.where(apart, tightness, torch.zeros_like(tightness))
        best = tightness.amax(1, keepdim=True)
        first = torch.where(tightness == best, number, count).amin(1)  # one of several alike
        chosen = (first[:, None] == number) & (tightness > 0)
        joined = (chosen & chosen.T) | itself
        head = torch.where(joined, number, count).amin(1)  # of group k, the group that it becomes part of
        member = (head[:, None] * member).sum(0) == number[:, None]
    return member


def _groups(member: Tensor, system: System) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Mass (N,), and place and velocity of the centre of mass (N, D), of groups; without mass those of body k."""
    weight = system.mass * member
    mass = weight.sum(1)
    some = (mass > 0)[:, None]
    share = weight / torch.where(some, mass[:, None], torch.ones_like(weight))
    place, speed = (torch.where(some, (share[:, :, None] * x).sum(1), x) for x in (system.position, system.velocity))
    return mass, (place, speed)
