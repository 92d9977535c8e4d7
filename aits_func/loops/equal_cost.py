"""Rules compared at equal cost: find the constant of a rule at which it spends a given number of force evaluations."""

import math
from collections.abc import Callable
from typing import NamedTuple

from ..base.check import require


class Match(NamedTuple):
    """The constant that was found: plain numbers."""

    constant: float  # η or dt
    evaluations: int  # what the rule spends with it
    matched: bool  # whether that is within the tolerance
    trials: int


def match_cost(
    evaluations: Callable[[float], int],
    target: int,
    *,
    start: float,
    tolerance: float = 0.02,
    max_trials: int = 24,
) -> Match:
    """The constant c > 0 of a rule, by bisection in ln c, at which it spends ``target`` force evaluations.

    The cost falls as c grows, nearly as 1/c. So the bracket is found by steps of that slope, and within it
    the same slope proposes the next trial; where the proposal leaves the bracket, or the bracket does not
    shrink, its midpoint is taken.

    Args:
        evaluations: runs the rule with a constant and counts its force evaluations.
        target: the number to meet, ≥ 1.
        start: the first constant to try, > 0.
        tolerance: relative, > 0.
        max_trials: runs after which the best constant so far is returned, ≥ 1.

    Returns:
        A `Match`; not ``matched`` if max_trials were not enough, as where the count jumps.

    Raises:
        ValueError: if target, start, tolerance or max_trials is out of range.
    """
    require(target >= 1, f"match_cost: target must be >= 1 force evaluations, got {target}")
    require(0 < start < math.inf, f"match_cost: start must be > 0 and finite, got {start}")
    require(tolerance > 0, f"match_cost: tolerance must be > 0 (e.g. 0.02), got {tolerance}")
    require(max_trials >= 1, f"match_cost: max_trials must be >= 1, got {max_trials}")
    low, high = -math.inf, math.inf  # ln c that is known to cost too much, and too little
    x, best = math.log(start), Match(start, 0, False, 0)
    for trial in range(1, max_trials + 1):
        count = evaluations(math.exp(x))
        miss = math.log(max(count, 1) / target)
        if best.trials == 0 or abs(miss) < abs(math.log(max(best.evaluations, 1) / target)):
            best = Match(math.exp(x), count, abs(count / target - 1) <= tolerance, trial)
        if best.matched:
            return best._replace(trials=trial)
        if miss > 0:
            low = x
        else:
            high = x
        x += miss
        if not low < x < high or trial % 4 == 0:
            x = _middle(low, high, x)
    return best._replace(trials=max_trials)


def _middle(low: float, high: float, x: float) -> float:
    return (low + high) / 2 if math.isfinite(low) and math.isfinite(high) else x
