"""Quantiles and means over systems, with bootstrap intervals from resamples that everything compared shares.

Letters: B systems, P rows (one rule at one tolerance each), Q quantiles, R resamples; S = 1 + R samples, of
which the first is the systems themselves.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..base.rng import generator

FEWEST_SYSTEMS = 5
"""Systems that an interval is made of, at least: that all of B fall on one side of 1 by chance has the probability
2^(1 − B), less than one in ten from five on. Of one system the interval has no width, and says nothing."""

_TAIL = 20  # one in so many resamples lies beyond either end of an interval: 90 % lie within


class Estimate(NamedTuple):
    """A number and the ends of its 90 % interval, all the same if nothing was resampled: plain numbers."""

    value: float
    low: float
    high: float


def draw_resamples(size: int, resamples: int, *, seed: int) -> Tensor:
    """Systems drawn with replacement, (R, B) int64: one draw for all rules, so that their ratios are paired."""
    return torch.randint(size, (resamples, size), generator=generator(seed, "bootstrap"))


def count_draws(index: Tensor) -> Tensor:
    """How often each system is in each sample, (S, B) int32: once in the first, then as ``index`` (R, B) has it."""
    counts = torch.zeros(index.shape, dtype=torch.int32)
    counts.scatter_add_(1, index, torch.ones_like(counts))
    return torch.cat([counts.new_ones(1, index.shape[1]), counts])


def resampled_quantiles(values: Tensor, counts: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Quantiles over the systems of every row in every sample, (P, Q, S).

    Order statistics without interpolation, as systems may be infinite: the smallest value that more than a share q
    of the systems do not exceed, or the largest value.

    A row is sorted once, no resample is: in a resample a value stands behind all draws of the values before it, so
    the running sum of the counts finds it. (Sorting every resample gives the same numbers in 30 times the time.)

    Args:
        values: (P, B); a row may have infinite entries, or be NaN as a whole.
        counts: (S, B), see `count_draws`.
        quantiles: Q shares, in [0, 1].
    """
    size = values.shape[1]
    ranks = torch.tensor([min(int(q * size), size - 1) for q in quantiles], dtype=counts.dtype)
    ranks = ranks.expand(len(counts), -1).contiguous()
    rows = []
    for row in values:
        ascending, order = row.sort()
        up_to = counts.gather(1, order.expand_as(counts)).cumsum(1, dtype=counts.dtype)
        place = torch.searchsorted(up_to, ranks, right=True)
        rows.append(ascending[place].T)
    return torch.stack(rows)


def resampled_means(values: Tensor, counts: Tensor) -> Tensor:
    """Means over the systems of every row (P, B) in every sample, (P, S). The values must be finite."""
    return values @ counts.T.to(values.dtype) / values.shape[1]


def estimates(samples: Tensor) -> Tensor:
    """(..., 3): the first of the S samples (..., S), and the ends of the 90 % interval of the others.

    A percentile interval, its ends order statistics. Resamples that are NaN tell nothing and are left out; where
    the first sample is NaN, or all others are, so are the ends.
    """
    value, others = samples[..., :1], samples[..., 1:]
    if others.shape[-1] == 0:
        return value.expand(*value.shape[:-1], 3)
    known = (~others.isnan()).sum(-1, keepdim=True)
    tail = known // _TAIL
    ends = torch.cat([tail, (known - 1 - tail).clamp(min=0)], -1)
    interval = others.sort(-1).values.gather(-1, ends)  # NaN is sorted to the end
    return torch.cat([value, torch.where(value.isnan(), value, interval)], -1)


def decides(ratio: Estimate, *, systems: int) -> bool:
    """Whether a ratio says which of two is smaller: its 90 % interval over the systems lies on one side of 1.

    Args:
        ratio: with its interval.
        systems: how many the interval was made of, 0 if nothing was resampled; `FEWEST_SYSTEMS` are needed.

    Returns:
        False if the interval contains 1, or nothing is known about it.
    """
    if systems < FEWEST_SYSTEMS or math.isnan(ratio.low) or math.isnan(ratio.high):
        return False
    return ratio.high < 1 or ratio.low > 1


def as_estimates(samples: Tensor) -> list[Estimate]:
    """One `Estimate` for each row of samples (rows, S)."""
    return [Estimate(*row) for row in estimates(samples).tolist()]
