"""One iteration of the replay as a pure function that freezes itself once it has converged.

So several iterations run one after the other without the host looking at the verdicts in between, and what they leave
behind is what looking every time would have left.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..base.engine import Engine, build_engine, remember
from ..base.rng import generator
from ..base.tree import concatenate, map_leaves, select
from ..base.types import Params, Sample, StepInfo, TrainState
from .learner import Learner
from .objective import Groups, Objective, chosen_samples, count_samples, pick

GOING, PASSED, NO_ROOM = 0, 1, 2
_WIDTH = 32  # groups of a minibatch are filled up to multiples of this, so that there are few shapes


class Minibatch(NamedTuple):
    """Samples of one iteration, every group filled up to a size that hardly changes.

    Shapes: as commented on the fields, b samples in all groups.
    """

    groups: Groups
    real: Tensor  # (b,) bool; False where an inactive sample only fills up


Minibatches: TypeAlias = Minibatch | list[Minibatch]
"""Several, one behind the other: leaves (K, b, ...) where all have one shape, else a list."""


class Progress(NamedTuple):
    """What an iteration hands on to the next.

    Shapes: pytrees of tensors.
    """

    params: Params
    opt_state: Any
    code: Tensor  # () int64; GOING, PASSED or NO_ROOM: from then on nothing changes
    stops: Tensor  # () bool; whether a minibatch that passes ends it


class Row(NamedTuple):
    """What one iteration saw: plain numbers, in the order in which the device reports them."""

    code: float
    pulling: float  # samples of one group that had a gradient, at most
    loss: float
    pass_rate: float
    mean_energy_error: float
    max_energy_error: float
    mean_dt: float


@remember
def build_iteration(
    learner: Learner, loss_on: str, convergence: str, room: int, compile: str, mapped: bool = False
) -> Engine:
    """(`Progress`, `Minibatch`) -> (`Progress`, a tensor (7,) of what stands in `Row`), compiled if asked for.

    Args:
        learner: objective and optimizer.
        loss_on: "failed" or "all".
        convergence: "band", or any other word for "all accepted".
        room: samples of a group that may have a gradient, see `room_for`; 0 for all.
        compile: "auto", "on" or "off".
        mapped: lift it over the members of an ensemble, a leading axis of everything.
    """

    def iterate(progress: Progress, batch: Minibatch) -> tuple[Progress, Tensor]:
        state = TrainState(progress.params, progress.opt_state, (), torch.zeros_like(progress.code))
        if room and learner.update_some is not None:
            state, loss, info, pulling = learner.update_some(state, batch.groups, loss_on, room)
            fits = pulling <= room
        else:
            state, (loss, info) = learner.update(state, batch.groups, loss_on)
            pulling, fits = (
                _count_pulling(learner.aim or learner.objective, batch, info, loss_on),
                torch.ones_like(progress.stops),
            )
        passes = verdict(learner.objective, batch.groups, info, convergence) & progress.stops
        now = torch.where(passes, PASSED, torch.where(fits, GOING, NO_ROOM))
        code = torch.where(progress.code == GOING, now, progress.code)
        old = (progress.params, progress.opt_state)
        params, opt_state = select(code == GOING, (state.params, state.opt_state), old)
        return Progress(params, opt_state, code, progress.stops), _row(code, pulling, loss, info, batch.real)

    label = "a training iteration" if room == 0 else "a training iteration with few gradients"
    return build_engine(iterate, mode=compile, batched=(False, True), label=label, mapped=mapped)


@remember
def build_count(learner: Learner, loss_on: str, compile: str) -> Callable[..., Any]:
    """(parameters, `Minibatch`) -> how many samples of a group have a slope, at most: () int64, compiled if asked."""
    aim = learner.aim or learner.objective

    def count(params: Params, batch: Minibatch) -> Tensor:
        _, info = aim.attempt(params, batch.groups)
        return _count_pulling(aim, batch, info, loss_on)

    return build_engine(count, mode=compile, batched=(False, True), label="a count of gradients")


def begin(state: TrainState, device: torch.device) -> Progress:
    """Where the first iteration starts."""
    code = torch.full((), GOING, dtype=torch.int64, device=device)
    return Progress(state.params, state.opt_state, code, torch.ones_like(code, dtype=torch.bool))


def run_until_stop(iterate: Engine, progress: Progress, batches: Minibatches) -> tuple[Progress, list[Row], int]:
    """Iterations over these minibatches, without a look in between.

    Returns:
        (progress, ready to go on; what was judged, the minibatch that passed included, one without room not; the
        code that it ended with).
    """
    if isinstance(batches, Minibatch):
        progress, numbers = iterate.scan(progress, batches)
    else:
        rows = []
        for batch in batches:
            progress, row = iterate(progress, batch)
            rows.append(row)
        numbers = torch.stack(rows)
    judged: list[Row] = []
    going = progress._replace(code=torch.zeros_like(progress.code))
    for row in map(Row._make, numbers.tolist()):  # the one host sync of these iterations
        if row.code == NO_ROOM:
            return going, judged, NO_ROOM
        judged.append(row)
        if row.code == PASSED:
            return going, judged, PASSED
    return going, judged, GOING


def which(batches: Minibatches, number: int) -> Minibatch:
    """One of them."""
    return map_leaves(lambda leaf: leaf[number], batches) if isinstance(batches, Minibatch) else batches[number]


def beyond(batches: Minibatches, number: int) -> Minibatches:
    """What is left after so many; an empty list if nothing is."""
    if not isinstance(batches, Minibatch):
        return batches[number:]
    return map_leaves(lambda leaf: leaf[number:], batches) if number < len(batches.real) else []


def pass_over(iterate: Callable[..., Any], progress: Progress, batch: Minibatch) -> Progress:
    """The progress after a minibatch that passes but does not end the replay: updated, and on."""
    after, _ = iterate(progress._replace(stops=torch.zeros_like(progress.stops)), batch)
    return after._replace(code=progress.code, stops=progress.stops)


def draw_minibatches(trajectory: Groups, batch_size: int, seeds: Sequence[int], *, fixed_shapes: bool) -> Minibatches:
    """The minibatches that `sample_minibatch` draws with these keys.

    Args:
        trajectory: a tuple of groups, T samples in all.
        batch_size: at most this many.
        seeds: the keys.
        fixed_shapes: fill groups up to sizes that are the same for nearly all draws, and lay them in memory as
            compiled functions want them.

    Returns:
        One for each key: together in one where shapes are fixed.
    """
    size = count_samples(trajectory)
    orders = torch.stack([draw_order(size, batch_size, seed) for seed in seeds])
    if not fixed_shapes:
        batches = [pick(trajectory, order) for order in orders]
        return [Minibatch(groups, torch.cat([torch.ones_like(x.active) for x in groups])) for groups in batches]
    return _filled(trajectory, orders, size, batch_size, torch.zeros(len(seeds), 1, dtype=torch.int64))


def draw_for_members(
    trajectories: Sequence[Groups], batch_size: int, seeds: Sequence[Sequence[int]]
) -> list[Minibatch]:
    """What `draw_minibatches` draws with fixed shapes, for the members of an ensemble.

    Args:
        trajectories: one for each of K members, of one shape, or one for all of them.
        batch_size: at most this many samples for each member.
        seeds: for every minibatch, the keys of all members.

    Returns:
        For every row of seeds a `Minibatch` with leaves (K, b, ...).
    """
    size, count = count_samples(trajectories[0]), len(seeds[0])
    orders = torch.stack([draw_order(size, batch_size, seed) for row in seeds for seed in row])
    member = torch.arange(count).repeat(len(seeds))[:, None] % len(trajectories)
    whole = tuple(concatenate(same) for same in zip(*trajectories, strict=True))
    drawn = _filled(whole, orders, size, batch_size, member, together=count)
    return [which(drawn, k) for k in range(len(seeds))]


def _filled(
    trajectory: Groups, orders: Tensor, size: int, batch_size: int, member: Tensor, together: int = 0
) -> Minibatch:
    """The rows (K, b) of some trajectories of one shape, group by group behind each other; member (K, 1) says which."""
    groups, reals, start = [], [], 0
    members = sum(len(group.active) for group in trajectory) // size
    for group in trajectory:
        length = len(group.active) // members
        rows, real = _rows_of(orders, start, length, size, batch_size)
        real = real.to(group.active.device)
        groups.append(_gather(group, rows + length * member, real, together))
        reals.append(real.unflatten(0, (-1, together)) if together else real)
        start += length
    return Minibatch(tuple(groups), torch.cat(reals, -1))


def draw_order(size: int, batch_size: int, seed: int) -> Tensor:
    """Indices of distinct samples, uniformly drawn, (min(batch_size, size),) int64 on the CPU."""
    return torch.randperm(size, generator=generator(seed, "minibatch"))[:batch_size]


def verdict(objective: Objective, batch: Groups, info: StepInfo, convergence: str) -> Tensor:
    """() bool: whether this minibatch passes."""
    if convergence != "band":
        return info.accepted.all()
    inside = in_band(info, objective) & info.accepted
    return (inside | ~chosen_samples(batch, info, "all")).all()


def in_band(info: StepInfo, objective: Objective) -> Tensor:
    """Which steps have their relative energy error inside [E_lower, E_upper]; bool."""
    return (info.energy_error >= objective.E_lower) & (info.energy_error <= objective.E_upper)


def countable_error(info: StepInfo) -> Tensor:
    """Energy errors for reports: a step that exploded counts as 1."""
    return torch.where(info.energy_error.isfinite(), info.energy_error, torch.ones_like(info.energy_error))


def _count_pulling(objective: Objective, batch: Minibatch, info: StepInfo, loss_on: str) -> Tensor:
    pulls = chosen_samples(batch.groups, info, loss_on) & ~in_band(info, objective)
    return torch.stack([own.sum() for own in pulls.split([len(group.active) for group in batch.groups])]).amax()


def _row(code: Tensor, pulling: Tensor, loss: Tensor, info: StepInfo, real: Tensor) -> Tensor:
    """The numbers of a `Row`, still on the device, (7,)."""
    error = countable_error(info)
    count, nothing = real.sum(), torch.zeros_like(error)
    means = [torch.where(real, x.to(error), nothing).sum() / count for x in (info.accepted, error, info.dt)]
    largest = torch.where(real, error, nothing).amax()
    return torch.stack([x.double() for x in (code, pulling, loss, means[0], means[1], largest, means[2])])


def _rows_of(orders: Tensor, start: int, length: int, size: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Which samples of one group stand in each of K minibatches: indices (K, W), and where these are real, (K, W)."""
    if length == size >= batch_size:  # one group, whole minibatches: nothing to look for
        return orders, torch.ones_like(orders, dtype=torch.bool)
    inside = (orders >= start) & (orders < start + length)
    width = _width(int(inside.sum(1).amax()), length, size, batch_size)
    # Those of the group first, in the order in which they were drawn.
    place = inside.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    place = torch.nn.functional.pad(place, (0, max(0, width - place.shape[1])))[:, :width]
    real = torch.arange(width) < inside.sum(1, keepdim=True)
    return torch.where(real, orders.gather(1, place) - start, 0), real


def _width(most: int, length: int, size: int, batch_size: int) -> int:
    """Rows for a group of which up to ``most`` samples were drawn: a number that is the same for nearly all draws."""
    share = min(batch_size, size) * length / size
    usual = min(share + 5 * share**0.5, length, batch_size)
    return _WIDTH * -(-max(most, int(usual)) // _WIDTH)


def _gather(group: Sample, rows: Tensor, real: Tensor, together: int) -> Sample:
    """The rows (K, W) of a group, inactive where they are not real; or so many of K in one.

    In memory the samples lie last, as compiled functions read them.
    """
    device = group.active.device
    index = rows.reshape(-1).to(device)

    def pick(leaf: Tensor) -> Tensor:
        return leaf.index_select(0, index).unflatten(0, rows.shape)

    picked = map_leaves(pick, group)
    picked = picked._replace(active=picked.active & real)
    if together:
        picked = map_leaves(lambda leaf: leaf.unflatten(0, (-1, together)), picked)
    axis = 2 if together else 1
    return map_leaves(lambda leaf: leaf.movedim(axis, -1).contiguous().movedim(-1, axis), picked)
