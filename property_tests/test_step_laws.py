"""Laws of the single step, on whatever systems: one at a time or together, in any order, in any units."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.base.types import Sample
from aits_func.loops.objective import build_objective
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, gaussian_cluster, hierarchical_triple
from aits_func.physics.integrators import INTEGRATORS, build_integrator
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.schemes import build_scheme
from aits_func.testing import check_step, in_units, parameters, policies, units
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import Policy, build_criterion_policy, build_residual_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample, push

seeds = st.integers(0, 2**31)


@st.composite
def systems(draw, max_count=4):
    """Between 1 and ``max_count`` systems of one shape, of one of three kinds."""
    seed, count, dimensions = draw(seeds), draw(st.integers(1, max_count)), draw(st.sampled_from([2, 3]))
    kind = draw(st.sampled_from(["cluster", "binary", "triple"]))
    if kind == "binary":
        return binaries(seed, count, eccentricity=(0.0, 0.9), mass_ratio=(0.0, 1.0), dimensions=dimensions)
    if kind == "triple":
        return hierarchical_triple(seed, count, mass_range=(0.1, 2.0), dimensions=dimensions)
    bodies, speed = draw(st.integers(2, 5)), draw(st.sampled_from([0.0, 0.3, 2.0]))
    return gaussian_cluster(
        seed,
        count,
        bodies=bodies,
        dimensions=dimensions,
        position_scale=1.0,
        velocity_scale=speed,
        mass_range=(0.1, 2.0),
    )


@st.composite
def samples(draw, history_len=0, max_count=4):
    """Samples of such systems, their windows filled to some extent with states of a straight flight."""
    batch = draw(systems(max_count))
    windows = vmap(lambda system: first_sample(system, history_len))(batch).window
    for number in range(draw(st.integers(0, history_len))):
        windows = vmap(push)(windows, batch, torch.full_like(batch.time, 0.01 * (number + 1)))
        moved = batch.position + 0.01 * (number + 1) * batch.velocity
        batch = batch._replace(position=moved, time=batch.time + 0.01 * (number + 1))
    return Sample(batch, windows, torch.zeros_like(batch.time), torch.ones_like(batch.time, dtype=torch.bool))


@st.composite
def attempts(draw, softenings=(0.0, 0.1), max_count=4):
    """(step, params, samples) of any policy, integrator and choice of the step."""
    gravity = build_gravity(softening=draw(st.sampled_from(softenings)))
    policy, params, history_len = draw(policies(gravity))
    step = build_step(
        policy,
        gravity,
        build_integrator(draw(st.sampled_from(sorted(INTEGRATORS))), gravity),
        n_steps=draw(st.integers(1, 3)),
        energy_threshold=draw(st.sampled_from([1e-6, 2e-4, 1e-2])),
        energy_scale="kinetic",  # with "total" an energy near 0 would magnify any rounding
    )
    return step, params, draw(samples(history_len, max_count))


def lifted(step):
    return vmap(step, in_dims=(None, 0))


# Sums over at most 5 bodies and 46 features in another order, 1e-16 each. A close pair magnifies them by its
# acceleration times dt², and the error is a difference of energies.
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def assert_close(one, other, **tolerance):
    for (name, leaf), same in zip(tree.named_leaves(one).items(), tree.leaves(other), strict=True):
        torch.testing.assert_close(leaf, same, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@given(attempts())
def test_stepping_together_is_stepping_one_by_one(attempt):
    step, params, batch = attempt
    after, info = lifted(step)(params, batch)
    for row in range(len(batch.active)):
        one, its_info = step(params, tree.take(batch, row))
        assert_close(tree.take(after, row), one, **CLOSE)
        for ours, theirs in zip(tree.take(info, row)[:2], its_info[:2], strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        assert info.exploded[row] == its_info.exploded


@given(attempts(), st.permutations(range(4)))
def test_the_order_of_the_samples_does_not_matter(attempt, order):
    step, params, batch = attempt
    order = torch.tensor([k for k in order if k < len(batch.active)])
    assert_close(
        lifted(step)(params, tree.take(batch, order))[0], tree.take(lifted(step)(params, batch)[0], order), **CLOSE
    )


@given(attempts())
def test_a_step_is_positive_and_its_verdict_is_that_of_its_error(attempt):
    step, params, batch = attempt
    after, info = lifted(step)(params, batch)
    assert (info.dt > 0).all()
    threshold = step.keywords["energy_threshold"]
    assert torch.equal(info.accepted, info.energy_error < threshold)
    assert torch.equal(info.exploded, info.energy_error.isinf())
    assert all(leaf.isfinite().all() for leaf in after)
    elapsed = step.keywords["n_steps"] * info.dt
    torch.testing.assert_close(after.time - batch.system.time, torch.where(info.exploded, 0, elapsed), **CLOSE)


@given(attempts(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_inactive_samples_stay_and_pass_and_are_nothing_to_the_others(attempt, active):
    step, params, batch = attempt
    active = torch.tensor(active[: len(batch.active)])
    after, info = lifted(step)(params, batch._replace(active=active))
    for leaf, old in zip(after, batch.system, strict=True):
        assert torch.equal(leaf[~active], old[~active])
    assert (info.dt[~active] == 0).all()
    assert (info.energy_error[~active] == 0).all()
    assert info.accepted[~active].all()
    assert not info.exploded[~active].any()
    assert_close(tree.take(after, active), tree.take(lifted(step)(params, batch)[0], active), **CLOSE)


@given(attempts())
def test_nothing_is_changed_in_place_and_nothing_is_drawn(attempt):
    step, params, batch = attempt
    before, generator = [leaf.clone() for leaf in tree.leaves((params, batch))], torch.get_rng_state()
    lifted(step)(params, batch)
    assert all(torch.equal(leaf, old) for leaf, old in zip(tree.leaves((params, batch)), before, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)


@given(st.data(), attempts(softenings=(0.0,)), units())
def test_a_step_of_dimensionless_features_and_the_gradient_of_its_loss_are_the_same_in_any_units(data, attempt, scale):
    gravity = build_gravity()
    features = build_features("invariant", gravity)
    policy = build_residual_policy(features, p_norm(gravity, eta=0.05), hidden=(4,))
    step = build_step(policy, gravity, build_integrator("leapfrog_kdk", gravity), energy_scale="kinetic")
    params = data.draw(parameters(policy))
    systems = attempt[2].system
    length, _, time = scale
    scaled = in_units(scale, systems)
    after, info = lifted(step)(params, vmap(first_sample)(systems))
    scaled_after, scaled_info = lifted(step)(params, vmap(first_sample)(scaled))
    torch.testing.assert_close(scaled_info.dt, time * info.dt, rtol=1e-8, atol=0)  # derivatives up to the snap
    torch.testing.assert_close(scaled_after.position, length * after.position, rtol=1e-8, atol=1e-9 * length)
    torch.testing.assert_close(scaled_info.energy_error, info.energy_error, **CLOSE)

    def error(params, systems):
        return lifted(step)(params, vmap(first_sample)(systems))[1].energy_error.sum()

    ours, theirs = grad(error)(params, scaled), grad(error)(params, systems)
    for leaf, expected in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        torch.testing.assert_close(leaf, expected, **CLOSE)


def exploding(policy):
    """The same policy times e^t, t the clock of the system: 400 on it makes dt 1e173, and the energy overflows."""
    return Policy(policy.init, lambda params, system, window: policy.apply(params, system, window) * system.time.exp())


@given(st.data(), seeds)
def test_one_exploded_sample_leaves_a_finite_gradient_which_is_that_of_the_others_and_its_own_push(data, seed):
    gravity = build_gravity(softening=0.05)
    policy, params, _ = data.draw(policies(gravity, ("residual", "mlp")).filter(lambda drawn: drawn.history_len == 0))
    step = build_step(exploding(policy), gravity, build_integrator("leapfrog_kdk", gravity), energy_scale="kinetic")
    objective, batch = build_objective(step), data.draw(samples())
    count = len(batch.active)
    row = seed % count
    time = batch.system.time.clone()
    time[row] = 400.0
    batch = batch._replace(system=batch.system._replace(time=time))

    def total(params, batch, on="all"):
        loss, info = objective.loss(params, (batch,), on)
        return loss * len(batch.active), info

    gradient, info = grad(total, has_aux=True)(params, batch)
    assert info.exploded.tolist() == [k == row for k in range(count)]
    assert all(leaf.isfinite().all() for leaf in tree.leaves(gradient))
    # of the exploded one: 2 r d ln dt, with r = −ln E_upper
    bad = tree.take(batch, row)
    push = grad(lambda p: -2 * math.log(1e-4) * exploding(policy).apply(p, bad.system, bad.window).log())(params)
    others = torch.tensor([k for k in range(count) if k != row], dtype=torch.int64)
    if count > 1:
        rest, _ = grad(total, has_aux=True)(params, tree.take(batch, others))
        push = tree.map_leaves(torch.add, push, rest)
    # the gradient of ln ε carries its rounding, 1e-16/ε
    assert_close(gradient, push, rtol=1e-6, atol=1e-6)


# --- what a verdict sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["leapfrog_kdk", "hermite", "yoshida6", "hairer_soderlind", "implicit_symmetric"])
def test_a_step_is_judged_by_all_that_matters_and_by_nothing_else(scheme):
    gravity = build_gravity()
    policy = build_criterion_policy(p_norm(gravity, eta=0.15, pairs=("free_fall", "fly_by")))
    advance = build_integrator(scheme, gravity) if scheme in INTEGRATORS else build_scheme(scheme, gravity)
    check_step(build_step(policy, gravity, advance), params=policy.init(0), gravity=gravity)


@pytest.mark.parametrize("vocabulary", ["invariant", "rich"])
def test_the_verdict_on_a_learned_step_is_judged_alike(vocabulary):
    gravity = build_gravity(softening=0.05)
    policy = build_residual_policy(build_features(vocabulary, gravity), p_norm(gravity, eta=0.1), hidden=(4,))
    step = build_step(policy, gravity, build_integrator("leapfrog_kdk", gravity))
    check_step(step, params=policy.init(0), gravity=gravity)
