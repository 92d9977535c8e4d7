"""An objective and the optimizer that works on it: the update that both phases of training are made of.

An update may leave out what has nothing to give. The band loss of a sample inside the band is 0, and so is its
derivative; where only failed samples count, so is that of every sample that was accepted. Near convergence that is
nearly all of a minibatch. So all samples are tried without gradient, and those that pull are gathered into a smaller
batch of a fixed size and tried again with one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, grad_and_value

from ..base.check import require
from ..base.tree import select, take
from ..base.types import Params, Sample, StepInfo, TrainState
from ..learning.least_squares import LeastSquares, Residuals
from ..learning.losses import aggregate_minibatch_loss
from ..learning.optimizers import GradientTransformation, apply_updates
from ..timestep.step import Step
from .objective import Groups, Objective, as_groups, build_objective, chosen_samples, count_samples, with_references


class Rooms(NamedTuple):
    """For how many samples with a gradient an update leaves room, see `room_for`: plain numbers."""

    block: int  # iterations after which that is decided anew; 1: before every one, by counting them
    shares: tuple[int, ...]  # parts of a minibatch that there may be room for


BY_GRADIENTS = Rooms(16, (8,))
BY_RESIDUALS = Rooms(1, (8, 4, 2))  # the work grows with the square of the rows: it is worth a look of the host


class Learner(NamedTuple):
    """An objective and the optimizer that works on it.

    Made by `build_learner`. ``update(state, batch, on="failed") -> (state, (loss, info))`` judges the
    state's parameters on the batch and returns a state that took one optimizer step; where no sample
    was chosen the state comes back unchanged.

    Shapes: a batch of B samples in; loss () and `StepInfo` (B,) out.
    """

    objective: Objective  # says what is good enough
    optimizer: GradientTransformation | LeastSquares
    update: Callable[..., tuple[TrainState, tuple[Tensor, StepInfo]]]
    update_some: "Callable[[TrainState, Groups, str, int], Pulled] | None" = None  # see `Pulled`; None: not known
    aim: Objective | None = None  # what an update minimises, where that is a narrower band than the objective's

    @property
    def rooms(self) -> Rooms:
        """When and how finely the number of gradients follows that of the samples that have one."""
        return BY_RESIDUALS if isinstance(self.optimizer, LeastSquares) else BY_GRADIENTS


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
    step: Step,
    optimizer: GradientTransformation | LeastSquares,
    *,
    E_lower: float = 1e-6,
    E_upper: float = 1e-4,
    margin: float | None = None,
) -> Learner:
    """An objective with an optimizer: what both phases of training need.

    Args:
        step: one step of one system, from `build_step`.
        optimizer: any pair (init, update), or a `LeastSquares`, which is given residuals in place of a gradient.
        E_lower: lower edge of the band of relative energy errors, > 0.
        E_upper: upper edge, > E_lower.
        margin: how far inside the band, at either edge, a sample has to lie to be left alone; in widths of the band in
            ln ε, 0 ≤ margin < ½. None: 0 for gradients, whose momentum carries on beyond the edge, and ¼ for a
            `LeastSquares`, whose steps would end exactly on it, with half of the unseen samples outside.

    Returns:
        A `Learner`.

    Raises:
        ValueError: unless 0 < E_lower < E_upper, and if margin is out of its range.
    """
    if margin is None:
        margin = 0.25 if isinstance(optimizer, LeastSquares) else 0.0
    require(
        0 <= margin < 0.5, f"build_learner: margin must be in [0, 0.5) (widths of the band, e.g. 0.25), got {margin}"
    )
    objective = build_objective(step, E_lower=E_lower, E_upper=E_upper)
    inside = (E_upper / E_lower) ** margin
    aim = build_objective(step, E_lower=E_lower * inside, E_upper=E_upper / inside) if margin else objective
    if isinstance(optimizer, LeastSquares):
        return Learner(objective, optimizer, *_by_residuals(aim, optimizer), aim)
    return Learner(objective, optimizer, *_by_gradients(aim, optimizer), aim)


Updates: TypeAlias = tuple[
    Callable[..., tuple[TrainState, tuple[Tensor, StepInfo]]], Callable[[TrainState, Groups, str, int], Pulled]
]
"""What `Learner` calls ``update`` and ``update_some``."""


def _by_gradients(objective: Objective, optimizer: GradientTransformation) -> Updates:
    def descend(state: TrainState, grads: Params, some: Tensor) -> TrainState:
        return _after(state, *optimizer.update(grads, state.opt_state, state.params), some)

    def update(state: TrainState, batch: Groups, on: str = "failed") -> tuple[TrainState, tuple[Tensor, StepInfo]]:
        def of_params(params: Params) -> tuple[Tensor, StepInfo]:
            return objective.loss(params, batch, on)

        grads, (loss, info) = grad_and_value(of_params, has_aux=True)(state.params)
        return descend(state, grads, chosen_samples(batch, info, on).any()), (loss, info)

    def update_some(state: TrainState, batch: Groups, on: str, room: int) -> Pulled:
        pull = _pull(objective, state.params, batch, on, room)
        count = pull.chosen.sum().clamp(min=1)

        def of_params(params: Params) -> Tensor:
            return objective.residuals(params, pull.some).pow(2).sum() / count

        return _pulled(descend(state, grad(of_params)(state.params), pull.chosen.any()), pull)

    return update, update_some


def _by_residuals(objective: Objective, optimizer: LeastSquares) -> Updates:
    def descend(state: TrainState, batch: Groups, rows: Groups, chosen: Tensor) -> TrainState:
        """One step for the chosen residuals of a batch, with slopes of these rows alone: elsewhere there are none."""

        def values(params: Params) -> Tensor:
            residual = objective.residuals(params, batch)
            return torch.where(chosen, residual, torch.zeros_like(residual))

        def jacobian(params: Params) -> tuple[Tensor, Params]:
            return objective.jacobian(params, rows)

        problem = Residuals(values, jacobian, count_samples(rows))
        return _after(state, *optimizer.update(problem, state.opt_state, state.params), chosen.any())

    def update(state: TrainState, batch: Groups, on: str = "failed") -> tuple[TrainState, tuple[Tensor, StepInfo]]:
        groups = with_references(as_groups(batch), objective.limit)  # once, and not in every product
        residual, info = objective.judge(state.params, groups)
        chosen = chosen_samples(groups, info, on)
        loss = aggregate_minibatch_loss(residual**2, chosen)
        return descend(state, groups, _only(groups, chosen), chosen), (loss, info)

    def update_some(state: TrainState, batch: Groups, on: str, room: int) -> Pulled:
        groups = with_references(as_groups(batch), objective.limit)
        pull = _pull(objective, state.params, groups, on, room)
        return _pulled(descend(state, groups, pull.some, pull.chosen), pull)

    return update, update_some


class _Pull(NamedTuple):
    """A minibatch, judged, and those of its samples that have a gradient."""

    residual: Tensor  # (B,)
    info: StepInfo  # (B,)
    chosen: Tensor  # (B,) bool
    some: Groups  # as many of each group as there is room for
    most: Tensor  # () int64; of one group, that have a gradient


def _pull(objective: Objective, params: Params, batch: Groups, on: str, room: int) -> _Pull:
    groups = with_references(as_groups(batch), objective.limit)
    residual, info = objective.judge(params, groups)
    chosen = chosen_samples(groups, info, on)
    pulls = (chosen & (residual != 0)).split([len(group.active) for group in groups])
    some = tuple(_those(group, own, min(room, len(own))) for group, own in zip(groups, pulls, strict=True))
    return _Pull(residual, info, chosen, some, torch.stack([own.sum() for own in pulls]).amax())


def _pulled(state: TrainState, pull: _Pull) -> Pulled:
    return Pulled(state, aggregate_minibatch_loss(pull.residual**2, pull.chosen), pull.info, pull.most)


def _after(state: TrainState, updates: Params, opt_state: Any, some: Tensor) -> TrainState:
    """The state after an update; as it was if there was nothing to learn from.

    A mean over no samples has gradient 0, but momentum and weight decay would still move.
    """
    new = select(some, (apply_updates(state.params, updates), opt_state), (state.params, state.opt_state))
    return state._replace(params=new[0], opt_state=new[1])


def _only(groups: Groups, chosen: Tensor) -> Groups:
    """A batch in which the others are inactive: they have no residual and no slope."""
    parts = chosen.split([len(group.active) for group in groups])
    return tuple(group._replace(active=group.active & part) for group, part in zip(groups, parts, strict=True))


def room_for(batch: Groups, pulling: int, shares: Sequence[int] = (8,)) -> int:
    """The room for samples with a gradient where ``pulling`` of a group have one; 0 for the plain update of all.

    One of these parts of the batch or all of it: every size is one more function to compile, and costs seconds.
    """
    whole = max(len(group.active) for group in as_groups(batch))
    for share in shares:
        room = max(16, -(-count_samples(batch) // share))
        if pulling <= room < whole:
            return room
    return 0


def _those(group: Sample, mask: Tensor, room: int) -> Sample:
    """The samples where the mask is True, filled up with inactive ones to as many rows as there is room."""
    rows = torch.nonzero_static(mask, size=room, fill_value=-1)[:, 0]
    picked = take(group, rows.clamp(min=0))
    return picked._replace(active=picked.active & (rows >= 0))
