"""The comets in their short form; and a verdict that does not see them, or forgets their work, is noticed."""

import pytest

from reliability.comets import FULL, SHORT, THRESHOLD, campaign, follow, judge_steps, judge_verdict, taken, train
from reliability.long_run import one_thread


def test_accepted_steps_of_unseen_comets_are_good_by_the_comets_own_energy():
    findings = campaign(short=True)
    assert len(findings) == 2
    for finding in findings:
        assert finding.held, (finding.promise, finding.broken)


def test_a_verdict_by_the_bodies_with_mass_alone_passes_steps_that_lose_the_comets():
    plan = SHORT._replace(trained=4, steps=60, replay_steps=20)
    with one_thread():
        path = follow(train(plan, energy_scale="source"), 4, energy_scale="source", most=100)
    assert float(path.error[path.accepted].max()) < THRESHOLD
    for finding in (judge_verdict(path), judge_steps(path)):
        assert not finding.held
        assert finding.broken
        assert finding.figures["largest error"] > 10 * THRESHOLD


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
    """The whole campaign: a minute or two on one core."""
    assert FULL.followed == 48
    for finding in campaign(short=False):
        assert finding.held, (finding.promise, finding.broken)
