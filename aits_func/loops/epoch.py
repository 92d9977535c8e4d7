"""Epochs: Part 1, then Part 2, again and again, as a generator that prints and writes nothing."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..base.check import require
from ..base.rng import fold_in
from ..base.tree import in_order, map_leaves
from ..base.types import Population, TrainState
from .collect import COMPLETE, CollectInfo, collect_trajectory
from .learner import Learner
from .objective import Groups
from .replay import ReplayInfo, generalize_on_trajectory


class EpochInfo(NamedTuple):
    """The report of one epoch, and the trajectory that it collected and replayed.

    Shapes: plain numbers in the reports; a trajectory of T samples in groups.
    """

    epoch: int  # 0-based
    collect: CollectInfo
    replay: ReplayInfo
    trajectory: Groups  # a tuple of groups of T samples


def train_epoch_two_phase(
    state: TrainState,
    *,
    learner: Learner,
    seed: int = 0,
    steps_per_epoch: int = 1,
    max_retrain_steps: int = 1000,
    compile: str = "off",
    **replay: Any,
) -> tuple[TrainState, EpochInfo]:
    """One epoch: collect validated steps, then generalize on them.

    Args:
        state: where the epoch starts; its epoch number enters the key of every draw.
        learner: objective and optimizer.
        seed: the key of the run.
        steps_per_epoch: see `collect_trajectory`.
        max_retrain_steps: see `collect_trajectory`.
        compile: "on", "auto" (where there is a compiler) or "off", for both.
        **replay: keywords of `generalize_on_trajectory`: replay_batch_size, replay_steps,
            min_replay_size, loss_on, convergence, history, check_every.

    Returns:
        (state with its epoch number raised by one, `EpochInfo`). If the collection ended at its
        limit, Part 2 is run on what was collected.

    Raises:
        ValueError: on an argument out of range; TypeError on an unknown keyword.
    """
    epoch = int(state.epoch)
    state = map_leaves(in_order, state)  # as it would lie if it came from a checkpoint: a resumed run is the same run
    state, trajectory, collected = collect_trajectory(
        state,
        learner=learner,
        steps_per_epoch=steps_per_epoch,
        max_retrain_steps=max_retrain_steps,
        compile=compile,
    )
    key = fold_in(seed, "epoch", epoch)
    state, replayed = generalize_on_trajectory(state, trajectory, learner=learner, seed=key, compile=compile, **replay)
    return state._replace(epoch=state.epoch + 1), EpochInfo(epoch, collected, replayed, trajectory)


def run_two_phase_training(
    state: TrainState,
    *,
    learner: Learner,
    epochs: int,
    seed: int = 0,
    restart_from: tuple[Population, ...] | None = None,
    **epoch_options: Any,
) -> Iterator[tuple[TrainState, EpochInfo]]:
    """Train until ``state.epoch`` reaches ``epochs``, yielding after each epoch.

    The caller logs, plots, saves, and stops by leaving the loop. A run that is resumed from a
    yielded state continues as the unbroken one would.

    Args:
        state: where to start, from `init_train_state` or an earlier run.
        learner: objective and optimizer.
        epochs: the epoch number to end at, ≥ 1.
        seed: the key of the run.
        restart_from: start every epoch from this population; None carries systems and windows on.
        **epoch_options: keywords of `train_epoch_two_phase`.

    Yields:
        (state, `EpochInfo`) after every epoch. The generator ends early after an epoch whose
        collection reached max_retrain_steps.

    Returns:
        An iterator, which does nothing until it is asked for an epoch.

    Raises:
        ValueError: when called, if epochs < 1, or restart_from is given and steps_per_epoch ≤
            history length, as every trajectory would be empty; on the first epoch, if another
            argument is out of range.
    """
    require(epochs >= 1, f"run_two_phase_training: epochs must be >= 1, got {epochs}")
    if restart_from is not None:
        _check_restart(restart_from, int(epoch_options.get("steps_per_epoch", 1)))
    return _epochs(state, learner, epochs, seed, restart_from, epoch_options)


def _epochs(
    state: TrainState,
    learner: Learner,
    epochs: int,
    seed: int,
    restart_from: tuple[Population, ...] | None,
    options: dict[str, Any],
) -> Iterator[tuple[TrainState, EpochInfo]]:
    while int(state.epoch) < epochs:
        if restart_from is not None:
            state = state._replace(population=restart_from)
        state, info = train_epoch_two_phase(state, learner=learner, seed=seed, **options)
        yield state, info
        if info.collect.status != COMPLETE:
            return


def _check_restart(population: tuple[Population, ...], steps_per_epoch: int) -> None:
    longest = max((group.sample.window.valid.shape[-1] for group in population), default=0)
    require(
        longest == 0 or steps_per_epoch > longest,
        f"run_two_phase_training: with a restart every epoch, steps_per_epoch = {steps_per_epoch} steps only fill "
        f"windows of history_len = {longest} and every trajectory is empty; set steps_per_epoch > history_len",
    )
