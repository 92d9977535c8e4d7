"""The objective of training, over a minibatch: the single step lifted by ``vmap``, and its loss.

A minibatch is a tuple of groups; a group is a `Sample` whose leaves have a leading axis, all of one
shape (N, D, H). There is one ``vmap`` per group, and the losses of all groups are pooled.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, vmap

from ..base.check import make_room, require, require_choice
from ..base.tree import concatenate, length, map_leaves, take
from ..base.types import Params, Reference, Sample, StepInfo, System
from ..learning.losses import aggregate_minibatch_loss, band_residual, check_all_pass, check_band, check_resolution
from ..timestep.rounding import Limit
from ..timestep.step import Step, limit_of

Groups: TypeAlias = tuple[Sample, ...]
"""A batch: one `Sample` with a leading axis for every shape (N, D, H) that occurs."""

LOSS_ON = ("failed", "all")


class Objective(NamedTuple):
    """What is minimised, as pure functions of (params, batch), for any optimizer to consume.

    Made by `build_objective`. All pass ``grad``, ``vmap``, ``jvp``, ``jacrev``, Hessian products, and compilers.

    Shapes: as commented on the fields; ``batch`` is a tuple of groups or one group, and B counts the samples of all
    groups together. Where a function takes ``on``, "failed" counts the samples that failed at these very parameters,
    "all" every active one.
    """

    attempt: Callable[[Params, Groups], tuple[tuple[System, ...], StepInfo]]  # systems after, info (B,)
    judge: Callable[[Params, Groups], tuple[Tensor, StepInfo]]  # residuals (B,), info (B,)
    residuals: Callable[[Params, Groups], Tensor]  # (B,) signed distances from the band, 0 if inactive
    jacobian: Callable[[Params, Groups], tuple[Tensor, Params]]  # residuals (B,), and ∂r/∂θ as leaves (B, ...)
    loss: Callable[..., tuple[Tensor, StepInfo]]  # (params, batch, on="failed") -> mean square (), info (B,)
    sample_losses: Callable[..., Tensor]  # (params, batch, on="failed") -> (B,) squares, 0 where not counted
    sample_gradients: Callable[..., Params]  # (params, batch, on="failed") -> their gradients, as leaves (B, ...)
    E_lower: float
    E_upper: float
    limit: Limit | None = None  # what the verdict is made by, and the rounding error of that; None: not known


def build_objective(step: Step, *, E_lower: float = 1e-6, E_upper: float = 1e-4) -> Objective:
    """The band loss of a single-system step, over batches.

        loss = mean over the chosen samples of r²,   r as in `band_residual`

    Of a step from `build_step` the rounding error and a time of its system are known, so that r leads back to the band
    from any dt; of a step of one's own, and with the source's energy scale, they are not used.

    Args:
        step: one step of one system, from `build_step`.
        E_lower: lower edge of the band of relative energy errors, > 0.
        E_upper: upper edge, > E_lower.

    Returns:
        An `Objective`, whose functions take a batch of B samples.

    Raises:
        ValueError: unless 0 < E_lower < E_upper, or if E_upper is below what float64 can tell from 0.

    Example: gradient descent by hand.

        objective = build_objective(step)
        grads, info = grad(objective.loss, has_aux=True)(params, batch)
    """
    check_band("build_objective", E_lower, E_upper)
    check_resolution("build_objective", "E_upper", E_upper)
    step_batch = vmap(step, in_dims=(None, 0))

    def attempt(params: Params, batch: Groups) -> tuple[tuple[System, ...], StepInfo]:
        outcomes = [step_batch(params, group) for group in as_groups(batch)]
        return tuple(after for after, _ in outcomes), concatenate([info for _, info in outcomes])

    limit = limit_of(step)
    limited = limit is not None and limit.time is not None  # else the loss is that of the source system

    def distance(info: StepInfo, sample: Sample) -> Tensor:
        """The residuals of samples whose references are worked out."""
        known = sample.reference if limited and isinstance(sample.reference, Reference) else None
        residual = band_residual(
            info.energy_error, info.dt, info.exploded, E_lower=E_lower, E_upper=E_upper, reference=known
        )
        return torch.where(sample.active, residual, torch.zeros_like(residual))

    def judge(params: Params, batch: Groups) -> tuple[Tensor, StepInfo]:
        outcomes = [(group, step_batch(params, group)[1]) for group in with_references(as_groups(batch), limit)]
        residuals = torch.cat([distance(info, group) for group, info in outcomes])
        return residuals, concatenate([info for _, info in outcomes])

    def residuals(params: Params, batch: Groups) -> Tensor:
        return judge(params, batch)[0]

    def slopes(params: Params, batch: Groups) -> tuple[Tensor, Params, StepInfo]:
        """Residuals (B,), their gradients as leaves (B, ...), and info (B,)."""

        def of_one(params: Params, sample: Sample) -> tuple[Tensor, tuple[Tensor, StepInfo]]:
            _, info = step(params, sample)
            residual = distance(info, sample)
            return residual, (residual, info)

        rows = vmap(grad(of_one, has_aux=True), in_dims=(None, 0))
        groups = with_references(as_groups(batch), limit)
        gradients, seen = zip(*(rows(params, group) for group in groups), strict=True)
        residual, info = concatenate(seen)
        return residual, concatenate(gradients), info

    def jacobian(params: Params, batch: Groups) -> tuple[Tensor, Params]:
        return slopes(params, batch)[:2]

    def loss(params: Params, batch: Groups, on: str = "failed") -> tuple[Tensor, StepInfo]:
        residual, info = judge(params, batch)
        return aggregate_minibatch_loss(residual**2, chosen_samples(batch, info, on)), info

    def sample_losses(params: Params, batch: Groups, on: str = "failed") -> Tensor:
        residual, info = judge(params, batch)
        return torch.where(chosen_samples(batch, info, on), residual, torch.zeros_like(residual)) ** 2

    def sample_gradients(params: Params, batch: Groups, on: str = "failed") -> Params:
        residual, gradients, info = slopes(params, batch)
        factor = torch.where(chosen_samples(batch, info, on), 2 * residual, torch.zeros_like(residual))
        return map_leaves(lambda leaf: factor.reshape(-1, *[1] * (leaf.ndim - 1)) * leaf, gradients)

    functions = (attempt, judge, residuals, jacobian, loss, sample_losses, sample_gradients)
    return Objective(*functions, E_lower, E_upper, limit)


def evaluate_minibatch(params: Params, minibatch: Groups, *, objective: Objective) -> tuple[Tensor, StepInfo]:
    """Step every sample of a minibatch, without gradient.

    Args:
        params: the policy's parameters.
        minibatch: a tuple of groups, or one group.
        objective: from `build_objective`.

    Returns:
        (whether all pass, () bool; `StepInfo` with leaves (B,)).

    Raises:
        ValueError: if the minibatch holds no sample.
    """
    require(count_samples(minibatch) > 0, "evaluate_minibatch: the minibatch is empty; draw one from a trajectory")
    _, info = objective.attempt(params, with_room(minibatch))
    return check_all_pass(info.accepted), info


def chosen_samples(batch: Groups, info: StepInfo, on: str) -> Tensor:
    """(B,) bool: the samples whose loss counts, active ones that failed or all active ones."""
    require_choice("loss", "loss_on", on, LOSS_ON)
    active = torch.cat([group.active for group in as_groups(batch)])
    return active if on == "all" else active & ~info.accepted


def as_groups(batch: "Groups | Sample") -> Groups:
    """A batch as a tuple of groups: one group alone is allowed everywhere."""
    return (batch,) if isinstance(batch, Sample) else tuple(batch)


def with_room(batch: "Groups | Sample") -> Groups:
    """A batch or trajectory as groups, with room for the work on massless bodies (see `make_room`).

    To be called once, before a loop. Samples that Part 1 has collected have it, and are returned as they are.
    """
    return tuple(group._replace(system=make_room(group.system)) for group in as_groups(batch))


def with_references(groups: Groups, limit: Limit | None) -> Groups:
    """Samples with what their losses need to know of their systems; those that have it are returned as they are."""
    if limit is None or limit.time is None:
        return groups
    reference = vmap(limit.reference)
    return tuple(g if g.reference else g._replace(reference=reference(g.system)) for g in groups)


def prepare(batch: "Groups | Sample", objective: Objective) -> Groups:
    """A batch or trajectory as groups, with all that does not depend on parameters worked out.

    To be called once, before a loop: room for the work on massless bodies, and references, those of this objective.
    """
    groups = tuple(group._replace(reference=()) for group in with_room(batch))
    return with_references(groups, objective.limit)


def count_samples(batch: "Groups | Sample") -> int:
    """Number of samples in all groups of a batch or trajectory."""
    return sum(length(group) for group in as_groups(batch))


def pick(batch: Groups, index: Tensor) -> Groups:
    """Those samples of all groups, counted through group by group; groups left empty drop out.

    Args:
        batch: a tuple of groups.
        index: (n,) int64 on the CPU.
    """
    picked, offset = [], 0
    for group in as_groups(batch):
        size = length(group)
        rows = index[(index >= offset) & (index < offset + size)] - offset
        if len(rows):
            picked.append(take(group, rows.to(group.active.device)))
        offset += size
    return tuple(picked)
