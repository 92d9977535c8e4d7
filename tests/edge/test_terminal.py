"""What the command line shows: tables that tell what failed from what was not measured and from what is undecided."""

import math

import pytest
import torch

pytest.importorskip("rich")

from aits_func.edge.comparison_run import SetComparison
from aits_func.edge.systems import SystemSet
from aits_func.edge.terminal import print_needs
from aits_func.loops.compare import summarise
from aits_func.loops.rules import Outcome, RunStatistics
from aits_func.physics.initial_conditions import binaries


def outcome(rule, tolerance, error, spent, *, failed=0):
    """Errors and costs of systems that differ by some per cent; the last few failed."""
    size = len(error)
    bad = torch.arange(size) >= size - failed
    spent = torch.as_tensor(spent).expand(size)
    error = torch.as_tensor(error, dtype=torch.float64)
    nothing = torch.full_like(error, math.nan)
    return Outcome(rule, tolerance, RunStatistics(bad, spent, spent, error, error, *([nothing] * 5), error.sum()))


def sweep(rule, factor, size, *, jitter=0.0, failed=0):
    """Four tolerances of a rule of order 2; it spends ``factor`` times what the rule of factor 1 does."""
    random = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = []
    for tolerance in (1.0, 0.1, 0.01, 0.001):
        error = torch.full((size,), 0.03 * tolerance**2) * (1 + jitter * random)
        rows.append(outcome(rule, tolerance, error.tolist(), round(100 * factor / tolerance), failed=failed))
    return rows


def shown(capsys, outcomes, resamples=100):
    """The lines of the first table, and the line under it."""
    size = len(outcomes[0].statistics.failed)
    systems = SystemSet("pairs", binaries(0, size), torch.ones(size), torch.ones(size))
    print_needs(SetComparison(systems, summarise(outcomes, resamples=resamples)), quantiles=(0.5,), resamples=resamples)
    return capsys.readouterr().out.splitlines()


def cells(lines, rule):
    (row,) = [line for line in lines if line.startswith(f"│ {rule} ")]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_a_ratio_that_the_systems_agree_on_stands_as_it_is(capsys):
    lines = shown(capsys, [*sweep("one", 1.0, 8), *sweep("two", 1.5, 8)])
    assert (
        lines[0]
        == "pairs (8): median force evaluations for a time-averaged energy error (median), and the ratio to one"
    )
    assert cells(lines, "two")[3] == "822 (1.5)"  # at 1e-3: 150 (0.03/1e-3)^(1/2), 1.5 times the other in every system


@pytest.mark.parametrize(("size", "resamples"), [(4, 100), (1, 100), (8, 0)])
def test_too_few_systems_or_no_resamples_decide_nothing(capsys, size, resamples):
    lines = shown(capsys, [*sweep("one", 1.0, size), *sweep("two", 1.5, size)], resamples)
    assert cells(lines, "two")[3] == "822 (1.5?)"


def test_a_ratio_whose_interval_contains_1_is_marked(capsys):
    first = sweep("one", 1.0, 8, jitter=0.5)
    # the same errors on other systems, and a cost that differs by one in a hundred
    second = [
        row._replace(
            rule="two",
            statistics=row.statistics._replace(
                mean_energy_error=row.statistics.mean_energy_error.flip(0),
                force_evaluations=row.statistics.force_evaluations * 101 // 100,
            ),
        )
        for row in first
    ]
    assert cells(shown(capsys, [*first, *second]), "two")[3].endswith("(1?)")


def test_a_ratio_of_two_bounds_is_left_out_and_of_one_is_called_a_bound(capsys):
    cheap = [outcome("cheap", 1.0, [1e-6] * 8, 10)]
    dear = [outcome("dear", 1.0, [1e-4] * 8, 1000), outcome("dear", 0.1, [1e-5] * 8, 10_000)]
    lines = shown(capsys, [*dear, *cheap])
    # down to 1e-4 both rules are better than asked for already; at 1e-5 the dear one meets it at the end of its sweep
    assert cells(lines, "cheap")[2:] == ["≤ 10", "≤ 10", "≤ 10 (≤ 0.01)", "≤ 10 (≤ 0.001)", "10"]
    assert cells(lines, "dear")[2:] == ["≤ 1,000 (1)", "≤ 1,000 (1)", "1,000 (1)", "10,000 (1)", "–"]
    lines = shown(capsys, [*cheap, *dear])
    # an upper bound of 100 says nothing about 1
    assert cells(lines, "dear")[2:] == ["≤ 1,000", "≤ 1,000", "1,000 (≥ 1e+02)", "10,000 (≥ 1e+03)", "–"]
    assert lines[-1].startswith("–: no tolerance of the sweep reaches it; ≤ ≥: a bound; ?: within its 90 % interval")


def test_what_failed_is_counted_and_told_from_what_was_not_measured(capsys):
    rows = [*sweep("one", 1.0, 8), *sweep("two", 1.0, 8, failed=3), *sweep("three", 1.0, 8)[:1]]
    unknown = rows[-1]._replace(rule="four")
    nothing = torch.full_like(unknown.statistics.mean_energy_error, math.nan)
    rows.append(unknown._replace(statistics=unknown.statistics._replace(mean_energy_error=nothing)))
    lines = shown(capsys, rows)
    assert [cells(lines, rule)[1] for rule in ("one", "two", "four")] == ["0", "3 of 8", "0"]
    assert cells(lines, "three")[-1] == "–"
    assert set(cells(lines, "four")[2:]) == {"not measured"}


def test_a_table_without_an_error_that_is_reached_says_why(capsys):
    assert (
        shown(capsys, sweep("one", 1.0, 8, failed=8))[-1]
        == "no rule reaches any error: every system failed, with every rule and tolerance"
    )
    coarse = [outcome("one", 1.0, [0.5] * 8, 10)]
    assert shown(capsys, coarse)[-1] == "no rule reaches any of these errors: try smaller tolerances"
    unknown = [outcome("one", 1.0, [math.nan] * 8, 10)]
    assert shown(capsys, unknown)[-1] == "no rule reaches any error: it was not measured"
