"""``python -m aits_func`` and ``aits``: the command line, in a process of its own."""

from typing import NoReturn

from .edge import signals


def program() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    signals.take_over()
    try:
        from .edge.cli import main

        code = main()
        signals.ignore()
    except KeyboardInterrupt as interruption:  # in the instructions before and after those that main cares for
        code = signals.exit_code(interruption)
    raise SystemExit(code)


if __name__ == "__main__":
    program()
