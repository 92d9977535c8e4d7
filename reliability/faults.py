"""Full disks, lost folders, leaping clocks, two processes in one directory, Ctrl-C: one line, and nothing is lost.

Errors of the disk come from real file systems where a namespace of our own can be had (see `reliability.disks`), and
everywhere as errors that the calls of a process are made to give, one call after the other.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reliability.cases import OTHERS, Case, finding, follow, problem_of, stopped_and_resumed, struck
from reliability.disks import findings_in_a_namespace
from reliability.findings import Finding, main
from reliability.interruptions import interruptions
from reliability.kills import prepared
from reliability.nursery import Child, Run, nursery
from reliability.runs import difference, seconds_in, unreadable, work_folder
from reliability.sabotage import CLOCK
from reliability.sharing import shared_directories

EPOCHS = 3


def campaign(short: bool) -> list[Finding]:
    """All faults; in the short form a few of each."""
    draw = random.Random(2)
    with work_folder(in_memory=True) as place, nursery() as run:
        folder = prepared(place / "runs", EPOCHS, run)
        found: list[Finding] = []
        for scenes in (
            full_disks(folder, run, short),
            findings_in_a_namespace(short),
            places(folder, run, short),
            [clocks(folder, run, 1 if short else 20)],
            shared_directories(folder, run, draw, 1 if short else 15),
            interruptions(folder, run, draw, short),
        ):
            for each in scenes:
                print(f"{'held' if each.held else 'BROKEN'}: {each.promise}", file=sys.stderr, flush=True)
                found.append(each)
        return found


# --- full disks


def full_disks(folder: Path, run: Run, short: bool) -> Iterator[Finding]:
    """Every call that needs space fails, and all that follow; then there is space again."""
    for what, every in (("ENOSPC", 1), ("EIO", 3), ("EDQUOT", 5), ("EROFS", 3)):
        if short and what != "ENOSPC":
            continue
        cases = [
            stopped_and_resumed(folder, run, what, at, end, name)
            for at, name, end in struck(folder, run, what, 60 if short else every)
        ]
        yield finding(f"a training whose calls give {what} stops with one line and goes on to the same bits", cases)
    for command in () if short else OTHERS:
        cases = [
            Case(f"{command[0]} at call {at} ({end.struck})", True, problem_of(end, (1, 2), folder / name))
            for at, name, end in struck(folder, run, "ENOSPC", 1, command)
        ]
        yield finding(f"a full disk stops aits {command[0]} with one line, and what it wrote can be read", cases)


# --- places


def places(folder: Path, run: Run, short: bool) -> Iterator[Finding]:
    """A directory that cannot be used, or that goes away."""
    (folder / "file").write_text("mine")
    cases = [] if short else [_without_permission(folder, run)]
    for place in ("file", "file/below"):
        (end,) = run(Child(str(folder), ("train", "run.toml", "--out", place)))
        cases.append(Case(place, True, problem_of(end, (2,), folder / "nowhere")))
    yield finding("a place where no run can be is refused with one line", cases)
    gone = [_gone(folder, run, number, 0.02 + 0.015 * number) for number in range(1 if short else 24)]
    yield finding("a run whose directory is removed or moved away stops with one line", gone)
    cases = [_mute(folder, run, command) for command in (("train",), *(() if short else OTHERS))]
    yield finding("a command whose output cannot be written stops with one line", cases)


def _mute(folder: Path, run: Run, command: Sequence[str]) -> Case:
    """Nothing that a command prints can be written; a training, also that of `both`, can be gone on with."""
    (word, *more), name = command, f"mute {command[0]}"
    (end,) = run(Child(str(folder), (word, "run.toml", *more, "--out", name), output="/dev/full"))
    problem = problem_of(end, (1,), folder / name)
    if word == "both":
        whole = folder / "whole of both"  # equal in all but the section that its configuration has beside [train]
        shutil.copytree(folder / "whole", whole)
        run(Child(str(folder), ("both", "run.toml", "--out", "both")))
        shutil.copy(folder / "both" / "config.toml", whole)
        problem = problem or follow(folder, run, end, name, whole.name)
    elif word == "train":
        problem = problem or follow(folder, run, end, name)
    return Case(name, True, problem)


def _without_permission(folder: Path, run: Run) -> Case:
    """A directory without the right to write, for a process that is not root's: of nobody, if this one is root's."""
    place = folder / "not mine"
    place.mkdir()
    for path in (folder.parent, folder, place):
        path.chmod(0o755)
    if os.geteuid() != 0:
        place.chmod(0o555)
    (end,) = run(Child(str(folder), ("train", "run.toml", "--out", "not mine/run"), nobody=os.geteuid() == 0))
    problem = problem_of(end, (2,), place / "run")
    return Case("no permission", True, problem or ("" if "Permission denied" in end.err else end.err))


def _gone(folder: Path, run: Run, number: int, seconds: float) -> Case:
    """A directory is moved away while a run works in it, and then removed or not."""
    name, moved = f"gone{number}", folder / f"moved{number}"
    remover = subprocess.Popen([sys.executable, "-c", _REMOVE, str(folder / name), str(moved), str(seconds)])
    (end,) = run(Child(str(folder), ("train", "run.toml", "--out", name, "--epochs", "100")))
    remover.wait()
    problem = problem_of(end, (1,), folder / name) or ", ".join(unreadable(moved))
    return Case(f"gone after {seconds:.2f} s", end.code != 0, problem)


_REMOVE = """
import os, shutil, sys, time
source, target, seconds = sys.argv[1:]
while not os.path.exists(source + "/config.toml"):
    time.sleep(0.002)
time.sleep(float(seconds))
os.rename(source, target)
if target.endswith(("1", "3", "5", "7", "9")):
    shutil.rmtree(target)
"""


# --- clocks


def clocks(folder: Path, run: Run, runs: int) -> Finding:
    """Whatever the clocks say, the numbers are the same, and no duration is negative."""
    cases = []
    for number in range(1, runs + 1):
        name = f"clock{number}"
        (end,) = run(Child(str(folder), ("train", "run.toml", "--out", name), CLOCK, number))
        problem = end.err if end.code else difference(folder / name, folder / "whole")
        negative = "" if end.code or min(seconds_in(folder / name)) >= 0 else "a negative duration"
        cases.append(Case(name, True, problem or negative))
    return finding("clocks that leap by days change no bit, and no duration is negative", cases)


if __name__ == "__main__":
    main(campaign, __doc__)
