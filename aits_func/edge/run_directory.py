"""The directory of one run: its files by name, and that no run ever overwrites or meets another."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .checkpoint import is_left_behind, write_atomically
from .config import InputError, WriteError, read_toml
from .extras import load_extra
from .tracking import jsonable

CONFIG, METRICS, CHECKPOINT, SUMMARY = "config.toml", "metrics.jsonl", "checkpoint.safetensors", "summary.json"
TRAINING_TRAJECTORY, TRAJECTORY = "training_trajectory.npz", "trajectory.npz"
TRAINING_PICTURE = "training.png"
ENDS = "end"  # the directory of the states that a simulation ended in, a file for every system
LOCK = ".lock"  # there while a process works in the directory, or after one was stopped there at once; no harm then


@contextlib.contextmanager
def new_run(path: Path) -> Iterator[None]:
    """Make the directory of a new run, and keep other processes out of it.

    Raises:
        InputError: if it cannot be made or written to, already holds a run, or another process is at work there.
    """
    try:
        _refuse_another_run(path)
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise InputError(f"{path}: cannot make this run directory: {error.strerror}; choose another --out") from None
    with _held(path, lock):
        _refuse_another_run(path)  # again: one that began at the same moment may have ended by now
        yield


@contextlib.contextmanager
def resumed_run(path: Path) -> Iterator[None]:
    """Keep other processes out of the directory of a training run, which is gone on with.

    Raises:
        InputError: if there is none, it cannot be written to, or another process is at work there.
    """
    try:
        require_run(path)
        lock = _lock(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot write to this run directory: {error.strerror}; copy it to a place where you can"
        ) from None
    with _held(path, lock):
        yield


def checkpoint_file(path: Path) -> Path:
    """The checkpoint file of a run directory, or the file itself."""
    return path / CHECKPOINT if os.path.isdir(path) else path  # False for what can be no path; is_dir() would raise


def require_run(path: Path) -> None:
    """Raise `InputError` unless the directory holds a training run that can be resumed."""
    for name in (CONFIG, CHECKPOINT):
        if not (path / name).is_file() and not (name == CHECKPOINT and never_saved(path)):
            raise InputError(f"{path}: holds no run to resume ({name} is missing); start one with aits train --out")


def never_saved(path: Path) -> bool:
    """Whether the directory holds a training run that ended before its first checkpoint.

    It can be started over from its configuration. One with metrics has lost its checkpoint some other way.
    """
    if (path / CHECKPOINT).exists() or not (path / CONFIG).is_file():
        return False
    with contextlib.suppress(InputError, OSError):  # of a configuration that is none, or a directory that has gone
        metrics = path / METRICS
        return "train" in read_toml(path / CONFIG) and not (metrics.exists() and metrics.stat().st_size)
    return False


def write_config(path: Path, sections: dict[str, dict[str, Any]]) -> None:
    """Write config.toml with one table per section."""
    tomli_w = load_extra("tomli_w", "cli")
    write_atomically(path / CONFIG, tomli_w.dumps(sections).encode())


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write summary.json; what has no JSON number (NaN, infinity) becomes null."""
    write_atomically(path / SUMMARY, (json.dumps(jsonable(summary), indent=2) + "\n").encode())


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write tensors as one compressed .npz."""
    import io

    numpy = load_extra("numpy", "cli")
    buffer = io.BytesIO()
    numpy.savez_compressed(buffer, **{name: tensor.cpu().numpy() for name, tensor in arrays.items()})
    write_atomically(path, buffer.getvalue())


def write_ends(path: Path, contents: dict[str, dict[str, Any]]) -> None:
    """Write one .json for every system into the directory `ENDS`, see `end_states` of simulation_run.

    Raises:
        WriteError: if one cannot be written.
    """
    try:
        (path / ENDS).mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(path / ENDS, error) from None
    for name, content in contents.items():
        write_atomically(path / ENDS / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())


def _refuse_another_run(path: Path) -> None:
    holds = next((name for name in (CONFIG, CHECKPOINT, SUMMARY) if (path / name).exists()), None)
    if holds:
        resumable = (path / CONFIG).exists() and ((path / CHECKPOINT).exists() or never_saved(path))
        go_on = f", or go on with: aits train --resume {path}" if resumable else ""
        raise InputError(f"{path}: already holds another run ({holds}); choose another --out{go_on}")


def _lock(path: Path) -> int | None:
    """Lock the directory until the handle is closed; the kernel closes that of a process that is killed.

    The lock is on a file in it, not on the directory itself, which network file systems do not lock.

    Returns:
        The handle, or None on a file system without locks: there it is on the user to start one process only.

    Raises:
        InputError: if another process holds the lock.
        OSError: if nothing can be written there.
    """
    while True:
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.ExitStack() as unless_held:
            # Also when it is interrupted; the file stays, as the lock on it may be another's.
            unless_held.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{path}: another process is at work in this run directory; wait for its end, "
                    "or choose another --out"
                ) from None
            except OSError:  # ENOLCK, EOPNOTSUPP
                return None
            if _is_the_file(handle, path / LOCK):  # else its holder has removed it between the two calls
                unless_held.pop_all()
                return handle


def _is_the_file(handle: int, path: Path) -> bool:
    """Whether the path still names the file that the handle is open on."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _held(path: Path, lock: int | None) -> Iterator[None]:
    """Clear what a killed process has left, and give the lock back in the end."""
    try:
        if lock is not None:  # without it those could be files that another process is writing
            _remove_left_behind(path)
        yield
    finally:
        with contextlib.suppress(OSError):  # the directory may have gone
            (path / LOCK).unlink()
        if lock is not None:
            os.close(lock)


def _remove_left_behind(path: Path) -> None:
    with contextlib.suppress(OSError):
        for file in path.iterdir():
            if is_left_behind(file):
                file.unlink()
