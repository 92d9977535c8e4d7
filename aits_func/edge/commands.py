"""The commands, each a function of its parsed options that returns the exit code."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..base.engine import watch_compilation
from ..timestep.features import Features
from . import comparison_files
from . import comparison_run as comparison
from . import run_directory as files
from . import simulation_run as simulation
from . import training_run as training
from .assemble import Physics, build_physics, build_policy, init_params
from .checkpoint import read_metadata, write_atomically
from .config import (
    CompareConfig,
    InputError,
    PhysicsConfig,
    SimulateConfig,
    TrainConfig,
    WriteError,
    build_config,
    config_to_dict,
    read_toml,
)
from .extras import load_extra
from .pictures import draw_energy, draw_orbits, draw_steps, draw_work_precision
from .starter import STARTER
from .systems import SystemSet
from .terminal import (
    comparison_progress,
    compilation_report,
    describe_end,
    print_needs,
    print_scores,
    print_table,
    training_progress,
)
from .trained import load_policy, say_cast, trained_config
from .untrusted import one_line


def train(options: dict[str, Any]) -> int:
    """``aits train``: exit code 0, or 1 if a step could not be learned."""
    if options.get("new"):
        return _write_starter(options["new"])
    _require_extras()
    with _training(options) as (start, directory):
        return _report_training(_train(start, directory), directory)


def simulate(options: dict[str, Any]) -> int:
    """``aits simulate``: exit code 0, or 1 if a system did not finish."""
    _require_extras()
    where, tables, flags = _sources(options)
    draft = build_config(SimulateConfig, tables, flags, where=where)
    if not draft.checkpoint:
        raise InputError(
            f"{where}: simulate needs a policy; set checkpoint (or --checkpoint) to a run directory or file"
        )
    path = files.checkpoint_file(Path(draft.checkpoint))
    trained = trained_config(path)
    config = build_config(SimulateConfig, tables, flags, where=where, base=_with_physics_of(trained))
    ready = _prepare_simulation(config, trained, path, where)
    with _new_run(options, {"simulate": config_to_dict(config)}) as directory:
        return _simulate(ready, directory, {})


def both(options: dict[str, Any]) -> int:
    """``aits both``: exit code 0 if training and simulation succeeded."""
    _require_extras()
    where, tables, flags = _sources(options)
    names = {kind: {item.name for item in fields(kind)} for kind in (TrainConfig, SimulateConfig)}
    of_simulation = {key: value for key, value in flags.items() if key in names[SimulateConfig]}
    config = build_config(TrainConfig, tables, {k: v for k, v in flags.items() if k in names[TrainConfig]}, where=where)
    # Before an hour of training: is what comes after it in order?
    plan = build_config(SimulateConfig, tables, of_simulation, where=where, base=_with_physics_of(config))
    sets = simulation.load_sets(plan, build_physics(plan, where), where)
    start = training.prepare(config, where)
    _check_fit(training.shapes(start), start.training.features, config, sets)
    sections = {"train": config_to_dict(start.config), "simulate": config_to_dict(plan)}
    with _new_run(options, sections) as directory:
        outcome = _train(start, directory)
        code = _report_training(outcome, directory)
        if code:
            return code
        ready = _prepare_simulation(plan, outcome.config, directory / files.CHECKPOINT, where)
        return _simulate(ready, directory, {"train": outcome.summary})


def compare(options: dict[str, Any]) -> int:
    """``aits compare``: exit code 0, or 1 if a set could not be compared; systems that fail are part of the result."""
    _require_extras()
    where, tables, flags = _sources(options)
    config = build_config(CompareConfig, tables, flags, where=where)
    physics = build_physics(config, where)
    plans, missing = comparison.plan_rules(config, physics, where)
    sets = simulation.load_sets(config, physics, where)
    comparison.check_sets(plans, sets, where)
    with _new_run(options, {"compare": config_to_dict(config)}) as directory:
        for name in missing:
            print(f"missing: {name} needs REBOUND; pip install 'aits_func[rebound]'", file=sys.stderr)
            if name == config.reference:
                instead = comparison.chosen_reference(plans, config)
                print(f"note: {name} was to be the reference; ratios are to {instead} instead", file=sys.stderr)
        for note in comparison.notes(plans):
            print(f"note: {note}", file=sys.stderr)
        _tell(_notes(sets))
        total = len(sets) * sum(len(plan.tolerances) for plan in plans)
        results: list[comparison.SetComparison] = []
        failures: list[comparison.SetFailure] = []
        with watch_compilation(compilation_report(physics.device)):
            for result in comparison.compare_sets(plans, sets, config, physics, comparison_progress(total)):
                if isinstance(result, comparison.SetFailure):
                    failures.append(result)
                    continue
                results.append(result)
                comparison_files.write_tables(directory, results)  # after every set: hours of work are lost to nothing
        if results:
            _draw(draw_work_precision, directory / "work_precision.png", results)
        for result in results:
            print_needs(result, resamples=config.resamples)
            for line in comparison.remedies(plans, result):
                print(one_line(f"{result.systems.label}, failed: {line}"))
        for failure in failures:
            print(
                one_line(f"aits: error: {failure.systems.label} could not be compared: {failure.reason}"),
                file=sys.stderr,
            )
        print(f"written to {directory}")
    return 1 if failures else 0


def inspect(options: dict[str, Any]) -> int:
    """``aits inspect``: exit code 0."""
    path = files.checkpoint_file(options["path"])
    metadata = read_metadata(path)
    config = trained_config(path)
    physics = build_physics(replace(config, device="cpu", compile="off"), str(path))  # its own need not be here
    features, policy = build_policy(config, physics.gravity)
    params = load_policy(path, init_params(policy, 0, physics))
    from ..base.tree import leaves

    rows = [
        ("file", path),
        ("finished epochs", f"{metadata.epoch} of {config.epochs}"),
        ("seed", metadata.seed),
        ("written with", f"torch {metadata.torch}"),
        ("trained on", ", ".join(f"N = {n}, D = {d}" for n, d in metadata.shapes)),
        (
            "policy",
            f"{config.policy} on {config.criterion}, {sum(leaf.numel() for leaf in leaves(params)):,} parameters",
        ),
        ("features", f"{config.features} ({features.size}): {', '.join(features.names)}"),
    ]
    print_table("checkpoint", rows)
    changed = {
        key: value for key, value in config_to_dict(config).items() if value != config_to_dict(TrainConfig())[key]
    }
    print_table("configuration, where it differs from the defaults", list(changed.items()))
    return 0


@contextlib.contextmanager
def _saying_how_to_go_on(directory: Path) -> Iterator[None]:
    """Whoever is interrupted, or stopped as something cannot be written, learns what to do next.

    It is a note on the exception; an `OSError` that nobody has caught is of a terminal, or a pipe, that has gone.
    """
    try:
        yield
    except (KeyboardInterrupt, WriteError, OSError) as stop:
        with contextlib.suppress(InputError, OSError):  # of a checkpoint that cannot be read any more
            stop.add_note(_how_to_go_on(directory))
        raise


def _how_to_go_on(directory: Path) -> str:
    place = shlex.quote(str(directory))
    if files.never_saved(directory):
        return f"; go on with: aits train --resume {place}"
    if not (directory / files.CHECKPOINT).is_file():
        return ""
    path = directory / files.CHECKPOINT
    finished, epochs = read_metadata(path).epoch, trained_config(path).epochs
    if finished >= epochs:
        return f" after training; go on with: aits simulate --checkpoint {place} --out DIR"
    return f" after epoch {finished}; go on with: aits train --resume {place}"


def _require_extras() -> None:
    """Whatever a run needs at its end has to be there at its start."""
    for module in ("numpy", "safetensors.torch", "tomli_w", "rich", "matplotlib.figure"):
        load_extra(module, "cli")


def _sources(options: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(what to call the configuration, the file's tables, the flags)."""
    own = ("config", "out", "resume", "new", "path")
    flags = {
        key: tuple(value) if isinstance(value, list) else value for key, value in options.items() if key not in own
    }
    path = options.get("config")
    return (str(path), read_toml(path), flags) if path else ("command line", {}, flags)


@contextlib.contextmanager
def _training(options: dict[str, Any]) -> Iterator[tuple[training.Start, Path]]:
    """A training that is ready to go, new or resumed, in a directory that is its own for as long."""
    where, tables, flags = _sources(options)
    if options.get("resume"):
        with _resumed_training(options, where, tables, flags) as resumed:
            yield resumed
        return
    if not options.get("config") and not flags:
        raise InputError("train needs a TOML file or flags; write one to start from with: aits train --new my.toml")
    start = training.prepare(build_config(TrainConfig, tables, flags, where=where), where)
    with _new_run(options, {"train": config_to_dict(start.config)}) as directory:
        yield start, directory


@contextlib.contextmanager
def _resumed_training(
    options: dict[str, Any], where: str, tables: dict[str, Any], flags: dict[str, Any]
) -> Iterator[tuple[training.Start, Path]]:
    directory = options["resume"]
    if options.get("out"):
        raise InputError("--out and --resume exclude each other: a resumed run stays in its directory")
    with _saying_how_to_go_on(directory), files.resumed_run(directory):
        config = build_config(TrainConfig, tables, flags, where=where, base=training.stored_config(directory))
        start = training.resume(config, directory, where)
        # What may have changed, the number of epochs above all, belongs into the file that makes the run again.
        # Sections that are none of ours would be copied with it; they are refused like in any other file.
        kept = read_toml(directory / files.CONFIG)
        build_config(TrainConfig, kept, {}, where=str(directory / files.CONFIG))
        files.write_config(directory, kept | {"train": config_to_dict(start.config)})
        yield start, directory


def _tell(notes: Iterable[str]) -> None:
    """Say on stderr what was assumed of files and not read in them, once each, when all else has been found good."""
    for note in dict.fromkeys(notes):
        print(f"note: {one_line(note)}", file=sys.stderr)


def _notes(sets: Sequence[SystemSet]) -> list[str]:
    return [note for item in sets for note in item.notes]


def _train(start: training.Start, directory: Path) -> training.Outcome:
    _tell(start.notes)
    with training_progress(start.config.epochs, int(start.state.epoch)) as show:
        return training.train(start, directory, show, compilation_report(start.training.physics.device))


def _report_training(outcome: training.Outcome, directory: Path) -> int:
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if outcome.failure:
        print(f"aits: error: {outcome.failure}; what was learned is in {directory}", file=sys.stderr)
        return 1
    print(f"trained policy: {directory / files.CHECKPOINT}{describe_end(outcome.summary)}")
    return 0


class _Simulation(NamedTuple):
    """A simulation, ready to go."""

    config: SimulateConfig
    physics: Physics
    rule: simulation.Rule
    sets: list[SystemSet]
    note: str  # about the policy; "" for none


def _prepare_simulation(config: SimulateConfig, trained: TrainConfig, checkpoint: Path, where: str) -> _Simulation:
    physics = build_physics(config, where)
    features, policy = build_policy(trained, physics.gravity)
    params = load_policy(checkpoint, init_params(policy, 0, physics))
    sets = simulation.load_sets(config, physics, where)
    _check_fit(read_metadata(checkpoint).shapes, features, trained, sets)
    rule = simulation.Rule(simulation.LEARNED, policy, params, features.history_len, float("nan"))
    return _Simulation(config, physics, rule, sets, say_cast(checkpoint, params))


def _simulate(ready: _Simulation, directory: Path, summary: dict[str, Any]) -> int:
    """Simulate, compare, draw, print, and add to the summary; returns the exit code."""
    config, physics, rule, sets, note = ready
    _tell([*([note] if note else []), *_notes(sets)])
    unmatched = []
    with watch_compilation(compilation_report(physics.device)):
        results = [simulation.run_rule(rule, sets, config, physics)]
        if config.compare:
            rules = simulation.classical_rules(results[0], config, physics, print)
            results += [simulation.run_rule(classic, sets, config, physics) for classic, _ in rules]
            unmatched = [classic.name for classic, matched in rules if not matched]
    scores = [simulation.score(of_rule[i]) for i in range(len(sets)) for of_rule in results]
    lines = simulation.verdict(results, tolerance=config.compare_tolerance, seed=config.seed)
    lines += [f"{name}: its cost could not be matched" for name in unmatched]
    # Everything is on disk before it is shown: nobody may be there any more who reads it.
    files.write_arrays(
        directory / files.TRAJECTORY, {k: v for r in results[0] for k, v in simulation.arrays(r).items()}
    )
    ends, too_large = simulation.end_states(results[0], config)
    files.write_ends(directory, ends)
    numbers = [simulation.result_summary(result) for of_rule in results for result in of_rule]
    files.write_summary(directory, summary | {"simulate": {"results": numbers, "verdict": lines}})
    _draw(draw_orbits, directory / "orbits.png", results[0])
    _draw(draw_energy, directory / "energy_error.png", results)
    _draw(draw_steps, directory / "steps.png", results)
    print_scores(scores)
    for line in lines:
        print(line)
    if ends:
        print(f"to go on from where these end: --systems {shlex.quote(str(directory / files.ENDS))}/*.json")
    for label in too_large:
        print(f"{label}: more bodies than a file of initial conditions holds; its end is in {files.TRAJECTORY} alone")
    print(f"written to {directory}")
    return _report_simulation(results[0], directory, compared=config.compare)


def _draw(draw: Callable[[Path, Any], None], path: Path, results: Any) -> None:
    """Draw a picture; one that cannot be drawn takes no numbers with it, and a line says so."""
    try:
        draw(path, results)
    except WriteError:
        raise
    except (ValueError, ArithmeticError, RuntimeError, MemoryError, Warning) as error:  # whatever matplotlib has
        print(one_line(f"warning: {path}: could not be drawn: {error}; the numbers are in the files"), file=sys.stderr)


def _report_simulation(results: Sequence[simulation.Result], directory: Path, *, compared: bool) -> int:
    """Name the systems that did not finish; returns the exit code.

    In a comparison such systems are part of the result, counted as infinite errors, for every rule; elsewhere
    the command has failed.
    """
    failures = [f"{r.systems.label}: {text}" for r in results if (text := simulation.failures(r))]
    fatal = bool(failures) and not (compared and any(r.info.status.eq(simulation.FINISHED).any() for r in results))
    if failures:
        print(
            f"{'aits: error' if fatal else 'warning'}: systems did not finish ({'; '.join(failures)}); "
            f"{simulation.remedies(results)}; see {directory / files.SUMMARY}",
            file=sys.stderr,
        )
    return 1 if fatal else 0


def _check_fit(
    shapes: Collection[tuple[int, int]], features: Features, trained: TrainConfig, sets: list[SystemSet]
) -> None:
    """Features that carry units and N do not carry over to another N; the invariant ones do."""
    if features.dimensionless:
        return
    for item in sets:
        bodies, dimensions = item.systems.position.shape[1:]
        if (bodies, dimensions) not in shapes:
            known = ", ".join(f"N = {n}, D = {d}" for n, d in shapes)
            raise InputError(
                f"{item.label} has N = {bodies}, D = {dimensions}; this policy reads {trained.features!r} features and "
                f"was trained on {known} alone; train it on such systems, or with features = 'invariant'"
            )


def _with_physics_of(trained: TrainConfig) -> SimulateConfig:
    shared = {item.name: getattr(trained, item.name) for item in fields(PhysicsConfig)}
    return SimulateConfig(**shared)


def _directory(options: dict[str, Any]) -> Path | None:
    if options.get("out"):
        return Path(options["out"])
    return Path("runs") / options["config"].stem if options.get("config") else None


@contextlib.contextmanager
def _new_run(options: dict[str, Any], sections: dict[str, dict[str, Any]]) -> Iterator[Path]:
    """A directory with its configuration, that is this command's own for as long as it works."""
    directory = _directory(options)
    if directory is None:
        raise InputError("without a configuration file a run directory is needed: --out DIR")
    with _saying_how_to_go_on(directory), files.new_run(directory):
        files.write_config(directory, sections)
        yield directory


def _write_starter(path: Path) -> int:
    if path.exists():
        raise InputError(f"{path}: exists already; choose another name for --new")
    try:
        write_atomically(path, STARTER.encode())
    except WriteError as error:
        raise InputError(f"{error.fact}; choose another name for --new") from None
    print(f"written: {path}; train with: aits train {path}")
    return 0
