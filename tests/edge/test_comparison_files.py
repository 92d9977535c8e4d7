"""The tables of a comparison: every number there and back, the infinite and the unknown ones too."""

import csv
import json
import math

import pytest
import torch

pytest.importorskip("safetensors")

from aits_func.edge.comparison_files import COMPARISON, NEEDS, POINTS, write_tables
from aits_func.edge.comparison_run import SetComparison
from aits_func.edge.systems import SystemSet
from aits_func.loops.compare import summarise
from aits_func.loops.rules import Outcome, RunStatistics
from aits_func.loops.work_precision import METRICS, QUANTILES
from aits_func.physics.initial_conditions import binaries

B = 5


def outcome(rule, tolerance, *, failed=0, returned=math.nan):
    """Errors tolerance² · 1, 2, 3, … and costs 1/tolerance · 1, 2, 3, …; the last few systems failed."""
    ones = torch.arange(1, B + 1).double()
    spent = (ones / tolerance).round().long()
    error = ones * tolerance**2
    bad = torch.arange(B) >= B - failed
    back = torch.full_like(error, returned)
    return Outcome(rule, tolerance, RunStatistics(bad, spent, spent, *([error] * 5), back, error, error.sum()))


def comparison(label='a set, of "binaries"'):
    outcomes = [outcome("one", 0.1), outcome("one", 0.01), outcome("two", 0.1, failed=4), outcome("two", 0.02)]
    systems = SystemSet(label, binaries(0, B), torch.ones(B), torch.ones(B))
    return SetComparison(systems, summarise(outcomes, resamples=10))


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(text, number):
    """The very number, as repr writes it; infinite and unknown ones by their names."""
    return float(text) == number or (math.isnan(number) and text == "nan")


def test_the_points_are_written_for_every_metric_and_quantile(tmp_path):
    result = comparison()
    write_tables(tmp_path, [result])
    rows = read(tmp_path / POINTS)
    places = [(p, m, q) for p in result.comparison.points for m in METRICS for q in QUANTILES]
    assert len(rows) == len(places) == 4 * 7 * 3
    for row, (point, metric, quantile) in zip(rows, places, strict=True):
        assert (row["set"], row["rule"], row["metric"]) == (result.systems.label, point.rule, metric)
        assert (int(row["systems"]), int(row["failed"])) == (point.systems, point.failed)
        estimate = point.error(metric, quantile)
        assert same(row["quantile"], quantile)
        assert same(row["tolerance"], point.tolerance)
        for key, number in (
            ("error", estimate.value),
            ("error_low", estimate.low),
            ("error_high", estimate.high),
            ("median_evaluations", point.median_evaluations.value),
            ("evaluations_90", point.high_evaluations.value),
            ("mean_evaluations", point.mean_evaluations.value),
            ("rule_evaluations", point.rule_evaluations),
            ("seconds", point.seconds),
        ):
            assert same(row[key], number), key
    assert {row["error"] for row in rows if row["metric"] == "return_error" and row["rule"] == "one"} == {"nan"}
    assert {row["median_evaluations"] for row in rows if row["failed"] == "4"} == {"inf"}


def test_the_needs_are_written_one_by_one(tmp_path):
    result = comparison()
    write_tables(tmp_path, [result])
    rows = read(tmp_path / NEEDS)
    assert len(rows) == len(result.comparison.needs) > 0
    for row, need in zip(rows, result.comparison.needs, strict=True):
        assert (row["rule"], row["metric"], row["bound"]) == (need.rule, need.metric, str(need.bound))
        for key, number in (
            ("quantile", need.quantile),
            ("level", need.level),
            *zip(("evaluations", "evaluations_low", "evaluations_high"), need.evaluations, strict=True),
            *zip(("ratio", "ratio_low", "ratio_high"), need.ratio, strict=True),
        ):
            assert same(row[key], number), key


def test_the_json_is_plain_and_says_null_where_there_is_no_number(tmp_path):
    results = [comparison("first"), comparison("second")]
    write_tables(tmp_path, results)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    table = json.loads((tmp_path / COMPARISON).read_text(), parse_constant=refuse)
    assert list(table) == ["first", "second"]
    entry, comparison_ = table["first"], results[0].comparison
    assert (entry["systems"], entry["reference"], entry["cost"]) == (B, "one", "median")
    assert len(entry["points"]) == 4
    assert len(entry["needs"]) == len(comparison_.needs)
    for written, point in zip(entry["points"], comparison_.points, strict=True):
        assert set(written["errors"]) == set(METRICS)
        value = point.error("mean_energy_error", 0.5).value
        assert written["errors"]["mean_energy_error"]["0.5"]["value"] == (value if math.isfinite(value) else None)
        assert written["errors"]["return_error"]["0.5"]["value"] is None
    assert entry["points"][2]["median_evaluations"]["value"] is None  # four of five failed


def test_without_needs_there_is_an_empty_table_and_not_none(tmp_path):
    result = comparison()
    write_tables(tmp_path, [result._replace(comparison=result.comparison._replace(needs=()))])
    assert (tmp_path / NEEDS).exists()
    assert read(tmp_path / NEEDS) == []
