"""The history window of ONE system: its last H states and the steps between them.

A window is data that travels with its sample, so that replay needs no live buffer.
"""

import torch
from torch import Tensor

from ..base.types import Sample, System, Window


def empty_window(system: System, history_len: int) -> Window:
    """A window without history.

    Its slots hold the present state, marked invalid: whatever is computed from them is finite and
    is then masked. (The source pads with zero states, whose features are NaN without softening.)

    Args:
        system: one system.
        history_len: H ≥ 0.

    Returns:
        A `Window` of shape H, nothing in it valid, every dt 0.
    """
    position = system.position.expand(history_len, *system.position.shape)
    velocity = system.velocity.expand(history_len, *system.velocity.shape)
    time = system.time.expand(history_len)
    dt = torch.zeros_like(system.time).expand(history_len + 1)
    return Window(position, velocity, time, dt, torch.zeros_like(time, dtype=torch.bool))


def push(window: Window, before: System, dt: Tensor) -> Window:
    """The window after a step of length dt from ``before``: the oldest state leaves, that one enters.

    Args:
        window: H states before ``before``.
        before: the state that the step started from.
        dt: (), the step that was taken.

    Returns:
        A `Window` of the same shape H, which belongs to the state after the step.
    """

    def shift(old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([old, new[None]])[1:]

    return Window(
        shift(window.position, before.position),
        shift(window.velocity, before.velocity),
        shift(window.time, before.time),
        shift(window.dt, dt),
        shift(window.valid, torch.ones_like(dt, dtype=torch.bool)),
    )


def forget(window: Window) -> Window:
    """The same window with every slot marked invalid: features see the present state alone."""
    return window._replace(valid=torch.zeros_like(window.valid), dt=torch.zeros_like(window.dt))


def is_full(window: Window) -> Tensor:
    """Whether every slot holds a state, () bool; always True for H = 0."""
    return window.valid.all()


def first_sample(system: System, history_len: int = 0) -> Sample:
    """The sample at the beginning of a run: a system without history, no step attempted yet.

    Args:
        system: one system.
        history_len: H ≥ 0.

    Returns:
        An active `Sample`.
    """
    nothing = torch.zeros_like(system.time)
    return Sample(system, empty_window(system, history_len), nothing, torch.ones_like(nothing, dtype=torch.bool))
