"""Policies: what predicts the step of ONE system.

A policy is a pair of pure functions on a parameter pytree. Anything of that shape fits; nothing
downstream knows what a network is. The three that are shipped:

    residual    dt = τ(x) · exp(c · tanh NN(features)): starts at a classical criterion τ, and never
                leaves it by more than the factor e^c. The default.
    mlp         dt = softplus(NN(features)) + 1e-12: the source system's.
    criterion   dt = τ(x): the loop tunes the criterion's constants.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.check import require
from ..base.forward_mode import number
from ..base.rng import fold_in
from ..base.tree import map_leaves
from ..base.types import Params, System, Window
from ..learning.network import build_mlp
from ..physics.criterion import Criterion, bounded_exp
from ..physics.step_function import PositionForm, Traits
from .features import Features


class Policy(NamedTuple):
    """A step policy: ``init(seed) -> params`` and ``apply(params, system, window) -> dt``.

    Shapes: one `System` and its `Window` in, dt () out, > 0, in units of time. An infinite dt is rejected like any
    step that explodes, but has no usable gradient: keep exponents below ln of the largest number. ``init`` returns
    float64 on the CPU; cast the tree to change that.
    """

    init: Callable[[int], Params]
    apply: Callable[[Params, System, Window], Tensor]
    traits: Traits = Traits()  # what is known about it; reversible schemes ask
    position_form: PositionForm | None = None  # given if the step depends on positions alone


def build_residual_policy(
    features: Features,
    criterion: Criterion,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    bound: float = 4.0,
    fourier_features: int = 0,
) -> Policy:
    """A learned correction to a classical criterion, dt = τ(x) · exp(c · tanh NN(features)), c = ln bound.

    The last layer starts at zero, so training begins at the criterion. Its constants are trained
    along with the network.

    Args:
        features: what the network sees.
        criterion: τ and its parameters.
        hidden: sizes of the hidden layers.
        activation: see `build_mlp`.
        bound: e^c > 1, the largest factor between the policy and its criterion.
        fourier_features: see `build_mlp`.

    Returns:
        A `Policy`; params = {"criterion": ..., "network": ...}.

    Raises:
        ValueError: if bound is not > 1, or an argument of the network is out of range.
    """
    require(1 < bound < math.inf, f"build_residual_policy: bound must be > 1 (a factor, e.g. 4), got {bound}")
    network = build_mlp(features.size, hidden, activation=activation, zero_last=True, fourier_features=fourier_features)
    exponent = math.log(bound)

    def init(seed: int) -> Params:
        return {"criterion": criterion.init(), "network": network.init(fold_in(seed, "network"))}

    def apply(params: Params, system: System, window: Window) -> Tensor:
        correction = network.apply(params["network"], _finite(features.apply(system, window)))[0]
        factor = bounded_exp(number(exponent, correction) * correction.tanh())
        return criterion.timescale(params["criterion"], system) * factor

    return Policy(init, apply, _traits(features, activation).both(criterion.traits))


def build_mlp_policy(
    features: Features,
    *,
    timescale: Criterion | None = None,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    fourier_features: int = 0,
) -> Policy:
    """A network alone, dt = softplus(NN(features)) + 1e-12, as in the source system.

    With dimensionless features that number is multiplied by the system's own time scale, or the
    policy could not scale with the system. With the source's features it is a time in the caller's units, and so is
    the 1e-12: bound to a unit, as those are.

    Args:
        features: what the network sees.
        timescale: the time scale τ(x); needed by dimensionless features, not used by others. Its
            parameters stay at their start values.
        hidden: sizes of the hidden layers.
        activation: see `build_mlp`.
        fourier_features: see `build_mlp`.

    Returns:
        A `Policy`; params = {"network": ...}.

    Raises:
        ValueError: if the features are dimensionless and there is no timescale.
    """
    require(
        timescale is not None or not features.dimensionless,
        "build_mlp_policy: dimensionless features need a timescale to give dt a unit; pass a criterion",
    )
    network = build_mlp(features.size, hidden, activation=activation, fourier_features=fourier_features)
    constants = () if timescale is None else timescale.init()

    def init(seed: int) -> Params:
        return {"network": network.init(fold_in(seed, "network"))}

    def apply(params: Params, system: System, window: Window) -> Tensor:
        output = network.apply(params["network"], _finite(features.apply(system, window)))[0]
        dt = torch.nn.functional.softplus(output) + number(1e-12, output)
        if timescale is None or not features.dimensionless:
            return dt
        return dt * timescale.timescale(map_leaves(lambda leaf: leaf.to(system.time), constants), system)

    traits = _traits(features, activation)
    if timescale is not None and features.dimensionless:
        traits = traits.both(timescale.traits)
    return Policy(init, apply, traits)


def build_criterion_policy(criterion: Criterion) -> Policy:
    """A classical criterion as a policy: the training loop then tunes its constants.

    Args:
        criterion: τ and its parameters.

    Returns:
        A `Policy`; params are the criterion's.
    """
    return Policy(
        lambda seed: criterion.init(),
        lambda params, system, window: criterion.timescale(params, system),
        criterion.traits,
        criterion.position_form,
    )


def _traits(features: Features, activation: str) -> Traits:
    """What is known about a network of these features: a relu has a kink."""
    return features.traits._replace(smooth=features.traits.smooth and activation != "relu")


def traits_of(policy: Policy) -> Traits:
    """What a policy promises; anybody's own pair (init, apply) promises nothing unless it has ``traits``."""
    return getattr(policy, "traits", Traits())


def position_form_of(policy: Policy) -> PositionForm | None:
    """The form of positions alone, of a policy that has one."""
    return getattr(policy, "position_form", None)


def _finite(features: Tensor) -> Tensor:
    """The features, 0 where they are not finite.

    One NaN would make the gradient of the whole minibatch NaN. Where it comes from, a state beyond the range
    of its dtype, the step that follows explodes and is rejected all the same.
    """
    return torch.where(features.isfinite(), features, torch.zeros_like(features))
