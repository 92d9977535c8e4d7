"""The laws of policies, on every kind that is shipped, with every vocabulary of features."""

import pytest
from hypothesis import given, settings

from aits_func.physics.criteria import build_criterion
from aits_func.physics.gravity import build_gravity
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.time_transformations import pair_norm
from aits_func.testing import POLICY_LAWS, check_policy, policies, systems
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_mlp_policy, build_residual_policy
from aits_func.timestep.transformation_policy import build_transformation_policy

# Thirty examples of every law of every object would take minutes; a defect breaks a law on most of the first ten.
EXAMPLES = settings(max_examples=max(5, settings().max_examples // 3))

SOFTENING = 0.1


def residual(gravity, vocabulary="invariant", history_len=0):
    features = build_features(vocabulary, gravity, history_len=history_len)
    return build_residual_policy(features, p_norm(gravity, eta=0.05), hidden=(4,))


def mlp(gravity, vocabulary="invariant", history_len=0):
    features = build_features(vocabulary, gravity, history_len=history_len)
    return build_mlp_policy(features, timescale=p_norm(gravity, eta=0.05), hidden=(4,))


def criterion(name):
    return lambda gravity: build_criterion_policy(build_criterion(name, gravity))


# Of a time transformation Ω = Σ m m'/r, a single massive body makes none.
MASSIVE = systems(bodies=(2, 5), max_time=1.0)
# A fly-by time has the relative speed in it, of which a boost of bodies at rest leaves roundings alone.
MOVING = systems(massless=True, max_time=1.0).filter(lambda s: (s.velocity[1:] - s.velocity[0]).abs().max() >= 0.01)
IN_UNITS_OF_THEIR_OWN = ["units"]  # features of the source carry units, and are read by the network as they are

# name: (the policy of a gravity, options)
POLICIES = {
    "residual": (residual, {}),
    "mlp": (mlp, {}),
    "residual on rich": (lambda g: residual(g, "rich", 1), {"history_len": 1, "without": IN_UNITS_OF_THEIR_OWN}),
    "mlp on delta_mag": (lambda g: mlp(g, "delta_mag", 2), {"history_len": 2, "without": IN_UNITS_OF_THEIR_OWN}),
    "mlp on basic": (lambda g: mlp(g, "basic"), {"without": IN_UNITS_OF_THEIR_OWN}),
    "free_fall": (criterion("free_fall"), {}),
    "fly_by": (criterion("fly_by"), {"systems": MOVING}),
    "p_norm": (criterion("p_norm"), {"systems": systems(massless=True, max_time=1.0)}),
    "p_norm_both": (criterion("p_norm_both"), {"systems": systems(massless=True, max_time=1.0)}),
    "pair norm": (lambda g: build_criterion_policy(pair_norm(g, eta=0.05)), {"systems": MASSIVE}),
    "transformation": (lambda g: build_transformation_policy(g, hidden=(4,)), {"systems": MASSIVE}),
}


@pytest.mark.parametrize("law", POLICY_LAWS)
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_keeps_the_law(name, law):
    build, options = POLICIES[name]

    def softened(length):
        return build(build_gravity(softening=SOFTENING * length))

    check_policy(softened(1.0), in_units=softened, laws=[law], settings=EXAMPLES, **options)


@pytest.mark.parametrize("law", ["translation", "rotation", "units"])
def test_without_softening_too(law):
    check_policy(residual(build_gravity()), laws=[law], settings=EXAMPLES)


@given(policies(build_gravity(softening=SOFTENING)))
def test_a_drawn_policy_has_the_parameters_of_its_own_init_in_form(drawn):
    policy, params, history_len = drawn
    assert str(type(params)) == str(type(policy.init(0)))
    assert history_len in (0, 1, 2)
