"""The laws of an external field: what must hold of any pair of an acceleration and a potential."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.func import grad, vmap

from ..base import tree
from ..base.types import System
from ..physics.fields import Field
from ..physics.gravity import build_gravity
from ..physics.integrators import build_leapfrog_kdk, evolve
from ..physics.pair_criteria import p_norm
from ..timestep.energies import energies, largest, weigh
from .derivatives import demand_derivatives, demand_single, demand_slopes_close, weighted_sum
from .frames import Units, in_units, units
from .law import Draw, Law, check_laws, demand, demand_close, demand_pure, measured_order
from .strategies import systems as any_systems

_OURS = Units(1.0, 1.0, 1.0)
_LONGEST = 0.1  # step of the law of energy, in the shortest time scale of the pairs
_ROUNDED = 2e-15  # an energy error below this share of K + |W| is rounding, and measures no order


class _Subject(NamedTuple):
    field: Field
    systems: SearchStrategy[System]
    in_units: Callable[[Units], Field] | None
    tolerance: float


def check_field(
    field: Field,
    *,
    dimensions: int = 3,
    systems: SearchStrategy[System] | None = None,
    in_units: Callable[[Units], Field] | None = None,
    tolerance: float = 1e-10,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of external fields on yours: at the places and times of drawn systems.

        shape        acceleration(x, t) is (D,), potential(x, t) is (), both finite and in the dtype of x
        gradient     the acceleration is minus the gradient of the potential
        derivatives  reverse mode, forward mode and central differences of both, in place and time, are the same
        units        both, and their derivatives in reverse mode, are the same in other units, if there is ``in_units``
        static       with ``static=True`` neither depends on the time
        energy       a leapfrog step keeps E − ∫ Σ mᵢ ∂ₜΦ dt to third order in dt, and so the work has the right sign
        pure         the same bits when called again; nothing changed in place, nothing drawn
        vmap         many places at once are the places one by one
        single       float32 in, float32 out, finite; and so are the derivatives in forward mode

    Not to be called inside a test that is itself under ``given``.

    Args:
        field: `Field` of x (D,) and t ().
        dimensions: D, 2 or 3, unless ``systems`` are given.
        systems: a strategy of one `System` at whose bodies it is asked for; None for `systems` as it is, at times
            up to 3: within 4.5 of the origin along every axis.
        in_units: makes the same field in other units, of length, mass and time. None: that law is not tried.
        tolerance: relative to the largest component, or to 1; a field is often a difference of larger terms.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name, or dimensions is not 2 or 3.

    Example:
        >>> import aits_func as af
        >>> check_field(af.build_tidal_field(50.0, [10.0, 0.0, 0.0]), laws=["gradient"])
    """
    states = any_systems(bodies=(2, 4), dimensions=dimensions, max_time=3.0) if systems is None else systems
    subject = _Subject(field, states, in_units, tolerance)
    check_laws("check_field", FIELD_LAWS, subject, only=laws, without=without, settings=settings)


def _check_values(field: Field, x: Tensor, t: Tensor) -> None:
    for name, value, shape in (
        ("acceleration", field.acceleration(x, t), x.shape),
        ("potential", field.potential(x, t), ()),
    ):
        demand(value.shape == shape, f"{name}(x, t) must have shape {tuple(shape)}, got {tuple(value.shape)}")
        demand(value.dtype == x.dtype, f"{name}(x, t) must have the dtype of x, {x.dtype}, got {value.dtype}")
        demand(value.isfinite().all(), f"{name}(x, t) must be finite, got {value.tolist()} at x = {x.tolist()}")


def _shape(subject: _Subject, draw: Draw) -> None:
    system = draw(subject.systems)
    for x in system.position:
        _check_values(subject.field, x, system.time)


def _single(subject: _Subject, draw: Draw) -> None:
    system = tree.cast(draw(subject.systems), dtype=torch.float32)
    for x in system.position:
        _check_values(subject.field, x, system.time)
    for name, function in zip(_FUNCTIONS, _sums(subject.field, _OURS), strict=True):
        demand_single(function, (system.position[0], system.time), f"the {name}")


def _gradient(subject: _Subject, draw: Draw) -> None:
    system = draw(subject.systems)
    for x in system.position:
        slope = grad(subject.field.potential)(x, system.time)
        ours = subject.field.acceleration(x, system.time)
        demand_close(ours, -slope, "minus the gradient of the potential", tolerance=subject.tolerance, scale=1.0)


def _derivatives(subject: _Subject, draw: Draw) -> None:
    system = draw(subject.systems)
    for name, function in zip(_FUNCTIONS, _sums(subject.field, _OURS), strict=True):
        at, tolerance = (system.position[0], system.time), subject.tolerance
        demand_derivatives(function, at, f"the derivative of the {name}", tolerance=tolerance, masses=False)


def _units(subject: _Subject, draw: Draw) -> None:
    if subject.in_units is None:
        return
    system, scale = draw(subject.systems), draw(units(None))
    other, here = in_units(scale, system), (system.position[0], system.time)
    pairs = zip(_FUNCTIONS, _sums(subject.in_units(scale), scale), _sums(subject.field, _OURS), strict=True)
    for name, theirs, ours in pairs:
        at, tolerance = (other.position[0], other.time), subject.tolerance
        demand_close(theirs(*at), ours(*here), f"the {name} in other units", tolerance=tolerance, scale=1.0)
        by_place, by_time = grad(theirs, argnums=(0, 1))(*at)
        demand_slopes_close(
            (by_place * scale.length, by_time * scale.time),
            grad(ours, argnums=(0, 1)),
            here,
            f"the derivative of the {name} in other units",
            ("place", "time"),
            tolerance=tolerance,
            scale=1.0,
        )


_FUNCTIONS = ("acceleration", "potential")


def _sums(field: Field, scale: Units) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """A sum of the components of the acceleration, and the potential, as numbers in those units: of (x, t) -> ()."""
    speed = scale.length / scale.time
    return (
        lambda x, t: weighted_sum(field.acceleration(x, t) / (speed / scale.time)),
        lambda x, t: weighted_sum(field.potential(x, t) / speed**2),
    )


def _static(subject: _Subject, draw: Draw) -> None:
    if not subject.field.static:
        return
    system, later = draw(subject.systems), draw(subject.systems).time + 1.0
    for x in system.position:
        for name in ("acceleration", "potential"):
            function = getattr(subject.field, name)
            now, then = function(x, system.time), function(x, later)
            demand(torch.equal(now, then), f"a static field's {name} is {now.tolist()} now and {then.tolist()} later")


def _energy(subject: _Subject, draw: Draw) -> None:
    system = draw(subject.systems)
    gravity = build_gravity(field=subject.field)
    leapfrog, criterion = build_leapfrog_kdk(gravity), p_norm(gravity, eta=_LONGEST, pairs=("free_fall", "fly_by"))
    start, scale = weigh(system, gravity, "kinetic")
    unit = criterion.timescale(criterion.init(), system)

    def error(h: Tensor) -> Tensor:
        after = evolve(leapfrog, system, h * unit)
        return largest((energies(after, gravity, "kinetic") - start).abs() / scale)

    seen = measured_order(error, 1.0, _ROUNDED)
    # Third order, less 3/4 for the next term; a wrong sign of the work makes it the first.
    demand(seen > 2.25, f"the energy error of a leapfrog step is of order {seen:.2f} in dt, which must be 3")


def _pure(subject: _Subject, draw: Draw) -> None:
    system = draw(subject.systems)
    for function in subject.field[:2]:
        demand_pure(function, system.position[0], system.time)


def _vmap(subject: _Subject, draw: Draw) -> None:
    system = draw(subject.systems)
    for function in (subject.field.acceleration, subject.field.potential):
        together = vmap(function, in_dims=(0, None))(system.position, system.time)
        alone = torch.stack([function(x, system.time) for x in system.position])
        demand_close(together, alone, "the field at many places at once", tolerance=subject.tolerance, scale=1.0)


FIELD_LAWS: dict[str, Law] = {
    "shape": _shape,
    "gradient": _gradient,
    "derivatives": _derivatives,
    "units": _units,
    "static": _static,
    "energy": _energy,
    "pure": _pure,
    "vmap": _vmap,
    "single": _single,
}
"""The laws of `check_field`, by name."""
