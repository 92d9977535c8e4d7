"""``python -m aits_func`` and ``aits``: the command line, in a process of its own."""

import os
import sys
import warnings
from typing import Any, NoReturn

from .edge import signals


def program() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    signals.take_over()
    warnings.formatwarning = _in_one_line
    try:
        from .edge.cli import main

        code = main()
        signals.ignore()
    except KeyboardInterrupt as interruption:  # in the instructions before and after those that main cares for
        code = signals.exit_code(interruption)
    except SystemExit as stop:  # of a command line that asks for help, or cannot be understood
        code = stop.code if isinstance(stop.code, int) else 1
    raise SystemExit(_printed(code))


def _in_one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as this command line says it: what it is about, and not which line of which file gives it."""
    return f"warning: {message}\n"


def _printed(code: int) -> int:
    """The exit code, once all that was printed is written; 1 if it cannot be, of which the last part shows only now."""
    try:
        if sys.stdout is not None:  # as it is in a process whose stdout was closed
            sys.stdout.flush()
    except OSError as error:
        # The interpreter would try again at its end, and give a traceback and an exit code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0:
            print(f"aits: error: stdout: cannot write to it: {error.strerror}; print elsewhere", file=sys.stderr)
            return 1
    return code


if __name__ == "__main__":
    program()
