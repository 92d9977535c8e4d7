"""The worst files that we know, each in a process of its own: the memory and the time that it takes to refuse it.

Memory is the high-water mark of the process above where it stood before the file was opened, everything imported.
"""

import json
import multiprocessing
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from .findings import Finding, main
from .hostile_formats import join_checkpoint, pickles, split_checkpoint
from .hostile_readers import command, complaint, judge

BOUND = 200.0  # MiB: 4 MiB of the JSON that parses to the largest objects, twenty to thirty times its size
_PATIENCE = 60.0  # seconds
GIB = 2**30


class Measured(NamedTuple):
    """What one file cost."""

    name: str
    mebibytes: float
    seconds: float
    broken: str


def campaign(short: bool) -> list[Finding]:
    """Measure all of them in forks of one fresh process; the long form runs the program itself on a few as well."""
    done = subprocess.run(
        [sys.executable, "-c", f"from reliability.hostile_memory import print_all; print_all({short})"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"the measurement failed: {done.stderr[-500:]}")
    finding = summarise([Measured(*each) for each in json.loads(done.stdout)])
    return [finding] if short else [finding, _as_programs()]


def summarise(measured: Sequence[Measured]) -> Finding:
    """What was promised of all of them."""
    most, slowest = max(measured, key=lambda each: each.mebibytes), max(measured, key=lambda each: each.seconds)
    bad = tuple(
        f"{each.name}: {each.mebibytes:.0f} MiB, {each.broken}"
        for each in measured
        if each.broken or each.mebibytes > BOUND
    )
    figures: dict[str, int | float | str] = {
        "files": len(measured),
        "most, MiB": most.mebibytes,
        "most is": most.name,
        "longest, s": slowest.seconds,
        "longest is": slowest.name,
    }
    return Finding(f"no file makes the program take more than {BOUND:g} MiB to refuse it", not bad, figures, bad[:5])


def print_all(short: bool) -> None:
    """Measure every file, or every sixth, and print the list as JSON, in the process of `campaign`."""
    from .hostile_files import workplace

    with workplace(runs=["run"]) as work:
        (work / "big").mkdir()
        measured = [_measure(name, make, work) for name, make in list(CASES.items())[:: 6 if short else 1]]
    print(json.dumps(measured))


def _measure(name: str, make: Callable[[], Any], work: Path) -> Measured:
    arguments = make()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_in_fork, args=(arguments, work, there))
    process.start()
    if here.poll(_PATIENCE):
        try:
            mebibytes, seconds, broken = here.recv()
        except EOFError:
            mebibytes, seconds, broken = 0.0, 0.0, "the process died"
    else:
        mebibytes, seconds, broken = 0.0, _PATIENCE, "no end"
        process.kill()
    process.join()
    for path in (work / "big").iterdir():
        path.unlink()
    return Measured(name, mebibytes, seconds, broken)


def _in_fork(arguments: tuple[str, ...], work: Path, to: Connection) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew from what is taken now
    before = _high_water_mark()
    verdict = judge(lambda: command(*arguments, computing="--resume" in arguments), work)
    to.send((_high_water_mark() - before, verdict.seconds, verdict.broken))


def _high_water_mark() -> float:
    """MiB that the process has taken at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _train_on(name: str, *pieces: bytes, size: int = 0) -> tuple[str, ...]:
    """A training on a file of initial conditions made of those pieces, filled up to a size with a hole."""
    _write(name, *pieces, size=size)
    return "train", "--systems", f"big/{name}", "--out", "out"


def _configured(*pieces: bytes, size: int = 0) -> tuple[str, ...]:
    _write("a.toml", *pieces, size=size)
    return "train", "big/a.toml", "--out", "out"


def _inspect(*pieces: bytes, size: int = 0) -> tuple[str, ...]:
    _write("a.safetensors", *pieces, size=size)
    return "inspect", "big/a.safetensors"


def _write(name: str, *pieces: bytes, size: int) -> None:
    with open(f"big/{name}", "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.truncate(max(size, file.tell()))


def _array(shape: tuple[int, ...], descr: Any = "<f8") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def _checkpoint(change: Callable[[dict[str, Any], int], Any], size: int = 0) -> tuple[str, ...]:
    header, tensors = split_checkpoint(Path("run/checkpoint.safetensors").read_bytes())
    change(header, len(tensors))
    return _inspect(join_checkpoint(header, tensors), size=size)


def _with_config(**values: Any) -> Callable[[dict[str, Any], int], None]:
    def change(header: dict[str, Any], _: int) -> None:
        config = json.loads(header["__metadata__"]["config"]) | values
        header["__metadata__"]["config"] = json.dumps(config)

    return change


def _with_stranger(header: dict[str, Any], size: int) -> None:
    """A tensor of a gigabyte that no policy has."""
    header["stranger"] = {"dtype": "U8", "shape": [GIB], "data_offsets": [size, size + GIB]}


def _stranger_at_its_place() -> tuple[str, ...]:
    arguments = _checkpoint(_with_stranger)
    os.truncate("big/a.safetensors", os.path.getsize("big/a.safetensors") + GIB)
    return arguments


def _metrics(*pieces: bytes, size: int = 0) -> tuple[str, ...]:
    """A run whose metrics are those: what its resumption reads."""
    shutil.rmtree("hostile_run", ignore_errors=True)
    shutil.copytree("run", "hostile_run")
    _write("metrics.jsonl", *pieces, size=size)
    os.replace("big/metrics.jsonl", "hostile_run/metrics.jsonl")
    return "train", "--resume", "hostile_run", "--epochs", "3"


SYSTEM = b'{"mass": [1, 1], "position": [[0, 0], [1, 0]], "velocity": [[0, 1], [0, 0]], "x": '
CASES: dict[str, Callable[[], tuple[str, ...]]] = {
    "an array of 1e15 elements": lambda: _train_on("a.npy", _array((2 * 10**14, 5)), b"1234"),
    "an array of 4 GB": lambda: _train_on("a.npy", _array((10**8, 5)), b"1234"),
    "an array of arrays of 8 GB": lambda: _train_on("a.npy", _array((2, 5), ("<f8", (10**8,))), b"1234"),
    "an array of 4 MiB of small numbers": lambda: _train_on("a.npy", _array((590_000, 7), "|i1"), bytes(7 * 590_000)),
    "an array of 1 GiB": lambda: _train_on("a.npy", _array((2**27 // 5, 5)), size=GIB),
    "64 MiB of numbers in text": lambda: _train_on("a.txt", b"1 0 0 0 0\n" * (2**26 // 10)),
    "4 MiB of numbers in text": lambda: _train_on("a.txt", b"1 0 0 0 0\n" * (2**22 // 10)),
    "4 MiB of one line of text": lambda: _train_on("a.txt", b"1 " * 2**21),
    "4 MiB of empty lines": lambda: _train_on("a.txt", b"\n" * 2**22),
    "4 MiB of comments that may be names": lambda: _train_on("a.txt", b"# the m x y v z\n" * (2**22 // 17)),
    "4 MiB of constants in comments": lambda: _train_on("a.txt", b"# " + b"t=1," * (2**20 - 10) + b"\n1 0 0 0 0\n"),
    "4 MiB of brackets in comments": lambda: _train_on("a.txt", (b"# " + b"(" * 1900 + b"\n") * 2000 + b"1 0 0 0 0\n"),
    "4 MiB of one number": lambda: _train_on("a.txt", b"1 0 0 0 " + b"1" * (2**22 - 20)),
    "4 MiB of empty lists": lambda: _train_on("a.json", SYSTEM, b"[" + b"[]," * 1_350_000 + b"[]]}"),
    "4 MiB of empty objects": lambda: _train_on("a.json", SYSTEM, b"[" + b"{}," * 1_350_000 + b"{}]}"),
    "4 MiB of masses": lambda: _train_on("a.json", b'{"mass": [', b"1," * 2_000_000, b"1]}"),
    "a million brackets": lambda: _train_on("a.json", b"[" * 10**6),
    "JSON of 1 GiB": lambda: _train_on("a.json", b" ", size=GIB),
    "a device as a file": lambda: ("train", "--systems", "/dev/zero.npy", "--out", "out"),
    "TOML with a million brackets": lambda: _configured(b"x = " + b"[" * 10**6),
    "TOML with 200 thousand brackets": lambda: _configured(b"x = " + b"[" * 200_000),
    "TOML with a key of 100 thousand parts": lambda: _configured(b"a." * 100_000 + b"a = 1"),
    "TOML with many keys of 120 parts": lambda: _configured(*_dotted_keys()),
    "TOML of empty lists": lambda: _configured(b"hidden = [" + b"[]," * 80_000 + b"]"),
    "TOML of 1 GiB": lambda: _configured(b" ", size=GIB),
    "TOML from a device": lambda: ("train", "/dev/zero", "--out", "out"),
    "TOML from a pipe": lambda: ("train", "pipe", "--out", "out"),
    "TOML that asks for 1e9 systems": lambda: _configured(b'systems = [{kind = "binaries", count = 1000000000}]'),
    "TOML that asks for 1e6 bodies": lambda: _configured(b'systems = [{kind = "plummer_sphere", bodies = 1000000}]'),
    "TOML that asks for 1e10 weights": lambda: _configured(b"hidden = [100000, 100000]"),
    "a checkpoint from a device": lambda: ("inspect", "/dev/zero"),
    "a checkpoint from a pipe": lambda: ("inspect", "pipe"),
    "a checkpoint with a header of 100 MB": lambda: _inspect(struct.pack("<Q", 10**8), b"[" * 10**8),
    "a checkpoint with a header of empty lists": lambda: _inspect(
        struct.pack("<Q", 1_000_002), b"[" + b"[]," * 333_332 + b"[] ]  "
    ),
    "a checkpoint of 1 GiB of nothing": lambda: _inspect(b"\0", size=GIB),
    "a checkpoint with a stranger of 1 GiB": _stranger_at_its_place,
    "a checkpoint that claims 1e10 weights": lambda: _checkpoint(_with_config(hidden=[100_000, 100_000])),
    "a checkpoint that claims 2e7 weights": lambda: _checkpoint(_with_config(hidden=[4000, 4000])),
    "a checkpoint that claims 2e7 frequencies": lambda: _checkpoint(_with_config(fourier_features=60_000)),
    "a checkpoint that claims a long memory": lambda: _checkpoint(
        _with_config(features="rich", history_len=10_000, policy="criterion")
    ),
    "metrics of 1 GiB of nothing": lambda: _metrics(b"{", size=GIB),
    "metrics with a million brackets": lambda: _metrics(b"[" * 10**6),
    "metrics of 4 MiB of other lines": lambda: _metrics(b'{"epoch": 1}\n' * 300_000),
}


def _dotted_keys() -> list[bytes]:
    return [b"a." * 120 + b"b%d = 1\n" % number for number in range(900)]


def _as_programs() -> Finding:
    """The program itself, as a shell runs it."""
    from .hostile_files import workplace

    with workplace(runs=["run"]) as work:
        bombs = pickles()
        cases = {name: CASES[name]() for name in ("a device as a file", "TOML from a pipe", "a checkpoint from a pipe")}
        for number, bomb in enumerate((bombs[2], bombs[-1], bombs[len(bombs) // 2])):
            (work / f"bomb{number}.npy").write_bytes(bomb)
            cases[f"pickle {number} as an array"] = "train", "--systems", f"bomb{number}.npy", "--out", "out"
            cases[f"pickle {number} as a checkpoint"] = "inspect", f"bomb{number}.npy"
        (work / "label.toml").write_text('[train]\nsystems = [{kind = "binaries", label = "\\u001b[2J/../a"}]')
        cases["a label that clears the screen"] = "train", "label.toml", "--out", "out"
        header, tensors = split_checkpoint((work / "run" / "checkpoint.safetensors").read_bytes())
        nan = numpy.full(len(tensors) // 8, numpy.nan).tobytes().ljust(len(tensors), b"\0")
        (work / "nan.safetensors").write_bytes(join_checkpoint(header, nan))
        cases["a checkpoint of NaN"] = "simulate", "config0.toml", "--checkpoint", "nan.safetensors", "--out", "out"
        before = {path.name for path in work.iterdir()}
        bad = tuple(filter(None, (_run(name, arguments) for name, arguments in cases.items())))
        new = {path.name for path in work.iterdir()} - before
    bad += (f"written: {sorted(new)}",) if new else ()
    return Finding("as a program it exits with 2 and one line, and writes nothing", not bad, {"runs": len(cases)}, bad)


def _run(name: str, arguments: tuple[str, ...]) -> str:
    done = subprocess.run([sys.executable, "-m", "aits_func", *arguments], capture_output=True, text=True, timeout=120)
    line = done.stderr.removesuffix("\n")
    right = done.returncode == 2 and done.stdout == "" and line.startswith(f"aits {arguments[0]}: error: ")
    return "" if right and not complaint(line) else f"{name}: exit code {done.returncode}, {done.stderr[:150]!r}"


if __name__ == "__main__":
    main(campaign, __doc__)
