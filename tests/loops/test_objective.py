"""The loss of a minibatch and its update, against loops over samples with autograd and torch.optim."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.base.types import Sample, StepInfo, System
from aits_func.learning.losses import compute_single_step_loss
from aits_func.learning.network import Layer
from aits_func.learning.optimizers import adam, build_optimizer, sgd
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import build_learner
from aits_func.loops.objective import (
    as_groups,
    build_objective,
    chosen_samples,
    count_samples,
    evaluate_minibatch,
    pick,
)
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_residual_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample

LOWER, UPPER = math.log(1e-6), math.log(1e-4)


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


# A step without physics: ε = difficulty · dt³, the difficulty on the clock of the system, dt = e^log_dt.
def stub_step(params, sample):
    dt = torch.where(sample.active, params["log_dt"].exp(), 0.0)
    error = sample.system.time * dt**3
    moved = sample.system._replace(position=sample.system.position + dt)
    return moved, StepInfo(dt, error, error < 2e-4, ~error.isfinite())


def stub_group(difficulties, bodies=2, active=None):
    count = len(difficulties)
    x = torch.zeros(count, bodies, 2, dtype=torch.float64)
    zero = torch.zeros(count, dtype=torch.float64)
    systems = System(torch.ones(count, bodies, dtype=torch.float64), x, x, tensor(list(difficulties)), zero)
    group = vmap(first_sample)(systems)
    return group if active is None else group._replace(active=torch.tensor(active))


def stub_params(dt=0.1):
    return {"log_dt": tensor(math.log(dt))}


def by_hand(difficulty, dt=0.1):
    """(ε, loss) of one sample, in Python numbers."""
    error = difficulty * dt**3
    x = math.log(error + 1e-12)
    return error, max(LOWER - x, 0) ** 2 + max(x - UPPER, 0) ** 2


# Below the band, inside it, between band and threshold, failed, failed badly: at dt = 0.1, ε is a thousandth of these.
DIFFICULTIES = (1e-5, 1e-2, 0.15, 0.5, 20.0)


def test_the_loss_is_the_mean_over_the_failed_samples_alone():
    loss, info = build_objective(stub_step).loss(stub_params(), (stub_group(DIFFICULTIES),), "failed")
    rows = [by_hand(d) for d in DIFFICULTIES]
    failed = [value for error, value in rows if not error < 2e-4]
    assert len(failed) == 2
    # logarithms and squares in double precision
    assert float(loss) == pytest.approx(sum(failed) / 2, rel=1e-13)
    assert info.energy_error.tolist() == pytest.approx([error for error, _ in rows], rel=1e-14)
    assert info.accepted.tolist() == [True, True, True, False, False]


def test_on_all_the_loss_is_the_mean_over_every_active_sample():
    loss, _ = build_objective(stub_step).loss(stub_params(), (stub_group(DIFFICULTIES),), "all")
    assert float(loss) == pytest.approx(sum(by_hand(d)[1] for d in DIFFICULTIES) / 5, rel=1e-13)
    active = [True, False, True, False, True]
    loss, _ = build_objective(stub_step).loss(stub_params(), (stub_group(DIFFICULTIES, active=active),), "all")
    assert float(loss) == pytest.approx(sum(by_hand(d)[1] for d in DIFFICULTIES[::2]) / 3, rel=1e-13)


def test_failed_is_what_is_meant_where_nothing_is_said():
    objective, batch = build_objective(stub_step), (stub_group(DIFFICULTIES),)
    assert objective.loss(stub_params(), batch)[0] == objective.loss(stub_params(), batch, "failed")[0]


def test_the_loss_of_a_batch_in_which_nothing_failed_is_zero_with_gradient_zero():
    objective = build_objective(stub_step)
    slope, _ = grad(objective.loss, has_aux=True)(stub_params(), (stub_group([1e-5, 1e-2]),))
    assert slope["log_dt"] == 0
    assert objective.loss(stub_params(), (stub_group([1e-5, 1e-2]),))[0] == 0


def test_the_band_is_the_one_that_was_asked_for():
    objective = build_objective(stub_step, E_lower=1e-3, E_upper=2e-3)
    assert (objective.E_lower, objective.E_upper) == (1e-3, 2e-3)
    residual = objective.residuals(stub_params(), (stub_group([0.5, 1.5, 20.0]),))
    expected = [math.log(5e-4 / 1e-3), 0.0, math.log(2e-2 / 2e-3)]
    assert residual.tolist() == pytest.approx(expected, abs=1e-8)  # the guard 1e-12 beside 5e-4


def test_residuals_squared_are_the_losses_and_an_inactive_sample_has_none():
    batch = (stub_group(DIFFICULTIES, active=[True, True, True, True, False]),)
    residual, info = build_objective(stub_step).judge(stub_params(), batch)
    expected = compute_single_step_loss(info.energy_error, info.dt, info.exploded)
    torch.testing.assert_close(residual[:4] ** 2, expected[:4], rtol=1e-15, atol=0)
    assert residual[0] < 0 < residual[3]  # the sign tells below from above
    assert residual[4] == 0
    assert info.energy_error[4] == 0
    assert info.accepted[4]


GRAVITY = build_gravity(softening=0.05)
FEATURES = build_features("invariant", GRAVITY)
POLICY = build_residual_policy(FEATURES, p_norm(GRAVITY, eta=0.12), hidden=(4,))
STEP = build_step(POLICY, GRAVITY, build_leapfrog_kdk(GRAVITY))


def real_group(bodies, count, seed):
    systems = gaussian_cluster(
        seed, count, bodies=bodies, dimensions=3, position_scale=1.0, velocity_scale=0.5, mass_range=(0.5, 2.0)
    )
    return vmap(first_sample)(systems)


def grown_params(seed=5):
    params, make = POLICY.init(0), torch.Generator().manual_seed(seed)
    layers = [
        Layer(*(0.5 * torch.randn(leaf.shape, generator=make, dtype=torch.float64) for leaf in layer))
        for layer in params["network"]
    ]
    return {**params, "network": tuple(layers)}


def naive_energy(mass, x, v):
    total = 0.0
    for i in range(len(mass)):
        total = total + 0.5 * mass[i] * (v[i] * v[i]).sum()
        for j in range(i):
            total = total - mass[i] * mass[j] / (((x[j] - x[i]) ** 2).sum() + 0.05**2).sqrt()
    return total


def naive_acceleration(mass, x):
    rows = []
    for i in range(len(mass)):
        d = [x[j] - x[i] for j in range(len(mass))]
        rows.append(sum(m * r / ((r * r).sum() + 0.05**2) ** 1.5 for m, r in zip(mass, d, strict=True)))
    return torch.stack(rows)


def naive_loss(params, groups, on):
    """Sample by sample and body by body; only the prediction of dt is the library's."""
    losses = []
    for sample in (tree.take(group, row) for group in groups for row in range(len(group.active))):
        mass, x, v = sample.system[:3]
        dt = POLICY.apply(params, sample.system, sample.window)
        v_half = v + dt / 2 * naive_acceleration(mass, x)
        x_end = x + dt * v_half
        v_end = v_half + dt / 2 * naive_acceleration(mass, x_end)
        before = naive_energy(mass, x, v)
        error = abs(naive_energy(mass, x_end, v_end) - before) / abs(before + 1e-12 * abs(before) + 1e-12)
        if on == "all" or not error < 2e-4:
            ln = (error + 1e-12).log()
            losses.append((LOWER - ln).clamp(min=0) ** 2 + (ln - UPPER).clamp(min=0) ** 2)
    return sum(losses) / len(losses)


GROUPS = (real_group(2, 3, 0), real_group(3, 4, 1), real_group(4, 2, 2))


@pytest.mark.parametrize("on", ["failed", "all"])
def test_groups_of_different_size_are_pooled_as_in_a_loop_over_all_samples(on):
    objective, params = build_objective(STEP), grown_params()
    loss, info = objective.loss(params, GROUPS, on)
    assert info.accepted.shape == (9,)
    assert 2 < info.accepted.sum() < 7  # some of each, in more than one group
    # ε is a difference of energies 1e-4 of their size, so ln ε carries 1e-12
    torch.testing.assert_close(loss, naive_loss(params, GROUPS, on), rtol=1e-11, atol=0)
    # pooled: not the mean of the groups' own means
    means = torch.stack([objective.loss(params, (group,), on)[0] for group in GROUPS])
    assert abs(means.mean() - loss) > 1e-3 * loss


def test_attempts_come_back_group_by_group_and_their_reports_in_one_row():
    objective, params = build_objective(STEP), grown_params()
    after, info = objective.attempt(params, GROUPS)
    assert [len(group.time) for group in after] == [3, 4, 2]
    one_by_one = [STEP(params, tree.take(group, row)) for group in GROUPS for row in range(len(group.active))]
    torch.testing.assert_close(info.dt, torch.stack([i.dt for _, i in one_by_one]), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.cat([group.time for group in after]), torch.stack([a.time for a, _ in one_by_one]), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("on", ["failed", "all"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_are_those_of_torch_adam_on_the_naive_loss(on, weight_decay):
    learner = build_learner(STEP, adam(1e-2, eps=0.1, weight_decay=weight_decay))
    state = init_train_state(grown_params(), learner.optimizer)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(state.params)]
    optimizer = torch.optim.Adam(leaves, lr=1e-2, eps=0.1, weight_decay=weight_decay)
    for _ in range(3):
        optimizer.zero_grad()
        loss = naive_loss(tree.replace_leaves(state.params, leaves), GROUPS, on)
        loss.backward()
        optimizer.step()
        state, (ours, _) = learner.update(state, GROUPS, on)
        torch.testing.assert_close(ours, loss.detach(), rtol=1e-11, atol=0)  # as above
    for ours, theirs in zip(tree.leaves(state.params), leaves, strict=True):
        # Entries of the gradient are of size 1 to 10 and carry 1e-12; a step is 1e-2 of that over 0.1 or more.
        # (With the default ε of Adam, 1e-8, an entry that is almost 0 is divided by itself, rounding and all,
        # and two exact ways to the same gradient part by 8e-12.)
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


OPTIMIZERS = {
    "adam": lambda: adam(0.1, weight_decay=0.5),
    "sgd": lambda: sgd(0.1, momentum=0.9, weight_decay=0.5),
    "guarded": lambda: build_optimizer("adamw", 0.1, weight_decay=0.5, clip_norm=1.0),
}


def bits(state):
    return {name: leaf.clone() for name, leaf in tree.named_leaves(state).items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        assert torch.equal(leaf, other[name]), name


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_an_update_with_nothing_failed_leaves_parameters_and_optimizer_as_they_are(build):
    learner = build_learner(stub_step, build())
    state = init_train_state(stub_params(), learner.optimizer)
    state, _ = learner.update(state, (stub_group([20.0]),))  # something to remember: momentum, counts
    before = bits(state)
    after, (loss, info) = learner.update(state, (stub_group([1e-5, 1e-2]),))
    assert info.accepted.all()
    assert loss == 0
    assert_same(bits(after), before)
    # weight decay and momentum alone would have moved them
    moved, _ = learner.update(state, (stub_group([1e-5, 1e-2]),), "all")
    assert moved.params["log_dt"] != state.params["log_dt"]


@pytest.mark.parametrize("on", ["failed", "all"])
def test_an_update_on_inactive_samples_alone_changes_nothing(on):
    learner = build_learner(stub_step, OPTIMIZERS["adam"]())
    state = init_train_state(stub_params(), learner.optimizer)
    after, (loss, _) = learner.update(state, (stub_group([20.0, 1e-5], active=[False, False]),), on)
    assert loss == 0
    assert_same(bits(after), bits(state))


def test_the_update_judges_the_old_parameters_and_returns_new_ones():
    learner = build_learner(stub_step, sgd(1e-3))
    state = init_train_state(stub_params(), learner.optimizer)
    before = bits(state)
    after, (loss, info) = learner.update(state, (stub_group([20.0]),))
    assert_same(bits(state), before)  # nothing in place
    assert float(loss) == pytest.approx(by_hand(20.0)[1], rel=1e-13)
    assert float(info.dt) == pytest.approx(0.1, rel=1e-15)
    # d loss/d ln dt = 2 (ln ε − ln E_upper) · 3 ε/(ε + 1e-12)
    slope = 6 * (math.log(20e-3 + 1e-12) - UPPER) / (1 + 1e-12 / 20e-3)
    assert float(after.params["log_dt"]) == pytest.approx(math.log(0.1) - 1e-3 * slope, rel=1e-13)
    assert after.epoch == state.epoch
    assert after.population == state.population


def test_one_exploded_sample_does_not_keep_the_others_from_learning():
    learner = build_learner(STEP, sgd(1e-3))
    state = init_train_state(grown_params(), learner.optimizer)
    # a system so heavy that its energy overflows; per unit of mass, which is how features see it, nothing does
    group = real_group(3, 2, 1)
    mass = group.system.mass * tensor([1.0, 1e160])[:, None]
    batch = (group._replace(system=group.system._replace(mass=mass)),)
    after, (_, info) = learner.update(state, batch, "all")
    assert info.exploded.tolist() == [False, True]
    assert all(leaf.isfinite().all() for leaf in tree.leaves(after.params))
    assert not torch.equal(after.params["network"][-1].bias, state.params["network"][-1].bias)


def test_a_sample_whose_features_overflow_does_not_keep_the_others_from_learning():
    learner = build_learner(STEP, sgd(1e-3))
    state = init_train_state(grown_params(), learner.optimizer)
    group = real_group(3, 2, 1)
    velocity = group.system.velocity.clone()
    velocity[1, 0] = 1e200  # seen from within, too: its kinetic energy is infinite
    batch = (group._replace(system=group.system._replace(velocity=velocity)),)
    assert not FEATURES.apply(*tree.take(batch[0], 1)[:2]).isfinite().all()
    after, (_, info) = learner.update(state, batch, "all")
    assert info.exploded.tolist() == [False, True]
    assert all(leaf.isfinite().all() for leaf in tree.leaves(after.params))
    assert not torch.equal(after.params["network"][-1].bias, state.params["network"][-1].bias)


def test_a_single_group_needs_no_tuple_around_it():
    learner, group = build_learner(stub_step, sgd(1e-3)), stub_group(DIFFICULTIES)
    state = init_train_state(stub_params(), learner.optimizer)
    assert_same(bits(learner.update(state, group)[0]), bits(learner.update(state, (group,))[0]))
    assert isinstance(group, Sample)
    assert as_groups(group) == (group,)
    assert count_samples(group) == count_samples((group,)) == 5
    assert count_samples(GROUPS) == 9
    assert count_samples(()) == 0


def test_evaluating_a_minibatch_says_whether_all_of_it_passes():
    objective = build_objective(stub_step)
    for difficulties, verdict in [((1e-5, 1e-2), True), (DIFFICULTIES, False)]:
        passes, info = evaluate_minibatch(stub_params(), (stub_group(difficulties),), objective=objective)
        assert bool(passes) is verdict
        assert passes.shape == ()
        assert len(info.dt) == len(difficulties)


def test_an_empty_minibatch_is_refused():
    with pytest.raises(ValueError, match="evaluate_minibatch: the minibatch is empty"):
        evaluate_minibatch(stub_params(), (), objective=build_objective(stub_step))


class Tagged(NamedTuple):
    active: Tensor
    tag: Tensor


def test_picking_counts_through_all_groups_and_drops_those_left_empty():
    def group(*tags):
        return Tagged(torch.ones(len(tags), dtype=torch.bool), torch.tensor(tags))

    groups = (group(0, 1, 2), group(10, 11), group(20, 21, 22))
    picked = pick(groups, torch.tensor([7, 1, 5, 0]))
    assert [g.tag.tolist() for g in picked] == [[1, 0], [22, 20]]
    assert [g.tag.tolist() for g in pick(groups, torch.arange(8))] == [[0, 1, 2], [10, 11], [20, 21, 22]]
    assert pick(groups, torch.zeros(0, dtype=torch.int64)) == ()


def test_chosen_are_the_active_ones_that_failed_or_all_active_ones():
    batch = (stub_group(DIFFICULTIES[:3]), stub_group(DIFFICULTIES[3:], active=[True, False]))
    _, info = build_objective(stub_step).attempt(stub_params(), batch)
    info = info._replace(accepted=torch.tensor([True, True, True, False, False]))  # whatever a step says of the last
    assert chosen_samples(batch, info, "failed").tolist() == [False, False, False, True, False]
    assert chosen_samples(batch, info, "all").tolist() == [True, True, True, True, False]
    with pytest.raises(ValueError, match="loss: loss_on must be one of failed, all, got 'none'"):
        chosen_samples(batch, info, "none")


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1e-4), (1e-4, 1e-6), (math.nan, 1e-4)])
def test_a_band_that_is_none_is_refused(lower, upper):
    with pytest.raises(ValueError, match="build_objective: E_"):
        build_objective(stub_step, E_lower=lower, E_upper=upper)
    with pytest.raises(ValueError, match="build_objective: E_"):
        build_learner(stub_step, sgd(0.1), E_lower=lower, E_upper=upper)


def test_a_band_below_the_precision_of_energies_is_refused():
    with pytest.raises(ValueError, match=r"build_objective: E_upper must be >= 2.2e-16, the precision of energies"):
        build_objective(stub_step, E_lower=1e-19, E_upper=1e-18)
    build_objective(stub_step, E_lower=1e-30, E_upper=1e-15)  # no lower edge to speak of
