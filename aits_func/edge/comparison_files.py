"""The tables of a comparison as files: CSV for spreadsheets, JSON for programs."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..loops.bootstrap import Estimate
from ..loops.work_precision import METRICS, QUANTILES, Need, Point
from .checkpoint import write_atomically
from .comparison_run import SetComparison
from .tracking import jsonable

POINTS, NEEDS, COMPARISON = "points.csv", "needs.csv", "comparison.json"


def write_tables(directory: Path, results: Sequence[SetComparison]) -> None:
    """Write points.csv (every rule, tolerance, metric and quantile), needs.csv and comparison.json.

    In CSV an infinite number is "inf" and one that was not measured "nan"; JSON has neither, and says null.
    """
    points = [row for result in results for point in result.comparison.points for row in _point_rows(result, point)]
    needs = [_need_row(result, need) for result in results for need in result.comparison.needs]
    _write_csv(directory / POINTS, points, tuple(points[0]) if points else ())
    _write_csv(directory / NEEDS, needs, NEED_COLUMNS)  # of rules that reach no level there is no row
    table = {
        result.systems.label: {
            "systems": result.comparison.systems,
            "reference": result.comparison.reference,
            "cost": result.comparison.cost,
            "points": [_point_entry(point) for point in result.comparison.points],
            "needs": [_plain(need._asdict()) for need in result.comparison.needs],
        }
        for result in results
    }
    write_atomically(directory / COMPARISON, (json.dumps(jsonable(table), indent=1) + "\n").encode())


def _point_rows(result: SetComparison, point: Point) -> Iterator[dict[str, Any]]:
    head = {
        "set": result.systems.label,
        "rule": point.rule,
        "tolerance": point.tolerance,
        "systems": point.systems,
        "failed": point.failed,
        "median_evaluations": point.median_evaluations.value,
        "evaluations_90": point.high_evaluations.value,
        "mean_evaluations": point.mean_evaluations.value,
        "rule_evaluations": point.rule_evaluations,
        "seconds": point.seconds,
    }
    for metric in METRICS:
        for quantile in QUANTILES:
            yield head | {"metric": metric, "quantile": quantile} | _interval("error", point.error(metric, quantile))


NEED_COLUMNS = (
    *("set", "rule", "metric", "quantile", "level", "bound"),
    *("evaluations", "evaluations_low", "evaluations_high", "ratio", "ratio_low", "ratio_high"),
)


def _need_row(result: SetComparison, need: Need) -> dict[str, Any]:
    head = {
        "set": result.systems.label,
        "rule": need.rule,
        "metric": need.metric,
        "quantile": need.quantile,
        "level": need.level,
        "bound": need.bound,
    }
    return head | _interval("evaluations", need.evaluations) | _interval("ratio", need.ratio)


def _interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _point_entry(point: Point) -> dict[str, Any]:
    errors = {
        metric: {str(quantile): point.error(metric, quantile)._asdict() for quantile in QUANTILES} for metric in METRICS
    }
    return _plain(point._asdict()) | {"errors": errors, "failures": dict(point.failures)}


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value._asdict() if isinstance(value, Estimate) else value for key, value in entry.items()}


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
