"""What is read from files that anybody may have written: how much of it, how deep, and how it is quoted.

A file is read only if it is a regular one of a bounded size (a pipe would block, a device never end); tables are
nested a bounded number of levels and hold integers of 64 bits; and whatever an error message quotes from them is one
printable line of bounded length, so that no file can write control characters to a terminal.
"""

import os
import stat
from pathlib import Path
from typing import Any

MAX_LINE = 1500
"""Longest error message; of a longer one the middle is left out."""

MAX_DEPTH = 16
"""Levels of tables and lists in a configuration; ours need four."""


class InputError(ValueError):
    """Something the user handed in is wrong: one line with what, where, and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def printable(text: str) -> str:
    """The text with every character that is not printable written as an escape, e.g. a line feed as ``\\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Printable text of at most `MAX_LINE` characters: what is wrong is said first, and the remedy last."""
    text = printable(text[: 2 * MAX_LINE] + text[-MAX_LINE:] if len(text) > 3 * MAX_LINE else text)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 505]} ... {text[-500:]}"


def read_regular_file(path: str | Path, *, most: int, what: str) -> bytes:
    """The whole of a file.

    Args:
        path: of the file.
        most: bytes; a larger file is refused, and no more than this is ever read.
        what: what the error messages call it, e.g. "this configuration".

    Raises:
        InputError: if it is missing, unreadable, no regular file, or too large.
    """
    try:
        require_regular(path, what)
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise cannot_read(path, what, error) from None
    if len(data) > most:
        raise InputError(f"{path}: cannot read {what}: larger than {most / 2**20:g} MiB; name another file")
    return data


def require_regular(path: str | Path, what: str) -> None:
    """Refuse what cannot be read to an end; a directory is left to ``open``, which says what it is.

    Raises:
        InputError: if it is a device, a pipe or a socket.
        OSError: if there is no such file; ValueError: if there can be none (a null character in its name).
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: cannot read {what}: not a regular file; copy its contents into one")


def cannot_read(path: str | Path, what: str, error: Exception) -> InputError:
    """The error that says why a file cannot be read; an `InputError` is passed on as it is."""
    if isinstance(error, InputError):
        return error
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path}: cannot read {what}: {reason}; check the path")


def check_tables(value: Any, where: str) -> None:
    """Check what a parser made of a file before anything else walks through it, recursively or not.

    Raises:
        InputError: if it is nested deeper than `MAX_DEPTH`, or holds an integer of more than 64 bits, which could
            not even be printed if it were long.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if any(isinstance(item, int) and not -(2**63) <= item < 2**63 for item in level):
            raise InputError(f"{where}: holds an integer of more than 64 bits; write a smaller number")
        inner = [item for item in level if isinstance(item, dict | list | tuple)]
        level = [each for item in inner for each in (item.values() if isinstance(item, dict) else item)]
        if not inner:
            return
    raise InputError(f"{where}: is nested more than {MAX_DEPTH} levels deep; write flat tables and lists")
