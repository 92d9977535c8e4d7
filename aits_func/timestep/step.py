"""The single step of ONE system: predict dt, integrate, weigh the energy. ``vmap`` it for many."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.tree import map_leaves
from ..base.types import Params, Sample, StepInfo, System
from ..learning.losses import check_energy_threshold, check_resolution
from ..physics.gravity import Gravity, in_double
from ..physics.integrators import Integrator
from ..physics.scheme import Scheme, SchemeStep, check_traits
from ..physics.schemes import as_scheme
from ..physics.step_function import StepFunction
from .binding import bind
from .energies import ENERGY_SCALES, energies, largest, unseen, weigh
from .policy import Policy, traits_of
from .rounding import Limit, rounding_error, time_of_change

Step: TypeAlias = Callable[[Params, Sample], tuple[System, StepInfo]]
"""One attempted step of one system: (params, sample) -> (system after, what it reports)."""


def attempt_single_step(
    params: Params,
    sample: Sample,
    *,
    policy: Policy,
    gravity: Gravity,
    scheme: Scheme | Integrator,
    h: float = 1.0,
    n_steps: int = 1,
    energy_threshold: float = 2e-4,
    energy_scale: str = "total",
) -> tuple[System, StepInfo]:
    """Predict dt, advance one system by it, and weigh the energy.

        ε = |E₁ − E₀| / |E₀|,   accepted  ⇔  ε < energy_threshold

    with |E₀| no less than 10⁻¹² (K₀ + |W₀|), and E the internal energy, that with the centre of mass at rest (with an
    external field, in the field's frame). A massless body is judged by its own energy, h = ½v² + φ less the work that
    the others do on it, relative to ½v² + |φ|, and ε is the largest of all. An inactive sample takes dt = 0, has ε = 0
    and passes. A system with massless bodies that was made without `make_system` inside of ``vmap`` has no room for
    that work: its ε is not known, and the step counts as exploded.
    In a scheme that carries ρ or W, these start afresh from the parameters at hand.

    A step whose energy is not finite would poison the gradient of a whole minibatch, as a mask
    after the fact multiplies an infinite derivative by zero. So the step is tried once without
    gradient, and where that attempt explodes the differentiable one takes dt = 0 instead.

    Args:
        params: the policy's parameters.
        sample: one `Sample`.
        policy: predicts dt.
        gravity: weighs the energy.
        scheme: advances the system; an `Integrator` stands for the direct scheme with it.
        h: a factor on the step, > 0.
        n_steps: integrator steps of one dt in the direct scheme, steps of any other scheme; ≥ 1.
        energy_threshold: on ε, > 0.
        energy_scale: "total" divides by |E₀|; "kinetic" by K₀ + |W₀|, for systems with E₀ ≈ 0; "source" as
            `relative_energy_error` without a scale, which is the source system's number: bound to a unit and to the
            frame that is given, and blind to massless bodies.

    Returns:
        (system after, `StepInfo`; its dt is the mean of the n_steps). Where the step exploded, or ρ or W was no longer
        positive, the system is the one before, ε is infinite and ``exploded`` is True.

    Raises:
        ValueError: if energy_threshold is not > 0. `build_step` checks all arguments.
    """
    system = sample.system
    whole = as_scheme(scheme, n_steps=n_steps)
    energy_before, scale = weigh(in_double(system), gravity, energy_scale)
    factor = torch.full_like(system.time, h)

    def trial(params: Params, tau: Tensor, held: Tensor) -> tuple[SchemeStep, Tensor]:
        rule = _start_with(bind(policy, params, sample.window, scheme=whole, gravity=gravity), system, tau)
        rule, size = _hold(rule, held), torch.where(held, torch.zeros_like(factor), factor)
        out = whole.step(rule, system, whole.init(rule, system), size)
        energy_after = energies(in_double(out.system), gravity, energy_scale)
        _, errors = check_energy_threshold(energy_before, energy_after, energy_threshold, scale=scale)
        error = largest(errors)
        if energy_scale != "source":
            error = torch.where(unseen(system), torch.full_like(error, torch.nan), error)
        return out, error.to(tau.dtype)

    tau = policy.apply(params, system, sample.window)
    out, error = trial(map_leaves(torch.detach, params), tau.detach(), ~sample.active)
    # Beyond the square root of the largest number a derivative of ε can overflow where ε does not.
    ceiling = torch.finfo(tau.dtype).max ** 0.5
    exploded = ~((error < ceiling) & out.valid & tau.isfinite()) & sample.active
    out, error = trial(params, tau, exploded | ~sample.active)
    error = torch.where(exploded, torch.full_like(error, torch.inf), error)
    accepted = (error < energy_threshold) | ~sample.active
    # Elsewhere dt follows from ρ or W, or is predicted several times; in the direct scheme it is the predicted one, to
    # the bit.
    dt = torch.where(sample.active, factor * tau, torch.zeros_like(tau))
    if whole.name != "direct" or len(whole.stages) > 1:
        dt = torch.where(exploded, dt, out.dt / n_steps)
    return out.system, StepInfo(dt, error, accepted, exploded)


def build_step(
    policy: Policy,
    gravity: Gravity,
    scheme: Scheme | Integrator,
    *,
    h: float = 1.0,
    n_steps: int = 1,
    energy_threshold: float = 2e-4,
    energy_scale: str = "total",
) -> Step:
    """`attempt_single_step` with its static choices made and checked: (params, sample) -> (after, info).

    Args:
        policy: predicts dt.
        gravity: weighs the energy.
        scheme: advances the system; an `Integrator` stands for the direct scheme with it.
        h: a factor on the step, > 0.
        n_steps: integrator steps of one dt in the direct scheme, steps of any other scheme; ≥ 1.
        energy_threshold: on the relative energy error, > 0.
        energy_scale: "total", "kinetic" or "source", as in `attempt_single_step`.

    Returns:
        A pure function of ONE sample, for ``vmap(step, in_dims=(None, 0))``.

    Raises:
        ValueError: if n_steps < 1, h or energy_threshold is not > 0, energy_threshold is below what float64 can tell
            from 0, energy_scale is another word, or the scheme is reversible and the policy is not known to be smooth,
            memoryless and even in the velocities.
    """
    require(h > 0, f"build_step: h must be > 0 (a factor on the step, 1 for none), got {h}")
    check_traits(as_scheme(scheme), traits_of(policy), "build_step")
    require(n_steps >= 1, f"build_step: n_steps must be >= 1, got {n_steps}")
    require(
        energy_threshold > 0,
        f"build_step: energy_threshold must be > 0 (a relative energy error, e.g. 2e-4), got {energy_threshold}",
    )
    check_resolution("build_step", "energy_threshold", energy_threshold)
    require_choice("build_step", "energy_scale", energy_scale, ENERGY_SCALES)
    return partial(
        attempt_single_step,
        policy=policy,
        gravity=gravity,
        scheme=scheme,
        h=h,
        n_steps=n_steps,
        energy_threshold=energy_threshold,
        energy_scale=energy_scale,
    )


def limit_of(step: Callable[..., Any]) -> Limit | None:
    """What a step of `build_step` is judged by, and what rounding makes of that; None of a step of one's own."""
    if not isinstance(step, partial) or step.func is not attempt_single_step:
        return None
    words = step.keywords
    evaluations = as_scheme(words["scheme"], n_steps=words["n_steps"]).evaluations_per_step
    error = partial(rounding_error, gravity=words["gravity"], energy_scale=words["energy_scale"])
    time = None if words["energy_scale"] == "source" else partial(time_of_change, gravity=words["gravity"])
    return Limit(words["energy_threshold"], partial(error, evaluations=evaluations), time)


def _start_with(rule: StepFunction, start: System, tau: Tensor) -> StepFunction:
    """The rule, with τ of one state already known: a policy is dear, and schemes ask for it first."""
    return rule._replace(timescale=lambda system: tau if system is start else rule.timescale(system))


def _hold(rule: StepFunction, exploded: Tensor) -> StepFunction:
    """The rule, 1 where a step exploded, so that what is infinite there is masked before it is used."""

    def masked(value: Tensor) -> Tensor:
        return torch.where(exploded, torch.ones_like(value), value)

    return StepFunction(
        lambda system: masked(rule.timescale(system)),
        rule.constants,
        lambda system, constants: masked(rule.rate(system, constants)),
    )
