"""Recording: the states of a batch along the way, in bounded memory."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..base.tree import select
from ..timestep.run import ARRIVED, RUNNING, Run
from .batch_run import scatter

_MAX_FRAMES = 16_384  # beyond it every other frame is dropped, so that a long run does not fill the memory


class Recording(NamedTuple):
    """States along the way: the first, every ``record_every``-th step, and the last; S of them.

    Of a run of many thousand steps every other frame is dropped again and again, so that S stays bounded.
    """

    time: Tensor  # (S, B)        time
    position: Tensor  # (S, B, N, D)  length
    velocity: Tensor  # (S, B, N, D)  length / time
    dt: Tensor  # (S, B)        time; the step that led to it, 0 for the first
    energy_error: Tensor  # (S, B)        |E − E₀| over the energy scale


class Tape:
    """The frames of a recording on their way: the `Recorder` of a simulation."""

    def __init__(self, record_every: int, runs: Run) -> None:
        self.every, self.count, self.leg = record_every, 0, 0
        self.now = (_frame(runs), runs.status)
        self.frames = {0: self.now}

    def begin(self) -> None:
        """A new leg begins: towards the next output time, or the end."""
        self.leg = self.count
        self.now = (self.now[0], torch.zeros_like(self.now[1]))

    def record(self, active: Run, rows: Tensor) -> None:
        """Take down the state of the systems that are still in the batch, if it is time to."""
        self.count += 1
        if not self.every or self.count % self.every:
            return
        self.now = self.frames[self.count] = scatter(self.now, rows, (_frame(active), active.status))
        if len(self.frames) > _MAX_FRAMES:
            self.every *= 2
            self.frames = {number: frame for number, frame in self.frames.items() if number % self.every == 0}

    def stack(self, runs: Run) -> Recording:
        """The frames in which a system was under way, those that had arrived shown at their end; and the last."""
        end = _frame(runs)
        shown = [
            select((status == ARRIVED) & (number > self.leg), end, frame)
            for number, (frame, status) in self.frames.items()
            if number == 0 or bool((status == RUNNING).any())
        ]
        return Recording(*(torch.stack(column) for column in zip(*shown, end, strict=True)))


def _frame(runs: Run) -> Recording:
    return Recording(runs.system.time, runs.system.position, runs.system.velocity, runs.dt, runs.error)
