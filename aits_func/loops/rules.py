"""Injected rules: whatever takes B systems to their ends at one tolerance, and reports what it spent and how it erred.

Step criteria in a scheme, learned policies and other people's codes look alike from here.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from ..base.check import require
from ..base.types import System


class RunStatistics(NamedTuple):
    """What one rule did to B systems at one tolerance.

    Errors are relative to the energy scale of the start, those of a failed system may be anything: they count as
    infinite. A NaN in every system that did not fail says that the error was not measured; where others have a
    number, it counts as infinite too.

    Shapes: as commented on the fields. Units: errors are dimensionless.
    """

    failed: Tensor  # (B,) bool; did not reach its end, for whatever reason
    force_evaluations: Tensor  # (B,) int64, all of them: rejected and symmetrising ones too
    rule_evaluations: Tensor  # (B,) int64, evaluations of the step function with its derivatives
    final_energy_error: Tensor  # (B,) float64, |E − E₀| / |E₀| at the end
    mean_energy_error: Tensor  # (B,) float64, its time average
    max_potential_error: Tensor  # (B,) float64, maximum of |E − E₀| / |W(t)|, W the potential energy
    max_energy_error: Tensor  # (B,) float64, maximum of |E − E₀| / |E₀|
    angular_momentum_error: Tensor  # (B,) float64, |L − L₀| over the rule's scale of L
    return_error: Tensor  # (B,) float64, distance from the start after a run forth and back; NaN: not measured
    energy_drift: Tensor  # (B,) float64, 1 / time; slope of (E − E₀) / |E₀| over time, of either sign
    seconds: Tensor  # () float64, time on the wall for all of them
    endings: tuple[str, ...] = ()  # B words, how each system ended, e.g. "stalled"; () if the rule does not tell


class Rule(NamedTuple):
    """A rule by its name, what runs it, and the sweep of its tolerances.

    ``run(systems, tolerance)`` takes B systems (see `System`) and returns `RunStatistics`. What a tolerance means is
    the rule's own affair: an η, a fictitious step h, an ε. They may come in any order.
    """

    name: str
    run: Callable[[System, float], RunStatistics]
    tolerances: tuple[float, ...]  # > 0


class Outcome(NamedTuple):
    """One rule at one tolerance, and what came of it: see `RunStatistics`."""

    rule: str
    tolerance: float
    statistics: RunStatistics


def run_rules(rules: Sequence[Rule], systems: System) -> Iterator[Outcome]:
    """Run every rule at every one of its tolerances on the same systems, one after the other.

    Args:
        rules: in the order in which they are to run.
        systems: B systems of one shape, leaves (B, ...).

    Returns:
        A generator of `Outcome`, each yielded as soon as it is there. The rules are checked before the first run.

    Raises:
        ValueError: if there is no rule, two have one name, tolerances are empty or not > 0, the systems are no
            batch, or (later, from the generator) a rule reports on another number of systems.
    """
    check_rules(rules, systems, where="run_rules")
    return _outcomes(rules, systems)


def _outcomes(rules: Sequence[Rule], systems: System) -> Iterator[Outcome]:
    for rule in rules:
        for tolerance in rule.tolerances:
            outcome = Outcome(rule.name, tolerance, rule.run(systems, tolerance))
            check_outcome(outcome, len(systems.mass), where="run_rules")
            yield outcome


def check_rules(rules: Sequence[Rule], systems: System, *, where: str) -> None:
    """Raise ``ValueError`` unless the rules can be run and told apart, and the systems are a batch."""
    require(len(rules) > 0, f"{where}: at least one rule is needed, got none")
    names = [rule.name for rule in rules]
    for rule in rules:
        require(
            names.count(rule.name) == 1,
            f"{where}: every rule needs a name of its own, got {rule.name!r} more than once",
        )
        require(len(rule.tolerances) > 0, f"{where}: rule {rule.name!r} needs at least one tolerance, got none")
        for tolerance in rule.tolerances:
            require(
                0 < tolerance < math.inf,
                f"{where}: tolerances of rule {rule.name!r} must be > 0 and finite, got {tolerance}",
            )
    require(
        systems.mass.ndim == 2 and len(systems.mass) > 0,
        f"{where}: systems must be a batch of at least one, mass (B, N), got {tuple(systems.mass.shape)}",
    )


def check_outcome(outcome: Outcome, size: int, *, where: str) -> None:
    """Raise ``ValueError`` unless the statistics are those of ``size`` systems."""
    head = f"{where}: rule {outcome.rule!r} at tolerance {outcome.tolerance:g}"
    columns = outcome.statistics._asdict()
    told = len(columns.pop("endings"))
    for name, column in columns.items():
        want, got = () if name == "seconds" else (size,), tuple(column.shape)
        require(got == want, f"{head}: {name} must have shape {want}, got {got}")
    require(told in (0, size), f"{head}: endings must be {size} words or none, got {told}")


def count_failures(statistics: RunStatistics) -> tuple[tuple[str, int], ...]:
    """How the systems that failed ended, each way with the number of its systems; () if the rule does not tell."""
    return tuple(Counter(itertools.compress(statistics.endings, statistics.failed.tolist())).items())
