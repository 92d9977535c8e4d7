"""A batch of runs on their way: every system steps by itself, is frozen when it is done, and leaves the batch."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from ..base.engine import build_engine, remember
from ..base.tree import Tree, map_leaves, select, take
from ..base.types import Params
from ..physics.gravity import Gravity
from ..physics.scheme import Scheme, SchemeStep
from ..timestep.policy import Policy
from ..timestep.run import ARRIVED, RUNNING, Run, Start, Watch, build_stepper, no_step

_SYNC_EVERY = 16  # steps between two looks at who is done; finished systems are frozen meanwhile
_TOGETHER = 8  # steps of a block in one compiled function
_SMALLEST_BATCH = 16  # a smaller batch is not faster
_SHRINK = 2  # a batch is made smaller when only one in so many of its systems is under way,
_SHRINK_COMPILED = 8  # and seldom, where every new size has to be compiled for


class Batch(NamedTuple):
    """The functions of `Stepper`, mapped over B systems.

    Shapes: as those of one, with a leading axis B; parameters and h are shared by all.
    """

    begin: Callable[..., Run]
    advance: Callable[..., Run]
    land: Callable[..., Run]
    turn: Callable[..., Run]
    shrink: int  # when to make the batch smaller, see `_SHRINK`
    block: int  # steps that one ``advance`` takes


class Recorder(Protocol):
    """Looks at the runs after every step."""

    def record(self, active: Run, rows: Tensor) -> None:
        """The runs that are still in the batch, and which rows of it they are."""


class Forgetful:
    """A `Recorder` that keeps nothing."""

    def record(self, active: Run, rows: Tensor) -> None:
        """Nothing is taken down."""


def build_batch(
    policy: Policy,
    gravity: Gravity,
    scheme: Scheme,
    *,
    history_len: int,
    energy_threshold: float,
    watch: Watch,
    compile: str,
    energy_scale: str = "total",
    statistics: bool = True,
    block: int = 1,
) -> Batch:
    """A policy in a scheme as functions of a batch, compiled if asked for.

    Compiled functions are kept for the next batch of the same policy, gravity and scheme.

    Args:
        policy: predicts dt.
        gravity: weighs energies.
        scheme: advances.
        history_len: H of the windows.
        energy_threshold: what a step's own error is counted against.
        watch: which events are looked for.
        compile: "auto", "on" or "off", see `build_engine`.
        energy_scale: one of `ENERGY_SCALES`.
        statistics: see `build_stepper`.
        block: see `build_stepper`; 1 for a scheme of several stages.

    Returns:
        A `Batch`.

    Raises:
        ValueError: if compile is another word.
    """
    make: Callable[..., Batch] = _build if compile == "off" else _build_once
    return make(policy, gravity, scheme, history_len, energy_threshold, watch, compile, energy_scale, statistics, block)


def _build(
    policy: Policy,
    gravity: Gravity,
    scheme: Scheme,
    history_len: int,
    energy_threshold: float,
    watch: Watch,
    compile: str,
    energy_scale: str,
    statistics: bool,
    block: int,
) -> Batch:
    stepper = build_stepper(
        policy,
        gravity,
        scheme,
        history_len=history_len,
        energy_threshold=energy_threshold,
        watch=watch,
        energy_scale=energy_scale,
        statistics=statistics,
        block=block,
    )
    begin = vmap(stepper.begin, in_dims=(None, 0, 0))
    land = vmap(stepper.land, in_dims=(None, None, 0, 0, 0))
    turn = vmap(stepper.turn, in_dims=(None, 0))
    whole = build_engine(
        vmap(stepper.advance, in_dims=(None, None, 0, 0, 0)),
        mode=compile,
        batched=(False, False, True, True, True),
        label="a step of the simulation",
    )
    if compile == "off" or len(scheme.stages) * block == 1:
        return Batch(begin, whole, land, turn, _SHRINK if compile == "off" else _SHRINK_COMPILED, block)
    # Seventeen stages in one graph would be compiled for minutes.
    together = next(count for count in range(_TOGETHER, 0, -1) if block % count == 0)

    def several(out: SchemeStep, params: Params, size: Tensor, run: Run) -> tuple[SchemeStep, tuple[()]]:
        for _ in range(together):
            out = stepper.stage(params, size, run, out)
        return out, ()

    stage = build_engine(
        vmap(several, in_dims=(0, None, None, 0)),
        mode=compile,
        batched=(True, False, False, True),
        label="a stage of the simulation",
    )
    conclude = build_engine(
        vmap(stepper.conclude), mode=compile, batched=(True,) * 4, label="the statistics of the simulation"
    )

    def advance(params: Params, h: Tensor, start: Start, runs: Run, target: Tensor) -> Run:
        sizes = torch.stack([coefficient * h for coefficient in scheme.stages]).repeat(block // together)
        told = map_leaves(lambda leaf: leaf.expand(len(sizes), *leaf.shape), (params, runs))
        out, _ = stage.scan(no_step(runs), told[0], sizes, told[1])
        return conclude(start, runs, out, target)

    return Batch(begin, advance, land, turn, _SHRINK_COMPILED, block)


_build_once = remember(_build)


def reach(
    batch: Batch, params: Params, h: Tensor, start: Start, runs: Run, target: Tensor, recorder: Recorder
) -> tuple[Run, Run]:
    """(the runs before the step that would pass the target, the runs there), all of them.

    Args:
        batch: the functions.
        params: the policy's parameters.
        h: (), the factor on the step.
        start: what the systems are measured against, leaves (B, ...).
        runs: where they are, leaves (B, ...).
        target: (B,) time; infinite: until the step limit.
        recorder: looks on.

    Returns:
        Two `Run`, leaves (B, ...).
    """
    rows = torch.arange(len(target), device=target.device)
    limit = int(start.max_steps.max())
    active, its_start, its_target, count = runs, start, target, 0
    while True:
        active = batch.advance(params, h, its_start, active, its_target)
        count += batch.block
        recorder.record(active, rows)
        if count % _SYNC_EVERY and count < limit:
            continue
        running = active.status == RUNNING
        left = int(running.sum())  # the one host sync of the loop
        if left == 0:
            break
        size = max(_SMALLEST_BATCH, _size_above(left, batch.shrink))
        if left * batch.shrink <= len(rows) and size < len(rows):
            runs = scatter(runs, rows, active)
            # Those that run, and to fill the size up some that are frozen.
            keep = running.to(torch.int8).argsort(descending=True, stable=True)[:size].sort().values
            rows = rows[keep]
            active, its_start, its_target = take((runs, start, target), rows)
    runs = scatter(runs, rows, active)
    arrived = runs.status == ARRIVED
    if not bool(arrived.any()):
        return runs, runs
    # Those that have not arrived land where they are: a step of no length is finite, with its derivatives.
    return runs, select(
        arrived, batch.land(params, h, start, runs, torch.where(arrived, target, runs.system.time)), runs
    )


def _size_above(left: int, base: int) -> int:
    """``left`` where sizes are free (base 2), and else the next power of the base, so that there are few sizes."""
    return left if base == _SHRINK else base ** math.ceil(math.log(left) / math.log(base) - 1e-9)


def scatter(full: Tree, rows: Tensor, part: Tree) -> Tree:
    """The full batch with the given rows replaced."""
    return map_leaves(lambda old, new: old.index_copy(0, rows, new), full, part)
