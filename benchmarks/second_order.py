"""How many iterations, and how long, until nearly all samples of a trajectory lie in the band? (R5)

    python -m benchmarks.second_order

4,096 samples on the way of 32 free-fall triples through their encounters; a network alone (MLP 64-64 on invariant
features, no criterion but the time scale of its unit), minibatches of 512, band [1e-6, 1e-4], both sides counted. From
the same start Levenberg-Marquardt and Adam go on until 99 % of all samples lie in the band; looking there is not timed.
Adam has five learning rates and the best of them is the peer. It is asked twice: for the band itself, as it is usually
trained, and for the narrower band inside it at which Levenberg-Marquardt aims. The way of the document that this
project grew from is Adam at 1e-4, one sample after the other: its iterations are counted, and the time of one measured.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import aits_func as af
from aits_func.base.engine import Engine
from aits_func.base.tree import map_leaves
from aits_func.base.types import Params
from aits_func.loops.learner import room_for
from aits_func.loops.replay_iteration import (
    Minibatches,
    Progress,
    begin,
    build_count,
    build_iteration,
    draw_minibatches,
    in_band,
    run_until_stop,
    which,
)
from benchmarks.replay import looped
from benchmarks.timing import Missing, Row, main, row, seconds

TRIPLES, STEPS, BATCH, GOAL = 32, 128, 512, 0.99
RATES = (1e-2, 3e-2, 3e-3, 1e-3, 3e-4)  # likely ones first: none goes on for longer than the best so far
USUAL_RATE, USUAL_LIMIT = 1e-4, 20_000
STARTS, LIMIT, MARGIN = (0, 1, 2), 4000, 0.25
GRAVITY = af.build_gravity()


class Curve(NamedTuple):
    """How an optimizer got on: a point after every look."""

    iterations: list[int]
    seconds: list[float]  # of the iterations alone
    fractions: list[float]  # of the whole trajectory, inside the band

    @property
    def arrived(self) -> bool:
        """Whether it reached the goal."""
        return self.fractions[-1] >= GOAL


def trajectory() -> af.Sample:
    """States of free-fall triples on their way, by a criterion whose energy errors lie on both sides of the band."""
    policy = af.build_criterion_policy(af.p_norm(GRAVITY, eta=0.1))
    step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_threshold=1e9)
    learner = af.build_learner(step, af.sgd(1e-3))  # which nothing is asked of: every step is accepted
    state = af.init_train_state(policy.init(0), learner.optimizer)
    population = af.init_population(af.free_fall_triple(0, TRIPLES), gravity=GRAVITY)
    _, groups, _ = af.collect_trajectory(state._replace(population=population), learner=learner, steps_per_epoch=STEPS)
    (samples,) = groups
    return samples


def build_policy() -> af.Policy:
    """The network alone."""
    criterion = af.p_norm(GRAVITY, eta=0.1)
    return af.build_mlp_policy(af.build_features("invariant", GRAVITY), timescale=criterion, hidden=(64, 64))


def build_learner(optimizer: af.GradientTransformation | af.LeastSquares, margin: float) -> af.Learner:
    """The policy's learner."""
    step = af.build_step(build_policy(), GRAVITY, af.build_leapfrog_kdk(GRAVITY))
    return af.build_learner(step, optimizer, margin=margin)


def follow(
    learner: af.Learner, samples: af.Sample, start: int, mode: str, limit: int, every: int = 1, rate: float = 0.0
) -> Curve:
    """Go on until the goal, or for so many iterations; a look after every few. Adam wants its rate."""
    fixed, judge = mode != "off", _build_judge(learner.objective)
    state = af.init_train_state(build_policy().init(start), learner.optimizer)
    if rate:
        state = state._replace(opt_state=(torch.tensor(rate, dtype=torch.float64), state.opt_state[1]))
    progress = begin(state, torch.device("cpu"))
    progress = progress._replace(stops=torch.zeros_like(progress.stops))  # a minibatch that passes does not end it
    first = which(draw_minibatches((samples,), BATCH, [0], fixed_shapes=fixed), 0)
    for share in (0, *learner.rooms.shares):  # compile
        iteration(learner, mode, BATCH // share if share else 0)(progress, first)
    build_count(learner, "all", mode)(progress.params, first)
    curve, spent = Curve([], [], []), 0.0
    for done in range(0, limit, every):
        began = time.perf_counter()
        batches = draw_minibatches((samples,), BATCH, range(done, done + every), fixed_shapes=fixed)
        progress = _advance(learner, mode, progress, batches)
        spent += time.perf_counter() - began
        for column, value in zip(curve, (done + every, spent, judge(progress.params, samples)), strict=True):
            column.append(value)
        if curve.arrived:
            break
    return curve


def iteration(learner: af.Learner, mode: str, room: int) -> Engine:
    """One iteration of the replay on all samples."""
    return build_iteration(learner, "all", "minibatch", room, mode)


def _advance(learner: af.Learner, mode: str, progress: Progress, batches: Minibatches) -> Progress:
    """These minibatches; by second-order steps with room for as many slopes as there are, one for each."""
    room = 0
    if learner.rooms.block == 1:
        first = which(batches, 0)
        pulling = int(build_count(learner, "all", mode)(progress.params, first))
        room = room_for(first.groups, pulling, learner.rooms.shares)
    return run_until_stop(iteration(learner, mode, room), progress, batches)[0]


@functools.cache
def _build_judge(objective: af.Objective) -> Callable[..., float]:
    errors = af.build_engine(lambda params, samples: objective.attempt(params, (samples,))[1], batched=(False, True))

    def judge(params: object, samples: af.Sample) -> float:
        return float(in_band(errors(params, samples), objective).double().mean())

    return judge


def best_of_adam(samples: af.Sample, start: int, margin: float) -> tuple[float, Curve]:
    """The learning rate that arrives after the fewest iterations, and how."""
    best = (0.0, Curve([LIMIT], [0.0], [0.0]))
    for rate in RATES:
        curve = follow(adam(margin), samples, start, "on", best[1].iterations[-1], rate=rate)
        if curve.arrived and (not best[0] or curve.iterations[-1] < best[1].iterations[-1]):
            best = rate, curve
    if not best[0]:
        raise RuntimeError(f"Adam did not arrive in {LIMIT} iterations with any of the learning rates {RATES}")
    return best


@functools.cache
def adam(margin: float) -> af.Learner:
    """Adam with its learning rate in its state: one machine code for all of them."""
    unscaled = af.adam(1.0)

    def init(params: Params) -> tuple[torch.Tensor, Any]:
        return torch.ones((), dtype=torch.float64), unscaled.init(params)

    def update(grads: Params, state: tuple[torch.Tensor, Any], params: Params) -> tuple[Params, Any]:
        updates, inner = unscaled.update(grads, state[1], params)
        return map_leaves(lambda leaf: state[0] * leaf, updates), (state[0], inner)

    return build_learner(af.GradientTransformation(init, update), margin)


def measure() -> list[Row | Missing]:
    """Iterations and times, against the best Adam for either band, and against the way of the document."""
    samples, second_order = trajectory(), build_learner(af.levenberg_marquardt(), MARGIN)
    pairs: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for start in STARTS:
        ours, ours_eager = (follow(second_order, samples, start, mode, LIMIT) for mode in ("on", "off"))
        show(f"start {start}, Levenberg-Marquardt", ours)
        edge = build_learner(af.levenberg_marquardt(), 0.0)
        show(f"start {start}, the same aiming at the edge, eager", follow(edge, samples, start, "off", 32))
        for name, margin in (("the best Adam", 0.0), ("the best Adam, aiming inside", MARGIN)):
            rate, theirs = best_of_adam(samples, start, margin)
            show(f"start {start}, {name}: {rate:g}", theirs)
            count = theirs.iterations[-1]
            eager = follow(adam(margin), samples, start, "off", count, every=count, rate=rate)
            for what, reach, pair in (
                ("iterations", 20.0, (ours.iterations, theirs.iterations)),
                ("time, compiled", 5.0, (ours.seconds, theirs.seconds)),
                ("time, eager", 5.0, (ours_eager.seconds, eager.seconds)),
            ):
                pairs.setdefault((f"{what}, against {name}", reach), []).append((pair[0][-1], pair[1][-1]))
        usual = follow(adam(0.0), samples, start, "on", USUAL_LIMIT, every=16, rate=USUAL_RATE)
        show(f"start {start}, Adam at {USUAL_RATE:g}", usual)
        name = f"against Adam at {USUAL_RATE:g}" + (
            "" if usual.arrived else f", which did not arrive in {USUAL_LIMIT:,}"
        )
        pairs.setdefault((f"iterations, {name}", 20.0), []).append((ours.iterations[-1], usual.iterations[-1]))
        slow = usual.iterations[-1] * seconds_of_the_loop(samples)
        pairs.setdefault((f"time, {name}, one sample after the other", 1000.0), []).append((ours.seconds[-1], slow))
    return [
        row("R5", f"99 % in the band: {name}", each, reach, unit="" if name.startswith("iterations") else "s")
        for (name, reach), each in pairs.items()
    ]


@functools.cache
def _loop(samples: af.Sample) -> Callable[[int], None]:
    step = af.build_step(build_policy(), GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_threshold=1e-15)
    return looped(step, build_policy(), samples, BATCH)


def seconds_of_the_loop(samples: af.Sample) -> float:
    """Of one iteration of the Python loop over the samples of a minibatch."""
    return seconds(lambda: _loop(samples)(0))


def show(name: str, curve: Curve) -> None:
    """One curve, thinned out: fraction in the band after so many iterations and seconds."""
    points = list(zip(*curve, strict=True))
    chosen = [points[k] for k in range(len(points)) if k + 1 == len(points) or (k + 1) & k == 0]  # 1, 2, 4, 8, ...
    print(f"{name}: " + ", ".join(f"{n} ({spent:.3g} s) {share:.1%}" for n, spent, share in chosen), flush=True)


if __name__ == "__main__":
    main(measure, __doc__)
