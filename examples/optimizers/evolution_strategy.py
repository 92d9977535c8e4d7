"""An evolution strategy, written against the public interface alone: no gradient, one ``vmap`` over a population.

    python -m examples.optimizers.evolution_strategy

The mean of the better half of the population, weighted by rank, is the next centre (a (μ/μ, λ) strategy with a step
size that shrinks at a fixed rate).
"""

import optree
import torch
from torch.func import vmap

from .problem import build_problem, loss_of, show

POPULATION, GENERATIONS, SIZE, SHRINK = 32, 30, 0.3, 0.95


def main() -> tuple[float, float]:
    """Thirty generations of 32."""
    problem = build_problem()
    centre = problem.policy.init(0)
    before, generator = loss_of(problem, centre), torch.Generator().manual_seed(0)
    losses_of = vmap(lambda params: problem.objective.loss(params, problem.samples, "all")[0])
    weights = torch.log(torch.tensor(POPULATION / 2 + 0.5)) - torch.log(torch.arange(1, POPULATION // 2 + 1))
    weights = (weights / weights.sum()).double()

    def scatter(leaf: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(POPULATION, *leaf.shape, generator=generator, dtype=leaf.dtype)
        return leaf + size * noise

    size = SIZE
    for _ in range(GENERATIONS):
        population = optree.tree_map(scatter, centre)
        best = losses_of(population).argsort()[: POPULATION // 2]
        centre = optree.tree_map(lambda leaf, best=best: torch.tensordot(weights, leaf[best], dims=1), population)
        size *= SHRINK
    losses = before, loss_of(problem, centre)
    show("evolution strategy", losses)
    return losses


if __name__ == "__main__":
    main()
