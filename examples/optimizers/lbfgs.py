"""``torch.optim.LBFGS`` owns its loop: it evaluates the objective through autograd as often as it likes.

python -m examples.optimizers.lbfgs
"""

import optree
import torch
from torch import Tensor

from .problem import build_problem, loss_of, show


def main() -> tuple[float, float]:
    """Twenty iterations, with a line search."""
    problem = build_problem()
    params = optree.tree_map(lambda leaf: leaf.clone().requires_grad_(), problem.policy.init(0))
    optimizer = torch.optim.LBFGS(optree.tree_leaves(params), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = problem.objective.loss(params, problem.samples, "all")
        loss.backward()
        return loss

    before = loss_of(problem, params)
    optimizer.step(closure)
    losses = before, loss_of(problem, params)
    show("torch.optim.LBFGS", losses)
    return losses


if __name__ == "__main__":
    main()
