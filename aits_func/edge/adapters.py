"""Other people's optimizers as a pair (init, update), and the objective as other people's problem.

Those of ``torch.optim`` and of TorchOpt fit the pair, and with it every loop here. LBFGS and SciPy own their loop: they
are handed the objective, see `flatten_problem`. Neither TorchOpt nor SciPy is imported here, and NumPy only by what
gives and takes its arrays.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from ..base.check import require, require_choice
from ..base.engine import build_engine, is_traced, is_tracked
from ..base.tree import leaves, named_leaves, replace_leaves
from ..base.types import Params
from ..learning.transformations import GradientTransformation
from ..loops.objective import LOSS_ON, Groups, Objective, prepare
from .extras import load_extra

if TYPE_CHECKING:
    from numpy import ndarray


class TorchOptimizerState(NamedTuple):
    """What `from_torch_optimizer` carries.

    Shapes: as commented on the fields.
    """

    fresh: Tensor  # () bool; whether there was no update yet
    memory: tuple[dict[str, Tensor], ...]  # for every leaf, what the optimizer keeps of it


def from_torch_optimizer(build: Callable[[Iterable[Tensor]], torch.optim.Optimizer]) -> GradientTransformation:
    """An optimizer of ``torch.optim`` as a pair of pure functions.

    Every update builds the optimizer anew, around copies of the parameters, with the memory that stands in the state:
    nothing is written in place, and the state goes into a checkpoint like any other. It costs some milliseconds, and it
    passes no transform and no compiler (``compile = "auto"`` runs it eagerly and says why), and so trains no ensemble;
    where that matters, `build_optimizer` has the usual ones.

    Args:
        build: from a list of parameters to the optimizer, e.g. ``lambda params: torch.optim.RMSprop(params, lr=1e-3)``.
            Its hyperparameters are those of every update: a scheduler has no say.

    Returns:
        A `GradientTransformation` with state `TorchOptimizerState`.

    Raises:
        ValueError: by ``init`` if the optimizer keeps something that is no tensor, or wants its loss evaluated again,
            as LBFGS does; by both inside a transform of `torch.func` or while a compiler looks on.
    """

    def init(params: Params) -> TorchOptimizerState:
        copies = [leaf.detach().clone() for leaf in leaves(params)]
        require(len(copies) > 0, "from_torch_optimizer: params must hold at least one tensor, got an empty tree")
        _require_plain(copies)
        optimizer = build(copies)
        require(
            not isinstance(optimizer, torch.optim.LBFGS),
            "from_torch_optimizer: LBFGS evaluates the loss several times a step; use it on flatten_problem instead",
        )
        for copy in copies:
            copy.grad = torch.zeros_like(copy)
        optimizer.step()  # for the names and shapes of what it keeps; the first update does not look at the values
        return TorchOptimizerState(
            torch.ones((), dtype=torch.bool, device=copies[0].device), _memory(optimizer, copies)
        )

    def update(grads: Params, state: TorchOptimizerState, params: Params) -> tuple[Params, TorchOptimizerState]:
        _require_plain([*leaves(params), *leaves(grads), *leaves(state)])
        with torch.no_grad():
            copies = [leaf.clone() for leaf in leaves(params)]
            optimizer = build(copies)
            for copy, slope, kept in zip(copies, leaves(grads), state.memory, strict=True):
                copy.grad = slope.clone()
                if not bool(state.fresh):
                    optimizer.state[copy] = {name: value.clone() for name, value in kept.items()}
            optimizer.step()
            steps = [copy - leaf for copy, leaf in zip(copies, leaves(params), strict=True)]
        memory = _memory(optimizer, copies)
        return replace_leaves(params, steps), TorchOptimizerState(torch.zeros_like(state.fresh), memory)

    return GradientTransformation(init, update)


def _require_plain(given: list[Tensor]) -> None:
    """Refuse in words what would else end in torch's own, or in a graph that has forgotten the memory."""
    require(
        not is_traced() and not any(map(is_tracked, given)),
        "from_torch_optimizer: torch.optim works in place, inside no transform of torch.func and no compiler; "
        "use build_optimizer",
    )


def _memory(optimizer: torch.optim.Optimizer, copies: list[Tensor]) -> tuple[dict[str, Tensor], ...]:
    """What it keeps of each parameter; a place that is empty (None) is left out."""
    memory = []
    for copy in copies:
        kept = {name: value for name, value in optimizer.state[copy].items() if value is not None}
        wrong = [name for name, value in kept.items() if not isinstance(value, Tensor)]
        require(
            not wrong,
            f"from_torch_optimizer: {type(optimizer).__name__} keeps {', '.join(wrong)}, no tensor; use another",
        )
        memory.append(kept)
    return tuple(memory)


def from_torchopt(optimizer: Any) -> GradientTransformation:
    """A transformation of TorchOpt, such as ``torchopt.adam(1e-3)``, with its habit of writing in place switched off.

    Args:
        optimizer: a pair (init, update) in TorchOpt's form.

    Returns:
        A `GradientTransformation` with TorchOpt's own state. What passes transforms and compilers is TorchOpt's affair.
        In 0.7.3 the bias corrections of its Adam are rounded to torch's default dtype: 1e-4 of a step in float32.

    Raises:
        ValueError: by ``init`` if the optimizer keeps numbers that are no tensors, as ``radam`` and ``adamax`` do.
    """

    def init(params: Params) -> Any:
        state = optimizer.init(params)
        numbers = [name for name, leaf in named_leaves(state).items() if not isinstance(leaf, Tensor)]
        require(
            not numbers,
            f"from_torchopt: the optimizer keeps a number that is no tensor (at {', '.join(numbers)}), which no loop "
            "can carry; use another, or from_torch_optimizer",
        )
        return state

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        return optimizer.update(grads, state, params=params, inplace=False)

    return GradientTransformation(init, update)


class FlatProblem(NamedTuple):
    """An objective on one batch as functions of a vector of numbers, for optimizers that own their loop.

    Shapes: x (P,), all float64 NumPy arrays; B samples.
    """

    start: "ndarray"  # (P,)
    residuals: "Callable[[ndarray], ndarray]"  # x -> (B,)
    jacobian: "Callable[[ndarray], ndarray]"  # x -> (B, P)
    loss_and_gradient: "Callable[[ndarray], tuple[float, ndarray]]"  # x -> mean square, (P,)
    unflatten: "Callable[[ndarray], Params]"  # x -> parameters, in their dtype and on their device


def flatten_problem(
    objective: Objective, params: Params, batch: Groups, *, on: str = "all", compile: str = "off"
) -> FlatProblem:
    """The objective on one batch, for ``scipy.optimize`` and its kin.

        scipy.optimize.least_squares(problem.residuals, problem.start, jac=problem.jacobian)
        scipy.optimize.minimize(problem.loss_and_gradient, problem.start, jac=True)

    Args:
        objective: from `build_objective`.
        params: where to start, P numbers in all.
        batch: B samples, which stay the same: draw a large one.
        on: the samples of the loss; residuals are always those of all active samples. "failed" makes it jump where a
            sample is accepted, which no line search likes.
        compile: "on", "auto" (where there is a compiler) or "off".

    Returns:
        A `FlatProblem`.

    Raises:
        ValueError: if ``params`` holds no tensor, or a word is not one of those above; by each function if x has not
            the shape (P,).
        InputError: if NumPy is not installed, naming the extra that installs it.
    """
    numpy = load_extra("numpy", "scipy")
    require_choice("flatten_problem", "on", on, LOSS_ON)
    like, batch = leaves(params), prepare(batch, objective)
    require(len(like) > 0, "flatten_problem: params must hold at least one tensor, got an empty tree")
    sizes = [leaf.numel() for leaf in like]

    def slopes(params: Params, batch: Groups) -> tuple[Params, Tensor]:
        grads, (value, _) = grad_and_value(lambda p: objective.loss(p, batch, on), has_aux=True)(params)
        return grads, value

    def engine(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        return build_engine(function, mode=compile, batched=(False, True), label=label)

    residuals = engine(objective.residuals, "residuals")
    jacobian = engine(objective.jacobian, "a Jacobian")
    gradient = engine(slopes, "a gradient")

    def unflatten(x: "ndarray") -> Params:
        vector = torch.as_tensor(numpy.array(x, dtype=numpy.float64))
        shape = tuple(vector.shape)
        require(shape == (sum(sizes),), f"flatten_problem: x must have shape (P,) = ({sum(sizes)},), got {shape}")
        pieces = vector.split(sizes)
        return replace_leaves(params, [x.reshape(leaf.shape).to(leaf) for x, leaf in zip(pieces, like, strict=True)])

    def rows(x: "ndarray") -> "ndarray":
        _, tree = jacobian(unflatten(x), batch)
        return _as_numpy(torch.cat([leaf.reshape(leaf.shape[0], -1) for leaf in leaves(tree)], 1))

    def loss_and_gradient(x: "ndarray") -> "tuple[float, ndarray]":
        grads, value = gradient(unflatten(x), batch)
        return float(value), _flat(grads)

    return FlatProblem(
        _flat(params), lambda x: _as_numpy(residuals(unflatten(x), batch)), rows, loss_and_gradient, unflatten
    )


def _flat(tree: Params) -> "ndarray":
    return _as_numpy(torch.cat([leaf.detach().reshape(-1) for leaf in leaves(tree)]))


def _as_numpy(x: Tensor) -> "ndarray":
    return x.detach().cpu().double().numpy()
