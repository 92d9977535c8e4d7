"""What a file of initial conditions says, before it is a system: numbers, constants, and what was not read."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from .columns import Columns

MAX_BODIES = 4096
"""Most bodies in a file: forces and checks are direct sums, whose N × N × D arrays then take 0.4 GB each."""

COLUMNS = "mass, position, velocity: 5 columns in two dimensions, 7 in three"
"""What a row is where no names of columns say otherwise."""

CONSTANTS = ("G", "period", "softening", "time")
"""Numbers that a file may state beside its bodies."""

CONSTANT_OF = {
    "g": "G",
    "gravitational_constant": "G",
    "period": "period",
    "softening": "softening",
    "softening_length": "softening",
    "eps": "softening",
    "epsilon": "softening",
    "time": "time",
    "t": "time",
    "t0": "time",
    "start_time": "time",
}
"""The same by what files call them, in small letters, words joined by _."""

_ENCODINGS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_DIMENSIONS = {5: "in two dimensions", 7: "in three"}  # by the columns of a row
_MOST_NAMES = 8  # that are quoted in a note


class Contents(NamedTuple):
    """One system as a file says it. Shapes: as commented; plain numbers. Units: the file's."""

    mass: list[float]  # N
    position: list[list[float]]  # N × D
    velocity: list[list[float]]  # N × D
    constants: Mapping[str, float] = {}  # those of `CONSTANTS` that the file states
    units: str = ""  # what it says about its units
    left_out: tuple[str, ...] = ()  # columns or keys that were not read


def fail(message: str) -> NoReturn:
    """Raise a ``ValueError`` with this line alone: the cause would only repeat it."""
    raise ValueError(message) from None


def short(text: object) -> str:
    """What an error or a file says, on one printable line of at most 100 characters."""
    line = " ".join(str(text).split()) or type(text).__name__
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line[:200])
    return line if len(line) <= 100 else line[:97] + "..."


def quoted(names: Sequence[str]) -> str:
    """Names in quotation marks, the first few of many."""
    shown = ", ".join(repr(short(name)) for name in names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"


def decode(where: str, data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 or 32 with a byte order mark.

    Raises:
        ValueError: if it is no text, or in another encoding.
    """
    if data.startswith(b"\x93NUMPY"):
        fail(f"{where}: is a NumPy array; give it the suffix .npy")
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig":
            fail(f"{where}: is not UTF-8 text (at byte {error.start}); save it as UTF-8, or as .npy if it is an array")
        fail(f"{where}: begins like {encoding.upper()} text and is none (at byte {error.start}); save it as UTF-8")
    if "\0" in text:
        fail(f"{where}: holds null characters, as UTF-16 without its mark does; save it as UTF-8")
    return text


def check_constant(where: str, name: str, value: float) -> float:
    """A constant, checked: G and period > 0, softening ≥ 0, all of them finite.

    Raises:
        ValueError: if it is not.
    """
    rule = {"softening": ">= 0 and finite", "time": "finite"}.get(name, "> 0 and finite")
    least = {"softening": value >= 0, "time": True}.get(name, value > 0)
    if not (least and math.isfinite(value)):
        fail(f"{where}: {name} must be {rule}, got {value}; leave it out if unknown")
    return value


def of_rows(where: str, rows: Sequence[Sequence[float]], columns: Columns) -> Contents:
    """The contents of rows of numbers.

    Args:
        where: what error messages call the file.
        rows: one per body.
        columns: where in a row everything is.

    Raises:
        ValueError: if a column of times or of softening lengths does not hold one number throughout.
    """
    constants = {}
    for name, place in (("time", columns.time), ("softening", columns.softening)):
        if place is None:
            continue
        values = sorted({row[place] for row in rows})
        if len(values) > 1:
            remedy = "keep the rows of one time" if name == "time" else "one softening for all bodies is what there is"
            fail(f"{where}: its column {name} goes from {values[0]} to {values[-1]}; {remedy}")
        constants[name] = check_constant(where, name, values[0])
    return Contents(
        [row[columns.mass] for row in rows],
        [[row[place] for place in columns.position] for row in rows],
        [[row[place] for place in columns.velocity] for row in rows],
        constants,
        columns.units,
        columns.left_out,
    )


def with_constants(where: str, contents: Contents, stated: Mapping[str, float]) -> Contents:
    """The contents with constants that are stated elsewhere in the file.

    Raises:
        ValueError: if it states one twice, with two values.
    """
    constants = dict(contents.constants)
    for name, value in stated.items():
        if constants.setdefault(name, value) != value:
            fail(f"{where}: says {name} = {constants[name]:g}, and {name} = {value:g} as well; keep one")
    return contents._replace(constants=constants)


def refuse_doubtful(where: str, rows: Sequence[Sequence[float]], remedy: str, *, counted: bool) -> None:
    """Refuse rows without names that may as well be columns, or whose masses may be the numbers of the bodies.

    Args:
        where: what error messages call the file.
        rows: 5 or 7 numbers each: a body per row, if all is well.
        remedy: how to say what is meant in this format.
        counted: whether the first numbers can be those of the bodies.

    Raises:
        ValueError: if there are as many rows as there may be columns and the columns make a system as well, or if
            three or more rows begin with 0, 1, 2, ... or 1, 2, 3, ...
    """
    N, count = len(rows), len(rows[0])
    turned = [list(column) for column in zip(*rows, strict=True)]
    # Bodies without mass are rare; a star at rest in the origin would make a row of them.
    likely = min(column[0] for column in turned) > 0 or min(row[0] for row in rows) <= 0
    if N in (5, 7) and likely and _could_be_bodies(turned):
        per_row = f"{N} bodies {_DIMENSIONS[count]}, one per row"
        per_column = f"{count} bodies {_DIMENSIONS[N]}, one per column"
        if _could_be_bodies(rows):
            fail(f"{where}: may hold {per_row}, or {per_column}: transpose it in the second case, and {remedy}")
        fail(f"{where}: makes no system of {per_row}, but one of {per_column}; transpose it, or {remedy}")
    first = turned[0]
    if counted and N >= 3 and any(first == list(range(start, start + N)) for start in (0, 1)):
        fail(
            f"{where}: the first column counts the bodies ({first[0]:g}, {first[1]:g}, {first[2]:g}, ...): an index or "
            f"the masses? {remedy}"
        )


def _could_be_bodies(rows: Sequence[Sequence[float]]) -> bool:
    """Masses ≥ 0, not all of them 0, and no two bodies at one place."""
    D = (len(rows[0]) - 1) // 2
    masses, places = [row[0] for row in rows], {tuple(row[1 : 1 + D]) for row in rows}
    return all(mass >= 0 for mass in masses) and any(mass > 0 for mass in masses) and len(places) == len(rows)
