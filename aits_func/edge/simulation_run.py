"""A simulation run: a policy on systems it has never seen, beside classical rules at equal cost."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.tree import cast, take
from ..base.types import Params, System
from ..loops.equal_cost import match_cost
from ..loops.simulate import SimulationInfo, simulate
from ..physics.criteria import build_criterion
from ..timestep.policy import Policy, build_criterion_policy
from ..timestep.run import FINISHED, STATUS_NAMES
from .assemble import Physics, build_config_scheme
from .config import CompareConfig, InputError, SimulateConfig
from .systems import SystemSet, array_name, group_by_shape, load_systems

LEARNED = "learned policy"
QUANTILES = {"median": 0.5, "90 %": 0.9}


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


def verdict(scores: Sequence[Score]) -> list[str]:
    """Where the learned policy loses to a classical rule, and where it wins, one sentence per set and rule."""
    sentences = []
    mine = {s.systems: s for s in scores if s.rule == LEARNED}
    for other in (s for s in scores if s.rule != LEARNED):
        ours = mine[other.systems]
        pairs = [
            (f"{which} error, {name}", getattr(ours, kind)[name], getattr(other, kind)[name])
            for kind, which in (("final", "final"), ("mean", "time-averaged"))
            for name in (QUANTILES if other.size > 1 else ["median"])
        ]
        lost = [f"{what} ({a:.1e} against {b:.1e})" for what, a, b in pairs if not a <= b]
        head = f"{other.systems}, against the {other.rule}: the learned policy "
        share = other.force_evaluations / ours.force_evaluations
        tail = "" if 0.9 < share < 1.1 else f" [that rule spends {share:.2g} times the force evaluations here]"
        undecided = [what for what, a, b in pairs if a == b]
        body = "LOSES in " + "; ".join(lost) if lost else "wins everywhere"
        if undecided and not lost:
            body = "wins or draws"
        if undecided:
            body += f" (undecided: {'; '.join(undecided)})"
        sentences.append(head + body + tail)
    return sentences


def failures(result: Result) -> str:
    """How many systems of a set did not finish, by status; "" if all did."""
    counts = {name: int((result.info.status == code).sum()) for code, name in enumerate(STATUS_NAMES)}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count and name != STATUS_NAMES[FINISHED])


_REMEDIES = {
    "step limit": "raise max_steps or shorten t_end",
    "not finite": "lower h, or set softening > 0",
    "stalled": "its step no longer changes the time, which more steps do not mend; if bodies meet, set softening > 0",
    "transformation not positive": "lower h",
}


def remedy(results: Sequence[Result]) -> str:
    """What to do about systems that did not finish, for every status among them."""
    codes = {code for result in results for code in result.info.status.tolist()}
    found = {name: _REMEDIES[name] for code, name in enumerate(STATUS_NAMES) if code in codes and name in _REMEDIES}
    said = [text if len(found) == 1 else f"{name}: {text}" for name, text in found.items()]
    unsure = [r.systems.label for r in results if r.systems.G_assumed and bool((r.info.status != FINISHED).any())]
    if unsure:
        said.append(f"the file does not say G ({', '.join(unsure)}), and a wrong one does this as well: set G")
    return "; ".join(said)


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
    """The recorded path of one set: time (S, B), position (S, B, N, D), dt (S, B), energy error (S, B)."""
    name = array_name(result.systems.label)
    return {f"{name}_{key}": value for key, value in result.info.recording._asdict().items()}


def _rows(info: SimulationInfo, rows: slice) -> SimulationInfo:
    recording = info.recording._replace(**{k: v[:, rows] for k, v in info.recording._asdict().items()})
    columns: dict[str, Any] = {k: v[rows] for k, v in info._asdict().items() if isinstance(v, Tensor)}
    return info._replace(**columns, recording=recording)


def _quantiles(error: Tensor, failed: Tensor) -> dict[str, float]:
    """Quantiles over systems without interpolation, as failed systems are infinite."""
    values = torch.where(failed | error.isnan(), torch.full_like(error, math.inf), error).sort().values
    return {name: float(values[min(int(q * len(values)), len(values) - 1)]) for name, q in QUANTILES.items()}
