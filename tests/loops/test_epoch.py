"""Epochs: Part 1 and then Part 2, resumable bit for bit, printing and touching nothing."""

import itertools
import types

import pytest
import torch

from aits_func.base import tree
from aits_func.base.rng import fold_in
from aits_func.learning.optimizers import adam, sgd
from aits_func.loops import epoch as epochs
from aits_func.loops.collect import RETRAIN_LIMIT, collect_trajectory, init_population, init_train_state
from aits_func.loops.epoch import EpochInfo, TrainingWarning, run_two_phase_training, train_epoch_two_phase
from aits_func.loops.learner import build_learner
from aits_func.loops.replay import generalize_on_trajectory
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import free_fall
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_residual_policy
from aits_func.timestep.step import build_step

GRAVITY = build_gravity(softening=0.05)
OPTIONS = {"steps_per_epoch": 4, "replay_batch_size": 5, "replay_steps": 4, "loss_on": "all", "convergence": "band"}


def make_learner(policy, optimizer):
    # a band so narrow that replay always has something to learn
    return build_learner(
        build_step(policy, GRAVITY, build_leapfrog_kdk(GRAVITY)), optimizer, E_lower=4e-5, E_upper=5e-5
    )


def networked(history_len=1, stop_time=None):
    """A network with memory on binaries and triples, its steps too long at first: retraining, replay, random draws."""
    features = build_features("basic", GRAVITY, history_len=history_len)
    policy = build_residual_policy(features, free_fall(GRAVITY, eta=0.2), hidden=(4,))
    learner = make_learner(policy, adam(3e-2))
    systems = (binaries(0, 2, eccentricity=(0.1, 0.5)), gaussian_cluster(1, 1, position_scale=1.0, velocity_scale=0.5))
    population = init_population(systems, gravity=GRAVITY, history_len=history_len, stop_time=stop_time)
    return learner, init_train_state(policy.init(0), learner.optimizer, population)


def bits(state):
    return {name: leaf.clone() for name, leaf in tree.named_leaves(state).items()}


def assert_same(one, other):
    one, other = bits(one), bits(other)
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        assert torch.equal(leaf, other[name]), name


def where(positions, population, row):
    """The row of ``positions`` (T, N, D) at which a system of the population stands, to the bit."""
    (found,) = (positions == population.sample.system.position[row]).all(-1).all(-1).nonzero()[:, 0].tolist()
    return found


def test_an_epoch_is_a_collection_and_then_a_replay_of_it():
    learner, state = networked(history_len=0)
    for epoch in (0, 1):
        ours, info = train_epoch_two_phase(state, learner=learner, seed=3, **OPTIONS)
        collected, trajectory, collect = collect_trajectory(state, learner=learner, steps_per_epoch=4)
        replay_options = {name: value for name, value in OPTIONS.items() if name != "steps_per_epoch"}
        replayed, replay = generalize_on_trajectory(
            collected, trajectory, learner=learner, seed=fold_in(3, "epoch", epoch), **replay_options
        )
        assert_same(ours, replayed._replace(epoch=torch.tensor(epoch + 1)))
        assert isinstance(info, EpochInfo)
        assert (info.epoch, info.collect) == (epoch, collect)
        assert info.replay[:-1] == replay[:-1]
        assert_same(info.replay.history, replay.history)
        assert_same(info.trajectory, trajectory)
        assert collect.accepted == 12
        assert replay.iterations > 1
        state = ours


def test_training_is_a_generator_that_does_nothing_until_it_is_asked():
    learner, state = networked()
    calls = []

    def update(*arguments):
        calls.append(arguments)
        return learner.update(*arguments)

    run = run_two_phase_training(state, learner=learner._replace(update=update), epochs=2, **OPTIONS)
    assert isinstance(run, types.GeneratorType)
    assert calls == []
    next(run)
    assert calls


def test_it_yields_once_per_epoch_until_the_epoch_asked_for():
    learner, state = networked()
    seen = list(run_two_phase_training(state, learner=learner, epochs=3, **OPTIONS))
    assert [int(state.epoch) for state, _ in seen] == [1, 2, 3]
    assert [info.epoch for _, info in seen] == [0, 1, 2]
    assert list(run_two_phase_training(seen[-1][0], learner=learner, epochs=3, **OPTIONS)) == []  # it is there already
    assert [i.epoch for _, i in run_two_phase_training(seen[1][0], learner=learner, epochs=3, **OPTIONS)] == [2]


@pytest.fixture(scope="module")
def unbroken():
    """A learner, where it started, and what four epochs of it yield."""
    learner, state = networked()
    return learner, state, list(run_two_phase_training(state, learner=learner, epochs=4, seed=5, **OPTIONS))


@pytest.mark.parametrize("broken_after", [1, 3])
def test_a_run_resumed_from_a_yielded_state_is_the_unbroken_one_bit_for_bit(unbroken, broken_after):
    learner, _, whole = unbroken
    again = tree.map_leaves(torch.clone, whole[broken_after - 1][0])  # as if read from a file
    resumed = list(run_two_phase_training(again, learner=learner, epochs=4, seed=5, **OPTIONS))
    assert len(resumed) == 4 - broken_after
    for (state, info), (expected, expected_info) in zip(resumed, whole[broken_after:], strict=True):
        assert_same(state, expected)
        assert_same(info.trajectory, expected_info.trajectory)
        assert_same(info.replay.history, expected_info.replay.history)
        assert info.collect == expected_info.collect
    # something was learned in these epochs, or all this were no test
    assert not torch.equal(tree.leaves(whole[-1][0].params)[0], tree.leaves(again.params)[0])


def test_the_run_is_determined_by_its_seed_and_another_draws_otherwise(unbroken):
    learner, start, whole = unbroken
    same = list(run_two_phase_training(start, learner=learner, epochs=2, seed=5, **OPTIONS))
    assert_same(same[-1][0], whole[1][0])
    other = list(run_two_phase_training(start, learner=learner, epochs=2, seed=6, **OPTIONS))
    assert not torch.equal(other[-1][0].params["network"][0].weight, whole[1][0].params["network"][0].weight)


def test_each_epoch_draws_anew(unbroken):
    learner, _, whole = unbroken
    ends = []
    for epoch in (2, 3):  # the same state but for its number
        state = whole[1][0]._replace(epoch=torch.tensor(epoch))
        ends.append(train_epoch_two_phase(state, learner=learner, seed=5, **OPTIONS))
    assert_same(ends[0][1].trajectory, ends[1][1].trajectory)  # Part 1 draws nothing
    assert not torch.equal(*(state.params["network"][0].weight for state, _ in ends))


def test_systems_and_windows_carry_on_from_epoch_to_epoch(unbroken):
    _, _, whole = unbroken
    for (state, _), (_, info) in itertools.pairwise(whole):
        for population, group in zip(state.population, info.trajectory, strict=True):
            for row in range(len(population.stop_time)):
                waiting, found = tree.take(population.sample, row), where(group.system.position, population, row)
                assert_same(tree.take(group.system, found), waiting.system)
                assert_same(tree.take(group.window, found), waiting.window)
    assert whole[0][1].collect.recorded == 3 * 3  # one step of four to fill the window
    assert whole[1][1].collect.recorded == 3 * 4


def test_a_restart_begins_every_epoch_from_the_given_population_and_keeps_the_parameters():
    learner, state = networked()
    initial = state.population
    yielded = list(run_two_phase_training(state, learner=learner, epochs=3, restart_from=initial, **OPTIONS))
    for _, info in yielded:
        assert info.collect.recorded == 3 * 3  # the windows are empty again
        for group, population in zip(info.trajectory, initial, strict=True):
            for row in range(len(population.stop_time)):
                first = where(group.window.position[:, -1], population, row)  # the start is in the window of the next
                assert group.window.time[first, -1] == 0
    assert not torch.equal(yielded[0][0].params["network"][0].weight, yielded[1][0].params["network"][0].weight)


def test_without_a_restart_systems_that_have_reached_their_end_leave_an_empty_epoch():
    ends = [torch.full((2,), 1e-3, dtype=torch.float64), torch.full((1,), 1e-3, dtype=torch.float64)]
    learner, state = networked(history_len=0, stop_time=ends)
    with pytest.warns(
        TrainingWarning, match=r"epoch 1 tried nothing, as every system has retired; start .*restart_from"
    ):
        first, second = run_two_phase_training(state, learner=learner, epochs=2, **OPTIONS)
    assert first[1].collect.accepted == 3  # one step each takes them past it
    assert (second[1].collect.accepted, second[1].trajectory) == (0, ())
    assert (second[1].replay.converged, second[1].replay.iterations) == (False, 0)
    assert (second[1].outcome, second[1].replay.outcome, second[1].converged) == ("retired", "empty", False)
    again = list(run_two_phase_training(state, learner=learner, epochs=2, restart_from=state.population, **OPTIONS))
    assert [info.collect.accepted for _, info in again] == [3, 3]


def stuck():
    """A criterion whose step is far too long, and an optimizer too slow to help."""
    policy = build_criterion_policy(free_fall(GRAVITY, eta=2.0))
    learner = make_learner(policy, sgd(1e-9))
    population = init_population(binaries(0, 2, eccentricity=(0.1, 0.5)), gravity=GRAVITY)
    return learner, init_train_state(policy.init(0), learner.optimizer, population)


def test_training_ends_after_the_epoch_that_reached_the_retrain_limit_with_a_warning():
    learner, state = stuck()
    run = run_two_phase_training(state, learner=learner, epochs=5, max_retrain_steps=3)
    after, info = next(run)
    with pytest.warns(TrainingWarning) as told:
        assert list(run) == []
    (warning,) = told
    assert warning.filename == __file__  # of the loop that asks, not of the library
    assert str(warning.message).startswith(
        "run_two_phase_training: stopped after epoch 0 of 5: system 0 of group 0 was rejected 3 times in a row (energy "
    )
    assert "threshold 0.0002); raise learning_rate" in str(warning.message)
    assert info.collect.status == RETRAIN_LIMIT
    assert len(info.collect.stuck) == 2
    assert int(after.epoch) == 1
    assert not info.replay.converged  # nothing was collected, so nothing was judged
    assert (info.outcome, info.converged) == (RETRAIN_LIMIT, False)


def test_a_stuck_epoch_has_not_converged_whatever_part_2_made_of_what_was_collected():
    learner, state = stuck()
    hard = learner.objective

    def attempt(params, batch):  # of two systems the first passes
        after, info = hard.attempt(params, batch)
        first = state.population[0].sample.system.position[0]
        return after, info._replace(accepted=(batch[0].system.position == first).flatten(1).all(1))

    def judge(state, batch, loss_on):  # and nothing is learned
        return state, (torch.zeros((), dtype=torch.float64), attempt(state.params, batch)[1])

    learner = learner._replace(objective=hard._replace(attempt=attempt), update=judge)
    _, info = train_epoch_two_phase(state, learner=learner, max_retrain_steps=2, min_replay_size=1)
    assert (info.collect.accepted, info.replay.outcome) == (1, "converged")
    assert (info.outcome, info.converged) == (RETRAIN_LIMIT, False)


def test_part_2_that_never_judged_anything_is_warned_of_at_the_end():
    learner, state = networked(history_len=0)
    one = state._replace(population=state.population[1:])
    with pytest.warns(
        TrainingWarning, match=r"Part 2 never ran: the last trajectory has 1 samples, and min_replay_size"
    ):
        seen = list(run_two_phase_training(one, learner=learner, epochs=2))
    assert [(info.outcome, info.replay.skipped, info.replay.converged) for _, info in seen] == 2 * [
        ("skipped", True, False)
    ]
    learner, state = networked(history_len=2)
    with pytest.warns(TrainingWarning, match=r"Part 2 never ran: no window is full yet; it takes history_len steps"):
        seen = list(run_two_phase_training(state, learner=learner, epochs=2))
    assert [info.outcome for _, info in seen] == ["filling", "filling"]
    # once it has judged, there is nothing to say (and warnings are errors here)
    seen = list(run_two_phase_training(seen[-1][0], learner=learner, epochs=3, replay_steps=1))
    assert seen[-1][1].outcome in ("converged", "not_converged")


def test_an_epoch_says_whether_part_2_converged():
    learner, state = networked(history_len=0)
    _, info = train_epoch_two_phase(state, learner=learner, **OPTIONS | {"replay_steps": 1, "steps_per_epoch": 8})
    assert (info.outcome, info.converged, info.replay.converged) == ("not_converged", False, False)
    options = OPTIONS | {"loss_on": "failed", "convergence": "minibatch"}
    _, info = train_epoch_two_phase(state, learner=learner, **options)  # all were accepted a moment ago
    assert (info.outcome, info.converged, info.replay.converged) == ("converged", True, True)


@pytest.mark.parametrize("population", [(), "no systems"])
def test_training_without_a_population_is_refused(population):
    learner, state = networked(history_len=0)
    if population:
        population = tuple(tree.take(group, slice(0, 0)) for group in state.population)
    empty = state._replace(population=population)
    with pytest.raises(ValueError, match="run_two_phase_training: the state has no population, so there is nothing to"):
        run_two_phase_training(empty, learner=learner, epochs=1)  # by the call itself
    with pytest.raises(ValueError, match="train_epoch_two_phase: the state has no population"):
        train_epoch_two_phase(empty, learner=learner)
    options = {"replay_steps": 1}
    seen = list(run_two_phase_training(empty, learner=learner, epochs=1, restart_from=state.population, **options))
    assert seen[0][1].collect.accepted == 3


@pytest.mark.parametrize(
    ("steps", "history_len", "refused"), [(2, 2, True), (1, 2, True), (3, 2, False), (1, 0, False)]
)
def test_a_restart_with_windows_that_never_fill_is_refused_before_anything_is_done(steps, history_len, refused):
    learner, state = networked(history_len=history_len)
    options = {"learner": learner, "epochs": 1, "restart_from": state.population, "replay_steps": 1}
    if refused:
        message = f"steps_per_epoch = {steps} steps only fill windows of history_len = {history_len} .* set steps_per"
        with pytest.raises(ValueError, match=message):  # by the call itself, not by the first epoch
            run_two_phase_training(state, steps_per_epoch=steps, **options)
    else:
        ((_, info),) = run_two_phase_training(state, steps_per_epoch=steps, **options)
        assert info.collect.recorded == 3


def test_the_default_of_one_step_is_refused_too_if_there_is_history():
    learner, state = networked(history_len=1)
    with pytest.raises(ValueError, match="steps_per_epoch = 1 steps only fill windows of history_len = 1"):
        run_two_phase_training(state, learner=learner, epochs=1, restart_from=state.population)
    # without a restart the windows fill in the first epoch and stay full
    seen = list(run_two_phase_training(state, learner=learner, epochs=2, replay_steps=1))
    assert [info.collect.recorded for _, info in seen] == [0, 3]


def test_no_epochs_are_refused_by_the_call_and_unknown_words_by_the_first_epoch():
    learner, state = networked()
    with pytest.raises(ValueError, match="run_two_phase_training: epochs must be >= 1, got 0"):
        run_two_phase_training(state, learner=learner, epochs=0)
    run = run_two_phase_training(state, learner=learner, epochs=1, batch_size=3)
    with pytest.raises(TypeError, match="batch_size"):
        next(run)


def test_training_prints_nothing_touches_no_global_generator_and_leaves_its_start_alone(capfd):
    learner, state = networked()
    before, generator = bits(state), torch.get_rng_state()
    list(run_two_phase_training(state, learner=learner, epochs=2, **OPTIONS))
    assert torch.equal(torch.get_rng_state(), generator)
    for name, leaf in tree.named_leaves(state).items():
        assert torch.equal(leaf, before[name]), name
    assert capfd.readouterr() == ("", "")


def test_an_epoch_begins_with_leaves_that_lie_as_if_they_came_from_a_checkpoint(monkeypatch):
    # How a matrix lies in memory may decide how its products round, and so what a run that was killed ends with.
    learner, state = networked()
    assert any(leaf.stride() != tree.in_order(leaf).stride() for leaf in tree.leaves(state.params))  # a fresh network
    begun = []
    collect = epochs.collect_trajectory
    monkeypatch.setattr(
        epochs, "collect_trajectory", lambda given, **options: begun.append(given) or collect(given, **options)
    )
    train_epoch_two_phase(state, learner=learner, **OPTIONS)
    assert all(leaf.stride() == tree.in_order(leaf.clone()).stride() for leaf in tree.leaves(begun[0]))
    assert_same(begun[0], state)
