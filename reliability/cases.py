"""Cases: something befalls a run at a chosen call, and what is wrong with its end and with what comes after it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aits_func.edge.run_directory import LOCK
from reliability.findings import Finding
from reliability.nursery import Child, Run
from reliability.runs import Ended, advice, command_to_go_on, difference, is_complete, is_one_line, unreadable
from reliability.sabotage import HAMMER, INTERRUPT, TERMINATE

OTHERS = (("both",), ("simulate", "--checkpoint", "whole"), ("compare",))  # commands beside train
CODES = {INTERRUPT: 130, HAMMER: 130, TERMINATE: 143}


class Case(NamedTuple):
    """One attempt to do harm."""

    name: str
    happened: bool
    broken: str  # what should not have been; "" if all is well


def finding(promise: str, cases: Sequence[Case], **figures: int | float | str) -> Finding:
    """All cases that test one promise."""
    broken = tuple(f"{case.name}: {case.broken}" for case in cases if case.broken)
    happened = sum(case.happened for case in cases)
    return Finding(promise, happened > 0 and not broken, {"cases": happened, **figures}, broken[:5])


def struck(
    folder: Path, run: Run, what: str, every: int, command: Sequence[str] = ("train",)
) -> Iterator[tuple[int, str, Ended]]:
    """Runs that something befalls at the first call, at the one ``every`` later, and so on to the last.

    Yields:
        The number of the call, the name of the run, and how it ended.
    """
    word, *more = command
    at = 1
    while True:
        name = f"{word}_{what.replace(' ', '_')}_{at}"
        (end,) = run(Child(str(folder), (word, "run.toml", *more, "--out", name), what, at))
        if not end.struck:
            return
        yield at, name, end
        at += every


def stopped_and_resumed(folder: Path, run: Run, what: str, at: int, end: Ended, name: str) -> Case:
    """Whether a training was stopped as it should be, and what comes of it when its user does what it says."""
    codes = (CODES[what],) if what in CODES else (1, 2)
    problem = problem_of(end, codes, folder / name) or follow(folder, run, end, name)
    return Case(f"{what} at call {at} ({end.struck})", True, problem)


def problem_of(end: Ended, codes: Sequence[int], directory: Path) -> str:
    """What is wrong with a process that was stopped, and with what it left."""
    if end.code not in codes or not is_one_line(end):
        return f"exit code {end.code}, {end.err.strip()[-300:]!r}"
    left = [path.name for path in directory.iterdir() if path.name.startswith(".")] if directory.is_dir() else []
    if LOCK in left and end.struck in (f"unlink {LOCK}", "flock a file"):
        left.remove(LOCK)  # whoever is interrupted in just these calls leaves it, and nobody minds it
    return ", ".join((*unreadable(directory), *(f"{name} is left" for name in left)))


def follow(folder: Path, run: Run, end: Ended, name: str, whole: str = "whole") -> str:
    """Do what a stopped process says, or start it again if it says nothing; what is wrong with its end.

    Args:
        folder: of the runs.
        run: of the nursery.
        end: of the process.
        name: of its run.
        whole: the unbroken run that it has to equal in the end.
    """
    directory = folder / name
    said = advice(end)
    if said and not (directory / "config.toml").exists():
        return f"advises {said}, and there is no run"
    if not said and (directory / "config.toml").exists():
        return "does not say how to go on"
    if said and said[0] == "train":
        (end,) = run(Child(str(folder), said))
    else:
        # The training is done, all but its picture perhaps.
        (end,) = run(Child(str(folder), command_to_go_on(directory)))
    if not is_complete(end):
        return f"is not gone on with: exit code {end.code}, {end.err.strip()!r}"
    return difference(directory, folder / whole)
