"""How much does a replay iteration add to the matrix products of a wide network? (R3)

    python -m benchmarks.wide_network

MLP 200-1000-1000-200, 512 three-body samples, float64, compiled, against its bare matrix products: forward, and for
every layer the gradients by weights and by inputs (the first layer's by weights alone).
"""

import itertools
from collections.abc import Callable

import torch

from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, replay, trajectory

HIDDEN, BATCH, ITERATIONS, REPEATS = (200, 1000, 1000, 200), 512, 16, 7


def measure() -> list[Row | Missing]:
    """The one row."""
    policy, learner = build("rich", HIDDEN, **FAILING)
    ours = replay(policy, learner, trajectory(2 * BATCH), BATCH, "on")
    products = matrix_products((23, *HIDDEN, 1))
    ours(32), seconds(products, 8)
    pairs = alternate(
        lambda: seconds(lambda: ours(ITERATIONS)) / ITERATIONS, lambda: seconds(products, ITERATIONS), REPEATS
    )
    return [row("R3", "wide network, time over that of its matrix products", pairs, 1.25, at_most=True, inverse=True)]


def matrix_products(sizes: tuple[int, ...]) -> Callable[[], None]:
    """The products of one forward and one backward pass."""
    draw = torch.Generator().manual_seed(0)
    layers = [torch.randn(n, m, generator=draw, dtype=torch.float64) for m, n in itertools.pairwise(sizes)]
    inputs = [torch.randn(BATCH, m, generator=draw, dtype=torch.float64) for m in sizes]

    def run() -> None:
        for number, weight in enumerate(layers):
            inputs[number] @ weight.T
            inputs[number + 1].T @ inputs[number]
            if number:
                inputs[number + 1] @ weight

    return run


if __name__ == "__main__":
    main(measure, __doc__)
