"""Hypothesis strategies: systems, batches, orbits, histories, and the symmetries to try on them.

What is drawn are plain numbers, integers times 0.001, from which float64 tensors are built: a
failing example shrinks to few bodies with round coordinates, reads in full as printed, and holds
no number so small that its square vanishes. Bodies are placed in different cells of a grid, so
that none come closer than a bound: a law that fails on such a system fails as a law, and not
because 1/r² of a near-collision is ill-conditioned.

    from hypothesis import given
    from aits_func.testing import systems

    @given(systems(bodies=(2, 5), dimensions=3))
    def test_something_holds_of_every_system(system): ...

Units: those in which G = 1, unless another G is given; lengths, masses and speeds are of order 1.
"""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..base import tree
from ..base.check import make_system, require
from ..base.types import Sample, System, Window
from ..physics.orbits import two_body_orbit
from ..timestep.window import empty_window

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import DrawFn, SearchStrategy
except ImportError as error:
    raise ImportError("aits_func.testing needs hypothesis; pip install 'aits_func[testing]'") from error

Range: TypeAlias = int | tuple[int, int]
"""One number, or the smallest and the largest of a range."""

_GRAIN = 1000  # numbers are multiples of 1/1000: printed in full by torch, and never denormal
_MOST = 24  # bodies
_MAX_SPEED = 2.0  # of every component, in length / time


def numbers(low: float, high: float) -> SearchStrategy[float]:
    """Multiples of 0.001 between two bounds, of which 0 or the one nearest to it is the simplest.

    Args:
        low: smallest, rounded up to a multiple.
        high: largest, rounded down to a multiple.

    Returns:
        A strategy of floats.

    Raises:
        ValueError: if there is no multiple of 0.001 between the bounds.
    """
    first, last = math.ceil(low * _GRAIN - 1e-9), math.floor(high * _GRAIN + 1e-9)
    require(first <= last, f"numbers: there must be a multiple of 0.001 between low and high, got {low} and {high}")
    return st.integers(first, last).map(lambda k: k / _GRAIN)


def systems(
    bodies: Range = (2, 6),
    dimensions: Range = (2, 3),
    *,
    min_separation: float = 0.25,
    spacing: float = 1.0,
    mass: tuple[float, float] = (0.1, 10.0),
    massless: bool = False,
    max_speed: float = _MAX_SPEED,
    max_time: float = 0.0,
) -> SearchStrategy[System]:
    """ONE system, float64, in no special frame: neither centred nor at rest as a whole.

    The bodies stand in different cells of a grid (of 3, 5 or 7 cells along every axis, so that at most
    half of them are taken), each displaced from the middle of its cell by at most
    (spacing − min_separation)/2 along every axis.

    Args:
        bodies: N ≥ 2, or its range; at most 24.
        dimensions: D, 2 or 3, or (2, 3).
        min_separation: length; no two bodies are closer, > 0.
        spacing: length of a cell, ≥ min_separation.
        mass: range of a body's mass, > 0.
        massless: whether bodies may also be test particles of mass 0; at least one is not.
        max_speed: length / time, bound on every component of a velocity; 0 for bodies at rest.
        max_time: the system's clock shows a time in [0, max_time].

    Returns:
        A strategy of `System`: mass (N,), position and velocity (N, D), time and work ().

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from hypothesis import find
        >>> find(systems(bodies=2, dimensions=2), lambda system: True).position.tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    fewest, most = _bounds("systems", "bodies", bodies, 2, _MOST)
    axes = _axes("systems", dimensions)
    require(
        0 < min_separation <= spacing,
        f"systems: min_separation must be > 0 and <= spacing, got {min_separation} and spacing {spacing}",
    )
    require(0 < mass[0] <= mass[1], f"systems: mass must be a range of numbers > 0, got {mass}")
    require(max_speed >= 0, f"systems: max_speed must be >= 0, got {max_speed}")
    require(max_time >= 0, f"systems: max_time must be >= 0, got {max_time}")
    half = next(k for k in (1, 2, 3) if (2 * k + 1) ** 2 >= 2 * most)
    size, room = numbers(*mass), (spacing - min_separation) / 2
    # A body is drawn as a whole and with three axes, so that shrinking can leave out a body or an axis.
    body = st.tuples(
        st.one_of(size, st.just(0.0)) if massless else size,
        st.tuples(*[st.integers(-half, half)] * 3),
        st.tuples(*[numbers(-room, room)] * 3),
        st.tuples(*[numbers(-max_speed, max_speed)] * 3),
    )

    @st.composite
    def build(draw: DrawFn) -> System:
        D, time = draw(axes), draw(numbers(0, max_time))
        several = st.lists(body, min_size=fewest, max_size=most, unique_by=lambda one: one[1][:D])
        drawn = draw(several.filter(lambda them: any(one[0] for one in them)))
        m, cells, shifts, velocity = (_tensor(column) for column in zip(*drawn, strict=True))
        return make_system(m, (spacing * cells + shifts)[:, :D], velocity[:, :D], time)

    return build()


def batches(
    size: Range = (1, 4), bodies: Range = (2, 6), dimensions: Range = (2, 3), **options: Any
) -> SearchStrategy[System]:
    """A batch of systems of one shape.

    Args:
        size: B ≥ 1, or its range.
        bodies: N, the same for all systems of a batch, or its range.
        dimensions: D, the same for all systems of a batch, or its range.
        **options: as in `systems`.

    Returns:
        A strategy of `System` whose leaves have a leading axis B.

    Raises:
        ValueError: if an argument is out of its range.
    """
    sizes = _range("batches", "size", size, 1)
    counts, axes = _range("batches", "bodies", bodies, 2, _MOST), _axes("batches", dimensions)

    @st.composite
    def build(draw: DrawFn) -> System:
        B, one = draw(sizes), systems(draw(counts), draw(axes), **options)
        return tree.stack(draw(st.lists(one, min_size=B, max_size=B)))

    return build()


def orbits(
    dimensions: Range = (2, 3),
    *,
    eccentricity: tuple[float, float] = (0.0, 0.9),
    semi_major_axis: tuple[float, float] = (0.5, 2.0),
    mass: tuple[float, float] = (0.1, 10.0),
    G: float = 1.0,
) -> SearchStrategy[System]:
    """Two bodies on a bound Kepler orbit, anywhere on it and turned anyhow, about their centre of mass.

    Args:
        dimensions: D, 2 or 3, or (2, 3).
        eccentricity: range of e, within [0, 1).
        semi_major_axis: range of a, length, > 0.
        mass: range of a body's mass, > 0.
        G: gravitational constant, > 0.

    Returns:
        A strategy of `System` of 2 bodies; see `two_body_orbit` for the elements.

    Raises:
        ValueError: if an argument is out of its range.
    """
    axes = _axes("orbits", dimensions)
    require(0 <= eccentricity[0] <= eccentricity[1] < 1, f"orbits: eccentricity must be in [0, 1), got {eccentricity}")
    for name, (low, high) in (("semi_major_axis", semi_major_axis), ("mass", mass)):
        require(0 < low <= high, f"orbits: {name} must be a range of numbers > 0, got {(low, high)}")
    require(G > 0, f"orbits: G must be > 0, got {G}")
    angle = numbers(-math.pi, math.pi)

    @st.composite
    def build(draw: DrawFn) -> System:
        D = draw(axes)
        return two_body_orbit(
            mass=[draw(numbers(*mass)), draw(numbers(*mass))],
            semi_major_axis=draw(numbers(*semi_major_axis)),
            eccentricity=draw(numbers(*eccentricity)),
            mean_anomaly=draw(angle),
            inclination=draw(numbers(0, math.pi)) if D == 3 else 0.0,
            longitude_of_ascending_node=draw(angle) if D == 3 else 0.0,
            argument_of_pericentre=draw(angle),
            dimensions=D,
            G=G,
        )

    return build()


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
    lengths = _range("windows", "history_len", history_len, 0)
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
            _tensor(draw(st.lists(numbers(-x, x), min_size=held * N * D, max_size=held * N * D))).reshape(held, N, D)
            for x in (1.0, _MAX_SPEED)
        )
        ages = _tensor(steps).flip(0).cumsum(0).flip(0)
        past = Window(
            system.position + reach * shifts,
            speeds,
            system.time - ages,
            _tensor([before, *steps]),
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
    lengths = _range("samples", "history_len", history_len, 0)
    states = systems() if system is None else system
    active = st.booleans().map(lambda idle: not idle) if inactive else st.just(True)

    @st.composite
    def build(draw: DrawFn) -> Sample:
        state = draw(states)
        window = draw(windows(state, draw(lengths), full=full))
        return Sample(state, window, _tensor(draw(numbers(0.001, 1.0))), torch.tensor(draw(active)))

    return build()


def rotations(dimensions: int) -> SearchStrategy[Tensor]:
    """Rotations of space, proper ones: by an angle in the plane, by a unit quaternion in space.

    Args:
        dimensions: D, 2 or 3.

    Returns:
        A strategy of orthogonal matrices (D, D) of determinant 1; ``position @ R.T`` turns a system.

    Raises:
        ValueError: if dimensions is not 2 or 3.
    """
    _axes("rotations", dimensions)
    if dimensions == 2:
        return numbers(-math.pi, math.pi).map(_from_angle)
    # Small integers: all directions are reached, and the identity is the simplest.
    return st.tuples(*[st.integers(-9, 9)] * 4).map(_from_quaternion)


def permutations(n: int) -> SearchStrategy[Tensor]:
    """Orders of n bodies, as an index: ``position[order]``.

    Args:
        n: how many, ≥ 1.

    Returns:
        A strategy of int64 tensors (n,), each number 0 … n − 1 once.

    Raises:
        ValueError: if n is not ≥ 1.
    """
    require(n >= 1, f"permutations: n must be >= 1, got {n}")
    return st.permutations(range(n)).map(torch.tensor)


def _from_angle(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return _tensor([[c, -s], [s, c]])


def _from_quaternion(parts: tuple[int, ...]) -> Tensor:
    """The rotation of w + ix + jy + kz; that of the identity for 0."""
    norm = math.sqrt(sum(part**2 for part in parts))
    w, x, y, z = (part / norm for part in parts) if norm > 0 else (1.0, 0.0, 0.0, 0.0)
    return _tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _bounds(where: str, name: str, value: Range, least: int, most: int | None) -> tuple[int, int]:
    low, high = (value, value) if isinstance(value, int) else value
    allowed = f">= {least}" if most is None else f"between {least} and {most}"
    require(
        least <= low <= high and (most is None or high <= most),
        f"{where}: {name} must be a number or a (smallest, largest) {allowed}, got {value}",
    )
    return low, high


def _range(where: str, name: str, value: Range, least: int, most: int | None = None) -> SearchStrategy[int]:
    return st.integers(*_bounds(where, name, value, least, most))


def _axes(where: str, dimensions: Range) -> SearchStrategy[int]:
    return _range(where, "dimensions", dimensions, 2, 3)
