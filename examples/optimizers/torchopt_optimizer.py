"""An optimizer of TorchOpt in the replay: it fits the pair (init, update).

pip install 'aits_func[torchopt]'
python -m examples.optimizers.torchopt_optimizer
"""

from aits_func.edge.adapters import from_torchopt
from aits_func.edge.extras import load_extra

from .problem import build_problem, show, train


def main() -> tuple[float, float]:
    """Fifty iterations of its RMSprop."""
    torchopt = load_extra("torchopt", "torchopt")
    losses = train(build_problem(), from_torchopt(torchopt.rmsprop(3e-2)), 50)
    show("torchopt.rmsprop", losses)
    return losses


if __name__ == "__main__":
    main()
