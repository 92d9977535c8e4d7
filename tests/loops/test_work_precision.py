"""Work and precision: power laws whose needs are known, failures, what was not measured, and paired intervals."""

import math

import pytest
import torch

from aits_func.loops.bootstrap import Estimate, count_draws, draw_resamples
from aits_func.loops.compare import summarise
from aits_func.loops.rules import Outcome, RunStatistics
from aits_func.loops.work_precision import LEVELS, METRICS, QUANTILES, evaluations_needed

ERRORS = RunStatistics._fields[3:10]
ROUNDING = 1e-12  # a few logarithms and a power, in float64


def outcome(rule, evaluations, error, *, tolerance=0.1, failed=None, seconds=1.0, **columns):
    """A rule with the same error in every metric, unless said otherwise."""
    spent = torch.as_tensor(evaluations)
    error = torch.as_tensor(error, dtype=torch.float64).expand(spent.shape)
    fields = dict.fromkeys(ERRORS, error)
    fields |= {name: torch.as_tensor(column, dtype=torch.float64) for name, column in columns.items()}
    failed = torch.zeros(spent.shape, dtype=torch.bool) if failed is None else torch.tensor(failed)
    return Outcome(
        rule, tolerance, RunStatistics(failed, spent, spent * 3, **fields, seconds=torch.tensor(seconds).double())
    )


def power_law(rule, c, k, sweep=(100, 1000, 10_000), spread=None, dearer=1):
    """Systems with error c · s · n^-k each at n evaluations, s its entry in ``spread``."""
    spread = torch.ones(4, dtype=torch.float64) if spread is None else spread
    return [
        outcome(rule, torch.full(spread.shape, n * dearer), c * spread * float(n) ** -k, tolerance=1 / n) for n in sweep
    ]


def varied(size=40, seed=5):
    """Factors between 0.1 and 10."""
    return 10 ** (2 * torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1)


def needs_of(comparison, rule, metric="mean_energy_error", quantile=0.5):
    return {
        need.level: need
        for need in comparison.needs
        if (need.rule, need.metric, need.quantile) == (rule, metric, quantile)
    }


def curve(cost, error, levels):
    """Needs and bounds of one curve of K points without resamples."""
    need, bound = evaluations_needed(
        torch.tensor(cost, dtype=torch.float64)[:, None],
        torch.tensor(error, dtype=torch.float64)[:, None, None],
        torch.tensor(levels, dtype=torch.float64),
    )
    return need[0, :, 0].tolist(), bound[0].tolist()


def plain_need(points, level):
    """The need by a loop over the points of a rule, (cost, error) each, all of them finite and > 0."""
    points = sorted(points)
    for number, (cost, error) in enumerate(points):
        if error <= level:
            if number == 0:
                return cost
            cost_0, error_0 = points[number - 1]
            share = math.log(error_0 / level) / math.log(error_0 / error)
            return math.exp(math.log(cost_0) + share * math.log(cost / cost_0))
    return math.inf


# --- needs in closed form


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0, 4.0])
def test_on_a_power_law_the_need_is_its_inverse(k):
    c = 3.0
    levels = [c * n**-k for n in (101.0, 250.0, 999.0, 1001.0, 5000.0, 9999.0)]  # between the points of the sweep
    found = needs_of(summarise(power_law("law", c, k), levels=levels), "law")
    for level in levels:
        # c · n^-k carries the rounding of level and errors, amplified by 1/k
        assert found[level].evaluations.value == pytest.approx((c / level) ** (1 / k), rel=ROUNDING / min(k, 1))
        assert not found[level].bound


def test_the_ratio_of_two_power_laws_depends_on_the_level_as_their_slopes_say():
    levels = (1e-5, 1e-6, 1e-7)
    comparison = summarise(power_law("second", 1.0, 2) + power_law("fourth", 1.0, 4, (10, 40, 160)), levels=levels)
    for level in levels:
        need = needs_of(comparison, "fourth")[level]
        assert need.ratio.value == pytest.approx(level**-0.25 / level**-0.5, rel=ROUNDING)
        assert needs_of(comparison, "second")[level].ratio == Estimate(1.0, 1.0, 1.0)


def test_each_quantile_has_the_need_of_its_system():
    spread = varied(1000)
    comparison = summarise(power_law("law", 1.0, 2, (10, 10_000), spread), levels=(1e-4,))
    ordered = sorted(spread.tolist())
    for quantile, rank in zip(QUANTILES, (500, 900, 990), strict=True):
        need = needs_of(comparison, "law", quantile=quantile)[1e-4]
        assert need.evaluations.value == pytest.approx((ordered[rank] / 1e-4) ** 0.5, rel=ROUNDING)


def test_between_two_points_the_curve_is_straight_in_log_log():
    # errors 1, 1e-2, 1e-8 at 1, 10, 1000: slopes 2 and 3
    found, bounds = curve([1, 10, 1000], [1.0, 1e-2, 1e-8], [1e-1, 1e-2, 1e-5, 1e-8])
    assert found == pytest.approx([10**0.5, 10, 100, 1000], rel=ROUNDING)
    assert bounds == [False] * 4


def test_points_count_in_order_of_cost_whatever_the_order_of_the_sweep():
    cost, error, levels = [1, 10, 100, 1000], [1.0, 1e-1, 1e-3, 1e-6], [0.5, 1e-2, 1e-5]
    straight = curve(cost, error, levels)
    for order in ([3, 2, 1, 0], [2, 0, 3, 1]):
        assert curve([cost[i] for i in order], [error[i] for i in order], levels) == straight


def test_points_are_put_in_order_in_every_sample_by_itself():
    cost = torch.tensor([[10.0, 100.0], [100.0, 10.0]])  # what is cheaper in the first sample is dearer in the second
    error = torch.tensor([[1e-1, 1e-5], [1e-3, 1e-1]], dtype=torch.float64)[:, None]
    need, _ = evaluations_needed(cost.double(), error, torch.tensor([1e-2], dtype=torch.float64))
    assert need[0, 0].tolist() == pytest.approx([10 * 10**0.5, 10 * 10**0.25], rel=ROUNDING)


def test_a_curve_that_rises_again_is_read_where_it_first_reaches_the_level():
    found, _ = curve([1, 10, 100, 1000], [1.0, 1e-4, 1e-1, 1e-6], [1e-2, 1e-5])
    assert found == pytest.approx([10**0.5, 100 * 10**0.8], rel=ROUNDING)


def test_nothing_is_extrapolated():
    found, bounds = curve([10, 100], [1e-2, 1e-4], [0.99e-4, 1.01e-2, 1e-1])
    assert found == [math.inf, 10, 10]
    assert bounds == [False, True, True]


def test_the_cheapest_point_s_own_error_is_reached_there_and_no_bound():
    assert curve([10, 100], [1e-2, 1e-4], [1e-2]) == ([10], [False])


def test_a_zero_error_reaches_every_level_at_the_cost_of_its_point():
    assert curve([10, 100], [1e-2, 0.0], [1e-3, 1e-300]) == ([100, 100], [False, False])
    assert curve([10, 100], [0.0, 0.0], [1e-3]) == ([10], [True])


def test_after_an_infinite_error_the_first_finite_point_is_the_answer():
    assert curve([10, 100], [math.inf, 1e-4], [1e-2, 1e-4, 1e-5]) == ([100, 100, math.inf], [False] * 3)
    assert curve([10, 100], [math.inf, math.inf], [1e-2]) == ([math.inf], [False])
    assert curve([10, 100], [math.inf, 0.0], [1e-2]) == ([100], [False])


def test_a_point_of_infinite_cost_reaches_nothing():
    assert curve([10, math.inf], [1e-1, 1e-4], [1e-2]) == ([math.inf], [False])
    assert curve([math.inf, math.inf], [1e-1, 1e-4], [1e-2]) == ([math.inf], [False])
    assert curve([math.inf], [1e-4], [1e-2]) == ([math.inf], [False])


def test_a_point_that_costs_nothing_is_no_obstacle():
    assert curve([0, 100], [1e-1, 1e-4], [1e-2]) == ([100], [False])


def test_two_points_of_one_cost_are_no_obstacle():
    assert curve([10, 10], [1e-1, 1e-4], [1e-2]) == ([10], [False])


def test_levels_that_no_rule_reaches_are_dropped_and_those_that_one_reaches_are_kept_for_all():
    outcomes = power_law("coarse", 1.0, 1) + power_law("fine", 1.0, 2)
    comparison = summarise(outcomes, levels=(1e-3, 1e-7, 1e-9))
    assert set(needs_of(comparison, "fine")) == {1e-3, 1e-7}
    need = needs_of(comparison, "coarse")[1e-7]
    assert need.evaluations == Estimate(*[math.inf] * 3)
    assert math.isnan(need.ratio.value)  # ∞ over ∞: itself over itself


def test_a_ratio_is_zero_where_only_the_reference_fails_and_infinite_where_only_the_reference_does_not():
    outcomes = power_law("coarse", 1.0, 1) + power_law("fine", 1.0, 2)
    level = (1e-7,)
    over_coarse = needs_of(summarise(outcomes, levels=level, reference="coarse"), "fine")[1e-7]
    over_fine = needs_of(summarise(outcomes, levels=level, reference="fine"), "coarse")[1e-7]
    assert over_coarse.ratio == Estimate(0.0, 0.0, 0.0)
    assert over_fine.ratio == Estimate(*[math.inf] * 3)


def test_a_ratio_of_two_needs_that_are_not_met_is_no_number():
    outcomes = [*power_law("a", 1.0, 1), *power_law("b", 1.0, 1), *power_law("c", 1.0, 2)]
    need = needs_of(summarise(outcomes, levels=(1e-7,)), "b")[1e-7]
    assert all(math.isnan(number) for number in need.ratio)


def test_needs_stand_by_metric_quantile_level_and_rule():
    comparison = summarise(power_law("b", 1.0, 2) + power_law("a", 1.0, 2), levels=(1e-3, 1e-2))
    assert [need[:4] for need in comparison.needs] == [
        (rule, metric, quantile, level)
        for metric in METRICS
        for quantile in QUANTILES
        for level in (1e-3, 1e-2)
        for rule in ("b", "a")
    ]


def test_the_levels_are_powers_of_ten_from_a_hundredth_to_a_billionth_of_a_thousandth():
    assert LEVELS == (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12)


def test_the_cost_is_the_median_or_the_mean_as_asked():
    spent = torch.tensor([10, 20, 30, 40, 900])
    outcomes = [outcome("a", spent, 1e-3), outcome("a", spent * 10, 1e-5)]
    for cost, scale in (("median", 30), ("mean", 200)):
        comparison = summarise(outcomes, levels=(1e-3, 1e-4), cost=cost)
        found = needs_of(comparison, "a")
        assert comparison.cost == cost
        assert found[1e-3].evaluations.value == scale
        assert found[1e-4].evaluations.value == pytest.approx(scale * 10**0.5, rel=ROUNDING)


# --- points


def test_a_point_says_what_the_rule_spent():
    spent = torch.arange(1, 21) * 100
    (point,) = summarise([outcome("a", spent, 1e-3, tolerance=0.25, seconds=1.5)], resamples=0).points
    assert point[:4] == ("a", 0.25, 20, 0)
    assert point.median_evaluations == Estimate(1100, 1100, 1100)
    assert point.high_evaluations == Estimate(1900, 1900, 1900)
    assert point.mean_evaluations == Estimate(1050, 1050, 1050)
    assert (point.rule_evaluations, point.seconds) == (3150, 1.5)


def test_a_point_has_the_quantiles_of_every_metric():
    columns = {name: varied(50, seed) for seed, name in enumerate(ERRORS)}
    (point,) = summarise([outcome("a", torch.ones(50, dtype=torch.int64), 1.0, **columns)]).points
    for metric in METRICS:
        ordered = sorted(columns[metric].tolist())
        assert [point.error(metric, q).value for q in QUANTILES] == [ordered[25], ordered[45], ordered[49]]
    assert len(point.errors) == len(METRICS)
    assert all(len(row) == len(QUANTILES) for row in point.errors)


def test_what_is_reported_first_is_neither_spikes_nor_the_end():
    assert METRICS[:2] == ("mean_energy_error", "max_potential_error")
    assert set(METRICS) == set(ERRORS)


def test_of_a_drift_the_size_counts():
    spent = torch.ones(3, dtype=torch.int64)
    (point,) = summarise([outcome("a", spent, 1.0, energy_drift=[-3.0, 1.0, -2.0])]).points
    assert point.error("energy_drift", 0.5).value == 2.0
    assert point.error("energy_drift", 0.9).value == 3.0


# --- failures and what was not measured


def test_a_failed_system_has_infinite_errors_whatever_it_reported():
    spent = torch.tensor([100, 100, 100, 100, 100, 4])
    error = torch.tensor([1.0, 2, 3, 4, 5, 0])
    (point,) = summarise([outcome("a", spent, error, failed=[False] * 5 + [True])], resamples=0).points
    assert point.failed == 1
    for metric in METRICS:
        assert [point.error(metric, q).value for q in QUANTILES] == [4, math.inf, math.inf]


def test_a_failed_system_costs_infinitely_in_the_quantiles_and_what_it_spent_in_the_mean():
    spent = torch.tensor([100, 200, 300, 10])
    (point,) = summarise([outcome("a", spent, 1.0, failed=[False, False, False, True])], resamples=0).points
    assert point.median_evaluations.value == 300  # of 100, 200, 300, ∞: more than half do not exceed it
    assert point.high_evaluations.value == math.inf
    assert point.mean_evaluations.value == 152.5


def test_where_half_of_the_systems_failed_the_median_rule_reaches_nothing():
    good = outcome("a", torch.tensor([10, 10]), 1e-3)
    half = outcome("a", torch.tensor([100, 100]), 1e-6, failed=[True, False])
    comparison = summarise([good, half], levels=(1e-2, 1e-5), resamples=0)
    assert [need.level for need in needs_of(comparison, "a").values()] == [1e-2]
    assert comparison.points[1].median_evaluations.value == math.inf


def test_where_all_failed_every_error_is_infinite_even_if_none_is_a_number():
    (point,) = summarise([outcome("a", torch.tensor([5, 6]), math.nan, failed=[True, True])]).points
    assert {estimate for row in point.errors for estimate in row} == {Estimate(*[math.inf] * 3)}
    assert point.mean_evaluations.value == 5.5


def test_an_error_that_is_no_number_counts_as_infinite_beside_others_that_are():
    error = [1.0, 2.0, math.nan, 3.0, 4.0]
    (point,) = summarise([outcome("a", torch.ones(5, dtype=torch.int64), 1.0, mean_energy_error=error)]).points
    assert [point.error("mean_energy_error", q).value for q in QUANTILES] == [3, math.inf, math.inf]


@pytest.mark.parametrize("failed", [[False, False, False], [False, True, False]])
@pytest.mark.parametrize("of_failed", [math.nan, math.inf, 1.0])
def test_a_return_error_that_was_not_measured_is_no_number(failed, of_failed):
    returned = [of_failed if lost else math.nan for lost in failed]
    (point,) = summarise([outcome("a", torch.tensor([9, 9, 9]), 1e-3, failed=failed, return_error=returned)]).points
    assert all(math.isnan(number) for q in QUANTILES for number in point.error("return_error", q))
    assert not math.isnan(point.error("mean_energy_error", 0.5).value)


def test_needs_that_nobody_measured_are_dropped():
    outcomes = [outcome("a", torch.tensor([9, 9, 9]), 1e-3, return_error=[math.nan] * 3)]
    assert {need.metric for need in summarise(outcomes, levels=(1e-2,)).needs} == set(METRICS) - {"return_error"}


def test_the_need_of_a_rule_that_did_not_measure_is_unknown_beside_one_that_did():
    unmeasured = outcome("peer", torch.tensor([9, 9, 9]), 1e-3, return_error=[math.nan] * 3)
    comparison = summarise([*power_law("ours", 1.0, 2, spread=torch.ones(3).double()), unmeasured], levels=(1e-5,))
    ours, peer = (needs_of(comparison, rule, "return_error")[1e-5] for rule in ("ours", "peer"))
    assert ours.evaluations.value == pytest.approx(1e5**0.5, rel=ROUNDING)
    assert all(math.isnan(number) for number in (*peer.evaluations, *peer.ratio))
    assert not peer.bound
    assert needs_of(comparison, "peer")[1e-5].evaluations == Estimate(*[math.inf] * 3)  # measured, not met


def test_a_rule_that_measured_at_some_tolerances_is_judged_by_those():
    half = power_law("a", 1.0, 2)
    nothing = half[1].statistics._replace(return_error=torch.full((4,), math.nan, dtype=torch.float64))
    half[1] = half[1]._replace(statistics=nothing)
    comparison = summarise([*half, *power_law("b", 1.0, 2, (100, 10**6))], levels=(1e-7, 1e-9))
    found = needs_of(comparison, "a", "return_error")
    assert found[1e-7].evaluations.value == 10_000  # the next point that was measured, no line to it
    assert math.isnan(found[1e-9].evaluations.value)  # for all that is known the other point reaches it


# --- intervals


def two_rules(size=40):
    """Two rules whose costs and errors vary from system to system, three tolerances each."""
    outcomes = []
    for number, rule in enumerate(("a", "b")):
        cost, error = varied(size, 10 + number), varied(size, 20 + number)
        for n in (100, 1000, 10_000):
            spent = (cost * n * (1 + number)).long()
            outcomes.append(outcome(rule, spent, error * float(n) ** (-2 - number), tolerance=1 / n))
    return outcomes


@pytest.mark.parametrize("cost", ["median", "mean"])
def test_intervals_are_those_of_a_loop_over_the_same_resamples(cost):
    size, resamples, level = 40, 60, 1e-6
    outcomes = two_rules(size)
    comparison = summarise(outcomes, levels=(level,), cost=cost, resamples=resamples, seed=8)
    everything = [list(range(size)), *draw_resamples(size, resamples, seed=8).tolist()]

    def middle(column, drawn, q):
        return sorted(column[drawn].tolist())[min(int(q * size), size - 1)]

    def interval(samples):
        ordered = sorted(samples[1:])
        return (samples[0], ordered[3], ordered[56])  # a twentieth of 60 at either end

    for row, (_, _, statistics) in enumerate(outcomes):
        medians = [middle(statistics.force_evaluations, drawn, 0.5) for drawn in everything]
        errors = [middle(statistics.mean_energy_error, drawn, 0.9) for drawn in everything]
        assert comparison.points[row].median_evaluations == interval(medians)
        assert comparison.points[row].error("mean_energy_error", 0.9) == interval(errors)
    needs = {}
    for rule in ("a", "b"):
        needs[rule] = []
        for drawn in everything:
            points = []
            for _, _, statistics in (each for each in outcomes if each.rule == rule):
                spent = statistics.force_evaluations
                n = middle(spent, drawn, 0.5) if cost == "median" else sum(spent[drawn].tolist()) / size
                points.append((n, middle(statistics.mean_energy_error, drawn, 0.9)))
            needs[rule].append(plain_need(points, level))
        found = needs_of(comparison, rule, quantile=0.9)[level]
        ratios = [mine / other for mine, other in zip(needs[rule], needs["a"], strict=True)]
        assert found.evaluations == pytest.approx(interval(needs[rule]), rel=ROUNDING)
        assert found.ratio == pytest.approx(interval(ratios), rel=ROUNDING)
    assert len(set(needs["b"])) > resamples / 3  # the resamples do differ


@pytest.mark.parametrize("cost", ["median", "mean"])
def test_a_rule_that_is_twice_as_dear_on_every_system_has_the_ratio_two_without_any_doubt(cost):
    spread = varied(60)
    outcomes = []
    for rule, times in (("plain", 1), ("dear", 2)):
        for n in (100, 1000, 10_000):
            spent = (spread.flip(0) * n).long() * times
            outcomes.append(outcome(rule, spent, spread * float(n) ** -2))
    comparison = summarise(outcomes, cost=cost)
    plain = needs_of(comparison, "plain", quantile=0.9)
    dear = needs_of(comparison, "dear", quantile=0.9)
    inside = [level for level in (1e-5, 1e-6) if not plain[level].bound]
    assert inside
    for level in inside:
        assert plain[level].evaluations.low < plain[level].evaluations.high  # in doubt itself
        assert dear[level].ratio == Estimate(2.0, 2.0, 2.0)


def test_a_rule_under_another_name_has_the_ratio_one_even_where_some_resamples_do_not_reach_the_level():
    spread = varied(30)
    outcomes = power_law("a", 1.0, 2, spread=spread) + power_law("b", 1.0, 2, spread=spread)
    level = sorted(spread.tolist())[15] * 1e-8  # what the median reaches at the last point, just
    comparison = summarise(outcomes, levels=(level,))
    need = needs_of(comparison, "b")[level]
    assert need.evaluations.high == math.inf
    assert need.ratio == Estimate(1.0, 1.0, 1.0)


def test_without_resamples_every_interval_is_its_value():
    comparison = summarise(two_rules(), resamples=0)
    intervals = [each for need in comparison.needs for each in (need.evaluations, need.ratio)]
    intervals += [each for point in comparison.points for row in point.errors for each in row]
    intervals += [each for point in comparison.points for each in point[4:7]]
    assert all(value == low == high for value, low, high in intervals if not math.isnan(value))


def test_the_values_do_not_depend_on_the_resamples():
    few, many = (summarise(two_rules(), resamples=number) for number in (0, 100))
    assert [p.median_evaluations.value for p in few.points] == [p.median_evaluations.value for p in many.points]
    assert [n.evaluations.value for n in few.needs] == [n.evaluations.value for n in many.needs]
    assert [n.bound for n in few.needs] == [n.bound for n in many.needs]


def test_the_counts_of_no_resample_are_the_systems_alone():
    assert count_draws(draw_resamples(5, 0, seed=0)).tolist() == [[1, 1, 1, 1, 1]]
