"""Uniform draws keep their bounds, ends included, and small angles keep their digits."""

import math
import re

import pytest
import torch

from aits_func.base.rng import generator
from aits_func.physics.draws import check_range, inclinations, orientations, uniform

PI = math.pi


def test_uniform_numbers_fill_their_range_and_no_more():
    x = uniform(generator(1, "x"), (-2.0, 3.0), 1000, 10)
    assert x.shape == (1000, 10)
    assert x.dtype == torch.float64
    assert x.min() >= -2
    assert x.max() <= 3
    share = torch.histc((x + 2) / 5, 10, 0, 1) / 10_000
    assert (share - 0.1).abs().max() < 4 * math.sqrt(0.09 / 10_000)  # four standard errors


@pytest.mark.parametrize("value", [0.1, -1e300, 1e-300, 0.95])
def test_a_range_of_one_number_gives_exactly_it(value):
    assert (uniform(generator(1, "x"), (value, value), 100) == value).all()


def test_inclinations_are_uniform_in_their_cosine():
    i = inclinations(generator(1, "i"), (0.3, 2.0), 10_000)
    low, high = math.cos(2.0), math.cos(0.3)
    share = torch.histc((i.cos() - low) / (high - low), 10, 0, 1) / 10_000
    assert (share - 0.1).abs().max() < 4 * math.sqrt(0.09 / 10_000)  # four standard errors
    assert i.min() >= 0.3 * (1 - 1e-15)
    assert i.max() <= 2.0 * (1 + 1e-15)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1.0, PI])
def test_an_inclination_of_one_angle_is_that_angle_however_small(angle):
    i = inclinations(generator(1, "i"), (angle, angle), 10)
    assert i.tolist() == pytest.approx([angle] * 10, rel=1e-15, abs=0)  # a few roundings


def test_an_orientation_of_the_plane_tilts_nothing():
    node, inclination, pericentre = orientations(generator(1, "o"), 10, 2)
    assert not node.any()
    assert not inclination.any()
    assert pericentre.unique().numel() == 10


@pytest.mark.parametrize(
    ("bounds", "within", "right"),
    [
        ((0.0, 1.0), "[0, 1]", True),
        ((0.0, 1.0), "[0, 1)", False),
        ((0.0, 1.0), "(0, 1]", False),
        ([0, 1], "[0, inf)", True),
        ((0.0, math.inf), "[0, inf)", False),
        ((0.0, PI), "[0, pi]", True),
        ((0.0, 3.15), "[0, pi]", False),
        ((0.5, 0.5), "(0, 1)", True),
        ((0.6, 0.5), "(0, 1)", False),
        ((math.nan, 0.5), "(0, 1)", False),
        ((0.5, math.nan), "(0, 1)", False),
        ((0.1, 0.2, 0.3), "(0, 1)", False),
        ("ab", "(0, 1)", False),
        (None, "(0, 1)", False),
    ],
)
def test_a_range_is_checked_against_the_interval_as_it_is_written(bounds, within, right):
    if right:
        check_range("f", "x", bounds, within)
        return
    with pytest.raises(ValueError, match=re.escape(f"f: x must be a pair (low, high) of numbers in {within}")):
        check_range("f", "x", bounds, within)
