"""Every law of policies fails on a policy with the defect that it is for."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.base import tree
from aits_func.physics.gravity import build_gravity
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.step_function import Traits
from aits_func.testing import POLICY_LAWS, LawError, check_policy, systems
from aits_func.timestep.policy import Policy, build_criterion_policy

GRAVITY = build_gravity()
SOUND = build_criterion_policy(p_norm(GRAVITY, eta=0.05))
FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)


def times(factor):
    """The sound policy, its step multiplied by what a function of (params, system, window) returns."""
    return SOUND._replace(apply=lambda p, s, w: SOUND.apply(p, s, w) * factor(p, s, w))


def impure(params, system, window):
    system.velocity.mul_(0.5)
    return 1.0


def one_row_too_many(params, system, window):
    """Something that vmap sees and a single system does not: a reduction over all there is."""
    return system.time.new_tensor(1.0 + 0.1 * (torch._C._functorch.maybe_current_level() or 0))


def trained_anywhere(seed):
    return tree.map_leaves(lambda leaf: leaf + torch.rand(()), SOUND.init(seed))


class Halved(torch.autograd.Function):
    """The identity, with the right tangent and half of the cotangent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent / 2


# law: (a policy that breaks it, and the options it is tried with)
DEFECTS = {
    "positive": (times(lambda p, s, w: s.velocity[0, 0].sign()), {}),
    "translation": (times(lambda p, s, w: 1 + 1e-3 * s.position[0, 0].abs()), {}),
    "boost": (times(lambda p, s, w: 1 + 1e-3 * s.velocity.norm()), {}),
    "rotation": (times(lambda p, s, w: 1 + 1e-3 * (s.position[0, 0] - s.position[1, 0]).abs()), {}),
    "permutation": (times(lambda p, s, w: 1 + 1e-3 * s.mass[0] / s.mass.sum()), {}),
    "clock": (times(lambda p, s, w: 1 + 1e-3 * s.time), {}),
    "units": (times(lambda p, s, w: 1 + 1e-3 * s.mass.sum()), {}),
    "backwards": (times(lambda p, s, w: 1 + 1e-3 * torch.tanh((s.position * s.velocity).sum())), {}),
    "memoryless": (times(lambda p, s, w: 1 + 1e-3 * w.valid.sum()), {"history_len": 2}),
    "empty slots": (times(lambda p, s, w: 1 + 0 * w.time.sum()), {"history_len": 2}),
    "gradient": (times(lambda p, s, w: 1 + (0 * tree.leaves(p)[0]).abs().sqrt()), {}),
    "derivatives": (times(lambda p, s, w: 1 + 1e-3 * Halved.apply(s.position.pow(2).sum())), {}),
    "pure": (times(impure), {}),
    "vmap": (times(one_row_too_many), {}),
    "single": (times(lambda p, s, w: torch.ones((), dtype=torch.float64).expand(1)[0:1]), {}),
    "init": (SOUND._replace(init=trained_anywhere), {"params": SOUND.init(0)}),
}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == POLICY_LAWS.keys()


@pytest.mark.parametrize("law", POLICY_LAWS)
def test_a_law_fails_on_its_defect(law):
    policy, options = DEFECTS[law]
    with pytest.raises(LawError, match=f"^check_policy: {law}: "):
        check_policy(policy, laws=[law], settings=FOUND, **options)


def test_a_law_that_the_traits_do_not_promise_is_not_tried():
    for law in ("backwards", "memoryless"):
        policy, options = DEFECTS[law]
        check_policy(policy._replace(traits=Traits()), laws=[law], settings=FOUND, **options)


def masked_by_a_length(params, system, window):
    """A free-fall rate of all ordered pairs, their self-pairs masked as if they were 1 length apart: right in value."""
    apart = system.position[None] - system.position[:, None]
    itself = torch.eye(len(system.mass), dtype=torch.float64)
    inverse = (apart.pow(2).sum(-1) + itself).rsqrt()
    pull = ((system.mass * inverse**3)[:, :, None] * apart).sum(1)
    return 0.05 * (pull.pow(2).sum(-1) * inverse.pow(2).amax()).sum().pow(-1 / 4)


def guarded_by_a_rate(params, system, window):
    """A rate, raised by a number that is small in our units."""
    return 1 / (1 / SOUND.apply(params, system, window) + 1e-9)


@pytest.mark.parametrize("apply", [masked_by_a_length, guarded_by_a_rate])
def test_a_guard_that_has_a_unit_breaks_the_law_of_units(apply):
    with pytest.raises(LawError, match=r"units: .*in other units"):
        check_policy(SOUND._replace(apply=apply), laws=["units"], settings=FOUND)


def test_a_derivative_that_is_wrong_in_both_modes_differs_from_the_differences():
    policy = times(lambda p, s, w: 1 + 1e-3 * s.position.pow(2).sum().detach())
    with pytest.raises(LawError, match=r"derivatives: the derivative of dt: forward mode gives .* central differences"):
        check_policy(policy, laws=["derivatives"], settings=FOUND)


def test_differences_are_not_asked_for_across_a_kink_of_a_policy_that_does_not_promise_to_be_smooth():
    def kinked(p, s, w):
        return 1 + 1e-3 * torch.where(s.position[0, 0] > 0, s.position[0, 0], 0.0)

    check_policy(times(kinked)._replace(traits=Traits()), laws=["derivatives"], settings=FOUND)


def test_a_policy_that_draws_is_not_pure():
    policy = times(lambda p, s, w: 1 + 0 * torch.rand(()))
    with pytest.raises(LawError, match="it drew from torch's global generator; take a seed"):
        check_policy(policy, laws=["pure"], settings=FOUND)


def test_a_policy_that_closes_over_a_softening_is_tried_in_its_units():
    def build(softening):
        return build_criterion_policy(p_norm(build_gravity(softening=softening), eta=0.05))

    check_policy(build(0.3), in_units=lambda length: build(0.3 * length), laws=["units"])
    with pytest.raises(LawError, match=r"units: dt in other units: got .* instead of "):
        check_policy(build(0.3), laws=["units"], settings=FOUND)


def test_given_parameters_and_systems_are_those_that_are_tried():
    seen = []

    def spy(params, system, window):
        seen.append((params, system.mass.shape))
        return torch.ones_like(system.time)

    policy, states = Policy(lambda seed: (), spy), systems(bodies=4)
    check_policy(policy, params=(torch.ones(()),), systems=states, laws=["positive"], settings=FOUND)
    assert {shape for _, shape in seen} == {(4,)}
    assert all(params == (1.0,) for params, _ in seen)
