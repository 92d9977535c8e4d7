"""An ensemble does what its members would have done one after the other."""

import shutil

import pytest
import torch
from torch.func import vmap

import aits_func as af
from aits_func.base.tree import cast, leaves, stack, take
from aits_func.loops.ensemble import _packs
from aits_func.loops.replay import ReplayInfo

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler was found")
SEEDS = (3, 8, 12)
OPTIONS = {"replay_batch_size": 16, "replay_steps": 30}


def policy_and_learner(optimizer=None, **band):
    gravity = af.build_gravity()
    features, criterion = af.build_features("basic", gravity), af.p_norm(gravity, eta=0.3)
    policy = af.build_residual_policy(features, criterion, hidden=(8,), bound=20.0)
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=2e-4)
    return policy, af.build_learner(step, optimizer or af.adam(1e-2), **band)


def trajectory(seed=0, count=40, bodies=(2,)):
    return tuple(
        vmap(af.first_sample)(af.gaussian_cluster(seed, count, bodies=n, position_scale=1.0, velocity_scale=0.3))
        for n in bodies
    )


def one_by_one(policy, learner, trajectories, **options):
    ends = []
    for place, seed in enumerate(SEEDS):
        state = af.init_train_state(policy.init(seed), learner.optimizer)
        own = trajectories[place % len(trajectories)]
        ends.append(af.generalize_on_trajectory(state, own, learner=learner, seed=seed, **OPTIONS, **options))
    return ends


def assert_members_are(states, info, ends):
    assert len({member.iterations for member in info.members}) > 1  # or freezing is not tested
    for place, (state, report) in enumerate(ends):
        assert info.members[place].iterations == report.iterations
        assert info.members[place].converged == report.converged
        # Products of matrices in batches, and machine code, round otherwise: 1e-16 a step, thirty steps of Adam.
        for ours, theirs in zip(leaves(take(states.params, place)), leaves(state.params), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        for ours, theirs in zip(info.members[place][3:-1], report[3:-1], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)
        torch.testing.assert_close(info.members[place].history.loss, report.history.loss, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("own", "compile"),
    [(False, "off"), (True, "off"), pytest.param(True, "on", marks=[needs_compiler, pytest.mark.slow])],
    ids=["one trajectory", "trajectories of their own", "the same compiled"],
)
def test_members_end_where_they_would_have_ended_alone(own, compile):
    policy, learner = policy_and_learner()
    trajectories = [trajectory(seed) for seed in SEEDS] if own else [trajectory()]
    states = af.init_ensemble(policy.init, learner, SEEDS)
    states, info = af.generalize_ensemble(
        states, trajectories if own else trajectories[0], learner=learner, seeds=SEEDS, compile=compile, **OPTIONS
    )
    assert_members_are(states, info, one_by_one(policy, learner, trajectories))


def test_packs_of_members_give_what_all_at_once_gave_and_the_last_may_be_filled_up(monkeypatch):
    policy, learner = policy_and_learner()
    monkeypatch.setattr("aits_func.loops.ensemble._packs", lambda members, most: [[0, 1], [2, 2]])
    trajectories = [trajectory(seed) for seed in SEEDS]
    states = af.init_ensemble(policy.init, learner, SEEDS)
    states, info = af.generalize_ensemble(states, trajectories, learner=learner, seeds=SEEDS, **OPTIONS)
    assert len(info.members) == len(states.params["criterion"]["log_eta"]) == 3
    assert_members_are(states, info, one_by_one(policy, learner, trajectories))


@pytest.mark.parametrize(
    ("members", "most", "packs"),
    [
        (3, 0, [[0, 1, 2]]),
        (3, 4, [[0, 1, 2]]),
        (8, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (5, 4, [[0, 1, 2], [3, 4, 4]]),
    ],
)
def test_members_are_packed_evenly(members, most, packs):
    assert _packs(members, most) == packs


def test_members_see_systems_of_several_sizes():
    policy, learner = policy_and_learner()
    mixed = trajectory(bodies=(2, 3))
    states = af.init_ensemble(policy.init, learner, SEEDS)
    _, info = af.generalize_ensemble(states, mixed, learner=learner, seeds=SEEDS, **OPTIONS)
    ends = one_by_one(policy, learner, [mixed])
    assert [member.iterations for member in info.members] == [report.iterations for _, report in ends]


def test_members_may_be_trained_on_all_samples_until_the_band_and_by_second_order_steps():
    policy, learner = policy_and_learner(af.levenberg_marquardt(), E_upper=1e-3)
    states = af.init_ensemble(policy.init, learner, SEEDS)
    options = {"loss_on": "all", "convergence": "band"}
    states, info = af.generalize_ensemble(states, trajectory(), learner=learner, seeds=SEEDS, **OPTIONS, **options)
    for place, (state, report) in enumerate(one_by_one(policy, learner, [trajectory()], **options)):
        assert info.members[place].iterations == report.iterations
        for ours, theirs in zip(leaves(take(states.params, place)), leaves(state.params), strict=True):
            # Equations of condition 1e4, a handful of times.
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_the_spread_is_least_median_and_most_of_the_members():
    numbers = [(True, n, False, rate, 0.5, 1e-5, 1e-4, 0.1, 0.2, 0, ()) for n, rate in ((7, 0.25), (3, 1.0), (5, 0.5))]
    info = af.EnsembleInfo(tuple(ReplayInfo(*each) for each in numbers))
    assert info.spread("iterations") == (3, 5, 7)
    assert info.spread("pass_rate") == (0.25, 0.5, 1.0)
    with pytest.raises(ValueError, match="name"):
        info.spread("history")


BAD = {
    "more states": (lambda a: {"states": stack([take(a["states"], 0)] * 4)}, r"leaves \(3, ...\), a row per seed"),
    "trajectories": (lambda a: {"trajectory": [trajectory()] * 2}, "2 trajectories for 3 seeds"),
    "shapes": (lambda a: {"trajectory": [trajectory(), trajectory(), trajectory(count=39)]}, "must have one shape"),
    "empty": (lambda a: {"trajectory": (take(trajectory()[0], slice(0, 0)),)}, "the trajectory is empty"),
    "batch": (lambda a: {"replay_batch_size": 0}, "replay_batch_size must be >= 1, got 0"),
    "steps": (lambda a: {"replay_steps": 0}, "replay_steps must be >= 1, got 0"),
    "loss": (lambda a: {"loss_on": "some"}, "loss_on"),
    "convergence": (lambda a: {"convergence": "trajectory"}, "convergence"),
    "compile": (lambda a: {"compile": "maybe"}, "compile"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(change, message):
    policy, learner = policy_and_learner()
    states = af.init_ensemble(policy.init, learner, SEEDS)
    arguments = {"states": states, "trajectory": trajectory(), "seeds": SEEDS, **OPTIONS}
    arguments |= change(arguments)
    with pytest.raises(ValueError, match=f"generalize_ensemble: .*{message}"):
        af.generalize_ensemble(arguments.pop("states"), arguments.pop("trajectory"), learner=learner, **arguments)


def test_an_ensemble_has_members():
    policy, learner = policy_and_learner()
    with pytest.raises(ValueError, match="init_ensemble: seeds must name at least one member"):
        af.init_ensemble(policy.init, learner, ())


def test_where_rounding_alone_is_above_the_threshold_no_member_is_trained():
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=1e-3))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=1e-6)
    learner = af.build_learner(step, af.sgd(1e-3), E_lower=1e-8, E_upper=5e-7)
    systems = af.binaries(0, 4)
    far = cast(systems._replace(position=systems.position + 1e3), dtype=torch.float32)  # rounded by 3e-5
    states = cast(af.init_ensemble(policy.init, learner, [0, 1]), dtype=torch.float32)
    samples = torch.func.vmap(af.first_sample)(far)
    after, info = af.generalize_ensemble(states, samples, learner=learner, seeds=[0, 1], replay_steps=4)
    assert [(member.iterations, member.below_rounding, member.converged) for member in info.members] == [
        (0, 4, False)
    ] * 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(leaves(after), leaves(states), strict=True))
