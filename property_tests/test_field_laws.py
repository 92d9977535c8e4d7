"""The laws of external fields, on the tidal field of a perturber at rest and of one that moves."""

import math

import pytest
import torch
from hypothesis import settings

from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.testing import FIELD_LAWS, Units, check_field


def circle(t):
    """A perturber on a circle of radius 10 with a period of 20."""
    angle = 2 * math.pi * t / 20
    return torch.stack([10 * angle.cos(), 10 * angle.sin()])


# Thirty examples of every law of every object would take minutes; a defect breaks a law on most of the first ten.
EXAMPLES = settings(max_examples=max(5, settings().max_examples // 3))

OURS = Units(1.0, 1.0, 1.0)


def far_away(place):
    """A perturber of 50 masses at a place that is said in lengths and times, in whatever units."""

    def build(units=OURS):
        mass, G = 50.0 * units.mass, units.gravitational_constant
        return build_tidal_field(mass, place(units), G=G)

    return build


def at_rest(*place):
    return far_away(lambda units: [units.length * x for x in place])


def on_a_line(units):
    speed = units.length / units.time
    return straight_path([units.length * x for x in (8.0, -6.0, 3.0)], [speed * v for v in (0.5, 1.0, -0.3)])


# name: (the field in given units, D)
FIELDS = {
    "at rest": (at_rest(6.0, -8.0, 0.0), 3),
    "at rest in the plane": (at_rest(6.0, -8.0), 2),
    "on a line": (far_away(on_a_line), 3),
    "on a circle": (far_away(lambda units: lambda t: units.length * circle(t / units.time)), 2),
}


@pytest.mark.parametrize("law", FIELD_LAWS)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_keeps_the_law(name, law):
    build, dimensions = FIELDS[name]
    check_field(build(), dimensions=dimensions, in_units=build, laws=[law], settings=EXAMPLES)
