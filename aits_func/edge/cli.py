"""The command line: ``aits train|simulate|both|compare|inspect``.

Nothing heavy is imported until a command runs, so that ``aits --help`` answers at once. Flags are made
from the fields of the configurations, with argparse: the standard library does all that is needed.
"""

import argparse
import sys
import typing
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from . import signals
from .config import (
    CHOICES,
    CompareConfig,
    PhysicsConfig,
    SimulateConfig,
    TrainConfig,
    WriteError,
    default_of,
    nearest,
    section_of,
)
from .untrusted import one_line

FAILED, BAD_INPUT = 1, 2
_NOT_FLAGS = ("field", "preset", "rules")
_EPILOG = (
    "Every key of the TOML file is a flag too: --learning-rate 1e-3 overrides learning_rate. Files override defaults."
)


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line that name the nearest flag."""

    def __init__(self, **options: Any) -> None:
        # Abbreviated flags would be a misspelling that is obeyed, and change their meaning with a new key.
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Every word must be known; a command's own parser says so, as it knows the flags that are near."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            home = section_of(flag.removeprefix("--").replace("-", "_")) if flag.startswith("--") else ""
            close = nearest(flag, self._option_string_actions) if flag.startswith("-") else ""
            close = f"; it belongs to {home}" if home else close
            self._fail(f"unrecognized arguments: {' '.join(unknown)}{close or f'; see {self.prog} --help'}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        self._fail(f"{message}; see {self.prog} --help")

    def _fail(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words of the command line; those of the process by default.

    Returns:
        The exit code: 0 only on success, 1 for a run that failed, 2 for bad input, 130 when interrupted, 143 when
        terminated.
    """
    options = vars(_build_parser().parse_args(arguments))
    command, debug = options.pop("command"), options.pop("debug")
    try:
        return _run(command, options)
    except KeyboardInterrupt as interruption:
        print(f"aits {command}: interrupted{_notes(interruption)}", file=sys.stderr)
        return signals.exit_code(interruption)
    except (ValueError, OSError) as error:  # an InputError is a ValueError
        if debug:
            raise
        print(f"aits {command}: error: {one_line(' '.join(_message(error).split()))}", file=sys.stderr)
        return FAILED if isinstance(error, WriteError | OSError) else BAD_INPUT


def _run(command: str, options: dict[str, Any]) -> int:
    from . import commands

    signals.loaded()
    return int(getattr(commands, command)(options))


def _message(error: ValueError | OSError) -> str:
    """What went wrong, with how to go on in the place of another remedy, where there is a run to go on with."""
    notes = _notes(error)
    return f"{error.fact if isinstance(error, WriteError) else error}; stopped{notes}" if notes else str(error)


def _notes(error: BaseException) -> str:
    return "".join(getattr(error, "__notes__", ()))


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="aits", description="Learned time steps for N-body integrators.", epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,simulate,both,compare,inspect}")
    shared = {item.name for item in fields(PhysicsConfig)}

    train = _command(commands, "train", "train a policy from energy conservation alone")
    train.add_argument("config", nargs="?", type=Path, help="TOML file with a section [train]")
    train.add_argument(
        "--new", type=Path, metavar="FILE", help="write a commented configuration to start from, and stop"
    )
    train.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    _add_out(train)
    _add_flags(train, TrainConfig, skip=())

    simulate = _command(commands, "simulate", "simulate systems with a trained policy")
    simulate.add_argument("config", nargs="?", type=Path, help="TOML file with a section [simulate]")
    _add_out(simulate)
    _add_flags(simulate, SimulateConfig, skip=())

    both = _command(commands, "both", "train, then simulate with what was trained")
    both.add_argument("config", type=Path, help="TOML file with the sections [train] and [simulate]")
    _add_out(both)
    _add_flags(both, TrainConfig, skip=("systems",))
    _add_flags(both, SimulateConfig, skip=(*shared, "systems", "checkpoint", "compile"))  # one flag for both

    compare = _command(commands, "compare", "compare step rules: error against force evaluations")
    compare.add_argument("config", type=Path, help="TOML file with a section [compare] and its rules")
    _add_out(compare)
    _add_flags(compare, CompareConfig, skip=())

    inspect = _command(commands, "inspect", "say what is in a run directory or checkpoint")
    inspect.add_argument("path", type=Path, help="run directory or checkpoint file")
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: runs/ and the file's name)")


def _add_flags(parser: argparse.ArgumentParser, kind: type[PhysicsConfig], skip: Sequence[str]) -> None:
    """One flag per field; a flag that is not given leaves no trace, so that the file's value holds."""
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        if item.name in (*_NOT_FLAGS, *skip):
            continue
        hint, default = hints[item.name], default_of(kind, item.name)
        keywords: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": f"default: {default}"}
        if hint is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is tuple:
            keywords |= {"nargs": "+", "type": int if item.name == "hidden" else str, "metavar": "X"}
        else:
            keywords |= {"type": hint, "metavar": hint.__name__.upper()}
        if item.name in CHOICES:
            words = ", ".join(word for word in CHOICES[item.name] if word)
            keywords["help"] = f"{words}; default: {default}"
        if item.name == "systems":
            keywords["help"] = "packaged orbits, or .npy, .txt, .json files"
        parser.add_argument("--" + item.name.replace("_", "-"), **keywords)
