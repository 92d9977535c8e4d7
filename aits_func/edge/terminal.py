"""What the command line shows: progress while training, tables at the end."""

import errno
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from ..base import engine
from ..loops.bootstrap import FEWEST_SYSTEMS, decides
from ..loops.compare import Comparison
from ..loops.epoch import EpochInfo
from ..loops.rules import Outcome as RuleOutcome
from ..loops.rules import count_failures
from ..loops.work_precision import Need
from .comparison_run import SetComparison
from .extras import load_extra
from .simulation_run import Score
from .systems import SystemSet
from .untrusted import printable


@contextmanager
def training_progress(total: int, done: int) -> Iterator[Callable[[EpochInfo, int], None]]:
    """A progress bar over epochs with the current pass rate, energy error and mean dt; plain lines off a terminal."""
    rich = load_extra("rich.progress", "cli")
    console = _console()
    if not console.is_terminal:
        yield lambda info, epochs: print(f"epoch {info.epoch + 1}/{epochs}  {describe(info)}", flush=True)
        return
    columns = (rich.BarColumn(bar_width=24), rich.MofNCompleteColumn(), rich.TextColumn("{task.description}"))
    with rich.Progress(*columns, rich.TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("training", total=total, completed=done)
        yield lambda info, epochs: progress.update(task, completed=info.epoch + 1, description=describe(info))


def describe(info: EpochInfo) -> str:
    """One epoch in one line: what it came to, and its numbers where there are any."""
    collect, replay, words = info.collect, info.replay, _OUTCOMES[info.outcome]
    if collect.stuck:
        words = f"{words} ({len(collect.stuck)} of its systems)"
    if info.outcome == "skipped":
        words = f"{words} ({collect.recorded} samples)"
    if not collect.recorded:
        return words
    return (
        f"passed {100 * replay.pass_rate:5.1f} %  in band {100 * replay.band_rate:5.1f} %  "
        f"energy error {replay.mean_energy_error:.1e}  mean dt {replay.mean_dt:.2e}  {words}"
    )


def describe_end(summary: dict[str, Any]) -> str:
    """What the last epoch of a training came to, and how many of the epochs converged; "" if the last one did."""
    if summary["outcome"] == "converged":
        return ""
    converged, epochs = summary["outcomes"].get("converged", 0), summary["epochs"]
    return f" (last epoch: {_OUTCOMES[summary['outcome']]}; {converged} of {epochs} epochs converged)"


_OUTCOMES = {
    "converged": "converged",
    "not_converged": "not converged",
    "retrain_limit": "stuck: a step cannot be learned",
    "below_rounding": "stuck: the threshold is below rounding",
    "skipped": "not replayed: fewer samples than min_replay_size",
    "filling": "nothing recorded: windows are filling",
    "retired": "nothing tried: every system has retired",
}


def compilation_report(device: torch.device) -> Callable[[engine.Compilation], None]:
    """Tells on stderr what is being compiled, how long it took and what it became, and once what runs eagerly instead.

    Args:
        device: where it is compiled for; without a compiler for it nobody has to wait, and nothing is announced.
    """
    announce = not engine.missing_compiler(device)
    told: set[str] = set()

    def tell(event: engine.Compilation) -> None:
        line = ""
        if event.reason:
            line = f"{event.label} runs eagerly: {event.reason}"
        elif event.seconds is not None:
            made = "native code" if not event.fallback else f"TorchInductor's, not native: {event.fallback}"
            line = f"compiled {event.label} in {event.seconds:.1f} s ({made})"
        elif announce:
            line = f"compiling {event.label} ..."
        if line and not (event.reason and line in told):
            # While there is a progress bar, its console stands in for stderr and puts the line above the bar.
            print(line, file=sys.stderr, flush=True)
        told.add(line)

    return tell


def print_scores(scores: Sequence[Score]) -> None:
    """The table of rules and sets."""
    table = load_extra("rich.table", "cli").Table(title="energy error, and what it cost")
    for name in ("systems", "rule", "forces", "seconds", "failed"):
        table.add_column(name, justify="left" if name in ("systems", "rule") else "right")
    for name in ("final, median", "final, 90 %", "average, median", "average, 90 %"):
        table.add_column(name, justify="right")
    for number, row in enumerate(scores):
        new_set = number == 0 or scores[number - 1].systems != row.systems
        if new_set and number:
            table.add_section()
        errors = [f"{value:.1e}" for kind in (row.final, row.mean) for value in kind.values()]
        if row.size == 1:
            errors[1] = errors[3] = ""
        label = _plain(f"{row.systems} ({row.size})") if new_set else ""
        table.add_row(label, row.rule, f"{row.force_evaluations:,}", f"{row.seconds:.1f}", str(row.failed), *errors)
    _console().print(table)


def comparison_progress(total: int) -> Callable[[SystemSet, RuleOutcome, float], None]:
    """Prints a line for every rule and tolerance as soon as it is there."""
    count = itertools.count(1)

    def show(item: SystemSet, outcome: RuleOutcome, seconds: float) -> None:
        failed, systems = int(outcome.statistics.failed.sum()), len(outcome.statistics.failed)
        how = ", ".join(f"{count} {ending}" for ending, count in count_failures(outcome.statistics))
        tail = f"  {failed} of {systems} failed{how and f' ({how})'}" if failed else ""
        head = f"{next(count)}/{total}  {item.label}: {outcome.rule} at {outcome.tolerance:g}"
        print(f"{head}  {seconds:.1f} s{tail}", flush=True)

    return show


def print_needs(
    result: SetComparison,
    metric: str = "mean_energy_error",
    quantiles: Sequence[float] = (0.5, 0.9),
    *,
    resamples: int,
) -> None:
    """What every rule needs for an error, and the ratio to the reference, for the first metric of a report.

    A ratio is followed by "?" if it decides nothing: its 90 % interval, or what it is a bound of, may be on either side
    of 1, or there are too few systems, or no ``resamples``, for an interval.
    """
    comparison = result.comparison
    for quantile in quantiles:
        rows = [need for need in comparison.needs if (need.metric, need.quantile) == (metric, quantile)]
        levels = list(dict.fromkeys(need.level for need in rows))
        which = "median" if quantile == 0.5 else f"{100 * quantile:g} %"
        if comparison.systems == 1 and quantile != 0.5:
            continue
        table = load_extra("rich.table", "cli").Table()
        table.add_column("rule")
        table.add_column("failed", justify="right")
        for level in levels:
            table.add_column(f"{level:.0e}", justify="right")
        for rule in dict.fromkeys(point.rule for point in comparison.points):
            needs = {(need.rule, need.level): need for need in rows}
            cells = [
                _need_cell(needs[rule, level], needs[comparison.reference, level], resamples and comparison.systems)
                for level in levels
            ]
            table.add_row(_plain(rule), _failed(comparison, rule), *cells)
        title = (
            f"{result.systems.label} ({comparison.systems}): {comparison.cost} force evaluations for a time-averaged "
            f"energy error ({which}), and the ratio to {comparison.reference}"
        )
        console = _console()
        console.print(_plain(title))
        console.print(table)
        console.print(_plain(_legend(comparison, metric, quantile, bool(levels))))


def _legend(comparison: Comparison, metric: str, quantile: float, reached: bool) -> str:
    """What the signs of a table of needs mean; or why there is nothing in it."""
    if reached:
        few = f" (fewer than {FEWEST_SYSTEMS} systems)" if comparison.systems < FEWEST_SYSTEMS else ""
        return f"–: no tolerance of the sweep reaches it; ≤ ≥: a bound; ?: within its 90 % interval it may be 1{few}"
    if all(point.failed == point.systems for point in comparison.points):
        return "no rule reaches any error: every system failed, with every rule and tolerance"
    if all(math.isnan(point.error(metric, quantile).value) for point in comparison.points):
        return "no rule reaches any error: it was not measured"
    return "no rule reaches any of these errors: try smaller tolerances"


def _failed(comparison: Comparison, rule: str) -> str:
    """How many systems failed with a rule, least and most over its tolerances."""
    counts = [point.failed for point in comparison.points if point.rule == rule]
    least, most = min(counts), max(counts)
    span = f"{most}" if least == most else f"{least}–{most}"
    return f"{span} of {comparison.systems}" if most else "0"


def _need_cell(need: Need, reference: Need, systems: int) -> str:
    if math.isnan(need.evaluations.value):
        return "not measured"
    if math.isinf(need.evaluations.value):
        return "–"
    return f"{'≤ ' if need.bound else ''}{need.evaluations.value:,.0f}{_ratio(need, reference, systems)}"


def _ratio(need: Need, reference: Need, systems: int) -> str:
    """The ratio, its interval from so many systems, in brackets; "" where it only says how the sweeps were chosen."""
    if need.rule == reference.rule:
        return " (1)"
    if not 0 < need.ratio.value < math.inf or (need.bound and reference.bound):
        return ""
    bound = "≤ " if need.bound else "≥ " if reference.bound else ""
    beyond = (need.bound and need.ratio.low > 1) or (reference.bound and need.ratio.high < 1)
    sure = decides(need.ratio, systems=systems) and not beyond
    return f" ({bound}{need.ratio.value:.2g}{'' if sure else '?'})"


def print_table(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    """A table of two columns."""
    table = load_extra("rich.table", "cli").Table(title=title, show_header=False)
    for key, value in rows:
        table.add_row(key, _plain(str(value)))
    _console().print(table)


def _plain(text: str) -> Any:
    """Text in which rich takes no [word] for markup, nor a terminal a control character: it may be a file's."""
    return load_extra("rich.text", "cli").Text(printable(text))


def _console() -> Any:
    # Without a terminal rich assumes 80 columns, which would fold the table of scores.
    console = load_extra("rich.console", "cli").Console()
    console = console if console.is_terminal else load_extra("rich.console", "cli").Console(width=156)
    console.on_broken_pipe = _broken_pipe
    return console


def _broken_pipe() -> NoReturn:
    """What rich calls when nobody reads its output any more; by itself it ends the process, without a word."""
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
