"""Programs drawn at random, compiled and eager: the same results, whatever an ordinary pure function may say.

    python -m reliability.compiled_programs [--short] [--json F]

Functions of a batch of systems, of one system under vmap, their derivatives, steps of a scan and members side by side,
with writes to tensors of their own, casts, masks, numbers that are not finite. The engine's own comparison with eager
code is switched off. See `drawn_programs`, and `rounding` for what counts as the same. Not drawn: what eager code
refuses; casts of real numbers to whole ones that cannot hold them, as anything may come out; sums over the batch beside
numbers that are not finite, as a system that a mask leaves out of a sum is not looked at in compiled code. Of programs
for TorchInductor one in eight is compiled by it; the others are run by torch as they have been rewritten for it.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.func import vmap

from aits_func.base import engine as engines
from aits_func.base.engine import build_engine
from reliability.drawn_programs import DrawnProgram, draw_program
from reliability.findings import Finding, main
from reliability.rounding import Traced, compare

PROGRAMS, NATIVE = 2400, 1200
PROCESSES = 2
SECONDS = 300.0  # for one program
SHOWN = 5
_TRIES = 30
_CHUNK = 60  # programs of one process, which keeps what it compiles
_COMPILED = 8  # one of so many programs for TorchInductor is compiled by it


class Outcome(NamedTuple):
    """What became of one program."""

    seed: int
    kind: str
    back_end: str  # "native", "inductor", "rewritten for inductor" (and run by torch), or "eager"
    reason: str  # why it is not native
    wrong: str
    undecided: int
    writes: bool
    differentiates: bool
    types: tuple[str, ...]  # of arguments, results and whatever it casts to
    script: str  # that shows what is wrong


def campaign(short: bool) -> list[Finding]:
    """Some thousand programs, or forty of them."""
    return findings(list(outcomes(range(20 if short else PROGRAMS))), 0 if short else NATIVE)


def findings(found: Sequence[Outcome], native: int) -> list[Finding]:
    """What is said of them, of which so many should have run natively."""
    wrong = [each for each in found if each.wrong]
    back_ends = Counter(each.back_end for each in found)
    reasons = Counter(each.reason for each in found if each.back_end != "native")
    types = Counter(name for each in found for name in each.types)
    kinds = Counter(each.kind for each in found)
    figures = {
        "programs": len(found),
        **{name: back_ends[name] for name in ("native", "inductor", "rewritten for inductor", "eager")},
        "with writes": sum(each.writes for each in found),
        "with writes, native": sum(each.writes and each.back_end == "native" for each in found),
        "with derivatives": sum(each.differentiates for each in found),
        "with derivatives, native": sum(each.differentiates and each.back_end == "native" for each in found),
        "with elements that rounding decides": sum(each.undecided > 0 for each in found),
        "mismatches": len(wrong),
    }
    broken = tuple(f"seed {each.seed}, {each.back_end}: {each.wrong}\n{each.script}" for each in wrong[:SHOWN])
    return [
        Finding("a compiled program gives what eager code gives", not wrong, figures, broken),
        Finding("as many as that run natively", back_ends["native"] >= native, {"native": back_ends["native"]}),
        Finding("programs of every kind", len(kinds) > 1, dict(sorted(kinds.items()))),
        Finding("numbers of every type", len(types) > 3, dict(types.most_common())),
        Finding("what is not native says why", "" not in reasons, dict(reasons.most_common(12))),
    ]


# --- one program


class Drawn(NamedTuple):
    """A program that torch accepts."""

    program: DrawnProgram
    eager: Any  # its results
    traced: Traced


class Tried(NamedTuple):
    """What compiling it has come to."""

    back_end: str
    reason: str
    wrong: str
    undecided: int


def outcome(drawn: Drawn) -> Outcome:
    """A program compiled and eager; what is wrong is made as short as it can be."""
    tried = _tried(drawn)
    return _told(drawn.program, tried, shrunk(drawn.program).script() if tried.wrong else "")


def _told(program: DrawnProgram, tried: Tried, script: str) -> Outcome:
    types = tuple(sorted(_types(program)))
    return Outcome(program.seed, program.kind, *tried, program.writes, program.differentiates, types, script)


def _types(program: DrawnProgram) -> set[str]:
    names = {str(each.dtype).removeprefix("torch.") for each in program.arguments}
    for name in ("int64", "int32", "uint8", "float32", "float64", "bool"):
        if f"torch.{name}" in program.source:
            names.add(name)
    return names


def _tried(drawn: Drawn) -> Tried:
    program = drawn.program
    engine = build_engine(program.function(), mode="auto", batched=program.batched, mapped="mapped" in program.kind)
    values = program.values
    compiled = program.seed // _TRIES % _COMPILED == 0
    try:
        with warnings.catch_warnings(), nullcontext() if compiled else _rewritten_alone():
            warnings.simplefilter("ignore")
            ours = engine.scan(values[0], *values[1:]) if "scan" in program.kind else engine(*values)
    except Exception as error:
        return Tried("eager", "it failed", f"{type(error).__name__}: {error}".splitlines()[0], 0)
    back_end = "rewritten for inductor" if engine.back_end == "inductor" and not compiled else engine.back_end
    return Tried(back_end, engine.fallback, *compare(ours, drawn.eager, drawn.traced))


@contextmanager
def _rewritten_alone() -> Iterator[None]:
    """Programs for TorchInductor are run by torch, as they have been rewritten: to compile them takes seconds."""

    def rewritten(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Any:
        graph(*example)  # what torch refuses is refused now, and not when it is called
        return graph

    before = engines._machine_code
    engines._machine_code = rewritten  # type: ignore[assignment]
    try:
        yield
    finally:
        engines._machine_code = before


def run_eagerly(program: DrawnProgram, values: Sequence[torch.Tensor]) -> Any:
    """The results of torch."""
    function = program.function()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "mapped" in program.kind:
            return vmap(function)(*values)
        if "scan" not in program.kind:
            return function(*values)
        carry, noted = values[0], []
        for k in range(program.times):
            carry, y = function(carry, *(value[k] for value in values[1:]))
            noted.append(y)
        return carry, tuple(torch.stack(each) for each in zip(*noted, strict=True))


def valid_program(number: int) -> Drawn:
    """The first program from the seeds of a number that eager code accepts."""
    for seed in range(number * _TRIES, (number + 1) * _TRIES):
        program: DrawnProgram | None = draw_program(seed)
        while program is not None and program.lines:
            try:
                return accepted(program)
            except _RefusedError:
                break
            except Exception as error:
                line = program.line_of(error)
                program = None if line is None else program.without(line)
    raise RuntimeError(f"no program of number {number} is accepted")


class _RefusedError(Exception):
    """A program of which nothing is promised."""


def accepted(program: DrawnProgram) -> Drawn:
    """A program that gives something eagerly; an exception if it is none of which something is promised."""
    values = program.values
    before = [value.clone() for value in values]
    eager = run_eagerly(program, values)
    leaves = torch.utils._pytree.tree_leaves(eager)
    pure = all(bool(((x == y) | (x != x)).all()) for x, y in zip(values, before, strict=True))
    if not pure or not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise _RefusedError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = Traced(lambda *given: run_eagerly(program, given), values)
        look = traced.looked_at()
    if look.senseless or (look.not_finite and program.across):
        raise _RefusedError
    return Drawn(program, eager, traced)


def shrunk(program: DrawnProgram) -> DrawnProgram:
    """A program that is wrong as well, of as few lines and systems as can be."""
    for batch in (3, 4, 5, 8):
        if batch < program.batch and _is_wrong(smaller := program._replace(batch=batch)):
            program = smaller
            break
    number = len(program.lines) - 1
    while number >= 0:
        smaller = program.without(number)
        if smaller.lines and _is_wrong(smaller):
            program, number = smaller, min(number, len(smaller.lines))
        number -= 1
    return program


def _is_wrong(program: DrawnProgram) -> bool:
    try:
        drawn = accepted(program)
    except Exception:
        return False
    return bool(_tried(drawn).wrong)


# --- many programs, in processes of their own


def outcomes(numbers: Sequence[int]) -> Iterator[Outcome]:
    """What becomes of all these programs, tried by processes that may die of it."""
    chunks = [numbers[k : k + _CHUNK] for k in range(0, len(numbers), _CHUNK)]
    if len(chunks) < PROCESSES:
        chunks = [numbers[k::PROCESSES] for k in range(PROCESSES)]
    found: list[Outcome] = []
    lock = threading.Lock()

    def work(folder: Path) -> None:
        while True:
            with lock:
                if not chunks:
                    return
                mine = list(chunks.pop(0))
            while mine:
                done = _in_a_process(mine, folder)
                with lock:
                    found.extend(done)
                mine = mine[len(done) :]

    with tempfile.TemporaryDirectory() as folder:
        threads = [threading.Thread(target=work, args=(Path(folder),)) for _ in range(PROCESSES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    yield from sorted(found)


def _in_a_process(numbers: Sequence[int], folder: Path) -> list[Outcome]:
    """The outcomes of these programs in turn, up to the first one that a process died of."""
    environment = {
        **os.environ,
        "AITS_FUNC_CHECK_COMPILED": "0",
        "AITS_FUNC_CACHE_DIR": os.environ.get("AITS_FUNC_CACHE_DIR", str(folder)),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "reliability.compiled_programs", "--numbers", *map(str, numbers)]
    done: list[Outcome] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(SECONDS * len(numbers), process.kill)
        timer.start()
        for line in process.stdout or ():
            if line.startswith("{"):
                done.append(Outcome(**json.loads(line)))
        timer.cancel()
    if len(done) < len(numbers):
        program = valid_program(numbers[len(done)]).program
        tried = Tried("none", "", f"the process died: exit code {process.returncode}", 0)
        done.append(_told(program, tried, program.script()))
    return done


def _serve(numbers: Sequence[int]) -> None:
    torch.set_num_threads(1)
    for number in numbers:
        print(json.dumps(outcome(valid_program(number))._asdict()), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--numbers"]:
        _serve([int(each) for each in sys.argv[2:]])
    else:
        main(campaign, __doc__)
