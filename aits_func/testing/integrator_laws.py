"""The laws of an integrator: what must hold of any one-step method with a step of given length."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from ..base import tree
from ..base.check import has_room, require
from ..base.types import System
from ..physics.gravity import Gravity, build_gravity, work_on_all
from ..physics.integrators import Integrator, evolve
from ..physics.invariants import angular_momentum, centre_of_mass, linear_momentum
from ..physics.pair_criteria import p_norm
from ..timestep.energies import energies, energy_and_size, weigh
from .derivatives import demand_derivatives, demand_float32, demand_single, demand_slopes_close, weighted_sum
from .draws import numbers
from .frames import Units, frames, in_units, seen_from, units
from .law import Draw, Law, check_laws, demand, demand_close, demand_pure, demand_trees_close, measured_order
from .strategies import fields
from .strategies import systems as any_systems

_SOFTENINGS = st.sampled_from([0.0, 0.3])
_OURS = Units(1.0, 1.0, 1.0)
_SHORT = 0.1  # of the shortest time scale of a system: in a few such steps nothing comes much closer
_LONGEST = 0.2  # step of the law of order, in the same unit
_ROUNDED = 2e-14  # a difference of states below this share of the state is rounding, and measures no order


class _Subject(NamedTuple):
    build: Callable[[Gravity], Integrator]
    order: int
    reversible: bool
    symplectic: bool
    systems: SearchStrategy[System]
    tolerance: float


def check_integrator(
    build: Callable[[Gravity], Integrator],
    *,
    order: int,
    reversible: bool = True,
    symplectic: bool = True,
    systems: SearchStrategy[System] | None = None,
    tolerance: float = 1e-13,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of integrators on yours: on drawn systems, softened or not, in a tidal field or not.

        order               one step and two of half the length part by a difference of order dt^(order + 1), or higher
        reversal            n steps and n steps of −dt lead back, if ``reversible``
        mirror              so do n steps, velocities reversed, and n steps again, if ``reversible``
        zero                a step of length 0 changes nothing, not by a bit
        clock               n steps take the time n · dt
        linear momentum     is kept, and the centre of mass moves straight on
        angular momentum    is kept
        frames              the motion is the same wherever the system is, turned or mirrored, in motion, in any order
        units               the motion is the same in other units, and its derivatives by masses, places, velocities and
                            dt, in reverse mode
        derivatives         reverse mode, forward mode and central differences of the motion are the same
        test particles      bodies without mass change nothing for the others
        test particle energy
                            that of each, less the work on it, changes by an error of order dt^(order + 1), or higher
        test particle work  is what the others would give to a body of small mass, per mass, up to such an error
        symplectic          the Jacobian of a step keeps the symplectic form, if ``symplectic``
        compensated         compensated sums change nothing but roundings
        single              float32 in, float32 out, and so are the derivatives in forward mode
        pure                the same bits when called again; nothing changed in place, nothing drawn
        vmap                many systems at once are the systems one by one

    Steps are a tenth of the shortest free-fall or fly-by time of a pair, so that roundings hardly grow. Not
    to be called inside a test that is itself under ``given``.

    Args:
        build: makes the `Integrator` of a `Gravity`.
        order: p ≥ 1, of the method.
        reversible: whether it promises to be, at fixed steps.
        symplectic: whether it promises to be, at fixed steps.
        systems: a strategy of one `System`; None for up to 5 bodies, test particles among them.
        tolerance: of two states that should be the same, relative to the largest coordinate or speed, or to 1.
            1e-13: roundings of 1e-16 in a few steps at separations of at least 0.25.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name, or order is not ≥ 1.

    Example:
        >>> import aits_func as af
        >>> check_integrator(af.build_leapfrog_kdk, order=2, laws=["reversal", "angular momentum"])
    """
    require(order >= 1, f"check_integrator: order must be >= 1, got {order}")
    states = any_systems(bodies=(2, 5), massless=True, max_time=3.0) if systems is None else systems
    subject = _Subject(build, order, reversible, symplectic, states, tolerance)
    check_laws("check_integrator", INTEGRATOR_LAWS, subject, only=laws, without=without, settings=settings)


class _Case(NamedTuple):
    """What a law is tried on."""

    gravity: Gravity
    integrator: Integrator
    system: System
    dt: Tensor  # ()
    n_steps: int


def _case(subject: _Subject, draw: Draw, *, field: bool = True, softening: float | None = None) -> _Case:
    system = draw(subject.systems)
    external = draw(st.none() | fields(system.position.shape[1])) if field else None
    gravity = build_gravity(softening=draw(_SOFTENINGS) if softening is None else softening, field=external)
    return _Case(gravity, subject.build(gravity), system, _SHORT * _shortest(gravity, system), draw(st.integers(1, 5)))


def _shortest(gravity: Gravity, system: System) -> Tensor:
    """The shortest time scale of its pairs, ()."""
    criterion = p_norm(gravity, eta=1.0, pairs=("free_fall", "fly_by"))
    return criterion.timescale(criterion.init(), system)


def _there(case: _Case) -> System:
    return evolve(case.integrator, case.system, case.dt, n_steps=case.n_steps)


def _same(subject: _Subject, actual: System, expected: System, message: str, factor: float = 1.0) -> None:
    demand_trees_close(actual, expected, message, tolerance=factor * subject.tolerance, scale=1.0)


def _back(system: System) -> System:
    return system._replace(velocity=-system.velocity)


def _order(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw, field=False)
    seen = measured_order(lambda h: _half_steps_apart(case, h * case.dt), _LONGEST / _SHORT, _ROUNDED) - 1
    # Less by 3/4: what is left of the next term where rounding ends the series; a wrong method misses a whole one.
    demand(seen > subject.order - 0.75, f"its order is {seen:.2f}, which is not {subject.order}")


def _half_steps_apart(case: _Case, dt: Tensor) -> Tensor:
    """Distance in phase space between one step and two of half the length, relative to the state."""
    unit = case.dt / _SHORT
    one, two = evolve(case.integrator, case.system, dt), evolve(case.integrator, case.system, dt / 2, n_steps=2)
    apart = torch.cat([(one.position - two.position) / unit, one.velocity - two.velocity]).norm()
    return apart / torch.cat([case.system.position / unit, case.system.velocity]).norm()


def _reversal(subject: _Subject, draw: Draw) -> None:
    if not subject.reversible:
        return
    case = _case(subject, draw)
    back = evolve(case.integrator, _there(case), -case.dt, n_steps=case.n_steps)
    _same(subject, back, case.system, "the start, after going there and back by −dt")


def _mirror(subject: _Subject, draw: Draw) -> None:
    if not subject.reversible:
        return
    case = _case(subject, draw, field=False)
    back = _back(evolve(case.integrator, _back(_there(case)), case.dt, n_steps=case.n_steps))
    _same(
        subject, back._replace(time=case.system.time), case.system, "the start, after a return with velocities reversed"
    )


def _zero(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    after = _there(case._replace(dt=torch.zeros_like(case.dt)))
    for name, leaf in case.system._asdict().items():
        demand(torch.equal(getattr(after, name), leaf), f"a step of length 0 changed the {name}")


def _clock(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    expected = case.system.time + case.n_steps * case.dt
    demand_close(_there(case).time, expected, "the time after all steps", tolerance=subject.tolerance, scale=1.0)


def _linear_momentum(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw, field=False)
    before, after = case.system, _there(case)
    extent, speed = _largest(before.position, after.position), _largest(before.velocity, after.velocity)
    scale, tolerance = float(before.mass.sum()) * speed, subject.tolerance
    linear = linear_momentum(after), linear_momentum(before)
    demand_close(*linear, "linear momentum", tolerance=tolerance, scale=scale)
    place, motion = centre_of_mass(before)
    expected = place + case.n_steps * case.dt * motion
    demand_close(centre_of_mass(after)[0], expected, "the centre of mass", tolerance=tolerance, scale=extent + speed)


def _angular_momentum(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw, field=False)
    before, after = case.system, _there(case)
    scale = _largest(before.position, after.position) * _largest(before.velocity, after.velocity)
    spin = angular_momentum(after), angular_momentum(before)
    tolerance, scale = subject.tolerance, float(before.mass.sum()) * scale
    demand_close(*spin, "angular momentum", tolerance=tolerance, scale=scale)


def _largest(*vectors: Tensor) -> float:
    """The largest component, or 1."""
    return max(1.0, float(torch.cat(vectors).abs().max()))


def _frames(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw, field=False)
    shape = case.system.position.shape
    frame = draw(frames(*shape, turned=True, mirrored=True, shift=3.0, boost=3.0, mixed=True))
    after = _there(case._replace(system=seen_from(frame, case.system)))
    # Ten times: a frame adds coordinates up to 10, whose roundings the encounters feel too.
    _same(subject, after, seen_from(frame, _there(case)), "the motion in another frame", factor=10)


def _units(subject: _Subject, draw: Draw) -> None:
    case, scale = _case(subject, draw, field=False), draw(units(None))
    gravity = build_gravity(G=scale.gravitational_constant, softening=scale.length * case.gravity.softening)
    other = case._replace(
        gravity=gravity,
        integrator=subject.build(gravity),
        system=in_units(scale, case.system),
        dt=scale.time * case.dt,
    )
    ours = in_units(Units(1 / scale.length, 1 / scale.mass, 1 / scale.time), _there(other))
    _same(subject, ours, _there(case), "the motion in other units", factor=10)
    slopes = grad(_of_numbers(other, scale), argnums=(0, 1, 2, 3))(*other.system[:3], other.dt)
    factors = (scale.mass, scale.length, scale.length / scale.time, scale.time)
    demand_slopes_close(
        [slope * factor for slope, factor in zip(slopes, factors, strict=True)],
        grad(_of_numbers(case), argnums=(0, 1, 2, 3)),
        (*case.system[:3], case.dt),
        "the derivative of the motion in other units",
        ("masses", "positions", "velocities", "dt"),
        tolerance=10 * subject.tolerance,
        scale=1.0,
    )


def _derivatives(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    at = (*case.system[:3], case.dt)
    demand_derivatives(_of_numbers(case), at, "the derivative of the motion", tolerance=10 * subject.tolerance)


def _of_numbers(case: _Case, scale: Units = _OURS) -> Callable[..., Tensor]:
    """A sum of the coordinates and speeds at the end, in those units, as a function of masses, states and dt."""

    def end(mass: Tensor, position: Tensor, velocity: Tensor, dt: Tensor) -> Tensor:
        system = case.system._replace(mass=mass, position=position, velocity=velocity)
        after = _there(case._replace(system=system, dt=dt))
        return weighted_sum(after.position / scale.length, after.velocity * (scale.time / scale.length))

    return end


def _test_particles(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    heavy = case.system.mass > 0

    def without(state: System) -> System:
        mass, position, velocity = (leaf[heavy] for leaf in state[:3])
        return System(mass, position, velocity, state.time, work_on_all(state))

    alone = _there(case._replace(system=without(case.system)))
    _same(subject, without(_there(case)), alone, "the motion beside test particles")


def _test_particle_energy(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    if not has_room(case.system):
        return
    before, scale = weigh(case.system, case.gravity, "total")
    own = torch.where(case.system.mass == 0, scale[1:], torch.inf)

    def error(h: Tensor) -> Tensor:
        after = evolve(case.integrator, case.system, h * case.dt)
        return ((energies(after, case.gravity, "total") - before)[1:].abs() / own).amax()

    _demand_order(subject, error, "the energy of a test particle")


def _test_particle_work(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw, field=False)
    if not has_room(case.system):
        return
    mass, scale = case.system.mass, weigh(case.system, case.gravity, "total")[1]
    own = torch.where(mass == 0, scale[1:], torch.inf)

    def mismatch(h: Tensor) -> Tensor:
        def kept(trial: Tensor) -> Tensor:
            """What the bodies with mass keep of their energy if the others had these masses."""
            after = evolve(case.integrator, case.system._replace(mass=trial), h * case.dt)
            return energy_and_size(after._replace(mass=mass), case.gravity, "total")[0]

        work = evolve(case.integrator, case.system, h * case.dt).work[1:]
        return ((work + grad(kept)(mass)) / own).abs().amax()

    _demand_order(subject, mismatch, "what a test particle gets, less what the others would give it per unit of mass,")


def _demand_order(subject: _Subject, error: Callable[[Tensor], Tensor], what: str) -> None:
    # Energies are sums of terms that are larger than they are, by the share of an encounter.
    seen = measured_order(error, _LONGEST / _SHORT, 10 * _ROUNDED) - 1
    demand(seen > subject.order - 0.75, f"the order of {what} is {seen:.2f}, which is not {subject.order}")


def _symplectic(subject: _Subject, draw: Draw) -> None:
    if not subject.symplectic:
        return
    case = _case(subject, draw, field=False)
    N, D = case.system.position.shape

    def flow(state: Tensor) -> Tensor:
        x, v = state.reshape(2, N, D)
        after = evolve(case.integrator, case.system._replace(position=x, velocity=v), case.dt)
        return torch.stack([after.position, after.velocity]).reshape(-1)

    jacobian = jacfwd(flow)(torch.stack([case.system.position, case.system.velocity]).reshape(-1))
    weight = torch.diag(case.system.mass.repeat_interleave(D))
    nothing = torch.zeros_like(weight)
    form = torch.cat([torch.cat([nothing, weight], 1), torch.cat([-weight, nothing], 1)])
    # Sums of products of elements of the Jacobian with masses.
    scale = max(1.0, float(jacobian.abs().max()) ** 2 * float(case.system.mass.max()))
    kept = jacobian.T @ form @ jacobian
    demand_close(kept, form, "the symplectic form", tolerance=subject.tolerance, scale=scale)


def _compensated(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    system, carry = case.system, case.integrator.init(case.system, compensated=True)
    for _ in range(case.n_steps):
        system, carry = case.integrator.step(system, carry, case.dt)
    _same(subject, system, _there(case), "the motion with compensated sums")


def _single(subject: _Subject, draw: Draw) -> None:
    drawn = _case(subject, draw)
    case = drawn._replace(system=tree.cast(drawn.system, dtype=torch.float32), dt=drawn.dt.to(torch.float32))
    demand_float32((_there(case), case.integrator.init(case.system)), "what a step hands on")
    demand_single(_of_numbers(case), (*case.system[:3], case.dt), "the motion")


def _pure(subject: _Subject, draw: Draw) -> None:
    case = _case(subject, draw)
    demand_pure(lambda system, dt: evolve(case.integrator, system, dt, n_steps=case.n_steps), case.system, case.dt)


def _vmap(subject: _Subject, draw: Draw) -> None:
    case, factors = _case(subject, draw), draw(st.tuples(*[numbers(0.5, 1.5)] * 3))
    rows = [case._replace(system=case.system._replace(velocity=k * case.system.velocity)) for k in factors]
    batch = tree.stack([row.system for row in rows])
    together = vmap(lambda system: evolve(case.integrator, system, case.dt, n_steps=case.n_steps))(batch)
    _same(subject, together, tree.stack([_there(row) for row in rows]), "the motion of three systems at once")


INTEGRATOR_LAWS: dict[str, Law] = {
    "order": _order,
    "reversal": _reversal,
    "mirror": _mirror,
    "zero": _zero,
    "clock": _clock,
    "linear momentum": _linear_momentum,
    "angular momentum": _angular_momentum,
    "frames": _frames,
    "units": _units,
    "derivatives": _derivatives,
    "test particles": _test_particles,
    "test particle energy": _test_particle_energy,
    "test particle work": _test_particle_work,
    "symplectic": _symplectic,
    "compensated": _compensated,
    "single": _single,
    "pure": _pure,
    "vmap": _vmap,
}
"""The laws of `check_integrator`, by name."""
