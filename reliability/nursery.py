"""A process in which everything is loaded, which forks a child for every command: a run in a tenth of a second.

A child is a process like any other: it can be killed, and what it leaves on disk is what a killed process leaves.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from reliability.runs import Ended, write_configuration
from reliability.sabotage import sabotage

_NOBODY = 65534
_LIMIT = 600  # seconds that a child may take: none should come near, compilers on a busy machine included


class Child(NamedTuple):
    """A command, and what is to befall it."""

    folder: str  # in which it is started
    arguments: Sequence[str]
    what: str = ""  # of `sabotage`, and where
    at: int = 0
    signals: Sequence[tuple[float, int]] = ()  # (seconds to wait, signal), one after the other
    wait: float = 0.0  # seconds before it starts
    output: str = ""  # the file that it prints to, e.g. /dev/full; "" for one that is read afterwards
    nobody: bool = False  # gives up the rights of root
    cache: str = ""  # the folder of what it compiles
    pictures: bool = False  # drawn, which takes half a second; or a file of a few bytes in their place


Run = Callable[..., list[Ended]]


@contextlib.contextmanager
def nursery() -> Iterator[Run]:
    """Start the process; yields a function that runs children, all at the same moment, and waits for their ends."""
    command = [sys.executable, "-m", "reliability.nursery"]
    # Output is kept back as it is wherever nobody has asked for another thing: what cannot be written shows later.
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain) as process:
        orders, answers = process.stdin, process.stdout
        if orders is None or answers is None:
            raise RuntimeError("no pipes")

        def run(*children: Child) -> list[Ended]:
            orders.write(json.dumps(children) + "\n")
            orders.flush()
            return [Ended(*each) for each in json.loads(answers.readline())]

        try:
            yield run
        finally:
            orders.close()
            process.wait()


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed here is no answer
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(Path(folder))
        for line in sys.stdin:
            ends = _run([Child(*each) for each in json.loads(line)], Path(folder))
            answers.write(json.dumps(ends) + "\n")
            answers.flush()


def _warm_up(folder: Path) -> None:
    """One training, so that all that is loaded late is loaded."""
    from aits_func.edge.cli import main

    write_configuration(folder, epochs=2)
    with contextlib.redirect_stdout(io.StringIO()):
        main(["train", str(folder / "run.toml"), "--out", str(folder / "warm")])


def _run(children: Sequence[Child], folder: Path) -> list[Ended]:
    start, ready = os.pipe(), os.pipe()
    sys.stdout.flush()
    told = [os.pipe() for _ in children]
    pids = []
    for number, child in enumerate(children):
        pid = os.fork()
        if pid == 0:
            os.close(start[1])
            _live(child, folder / str(number), start[0], ready[1], told[number][1])
        pids.append(pid)
    os.close(start[0])
    _await(ready, len(children))
    os.close(start[1])  # which starts them all
    for child, pid in zip(children, pids, strict=True):
        for seconds, number in child.signals:
            time.sleep(seconds)
            os.kill(pid, number)  # it may have ended, and has not been waited for
    return [_end(pid, folder / str(number), told[number]) for number, pid in enumerate(pids)]


def _await(ready: tuple[int, int], children: int) -> None:
    """Wait until all of them have signals in hand: one that came before would be that of the process they are of."""
    os.close(ready[1])
    with os.fdopen(ready[0], "rb") as pipe:
        said = pipe.read(children)
    if len(said) < children:
        raise RuntimeError("a child has died before its command")


def _end(pid: int, place: Path, told: tuple[int, int]) -> Ended:
    _, status = os.waitpid(pid, 0)
    os.close(told[1])
    with os.fdopen(told[0]) as pipe:
        struck = pipe.read()
    out, err = (Path(f"{place}.{kind}") for kind in ("out", "err"))
    return Ended(os.waitstatus_to_exitcode(status), out.read_text() if out.exists() else "", err.read_text(), struck)


def _live(child: Child, place: Path, start: int, ready: int, told: int) -> None:
    """The life of a child; does not return."""
    from aits_func.__main__ import program
    from aits_func.edge import pictures, signals
    from aits_func.edge.checkpoint import write_atomically

    code = 1
    try:
        signal.alarm(_LIMIT)
        for handle, file in ((1, child.output or f"{place}.out"), (2, f"{place}.err")):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        os.chdir(child.folder)
        if child.cache:
            os.environ["AITS_FUNC_CACHE_DIR"] = child.cache
        if not child.pictures:
            pictures._save = lambda figure, path: write_atomically(path, b"a picture")
        if child.nobody:
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        sabotage(child.what, child.at, Path(child.folder), lambda label: os.write(told, label.encode()) and None)
        # Signals may come as soon as it starts; a shell may have made all its children ignore the first.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signals.take_over()
        sys.argv = ["aits", *child.arguments]
        os.write(ready, b"!")
        os.close(ready)
        os.read(start, 1)
        time.sleep(child.wait)
        program()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = 120  # the interpreter's own, at its end
        os._exit(code)


if __name__ == "__main__":
    _serve()
