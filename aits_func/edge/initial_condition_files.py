"""Initial conditions in files: one system from .npy, .txt or .json, and to it.

    .npy   an array (N, 1 + 2D): per body its mass, position and velocity, so 5 or 7 columns; or a structured array
    .txt   the same rows as text, or columns in any order with names above them: see `text_tables`
    .json  an object with mass (N,), position (N, D) and velocity (N, D), or a list of bodies: see `json_bodies`

Text and JSON may state G, period, softening, time and units besides. What a file says is used, or refused, or
reported as not read, and nothing is guessed: what could be read in two ways is refused with how to say it in one.

A file is read into memory whole, up to 4 MiB and 4096 bodies, and nothing in it is executed: no
pickles. Whatever is wrong with it, the error is a ``ValueError`` of one line: file, trouble, remedy.
"""

import json
import os
import stat
from pathlib import Path
from typing import NamedTuple

import torch

from ..base.check import check_system, make_room, require
from ..base.types import System
from .array_rows import read_array, write_array
from .columns import VECTORS
from .file_contents import COLUMNS, MAX_BODIES, Contents, check_constant, decode, fail, quoted, short
from .json_bodies import read_json
from .text_tables import read_table

MAX_BYTES = 4 * 2**20
"""Largest file that is read: four times what the most bodies take as text. Parsed it takes some 100 MiB at most."""

_SUFFIXES = (".npy", ".txt", ".json")
_REMEDIES = {
    **dict.fromkeys((".csv", ".tsv", ".dat", ".asc", ".tab"), "tables of text are read as .txt: rename it"),
    ".npz": "save the one array that is wanted with numpy.save",
}


class LoadedSystem(NamedTuple):
    """What a file says: a system, and the constants that only text and JSON can hold.

    Shapes: one `System`; plain numbers. Units: the file's.
    """

    system: System  # (N,), (N, D)  float, on the CPU, at the file's time, or 0
    G: float | None = None  # the gravitational constant of the file's units, if it says
    period: float | None = None  # time after which the system returns to its start, if it says
    softening: float | None = None  # length, if it says: a system that is run with another is another system
    units: str = ""  # what it says about its units; no number is converted
    notes: tuple[str, ...] = ()  # what was not read, one sentence each: to be shown


def load_system(
    path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float64, softening: float = 0.0
) -> LoadedSystem:
    """Read one system from a .npy, .txt or .json file.

    A system alone is not returned, as a G that the file states must not be lost on the way.

    Args:
        path: of the file; its suffix says its format (see the module's docstring).
        dtype: floating-point dtype of the system.
        softening: > 0 if the system is going to be softened: then bodies may coincide, as they may if the file
            itself states a softening.

    Returns:
        A `LoadedSystem`: mass (N,), position and velocity (N, D), the file's time or 0; G, period and softening, or
        None; its units; and what of it was not read.

    Raises:
        ValueError: if there is no such file, it cannot be read, is too large, does not hold exactly one system as
            `check_system` wants it, or can be understood in several ways.
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
    if suffix == ".npy":
        contents = read_array(where, data)
    else:
        contents = (read_json if suffix == ".json" else read_table)(where, decode(where, data))
    stated = contents.constants
    notes = (f"not read: {quoted(contents.left_out)}",) if contents.left_out else ()
    return LoadedSystem(
        _system(where, contents, dtype, max(softening, stated.get("softening", 0.0))),
        stated.get("G"),
        stated.get("period"),
        stated.get("softening"),
        contents.units,
        notes,
    )


def save_system(
    path: str | os.PathLike[str],
    system: System,
    *,
    G: float | None = None,
    period: float | None = None,
    softening: float | None = None,
) -> None:
    """Write mass, position, velocity and time of one system, so that `load_system` reads the same bits.

    The file appears whole or not at all. The system's work is not kept: a file holds initial conditions, from which
    it is counted anew, and checkpoints hold states.

    Args:
        path: of the file; its suffix says its format. An existing file is replaced.
        system: one system, not a batch, on any device.
        G: gravitational constant to note, > 0; .npy cannot hold it.
        period: of a periodic orbit, time, > 0; .npy cannot hold it.
        softening: length, ≥ 0; .npy cannot hold it.

    Raises:
        ValueError: if the suffix is another, the system is a batch or not valid, a constant is out of range or not to
            be held (in .npy a time other than 0 neither), or the file cannot be written.
        ImportError: if a .npy file is to be written and numpy is not installed.

    Source: the formats are our own; .npy is NumPy enhancement proposal 1.
    """
    where = f"save_system: {str(path)!r}"
    suffix = _suffix(where, path)
    require(system.mass.ndim == 1, f"{where}: one system is needed, got a batch; take a row, e.g. take(systems, 0)")
    _check_bodies(where, system.mass.shape[0])
    check_system(system, softening=1.0, where=where)  # softened: coincident bodies are the reader's concern
    time = float(system.time)
    given = {"G": G, "period": period, "softening": softening, "time": time if time else None}
    constants = {name: check_constant(where, name, value) for name, value in given.items() if value is not None}
    require(
        suffix != ".npy" or not constants,
        f"{where}: .npy cannot hold {' and '.join(constants)}; use .txt or .json"
        + (", or set the time to 0" if time else ", or leave them out"),
    )
    # Double holds every float exactly, and Python writes the shortest text that reads as the same double.
    mass, position, velocity = (x.detach().cpu().double() for x in (system.mass, system.position, system.velocity))
    if suffix == ".npy":
        data = write_array(where, mass, position, velocity)
    elif suffix == ".txt":
        rows = torch.cat([mass[:, None], position, velocity], 1).tolist()
        names = ["m", *(name for parts in VECTORS.values() for name in parts[: position.shape[1]])]
        lines = [f"# {name} = {value!r}" for name, value in constants.items()] + ["# " + " ".join(names)]
        data = "".join(line + "\n" for line in [*lines, *(" ".join(map(repr, row)) for row in rows)]).encode()
    else:
        fields = {"mass": mass.tolist(), "position": position.tolist(), "velocity": velocity.tolist()}
        data = (json.dumps(constants | fields, indent=1) + "\n").encode()
    _write(where, Path(path), data)


def _suffix(where: str, path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    remedy = _REMEDIES.get(suffix, "write it as one of them")
    require(suffix in _SUFFIXES, f"{where}: the suffix must be one of {', '.join(_SUFFIXES)}, got {suffix!r}; {remedy}")
    return suffix


def _read(where: str, path: str | os.PathLike[str]) -> bytes:
    """The whole file, if it is a regular one of a sane size (a pipe would block, a device never end)."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        fail(f"{where}: no such file; check the path, and the directory that it is relative to")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        fail(f"{where}: cannot be found ({short(error)}); check the path")
    require(not stat.S_ISDIR(mode), f"{where}: is a directory; name a file in it")
    require(stat.S_ISREG(mode), f"{where}: is not a regular file; copy its contents into one")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        fail(f"{where}: cannot be read ({error.strerror}); check its permissions")
    require(len(data) <= MAX_BYTES, f"{where}: is larger than {MAX_BYTES // 2**20} MiB; name a file of one system")
    require(len(data) > 0, f"{where}: is empty; write rows of {COLUMNS}, or save it again")
    return data


def _system(where: str, contents: Contents, dtype: torch.dtype, softening: float) -> System:
    """The system in its dtype, checked: finite first, as the dtype may be what makes it infinite."""
    _check_bodies(where, len(contents.mass))
    m, x, v = (
        torch.tensor(part, dtype=torch.float64) for part in (contents.mass, contents.position, contents.velocity)
    )
    for name, part in (("mass", m), ("position", x), ("velocity", v)):
        finite = part.isfinite().reshape(len(m), -1).all(-1)
        body = int(finite.int().argmin())
        require(bool(finite.all()), f"{where}: {name} of body {body} is NaN or infinite; give it a finite number")
        require(
            bool(part.to(dtype).isfinite().all()),
            f"{where}: {name} is too large for {dtype}; use float64 or other units",
        )
    require(
        not bool(((m > 0) & (m.to(dtype) == 0)).any()),
        f"{where}: mass is too small for {dtype}, which would make it 0; use float64 or other units",
    )
    clock = torch.tensor(contents.constants.get("time", 0.0), dtype=dtype)
    system = System(m.to(dtype), x.to(dtype), v.to(dtype), clock, torch.zeros_like(clock))
    check_system(system, softening=softening, where=where)
    return make_room(system)


def _check_bodies(where: str, bodies: int) -> None:
    require(
        2 <= bodies <= MAX_BODIES,
        f"{where}: 2 to {MAX_BODIES} bodies are needed, got N = {bodies}; add or leave out rows",
    )


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
        fail(f"{where}: cannot be written ({error.strerror}); check that its folder exists and lets you write")
