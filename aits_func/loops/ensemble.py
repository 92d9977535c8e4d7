"""Part 2 for an ensemble: K policies trained at once, by ``vmap`` over everything that differs between them.

Members differ in their parameters and optimizer states, in the seeds of their minibatches, and, if wanted, in their
trajectories. Whatever else may differ has to stand in the state, as a learning rate does in `with_rate`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from ..base.check import require, require_choice
from ..base.engine import MODES
from ..base.rng import fold_in
from ..base.tree import concatenate, leaves, stack, take
from ..base.types import Params, TrainState
from .collect import init_train_state
from .learner import Learner
from .objective import LOSS_ON, Groups, as_groups, count_samples, prepare
from .replay import ReplayInfo, report
from .replay_iteration import PASSED, Progress, Row, begin, build_iteration, draw_for_members
from .resolution import count_out_of_reach

CONVERGENCE = ("minibatch", "band")
_PACK = 4  # members that are compiled together: what lies between two loops of more does not fit into a core's cache
_CHUNK = 8  # iterations between two looks at the verdicts: frozen members go on costing what they cost


class Spread(NamedTuple):
    """A number over the members of an ensemble."""

    least: float
    median: float
    most: float


class EnsembleInfo(NamedTuple):
    """The report of an ensemble: what `generalize_on_trajectory` would have said of every member."""

    members: tuple[ReplayInfo, ...]

    def spread(self, name: str) -> Spread:
        """Least, median and most of one number of the members' reports, e.g. "band_rate" or "iterations".

        Args:
            name: a field of `ReplayInfo` that is a number.

        Returns:
            A `Spread`.

        Raises:
            ValueError: if no such number is reported.
        """
        known = tuple(key for key in ReplayInfo._fields if key != "history")
        require_choice("EnsembleInfo.spread", "name", name, known)
        values = torch.tensor([float(getattr(member, name)) for member in self.members], dtype=torch.float64)
        return Spread(float(values.min()), float(values.quantile(0.5)), float(values.max()))


def init_ensemble(init: Callable[[int], Params], learner: Learner, seeds: Sequence[int]) -> TrainState:
    """One state for each seed, as one tree.

    Args:
        init: of a policy, a seed -> its parameters.
        learner: whose optimizer the states are for.
        seeds: K ≥ 1 of them.

    Returns:
        A `TrainState` without population, all leaves (K, ...).

    Raises:
        ValueError: if there is no seed.
    """
    require(len(seeds) > 0, "init_ensemble: seeds must name at least one member, e.g. range(32)")
    return stack([init_train_state(init(seed), learner.optimizer) for seed in seeds])


def generalize_ensemble(
    states: TrainState,
    trajectory: "Groups | list[Groups]",
    *,
    learner: Learner,
    seeds: Sequence[int],
    replay_batch_size: int = 512,
    replay_steps: int = 1000,
    loss_on: str = "failed",
    convergence: str = "minibatch",
    compile: str = "off",
) -> tuple[TrainState, EnsembleInfo]:
    """Train K policies at once, each until a whole minibatch of its own passes.

    Every member does what `generalize_on_trajectory` does with its state, its trajectory and its seed, and ends with
    the same parameters within rounding; one that has converged is frozen while the others go on.

    Args:
        states: leaves (K, ...), e.g. from `init_ensemble`.
        trajectory: T samples that all members share, or a list of K trajectories of one shape.
        learner: objective and optimizer.
        seeds: the key of each member's draws, K of them.
        replay_batch_size: ≥ 1, for each member.
        replay_steps: at most this many iterations of each, ≥ 1.
        loss_on: "failed" or "all" samples of the minibatch.
        convergence: "minibatch": all of it accepted; "band": all of it inside [E_lower, E_upper].
        compile: "on", "auto" (where there is a compiler) or "off".

    Returns:
        (states, `EnsembleInfo`). Of a member that did not converge, the parameters after its last update. If no
        sample of any member can be satisfied (see `generalize_on_trajectory`) there are 0 iterations.

    Raises:
        ValueError: if numbers of members differ, trajectories differ in shape or are empty, a number is < 1, or a word
            is not one of those above.
    """
    _check(states, trajectory, seeds, replay_batch_size, replay_steps, loss_on, convergence, compile)
    own = [prepare(each, learner.objective) for each in _as_list(trajectory)]
    iterate = build_iteration(learner, loss_on, convergence, 0, compile, mapped=True)
    lost = [count_out_of_reach(each, learner.objective, convergence) for each in own]
    if all(each == count_samples(own[0]) for each in lost):
        replay_steps = 0  # no step can be good enough
    ends, seen = [], []
    for pack in _packs(len(seeds), 0 if compile == "off" else _PACK):
        rows = torch.tensor(pack, device=own[0][0].active.device)
        theirs = own if len(own) == 1 else [own[k] for k in pack]
        keys = [seeds[k] for k in pack]
        end, noted = _train(iterate, take(states, rows), theirs, keys, replay_batch_size, replay_steps)
        ends.append(end)
        seen += noted
    last = take(concatenate(ends), slice(0, len(seeds)))  # the last pack may have been filled up
    states = states._replace(params=last.params, opt_state=last.opt_state)
    members = [
        report(
            learner.objective,
            take(last.params, k),
            own[k % len(own)],
            seen[k],
            converged=_converged(seen[k]),
            below_rounding=lost[k % len(own)],
        )
        for k in range(len(seeds))
    ]
    return states, EnsembleInfo(tuple(members))


def _packs(members: int, most: int) -> list[list[int]]:
    """Which members are trained together: all, or packs of one size, the last filled up with the last member."""
    count = -(-members // most) if most else 1
    size = -(-members // count)
    return [[min(k, members - 1) for k in range(first, first + size)] for first in range(0, count * size, size)]


def _train(
    iterate: Callable, states: TrainState, own: list[Groups], seeds: Sequence[int], batch_size: int, steps: int
) -> tuple[Progress, list[list[Row]]]:
    """The members of a pack until all have converged: where they are, and what each saw."""
    progress = begin(states, own[0][0].active.device)
    progress = progress._replace(code=progress.code.expand(len(seeds)), stops=progress.stops.expand(len(seeds)))
    seen: list[list[Row]] = [[] for _ in seeds]
    for first in range(1, steps + 1, _CHUNK):
        numbers = range(first, min(first + _CHUNK, steps + 1))
        keys = [[fold_in(seed, "replay", number) for seed in seeds] for number in numbers]
        rows = []
        for batch in draw_for_members(own, batch_size, keys):
            progress, row = iterate(progress, batch)
            rows.append(row)
        for member, its_rows in zip(seen, torch.stack(rows, 1).tolist(), strict=True):  # the host sync of a chunk
            _take_note(member, [Row._make(row) for row in its_rows])
        if all(map(_converged, seen)):
            break
    return progress, seen


def _as_list(trajectory: "Groups | list[Groups]") -> list[Groups]:
    return trajectory if isinstance(trajectory, list) else [trajectory]


def _take_note(member: list[Row], rows: list[Row]) -> None:
    """Add what was judged of a member until it passed."""
    for row in rows:
        if _converged(member):
            return
        member.append(row)


def _converged(member: list[Row]) -> bool:
    return bool(member) and member[-1].code == PASSED


def _check(
    states: TrainState,
    trajectory: "Groups | list[Groups]",
    seeds: Sequence[int],
    batch_size: int,
    steps: int,
    loss_on: str,
    convergence: str,
    compile: str,
) -> None:
    where, members = "generalize_ensemble", len(seeds)
    rows = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves((states.params, states.opt_state))}
    require(rows == {members}, f"{where}: states must have leaves ({members}, ...), a row per seed; see init_ensemble")
    if isinstance(trajectory, list):
        count = len(trajectory)
        require(count == members, f"{where}: {count} trajectories for {members} seeds; give one each")
    shapes = {tuple(x.shape for x in leaves(as_groups(each))) for each in _as_list(trajectory)}
    require(len(shapes) == 1, f"{where}: the trajectories must have one shape; cut them to the shortest")
    require(count_samples(_as_list(trajectory)[0]) > 0, f"{where}: the trajectory is empty; collect one first")
    require_choice(where, "loss_on", loss_on, LOSS_ON)
    require_choice(where, "convergence", convergence, CONVERGENCE)
    require_choice(where, "compile", compile, MODES)
    require(batch_size >= 1, f"{where}: replay_batch_size must be >= 1, got {batch_size}")
    require(steps >= 1, f"{where}: replay_steps must be >= 1, got {steps}")
