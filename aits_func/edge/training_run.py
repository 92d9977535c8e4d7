"""A training run on disk: drives the loop, and saves, logs and draws what it reports."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..base.engine import Compilation, watch_compilation
from ..base.rng import fold_in
from ..base.types import Population, TrainState
from ..loops.collect import COMPLETE, init_population, init_train_state
from ..loops.epoch import EpochInfo, TrainingWarning, run_two_phase_training
from ..loops.remedies import say_assumed_units, say_never_replayed, say_stuck
from ..loops.resolution import check_reach
from . import run_directory as files
from .assemble import (
    Training,
    build_physics,
    build_training,
    first_system,
    init_params,
    mean_criterion_dt,
    named_criterion,
    resolve_scales,
)
from .checkpoint import read_metadata, save_checkpoint
from .config import InputError, TrainConfig, build_config, config_to_dict, read_toml
from .pictures import draw_training
from .systems import SystemSet, group_by_shape, load_systems
from .tracking import JsonlTracker, epoch_metrics, read_metrics
from .trained import load_state, trained_config

# What a resumed run may change: how long, how fast, where; nothing that changes a number, as compiled code does.
RESUMABLE = ("epochs", "threads", "device")
_FAR_BELOW = 0.5  # a mean dt below this share of the criterion's own is reported


class Start(NamedTuple):
    """A training run, ready to go."""

    config: TrainConfig  # scales resolved
    training: Training
    state: TrainState
    initial: tuple[Population, ...]  # the population at epoch 0
    where: str  # what error messages call the configuration
    notes: tuple[str, ...]  # what was assumed of the files of systems and not read in them
    unsure: tuple[tuple[str, ...], ...]  # of every system of every group the label of its set if G was assumed, or ""


class Outcome(NamedTuple):
    """A training run that ended."""

    config: TrainConfig
    training: Training
    state: TrainState
    summary: dict[str, Any]
    failure: str  # "" or what went wrong, for the user
    warnings: tuple[str, ...]


def prepare(config: TrainConfig, where: str) -> Start:
    """Load the systems, build the functions, draw the first parameters.

    Raises:
        InputError: if anything that the configuration names is not there or does not fit.
    """
    physics = build_physics(config, where)
    sets = load_systems(config, physics, where)
    config = resolve_scales(config, physics, first_system(sets[0].systems))
    training = build_training(config, physics)
    groups = group_by_shape(sets)
    population = init_population(
        [group.systems for group in groups],
        gravity=physics.gravity,
        history_len=config.history_len,
        stop_time=_stop_times(sets, groups, where) if config.stop_at_period else None,
        energy_scale=config.energy_scale,
    )
    check_reach(population, training.learner.objective, band=config.loss_on == "all", where=where)
    params = init_params(training.policy, fold_in(config.seed, "params"), physics)
    notes = tuple(note for item in sets for note in item.notes)
    unsure = tuple(_unsure(group, sets) for group in groups)
    state = init_train_state(params, training.optimizer, population)
    return Start(config, training, state, population, where, notes, unsure)


def resume(config: TrainConfig, directory: Path, where: str) -> Start:
    """The run in a directory, as its last checkpoint left it; from its beginning, if it ended before the first.

    Args:
        config: the run's own configuration, with changes only in `RESUMABLE`.
        directory: of the run.
        where: what error messages call the configuration.

    Raises:
        InputError: if the checkpoint was made by another configuration, cannot be read, or all epochs are done.
    """
    stored = stored_config(directory)
    start = prepare(config, where)
    for key, value in config_to_dict(stored).items():
        now = config_to_dict(start.config)[key]
        if key not in RESUMABLE and now != value:
            raise InputError(
                f"--resume {directory}: its run has {key} = {value!r}, this configuration {now!r}; "
                f"resume it as it was (only {', '.join(RESUMABLE)} may change), or start another run with --out"
            )
    if files.never_saved(directory):
        return start
    path = directory / files.CHECKPOINT
    done = read_metadata(path).epoch
    if done >= config.epochs:
        _draw_if_missing(directory, config)
        raise InputError(f"--resume {directory}: all {done} epochs are done; ask for more with --epochs {done + 20}")
    return start._replace(state=load_state(path, start.state))


def train(
    start: Start,
    directory: Path,
    show: Callable[[EpochInfo, int], None],
    tell: Callable[[Compilation], None],
) -> Outcome:
    """Run the epochs that are left, saving after each.

    What belongs to an epoch is written before its checkpoint: the line of metrics, and after the last epoch the
    trajectory and the summary. So a run that dies at any moment has to do an epoch again at most, and what it wrote
    of it is replaced. The picture, which can be drawn at any time, comes last. A keyboard interrupt passes through.

    Args:
        start: from `prepare` or `resume`.
        directory: of the run, made already.
        show: called after every epoch with its report and the number of epochs.
        tell: called when a compilation begins and when it ends.
    """
    config, training, state = start.config, start.training, start.state
    tracker = JsonlTracker(directory / files.METRICS, keep_before=int(state.epoch))
    _save(directory, state, config)
    epochs = run_two_phase_training(
        state,
        learner=training.learner,
        epochs=config.epochs,
        seed=config.seed,
        restart_from=start.initial if config.restart_each_epoch else None,
        **{key: getattr(config, key) for key in _EPOCH_KEYS},
    )
    compiling: list[float] = []  # seconds, in this epoch

    def hear(event: Compilation) -> None:
        compiling.append(event.seconds or 0.0)
        tell(event)

    began = time.perf_counter()
    info = None
    found: tuple[str, ...] = ()
    summary: dict[str, Any] = {}
    with watch_compilation(hear), warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)  # what they say is found below, and stands in the summary
        for state, info in epochs:
            of_compiler = {} if config.compile == "off" else {"compile_seconds": round(sum(compiling), 3)}
            tracker.log(epoch_metrics(info, time.perf_counter() - began) | of_compiler)
            if info.epoch + 1 == config.epochs or info.collect.status != COMPLETE:
                found = _warnings(config, training, info, read_metrics(directory / files.METRICS))
                summary = _write_results(directory, config, info, found)
            _save(directory, state, config)
            show(info, config.epochs)
            compiling.clear()
            began = time.perf_counter()
    assert info is not None  # resume() and the range of epochs see to it that there is one
    _draw_if_missing(directory, config)
    return Outcome(config, training, state, summary, _failure(info, config, start.unsure), found)


_EPOCH_KEYS = (
    "steps_per_epoch",
    "max_retrain_steps",
    "replay_batch_size",
    "replay_steps",
    "min_replay_size",
    "loss_on",
    "convergence",
    "history",
    "compile",
)


def _save(directory: Path, state: TrainState, config: TrainConfig) -> None:
    save_checkpoint(
        directory / files.CHECKPOINT,
        state,
        config=config_to_dict(config),
        seed=config.seed,
        epoch=int(state.epoch),
    )


def _write_results(directory: Path, config: TrainConfig, info: EpochInfo, warnings: tuple[str, ...]) -> dict[str, Any]:
    """Write what a run comes to; returns the summary."""
    summary = _summary(directory, config, info, warnings)
    files.write_arrays(directory / files.TRAINING_TRAJECTORY, _arrays(info))
    files.write_summary(directory, {"train": summary})
    (directory / files.TRAINING_PICTURE).unlink(missing_ok=True)  # one of fewer epochs, from before it was resumed
    return summary


def _draw_if_missing(directory: Path, config: TrainConfig) -> None:
    picture = directory / files.TRAINING_PICTURE
    if not picture.exists():
        draw_training(picture, read_metrics(directory / files.METRICS), config)


def _stop_times(sets: list[SystemSet], groups: list[SystemSet], where: str) -> list[Any]:
    for item in sets:
        if not bool(item.period.isfinite().all()):
            raise InputError(f"{where}: stop_at_period needs a period, and none is known for {item.label}")
    return [group.systems.time + group.period for group in groups]


def _unsure(group: SystemSet, sets: list[SystemSet]) -> tuple[str, ...]:
    """Of every system of a group the label of its set if that is of a file without G, and else ""."""
    shape = group.systems.position.shape[1:]
    same = [item for item in sets if item.systems.position.shape[1:] == shape]
    return tuple(item.label if item.G_assumed else "" for item in same for _ in item.t_end)


def _failure(info: EpochInfo, config: TrainConfig, unsure: tuple[tuple[str, ...], ...]) -> str:
    if info.collect.status == COMPLETE:
        return ""
    own = "levenberg_marquardt"  # which has no learning rate
    said = say_stuck(
        info.collect,
        max_retrain_steps=config.max_retrain_steps,
        energy_threshold=config.energy_threshold,
        dtype=getattr(torch, config.dtype),
        remedy_of_limit="raise " + ("" if config.optimizer == own else "learning_rate, ") + "max_retrain_steps or "
        "energy_threshold",
    )
    labels = list(dict.fromkeys(unsure[each.group][each.system] for each in info.collect.stuck))
    hint = say_assumed_units([label for label in labels if label])
    return f"epoch {info.epoch}: {said}" + (f"; {hint}" if hint else "")


def _warnings(config: TrainConfig, training: Training, info: EpochInfo, lines: list[dict[str, Any]]) -> tuple[str, ...]:
    outcomes = [_outcome(line) for line in lines]
    never = say_never_replayed(outcomes, recorded=info.collect.recorded, min_replay_size=config.min_replay_size)
    warnings = [never] if never else []
    if info.replay.below_rounding:
        name = "E_upper" if config.convergence == "band" else "energy_threshold"
        warnings.append(
            f"{name} is below the rounding error of the energy of {info.replay.below_rounding} of the "
            f"{info.collect.recorded} samples of the last trajectory, which only chance can satisfy; raise it"
            + ("" if config.dtype == "float64" else ', or set dtype = "float64"')
        )
    ratio = _step_ratio(config, training, info)
    if ratio < _FAR_BELOW:
        warnings.append(
            f"the mean step is {ratio:.2g} of what the criterion {config.criterion} with eta = {config.eta:g} would "
            'take: a policy can pass by taking tiny steps; use loss_on = "all" and convergence = "band"'
        )
    return tuple(warnings)


def _step_ratio(config: TrainConfig, training: Training, info: EpochInfo) -> float:
    """Mean step of the policy on the last trajectory over that of the criterion at its start values."""
    if not info.trajectory or config.criterion == "constant":
        return math.inf
    criterion = named_criterion(config, training.physics.gravity)
    sizes = [len(group.active) for group in info.trajectory]
    means = [mean_criterion_dt(criterion, group.system) for group in info.trajectory]
    own = sum(size * mean for size, mean in zip(sizes, means, strict=True)) / sum(sizes)
    return info.replay.mean_dt / own


def _summary(directory: Path, config: TrainConfig, info: EpochInfo, warnings: tuple[str, ...]) -> dict[str, Any]:
    lines = read_metrics(directory / files.METRICS)
    last = lines[-1]
    return {
        "status": info.collect.status,
        "outcome": info.outcome,
        "outcomes": dict(Counter(map(_outcome, lines))),  # epochs of each kind
        "epochs": info.epoch + 1,
        "seconds": round(sum(line["seconds"] for line in lines), 3),
        "compile_seconds": round(sum(line.get("compile_seconds", 0.0) for line in lines), 3),
        "accepted": sum(line["collect_accepted"] for line in lines),
        "rejected": sum(line["collect_rejected"] for line in lines),
        "collection_updates": sum(line["collect_updates"] for line in lines),
        "replay_iterations": sum(line["replay_iterations"] for line in lines),
        **{key: value for key, value in last.items() if key.startswith("replay_") and key != "replay_iterations"},
        "warnings": list(warnings),
    }


def _outcome(line: dict[str, Any]) -> str:
    """What the epoch of a line of metrics came to; older lines tell only whether Part 2 judged anything."""
    return str(line.get("outcome") or ("not_converged" if line["replay_iterations"] else "skipped"))


def _arrays(info: EpochInfo) -> dict[str, Any]:
    """The last trajectory, group by group: what a step started from, and the step."""
    arrays = {}
    for number, group in enumerate(info.trajectory):
        for name in ("mass", "position", "velocity", "time"):
            arrays[f"group{number}_{name}"] = getattr(group.system, name)
        arrays[f"group{number}_dt"] = group.dt
    return arrays


def stored_config(directory: Path) -> TrainConfig:
    """The configuration of the run in a directory.

    Raises:
        InputError: if there is no run.
    """
    files.require_run(directory)
    if files.never_saved(directory):
        path = directory / files.CONFIG
        return build_config(TrainConfig, read_toml(path), {}, where=str(path))
    return trained_config(directory / files.CHECKPOINT)


def shapes(start: Start) -> list[tuple[int, int]]:
    """(N, D) of the systems that a run trains on."""
    return [(group.sample.system.position.shape[-2], group.sample.system.position.shape[-1]) for group in start.initial]
