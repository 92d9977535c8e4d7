"""Rules at equal cost: the constant is found on power laws, through noise, and the best is kept at a jump."""

import math

import pytest

from aits_func.loops.equal_cost import Match, match_cost


def power_law(slope=1.0, scale=1e4):
    """Force evaluations scale · c^-slope, and the constants that were tried."""
    tried = []

    def evaluations(constant):
        tried.append(constant)
        return round(scale * constant**-slope)

    return evaluations, tried


@pytest.mark.parametrize("slope", [0.4, 0.7, 1.0, 1.3, 1.8])
@pytest.mark.parametrize("target", [300, 10_000, 777_777])
@pytest.mark.parametrize("start", [1e-3, 1.0, 50.0])
def test_the_constant_of_a_power_law_is_found(slope, target, start):
    evaluations, tried = power_law(slope)
    found = match_cost(evaluations, target, start=start)
    assert found.matched
    assert abs(found.evaluations / target - 1) <= 0.02
    # c = (scale/target)^{1/slope}; 2 % in the count, and half a unit of rounding, are so much in c
    exact = (1e4 / target) ** (1 / slope)
    assert abs(math.log(found.constant / exact)) <= (0.0203 + 0.5 / target) / slope
    assert found.evaluations == evaluations(found.constant)
    assert tried[0] == pytest.approx(start, rel=1e-14)  # it passes a logarithm


def test_a_cost_that_falls_as_one_over_the_constant_takes_two_trials():
    evaluations, tried = power_law(scale=1e6)
    found = match_cost(evaluations, 5000, start=1.0)
    assert (found.matched, found.trials) == (True, 2)
    assert found.constant == pytest.approx(200.0, rel=1e-3)  # the count at the start is exact to 1e-6
    assert len(tried) == 2


def test_a_start_that_matches_is_taken_as_it_is():
    found = match_cost(lambda constant: 100, 100, start=0.25)
    assert found == Match(pytest.approx(0.25, rel=1e-15), 100, True, 1)


@pytest.mark.parametrize(("tolerance", "matched"), [(1 / 16, True), (0.0624, False)])
@pytest.mark.parametrize("count", [15, 17])
def test_the_tolerance_is_relative_to_the_target_and_includes_its_edge(tolerance, matched, count):
    # sixteenths are exact
    found = match_cost(lambda constant: count, 16, start=1.0, tolerance=tolerance, max_trials=1)
    assert (found.matched, found.evaluations) == (matched, count)


@pytest.mark.parametrize("phase", [0.0, 1.0, 2.0, 3.0])
def test_noise_smaller_than_the_tolerance_is_no_obstacle(phase):
    def noisy(constant):  # ± 1 %, as wild in c as rounding the number of steps makes it
        return round(3e4 / constant * (1 + 0.01 * math.sin(1e4 * constant + phase)))

    found = match_cost(noisy, 2000, start=1.0)
    assert found.matched
    assert found.constant == pytest.approx(15.0, rel=0.031)  # tolerance and noise


@pytest.mark.parametrize("phase", [0.0, 1.0, 2.0, 3.0])
def test_noise_beyond_the_tolerance_leaves_the_best_that_was_seen(phase):
    seen = []

    def noisy(constant):  # ± 20 %
        seen.append((constant, round(3e4 / constant * (1 + 0.2 * math.sin(1e4 * constant + phase)))))
        return seen[-1][1]

    found = match_cost(noisy, 2000, start=1.0, tolerance=1e-4)
    best = min(seen, key=lambda pair: abs(math.log(pair[1] / 2000)))
    assert (found.constant, found.evaluations) == best
    assert found.trials == len(seen) <= 24
    assert abs(found.evaluations / 2000 - 1) < 0.2  # nearer than the noise is wide


@pytest.mark.parametrize("start", [0.05, 0.9, 2.0])
def test_where_the_count_jumps_over_the_target_the_nearer_side_is_returned_unmatched(start):
    seen = []

    def stairs(constant):  # 1000 or 1500, nothing in between
        seen.append(constant)
        return 1500 if constant < 1.0 else 1000

    found = match_cost(stairs, 1100, start=start)
    assert not found.matched
    assert found.evaluations == 1000
    assert found.trials == len(seen) == 24
    # a bracket no wider than one step of the slope, ln(1500/1100) = 0.31, halved every fourth trial from then on
    below, above = max(c for c in seen if c < 1.0), min(c for c in seen if c >= 1.0)
    assert math.log(above / below) < 0.31 / 2**3


def test_a_constant_that_costs_nothing_is_no_obstacle():
    def cliff(constant):  # beyond 1 the run ends at once
        return 0 if constant > 1.0 else round(100 / constant)

    found = match_cost(cliff, 400, start=1e3)
    assert found.matched
    assert found.constant == pytest.approx(0.25, rel=0.021)


def test_a_count_that_does_not_depend_on_the_constant_is_given_up_with_the_first_trial():
    found = match_cost(lambda constant: 500, 1000, start=1.0, max_trials=6)
    assert found == Match(1.0, 500, False, 6)


@pytest.mark.parametrize("max_trials", [1, 2, 5])
def test_no_more_trials_are_made_than_allowed(max_trials):
    evaluations, tried = power_law(slope=0.1)
    found = match_cost(evaluations, 10, start=1.0, max_trials=max_trials)
    assert found.trials == len(tried) == max_trials
    assert not found.matched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "target must be >= 1 force evaluations, got 0"),
        ({"start": 0.0}, "start must be > 0 and finite, got 0.0"),
        ({"start": -1.0}, "start must be > 0 and finite"),
        ({"start": math.inf}, "start must be > 0 and finite, got inf"),
        ({"start": math.nan}, "start must be > 0 and finite, got nan"),
        ({"tolerance": 0.0}, r"tolerance must be > 0 \(e.g. 0.02\), got 0.0"),
        ({"tolerance": math.nan}, "tolerance must be > 0 .*got nan"),
        ({"max_trials": 0}, "max_trials must be >= 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_run(options, message):
    def never(constant):
        raise AssertionError("the rule was run")

    with pytest.raises(ValueError, match=f"match_cost: {message}"):
        match_cost(never, **{"target": 100, "start": 1.0, **options})
