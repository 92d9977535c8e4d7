"""The single step of ONE system: predict dt, integrate, weigh the energy. ``vmap`` it for many."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.types import Params, Sample, StepInfo, System
from ..learning.losses import check_energy_threshold
from ..physics.gravity import Gravity
from ..physics.integrators import Integrator, evolve
from .policy import Policy

Step: TypeAlias = Callable[[Params, Sample], tuple[System, StepInfo]]
"""One attempted step of one system: (params, sample) -> (system after, what it reports)."""

ENERGY_SCALES = ("total", "kinetic")


def attempt_single_step(
    params: Params,
    sample: Sample,
    *,
    policy: Policy,
    gravity: Gravity,
    integrator: Integrator,
    n_steps: int = 1,
    energy_threshold: float = 2e-4,
    energy_scale: str = "total",
) -> tuple[System, StepInfo]:
    """Predict dt, advance one system ``n_steps`` times by it, and weigh the energy.

        ε = |E₁ − E₀| / |E₀|,   accepted  ⇔  ε < energy_threshold

    with E₀ guarded as in `relative_energy_error`. An inactive sample takes dt = 0, has ε = 0 and
    passes.

    A step whose energy is not finite would poison the gradient of a whole minibatch, as a mask
    after the fact multiplies an infinite derivative by zero. So the step is tried once without
    gradient, and where that attempt explodes the differentiable one takes dt = 0 instead.

    Args:
        params: the policy's parameters.
        sample: one `Sample`.
        policy: predicts dt.
        gravity: weighs the energy.
        integrator: advances the system.
        n_steps: steps of that one dt, ≥ 1.
        energy_threshold: on ε, > 0.
        energy_scale: "total" divides by |E₀|; "kinetic" by K₀ + |W₀|, for systems with E₀ ≈ 0.

    Returns:
        (system after, `StepInfo`). Where the step exploded the system is the one before, ε is
        infinite and ``exploded`` is True.

    Raises:
        ValueError: if energy_threshold is not > 0. `build_step` checks all arguments.
    """
    system = sample.system
    energy_before = gravity.energy(system)
    scale = None if energy_scale == "total" else gravity.energy_size(system)

    def trial(dt: Tensor) -> tuple[System, Tensor]:
        after = evolve(integrator, system, dt, n_steps=n_steps)
        _, error = check_energy_threshold(energy_before, gravity.energy(after), energy_threshold, scale=scale)
        return after, error

    predicted = policy.apply(params, system, sample.window)
    predicted = torch.where(sample.active, predicted, torch.zeros_like(predicted))
    # Beyond the square root of the largest number a derivative of ε can overflow where ε does not.
    ceiling = torch.finfo(predicted.dtype).max ** 0.5
    exploded = ~(trial(predicted.detach())[1] < ceiling) | ~predicted.isfinite()
    after, error = trial(torch.where(exploded, torch.zeros_like(predicted), predicted))
    error = torch.where(exploded, torch.full_like(error, torch.inf), error)
    accepted = (error < energy_threshold) | ~sample.active
    return after, StepInfo(predicted, error, accepted, exploded)


def build_step(
    policy: Policy,
    gravity: Gravity,
    integrator: Integrator,
    *,
    n_steps: int = 1,
    energy_threshold: float = 2e-4,
    energy_scale: str = "total",
) -> Step:
    """`attempt_single_step` with its static choices made and checked: (params, sample) -> (after, info).

    Args:
        policy: predicts dt.
        gravity: weighs the energy.
        integrator: advances the system.
        n_steps: steps of one dt, ≥ 1.
        energy_threshold: on the relative energy error, > 0.
        energy_scale: "total" or "kinetic".

    Returns:
        A pure function of ONE sample, for ``vmap(step, in_dims=(None, 0))``.

    Raises:
        ValueError: if n_steps < 1, energy_threshold is not > 0, or energy_scale is another word.
    """
    require(n_steps >= 1, f"build_step: n_steps must be >= 1, got {n_steps}")
    require(
        energy_threshold > 0,
        f"build_step: energy_threshold must be > 0 (a relative energy error, e.g. 2e-4), got {energy_threshold}",
    )
    require_choice("build_step", "energy_scale", energy_scale, ENERGY_SCALES)
    return partial(
        attempt_single_step,
        policy=policy,
        gravity=gravity,
        integrator=integrator,
        n_steps=n_steps,
        energy_threshold=energy_threshold,
        energy_scale=energy_scale,
    )
