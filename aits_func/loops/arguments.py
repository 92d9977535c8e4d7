"""What the loops over time are asked for: how far, in what steps, and measured against what."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

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
    output_times: Sequence[float | Tensor] | Tensor = (),
) -> list[Tensor]:
    """The times to reach, (B,) each: the output times and the end, which is infinite for a number of steps.

    An output time in narrower numbers than the systems' is the start, or the end, if it is that in its own numbers:
    ``torch.linspace(0, T, 5)`` is float32, and there T may round up.

    Args:
        where: the function that error messages name.
        systems: a batch, leaves (B, ...).
        t_end: the time to end at, one for all or (B,), or None.
        steps: the number of steps to take instead, or None.
        output_times: one for all or (B,) each, a sequence or an array: ascending, from the start to t_end, both
            included; a time may be there twice.

    Raises:
        ValueError: if the systems are no batch, neither or both of t_end and steps are given, a number of steps is
            not ≥ 1 or comes with output times, t_end is not finite and later than the start, or an output time is not
            a number between the one before it (or the start) and t_end.
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
    wanted = _listed(where, output_times)
    require(steps is None or not wanted, f"{where}: output_times need t_end, not a number of steps")
    if t_end is None:
        return [torch.full_like(systems.time, math.inf)]
    end = _one_for_all(where, t_end, systems.time)
    check_end(where, systems.time, end)
    outputs = [_snapped(_one_for_all(where, t, systems.time), t, (systems.time, end)) for t in wanted]
    for number, (before, target) in enumerate(itertools.pairwise((systems.time, *outputs))):
        wrong = ~((target >= before) & (target <= end))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            than = "the start" if number == 0 else f"output_times[{number - 1}]"
            raise ValueError(
                f"{where}: output_times[{number}] must be a time between {than} and t_end, got {float(target[row])} "
                f"for system {row}, where these are {float(before[row])} and {float(end[row])}; give the times in "
                "ascending order, and a t_end that is not earlier than the last of them"
            )
    return [*outputs, end]


def check_end(where: str, start: Tensor, end: Tensor) -> None:
    """Refuse times to end at, (B,), that are not finite and later than the starts, (B,).

    Raises:
        ValueError: naming the first system, and the remedy.
    """
    late = (end > start) & (end < math.inf)
    if bool(late.all()):
        return
    row = int((~late).nonzero()[0])
    back = "; to go back in time reverse the velocities, and run forwards by as long" if end[row] < start[row] else ""
    raise ValueError(
        f"{where}: t_end must be finite and later than the start, got {float(end[row])} for system {row}, which "
        f"starts at {float(start[row])}{back}"
    )


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


def _listed(where: str, output_times: Any) -> list[Any]:
    """Times one by one; of an array there is no truth value that says whether there are any."""
    try:
        return list(output_times)
    except TypeError:
        raise ValueError(
            f"{where}: output_times must be a sequence of times, e.g. (0.5, 1.0), got {output_times}"
        ) from None


def _one_for_all(where: str, t: Any, like: Tensor) -> Tensor:
    t = torch.as_tensor(t, dtype=like.dtype)
    require(
        t.ndim == 0 or t.shape == like.shape,
        f"{where}: a time must be one number, or have shape ({len(like)},), one for each system; got {tuple(t.shape)}",
    )
    return t.to(like.device).expand_as(like)


def _snapped(time: Tensor, given: Any, ends: tuple[Tensor, Tensor]) -> Tensor:
    """The time as it was given, or one of the ends where it is that in the numbers in which it was given."""
    own = torch.as_tensor(given).dtype if hasattr(given, "dtype") else time.dtype
    if not own.is_floating_point or torch.finfo(own).bits >= torch.finfo(time.dtype).bits:
        return time
    there, apart = time.to(own), ends[0].to(own) != ends[1].to(own)  # numbers that tell the ends from each other
    for end in ends:  # the difference is exact, as the two are that close; so is the sum, and its derivative stays
        time = time + torch.where((there == end.to(own)) & apart, end - time, torch.zeros_like(time)).detach()
    return time
