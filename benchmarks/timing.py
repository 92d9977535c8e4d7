"""Two sides timed in turn, and what came of it: rows of one table, and of one JSON file.

A figure is a ratio of two times taken in the same run, A B A B ..., pair by pair; the absolute ones are colour.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One measured question: times in seconds per unit of work, ratio = peer / ours unless the note says otherwise."""

    question: str  # of the list in docs/benchmarks.md, e.g. "R1"
    work: str
    ours: float
    peer: float
    ratio: float
    least: float  # smallest ratio of a pair
    most: float
    reach: float  # the target
    at_most: bool = False  # whether the ratio is to stay below the target
    note: str = ""
    unit: str = "s"  # of ours and peer

    @property
    def reached(self) -> bool:
        """Whether the median ratio reaches the target."""
        return self.ratio <= self.reach if self.at_most else self.ratio >= self.reach


class Missing(NamedTuple):
    """A question that could not be measured here."""

    question: str
    work: str
    reason: str


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Wall seconds per call."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def alternate(ours: Callable[[], float], peer: Callable[[], float], repeats: int) -> list[tuple[float, float]]:
    """Seconds of both, measured in turn."""
    return [(ours(), peer()) for _ in range(repeats)]


def row(
    question: str,
    work: str,
    pairs: list[tuple[float, float]],
    reach: float,
    *,
    at_most: bool = False,
    inverse: bool = False,
    note: str = "",
    unit: str = "s",
) -> Row:
    """The row of some pairs (ours, peer); with ``inverse`` the ratio is ours / peer."""
    ratios = [a / b if inverse else b / a for a, b in pairs]
    ours, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Row(
        question, work, ours, peer, statistics.median(ratios), min(ratios), max(ratios), reach, at_most, note, unit
    )


def table(rows: Iterable[Row | Missing]) -> str:
    """A Markdown table."""
    lines = [
        "| # | work | ours | peer | ratio (min to max) | reach | |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        if isinstance(each, Missing):
            lines.append(f"| {each.question} | {each.work} | | | | | not measured: {each.reason} |")
            continue
        sign = "≤" if each.at_most else "≥"
        verdict = ("reached" if each.reached else "**missed**") + (each.note and f"; {each.note}")
        ours, peer = _quantity(each.ours, each.unit), _quantity(each.peer, each.unit)
        lines.append(
            f"| {each.question} | {each.work} | {ours} | {peer} | {each.ratio:.3g} "
            f"({each.least:.3g} to {each.most:.3g}) | {sign} {each.reach:g} | {verdict} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {"processor": name, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def main(measure: Callable[[], list[Row | Missing]], description: str | None) -> None:
    """The command line of one script: print its table, and write its rows where asked."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = measure()
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([as_dict(each) for each in rows], indent=2) + "\n")


def as_dict(each: Row | Missing) -> dict[str, object]:
    """A row for JSON."""
    return each._asdict() | ({"reached": each.reached} if isinstance(each, Row) else {})


def from_dict(item: dict[str, object]) -> Row | Missing:
    """What `as_dict` wrote."""
    kind = Row if "ratio" in item else Missing
    return kind(**{key: value for key, value in item.items() if key in kind._fields})  # type: ignore[arg-type]


def _quantity(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:.3g} {unit}".rstrip()
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 0.1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
