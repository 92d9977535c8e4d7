"""Part 1: trajectory collection. Predict, integrate, then accept and go on, or reject and retrain."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import check_system, has_room, make_room, require, require_choice
from ..base.engine import MODES, build_engine, remember
from ..base.tree import concatenate, select, take
from ..base.types import Params, Population, Sample, StepInfo, System, TrainState
from ..learning.least_squares import LeastSquares
from ..learning.optimizers import GradientTransformation
from ..physics.gravity import Gravity, in_double
from ..physics.massless import own_energies
from ..timestep.energies import ENERGY_SCALES, energy_and_size
from ..timestep.rounding import MARGIN, Limit
from ..timestep.window import first_sample, push
from .learner import Learner
from .objective import Groups, count_samples
from .resolution import check_guard, out_of_reach, rounding_errors

COMPLETE, RETRAIN_LIMIT, BELOW_ROUNDING, NO_SYSTEMS = "complete", "retrain_limit", "below_rounding", "no_systems"
_PATIENCE = 32  # rejections after which it is asked whether the threshold lies below rounding: chance had its turn
_SMALLEST, _GROWTH = 32, 8  # the sizes to which rejected samples are filled up where an update is compiled


class Stuck(NamedTuple):
    """The step that could not be learned within max_retrain_steps, or at all: plain numbers."""

    group: int  # which group of the population
    system: int  # which system of the group
    energy_error: float  # relative energy error of the last attempt
    dt: float  # time; the step of the last attempt
    rounding_error: float = 0.0  # relative; the energy error that rounding alone makes there; 0: not known


class CollectInfo(NamedTuple):
    """The report of Part 1.

    Shapes: plain numbers. Units: ``mean_dt`` is a time; energy errors are relative.
    """

    status: str  # "complete"; "retrain_limit", or "below_rounding": of a stuck system no step can be good enough;
    # "no_systems": the population is empty, so nothing was tried
    stuck: tuple[Stuck, ...]  # the systems at which the collection ended
    accepted: int  # steps
    rejected: int  # attempts that were not accepted
    updates: int  # optimizer updates
    recorded: int  # samples in the trajectory: accepted steps less the warm-up of the windows
    mean_energy_error: float  # of the accepted steps; NaN if there is none
    max_energy_error: float
    mean_dt: float  # time; of the accepted steps


def init_population(
    systems: Sequence[System] | System,
    *,
    gravity: Gravity,
    history_len: int = 0,
    stop_time: Sequence[Tensor] | Tensor | None = None,
    energy_scale: str = "total",
) -> tuple[Population, ...]:
    """Systems at the beginning of training, checked and given empty windows.

    Args:
        systems: batches of systems, leaves (B, ...), one batch for every shape (N, D); or one batch.
        gravity: weighs the energies; its softening decides whether bodies may coincide.
        history_len: H ≥ 0, the length of the windows.
        stop_time: for every batch (B,), the time at which a system retires, e.g. its period; None
            for never.
        energy_scale: as in `attempt_single_step`; unless it is "kinetic", a system of no energy is refused.

    Returns:
        A tuple of `Population`.

    Raises:
        ValueError: if a system is malformed (see `check_system`), history_len < 0, energy_scale is another word,
            or an energy is no scale to measure by (see `check_energies` and `check_guard`).
    """
    require(history_len >= 0, f"init_population: history_len must be >= 0, got {history_len}")
    require_choice("init_population", "energy_scale", energy_scale, ENERGY_SCALES)
    batches = (systems,) if isinstance(systems, System) else tuple(systems)
    ends: Sequence[Tensor | None] = [None] * len(batches)
    if stop_time is not None:
        ends = (stop_time,) if isinstance(stop_time, Tensor) else tuple(stop_time)
    groups = []
    for number, (batch, end) in enumerate(zip(batches, ends, strict=True)):
        check_system(batch, softening=gravity.softening, batched=True, where=f"systems[{number}]")
        check_energies(batch, gravity=gravity, energy_scale=energy_scale, where=f"systems[{number}]")
        if energy_scale == "source":
            check_guard(batch, gravity=gravity, where=f"systems[{number}]")
        batch = make_room(batch)
        sample = vmap(lambda system: first_sample(system, history_len))(batch)
        groups.append(Population(sample, torch.full_like(batch.time, math.inf) if end is None else end.to(batch.time)))
    return tuple(groups)


def check_energies(systems: System, *, gravity: Gravity, energy_scale: str, where: str) -> None:
    """Refuse systems whose energy is no scale to measure an error by, or whose forces their dtype does not hold.

    Args:
        systems: leaves (B, ...).
        gravity: weighs the energies.
        energy_scale: one of `ENERGY_SCALES`.
        where: what the error message calls the systems.

    Raises:
        ValueError: if an energy is not finite in float64 (in which it is weighed), if K + |W| is 0, or if, unless it is
            K + |W| that errors are relative to, |E| vanishes against that (a ratio to it would be rounding); if the
            forces of a float32 system are lost to the range of float32.
    """
    _check_forces(systems, gravity, where)
    energy, size, own = _energies_of(systems, gravity, energy_scale)
    not_finite = ~(energy.isfinite() & size.isfinite() & own.isfinite())
    if bool(not_finite.any()):
        raise ValueError(
            f"{where}: the energy of system {int(not_finite.nonzero()[0])} is not finite; move bodies (or a field's "
            "perturber) apart, or change units"
        )
    nothing = (size == 0) & ~((own > 0) & (energy_scale != "source"))
    if bool(nothing.any()):
        raise ValueError(
            f"{where}: system {int(nothing.nonzero()[0])} has neither kinetic nor potential energy (only one body has "
            "mass?), so there is no energy error to learn from; give a second body mass"
            + (', or set energy_scale = "total", which judges massless bodies' if energy_scale == "source" else "")
        )
    vanishes = _vanishes(systems, energy, size)
    if energy_scale != "kinetic" and bool(vanishes.any()):
        raise ValueError(
            f"{where}: system {int(vanishes.nonzero()[0])} has total energy 0, so a relative energy error has no "
            'meaning; set energy_scale = "kinetic"'
        )


def weighable(systems: System, gravity: Gravity, energy_scale: str) -> Tensor:
    """Whether an energy error has a meaning: what `check_energies` refuses by, as data.

    Args:
        systems: leaves (B, ...).
        gravity: weighs the energies.
        energy_scale: one of `ENERGY_SCALES`.

    Returns:
        (B,) bool.
    """
    energy, size, own = _energies_of(systems, gravity, energy_scale)
    some = (size > 0) | ((own > 0) & (energy_scale != "source"))
    known = energy.isfinite() & size.isfinite() & own.isfinite() & some
    return known & ~(_vanishes(systems, energy, size) & (energy_scale != "kinetic"))


def _energies_of(systems: System, gravity: Gravity, energy_scale: str) -> tuple[Tensor, Tensor, Tensor]:
    """E, K + |W|, and the largest ½v² + |φ| of a massless body; (B,) each."""

    def of_one(system: System) -> tuple[Tensor, Tensor, Tensor]:
        energy, size = energy_and_size(system, gravity, energy_scale)
        if not has_room(system):
            return energy, size, torch.zeros_like(energy)
        own = own_energies(gravity, system)[1]
        return energy, size, torch.where(system.mass == 0, own, torch.zeros_like(own)).amax()

    return vmap(of_one)(in_double(make_room(systems)))


def _vanishes(systems: System, energy: Tensor, size: Tensor) -> Tensor:
    """E is a difference of K and |W|: below some roundings of their state it is 0 for all that is known.

    (That of one body with mass, in its own frame, is 0 exactly, and so is its error.)
    """
    return (energy.abs() <= 64 * torch.finfo(systems.mass.dtype).eps * size) & (size > 0)


def _check_forces(systems: System, gravity: Gravity, where: str) -> None:
    """Refuse a float32 system whose forces are no float32, or none of full digits, as R⁻³ of its bodies is not.

    Below 1e-13 R⁻³ is infinite. From 4e12 on it has fewer digits, and from 1e15 on, a thirtieth of a parsec in metres,
    it is 0.
    """
    if systems.mass.dtype != torch.float32:
        return
    forces, own = (
        vmap(gravity.acceleration)(x.mass, x.position, x.time).cpu().to(torch.float64)
        for x in (in_double(systems), systems)
    )
    size = forces.abs().amax((1, 2))
    lost = ~((own - forces).abs().amax((1, 2)) <= 1e-3 * size)  # roundings are some 1e-6 of it
    if bool(lost.any()):
        raise ValueError(
            f"{where}: float32 does not hold the forces of system {int(lost.nonzero()[0])}; use units in which lengths "
            "are nearer to 1, or float64"
        )


def init_train_state(
    params: object, optimizer: GradientTransformation | LeastSquares, population: tuple[Population, ...] = ()
) -> TrainState:
    """The state that training starts from.

    Args:
        params: the policy's parameters, from ``policy.init(seed)``.
        optimizer: makes its own state for them.
        population: the systems of Part 1, from `init_population`; () if only Part 2 is used.

    Returns:
        A `TrainState` at epoch 0.
    """
    return TrainState(params, optimizer.init(params), population, torch.zeros((), dtype=torch.int64))


def collect_trajectory(
    state: TrainState,
    *,
    learner: Learner,
    steps_per_epoch: int = 1,
    max_retrain_steps: int = 1000,
    compile: str = "off",
) -> tuple[TrainState, Groups, CollectInfo]:
    """Advance every system by ``steps_per_epoch`` accepted steps, retraining whenever one is rejected.

    Every system is attempted at once. An accepted one advances, and the step that was validated is
    recorded: the state it started from, its window and its dt. A rejected one stays; the optimizer
    updates on the mean loss of all rejected ones, and they are tried again. None waits for
    another.

    The source stores the end state beside the dt that led to it, so its pairs were never validated
    together; here they were. While a window is not yet full, accepted steps fill it and are not
    recorded.

    Args:
        state: params, optimizer state, and the population to advance.
        learner: objective and optimizer.
        steps_per_epoch: accepted steps of each system, ≥ 1.
        max_retrain_steps: rejections of one step after which the collection ends, ≥ 1.
        compile: "on", "auto" (where there is a compiler) or "off"; worth its seconds for some thousand steps.

    Returns:
        (state with new params, optimizer state and population; trajectory, a tuple of groups of T
        samples in all; `CollectInfo`). At the limit the status is "retrain_limit" and ``stuck``
        names the systems; what was collected is kept. If the threshold lies below the rounding error of the energy of
        a rejected system (see `timestep.rounding`), the status is "below_rounding", and that is found after at most
        32 rejections. Of a population without a system it is "no_systems".

    Raises:
        ValueError: if steps_per_epoch or max_retrain_steps is < 1, or compile is another word.
    """
    require_choice("collect_trajectory", "compile", compile, MODES)
    attempt, update = build_attempt(learner, compile), build_update(learner, compile)
    require(steps_per_epoch >= 1, f"collect_trajectory: steps_per_epoch must be >= 1, got {steps_per_epoch}")
    require(max_retrain_steps >= 1, f"collect_trajectory: max_retrain_steps must be >= 1, got {max_retrain_steps}")
    progress = [_begin(population.sample) for population in state.population]
    stop_times = [population.stop_time for population in state.population]
    kept: list[list[_Kept]] = [[] for _ in progress]
    rejected = updates = 0
    while True:
        running = [_running(p, end, steps_per_epoch) for p, end in zip(progress, stop_times, strict=True)]
        stuck = [_stuck(p, max_retrain_steps, learner.objective.limit) for p in progress]
        if _any(stuck) or not _any(running):  # the host syncs of an iteration, with `_rejected` below
            break
        outcomes = [attempt(state.params, p, run) for p, run in zip(progress, running, strict=True)]
        progress, records_now = [after for after, _ in outcomes], [record for _, record in outcomes]
        for history, record in zip(kept, records_now, strict=True):
            history.append(_keep(record))
        failed = _rejected(records_now)
        if failed:
            updates += 1
            rejected += count_samples(failed)
            state = update(state, failed)

    population = tuple(
        Population(p.sample._replace(active=p.sample.system.time < end), end)
        for p, end in zip(progress, stop_times, strict=True)
    )
    trajectory = tuple(group for group in map(_recorded, kept) if group is not None)
    named = _name_stuck(progress, stuck, learner.objective.limit) if any(map(len, stop_times)) else ((), NO_SYSTEMS)
    info = _report(named, [item for history in kept for item in history], trajectory, rejected, updates)
    return state._replace(population=population), trajectory, info


class _Progress(NamedTuple):
    """One group on its way: present samples, counters, the verdict on the last attempt."""

    sample: Sample  # (B, ...)
    accepted: Tensor  # (B,) int64, accepted steps in this collection
    retries: Tensor  # (B,) int64, rejections of the present step
    info: StepInfo  # (B,), of the last attempt


class _Record(NamedTuple):
    """One attempt of one group."""

    sample: Sample  # (B, ...)  where it started, with the dt of the attempt; inactive: not attempted
    after: System  # (B, ...)
    info: StepInfo  # (B,)

    @property
    def good(self) -> Tensor:
        """(B,) bool: attempted and accepted."""
        return self.sample.active & self.info.accepted

    @property
    def missed(self) -> Tensor:
        """(B,) bool: attempted and rejected."""
        return self.sample.active & ~self.info.accepted


def _begin(sample: Sample) -> _Progress:
    zero = torch.zeros_like(sample.active, dtype=torch.int64)
    nothing = torch.zeros_like(sample.dt)
    return _Progress(sample, zero, zero, StepInfo(nothing, nothing, sample.active, ~sample.active))


def _running(progress: _Progress, stop_time: Tensor, steps: int) -> Tensor:
    """(B,) bool: the systems that still have a step to make in this collection."""
    return (progress.accepted < steps) & (progress.sample.system.time < stop_time)


def _any(masks: Sequence[Tensor]) -> bool:
    return bool(torch.cat(list(masks)).any()) if masks else False


@remember
def build_attempt(learner: Learner, compile: str) -> Callable[[Params, _Progress, Tensor], tuple[_Progress, _Record]]:
    """(params, progress, which systems run) -> (progress, what was tried): one attempt of one group, compiled if asked.

    Where a step was accepted the system and its window move on; elsewhere they stay.
    """

    def attempt(params: Params, progress: _Progress, running: Tensor) -> tuple[_Progress, _Record]:
        tried = progress.sample._replace(active=running)
        (after,), info = learner.objective.attempt(params, (tried,))
        record = _Record(tried._replace(dt=info.dt), after, info)
        moved = record.sample._replace(system=after, window=vmap(push)(tried.window, tried.system, info.dt))
        retries = torch.where(record.missed, progress.retries + 1, torch.zeros_like(progress.retries))
        seen = select(running, info, progress.info)
        sample = select(record.good, moved, progress.sample)
        return _Progress(sample, progress.accepted + record.good, retries, seen), record

    return build_engine(attempt, mode=compile, batched=(False, True, True), label="a step of the collection")


@remember
def build_update(learner: Learner, compile: str) -> Callable[[TrainState, Groups], TrainState]:
    """(state, failed samples) -> state after one optimizer step, compiled if asked."""

    def update(params: Params, opt_state: Any, failed: Groups) -> tuple[Params, Any]:
        state, _ = learner.update(TrainState(params, opt_state, (), torch.zeros(())), failed, "failed")
        return state.params, state.opt_state

    engine = build_engine(update, mode=compile, batched=(False, False, True), label="an update of the collection")

    def apply(state: TrainState, failed: Groups) -> TrainState:
        if compile == "off":
            return learner.update(state, failed, "failed")[0]
        params, opt_state = engine(state.params, state.opt_state, tuple(map(_fill_up, failed)))
        return state._replace(params=params, opt_state=opt_state)

    return apply


def _fill_up(group: Sample) -> Sample:
    """A group with inactive samples added up to the next of few sizes: every other one would be compiled for."""
    count = len(group.active)
    size = _SMALLEST
    while size < count:
        size *= _GROWTH
    row = torch.arange(size, device=group.active.device)
    filled = take(group, row.clamp(max=count - 1))
    return filled._replace(active=filled.active & (row < count))


def _rejected(records: Sequence[_Record]) -> Groups:
    """The samples that were attempted and rejected, to learn from."""
    groups = [take(record.sample, record.missed.nonzero()[:, 0]) for record in records]
    return tuple(group for group in groups if len(group.active))


class _Kept(NamedTuple):
    """What remains of an attempt: its A accepted steps."""

    sample: Sample  # (A, ...)
    energy_error: Tensor  # (A,)


def _keep(record: _Record) -> _Kept:
    return take(_Kept(record.sample, record.info.energy_error), record.good.nonzero()[:, 0])


def _recorded(kept: Sequence[_Kept]) -> Sample | None:
    """The validated samples of one group whose window was full, as one batch; None if there is none."""
    full = [take(item.sample, item.sample.window.valid.all(-1).nonzero()[:, 0]) for item in kept]
    full = [sample for sample in full if len(sample.active)]
    return concatenate(full) if full else None


def _stuck(progress: _Progress, most: int, limit: Limit | None) -> Tensor:
    """(B,) bool: the systems whose step was rejected too often, or is rejected whatever is learned."""
    at_limit = progress.retries >= most
    due = (progress.retries > 0) & (progress.retries % _PATIENCE == 0)
    if limit is None or not bool(due.any()):
        return at_limit
    return at_limit | (due & out_of_reach(progress.sample.system, limit, limit.energy_threshold))


def _name_stuck(
    progress: Sequence[_Progress], stuck: Sequence[Tensor], limit: Limit | None
) -> tuple[tuple[Stuck, ...], str]:
    """The stuck systems and the status of the collection."""
    found = []
    for number, (p, mask) in enumerate(zip(progress, stuck, strict=True)):
        rows = mask.nonzero()[:, 0]
        errors = [0.0] * len(rows) if limit is None else rounding_errors(take(p.sample.system, rows), limit).tolist()
        for row, error in zip(rows.tolist(), errors, strict=True):
            found.append(Stuck(number, row, float(p.info.energy_error[row]), float(p.info.dt[row]), error))
    lost = limit is not None and any(limit.energy_threshold < MARGIN * each.rounding_error for each in found)
    return tuple(found), (BELOW_ROUNDING if lost else RETRAIN_LIMIT) if found else COMPLETE


def _report(
    named: tuple[tuple[Stuck, ...], str], kept: Sequence[_Kept], trajectory: Groups, rejected: int, updates: int
) -> CollectInfo:
    empty = torch.zeros(0, dtype=torch.float64)
    error = torch.cat([empty, *(item.energy_error.double().cpu() for item in kept)])
    dt = torch.cat([empty, *(item.sample.dt.double().cpu() for item in kept)])
    stuck, status = named
    return CollectInfo(
        status=status,
        stuck=stuck,
        accepted=len(error),
        rejected=rejected,
        updates=updates,
        recorded=count_samples(trajectory),
        mean_energy_error=float(error.mean()) if len(error) else math.nan,
        max_energy_error=float(error.max()) if len(error) else math.nan,
        mean_dt=float(dt.mean()) if len(dt) else math.nan,
    )
