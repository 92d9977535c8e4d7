"""External fields: a pair of functions of one place and one time.

A field enters forces and energies alike. Any pair (acceleration, potential) with
acceleration = −∇ potential will do; the tidal field of a distant point mass is shipped.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number


class Field(NamedTuple):
    """An external field, as two pure functions of one place x (D,) and time t ().

    Shapes: acceleration(x, t) -> (D,), potential(x, t) -> (). Units: length / time² and
    (length / time)². With ``static=True`` the potential is taken to be independent of time, and
    the work that the field does on the system is not integrated.
    """

    acceleration: Callable[[Tensor, Tensor], Tensor]
    potential: Callable[[Tensor, Tensor], Tensor]
    static: bool = False


def build_tidal_field(
    mass: float | Tensor, position: Sequence[float] | Tensor | Callable[[Tensor], Tensor], *, G: float = 1.0
) -> Field:
    """Tidal field of a distant point mass, in the frame that falls freely with the origin.

        a(x) = G M [(R − x)/|R − x|³ − R/|R|³]
        Φ(x) = −G M [1/|R − x| − 1/|R| − x·R/|R|³]

    Differentiable in mass and position, where these are tensors.

    Args:
        mass: M > 0.
        position: R, D numbers for a perturber at rest, or a function t () -> R (D,) for one that
            moves. A function makes the field time-dependent: then energy is exchanged with the
            perturber, and the conserved quantity is E − ∫ Σ mᵢ ∂ₜΦ dt.
        G: gravitational constant, the same as that of the system.

    Returns:
        A `Field` with x (D,) -> (D,) and ().

    Source: the expansion of a third body's potential in a falling frame, e.g. Binney & Tremaine 2008,
        Galactic Dynamics, section 8.2.

    Raises:
        ValueError: if mass or G is not > 0, or a fixed R is the origin or not finite.
    """
    require(bool(mass > 0), f"build_tidal_field: mass must be > 0, got {mass}")
    require(G > 0, f"build_tidal_field: G must be > 0, got {G}")
    fixed = None if callable(position) else torch.as_tensor(position, dtype=torch.float64)
    if fixed is not None:
        require(
            bool(fixed.isfinite().all()) and bool(fixed.norm() > 0),
            f"build_tidal_field: position must be finite and not the origin, got {fixed.tolist()}",
        )

    def place(x: Tensor, t: Tensor) -> Tensor:
        return fixed.to(x) if fixed is not None else position(t)  # type: ignore[operator]

    def acceleration(x: Tensor, t: Tensor) -> Tensor:
        R = place(x, t)
        return G * mass * ((R - x) / _norm(R - x) ** 3 - R / _norm(R) ** 3)

    def potential(x: Tensor, t: Tensor) -> Tensor:
        R = place(x, t)
        depth = 1 / _norm(R - x) - 1 / _norm(R) - (x * R).sum() / _norm(R) ** 3
        weight = -G * mass
        return (weight.to(depth) if isinstance(weight, Tensor) else number(weight, depth)) * depth

    return Field(acceleration, potential, static=fixed is not None)


def straight_path(position: Sequence[float] | Tensor, velocity: Sequence[float] | Tensor) -> Callable[[Tensor], Tensor]:
    """A perturber on a straight line, R(t) = R₀ + V t.

    Args:
        position: R₀, D numbers.
        velocity: V, D numbers.

    Returns:
        A function t () -> R (D,), in the dtype and on the device of t.

    Raises:
        ValueError: if the two differ in length, or R₀ is the origin or not finite.
    """
    start, drift = (torch.as_tensor(value, dtype=torch.float64) for value in (position, velocity))
    require(
        bool(start.isfinite().all() & drift.isfinite().all() & (start != 0).any()),
        f"straight_path: position must be finite and not the origin, and velocity finite, got {list(position)} and "
        f"{list(velocity)}",
    )
    require(
        len(position) == len(velocity),
        f"straight_path: position and velocity must have the same length, got {len(position)} and {len(velocity)}",
    )
    return lambda t: start.to(t) + drift.to(t) * t


def _norm(x: Tensor) -> Tensor:
    return x.pow(2).sum(-1).sqrt()
