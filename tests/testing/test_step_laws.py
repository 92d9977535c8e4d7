"""Every law of a step's verdict fails on a verdict with the defect that it is for."""

import pytest
from hypothesis import Phase, settings

from aits_func.base.types import StepInfo
from aits_func.physics.gravity import build_gravity, in_double, kinetic_energy
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.testing import STEP_LAWS, LawError, check_step
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.step import build_step

GRAVITY = build_gravity()
POLICY = build_criterion_policy(p_norm(GRAVITY, eta=0.2, pairs=("free_fall", "fly_by")))
SOUND = build_step(POLICY, GRAVITY, build_leapfrog_kdk(GRAVITY))
FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)


def by_the_energy_in_the_frame_at_hand(params, sample):
    """The verdict that the source system makes: blind to test particles, and to whatever a system's motion drowns."""
    after, info = SOUND(params, sample)
    before, now = (kinetic_energy(s) + GRAVITY.potential_energy(s) for s in map(in_double, (sample.system, after)))
    return after, info._replace(energy_error=(now - before).abs() / before.abs().clamp(min=1e-300))


def by_the_first_body(params, sample):
    """A verdict that knows which body is which."""
    after, info = SOUND(params, sample)
    return after, info._replace(energy_error=info.energy_error * (1 + sample.system.mass[0]))


DEFECTS = {
    "boost": by_the_energy_in_the_frame_at_hand,
    "permutation": by_the_first_body,
    "test particle": by_the_energy_in_the_frame_at_hand,
    "Jacobi": by_the_energy_in_the_frame_at_hand,
    "small mass": by_the_energy_in_the_frame_at_hand,
}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == STEP_LAWS.keys()
    assert StepInfo._fields[1] == "energy_error"


@pytest.mark.parametrize("law", STEP_LAWS)
def test_a_law_fails_on_its_defect(law):
    with pytest.raises(LawError, match=f"^check_step: {law}: "):
        check_step(DEFECTS[law], params=POLICY.init(0), gravity=GRAVITY, laws=[law], settings=FOUND)


def test_a_step_of_the_library_obeys():
    check_step(SOUND, params=POLICY.init(0), gravity=GRAVITY)
