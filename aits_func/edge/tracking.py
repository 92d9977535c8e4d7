"""Tracking: where the numbers of each epoch go, behind one small protocol."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from ..loops.epoch import EpochInfo
from .checkpoint import write_atomically
from .config import WriteError
from .untrusted import cannot_read, require_regular

MAX_LINE = 64 * 2**10
"""Longest line of metrics that is read, in bytes; ours have less than one thousand."""

# What every line has, and what is done with the metrics later needs.
_COUNTS = ("epoch", "collect_accepted", "collect_rejected", "collect_updates", "replay_iterations")
_SECONDS = ("seconds", "compile_seconds")
_MEASURED = (
    *("replay_pass_rate", "replay_band_rate"),
    *("replay_mean_energy_error", "replay_max_energy_error", "replay_mean_dt"),
)
_NUMBER = (float, type(None))  # null stands for what JSON has no number for


class Tracker(Protocol):
    """Takes the numbers of one epoch after another."""

    def log(self, metrics: dict[str, Any]) -> None:
        """Take one epoch's metrics: plain numbers and strings by name."""


class JsonlTracker:
    """One JSON object per line and epoch. Opened anew for each line, so that nothing is lost in a crash."""

    def __init__(self, path: Path, *, keep_before: int = 0) -> None:
        """Start a file; of one that is there, keep the epochs before ``keep_before``."""
        self.path = path
        kept = read_metrics(path, before=keep_before)
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


def read_metrics(path: Path, *, before: float = math.inf) -> list[dict[str, Any]]:
    """The metrics of a run so far.

    The file is read line by line, and of an epoch that is there twice the later line stands, so that what is held in
    memory grows with the epochs alone.

    Args:
        path: of the file.
        before: epochs from this one on are left out.

    Returns:
        A dict for every epoch, in the order of the epochs. A line that was cut off in a crash, or is not ours (see
        `epoch_metrics`), or is longer than `MAX_LINE`, is left out; a missing file has none.

    Raises:
        InputError: if the file cannot be read, or is no regular file.
    """
    if not os.path.lexists(path):
        return []
    lines: dict[int, dict[str, Any]] = {}
    try:
        require_regular(path, "these metrics")
        with open(path, "rb") as file:
            for line in filter(None, map(_parsed, _whole_lines(file))):
                if line["epoch"] < before:
                    lines[line["epoch"]] = line
    except (OSError, ValueError) as error:
        raise cannot_read(path, "these metrics", error) from None
    return [lines[epoch] for epoch in sorted(lines)]


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of at most `MAX_LINE` bytes."""
    first = True  # whether a line begins here, and not the next part of a long one
    while text := file.readline(MAX_LINE + 1):
        if first and len(text) <= MAX_LINE:
            yield text
        first = text.endswith(b"\n")


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line as the dict of one epoch, or None if it is none."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or any(isinstance(value, dict | list) for value in line.values()):
        return None
    counted = all(_is_count(line.get(key)) for key in _COUNTS)
    timed = all(_is_count(value) or type(value) is float for value in (line.get(key, 0) for key in _SECONDS))
    measured = all(_is_count(line[key]) or type(line[key]) in _NUMBER for key in _MEASURED if key in line)
    return line if counted and timed and measured and {"seconds", *_MEASURED} <= set(line) else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def epoch_metrics(info: EpochInfo, seconds: float) -> dict[str, Any]:
    """One epoch as plain numbers: what it came to (`EpochInfo.outcome`), and its two phases, without the iterations."""
    collect = {f"collect_{key}": value for key, value in info.collect._asdict().items() if key != "stuck"}
    replay = {f"replay_{key}": value for key, value in info.replay._asdict().items() if key != "history"}
    return {"epoch": info.epoch, "outcome": info.outcome, "seconds": round(seconds, 3), **collect, **replay}


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
