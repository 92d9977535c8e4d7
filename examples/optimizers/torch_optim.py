"""An optimizer of ``torch.optim`` in the replay: it fits the pair (init, update).

python -m examples.optimizers.torch_optim
"""

import torch

from aits_func.edge.adapters import from_torch_optimizer

from .problem import build_problem, show, train


def main() -> tuple[float, float]:
    """Fifty iterations of RAdam, which this library does not have."""
    optimizer = from_torch_optimizer(lambda params: torch.optim.RAdam(params, lr=3e-2))
    losses = train(build_problem(), optimizer, 50)
    show("torch.optim.RAdam", losses)
    return losses


if __name__ == "__main__":
    main()
