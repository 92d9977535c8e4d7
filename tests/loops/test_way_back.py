"""The loss leads back to the band from steps whose error is rounding, and from those that explode."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.base.check import make_system
from aits_func.base.tree import map_leaves, take
from aits_func.base.types import Reference, Sample, System, TrainState
from aits_func.learning.least_squares import levenberg_marquardt
from aits_func.learning.losses import band_residual
from aits_func.learning.optimizers import adam
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import build_learner
from aits_func.loops.objective import build_objective, prepare
from aits_func.loops.replay import generalize_on_trajectory
from aits_func.loops.replay_iteration import in_band
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_mlp_policy, build_residual_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample

GRAVITY = build_gravity()
LEAPFROG = build_leapfrog_kdk(GRAVITY)
TRIPLE = gaussian_cluster(3, 1, bodies=3, dimensions=3)


def step_of(policy, **words):
    return build_step(policy, GRAVITY, LEAPFROG, **words)


def at_eta(eta):
    """(policy, parameters) of one number: dt = η times the p-norm of free-fall times."""
    policy = build_criterion_policy(p_norm(GRAVITY, eta=1.0))
    return policy, map_leaves(lambda leaf: torch.full_like(leaf, math.log(eta)), policy.init(0))


def system(*numbers):
    return make_system(*(torch.tensor(x, dtype=torch.float64) for x in numbers))


def samples(systems):
    return (vmap(first_sample)(systems),)


def iterations_to_band(learner, params, batch, most):
    state = TrainState(params, learner.optimizer.init(params), (), torch.zeros((), dtype=torch.int64))
    batch = prepare(batch, learner.objective)
    for iteration in range(most + 1):
        after, (_, info) = learner.update(state, batch, "all")
        if bool(in_band(info, learner.objective).all()):
            return iteration
        state = after
    return most + 1


# --- what the loss is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [1e-12, 1e-7, 1e-2, 1.0, 1e3, 1e120])
def test_working_out_references_beforehand_changes_no_bit(eta):
    policy, params = at_eta(eta)
    objective = build_objective(step_of(policy))
    batch = samples(gaussian_cluster(1, 5, bodies=3, dimensions=3))
    prepared = prepare(batch, objective)
    assert isinstance(prepared[0].reference, Reference)
    for later, at_once in zip(objective.jacobian(params, prepared), objective.jacobian(params, batch), strict=True):
        map_leaves(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), later, at_once)
    assert torch.equal(objective.residuals(params, prepared), objective.residuals(params, batch))


def test_references_stay_with_their_samples():
    objective = build_objective(step_of(at_eta(1.0)[0]))
    batch = samples(gaussian_cluster(1, 5, bodies=3, dimensions=3))
    whole = prepare(batch, objective)[0].reference
    alone = prepare((take(batch[0], torch.tensor([3, 1])),), objective)[0].reference
    # One sum over five systems or two: the last bit may differ.
    map_leaves(lambda a, b: torch.testing.assert_close(a[[3, 1]], b, rtol=1e-15, atol=0), whole, alone)
    assert len(set(whole.rounding.tolist())) == len(set(whole.time.tolist())) == 5


@pytest.mark.parametrize("length", [1e-12, 1e3, 1e17])
@pytest.mark.parametrize("mass", [1e-12, 1e12])
def test_a_reference_scales_as_its_units_do(length, mass):
    limit = build_objective(step_of(at_eta(1.0)[0])).limit
    one = map_leaves(lambda leaf: leaf[0], TRIPLE)
    tick = (length**3 / mass) ** 0.5
    scaled = System(mass * one.mass, length * one.position, length / tick * one.velocity, one.time, one.work)
    here, there = limit.reference(one), limit.reference(scaled)
    # Roundings of some tens of operations; σ adds roundings that do not scale to the bit.
    torch.testing.assert_close(there.time, tick * here.time, rtol=1e-13, atol=0)
    torch.testing.assert_close(there.rounding, here.rounding, rtol=1e-13, atol=0)


def test_the_source_loss_stays_as_it_is():
    policy, params = at_eta(1e-7)
    objective = build_objective(step_of(policy, energy_scale="source"))
    batch = samples(TRIPLE)
    residual, info = objective.judge(params, batch)
    assert prepare(batch, objective)[0].reference == ()
    of_another = prepare(batch, build_objective(step_of(policy)))
    assert isinstance(of_another[0].reference, Reference)
    assert prepare(of_another, objective)[0].reference == ()
    assert torch.equal(objective.residuals(params, of_another), residual)
    assert torch.equal(residual, band_residual(info.energy_error, info.dt, info.exploded))


def test_a_system_that_nothing_changes_has_finite_residuals():
    """Of massless bodies alone no time is known: the loss is that without a reference, and not NaN."""
    policy = build_mlp_policy(build_features("basic", GRAVITY), hidden=(4,))
    objective = build_objective(step_of(policy))
    place = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    alone = System(torch.zeros_like(place[0]), place, place, place[0, 0], torch.zeros(3, dtype=torch.float64))
    reference = objective.limit.reference(alone)
    assert not bool(reference.time.isfinite())
    residual, slopes = objective.jacobian(policy.init(0), samples(map_leaves(lambda leaf: leaf[None], alone)))
    assert bool(residual.isfinite().all())
    map_leaves(lambda leaf: torch.testing.assert_close(leaf.isfinite().all(), torch.tensor(True)), slopes)


# --- the way ----------------------------------------------------------------------------------------------------------


# Levenberg-Marquardt from 1e3 may end between: the energy error of a step of some free-fall times falls and rises.
@pytest.mark.parametrize(("optimizer", "start"), [("adam", 1e-10), ("adam", 1e3), ("levenberg_marquardt", 1e-10)])
def test_a_network_alone_comes_back_from_1e_minus_10_and_from_1000(start, optimizer):
    policy = build_mlp_policy(build_features("basic", GRAVITY))
    *hidden, last = policy.init(0)["network"]
    raw = math.log(math.expm1(start)) if start < 1 else start  # softplus of it is the start
    params = {"network": (*hidden, last._replace(bias=last.bias + raw))}
    rate = 0.1
    learner = build_learner(step_of(policy), adam(rate) if optimizer == "adam" else levenberg_marquardt())
    most = int(abs(math.log(start / 1e-3)) / rate) + 200 if optimizer == "adam" else 120
    assert iterations_to_band(learner, params, samples(TRIPLE), most) <= most


@pytest.mark.parametrize("start", [1e-15, 1e-7, 1e150])
@pytest.mark.parametrize("optimizer", ["adam", "levenberg_marquardt"])
def test_a_residual_policy_comes_back_through_its_criterion(start, optimizer):
    policy = build_residual_policy(build_features("invariant", GRAVITY), p_norm(GRAVITY, eta=1.0), hidden=(8,))
    params = policy.init(0)
    params["criterion"] = map_leaves(lambda leaf: torch.full_like(leaf, math.log(start)), params["criterion"])
    rate = 0.3
    learner = build_learner(step_of(policy), adam(rate) if optimizer == "adam" else levenberg_marquardt())
    most = int(abs(math.log(start / 1e-3)) / rate) + 200 if optimizer == "adam" else 120
    assert iterations_to_band(learner, params, samples(TRIPLE), most) <= most


def test_massless_bodies_around_a_star_at_rest_come_back():
    """No pair has a force on both, and the star has no energy: time and rounding are those of the comets."""
    star = system([1.0, 0.0, 0.0], [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.8], [-0.7, 0.0]])
    policy, params = at_eta(1e-12)
    learner = build_learner(step_of(policy), levenberg_marquardt())
    batch = samples(map_leaves(lambda leaf: leaf[None], star))
    assert iterations_to_band(learner, params, batch, 120) <= 120


@pytest.mark.parametrize("compile", ["off", "auto"])
def test_a_replay_from_1e_minus_7_converges(compile):
    """It used to sit at a loss of 191, and dt fell further."""
    policy, params = at_eta(1e-7)
    learner = build_learner(step_of(policy), adam(0.3))
    (trajectory,) = samples(gaussian_cluster(3, 4, bodies=3, dimensions=3))
    state = init_train_state(params, learner.optimizer)
    options = {"replay_batch_size": 1, "replay_steps": 200, "loss_on": "all", "convergence": "band", "compile": compile}
    _, info = generalize_on_trajectory(state, Sample(*trajectory), learner=learner, seed=0, **options)
    assert info.converged
