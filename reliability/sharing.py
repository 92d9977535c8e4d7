"""Two processes and more in one run directory: one works, the others are told so, and nothing is mixed."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reliability.cases import OTHERS, Case, finding
from reliability.findings import Finding
from reliability.nursery import Child, Run
from reliability.runs import Ended, difference, is_one_line, unreadable
from reliability.sabotage import KILL


def shared_directories(folder: Path, run: Run, draw: random.Random, times: int) -> Iterator[Finding]:
    """Exactly one process works in a directory; the other is told so."""
    scenes: dict[str, Callable[[Path, Run, random.Random, str], Case]] = {
        "two new runs at the same moment": _two_new,
        "two resumed runs at the same moment": _two_resumed,
        "--resume while the run is at work": _resumed_while_at_work,
        "five processes at any moment": _crowd,
    }
    for title, scene in scenes.items():
        if times == 1 and scene is _crowd:  # the costliest, and made of the others
            continue
        cases = [scene(folder, run, draw, f"{scene.__name__}{number}") for number in range(times)]
        yield finding(f"{title}: one goes on, the other has one line, and nothing is mixed", cases)
    if times > 1:
        yield _other_commands(folder, run, draw, times)


def _other_commands(folder: Path, run: Run, draw: random.Random, times: int) -> Finding:
    cases = []
    for number in range(times):
        for word, *more in OTHERS:
            name = f"{word}_two{number}"
            child = Child(str(folder), (word, "run.toml", *more, "--out", name))
            ends = run(child, child._replace(wait=draw.uniform(0, 0.002)))
            cases.append(Case(name, True, _problem(ends) or ", ".join(unreadable(folder / name))))
    return finding("two of aits both, simulate or compare in one directory: one works, the other has one line", cases)


def _two_new(folder: Path, run: Run, draw: random.Random, name: str) -> Case:
    command = ("train", "run.toml", "--out", name)
    ends = run(Child(str(folder), command), Child(str(folder), command, wait=draw.uniform(0, 0.002)))
    return _one_of(ends, folder, name)


def _two_resumed(folder: Path, run: Run, draw: random.Random, name: str) -> Case:
    run(Child(str(folder), ("train", "run.toml", "--out", name), KILL, 40))
    command = ("train", "--resume", name)
    ends = run(Child(str(folder), command), Child(str(folder), command, wait=draw.uniform(0, 0.002)))
    return _one_of(ends, folder, name)


def _resumed_while_at_work(folder: Path, run: Run, draw: random.Random, name: str) -> Case:
    first = Child(str(folder), ("train", "run.toml", "--out", name))
    ends = run(first, Child(str(folder), ("train", "--resume", name), wait=draw.uniform(0.05, 0.12)))
    return _one_of(ends, folder, name)


def _crowd(folder: Path, run: Run, draw: random.Random, name: str) -> Case:
    """One that is late finds that all is done, which is in order, too."""
    new, resume = ("train", "run.toml", "--out", name), ("train", "--resume", name)
    waits = [draw.uniform(0.0, 0.4) for _ in range(4)]
    ends = run(
        Child(str(folder), new), *(Child(str(folder), resume, wait=wait) for wait in waits[:3]),
        Child(str(folder), new, wait=waits[3]),
    )  # fmt: skip
    return _one_of(ends, folder, name)


def _one_of(ends: Sequence[Ended], folder: Path, name: str) -> Case:
    return Case(name, True, _problem(ends) or difference(folder / name, folder / "whole"))


def _problem(ends: Sequence[Ended]) -> str:
    """What is wrong with the ends of processes of which one may work."""
    done = [end for end in ends if end.code == 0]
    wrong = [end for end in ends if end.code != 0 and not (end.code == 2 and is_one_line(end))]
    return f"{wrong[0].code}, {wrong[0].err}" if wrong else f"{len(done)} have worked" if len(done) != 1 else ""
