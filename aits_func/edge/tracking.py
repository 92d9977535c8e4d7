"""Tracking: where the numbers of each epoch go, behind one small protocol."""

import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

from ..loops.epoch import EpochInfo
from .checkpoint import write_atomically
from .config import WriteError


class Tracker(Protocol):
    """Takes the numbers of one epoch after another."""

    def log(self, metrics: dict[str, Any]) -> None:
        """Take one epoch's metrics: plain numbers and strings by name."""


class JsonlTracker:
    """One JSON object per line and epoch. Opened anew for each line, so that nothing is lost in a crash."""

    def __init__(self, path: Path, *, keep_before: int = 0) -> None:
        """Start a file; of one that is there, keep the epochs before ``keep_before``."""
        self.path = path
        kept = [line for line in read_metrics(path) if line["epoch"] < keep_before]
        write_atomically(path, "".join(_line(metrics) for metrics in kept).encode())

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line, on disk before the checkpoint that counts on it."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(metrics))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(self.path, error) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The metrics of a run so far; a line that was cut off in a crash, or is not ours, is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("epoch"), int)]


def epoch_metrics(info: EpochInfo, seconds: float) -> dict[str, Any]:
    """One epoch as plain numbers: its two phases by name, without the history of iterations."""
    collect = {f"collect_{key}": value for key, value in info.collect._asdict().items() if key != "stuck"}
    replay = {f"replay_{key}": value for key, value in info.replay._asdict().items() if key != "history"}
    return {"epoch": info.epoch, "seconds": round(seconds, 3), **collect, **replay}


def _line(metrics: dict[str, Any]) -> str:
    return json.dumps(jsonable(metrics)) + "\n"


def jsonable(value: Any) -> Any:
    """The same with NaN and infinity as null, for which JSON has no number."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
