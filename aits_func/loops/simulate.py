"""Simulation of a batch of systems with a policy's steps (the direct scheme), statistics included."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require, require_choice
from ..base.tree import select
from ..base.types import Params, Sample, System, Window
from ..physics.gravity import Gravity
from ..physics.integrators import Integrator
from ..physics.invariants import angular_momentum, linear_momentum
from ..timestep.policy import Policy
from ..timestep.step import ENERGY_SCALES
from ..timestep.window import first_sample, push
from .collect import check_energies

RUNNING, FINISHED, STEP_LIMIT, NOT_FINITE, STALLED = range(5)
STATUS_NAMES = ("running", "finished", "step limit", "not finite", "stalled")
_MAX_FRAMES = 16_384  # beyond it every other frame is dropped, so that a long run does not fill the memory
_SYNC_EVERY = 16  # steps between two looks at whether all are done; finished systems are frozen meanwhile


class Recording(NamedTuple):
    """States along the way: the first, every ``record_every``-th step, and the last; S of them.

    Of a run of many thousand steps every other frame is dropped again and again, so that S stays bounded.
    """

    time: Tensor  # (S, B)        time
    position: Tensor  # (S, B, N, D)  length
    dt: Tensor  # (S, B)        time; the step that led to it, 0 for the first
    energy_error: Tensor  # (S, B)        |E − E₀| over the energy scale


class SimulationInfo(NamedTuple):
    """The report on B simulated systems. All errors are relative to the energy scale of the start.

    Shapes: as commented on the fields. Units: ``mean_dt`` is a time; errors are dimensionless.
    """

    status: Tensor  # (B,) int64, index into STATUS_NAMES
    steps: Tensor  # (B,) int64, predicted steps
    force_evaluations: Tensor  # (B,) int64, of the integrator, the one at the start included
    over_threshold: Tensor  # (B,) int64, steps whose own energy error reached the threshold
    final_energy_error: Tensor  # (B,) |E − E₀| / scale at the end
    max_energy_error: Tensor  # (B,) its maximum over the steps
    mean_energy_error: Tensor  # (B,) its time average (1/T) ∫ |E − E₀| / scale dt
    momentum_residual: Tensor  # (B,) |P − P₀|, mass · length / time
    angular_momentum_residual: Tensor  # (B,) |L − L₀|, mass · length² / time
    mean_dt: Tensor  # (B,) time
    recording: Recording


class _Run(NamedTuple):
    """One system on its way."""

    sample: Sample
    carry: Any  # the integrator's
    status: Tensor  # () int64
    steps: Tensor  # () int64
    over_threshold: Tensor  # () int64
    energy: Tensor  # () E, to weigh the next step by
    error: Tensor  # () |E − E₀| / scale
    max_error: Tensor  # ()
    error_integral: Tensor  # () ∫ error dt


def simulate(
    params: Params,
    systems: System,
    *,
    policy: Policy,
    gravity: Gravity,
    integrator: Integrator,
    t_end: float | Tensor,
    history_len: int = 0,
    n_steps: int = 1,
    max_steps: int = 1_000_000,
    energy_threshold: float = 2e-4,
    energy_scale: str = "total",
    record_every: int = 0,
) -> tuple[System, SimulationInfo]:
    """Advance every system of a batch to ``t_end`` with the steps that a policy predicts.

    Steps are taken as predicted, never rejected; those whose own energy error reaches the
    threshold are counted. The last step is shortened to end at t_end. A system that is done, or whose
    state is no longer finite, is frozen, and the others go on.

    Args:
        params: the policy's parameters.
        systems: B systems of one shape, leaves (B, ...).
        policy: predicts dt.
        gravity: weighs the energies.
        integrator: advances the systems.
        t_end: the time to end at, one for all or (B,), later than every start.
        history_len: H, as the policy's features want it.
        n_steps: integrator steps per predicted dt, ≥ 1.
        max_steps: predicted steps after which a system ends with status "step limit", ≥ 1.
        energy_threshold: what a step is counted against.
        energy_scale: "total": |E₀|; "kinetic": K₀ + |W₀|.
        record_every: record every so many steps; 0 for the first and the last state only.

    Returns:
        (systems at the end, `SimulationInfo`). Status per system: "finished", "step limit", "not
        finite" (the last finite state is returned), "stalled" (dt too small to change the time).

    Raises:
        ValueError: if t_end is not finite and later than every start, a count is out of range, energy_scale is
            another word, systems is no batch, or an energy is no scale to measure by (see `check_energies`).
    """
    end = _check_arguments(systems, t_end, n_steps, max_steps, record_every, energy_scale)
    check_energies(systems, gravity=gravity, energy_scale=energy_scale, where="simulate")
    energy = vmap(gravity.energy)(systems)
    scale = energy.abs() if energy_scale == "total" else vmap(gravity.energy_size)(systems)
    advance = vmap(_build_advance(params, policy, gravity, integrator, n_steps, max_steps, energy_threshold))
    runs = vmap(lambda system, energy: _begin(system, energy, integrator, history_len))(systems, energy)
    frames, every = {0: _frame(runs)}, record_every
    for count in range(1, max_steps + 1):
        runs = advance(runs, energy, scale, end)
        if every and count % every == 0:
            frames[count] = _frame(runs)
        if len(frames) > _MAX_FRAMES:
            every *= 2
            frames = {number: frame for number, frame in frames.items() if number % every == 0}
        if count % _SYNC_EVERY == 0 and not bool((runs.status == RUNNING).any()):
            break
    return runs.sample.system, _report(systems, runs, integrator, n_steps, frames)


def _check_arguments(
    systems: System, t_end: float | Tensor, n_steps: int, max_steps: int, record_every: int, energy_scale: str
) -> Tensor:
    """The end times, (B,)."""
    require(n_steps >= 1, f"simulate: n_steps must be >= 1, got {n_steps}")
    require(max_steps >= 1, f"simulate: max_steps must be >= 1, got {max_steps}")
    require(record_every >= 0, f"simulate: record_every must be >= 0 (0 for the ends only), got {record_every}")
    require_choice("simulate", "energy_scale", energy_scale, ENERGY_SCALES)
    require(
        systems.mass.ndim == 2,
        "simulate: systems must be a batch, leaves (B, ...); for one system add a leading axis to every leaf",
    )
    end = torch.as_tensor(t_end, dtype=systems.time.dtype, device=systems.time.device).expand_as(systems.time)
    late = (end > systems.time) & (end < math.inf)
    if not bool(late.all()):
        number = int((~late).nonzero()[0])
        raise ValueError(
            f"simulate: t_end must be finite and later than the start, got {float(end[number])} for system {number}, "
            f"which starts at {float(systems.time[number])}"
        )
    return end


def _begin(system: System, energy: Tensor, integrator: Integrator, history_len: int) -> _Run:
    zero = torch.zeros_like(system.time)
    count = torch.zeros_like(zero, dtype=torch.int64)
    return _Run(
        first_sample(system, history_len), integrator.init(system), count, count, count, energy, zero, zero, zero
    )


def _build_advance(
    params: Params,
    policy: Policy,
    gravity: Gravity,
    integrator: Integrator,
    n_steps: int,
    max_steps: int,
    energy_threshold: float,
) -> Callable[[_Run, Tensor, Tensor, Tensor], _Run]:
    """One predicted step of one system, or none if it is done: (run, E₀, scale, t_end) -> run."""

    def attempt(system: System, carry: Any, window: Window, t_end: Tensor) -> tuple[System, Any, Tensor]:
        predicted = policy.apply(params, system, window)
        dt = torch.minimum(predicted, (t_end - system.time) / n_steps)
        after = system
        for _ in range(n_steps):
            after, carry = integrator.step(after, carry, dt)
        # The last step ends at t_end to the bit, not to rounding.
        return after._replace(time=torch.where(dt < predicted, t_end, after.time)), carry, dt

    def advance(run: _Run, energy: Tensor, scale: Tensor, t_end: Tensor) -> _Run:
        system, window = run.sample.system, run.sample.window
        after, carry, dt = attempt(system, run.carry, window, t_end)
        energy_after = gravity.energy(after)
        error = (energy_after - energy).abs() / scale
        moved = _Run(
            run.sample._replace(system=after, window=push(window, system, dt), dt=dt),
            carry,
            run.status,
            run.steps + 1,
            run.over_threshold + ((energy_after - run.energy).abs() / scale >= energy_threshold),
            energy_after,
            error,
            torch.maximum(run.max_error, error),
            run.error_integral + error * (after.time - system.time),
        )
        finite, moving = error.isfinite() & dt.isfinite(), after.time > system.time
        running = run.status == RUNNING
        new = select(running & finite & moving, moved, run)
        status = torch.where(new.steps >= max_steps, STEP_LIMIT, RUNNING)
        status = torch.where(new.sample.system.time >= t_end, FINISHED, status)
        status = torch.where(~moving, STALLED, status)
        status = torch.where(~finite, NOT_FINITE, status)
        return new._replace(status=torch.where(running, status, run.status))

    return advance


def _frame(runs: _Run) -> Recording:
    system = runs.sample.system
    return Recording(system.time, system.position, runs.sample.dt, runs.error)


def _recording(runs: _Run, frames: dict[int, Recording]) -> Recording:
    """The frames of steps that were taken, and the last state, once."""
    last = int(runs.steps.max())
    kept = [frame for number, frame in frames.items() if number < last or number == 0]
    return Recording(*(torch.stack(column) for column in zip(*kept, _frame(runs), strict=True)))


def _report(
    start: System, runs: _Run, integrator: Integrator, n_steps: int, frames: dict[int, Recording]
) -> SimulationInfo:
    end = runs.sample.system
    elapsed = end.time - start.time
    span = torch.where(elapsed > 0, elapsed, torch.ones_like(elapsed))
    momentum = vmap(linear_momentum)(end) - vmap(linear_momentum)(start)
    spin = vmap(angular_momentum)(end) - vmap(angular_momentum)(start)
    evaluations = integrator.evaluations_at_start + integrator.evaluations_per_step * n_steps * runs.steps
    return SimulationInfo(
        status=runs.status,
        steps=runs.steps,
        force_evaluations=evaluations,
        over_threshold=runs.over_threshold,
        final_energy_error=runs.error,
        max_energy_error=runs.max_error,
        mean_energy_error=runs.error_integral / span,
        momentum_residual=momentum.norm(dim=-1),
        angular_momentum_residual=spin.reshape(len(spin), -1).norm(dim=-1),
        mean_dt=elapsed / runs.steps.clamp(min=1),
        recording=_recording(runs, frames),
    )
