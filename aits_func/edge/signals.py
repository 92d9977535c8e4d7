"""Ctrl-C and SIGTERM, in a process of our own: one line and an exit code, however often they come, never a traceback.

Both become exceptions, so that files are closed and locks given back; SIGTERM is what batch queues send before
they kill. Imports nothing heavy: signals have to be in hand before anything else is loaded.
"""

import os
import signal
import time
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # 128 and the number of the signal, as shells have it
_ALL = (signal.SIGINT, signal.SIGTERM)
_GRACE = 2.0  # seconds in which another signal is part of the first: who presses twice wants to stop once


class Terminated(KeyboardInterrupt):
    """SIGTERM: an interruption with another exit code."""


def exit_code(interruption: KeyboardInterrupt) -> int:
    """What a process ends with that was interrupted."""
    return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED


def take_over() -> None:
    """From now on a signal ends the process at once: nothing is written yet.

    An exception could be lost: what C libraries import while they are loaded, they import without a care for it.
    A signal that is ignored stays so, as in a job that a shell has put in the background.
    """
    for number in _ALL:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def loaded() -> None:
    """Everything is loaded and work begins: from now on a signal is an exception, if `take_over` was called."""
    handler = _Raise()
    for number in _ALL:
        if signal.getsignal(number) is _leave:
            signal.signal(number, handler)


def ignore() -> None:
    """The work is over, nothing can be interrupted any more."""
    for number in _ALL:
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"aits: interrupted\n")
    os._exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)


class _Raise:
    """Raises once. A second exception would come while the first one is being cared for.

    It may raise again later, as a library can swallow an exception.
    """

    def __init__(self) -> None:
        self._raised = -_GRACE

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised < _GRACE:
            return
        self._raised = now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
