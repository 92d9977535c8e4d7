"""Learners by Levenberg–Marquardt: on three bodies, with gradients of the same objective as oracle."""

import shutil

import pytest
import torch
from torch.func import grad, jacrev, jvp, vmap

from aits_func.base.tree import leaves, map_leaves, take
from aits_func.base.types import StepInfo
from aits_func.learning.least_squares import levenberg_marquardt
from aits_func.learning.optimizers import adam
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import build_learner
from aits_func.loops.replay import generalize_on_trajectory
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_mlp_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample

GRAVITY = build_gravity()


def second_order(optimizer=None, **options):
    """A learner by Levenberg–Marquardt, and its start."""
    features, criterion = build_features("invariant", GRAVITY), p_norm(GRAVITY, eta=0.3)
    policy = build_mlp_policy(features, timescale=criterion, hidden=(16,))
    step = build_step(policy, GRAVITY, build_leapfrog_kdk(GRAVITY))
    learner = build_learner(step, optimizer or levenberg_marquardt(), **options)
    return learner, init_train_state(policy.init(0), learner.optimizer)


def three_bodies(count=24, seed=0):
    return (vmap(first_sample)(gaussian_cluster(seed, count, position_scale=1.0, velocity_scale=0.3)),)


def test_second_order_steps_lower_the_loss_to_nothing():
    learner, state = second_order()
    batch = three_bodies()
    losses = []
    for _ in range(8):
        state, (loss, _) = learner.update(state, batch, "all")
        losses.append(float(loss))
    # Twenty-four residuals and over a hundred parameters: all of them can vanish.
    assert losses[-1] < 1e-6 * losses[0]


@pytest.mark.parametrize("on", ["failed", "all"])
def test_losses_and_gradients_of_single_samples_add_up_to_those_of_the_batch(on):
    learner, state = second_order()
    batch, objective = three_bodies(), learner.objective
    whole, info = objective.loss(state.params, batch, on)
    slope = grad(lambda params: objective.loss(params, batch, on)[0])(state.params)
    count = 24 if on == "all" else int((~info.accepted).sum())
    assert count > 0
    assert (count < 24) == (on == "failed")
    torch.testing.assert_close(objective.sample_losses(state.params, batch, on).sum() / count, whole)
    sums = map_leaves(lambda leaf: leaf.sum(0) / count, objective.sample_gradients(state.params, batch, on))
    assert max(float(leaf.abs().max()) for leaf in leaves(slope)) > 1e-2
    for ours, theirs in zip(leaves(sums), leaves(slope), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)  # the same sums in another order


@pytest.mark.parametrize("on", ["failed", "all"])
def test_second_order_steps_of_those_that_pull_are_those_of_all(on):
    learner, state = second_order()
    batch = three_bodies()
    whole, (loss, _) = learner.update(state, batch, on)
    some = learner.update_some(state, batch, on, 24)
    assert int(some.pulling) <= 24
    torch.testing.assert_close(some.loss, loss)
    for ours, theirs in zip(leaves(some.state), leaves(whole), strict=True):
        # Rows of the equations in another order.
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def test_only_failed_samples_are_linearised_where_only_they_count():
    learner, state = second_order()
    batch = three_bodies()
    _, info = learner.objective.judge(state.params, batch)
    failed = (take(batch[0], ~info.accepted),)
    assert 0 < len(failed[0].active) < 24
    ours, _ = learner.update(state, batch, "failed")
    theirs, _ = learner.update(state, failed, "failed")
    for a, b in zip(leaves(ours.params), leaves(theirs.params), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)  # rows of zeros more or less, and rounding


def test_second_order_steps_aim_inside_the_band_and_gradients_at_its_edge():
    learner, _ = second_order(E_lower=1e-6, E_upper=1e-2)
    assert (learner.objective.E_lower, learner.objective.E_upper) == (1e-6, 1e-2)
    assert (learner.aim.E_lower, learner.aim.E_upper) == (pytest.approx(1e-5), pytest.approx(1e-3))
    at_the_edge, _ = second_order(margin=0.0)
    assert at_the_edge.aim == at_the_edge.objective


@pytest.mark.parametrize("margin", [-0.1, 0.5, float("nan")])
def test_a_margin_that_leaves_no_band_is_refused(margin):
    with pytest.raises(ValueError, match=r"build_learner: margin must be in \[0, 0.5\)"):
        second_order(margin=margin)


def test_eight_second_order_iterations_bring_more_samples_into_the_band_than_eighty_of_adam():
    rates = []
    for optimizer, count in ((levenberg_marquardt(), 8), (adam(1e-2), 80)):
        learner, state = second_order(optimizer)
        _, info = generalize_on_trajectory(
            state, three_bodies(200), learner=learner, replay_batch_size=100, replay_steps=count, loss_on="all",
            convergence="band",
        )  # fmt: skip
        rates.append(info.band_rate)
    assert rates[0] > 0.95
    assert rates[0] > rates[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler was found")
def test_a_compiled_second_order_update_is_the_eager_one():
    def step(params, sample):
        """ε = e^(slope · mass) dt³ in place of physics: what is compiled is the update."""
        dt = (params["log_dt"] + params["slope"] * sample.system.mass[0]).exp()
        error = sample.system.mass[1].exp() * dt**3
        return sample.system, StepInfo(dt, error, error < 2e-4, torch.zeros_like(sample.active))

    learner = build_learner(step, levenberg_marquardt())
    params = {"log_dt": torch.tensor(0.3, dtype=torch.float64), "slope": torch.tensor(-0.2, dtype=torch.float64)}
    systems = gaussian_cluster(0, 24, mass_range=(0.5, 2.0))
    batch = (vmap(first_sample)(systems),)
    ends = []
    for compile in ("off", "on"):
        state = init_train_state(params, learner.optimizer)
        state, _ = generalize_on_trajectory(
            state, batch, learner=learner, replay_batch_size=16, replay_steps=2, loss_on="all", compile=compile
        )
        ends.append(state)
    assert float(ends[0].params["log_dt"]) < -1
    for ours, theirs in zip(*map(leaves, ends), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)  # sixteen equations in two parameters, damped


def test_matrix_free_steps_lower_the_loss_of_three_bodies_like_dense_ones():
    batch, ends = three_bodies(), []
    for budget in (0, 2**25):
        learner, state = second_order(levenberg_marquardt(budget=budget, iterations=40))
        for _ in range(4):
            state, _ = learner.update(state, batch, "all")
        ends.append(float(learner.aim.loss(state.params, batch, "all")[0]))
        start = float(learner.aim.loss(second_order()[1].params, batch, "all")[0])
        # Conjugate gradients stop at a thousandth of their equations, and so does the decrease of a step.
        assert ends[-1] < 1e-2 * start


def test_the_jacobian_is_that_of_jacrev_and_products_with_the_hessian_that_of_the_gradient():
    learner, state = second_order()
    batch, objective = three_bodies(6), learner.objective
    _, rows = objective.jacobian(state.params, batch)
    for ours, theirs in zip(leaves(rows), leaves(jacrev(objective.residuals)(state.params, batch)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)

    def slope(params):
        return grad(lambda p: objective.loss(p, batch, "all")[0])(params)

    direction, h = map_leaves(torch.sign, slope(state.params)), 1e-6
    _, product = jvp(slope, (state.params,), (direction,))
    above, below = (slope(map_leaves(lambda x, d, s=s: x + s * h * d, state.params, direction)) for s in (1.0, -1.0))
    for ours, up, down in zip(*map(leaves, (product, above, below)), strict=True):
        # h² of truncation, and 1e-12 of rounding over h, of numbers of order hundred.
        torch.testing.assert_close(ours, (up - down) / (2 * h), rtol=1e-4, atol=1e-3)
