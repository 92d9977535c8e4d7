"""Every law of schemes fails on a scheme with the defect that it is for."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.reversible_schemes import build_hairer_soderlind
from aits_func.physics.schemes import build_scheme
from aits_func.testing import SCHEME_LAWS, LawError, check_scheme
from aits_func.timestep.policy import build_criterion_policy

FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)


def after_stage(change):
    """A builder of Hairer's and Söderlind's scheme after whose every stage ``change(before, out, h)`` is made."""

    def build(gravity):
        sound = build_hairer_soderlind(gravity)
        return sound._replace(stage=lambda rule, s, c, h: change(s, sound.stage(rule, s, c, h), h))

    return build


def system_with(**changes):
    """A change of the system after a stage: field = function(before, after, h)."""

    def change(before, out, h):
        new = {name: make(before, out.system, h) for name, make in changes.items()}
        return out._replace(system=out.system._replace(**new))

    return change


def direct_that_calls_itself_reversible(gravity):
    return build_scheme("direct", gravity)._replace(reversible=True)


def forgetful(gravity):
    sound = build_hairer_soderlind(gravity)

    def init(rule, system, compensated=False):
        carry = sound.init(rule, system, compensated)
        return carry._replace(rho=carry.rho * (1 + 1e-6)) if compensated else carry

    return sound._replace(init=init)


def impure(before, out, h):
    before.velocity.add_(1e-3)
    return out


def level(before, after, h):
    return after.velocity * (1 + 1e-3 * (torch._C._functorch.maybe_current_level() or 0))


DEFECTS = {
    "valid": after_stage(lambda s, out, h: out._replace(dt=1.001 * out.dt)),
    "step size": lambda gravity: build_scheme("direct", gravity)._replace(equal_steps=2),
    "order": after_stage(system_with(velocity=lambda s, a, h: a.velocity * (1 + 1e-2 * h**2))),
    "there": direct_that_calls_itself_reversible,
    "retraced": direct_that_calls_itself_reversible,
    "frames": after_stage(system_with(velocity=lambda s, a, h: a.velocity * (1 + 1e-3 * a.position[0, 0]))),
    "units": after_stage(system_with(velocity=lambda s, a, h: a.velocity * (1 + 1e-3 * a.mass.sum()))),
    "derivatives": after_stage(system_with(velocity=lambda s, a, h: a.velocity.detach())),
    "compensated": forgetful,
    "single": after_stage(system_with(velocity=lambda s, a, h: a.velocity.double())),
    "pure": after_stage(impure),
    "vmap": after_stage(system_with(velocity=level)),
}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == SCHEME_LAWS.keys()


@pytest.mark.parametrize("law", SCHEME_LAWS)
def test_a_law_fails_on_its_defect(law):
    with pytest.raises(LawError, match=f"^check_scheme: {law}: "):
        check_scheme(DEFECTS[law], laws=[law], settings=FOUND)


def test_what_is_not_promised_is_not_tried():
    check_scheme(lambda gravity: build_scheme("direct", gravity), laws=["there", "retraced"], settings=FOUND)


def test_the_step_function_may_be_any_policy():
    def far_apart(gravity):
        return build_criterion_policy(p_norm(gravity, eta=0.01))

    seen = []

    def spy(gravity):
        seen.append(far_apart(gravity))
        return seen[-1]

    check_scheme(lambda gravity: build_scheme("direct", gravity), policy=spy, laws=["step size"], settings=FOUND)
    assert seen
    assert build_leapfrog_kdk  # the default integrator of the direct scheme
