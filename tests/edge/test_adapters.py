"""Other people's optimizers: against our own where we have the same, and against finite differences."""

import pytest
import torch
from torch.func import grad, vmap

import aits_func as af
from aits_func.base.tree import leaves, map_leaves
from aits_func.edge.adapters import flatten_problem, from_torch_optimizer, from_torchopt

numpy = pytest.importorskip("numpy")


def problem(count=12):
    gravity = af.build_gravity()
    features, criterion = af.build_features("invariant", gravity), af.p_norm(gravity, eta=0.3)
    policy = af.build_mlp_policy(features, timescale=criterion, hidden=(4,))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
    samples = vmap(af.first_sample)(af.free_fall_triple(0, count, minimum_separation=0.1))
    return policy, step, samples


def descend(step, samples, params, optimizer, count=6):
    learner = af.build_learner(step, optimizer)
    state = af.init_train_state(params, learner.optimizer)
    for _ in range(count):
        state, _ = learner.update(state, samples, "all")
    return state


PAIRS = {
    "Adam": (lambda params: torch.optim.Adam(params, lr=1e-2), af.adam(1e-2)),
    "AdamW": (lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1), af.adamw(1e-2, weight_decay=0.1)),
    "SGD": (
        lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, dampening=0.3),
        af.sgd(1e-3, momentum=0.9, dampening=0.3),
    ),
    "SGD without memory": (lambda params: torch.optim.SGD(params, lr=1e-3), af.sgd(1e-3)),
}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)
def test_a_torch_optimizer_in_the_learner_is_ours_of_the_same_name(theirs, ours):
    policy, step, samples = problem()
    start = policy.init(0)
    found = descend(step, samples, start, from_torch_optimizer(theirs)).params
    expected = descend(step, samples, start, ours).params
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        # Updates go through a difference of parameters: a rounding of 1e-16 each, six times, divided by small moments.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert not torch.equal(leaves(found)[0], leaves(start)[0])


def test_nothing_that_is_given_is_changed_and_a_state_may_be_used_twice():
    policy, step, samples = problem()
    optimizer = from_torch_optimizer(lambda params: torch.optim.RAdam(params, lr=1e-2))
    state = descend(step, samples, policy.init(0), optimizer, 6)
    before = [leaf.clone() for leaf in leaves((state.params, state.opt_state))]
    grads = map_leaves(torch.ones_like, state.params)
    first, _ = optimizer.update(grads, state.opt_state, state.params)
    again, _ = optimizer.update(grads, state.opt_state, state.params)
    for one, other in zip(leaves(first), leaves(again), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(leaves((state.params, state.opt_state)), before, strict=True):
        assert torch.equal(one, other)
    assert not any(leaf.requires_grad for leaf in leaves((state.params, first)))


def test_a_compiled_replay_with_a_torch_optimizer_runs_eagerly():
    policy, step, samples = problem(32)
    learner = af.build_learner(step, from_torch_optimizer(lambda params: torch.optim.Adam(params, lr=1e-2)))
    state = af.init_train_state(policy.init(0), learner.optimizer)
    ends = [
        af.generalize_on_trajectory(state, samples, learner=learner, replay_steps=3, loss_on="all", compile=mode)[0]
        for mode in ("off", "auto")
    ]
    for one, other in zip(*(leaves(end.params) for end in ends), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)  # the order of samples in memory


def test_optimizers_that_cannot_be_a_pair_are_refused():
    params = {"x": torch.ones(3, dtype=torch.float64)}
    with pytest.raises(ValueError, match="LBFGS evaluates the loss several times"):
        from_torch_optimizer(lambda given: torch.optim.LBFGS(given)).init(params)
    with pytest.raises(ValueError, match="params must hold at least one tensor"):
        from_torch_optimizer(lambda given: torch.optim.SGD(given, lr=1.0)).init(())
    optimizer = from_torch_optimizer(lambda given: torch.optim.SGD(given, lr=1.0))
    with pytest.raises(ValueError, match="inside no transform"):
        grad(lambda x: optimizer.update({"x": x}, optimizer.init(params), params)[0]["x"].sum())(params["x"])


def test_a_pair_in_the_form_of_torchopt_is_told_to_write_nothing_in_place():
    class Pair:
        def init(self, params):
            return ()

        def update(self, updates, state, *, params=None, inplace=True):
            assert not inplace
            assert params is not None
            return map_leaves(lambda leaf: -0.1 * leaf, updates), state

    policy, step, samples = problem()
    found = descend(step, samples, policy.init(0), from_torchopt(Pair())).params
    expected = descend(step, samples, policy.init(0), af.sgd(0.1)).params
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # one product in another order


def test_torchopt_adam_is_ours():
    torchopt = pytest.importorskip("torchopt", reason="TorchOpt is not installed")
    policy, step, samples = problem()
    found = descend(step, samples, policy.init(0), from_torchopt(torchopt.adam(1e-2))).params
    expected = descend(step, samples, policy.init(0), af.adam(1e-2)).params
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)  # ε is added elsewhere by 1e-8 of itself


def test_a_flat_problem_is_the_objective_and_has_its_derivatives():
    policy, step, samples = problem()
    objective, params = af.build_objective(step), policy.init(0)
    flat = flatten_problem(objective, params, samples)
    for one, other in zip(leaves(flat.unflatten(flat.start)), leaves(params), strict=True):
        assert torch.equal(one, other)
    rows, (loss, gradient) = flat.jacobian(flat.start), flat.loss_and_gradient(flat.start)
    residuals = flat.residuals(flat.start)
    assert rows.shape == (12, flat.start.size)
    numpy.testing.assert_allclose(residuals, objective.residuals(params, samples).numpy(), rtol=1e-9)
    numpy.testing.assert_allclose(loss, (residuals**2).mean(), rtol=1e-12)
    numpy.testing.assert_allclose(gradient, 2 * rows.T @ residuals / 12, rtol=1e-8, atol=1e-10)
    direction = numpy.random.default_rng(0).normal(size=flat.start.size)
    h = 1e-6  # h² of truncation, 1e-16/h of rounding, and ε itself is rounded by 1e-16 in 1e-6
    slope = (flat.residuals(flat.start + h * direction) - flat.residuals(flat.start - h * direction)) / (2 * h)
    numpy.testing.assert_allclose(rows @ direction, slope, rtol=1e-4, atol=1e-4)


def test_a_flat_problem_without_parameters_is_refused():
    _, step, samples = problem()
    with pytest.raises(ValueError, match="flatten_problem: params must hold at least one tensor"):
        flatten_problem(af.build_objective(step), (), samples)


def test_compiled_residuals_are_the_eager_ones():
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=0.3))  # one parameter, two bodies: soon compiled
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
    samples = vmap(af.first_sample)(af.binaries(0, 12))
    eager, compiled = (
        flatten_problem(af.build_objective(step), policy.init(0), samples, compile=mode) for mode in ("off", "auto")
    )
    # ε of 1e-4 and more, of energies rounded by 1e-16, in a logarithm.
    numpy.testing.assert_allclose(compiled.residuals(eager.start), eager.residuals(eager.start), rtol=1e-10, atol=1e-10)
