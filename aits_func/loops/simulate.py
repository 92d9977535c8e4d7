"""Simulation of a batch of systems with a policy's steps (the direct scheme), statistics included."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require
from ..base.tree import select
from ..base.types import Params, Sample, System
from ..physics.gravity import Gravity, kinetic_energy
from ..physics.integrators import Integrator
from ..physics.invariants import angular_momentum, linear_momentum
from ..timestep.policy import Policy
from ..timestep.window import first_sample, push

RUNNING, FINISHED, STEP_LIMIT, NOT_FINITE, STALLED = range(5)
STATUS_NAMES = ("running", "finished", "step limit", "not finite", "stalled")
_SYNC_EVERY = 16  # steps between two looks at whether all are done; finished systems are frozen meanwhile


class Recording(NamedTuple):
    """States along the way: the first, every ``record_every``-th step, and the last; S of them."""

    time: Tensor  # (S, B)        time
    position: Tensor  # (S, B, N, D)  length
    dt: Tensor  # (S, B)        time; the step that led to it, 0 for the first
    energy_error: Tensor  # (S, B)        |E − E₀| over the energy scale


class SimulationInfo(NamedTuple):
    """The report on B simulated systems. Errors are relative to the energy scale of the start."""

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
    carry: object  # the integrator's
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
        ValueError: if t_end is not finite and later than every start, or a count is < 1.
    """
    end = _check_arguments(systems, t_end, n_steps, max_steps)
    energy = vmap(gravity.energy)(systems)
    scale = energy.abs() if energy_scale == "total" else _kinetic_scale(gravity, systems)
    runs = vmap(lambda system, energy: _begin(system, energy, integrator, history_len))(systems, energy)

    def advance(run: _Run, energy: Tensor, scale: Tensor, end: Tensor) -> tuple[_Run, Tensor]:
        return _advance(
            params, run, energy, scale, end, policy, gravity, integrator, n_steps, max_steps, energy_threshold
        )

    advance_batch = vmap(advance)
    frames = [_frame(runs, torch.zeros_like(energy))]
    for count in range(1, max_steps + 1):
        runs, dt = advance_batch(runs, energy, scale, end)
        if record_every and count % record_every == 0:
            frames.append(_frame(runs, dt))
        if count % _SYNC_EVERY == 0 and not bool((runs.status == RUNNING).any()):
            break
    frames.append(_frame(runs, dt))
    return runs.sample.system, _report(systems, runs, integrator, n_steps, frames)


def _check_arguments(systems: System, t_end: float | Tensor, n_steps: int, max_steps: int) -> Tensor:
    """The end times, (B,)."""
    require(n_steps >= 1, f"simulate: n_steps must be >= 1, got {n_steps}")
    require(max_steps >= 1, f"simulate: max_steps must be >= 1, got {max_steps}")
    end = torch.as_tensor(t_end).to(systems.time).expand_as(systems.time)
    late = (end > systems.time) & (end < math.inf)
    if not bool(late.all()):
        number = int((~late).nonzero()[0])
        raise ValueError(
            f"simulate: t_end must be finite and later than the start, got {float(end[number])} for system {number}, "
            f"which starts at {float(systems.time[number])}"
        )
    return end


def _kinetic_scale(gravity: Gravity, systems: System) -> Tensor:
    return vmap(kinetic_energy)(systems) + vmap(gravity.potential_energy)(systems).abs()


def _begin(system: System, energy: Tensor, integrator: Integrator, history_len: int) -> _Run:
    zero = torch.zeros_like(system.time)
    count = torch.zeros_like(zero, dtype=torch.int64)
    return _Run(
        first_sample(system, history_len), integrator.init(system), count, count, count, energy, zero, zero, zero
    )


def _advance(
    params: Params,
    run: _Run,
    energy: Tensor,
    scale: Tensor,
    t_end: Tensor,
    policy: Policy,
    gravity: Gravity,
    integrator: Integrator,
    n_steps: int,
    max_steps: int,
    energy_threshold: float,
) -> tuple[_Run, Tensor]:
    """One predicted step of one system, or none if it is done."""
    system, window = run.sample.system, run.sample.window
    predicted = policy.apply(params, system, window)
    dt = torch.minimum(predicted, (t_end - system.time) / n_steps)
    last = dt < predicted
    after, carry = system, run.carry
    for _ in range(n_steps):
        after, carry = integrator.step(after, carry, dt)
    after = after._replace(time=torch.where(last, t_end, after.time))
    energy_after = gravity.energy(after)
    error_after = (energy_after - energy).abs() / scale
    step_error = (energy_after - run.energy).abs() / scale
    finite = error_after.isfinite() & dt.isfinite()
    moving = after.time > system.time

    running = run.status == RUNNING
    good = running & finite & moving
    moved = _Run(
        run.sample._replace(system=after, window=push(window, system, dt), dt=dt),
        carry,
        run.status,
        run.steps + 1,
        run.over_threshold + (step_error >= energy_threshold),
        energy_after,
        error_after,
        torch.maximum(run.max_error, error_after),
        run.error_integral + error_after * (after.time - system.time),
    )
    new = select(good, moved, run)
    status = torch.where(new.steps >= max_steps, STEP_LIMIT, RUNNING)
    status = torch.where(new.sample.system.time >= t_end, FINISHED, status)
    status = torch.where(~moving, STALLED, status)
    status = torch.where(~finite, NOT_FINITE, status)
    return new._replace(status=torch.where(running, status, run.status)), torch.where(good, dt, torch.zeros_like(dt))


def _frame(runs: _Run, dt: Tensor) -> Recording:
    system = runs.sample.system
    return Recording(system.time, system.position, dt, runs.error)


def _report(start: System, runs: _Run, integrator: Integrator, n_steps: int, frames: list[Recording]) -> SimulationInfo:
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
        recording=Recording(*(torch.stack(column) for column in zip(*frames, strict=True))),
    )
