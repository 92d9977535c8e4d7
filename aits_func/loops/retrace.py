"""Gradients through a long run in constant memory: the adjoint of a reversible scheme walks the path back.

Backpropagation stores every state of a run. A time-reversible map gives each state back from the one after it, by
a stage of −h, so the backward pass needs the last state alone, and one stage's derivative at a time.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp, vmap

from ..base.check import require
from ..base.engine import Engine, build_engine, outside_transforms, remember
from ..base.tree import leaves, map_leaves, replace_leaves, select
from ..base.types import Params, System
from ..physics.gravity import Gravity
from ..physics.scheme import Scheme, SchemeStep, all_valid, check_traits, join
from ..timestep.binding import bind
from ..timestep.policy import Policy, traits_of
from ..timestep.run import ARRIVED, Watch, build_stepper
from ..timestep.window import empty_window
from .arguments import check_params, measure, step_factor, times_to_reach

_SYNC_EVERY = 16  # steps between two looks at who is done
_TRUSTED = 1e-6  # of the system's size: farther from the start, the retraced path is another one


class RetraceInfo(NamedTuple):
    """The report on B systems. Shapes: as commented on the fields."""

    finished: Tensor  # (B,) bool; whether the end was reached; if not, the last good state is returned
    steps: Tensor  # (B,) int64, whole steps; the side step that lands on t_end comes on top


class Theta(NamedTuple):
    """What all stages share, and what may be differentiated by."""

    params: Params
    h: Tensor  # ()
    constants: Any


class State(NamedTuple):
    """What a stage maps to the next."""

    system: System  # (B, ...)
    carry: Any  # the scheme's


class Progress(NamedTuple):
    """Who is still under way."""

    running: Tensor  # (B,) bool
    arrived: Tensor  # (B,) bool; the next step would pass the target
    steps: Tensor  # (B,) int64


class Machine(NamedTuple):
    """The functions of the two passes, for B systems."""

    stage: Engine  # (theta, c, so far: SchemeStep) -> SchemeStep
    conclude: Engine  # (progress, before: State, SchemeStep, target, limit) -> (progress, State)
    pull: Engine  # (theta, c, after: State, cotangent of it, active) -> (before, cotangent of it, cotangent of theta)
    trial: Callable[..., SchemeStep]  # ``stage``, never compiled
    stages: tuple[float, ...]  # filled in for every run


def retrace(
    params: Params,
    systems: System,
    *,
    policy: Policy | Callable[[Gravity], Policy],
    gravity: Gravity | Callable[[Any], Gravity],
    scheme: Scheme | Callable[[Gravity], Scheme],
    t_end: float | Tensor | None = None,
    steps: int | None = None,
    h: float | Tensor = 1.0,
    constants: Any = (),
    max_steps: int = 1_000_000,
    compile: str = "off",
) -> tuple[System, RetraceInfo]:
    """The end of `simulate`, differentiable in memory that does not grow with the number of steps.

    Differentiate it by ``torch.func.grad`` or by autograd, once, in params, systems (masses included), h, t_end and
    constants. The gradient equals backpropagation's up to the rounding with which the path is retraced: of a
    chaotic system that grows exponentially, and where the way back misses the start by more than 10⁻⁶ of the system's
    size, the backward pass warns.

    Args:
        params: the policy's parameters.
        systems: B systems of one shape, leaves (B, ...), or one system.
        policy: predicts dt; smooth, memoryless and even in the velocities.
        gravity: forces.
        scheme: an explicit reversible one.
        t_end: the time to end at, one for all or (B,), later than every start; or None with ``steps``.
        steps: the number of steps to take instead.
        h: a factor on the step, > 0.
        constants: a pytree of tensors that gravity depends on, such as the mass of a field's source. If it is given,
            gravity is a function of it, and policy and scheme are functions of that gravity.
        max_steps: steps after which a system ends unfinished, ≥ 1.
        compile: "on", "auto" or "off", see `build_engine`; compiled functions are kept for the next call.

    Returns:
        (systems at the end, `RetraceInfo`); of one system, without the leading axis.

    Raises:
        ValueError: if the scheme is not explicit and reversible or does not take this policy, or a number is out of
            range.
        RuntimeError: later, if somebody asks for a second derivative.
    """
    single = systems.mass.ndim == 1
    if single:
        systems = map_leaves(lambda leaf: leaf[None], systems)
    given = bool(leaves(constants))
    its_policy, field, its_scheme = _model(policy, gravity, scheme, given, constants)
    require(
        its_scheme.reversible,
        f"retrace: only an explicit reversible scheme gives its path back; {its_scheme.name} does not: use "
        "hairer_soderlind or time_transformed, or differentiate simulate",
    )
    check_traits(its_scheme, traits_of(its_policy), "retrace")
    require(max_steps >= 1, f"retrace: max_steps must be >= 1, got {max_steps}")
    (target,) = times_to_reach("retrace", systems, t_end=t_end, steps=steps)
    machine = _machine(policy, gravity, scheme, given, compile)._replace(stages=its_scheme.stages)
    theta = Theta(params, step_factor("retrace", h, systems), constants)
    check_params("retrace", params, systems)

    def begin(system: System) -> State:
        return State(system, its_scheme.init(bind_now(params, system), system, compensated=True))

    def bind_now(params: Params, system: System) -> Any:
        return bind(its_policy, params, empty_window(system, 0), scheme=its_scheme, gravity=field)

    start = vmap(begin)(systems)
    limit = torch.full_like(systems.time, max_steps if steps is None else steps, dtype=torch.int64)
    last, progress = _run(machine, theta, start, target, limit)
    end, finished = last.system, progress.steps == limit
    if steps is None:
        goal = torch.where(progress.arrived, target, last.system.time)  # the others land where they are
        landed = _land(its_policy, field, its_scheme, theta, systems, last, goal)
        end, finished = select(progress.arrived, landed, end), progress.arrived
    info = RetraceInfo(finished, progress.steps)
    return (_first(end), _first(info)) if single else (end, info)


def _land(
    policy: Policy, gravity: Gravity, scheme: Scheme, theta: Theta, systems: System, last: State, target: Tensor
) -> System:
    """The side step to the target, differentiated as it is."""
    stepper = build_stepper(policy, gravity, scheme, history_len=0, energy_threshold=math.inf, watch=Watch())
    start = measure(systems, gravity, "kinetic", 0.0, 1)
    runs = vmap(stepper.begin, in_dims=(None, 0, 0))(theta.params, systems, start)
    runs = runs._replace(system=last.system, carry=last.carry, status=torch.full_like(runs.status, ARRIVED))
    land = vmap(stepper.land, in_dims=(None, None, 0, 0, 0))
    return land(theta.params, theta.h, start, runs, target).system


def _model(policy: Any, gravity: Any, scheme: Any, given: bool, constants: Any) -> tuple[Policy, Gravity, Scheme]:
    """What is used, or made of the constants where those are given."""
    if not given:
        return policy, gravity, scheme
    field = gravity(constants)
    return policy(field), field, scheme(field)


@remember
def _machine(policy: Any, gravity: Any, scheme: Any, given: bool, compile: str) -> Machine:
    def stage(theta: Theta, coefficient: Tensor, so_far: SchemeStep) -> SchemeStep:
        its_policy, field, its_scheme = _model(policy, gravity, scheme, given, theta.constants)
        rule = bind(its_policy, theta.params, empty_window(so_far.system, 0), scheme=its_scheme, gravity=field)
        return join(so_far, its_scheme.stage(rule, so_far.system, so_far.carry, coefficient * theta.h))

    def move(theta: Theta, coefficient: Tensor, state: State) -> State:
        out = stage(theta, coefficient, _no_step(state))
        return State(out.system, out.carry)

    moves = vmap(move, in_dims=(None, None, 0))

    def pull(
        theta: Theta, coefficient: Tensor, after: State, cotangent: State, active: Tensor
    ) -> tuple[State, State, Theta]:
        before = select(active, moves(theta, -coefficient, after), after)
        back = vjp(lambda shared, state: moves(shared, coefficient, state), theta, before)[1]
        # Of a system that is at its start already nothing more is pulled back, nor added to what all share.
        of_theta, of_state = back(select(active, cotangent, map_leaves(torch.zeros_like, cotangent)))
        return before, select(active, of_state, cotangent), of_theta

    stages = vmap(stage, in_dims=(None, None, 0))
    return Machine(
        build_engine(stages, mode=compile, batched=(False, False, True), label="a stage of the run"),
        build_engine(vmap(_conclude), mode=compile, batched=(True,) * 5, label="the verdict on a step"),
        build_engine(pull, mode=compile, batched=(False, False, True, True, True), label="a stage of the way back"),
        stages,
        (),
    )


def _no_step(state: State) -> SchemeStep:
    zero = torch.zeros_like(state.system.time)
    return SchemeStep(state.system, state.carry, zero, all_valid(zero))


def _conclude(
    progress: Progress, before: State, out: SchemeStep, target: Tensor, limit: Tensor
) -> tuple[Progress, State]:
    """Whether one system's step counts, and where it is now."""
    finite = torch.stack([leaf.isfinite().all() for leaf in out.system]).all() & out.dt.isfinite()
    arrived = out.valid & ((out.system.time >= target) | (out.dt >= target - before.system.time))
    good = progress.running & out.valid & finite & (out.dt > 0) & ~arrived
    steps = progress.steps + good
    state = select(good, State(out.system, out.carry), before)
    return Progress(good & (steps < limit), progress.arrived | (progress.running & arrived), steps), state


def _run(machine: Machine, theta: Theta, start: State, target: Tensor, limit: Tensor) -> tuple[State, Progress]:
    """The run, as one node of the graph of derivatives."""
    _refuse_hidden(machine, theta, start)
    # Trees without tensors: whatever is a tensor in an argument's tree would be tracked.
    shapes = (map_leaves(lambda leaf: 0, theta), map_leaves(lambda leaf: 0, start))
    flat = _Retraced.apply(machine, shapes, target, limit, *leaves(theta), *leaves(start))
    return replace_leaves(start, flat[:-3]), Progress(*flat[-3:])


class _Retraced(torch.autograd.Function):
    """(theta, state) -> last state, with the leaves of trees as arguments."""

    @staticmethod
    def forward(machine: Machine, shapes: Any, target: Tensor, limit: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        theta, state = _split(shapes, flat)
        progress = Progress(limit > 0, limit < 0, torch.zeros_like(limit))
        ones = _coefficients(machine, theta.h)
        count = 0
        while True:
            out = _no_steps(state)
            for coefficient in ones:
                out = machine.stage(theta, coefficient, out)
            progress, state = machine.conclude(progress, state, out, target, limit)
            count += 1
            if count % _SYNC_EVERY == 0 and not bool(progress.running.any()):
                break
        return (*(leaf.clone() for leaf in leaves(state)), *progress)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.machine, ctx.shapes, _, _, *flat = inputs
        ctx.mark_non_differentiable(*output[-3:])
        ctx.save_for_backward(*flat, *output[:-3], output[-1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        with outside_transforms() as plain:
            saved = [plain(leaf) for leaf in ctx.saved_tensors]
            pulled = _pull_back(ctx.machine, ctx.shapes, saved, list(map(plain, cotangents[:-3])))
        return (None, None, None, None, *_Once.apply(len(pulled), *pulled, *cotangents[:-3], *ctx.saved_tensors))


class _Once(torch.autograd.Function):
    """(count, tensors) -> the first so many of them; refuses to be differentiated.

    (torch's own ``once_differentiable`` ties its refusal to no argument: asked for the derivative by one, torch would
    answer 0.)
    """

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        raise RuntimeError("retrace: can be differentiated once only; for second derivatives differentiate simulate")


def _pull_back(
    machine: Machine, shapes: tuple[Theta, State], saved: list[Tensor], cotangents: list[Tensor]
) -> list[Tensor]:
    """The path back to the start, and what the cotangents of its end are there: leaves of theta, and of the state."""
    *flat, steps = saved
    given = len(leaves(shapes))
    theta, start = _split(shapes, flat[:given])
    state, cotangent = (replace_leaves(start, part) for part in (flat[given:], cotangents))
    total = map_leaves(torch.zeros_like, theta)
    backwards = _coefficients(machine, theta.h)[::-1]
    for number in range(int(steps.max()), 0, -1):
        active = steps >= number
        for coefficient in backwards:
            state, cotangent, of_theta = machine.pull(theta, coefficient, state, cotangent, active)
            total = map_leaves(torch.add, total, of_theta)
    _warn_of_a_lost_path(start.system, state.system)
    return leaves((total, cotangent))


def _refuse_hidden(machine: Machine, theta: Theta, start: State) -> None:
    """A tensor that gravity or the policy closes over would get no gradient: only arguments do.

    Raises:
        ValueError: if something that is differentiated is hidden there.
    """
    plain_theta, plain_start = map_leaves(torch.detach, (theta, start))
    out = machine.trial(plain_theta, torch.ones_like(theta.h).detach(), _no_steps(plain_start))
    require(
        not any(leaf.requires_grad for leaf in leaves(out)),
        "retrace: gravity, policy or scheme hold a tensor that is differentiated, and its gradient would be lost; hand "
        "it over as constants, and gravity, policy and scheme as functions",
    )


def _split(shapes: tuple[Theta, State], flat: Sequence[Tensor]) -> tuple[Theta, State]:
    theta, state = shapes
    count = len(leaves(theta))
    return replace_leaves(theta, flat[:count]), replace_leaves(state, flat[count:])


def _coefficients(machine: Machine, like: Tensor) -> list[Tensor]:
    return [torch.full_like(like, coefficient) for coefficient in machine.stages]


_no_steps = vmap(_no_step)


def _warn_of_a_lost_path(start: System, back: System) -> None:
    was, now = start.position.detach(), back.position.detach()
    missed = float(((now - was).abs().amax((1, 2)) / was.abs().amax((1, 2))).max())
    if not missed <= _TRUSTED:
        warnings.warn(
            f"retrace: the way back missed the start by {missed:.1e} of the system's size, so this gradient belongs "
            "to another path; shorten the run, or differentiate simulate",
            stacklevel=2,
        )


def _first(tree: Any) -> Any:
    return map_leaves(lambda leaf: leaf[0], tree)
