"""What the columns of a table of bodies are called, and which of them holds what.

A name is taken for what it says in any order, in capitals or not, with its unit in brackets or behind a stroke:

    mass       m, mass, masses
    position   x, y, z; pos_x, x_pos, position_x, r_x, ...      together: position, pos, r, coordinates
    velocity   vx, vy, vz; v_x, vel_x, velocity_x, x_dot, ...   together: velocity, vel, v
    besides    t, time: when the rows hold; eps, softening: what they are softened by

Nothing is guessed: names that do not say where the masses, positions and velocities are make a `ValueError`.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

AXES = "xyz"
COMPONENTS = ("m", *AXES, "vx", "vy", "vz")
"""What the parts of a body are called here."""

VECTORS = {"position": AXES, "velocity": ("vx", "vy", "vz")}
"""What the parts of its vectors are called here."""

_MASS = ("m", "mass", "masses")
_POSITION = ("{}", "{}pos", "{}_pos", "{}_position", "r{}", "r_{}")
_PLACES = ("pos", "position", "positions", "coord", "coordinate")
_VELOCITY = ("{}v", "{}vel", "{}_vel", "{}_velocity", "{}dot", "{}_dot", "d{}dt", "d{}_dt", "d{}/dt")
_SPEEDS = ("v", "vel", "velocity", "velocities")
_TOGETHER = {
    "position": ("position", "positions", "pos", "r", "x", "coordinates", "coords"),
    "velocity": ("velocity", "velocities", "vel", "v"),
}
_BESIDES = {"t": "time", "time": "time", "eps": "softening", "epsilon": "softening", "softening": "softening"}
_LENGTHS = ("au", "pc", "kpc", "mpc", "ly", "km", "m", "cm", "rsun")
_TIMES = ("s", "sec", "h", "d", "day", "days", "yr", "year", "years", "kyr", "myr", "gyr")
_MASSES = ("kg", "g", "msun", "solmass", "mearth", "mjup")
_BRACKET = r"[\[(][^\[(\])]*[\])]"
_NO_UNIT = re.compile(
    r"log|\bln\b|\b(?:deg|rad|arcsec|arcmin|mas|uas)\b", re.IGNORECASE
)  # of a length, a mass or a speed
_MOST_WORDS = 100  # of a comment that may name columns
_LONGEST_NAME = 60
# Words that names of columns do not have, and sentences do.
_OF_SENTENCES = frozenset(
    (
        *("the", "and", "in", "of", "with", "for", "an", "to", "by", "at", "from", "is", "are", "as", "on", "or"),
        *("that", "this", "was", "were", "its", "it", "be", "where", "units", "written", "bodies", "conditions"),
    )
)


class Columns(NamedTuple):
    """Where in a row everything is: plain numbers of columns, from 0."""

    mass: int
    position: tuple[int, ...]  # D
    velocity: tuple[int, ...]  # D
    time: int | None = None
    softening: int | None = None
    left_out: tuple[str, ...] = ()  # names of the columns that are not read
    units: str = ""  # as the names say them, e.g. "x in au, vx in km/s"


class DoubtfulError(ValueError):
    """A sentence that names columns in another order than the standard one: it may be meant so, or not."""


def default_columns(count: int) -> Columns:
    """Mass, position, velocity: of 5 columns in two dimensions, of 7 in three."""
    D = (count - 1) // 2
    return Columns(0, tuple(range(1, 1 + D)), tuple(range(1 + D, 1 + 2 * D)))


def component(name: str) -> str:
    """What one number by that name is: one of `COMPONENTS`, "time", "softening", or ""."""
    return _COMPONENT_OF.get(_split_unit(name)[0], "")


def vector(name: str) -> str:
    """What a list of numbers by that name is: "position", "velocity", or ""."""
    plain = _split_unit(name)[0]
    return next((kind for kind, names in _TOGETHER.items() if plain in names), "")


def read_names(names: Sequence[str], count: int | None = None) -> Columns:
    """Find out from their names what the columns hold.

    Args:
        names: one for every column; or mass, position and velocity with one name for all parts of a vector.
        count: how many columns there are, if that is known otherwise.

    Returns:
        The `Columns`.

    Raises:
        ValueError: if the names are not enough to know, with what is wrong, e.g. "names x twice".
    """
    names = [name.strip("\"' ") for name in names]
    together = _expand(names, count)
    if together is not None:
        names = together
    if count is not None and len(names) != count:
        raise ValueError(f"has {len(names)} names for {count} columns")
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        what = component(name)
        if what in places:
            raise ValueError(f"names {what} twice ({names[places[what]]!r} and {name!r})")
        if what:
            places[what] = place
    D = 3 if "z" in places or "vz" in places else 2
    needed = {kind: VECTORS[kind][:D] for kind in VECTORS}
    missing = [part for part in ("m", *needed["position"], *needed["velocity"]) if part not in places]
    if missing:
        raise ValueError(f"names no {' and no '.join(missing)}")
    return Columns(
        places["m"],
        tuple(places[part] for part in needed["position"]),
        tuple(places[part] for part in needed["velocity"]),
        places.get("time"),
        places.get("softening"),
        tuple(name or f"column {place + 1}" for place, name in enumerate(names) if not component(name)),
        _units({part: _split_unit(names[place])[1] for part, place in places.items()}),
    )


def read_comment(text: str, count: int) -> Columns | None:
    """The columns that a comment before the rows names; None if it is no list of names.

    Args:
        text: the comment, without its mark.
        count: how many columns the rows have.

    Raises:
        DoubtfulError: if it is a sentence that seems to say what the columns hold.
        ValueError: if it is a list of names, or reads like one, and does not say what the columns hold.
    """
    reasons = []
    if are_units(text) or len(text.split(maxsplit=_MOST_WORDS)) > _MOST_WORDS:
        return None
    text = re.sub(r"(?<!\S)\d+\s*[:.)]\s*(?=[^\W\d])", "", text)  # as in 1:m 2:x 3:y
    for names in _splittings(text):
        try:
            columns = read_names(names, count)
            if not _OF_SENTENCES.intersection(map(str.lower, columns.left_out)):
                return columns
            reasons.append((True, 0, "it reads like a sentence"))
        except ValueError as error:
            reasons.append((len(names) == count, sum(map(bool, map(component, names))), str(error)))
    if not reasons:
        return None
    reason = max(reasons)[-1]
    # Parted at every sign as well, or c1=m c2=x would seem to name nothing.
    known = max((_known(re.split(parts, _without_units(text))) for parts in (r"[\s,;|]+", r"\W+")), key=len)
    if any(word.lower().strip(".:") in _OF_SENTENCES for word in text.split()):
        if _says_an_order(known) and not _is_standard(known, count):
            raise DoubtfulError(f"seems to name columns, but {reason}")
        return None
    if len(known) >= 3 and ("=" not in text or _says_an_order(known)):
        raise ValueError(f"seems to name columns, but {reason}")
    if any(len(names) == count and are_names(names) and "=" not in text for names in _splittings(text)):
        raise ValueError(f"has as many words as there are columns, but {reason}")
    return None


def are_units(text: str) -> bool:
    """Whether a comment consists of units alone, such as the line "kg m m m/s m/s" below names of columns."""
    parts = re.split(r"[\s,;|*/^·()\[\]]+", text.lower(), maxsplit=_MOST_WORDS)
    words = [part for part in parts if part.strip("+-0123456789")]
    return len(words) >= 2 and all(word in (*_LENGTHS, *_TIMES, *_MASSES, "kms", "kmps") for word in words)


def are_names(cells: Sequence[str]) -> bool:
    """Whether cells can be names at all: words, at least three, and no numbers."""
    return len(cells) >= 3 and all(
        not cell or bool(re.search(r"[^\W\d_]", cell) and not re.match(r"[+-]?\.?\d", cell)) for cell in cells
    )


def _component_names() -> Iterator[tuple[str, str]]:
    for name in _MASS:
        yield name, "m"
    for axis in AXES:
        for pattern in (*_POSITION, *(f"{place}{join}{{}}" for place in _PLACES for join in ("", "_"))):
            yield pattern.format(axis), axis
        for pattern in (*_VELOCITY, *(f"{speed}{join}{{}}" for speed in _SPEEDS for join in ("", "_"))):
            yield pattern.format(axis), f"v{axis}"
    yield from _BESIDES.items()


_COMPONENT_OF: Mapping[str, str] = dict(_component_names())


@lru_cache(maxsize=4096)
def _split_unit(name: str) -> tuple[str, str]:
    """A name in small letters, its words joined by _, and its unit: ("vx", "km/s") of "Vx [km/s]" and of "vx_km_s"."""
    name = name.strip().strip("\"'").strip()
    if len(name) > _LONGEST_NAME:
        return name.lower(), ""
    bracket = re.fullmatch(r"([^\[({]*)[\[({]\s*([^\])}]*?)\s*[\])}]", name)
    plain = re.sub(r"[\s.\-]+", "_", (bracket[1] if bracket else name).strip()).lower()
    if bracket and _NO_UNIT.search(bracket[2]):
        return name.lower(), ""
    if bracket:
        return plain, "" if bracket[2].isdigit() else bracket[2]
    if plain not in _COMPONENT_OF:
        for stroke in re.finditer(r"[_/]", plain):
            head, unit = plain[: stroke.start()], re.split("[_/]", plain[stroke.end() :])
            if _is_unit_of(_COMPONENT_OF.get(head, ""), [word for word in unit if word != "per"]):
                return head, "/".join(word for word in unit if word != "per")
    return plain, ""


def _is_unit_of(part: str, unit: Sequence[str]) -> bool:
    if part in VECTORS["velocity"]:
        return list(unit) in (["kms"], ["kmps"]) or (len(unit) == 2 and unit[0] in _LENGTHS and unit[1] in _TIMES)
    known = _MASSES if part == "m" else _TIMES if part == "time" else _LENGTHS if part else ()
    return len(unit) == 1 and unit[0] in known


def _units(of: Mapping[str, str]) -> str:
    """The units that are named, all parts of a vector in the same one."""
    said = []
    for kind, parts in (("m", ("m",)), *VECTORS.items()):
        named = {of[part] for part in parts if of.get(part)}
        if len(named) > 1:
            shown = ", ".join(repr(unit)[1:-1] for unit in sorted(named))  # on one printable line, whatever they are
            raise ValueError(f"has the parts of {kind} in several units ({shown}); convert them")
        if named:
            said.append(f"{'mass' if kind == 'm' else kind} in {named.pop()}")
    return ", ".join(said)


def _expand(names: Sequence[str], count: int | None) -> list[str] | None:
    """Names with the parts in the place of whole vectors, if that is what the names are of."""
    kinds = [vector(name) for name in names]
    if (
        count is None
        or sorted(filter(None, kinds)) != ["position", "velocity"]
        or any(component(name) in COMPONENTS[2:] for name in names)
    ):
        return None
    D, rest = divmod(count - len(names) + 2, 2)
    if rest or D not in (2, 3):
        return None
    unit = {kind: _split_unit(name)[1] for kind, name in zip(kinds, names, strict=True)}
    parts = [
        [f"{part} [{unit[kind]}]" for part in VECTORS[kind][:D]] if kind else [name]
        for kind, name in zip(kinds, names, strict=True)
    ]
    return list(itertools.chain(*parts))


def _splittings(text: str) -> Iterator[list[str]]:
    """The ways in which a comment may be meant as a list of names, with a word and a colon before it or without."""
    text = _joined_units(text)
    label = re.match(r"[^:=]{1,40}[:=]\s*(?=\S)", text)
    for line in (text.strip(), text[label.end() :].strip() if label else ""):
        for separator in (";", ",", "\t", "|"):
            if separator in line:
                for whole in dict.fromkeys((line, line.strip(separator + " "))):
                    yield [part.strip() for part in whole.split(separator)]
        if line:
            yield re.split(r"\s{2,}", line)
            yield line.split()
            yield re.split(r"[\s,;|]+", line.strip(",;| "))


def _joined_units(text: str) -> str:
    """The text with units in brackets as parts of the names before them."""
    text = re.sub(_BRACKET, lambda found: found[0].replace(" ", ""), text)
    return re.sub(r"(?<!\s)\s+(?=[\[(])", "", text)


def _without_units(text: str) -> str:
    """The text without what stands in brackets, and without "in km"."""
    return re.sub(r"\bin\s+[^\s,;]+", " ", re.sub(_BRACKET, " ", text))


def _known(words: Sequence[str]) -> list[str]:
    """The words that are parts of a body, or the whole vectors, in the order they come."""
    parts = [what for word in words if (what := component(word)) in COMPONENTS]
    whole = [what for word in words if (what := "m" if component(word) == "m" else vector(word))]
    return whole if len(parts) < 4 and len(set(whole)) == 3 else parts


def _says_an_order(known: Sequence[str]) -> bool:
    """Whether words say where everything is: the parts of a body in two dimensions, or mass and both vectors."""
    return {"x", "y", "vx", "vy"} <= set(known) or {"m", *VECTORS} <= set(known)


def _is_standard(known: Sequence[str], count: int) -> bool:
    D = (count - 1) // 2
    return list(known) in (["m", *VECTORS], ["m", *(part for parts in VECTORS.values() for part in parts[:D])])
