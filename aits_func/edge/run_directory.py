"""The directory of one run: its files by name, and that no run ever overwrites another."""

import json
import os
from pathlib import Path
from typing import Any

from .checkpoint import write_atomically
from .config import InputError
from .extras import load_extra
from .tracking import jsonable

CONFIG, METRICS, CHECKPOINT, SUMMARY = "config.toml", "metrics.jsonl", "checkpoint.safetensors", "summary.json"
TRAINING_TRAJECTORY, TRAJECTORY = "training_trajectory.npz", "trajectory.npz"


def create(path: Path) -> None:
    """Make the directory of a new run.

    Raises:
        InputError: if it cannot be made or written to, or already holds a run.
    """
    holds = next((name for name in (CONFIG, CHECKPOINT, SUMMARY) if (path / name).exists()), None)
    if holds:
        resumable = all((path / name).exists() for name in (CONFIG, CHECKPOINT))
        go_on = f", or go on with: aits train --resume {path}" if resumable else ""
        raise InputError(f"{path}: already holds another run ({holds}); choose another --out{go_on}")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot make this run directory: {error.strerror}; choose another --out") from None


def checkpoint_file(path: Path) -> Path:
    """The checkpoint file of a run directory, or the file itself."""
    return path / CHECKPOINT if os.path.isdir(path) else path  # False for what can be no path; is_dir() would raise


def require_run(path: Path) -> None:
    """Raise `InputError` unless the directory holds a training run that can be resumed."""
    for name in (CONFIG, CHECKPOINT):
        if not (path / name).is_file():
            raise InputError(f"{path}: holds no run to resume ({name} is missing); start one with aits train --out")


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
