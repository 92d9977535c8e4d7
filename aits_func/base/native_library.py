"""Machine code of a program of `native_graph`: compiled once by the C++ compiler of the machine, kept on disk, called.

What is compiled is found again by everything it depends on: the text, the options, the compiler and the processor.
Where it lies, and who can have written it, is the business of `native_cache`.
"""

import ctypes
import hashlib
import math
import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native_cache
from .native_graph import Program, Result, UnsuitableError
from .native_source import write_source

COMPILERS = ("g++", "clang++", "c++")
_OPTIONS = (
    "-O3",  # loops in vectors; -O2 of GCC 12 leaves the products in memory
    "-march=native",
    "-std=c++17",
    "-ffp-contract=off",  # the header contracts where it means to; elsewhere one operation is one rounding
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fwrapv",  # whole numbers that do not fit are cut off, as in torch
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-w",  # warnings of the compiler are nothing that a user can mend
)
_SECONDS = 300


def find_compiler() -> str:
    """The C++ compiler of this machine, or "" if there is none that is known."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), "")


class NativeCode:
    """Machine code of a program, for tensors on the CPU that lie in memory as it reads them.

    Made by `load`. ``lying`` are the strides of its arguments: their batch is in front of the shape and last in memory.
    So is that of the results. ``skips`` says whether it leaves out systems that a mask leaves out. It keeps the memory
    in which it computes; a call beside another gets one of its own.
    """

    def __init__(self, program: Program, example: Sequence[Tensor], batched: Sequence[bool]) -> None:
        source = write_source(program)
        library = _loaded(_text(program, source.text))
        self._once, self._in_turn, self._side_by_side = library.once, library.in_turn, library.side_by_side
        for function in (self._once, self._in_turn, self._side_by_side):
            function.restype = None
        self.lying = [_strides(x.shape, 0 if has else None) for x, has in zip(example, batched, strict=True)]
        self.results = [_stored(result, program.batch) for result in program.results]
        self._words, self._independent, self._real = source.words, source.independent, program.real
        self.skips = source.skips
        self._memory = torch.zeros(0, dtype=program.real, device="cpu")
        self._lock = threading.Lock()

    def __call__(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """The results for these arguments."""
        out = [each.empty() for each in self.results]
        with self._room(1) as memory:
            self._once(_pointers(arguments), _pointers(out), memory, ctypes.c_int(torch.get_num_threads()))
        return out

    def in_turn(self, carry: Sequence[Tensor], rest: Sequence[Tensor]) -> list[Tensor]:
        """Call after call, the first results of one being the first arguments of the next.

        Args:
            carry: the first arguments of the first call. The first results must lie like these.
            rest: the other arguments of all K calls, with an axis (K,) more in front.

        Returns:
            The first results of the last call, and the others of all calls, with an axis (K,) more in front.
        """
        count, carried, threads = _count(rest), len(carry), torch.get_num_threads()
        out = [each.empty() for each in self.results[:carried]]
        spare = [each.empty() for each in self.results[:carried]]
        noted = [each.many(count) for each in self.results[carried:]]
        pointers = [_pointers(x) for x in ((*carry, *rest), (*out, *noted), spare)]
        steps = [_steps(carried, x) for x in (rest, noted)]
        with self._room(threads if self._independent else 1) as memory:
            numbers = ctypes.c_long(carried), memory, ctypes.c_int(threads), ctypes.c_long(count)
            self._in_turn(*pointers, *steps, *numbers)
        return [*out, *noted]

    def side_by_side(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """K calls that have nothing to do with each other; arguments and results have an axis (K,) more in front."""
        count = _count(arguments)
        out = [each.many(count) for each in self.results]
        threads = min(torch.get_num_threads(), count)
        with self._room(threads) as memory:
            self._side_by_side(
                *map(_pointers, (arguments, out)),
                *(_steps(0, x) for x in (arguments, out)),
                memory,
                ctypes.c_int(threads),
                ctypes.c_long(count),
            )
        return out

    @contextmanager
    def _room(self, calls: int) -> Iterator[ctypes.c_void_p]:
        """Memory for so many calls at the same time: the one that is kept, if nobody else is at it."""
        free = self._lock.acquire(blocking=False)
        try:
            memory = self._memory
            if not free or len(memory) < calls * self._words:
                memory = torch.zeros(calls * self._words, dtype=self._real, device="cpu")
            if free:
                self._memory = memory
            yield ctypes.c_void_p(memory.data_ptr())
        finally:
            if free:
                self._lock.release()


def _strides(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Of a tensor that is contiguous once this axis has been moved to the end."""
    lying = list(torch.empty(shape, device="meta").stride())
    if axis is not None:
        *lying, one = torch.empty((*shape[:axis], *shape[axis + 1 :], shape[axis]), device="meta").stride()
        lying.insert(axis, one)
    return tuple(lying)


class _Stored(NamedTuple):
    """How a result lies in memory: its batch last."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        """Memory for one."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="cpu")

    def many(self, count: int) -> Tensor:
        """Memory for so many, one behind the other."""
        strides = (math.prod(self.shape), *self.strides)
        return torch.empty_strided((count, *self.shape), strides, dtype=self.dtype, device="cpu")


def _stored(result: Result, batch: int) -> _Stored:
    shape = list(result.shape)
    if result.axis is not None:
        shape.insert(result.axis, batch)
    return _Stored(tuple(shape), _strides(shape, result.axis), result.dtype)


def _count(tensors: Sequence[Tensor]) -> int:
    """K of tensors (K, ...)."""
    counts = {len(x) for x in tensors}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"the arguments of several calls must all have one length >= 1, got {sorted(counts)}")
    return counts.pop()


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[x.data_ptr() for x in tensors])


def _steps(before: int, tensors: Sequence[Tensor]) -> Any:
    """Bytes from one call to the next, 0 for so many tensors before these."""
    return (ctypes.c_long * (before + len(tensors)))(*[0] * before, *[x.stride(0) * x.itemsize for x in tensors])


def load(program: Program, example: Sequence[Tensor], batched: Sequence[bool]) -> NativeCode:
    """Machine code of a program, compiled if nobody has done so yet.

    Args:
        program: from `build_program`.
        example: the arguments that it was built for.
        batched: which of them have a batch axis, in front.

    Returns:
        `NativeCode`.

    Raises:
        UnsuitableError: if the program cannot be written down, or the compiler refuses it.
    """
    return NativeCode(program, example, batched)


def _text(program: Program, source: str) -> str:
    double = program.real == torch.float64
    kinds = f"#define REAL {'double' if double else 'float'}\n#define IS_DOUBLE {int(double)}\n"
    header, driver = (
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("native_kernels.h", "native_calls.h")
    )
    return kinds + header + source + driver


def _loaded(text: str) -> ctypes.CDLL:
    """The library of a text: the one that is kept, or one that is compiled now."""
    compiler = find_compiler()
    if not compiler:
        raise UnsuitableError("there is no C++ compiler")
    key = hashlib.sha256("\0".join([text, *_OPTIONS, *machine(compiler)]).encode()).hexdigest()
    name = f"{key}.so"
    try:
        if kept := native_cache.find(name):
            with suppress(OSError):  # somebody has made room for another just now
                return ctypes.CDLL(str(kept))
        with native_cache.new_folder() as place:
            made = _compiled(compiler, text, place)
            native_cache.seal(made, name)
            library = ctypes.CDLL(str(made))  # before it is moved to where it can be removed
            native_cache.keep(made, name)
            return library
    except OSError as error:
        raise UnsuitableError(f"the library cannot be made or loaded: {error}") from error


def _compiled(compiler: str, text: str, place: Path) -> Path:
    """The shared library of a text, made in a folder."""
    source, made = place / "program.cpp", place / "program.so"
    source.write_text(text, encoding="utf-8")
    done = _run([compiler, *_OPTIONS, "-o", str(made), str(source)], place)
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise UnsuitableError(f"the C++ compiler refused: {first.removeprefix(str(source))}")
    return made


def _run(command: Sequence[str], place: Path) -> "subprocess.CompletedProcess[str]":
    """Run a compiler in a folder; if anything interrupts it, it ends with all that it has started."""
    environment = {**os.environ, "TMPDIR": str(place)}  # what it leaves there goes with the folder
    try:
        with subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, in which it can be ended as a whole
        ) as process:
            try:
                _, messages = process.communicate(timeout=_SECONDS)
            except BaseException:
                _end(process)
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsuitableError(f"the C++ compiler did not run: {error}") from error
    return subprocess.CompletedProcess(command, process.returncode, stderr=messages)


def _end(process: "subprocess.Popen[str]") -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


@lru_cache(maxsize=1)
def machine(compiler: str) -> tuple[str, ...]:
    """What machine code depends on, beside its text."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return version, platform.machine(), flags
