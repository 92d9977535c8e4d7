"""Policies against their formulas: the residual one, the source's network, the bare criterion, and anyone's own."""

import math
from typing import NamedTuple

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.base.types import System
from aits_func.learning.network import Layer
from aits_func.physics.criteria import constant
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import fly_by, free_fall, p_norm
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import Policy, build_criterion_policy, build_mlp_policy, build_residual_policy
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample

GRAVITY = build_gravity(softening=0.05)
# A tanh, an exponential, a product: a few units in the last place (1.1e-16) each.
ROUNDING = {"rtol": 2e-15, "atol": 0.0}


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def some_samples(count=5, history_len=0):
    systems = gaussian_cluster(1, count, bodies=3, dimensions=3, position_scale=1.0, velocity_scale=0.5)
    return vmap(lambda system: first_sample(system, history_len))(systems)


def predict(policy, params, samples):
    return vmap(policy.apply, in_dims=(None, 0, 0))(params, samples.system, samples.window)


def residual(criterion, features="invariant", history_len=0, **options):
    vocabulary = build_features(features, GRAVITY, history_len=history_len)
    return build_residual_policy(vocabulary, criterion, hidden=(8,), **options)


def random_network(params, scale, seed=0):
    """The same policy parameters with a wild network in the place of the young one."""
    make = torch.Generator().manual_seed(seed)

    def wild(leaf):
        return scale * torch.randn(leaf.shape, generator=make, dtype=torch.float64)

    layers = [Layer(wild(weight), wild(bias)) for weight, bias in params["network"]]
    return {**params, "network": tuple(layers)}


def biased(params, bias):
    """A network that answers with one number everywhere."""
    *hidden, last = params["network"]
    return {**params, "network": (*hidden, Layer(torch.zeros_like(last.weight), torch.full_like(last.bias, bias)))}


CRITERIA = {"free_fall": free_fall(GRAVITY), "fly_by": fly_by(GRAVITY), "p_norm": p_norm(GRAVITY, eta=0.1, p=4.0)}
criteria = pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())


@criteria
@pytest.mark.parametrize("bound", [1.5, 4.0, 1e300])
@pytest.mark.parametrize("features", [("invariant", 0), ("basic", 0), ("delta_mag", 2)])
def test_the_residual_policy_starts_exactly_at_its_criterion(criterion, bound, features):
    policy = residual(criterion, *features, bound=bound)
    samples = some_samples(history_len=features[1])
    for seed in range(3):
        dt = predict(policy, policy.init(seed), samples)
        expected = vmap(criterion.timescale, in_dims=(None, 0))(criterion.init(), samples.system)
        assert torch.equal(dt, expected)  # exp(c tanh 0) = 1 exactly


@criteria
@pytest.mark.parametrize("bound", [1.5, 4.0, 1e3])
def test_the_residual_policy_never_leaves_its_criterion_by_more_than_the_bound(criterion, bound):
    policy, samples = residual(criterion, bound=bound), some_samples(8)
    start = policy.init(0)
    expected = predict(policy, start, samples)
    wild = [random_network(start, scale, seed) for seed in range(4) for scale in (1, 1e3)]
    seen = torch.cat([predict(policy, params, samples) / expected for params in wild])
    assert seen.max() <= bound * (1 + 1e-14)  # exp(ln bound) and the quotient round
    assert seen.min() >= (1 - 1e-14) / bound
    assert seen.max() > 1.2  # the networks were wild indeed
    assert seen.min() < 1 / 1.2


def test_the_bound_is_reached_where_the_network_saturates_on_either_side():
    policy, samples = residual(CRITERIA["p_norm"], bound=4.0), some_samples()
    start = policy.init(0)
    expected = predict(policy, start, samples)
    for bias, factor in [(1e3, 4.0), (-1e3, 0.25), (0.5, 4.0 ** math.tanh(0.5))]:
        torch.testing.assert_close(predict(policy, biased(start, bias), samples), factor * expected, **ROUNDING)


def test_the_constants_of_the_criterion_are_trained_along_with_the_network():
    policy, samples = residual(CRITERIA["free_fall"]), some_samples()
    params = policy.init(0)
    slope = grad(lambda p: predict(policy, p, samples).sum())(params)
    # dt is proportional to η, so d dt/d ln η = dt
    torch.testing.assert_close(slope["criterion"]["log_eta"], predict(policy, params, samples).sum(), **ROUNDING)
    assert slope["network"][-1].bias.abs() > 0


def by_hand(params, policy_features, sample):
    """The network written out, one hidden layer of tanh."""
    (w1, b1), (w2, b2) = params["network"]
    return (w2 @ (w1 @ policy_features.apply(sample.system, sample.window) + b1).tanh() + b2)[0]


def test_the_residual_policy_is_its_formula():
    features, criterion = build_features("invariant", GRAVITY), CRITERIA["p_norm"]
    policy = build_residual_policy(features, criterion, hidden=(8,), bound=3.0)
    params, samples = random_network(policy.init(0), 0.3), some_samples()
    for row, dt in enumerate(predict(policy, params, samples)):
        sample = tree.take(samples, row)
        timescale = criterion.timescale(params["criterion"], sample.system)
        expected = timescale * 3.0 ** by_hand(params, features, sample).tanh()
        torch.testing.assert_close(dt, expected, rtol=1e-13, atol=0)  # sums of 20 features may be reordered


def test_the_network_alone_is_softplus_and_a_floor():
    features = build_features("basic", GRAVITY)
    policy = build_mlp_policy(features, timescale=CRITERIA["p_norm"], hidden=(8,))
    params, samples = policy.init(3), some_samples()
    assert set(params) == {"network"}
    for row, dt in enumerate(predict(policy, params, samples)):
        output = float(by_hand(params, features, tree.take(samples, row)))
        assert float(dt) == pytest.approx(math.log1p(math.exp(output)) + 1e-12, rel=1e-13)  # as above


@pytest.mark.parametrize("bias", [-700.0, -30.0, 0.0, 2.0, 50.0])
def test_dimensionless_features_give_the_network_the_unit_of_the_time_scale(bias):
    criterion, samples = free_fall(GRAVITY, eta=1.0), some_samples()
    invariant = build_mlp_policy(build_features("invariant", GRAVITY), timescale=criterion, hidden=(8,))
    basic = build_mlp_policy(build_features("basic", GRAVITY), timescale=criterion, hidden=(8,))
    # ln(1 + e^b) = b + ln(1 + e^-b) without overflow; torch returns b itself above 20, which is 2e-9 off at most
    expected = tensor((math.log1p(math.exp(bias)) if bias < 20 else bias) + 1e-12)
    dt = predict(basic, biased(basic.init(0), bias), samples)
    torch.testing.assert_close(dt, expected.expand(5), **ROUNDING)
    timescale = vmap(criterion.timescale, in_dims=(None, 0))(criterion.init(), samples.system)
    dt = predict(invariant, biased(invariant.init(0), bias), samples)
    torch.testing.assert_close(dt, expected * timescale, **ROUNDING)
    assert (dt > 0).all()  # the floor holds where softplus underflows


@pytest.mark.parametrize("build", ["residual", "mlp"])
def test_a_policy_of_dimensionless_features_scales_with_the_system(build):
    gravity = build_gravity()  # a softening would have to be scaled along
    features, criterion = build_features("invariant", gravity), p_norm(gravity)
    policy = {
        "residual": lambda: build_residual_policy(features, criterion, hidden=(8,)),
        "mlp": lambda: build_mlp_policy(features, timescale=criterion, hidden=(8,)),
    }[build]()
    params, samples = random_network(policy.init(0), 0.5), some_samples()
    length, mass = 7.0, 0.3
    time = math.sqrt(length**3 / mass)
    mass_, x, v, t, work = samples.system
    scaled = System(mass * mass_, length * x, length / time * v, time * t, work)
    dt = predict(policy, params, samples._replace(system=scaled))
    # the features pass logarithms and roots of sums over derivatives: 1e-12 measured at most
    torch.testing.assert_close(dt, time * predict(policy, params, samples), rtol=1e-10, atol=0)


@criteria
def test_a_criterion_as_a_policy_is_the_criterion_and_its_constants_are_the_parameters(criterion):
    policy, samples = build_criterion_policy(criterion), some_samples()
    params = policy.init(0)
    assert params == criterion.init()
    tuned = {"log_eta": params["log_eta"] + math.log(2)}
    expected = vmap(criterion.timescale, in_dims=(None, 0))(criterion.init(), samples.system)
    assert torch.equal(predict(policy, params, samples), expected)
    torch.testing.assert_close(predict(policy, tuned, samples), 2 * expected, **ROUNDING)
    slope = grad(lambda p: predict(policy, p, samples).sum())(params)["log_eta"]
    torch.testing.assert_close(slope, expected.sum(), **ROUNDING)


def test_a_constant_step_is_a_policy_too():
    policy = build_criterion_policy(constant(dt=0.125))
    assert predict(policy, policy.init(0), some_samples(3)).tolist() == pytest.approx([0.125] * 3, rel=1e-15)


class OneThird(NamedTuple):
    """Somebody's own policy: no class of ours, its parameters a bare tensor."""

    init: object
    apply: object


def test_anybodys_own_pair_works_in_the_step():
    own = OneThird(lambda seed: tensor(1 / 3), lambda params, system, window: params * system.mass.sum() / 3)
    step = build_step(own, GRAVITY, build_leapfrog_kdk(GRAVITY), energy_threshold=0.5)
    after, info = vmap(step, in_dims=(None, 0))(own.init(0), some_samples())
    assert info.dt.tolist() == [1 / 3] * 5  # three masses of 1: exact
    assert after.time.tolist() == [1 / 3] * 5
    slope = grad(lambda p: step(p, tree.take(some_samples(), 0))[1].dt)(own.init(0))
    assert slope == 1


def test_parameters_are_determined_by_the_seed_and_two_layers_never_share_a_draw():
    for policy in (
        residual(CRITERIA["p_norm"]),
        build_mlp_policy(build_features("basic", GRAVITY), hidden=(8,)),
    ):
        one, same, other = (tree.leaves(policy.init(seed)["network"]) for seed in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not torch.equal(one[0], other[0])


def test_no_global_generator_is_touched():
    before = torch.get_rng_state()
    policy = residual(CRITERIA["p_norm"], fourier_features=3)
    predict(policy, policy.init(0), some_samples())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("features", ["invariant", "basic"])
def test_a_policy_in_float32_predicts_in_float32(features):
    vocabulary = build_features(features, GRAVITY)
    for policy in (
        build_residual_policy(vocabulary, CRITERIA["p_norm"], hidden=(8,)),
        build_mlp_policy(vocabulary, timescale=CRITERIA["p_norm"], hidden=(8,)),
    ):
        params, samples = policy.init(0), some_samples()
        single = predict(policy, *(tree.cast(x, dtype=torch.float32) for x in (params, samples)))
        assert single.dtype == torch.float32
        # single precision (6e-8) through squares, roots and a network of gain 1
        torch.testing.assert_close(single.double(), predict(policy, params, samples), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bound", [1.0, 0.5, -4.0, math.inf, math.nan])
def test_a_bound_that_is_no_factor_above_one_is_refused(bound):
    with pytest.raises(ValueError, match=r"build_residual_policy: bound must be > 1 \(a factor, e.g. 4\), got"):
        residual(CRITERIA["p_norm"], bound=bound)


def test_dimensionless_features_without_a_time_scale_are_refused():
    with pytest.raises(ValueError, match="build_mlp_policy: dimensionless features need a timescale"):
        build_mlp_policy(build_features("invariant", GRAVITY))
    assert isinstance(build_mlp_policy(build_features("basic", GRAVITY)), Policy)


def test_the_errors_of_the_network_come_through():
    with pytest.raises(ValueError, match="activation must be one of"):
        residual(CRITERIA["p_norm"], activation="swish")
    with pytest.raises(ValueError, match="every layer size must be >= 1"):
        build_mlp_policy(build_features("basic", GRAVITY), hidden=(0,))
