"""Part 2: generalization. Replay random minibatches of a trajectory until every sample passes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.engine import MODES
from ..base.rng import fold_in
from ..base.tree import take
from ..base.types import Params, StepInfo, TrainState
from ..timestep.window import forget
from .learner import Learner, room_for
from .objective import LOSS_ON, Groups, Objective, as_groups, count_samples, pick, prepare, with_room
from .replay_iteration import (
    NO_ROOM,
    PASSED,
    Minibatches,
    Row,
    begin,
    beyond,
    build_count,
    build_iteration,
    countable_error,
    draw_minibatches,
    draw_order,
    in_band,
    pass_over,
    run_until_stop,
    which,
)
from .resolution import count_out_of_reach

CONVERGENCE = ("minibatch", "band", "trajectory")
HISTORY = ("snapshot", "ignore")
_MOST = 16  # iterations between two looks of the host, at most


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

    converged: bool  # also of an empty trajectory and of one that was skipped: see `outcome`
    iterations: int  # minibatches judged; 1-based number of the one that passed
    skipped: bool  # the trajectory was smaller than min_replay_size
    pass_rate: float  # accepted fraction of the whole trajectory
    band_rate: float  # fraction inside [E_lower, E_upper]
    mean_energy_error: float  # a step that exploded counts as 1
    max_energy_error: float
    mean_dt: float  # time
    loss: float  # of the last minibatch
    below_rounding: int  # samples that are asked for an energy error below that of rounding
    history: ReplayHistory

    @property
    def outcome(self) -> str:
        """What it came to: "converged" or "not_converged" if samples were judged, and if none was

        "empty" (there was none), "skipped" (fewer than min_replay_size) or "below_rounding" (no step can be good
        enough for any). ``converged`` alone does not tell: of nothing all samples pass, as in the source.
        """
        if self.skipped:
            return "skipped"
        if math.isnan(self.pass_rate):
            return "empty"
        if self.iterations == 0:
            return "below_rounding"
        return "converged" if self.converged else "not_converged"


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
    return pick(groups, draw_order(count_samples(groups), batch_size, seed))


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
    compile: str = "off",
    check_every: int | None = None,
) -> tuple[TrainState, ReplayInfo]:
    """Train on random minibatches of a trajectory until a whole minibatch passes.

    Each iteration draws min(replay_batch_size, T) distinct samples and steps all of them with one
    vmapped call. If all are accepted the parameters that were judged are returned; otherwise the
    optimizer updates once on the mean loss. Where few samples have a gradient, only those are tried with one.

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
        compile: "on", "auto" (where there is a compiler) or "off"; worth its seconds for some thousand iterations.
        check_every: iterations between two looks of the host at the verdict, 1 to 16; the result is the same. None: 1
            where a look costs nothing (eager on the CPU), and otherwise 16.

    Returns:
        (state, `ReplayInfo`). Not converged: the parameters after the last update. If of every sample no step can be
        good enough, as the threshold (with "band" E_upper) lies below the rounding error of its energy (see
        `timestep.rounding`), nothing is tried: ``below_rounding`` counts them all, and there are 0 iterations.

    Raises:
        ValueError: if a number is < 1 or a word is not one of those above.
    """
    _check_arguments(replay_batch_size, replay_steps, loss_on, convergence, history)
    require_choice("generalize_on_trajectory", "compile", compile, MODES)
    require(
        check_every is None or 1 <= check_every <= _MOST,
        f"generalize_on_trajectory: check_every must be between 1 and {_MOST}, got {check_every}",
    )
    groups = prepare(trajectory, learner.objective)
    if history == "ignore":
        groups = tuple(group._replace(window=forget(group.window)) for group in groups)
    size = count_samples(groups)
    if size < max(min_replay_size, 1):
        return state, report(learner.objective, state.params, groups, [], converged=True, skipped=size > 0)

    lost = count_out_of_reach(groups, learner.objective, convergence)
    if lost == size:
        return state, report(learner.objective, state.params, groups, [], converged=False, below_rounding=lost)

    every = check_every or (1 if compile == "off" and groups[0].active.device.type == "cpu" else _MOST)
    progress = begin(state, groups[0].active.device)
    seen: list[Row] = []
    waiting: Minibatches = []
    count = build_count(learner, loss_on, compile) if learner.rooms.block == 1 else None
    room, converged = 0, False
    while len(seen) < replay_steps and not converged:
        if not waiting:
            keys = [
                fold_in(seed, "replay", i)
                for i in _next_iterations(len(seen) + 1, every, replay_steps, learner.rooms.block)
            ]
            waiting = draw_minibatches(groups, replay_batch_size, keys, fixed_shapes=compile != "off")
        if count is not None:
            pulling = int(count(progress.params, which(waiting, 0)))
            room = room_for(which(waiting, 0).groups, pulling, learner.rooms.shares)
        iterate = build_iteration(learner, loss_on, convergence, room, compile)
        progress, judged, code = run_until_stop(iterate, progress, waiting)
        seen += judged
        if code == PASSED:
            converged = convergence != "trajectory" or _trajectory_passes(
                learner.objective, progress.params, groups, replay_batch_size
            )
            if not converged:
                progress = pass_over(iterate, progress, which(waiting, len(judged) - 1))
        if iterate.fallback:  # else native code has left out by itself what has no gradient
            room = _next_room(learner, room, code, which(waiting, 0).groups, seen)
        waiting = beyond(waiting, len(judged))
    state = state._replace(params=progress.params, opt_state=progress.opt_state)
    return state, report(learner.objective, state.params, groups, seen, converged=converged, below_rounding=lost)


def _next_iterations(first: int, every: int, last: int, block: int) -> range:
    """The iterations until the host looks again: never beyond a block, whatever ``every`` is."""
    return range(first, 1 + min(first + every - 1, last, first + (-first % block)))


def _next_room(learner: Learner, room: int, code: int, batch: Groups, seen: list[Row]) -> int:
    """How many samples of a group get a gradient from now on.

    More as soon as there are too few, and anew for every block of iterations: so that what comes out does not depend on
    how often the host looks.
    """
    if code == NO_ROOM:
        return 0
    block, shares = learner.rooms
    if len(seen) % block or learner.update_some is None:
        return room
    return room_for(batch, max(int(row.pulling) for row in seen[-block:]), shares)


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
    for group in with_room(trajectory):
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


def _trajectory_passes(objective: Objective, params: Params, groups: Groups, batch_size: int) -> bool:
    info = evaluate_trajectory(params, groups, objective=objective, batch_size=batch_size)
    return bool(info.accepted.all())


def report(
    objective: Objective,
    params: Params,
    groups: Groups,
    seen: list[Row],
    *,
    converged: bool,
    skipped: bool = False,
    below_rounding: int = 0,
) -> ReplayInfo:
    """What is said of a replay: of the whole trajectory at these parameters, and of every iteration.

    Args:
        objective: judges.
        params: the parameters that are returned.
        groups: the trajectory, T samples in all.
        seen: what each iteration saw.
        converged: whether it did.
        skipped: whether the trajectory was too small.
        below_rounding: how many of its samples no step can satisfy.

    Returns:
        `ReplayInfo`.
    """
    columns = torch.tensor([row[2:] for row in seen], dtype=torch.float64).reshape(-1, 5)
    history = ReplayHistory(*columns.unbind(1))
    if count_samples(groups) == 0:
        numbers = (math.nan,) * 5
    else:
        info = evaluate_trajectory(params, groups, objective=objective)
        error = countable_error(info)
        rates = [x.to(error).mean() for x in (info.accepted, in_band(info, objective))]
        numbers = tuple(torch.stack([*rates, error.mean(), error.amax(), info.dt.mean()]).tolist())
    loss = float(history.loss[-1]) if seen else math.nan
    return ReplayInfo(converged, len(seen), skipped, *numbers, loss, below_rounding, history)
