"""Hypothesis strategies: histories of a system, samples, and trajectories."""

import math
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from ..base import tree
from ..base.check import require
from ..base.types import Sample, System, Window
from ..timestep.window import empty_window
from .draws import Range, as_tensor, bounds, dimension_counts, integers, numbers
from .strategies import MAX_SPEED, systems


def windows(system: System, history_len: Range = (0, 3), *, full: bool | None = None) -> SearchStrategy[Window]:
    """A history of a system: none, some or all slots of the window hold a state.

    Valid slots are the last ones, as `push` fills a window. In a past state every body stands near
    its present place, at most 1/8 of the present shortest separation away, so that past states are
    as well-conditioned as the present one; its velocity is drawn afresh. The other slots hold what
    `empty_window` puts there.

    Args:
        system: the present state, one system with no two bodies at one place.
        history_len: H ≥ 0, or its range.
        full: True for windows without an empty slot, False for windows with one (as far as H
            allows), None for both.

    Returns:
        A strategy of `Window`: position and velocity (H, N, D), time (H,), dt (H + 1,), valid (H,).

    Raises:
        ValueError: if history_len is out of its range, or the system is a batch.
    """
    lengths = integers("windows", "history_len", history_len, 0)
    require(system.mass.ndim == 1, f"windows: one system is needed, got a batch of shape {tuple(system.mass.shape)}")
    N, D = system.position.shape
    reach = torch.pdist(system.position).amin().item() / (8 * math.sqrt(D))

    @st.composite
    def build(draw: DrawFn) -> Window:
        H = draw(lengths)
        held = H if full else draw(st.integers(0, max(H - 1, 0) if full is False else H))
        window = empty_window(system, H)
        if held == 0:
            return window
        steps = draw(st.lists(numbers(0.001, 1.0), min_size=held, max_size=held))
        before = draw(numbers(0.0, 1.0)) if held == H else 0.0  # the step that led to the oldest state
        shifts, speeds = (
            as_tensor(draw(st.lists(numbers(-x, x), min_size=held * N * D, max_size=held * N * D))).reshape(held, N, D)
            for x in (1.0, MAX_SPEED)
        )
        ages = as_tensor(steps).flip(0).cumsum(0).flip(0)
        past = Window(
            system.position + reach * shifts,
            speeds,
            system.time - ages,
            as_tensor([before, *steps]),
            torch.ones(held, dtype=torch.bool),
        )
        return Window(*(torch.cat([x[: len(x) - len(y)], y.to(x)]) for x, y in zip(window, past, strict=True)))

    return build()


def samples(
    system: SearchStrategy[System] | None = None,
    history_len: Range = (0, 3),
    *,
    full: bool | None = None,
    inactive: bool = False,
) -> SearchStrategy[Sample]:
    """One sample: a system, a history of it, and a step.

    Args:
        system: where the system comes from; None for `systems` as it is.
        history_len: H ≥ 0, or its range.
        full: as in `windows`.
        inactive: whether samples may also be inactive.

    Returns:
        A strategy of `Sample`; its dt is in [0.001, 1].

    Raises:
        ValueError: if history_len is out of its range.
    """
    lengths = integers("samples", "history_len", history_len, 0)
    states = systems() if system is None else system
    active = st.booleans().map(lambda idle: not idle) if inactive else st.just(True)

    @st.composite
    def build(draw: DrawFn) -> Sample:
        state = draw(states)
        window = draw(windows(state, draw(lengths), full=full))
        return Sample(state, window, as_tensor(draw(numbers(0.001, 1.0))), torch.tensor(draw(active)))

    return build()


def trajectories(
    size: Range = (2, 6),
    bodies: Range = (2, 4),
    dimensions: Range = (2, 3),
    history_len: Range = 0,
    *,
    groups: Range = 1,
    **options: Any,
) -> SearchStrategy[tuple[Sample, ...]]:
    """A trajectory, as a collection leaves it: groups of samples of one shape (N, D, H) each.

    Every sample is of a system of its own, its window full, its step in [0.001, 1].

    Args:
        size: samples T of a group, ≥ 1, or the range.
        bodies: N of a group, or the range.
        dimensions: D, 2 or 3, or (2, 3); the same for all groups.
        history_len: H, ≥ 0, or the range; the same for all groups.
        groups: how many, ≥ 1, or the range. No two have the same N, so there are no more than ``bodies`` allows.
        **options: as in `systems`.

    Returns:
        A strategy of tuples of `Sample`, whose leaves have a leading axis T.

    Raises:
        ValueError: if an argument is out of its range.
    """
    sizes, lengths = integers("trajectories", "size", size, 1), integers("trajectories", "history_len", history_len, 0)
    fewest, most = bounds("trajectories", "bodies", bodies, 2, None)
    counts = st.lists(
        st.integers(fewest, most),
        min_size=bounds("trajectories", "groups", groups, 1, None)[0],
        max_size=min(bounds("trajectories", "groups", groups, 1, None)[1], 1 + most - fewest),
        unique=True,
    )
    axes = dimension_counts("trajectories", dimensions)

    @st.composite
    def build(draw: DrawFn) -> tuple[Sample, ...]:
        D, H = draw(axes), draw(lengths)

        def group(N: int) -> Sample:
            one = samples(systems(N, D, **options), H, full=True)
            T = draw(sizes)
            return tree.stack(draw(st.lists(one, min_size=T, max_size=T)))

        return tuple(group(N) for N in draw(counts))

    return build()
