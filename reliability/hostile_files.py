"""Hostile files: damaged checkpoints, configurations, initial conditions and metrics, and pickles in disguise.

Every input is a good file that a seeded generator has damaged; a broken case is made again from its number alone.
"""

import contextlib
import os
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from . import hostile_memory
from .findings import Finding, main
from .hostile_formats import MARKER, damaged, pickles, read_good_files, write_good_files
from .hostile_readers import LONGEST, Reader, Verdict, command, judge, readers, threads_before_any_file_set_them

INPUTS = {False: 105_000, True: 600}  # by whether the short form is run
FLIPS = {False: 20_000, True: 100}
_SHARES = {"checkpoint": 0.22, "config": 0.2, "npy": 0.18, "txt": 0.12, "json": 0.16, "metrics": 0.12}
_COMMANDS = 0.06  # the share that is read through the command line


class Case(NamedTuple):
    """One hostile file and what became of it."""

    number: int
    kind: str
    reader: str
    verdict: Verdict


def campaign(short: bool) -> list[Finding]:
    """Feed hostile files to every reader, then the worst of them to processes whose memory is watched."""
    with workplace() as work:
        found = [*summarise(fuzz(work, INPUTS[short])), flip_single_bits(work, FLIPS[short])]
    return [*found, *hostile_memory.campaign(short)]


def fuzz(work: Path, inputs: int, alter: Callable[[Reader], Reader] = lambda reader: reader) -> list[Case]:
    """Draw that many hostile files and have each read once.

    Args:
        work: from `workplace`.
        inputs: how many.
        alter: makes another reader of the one that is used, to see whether its faults are found.
    """
    good, bombs = read_good_files(work), pickles()
    return [_try(number, work, good, bombs, alter) for number in range(inputs)]


@contextlib.contextmanager
def workplace(runs: Sequence[str] = ("run", "run_with_memory")) -> Iterator[Path]:
    """A folder of its own, entered, with good files and finished runs in it."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # as a disk would take most of the time
    with (
        tempfile.TemporaryDirectory(dir=memory) as root,
        mock.patch("aits_func.edge.pictures._save", lambda _, to: to.touch()),
    ):
        work = Path(root) / "work"
        work.mkdir()
        with contextlib.chdir(work):
            write_good_files(work)
            threads_before_any_file_set_them()
            for number, name in enumerate(runs):
                command("train", f"config{number}.toml", "--out", name, computing=True)
            yield work


def _try(
    number: int, work: Path, good: dict[str, list[bytes]], bombs: Sequence[bytes], alter: Callable[[Reader], Reader]
) -> Case:
    rng = random.Random(f"hostile {number}")
    kind = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    data = damaged(rng, kind, good, bombs)
    quick = [
        each
        for each in readers(kind)
        if each.name in ("policy", "state", "tables", "prepare", "load_system", "tracker")
    ]
    reader = alter(rng.choice(readers(kind) if rng.random() < _COMMANDS else quick))
    if "hostile_run" in reader.file:
        shutil.rmtree(work / "hostile_run", ignore_errors=True)
        shutil.copytree(work / "run", work / "hostile_run")
    (work / reader.file).write_bytes(data)
    verdict = judge(reader.read, work)
    if verdict.executed:
        shutil.rmtree(work / MARKER, ignore_errors=True)
    return Case(number, kind, reader.name, verdict)


def flip_single_bits(work: Path, count: int) -> Finding:
    """Flip one bit of a good checkpoint, each time another, and have its policy or its whole state read."""
    loaded = []
    good = (work / "run" / "checkpoint.safetensors").read_bytes()
    count = min(count, 8 * len(good))
    for turn, bit in enumerate(random.Random("bits").sample(range(8 * len(good)), count)):
        reader = readers("checkpoint")[turn % 2]  # the policy alone, or all of it
        damaged_byte = bytes([good[bit // 8] ^ 1 << bit % 8])
        (work / reader.file).write_bytes(good[: bit // 8] + damaged_byte + good[bit // 8 + 1 :])
        verdict = judge(reader.read, work)
        if verdict.accepted or verdict.broken:
            loaded.append(f"bit {bit}, {reader.name}: {verdict.broken or 'loaded'}")
    figures = {"bits": count, "of": 8 * len(good), "loaded": len(loaded)}
    return Finding("a checkpoint with any bit flipped is refused", not loaded, figures, tuple(loaded[:5]))


def summarise(cases: Sequence[Case]) -> list[Finding]:
    """What was promised of all of them."""
    kinds = Counter(case.kind for case in cases)
    accepted = Counter(case.kind for case in cases if case.verdict.accepted)
    slowest = max(cases, key=lambda case: case.verdict.seconds)
    through = sum(case.reader in ("train", "simulate", "both", "compare", "inspect", "resume") for case in cases)

    def finding(promise: str, broken: Callable[[Verdict], Any], figures: dict[str, int | float | str]) -> Finding:
        bad = [case for case in cases if broken(case.verdict)]
        lines = tuple(f"input {c.number} ({c.kind}, {c.reader}): {c.verdict.broken:.200}" for c in bad[:5])
        return Finding(promise, not bad, figures | {"broken": len(bad)}, lines)

    return [
        finding(
            "a hostile file is read or refused in one printable line, never with a traceback",
            lambda verdict: verdict.broken,
            {
                "inputs": len(cases),
                "accepted": sum(accepted.values()),
                "refused": len(cases) - sum(accepted.values()),
                **{f"of {kind}": f"{count:,} ({accepted[kind]:,} accepted)" for kind, count in sorted(kinds.items())},
                "through the command line": through,
            },
        ),
        finding("no code in a file is ever run", lambda verdict: verdict.executed, {"inputs": len(cases)}),
        finding(
            "no file makes anything be written outside of its run",
            lambda verdict: verdict.outside,
            {"inputs": len(cases)},
        ),
        finding(
            f"no file takes {LONGEST:g} s to read or refuse",
            lambda verdict: verdict.seconds >= LONGEST,
            {
                "longest, s": slowest.verdict.seconds,
                "longest is": f"input {slowest.number} ({slowest.kind}, {slowest.reader})",
                "most memory of the process, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "median, ms": 1e3 * sorted(case.verdict.seconds for case in cases)[len(cases) // 2],
            },
        ),
    ]


if __name__ == "__main__":
    main(campaign, __doc__)
