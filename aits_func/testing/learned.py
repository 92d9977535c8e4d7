"""Hypothesis strategies: policies with their parameters in the midst of training, and trees of numbers."""

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from ..base import tree
from ..base.check import require
from ..base.types import Params
from ..physics.gravity import Gravity
from ..physics.pair_criteria import p_norm
from ..timestep.features import build_features
from ..timestep.policy import Policy, build_criterion_policy, build_mlp_policy, build_residual_policy
from .draws import as_tensor

KINDS = ("residual", "mlp", "criterion")
_VOCABULARIES = (("invariant", 0), ("basic", 0), ("rich", 1), ("delta_mag", 2))  # and the history they are tried with

seeds = st.integers(0, 2**31)
"""Keys of draws that hypothesis leaves to torch's generator: what is drawn there does not shrink."""


class DrawnPolicy(NamedTuple):
    """A policy with what is needed to apply it."""

    policy: Policy
    params: Params  # pytree of float64 tensors
    history_len: int  # H of the windows that it reads


def policies(gravity: Gravity, kinds: tuple[str, ...] = KINDS) -> SearchStrategy[DrawnPolicy]:
    """Small policies of all kinds and vocabularies of features, their parameters somewhere in the midst of training.

    Args:
        gravity: from `build_gravity`.
        kinds: of "residual", "mlp" and "criterion", those wanted.

    Returns:
        A strategy of `DrawnPolicy`: (policy, params, history_len).

    Raises:
        ValueError: if a kind is none of the three.
    """
    require(
        bool(kinds) and set(kinds) <= set(KINDS), f"policies: kinds must be some of {', '.join(KINDS)}, got {kinds}"
    )

    @st.composite
    def build(draw: DrawFn) -> DrawnPolicy:
        (vocabulary, history_len), kind = draw(st.sampled_from(_VOCABULARIES)), draw(st.sampled_from(kinds))
        criterion = p_norm(gravity, eta=0.05)
        features = build_features(vocabulary, gravity, history_len=history_len)
        if kind == "criterion":
            policy, history_len = build_criterion_policy(criterion), 0
        elif kind == "mlp":
            policy = build_mlp_policy(features, timescale=criterion, hidden=(4,))
        else:
            policy = build_residual_policy(features, criterion, hidden=(4,))
        return DrawnPolicy(policy, draw(parameters(policy)), history_len)

    return build()


def parameters(policy: Policy, spread: float = 0.3) -> SearchStrategy[Params]:
    """Parameters of a policy as they may stand in the midst of training: the first ones, every number moved a little.

    Where training starts is too special to try a law on: the last layer of a residual policy is zero, and hides
    whatever is wrong with the features.

    Args:
        policy: its ``init(seed)`` makes the first ones.
        spread: standard deviation of what is added to every floating-point number, ≥ 0.

    Returns:
        A strategy of pytrees like ``policy.init(seed)``, leaf by leaf of the same shape.

    Raises:
        ValueError: if spread is negative.
    """
    require(spread >= 0, f"parameters: spread must be >= 0, got {spread}")

    def moved(seed: int) -> Params:
        make = torch.Generator().manual_seed(seed)

        def move(leaf: torch.Tensor) -> torch.Tensor:
            if not leaf.is_floating_point():
                return leaf
            return leaf + spread * torch.randn(leaf.shape, generator=make, dtype=torch.float64).to(leaf)

        return tree.map_leaves(move, policy.init(seed))

    return seeds.map(moved)


def structures() -> SearchStrategy[Any]:
    """Nested trees of dicts and tuples whose leaves are shapes, as strings ("2 3") lest they count as nodes.

    Returns:
        A strategy of trees of at most 4 leaves, each of at most 4 numbers; `filled` makes tensors of one.
    """
    shape = st.sampled_from(["", "1", "3", "2 2"])
    return st.recursive(
        shape, lambda inner: st.tuples(inner, inner) | st.fixed_dictionaries({"b": inner, "a": inner}), max_leaves=4
    )


def filled(structure: Any, elements: SearchStrategy[float]) -> SearchStrategy[Any]:
    """Trees of float64 tensors of a given structure.

    Args:
        structure: a tree of shapes, of `structures`.
        elements: where the numbers come from.

    Returns:
        A strategy of pytrees of tensors.
    """

    @st.composite
    def build(draw: DrawFn) -> Any:
        def fill(text: str) -> torch.Tensor:
            shape = tuple(int(size) for size in text.split())
            count = torch.Size(shape).numel()
            return as_tensor(draw(st.lists(elements, min_size=count, max_size=count))).reshape(shape)

        return tree.map_leaves(fill, structure)

    return build()


def signed(low: float, high: float) -> SearchStrategy[float]:
    """Zero, or a number () of magnitude in [low, high] and either sign.

    Args:
        low: smallest magnitude, > 0.
        high: largest magnitude.

    Returns:
        A strategy of floats.
    """
    size = st.floats(low, high)
    return st.just(0.0) | size | size.map(lambda x: -x)
