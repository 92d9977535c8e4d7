"""A simulation run: a policy on systems it has never seen, beside classical rules at equal cost."""

import math
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.tree import cast, take
from ..base.types import Params, System
from ..loops.bootstrap import (
    FEWEST_SYSTEMS,
    Estimate,
    as_estimates,
    count_draws,
    decides,
    draw_resamples,
    resampled_quantiles,
)
from ..loops.equal_cost import match_cost
from ..loops.remedies import REMEDY_OF_STATUS, say_assumed_units
from ..loops.simulate import SimulationInfo, simulate
from ..physics.criteria import build_criterion
from ..timestep.policy import Policy, build_criterion_policy
from ..timestep.run import FINISHED, STATUS_NAMES
from .assemble import Physics, build_config_scheme
from .config import CompareConfig, InputError, SimulateConfig
from .initial_condition_files import MAX_BODIES
from .systems import FILE_SUFFIXES, SystemSet, array_name, group_by_shape, load_systems

LEARNED = "learned policy"
QUANTILES = {"median": 0.5, "90 %": 0.9}
_RESAMPLES = 1000  # of a verdict: the ends of its intervals are then order statistics that 50 lie beyond


class Rule(NamedTuple):
    """A step rule with its parameters."""

    name: str
    policy: Policy
    params: Params
    history_len: int
    constant: float  # η or dt of a classical rule; NaN for a policy


class Result(NamedTuple):
    """One rule on one set of systems."""

    rule: Rule
    systems: SystemSet
    end: System  # (B, ...)
    info: SimulationInfo  # (B,)
    seconds: float  # of the runs that this set shared a batch with


def load_sets(config: SimulateConfig | CompareConfig, physics: Physics, where: str) -> list[SystemSet]:
    """The systems of a simulation, every set with its end time.

    Raises:
        InputError: if one cannot be loaded, or has no energy to compare with, or ends before it starts.
    """
    sets = load_systems(config, physics, where)
    timed = [
        s._replace(t_end=torch.where(s.t_end.isnan(), torch.full_like(s.t_end, config.t_end), s.t_end)) for s in sets
    ]
    for item in timed:
        if not bool((item.t_end > item.systems.time).all()):
            raise InputError(
                f"{where}: t_end = {float(item.t_end[0]):g} is not later than the start of {item.label} "
                f"at {float(item.systems.time.max()):g}; it is the time at which a run ends, not how long it lasts: "
                "set a later one"
            )
    return timed


def run_rule(rule: Rule, sets: Sequence[SystemSet], config: SimulateConfig, physics: Physics) -> list[Result]:
    """One rule on every set; sets of one shape share a batch."""
    results: dict[str, Result] = {}
    for group in group_by_shape(sets):
        began = time.perf_counter()
        end, info = simulate(
            rule.params,
            group.systems,
            policy=rule.policy,
            gravity=physics.gravity,
            scheme=build_config_scheme(
                config if rule.name == LEARNED else as_direct(config), physics.gravity, rule.policy
            ),
            t_end=group.t_end,
            h=config.h if rule.name == LEARNED else 1.0,
            history_len=rule.history_len,
            n_steps=config.n_steps,
            max_steps=config.max_steps,
            energy_threshold=config.energy_threshold,
            energy_scale=config.energy_scale,
            record_every=config.record_every,
            compile=config.compile,
        )
        seconds = time.perf_counter() - began
        offset = 0
        for item in sets:
            if item.systems.position.shape[1:] == group.systems.position.shape[1:]:
                rows = slice(offset, offset + len(item.t_end))
                results[item.label] = Result(rule, item, take(end, rows), _rows(info, rows), seconds)
                offset = rows.stop
    return [results[item.label] for item in sets]


def as_direct(config: SimulateConfig) -> SimulateConfig:
    """The same with the direct scheme: the classical rules that stand beside a policy have kinks."""
    return replace(config, scheme="direct", order=2)


def classical_rules(
    learned: Sequence[Result], config: SimulateConfig, physics: Physics, show: Callable[[str], None]
) -> list[tuple[Rule, bool]]:
    """Free fall and constant step, each with the constant at which it costs what the policy cost.

    The cost is the number of force evaluations over all sets of drawn systems (single orbits do not
    enter, unless there is nothing else).

    Returns:
        (rule, whether the cost was met within the tolerance) for each.
    """
    drawn = [r for r in learned if len(r.systems.t_end) > 1] or list(learned)
    target = sum(int(r.info.force_evaluations.sum()) for r in drawn)
    if not target:
        show("the learned policy took no step, so there is no cost at which another rule could be compared with it")
        return []
    span = sum(float((r.systems.t_end - r.systems.systems.time).sum()) for r in drawn)
    sets = [r.systems for r in drawn]
    quiet = replace(config, record_every=0)
    rules = []
    for name, start in (("free_fall", 0.02), ("constant", span * config.n_steps / target)):

        def cost(constant: float, name: str = name) -> int:
            rule = classical_rule(name, constant, physics)
            count = sum(int(r.info.force_evaluations.sum()) for r in run_rule(rule, sets, quiet, physics))
            show(f"{rule.name} with {constant:.4g}: {count:,} force evaluations, the policy's {target:,}")
            return count

        match = match_cost(cost, target, start=start, tolerance=config.compare_tolerance)
        rules.append((classical_rule(name, match.constant, physics), match.matched))
    return rules


def classical_rule(name: str, constant: float, physics: Physics) -> Rule:
    """A criterion as a rule, with η or dt given."""
    policy = build_criterion_policy(build_criterion(name, physics.gravity, eta=constant, dt=constant))
    params = cast(policy.init(0), dtype=physics.dtype, device=physics.device)
    title = {"free_fall": "free-fall criterion", "constant": "constant step"}[name]
    return Rule(title, policy, params, 0, constant)


class Score(NamedTuple):
    """One row of the table: plain numbers."""

    rule: str
    systems: str
    size: int  # number of systems
    force_evaluations: int
    failed: int  # systems that did not finish
    seconds: float  # of the runs; sets of one shape share one
    final: dict[str, float]  # quantiles of the final |E − E₀|/|E₀|; failed systems count as infinite
    mean: dict[str, float]  # quantiles of its time average


def score(result: Result) -> Score:
    """The numbers that a rule is judged by on one set."""
    info = result.info
    failed = info.status != FINISHED
    return Score(
        result.rule.name,
        result.systems.label,
        len(failed),
        int(info.force_evaluations.sum()),
        int(failed.sum()),
        result.seconds,
        _quantiles(info.final_energy_error, failed),
        _quantiles(info.mean_energy_error, failed),
    )


def verdict(results: Sequence[Sequence[Result]], *, tolerance: float, seed: int = 0) -> list[str]:
    """Where the learned policy wins and loses against the classical rules, a sentence for every set and rule.

    And for all drawn systems together, if there are several sets: their cost is what was made equal. An error is won or
    lost if the ratio of the two, with its 90 % bootstrap interval over the systems (paired), lies on one side of 1,
    and whoever wins spends no more force evaluations, within the tolerance. A policy that fails more often than the
    other rule wins nothing. All else is undecided, and the sentence says why.

    Args:
        results: the learned policy on every set, then every classical rule on every set.
        tolerance: relative; force evaluations within it are equal.
        seed: the key of the resamples.
    """
    learned, *others = results
    drawn = [number for number, result in enumerate(learned) if len(result.systems.t_end) > 1]
    groups = [(result.systems.label, [number]) for number, result in enumerate(learned)]
    groups += [("all drawn systems", drawn)] if len(drawn) > 1 else []
    return [
        _sentence(label, [learned[n] for n in numbers], [of_rule[n] for n in numbers], tolerance, seed)
        for label, numbers in groups
        for of_rule in others
    ]


def _sentence(label: str, ours: Sequence[Result], theirs: Sequence[Result], tolerance: float, seed: int) -> str:
    """The verdict on some sets together."""
    size = sum(len(result.systems.t_end) for result in ours)
    failed, failed_theirs = (sum(int((r.info.status != FINISHED).sum()) for r in side) for side in (ours, theirs))
    spent, spent_theirs = (sum(int(r.info.force_evaluations.sum()) for r in side) for side in (ours, theirs))
    share = spent / max(spent_theirs, 1)
    ratios = _ratios(ours, theirs, seed)
    sure = {what: ratio for what, ratio in ratios.items() if decides(ratio, systems=size)}
    won = [w for w, r in sure.items() if r.high < 1 and share <= 1 + tolerance and failed <= failed_theirs]
    lost = [w for w, r in sure.items() if r.low > 1 and share >= 1 - tolerance]
    undecided = [what for what in ratios if what not in (*won, *lost)]
    if len(won) == len(ratios):
        body = f"wins everywhere: {'; '.join(won)}"
    elif not won and not lost:
        body = f"neither wins nor loses: {'; '.join(undecided)}"
    else:
        named = (("wins in ", won), ("LOSES in ", lost), ("undecided: ", undecided))
        body = ", and ".join(f"{word}{'; '.join(whats)}" for word, whats in named if whats)
    notes = []
    if size < FEWEST_SYSTEMS:
        notes.append(f"fewer than {FEWEST_SYSTEMS} systems decide nothing")
    if not 1 - tolerance <= share <= 1 + tolerance:
        notes.append(f"the costs are not equal: it spends {share:.2g} times the force evaluations of that rule")
    if failed or failed_theirs:
        notes.append(f"it fails on {failed} of {size} systems, that rule on {failed_theirs}")
    tail = f" [{'; '.join(notes)}]" if notes else ""
    return f"{label}, against the {theirs[0].rule.name}: the learned policy {body}{tail}"


def _ratios(ours: Sequence[Result], theirs: Sequence[Result], seed: int) -> dict[str, Estimate]:
    """The policy's error over the other rule's, with its interval: for each error and quantile, named with numbers."""
    size = sum(len(result.systems.t_end) for result in ours)
    counts = count_draws(draw_resamples(size, _RESAMPLES, seed=seed))
    quantiles = QUANTILES if size > 1 else {"median": 0.5}
    found = {}
    for field, which in (("final_energy_error", "final"), ("mean_energy_error", "time-averaged")):
        errors = [
            torch.cat([_counted(getattr(r.info, field), r.info.status != FINISHED) for r in s]) for s in (ours, theirs)
        ]
        table = resampled_quantiles(torch.stack(errors), counts, list(quantiles.values()))
        for name, (mine, other) in zip(quantiles, table.transpose(0, 1), strict=True):
            (ratio,) = as_estimates((mine / other)[None])
            interval = f", ratio {ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]" if size > 1 else ""
            found[f"{which} error, {name} ({float(mine[0]):.3g} against {float(other[0]):.3g}{interval})"] = ratio
    return found


def remedies(results: Sequence[Result]) -> str:
    """What to do about the systems that did not finish: a clause for every status, and one for a G that was assumed."""
    codes = sorted({int(code) for result in results for code in result.info.status} - {FINISHED})
    said = [f"{STATUS_NAMES[code]}: {REMEDY_OF_STATUS[STATUS_NAMES[code]]}" for code in codes]
    unsure = [r.systems.label for r in results if r.systems.G_assumed and bool((r.info.status != FINISHED).any())]
    return "; ".join([*said, *filter(None, [say_assumed_units(unsure)])])


def failures(result: Result) -> str:
    """How many systems of a set did not finish, by status; "" if all did."""
    counts = {name: int((result.info.status == code).sum()) for code, name in enumerate(STATUS_NAMES)}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count and name != STATUS_NAMES[FINISHED])


def result_summary(result: Result) -> dict[str, Any]:
    """One rule on one set, for summary.json."""
    info, numbers = result.info, score(result)
    return {
        "rule": numbers.rule,
        "constant": result.rule.constant,
        "systems": numbers.systems,
        "count": numbers.size,
        "status": {name: int((info.status == code).sum()) for code, name in enumerate(STATUS_NAMES)},
        "steps": int(info.steps.sum()),
        "force_evaluations": numbers.force_evaluations,
        "accepted": int((info.steps - info.over_threshold).sum()),
        "rejected": int(info.over_threshold.sum()),
        "final_energy_error": numbers.final,
        "mean_energy_error": numbers.mean,
        "max_energy_error": _quantiles(info.max_energy_error, info.status != FINISHED),
        "momentum_residual_max": float(info.momentum_residual.max()),
        "angular_momentum_residual_max": float(info.angular_momentum_residual.max()),
        "mean_dt": float(info.mean_dt.mean()),
        "seconds": round(result.seconds, 3),
    }


def arrays(result: Result) -> dict[str, Tensor]:
    """The recorded path of one set: time (S, B), position and velocity (S, B, N, D), dt (S, B), energy error (S, B).

    And the masses, (B, N), without which it is no system.
    """
    name = array_name(result.systems.label)
    path = {f"{name}_{key}": value for key, value in result.info.recording._asdict().items()}
    return path | {f"{name}_mass": result.systems.systems.mass}


def end_states(results: Sequence[Result], config: SimulateConfig) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The last state of every system as a file that ``systems`` reads, so that another run can go on from there.

    Of a system that did not finish it is the last good state. What a scheme carries (ρ, W) is not in it: a run that
    goes on starts its scheme afresh.

    Args:
        results: one rule on every set.
        config: of the run, with the constants that the state belongs to.

    Returns:
        ({name of the file without suffix: what is in it}, labels of sets with more bodies than such a file may hold).
    """
    contents: dict[str, dict[str, Any]] = {}
    too_large = []
    for number, result in enumerate(results, 1):
        label, count = result.systems.label, len(result.systems.t_end)
        if result.end.mass.shape[-1] > MAX_BODIES:
            too_large.append(label)
            continue
        name = _own_name(_file_name(label, number), contents)
        for row in range(count):
            place = f"{name}_{row:0{len(str(count - 1))}d}" if count > 1 else name
            contents[place] = _content(take(result.end, row), config)
    return contents, too_large


def _content(system: System, config: SimulateConfig) -> dict[str, Any]:
    # Double holds every float exactly, and Python writes the shortest text that reads as the same double.
    numbers = {key: getattr(system, key).cpu().double().tolist() for key in ("time", "mass", "position", "velocity")}
    return {"G": config.G, "softening": config.softening, **numbers}


def _file_name(label: str, number: int) -> str:
    """A label as the name of a file; of one that is no plain word the number of its set."""
    word = Path(label).stem if label.lower().endswith(FILE_SUFFIXES) else label.replace(" ", "_")
    return word if re.fullmatch(r"\w[\w.-]{0,99}", word, re.ASCII) else f"set_{number}"


def _own_name(name: str, taken: Collection[str]) -> str:
    """The name, with a letter behind it if it would meet another, with a row's number or without."""
    while any(other == name or re.fullmatch(rf"{re.escape(name)}_\d+", other) for other in taken):
        name += "_b"
    return name


def _rows(info: SimulationInfo, rows: slice) -> SimulationInfo:
    recording = info.recording._replace(**{k: v[:, rows] for k, v in info.recording._asdict().items()})
    columns: dict[str, Any] = {k: v[rows] for k, v in info._asdict().items() if isinstance(v, Tensor)}
    return info._replace(**columns, recording=recording)


def _quantiles(error: Tensor, failed: Tensor) -> dict[str, float]:
    """Quantiles over systems without interpolation, as failed systems are infinite."""
    values = _counted(error, failed).sort().values
    return {name: float(values[min(int(q * len(values)), len(values) - 1)]) for name, q in QUANTILES.items()}


def _counted(error: Tensor, failed: Tensor) -> Tensor:
    """The errors (B,) as they count: infinite where a system failed; float64 on the CPU."""
    return error.double().masked_fill(failed | error.isnan(), math.inf).cpu()
