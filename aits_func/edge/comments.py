"""What comments in a table of text state beside the names of its columns: constants and units."""

import re
from collections.abc import Iterator

from .columns import are_units
from .file_contents import CONSTANT_OF, check_constant, fail, short
from .written_numbers import read_number

_CONSTANT = re.compile(
    r"(?<![\w.\[/])(G|gravitational[ _]constant|period|softening(?:[ _]length)?|eps|epsilon|(?:start[ _])?time|t|t0)"
    r"\s*(?:=|(?<=\w\w\w):|(?<=G):)\s*([+-]?\.?\d[^\s,;)\]]*)",
    re.IGNORECASE | re.ASCII,
)
# Without a sign between: a comment that begins so, in words that mean nothing else (G 2 is also a kind of star), and
# what follows it in the same way.
_BARE = re.compile(
    r"(gravitational[ _]constant|softening(?:[ _]length)?)[ \t]+([+-]?\.?\d[^\s,;)\]]*)", re.IGNORECASE | re.ASCII
)
_NEXT = re.compile(
    r"(?<=[,;])([ \t]*(?:G|period|time|softening|eps|epsilon))[ \t]+(?=[+-]?\.?\d)", re.IGNORECASE | re.ASCII
)
# What may stand before "time =": not every time is the one at which the rows hold, as the end time and a crossing time.
_BEFORE_TIME = re.compile(
    r"(?:^|[,;:(]|=\s*\S+|\b(?:at|and|with|the|initial|present|current|snapshot))\s*$", re.IGNORECASE
)
_END = re.compile(r"[ \t]*(?:$|[,;](?!\d)|[)\]]|and\b|[A-Za-z]\w*[ _]?\w*\s*[=:])")
_COMMA_OF_A_NUMBER = re.compile(r",\d")  # behind a 0, which is 0 in any unit, but not in 0,5
_LOOK_BACK = 60  # characters
_BEFORE_OTHER_T = re.compile(r"\b(?:to|until|till|end|final|max|maximum|every)\s*$", re.IGNORECASE)


def stated_units(text: str) -> str:
    """The units that a comment names, as in "units: au, yr" or as a line of units alone; "" if it names none."""
    said = re.match(r"units?\s*[=:]\s*(.+)", text, re.IGNORECASE)
    return short(said[1] if said else text) if said or are_units(text) else ""


def stated_constants(where: str, text: str) -> Iterator[tuple[str, float]]:
    """The constants that a comment states, by their names in `CONSTANTS`, with their values.

    Args:
        where: what error messages call the comment.
        text: the comment.

    Raises:
        ValueError: if a value is no number, has something behind it that may belong to it, or is out of range.
    """
    text = _with_signs(text)
    for found in _CONSTANT.finditer(text):
        name, before = (
            CONSTANT_OF[re.sub(r"[ _]", "_", found[1].lower())],
            text[max(0, found.start() - 60) : found.start()],
        )
        of_another = not _BEFORE_TIME.search(before) if len(found[1]) > 2 else bool(_BEFORE_OTHER_T.search(before))
        if name in ("time", "period") and of_another:
            continue
        try:
            value = read_number(found[2])
        except ValueError:
            fail(f"{where} says {name} = {short(found[2])!r}; write a number")
        if (value or _COMMA_OF_A_NUMBER.match(text, found.end())) and not _END.match(text, found.end()):
            fail(
                f"{where} says {short(found[0])!r} with something behind it; write the "
                f"number alone, in the file's own units, e.g. # {name} = {value:g}"
            )
        yield name, check_constant(where.rstrip(","), name, value)


def _with_signs(text: str) -> str:
    """The comment with = where it states a constant as in "softening 0.1"."""
    bare = _BARE.match(text)
    return f"{bare[1]} = {bare[2]}" + _NEXT.sub(r"\1 = ", text[bare.end() :]) if bare else text
