"""Rules compared at equal force evaluations: run them over their tolerances, and summarise."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..base.check import require, require_choice
from ..base.types import System
from .bootstrap import count_draws, draw_resamples
from .rules import Outcome, Rule, check_outcome, check_rules, run_rules
from .work_precision import (
    COSTS,
    LEVELS,
    METRICS,
    Need,
    Point,
    make_needs,
    make_points,
    resampled_costs,
    resampled_errors,
)


class Comparison(NamedTuple):
    """Curves of error against cost, and what each rule needs for an error: plain numbers, strings and tuples."""

    points: tuple[Point, ...]  # in the order in which they were run
    needs: tuple[Need, ...]  # by metric, quantile, level and rule; none that no rule can meet
    reference: str  # the rule that the ratios are over
    cost: str  # what stands for a rule's cost in the needs: median or mean force evaluations
    systems: int  # B


def compare(
    rules: Sequence[Rule],
    systems: System,
    *,
    reference: str | None = None,
    levels: Sequence[float] = LEVELS,
    cost: str = "median",
    resamples: int = 200,
    seed: int = 0,
) -> Comparison:
    """Run rules on the same systems over the sweep of their tolerances, and summarise what came of it.

    Args:
        rules: see `Rule`.
        systems: B systems of one shape, leaves (B, ...).
        reference: name of the rule that the others are compared with; None for the first.
        levels: the errors whose cost is asked for, > 0.
        cost: "median" or "mean" over systems; see `summarise`.
        resamples: number of bootstrap resamples, ≥ 0; 0 for no intervals.
        seed: the key of their draw.

    Returns:
        A `Comparison`. Everything is checked before the first run.

    Raises:
        ValueError: as `run_rules` and `summarise` do.
    """
    check_rules(rules, systems, where="compare")
    names = tuple(rule.name for rule in rules)
    _check_options(names, reference, levels, cost, resamples, "compare")
    outcomes = run_rules(rules, systems)
    return summarise(outcomes, reference=reference, levels=levels, cost=cost, resamples=resamples, seed=seed)


def summarise(
    outcomes: Iterable[Outcome],
    *,
    reference: str | None = None,
    levels: Sequence[float] = LEVELS,
    cost: str = "median",
    resamples: int = 200,
    seed: int = 0,
) -> Comparison:
    """Quantiles of errors and costs over systems, and the force evaluations that each rule needs for an error.

    A failed system has infinite errors, and costs infinitely many evaluations in a quantile; in a mean it counts
    with what it spent. So with cost "median" a point of which half the systems failed reaches nothing.

    The intervals are 90 % percentile intervals over systems. All rules and tolerances share the resamples, so the
    interval of a ratio is that of a paired comparison: a rule that spends twice as much on every system has the
    ratio 2, exactly. A resample in which neither of two rules reaches a level says nothing about their ratio there.

    Needs are read off the rule's curve of error against cost, straight in log-log between its points, at the
    smallest cost at which it reaches the level; it is never extrapolated.

    Args:
        outcomes: of `run_rules`, or from elsewhere; each on the same B systems in the same order.
        reference: name of the rule that the others are compared with; None for the first.
        levels: the errors whose cost is asked for, > 0.
        cost: "median" or "mean" over systems: what stands for the cost in the needs.
        resamples: number of bootstrap resamples, ≥ 0; 0 for no intervals.
        seed: the key of their draw.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: if there is no outcome, one is on another number of systems, the reference is none of the
            rules, or levels, cost or resamples are out of range.

    Source: percentile bootstrap, Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13.
    """
    rows = list(outcomes)
    require(len(rows) > 0, "summarise: at least one outcome is needed, got none")
    names = [row.rule for row in rows]
    reference = _check_options(names, reference, levels, cost, resamples, "summarise")
    size = rows[0].statistics.failed.numel()
    require(size > 0, f"summarise: rule {names[0]!r} at tolerance {rows[0].tolerance:g} is on no system")
    for row in rows:
        check_outcome(row, size, where="summarise")
    counts = count_draws(draw_resamples(size, resamples, seed=seed))
    costs = resampled_costs(rows, counts)
    errors = {metric: resampled_errors(rows, metric, counts) for metric in METRICS}
    chosen = costs._asdict()[cost]
    needs = [
        need
        for metric in METRICS
        for need in make_needs(names, metric, chosen, errors[metric], levels, reference=reference)
    ]
    return Comparison(make_points(rows, costs, errors), tuple(needs), reference, cost, size)


def _check_options(
    names: Sequence[str], reference: str | None, levels: Sequence[float], cost: str, resamples: int, where: str
) -> str:
    """The name of the reference, after a look at all options."""
    chosen = names[0] if reference is None else reference
    require_choice(where, "reference", chosen, tuple(dict.fromkeys(names)))
    require_choice(where, "cost", cost, COSTS)
    for level in levels:
        require(0 < level < math.inf, f"{where}: levels must be > 0 and finite (errors, e.g. 1e-6), got {level}")
    require(resamples >= 0, f"{where}: resamples must be >= 0 (0 for no intervals), got {resamples}")
    return chosen
