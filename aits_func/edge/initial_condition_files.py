"""Initial conditions in files: one system from .npy, .txt or .json, and to it.

    .npy   an array (N, 1 + 2D): per body its mass, position and velocity, so 5 or 7 columns
    .txt   the same rows as text, columns apart by blanks or commas, # starts a comment
    .json  an object with the keys mass (N,), position (N, D), velocity (N, D), and if wanted
           G and period; other keys are not read

A file is read into memory whole, up to 4 MiB and 4096 bodies, and nothing in it is executed: no
pickles. Whatever is wrong with it, the error is a ``ValueError`` of one line: file, trouble, remedy.
"""

import io
import json
import math
import os
import re
import stat
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import torch

from ..base.check import check_system, require
from ..base.types import System

MAX_BYTES = 4 * 2**20
"""Largest file that is read: four times what the most bodies take as text. Parsed it takes some 100 MiB at most."""

MAX_BODIES = 4096
"""Most bodies in a file: forces and checks are direct sums, whose N × N × D arrays then take 0.4 GB each."""

_SUFFIXES = (".npy", ".txt", ".json")
_COLUMNS = "mass, position, velocity: 5 columns in two dimensions, 7 in three"


class LoadedSystem(NamedTuple):
    """What a file says: a system, and the constants that only .json can hold.

    Shapes: one `System`; plain numbers. Units: the file's.
    """

    system: System  # (N,), (N, D)  float, on the CPU, at time 0
    G: float | None = None  # the gravitational constant of the file's units, if it says
    period: float | None = None  # time after which the system returns to its start, if it says


def load_system(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float64, softening: float = 0.0
) -> LoadedSystem:
    """Read one system from a .npy, .txt or .json file.

    A system alone is not returned, as a G that the file states must not be lost on the way.

    Args:
        path: of the file; its suffix says its format (see the module's docstring).
        dtype: floating-point dtype of the system.
        softening: > 0 if the system is going to be softened: then bodies may coincide.

    Returns:
        A `LoadedSystem`: mass (N,), position and velocity (N, D), time 0; G and period, or None.

    Raises:
        ValueError: if there is no such file, it cannot be read, is too large, or does not hold
            exactly one system as `check_system` wants it.
        ImportError: if a .npy file is to be read and numpy is not installed.

    Source: the formats are our own; .npy is NumPy enhancement proposal 1.
    """
    where = f"load_system: {str(path)!r}"
    require(
        isinstance(dtype, torch.dtype) and dtype.is_floating_point,
        f"load_system: dtype must be a floating-point one, e.g. torch.float64, got {dtype}",
    )
    suffix = _suffix(where, path)
    data = _read(where, path)
    if suffix == ".json":
        return _from_json(where, _text(where, data), dtype, softening)
    rows = _rows_of_array(where, data) if suffix == ".npy" else _rows_of_text(where, _text(where, data))
    D = (len(rows[0]) - 1) // 2
    mass, position, velocity = ([row[part] for row in rows] for part in (0, slice(1, 1 + D), slice(1 + D, None)))
    return LoadedSystem(_system(where, mass, position, velocity, dtype, softening))


def save_system(
    path: str | os.PathLike[str], system: System, *, G: float | None = None, period: float | None = None
) -> None:
    """Write mass, position and velocity of one system, so that `load_system` reads the same bits.

    The file appears whole or not at all. The system's time and work are not kept: a file holds
    initial conditions, and checkpoints hold states.

    Args:
        path: of the file; its suffix says its format. An existing file is replaced.
        system: one system, not a batch, on any device.
        G: gravitational constant to note, > 0; only .json can hold it.
        period: of a periodic orbit, time, > 0; only .json can hold it.

    Raises:
        ValueError: if the suffix is another, the system is a batch or not valid, G or period is
            not > 0 or not to be held, or the file cannot be written.
        ImportError: if a .npy file is to be written and numpy is not installed.

    Source: the formats are our own; .npy is NumPy enhancement proposal 1.
    """
    where = f"save_system: {str(path)!r}"
    suffix = _suffix(where, path)
    require(system.mass.ndim == 1, f"{where}: one system is needed, got a batch; take a row, e.g. take(systems, 0)")
    _check_bodies(where, system.mass.shape[0])
    check_system(system, softening=1.0, where=where)  # softened: coincident bodies are the reader's concern
    constants = {name: value for name, value in (("G", G), ("period", period)) if value is not None}
    for name, value in constants.items():
        require(0 < value < math.inf, f"{where}: {name} must be > 0 and finite, got {value}")
    require(
        suffix == ".json" or not constants,
        f"{where}: only .json can hold {' and '.join(constants)}; use that suffix, or leave them out",
    )
    # Double holds every float exactly, and Python writes the shortest text that reads as the same double.
    mass, position, velocity = (x.detach().cpu().double() for x in (system.mass, system.position, system.velocity))
    rows = torch.cat([mass[:, None], position, velocity], 1).tolist()
    if suffix == ".npy":
        numpy, buffer = _numpy(where), io.BytesIO()
        numpy.save(buffer, numpy.array(rows, dtype=numpy.float64), allow_pickle=False)
        data = buffer.getvalue()
    elif suffix == ".txt":
        names = ["m", *(f"{kind}{axis}" for kind in ("", "v") for axis in "xyz"[: position.shape[1]])]
        data = "".join(
            line + "\n" for line in ["# " + " ".join(names), *(" ".join(map(repr, r)) for r in rows)]
        ).encode()
    else:
        fields = {"mass": mass.tolist(), "position": position.tolist(), "velocity": velocity.tolist()}
        data = (json.dumps(constants | fields, indent=1) + "\n").encode()
    _write(where, Path(path), data)


def _suffix(where: str, path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    require(
        suffix in _SUFFIXES, f"{where}: the suffix must be one of {', '.join(_SUFFIXES)}, got {suffix!r}; rename it"
    )
    return suffix


def _read(where: str, path: str | os.PathLike[str]) -> bytes:
    """The whole file, if it is a regular one of a sane size (a pipe would block, a device never end)."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        _fail(f"{where}: no such file; check the path, and the directory that it is relative to")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        _fail(f"{where}: cannot be found ({_short(error)}); check the path")
    require(not stat.S_ISDIR(mode), f"{where}: is a directory; name a file in it")
    require(stat.S_ISREG(mode), f"{where}: is not a regular file; copy its contents into one")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        _fail(f"{where}: cannot be read ({error.strerror}); check its permissions")
    require(len(data) <= MAX_BYTES, f"{where}: is larger than {MAX_BYTES // 2**20} MiB; name a file of one system")
    require(len(data) > 0, f"{where}: is empty; write rows of {_COLUMNS}, or save it again")
    return data


def _fail(message: str) -> NoReturn:
    """Raise with this line alone: the cause would only repeat it."""
    raise ValueError(message) from None


def _text(where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _fail(f"{where}: is not UTF-8 text (at byte {error.start}); a NumPy array wants the suffix .npy")


def _numpy(where: str) -> ModuleType:
    try:
        import numpy
    except ImportError as error:
        raise ImportError(f"{where}: .npy needs numpy; pip install 'aits_func[cli]', or use .txt or .json") from error
    return numpy


def _rows_of_array(where: str, data: bytes) -> list[list[float]]:
    numpy = _numpy(where)
    require(
        data.startswith(b"\x93NUMPY"),
        f"{where}: is not a NumPy array (no .npy header; pickles and .npz are not read); write it with numpy.save",
    )
    try:
        # It warns of impossible shapes, and then raises, and of what Python 2 wrote, which it reads.
        with numpy.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            array = numpy.load(buffer := io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy raise nearly anything, from EOFError to TokenError
        _fail(f"{where}: is damaged, cut off or holds objects ({_short(error)}); save an array of numbers again")
    require(
        array.dtype.kind in "fiu", f"{where}: must hold numbers, got dtype {array.dtype}; convert with astype(float)"
    )
    require(
        array.ndim == 2 and array.shape[0] >= 1 and array.shape[1] in (5, 7),
        f"{where}: must have shape (N, 5) or (N, 7), got {array.shape}; columns are {_COLUMNS}",
    )
    _check_bodies(where, array.shape[0])
    require(not buffer.read(1), f"{where}: goes on after the array; write one array of one system to a file")
    with numpy.errstate(over="ignore"):  # of a long double: it becomes infinite, which is refused below
        return array.astype(numpy.float64).tolist()


def _rows_of_text(where: str, text: str) -> list[list[float]]:
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        row = line.split("#", 1)[0].strip()
        if not row:
            continue
        fields = re.split(r"\s*,\s*|\s+", row, maxsplit=7)  # 8 are too many already
        columns, first = len(fields), len(rows[0]) if rows else len(fields)
        require(
            columns in (5, 7) and columns == first,
            f"{where}: line {number} has {columns if columns < 8 else 'more than 7'} columns"
            + (f" and the first row {first}" if columns != first else "")
            + f"; every row needs {_COLUMNS}",
        )
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            _fail(f"{where}: line {number} has what is no number ({_short(error)}); mark comments with #")
        require(len(rows) <= MAX_BODIES, f"{where}: holds more than {MAX_BODIES} bodies; leave out rows")
    require(len(rows) > 0, f"{where}: has no rows; write rows of {_COLUMNS}")
    return rows


def _from_json(where: str, text: str, dtype: torch.dtype, softening: float) -> LoadedSystem:
    try:
        content = json.loads(text)
    except RecursionError:
        _fail(f"{where}: is nested too deeply; write lists of numbers, position as [[x, y], ...]")
    except ValueError as error:
        _fail(f"{where}: is not valid JSON ({_short(error)}); see that it is complete")
    keys = "an object with mass [m, ...], position [[x, y], ...] and velocity [[vx, vy], ...]"
    require(isinstance(content, dict), f"{where}: must hold {keys}, got {_kind(content)}")
    missing = [key for key in ("mass", "position", "velocity") if key not in content]
    require(not missing, f"{where}: has no {' and no '.join(missing)}; write {keys}")
    mass = _numbers(where, "mass", content["mass"])
    position, velocity = (
        [_numbers(where, f"{key}[{i}]", row) for i, row in enumerate(_list(where, key, content[key]))]
        for key in ("position", "velocity")
    )
    D = len(position[0]) if position else 0
    for key, rows in (("position", position), ("velocity", velocity)):
        require(
            len(rows) == len(mass) and all(len(row) == D for row in rows) and D in (2, 3),
            f"{where}: {key} must have one row of 2 or 3 numbers for each of the {len(mass)} masses, all of one "
            f"length, got {len(rows)} rows of {sorted({len(row) for row in rows})}",
        )
    system = _system(where, mass, position, velocity, dtype, softening)
    return LoadedSystem(system, *(_constant(where, key, content.get(key)) for key in ("G", "period")))


def _list(where: str, name: str, value: Any) -> list[Any]:
    require(isinstance(value, list), f"{where}: {name} must be a list, got {_kind(value)}; write [...]")
    return value


def _numbers(where: str, name: str, value: Any) -> list[float]:
    return [_number(where, f"{name}[{i}]", x) for i, x in enumerate(_list(where, name, value))]


def _number(where: str, name: str, value: Any) -> float:
    # bool is an int to Python, and no number to anyone else.
    require(
        isinstance(value, int | float) and not isinstance(value, bool),
        f"{where}: {name} must be a number, got {_kind(value)}; write it without quotes or brackets",
    )
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused with the infinite ones


def _constant(where: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = _number(where, name, value)
    require(0 < number < math.inf, f"{where}: {name} must be > 0 and finite, got {number}; leave it out if unknown")
    return number


def _system(where: str, mass: Any, position: Any, velocity: Any, dtype: torch.dtype, softening: float) -> System:
    """The system in its dtype, checked: finite first, as the dtype may be what makes it infinite."""
    _check_bodies(where, len(mass))
    m, x, v = (torch.tensor(part, dtype=torch.float64) for part in (mass, position, velocity))
    for name, part in (("mass", m), ("position", x), ("velocity", v)):
        finite = part.isfinite().reshape(len(mass), -1).all(-1)
        body = int(finite.int().argmin())
        require(bool(finite.all()), f"{where}: {name} of body {body} is NaN or infinite; give it a finite number")
        require(
            bool(part.to(dtype).isfinite().all()),
            f"{where}: {name} is too large for {dtype}; use float64 or other units",
        )
    clock = torch.zeros((), dtype=dtype)
    system = System(m.to(dtype), x.to(dtype), v.to(dtype), clock, clock.clone())
    check_system(system, softening=softening, where=where)
    return system


def _check_bodies(where: str, bodies: int) -> None:
    require(
        2 <= bodies <= MAX_BODIES,
        f"{where}: 2 to {MAX_BODIES} bodies are needed, got N = {bodies}; add or leave out rows",
    )


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _short(error: Exception) -> str:
    """What an error says, on one line of at most 100 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def _write(where: str, path: Path, data: bytes) -> None:
    """To a neighbour first, then moved into place, so that a crash leaves the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        _fail(f"{where}: cannot be written ({error.strerror}); check that its folder exists and lets you write")
