"""What the loops over time are asked for: how far, in what steps, and measured against what."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require
from ..base.tree import named_leaves
from ..base.types import Params, System
from ..physics.gravity import Gravity, in_double
from ..timestep.energies import weigh
from ..timestep.run import Start


def measure(systems: System, gravity: Gravity, energy_scale: str, min_dt: float, max_steps: int) -> Start:
    """What B systems are measured against, and where they have to stop.

    Args:
        systems: leaves (B, ...).
        gravity: weighs energies.
        energy_scale: one of `ENERGY_SCALES`.
        min_dt: the floor of a step, time.
        max_steps: the limit of steps.

    Returns:
        A `Start`, leaves (B,).
    """
    energy, scale = vmap(lambda system: weigh(system, gravity, energy_scale))(in_double(systems))
    floor, limit = torch.full_like(systems.time, min_dt), torch.full_like(systems.time, max_steps, dtype=torch.int64)
    return Start(energy, scale, systems.time, floor, limit)


def step_factor(where: str, h: float | Tensor, systems: System) -> Tensor:
    """h as a tensor () in the dtype and on the device of the systems.

    Raises:
        ValueError: if it is not one number > 0 and finite.
    """
    size = torch.as_tensor(h, dtype=systems.time.dtype, device=systems.time.device)
    right = size.ndim == 0 and bool((size > 0) & size.isfinite())
    require(right, f"{where}: h must be one number > 0 and finite (a factor on the step), got {h}")
    return size


def times_to_reach(
    where: str,
    systems: System,
    *,
    t_end: float | Tensor | None,
    steps: int | None,
    output_times: Sequence[float | Tensor] = (),
) -> list[Tensor]:
    """The times to reach, (B,) each: the output times and the end, which is infinite for a number of steps.

    Args:
        where: the function that error messages name.
        systems: a batch, leaves (B, ...).
        t_end: the time to end at, one for all or (B,), or None.
        steps: the number of steps to take instead, or None.
        output_times: one for all or (B,) each.

    Raises:
        ValueError: if the systems are no batch, neither or both of t_end and steps are given, a number of steps is
            not ≥ 1 or comes with output times, or a time is not finite and later than the one before it.
    """
    require(
        systems.mass.ndim == 2,
        f"{where}: systems must be one system or a batch, mass (N,) or (B, N), got {tuple(systems.mass.shape)}",
    )
    require(len(systems.mass) > 0, f"{where}: systems must hold at least one system, got none")
    require(
        (t_end is None) != (steps is None), f"{where}: give either t_end (a time) or steps (a number of steps to take)"
    )
    whole = steps is None or (isinstance(steps, int) and steps >= 1)
    require(whole, f"{where}: steps must be a whole number >= 1, got {steps}")
    require(steps is None or not output_times, f"{where}: output_times need t_end, not a number of steps")
    wanted = (*output_times, math.inf if t_end is None else t_end)
    targets = [_one_for_all(where, torch.as_tensor(t, dtype=systems.time.dtype), systems.time) for t in wanted]
    before = systems.time
    for number, target in enumerate(targets):
        late = (target > before) & ((target < math.inf) | (steps is not None))
        if not bool(late.all()):
            what = "t_end" if number == len(targets) - 1 else f"output_times[{number}]"
            than = "the start" if number == 0 else f"output_times[{number - 1}]"
            row = int((~late).nonzero()[0])
            raise ValueError(
                f"{where}: {what} must be finite and later than {than}, got {float(target[row])} for system {row}, "
                f"which {'starts' if number == 0 else 'is'} at {float(before[row])}"
            )
        before = target
    return targets


def check_params(where: str, params: Params, systems: System) -> None:
    """Refuse parameters in another dtype or on another device than the systems.

    Raises:
        ValueError: naming the leaf and the remedy.
    """
    for name, leaf in named_leaves(params).items():
        fits = leaf.device == systems.mass.device and (not leaf.is_floating_point() or leaf.dtype == systems.mass.dtype)
        require(
            fits,
            f"{where}: parameters must be in the dtype and on the device of the systems, {systems.mass.dtype} on "
            f"{systems.mass.device}, got {leaf.dtype} on {leaf.device} in {name or 'params'}; convert each leaf with "
            ".to(systems.mass)",
        )


def _one_for_all(where: str, t: Tensor, like: Tensor) -> Tensor:
    require(
        t.ndim == 0 or t.shape == like.shape,
        f"{where}: a time must be one number, or have shape ({len(like)},), one for each system; got {tuple(t.shape)}",
    )
    return t.to(like.device).expand_as(like)
