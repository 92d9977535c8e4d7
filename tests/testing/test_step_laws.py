"""Every law of a step's verdict fails on the defects that it is for, and on no others."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.physics.gravity import build_gravity, in_double, kinetic_energy
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.invariants import centre_of_mass
from aits_func.physics.pair_criteria import p_norm
from aits_func.testing import STEP_LAWS, LawError, check_step
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.step import build_step

GRAVITY = build_gravity()
POLICY = build_criterion_policy(p_norm(GRAVITY, eta=0.2, pairs=("free_fall", "fly_by")))
SOUND = build_step(POLICY, GRAVITY, build_leapfrog_kdk(GRAVITY))
FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)
FOLLOWED = settings(FOUND, max_examples=5)  # of laws that are kept, which all examples go through


def with_steps(factor):
    """The library's step with steps that are ``factor(system)`` times as long, judged as they are."""

    def longer(params, system, window):
        return POLICY.apply(params, system, window) * factor(system)

    return build_step(POLICY._replace(apply=longer), GRAVITY, build_leapfrog_kdk(GRAVITY))


def with_errors(factor):
    """The library's step with errors that are ``factor(system)`` times what they are."""

    def step(params, sample):
        after, info = SOUND(params, sample)
        return after, info._replace(energy_error=info.energy_error * factor(sample.system))

    return step


def with_pushes(chosen):
    """The library's step that makes bodies that are ``chosen(mass)`` faster by a hundredth, once it has been judged."""

    def step(params, sample):
        after, info = SOUND(params, sample)
        rest = centre_of_mass(after)[1]
        pushed = rest + 1.01 * (after.velocity - rest)
        return after._replace(velocity=torch.where(chosen(after.mass)[:, None], pushed, after.velocity)), info

    return step


def by_the_energy_in_the_frame_at_hand(params, sample):
    """The verdict that the source system makes: blind to test particles, and to whatever a system's motion drowns."""
    after, info = SOUND(params, sample)
    before, now = (kinetic_energy(s) + GRAVITY.potential_energy(s) for s in map(in_double, (sample.system, after)))
    return after, info._replace(energy_error=(now - before).abs() / before.abs().clamp(min=1e-300))


def speed(system):
    return centre_of_mass(system)[1].norm()


def beside_a_pair(system):
    """1 where a body is massless beside two that are not, and else 0."""
    return ((system.mass == 0).any() & ((system.mass > 0).sum() == 2)).to(system.mass)


# Each with the laws that it breaks: every law alone breaks on one.
DEFECTS = {
    "steps by the speed of the whole": (with_steps(lambda system: 1 + speed(system) / 10), {"boost"}),
    "steps by the first body": (with_steps(lambda system: 1 + system.mass[0].tanh() / 10), {"permutation"}),
    "twice the error where a body is massless": (
        with_errors(lambda system: 1 + (system.mass == 0).any().to(system.mass)),
        {"test particle"},
    ),
    "a test particle beside a pair is pushed when it has been judged": (
        with_pushes(lambda mass: (mass == 0) & ((mass > 0).sum() == 2)),
        {"Jacobi"},
    ),
    "a light body is pushed when it has been judged": (
        with_pushes(lambda mass: (mass > 0) & (mass < 1e-5 * mass.sum())),
        {"small mass"},
    ),
    "no error where a body is massless beside a pair": (
        with_errors(lambda system: 1 - beside_a_pair(system)),
        {"Jacobi", "small mass"},
    ),
    "errors by the first body": (
        with_errors(lambda system: 1 + system.mass[0]),
        {"permutation", "test particle"},
    ),
    "errors by the speed of the whole": (with_errors(lambda system: 1 + speed(system)), {"boost", "test particle"}),
    "the energy in the frame at hand": (
        by_the_energy_in_the_frame_at_hand,
        {"boost", "test particle", "Jacobi", "small mass"},
    ),
}


def test_there_is_a_defect_that_only_one_law_finds_for_every_law():
    alone = [law for _, laws in DEFECTS.values() if len(laws) == 1 for law in laws]
    assert sorted(alone) == sorted(STEP_LAWS)


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("law", STEP_LAWS)
def test_a_law_fails_on_its_defects_and_on_no_others(law, defect):
    step, broken = DEFECTS[defect]
    if law in broken:
        with pytest.raises(LawError, match=f"^check_step: {law}: "):
            check_step(step, params=POLICY.init(0), gravity=GRAVITY, laws=[law], settings=FOUND)
    else:
        check_step(step, params=POLICY.init(0), gravity=GRAVITY, laws=[law], settings=FOLLOWED)


def test_a_step_of_the_library_obeys():
    check_step(SOUND, params=POLICY.init(0), gravity=GRAVITY)
