"""Ctrl-C and SIGTERM: at every call, at any moment, twice, and while libraries are loaded."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reliability.cases import CODES, OTHERS, Case, finding, follow, problem_of, stopped_and_resumed, struck
from reliability.findings import Finding
from reliability.nursery import Child, Run
from reliability.runs import Ended, difference
from reliability.sabotage import HAMMER, INTERRUPT, TERMINATE


def interruptions(folder: Path, run: Run, draw: random.Random, short: bool) -> Iterator[Finding]:
    """Ctrl-C once, again and again, and SIGTERM: at every call, at any moment, and while libraries are loaded."""
    for what, text in ((INTERRUPT, "Ctrl-C"), (HAMMER, "Ctrl-C again and again"), (TERMINATE, "SIGTERM")):
        if short and what == INTERRUPT:  # which the other two are, and more
            continue
        every = 60 if short else 1
        cases = [
            stopped_and_resumed(folder, run, what, at, end, name) for at, name, end in struck(folder, run, what, every)
        ]
        yield finding(
            f"{text} at a call that changes the directory: exit code {CODES[what]}, one line with the command that "
            "goes on to the same bits",
            cases,
        )
    moments = [_at_a_moment(folder, run, draw, f"moment{number}") for number in range(1 if short else 120)]
    yield finding("Ctrl-C twice within milliseconds, or SIGTERM, at any moment: the same", moments)
    if not short:
        yield _other_commands(folder, run)
        yield _while_loading(folder, draw, 40)


def _other_commands(folder: Path, run: Run) -> Finding:
    cases = [
        Case(f"{command[0]} at call {at} ({end.struck})", True, problem_of(end, (130,), folder / name))
        for command in OTHERS
        for at, name, end in struck(folder, run, HAMMER, 2, command)
    ]
    return finding("Ctrl-C in aits both, simulate or compare: one line, and what was written can be read", cases)


def _at_a_moment(folder: Path, run: Run, draw: random.Random, name: str) -> Case:
    number = draw.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    seconds = draw.uniform(0.0, 0.8)
    signals = [(seconds, number)] + [(draw.uniform(0.0002, 0.004), number) for _ in range(draw.choice((0, 1, 3)))]
    (end,) = run(Child(str(folder), ("train", "run.toml", "--out", name), signals=signals, pictures=True))
    if end.code == 0 and not end.err:
        return Case(name, False, difference(folder / name, folder / "whole"))
    code = 143 if number == signal.SIGTERM else 130
    problem = problem_of(end, (code,), folder / name) or follow(folder, run, end, name)
    return Case(f"{len(signals)} of {number.name} after {seconds:.3f} s", True, problem)


def _while_loading(folder: Path, draw: random.Random, times: int) -> Finding:
    """Real processes, from the moment when Python itself has started."""
    cases = []
    for number in range(times):
        seconds, name = draw.uniform(0.0, 1.8), f"loading{number}"
        which = draw.choice((signal.SIGINT, signal.SIGTERM))
        end = _interrupted_process(folder, name, seconds, which)
        problem = problem_of(end, (128 + which,), folder / name)
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
