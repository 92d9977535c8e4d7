"""Hypothesis strategies: systems, batches, orbits, external fields.

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
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from ..base import tree
from ..base.check import has_room, make_room, make_system, require
from ..base.types import System
from ..physics.fields import Field, build_tidal_field, straight_path
from ..physics.orbits import two_body_orbit
from .draws import Range, as_tensor, bounds, dimension_counts, integers, numbers, rotations

_MOST = 24  # bodies
MAX_SPEED = 2.0  # of every component, in length / time


def systems(
    bodies: Range = (2, 6),
    dimensions: Range = (2, 3),
    *,
    min_separation: float = 0.25,
    spacing: float = 1.0,
    mass: tuple[float, float] = (0.1, 10.0),
    massless: bool = False,
    max_speed: float = MAX_SPEED,
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
        A strategy of `System`: mass (N,), position and velocity (N, D), time (), work () or, with a test particle,
        (1 + N,).

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> from hypothesis import find
        >>> find(systems(bodies=2, dimensions=2), lambda system: True).position.tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    fewest, most = bounds("systems", "bodies", bodies, 2, _MOST)
    axes = dimension_counts("systems", dimensions)
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
        m, cells, shifts, velocity = (as_tensor(column) for column in zip(*drawn, strict=True))
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
    sizes = integers("batches", "size", size, 1)
    counts, axes = integers("batches", "bodies", bodies, 2, _MOST), dimension_counts("batches", dimensions)

    @st.composite
    def build(draw: DrawFn) -> System:
        B, one = draw(sizes), systems(draw(counts), draw(axes), **options)
        drawn = draw(st.lists(one, min_size=B, max_size=B))
        return tree.stack([make_room(each, always=any(map(has_room, drawn))) for each in drawn])

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
    axes = dimension_counts("orbits", dimensions)
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


def fields(dimensions: int, *, static: bool | None = None, G: float = 1.0) -> SearchStrategy[Field]:
    """The tidal field of a perturber of 50 mass units, at a distance of 10 and so beyond all drawn bodies.

    Args:
        dimensions: D, 2 or 3.
        static: True for perturbers at rest, False for ones that move by at most 0.5 along every axis, None for both.
        G: gravitational constant, > 0.

    Returns:
        A strategy of `Field` of places x (D,).

    Raises:
        ValueError: if an argument is out of its range.
    """
    dimension_counts("fields", dimensions)
    require(G > 0, f"fields: G must be > 0, got {G}")
    drift = st.lists(numbers(-0.5, 0.5), min_size=dimensions, max_size=dimensions)

    @st.composite
    def build(draw: DrawFn) -> Field:
        place = 10 * draw(rotations(dimensions))[0]
        at_rest = draw(st.booleans()) if static is None else static
        return build_tidal_field(50.0, place if at_rest else straight_path(place, draw(drift)), G=G)

    return build()
