"""kill -9, at every call to the system that a training makes and at random moments: it goes on, to the same bits.

Three ways to die, and after each the command that a user would type, until all epochs are done: at the n-th call
that changes the run's directory, for every n (and in the middle of every write); at random moments of processes in
which everything is loaded; at random moments of ordinary processes, from their start to after their last epoch.

Runs that are compiled die in the first two ways, with nothing compiled beforehand: so most of them die compiling.
"""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from aits_func.base.native_cache import content_of
from aits_func.base.native_guard import processes_in
from aits_func.edge.checkpoint import read_metadata
from aits_func.edge.tracking import read_metrics
from reliability.findings import Finding, main
from reliability.nursery import Child, Run, nursery
from reliability.runs import (
    TWO,
    Ended,
    command_to_go_on,
    difference,
    is_complete,
    numbers_in,
    unreadable,
    work_folder,
    write_configuration,
)
from reliability.sabotage import KILL

FEW, MANY = 3, 24  # epochs: of runs that die at a call, and at a random moment
NATIVE = {"binaries": 4}  # systems with which all is native code
MIXED = {"binaries": 4, "hierarchical_triple": 4}  # with which TorchInductor compiles the iteration, which shows more
PATIENCE = 10.0  # seconds until nothing is left of a compiler whose process was killed
Attempt = Callable[[Sequence[str], object], Ended]


class Life(NamedTuple):
    """What became of one run that was killed again and again."""

    deaths: tuple[str, ...]  # at which call, or in which part of the run
    starts: int
    stuck: tuple[str, ...]  # starts that did not go on
    unreadable: tuple[str, ...]  # files, after a death
    different: str  # from the unbroken run, in the end; "" if it is not
    left: tuple[str, ...] = ()  # of compilers, after a death; and what is compiled and is not whole


def campaign(short: bool) -> list[Finding]:
    """Every way to die; in the short form every 24th call, and one run that dies again and again."""
    draw = random.Random(1)
    with work_folder(in_memory=short) as folder, nursery() as run:
        few = prepared(folder / "few", FEW, run)
        lives = {
            "at every call": every_call(few, run, every=24 if short else 1),
            "at random calls": random_calls(few, run, draw, lives=1 if short else 30, deaths=8 if short else 15),
        }
        if short:
            return findings(lives, numbers_in(few / "whole"))
        lives["compiling"] = compiled(folder / "native", NATIVE, run, draw, lives=8, deaths=5)
        lives["compiling"] += compiled(folder / "mixed", MIXED, run, draw, lives=2, deaths=4)
        lives["at calls, compiling"] = compiled_at_calls(folder / "native", run, draw, lives=12)
        many = prepared(folder / "many", MANY, run)
        lives["at random moments"] = random_moments(many, run, draw, kills=150)
        lives["of whole processes"] = processes(many, draw, kills=110)
        return [*findings(lives, numbers_in(few / "whole")), other_commands(few, run)]


def other_commands(folder: Path, run: Run) -> Finding:
    """Those that are not resumed: what they have written is whole."""
    kills, broken = 0, []
    for word, *more in (("both",), ("simulate", "--checkpoint", "whole"), ("compare",)):
        at = 1
        while (end := run(Child(str(folder), (word, "run.toml", *more, "--out", f"{word}{at}"), KILL, at))[0]).struck:
            broken += [f"{word}, killed at {end.struck}: {problem}" for problem in unreadable(folder / f"{word}{at}")]
            kills, at = kills + 1, at + 1
    promise = "killed at any call, aits both, simulate and compare leave nothing that is unreadable"
    return Finding(promise, kills > 0 and not broken, {"kills": kills, "unreadable files": len(broken)}, tuple(broken))


def findings(lives: Mapping[str, Sequence[Life]], numbers: int) -> list[Finding]:
    """The three promises, held against all lives.

    Args:
        lives: by the way to die.
        numbers: that are compared in the end of each.
    """
    all_lives = [life for each in lives.values() for life in each]
    kills = {f"kills {way}": sum(len(life.deaths) for life in each) for way, each in lives.items()}
    parts = Counter(death for life in all_lives for death in life.deaths if death in _PARTS)
    stuck = tuple(case for life in all_lives for case in life.stuck)
    damage = tuple(case for life in all_lives for case in life.unreadable)
    different = tuple(life.different for life in all_lives if life.different)
    restarts = sum(life.starts for life in all_lives) - len(all_lives)
    where = {f"random kills in the part: {part}": parts[part] for part in _PARTS if parts[part]}
    looks = {"looks after a kill": sum(kills.values()), "unreadable files": len(damage)}
    ends = {"runs": len(all_lives), "runs that differ": len(different), "numbers compared in each": numbers}
    some = sum(kills.values()) > 0
    left = tuple(case for life in all_lives for case in life.left)
    compiling = sum(kills[way] for way in kills if "compiling" in way)
    compilers = Finding(
        "nothing is left of a compiler whose process is killed, and what is compiled is whole",
        compiling > 0 and not left,
        {"kills of runs that are compiled": compiling, "processes, folders and files": len(left)},
        left[:5],
    )
    return [
        Finding(
            "after kill -9 every restart goes on",
            some and not stuck,
            {**kills, "restarts": restarts, "refused": len(stuck), **where},
            stuck[:5],
        ),
        Finding("no file of a killed run is unreadable, none is left over", some and not damage, looks, damage[:5]),
        Finding("a killed run ends as the unbroken one, bit for bit", some and not different, ends, different[:5]),
        *([compilers] if compiling else []),
    ]


def every_call(folder: Path, run: Run, *, every: int = 1) -> list[Life]:
    """One run for each call, that is killed just before it; until a run gets to its end first."""
    lives: list[Life] = []
    while True:
        name = f"call{len(lives)}"
        life = live(folder, name, [1 + every * len(lives)], _at_a_call(folder, run))
        if not life.deaths:
            return lives
        lives.append(life)


def random_calls(folder: Path, run: Run, draw: random.Random, *, lives: int, deaths: int) -> list[Life]:
    """Runs that are killed at one of the next forty calls, resumed, and killed again, until they are done."""
    calls = [[draw.randint(1, 40) for _ in range(deaths)] for _ in range(lives)]
    return [live(folder, f"calls{i}", each, _at_a_call(folder, run)) for i, each in enumerate(calls)]


def random_moments(folder: Path, run: Run, draw: random.Random, *, kills: int) -> list[Life]:
    """Runs in loaded processes that are killed up to 0.6 seconds after their start."""

    def attempt(arguments: Sequence[str], death: object) -> Ended:
        signals = [] if death is None else [(death, signal.SIGKILL)]
        return run(Child(str(folder), arguments, signals=signals, pictures=True))[0]

    lives: list[Life] = []
    while sum(len(life.deaths) for life in lives) < kills:
        name = f"moments{len(lives)}"
        lives.append(live(folder, name, [draw.uniform(0.0, 0.6) for _ in range(20)], attempt))
    return lives


def processes(folder: Path, draw: random.Random, *, kills: int) -> list[Life]:
    """Runs in ordinary processes, killed while they load, train, and write their results."""
    lives: list[Life] = []
    while (died := sum(len(life.deaths) for life in lives)) < kills:
        name = f"process{len(lives)}"
        attempt = _in_a_process(folder, folder / name)
        lives.append(live(folder, name, [_moment(draw) for _ in range(20)], attempt))
        print(f"{died + len(lives[-1].deaths)} of {kills} processes killed", file=sys.stderr, flush=True)
    return lives


def compiled(
    folder: Path, systems: Mapping[str, int], run: Run, draw: random.Random, *, lives: int, deaths: int
) -> list[Life]:
    """Runs of so many systems of each kind that compile all they need, killed at random moments.

    What one life has compiled its next has, as with users. A moment is drawn from the whole of the unbroken run.
    """
    began = time.monotonic()
    prepared(folder, FEW, run, "auto", systems)
    seconds = time.monotonic() - began

    def attempt(cache: Path) -> Attempt:
        def start(arguments: Sequence[str], death: object) -> Ended:
            signals = [] if death is None else [(death, signal.SIGKILL)]
            return run(Child(str(folder), arguments, signals=signals, cache=str(cache)))[0]

        return start

    found = []
    for number in range(lives):
        cache = folder / f"cache{number}"
        moments = [draw.uniform(0.0, seconds) for _ in range(deaths)]
        found.append(live(folder, f"compiling{number}", moments, attempt(cache), cache))
    return found


def compiled_at_calls(folder: Path, run: Run, draw: random.Random, *, lives: int) -> list[Life]:
    """The same, each killed once at one of the calls that change its directory or what it keeps of compiled code."""

    def attempt(cache: Path) -> Attempt:
        def start(arguments: Sequence[str], death: object) -> Ended:
            number = death if isinstance(death, int) else 0
            return run(Child(str(folder), arguments, KILL if number else "", number, cache=str(cache)))[0]

        return start

    found = []
    for number in range(lives):
        cache = folder / f"cache at a call {number}"
        call = 1 + draw.randrange(6 * number, 6 * (number + 1))
        found.append(live(folder, f"compiling, call {call}", [call], attempt(cache), cache))
    return found


def remains(cache: Path) -> list[str]:
    """What is left of compilers after a while, and the files that are not whole, in a folder of compiled code."""
    until = time.monotonic() + PATIENCE

    def left() -> list[str]:
        processes = [f"process {number}" for number in sorted(processes_in(str(cache.resolve())))]
        return processes + [path.name for path in _listed(cache) if path.name.startswith("work-")]

    while left() and time.monotonic() < until:
        time.sleep(0.05)
    broken = [path.name for path in _listed(cache) if not path.name.startswith("work-") and content_of(path) is None]
    return left() + broken


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def live(folder: Path, name: str, deaths: Iterable[object], attempt: Attempt, cache: Path | None = None) -> Life:
    """Kill a run at the moments given, go on with it after each, and let it end; the unbroken one is called whole.

    Args:
        folder: of all runs.
        name: of this one.
        deaths: what is handed to ``attempt``, one after the other, and at last None.
        attempt: run a command.
        cache: the folder of what is compiled, if anything is.
    """
    run = folder / name
    died: list[str] = []
    stuck: list[str] = []
    damage: list[str] = []
    left: list[str] = []
    starts = 0
    for death in (*deaths, None):
        end = attempt(command_to_go_on(run), death)
        starts += 1
        if end.code == -signal.SIGKILL:
            at_work = cache is not None and any(path.name.startswith("work-") for path in _listed(cache))
            died.append(end.struck or (_COMPILER if at_work else _part(run, folder / "whole")))
            damage += [f"{name}, killed at {died[-1]}: {problem}" for problem in unreadable(run)]
            left += [f"{name}, killed at {died[-1]}: {each}" for each in remains(cache)] if cache else []
        elif is_complete(end):
            break
        else:
            stuck.append(f"{name}, after {died[-1] if died else 'nothing'}: exit code {end.code}, {end.err.strip()}")
    else:
        stuck.append(f"{name}: never done")
    other = difference(run, folder / "whole")
    different = f"{name}, after {', '.join(died)}: {other}" if other else ""
    left += [f"{name}, in the end: {each}" for each in remains(cache)] if cache else []
    return Life(tuple(died), starts, tuple(stuck), tuple(damage), different, tuple(left))


def prepared(folder: Path, epochs: int, run: Run, compile: str = "off", systems: Mapping[str, int] = TWO) -> Path:
    """A folder with the configuration and the unbroken run; what that one compiles is in a cache of its own."""
    folder.mkdir()
    write_configuration(folder, epochs=epochs, compile=compile, systems=systems)
    command = ("train", "run.toml", "--out", "whole")
    (end,) = run(Child(str(folder), command, pictures=compile == "off", cache=str(folder / "cache")))
    if end.code != 0:
        raise RuntimeError(f"the unbroken run failed: {end.err}")
    return folder


def _at_a_call(folder: Path, run: Run) -> Attempt:
    def attempt(arguments: Sequence[str], death: object) -> Ended:
        number = death if isinstance(death, int) else 0
        return run(Child(str(folder), arguments, KILL if number else "", number))[0]

    return attempt


_COMPILER = "a compiler at work"
_PARTS = ("before config.toml", _COMPILER, "before the first checkpoint", "epochs", "results", "picture", "all written")


def _part(run: Path, whole: Path) -> str:
    """In which part of its run a process was killed, from what it left."""
    if not (run / "config.toml").exists():
        return "before config.toml"
    if not (run / "checkpoint.safetensors").exists():
        return "before the first checkpoint"
    if read_metadata(run / "checkpoint.safetensors").epoch < read_metadata(whole / "checkpoint.safetensors").epoch:
        return "results" if (run / "training_trajectory.npz").exists() else "epochs"
    return "all written" if (run / "training.png").exists() else "picture"


def _moment(draw: random.Random) -> tuple[str, float]:
    """From the start of the process, from the end of its first epoch, or from its summary, in seconds."""
    since = draw.choices(("start", "epoch", "summary"), (3, 3, 1))[0]
    return since, draw.uniform(0.0, {"start": 5.0, "epoch": 0.6, "summary": 1.0}[since])


def _in_a_process(folder: Path, run: Path) -> Attempt:
    """How to run a command as a process of its own, and kill it at such a moment."""

    def has_come(since: str, epochs: int) -> bool:
        if since == "epoch":
            return len(read_metrics(run / "metrics.jsonl")) > epochs
        return since == "start" or (run / "summary.json").exists()

    def attempt(arguments: Sequence[str], death: object) -> Ended:
        epochs = len(read_metrics(run / "metrics.jsonl"))
        command = [sys.executable, "-m", "aits_func", *arguments]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            if isinstance(death, tuple):
                since, seconds = death
                while process.poll() is None and not has_come(since, epochs):
                    time.sleep(0.002)
                until = time.monotonic() + seconds
                while process.poll() is None and time.monotonic() < until:
                    time.sleep(0.001)
                process.kill()
            _, message = process.communicate()
        return Ended(process.returncode, "", message)

    return attempt


if __name__ == "__main__":
    main(campaign, __doc__)
