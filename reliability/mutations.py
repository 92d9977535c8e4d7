"""Damage to good files, drawn from a seeded generator: to their bytes, their numbers, and the trees that they hold."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

NASTY_NUMBERS = (
    *(0, -1, 2, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, 10**5000),
    *(1e308, -1e308, 5e-324, 1e-310, -0.0, float("nan"), float("inf"), float("-inf")),
)
NASTY_WORDS = (
    *("", "\0", "a\nb", "\r\n", "\x1b[2J\x1b[31m", "\x9b2J", "\u202eabc", "\ud800", "[red]", "$x$", "%s{}", "a" * 300),
    *("x" * 5000, "../../escaped", "../../etc/passwd", "/etc/passwd", "/dev/zero", "/", ".", "..", "../outside.npy"),
    *(
        "/dev/zero.npy",
        "pipe",
        "pipe.txt",
        "loop",
        "loop.npy",
        "folder",
        "folder.json",
        "cuda:99",
        "meta",
        "nul\0l.txt",
    ),
    *("float16", "complex64", "__class__", "os.system", "file", "a/../../b", "C:\\x", "=1+1", "missing.npy"),
)


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    inner: list[Any] = []
    for _ in range(depth - 1):
        inner = [inner]
    return inner


NASTY_VALUES: tuple[Any, ...] = (
    *NASTY_NUMBERS,
    *NASTY_WORDS,
    *(True, False, None, [], {}, [[]], [1e308] * 3, [0] * 2000, {"a": 1}, [None], ["\x1b"], nested(20), nested(400)),
)


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits, the other way round."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """A stretch of other bytes, often all alike."""
    start, size = _slice(rng, data, 64)
    other = rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.choice((0, 255, 32, 10, 27, 34, 91))]) * size
    return data[:start] + other + data[start + size :]


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Cut off anywhere."""
    return data[: rng.randrange(len(data))]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Bytes in between: random ones, or some that mean something somewhere."""
    place = rng.randrange(len(data) + 1)
    words = (
        b"\0",
        b"\n",
        b"\x1b]0;x\x07",
        b'"',
        b"[",
        b"]]",
        b"{",
        b"}",
        b",",
        b"#",
        b"=",
        b"\xff\xfe",
        b"nan",
        b"e999",
    )
    return data[:place] + rng.choice((*words, rng.randbytes(rng.randint(1, 16)))) + data[place:]


def remove(rng: random.Random, data: bytes) -> bytes:
    """A stretch left out."""
    start, size = _slice(rng, data, 64)
    return data[:start] + data[start + size :]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    """A stretch once more, somewhere else, up to a hundred times."""
    start, size = _slice(rng, data, 200)
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[start : start + size] * rng.choice((1, 1, 2, 100)) + data[place:]


def change_number(rng: random.Random, data: bytes) -> bytes:
    """A number that stands in the text, replaced by a nasty one."""
    numbers = list(re.finditer(rb"-?\d+(\.\d*)?([eE][-+]?\d+)?", data))
    if not numbers:
        return overwrite(rng, data)
    found = rng.choice(numbers)
    return data[: found.start()] + text_of(rng.choice(NASTY_NUMBERS)).encode() + data[found.end() :]


def nest(rng: random.Random, data: bytes) -> bytes:
    """Brackets within brackets, open or closed."""
    place, depth = rng.randrange(len(data) + 1), rng.choice((10, 100, 900, 1100, 5000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"{a=", b"}"), (b"a.", b""), (b"(", b")")))
    return data[:place] + opened * depth + (closed * depth if rng.random() < 0.5 else b"") + data[place:]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


BYTEWISE: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(flip_bits, overwrite, truncate, insert, remove, duplicate, change_number, nest),
)


def damage_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to three kinds of damage."""
    if rng.random() < 0.1:
        data = splice(rng, data, rng.choice(others))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BYTEWISE)(rng, data or b"\0")
    return data


def damage_tree(rng: random.Random, tree: Any) -> Any:
    """The same tree of dicts and lists with one entry changed: another value, another name, gone, or there twice."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return nasty_value(rng, tree)
    key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    act = rng.random()
    if act < 0.08:
        return _without(tree, key)
    if act < 0.16 and isinstance(tree, dict):
        return {(rng.choice(NASTY_WORDS) if name == key else name): value for name, value in tree.items()}
    if act < 0.16:
        return [*tree, *tree]
    entry = damage_tree(rng, tree[key])
    if isinstance(tree, dict):
        return {name: entry if name == key else value for name, value in tree.items()}
    return [entry if number == key else value for number, value in enumerate(tree)]


def nasty_value(rng: random.Random, old: Any) -> Any:
    """A nasty value, most often one of the old one's type, which gets further."""
    same: tuple[Any, ...] = NASTY_VALUES
    if isinstance(old, str):
        same = NASTY_WORDS
    elif isinstance(old, int | float):
        same = NASTY_NUMBERS
    return rng.choice(same if rng.random() < 0.7 else NASTY_VALUES)


def text_of(number: float) -> str:
    """A number as a file writes it, of any length."""
    return (
        str(number) if isinstance(number, float) or abs(number) < 2**80 else f"1{'0' * (4 * len(f'{number:x}') // 5)}"
    )


def _slice(rng: random.Random, data: bytes, most: int) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(rng.randint(1, most), len(data) - start)


def _without(tree: Any, key: Any) -> Any:
    if isinstance(tree, dict):
        return {name: value for name, value in tree.items() if name != key}
    return [value for number, value in enumerate(tree) if number != key]
