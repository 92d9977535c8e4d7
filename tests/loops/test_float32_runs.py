"""Runs and training of float32 systems stay float32, whatever follows the step function by its derivatives."""

import pytest
import torch
from torch.func import grad, jvp, vmap

import aits_func as af
from aits_func.base import tree
from aits_func.timestep.window import first_sample

S = torch.float32
GRAVITY = af.build_gravity(softening=0.05)
SCHEMES = {
    "hairer_soderlind": af.build_scheme("hairer_soderlind", GRAVITY, positions_only=True),
    "of velocities": af.build_scheme("hairer_soderlind", GRAVITY),
    "time_transformed": af.build_scheme("time_transformed", GRAVITY, order=4),
    "direct": af.build_scheme("direct", GRAVITY, integrator="hermite"),
}
scheme_of_each = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
# Some hundred operations of numbers of size 1, rounded by 6e-8 each.
ROUNDING = 1e-5
# An energy error of a hundredth is known to 1e-7 over that, and so is the loss, which is made of its logarithm; a
# gradient is the sum of terms that are ten times as large.
OF_A_LOSS = 30 * 1e-7 / 1e-2 * 10


def policy_of(scheme):
    if scheme.position_form:
        return af.build_transformation_policy(GRAVITY, eta=0.3, hidden=(4,))
    features = af.build_features("invariant", GRAVITY)
    return af.build_residual_policy(features, af.pair_norm(GRAVITY, eta=0.3), hidden=(4,))


def given(scheme, dtype):
    """(policy, params, systems), of float32 numbers as they are in that type."""
    policy, made = policy_of(scheme), torch.Generator().manual_seed(1)
    moved = tree.map_leaves(
        lambda x: x + 0.2 * torch.randn(x.shape, generator=made, dtype=x.dtype), tree.cast(policy.init(0), dtype=S)
    )
    systems = af.gaussian_cluster(5, 8, bodies=3, dimensions=2, velocity_scale=0.3, mass_range=(0.5, 1.5))
    return policy, *tree.cast(tree.cast((moved, systems), dtype=S), dtype=dtype)


def demand_same(ours, theirs, rounding):
    """Every real number of ours is float32, and theirs up to rounding, of the largest in its array."""
    for x, y in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        assert x.dtype == (S if y.is_floating_point() else y.dtype)
        torch.testing.assert_close(x.double(), y.double(), rtol=0, atol=rounding * max(1.0, float(y.abs().max())))


@scheme_of_each
def test_of_steps_and_a_landing_and_their_derivative(scheme):
    def end(dtype):
        policy, params, systems = given(scheme, dtype)

        def states(params, position):
            moved, options = systems._replace(position=position), {"policy": policy, "gravity": GRAVITY}
            options = {**options, "scheme": scheme, "statistics": False}
            there, info = af.simulate(params, moved, steps=1, **options)
            landed, _ = af.simulate(params, moved, t_end=0.01, **options)
            return there, info.mean_dt, landed.position

        return jvp(states, (params, systems.position), tree.map_leaves(torch.ones_like, (params, systems.position)))

    demand_same(end(S), end(torch.float64), ROUNDING)


@scheme_of_each
def test_of_the_gradient_of_a_retraced_path(scheme):
    if not scheme.reversible:
        pytest.skip("is no scheme that retraces")

    def slope(dtype):
        policy, params, systems = given(scheme, dtype)

        def of_end(params, position):
            moved = systems._replace(position=position)
            after, _ = af.retrace(params, moved, policy=policy, gravity=GRAVITY, scheme=scheme, steps=1)
            return after.position.pow(2).sum()

        return grad(of_end, argnums=(0, 1))(params, systems.position)

    demand_same(slope(S), slope(torch.float64), ROUNDING)


@scheme_of_each
def test_of_training_on_a_trajectory_and_along_one(scheme):
    def after(dtype):
        policy, params, systems = given(scheme, dtype)
        step = af.build_step(policy, GRAVITY, scheme, energy_threshold=1e-2)
        learner = af.build_learner(step, af.sgd(1e-3), E_lower=1e-3, E_upper=1e-2)
        population = af.init_population((systems,), gravity=GRAVITY)
        state = af.init_train_state(params, learner.optimizer, population)
        collected, _, _ = af.collect_trajectory(state, learner=learner, max_retrain_steps=1)
        options = {"replay_batch_size": 8, "replay_steps": 1, "loss_on": "all", "convergence": "band"}
        samples = (vmap(first_sample)(systems),)
        replayed, _ = af.generalize_on_trajectory(state, samples, learner=learner, **options)
        return collected.params, replayed.params

    demand_same(after(S), after(torch.float64), OF_A_LOSS)


@scheme_of_each
@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
def test_of_levenberg_marquardt(scheme, budget):
    def after(dtype):
        policy, params, systems = given(scheme, dtype)
        step = af.build_step(policy, GRAVITY, scheme, energy_threshold=1e-2)
        learner = af.build_learner(
            step, af.levenberg_marquardt(1.0, budget=budget, iterations=3), E_lower=1e-3, E_upper=1e-2
        )
        state = af.init_train_state(params, learner.optimizer)
        return learner.update(state, (vmap(first_sample)(systems),), "all")[0].params

    demand_same(after(S), after(torch.float64), OF_A_LOSS)
