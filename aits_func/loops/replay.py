"""Part 2: generalization. Replay random minibatches of a trajectory until every sample passes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.rng import fold_in, generator
from ..base.tree import take
from ..base.types import Params, StepInfo, TrainState
from ..timestep.window import forget
from .objective import LOSS_ON, Groups, Learner, Objective, as_groups, chosen_samples, count_samples, pick

CONVERGENCE = ("minibatch", "band", "trajectory")
HISTORY = ("snapshot", "ignore")


class ReplayHistory(NamedTuple):
    """What each iteration saw, for plots: float64 on the CPU, one entry per iteration."""

    loss: Tensor  # (iterations,)
    pass_rate: Tensor  # (iterations,)  accepted fraction of the minibatch
    mean_energy_error: Tensor  # (iterations,)  a step that exploded counts as 1
    max_energy_error: Tensor  # (iterations,)
    mean_dt: Tensor  # (iterations,)  time


class ReplayInfo(NamedTuple):
    """The report of Part 2: plain numbers, about the whole trajectory and the returned parameters.

    A policy that passes by dt → 0 is seen by its ``mean_dt``. Of an empty trajectory the rates and means are NaN.

    Shapes: plain numbers; ``history`` as `ReplayHistory`. Units: ``mean_dt`` is a time.
    """

    converged: bool
    iterations: int  # minibatches judged; 1-based number of the one that passed
    skipped: bool  # the trajectory was smaller than min_replay_size
    pass_rate: float  # accepted fraction of the whole trajectory
    band_rate: float  # fraction inside [E_lower, E_upper]
    mean_energy_error: float  # a step that exploded counts as 1
    max_energy_error: float
    mean_dt: float  # time
    loss: float  # of the last minibatch
    history: ReplayHistory


def sample_minibatch(trajectory: Groups, batch_size: int, *, seed: int = 0) -> Groups:
    """Distinct samples of a trajectory, drawn uniformly.

    Drawn with ``torch.randperm`` on the CPU and then moved, so that every device sees the same
    draw.

    Args:
        trajectory: a tuple of groups, or one group; T samples in all.
        batch_size: at most this many, ≥ 1.
        seed: the key of this draw.

    Returns:
        A tuple of groups with min(batch_size, T) samples in all.

    Raises:
        ValueError: if batch_size < 1.
    """
    require(batch_size >= 1, f"sample_minibatch: batch_size must be >= 1, got {batch_size}")
    groups = as_groups(trajectory)
    order = torch.randperm(count_samples(groups), generator=generator(seed, "minibatch"))
    return pick(groups, order[:batch_size])


def generalize_on_trajectory(
    state: TrainState,
    trajectory: Groups,
    *,
    learner: Learner,
    seed: int = 0,
    replay_batch_size: int = 512,
    replay_steps: int = 1000,
    min_replay_size: int = 2,
    loss_on: str = "failed",
    convergence: str = "minibatch",
    history: str = "snapshot",
) -> tuple[TrainState, ReplayInfo]:
    """Train on random minibatches of a trajectory until a whole minibatch passes.

    Each iteration draws min(replay_batch_size, T) distinct samples and steps all of them with one
    vmapped call. If all are accepted the parameters that were judged are returned; otherwise the
    optimizer updates once on the mean loss.

    The source takes the mean over the failed samples only, and so never asks for a larger step
    where the threshold lies above the band: dt → 0 "converges" at once. ``loss_on="all"`` with
    ``convergence="band"`` asks for an efficient policy, not just a safe one.

    Args:
        state: the training state; its params and opt_state are used.
        trajectory: a tuple of groups, or one group, of T samples; never changed.
        learner: objective and optimizer.
        seed: the key of all draws.
        replay_batch_size: ≥ 1.
        replay_steps: at most this many iterations, ≥ 1.
        min_replay_size: a smaller trajectory is skipped.
        loss_on: "failed" or "all" samples of the minibatch.
        convergence: "minibatch": all of it accepted; "band": all of it inside [E_lower, E_upper];
            "trajectory": the minibatch and then the whole trajectory accepted. With loss_on="failed" nothing
            moves accepted samples into the band; use "band" with "all".
        history: "snapshot" gives every sample the window it was collected with; "ignore" none.

    Returns:
        (state, `ReplayInfo`). Not converged: the parameters after the last update.

    Raises:
        ValueError: if a number is < 1 or a word is not one of those above.
    """
    _check_arguments(replay_batch_size, replay_steps, loss_on, convergence, history)
    groups = as_groups(trajectory)
    if history == "ignore":
        groups = tuple(group._replace(window=forget(group.window)) for group in groups)
    size = count_samples(groups)
    if size < max(min_replay_size, 1):
        return state, _report(learner.objective, state.params, groups, [], converged=True, skipped=size > 0)

    seen: list[Tensor] = []
    for iteration in range(1, replay_steps + 1):
        batch = sample_minibatch(groups, replay_batch_size, seed=fold_in(seed, "replay", iteration))
        updated, (loss, info) = learner.update(state, batch, loss_on)
        seen.append(_summarize(loss, info))
        # The one host sync of an iteration; `seen` stays on the device until the end.
        if bool(_verdict(learner.objective, batch, info, convergence)) and (
            convergence != "trajectory"
            or _trajectory_passes(learner.objective, state.params, groups, replay_batch_size)
        ):
            return state, _report(learner.objective, state.params, groups, seen, converged=True)
        state = updated
    return state, _report(learner.objective, state.params, groups, seen, converged=False)


def evaluate_trajectory(
    params: Params, trajectory: Groups, *, objective: Objective, batch_size: int = 4096
) -> StepInfo:
    """Step every sample of a trajectory, in pieces, without gradient.

    Args:
        params: the policy's parameters.
        trajectory: a tuple of groups, or one group, of T samples.
        objective: from `build_objective`.
        batch_size: samples per vmapped call, which bounds the memory.

    Returns:
        `StepInfo` with leaves (T,).

    Raises:
        ValueError: if batch_size < 1 or the trajectory is empty.
    """
    require(batch_size >= 1, f"evaluate_trajectory: batch_size must be >= 1, got {batch_size}")
    require(count_samples(trajectory) > 0, "evaluate_trajectory: the trajectory is empty; collect one first")
    infos = []
    for group in as_groups(trajectory):
        for start in range(0, group.active.shape[0], batch_size):
            infos.append(objective.attempt(params, (take(group, slice(start, start + batch_size)),))[1])
    return StepInfo(*(torch.cat(column) for column in zip(*infos, strict=True)))


def _check_arguments(batch_size: int, steps: int, loss_on: str, convergence: str, history: str) -> None:
    where = "generalize_on_trajectory"
    require(batch_size >= 1, f"{where}: replay_batch_size must be >= 1, got {batch_size}")
    require(steps >= 1, f"{where}: replay_steps must be >= 1, got {steps}")
    require_choice(where, "loss_on", loss_on, LOSS_ON)
    require_choice(where, "convergence", convergence, CONVERGENCE)
    require_choice(where, "history", history, HISTORY)


def _verdict(objective: Objective, batch: Groups, info: StepInfo, convergence: str) -> Tensor:
    """() bool: whether this minibatch passes."""
    if convergence != "band":
        return info.accepted.all()
    inside = in_band(info, objective) & info.accepted
    return (inside | ~chosen_samples(batch, info, "all")).all()


def in_band(info: StepInfo, objective: Objective) -> Tensor:
    """Which steps have their relative energy error inside [E_lower, E_upper]; bool."""
    return (info.energy_error >= objective.E_lower) & (info.energy_error <= objective.E_upper)


def _trajectory_passes(objective: Objective, params: Params, groups: Groups, batch_size: int) -> bool:
    info = evaluate_trajectory(params, groups, objective=objective, batch_size=batch_size)
    return bool(info.accepted.all())


def countable_error(info: StepInfo) -> Tensor:
    """Energy errors for reports: a step that exploded counts as 1."""
    return torch.where(info.energy_error.isfinite(), info.energy_error, torch.ones_like(info.energy_error))


def _summarize(loss: Tensor, info: StepInfo) -> Tensor:
    """The five numbers of `ReplayHistory`, still on the device, (5,)."""
    error = countable_error(info)
    return torch.stack([loss, info.accepted.to(error).mean(), error.mean(), error.amax(), info.dt.mean()]).double()


def _report(
    objective: Objective, params: Params, groups: Groups, seen: list[Tensor], *, converged: bool, skipped: bool = False
) -> ReplayInfo:
    columns = torch.stack(seen).cpu() if seen else torch.zeros(0, 5, dtype=torch.float64)
    history = ReplayHistory(*columns.unbind(1))
    if count_samples(groups) == 0:
        numbers = (math.nan,) * 5
    else:
        info = evaluate_trajectory(params, groups, objective=objective)
        error = countable_error(info)
        rates = [x.to(error).mean() for x in (info.accepted, in_band(info, objective))]
        numbers = tuple(torch.stack([*rates, error.mean(), error.amax(), info.dt.mean()]).tolist())
    loss = float(history.loss[-1]) if seen else math.nan
    return ReplayInfo(converged, len(seen), skipped, *numbers, loss, history)
