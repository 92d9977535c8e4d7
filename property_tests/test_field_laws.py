"""The laws of external fields, on the tidal field of a perturber at rest and of one that moves."""

import math

import pytest
import torch
from hypothesis import settings

from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.testing import FIELD_LAWS, check_field


def circle(t):
    """A perturber on a circle of radius 10 with a period of 20."""
    angle = 2 * math.pi * t / 20
    return torch.stack([10 * angle.cos(), 10 * angle.sin()])


# Thirty examples of every law of every object would take minutes; a defect breaks a law on most of the first ten.
EXAMPLES = settings(max_examples=max(5, settings().max_examples // 3))

FIELDS = {
    "at rest": (lambda: build_tidal_field(50.0, [6.0, -8.0, 0.0]), 3),
    "at rest in the plane": (lambda: build_tidal_field(50.0, [6.0, -8.0], G=1.0), 2),
    "on a line": (lambda: build_tidal_field(50.0, straight_path([8.0, -6.0, 3.0], [0.5, 1.0, -0.3])), 3),
    "on a circle": (lambda: build_tidal_field(50.0, circle), 2),
}


@pytest.mark.parametrize("law", FIELD_LAWS)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_keeps_the_law(name, law):
    build, dimensions = FIELDS[name]
    check_field(build(), dimensions=dimensions, laws=[law], settings=EXAMPLES)
