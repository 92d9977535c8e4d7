"""Injected rules: run in order, one outcome at a time, on the very systems that were given."""

import math

import pytest
import torch

from aits_func.base.types import System
from aits_func.loops.rules import Outcome, Rule, RunStatistics, count_failures, run_rules

B = 3


def batch(size=B):
    return System(*(torch.ones(size, *shape, dtype=torch.float64) for shape in [(2,), (2, 2), (2, 2), (), ()]))


def statistics(size=B, **columns):
    zeros = torch.zeros(size, dtype=torch.float64)
    counts = torch.zeros(size, dtype=torch.int64)
    plain = RunStatistics(counts > 0, counts, counts, *(zeros for _ in range(7)), torch.tensor(0.0).double())
    return plain._replace(**columns)


def recorder(calls, name="rule", tolerances=(0.1,), answer=None):
    def run(systems, tolerance):
        calls.append((name, tolerance, systems))
        return answer or statistics()

    return Rule(name, run, tolerances)


def never(systems, tolerance):
    raise AssertionError("the rule was run")


def test_rules_run_in_order_over_their_tolerances_on_the_same_systems():
    calls, systems = [], batch()
    rules = [recorder(calls, "b", (0.1, 0.3, 0.2)), recorder(calls, "a", (1e-9,))]
    outcomes = list(run_rules(rules, systems))
    wanted = [("b", 0.1), ("b", 0.3), ("b", 0.2), ("a", 1e-9)]
    assert [call[:2] for call in calls] == wanted
    assert all(call[2] is systems for call in calls)
    assert [outcome[:2] for outcome in outcomes] == wanted
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)


def test_an_outcome_holds_what_the_rule_reported():
    answer = statistics()
    (outcome,) = run_rules([recorder([], answer=answer)], batch())
    assert outcome.statistics is answer


def test_an_outcome_is_yielded_before_the_next_run():
    calls = []
    outcomes = run_rules([recorder(calls, tolerances=(0.1, 0.2))], batch())
    assert calls == []
    next(outcomes)
    assert len(calls) == 1
    next(outcomes)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], "at least one rule is needed, got none"),
        (
            [Rule("a", never, (0.1,)), Rule("b", never, (0.1,)), Rule("a", never, (0.2,))],
            "every rule needs a name of its own, got 'a' more than once",
        ),
        ([Rule("a", never, ())], "rule 'a' needs at least one tolerance, got none"),
        ([Rule("a", never, (0.1, 0.0))], "tolerances of rule 'a' must be > 0 and finite, got 0.0"),
        ([Rule("a", never, (-0.1,))], "tolerances of rule 'a' must be > 0 and finite, got -0.1"),
        ([Rule("a", never, (math.nan,))], "tolerances of rule 'a' must be > 0 and finite, got nan"),
        ([Rule("a", never, (math.inf,))], "tolerances of rule 'a' must be > 0 and finite, got inf"),
    ],
)
def test_rules_that_cannot_be_run_or_told_apart_are_refused_at_the_call(rules, message):
    with pytest.raises(ValueError, match=f"^run_rules: {message}$"):
        run_rules(rules, batch())  # not iterated over


@pytest.mark.parametrize(
    ("systems", "got"), [(batch()._replace(mass=torch.ones(2)), r"\(2,\)"), (batch(0), r"\(0, 2\)")]
)
def test_systems_that_are_no_batch_are_refused(systems, got):
    with pytest.raises(
        ValueError, match=f"^run_rules: systems must be a batch of at least one, mass \\(B, N\\), got {got}$"
    ):
        run_rules([Rule("a", never, (0.1,))], systems)


@pytest.mark.parametrize("field", [name for name in RunStatistics._fields if name != "endings"])
def test_a_rule_that_reports_on_another_number_of_systems_is_named_with_the_field(field):
    answer = statistics(**{field: torch.zeros(B + 1)})
    want = r"\(\)" if field == "seconds" else r"\(3,\)"
    outcomes = run_rules([recorder([], "mine", (0.25,), answer)], batch())
    with pytest.raises(
        ValueError, match=f"^run_rules: rule 'mine' at tolerance 0.25: {field} must have shape {want}, got \\(4,\\)$"
    ):
        next(outcomes)


def test_a_rule_tells_of_every_system_how_it_ended_or_of_none():
    answer = statistics(endings=("finished",) * (B + 1))
    with pytest.raises(ValueError, match=r"^run_rules: rule 'mine' at tolerance 0.25: endings must be 3 words or none"):
        next(run_rules([recorder([], "mine", (0.25,), answer)], batch()))
    failed = torch.tensor([True, False, True])
    assert count_failures(statistics(failed=failed)) == ()
    ended = statistics(failed=failed, endings=("stalled", "finished", "stalled"))
    assert count_failures(ended) == (("stalled", 2),)
    assert count_failures(ended._replace(failed=~failed)) == (("finished", 1),)  # by the rule's own word
