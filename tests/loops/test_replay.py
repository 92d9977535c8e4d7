"""Part 2 rule by rule, on a step without physics: ε = difficulty · dt³."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.base import tree
from aits_func.base.engine import missing_compiler
from aits_func.base.rng import fold_in
from aits_func.base.types import StepInfo, System
from aits_func.learning.optimizers import adam, sgd
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import Learner, build_learner
from aits_func.loops.objective import count_samples
from aits_func.loops.replay import (
    ReplayHistory,
    countable_error,
    evaluate_trajectory,
    generalize_on_trajectory,
    in_band,
    sample_minibatch,
)
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import free_fall
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample, push

THRESHOLD, E_LOWER, E_UPPER = 2e-4, 1e-6, 1e-4


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def stub_step(params, sample):
    """dt = e^log_dt, ε = difficulty · dt³ with the difficulty on the system's clock; explodes above dt = 10."""
    dt = torch.where(sample.active, params["log_dt"].exp(), 0.0)
    exploded = dt > 10
    error = torch.where(exploded, torch.inf, sample.system.time * torch.where(exploded, 1.0, dt) ** 3)
    return sample.system, StepInfo(dt, error, error < THRESHOLD, exploded)


def remembering_step(params, sample):
    """Accepts only where the window holds a state."""
    dt = params["log_dt"].exp()
    error = torch.where(sample.window.valid.all() & (sample.window.dt[-1] > 0), 1e-5, 1.0) * dt / dt.detach()
    return sample.system, StepInfo(dt, error, error < THRESHOLD, torch.zeros_like(sample.active))


def group(difficulties, *, bodies=2, history_len=0, active=None):
    difficulties = tensor(list(difficulties))
    count = len(difficulties)
    x = torch.zeros(count, bodies, 2, dtype=torch.float64)
    systems = System(x[:, :, 0] + 1, x, x, difficulties, torch.zeros_like(difficulties))
    samples = vmap(lambda system: first_sample(system, history_len))(systems)
    if history_len:
        for _ in range(history_len):
            windows = vmap(push)(samples.window, samples.system, torch.full_like(difficulties, 0.5))
            samples = samples._replace(window=windows)
    return samples if active is None else samples._replace(active=torch.tensor(active))


class Spy:
    """A learner that remembers every update it was asked for."""

    def __init__(self, step=stub_step, optimizer=None):
        inner = build_learner(step, optimizer or sgd(2e-2))
        self.calls = []  # (state before, batch, state after, loss, info)

        def update(state, batch, on="failed"):
            new, (loss, info) = inner.update(state, batch, on)
            self.calls.append((state, batch, new, loss, info))
            return new, (loss, info)

        self.learner = Learner(inner.objective, inner.optimizer, update)
        self.drawn = lambda: [torch.cat([g.system.time for g in batch]).tolist() for _, batch, *_ in self.calls]

    def start(self, dt=0.1):
        return init_train_state({"log_dt": tensor(math.log(dt))}, self.learner.optimizer)

    def replay(self, trajectory, dt=0.1, **options):
        self.state = self.start(dt)
        return generalize_on_trajectory(self.state, trajectory, learner=self.learner, **options)


def assert_same(one, other):
    for (name, leaf), same in zip(tree.named_leaves(one).items(), tree.leaves(other), strict=True):
        assert torch.equal(leaf, same), name


# At dt = 0.1: ε is a thousandth of the difficulty.
GOOD, HARD = (1e-3, 2e-2, 5e-2, 9e-2), (0.5, 3.0)


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trajectory", [(), (group([]),), (group([]), group([], bodies=3))], ids=["none", "one", "two"])
@pytest.mark.parametrize("convergence", ["minibatch", "band", "trajectory"])
def test_an_empty_trajectory_has_converged_without_an_update(trajectory, convergence):
    spy = Spy()
    state, info = spy.replay(trajectory, convergence=convergence, min_replay_size=0)
    assert (info.converged, info.iterations, info.skipped, info.outcome) == (True, 0, False, "empty")
    assert spy.calls == []
    assert_same(state, spy.state)
    # Of nothing there is no rate and no mean: 1.0 would be shown as a policy that passes.
    assert all(math.isnan(x) for x in (info.pass_rate, info.band_rate, info.mean_energy_error, info.mean_dt))
    assert math.isnan(info.loss)
    assert [len(column) for column in info.history] == [0] * 5


def test_a_trajectory_below_the_minimal_size_is_skipped_but_reported():
    spy = Spy()
    state, info = spy.replay((group(HARD),), min_replay_size=3)
    assert (info.converged, info.iterations, info.skipped, info.outcome) == (True, 0, True, "skipped")
    assert spy.calls == []
    assert_same(state, spy.state)
    assert info.pass_rate == 0.0  # the report is honest about what was skipped
    assert info.max_energy_error == pytest.approx(3e-3, rel=1e-14)
    assert len(info.history.loss) == 0


def test_a_trajectory_of_the_minimal_size_is_not_skipped():
    assert not Spy().replay((group(HARD),), min_replay_size=2, replay_steps=1)[1].skipped
    assert not Spy().replay((group(HARD),), replay_steps=1)[1].skipped  # the default is 2
    assert Spy().replay((group(HARD[:1]),))[1].skipped
    assert not Spy().replay((group(HARD[:1]), group(HARD[1:], bodies=3)), replay_steps=1)[1].skipped  # groups add up


def test_what_is_good_already_converges_in_the_first_iteration_and_changes_nothing():
    spy = Spy(optimizer=adam(0.1, weight_decay=0.1))
    state, info = spy.replay((group(GOOD),))
    assert (info.converged, info.iterations) == (True, 1)
    assert_same(state, spy.state)


def test_one_sample_is_learned_as_by_hand():
    difficulty, x, iterations = 3.0, math.log(0.1), 0
    seen = []
    while True:
        iterations += 1
        error = difficulty * math.exp(x) ** 3
        seen.append((error, math.exp(x)))
        if error < THRESHOLD:
            break
        residual = math.log(error + 1e-12) - math.log(E_UPPER)
        x -= 2e-2 * 2 * residual * 3 * error / (error + 1e-12)
    state, info = Spy().replay((group([difficulty]),), min_replay_size=1)
    assert iterations > 4
    assert (info.converged, info.iterations) == (True, iterations)
    assert float(state.params["log_dt"]) == pytest.approx(x, rel=1e-13)  # a few roundings an iteration
    assert info.history.mean_energy_error.tolist() == pytest.approx([e for e, _ in seen], rel=1e-12)
    assert info.history.mean_dt.tolist() == pytest.approx([dt for _, dt in seen], rel=1e-12)
    assert info.history.pass_rate.tolist() == [0.0] * (iterations - 1) + [1.0]


@pytest.mark.parametrize("loss_on", ["failed", "all"])
def test_converged_means_the_parameters_that_were_judged_and_the_iteration_that_judged_them(loss_on):
    spy = Spy(optimizer=sgd(2e-2, momentum=0.5))
    state, info = spy.replay((group(GOOD + HARD),), loss_on=loss_on, replay_batch_size=3)
    assert info.converged
    assert info.iterations == len(spy.calls) > 1  # 1-based
    judged, _, updated, _, last = spy.calls[-1]
    assert last.accepted.all()
    assert not any(i.accepted.all() for *_, i in spy.calls[:-1])
    assert_same(state, judged)
    assert_same(state, spy.calls[-2][2])  # after the update before, and not after another one
    if loss_on == "all":
        assert updated.params["log_dt"] != judged.params["log_dt"]  # which would have moved it


def test_not_converged_means_the_parameters_after_the_last_update():
    spy = Spy(optimizer=sgd(1e-4))
    state, info = spy.replay((group(HARD),), replay_steps=5)
    assert (info.converged, info.iterations, info.skipped, info.outcome) == (False, 5, False, "not_converged")
    assert len(spy.calls) == 5
    assert_same(state, spy.calls[-1][2])
    assert not torch.equal(state.params["log_dt"], spy.calls[-1][0].params["log_dt"])
    assert info.pass_rate == 0.0


def test_the_last_iteration_allowed_may_still_converge():
    needed = Spy().replay((group(HARD),))[1].iterations
    assert Spy().replay((group(HARD),), replay_steps=needed)[1].converged
    assert not Spy().replay((group(HARD),), replay_steps=needed - 1)[1].converged


def test_population_and_epoch_are_none_of_its_business():
    spy = Spy()
    state, _ = spy.replay((group(HARD),))
    assert state.epoch is spy.state.epoch
    assert state.population is spy.state.population


# --- the minibatch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 1), (4, 4), (10, 10), (11, 10), (512, 10)])
def test_a_minibatch_has_so_many_distinct_samples_or_all_there_are(batch_size, expected):
    trajectory = (group(range(6)), group(range(6, 10), bodies=3))
    for seed in range(5):
        batch = sample_minibatch(trajectory, batch_size, seed=seed)
        tags = torch.cat([g.system.time for g in batch]).tolist()
        assert count_samples(batch) == expected
        assert len(set(tags)) == expected
        assert set(tags) <= set(range(10))
        for part in batch:  # every sample keeps its own leaves and its shape
            assert (part.system.mass.shape[-1] == 3) == bool((part.system.time >= 6).all())


def test_a_minibatch_is_drawn_uniformly_over_all_groups():
    trajectory, draws = (group(range(15)), group(range(15, 20), bodies=3)), 1000
    counts = torch.zeros(20, dtype=torch.float64)
    pairs = 0
    for seed in range(draws):
        tags = torch.cat([g.system.time for g in sample_minibatch(trajectory, 5, seed=seed)]).long()
        counts[tags] += 1
        pairs += int({0, 1} <= set(tags.tolist()))
    # each is drawn with chance 1/4: 250 ± 13.7 times; 5 sigma, with 20 of them
    assert (counts - 250).abs().max() < 69
    # chi square of 19 degrees (less what drawing without replacement takes): 19 ± 6.2
    assert ((counts - 250) ** 2 / (1000 * 0.25 * 0.75)).sum() < 19 + 5 * 6.2
    # two given ones together: 5·4/(20·19) = 0.0526, so 52.6 ± 7
    assert abs(pairs - 52.6) < 36


def test_a_minibatch_is_determined_by_its_seed():
    trajectory = (group(range(20)),)
    one, same, other = (sample_minibatch(trajectory, 5, seed=seed) for seed in (3, 3, 4))
    assert_same(one, same)
    assert one[0].system.time.tolist() != other[0].system.time.tolist()


def test_a_minibatch_of_none_is_refused():
    with pytest.raises(ValueError, match="sample_minibatch: batch_size must be >= 1, got 0"):
        sample_minibatch((group(GOOD),), 0)


def test_every_iteration_draws_a_minibatch_of_its_own_from_the_seed_alone():
    trajectory = (group([1.0 + k for k in range(20)]),)
    spies = [Spy(optimizer=sgd(1e-9)) for _ in range(3)]
    for spy, seed in zip(spies, (0, 0, 1), strict=True):
        spy.replay(trajectory, replay_batch_size=6, replay_steps=8, seed=seed)
    first, same, other = (spy.drawn() for spy in spies)
    assert first == same
    assert first != other
    assert len({tuple(sorted(tags)) for tags in first}) == 8  # C(20, 6) = 38,760: no two alike but by a chance of 1e-3
    assert all(len(set(tags)) == 6 for tags in first)


def test_all_of_a_minibatch_is_stepped_by_one_call_per_group():
    calls = []

    def counting_step(params, sample):
        calls.append(sample)
        return stub_step(params, sample)

    spy = Spy(counting_step, sgd(1e-6))
    spy.replay((group(HARD), group(HARD, bodies=3)), replay_steps=4)
    assert len(calls) == 4 * 2 + 2  # two groups an iteration, two in the final report


# --- what convergence means ------------------------------------------------------------------------------------------


def test_minibatch_convergence_may_be_one_lucky_draw():
    # batches of 1 of 6, of which 2 are hard: with this seed a good one comes first
    for seed in range(50):
        _, info = Spy().replay((group(GOOD + HARD),), replay_batch_size=1, seed=seed)
        if info.iterations == 1:
            break
    assert (info.converged, info.iterations) == (True, 1)
    assert info.pass_rate == pytest.approx(4 / 6, rel=1e-15)  # and the report says so
    _, info = Spy().replay((group(GOOD + HARD),), replay_batch_size=1, seed=seed, convergence="trajectory")
    assert info.converged
    assert info.iterations > 1
    assert info.pass_rate == 1.0


def test_trajectory_convergence_asks_the_minibatch_first_and_then_the_whole():
    trajectory = (group(GOOD + HARD), group([0.3], bodies=3))
    spy = Spy()
    state, info = spy.replay(trajectory, replay_batch_size=2, convergence="trajectory")
    for judged, _, _, _, seen in spy.calls:
        whole = evaluate_trajectory(judged.params, trajectory, objective=spy.learner.objective)
        done = bool(seen.accepted.all()) and bool(whole.accepted.all())
        assert done == (judged is spy.calls[-1][0])
    assert_same(state, spy.calls[-1][0])
    assert info.converged


def test_band_convergence_asks_every_sample_to_lie_inside_the_band():
    # one difficulty, so that one dt puts all of them inside
    spy = Spy(optimizer=sgd(5e-3))
    _, info = spy.replay((group([2.0, 3.0, 4.0]),), dt=0.5, loss_on="all", convergence="band")
    assert info.converged
    assert info.band_rate == 1.0
    assert E_LOWER <= info.mean_energy_error <= info.max_energy_error <= E_UPPER
    for *_, seen in spy.calls[:-1]:
        assert not in_band(seen, spy.learner.objective).all()
    assert any(seen.accepted.all() for *_, seen in spy.calls[:-1])  # safe would have been reached before


def test_the_edges_of_the_band_belong_to_it():
    objective = Spy().learner.objective
    error = tensor([E_LOWER, E_UPPER, math.nextafter(E_LOWER, 0), math.nextafter(E_UPPER, 1), math.inf, math.nan])
    info = StepInfo(error, error, error < 1, error > 1)
    assert in_band(info, objective).tolist() == [True, True, False, False, False, False]


def test_band_convergence_asks_for_acceptance_too_where_the_threshold_lies_inside_the_band():
    def strict_step(params, sample):
        system, info = stub_step(params, sample)
        return system, info._replace(accepted=info.energy_error < 1e-5)

    spy = Spy(strict_step)
    _, info = spy.replay((group([5e-2, 6e-2]),), convergence="band", replay_steps=3)  # ε = 5e-5: inside, yet rejected
    assert in_band(spy.calls[0][-1], spy.learner.objective).all()
    assert (info.converged, info.band_rate, info.pass_rate) == (False, 1.0, 0.0)


@pytest.mark.parametrize("convergence", ["minibatch", "band", "trajectory"])
def test_an_inactive_sample_never_stands_in_the_way(convergence):
    samples = group([1e-2, 1e9], active=[True, False])
    _, info = Spy().replay((samples,), convergence=convergence)
    assert (info.converged, info.iterations) == (True, 1)


# --- what the loss is on, and the hole in it -------------------------------------------------------------------------


def test_on_the_failed_alone_a_vanishing_step_converges_at_once():
    spy = Spy()
    state, info = spy.replay((group(GOOD + HARD),), dt=1e-9)
    assert (info.converged, info.iterations) == (True, 1)
    assert_same(state, spy.state)
    assert info.pass_rate == 1.0
    assert info.band_rate == 0.0  # but it does not go unseen
    assert info.mean_dt == pytest.approx(1e-9, rel=1e-14)


def test_on_the_failed_alone_a_vanishing_step_never_enters_the_band():
    spy = Spy()
    state, info = spy.replay((group(GOOD + HARD),), dt=1e-9, convergence="band", replay_steps=7)
    assert (info.converged, info.iterations) == (False, 7)
    assert_same(state, spy.state)  # nothing ever asked for a larger step


def test_on_all_with_the_band_asked_for_the_step_grows_until_it_is_efficient():
    # from ε = 1e-12; far below that the guard in the logarithm swallows the gradient
    spy = Spy(optimizer=adam(0.3))
    _, info = spy.replay((group([1.0, 2.0]),), dt=1e-4, loss_on="all", convergence="band", replay_steps=100)
    assert info.converged
    assert info.iterations > 5
    assert info.mean_dt > 5e-3  # (1e-6 / 2)^(1/3) is the smallest step in the band of the harder one
    assert info.band_rate == 1.0


def test_on_the_failed_what_lies_between_band_and_threshold_is_left_alone_and_on_all_it_is_not():
    trajectory = (group([0.15, 0.18]),)  # ε = 1.5e-4, 1.8e-4
    for loss_on, moved in [("failed", False), ("all", True)]:
        spy = Spy()
        state, info = spy.replay(trajectory, loss_on=loss_on, convergence="band", replay_steps=3)
        assert bool(state.params["log_dt"] < spy.state.params["log_dt"]) is moved
        assert info.pass_rate == 1.0


def test_only_the_failed_have_a_say_unless_all_do():
    trajectory = (group([1e-5, 0.5]),)  # ε = 1e-8, far below the band, and 5e-4, just above
    states = {}
    for loss_on in ("failed", "all"):
        spy = Spy(optimizer=sgd(1e-3))
        states[loss_on] = spy.replay(trajectory, loss_on=loss_on, replay_steps=1)[0].params["log_dt"]
    start = math.log(0.1)
    assert states["failed"] < start
    assert states["all"] > start  # the easy one pulls harder than the hard one pushes


def test_a_policy_that_explodes_everywhere_comes_back():
    spy = Spy(optimizer=adam(0.5))
    _, info = spy.replay((group(GOOD + HARD),), dt=1e30)
    assert spy.calls[0][-1].exploded.all()
    assert info.converged
    assert info.history.mean_energy_error[0] == 1.0  # an exploded step counts as 1
    assert info.history.loss[0] == pytest.approx(math.log(1e-4) ** 2, rel=1e-14)


# --- history ---------------------------------------------------------------------------------------------------------


def test_samples_are_replayed_with_the_window_they_were_collected_with_unless_it_is_ignored():
    trajectory = (group(GOOD, history_len=2),)
    assert trajectory[0].window.valid.all()
    _, info = Spy(remembering_step).replay(trajectory)
    assert (info.converged, info.iterations, info.pass_rate) == (True, 1, 1.0)
    _, info = Spy(remembering_step).replay(trajectory, history="snapshot")
    assert info.converged
    _, info = Spy(remembering_step, sgd(1e-9)).replay(trajectory, history="ignore", replay_steps=3)
    assert not info.converged
    assert info.pass_rate == 0.0  # the report is on what was replayed
    assert trajectory[0].window.valid.all()


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_is_on_the_whole_trajectory_with_the_returned_parameters():
    difficulties = [1e-4, 1e-2, 0.05, 0.15, 0.4, 1e3, 2e3]
    trajectory = (group(difficulties[:5]), group(difficulties[5:], bodies=3))
    state, info = Spy(optimizer=sgd(1e-6)).replay(trajectory, replay_batch_size=2, replay_steps=1, seed=1)
    dt = math.exp(float(state.params["log_dt"]))
    errors = [d * dt**3 for d in difficulties]
    # sums of seven numbers in double precision
    assert info.pass_rate == pytest.approx(sum(e < THRESHOLD for e in errors) / 7, rel=1e-14)
    assert info.band_rate == pytest.approx(sum(E_LOWER <= e <= E_UPPER for e in errors) / 7, rel=1e-14)
    assert 0 < info.band_rate < info.pass_rate < 1
    assert info.mean_energy_error == pytest.approx(sum(errors) / 7, rel=1e-13)
    assert info.max_energy_error == pytest.approx(max(errors), rel=1e-13)
    assert info.mean_dt == pytest.approx(dt, rel=1e-14)
    kinds = (bool, int, bool, float, float, float, float, float, float, int, ReplayHistory)
    assert tuple(type(value) for value in info) == kinds


def test_the_history_is_what_each_iteration_saw():
    spy = Spy()
    _, info = spy.replay((group(GOOD + HARD), group([0.7], bodies=3)), replay_batch_size=3)
    assert info.iterations > 2
    for number, (_, _, _, loss, seen) in enumerate(spy.calls):
        assert info.history.loss[number] == loss
        assert info.history.pass_rate[number] == pytest.approx(sum(seen.accepted.tolist()) / 3, rel=1e-15)
        assert info.history.mean_energy_error[number] == pytest.approx(sum(seen.energy_error.tolist()) / 3, rel=1e-14)
        assert info.history.max_energy_error[number] == max(seen.energy_error.tolist())
        assert info.history.mean_dt[number] == pytest.approx(sum(seen.dt.tolist()) / 3, rel=1e-14)
    assert info.loss == info.history.loss[-1]
    assert {(column.dtype, column.device.type) for column in info.history} == {(torch.float64, "cpu")}


def test_for_reports_a_step_that_exploded_counts_as_one():
    error = tensor([1e-3, math.inf, math.nan])
    assert countable_error(StepInfo(error, error, error < 1, error > 1)).tolist() == [1e-3, 1.0, 1.0]
    _, info = Spy(optimizer=sgd(1e-9)).replay((group(HARD),), dt=100.0, replay_steps=1)
    assert (info.pass_rate, info.mean_energy_error, info.max_energy_error) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4096])
def test_a_trajectory_is_evaluated_in_pieces_and_in_order(batch_size):
    trajectory = (group(range(1, 6)), group(range(6, 9), bodies=3))
    objective = Spy().learner.objective
    info = evaluate_trajectory({"log_dt": tensor(0.0)}, trajectory, objective=objective, batch_size=batch_size)
    assert info.energy_error.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]  # dt = 1: exactly the difficulty
    assert info.accepted.shape == (8,)


def test_nothing_cannot_be_evaluated_nor_in_pieces_of_nothing():
    objective, params = Spy().learner.objective, {"log_dt": tensor(0.0)}
    with pytest.raises(ValueError, match="evaluate_trajectory: the trajectory is empty"):
        evaluate_trajectory(params, (), objective=objective)
    with pytest.raises(ValueError, match="evaluate_trajectory: batch_size must be >= 1, got 0"):
        evaluate_trajectory(params, (group(GOOD),), objective=objective, batch_size=0)


# --- how often the host looks, and compiled --------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")

# Minibatches of forty hardly ever miss all that are hard. Those are few: there is room for sixteen gradients a group.
# The first of a group is a hard one: as such it would count if it filled up what is not there.
MANY = group([3.0, 1.0, 1.4, 1.8, 2.2, 2.6] + [5e-2 + 1e-3 * k for k in range(40)])
MORE = group([2.8, 1.2, 1.6, 2.0, 2.4] + [5e-2 + 2e-3 * k for k in range(20)], bodies=3)


def looked_at(trajectory, check_every, *, compile="off", rate=2e-2, **options):
    """(state, info, the rooms for which few gradients were computed)."""
    inner, rooms = build_learner(stub_step, adam(rate)), []

    def update_some(state, batch, on, room):
        rooms.append(room)
        return inner.update_some(state, batch, on, room)

    start = init_train_state({"log_dt": tensor(math.log(0.1))}, inner.optimizer)
    state, info = generalize_on_trajectory(
        start,
        trajectory,
        learner=inner._replace(update_some=update_some),
        compile=compile,
        check_every=check_every,
        **options,
    )
    return state, info, rooms


def assert_looks_do_not_matter(trajectory, **options):
    """The report of one and the same replay, looked at after every iteration, every third and every sixteenth."""
    once, *others = [looked_at(trajectory, every, **options) for every in (1, 3, 16)]
    for state, info, _ in others:
        assert_same(state, once[0])
        assert info[:-1] == once[1][:-1]
        assert_same(info.history, once[1].history)
        assert len(info.history.loss) == info.iterations
    return once[1], once[2]


@pytest.mark.parametrize("trajectory", [(MANY,), (MANY, MORE)], ids=["one", "two"])
@pytest.mark.parametrize("loss_on", ["failed", "all"])
@pytest.mark.parametrize("convergence", ["minibatch", "trajectory"])
def test_however_often_the_host_looks_the_replay_is_the_same_bit_for_bit(convergence, loss_on, trajectory):
    info, rooms = assert_looks_do_not_matter(
        trajectory, convergence=convergence, loss_on=loss_on, replay_batch_size=40, seed=2
    )
    assert info.converged
    assert info.iterations > 32
    assert info.iterations % 16 not in (0, 1)  # in the middle of what lies between two looks
    assert set(rooms) == {16}


@pytest.mark.parametrize("trajectory", [(MANY,), (MANY, MORE)], ids=["one", "two"])
def test_however_often_the_host_looks_the_band_is_reached_alike(trajectory):
    info, rooms = assert_looks_do_not_matter(trajectory, convergence="band", loss_on="all", replay_batch_size=40)
    assert info.converged
    assert info.iterations > 32
    assert set(rooms) == {16}
    info, _ = assert_looks_do_not_matter(  # which the accepted never enter if they are not asked to
        trajectory, convergence="band", loss_on="failed", replay_batch_size=40, replay_steps=70
    )
    assert (info.converged, info.iterations) == (False, 70)


def test_minibatches_that_pass_while_the_trajectory_does_not_are_passed_over_alike():
    # Eight of 46, of which six are hard: one minibatch in four passes from the beginning.
    for loss_on in ("failed", "all"):
        info, _ = assert_looks_do_not_matter(
            (MANY,), convergence="trajectory", loss_on=loss_on, replay_batch_size=8, replay_steps=400, rate=4e-2
        )
        assert info.converged
        assert info.pass_rate == 1.0
        assert (info.history.pass_rate == 1).sum() > 10


@pytest.mark.parametrize("loss_on", ["failed", "all"])
def test_the_replay_is_the_loop_that_its_description_says(loss_on):
    inner = build_learner(stub_step, adam(4e-2))
    learner = Learner(inner.objective, inner.optimizer, inner.update)  # without the short cut of few gradients
    start = state = init_train_state({"log_dt": tensor(math.log(0.1))}, learner.optimizer)
    iterations = passed_over = 0
    while True:
        iterations += 1
        batch = sample_minibatch((MANY, MORE), 8, seed=fold_in(5, "replay", iterations))
        after, (_, seen) = learner.update(state, batch, loss_on)
        if seen.accepted.all():
            whole = evaluate_trajectory(state.params, (MANY, MORE), objective=learner.objective)
            if whole.accepted.all():
                break
            passed_over += not torch.equal(after.params["log_dt"], state.params["log_dt"])
        state = after
    assert iterations > 16
    assert (passed_over > 3) is (loss_on == "all")  # what passes may still lie above the band, and is learned from
    for every in (1, 3, 16):
        ours, info = generalize_on_trajectory(
            start,
            (MANY, MORE),
            learner=learner,
            seed=5,
            replay_batch_size=8,
            loss_on=loss_on,
            convergence="trajectory",
            check_every=every,
        )
        assert_same(ours, state)
        assert (info.converged, info.iterations) == (True, iterations)


def test_if_suddenly_more_samples_pull_than_there_is_room_for_the_replay_is_the_same():
    # All lie in the band but four, which drag the others below it: from then on all have a gradient.
    easy = group([2e-2] * 42 + [3e4] * 4)
    info, rooms = assert_looks_do_not_matter(
        (easy,), convergence="band", loss_on="all", replay_batch_size=40, replay_steps=100, rate=5e-2
    )
    assert (info.converged, info.iterations) == (False, 100)
    assert 0 < len(rooms) < 84  # not all of those after the first sixteen


def test_the_default_looks_are_the_same_replay():
    options = {"replay_batch_size": 40, "seed": 2}
    (state, info, _), (other, same, _) = (looked_at((MANY, MORE), every, **options) for every in (None, 5))
    assert_same(state, other)
    assert info[:-1] == same[:-1]


def test_the_last_iteration_allowed_is_the_last_however_often_the_host_looks():
    needed = looked_at((MANY,), 1, replay_batch_size=40)[1].iterations
    for steps in (needed - 1, needed, needed + 1):
        info, _ = assert_looks_do_not_matter((MANY,), replay_batch_size=40, replay_steps=steps)
        assert (info.converged, info.iterations) == (steps >= needed, min(steps, needed))


@pytest.mark.parametrize("check_every", [0, 17, -1])
def test_looks_farther_apart_than_a_block_or_not_at_all_are_refused(check_every):
    message = f"^generalize_on_trajectory: check_every must be between 1 and 16, got {check_every}$"
    with pytest.raises(ValueError, match=message):
        looked_at((group(GOOD),), check_every)


@needs_compiler
def test_a_compiled_replay_is_the_eager_one():
    options = {"replay_batch_size": 40, "seed": 2, "rate": 4e-2}
    state, info, rooms = looked_at((MANY, MORE), None, **options)
    compiled, same, _ = looked_at((MANY, MORE), None, compile="on", **options)
    assert info.converged
    assert set(rooms) == {16}  # both functions are compiled, for all gradients and for few
    assert (same.converged, same.iterations) == (info.converged, info.iterations)
    for ours, theirs in zip(tree.leaves(compiled), tree.leaves(state), strict=True):
        # Tens of updates, each with sums of forty in another order, 1e-15, and Adam's quotients: 1e-10 is ample.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for ours, theirs in zip(same.history, info.history, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)  # ε = d · e^(3 log_dt) of those parameters


# --- purity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", ["snapshot", "ignore"])
def test_trajectory_and_state_are_never_changed_and_no_global_generator_is_touched(history):
    trajectory, spy = (group(GOOD + HARD, history_len=2), group([0.7], bodies=3, history_len=2)), Spy()
    state = spy.start()
    before = [leaf.clone() for leaf in tree.leaves((trajectory, state))]
    generator = torch.get_rng_state()
    generalize_on_trajectory(state, trajectory, learner=spy.learner, replay_batch_size=2, history=history)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves((trajectory, state)), before, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)


def test_one_group_alone_needs_no_tuple_around_it():
    alone, wrapped = (Spy().replay(t, seed=4) for t in (group(GOOD + HARD), (group(GOOD + HARD),)))
    assert_same(alone[0], wrapped[0])
    assert alone[1].iterations == wrapped[1].iterations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replay_batch_size": 0}, "replay_batch_size must be >= 1, got 0"),
        ({"replay_steps": 0}, "replay_steps must be >= 1, got 0"),
        ({"loss_on": "some"}, "loss_on must be one of failed, all, got 'some'"),
        ({"convergence": "never"}, "convergence must be one of minibatch, band, trajectory, got 'never'"),
        ({"compile": "yes"}, "compile must be one of auto, on, off, got 'yes'"),
        ({"check_every": 0}, "check_every must be between 1 and 16, got 0"),
        ({"history": "forget"}, "history must be one of snapshot, ignore, got 'forget'"),
    ],
)
@pytest.mark.parametrize("trajectory", [(), (group(GOOD),)], ids=["empty", "full"])
def test_what_makes_no_sense_is_refused_even_of_an_empty_trajectory(options, message, trajectory):
    with pytest.raises(ValueError, match=f"generalize_on_trajectory: {message}"):
        Spy().replay(trajectory, **options)


# --- thresholds below rounding


def float32_replay(away, **options):
    """A replay of six binaries in float32 for a threshold of 1e-6, some of them so far from the origin."""
    gravity = build_gravity()
    policy = build_criterion_policy(free_fall(gravity, eta=1e-3))
    step = build_step(policy, gravity, build_leapfrog_kdk(gravity), energy_threshold=1e-6)
    learner = build_learner(step, sgd(1e-3), E_lower=1e-8, E_upper=5e-7)
    systems = binaries(0, len(away), eccentricity=(0.0, 0.2))
    systems = tree.cast(systems._replace(position=systems.position + tensor(away)[:, None, None]), dtype=torch.float32)
    state = init_train_state(tree.cast(policy.init(0), dtype=torch.float32), learner.optimizer)
    return state, *generalize_on_trajectory(state, vmap(first_sample)(systems), learner=learner, **options)


def test_where_rounding_alone_is_above_the_threshold_of_every_sample_nothing_is_tried():
    state, after, info = float32_replay([1e3] * 6, replay_steps=5)
    assert (info.converged, info.iterations, info.below_rounding) == (False, 0, 6)
    assert info.outcome == "below_rounding"
    assert after.params["log_eta"] is state.params["log_eta"]
    assert info.mean_energy_error > 1e-6  # and the report is there


def test_samples_below_rounding_are_counted_and_the_others_are_learned_from():
    _, _, info = float32_replay([1e3, 0.0, 0.0, 0.0, 0.0, 0.0], replay_steps=3)
    assert (info.below_rounding, info.iterations) == (1, 3)
    _, _, info = float32_replay([0.0] * 6, replay_steps=3)
    assert (info.below_rounding, info.converged) == (0, True)
