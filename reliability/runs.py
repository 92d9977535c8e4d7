"""What the campaigns against runs share: a small training, its directory read in full, and two of them compared."""

import contextlib
import json
import os
import shlex
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from safetensors.torch import load_file

from aits_func.edge.checkpoint import read_metadata

FILES = {
    "config.toml",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "training_trajectory.npz",
    "summary.json",
    "training.png",
}
TWO = {"binaries": 2}
_CLOCKS = ("seconds", "compile_seconds")  # numbers that a clock made
_CONFIGURATION = """\
threads = 1

[train]
systems = [{systems}]
hidden = [4]
optimizer = "adamw"
epochs = {epochs}
steps_per_epoch = 3
replay_steps = 2
compile = "{compile}"

[simulate]
systems = [{{ kind = "binaries", count = 2, seed = 7, eccentricity = [0.0, 0.2] }}]
t_end = 0.1
max_steps = 200
compile = "off"

[compare]
systems = [{{ kind = "binaries", count = 2, seed = 7, eccentricity = [0.0, 0.2] }}]
t_end = 0.1
resamples = 20
compile = "off"

[[compare.rules]]
criterion = "p_norm"
tolerances = [0.3, 0.1]
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # exit code; minus the signal, if it was killed by one
    out: str
    err: str
    struck: str = ""  # the call at which something befell it; "" if it got to its end before


@contextlib.contextmanager
def work_folder(*, in_memory: bool) -> Iterator[Path]:
    """A folder for a campaign: on disk, or in memory, where that can be had and nothing depends on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if in_memory and os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def write_configuration(folder: Path, *, epochs: int, compile: str = "off", systems: Mapping[str, int] = TWO) -> None:
    """Write run.toml, the small training that all campaigns run, of so many systems of each kind."""
    listed = ", ".join(f'{{ kind = "{kind}", count = {count} }}' for kind, count in systems.items())
    (folder / "run.toml").write_text(_CONFIGURATION.format(epochs=epochs, compile=compile, systems=listed))


def command_to_go_on(run: Path) -> tuple[str, ...]:
    """What a user types whose run has died: the same again if nothing is there, else --resume."""
    if (run / "config.toml").exists():
        return ("train", "--resume", run.name)
    return ("train", "run.toml", "--out", run.name)


def advice(end: Ended) -> tuple[str, ...]:
    """The command that a process names to go on with; () if it names none."""
    _, named, command = end.err.rstrip("\n").partition("go on with: aits ")
    return tuple(shlex.split(command)) if named else ()


def is_complete(end: Ended) -> bool:
    """Whether a training has nothing left to do."""
    return end.code == 0 or (end.code == 2 and "epochs are done" in end.err)


def is_one_line(end: Ended) -> bool:
    """Whether a process that was refused or stopped has said so in one line, without a traceback."""
    return end.err.count("\n") == 1 and end.err.startswith("aits") and "Traceback" not in end.err


def unreadable(run: Path) -> list[str]:
    """What in the directory of a run that was stopped anyhow cannot be read: nothing, if all is well.

    Temporary files of a process that was killed are no damage; more than one of them is, as they would add up.
    """
    broken = [f"{path.name}: {problem}" for path in _files(run) if (problem := _problem(path))]
    left = [path.name for path in _files(run) if path.name.endswith(".part")]
    return broken + ([f"temporary files have added up: {', '.join(left)}"] if len(left) > 1 else [])


def difference(run: Path, whole: Path) -> str:
    """The first thing in which a run that is complete differs from an unbroken one; "" if nothing does."""
    names = {path.name for path in _files(run)}
    if names != FILES:
        return f"its files are {', '.join(sorted(names))}"
    if broken := unreadable(run):
        return broken[0]
    if (run / "config.toml").read_bytes() != (whole / "config.toml").read_bytes():
        return "config.toml"
    for name, read in (("metrics.jsonl", _metrics), ("summary.json", _summary), ("checkpoint.safetensors", _metadata)):
        if read(run) != read(whole):
            return name
    for name, read_arrays in (("checkpoint.safetensors", _tensors), ("training_trajectory.npz", _arrays)):
        left, right = read_arrays(run), read_arrays(whole)
        if left != right:
            return f"{name}: {', '.join(sorted(k for k in left.keys() | right if left.get(k) != right.get(k)))}"
    return ""


def numbers_in(run: Path) -> int:
    """How many numbers `difference` holds equal, bit for bit."""
    tensors = load_file(run / "checkpoint.safetensors")
    return sum(tensor.numel() for tensor in tensors.values())


def seconds_in(run: Path) -> Iterator[float]:
    """Every duration that a run has noted."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        yield json.loads(line)["seconds"]
    yield json.loads((run / "summary.json").read_text())["train"]["seconds"]


def _files(run: Path) -> list[Path]:
    return sorted(run.iterdir()) if run.is_dir() else []


def _problem(path: Path) -> str:
    try:
        _read(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _read(path: Path) -> None:
    """Read a file as whoever goes on with the run does, and to its end."""
    if path.name == "checkpoint.safetensors":
        read_metadata(path)
        load_file(path)
    elif path.name == "config.toml":
        tomllib.loads(path.read_text())
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.name == "metrics.jsonl":
        for line in path.read_text().split("\n")[:-1]:  # what follows the last end of a line is half a line
            json.loads(line)
    elif path.suffix == ".npz":
        # The file apart, as numpy leaves that of a broken archive open.
        with path.open("rb") as file, numpy.load(file, allow_pickle=False) as arrays:
            _ = [arrays[name] for name in arrays]


def _metrics(run: Path) -> list[dict[str, Any]]:
    """Every line, whatever epoch it is of."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [_without_clocks(line) for line in lines]


def _summary(run: Path) -> dict[str, Any]:
    return _without_clocks(json.loads((run / "summary.json").read_text())["train"])


def _metadata(run: Path) -> tuple[Any, ...]:
    return tuple(read_metadata(run / "checkpoint.safetensors"))


def _without_clocks(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in numbers.items() if key not in _CLOCKS}


def _tensors(run: Path) -> dict[str, Any]:
    """Parameters, state of the optimizer and population: type, shape and bits."""
    return {
        name: (str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in load_file(run / "checkpoint.safetensors").items()
    }


def _arrays(run: Path) -> dict[str, Any]:
    with numpy.load(run / "training_trajectory.npz", allow_pickle=False) as arrays:
        return {name: (str(arrays[name].dtype), arrays[name].shape, arrays[name].tobytes()) for name in arrays}
