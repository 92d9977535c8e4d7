"""The readers of hostile files: each called, watched and judged."""

import contextlib
import io
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from aits_func.edge import commands, training_run
from aits_func.edge.assemble import build_physics, build_policy, init_params
from aits_func.edge.cli import main
from aits_func.edge.config import CompareConfig, SimulateConfig, TrainConfig, build_config, read_toml
from aits_func.edge.initial_condition_files import load_system
from aits_func.edge.tracking import JsonlTracker
from aits_func.edge.trained import load_policy, load_state, trained_config

from .hostile_formats import MARKER

LONGEST = 10.0  # seconds; a reader that takes longer is taken to hang
_LONGEST_LINE = 2000  # characters on the terminal
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class", "socket.connect")
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")


class Accepted(BaseException):
    """Everything has been read and found good: where a command would begin to compute."""


class Hang(BaseException):
    """A reader did not come to an end."""


class Verdict(NamedTuple):
    """What became of one file."""

    accepted: bool
    broken: str  # "" or the promise that was not kept
    message: str  # of the refusal
    seconds: float
    executed: bool  # code ran
    outside: bool  # something was written where nothing may be


class Reader(NamedTuple):
    """A way in which the program reads a file."""

    name: str
    file: str  # what the hostile file is called
    read: Callable[[], Any]


def readers(kind: str) -> list[Reader]:
    """All ways in which files of a format are read, those that take longest last."""
    return _READERS[kind]


def judge(read: Callable[[], Any], work: Path) -> Verdict:
    """Call a reader in the folder where its file lies; what it does is watched, and undone in ``out``."""
    message, broken, accepted = "", "", False
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned, _watch(work) as seen, _limit(LONGEST):
        warnings.simplefilter("always")
        try:
            read()
            accepted = True
        except Accepted:
            accepted = True
        except (ValueError, OSError) as error:
            message = str(error)
            broken = complaint(message)
        except BaseException as error:
            broken = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    seconds = time.perf_counter() - began
    if warned and not broken:
        broken = f"a warning: {warned[0].message}"
    executed = bool(seen.ran) or os.path.exists(work / MARKER)
    shutil.rmtree(work / "out", ignore_errors=True)
    return Verdict(accepted, broken or ", ".join(seen.ran + seen.wrote), message, seconds, executed, bool(seen.wrote))


def complaint(message: str) -> str:
    """What is wrong with an error message, or ""."""
    if not message.strip():
        return "an empty message"
    if len(message.splitlines()) > 1 or not message.isprintable():
        return f"more than one printable line: {message[:150]!r}"
    return f"a message of {len(message)} characters" if len(message) > _LONGEST_LINE else ""


class _Seen(NamedTuple):
    ran: list[str]
    wrote: list[str]
    allowed: tuple[str, ...]


_watching: _Seen | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: Python reports here what it is about to do."""
    if _watching is None:
        return
    if event in _RUNS:
        _watching.ran.append(f"{event} {arguments[:2]!r:.100}")
    changed: list[Any] = []
    if event in _CHANGES:
        changed = list(arguments[: 2 if event in ("os.rename", "os.link") else 1])
    elif event == "open" and _writes(*arguments[1:3]):
        changed = [arguments[0]]
    for path in changed:
        place = os.path.realpath(os.fsdecode(path)) if not isinstance(path, int) else ""
        if not place.startswith(_watching.allowed):
            _watching.wrote.append(f"{event} {place:.100}")


def _writes(mode: str | None, flags: int) -> bool:
    return any(letter in "wax+" for letter in mode or "") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


sys.addaudithook(_hear)  # for good, as it cannot be taken away; it sleeps unless a file is judged


@contextlib.contextmanager
def _watch(work: Path) -> Iterator[_Seen]:
    """Notes what runs, and what is written beside the directories of runs."""
    global _watching
    root = os.path.realpath(work)
    _watching = _Seen([], [], tuple(f"{root}/{name}" for name in ("out", "hostile_run/")))
    try:
        yield _watching
    finally:
        _watching = None


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def command(*arguments: str, computing: bool = False) -> None:
    """A command as the terminal sees it, up to where it would compute; raises what is not exit code 0 or 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        if not computing:
            for name in ("commands._train", "commands._simulate", "comparison_run.compare_sets"):
                stack.enter_context(mock.patch(f"aits_func.edge.{name}", side_effect=Accepted))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        code = main(arguments)
    threads_before_any_file_set_them()
    _require_printable(out.getvalue())
    if code == 0:
        _require_printable(err.getvalue())
        return
    if code != 2 or err.getvalue().count("\n") != 1 or not err.getvalue().startswith(f"aits {arguments[0]}: error: "):
        raise RuntimeError(f"exit code {code}, stderr {err.getvalue()!r:.200}")
    raise ValueError(err.getvalue().removesuffix("\n"))


def threads_before_any_file_set_them() -> None:
    """One thread: these tasks are too small for more, and a file may have asked for them."""
    torch.set_num_threads(1)


def _require_printable(text: str) -> None:
    if not all(line.isprintable() for line in text.split("\n")):
        raise RuntimeError(f"a control character reaches the terminal: {text!r:.200}")


def _read_config() -> None:
    tables = read_toml("hostile.toml")
    for kind in (TrainConfig, SimulateConfig):
        build_config(kind, tables, {}, where="hostile.toml")
    config = build_config(CompareConfig, tables, {}, where="hostile.toml")
    if config.rules:
        commands.comparison.plan_rules(config, build_physics(config, "hostile.toml"), "hostile.toml")


def _prepare_training() -> None:
    training_run.prepare(build_config(TrainConfig, read_toml("hostile.toml"), {}, where="hostile.toml"), "hostile.toml")


def _read_policy() -> None:
    config = trained_config("hostile.safetensors")
    physics = build_physics(config, "hostile.safetensors")
    load_policy("hostile.safetensors", init_params(build_policy(config, physics.gravity)[1], 0, physics))


def _read_state() -> None:
    start = training_run.prepare(trained_config("hostile.safetensors"), "hostile.safetensors")
    load_state("hostile.safetensors", start.state)


def _load(suffix: str) -> Reader:
    return Reader("load_system", f"hostile{suffix}", lambda: load_system(f"hostile{suffix}"))


def _train_on(suffix: str) -> Reader:
    return Reader(
        "train", f"hostile{suffix}", lambda: command("train", "--systems", f"hostile{suffix}", "--out", "out")
    )


def _configured(name: str) -> Reader:
    return Reader(name, "hostile.toml", lambda: command(name, "hostile.toml", "--out", "out"))


_RESUME = ("train", "--resume", "hostile_run", "--epochs", "3")
_READERS = {
    "checkpoint": [
        Reader("policy", "hostile.safetensors", _read_policy),
        Reader("state", "hostile.safetensors", _read_state),
        Reader("inspect", "hostile.safetensors", lambda: command("inspect", "hostile.safetensors")),
        Reader("resume", "hostile_run/checkpoint.safetensors", lambda: command(*_RESUME)),
        Reader(
            "simulate",
            "hostile.safetensors",
            lambda: command("simulate", "config0.toml", "--checkpoint", "hostile.safetensors", "--out", "out"),
        ),
    ],
    "config": [
        Reader("tables", "hostile.toml", _read_config),
        Reader("prepare", "hostile.toml", _prepare_training),
        *map(_configured, ("train", "simulate", "both", "compare")),
        Reader("resume", "hostile_run/config.toml", lambda: command(*_RESUME)),
    ],
    "npy": [_load(".npy"), _train_on(".npy")],
    "txt": [_load(".txt"), _train_on(".txt")],
    "json": [_load(".json"), _train_on(".json")],
    "metrics": [
        Reader(
            "tracker",
            "hostile_run/metrics.jsonl",
            lambda: JsonlTracker(Path("hostile_run/metrics.jsonl"), keep_before=9),
        ),
        Reader("resume", "hostile_run/metrics.jsonl", lambda: command(*_RESUME, computing=True)),
    ],
}
