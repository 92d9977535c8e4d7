"""Laws of Part 2, whatever it is given to replay."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from aits_func.base import tree
from aits_func.learning.network import Layer
from aits_func.learning.optimizers import adam, build_optimizer, sgd
from aits_func.learning.transformations import chain, clip_by_global_norm
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import Learner, build_learner
from aits_func.loops.objective import count_samples, evaluate_minibatch
from aits_func.loops.replay import evaluate_trajectory, generalize_on_trajectory, in_band, sample_minibatch
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import free_fall, p_norm
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_residual_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample

GRAVITY = build_gravity(softening=0.05)
FEATURES = build_features("invariant", GRAVITY)
seeds = st.integers(0, 2**31)


@st.composite
def trajectories(draw, min_size=2):
    """One or two groups of states, as a collection might have left them; at least ``min_size`` samples."""
    pairs, triples = draw(st.integers(0, 4)), draw(st.integers(min_size, 5))
    groups = [gaussian_cluster(draw(seeds), triples, position_scale=1.0, velocity_scale=0.3)]
    if pairs:
        groups.append(binaries(draw(seeds), pairs, eccentricity=(0.0, 0.7)))
    return tuple(vmap(first_sample)(group) for group in groups)


def residual(eta, **options):
    return build_residual_policy(FEATURES, p_norm(GRAVITY, eta=eta), hidden=(4,), **options)


class Spy:
    """A learner that remembers the minibatches it judged, and by which parameters."""

    def __init__(self, policy, optimizer):
        step = build_step(policy, GRAVITY, build_leapfrog_kdk(GRAVITY))
        inner = build_learner(step, optimizer)
        self.judged = []

        def update(state, batch, on="failed"):
            outcome = inner.update(state, batch, on)
            self.judged.append((state.params, batch, outcome[1][1]))
            return outcome

        self.objective = inner.objective
        self.learner = Learner(inner.objective, inner.optimizer, update)

    def start(self, params):
        return init_train_state(params, self.learner.optimizer)


def clipped():
    """Steps of bounded length: where ΔE(dt) happens to cross 0 the gradient of ln ε has no bound."""
    return chain(clip_by_global_norm(1.0), sgd(0.03, momentum=0.5))


optimizers = st.sampled_from([lambda: adam(0.05), clipped, lambda: build_optimizer("adamw", 0.03, clip_norm=1.0)])


@st.composite
def replays(draw, etas=(0.05, 0.3, 1.0)):
    """(spy, state, trajectory, options): anything that may be replayed."""
    policy = residual(draw(st.sampled_from(etas)))
    spy = Spy(policy, draw(optimizers)())
    options = {
        "seed": draw(seeds),
        "replay_batch_size": draw(st.integers(1, 8)),
        "replay_steps": draw(st.integers(1, 12)),
        "loss_on": draw(st.sampled_from(["failed", "all"])),
        "convergence": draw(st.sampled_from(["minibatch", "band", "trajectory"])),
    }
    return spy, spy.start(policy.init(draw(seeds))), draw(trajectories()), options


def clones(*trees):
    return [leaf.clone() for leaf in tree.leaves(trees)]


def assert_same(one, other):
    for (name, leaf), same in zip(tree.named_leaves(one).items(), tree.leaves(other), strict=True):
        assert torch.equal(leaf, same), name


@given(replays())
def test_it_ends_in_time_and_what_converged_passes_that_very_minibatch(replay):
    spy, state, trajectory, options = replay
    end, info = generalize_on_trajectory(state, trajectory, learner=spy.learner, **options)
    assert 1 <= info.iterations <= options["replay_steps"]
    assert info.iterations == len(spy.judged)
    assert info.converged or info.iterations == options["replay_steps"]
    params, batch, seen = spy.judged[-1]
    if info.converged:
        assert_same(end.params, params)
        passes, again = evaluate_minibatch(end.params, batch, objective=spy.objective)
        assert bool(in_band(again, spy.objective).all() if options["convergence"] == "band" else passes)
    if info.converged and options["convergence"] == "trajectory":
        assert info.pass_rate == 1.0
    # and nothing that was judged before had passed
    for _, _, earlier in spy.judged[:-1]:
        if options["convergence"] == "minibatch":
            assert not earlier.accepted.all()
        if options["convergence"] == "band":
            assert not in_band(earlier, spy.objective).all()
    assert count_samples(batch) == min(options["replay_batch_size"], count_samples(trajectory)) == len(seen.dt)


@given(replays())
def test_the_report_is_that_of_the_whole_trajectory_and_the_returned_parameters(replay):
    spy, state, trajectory, options = replay
    end, info = generalize_on_trajectory(state, trajectory, learner=spy.learner, **options)
    whole = evaluate_trajectory(end.params, trajectory, objective=spy.objective, batch_size=3)
    errors = [error if math.isfinite(error) else 1.0 for error in whole.energy_error.tolist()]
    # smaller pieces may sum in another order; ε is a difference of energies, and may be anything from 1e-16 to 1e150
    close = {"rel_tol": 1e-9, "abs_tol": 1e-11}
    assert math.isclose(info.mean_energy_error, sum(errors) / len(errors), **close)
    assert math.isclose(info.max_energy_error, max(errors), **close)
    assert math.isclose(info.mean_dt, sum(whole.dt.tolist()) / len(errors), **close)
    assert math.isclose(info.pass_rate, sum(whole.accepted.tolist()) / len(errors), rel_tol=1e-12)
    assert len(info.history.loss) == info.iterations


@given(replays())
def test_trajectory_and_state_come_out_as_they_went_in(replay):
    spy, state, trajectory, options = replay
    before, generator = clones(state, trajectory), torch.get_rng_state()
    generalize_on_trajectory(state, trajectory, learner=spy.learner, **options)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves((state, trajectory)), before, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)


@given(replays())
def test_the_same_seed_gives_the_same_bits(replay):
    spy, state, trajectory, options = replay
    one, info = generalize_on_trajectory(state, trajectory, learner=spy.learner, **options)
    torch.rand(3)  # whatever the global generator is at
    two, again = generalize_on_trajectory(state, trajectory, learner=spy.learner, **options)
    assert_same(one, two)
    assert info[:-1] == again[:-1]
    assert_same(info.history, again.history)


@given(trajectories(), seeds, st.sampled_from(["minibatch", "trajectory"]), st.sampled_from(["failed", "all"]))
def test_what_is_good_already_is_left_as_it_is_after_one_iteration(trajectory, seed, convergence, loss_on):
    policy = build_criterion_policy(free_fall(GRAVITY, eta=1e-4))
    spy = Spy(policy, adam(0.1, weight_decay=0.1))
    state = spy.start(policy.init(0))
    end, info = generalize_on_trajectory(
        state, trajectory, learner=spy.learner, seed=seed, convergence=convergence, loss_on=loss_on
    )
    assert (info.converged, info.iterations, info.pass_rate) == (True, 1, 1.0)
    assert_same(end, state)


@given(trajectories(min_size=1), st.integers(1, 12), seeds)
def test_a_minibatch_is_made_of_distinct_samples_of_the_trajectory(trajectory, size, seed):
    def rows(groups):
        return [tuple(group.system.position[k].flatten().tolist()) for group in groups for k in range(len(group.dt))]

    drawn, known = rows(sample_minibatch(trajectory, size, seed=seed)), rows(trajectory)
    assert len(drawn) == len(set(drawn)) == min(size, len(known))
    assert set(drawn) <= set(known)


@given(trajectories(), seeds, st.integers(0, 100))
def test_a_minibatch_with_an_exploding_sample_is_learned_from(trajectory, seed, row):
    policy = residual(0.3)
    spy = Spy(policy, clipped())  # without the guard that skips a gradient that is not finite
    # one system is so heavy that its energy overflows; per unit of mass, which is how features see it, nothing does
    group = trajectory[0]
    mass = group.system.mass.clone()
    mass[row % len(mass)] *= 1e160
    trajectory = (group._replace(system=group.system._replace(mass=mass)), *trajectory[1:])
    state = spy.start(policy.init(seed))
    end, info = generalize_on_trajectory(
        state, trajectory, learner=spy.learner, seed=seed, replay_steps=3, loss_on="all", convergence="trajectory"
    )
    assert spy.judged[0][2].exploded.sum() == 1
    assert not info.converged
    assert all(leaf.isfinite().all() for leaf in tree.leaves(end.params))
    assert not torch.equal(end.params["network"][-1].bias, state.params["network"][-1].bias)
    assert info.max_energy_error >= 1.0  # an exploded step counts as 1


@given(trajectories(), seeds, st.floats(0.5, 1.5))
def test_a_network_that_explodes_everywhere_recovers(trajectory, seed, bias):
    policy = residual(0.01, bound=1e300)  # the correction may be as large as e^690
    spy = Spy(policy, adam(0.1))
    params = policy.init(seed)
    *hidden, last = params["network"]
    params = {**params, "network": (*hidden, Layer(last.weight, last.bias + bias))}
    end, info = generalize_on_trajectory(
        spy.start(params), trajectory, learner=spy.learner, seed=seed, convergence="trajectory"
    )
    assert spy.judged[0][2].exploded.all()
    assert info.history.pass_rate[0] == 0.0
    assert info.converged
    assert info.pass_rate == 1.0
    assert all(leaf.isfinite().all() for leaf in tree.leaves(end.params))
