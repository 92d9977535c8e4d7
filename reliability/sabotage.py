"""What can befall a process at a chosen call to the system: it is killed, its disk is full, it is interrupted.

The calls that a run makes to change its directory are counted, in the process itself; at the chosen one it happens.
So every gap between two calls can be visited, one after the other, instead of hoping that a random moment hits it.
"""

import errno
import fcntl
import io
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILL, INTERRUPT, TERMINATE, HAMMER, CLOCK = "SIGKILL", "SIGINT", "SIGTERM", "SIGINT again and again", "clock"
NEEDING_SPACE = ("open", "mkdir", "write", "half of", "fsync")
_DAY = 86_400.0


def sabotage(what: str, at: int, folder: Path, tell: Callable[[str], None]) -> None:
    """Prepare this process.

    Args:
        what: one of the names above, or that of an error such as "ENOSPC", which the call gives, and all that follow.
        at: the number of the call, from 1.
        folder: what lies in other folders does not count.
        tell: called with a description of the call, when it happens.
    """
    if what == CLOCK:
        _jump_clocks(random.Random(at))
    elif what:
        _count_calls(_Saboteur(what, at, tell), folder)


class _Saboteur:
    """Counts the calls that are made and strikes at one."""

    def __init__(self, what: str, at: int, tell: Callable[[str], None]) -> None:
        self.what, self.at, self.tell, self.count = what, at, tell, 0
        self.is_error = hasattr(errno, what)

    def reach(self, label: str, first: Callable[[], object] = lambda: None) -> None:
        """A call is about to be made; ``first`` is what of it is done before it happens."""
        if self.is_error and not label.startswith(NEEDING_SPACE):
            return
        self.count += 1
        lasting = self.is_error or self.what == HAMMER
        if self.count == self.at or (lasting and self.count > self.at):
            if self.count == self.at:
                self.tell(label)
            first()
            self._strike()

    def _strike(self) -> None:
        if self.is_error:
            number = getattr(errno, self.what)
            raise OSError(number, os.strerror(number))
        os.kill(os.getpid(), signal.SIGINT if self.what == HAMMER else getattr(signal, self.what))


class _File:
    """A file that is written to, under observation."""

    def __init__(self, file: Any, saboteur: _Saboteur, name: str) -> None:
        self._file, self._saboteur, self._name = file, saboteur, name

    def write(self, data: Any) -> int:
        self._saboteur.reach(f"write {self._name}")
        self._saboteur.reach(f"half of {self._name}", lambda: self._write_half(data))
        return int(self._file.write(data))

    def _write_half(self, data: Any) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()

    def flush(self) -> None:
        self._saboteur.reach(f"flush {self._name}")
        self._file.flush()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _count_calls(saboteur: _Saboteur, folder: Path) -> None:
    inside = str(folder.resolve())

    def name_of(path: Any) -> str:
        """The name of a file in the folder, without the number of the process in it; "" for one elsewhere."""
        full = os.path.abspath(path) if isinstance(path, str | os.PathLike) else ""
        return os.path.basename(full).replace(str(os.getpid()), "N") if full.startswith(inside) else ""

    def watch(module: Any, call: str) -> None:
        real = getattr(module, call)

        def watched(first: Any, *others: Any, **options: Any) -> Any:
            name = name_of(first) if not isinstance(first, int) else "a file"
            if name:
                saboteur.reach(f"{call} {name}")
            return real(first, *others, **options)

        setattr(module, call, watched)

    for call in ("open", "mkdir", "replace", "unlink", "fsync"):
        watch(os, call)
    watch(fcntl, "flock")
    really_open = io.open

    def open_file(path: Any, mode: str = "r", *others: Any, **options: Any) -> Any:
        name = name_of(path) if set(mode) & set("wax") else ""
        if not name:
            return really_open(path, mode, *others, **options)
        saboteur.reach(f"open {name}")
        return _File(really_open(path, mode, *others, **options), saboteur, name)

    io.open = open_file  # what pathlib opens with


def _jump_clocks(draw: random.Random) -> None:
    """The time of day leaps days back and forth with every look; the clocks that only run forward leap forward."""
    wall, ahead = time.time, 0.0

    def forward(real: Callable[[], float]) -> Callable[[], float]:
        def look() -> float:
            nonlocal ahead
            ahead += draw.uniform(0.0, _DAY)
            return real() + ahead

        return look

    time.time = lambda: wall() + draw.uniform(-30 * _DAY, 30 * _DAY)
    time.time_ns = lambda: int(1e9 * time.time())
    time.perf_counter, time.monotonic = forward(time.perf_counter), forward(time.monotonic)
