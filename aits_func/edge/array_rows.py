"""One system in a NumPy array: rows of mass, position, velocity, or a structured array with names of its own."""

import io
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..base.check import require
from .columns import VECTORS, default_columns, read_names, vector
from .file_contents import COLUMNS, MAX_BODIES, Contents, fail, of_rows, refuse_doubtful, short

_NAMES = "save it with names (dtype=[('m', float), ('x', float), ...]), or as .txt or .json"


def read_array(where: str, data: bytes) -> Contents:
    """One system from the bytes of a .npy file.

    Args:
        where: what error messages call the file.
        data: the whole of it.

    Returns:
        Its `Contents`: N masses, positions (N, 2) or (N, 3) and velocities.

    Raises:
        ValueError: if it is damaged, holds anything but numbers, has another shape, or could as well be transposed.
        ImportError: if numpy is not installed.
    """
    array = _load(where, data)
    if array.dtype.names:
        return _of_fields(where, array)
    if array.dtype.kind not in "fiu":
        fail(f"{where}: must hold numbers, got dtype {array.dtype}; convert with astype(float)")
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] not in (5, 7):
        turned = array.ndim == 2 and array.shape[0] in (5, 7) and array.shape[1] >= 1
        remedy = "save the transposed array (array.T), one row per body" if turned else f"columns are {COLUMNS}"
        fail(f"{where}: must have shape (N, 5) or (N, 7), got {array.shape}; {remedy}")
    rows = _as_lists(where, array)
    refuse_doubtful(where, rows, _NAMES, counted=True)
    return of_rows(where, rows, default_columns(len(rows[0])))


def write_array(where: str, mass: Tensor, position: Tensor, velocity: Tensor) -> bytes:
    """The bytes of a .npy file that `read_array` understands.

    Rows without names if they can be taken for nothing else, and a structured array otherwise.

    Args:
        where: what error messages call the file.
        mass: (N,) float64, on the CPU.
        position: (N, D).
        velocity: (N, D).

    Raises:
        ImportError: if numpy is not installed.
    """
    numpy = _numpy(where)
    rows = torch.cat([mass[:, None], position, velocity], 1).tolist()
    array = numpy.array(rows, dtype=numpy.float64)
    try:
        refuse_doubtful(where, rows, _NAMES, counted=True)
    except ValueError:
        D = position.shape[1]
        names = ["m", *VECTORS["position"][:D], *VECTORS["velocity"][:D]]
        array = numpy.array([tuple(row) for row in rows], dtype=[(name, numpy.float64) for name in names])
    numpy.save(buffer := io.BytesIO(), array, allow_pickle=False)
    return buffer.getvalue()


def _numpy(where: str) -> ModuleType:
    try:
        import numpy
    except ImportError as error:
        raise ImportError(f"{where}: .npy needs numpy; pip install 'aits_func[cli]', or use .txt or .json") from error
    return numpy


def _load(where: str, data: bytes) -> Any:
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
        fail(f"{where}: is damaged, cut off or holds objects ({short(error)}); save an array of numbers again")
    require(not buffer.read(1), f"{where}: goes on after the array; write one array of one system to a file")
    return array


def _of_fields(where: str, array: Any) -> Contents:
    """A structured array by the names of its fields; a vector may be a field of D numbers."""
    if array.ndim != 1:
        fail(f"{where}: must have shape (N,) with names of fields, got {array.shape}; save one record per body")
    names: list[str] = []
    parts: list[Any] = []
    _check_count(where, len(array))
    for name in array.dtype.names:
        kind, field = vector(name), array[name]
        if field.ndim == 2 and kind and field.shape[1] in (2, 3):
            names += VECTORS[kind][: field.shape[1]]
            parts += list(field.T)
        else:
            names.append(name)
            parts.append(field)
    try:
        columns = read_names(names)
    except ValueError as error:
        fail(f"{where}: its fields ({short(', '.join(names))}): it {error}; call them m, x, y, vx, vy, or {_NAMES}")
    besides = [place for place in (columns.time, columns.softening) if place is not None]
    read = [columns.mass, *columns.position, *columns.velocity, *besides]
    for place in read:
        if parts[place].dtype.kind not in "fiu" or parts[place].ndim != 1:
            fail(f"{where}: field {names[place]!r} must hold one number per body; convert it with astype(float)")
    numbers = [_as_lists(where, part) if place in read else [0.0] * len(array) for place, part in enumerate(parts)]
    return of_rows(where, list(zip(*numbers, strict=True)), columns)


def _as_lists(where: str, array: Any) -> list[Any]:
    _check_count(where, len(array))
    with _numpy(where).errstate(over="ignore"):  # of a long double: it becomes infinite, which is refused later
        lists: list[Any] = array.astype("float64").tolist()
    return lists


def _check_count(where: str, bodies: int) -> None:
    # Before it is unpacked: as lists of Python's floats an array takes many times its size.
    if bodies > MAX_BODIES:
        fail(f"{where}: 2 to {MAX_BODIES} bodies are needed, got N = {bodies}; leave out rows")
