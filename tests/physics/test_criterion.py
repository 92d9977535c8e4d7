"""The pieces that criteria are made of: norms and roots at 0, and the step of a rate."""

import math

import pytest
import torch
from torch.func import grad, jvp

from aits_func.base.check import make_system
from aits_func.physics.criterion import (
    bounded_exp,
    criterion_of_rate,
    log_parameter,
    rate_p_norm,
    root,
    time_of,
    vector_norm,
)
from aits_func.physics.step_function import Traits

F = torch.float64


def two_bodies():
    return make_system(
        torch.ones(2, dtype=F), torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=F), torch.zeros(2, 2, dtype=F)
    )


@pytest.mark.parametrize("p", [0.7, 1.0, 2.0, 5.0, math.inf])
@pytest.mark.parametrize("rates", [[0.0, 0.0], [0.0, 4.0], [9.0, 4.0]])
def test_the_p_norm_and_its_derivative_are_finite_whichever_rates_are_zero(rates, p):
    squares = torch.tensor(rates, dtype=F)
    largest = max(rates) ** 0.5
    expected = largest if p == math.inf else sum(x ** (p / 2) for x in rates if x > 0) ** (1 / p)
    assert rate_p_norm(squares, p).item() == pytest.approx(expected, rel=1e-14)  # rounding of two terms
    assert grad(rate_p_norm)(squares, p).isfinite().all()
    _, along = jvp(lambda x: rate_p_norm(x, p), (squares,), (torch.ones_like(squares),))
    assert along.isfinite()


def test_an_infinite_exponent_is_the_limit_of_large_ones():
    squares = torch.tensor([9.0, 4.0, 1.0], dtype=F)
    # (1 + (2/3)^200 + ...)^{1/200} is 1 to the last bit
    assert rate_p_norm(squares, 200.0).item() == pytest.approx(rate_p_norm(squares, math.inf).item(), rel=1e-14)


def test_a_root_and_a_norm_have_derivative_zero_at_zero():
    assert root(torch.tensor([0.0, 4.0], dtype=F)).tolist() == [0, 2]
    assert grad(lambda x: root(x).sum())(torch.tensor([0.0, 4.0], dtype=F)).tolist() == [0, 0.25]
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=F)
    assert vector_norm(vectors).tolist() == [0, 5]
    slope = grad(lambda x: vector_norm(x).sum())(vectors)
    assert slope[0].tolist() == [0, 0]
    assert slope[1].tolist() == pytest.approx([0.6, 0.8], rel=1e-15)  # a rounding


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_the_time_of_rate_zero_is_long_but_its_square_and_its_derivative_are_finite(dtype):
    rate = torch.tensor(0.0, dtype=dtype)
    assert time_of(rate) > 1e9
    assert (time_of(rate) ** 3).isfinite()
    assert grad(time_of)(rate) == 0
    assert time_of(torch.tensor(4.0, dtype=dtype)) == 0.25


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_criterion_of_a_rate_is_a_power_of_eta_over_it(power):
    criterion = criterion_of_rate(
        lambda system: system.mass.sum(), eta=0.04, where="ours", smooth=True, power=power, positions_only=True
    )
    params, system = criterion.init(), two_bodies()
    # exp of log: two roundings
    assert criterion.timescale(params, system).item() == pytest.approx(0.04**power / 2, rel=1e-15)
    constants = criterion.position_form.constants(params, system)
    assert constants == ()
    assert criterion.position_form.rate(params, system, constants).item() == pytest.approx(2 / 0.04**power, rel=1e-15)
    assert criterion.traits == Traits(smooth=True, memoryless=True, even=True)


def test_a_criterion_of_a_rate_that_reads_velocities_has_no_position_form():
    criterion = criterion_of_rate(lambda system: system.velocity.sum(), eta=1.0, where="ours", smooth=False)
    assert criterion.position_form is None
    assert not criterion.traits.smooth


def test_a_constant_is_stored_as_its_logarithm_and_refused_if_it_has_none():
    assert bounded_exp(log_parameter("log_eta", 0.3, "ours")()["log_eta"]).item() == pytest.approx(0.3, rel=1e-15)
    with pytest.raises(ValueError, match=r"^ours: eta must be > 0 and finite \(e\.g\. 0\.02\), got 0$"):
        criterion_of_rate(lambda system: system.time, eta=0, where="ours", smooth=True)
