"""The symmetries of gravity as values: frames and units, and how a system or a sample looks in them."""

from typing import NamedTuple, TypeVar

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from ..base.check import has_room
from ..base.types import Sample, System, Window
from .draws import as_tensor, numbers, permutations, rotations

State = TypeVar("State", System, Sample)

_POWERS = (-12, 17)  # of ten, of which units are


class Frame(NamedTuple):
    """Another frame, x' = R x + s + u t and v' = R v + u, and another order of the bodies.

    Shapes: as commented on the fields.
    """

    turn: Tensor  # (D, D)  R, orthogonal
    shift: Tensor  # (D,)  s, length
    boost: Tensor  # (D,)  u, length / time
    order: Tensor  # (N,)  int64


class Units(NamedTuple):
    """Factors between numbers in two systems of units: plain numbers, > 0."""

    length: float
    mass: float
    time: float

    @property
    def gravitational_constant(self) -> float:
        """The constant in the new units over that in ours."""
        return self.length**3 / (self.mass * self.time**2)


def frames(
    bodies: int,
    dimensions: int,
    *,
    turned: bool = False,
    mirrored: bool = False,
    shift: float = 0.0,
    boost: float = 0.0,
    mixed: bool = False,
) -> SearchStrategy[Frame]:
    """Frames that differ from the present one in what is asked for.

    Args:
        bodies: N.
        dimensions: D, 2 or 3.
        turned: whether the axes are turned.
        mirrored: whether they may also be mirrored.
        shift: bound on every component of the shift, length.
        boost: bound on every component of the boost, length / time.
        mixed: whether the bodies come in another order.

    Returns:
        A strategy of `Frame`.

    Raises:
        ValueError: if dimensions is not 2 or 3.
    """
    turns, orders = rotations(dimensions), permutations(bodies)

    @st.composite
    def build(draw: DrawFn) -> Frame:
        R = draw(turns) if turned else torch.eye(dimensions, dtype=torch.float64)
        R = R.flip(0) if mirrored and draw(st.booleans()) else R
        s, u = (
            as_tensor(draw(st.lists(numbers(-x, x), min_size=dimensions, max_size=dimensions))) for x in (shift, boost)
        )
        return Frame(R, s, u, draw(orders) if mixed else torch.arange(bodies))

    return build()


def seen_from(frame: Frame, state: State) -> State:
    """A system, or a sample with its window, in another frame.

    Args:
        frame: of the same N and D.
        state: one `System` or one `Sample`.

    Returns:
        The same kind of state.
    """
    if isinstance(state, Sample):
        window = _window_seen_from(frame, state.window)
        return state._replace(system=seen_from(frame, state.system), window=window)
    work = torch.cat([state.work[:1], state.work[1:][frame.order]]) if has_room(state) else state.work
    return state._replace(
        mass=state.mass[frame.order],
        work=work,
        position=_place(frame, state.position, state.time),
        velocity=_motion(frame, state.velocity),
    )


def _window_seen_from(frame: Frame, window: Window) -> Window:
    position = _place(frame, window.position, window.time[:, None, None])
    return window._replace(position=position, velocity=_motion(frame, window.velocity))


def _place(frame: Frame, position: Tensor, time: Tensor) -> Tensor:
    return (position @ frame.turn.T + frame.shift + frame.boost * time)[..., frame.order, :]


def _motion(frame: Frame, velocity: Tensor) -> Tensor:
    return (velocity @ frame.turn.T + frame.boost)[..., frame.order, :]


def units(G: float | None = 1.0) -> SearchStrategy[Units]:
    """Units of length and mass from 1e-12 to 1e17 of ours, powers of ten, and a unit of time.

    A parsec is 3e16 m. Numbers in float64 reach that far and farther; powers of them leave float32 at once.

    Args:
        G: gravitational constant in the new units over that in ours, > 0: time² = length³ / (G mass). None for a unit
            of time that is drawn as the others are, and a constant that follows: `Units.gravitational_constant`.

    Returns:
        A strategy of `Units`.
    """
    size = st.integers(*_POWERS).map(lambda power: 10.0**power)
    if G is None:
        return st.builds(Units, size, size, size)
    return st.builds(lambda length, mass: Units(length, mass, (length**3 / (G * mass)) ** 0.5), size, size)


def in_units(units: Units, state: State) -> State:
    """A system, or a sample with its window, in other units.

    Args:
        units: what lengths, masses and times are multiplied by.
        state: one `System` or one `Sample`.

    Returns:
        The same kind of state.
    """
    length, mass, time = units
    speed = length / time
    if isinstance(state, Sample):
        w = state.window
        window = Window(length * w.position, speed * w.velocity, time * w.time, time * w.dt, w.valid)
        return state._replace(system=in_units(units, state.system), window=window, dt=time * state.dt)
    return System(
        mass * state.mass,
        length * state.position,
        speed * state.velocity,
        time * state.time,
        speed**2 * (mass * state.work if not has_room(state) else torch.cat([mass * state.work[:1], state.work[1:]])),
    )
