"""The laws of a policy: what must hold of any function that reads a system and predicts its step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.func import grad, vmap

from ..base import tree
from ..base.types import Params, Sample, System
from ..timestep.policy import Policy, traits_of
from .derivatives import demand_derivatives, demand_single, demand_slopes_close
from .draws import Range, numbers
from .frames import Frame, frames, in_units, seen_from, units
from .histories import samples, windows
from .law import Draw, Law, check_laws, demand, demand_close, demand_pure
from .learned import parameters, seeds
from .strategies import systems as any_systems

_FAR = 5.0  # lengths by which systems are shifted, and speeds by which they are boosted


class _Subject(NamedTuple):
    policy: Policy
    params: SearchStrategy[Params]
    samples: SearchStrategy[Sample]
    history_len: Range
    in_units: Callable[[float], Policy]
    tolerance: float


def check_policy(
    policy: Policy,
    *,
    params: Params | None = None,
    history_len: Range = 0,
    systems: SearchStrategy[System] | None = None,
    in_units: Callable[[float], Policy] | None = None,
    tolerance: float = 1e-6,
    laws: Sequence[str] | None = None,
    without: Sequence[str] = (),
    settings: hypothesis.settings | None = None,
) -> None:
    """Try the laws of step policies on yours: on drawn systems and histories, with drawn parameters.

        positive      dt has shape () and the system's dtype, is finite and > 0
        translation   the same wherever the system stands
        boost         the same however it moves as a whole
        rotation      the same whichever way the axes point, and in a mirror
        permutation   the same in any order of the bodies
        clock         the same whatever time it is
        units         dt is a time: in units of other lengths and masses, with G the same, it scales like one, and so do
                      its derivatives by masses, places, velocities and parameters, in reverse mode
        backwards     the same when all velocities are reversed, if ``policy.traits.even`` promises it
        memoryless    the same whatever the history, if ``policy.traits.memoryless`` promises it
        empty slots   what stands in slots of the window that hold no state does not matter
        gradient      the gradient of ln dt in the parameters is finite
        derivatives   reverse mode, forward mode and, where there is no kink, central differences are the same
        pure          the same bits when called again; nothing changed in place, nothing drawn
        vmap          many systems at once are the systems one by one
        single        float32 in, float32 out, finite and > 0; so is its derivative in forward mode, of either sign
        init          the same seed makes the same parameters, float64 and without requires_grad

    Not to be called inside a test that is itself under ``given``. Systems are those of `systems`, without
    special frame and with separations of at least 0.25; steps are compared relative to dt.

    Args:
        policy: ``init(seed) -> params`` and ``apply(params, system, window) -> dt ()``.
        params: try these alone; None for `parameters`, drawn from ``init`` and moved.
        history_len: H ≥ 0 of the windows that it reads, or the range.
        systems: a strategy of one `System`; None for `systems` as it is.
        in_units: for a policy that closes over a length, as a softening: the same policy where lengths are
            so many times as large. None: the policy itself.
        tolerance: of two steps that should be the same. 1e-6: where a sum cancels, what is left of it is known
            to 1e-10 or worse, and features take logarithms of it.
        laws: the names of those to try; None for all.
        without: the names of those that are not meant to hold.
        settings: of hypothesis; None for the current profile.

    Raises:
        LawError: if a law does not hold, with the simplest example that was found.
        ValueError: if there is no law of a name.

    Example:
        >>> import aits_func as af
        >>> gravity = af.build_gravity()
        >>> features = af.build_features("invariant", gravity)
        >>> check_policy(af.build_residual_policy(features, af.p_norm(gravity), hidden=(4,)), laws=["rotation"])
    """
    states = any_systems(max_time=1.0) if systems is None else systems
    drawn = parameters(policy) if params is None else st.just(params)
    subject = _Subject(
        policy, drawn, samples(states, history_len), history_len, in_units or (lambda length: policy), tolerance
    )
    check_laws("check_policy", POLICY_LAWS, subject, only=laws, without=without, settings=settings)


def _dt(subject: _Subject, params: Params, sample: Sample) -> Tensor:
    return subject.policy.apply(params, sample.system, sample.window)


def _check_step(dt: Tensor, system: System) -> None:
    demand(dt.shape == (), f"dt must have shape (), got {tuple(dt.shape)}")
    demand(dt.dtype == system.mass.dtype, f"dt must have the system's dtype {system.mass.dtype}, got {dt.dtype}")
    demand(dt.isfinite() & (dt > 0), f"dt must be > 0 and finite, got {dt.item()}")


def _positive(subject: _Subject, draw: Draw) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    _check_step(_dt(subject, params, sample), sample.system)


def _same_in(subject: _Subject, draw: Draw, message: str, frame: Callable[[int, int], SearchStrategy[Frame]]) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    other = seen_from(draw(frame(*sample.system.position.shape)), sample)
    demand_close(_dt(subject, params, other), _dt(subject, params, sample), message, tolerance=subject.tolerance)


def _translation(subject: _Subject, draw: Draw) -> None:
    _same_in(subject, draw, "dt after a shift of the system", lambda N, D: frames(N, D, shift=_FAR))


def _boost(subject: _Subject, draw: Draw) -> None:
    _same_in(subject, draw, "dt of the system in motion", lambda N, D: frames(N, D, boost=_FAR))


def _rotation(subject: _Subject, draw: Draw) -> None:
    _same_in(subject, draw, "dt in turned axes", lambda N, D: frames(N, D, turned=True, mirrored=True))


def _permutation(subject: _Subject, draw: Draw) -> None:
    _same_in(subject, draw, "dt with the bodies in another order", lambda N, D: frames(N, D, mixed=True))


def _clock(subject: _Subject, draw: Draw) -> None:
    params, sample, delay = draw(subject.params), draw(subject.samples), draw(numbers(-_FAR, _FAR))
    system, window = sample.system, sample.window
    later = sample._replace(
        system=system._replace(time=system.time + delay), window=window._replace(time=window.time + delay)
    )
    theirs = _dt(subject, params, sample)
    demand_close(_dt(subject, params, later), theirs, "dt at another time", tolerance=subject.tolerance)


def _units(subject: _Subject, draw: Draw) -> None:
    params, sample, scale = draw(subject.params), draw(subject.samples), draw(units())
    other = in_units(scale, sample)
    dt = subject.in_units(scale.length).apply(params, other.system, other.window)
    here = _dt(subject, params, sample)
    demand_close(dt, scale.time * here, "dt in other units", tolerance=subject.tolerance)
    theirs = grad(_of_numbers(subject.in_units(scale.length), params, other), argnums=_all(params))
    ours = theirs(*other.system[:3], *tree.leaves(params))
    factors = (scale.mass, scale.length, scale.length / scale.time, *[1.0] * len(ours[3:]))
    demand_slopes_close(
        [slope * factor / scale.time for slope, factor in zip(ours, factors, strict=True)],
        grad(_of_numbers(subject.policy, params, sample), argnums=_all(params)),
        (*sample.system[:3], *tree.leaves(params)),
        "the derivative of dt in other units",
        ("masses", "positions", "velocities", *(f"parameter {name}" for name in tree.named_leaves(params))),
        tolerance=subject.tolerance,
        scale=float(here),
    )


def _of_numbers(policy: Policy, params: Params, sample: Sample) -> Callable[..., Tensor]:
    """dt as a function of masses, positions, velocities and every leaf of the parameters."""

    def dt(mass: Tensor, position: Tensor, velocity: Tensor, *leaves: Tensor) -> Tensor:
        system = sample.system._replace(mass=mass, position=position, velocity=velocity)
        return policy.apply(tree.replace_leaves(params, leaves), system, sample.window)

    return dt


def _all(params: Params) -> tuple[int, ...]:
    """The numbers of the arguments of `_of_numbers`."""
    return tuple(range(3 + len(tree.leaves(params))))


def _backwards(subject: _Subject, draw: Draw) -> None:
    if not subject.policy.traits.even:
        return
    params, sample = draw(subject.params), draw(subject.samples)
    back = sample._replace(system=sample.system._replace(velocity=-sample.system.velocity))
    theirs = _dt(subject, params, sample)
    demand_close(_dt(subject, params, back), theirs, "dt with velocities reversed", tolerance=subject.tolerance)


def _memoryless(subject: _Subject, draw: Draw) -> None:
    if not subject.policy.traits.memoryless:
        return
    params, sample = draw(subject.params), draw(subject.samples)
    other = sample._replace(window=draw(windows(sample.system, subject.history_len)))
    theirs = _dt(subject, params, sample)
    demand_close(_dt(subject, params, other), theirs, "dt with another history", tolerance=subject.tolerance)


def _empty_slots(subject: _Subject, draw: Draw) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    window, H = sample.window, len(sample.window.valid)

    def spoilt(leaf: Tensor) -> Tensor:
        return torch.where(window.valid.reshape(H, *[1] * (leaf.ndim - 1)), leaf, torch.nan)

    position, velocity, time = (spoilt(leaf) for leaf in (window.position, window.velocity, window.time))
    other = sample._replace(window=window._replace(position=position, velocity=velocity, time=time))
    ours, theirs = _dt(subject, params, other), _dt(subject, params, sample)
    demand(torch.equal(ours, theirs), f"dt with NaN in empty slots of the window: got {ours} instead of {theirs}")


def _gradient(subject: _Subject, draw: Draw) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    slope = grad(lambda p: _dt(subject, p, sample).log())(params)
    for name, leaf in tree.named_leaves(slope).items():
        demand(leaf.isfinite().all(), f"the gradient of ln dt in {name} must be finite, got {leaf.tolist()}")


def _derivatives(subject: _Subject, draw: Draw) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    demand_derivatives(
        _of_numbers(subject.policy, params, sample),
        (*sample.system[:3], *tree.leaves(params)),
        "the derivative of dt",
        tolerance=subject.tolerance,
        smooth=traits_of(subject.policy).smooth,
    )


def _pure(subject: _Subject, draw: Draw) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    demand_pure(subject.policy.apply, params, sample.system, sample.window)


def _vmap(subject: _Subject, draw: Draw) -> None:
    params, sample = draw(subject.params), draw(subject.samples)
    seen = [sample, *(seen_from(draw(frames(*sample.system.position.shape, shift=1.0)), sample) for _ in "ab")]
    # The velocities differ too, so that the rows are different states and not one state in different frames.
    rows = [s._replace(system=s.system._replace(velocity=k * s.system.velocity)) for k, s in enumerate(seen, 1)]
    batch = tree.stack(rows)
    together = vmap(subject.policy.apply, in_dims=(None, 0, 0))(params, batch.system, batch.window)
    alone = torch.stack([_dt(subject, params, row) for row in rows])
    # A sum in another order: far below what the laws of symmetry have to allow for.
    demand_close(together, alone, "dt of three systems at once", tolerance=subject.tolerance)


def _single(subject: _Subject, draw: Draw) -> None:
    params, sample = (tree.cast(draw(s), dtype=torch.float32) for s in (subject.params, subject.samples))
    _check_step(_dt(subject, params, sample), sample.system)
    demand_single(_of_numbers(subject.policy, params, sample), (*sample.system[:3], *tree.leaves(params)), "dt")


def _init(subject: _Subject, draw: Draw) -> None:
    seed = draw(seeds)
    params = demand_pure(lambda: subject.policy.init(seed))
    for name, leaf in tree.named_leaves(params).items():
        demand(
            leaf.dtype == torch.float64 or not leaf.is_floating_point(),
            f"init must make float64, which users cast: got {leaf.dtype} in {name}",
        )


POLICY_LAWS: dict[str, Law] = {
    "positive": _positive,
    "translation": _translation,
    "boost": _boost,
    "rotation": _rotation,
    "permutation": _permutation,
    "clock": _clock,
    "units": _units,
    "backwards": _backwards,
    "memoryless": _memoryless,
    "empty slots": _empty_slots,
    "gradient": _gradient,
    "derivatives": _derivatives,
    "pure": _pure,
    "vmap": _vmap,
    "single": _single,
    "init": _init,
}
"""The laws of `check_policy`, by name."""
