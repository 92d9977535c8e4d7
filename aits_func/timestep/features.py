"""What the policy sees of ONE system: four vocabularies of features.

``basic``, ``rich`` and ``delta_mag`` are the source system's, kept so that results can be compared;
their lengths and times carry units, and so do the source's guards in them (1e-12 in the square of any
quantity, and 1e-6 of a length): where numbers are small beside those, the features say nothing. In SI
units of planetary systems they are not. ``invariant`` is ours, the same in any units: see `invariant`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require, require_choice
from ..base.forward_mode import number
from ..base.types import System, Window
from ..physics.gravity import Gravity, mutual_acceleration
from ..physics.invariants import to_centre_of_mass
from ..physics.pairs import pair_distance
from ..physics.step_function import REVERSIBLE, Traits
from .invariant import INVARIANT_NAMES, build_invariant

VOCABULARIES = ("invariant", "basic", "rich", "delta_mag")
# The source's, bound to a unit: rms(x) = sqrt(mean(x²) + 1e-12), pair distance sqrt(d² + s² + 1e-12).
_ROOT_GUARD = 1e-12
_DELTA_SOFTENING = 1e-6  # the source's, a length: accelerations of delta_mag use max(s, 1e-6)


class Scales(NamedTuple):
    """Units that dimensional features are divided by: plain numbers > 0, in the caller's units."""

    length: float  # L0
    speed: float  # V0
    acceleration: float  # A0
    time: float  # T0


class Features(NamedTuple):
    """A feature vocabulary: ``apply(system, window) -> (F,)``, and what is known about it.

    Made by `build_features`. Shapes: one `System` and its `Window` in.
    """

    apply: Callable[[System, Window], Tensor]
    names: tuple[str, ...]  # F of them
    dimensionless: bool  # whether the policy's output is to be multiplied by the system's own time scale
    history_len: int  # H, the number of past states that are read
    traits: Traits = Traits()  # what is known about them; reversible schemes ask

    @property
    def size(self) -> int:
        """F, the number of features."""
        return len(self.names)


def build_features(
    vocabulary: str, gravity: Gravity, *, history_len: int = 0, scales: Scales | None = None
) -> Features:
    """The features of that vocabulary.

    ``invariant`` (20): dimensionless numbers of the present state alone, see `build_invariant`.
    ``basic`` (11): N, D, total mass, then of |x|, |v|, |a| over bodies mean and max, then smallest and
    mean pair distance. ``rich`` (23): mean, min, max, rms in place of mean and max, for the masses
    too, the largest pair distance and the softening. With H > 0 both are concatenated over H past
    states and the present one, oldest first. ``delta_mag`` (10 per interval): over consecutive states
    mean, max and rms over bodies of |Δx|, |Δv|, |Δa|, then the dt of the later state, oldest interval
    first; its accelerations are those of mutual gravity alone, softened by at least 1e-6, as in the source. All are
    relative to the centre of mass. The guards of these three are bound to the caller's units. A state that is missing
    from the window contributes zeros.

    Args:
        vocabulary: "invariant", "basic", "rich" or "delta_mag".
        gravity: accelerations, G and softening.
        history_len: H ≥ 0; ≥ 1 for delta_mag, 0 for invariant.
        scales: what lengths, speeds, accelerations and times are divided by; None for nothing.

    Returns:
        `Features`, a function (system, window) -> (F,).

    Raises:
        ValueError: on an unknown vocabulary, or a history_len that it does not take.
    """
    require_choice("build_features", "vocabulary", vocabulary, VOCABULARIES)
    require(history_len >= 0, f"build_features: history_len must be >= 0, got {history_len}")
    unit = scales or Scales(1.0, 1.0, 1.0, 1.0)
    if vocabulary == "invariant":
        require(
            history_len == 0,
            f"build_features: invariant features have no memory; set history_len = 0, got {history_len}",
        )
        present = build_invariant(gravity)
        return Features(lambda system, window: present(system), INVARIANT_NAMES, True, 0, REVERSIBLE)
    if vocabulary == "delta_mag":
        require(history_len >= 1, "build_features: delta_mag compares states; set history_len >= 1, got 0")
        apply, names = _with_history(history_len, _build_delta_mag(gravity, unit)), _DELTA_NAMES
        named = tuple(f"{name}[{k - history_len}]" for k in range(history_len) for name in names)
        return Features(apply, named, False, history_len)
    of_state, names = _STATE_FEATURES[vocabulary]
    labels = ("",) if history_len == 0 else tuple(f"[{k - history_len}]" for k in range(history_len + 1))
    named = tuple(name + label for label in labels for name in names)
    apply = _with_history(history_len, _over_window(lambda s: of_state(gravity, unit, s)))
    # Not smooth: largest and smallest values over bodies and pairs are among them.
    return Features(apply, named, False, history_len, Traits(memoryless=history_len == 0, even=True))


def _with_history(history_len: int, apply: Callable[[System, Window], Tensor]) -> Callable[[System, Window], Tensor]:
    """The function, refusing windows of another length: a network would fail on them with a foreign message."""

    def checked(system: System, window: Window) -> Tensor:
        require(
            window.valid.shape[0] == history_len,
            f"features: the window holds {window.valid.shape[0]} states, these features read {history_len}; make "
            f"samples with history_len = {history_len}",
        )
        return apply(system, window)

    return checked


def auto_scales(system: System, gravity: Gravity) -> Scales:
    """Units read off a system: L0 mean pair distance, V0 rms speed, A0 rms acceleration, T0 = L0/V0.

    Args:
        system: one system, usually the first of the training set.
        gravity: accelerations and softening.

    Returns:
        `Scales`.

    Raises:
        ValueError: if the system is at rest or without forces, as a unit would be 0.
    """
    system = to_centre_of_mass(system)
    acceleration = gravity.acceleration(system.mass, system.position, system.time)
    length = float(pair_distance(system.position, gravity.softening).mean())
    speed, strength = (float(_magnitude(x).pow(2).mean().sqrt()) for x in (system.velocity, acceleration))
    require(
        speed > 0 and strength > 0,
        "auto_scales: the first system is at rest or feels no force; give the scales L0 and V0 by hand",
    )
    return Scales(length, speed, strength, length / speed)


def manual_scales(length: float, speed: float, acceleration: float | None = None, time: float | None = None) -> Scales:
    """Units given by hand: L0, V0, and unless given A0 = V0²/L0 and T0 = L0/V0.

    Args:
        length: L0 > 0.
        speed: V0 > 0.
        acceleration: A0 > 0.
        time: T0 > 0.

    Returns:
        `Scales`.

    Raises:
        ValueError: if one is not > 0.
    """
    require(length > 0 and speed > 0, f"manual_scales: length and speed must be > 0, got {length} and {speed}")
    scales = Scales(
        length,
        speed,
        speed**2 / length if acceleration is None else acceleration,
        length / speed if time is None else time,
    )
    require(scales.acceleration > 0 and scales.time > 0, f"manual_scales: every scale must be > 0, got {scales}")
    return scales


def _basic(gravity: Gravity, unit: Scales, system: System) -> Tensor:
    counts, (r, v, a), pairs = _ingredients(gravity, unit, system)
    spread = [f(x) for x in (r, v, a) for f in (torch.mean, torch.amax)]
    return torch.stack([*counts, *spread, pairs.amin(), pairs.mean()])


def _rich(gravity: Gravity, unit: Scales, system: System) -> Tensor:
    counts, (r, v, a), pairs = _ingredients(gravity, unit, system)
    spread = [f(x) for x in (system.mass, r, v, a) for f in (torch.mean, torch.amin, torch.amax, _rms)]
    softening = torch.full_like(system.time, gravity.softening / unit.length)
    return torch.stack([*counts, *spread, pairs.amin(), pairs.mean(), pairs.amax(), softening])


def _ingredients(
    gravity: Gravity, unit: Scales, system: System
) -> tuple[Sequence[Tensor], tuple[Tensor, Tensor, Tensor], Tensor]:
    """(N, D, total mass), magnitudes (N,) of x, v, a, and pair distances (P,), in units of the scales."""
    pairs = (pair_distance(system.position, gravity.softening).pow(2) + _ROOT_GUARD).sqrt() / unit.length
    system = to_centre_of_mass(system)
    bodies, dimensions = system.position.shape
    counts = [torch.full_like(system.time, n) for n in (bodies, dimensions)] + [system.mass.sum()]
    acceleration = gravity.acceleration(system.mass, system.position, system.time)
    r, v = _magnitude(system.position) / unit.length, _magnitude(system.velocity) / unit.speed
    return counts, (r, v, _magnitude(acceleration) / unit.acceleration), pairs


def _names(*groups: tuple[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(f"{quantity} {word}".strip() for quantity, words in groups for word in words)


_COUNTS = ("bodies", "dimensions", "total mass")
_MEAN_MAX, _FOUR, _THREE = ("mean", "max"), ("mean", "min", "max", "rms"), ("mean", "max", "rms")
_STATE_FEATURES: dict[str, tuple[Callable[[Gravity, Scales, System], Tensor], tuple[str, ...]]] = {
    "basic": (
        _basic,
        _names(("", _COUNTS), ("r", _MEAN_MAX), ("v", _MEAN_MAX), ("a", _MEAN_MAX), ("pair", ("min", "mean"))),
    ),
    "rich": (
        _rich,
        _names(
            ("", _COUNTS),
            *((x, _FOUR) for x in ("m", "r", "v", "a")),
            ("pair", ("min", "mean", "max")),
            ("", ("softening",)),
        ),
    ),
}
_DELTA_NAMES = _names(*((x, _THREE) for x in ("Δx", "Δv", "Δa")), ("", ("dt",)))


def _over_window(of_state: Callable[[System], Tensor]) -> Callable[[System, Window], Tensor]:
    """Features of every past state, zero where there is none, then of the present one: (F·(H + 1),)."""

    def apply(system: System, window: Window) -> Tensor:
        present = of_state(system)
        if window.valid.shape[0] == 0:
            return present
        past = vmap(of_state)(_past_states(system, window))
        past = torch.where(window.valid[:, None], past, torch.zeros_like(past))
        return torch.cat([past.reshape(-1), present])

    return apply


def _build_delta_mag(gravity: Gravity, unit: Scales) -> Callable[[System, Window], Tensor]:
    softening = max(gravity.softening, _DELTA_SOFTENING)

    def acceleration(system: System) -> Tensor:
        return mutual_acceleration(system.mass, system.position, G=gravity.G, softening=softening)

    def apply(system: System, window: Window) -> Tensor:
        past = _past_states(system, window)
        states = System(*(torch.cat([old, new[None]]) for old, new in zip(past, system, strict=True)))
        states = vmap(to_centre_of_mass)(states)
        quantities = (
            (states.position, unit.length),
            (states.velocity, unit.speed),
            (vmap(acceleration)(states), unit.acceleration),
        )
        changes = [_magnitude(x.diff(dim=0)) / scale for x, scale in quantities]  # (H, N) each
        columns = [f(change) for change in changes for f in (_row_mean, _row_max, _row_rms)]
        rows = torch.stack([*columns, window.dt[1:] / unit.time], dim=1)  # (H, 10)
        return torch.where(window.valid[:, None], rows, torch.zeros_like(rows)).reshape(-1)

    return apply


def _past_states(system: System, window: Window) -> System:
    """The states of a window as a batch of systems (H, ...); mass and work are the present one's."""
    history = window.valid.shape[0]
    mass, work = (leaf.expand(history, *leaf.shape) for leaf in (system.mass, system.work))
    return System(mass, window.position, window.velocity, window.time, work)


def _magnitude(x: Tensor) -> Tensor:
    """|x| over the last axis, with derivative 0 at 0 (a root masked before and after)."""
    square = x.pow(2).sum(-1)
    positive = square > 0
    return torch.where(
        positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square)
    )


def _rms(x: Tensor) -> Tensor:
    square = x.pow(2).mean()
    return (square + number(_ROOT_GUARD, square)).sqrt()


def _row_mean(x: Tensor) -> Tensor:
    return x.mean(1)


def _row_max(x: Tensor) -> Tensor:
    return x.amax(1)


def _row_rms(x: Tensor) -> Tensor:
    return (x.pow(2).mean(1) + _ROOT_GUARD).sqrt()
