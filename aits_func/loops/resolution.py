"""Thresholds below the rounding error of an energy: which systems they are asked of, and what to say about it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require
from ..base.tree import length, take
from ..base.types import Population, System
from ..learning.losses import SOURCE_GUARD
from ..physics.gravity import Gravity, in_double
from ..timestep.rounding import MARGIN, SAFE, Limit
from .objective import Groups, Objective

_PAIRS = 1 << 22  # of bodies, in all systems that are weighed at once: it bounds the memory


def rounding_errors(systems: System, limit: Limit) -> Tensor:
    """What rounding alone makes of the energy error of a step, (B,), see `timestep.rounding`; NaN if not finite.

    Args:
        systems: leaves (B, ...).
        limit: of the step that is going to judge them.
    """
    count = max(1, _PAIRS // systems.mass.shape[-1] ** 2)
    starts = range(0, length(systems), count)
    pieces = [vmap(limit.rounding_error)(take(systems, slice(start, start + count))) for start in starts]
    return torch.cat(pieces) if pieces else torch.zeros(0, device=systems.mass.device)


def out_of_reach(systems: System, limit: Limit, bound: float) -> Tensor:
    """(B,) bool: the systems whose step meets that bound on the energy error by chance alone."""
    return bound < MARGIN * rounding_errors(systems, limit)


def count_out_of_reach(trajectory: Groups, objective: Objective, convergence: str) -> int:
    """How many samples of a trajectory are asked for an energy error below that of rounding.

    Args:
        trajectory: a tuple of groups.
        objective: judges; where it does not know its limit the answer is 0.
        convergence: with "band" the upper edge of the band is asked for, and else the threshold.
    """
    limit = objective.limit
    if limit is None:
        return 0
    bound = min(objective.E_upper, limit.energy_threshold) if convergence == "band" else limit.energy_threshold
    return sum(int((out_of_reach(group.system, limit, bound) & group.active).sum()) for group in trajectory)


def check_reach(population: Sequence[Population], objective: Objective, *, band: bool, where: str) -> None:
    """Refuse a threshold that the steps of some system meet by chance alone.

    Args:
        population: the systems at their start.
        objective: judges; one that does not know its limit is let through.
        band: whether E_upper is asked for too.
        where: what the error message calls the configuration.

    Raises:
        ValueError: naming the threshold, the system and what can be met.
    """
    limit = objective.limit
    if limit is None:
        return
    bounds = {"energy_threshold": limit.energy_threshold} | ({"E_upper": objective.E_upper} if band else {})
    for number, group in enumerate(population):
        systems = group.sample.system
        errors = rounding_errors(systems, limit)
        for name, bound in bounds.items():
            worst = int(errors.nan_to_num(0.0).argmax()) if len(errors) else 0
            error = float(errors[worst]) if len(errors) else 0.0
            require(
                not bound < MARGIN * error,
                f"{where}: {name} = {bound:g} is below the rounding error of the energy of system {worst} of group "
                f"{number}, {remedy(error, systems.mass.dtype)}",
            )


def remedy(error: float, dtype: torch.dtype) -> str:
    """What to do about a rounding error of that size in systems of that dtype: one clause."""
    double = "" if dtype == torch.float64 else 'set dtype = "float64", '
    return (
        f"{error:.2g}: only chance would meet it; ask for {SAFE * error:.1g} or more, {double}move the system to the "
        'origin, or, where its kinetic and potential energy cancel, set energy_scale = "kinetic"'
    )


def check_guard(systems: System, *, gravity: Gravity, where: str) -> None:
    """Refuse systems whose total energy the source's guard in the denominator of an error would falsify by a tenth.

    That guard, 1e-12 in the caller's units of energy, belongs to the scale "source" alone. An energy of -1e-12 it turns
    into a division by nothing, and a system of much less energy would pass whatever it does.

    Args:
        systems: leaves (B, ...).
        gravity: weighs the energies.
        where: what the error message calls the systems.

    Raises:
        ValueError: naming the system and the remedy.
    """
    energy = vmap(gravity.energy)(in_double(systems))
    small = energy.abs() < 10 * SOURCE_GUARD
    if bool(small.any()):
        row = int(small.nonzero()[0])
        raise ValueError(
            f"{where}: the energy of system {row} is {float(energy[row]):.2g}, too small beside the {SOURCE_GUARD:g} "
            'that energy_scale = "source" guards it with; set energy_scale = "total", which has no unit, or choose '
            "units (of mass, say) in which it is nearer to 1"
        )
