"""States and parameters at the end of their dtype's range leave every gradient finite."""

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base.check import make_system
from aits_func.base.tree import cast, leaves, map_leaves
from aits_func.learning.optimizers import adam
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import build_learner
from aits_func.loops.objective import build_objective
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, free_fall_triple
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import free_fall, p_norm
from aits_func.physics.schemes import SCHEMES, build_scheme
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_residual_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import empty_window, first_sample

GRAVITY = build_gravity()
DTYPES = (torch.float64, torch.float32)


def close_pairs(dtype):
    """Masses 3, 4, 5 with a pair at 1e-2 down to 1e-6 of the third body's distance; the same in each precision."""
    separation = torch.tensor([1e-2, 1e-3, 1e-4, 1e-5, 1e-6], dtype=torch.float64)
    position = torch.zeros(5, 3, 2, dtype=torch.float64)
    position[:, 1, 0], position[:, 2, 1] = separation, 1.0
    velocity = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mass = torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64).expand(5, 3)
    return cast(make_system(mass, position, velocity), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_invariant_features_of_close_pairs_are_finite_and_bounded_in_either_precision(dtype):
    features = build_features("invariant", GRAVITY)
    values = vmap(lambda s: features.apply(s, empty_window(s, 0)))(close_pairs(dtype))
    # Logarithms end at ln 1e9 / 10 on either side, and what they compare at most doubles that; the rest is in [0, 1].
    assert float(values.abs().max()) < 2 * 2.1


def test_the_features_of_close_pairs_agree_between_the_precisions():
    features = build_features("invariant", GRAVITY)
    double, single = (vmap(lambda s: features.apply(s, empty_window(s, 0)))(close_pairs(d)) for d in DTYPES)
    # Every feature is made of numbers of order 1, so float32 costs a few roundings of 6e-8 (at most 8e-8 was seen).
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-6)


def close_pairs_far_down():
    """A pair at 1e-7 to 1e-12 with masses 1 and 1 or 1e-6, and a third body of mass 1 at a distance of 1."""
    separation = torch.logspace(-7, -12, 6, dtype=torch.float64).repeat(2)
    mass = torch.ones(12, 3, dtype=torch.float64)
    mass[6:, 1] = 1e-6
    position, velocity = torch.zeros(2, 12, 3, 2, dtype=torch.float64).unbind(0)
    position[:, 0, 0] = separation
    position[:, 2] = torch.tensor([0.3, 1.0])
    velocity[:, 1, 1] = 0.8 * (mass[:, :2].sum(1) / separation).sqrt()
    return make_system(mass, position, velocity)


def test_down_to_a_separation_of_1e_12_the_invariant_features_are_those_of_float64_in_float32():
    # There the snap is 1e60, the square of an acceleration 1e48, and a float32 ends at 3e38.
    features = build_features("invariant", GRAVITY)
    systems = close_pairs_far_down()
    double, single = (
        vmap(lambda s: features.apply(s, empty_window(s, 0)))(cast(systems, dtype=dtype)) for dtype in DTYPES
    )
    # Few roundings of 6e-8 of numbers of order 1, but for the logarithm of an energy that is a difference, and of sums
    # over bodies that cancel.
    torch.testing.assert_close(single[:, :-6].double(), double[:, :-6], rtol=0, atol=1e-6)
    assert bool(single.isfinite().all())


def test_moved_away_a_close_pair_does_not_fall_together_in_the_features():
    # In coordinates of the centre of mass, half a unit away, a float32 cannot tell 1e-9 from 0.
    system = cast(make_system(*(x[2] for x in close_pairs_far_down()[:3])), dtype=torch.float32)
    for vocabulary in ("invariant", "basic", "rich"):
        assert bool(build_features(vocabulary, GRAVITY).apply(system, empty_window(system, 0)).isfinite().all())
    shares = build_features("invariant", GRAVITY).apply(system, empty_window(system, 0))
    assert float(shares[12]) < 1e-6  # hierarchy: one pair outweighs all others


def test_one_massive_body_with_test_particles_has_finite_features():
    features = build_features("invariant", GRAVITY)
    lonely = binaries(0, 3, mass_ratio=(0.0, 0.0))
    assert bool(vmap(lambda s: features.apply(s, empty_window(s, 0)))(lonely).isfinite().all())


def test_a_close_pair_in_float32_leaves_the_gradient_of_its_minibatch_finite():
    policy = build_residual_policy(build_features("invariant", GRAVITY), p_norm(GRAVITY), hidden=(4,))
    objective = build_objective(build_step(policy, GRAVITY, build_leapfrog_kdk(GRAVITY)))
    batch = vmap(first_sample)(close_pairs(torch.float32))
    gradient, _ = grad(objective.loss, has_aux=True)(cast(policy.init(0), dtype=torch.float32), batch, "all")
    assert all(bool(leaf.isfinite().all()) for leaf in leaves(gradient))


@pytest.mark.parametrize("name", SCHEMES[1:])
def test_schemes_that_follow_the_step_have_in_float32_the_gradient_of_float64_down_to_1e_6(name):
    # They differentiate τ by the places of bodies, and the gradient differentiates that once more.
    policy = build_residual_policy(build_features("invariant", GRAVITY), p_norm(GRAVITY), hidden=(4,))
    step, params = build_step(policy, GRAVITY, build_scheme(name, GRAVITY)), policy.init(0)
    waves = map_leaves(lambda leaf: leaf + 0.1 * torch.arange(leaf.numel()).reshape(leaf.shape).sin(), params)
    params = cast(waves, dtype=torch.float32)  # a network that says something, the same in each precision
    systems = cast(encounters_at(1e-5, 1e-6), dtype=torch.float32)
    double, single = (
        vmap(grad(lambda p, s: step(p, s)[1].dt.log()), (None, 0))(
            cast(params, dtype=dtype), vmap(first_sample)(cast(systems, dtype=dtype))
        )
        for dtype in DTYPES
    )
    for one, other in zip(leaves(single), leaves(double), strict=True):
        # At most 1e-6 of the gradient's norm of 3 was seen (Hairer-Soderlind at 1e-6); rounding is 6e-8 of it.
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


def encounters_at(*separations):
    """A bound pair of masses 1 and 1 at each separation, and a third body of mass 1 at a distance of 1."""
    mass = torch.ones(len(separations), 3, dtype=torch.float64)
    position, velocity = torch.zeros(2, len(separations), 3, 2, dtype=torch.float64).unbind(0)
    distance = torch.tensor(separations, dtype=torch.float64)
    position[:, 0, 0], position[:, 2] = -distance, torch.tensor([0.3, 1.0])
    # Not at an apse: there a·j is 0, and a feature that is its logarithm magnifies any rounding.
    velocity[:, 1] = (2 / distance).sqrt()[:, None] * torch.tensor([0.3, 0.8])
    return make_system(mass, position, velocity)


def test_a_constant_beyond_the_range_of_exp_has_a_finite_gradient_and_comes_back():
    policy = build_criterion_policy(free_fall(GRAVITY))
    learner = build_learner(build_step(policy, GRAVITY, build_leapfrog_kdk(GRAVITY)), adam(20.0))
    batch = vmap(first_sample)(free_fall_triple(0, 4))
    state = init_train_state({"log_eta": torch.tensor(800.0, dtype=torch.float64)}, learner.optimizer)
    for _ in range(100):
        state, (loss, info) = learner.update(state, batch)
        assert bool(loss.isfinite())
        if bool(info.accepted.all()):
            break
    # Adam moves ln η by 20 at most in an update; from 800 to below -4 it takes 41 of them and some to settle.
    assert bool(info.accepted.all())
