"""Numbers as programs write them in text, Fortran's among them, and what is wrong with what is none.

Nothing is guessed: a comma is not taken for a point, and 05 not for 5, which may be the end of 1,05 or of 1 05.
"""

import re

from .file_contents import short

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.ASCII | re.IGNORECASE)
# Fortran writes D or Q for E, and no letter at all before an exponent of three digits.
_OF_FORTRAN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[dDqQ]([+-]?\d+)|([+-]?(?:\d+\.\d*|\.\d+))([+-]\d+)", re.ASCII)
_LONGEST = 1000  # characters; a double needs 767 digits at most
_PART_OF_A_NUMBER = re.compile(r"[+-]?0\d+", re.ASCII)
_TROUBLES = (
    (r"^$", "an empty cell; fill it"),
    (r"\d,\d", "write a point for a decimal comma, and nothing between thousands"),
    (r"\d\s+[+-]?\.?\d", "part all columns by one sign, and write a point for a decimal comma"),
    (r"\d['’_`]\d", "write nothing between thousands"),
    (r"^[+-]?0\d+$", "the end of another number? write a point for a decimal comma, and nothing between thousands"),
    (r"^\*+$", "it did not fit into its format; write it with a wider one"),
    (r"[\[\](){}]", "leave out brackets"),
    (r"^[+-]?[\d.]+[eEdD]?[+-]?\d*[+-]\d*\.", "put a blank between numbers"),
    (r"\d\.\d+\.\d", "write nothing between thousands"),
    (r"^[+-]?[\d.]+[eEdD][+-]?\d+$", "smaller than any double; use other units, or write 0"),
    (r"\d:\d", "write it as one decimal number"),
    (r"^[+-]?\.?\d[\d.]*([eE][+-]?\d+)?\s*[^\W\d]", "leave out its unit"),
)


def is_number(text: str) -> bool:
    """Whether this is a number, NaN and infinity included."""
    return len(text) <= _LONGEST and bool(_NUMBER.fullmatch(text) or _OF_FORTRAN.fullmatch(text))


def read_number(text: str) -> float:
    """The number that a text is.

    Raises:
        ValueError: if it is none, or may be the end of one, or is no zero and smaller than any double.
    """
    if len(text) > _LONGEST:
        raise ValueError(trouble(text))
    found = _OF_FORTRAN.fullmatch(text)
    plain = f"{found[1] or found[3]}e{found[2] or found[4]}" if found else text
    if not _NUMBER.fullmatch(plain) or _PART_OF_A_NUMBER.fullmatch(plain):
        raise ValueError(trouble(text))
    value = float(plain)
    if value == 0 and re.search("[1-9]", re.split("[eE]", plain)[0]):
        raise ValueError(trouble(text))
    return value


def trouble(text: str) -> str:
    """Why a text is no number, and what to do about it."""
    if len(text) > _LONGEST:
        return f"{short(text)!r}: longer than any number; part the columns"
    for pattern, remedy in _TROUBLES:
        if re.search(pattern, text):
            return f"{short(text)!r}: {remedy}" if text else remedy
    return f"{short(text)!r}: mark comments with #, and name the columns if some hold words"
