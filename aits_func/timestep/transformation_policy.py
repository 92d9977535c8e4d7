"""A learned time transformation: a policy that is a function of positions, made for the time-transformed leapfrog.

It begins at the p-norm of pair potentials, with which that scheme follows two bodies exactly, and learns what a third
body changes. Its correction vanishes as a pair is left alone, whatever the network says.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number
from ..base.rng import fold_in
from ..base.types import Params, System
from ..learning.network import build_mlp
from ..physics.criterion import bounded_exp, time_of
from ..physics.gravity import Gravity
from ..physics.invariants import at_rest_as_a_whole
from ..physics.pairs import pair_distance
from ..physics.step_function import REVERSIBLE, PositionForm
from ..physics.time_transformations import pair_norm, pair_weights_squared
from .policy import Policy


class TransformationConstants(NamedTuple):
    """What a run keeps. Shapes: as commented on the fields."""

    unit: Any  # () of `pair_norm`: an Ω times a time
    energy: Tensor  # () E₀ with the centre of mass at rest, mass · length² / time²


def build_transformation_policy(
    gravity: Gravity,
    *,
    eta: float = 0.02,
    p: float = 2.0,
    weights: str = "mass_product",
    unit: str = "natural",
    hidden: Sequence[int] = (16, 16),
    activation: str = "tanh",
    bound: float = 4.0,
) -> Policy:
    """dt = 1/Ω(x) with a learned Ω: `pair_norm`'s times a factor that a network reads off the configuration,

        Ω(x) = Ω_p(x) · exp(c tanh(z₁ NN(z₁, z₂, κ))),   c = ln bound
        z₁ = 1 − Σ q²,  z₂ = 1 − Σ q⁴,   q_ij = (w_ij/r_ij)² / Σ (w/r)²,   κ = S²/(S² + E₀²),  S² = Σ (G mᵢmⱼ/r_ij)²

    over pairs i < j, r softened. z₁ and z₂ are 0 where one pair outweighs all others, so that the factor is 1 and a
    Kepler orbit stays exact; κ, the depth of the well that the bodies are in, goes from 0 to 1 in an encounter. All
    are without unit, positions alone enter but for the energy E₀ of the start, and the last layer starts at zero:
    training begins at `pair_norm`. Its η is trained along.

    Args:
        gravity: supplies G, the softening and the energy.
        eta: of `pair_norm`, > 0.
        p: of `pair_norm`, > 0 and finite.
        weights: of `pair_norm`, "mass_product" or "root_sum".
        unit: of `pair_norm`, "natural" or "one".
        hidden: sizes of the hidden layers.
        activation: see `build_mlp`.
        bound: > 1, the largest factor between Ω and `pair_norm`'s.

    Returns:
        A `Policy` with a position form; params = {"criterion": ..., "network": ...}. Smooth (unless activation is
        "relu"), memoryless and even.

    Raises:
        ValueError: if bound is not > 1, or an argument of `pair_norm` or of the network is out of range.

    Source: the time transformation of Mikkola & Aarseth 2002, Celestial Mechanics and Dynamical Astronomy 84, 343; the
        learned factor is ours.
    """
    require(1 < bound < math.inf, f"build_transformation_policy: bound must be > 1 (a factor, e.g. 4), got {bound}")
    norm = pair_norm(gravity, eta=eta, p=p, weights=weights, unit=unit)
    form: Any = norm.position_form
    network = build_mlp(3, hidden, activation=activation, zero_last=True)
    exponent = math.log(bound)

    def init(seed: int) -> Params:
        return {"criterion": norm.init(), "network": network.init(fold_in(seed, "network"))}

    def constants(params: Params, system: System) -> TransformationConstants:
        return TransformationConstants(
            form.constants(params["criterion"], system), gravity.energy(at_rest_as_a_whole(system))
        )

    def rate(params: Params, system: System, kept: TransformationConstants) -> Tensor:
        shape = _configuration(gravity, system, weights, kept.energy)
        correction = shape[0] * network.apply(params["network"], shape)[0]
        factor = bounded_exp(number(exponent, correction) * correction.tanh())
        return form.rate(params["criterion"], system, kept.unit) * factor

    def apply(params: Params, system: System, window: Any) -> Tensor:
        return time_of(rate(params, system, constants(params, system)))

    traits = REVERSIBLE._replace(smooth=activation != "relu")
    return Policy(init, apply, traits, PositionForm(constants, rate))


def _configuration(gravity: Gravity, system: System, weights: str, energy: Tensor) -> Tensor:
    """z₁, z₂ and κ, (3,)."""
    inverse_squared = 1 / pair_distance(system.position, gravity.softening) ** 2
    share = pair_weights_squared(system, weights) * inverse_squared
    total = share.sum()
    # Of bodies without any weight there is no share; masked before and after.
    q = share / torch.where(total > 0, total, torch.ones_like(total))
    potentials_squared = (pair_weights_squared(system, "mass_product") * inverse_squared).sum()
    depth = number(gravity.G**2, potentials_squared) * potentials_squared
    sum_squared = depth + energy**2
    kappa = depth / torch.where(sum_squared > 0, sum_squared, torch.ones_like(sum_squared))
    return torch.stack([1 - q.pow(2).sum(), 1 - q.pow(4).sum(), kappa])
