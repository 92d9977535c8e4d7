"""The comets in their short form; and a verdict that does not see them, or forgets their work, is noticed."""

import math

import pytest

from reliability.comets import (
    FULL,
    POLICY,
    SHORT,
    THRESHOLD,
    campaign,
    follow,
    judge_steps,
    judge_verdict,
    taken,
    train,
)
from reliability.long_run import one_thread


def test_accepted_steps_of_unseen_comets_are_good_by_the_comets_own_energy():
    findings = campaign(short=True)
    assert len(findings) == 2
    for finding in findings:
        assert finding.held, (finding.promise, finding.broken)


def test_a_verdict_by_the_bodies_with_mass_alone_passes_steps_that_lose_comets():
    """With steps of twice the criterion's length, which the pair on its circle bears, and nothing learned."""
    params = POLICY.init(0)
    params["criterion"]["log_eta"] += math.log(2)
    with one_thread():
        blind, seeing = (follow(params, 12, energy_scale=scale, most=100) for scale in ("source", "total"))
    assert float(blind.error[blind.accepted].max()) < THRESHOLD
    assert not bool(blind.rejected.any())
    assert bool(seeing.rejected.any())
    for judge in (judge_verdict, judge_steps):
        finding = judge(blind)
        assert not finding.held
        assert finding.broken
        assert finding.figures["largest error"] > 2 * THRESHOLD
        assert judge(seeing).held


def test_a_single_step_that_is_off_is_named_with_its_comet():
    plan = SHORT._replace(trained=4, steps=60, replay_steps=4)
    with one_thread():
        path = follow(train(plan), 4, most=60)
    spoiled = path.after.velocity.clone()
    spoiled[30, 2, 2] *= 1 + 1e-3
    moved = path._replace(after=path.after._replace(velocity=spoiled))
    for judge in (judge_verdict, judge_steps):
        assert judge(path).held
        finding = judge(moved)
        assert not finding.held
        assert finding.broken == ("comet 2: 1 steps",)
    assert len(taken(path)[0].time) == int(path.accepted.sum())


@pytest.mark.slow
def test_48_unseen_comets_over_one_orbit():
    """The whole campaign: a minute on one core. (Which of two samples drifts more depends on the draw; this is one.)"""
    assert FULL.followed == 48
    findings = campaign(short=False)
    assert len(findings) == 4
    for finding in findings:
        assert finding.held, (finding.promise, finding.broken)
