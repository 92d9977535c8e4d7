"""What a campaign found: promises, whether they held, and the figures; one table, one JSON file."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    """One promise that a campaign tried to break."""

    promise: str  # one sentence, e.g. "after kill -9 every run resumes"
    held: bool
    figures: Mapping[str, int | float | str]  # what was counted, e.g. {"kills": 120, "resumed": 120}
    broken: tuple[str, ...] = ()  # the first few cases in which it did not hold, each in one line


def table(findings: Iterable[Finding]) -> str:
    """A Markdown table, with the cases that broke a promise below it."""
    findings = list(findings)
    lines = ["| promise | held | figures |", "|---|---|---|"]
    for each in findings:
        figures = ", ".join(f"{name} {_quantity(value)}" for name, value in each.figures.items())
        lines.append(f"| {each.promise} | {'yes' if each.held else '**no**'} | {figures} |")
    lines += [f"broken: {each.promise}: {case}" for each in findings for case in each.broken]
    return "\n".join(lines)


def main(campaign: Callable[[bool], list[Finding]], description: str | None) -> None:
    """The command line of one campaign: print its table; the exit code is 1 if a promise was broken.

    Args:
        campaign: called with whether the short form is wanted, that of the test suite.
        description: the docstring of the script, whose first line is the help text.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help="the short form that the test suite runs")
    parser.add_argument("--json", type=Path, help="write the findings here too")
    options = parser.parse_args()
    findings = campaign(options.short)
    print(table(findings))
    if options.json:
        options.json.write_text(json.dumps([each._asdict() for each in findings], indent=2) + "\n")
    sys.exit(0 if all(each.held for each in findings) else 1)


def _quantity(value: int | float | str) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else value
