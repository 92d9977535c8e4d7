"""What to do about a run, an epoch or a training that did not come to what was asked for: one remedy for every status.

The sentences are the library's and the command line's alike: arguments and configuration keys have the same names.
"""

from collections.abc import Sequence

import torch

from .collect import BELOW_ROUNDING, RETRAIN_LIMIT, CollectInfo
from .resolution import remedy

REMEDY_OF_STATUS = {
    "step limit": "raise max_steps, shorten t_end, or go on from the last states",
    "not finite": "bodies meet, or the step is far too long: set softening > 0, lower h, or train on such systems",
    "stalled": "the step fell below the rounding of the time, so more steps would not help: set softening > 0 if "
    "bodies meet, check that G is that of the units, or use float64 if it is float32",
    "transformation not positive": "the step is too long for an encounter of this scheme: lower h, or use the scheme "
    "direct",
}
"""By the status of a simulated system that did not finish (``STATUS_NAMES`` of timestep.run): one clause each."""

REMEDY_IN_COMPARISON = REMEDY_OF_STATUS | {
    "step limit": "raise max_evaluations, or the tolerances",
    "not finite": "bodies meet, or the step is far too long: set softening > 0, or lower the tolerances",
    "transformation not positive": "the step is too long for an encounter of this scheme: lower the tolerances, or use "
    "the scheme direct",
}
"""The same of a rule that is swept over its tolerances, the factors h on its step."""

_OF_ANY_PEER = {
    "evaluation limit": "raise max_evaluations, or the tolerances",
    "time limit": "raise the timeout (peer_timeout), or the tolerances",
    "refused": "REBOUND refused these systems: use another integrator",
}
_OF_IAS15 = _OF_ANY_PEER | {
    "not finite": "bodies meet: set softening > 0",
    "stalled": "the step fell below the rounding of the time: set softening > 0 if bodies meet, raise the tolerances, "
    "or check that G is that of the units",
}
_OF_FIXED_STEPS = _OF_ANY_PEER | {
    "not finite": "bodies meet, or the step is far too long: set softening > 0, or lower the tolerances",
    "stalled": "the fixed step is below the rounding of the time: raise the tolerances, or check that G is that of the "
    "units",
}

REMEDY_OF_PEER = {
    "rebound_ias15": _OF_IAS15
    | {
        "stalled": "the steps of adaptive_mode = 'prs23' come to a halt where an acceleration vanishes, as where the "
        "bodies of a symmetric orbit lie on one line: use rebound_ias15_global, or set softening > 0 if bodies meet",
    },
    "rebound_ias15_global": _OF_IAS15,
    "rebound_whfast": _OF_FIXED_STEPS
    | {
        "not finite": "WHFast is made for one dominant body and no encounters: lower the tolerances, or use "
        "rebound_ias15_global",
    },
    "rebound_leapfrog": _OF_FIXED_STEPS,
}
"""By the name of a peer (``PEERS`` of edge.rebound_peer) and the status of a system that it did not bring to its end
(``PEER_STATUS_NAMES``): one clause each. None of them has max_steps, a checkpoint or another precision."""

REMEDY_OF_EPOCH = {
    "retrain_limit": "raise learning_rate (where the optimizer has one), max_retrain_steps or energy_threshold",
    "below_rounding": "raise energy_threshold, with convergence = 'band' E_upper too, or use float64",
    "retired": "start every epoch from the first systems again (restart_from, restart_each_epoch), or end earlier",
    "filling": "it takes history_len steps of each system: raise steps_per_epoch or the number of epochs",
    "skipped": "raise steps_per_epoch or the number of systems, or lower min_replay_size",
    "not_converged": "raise replay_steps, learning_rate or the number of epochs, or widen the band",
}
"""By what an epoch came to (`EpochInfo.outcome`), unless it converged: one clause each."""


def say_assumed_units(labels: Sequence[str]) -> str:
    """What may be wrong with systems that failed and whose files say no G: one clause; "" if there is none.

    Args:
        labels: of these sets of systems.
    """
    if not labels:
        return ""
    return f"the file does not say G ({', '.join(labels)}), and a wrong one does this as well: set G"


def say_stuck(
    collect: CollectInfo,
    *,
    max_retrain_steps: int,
    energy_threshold: float,
    dtype: torch.dtype,
    remedy_of_limit: str = "",
) -> str:
    """Why a collection ended before its end, and what to do: one line; "" if it did not.

    Args:
        collect: its report.
        max_retrain_steps: its limit.
        energy_threshold: relative; that its steps had to meet.
        dtype: of the systems.
        remedy_of_limit: what to do if the limit was reached; that of `REMEDY_OF_EPOCH` if it is empty.
    """
    if collect.status == BELOW_ROUNDING:
        worst = max(collect.stuck, key=lambda each: each.rounding_error)
        return (
            f"energy_threshold = {energy_threshold:g} is below the rounding error of the energy of system "
            f"{worst.system} of group {worst.group} as it is now, {remedy(worst.rounding_error, dtype)}"
        )
    if collect.status != RETRAIN_LIMIT:
        return ""
    stuck = collect.stuck[0]
    return (
        f"system {stuck.system} of group {stuck.group} was rejected {max_retrain_steps} times in a row (energy error "
        f"{stuck.energy_error:.3g} at dt = {stuck.dt:.3g}, threshold {energy_threshold:g}); "
        f"{remedy_of_limit or REMEDY_OF_EPOCH[RETRAIN_LIMIT]}"
    )


def say_never_replayed(outcomes: Sequence[str], *, recorded: int, min_replay_size: int) -> str:
    """Why Part 2 judged nothing in any of these epochs, and what to do: one line; "" if it did, or there is no epoch.

    Args:
        outcomes: what each epoch came to.
        recorded: samples of the last trajectory.
        min_replay_size: samples that Part 2 asks for.
    """
    if not outcomes or set(outcomes) & {"converged", "not_converged", "below_rounding", RETRAIN_LIMIT}:
        return ""
    last = outcomes[-1]
    if last == "skipped":
        why = f"the last trajectory has {recorded} samples, and min_replay_size is {min_replay_size}"
    else:
        why = "no window is full yet" if last == "filling" else "every system has retired"
    return f"Part 2 never ran: {why}; {REMEDY_OF_EPOCH[last]}"
