"""Quantiles, means and their intervals: those of sorted lists, resample by resample."""

import math

import pytest
import torch

from aits_func.base.rng import generator
from aits_func.loops.bootstrap import (
    Estimate,
    as_estimates,
    count_draws,
    decides,
    draw_resamples,
    estimates,
    resampled_means,
    resampled_quantiles,
)

QUANTILES = (0.5, 0.9, 0.99)


def plain_quantile(values, q):
    """Of a list, by sorting it."""
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


def rows(size, seed=1):
    """Distinct values; values with many ties; values of which some are infinite; zeros."""
    draw = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([draw, (draw * 4).floor(), draw.masked_fill(draw > 0.7, math.inf), torch.zeros_like(draw)])


@pytest.mark.parametrize("size", [1, 2, 3, 10, 99, 100, 101, 1000])
def test_the_first_sample_is_the_systems_themselves(size):
    values = rows(size)
    found = resampled_quantiles(values, count_draws(draw_resamples(size, 3, seed=0)), QUANTILES)
    assert found.shape == (4, 3, 4)
    assert found[..., 0].tolist() == [[plain_quantile(row.tolist(), q) for q in QUANTILES] for row in values]


@pytest.mark.parametrize(
    ("size", "want"),
    # by hand: the smallest value that more than half, 90 %, 99 % do not exceed, of 1, 2, 3 ...
    [(1, [1, 1, 1]), (2, [2, 2, 2]), (3, [2, 3, 3]), (10, [6, 10, 10]), (100, [51, 91, 100]), (1000, [501, 901, 991])],
)
def test_a_quantile_is_an_order_statistic(size, want):
    values = torch.arange(size, 0, -1, dtype=torch.float64)[None]
    found = resampled_quantiles(values, count_draws(draw_resamples(size, 0, seed=0)), QUANTILES)
    assert found[0, :, 0].tolist() == want


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_resample_is_what_a_loop_over_its_indices_makes_of_it(size):
    values, index = rows(size), draw_resamples(size, 20, seed=4)
    counts = count_draws(index)
    quantiles, means = (
        resampled_quantiles(values, counts, QUANTILES),
        resampled_means((values[:2] * 64).floor(), counts),
    )
    for number, drawn in enumerate(index, start=1):
        for row, of_row in zip(values, quantiles, strict=True):
            assert of_row[:, number].tolist() == [plain_quantile(row[drawn].tolist(), q) for q in QUANTILES]
        for row, of_row in zip((values[:2] * 64).floor(), means, strict=True):
            assert float(of_row[number]) == sum(row[drawn].tolist()) / size  # sums of small integers are exact


def test_a_quantile_is_infinite_from_the_share_of_infinite_systems_on():
    values = torch.ones(3, 10, dtype=torch.float64)
    values[0, :4], values[1, :5], values[2, :1] = math.inf, math.inf, math.inf
    found = resampled_quantiles(values, count_draws(draw_resamples(10, 0, seed=0)), (0.5, 0.8, 0.9))
    assert found[..., 0].tolist() == [[1, math.inf, math.inf], [math.inf] * 3, [1, 1, math.inf]]


def test_a_row_that_was_not_measured_stays_so_in_every_sample():
    values = rows(10)
    values[1] = math.nan
    found = resampled_quantiles(values, count_draws(draw_resamples(10, 50, seed=0)), QUANTILES)
    assert found[1].isnan().all()
    assert not found[[0, 2, 3]].isnan().any()


def test_every_resample_has_as_many_systems_as_there_are():
    counts = count_draws(draw_resamples(17, 30, seed=2))
    assert counts.shape == (31, 17)
    assert counts.sum(1).eq(17).all()
    assert counts[0].eq(1).all()
    assert not counts[1:].eq(1).all(1).any()


def test_the_draw_is_that_of_the_key():
    index = draw_resamples(50, 8, seed=3)
    assert torch.equal(index, torch.randint(50, (8, 50), generator=generator(3, "bootstrap")))
    assert torch.equal(index, draw_resamples(50, 8, seed=3))
    assert not torch.equal(index, draw_resamples(50, 8, seed=4))


@pytest.mark.parametrize(
    ("resamples", "low", "high"), [(1, 1, 1), (19, 1, 19), (20, 2, 19), (100, 6, 95), (200, 11, 190)]
)
def test_an_interval_leaves_out_one_in_twenty_at_either_end(resamples, low, high):
    shuffled = torch.randperm(resamples, generator=torch.Generator().manual_seed(0)) + 1.0
    assert as_estimates(torch.cat([torch.tensor([7.5]), shuffled])[None]) == [Estimate(7.5, low, high)]


def test_without_resamples_an_interval_is_its_value():
    assert as_estimates(torch.tensor([[2.5], [math.inf]])) == [Estimate(2.5, 2.5, 2.5), Estimate(*[math.inf] * 3)]


def test_an_interval_may_end_at_infinity():
    samples = torch.cat([torch.tensor([1.0]), torch.arange(90.0), torch.full((10,), math.inf)])
    assert as_estimates(samples[None]) == [Estimate(1.0, 5.0, math.inf)]


def test_resamples_that_say_nothing_are_left_out():
    samples = torch.cat([torch.tensor([1.0]), torch.full((60,), math.nan), torch.arange(40.0)])
    assert as_estimates(samples[None]) == [Estimate(1.0, 2.0, 37.0)]


def test_where_the_value_or_all_resamples_say_nothing_the_interval_says_nothing():
    nan = math.nan
    found = estimates(torch.tensor([[nan, 1.0, 2.0], [1.0, nan, nan], [nan, nan, nan]]))
    assert found.isnan().tolist() == [[True] * 3, [False, True, True], [True] * 3]


@pytest.mark.slow
def test_the_interval_of_a_median_covers_it_nine_times_in_ten():
    data = torch.rand(1000, 101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = resampled_quantiles(data, count_draws(draw_resamples(101, 400, seed=0)), (0.5,))[:, 0]
    _, low, high = estimates(samples).unbind(-1)
    covered = float(((low <= 0.5) & (high >= 0.5)).double().mean())
    # 1000 sets: a standard deviation of 0.0095, three of them; and 0.01 for 101 systems and 400 resamples
    assert abs(covered - 0.9) < 0.04


def test_a_ratio_decides_if_its_interval_lies_on_one_side_of_1():
    for low, high, decided in [
        (0.5, 0.9, True),
        (1.1, 3.0, True),
        (0.9, 1.1, False),
        (0.5, 1.0, False),
        (1.0, 1.2, False),
    ]:
        assert decides(Estimate(0.99, low, high), systems=5) is decided
    assert decides(Estimate(0.0, 0.0, 0.0), systems=5)  # an infinite error against a finite one
    assert not decides(Estimate(math.nan, math.nan, math.nan), systems=50)


def test_too_few_systems_or_no_resamples_decide_nothing():
    ratio = Estimate(0.5, 0.5, 0.5)
    assert not decides(ratio, systems=4)
    assert not decides(ratio, systems=0)


@pytest.mark.parametrize("size", [5, 8, 32])
def test_two_rules_of_one_kind_are_told_apart_by_chance_alone_in_few_of_many_comparisons(size):
    # errors of both drawn alike: the ratio of the medians is decided in about one of ten, as the interval has 90 %;
    # more in small samples, whose percentile intervals are too narrow, but at five in no more than twice that
    random = torch.Generator().manual_seed(1)
    counts = count_draws(draw_resamples(size, 200, seed=0))
    decided = 0
    for _ in range(200):
        errors = torch.randn(2, size, generator=random, dtype=torch.float64).exp()
        ours, theirs = resampled_quantiles(errors, counts, (0.5,))[:, 0]
        (ratio,) = as_estimates((ours / theirs)[None])
        decided += decides(ratio, systems=size)
    assert decided / 200 < 0.2
