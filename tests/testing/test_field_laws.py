"""Every law of fields fails on a field with the defect that it is for."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.testing import FIELD_LAWS, LawError, check_field

FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)
SOUND = build_tidal_field(50.0, [10.0, 0.0, 0.0])
MOVING = build_tidal_field(50.0, straight_path([10.0, 0.0, 0.0], [3.0, 0.0, 0.0]))


def accelerating(change):
    return SOUND._replace(acceleration=lambda x, t: change(SOUND.acceleration(x, t), x, t))


def impure(a, x, t):
    x.mul_(0.999)
    return a


def level(a, x, t):
    return a * (1 + 1e-3 * (torch._C._functorch.maybe_current_level() or 0))


def absolute(scale):
    """The field with a guard that has a unit."""
    sound = in_units(scale)
    return sound._replace(potential=lambda x, t: 1 / (1 / sound.potential(x, t) + 1e-9))


def in_units(scale):
    return build_tidal_field(50.0 * scale.mass, [10.0 * scale.length, 0.0, 0.0], G=scale.gravitational_constant)


DEFECTS = {
    "shape": accelerating(lambda a, x, t: a.sum()),
    "gradient": accelerating(lambda a, x, t: -a),
    "derivatives": accelerating(lambda a, x, t: a.detach()),
    "units": SOUND,
    "static": MOVING._replace(static=True),
    "energy": MOVING._replace(static=True),
    "pure": accelerating(impure),
    "vmap": accelerating(level),
    "single": accelerating(lambda a, x, t: a.double()),
}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == FIELD_LAWS.keys()


@pytest.mark.parametrize("law", FIELD_LAWS)
def test_a_law_fails_on_its_defect(law):
    with pytest.raises(LawError, match=f"^check_field: {law}: "):
        check_field(DEFECTS[law], laws=[law], settings=FOUND, in_units=absolute)


def test_a_field_that_moves_is_not_asked_to_be_static():
    check_field(MOVING, laws=["static"], settings=FOUND)


def test_a_field_in_units_of_its_own_is_not_tried_in_others():
    check_field(SOUND, laws=["units"], settings=FOUND)
    check_field(SOUND, laws=["units"], settings=FOUND, in_units=in_units)


def test_a_field_in_the_plane_is_tried_in_the_plane():
    check_field(build_tidal_field(50.0, [10.0, 0.0]), dimensions=2, laws=["shape", "gradient"], settings=FOUND)
