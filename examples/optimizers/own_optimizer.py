"""An optimizer of one's own is a pair of pure functions: here the sign of a running mean of the gradient.

    python -m examples.optimizers.own_optimizer

Source: the update of Lion without weight decay, Chen et al. 2023, arXiv:2302.06675, algorithm 2.
"""

from typing import Any

import optree
import torch

import aits_func as af

from .problem import build_problem, show, train


def lion(learning_rate: float, b1: float = 0.9, b2: float = 0.99) -> af.GradientTransformation:
    """Δ = −η sign(β₁m + (1 − β₁)g), m ← β₂m + (1 − β₂)g."""

    def init(params: Any) -> Any:
        return optree.tree_map(torch.zeros_like, params)

    def update(grads: Any, mean: Any, params: Any) -> tuple[Any, Any]:
        updates = optree.tree_map(lambda m, g: -learning_rate * (b1 * m + (1 - b1) * g).sign(), mean, grads)
        return updates, optree.tree_map(lambda m, g: b2 * m + (1 - b2) * g, mean, grads)

    return af.GradientTransformation(init, update)


def main() -> tuple[float, float]:
    """Fifty iterations of the replay."""
    losses = train(build_problem(), lion(1e-2), 50)
    show("an optimizer of one's own", losses)
    return losses


if __name__ == "__main__":
    main()
