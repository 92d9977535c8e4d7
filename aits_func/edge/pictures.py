"""Pictures: drawn with matplotlib's object interface, so that no global state is touched."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .checkpoint import write_atomically
from .config import TrainConfig
from .extras import load_extra

if TYPE_CHECKING:
    from ..loops.work_precision import Point
    from .comparison_run import SetComparison
    from .simulation_run import Result

_COLOURS = ("#1f6f8b", "#c8553d", "#7a9e3f", "#8d6a9f", "#b8860b", "#444444")
_LARGEST = 1e100  # that is drawn; twice as many decades are an axis still
_MARKERS = ("o", "s", "^", "D")


def draw_training(path: Path, metrics: Sequence[dict[str, Any]], config: TrainConfig) -> None:
    """Training curves: pass rate, energy error with its band, and mean dt against epoch."""
    figure, (left, middle, right) = _figure(3, (12, 3.4))
    epoch = [line["epoch"] for line in metrics]
    marker = "o" if len(epoch) == 1 else ""  # a line of one point is not seen
    left.plot(epoch, _shown(metrics, "replay_pass_rate"), marker=marker, color=_COLOURS[0], label="accepted")
    left.plot(epoch, _shown(metrics, "replay_band_rate"), marker=marker, color=_COLOURS[1], label="inside the band")
    left.set(xlabel="epoch", ylabel="fraction of the trajectory", ylim=(-0.02, 1.04))
    left.legend(loc="lower right")
    middle.axhspan(config.E_lower, config.E_upper, color=_COLOURS[2], alpha=0.2, label="band")
    middle.axhline(config.energy_threshold, color=_COLOURS[5], lw=0.8, ls="--", label="threshold")
    middle.plot(epoch, _shown(metrics, "replay_mean_energy_error"), marker=marker, color=_COLOURS[0], label="mean")
    middle.plot(epoch, _shown(metrics, "replay_max_energy_error"), marker=marker, color=_COLOURS[1], label="largest")
    middle.set(xlabel="epoch", ylabel="relative energy error of one step")
    _log_scale(middle)
    middle.legend(fontsize=8)
    right.plot(epoch, _shown(metrics, "replay_mean_dt"), marker=marker, color=_COLOURS[0])
    right.set(xlabel="epoch", ylabel="mean step dt")
    _log_scale(right)
    for axis in (left, middle, right):
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    _save(figure, path)


def draw_orbits(path: Path, results: Sequence["Result"]) -> None:
    """The path of the first system of every set, in the plane of its first two coordinates."""
    figure, axes = _figure(len(results), (4.2 * len(results), 4.2))
    for axis, result in zip(axes, results, strict=True):
        path_of = _placeable(result.info.recording.position[:, 0].cpu())
        for body in range(path_of.shape[1]):
            colour = _COLOURS[body % len(_COLOURS)]
            axis.plot(path_of[:, body, 0], path_of[:, body, 1], color=colour, lw=0.8)
            axis.plot(*path_of[-1, body, :2], "o", color=colour, ms=4)
        axis.set(xlabel="x", ylabel="y", title=_title(result), aspect="equal")
        axis.set_adjustable("datalim")
    _save(figure, path)


def draw_energy(path: Path, results: Sequence[Sequence["Result"]]) -> None:
    """Energy error against time of the first system of every set, one line per rule."""
    _draw_against_time(path, results, "energy_error", "|E − E₀| / |E₀|")


def draw_steps(path: Path, results: Sequence[Sequence["Result"]]) -> None:
    """Step against time of the first system of every set, one line per rule."""
    _draw_against_time(path, results, "dt", "step dt")


def _shown(metrics: Sequence[dict[str, Any]], key: str) -> list[float]:
    """One number of every epoch, NaN for one that no axis has room for: it may be a damaged file's."""
    values = [line[key] for line in metrics]
    return [
        math.nan if value is None or not abs(value) < _LARGEST or 0 < abs(value) < 1 / _LARGEST else value
        for value in values
    ]


_SHOWN = (("mean_energy_error", "time-averaged |ΔE/E₀|"), ("max_potential_error", "max |ΔE|/|W(t)|"))


def draw_work_precision(path: Path, results: Sequence["SetComparison"]) -> None:
    """Error against force evaluations, one line per rule: a column for every set, a row for each of two errors.

    Points are medians over the systems, bars their 90 % bootstrap intervals; the thin line is the 90 % quantile. What
    has no place on logarithmic axes is left out (an error of 0, or an infinite one, as of a median system that failed),
    and where nothing is left, that is written there. Also written as .pdf beside it.
    """
    size = (1.2 + 4.4 * len(results), 7.6)
    figure = load_extra("matplotlib.figure", "cli").Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(_SHOWN), len(results), squeeze=False)
    for column, result in zip(axes.T, results, strict=True):
        rules = list(dict.fromkeys(point.rule for point in result.comparison.points))
        for axis, (metric, label) in zip(column, _SHOWN, strict=True):
            for number, rule in enumerate(rules):
                _draw_curve(axis, [p for p in result.comparison.points if p.rule == rule], metric, number)
            axis.set(xlabel="force evaluations per system", ylabel=label)
            if axis.has_data():
                axis.set(xscale="log", yscale="log")
                _part_labels(axis)
            else:
                why = _why_nothing(result.comparison.points, metric)
                axis.text(0.5, 0.5, f"nothing to draw:\n{why}", ha="center", va="center", transform=axis.transAxes)
            axis.grid(alpha=0.25)
        count = result.comparison.systems
        column[0].set_title(result.systems.label.replace("$", r"\$") + (f" ({count} systems)" if count > 1 else ""))
    shown = [axis.get_legend_handles_labels() for axis in axes.flat]
    by_rule = {
        label: handle for handles, labels in reversed(shown) for handle, label in zip(handles, labels, strict=True)
    }
    if by_rule:
        figure.legend(by_rule.values(), by_rule.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _save(figure, path)
    _save(figure, path.with_suffix(".pdf"))


def _draw_curve(axis: Any, points: Sequence["Point"], metric: str, number: int) -> None:
    """One rule; points that have no place on logarithmic axes are left out."""
    shown = sorted(
        (p.median_evaluations.value, *p.error(metric, 0.5), p.error(metric, 0.9).value)
        for p in points
        if _has_place(p.median_evaluations.value) and _has_place(p.error(metric, 0.5).value)
    )
    if not shown:
        return
    style = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number // len(_COLOURS) % len(_MARKERS)]}
    cost = [row[0] for row in shown]
    value = [row[1] for row in shown]
    below = [row[1] - row[2] if _has_place(row[2]) and row[2] < row[1] else 0.0 for row in shown]
    above = [row[3] - row[1] if _has_place(row[3]) and row[3] > row[1] else 0.0 for row in shown]
    axis.errorbar(cost, value, [below, above], **style, ms=4, lw=1.2, capsize=2, label=points[0].rule)
    tail = [(row[0], row[4]) for row in shown if _has_place(row[4])]
    axis.plot([x for x, _ in tail], [y for _, y in tail], color=style["color"], lw=0.6, alpha=0.6)


def _part_labels(axis: Any) -> None:
    """Numbers along a logarithmic x axis that do not meet: matplotlib puts 3 × 10¹ beside 4 × 10¹."""
    ticker = load_extra("matplotlib.ticker", "cli")
    low, high = axis.get_xlim()
    decades = math.log10(high / low)
    if decades < 0.2:  # nearly one cost
        axis.xaxis.set_major_locator(ticker.MaxNLocator(3))
        axis.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.xaxis.set_minor_locator(ticker.NullLocator())
    elif decades < 1.6:  # few powers of ten, or none
        steps = (2.0, 5.0) if decades > 0.45 else (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        # By themselves: a LogLocator of few ticks takes others.
        axis.xaxis.set_minor_locator(ticker.FixedLocator([step * 10.0**power for power in powers for step in steps]))
        axis.xaxis.set_minor_formatter(ticker.LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))
    else:
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def _has_place(value: float) -> bool:
    """Whether a logarithmic axis has room for a number."""
    return 1 / _LARGEST < value < _LARGEST


def _why_nothing(points: Sequence["Point"], metric: str) -> str:
    """What keeps the points of a set from being drawn: one line."""
    errors = [point.error(metric, 0.5).value for point in points]
    if all(point.failed == point.systems for point in points):
        return "every system failed, with every rule"
    if all(math.isnan(error) for error in errors):
        return "this error was not measured"
    if all(error == 0 for error in errors):
        return "every error is exactly 0"
    return "no error is finite and larger than 0"


def _draw_against_time(path: Path, results: Sequence[Sequence["Result"]], field: str, label: str) -> None:
    figure, axes = _figure(len(results[0]), (4.6 * len(results[0]), 3.4))
    for number, of_rule in enumerate(results):
        for axis, result in zip(axes, of_rule, strict=True):
            recording = result.info.recording
            time, value = recording.time[1:, 0].cpu(), getattr(recording, field)[1:, 0].cpu()
            shown = (value > 1 / _LARGEST) & (value < _LARGEST)
            time = _placeable(time)
            axis.plot(time[shown], value[shown], color=_COLOURS[number], lw=0.8, label=result.rule.name)
            axis.set(xlabel="time", ylabel=label, title=_title(result))
    for axis in axes:
        _log_scale(axis)
    axes[0].legend(fontsize=8)
    _save(figure, path)


def _placeable(values: Tensor) -> Tensor:
    """The numbers, NaN for one that no axis has room for, which is then left out."""
    return values.double().masked_fill(~(values.abs() < _LARGEST), math.nan)


def _title(result: "Result") -> str:
    label, size = result.systems.label.replace("$", r"\$"), len(result.systems.t_end)  # $ would begin a formula
    return f"{label}, the first of {size}" if size > 1 else label


def _log_scale(axis: Any) -> None:
    """A logarithmic y axis, if there is anything that it can show (else matplotlib warns)."""
    if any(value is not None and value > 0 for line in axis.lines for value in line.get_ydata()):
        axis.set_yscale("log")


def _figure(columns: int, size: tuple[float, float]) -> tuple[Any, Sequence[Any]]:
    figure = load_extra("matplotlib.figure", "cli").Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format=path.suffix[1:])
    write_atomically(path, buffer.getvalue())
