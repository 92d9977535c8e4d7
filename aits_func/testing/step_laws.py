"""The laws of a step's verdict: what an energy error must see, and must not."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor
from torch.func import grad

from ..base.check import make_system
from ..base.types import Params, Sample, StepInfo, System
from ..physics.gravity import Gravity, in_double
from ..physics.invariants import at_rest_as_a_whole
from ..physics.orbits import two_body_orbit
from ..timestep.energies import energy_and_size
from ..timestep.step import Step
from ..timestep.window import first_sample, push
from .draws import numbers
from .frames import frames, seen_from
from .histories import samples
from .law import Draw, Law, check_laws, demand, demand_close, demand_trees_close
from .strategies import systems as any_systems

_FAR = 5.0  # speeds by which systems are boosted
_STEPS = 6  # of a path, of which the largest error is taken: that of a single step may be 0 by chance
_SLIGHT = 1e-6  # mass of what stands for a test particle
_SEEN = 100.0  # by so much two measures of an error of one order may differ


class _Subject(NamedTuple):
    step: Step
    params: Params
    gravity: Gravity
    samples: SearchStrategy[Sample]
    history_len: int
    tolerance: float


def check_step(
    step: Step,
    *,
    params: Params,
    gravity: Gravity,
    systems: SearchStrategy[System] | None = None,
    history_len: int = 0,
    tolerance: float = 1e-10,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of a single step on yours: that its error sees what matters, and nothing else.

        boost             dt, the energy error and its gradient are the same however the system moves as a whole
        permutation       and in any order of the bodies
        test particle     on an orbit about a single body it is judged by the energy of that orbit
        Jacobi            in the restricted problem of three bodies an error of its Jacobi constant is seen
        small mass        what is judged of a test particle is of the size of what a body of small mass adds, per mass

    The energy errors of the last two laws belong to the same order in dt as that of the step, not to one formula, so
    that the largest of some steps may be a hundred times the other.

    Not to be called inside a test that is itself under ``given``.

    Args:
        step: (params, sample) -> (after, info), from `build_step` or of your own; without an external field, and not of
            the scale "source", which is the error in the frame that is given and sees no test particle.
        params: those it is tried with.
        gravity: that of the step, which weighs the energies.
        systems: a strategy of one `System` for the first two laws; None for `systems` with test particles.
        history_len: H of the windows that the policy reads.
        tolerance: of two errors that should be the same, absolute (errors are relative to the energy). 1e-10: roundings
            of 1e-16 in energies whose terms are a hundred times as large, boosts included, and accelerations beside
            which the step is long.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name.

    Example:
        >>> import aits_func as af
        >>> gravity = af.build_gravity()
        >>> policy = af.build_criterion_policy(af.p_norm(gravity, eta=0.1))
        >>> step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
        >>> check_step(step, params=policy.init(0), gravity=gravity, laws=["test particle"])
    """
    states = any_systems(massless=True, max_time=1.0) if systems is None else systems
    subject = _Subject(step, params, gravity, samples(states, history_len), history_len, tolerance)
    check_laws("check_step", STEP_LAWS, subject, only=laws, without=without, settings=settings)


def _same_in(subject: _Subject, sample: Sample, other: Sample, where: str) -> None:
    (_, ours), (_, theirs) = (subject.step(subject.params, each) for each in (other, sample))
    demand(bool(ours.exploded) == bool(theirs.exploded), f"whether the step explodes {where} must be the same")
    if bool(theirs.exploded):
        return
    demand_close(ours.dt, theirs.dt, f"dt {where}", tolerance=1e-6)  # as of any policy
    demand_close(
        ours.energy_error, theirs.energy_error, f"the energy error {where}", tolerance=subject.tolerance, scale=1.0
    )

    def error(params: Params, sample: Sample) -> Tensor:
        return subject.step(params, sample)[1].energy_error

    ours_slope, theirs_slope = (grad(error)(subject.params, each) for each in (other, sample))
    # Derivatives of an energy error by ln dt are a few times as large as it.
    message, tolerance = f"the gradient of the energy error {where}", 1e3 * subject.tolerance
    demand_trees_close(ours_slope, theirs_slope, message, tolerance=tolerance, scale=1.0)


def _boost(subject: _Subject, draw: Draw) -> None:
    sample = draw(subject.samples)
    _same_in(subject, sample, seen_from(draw(frames(*sample.system.position.shape, boost=_FAR)), sample), "in motion")


def _permutation(subject: _Subject, draw: Draw) -> None:
    sample = draw(subject.samples)
    mixed = draw(frames(*sample.system.position.shape, mixed=True))
    _same_in(subject, sample, seen_from(mixed, sample), "with the bodies in another order")


@st.composite
def _about_a_star(draw: DrawFn, G: float) -> System:
    """A test particle on an eccentric orbit about a body that moves."""
    e, a, M = draw(numbers(0.0, 0.9)), draw(numbers(0.5, 2.0)), draw(numbers(0.1, 10.0))
    orbit = two_body_orbit(mass=[M, 0.0], semi_major_axis=a, eccentricity=e, mean_anomaly=draw(numbers(-3.0, 3.0)), G=G)
    return orbit._replace(velocity=orbit.velocity + torch.tensor([draw(numbers(-_FAR, _FAR)), 0.0]).to(orbit.mass))


@st.composite
def _restricted(draw: DrawFn, G: float) -> System:
    """Two bodies on a circle about each other, and a test particle between the two and twice as far."""
    q, radius, angle = draw(numbers(0.05, 1.0)), draw(numbers(0.3, 2.0)), draw(numbers(0.5, 2.5))
    pair = two_body_orbit(mass=[1.0, q], semi_major_axis=1.0, eccentricity=0.0, G=G)
    turn = torch.tensor([angle]).to(pair.mass)
    place = radius * torch.cat([turn.cos(), turn.sin()])
    speed = draw(numbers(-1.0, 1.0)) * (G * (1 + q) / radius) ** 0.5
    motion = speed * torch.stack([-place[1], place[0]]) / radius
    return make_system(
        torch.cat([pair.mass, torch.zeros_like(turn)]),
        torch.cat([pair.position, place[None]]),
        torch.cat([pair.velocity, motion[None]]),
    )


def _path(subject: _Subject, system: System) -> tuple[list[System], list[StepInfo]]:
    """Some steps, one after the other, until one explodes."""
    sample = first_sample(system, subject.history_len)
    states, infos = [system], []
    for _ in range(_STEPS):
        after, info = subject.step(subject.params, sample)
        if bool(info.exploded):
            break
        window = push(sample.window, sample.system, info.dt)
        sample = sample._replace(system=after, window=window)
        states.append(after)
        infos.append(info)
    return states, infos


def _test_particle(subject: _Subject, draw: Draw) -> None:
    start = draw(_about_a_star(subject.gravity.G))

    def parts(system: System) -> tuple[Tensor, Tensor]:
        d, v = (x[1] - x[0] for x in in_double(system)[1:3])
        distance = (d.pow(2).sum() + subject.gravity.softening**2).sqrt()
        return v.pow(2).sum() / 2, -subject.gravity.G * start.mass[0] / distance

    states, infos = _path(subject, start)
    for before, after, info in zip(states, states[1:], infos, strict=False):
        kinetic, potential = parts(before)
        expected = (sum(parts(after)) - kinetic - potential).abs() / (kinetic - potential)
        demand_close(
            info.energy_error, expected.to(info.energy_error), "the error of an orbit", tolerance=1e-9, scale=1e-4
        )


def _jacobi(subject: _Subject, draw: Draw) -> None:
    start = draw(_restricted(subject.gravity.G))
    G, mass = subject.gravity.G, start.mass
    rate = (G * mass.sum()).sqrt()  # of the pair, at a distance of 1

    def constant(system: System) -> tuple[Tensor, Tensor]:
        seen = at_rest_as_a_whole(system)
        x, v = seen.position[2], seen.velocity[2]
        distance = ((seen.position[:2] - x).pow(2).sum(-1) + subject.gravity.softening**2).sqrt()
        kinetic, potential = v.pow(2).sum() / 2, -G * (mass[:2] / distance).sum()
        return kinetic + potential - rate * (x[0] * v[1] - x[1] * v[0]), kinetic - potential

    _demand_seen(subject, start, constant, "its Jacobi constant")


def _small_mass(subject: _Subject, draw: Draw) -> None:
    start = draw(_restricted(subject.gravity.G))
    slight = start._replace(mass=start.mass + _SLIGHT * (start.mass == 0))
    _, infos = _path(subject, start)
    heavy, light = (_path_of_steps(subject, each, infos) for each in (slight, start))
    change = max((abs(a - b) / _SLIGHT for a, b in zip(heavy, light, strict=True)), default=0.0)
    kinetic, potential = start.velocity[2].pow(2).sum() / 2, subject.gravity.potentials(start)[2].abs()
    _demand_bound(subject, infos, change / float(kinetic + potential), "the energy that a small mass adds")


def _path_of_steps(subject: _Subject, system: System, infos: Sequence[StepInfo]) -> list[float]:
    """The changes of the energy in as many steps."""
    states, _ = _path(subject, system)
    energy = [float(energy_and_size(state, subject.gravity, "total")[0]) for state in states]
    return [after - before for before, after in itertools.pairwise(energy)][: len(infos)]


def _demand_seen(
    subject: _Subject, start: System, constant: Callable[[System], tuple[Tensor, Tensor]], what: str
) -> None:
    states, infos = _path(subject, start)
    values, size = [float(constant(state)[0]) for state in states], float(constant(start)[1])
    change = max((abs(b - a) for a, b in itertools.pairwise(values)), default=0.0)
    _demand_bound(subject, infos, change / size, what)


def _demand_bound(subject: _Subject, infos: Sequence[StepInfo], change: float, what: str) -> None:
    seen = max((float(info.energy_error) for info in infos), default=0.0)
    demand(
        change <= _SEEN * (seen + subject.tolerance / _SLIGHT**0.5),
        f"{what} changes by {change:.2g} in a step, and the largest energy error is said to be {seen:.2g}",
    )


STEP_LAWS: dict[str, Law] = {
    "boost": _boost,
    "permutation": _permutation,
    "test particle": _test_particle,
    "Jacobi": _jacobi,
    "small mass": _small_mass,
}
"""The laws of `check_step`, by name."""
