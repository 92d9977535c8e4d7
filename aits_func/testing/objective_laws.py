"""The laws of an objective: what must hold of any loss of a step that is to be learned from anywhere."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from torch.func import vmap

from ..base import tree
from ..base.types import Params, Sample, TrainState
from ..learning.least_squares import levenberg_marquardt
from ..learning.optimizers import adam
from ..loops.learner import Learner, build_learner
from ..loops.replay_iteration import in_band
from ..physics.gravity import build_gravity
from ..physics.initial_conditions import binaries, gaussian_cluster
from ..physics.integrators import build_leapfrog_kdk
from ..physics.pair_criteria import p_norm
from ..timestep.policy import build_criterion_policy
from ..timestep.step import Step, build_step
from ..timestep.window import first_sample
from .law import Draw, Law, check_laws, demand

_SHORTEST, _LONGEST = 1e-15, 1e160  # dt that a policy may start from, in free-fall times
_RATE = 0.3  # of Adam
_MORE = 200  # iterations of Adam beyond those that it needs at full speed
_FEW = 120  # iterations of Levenberg–Marquardt
_NEAR = 1e-3  # free-fall times; about where the band [1e-6, 1e-4] of a leapfrog lies


class _Subject(NamedTuple):
    learner: Callable[..., Learner]


def check_objective(
    learner: Callable[..., Learner] = build_learner,
    *,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of objectives on yours: on single systems of two and three bodies, by a policy with one parameter.

    The policy is dt = η T, T the p-norm of free-fall times, and its parameter is ln η; the step is a leapfrog's.

        first order   Adam reaches the band from any dt between 1e-15 and 1e160 T, within |Δ ln dt| / rate + 200
                      iterations, at a rate of 0.3
        second order  Levenberg–Marquardt does within 120 iterations
        finite        residual and slope are finite at any such dt, and outside the band the slope is not 0
        direction     below the band r < 0, above r > 0; the slope of the residual by ln dt is > 0 where dt is so short
                      that its error is rounding, and where the step explodes

    Small rates take longer than that: Adam remembers how steep the loss was a thousand iterations ago, and slows down
    where it becomes flat, at the edge of the band. Not to be called inside a test that is itself under ``given``.

    Args:
        learner: (step, optimizer) -> `Learner`, `build_learner` or one like it.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name.

    Example:
        >>> check_objective(laws=["second order"], settings=hypothesis.settings(max_examples=2, deadline=None))
    """
    check_laws("check_objective", OBJECTIVE_LAWS, _Subject(learner), only=laws, without=without, settings=settings)


def _batch(draw: Draw) -> tuple[Sample]:
    """One system of two or three bodies."""
    bodies, seed = draw(st.sampled_from((2, 3))), draw(st.integers(0, 2**16))
    systems = binaries(seed, 1) if bodies == 2 else gaussian_cluster(seed, 1, bodies=3, dimensions=3)
    return (vmap(first_sample)(systems),)


def _at(log_eta: float) -> Params:
    return {"log_eta": torch.tensor(log_eta, dtype=torch.float64)}


def _step() -> Step:
    gravity = build_gravity()
    return build_step(build_criterion_policy(p_norm(gravity, eta=1.0)), gravity, build_leapfrog_kdk(gravity))


def _start(draw: Draw) -> float:
    """ln η: whole powers of ten, so that examples shrink to short numbers; half of them too short."""
    shortest, longest = (round(math.log10(x)) for x in (_SHORTEST, _LONGEST))
    return draw(st.integers(shortest, round(math.log10(_NEAR))) | st.integers(shortest, longest)) * math.log(10)


def _reach(learner: Learner, batch: tuple[Sample], log_eta: float, most: int) -> tuple[int, float, float]:
    """(iterations until the step is in the band, or one more than there may be; dt and ε where it ended)."""
    params = _at(log_eta)
    state = TrainState(params, learner.optimizer.init(params), (), torch.zeros((), dtype=torch.int64))
    for iteration in range(most + 1):
        state_after, (_, info) = learner.update(state, batch, "all")
        if bool(in_band(info, learner.objective).all()):
            return iteration, float(info.dt[0]), float(info.energy_error[0])
        state = state_after
    return most + 1, float(info.dt[0]), float(info.energy_error[0])


def _demand_reached(learner: Learner, draw: Draw, most: Callable[[float], int]) -> None:
    batch, log_eta = _batch(draw), _start(draw)
    iterations, dt, error = _reach(learner, batch, log_eta, most(log_eta))
    demand(
        iterations <= most(log_eta),
        f"from {math.exp(min(log_eta, 700.0)):.0e} free-fall times the band must be reached within {most(log_eta)} "
        f"iterations; after these dt is {dt:.3g} and the energy error {error:.3g}",
    )


def _first_order(subject: _Subject, draw: Draw) -> None:
    learner = subject.learner(_step(), adam(_RATE))
    _demand_reached(learner, draw, lambda start: int(abs(start - math.log(_NEAR)) / _RATE) + _MORE)


def _second_order(subject: _Subject, draw: Draw) -> None:
    _demand_reached(subject.learner(_step(), levenberg_marquardt()), draw, lambda start: _FEW)


def _residual(subject: _Subject, draw: Draw) -> tuple[float, float, float, bool]:
    """(residual, its slope by ln η, ε, whether the step exploded) somewhere."""
    objective = subject.learner(_step(), adam(_RATE)).objective
    batch, params = _batch(draw), _at(_start(draw))
    residual, slopes = objective.jacobian(params, batch)
    _, info = objective.attempt(params, batch)
    slope: Any = tree.leaves(slopes)[0]
    return float(residual[0]), float(slope[0]), float(info.energy_error[0]), bool(info.exploded[0])


def _finite(subject: _Subject, draw: Draw) -> None:
    residual, slope, error, _ = _residual(subject, draw)
    demand(
        math.isfinite(residual) and math.isfinite(slope) and (slope != 0 or residual == 0),
        f"at an energy error of {error:.3g} the residual is {residual:.3g} and its slope by ln dt {slope:.3g}",
    )


def _direction(subject: _Subject, draw: Draw) -> None:
    residual, slope, error, exploded = _residual(subject, draw)
    below, above = error < 1e-6, exploded or error > 1e-4
    right = (residual < 0) == below and (residual > 0) == above
    demand(right, f"at an energy error of {error:.3g} the residual is {residual:.3g}")
    if error < 1e-14 or exploded:
        demand(slope > 0, f"at an energy error of {error:.3g} the slope of the residual by ln dt is {slope:.3g}")


OBJECTIVE_LAWS: dict[str, Law] = {
    "first order": _first_order,
    "second order": _second_order,
    "finite": _finite,
    "direction": _direction,
}
"""The laws of `check_objective`, by name."""
