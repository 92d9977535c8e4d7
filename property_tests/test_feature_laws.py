"""The laws of features and time-step criteria, on any system with any history."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad

from aits_func.base.types import Sample
from aits_func.physics.criteria import build_criterion
from aits_func.physics.fields import build_tidal_field
from aits_func.physics.gravity import build_gravity
from aits_func.testing import (
    check_policy,
    frames,
    in_units,
    numbers,
    orbits,
    rotations,
    samples,
    seen_from,
    systems,
    units,
)
from aits_func.testing.derivatives import demand_slopes_close, weighted_sum
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.window import empty_window

SOFTENINGS = st.sampled_from([0.0, 0.1, 1.0])
CONSTANTS = st.sampled_from([1.0, 0.1, 7.3])
SYSTEMS = systems(massless=True, max_time=3.0)
SAMPLES = samples(SYSTEMS, history_len=(1, 3))
SOURCE = pytest.mark.parametrize("vocabulary", ["basic", "rich", "delta_mag"])
CRITERIA = pytest.mark.parametrize("name", ["free_fall", "fly_by", "p_norm", "p_norm_both"])
# Coordinates shifted by up to 5 are rounded at 1e-15, separations (0.2 at least) then at 5e-15, and what is
# made of them, up to the cube, at some 1e-14; sums of 15 pairs and differences of accelerations add a factor 10.
FRAME = 1e-12
# A logarithm ends where its argument is 1e-9 of its unit. Of a sum that cancels to that, the error of some 1e-14
# is 1e-5 of it, and the feature is a tenth of the logarithm.
LOGARITHM = 1e-6
LOGARITHMS = 4  # they stand last


def any_frame(draw, sample):
    shape = sample.system.position.shape
    return seen_from(draw(frames(*shape, turned=True, shift=5, boost=5, mixed=True)), sample)


def without_history(system):
    return Sample(system, empty_window(system, 0), torch.zeros_like(system.time), torch.tensor(True))


def invariants(gravity, system):
    return build_features("invariant", gravity).apply(system, empty_window(system, 0))


def assert_same_invariants(ours, theirs):
    torch.testing.assert_close(ours[:-LOGARITHMS], theirs[:-LOGARITHMS], rtol=0, atol=FRAME)
    torch.testing.assert_close(ours[-LOGARITHMS:], theirs[-LOGARITHMS:], rtol=0, atol=LOGARITHM)


# ---------------------------------------------------------------- the invariant features


@given(st.data(), SYSTEMS, SOFTENINGS)
def test_invariant_features_are_the_same_in_every_frame_and_order(data, system, softening):
    gravity = build_gravity(G=1.7, softening=softening)
    other = any_frame(data.draw, without_history(system)).system
    assert_same_invariants(invariants(gravity, other), invariants(gravity, system))


@given(st.data(), SYSTEMS, SOFTENINGS)
def test_in_a_static_field_invariant_features_turn_with_the_field(data, system, softening):
    N, D = system.position.shape
    frame, place = data.draw(frames(N, D, turned=True, mixed=True)), 10 * data.draw(rotations(D))[0]
    here, there = (
        build_gravity(softening=softening, field=build_tidal_field(50.0, R)) for R in (place, frame.turn @ place)
    )
    assert_same_invariants(invariants(there, seen_from(frame, system)), invariants(here, system))


@given(SYSTEMS, SOFTENINGS, st.booleans())
def test_invariant_features_do_not_know_the_direction_of_time(system, softening, in_field):
    field = build_tidal_field(50.0, [8.0, -6.0, 3.0][: system.position.shape[1]]) if in_field else None
    gravity = build_gravity(softening=softening, field=field)
    back = system._replace(velocity=-system.velocity)
    assert torch.equal(invariants(gravity, back), invariants(gravity, system))


@given(st.data(), SYSTEMS, SOFTENINGS, CONSTANTS)
def test_invariant_features_do_not_know_units(data, system, softening, G):
    scale = data.draw(units(G))
    ours, theirs = build_gravity(softening=softening), build_gravity(G=G, softening=scale.length * softening)
    other = in_units(scale, system)
    assert_same_invariants(invariants(theirs, other), invariants(ours, system))
    slopes = grad(sum_of_invariants(theirs, other), argnums=(0, 1, 2))(*other[:3])
    factors = (scale.mass, scale.length, scale.length / scale.time)
    demand_slopes_close(
        [slope * factor for slope, factor in zip(slopes, factors, strict=True)],
        grad(sum_of_invariants(ours, system), argnums=(0, 1, 2)),
        system[:3],
        "the derivative of the features in other units",
        ("masses", "positions", "velocities"),
        tolerance=LOGARITHM,
        scale=1.0,
    )


def sum_of_invariants(gravity, system):
    """A sum of all invariant features, as a function of masses, positions and velocities."""

    def total(mass, position, velocity):
        there = system._replace(mass=mass, position=position, velocity=velocity)
        return weighted_sum(invariants(gravity, there))

    return total


@given(st.data(), SYSTEMS, CONSTANTS)
def test_in_a_static_field_invariant_features_do_not_know_units(data, system, G):
    scale, place = data.draw(units(G)), [8.0, -6.0, 3.0][: system.position.shape[1]]
    ours = build_gravity(field=build_tidal_field(50.0, place))
    far = build_tidal_field(50.0 * scale.mass, [scale.length * x for x in place], G=G)
    theirs = build_gravity(G=G, field=far)
    assert_same_invariants(invariants(theirs, in_units(scale, system)), invariants(ours, system))


@given(SYSTEMS, SOFTENINGS)
def test_invariant_features_are_finite_and_those_of_shares_lie_between_0_and_1(system, softening):
    features = invariants(build_gravity(softening=softening), system)
    assert features.isfinite().all()
    # a few roundings of sums of weights that add up to 1
    assert (features[:-LOGARITHMS] >= -1e-14).all()
    assert (features[:-LOGARITHMS] <= 1 + 1e-14).all()


@given(orbits(eccentricity=(0.0, 0.8), G=2.0))
def test_the_invariant_features_of_a_binary_do_not_depend_on_its_size_but_on_its_phase(system):
    gravity = build_gravity(G=2.0)
    names = build_features("invariant", gravity).names
    values = dict(zip(names, invariants(gravity, system).tolist(), strict=True))
    separation = system.position[1] - system.position[0]
    motion, distance = system.velocity[1] - system.velocity[0], separation.norm()
    pull = 2.0 * system.mass.sum() / distance
    radial = (separation @ motion / distance) ** 2 / (motion @ motion + pull)
    # a bound orbit: v² < 2GM/r; the velocity difference of two bodies of masses 1 : 100 is rounded at 1e-14
    assert values["fly-by, tightest pairs"] < 2 / 3
    assert values["radial, tightest pairs"] == pytest.approx(radial.item(), abs=FRAME)
    assert values["hierarchy 2"] == values["tide, other pairs"] == 0
    assert values["virial"] < 0.5


# ---------------------------------------------------------------- the source's vocabularies


@SOURCE
@given(data=st.data(), sample=SAMPLES, softening=SOFTENINGS)
def test_features_of_the_source_are_the_same_in_every_frame_and_order(vocabulary, data, sample, softening):
    H = sample.window.valid.shape[0]
    features = build_features(vocabulary, build_gravity(G=1.7, softening=softening), history_len=H)
    other = any_frame(data.draw, sample)
    ours, theirs = features.apply(other.system, other.window), features.apply(sample.system, sample.window)
    # relative to the largest, as an acceleration may be the small sum of large ones
    torch.testing.assert_close(ours, theirs, rtol=0, atol=FRAME * max(1.0, theirs.abs().max().item()))


@SOURCE
@given(sample=SAMPLES)
def test_features_of_the_source_are_finite_whatever_stands_in_the_empty_slots(vocabulary, sample):
    H = sample.window.valid.shape[0]
    features = build_features(vocabulary, build_gravity(), history_len=H)
    held = sample.window.valid
    empty = [
        torch.where(held.reshape(H, *[1] * (x.ndim - 1)), x, math.nan)
        for x in (sample.window.position, sample.window.velocity, sample.window.time)
    ]
    steps = torch.where(torch.cat([held, held.new_ones(1)]), sample.window.dt, math.nan)
    spoilt = sample.window._replace(position=empty[0], velocity=empty[1], time=empty[2], dt=steps)
    ours, clean = features.apply(sample.system, spoilt), features.apply(sample.system, sample.window)
    assert clean.isfinite().all()
    assert torch.equal(ours, clean)
    # one block of columns for every slot, and zeros in those of the empty ones
    blocks = clean.reshape(-1, {"basic": 11, "rich": 23, "delta_mag": 10}[vocabulary])[:H]
    assert not blocks[~held].any()
    assert (blocks[held].abs().sum(1) > 0).all()


@given(SAMPLES, numbers(0.001, 0.5))
def test_delta_mag_of_a_state_that_did_not_change_is_its_dt_alone(sample, dt):
    window = empty_window(sample.system, 1)
    window = window._replace(dt=torch.tensor([0.0, dt], dtype=torch.float64), valid=torch.tensor([True]))
    features = build_features("delta_mag", build_gravity(), history_len=1).apply(sample.system, window)
    # rms of zeros is the root of its guard 1e-12
    expected = torch.tensor([0, 0, 1e-6] * 3 + [dt], dtype=torch.float64)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-15)


# ---------------------------------------------------------------- criteria

# A fly-by time has the relative speed in it: of a boost of bodies at rest it would see roundings alone.
MOVING = SYSTEMS.filter(lambda s: (s.velocity[1:] - s.velocity[0]).abs().max() >= 0.01)


@CRITERIA
@pytest.mark.parametrize(("p", "softening"), [(0.7, 0.0), (5.0, 1.0)])
def test_a_criterion_is_a_policy_that_keeps_the_laws_to_rounding(name, p, softening):
    def build(length):
        return build_criterion_policy(build_criterion(name, build_gravity(softening=softening * length), p=p))

    check_policy(
        build(1.0),
        in_units=build,
        systems=MOVING,
        params=build(1.0).init(0),
        tolerance=FRAME,
        settings=settings(max_examples=max(5, settings().max_examples // 3)),
        laws=("translation", "boost", "rotation", "permutation", "backwards", "units"),
    )
