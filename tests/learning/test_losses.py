"""The energy error and the band loss, against their formulas worked out by hand."""

import math

import pytest
import torch
from torch.func import grad, jvp, vmap

from aits_func.base.types import Reference
from aits_func.learning.losses import (
    aggregate_minibatch_loss,
    band_residual,
    check_all_pass,
    check_band,
    check_energy_threshold,
    compute_single_step_loss,
    relative_energy_error,
)

GUARD = 1e-12
# One logarithm, one square, one quotient: each correct to a few units in the last place (1.1e-16).
ROUNDING = {"rtol": 1e-14, "atol": 0.0}


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def no(count):
    return torch.zeros(count, dtype=torch.bool)


@pytest.mark.parametrize("before", [-1.5, 2.0, -3e-7, 1e-12, 0.0, -1e30])
@pytest.mark.parametrize("after", [-1.5001, 2.5, 0.0, 1e30])
def test_the_energy_error_is_the_guarded_quotient_of_the_source(before, after):
    expected = abs(after - before) / abs(before + 1e-12 * abs(before) + 1e-12)
    # exactly: the same IEEE operations in the same order
    assert relative_energy_error(tensor(before), tensor(after)).item() == expected


def test_the_guard_keeps_a_system_of_no_energy_finite_and_is_invisible_elsewhere():
    assert relative_energy_error(tensor(0.0), tensor(1e-13)).item() == pytest.approx(0.1, rel=1e-15)
    # the relative and the absolute guard each move an error by 1e-12 of itself at |E| = 1
    assert relative_energy_error(tensor(-1.0), tensor(-1.25)).item() == pytest.approx(0.25, rel=3e-12)
    assert relative_energy_error(tensor(-1.0), tensor(-1.25)).item() != 0.25


def test_a_given_scale_replaces_the_energy_and_has_no_guard():
    error = relative_energy_error(tensor([0.0, -4.0]), tensor([0.5, -3.0]), tensor([2.0, 8.0]))
    assert error.tolist() == [0.25, 0.125]  # powers of 2: exact


def test_accepted_means_strictly_below_the_threshold():
    threshold = 2e-4
    below = math.nextafter(threshold, 0)
    accepted, error = check_energy_threshold(tensor([0.0] * 2), tensor([threshold, below]), scale=tensor(1.0))
    assert error.tolist() == [threshold, below]
    assert accepted.tolist() == [False, True]
    assert check_energy_threshold(tensor(-1.0), tensor(-1.0))[0]
    assert not check_energy_threshold(tensor(-1.0), tensor(-1.1), 0.05)[0]
    assert check_energy_threshold(tensor(-1.0), tensor(-1.1), 0.2)[0]


@pytest.mark.parametrize("before", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("after", [math.nan, math.inf, -math.inf])
def test_an_energy_that_is_not_finite_is_a_rejection(before, after):
    accepted, error = check_energy_threshold(tensor(before), tensor(after))
    assert not accepted
    assert not error.isfinite()
    assert not check_energy_threshold(tensor(before), tensor(after), scale=tensor(1.0))[0]


def test_an_error_of_infinity_or_nan_is_refused_by_any_threshold_at_all():
    accepted, _ = check_energy_threshold(tensor([-1.0, -1.0]), tensor([math.inf, math.nan]), math.inf)
    assert accepted.tolist() == [False, False]


# Worked out in decimal arithmetic, the guard 1e-12 inside the logarithm.
BY_HAND = [
    (1e-2, 21.207592442834632),  # (2 ln 10)² and a little
    (1e-4 - 1e-12, 0.0),
    (1e-5, 0.0),
    (1e-6, 0.0),
    (1e-8, 21.206671463924026),  # ln(1e-6) − ln(1e-8 + 1e-12) = 4.60507019
    (0.0, 190.868331977222),  # (6 ln 10)²
    (1.0, 84.830369767673),  # (4 ln 10)² and a little
]


@pytest.mark.parametrize(("error", "expected"), BY_HAND)
def test_the_band_loss_is_the_squared_distance_in_the_logarithm(error, expected):
    loss = compute_single_step_loss(tensor([error]), tensor([0.1]), no(1))
    # the numbers above carry 14 digits, an edge is met to rounding
    assert loss.item() == pytest.approx(expected, rel=1e-13, abs=1e-30)


@pytest.mark.parametrize("error", [0.0, 1e-14, 3e-9, 1e-6, 2e-5, 1.1e-4, 0.3, 7.0, 1e150])
@pytest.mark.parametrize("band", [(1e-6, 1e-4), (1e-3, 2e-3)])
def test_the_loss_its_root_and_its_gradient_are_those_of_the_formula(error, band):
    lower, upper = band
    x = math.log(error + GUARD)
    below, above = max(math.log(lower) - x, 0.0), max(x - math.log(upper), 0.0)

    def loss(value):
        return compute_single_step_loss(value, tensor(0.1), torch.tensor(False), E_lower=lower, E_upper=upper)

    torch.testing.assert_close(loss(tensor(error)), tensor(below**2 + above**2), **ROUNDING)
    residual = band_residual(tensor(error), tensor(0.1), torch.tensor(False), E_lower=lower, E_upper=upper)
    torch.testing.assert_close(residual, tensor(above - below), **ROUNDING)
    slope = 2 * (above - below) / (error + GUARD)
    torch.testing.assert_close(grad(loss)(tensor(error)), tensor(slope), **ROUNDING)


def test_the_gradient_pulls_a_step_above_the_band_down_and_one_below_it_up():
    def loss(log_dt):  # ε = dt³, as of one leapfrog step
        return compute_single_step_loss((3 * log_dt).exp(), log_dt.exp(), torch.tensor(False))

    slopes = vmap(grad(loss))(tensor([0.5, 1e-5 ** (1 / 3), 1e-4]).log())
    assert slopes[0] > 0
    assert slopes[1] == 0  # ε = 1e-5 is inside the band
    assert slopes[2] < 0


@pytest.mark.parametrize("error", [math.inf, math.nan, 1e200])
def test_an_exploded_step_counts_as_one_and_its_finite_gradient_pushes_dt_down(error):
    def loss(log_dt):
        return compute_single_step_loss(tensor(error), log_dt.exp(), torch.tensor(True))

    for log_dt in (-20.0, 0.0, 300.0):
        slope, value = grad(loss)(tensor(log_dt)), loss(tensor(log_dt))
        torch.testing.assert_close(value, tensor(math.log(1e-4) ** 2), **ROUNDING)
        # d r²/d ln dt = 2 r with r = −ln E_upper = 9.21: as steep as a step whose ε is 1
        torch.testing.assert_close(slope, tensor(2 * 9.210340371976182), **ROUNDING)


# --- with what is known of rounding and of time ----------------------------------------------------------------------


def referred(log_dt, *, rounding=1e-15, time=2.0, power=3.0, ceiling=1e154, band=(1e-6, 1e-4)):
    """r of a step whose ε is (dt/T)^power and never less than a hundredth of the rounding error."""
    dt = log_dt.exp()
    size = power * (log_dt - math.log(time))
    exploded = ~(size < math.log(ceiling))
    error = torch.where(exploded, 0.0, size).exp()
    error = torch.where(exploded, torch.inf, torch.where(error < rounding / 100, 0 * error + rounding / 100, error))
    known = Reference(tensor(rounding).expand_as(dt), tensor(time).expand_as(dt))
    return band_residual(error, dt, exploded, E_lower=band[0], E_upper=band[1], reference=known)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 5.0, 9.0])
@pytest.mark.parametrize("rounding", [1e-16, 3e-9, 5e-7, 1e-5])
def test_with_a_reference_no_step_is_too_short_or_too_long_to_be_led_back(rounding, power):
    """From 1e-15 to 1e160 the slope pushes to the band, and of two steps on a side the farther one has more loss."""
    log_dt = torch.linspace(math.log(1e-15), math.log(1e160), 2001, dtype=torch.float64)
    r = vmap(lambda x: referred(x, rounding=rounding, power=power))(log_dt)
    slope = vmap(grad(lambda x: referred(x, rounding=rounding, power=power)))(log_dt)
    assert r.isfinite().all()
    assert slope.isfinite().all()
    assert ((slope > 0) == (r != 0)).all()  # the residual itself always grows with dt, through 0
    assert (r[log_dt < math.log(2e-9)] < 0).all()
    assert (r[log_dt > math.log(2e1)] > 0).all()
    exploded = log_dt * power >= 154 * math.log(10) + power * math.log(2.0)
    for side in (r[~exploded & (r <= 0)], r[~exploded & (r >= 0)]):
        assert (side.diff() >= -1e-12).all()  # rounding of numbers up to 100
    assert (r[exploded].diff() >= -1e-12).all()
    assert (r[exploded] >= -math.log(1e-4) - 1e-12).all()


@pytest.mark.parametrize(("far", "power"), [(-30.0, 1), (-20.0, 1), (100.0, 3), (300.0, 1)])
def test_the_gradient_of_the_loss_is_as_large_far_away_as_near(far, power):
    """2R times the slope of ln dt, 1, or of ε, 3: Adam has no steep past to remember when it comes to the band."""
    slope = float(grad(lambda x: referred(x) ** 2)(tensor(far)))
    near = 2 * math.log(1e-6 / 2e-12 if far < 0 else 1e6 / 1e-4 if power == 3 else 1 / 1e-4)
    assert abs(slope) == pytest.approx(near * power, rel=1e-6)


@pytest.mark.parametrize("E_upper", [1e-4, 0.5, 1.0, 10.0, 1e4])
def test_with_a_reference_a_band_may_reach_beyond_an_error_of_one(E_upper):
    error = torch.logspace(-7, 12, 400, dtype=torch.float64)
    dt, usual = torch.full_like(error, 0.3), torch.zeros_like(error, dtype=torch.bool)
    known = Reference(torch.full_like(error, 1e-15), torch.full_like(error, 2.0))
    residual = band_residual(error, dt, usual, E_lower=1e-6, E_upper=E_upper, reference=known)
    inside, above = (error > 1.1e-6) & (error < E_upper / 1.1), error > 1.1 * E_upper
    assert bool((residual[inside] == 0).all())
    assert bool((residual[above] > 0).all())
    assert bool((residual[error > 1e-6].diff() >= -1e-12).all())  # rounding of numbers up to 30
    near = above & (error < max(1e6, 1.2 * E_upper))
    torch.testing.assert_close(residual[near], (error[near] / E_upper).log(), rtol=0.1, atol=1e-3)  # where they begin


@pytest.mark.parametrize("error", [1e-14, 1e-9, 1e-5, 1e-2, 10.0, math.inf])
def test_the_forward_derivative_of_a_float32_residual_is_float32(error):
    """Of a float32 () times a Python float torch 2.13 makes a float64 tangent."""
    error, dt = torch.tensor(error), torch.tensor(0.3)
    known = Reference(torch.tensor(1e-12), torch.tensor(2.0))

    def residual(error, dt):
        return band_residual(error, dt, ~error.isfinite(), reference=known)

    value, rate = jvp(residual, (error, dt), (torch.ones_like(error), torch.ones_like(dt)))
    assert value.dtype == rate.dtype == torch.float32
    back = sum(grad(residual, argnums=(0, 1))(error, dt))
    torch.testing.assert_close(rate, back, rtol=1e-5, atol=0.0)  # a few roundings of float32


def test_a_reference_changes_nothing_between_rounding_and_a_million():
    error = torch.logspace(-11.9, 5.99, 50, dtype=torch.float64)
    dt, usual = torch.full_like(error, 0.3), no(50)
    known = Reference(torch.full_like(error, 1e-15), torch.full_like(error, 2.0))

    def of(reference):
        def loss(e, t):
            return band_residual(e, t, usual, reference=reference).pow(2).sum()

        return loss(error, dt), *grad(loss, argnums=(0, 1))(error, dt)

    for with_it, without in zip(of(known), of(None), strict=True):
        assert torch.equal(with_it, without)


def test_a_reference_has_no_unit():
    """Times in other units, with T in the same: the same residual and slope by ln dt."""
    for log_dt in (-30.0, -3.0, 1.0, 200.0):
        for unit in (1e-12, 1e17):
            here, there = (
                (referred(x, time=time), grad(lambda y, t=time: referred(y, time=t))(x))
                for x, time in ((tensor(log_dt), 2.0), (tensor(log_dt + math.log(unit)), 2.0 * unit))
            )
            for one, two in zip(here, there, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)  # logarithms of 1e17, cancelled


def test_what_is_not_finite_in_a_reference_reaches_no_gradient():
    error, dt = tensor([1e-14, 1e-5, math.inf]), tensor([1e-8, 1e-2, 1e200])
    exploded = torch.tensor([False, False, True])
    for bad in (math.nan, math.inf):
        known = Reference(torch.full_like(error, bad), tensor([1.0, 1.0, 1.0]))
        slopes = grad(lambda e, t, k=known: band_residual(e, t, exploded, reference=k).sum(), (0, 1))(error, dt)
        assert all(leaf.isfinite().all() for leaf in slopes)


def test_the_error_of_an_exploded_step_has_no_gradient():
    for error in (math.inf, math.nan, 1e200):
        slope = grad(lambda e: compute_single_step_loss(e, tensor(0.1), torch.tensor(True)))(tensor(error))
        assert slope == 0


def test_one_exploded_sample_leaves_the_gradient_of_the_others_as_it_is():
    error, dt = tensor([1e-2, math.inf, 1e-9, math.nan]), tensor([0.1, 1e200, 0.2, 1e308])
    exploded = torch.tensor([False, True, False, True])

    def total(error, dt, exploded):
        return compute_single_step_loss(error, dt, exploded).sum()

    by_error, by_dt = grad(total, argnums=(0, 1))(error, dt, exploded)
    assert by_error.isfinite().all()
    assert by_dt.isfinite().all()
    alone = grad(total)(error[::2], dt[::2], exploded[::2])
    assert torch.equal(by_error[::2], alone)  # elementwise: no rounding between the samples
    assert torch.equal(by_dt[::2], torch.zeros(2, dtype=torch.float64))
    assert (by_dt[1::2] > 0).all()


@pytest.mark.parametrize("dt", [math.inf, math.nan, 0.0])
def test_an_exploded_step_without_a_usable_dt_has_a_loss_but_no_gradient(dt):
    slope = grad(lambda step: compute_single_step_loss(tensor(math.inf), step, torch.tensor(True)))(tensor(dt))
    assert slope == 0
    value = compute_single_step_loss(tensor(math.inf), tensor(dt), torch.tensor(True))
    torch.testing.assert_close(value, tensor(math.log(1e-4) ** 2), **ROUNDING)


def test_float32_stays_float32():
    error = torch.tensor([1e-2, 1e-9, math.inf])
    dt, exploded = torch.full((3,), 0.1), torch.tensor([False, False, True])
    loss = compute_single_step_loss(error, dt, exploded)
    assert loss.dtype == torch.float32
    assert relative_energy_error(error, error).dtype == torch.float32
    expected = compute_single_step_loss(error.double(), dt.double(), exploded)
    # single precision: 6e-8 in the logarithm of 1e-9, doubled by the square; 1e-6 leaves room
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_all_pass_is_true_of_nothing_and_of_all_and_false_of_all_but_one():
    assert check_all_pass(torch.tensor([], dtype=torch.bool))
    assert check_all_pass(torch.tensor([True, True, True]))
    assert not check_all_pass(torch.tensor([True, False, True]))
    assert check_all_pass(torch.tensor([True])).shape == ()


def test_the_mean_loss_of_nothing_is_zero():
    empty = torch.zeros(0, dtype=torch.float64)
    assert aggregate_minibatch_loss(empty) == 0
    assert aggregate_minibatch_loss(tensor([3.0, 4.0]), no(2)) == 0
    assert torch.equal(grad(aggregate_minibatch_loss)(tensor([3.0, 4.0]), no(2)), tensor([0.0, 0.0]))


def test_the_mean_loss_is_over_the_chosen_samples_alone():
    losses = tensor([1.0, 5.0, math.nan, 9.0, math.inf])
    chosen = torch.tensor([True, False, False, True, False])
    assert aggregate_minibatch_loss(losses, chosen) == 5.0
    assert torch.equal(grad(aggregate_minibatch_loss)(losses, chosen), tensor([0.5, 0.0, 0.0, 0.5, 0.0]))
    assert aggregate_minibatch_loss(tensor([1.0, 5.0, 6.0])) == 4.0


@pytest.mark.parametrize("threshold", [0.0, -1e-4, math.nan])
def test_a_threshold_that_is_not_positive_is_refused(threshold):
    with pytest.raises(ValueError, match=r"check_energy_threshold: energy_threshold must be > 0 .*2e-4.*got"):
        check_energy_threshold(tensor(-1.0), tensor(-1.0), threshold)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (0.0, 1e-4, "E_lower must be > 0"),
        (math.nan, 1e-4, "E_lower must be > 0"),
        (1e-4, 1e-4, "E_upper must be > E_lower = 0.0001, got 0.0001"),
        (1e-4, 1e-6, "E_upper must be > E_lower"),
        (1e-4, math.nan, "E_upper must be > E_lower"),
    ],
)
def test_a_band_that_is_none_is_refused(lower, upper, message):
    with pytest.raises(ValueError, match=f"here: {message}"):
        check_band("here", lower, upper)
    with pytest.raises(ValueError, match=f"compute_single_step_loss: {message}"):
        compute_single_step_loss(tensor([1.0]), tensor([1.0]), no(1), E_lower=lower, E_upper=upper)
