"""Full disks, lost folders, leaping clocks, two processes in one directory, Ctrl-C: one line, and nothing is lost.

Errors of the disk come from real file systems where a namespace of our own can be had (see `reliability.disks`), and
everywhere as errors that the calls of a process are made to give, one call after the other.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aits_func.edge.run_directory import LOCK
from reliability.disks import findings_in_a_namespace
from reliability.findings import Finding, main
from reliability.kills import prepared
from reliability.nursery import Child, Run, nursery
from reliability.runs import (
    Ended,
    advice,
    command_to_go_on,
    difference,
    is_complete,
    is_one_line,
    seconds_in,
    unreadable,
    work_folder,
)
from reliability.sabotage import CLOCK, HAMMER, INTERRUPT, KILL, TERMINATE

EPOCHS = 3
_CODES = {INTERRUPT: 130, HAMMER: 130, TERMINATE: 143}


class Case(NamedTuple):
    """One attempt to do harm."""

    name: str
    happened: bool
    broken: str  # what should not have been; "" if all is well


def campaign(short: bool) -> list[Finding]:
    """All faults; in the short form a few of each."""
    draw = random.Random(2)
    with work_folder(short) as place, nursery() as run:
        folder = prepared(place / "runs", EPOCHS, run)
        return [
            *full_disks(folder, run, short),
            *findings_in_a_namespace(short),
            *places(folder, run, short),
            clocks(folder, run, 1 if short else 20),
            *shared_directories(folder, run, draw, 1 if short else 15),
            *interruptions(folder, run, draw, short),
        ]


def finding(promise: str, cases: Sequence[Case], **figures: int | float | str) -> Finding:
    """All cases that test one promise."""
    broken = tuple(f"{case.name}: {case.broken}" for case in cases if case.broken)
    happened = sum(case.happened for case in cases)
    return Finding(promise, happened > 0 and not broken, {"cases": happened, **figures}, broken[:5])


# --- full disks


def full_disks(folder: Path, run: Run, short: bool) -> Iterator[Finding]:
    """Every call that needs space fails, and all that follow; then there is space again."""
    for what, every in (("ENOSPC", 1), ("EIO", 3), ("EDQUOT", 5), ("EROFS", 3)):
        if short and what != "ENOSPC":
            continue
        cases = [
            _stopped_and_resumed(folder, run, what, at, end, f"{what}{at}")
            for at, end in _struck(folder, run, what, 30 if short else every)
        ]
        yield finding(f"a training whose calls give {what} stops with one line and goes on to the same bits", cases)
    for command in () if short else (("both",), ("simulate", "--checkpoint", "whole"), ("compare",)):
        cases = [
            Case(f"{command[0]}{at}", True, _problem(end, (1, 2), folder / f"{command[0]}{at}"))
            for at, end in _struck(folder, run, "ENOSPC", 1, command)
        ]
        yield finding(f"a full disk stops aits {command[0]} with one line, and what it wrote can be read", cases)


def _struck(
    folder: Path, run: Run, what: str, every: int, command: Sequence[str] = ("train",)
) -> Iterator[tuple[int, Ended]]:
    """Runs that something befalls at the first call, at the one ``every`` later, and so on to the last."""
    word, *more = command
    at = 1
    while True:
        name = f"{what if word == 'train' else word}{at}"
        (end,) = run(Child(str(folder), (word, "run.toml", *more, "--out", name), what, at))
        if not end.struck:
            return
        yield at, end
        at += every


def _stopped_and_resumed(folder: Path, run: Run, what: str, at: int, end: Ended, name: str) -> Case:
    codes = (_CODES[what],) if what in _CODES else (1, 2)
    problem = _problem(end, codes, folder / name) or _follow(folder, run, end, name)
    return Case(f"{what} at call {at} ({end.struck})", True, problem)


def _problem(end: Ended, codes: Sequence[int], directory: Path) -> str:
    """What is wrong with a process that was stopped, and with what it left."""
    if end.code not in codes or not is_one_line(end):
        return f"exit code {end.code}, {end.err.strip()[-300:]!r}"
    left = [path.name for path in directory.iterdir() if path.name.startswith(".")] if directory.is_dir() else []
    if end.struck == f"unlink {LOCK}":  # whoever is interrupted in just that call leaves it, and nobody minds it
        left.remove(LOCK)
    return ", ".join((*unreadable(directory), *(f"{name} is left" for name in left)))


def _follow(folder: Path, run: Run, end: Ended, name: str) -> str:
    """Do what a stopped process says, or start it again if it says nothing; what is wrong with its end."""
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
    return difference(directory, folder / "whole")


# --- places


def places(folder: Path, run: Run, short: bool) -> Iterator[Finding]:
    """A directory that cannot be used, or that goes away."""
    (folder / "file").write_text("mine")
    cases = [] if short else [_without_permission(folder)]
    for place in ("file", "file/below"):
        (end,) = run(Child(str(folder), ("train", "run.toml", "--out", place)))
        cases.append(Case(place, True, _problem(end, (2,), folder / "nowhere")))
    yield finding("a place where no run can be is refused with one line", cases)
    gone = [_gone(folder, run, number, 0.02 + 0.015 * number) for number in range(2 if short else 24)]
    yield finding("a run whose directory is removed or moved away stops with one line", gone)
    cases = []
    for command in (("train",), ("both",), ("simulate", "--checkpoint", "whole"), ("compare",))[: 1 if short else 4]:
        name, (word, *more) = f"mute {command[0]}", command
        (end,) = run(Child(str(folder), (word, "run.toml", *more, "--out", name), output="/dev/full"))
        trains = word in ("train", "both")
        problem = _problem(end, (1,), folder / name) or (_follow(folder, run, end, name) if trains else "")
        cases.append(Case(name, True, problem))
    yield finding("a command whose output cannot be written stops with one line", cases)


def _without_permission(folder: Path) -> Case:
    """A directory of somebody else: of root, for a process of nobody; of ours without the right to write."""
    place = folder / "not mine"
    place.mkdir()
    root = os.geteuid() == 0
    place.chmod(0o755 if root else 0o555)
    for path in (folder.parent, folder):
        path.chmod(0o755)
    command = [sys.executable, "-m", "aits_func", "train", "run.toml", "--out", "not mine/run"]
    with tempfile.TemporaryDirectory() as cache:  # matplotlib wants to write somewhere
        os.chmod(cache, 0o777)
        user = {"user": 65534} if root else {}
        environment = {**os.environ, "MPLCONFIGDIR": cache}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, **user)
    end = Ended(done.returncode, done.stdout, done.stderr)
    said = "" if "Permission denied" in end.err else end.err
    return Case("no permission", True, _problem(end, (2,), place / "run") or said)


def _gone(folder: Path, run: Run, number: int, seconds: float) -> Case:
    """A directory is moved away while a run works in it, and then removed or not."""
    name, moved = f"gone{number}", folder / f"moved{number}"
    remover = subprocess.Popen([sys.executable, "-c", _REMOVE, str(folder / name), str(moved), str(seconds)])
    (end,) = run(Child(str(folder), ("train", "run.toml", "--out", name, "--epochs", "100")))
    remover.wait()
    problem = _problem(end, (1,), folder / name) or ", ".join(unreadable(moved))
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


# --- two processes in one directory


def shared_directories(folder: Path, run: Run, draw: random.Random, times: int) -> Iterator[Finding]:
    """Exactly one process works in a directory; the other is told so."""
    scenes: dict[str, Callable[[Path, Run, random.Random, str], Case]] = {
        "two new runs at the same moment": _two_new,
        "two resumed runs at the same moment": _two_resumed,
        "--resume while the run is at work": _resumed_while_at_work,
        "five processes at any moment": _crowd,
    }
    for title, scene in scenes.items():
        cases = [scene(folder, run, draw, f"{scene.__name__}{number}") for number in range(times)]
        yield finding(f"{title}: one goes on, the other has one line, and nothing is mixed", cases)


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
    done = [end for end in ends if end.code == 0]
    wrong = [end for end in ends if end.code != 0 and not (end.code == 2 and is_one_line(end))]
    problem = f"{len(done)} have gone on" if len(done) != 1 else difference(folder / name, folder / "whole")
    return Case(name, True, f"{wrong[0].code}, {wrong[0].err}" if wrong else problem)


# --- Ctrl-C


def interruptions(folder: Path, run: Run, draw: random.Random, short: bool) -> Iterator[Finding]:
    """Ctrl-C once, again and again, and SIGTERM: at every call, at any moment, and while libraries are loaded."""
    for what, text in ((INTERRUPT, "Ctrl-C"), (HAMMER, "Ctrl-C again and again"), (TERMINATE, "SIGTERM")):
        every = 50 if short else 1
        cases = [
            _stopped_and_resumed(folder, run, what, at, end, f"{what}{at}")
            for at, end in _struck(folder, run, what, every)
        ]
        yield finding(
            f"{text} at a call that changes the directory: exit code {_CODES[what]}, one line with the command that "
            "goes on to the same bits",
            cases,
        )
    moments = [_at_a_moment(folder, run, draw, f"moment{number}") for number in range(2 if short else 120)]
    yield finding("Ctrl-C twice within milliseconds, or SIGTERM, at any moment: the same", moments)
    if not short:
        yield _while_loading(folder, draw, 40)


def _at_a_moment(folder: Path, run: Run, draw: random.Random, name: str) -> Case:
    number = draw.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    seconds = draw.uniform(0.0, 0.8)
    signals = [(seconds, number)] + [(draw.uniform(0.0002, 0.004), number) for _ in range(draw.choice((0, 1, 3)))]
    (end,) = run(Child(str(folder), ("train", "run.toml", "--out", name), signals=signals, pictures=True))
    if end.code == 0 and not end.err:
        return Case(name, False, difference(folder / name, folder / "whole"))
    code = 143 if number == signal.SIGTERM else 130
    problem = _problem(end, (code,), folder / name) or _follow(folder, run, end, name)
    return Case(f"{len(signals)} of {number.name} after {seconds:.3f} s", True, problem)


def _while_loading(folder: Path, draw: random.Random, times: int) -> Finding:
    """Real processes, from the moment when Python itself has started."""
    cases = []
    for number in range(times):
        seconds, name = draw.uniform(0.0, 1.8), f"loading{number}"
        which = draw.choice((signal.SIGINT, signal.SIGTERM))
        end = _interrupted_process(folder, name, seconds, which)
        problem = _problem(end, (128 + which,), folder / name)
        cases.append(Case(f"{which.name} after {seconds:.3f} s", True, problem))
    counts = Counter((folder / f"loading{number}").exists() for number in range(times))
    return finding(
        "Ctrl-C or SIGTERM while libraries are loaded: one line, and nothing is there yet", cases,
        **{"directories that were made": counts[True]},
    )  # fmt: skip


# As `aits` does, in a process whose shell has not made it ignore Ctrl-C, and which says when it begins.
_BEGIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from aits_func.__main__ import program, signals
signals.take_over()
print("begun", flush=True)
program()
"""


def _interrupted_process(folder: Path, name: str, seconds: float, which: signal.Signals) -> Ended:
    command = [sys.executable, "-c", _BEGIN, "train", "run.toml", "--out", name]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if process.stdout is not None:
            process.stdout.readline()
        time.sleep(seconds)
        for _ in range(2):
            process.send_signal(which)
            time.sleep(0.002)
        out, message = process.communicate()
    return Ended(process.returncode, out, message)


if __name__ == "__main__":
    main(campaign, __doc__)
