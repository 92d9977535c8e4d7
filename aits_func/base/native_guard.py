"""Ends compilers whose owner is gone, and removes their folder: a process of its own, as no other survives `kill -9`.

A C++ compiler is several processes, started one by the other, and those of TorchInductor are started where nobody else
can reach them; what they have in common is the folder in which they work. Nothing but the standard library is imported,
so that this can be run as a script before anything else is loaded.

Of the alternatives, a signal at the death of the parent (`prctl`) reaches the first of the processes alone, comes
when the *thread* that started it ends, and must be asked for between `fork` and `exec`, where threads make Python
unsafe; a pipe that closes is held open by whatever else was forked meanwhile.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

_LOOK = 0.05  # seconds
_PATIENCE = 0.5  # for compilers to remove their temporary files


def end_processes(folder: str) -> None:
    """End all processes of this user that work in a folder or below, this one excepted; on Linux.

    Args:
        folder: without symbolic links.
    """
    for number, seconds in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, 10 * _PATIENCE)):
        until = time.monotonic() + seconds
        told: set[int] = set()
        while (found := processes_in(folder)) and time.monotonic() < until:
            for pid in found - told:
                with contextlib.suppress(OSError):  # it has ended
                    os.kill(pid, number)
            told |= found
            time.sleep(_LOOK / 5)
        if not found:
            return


def processes_in(folder: str) -> set[int]:
    """The processes that work in a folder or below, this one and those of others excepted; on Linux."""
    found = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, is a zombie, or somebody else's
                if f"{os.readlink(f'/proc/{name}/cwd')}/".startswith(f"{folder}/"):
                    found.add(int(name))
    return found


def _watch(parent: int, folder: str) -> None:
    """Wait for the end of the parent; whoever ends orderly ends this process first."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(f"{folder}.lock")


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
