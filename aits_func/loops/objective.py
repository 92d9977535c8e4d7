"""The objective of training, over a minibatch: the single step lifted by ``vmap``, and its loss.

A minibatch is a tuple of groups; a group is a `Sample` whose leaves have a leading axis, all of one
shape (N, D, H). There is one ``vmap`` per group, and the losses of all groups are pooled.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require, require_choice
from ..base.tree import concatenate, length, take
from ..base.types import Params, Sample, StepInfo, System
from ..learning.losses import aggregate_minibatch_loss, band_residual, check_all_pass, check_band
from ..timestep.step import Step

Groups: TypeAlias = tuple[Sample, ...]
"""A batch: one `Sample` with a leading axis for every shape (N, D, H) that occurs."""

LOSS_ON = ("failed", "all")


class Objective(NamedTuple):
    """What is minimised, as pure functions of (params, batch), for any optimizer to consume.

    Made by `build_objective`. Shapes: as commented on the fields; ``batch`` is a tuple of groups or one
    group, and B counts the samples of all groups together.
    """

    attempt: Callable[[Params, Groups], tuple[tuple[System, ...], StepInfo]]  # systems after, info (B,)
    residuals: Callable[[Params, Groups], tuple[Tensor, StepInfo]]  # signed band residuals (B,), info (B,)
    loss: Callable[..., tuple[Tensor, StepInfo]]  # (params, batch, on="failed") -> mean square (), info (B,)
    E_lower: float
    E_upper: float


def build_objective(step: Step, *, E_lower: float = 1e-6, E_upper: float = 1e-4) -> Objective:
    """The band loss of a single-system step, over batches.

        loss = mean over the chosen samples of r²,   r as in `band_residual`

    Args:
        step: one step of one system, from `build_step`.
        E_lower: lower edge of the band of relative energy errors, > 0.
        E_upper: upper edge, > E_lower.

    Returns:
        An `Objective`, whose functions take a batch of B samples.

    Raises:
        ValueError: unless 0 < E_lower < E_upper.
    """
    check_band("build_objective", E_lower, E_upper)
    step_batch = vmap(step, in_dims=(None, 0))

    def attempt(params: Params, batch: Groups) -> tuple[tuple[System, ...], StepInfo]:
        outcomes = [step_batch(params, group) for group in as_groups(batch)]
        return tuple(after for after, _ in outcomes), concatenate([info for _, info in outcomes])

    def residuals(params: Params, batch: Groups) -> tuple[Tensor, StepInfo]:
        _, info = attempt(params, batch)
        residual = band_residual(info.energy_error, info.dt, info.exploded, E_lower=E_lower, E_upper=E_upper)
        active = torch.cat([group.active for group in as_groups(batch)])
        return torch.where(active, residual, torch.zeros_like(residual)), info

    def loss(params: Params, batch: Groups, on: str = "failed") -> tuple[Tensor, StepInfo]:
        residual, info = residuals(params, batch)
        return aggregate_minibatch_loss(residual**2, chosen_samples(batch, info, on)), info

    return Objective(attempt, residuals, loss, E_lower, E_upper)


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
    _, info = objective.attempt(params, minibatch)
    return check_all_pass(info.accepted), info


def chosen_samples(batch: Groups, info: StepInfo, on: str) -> Tensor:
    """(B,) bool: the samples whose loss counts, active ones that failed or all active ones."""
    require_choice("loss", "loss_on", on, LOSS_ON)
    active = torch.cat([group.active for group in as_groups(batch)])
    return active if on == "all" else active & ~info.accepted


def as_groups(batch: "Groups | Sample") -> Groups:
    """A batch as a tuple of groups: one group alone is allowed everywhere."""
    return (batch,) if isinstance(batch, Sample) else tuple(batch)


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
