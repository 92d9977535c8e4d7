"""One system in JSON: an object of lists, or a list of bodies, with what else the file states.

    {"G": 1.0, "mass": [...], "position": [[x, y], ...], "velocity": [[vx, vy], ...]}
    {"G": 1.0, "m": [...], "x": [...], "y": [...], "vx": [...], "vy": [...]}
    {"G": 1.0, "bodies": [{"mass": 1.0, "position": [x, y], "velocity": [vx, vy]}, {"m": 1.0, "x": ...}]}

and the list of bodies alone. Beside the bodies: G, period, softening, time, units. Words that describe (name,
description, source, ...) mean nothing here; every other key is reported as not read.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .columns import COMPONENTS, VECTORS, component, read_names, vector
from .file_contents import CONSTANT_OF, MAX_BODIES, Contents, check_constant, fail, of_rows, short, with_constants
from .written_numbers import read_number

_FORM = "an object with mass [m, ...], position [[x, y], ...] and velocity [[vx, vy], ...]"
_BODY = '{"mass": m, "position": [x, y], "velocity": [vx, vy]}'
_BODIES = ("bodies", "particles")
_WORDS = frozenset(
    (
        *("name", "names", "label", "labels", "title", "description", "comment", "comments", "note", "notes", "id"),
        *("source", "sources", "reference", "references", "author", "authors", "license", "url", "doi", "version"),
    )
)


class _RefusedError(ValueError):
    """What is valid JSON and must not be read all the same."""


def read_json(where: str, text: str) -> Contents:
    """One system from the text of a JSON file.

    Args:
        where: what error messages call the file.
        text: the whole of it.

    Returns:
        Its `Contents`: N masses, positions (N, 2) or (N, 3) and velocities.

    Raises:
        ValueError: if it is not valid JSON, a key stands twice or for the same thing as another, or a number that is
            needed is missing or none.
    """
    content = _parse(where, text)
    if isinstance(content, list) and content and all(isinstance(body, dict) for body in content):
        content = {"bodies": content}
    if not isinstance(content, dict):
        fail(f"{where}: must hold {_FORM}, or a list of bodies {_BODY}, got {_kind(content)}")
    constants: dict[str, float] = {}
    parts: dict[str, Any] = {}
    bodies, units, left_out = None, "", []
    for key, value in content.items():
        name = _plain(key)
        if name in CONSTANT_OF:
            _state(where, constants, CONSTANT_OF[name], key, value)
        elif name in ("units", "unit"):
            units = _read_units(where, value)
        elif name in _BODIES and bodies is None:
            bodies = value
        elif component(key) in COMPONENTS or vector(key):
            parts[key] = value
        elif not (name in _WORDS and _is_text(value)):
            left_out.append(key)
    if bodies is not None and parts:
        fail(f"{where}: has a list of bodies and {', '.join(map(short, parts))} besides; keep one of them")
    contents = _of_lists(where, parts) if bodies is None else _of_bodies(where, bodies)
    contents = contents._replace(left_out=(*left_out, *contents.left_out), units=units or contents.units)
    return with_constants(where, contents, constants)


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_table, parse_float=_float, parse_int=_integer)
    except RecursionError:
        fail(f"{where}: is nested too deeply; write lists of numbers, position as [[x, y], ...]")
    except _RefusedError as error:
        fail(f"{where}: {error}")
    except ValueError as error:
        if "Extra data" in str(error):
            fail(f"{where}: goes on after its first value ({short(error)}); write one object, or one list of bodies")
        fail(
            f"{where}: is not valid JSON ({short(error)}); see that it is complete, without comments and without a "
            "comma behind the last entry"
        )


def _table(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _RefusedError(f"has the key {short(twice)!r} twice; keep one")
    return table


def _float(text: str) -> float:
    try:
        return read_number(text)
    except ValueError as error:
        raise _RefusedError(f"has what is no number ({error})") from None


def _integer(text: str) -> int:
    # No program writes it; it is what a decimal comma makes of -0,25.
    if text == "-0":
        raise _RefusedError("has the number -0; write a point for a decimal comma, or 0")
    return int(text)


def _of_lists(where: str, parts: Mapping[str, Any]) -> Contents:
    """The contents of an object of lists: of masses, and of vectors or of their parts."""
    keys: dict[str, str] = {}
    for key, value in parts.items():
        nested = isinstance(value, list) and bool(value) and isinstance(value[0], list)
        part = component(key)
        what = vector(key) if part not in COMPONENTS or (nested and vector(key)) else part
        if what in keys:
            fail(f"{where}: has {short(keys[what])!r} and {short(key)!r} for the same thing; keep one")
        keys[what] = key
    for kind, axes in VECTORS.items():
        doubled = [keys[part] for part in axes if part in keys and kind in keys]
        if doubled:
            fail(f"{where}: has {short(keys[kind])!r} and {short(doubled[0])!r} for the same thing; keep one")
    missing = [] if "m" in keys else ["mass"]
    missing += [kind for kind, axes in VECTORS.items() if not {kind, *axes} & set(keys)]
    if missing:
        fail(f"{where}: has no {' and no '.join(missing)}; write {_FORM}, or a list of bodies {_BODY}")
    mass = _numbers(where, short(keys["m"]), parts[keys["m"]])
    position, velocity = (
        _rows(where, keys[kind], parts[keys[kind]])
        if kind in keys
        else _joined(where, {part: (keys[part], parts[keys[part]]) for part in axes if part in keys}, axes)
        for kind, axes in VECTORS.items()
    )
    D = len(position[0]) if position else 0
    for kind, rows in (("position", position), ("velocity", velocity)):
        if not (len(rows) == len(mass) and all(len(row) == D for row in rows) and D in (2, 3)):
            fail(
                f"{where}: {kind} must have one row of 2 or 3 numbers for each of the {len(mass)} masses, all of one "
                f"length, got {len(rows)} rows of {sorted({len(row) for row in rows})}"
            )
    return Contents(mass, position, velocity)


def _rows(where: str, key: str, value: Any) -> list[list[float]]:
    return [_numbers(where, f"{short(key)}[{i}]", row) for i, row in enumerate(_list(where, short(key), value))]


def _joined(where: str, lists: Mapping[str, tuple[str, Any]], axes: Sequence[str]) -> list[list[float]]:
    """Rows of vectors from lists of their parts, the third of which may be missing."""
    for axis in axes[:2]:
        if axis not in lists:
            fail(f"{where}: has {short(next(iter(lists.values()))[0])!r} and no {axis}; write both lists")
    columns = [_numbers(where, short(key), value) for axis in axes if axis in lists for key, value in [lists[axis]]]
    if len({len(column) for column in columns}) > 1:
        fail(f"{where}: the lists {', '.join(lists)} differ in length; write one number per body into each")
    return [list(row) for row in zip(*columns, strict=True)]


def _of_bodies(where: str, bodies: Any) -> Contents:
    """The contents of a list of bodies, or of an object of bodies by their names."""
    named = list(bodies.values()) if isinstance(bodies, dict) else _list(where, "bodies", bodies)
    if len(named) > MAX_BODIES:
        fail(f"{where}: holds more than {MAX_BODIES} bodies; leave out some")
    left_out: dict[str, None] = {}
    flat = [_body(where, f"bodies[{i}]", body, left_out) for i, body in enumerate(named)]
    names = list(dict.fromkeys(part for body in flat for part in body))
    try:
        columns = read_names(names)
    except ValueError as error:
        fail(f"{where}: a body {error}; write every one as {_BODY}")
    for i, body in enumerate(flat):
        if missing := [part for part in names if part not in body]:
            fail(f"{where}: bodies[{i}] has no {' and no '.join(missing)}, which others have; write it")
    contents = of_rows(where, [[body[part] for part in names] for body in flat], columns)
    return contents._replace(left_out=tuple(f"{key} of the bodies" for key in left_out))


def _body(where: str, name: str, body: Any, left_out: dict[str, None]) -> dict[str, float]:
    """The numbers of one body by what they are called here; keys that are not read are noted."""
    if not isinstance(body, dict):
        fail(f"{where}: {name} must be an object {_BODY}, got {_kind(body)}")
    flat: dict[str, float] = {}
    for key, value in body.items():
        place = f"{name}.{short(key)}"
        kind = vector(key) if isinstance(value, list | dict) else ""
        found: Iterable[tuple[str, float]] = ()
        if kind:
            found = _vector_parts(where, place, kind, value)
        elif part := component(key):
            found = ((part, _number(where, place, value)),)
        elif not (_plain(key) in _WORDS and _is_text(value)):
            left_out[key] = None
        for part, number in found:
            if part in flat:
                fail(f"{where}: {place} says {part} again; keep one")
            flat[part] = number
    return flat


def _vector_parts(where: str, place: str, kind: str, value: Any) -> list[tuple[str, float]]:
    """The parts of a vector that is a list, or an object with the names of the axes."""
    if isinstance(value, list):
        numbers = _numbers(where, place, value)
        if len(numbers) not in (2, 3):
            fail(f"{where}: {place} must have 2 or 3 numbers, got {len(numbers)}")
        return list(zip(VECTORS[kind], numbers, strict=False))
    parts = {axis: part for axes in VECTORS.values() for axis, part in zip(axes, VECTORS[kind], strict=True)}
    for key in value:
        if component(key) not in parts:
            fail(f"{where}: {place} has the key {short(key)!r}; write {', '.join(VECTORS[kind])}")
    return [(parts[component(key)], _number(where, f"{place}.{key}", number)) for key, number in value.items()]


def _state(where: str, constants: dict[str, float], name: str, key: str, value: Any) -> None:
    if value is None:
        return
    if name in constants:
        fail(f"{where}: says {name} twice, the second time as {short(key)!r}; keep one")
    constants[name] = check_constant(where, name, _number(where, short(key), value))


def _read_units(where: str, value: Any) -> str:
    """Units as the file says them: in words, or as an object such as {"length": "AU"}."""
    if isinstance(value, dict) and all(isinstance(unit, str) for unit in value.values()):
        value = ", ".join(f"{quantity} in {unit}" for quantity, unit in value.items())
    if value is None or isinstance(value, str):
        return short(value) if value else ""
    fail(f"{where}: units must be words, or an object of words, got {_kind(value)}")


def _is_text(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(each, str | int | None) for each in values)


def _plain(key: str) -> str:
    return key.strip().lower().replace(" ", "_")


def _list(where: str, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        fail(f"{where}: {name} must be a list, got {_kind(value)}; write [...]")
    return value


def _numbers(where: str, name: str, value: Any) -> list[float]:
    return [_number(where, f"{name}[{i}]", x) for i, x in enumerate(_list(where, name, value))]


def _number(where: str, name: str, value: Any) -> float:
    # bool is an int to Python, and no number to anyone else.
    if not isinstance(value, int | float) or isinstance(value, bool):
        fail(f"{where}: {name} must be a number, got {_kind(value)}; write it without quotes or brackets")
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused with the infinite ones


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
