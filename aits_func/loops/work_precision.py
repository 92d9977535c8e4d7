"""Work and precision of rules: where each one stands at a tolerance, and what it needs for an error.

Letters: B systems, K tolerances of a rule, P points of all rules, Q quantiles, L levels; S samples (see `bootstrap`).
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .bootstrap import Estimate, as_estimates, resampled_means, resampled_quantiles
from .rules import Outcome, count_failures

METRICS = (
    "mean_energy_error",
    "max_potential_error",
    "final_energy_error",
    "max_energy_error",
    "angular_momentum_error",
    "return_error",
    "energy_drift",
)
"""Fields of `RunStatistics` that rules are judged by. The first two come first in a report: the maximum of |ΔE/E₀| is
made by passing pericentres, the end error of a reversible scheme cancels. Of the drift the absolute value is taken."""

QUANTILES = (0.5, 0.9, 0.99)
COSTS = ("median", "mean")
LEVELS = tuple(float(f"1e-{digits}") for digits in range(2, 13))


class Point(NamedTuple):
    """One rule at one tolerance: plain numbers.

    A failed system costs infinitely many evaluations in the median and the 90 % quantile; in the means it counts
    with what it spent.
    """

    rule: str
    tolerance: float
    systems: int
    failed: int
    median_evaluations: Estimate  # force evaluations per system
    high_evaluations: Estimate  # their 90 % quantile
    mean_evaluations: Estimate
    rule_evaluations: float  # mean evaluations of the step function per system
    seconds: float  # for all systems
    errors: tuple[tuple[Estimate, ...], ...]  # a row for each of METRICS, a column for each of QUANTILES; NaN: unknown
    failures: tuple[tuple[str, int], ...] = ()  # how many of those that failed ended how; () if the rule does not tell

    def error(self, metric: str, quantile: float) -> Estimate:
        """The error in one of METRICS at one of QUANTILES."""
        return self.errors[METRICS.index(metric)][QUANTILES.index(quantile)]


class Need(NamedTuple):
    """The force evaluations that a rule needs for an error: plain numbers.

    Where ``bound`` is set they are an upper bound, and so is the ratio; where it is set for the reference, the ratio
    is a lower bound. With both it says nothing but how the sweeps were chosen.
    """

    rule: str
    metric: str
    quantile: float
    level: float  # the error; 1 / time for the drift
    evaluations: Estimate  # infinite: no tolerance of the sweep reaches it; NaN: not measured
    ratio: Estimate  # over those of the reference, < 1 = cheaper; NaN: neither reaches it
    bound: bool  # the cheapest point of the sweep is better than the level already


class Costs(NamedTuple):
    """Force evaluations per system, over the systems of every sample."""

    median: Tensor  # (P, S)
    high: Tensor  # (P, S), the 90 % quantile
    mean: Tensor  # (P, S)


def resampled_costs(outcomes: Sequence[Outcome], counts: Tensor) -> Costs:
    """Costs of P outcomes in every sample; ``counts`` (S, B)."""
    spent = torch.stack([outcome.statistics.force_evaluations.double().cpu() for outcome in outcomes])
    failed = torch.stack([outcome.statistics.failed.cpu() for outcome in outcomes])
    median, high = resampled_quantiles(spent.masked_fill(failed, torch.inf), counts, (0.5, 0.9)).unbind(1)
    return Costs(median, high, resampled_means(spent, counts))


def resampled_errors(outcomes: Sequence[Outcome], metric: str, counts: Tensor) -> Tensor:
    """Quantiles of one metric for P outcomes in every sample, (P, Q, S); ``counts`` (S, B)."""
    table = torch.stack([error_row(outcome, metric) for outcome in outcomes])
    return resampled_quantiles(table, counts, QUANTILES)


def error_row(outcome: Outcome, metric: str) -> Tensor:
    """The errors of B systems in one metric, (B,): infinite where one failed, all NaN if it was not measured."""
    error = getattr(outcome.statistics, metric).double().cpu().abs()
    failed = outcome.statistics.failed.cpu()
    measured = failed.all() | ~(failed | error.isnan()).all()
    infinite = error.masked_fill(failed | error.isnan(), torch.inf)
    return torch.where(measured, infinite, torch.full_like(error, torch.nan))


def make_points(outcomes: Sequence[Outcome], costs: Costs, errors: dict[str, Tensor]) -> tuple[Point, ...]:
    """One `Point` for each of P outcomes; ``errors`` (P, Q, S) for each metric."""
    columns = [as_estimates(cost) for cost in costs]
    shown = [[as_estimates(point) for point in errors[metric]] for metric in METRICS]
    return tuple(
        Point(
            rule=outcome.rule,
            tolerance=float(outcome.tolerance),
            systems=len(outcome.statistics.failed),
            failed=int(outcome.statistics.failed.sum()),
            median_evaluations=columns[0][row],
            high_evaluations=columns[1][row],
            mean_evaluations=columns[2][row],
            rule_evaluations=float(outcome.statistics.rule_evaluations.double().mean()),
            seconds=float(outcome.statistics.seconds),
            errors=tuple(tuple(metric[row]) for metric in shown),
            failures=count_failures(outcome.statistics),
        )
        for row, outcome in enumerate(outcomes)
    )


def make_needs(
    rules: Sequence[str], metric: str, cost: Tensor, error: Tensor, levels: Sequence[float], *, reference: str
) -> list[Need]:
    """The needs of every rule in one metric, by quantile and level, without those that no rule can meet.

    Args:
        rules: the name of the rule that each of P points belongs to.
        metric: what the error is called.
        cost: (P, S).
        error: (P, Q, S).
        levels: L errors, > 0.
        reference: the rule that the others are compared with.
    """
    names = tuple(dict.fromkeys(rules))
    wanted = torch.tensor(levels, dtype=error.dtype)
    rows = {name: torch.tensor([rule == name for rule in rules]) for name in names}
    found = {name: evaluations_needed(cost[row], error[row], wanted) for name, row in rows.items()}
    columns = {
        name: list(zip(_column(need), _column(need / found[reference][0]), bound.flatten().tolist(), strict=True))
        for name, (need, bound) in found.items()
    }
    met = torch.stack([need[..., 0].isfinite() for need, _ in found.values()]).any(0).flatten()
    return [
        Need(name, metric, quantile, float(level), *columns[name][cell])
        for cell, (quantile, level) in enumerate(product(QUANTILES, levels))
        if met[cell]
        for name in names
    ]


def _column(samples: Tensor) -> list[Estimate]:
    """Of samples (Q, L, S) one `Estimate` for each quantile and level."""
    return as_estimates(samples.flatten(0, 1))


def evaluations_needed(cost: Tensor, error: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest cost at which one rule's curve reaches each level, in every sample.

    The curve goes through the points of the rule in order of cost, straight in log-log between two of them:
    n = n₀ (n₁/n₀)^s with s = ln(ε₀/ε) / ln(ε₀/ε₁). Where that cannot be, as ε₀ is infinite or ε₁ zero, the
    need is the cost n₁ of the point that reaches the level. Beyond its ends there is no curve.

    Args:
        cost: (K, S).
        error: (K, Q, S); NaN where it was not measured.
        levels: (L,), > 0.

    Returns:
        (Q, L, S): the needs; infinite if no point reaches the level, NaN if one that was not measured might. And
        (Q, L) bool: whether the cheapest point is better than the level already, so that its cost is a bound.
    """
    order = cost.argsort(dim=0, stable=True)
    cost = cost.gather(0, order)[:, None, None]
    error = error.gather(0, order[:, None].expand_as(error))[:, :, None]
    level = levels[:, None]
    reached = error <= level  # (K, Q, L, S)
    first = reached.int().argmax(0, keepdim=True)  # of equal ones the first
    before = (first - 1).clamp(min=0)
    shape = reached.shape
    error_0, error_1 = (error.expand(shape).gather(0, index)[0] for index in (before, first))
    cost_0, cost_1 = (cost.expand(shape).gather(0, index)[0] for index in (before, first))
    fall = (error_0 / error_1).log()
    between = cost_0 * (cost_1 / cost_0) ** ((error_0 / level).log() / fall)
    straight = (first[0] > 0) & fall.isfinite() & between.isfinite()
    need = torch.where(reached.any(0), torch.where(straight, between, cost_1), torch.inf)
    unknown = error.isnan().any(0)[..., :1] & need[..., :1].isinf()
    bound = (error[0] < level)[..., 0] & need[..., 0].isfinite()
    return torch.where(unknown, torch.nan, need), bound
