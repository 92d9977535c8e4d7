"""An objective and the optimizer that works on it: the update that both phases of training are made of.

An update may leave out what has nothing to give. The band loss of a sample inside the band is 0, and so is its
derivative; where only failed samples count, so is that of every sample that was accepted. Near convergence that is
nearly all of a minibatch. So all samples are tried without gradient, and those that pull are gathered into a smaller
batch of a fixed size and tried again with one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value

from ..base.tree import select, take
from ..base.types import Params, Sample, StepInfo, TrainState
from ..learning.losses import aggregate_minibatch_loss
from ..learning.optimizers import GradientTransformation, apply_updates
from ..timestep.step import Step
from .objective import Groups, Objective, as_groups, build_objective, chosen_samples, count_samples


class Learner(NamedTuple):
    """An objective and the optimizer that works on it.

    Made by `build_learner`. ``update(state, batch, on="failed") -> (state, (loss, info))`` judges the
    state's parameters on the batch and returns a state that took one optimizer step; where no sample
    was chosen the state comes back unchanged.

    Shapes: a batch of B samples in; loss () and `StepInfo` (B,) out.
    """

    objective: Objective
    optimizer: GradientTransformation
    update: Callable[..., tuple[TrainState, tuple[Tensor, StepInfo]]]
    update_some: "Callable[[TrainState, Groups, str, int], Pulled] | None" = None  # see `Pulled`; None: not known


class Pulled(NamedTuple):
    """What ``update_some(state, batch, on, room)`` returns: ``update`` with gradients only where there are any.

    ``room`` is the number of samples of each group that may have one. The state is that of ``update`` within
    rounding, as sums are taken in another order; if ``pulling`` is more than the room it is not to be used.

    Shapes: as commented on the fields, B samples in all groups.
    """

    state: TrainState
    loss: Tensor  # ()
    info: StepInfo  # (B,)
    pulling: Tensor  # () int64; how many samples of one group have a gradient, at most


def build_learner(
    step: Step, optimizer: GradientTransformation, *, E_lower: float = 1e-6, E_upper: float = 1e-4
) -> Learner:
    """An objective with an optimizer: what both phases of training need.

    Args:
        step: one step of one system, from `build_step`.
        optimizer: any pair (init, update).
        E_lower: lower edge of the band of relative energy errors, > 0.
        E_upper: upper edge, > E_lower.

    Returns:
        A `Learner`.

    Raises:
        ValueError: unless 0 < E_lower < E_upper.
    """
    objective = build_objective(step, E_lower=E_lower, E_upper=E_upper)

    def descend(state: TrainState, grads: Params, some: Tensor) -> TrainState:
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        # A mean over no samples has gradient 0, but momentum and weight decay would still move.
        new = select(some, (apply_updates(state.params, updates), opt_state), (state.params, state.opt_state))
        return state._replace(params=new[0], opt_state=new[1])

    def update(state: TrainState, batch: Groups, on: str = "failed") -> tuple[TrainState, tuple[Tensor, StepInfo]]:
        def of_params(params: Params) -> tuple[Tensor, StepInfo]:
            return objective.loss(params, batch, on)

        grads, (loss, info) = grad_and_value(of_params, has_aux=True)(state.params)
        return descend(state, grads, chosen_samples(batch, info, on).any()), (loss, info)

    def update_some(state: TrainState, batch: Groups, on: str, room: int) -> Pulled:
        groups = as_groups(batch)
        residual, info = objective.residuals(state.params, groups)
        chosen = chosen_samples(groups, info, on)
        pulls = (chosen & (residual != 0)).split([len(group.active) for group in groups])
        some = tuple(_those(group, own, min(room, len(own))) for group, own in zip(groups, pulls, strict=True))
        count = chosen.sum().clamp(min=1)

        def of_params(params: Params) -> Tensor:
            return objective.residuals(params, some)[0].pow(2).sum() / count

        new = descend(state, grad(of_params)(state.params), chosen.any())
        most = torch.stack([own.sum() for own in pulls]).amax()
        return Pulled(new, aggregate_minibatch_loss(residual**2, chosen), info, most)

    return Learner(objective, optimizer, update, update_some)


def room_for(batch: Groups, pulling: int) -> int:
    """The room for samples with a gradient where ``pulling`` of a group have one; 0 for the plain update of all.

    An eighth of the batch or all of it: every size is one more function to compile, and costs seconds.
    """
    small = max(16, -(-count_samples(batch) // 8))
    return small if pulling <= small < max(len(group.active) for group in as_groups(batch)) else 0


def _those(group: Sample, mask: Tensor, room: int) -> Sample:
    """The samples where the mask is True, filled up with inactive ones to as many rows as there is room."""
    rows = torch.nonzero_static(mask, size=room, fill_value=-1)[:, 0]
    picked = take(group, rows.clamp(min=0))
    return picked._replace(active=picked.active & (rows >= 0))
