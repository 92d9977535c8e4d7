"""The verdict on a policy beside classical rules: at equal cost, by intervals that exclude 1, with failures counted."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("safetensors")

from aits_func.edge.rebound_peer import PEER_STATUS_NAMES, PEERS
from aits_func.edge.simulation_run import LEARNED, Result, Rule, remedies, verdict
from aits_func.edge.systems import SystemSet
from aits_func.loops.remedies import REMEDY_IN_COMPARISON, REMEDY_OF_PEER, REMEDY_OF_STATUS
from aits_func.timestep.run import FINISHED, STALLED, STATUS_NAMES, STEP_LIMIT

SIZE = 48


def result(rule, error, *, forces=100, failed=0, label="triples", status=STEP_LIMIT):
    """A rule on a set: errors of its systems, force evaluations of each, and how many of the last did not finish."""
    error = torch.as_tensor(error, dtype=torch.float64)
    size = len(error)
    codes = torch.full((size,), FINISHED)
    codes[size - failed :] = status
    info = SimpleNamespace(
        status=codes,
        force_evaluations=torch.full((size,), forces),
        final_energy_error=error,
        mean_energy_error=error,
    )
    systems = SystemSet(label, None, torch.ones(size), torch.ones(size))
    return Result(Rule(rule, None, None, 0, 0.0), systems, None, info, 0.0)


def errors(size=SIZE, seed=0, scale=1.7e-3):
    return scale * (0.5 * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).exp()


def say(ours, theirs, tolerance=0.02):
    (sentence,) = verdict([[ours], [theirs]], tolerance=tolerance)
    return sentence


def test_a_policy_with_smaller_errors_at_equal_cost_wins():
    sentence = say(result(LEARNED, errors() / 2), result("constant step", errors()))
    assert sentence.startswith(
        "triples, against the constant step: the learned policy wins everywhere: final error, median ("
    )
    assert sentence.count("ratio 0.5 [0.5, 0.5]") == 4  # half in every system, so in every resample: they are paired
    assert "[" not in sentence.rsplit(")", 1)[1]  # and nothing is to be added


def test_a_policy_with_larger_errors_at_equal_cost_loses():
    sentence = say(result(LEARNED, errors() * 2), result("constant step", errors()))
    assert "the learned policy LOSES in final error, median (" in sentence
    assert "win" not in sentence


def test_a_difference_in_the_fourth_digit_is_no_win():
    # 0.0017116 against 0.0017123: other systems, or other roundings
    sentence = say(result(LEARNED, errors(seed=1)), result("constant step", errors(seed=2)))
    assert "the learned policy neither wins nor loses: final error, median (" in sentence
    one = say(result(LEARNED, [0.0017116]), result("constant step", [0.0017123]))
    assert "neither wins nor loses" in one
    assert "[fewer than 5 systems decide nothing]" in one


@pytest.mark.parametrize(("size", "decided"), [(4, False), (5, True)])
def test_few_systems_decide_nothing(size, decided):
    sentence = say(result(LEARNED, errors(size) / 9), result("constant step", errors(size)))
    assert ("wins everywhere" in sentence) is decided


@pytest.mark.parametrize(("forces", "wins"), [(50, True), (101, True), (103, False), (156, False)])
def test_whoever_spends_more_does_not_win(forces, wins):
    sentence = say(result(LEARNED, errors() / 2, forces=forces), result("constant step", errors()))
    assert ("wins everywhere" in sentence) is wins
    told = f"the costs are not equal: it spends {forces / 100:.2g} times the force evaluations of that rule"
    assert (told in sentence) is (abs(forces - 100) > 2)


@pytest.mark.parametrize(("forces", "loses"), [(200, True), (99, True), (97, False), (50, False)])
def test_whoever_spends_less_does_not_lose(forces, loses):
    sentence = say(result(LEARNED, errors() * 2, forces=forces), result("constant step", errors()))
    assert ("LOSES" in sentence) is loses


def test_a_policy_that_fails_more_often_wins_nothing_and_failures_are_counted():
    sentence = say(result(LEARNED, errors() / 2, failed=3), result("constant step", errors(), failed=1))
    assert "wins" not in sentence.replace("neither wins nor loses", "")
    assert "it fails on 3 of 48 systems, that rule on 1" in sentence
    sentence = say(result(LEARNED, errors() / 2, failed=1), result("constant step", errors(), failed=3))
    assert "wins everywhere" in sentence
    assert "it fails on 1 of 48 systems, that rule on 3" in sentence


def test_where_every_system_fails_with_both_nothing_is_decided():
    sentence = say(result(LEARNED, errors(), failed=SIZE), result("constant step", errors(), failed=SIZE))
    assert "neither wins nor loses" in sentence
    assert "it fails on 48 of 48 systems, that rule on 48" in sentence
    zero = say(result(LEARNED, [0.0] * 8), result("constant step", [0.0] * 8))
    assert "neither wins nor loses" in zero  # 0 against 0


def test_what_is_won_lost_and_undecided_is_told_apart():
    half = errors() * torch.where(torch.arange(SIZE) < 36, 0.5, 30.0)  # better in most, far worse in some
    sentence = say(result(LEARNED, half), result("constant step", errors()))
    assert "the learned policy wins in final error, median (" in sentence
    assert ", and LOSES in final error, 90 % (" in sentence


def test_several_drawn_sets_are_judged_together_as_well():
    # each at a cost of its own, together at the same: the policy spends more where it is worse
    ours = [result(LEARNED, errors() / 2, forces=50, label="pairs"), result(LEARNED, errors() / 2, forces=150)]
    theirs = [result("constant step", errors(), label="pairs"), result("constant step", errors())]
    single = result(LEARNED, [1e-3], label="eight"), result("constant step", [1e-3], label="eight")
    sentences = verdict([[*ours, single[0]], [*theirs, single[1]]], tolerance=0.02)
    heads = [sentence.split(",")[0] for sentence in sentences]
    assert heads == ["pairs", "triples", "eight", "all drawn systems"]
    assert ["wins everywhere" in sentence for sentence in sentences] == [True, False, False, True]


def test_every_status_of_a_run_that_failed_has_a_remedy_of_its_own():
    never = {"running", "finished", "arrived"}
    ours, theirs = ({name for name in names if name not in never} for names in (STATUS_NAMES, PEER_STATUS_NAMES))
    for table in (REMEDY_OF_STATUS, REMEDY_IN_COMPARISON):
        assert set(table) == ours
        assert len(set(table.values())) == len(ours)
    assert "max_steps" not in REMEDY_OF_STATUS["stalled"]  # more steps of no length lead nowhere
    assert not any("max_steps" in remedy for remedy in REMEDY_IN_COMPARISON.values())  # a comparison has no such key
    assert set(REMEDY_OF_PEER) == set(PEERS)
    for name, table in REMEDY_OF_PEER.items():
        assert set(table) == theirs
        assert len(set(table.values())) == len(theirs)
        for remedy in table.values():  # what no peer has, and what this one is already, is no remedy
            assert not any(word in remedy for word in ("max_steps", "checkpoint", "float64", "train", f"{name},"))
    assert "softening" not in " ".join(REMEDY_OF_PEER["rebound_whfast"].values())  # which it does not know


def test_only_the_remedies_of_what_happened_are_named():
    stalled = result(LEARNED, errors(), failed=2, status=STALLED)
    assert remedies([stalled]) == f"stalled: {REMEDY_OF_STATUS['stalled']}"
    assert remedies([result(LEARNED, errors())]) == ""
    both = remedies([stalled, result(LEARNED, errors(), failed=1)])
    assert both == f"step limit: {REMEDY_OF_STATUS['step limit']}; stalled: {REMEDY_OF_STATUS['stalled']}"
