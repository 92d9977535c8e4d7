"""Tables of bodies as text: rows of numbers, columns apart by blanks, tabs, commas or semicolons.

Names of columns may stand in a comment before the rows, or as the first row; without them a row is mass, position,
velocity. A comment may state constants, as in ``# G = 39.5, time = 10``. # begins a comment anywhere, and %, ! and //
at the start of a line. What could be read in two ways is refused: a comma inside a number above all.
"""

import csv
import math
import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from .columns import Columns, DoubtfulError, are_names, component, default_columns, read_comment, read_names
from .comments import stated_constants, stated_units
from .file_contents import (
    COLUMNS,
    MAX_BODIES,
    Contents,
    fail,
    of_rows,
    refuse_doubtful,
    short,
    with_constants,
)
from .written_numbers import is_number, read_number, trouble

_MOST_COLUMNS = 64
_MOST_COMMENTS = 1000  # that are searched for names, those next to the rows
_MOST_CONSTANTS = 1000
_LONGEST_COMMENT = 2000  # characters; a longer one names no columns
_NUMBERED = re.compile(r"(?:col(?:umn)?\.?\s*)?[(\[]?(\d{1,2})[)\]]?\s*[:=.-]?\s*([^\W\d].*)", re.IGNORECASE)
_NAMES = "name the columns in a comment line before the rows, e.g. # m x y vx vy"


class _Line(NamedTuple):
    number: int  # from 1
    text: str  # without a comment


class _Lines(NamedTuple):
    """The lines of a file by what they are."""

    rows: list[_Line]
    before: list[_Line]  # comments before the first row
    after: list[_Line]  # comment lines between and behind the rows


def read_table(where: str, text: str) -> Contents:
    """One system from the text of a table.

    Args:
        where: what error messages call the file.
        text: the whole of it.

    Returns:
        Its `Contents`: N masses, positions (N, 2) or (N, 3) and velocities.

    Raises:
        ValueError: if a row, a number or a name cannot be understood, or could be in several ways.
    """
    if re.match(r"\s*\{\s*\"", text):
        fail(f"{where}: looks like JSON; give it the suffix .json")
    lines = _sort_lines(text)
    header, rows = _take_header(lines.rows)
    if not rows:
        fail(f"{where}: has no rows; write rows of {COLUMNS}")
    if len(rows) > MAX_BODIES:
        fail(f"{where}: holds more than {MAX_BODIES} bodies; leave out rows")
    separator = _separator(rows)
    cells = _without_empty_ends([_split(where, line, separator) for line in rows])
    count = _count_columns(where, rows, cells)
    named = _named_columns(where, lines, header, count)
    if named is None and count not in (5, 7):
        _refuse_count(where, rows[0], cells)
    columns = named or default_columns(count)
    numbers = _numbers(where, rows, cells, columns, separator)
    if named is None:
        if separator == "," and count == 7 and all(map(_has_decimal_commas, cells)):
            fail(
                f"{where}: has 7 whole numbers in a row, or 5 of which two have decimal commas? write points for "
                f"decimal commas, or {_NAMES.replace('m x y vx vy', 'm x y z vx vy vz')}"
            )
        integers = all(re.fullmatch(r"\d+", row[0]) for row in cells)
        refuse_doubtful(where, numbers, _NAMES, counted=integers)
    _refuse_snapshots(where, rows, [row[columns.mass] for row in numbers])
    return _with_comments(where, of_rows(where, numbers, columns), lines)


def _sort_lines(text: str) -> _Lines:
    rows: list[_Line] = []
    comments: tuple[list[_Line], list[_Line]] = ([], [])
    # A minus sign and a dash as texts have them mean the same as a hyphen.
    for number, line in enumerate(text.replace("\u2212", "-").replace("\u2013", "-").splitlines(), 1):
        if line.lstrip().startswith(("#", "%", "!", "//")):
            comments[bool(rows)].append(_Line(number, line.strip().lstrip("#%!/ \t")))
        elif (row := line.split("#", 1)[0].strip(" ")).strip():
            rows.append(_Line(number, row))
            if len(rows) > MAX_BODIES + 1:  # one may hold the names; they are too many already
                break
    return _Lines(rows, *comments)


def _take_header(rows: list[_Line]) -> tuple[_Line | None, list[_Line]]:
    """The row of names, if the first is one, and the others."""
    if rows:
        words = re.split(r"[\s,;]+", rows[0].text.strip(",; \t").replace('"', ""), maxsplit=_MOST_COLUMNS)
        if are_names(words) and not any(is_number(word) for word in words):
            return rows[0], rows[1:]
    return None, rows


def _separator(rows: Sequence[_Line]) -> str:
    """What parts the columns of all rows: the rarest sign that is there, or "" for blanks and tabs."""
    for sign in (";", ","):
        if any(sign in line.text for line in rows):
            return sign
    # A tab may stand for several blanks, or part cells: some are empty then, or have blanks, and all rows equally many.
    split = [[cell.strip() for cell in line.text.split("\t", _MOST_COLUMNS)] for line in rows]
    strict = len({len(row) for row in split}) == 1 and any(not cell or " " in cell for row in split for cell in row)
    return "\t" if strict and len(split[0]) >= 5 else ""


def _split(where: str, line: _Line, separator: str) -> list[str]:
    """The cells of a row, without quotation marks."""
    if '"' in line.text:
        try:
            if line.text.count('"') % 2:
                raise ValueError("an odd number of them")
            if not separator:
                found = re.findall(r'"[^"]*"|[^\s"]+', line.text)
                cells = [cell.strip('"') for cell in found[: _MOST_COLUMNS + 1]]
            else:
                (cells,) = csv.reader([line.text], delimiter=separator, skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            fail(f"{where}: line {line.number} has quotation marks that do not match ({short(error)}); leave them out")
    else:
        cells = line.text.split(separator or None, _MOST_COLUMNS)
    if len(cells) > _MOST_COLUMNS:
        fail(f"{where}: line {line.number} has more than {_MOST_COLUMNS} columns; every row needs {COLUMNS}")
    cells = [cell.strip() for cell in cells]
    for cell in cells if separator else ():
        if len(words := cell.split(maxsplit=_MOST_COLUMNS)) > 1 and all(map(is_number, words)):
            fail(f"{where}: line {line.number} has what is no number ({trouble(cell)})")
    return cells


def _without_empty_ends(cells: list[list[str]]) -> list[list[str]]:
    """The rows without their last cell, where it is empty in all: programs write a comma behind every number."""
    return [row[:-1] for row in cells] if all(not row[-1] for row in cells) else cells


def _count_columns(where: str, rows: Sequence[_Line], cells: Sequence[Sequence[str]]) -> int:
    """How many columns there are, in every row alike."""
    counts = [len(row) for row in cells]
    if counts[0] < 5 <= max(counts):
        fail(
            f"{where}: line {rows[0].number} has {_columns(counts[0])} and a later one {max(counts)}: leave out, or "
            "mark with #, lines with the number of bodies and the time (write it as # time = ...); a row is mass, "
            f"position, velocity: if yours is another, {_NAMES.replace('m x y vx vy', 'x y vx vy m')}"
        )
    for line, count in zip(rows, counts, strict=True):
        if count != counts[0]:
            fail(
                f"{where}: line {line.number} has {_columns(count)} and the first row {counts[0]}; every row needs "
                f"{COLUMNS}, or what names of columns say, and comments begin with #"
            )
    return counts[0]


def _refuse_count(where: str, first: _Line, cells: Sequence[Sequence[str]]) -> NoReturn:
    """Rows without names that are neither mass, position and velocity in two dimensions nor in three."""
    count = len(cells[0])
    if count == 1:
        fail(f"{where}: line {first.number} has 1 column; part columns by blanks, tabs, commas or semicolons")
    turn = f"; or transpose it, if its {len(cells)} rows are {COLUMNS}" if len(cells) in (5, 7) else ""
    fail(
        f"{where}: line {first.number} has {count} columns; every row needs {COLUMNS}; if yours has others, {_NAMES}: "
        f"what has another name is left out{turn}"
    )


def _columns(count: int) -> str:
    return f"{count} column{'s' if count != 1 else ''}"


def _named_columns(where: str, lines: _Lines, header: _Line | None, count: int) -> Columns | None:
    """The columns that the first row or a comment names, the nearest to the rows first; None if none does."""
    remedy = f"{_NAMES} (other columns are left out)"
    if header is not None:
        try:
            named = read_comment(header.text, count)
        except ValueError as error:
            fail(f"{where}: line {header.number} {error}; {remedy}")
        if named is None:
            fail(f"{where}: line {header.number} has what is no number; mark comments with #, or {remedy}")
        return _undisputed(where, lines, named, count)
    numbered = _numbered_names(lines.before[-_MOST_COMMENTS:])
    doubt = ""
    for line in reversed(_short(lines.before[-_MOST_COMMENTS:])):
        if any(line is each for each in numbered):
            continue
        try:
            named = read_comment(line.text, count)
        except DoubtfulError as error:
            doubt = doubt or f"{where}: line {line.number}, a comment, {error}; {remedy}"
            continue
        except ValueError as error:
            fail(f"{where}: line {line.number}, a comment, {error}; {remedy}")
        if named is not None:
            return _undisputed(where, lines, named, count)
    if numbered:
        try:
            return _undisputed(where, lines, read_names(list(numbered.values()), count), count)
        except ValueError as error:
            fail(f"{where}: comments name columns one by one, but {error}; {remedy}")
    if doubt:
        fail(doubt)
    return _undisputed(where, lines, None, count)


def _numbered_names(comments: Sequence[_Line]) -> dict[_Line, str]:
    """The lines and names of a list with one column a line, as in "column 1: x", counted from 0 or 1.

    The last such list in which at least three names are known ones; nothing if there is none.
    """
    names: dict[_Line, str] = {}
    first = 0
    for line in _short(comments):
        found = _NUMBERED.fullmatch(line.text)
        if found and names and int(found[1]) == first + len(names):
            names[line] = found[2].strip()
        elif found and int(found[1]) in (0, 1):
            first, names = int(found[1]), {line: found[2].strip()}
    return names if sum(bool(component(name)) for name in names.values()) >= 3 else {}


def _short(comments: Sequence[_Line]) -> list[_Line]:
    return [line for line in comments if len(line.text) <= _LONGEST_COMMENT]


def _undisputed(where: str, lines: _Lines, named: Columns | None, count: int) -> Columns | None:
    """The same columns, unless a comment between the rows or behind them names others."""
    for line in _short(lines.after[:_MOST_COMMENTS]):
        try:
            other = read_comment(line.text, count)
        except ValueError:
            continue
        if other is not None and other != (named or default_columns(count)):
            fail(f"{where}: line {line.number}, a comment behind the first row, names other columns; {_NAMES}")
    return named


def _numbers(
    where: str, rows: Sequence[_Line], cells: Sequence[Sequence[str]], columns: Columns, separator: str
) -> list[list[float]]:
    """The numbers of the columns that are read; NaN in the place of others."""
    besides = [place for place in (columns.time, columns.softening) if place is not None]
    places = [columns.mass, *columns.position, *columns.velocity, *besides]
    numbers = []
    for line, row in zip(rows, cells, strict=True):
        values = [math.nan] * len(row)
        for place in places:
            try:
                values[place] = read_number(row[place])
            except ValueError:
                fail(f"{where}: line {line.number} has what is no number ({trouble(row[place])})")
        numbers.append(values)
    read = [row[place] for row in cells for place in places]
    # -0,25 with all its neighbours whole numbers: one number whose decimal comma has been taken for a separator.
    if separator == "," and "-0" in read and not any(sign in cell for cell in read for sign in ".eEdD"):
        fail(f"{where}: has -0 and no decimal points between its commas; write a point for a decimal comma")
    return numbers


def _has_decimal_commas(row: Sequence[str]) -> bool:
    """Whether 7 cells can be 5 numbers of which two have decimal commas, as tables write them: without a last 0."""
    if not all(re.fullmatch(r"[+-]?\d+", cell) for cell in row):
        return False
    pairs, place = 0, 1
    while place < len(row):
        is_fraction = bool(re.fullmatch(r"\d*[1-9]", row[place]))
        pairs, place = pairs + is_fraction, place + 1 + is_fraction
    return pairs >= 2


def _refuse_snapshots(where: str, rows: Sequence[_Line], masses: Sequence[float]) -> None:
    """Refuse blocks of the same masses: one system at several times, which would be read as a larger one."""
    breaks = [i for i in range(1, len(rows)) if rows[i].number > rows[i - 1].number + 1]
    size = breaks[0] if breaks else 0
    if size < 2 or breaks != list(range(size, len(rows), size)) or len(rows) % size:
        return
    if all(masses[place : place + size] == masses[:size] for place in breaks):
        fail(
            f"{where}: has {len(breaks) + 1} blocks of {size} rows with the same masses, as of several times; keep "
            "one, or leave nothing between the rows if they are one system"
        )


def _with_comments(where: str, contents: Contents, lines: _Lines) -> Contents:
    """The contents with the constants and units that comments state."""
    found, units = 0, dict.fromkeys([contents.units] if contents.units else [])
    # Each text once: a file of nothing else has half a million of them.
    for text, number in {line.text: line.number for line in (*lines.before, *lines.after)}.items():
        if said := stated_units(text):
            units[said] = None
        for name, value in stated_constants(f"{where}: line {number}, a comment,", text):
            contents, found = with_constants(where, contents, {name: value}), found + 1
            if found > _MOST_CONSTANTS:
                fail(f"{where}: comments state more than {_MOST_CONSTANTS} constants; leave some out")
    return contents._replace(units=short(", ".join(units)) if units else "")
