"""Epochs: Part 1, then Part 2, again and again, as a generator that prints and writes nothing."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..base.check import require
from ..base.rng import fold_in
from ..base.tree import in_order, map_leaves
from ..base.types import Population, TrainState
from .collect import COMPLETE, CollectInfo, collect_trajectory
from .learner import Learner
from .objective import Groups
from .remedies import REMEDY_OF_EPOCH, say_never_replayed, say_stuck
from .replay import ReplayInfo, generalize_on_trajectory

_WHERE = "run_two_phase_training"


class TrainingWarning(UserWarning):
    """A training that goes on, or has ended, without having learned what it was asked to."""


class EpochInfo(NamedTuple):
    """The report of one epoch, and the trajectory that it collected and replayed.

    Where nothing was judged, ``replay.converged`` is False: of an epoch that is no success.

    Shapes: plain numbers in the reports; a trajectory of T samples in groups.
    """

    epoch: int  # 0-based
    collect: CollectInfo
    replay: ReplayInfo
    trajectory: Groups  # a tuple of groups of T samples

    @property
    def outcome(self) -> str:
        """What it came to, one word.

        "converged" and "not_converged": Part 1 went to its end, and Part 2 judged what it collected.
        "retrain_limit" and "below_rounding": the collection ended at a step that could not be learned, or Part 2 was
        asked for what no step can meet.
        "skipped", "filling", "retired" and "no_systems": nothing was judged, as the trajectory was smaller than
        min_replay_size, windows are not full yet, no system had a step to make, or there is none.
        """
        if self.collect.status != COMPLETE:
            return self.collect.status
        if self.collect.accepted == 0:
            return "retired"
        return "filling" if self.collect.recorded == 0 else self.replay.outcome

    @property
    def converged(self) -> bool:
        """Whether all systems made their steps, and Part 2 judged samples and converged."""
        return self.outcome == "converged"


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
        ValueError: if there is no population, or an argument is out of range; TypeError on an unknown keyword.
    """
    _check_population(state, "train_epoch_two_phase")
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
    replayed = replayed._replace(converged=replayed.outcome == "converged")  # of nothing it is, by itself
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
        collection ended at a step that could not be learned.

    Returns:
        An iterator, which does nothing until it is asked for an epoch.

    Warns:
        TrainingWarning: when it is asked for more after it has ended early, when every system has retired, and after
            the last epoch if Part 2 judged nothing in any; each time with what to do.

    Raises:
        ValueError: when called, if epochs < 1, there is no population, or restart_from is given and steps_per_epoch ≤
            history length, as every trajectory would be empty; on the first epoch, if another
            argument is out of range.
    """
    require(epochs >= 1, f"run_two_phase_training: epochs must be >= 1, got {epochs}")
    _check_population(state if restart_from is None else state._replace(population=restart_from), _WHERE)
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
    outcomes: list[str] = []
    while int(state.epoch) < epochs:
        if restart_from is not None:
            state = state._replace(population=restart_from)
        state, info = train_epoch_two_phase(state, learner=learner, seed=seed, **options)
        yield state, info
        if info.collect.status != COMPLETE:
            _warn(f"stopped after epoch {info.epoch} of {epochs}: {_say_stuck(state, info, learner, options)}")
            return
        if info.outcome == "retired" and "retired" not in outcomes:
            _warn(f"epoch {info.epoch} tried nothing, as every system has retired; {REMEDY_OF_EPOCH['retired']}")
        outcomes.append(info.outcome)
    if outcomes and "retired" not in outcomes:
        size = int(options.get("min_replay_size", 2))
        _warn(say_never_replayed(outcomes, recorded=info.collect.recorded, min_replay_size=size))


def _say_stuck(state: TrainState, info: EpochInfo, learner: Learner, options: dict[str, Any]) -> str:
    limit = learner.objective.limit
    return say_stuck(
        info.collect,
        max_retrain_steps=int(options.get("max_retrain_steps", 1000)),
        energy_threshold=math.nan if limit is None else limit.energy_threshold,
        dtype=state.population[0].sample.system.mass.dtype,
    )


def _warn(text: str) -> None:
    if text:
        warnings.warn(f"{_WHERE}: {text}", TrainingWarning, stacklevel=3)  # of the loop that asks for epochs


def _check_population(state: TrainState, where: str) -> None:
    require(
        any(len(group.stop_time) for group in state.population),
        f"{where}: the state has no population, so there is nothing to train on; hand one to init_train_state, made by "
        "init_population",
    )


def _check_restart(population: tuple[Population, ...], steps_per_epoch: int) -> None:
    longest = max((group.sample.window.valid.shape[-1] for group in population), default=0)
    require(
        longest == 0 or steps_per_epoch > longest,
        f"run_two_phase_training: with a restart every epoch, steps_per_epoch = {steps_per_epoch} steps only fill "
        f"windows of history_len = {longest} and every trajectory is empty; set steps_per_epoch > history_len",
    )
