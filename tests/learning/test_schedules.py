"""Schedules agree with torch.optim.lr_scheduler, and are functions of a count tensor."""

import pytest
import torch
from torch.func import grad, vmap
from torch.optim import lr_scheduler

from aits_func.learning.schedules import (
    constant_schedule,
    cosine_decay,
    exponential_decay,
    piecewise_decay,
    step_decay,
    warmup_cosine,
)

STEPS = 50
# A rate comes from a few float64 operations; torch multiplies its rates up recursively, so that 50
# steps collect some 50 roundings of 1e-16.
RELATIVE = 1e-13


def torch_rates(initial, build):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=initial)
    scheduler = build(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def our_rates(schedule):
    return torch.stack([schedule(torch.tensor(count)) for count in range(STEPS)])


def warmup_cosine_of_torch(optimizer):
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / 11, total_iters=10)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=60, eta_min=0.02)
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[10])


@pytest.mark.parametrize(
    ("schedule", "build"),
    [
        (constant_schedule(0.3), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (exponential_decay(0.3, 0.93), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.93)),
        (step_decay(0.3, 7, factor=0.5), lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.5)),
        (
            piecewise_decay(0.3, (5, 6, 30), factor=0.2),
            lambda o: lr_scheduler.MultiStepLR(o, milestones=[5, 6, 30], gamma=0.2),
        ),
        (cosine_decay(0.3, 49, final=0.02), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=49, eta_min=0.02)),
        (warmup_cosine(0.3, 10, 60, final=0.02), warmup_cosine_of_torch),
    ],
    ids=["constant", "exponential", "step", "piecewise", "cosine", "warmup_cosine"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # SequentialLR warns of its own call
def test_fifty_rates_are_those_of_torch(schedule, build):
    torch.testing.assert_close(our_rates(schedule), torch_rates(0.3, build), rtol=RELATIVE, atol=0)


def test_exponential_decay_passes_one_factor_in_decay_steps():
    rate = exponential_decay(0.8, 0.5, decay_steps=10)(torch.tensor(25))
    assert rate.item() == pytest.approx(0.8 * 0.5**2.5, rel=1e-15)  # three roundings


def test_cosine_ends_at_final_and_stays_there():
    schedule = cosine_decay(0.3, 20, final=0.1)
    # 1 + cos(π) is 0 exactly, since cos is flat there: no tolerance
    assert [schedule(torch.tensor(count)).item() for count in (20, 21, 1000)] == [0.1] * 3
    assert cosine_decay(0.3, 20)(torch.tensor(20)).item() == 0


def test_warmup_starts_above_zero_and_reaches_its_peak_as_the_cosine_begins():
    schedule = warmup_cosine(0.4, 3, 10)
    rates = torch.stack([schedule(torch.tensor(count)) for count in range(5)])
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    torch.testing.assert_close(rates[:4], expected, rtol=1e-15, atol=0)  # one product and one quotient
    assert rates[4] < 0.4


def test_no_warmup_is_the_plain_cosine():
    assert torch.equal(our_rates(warmup_cosine(0.4, 0, 30)), our_rates(cosine_decay(0.4, 30)))


ALL = [
    constant_schedule(0.3),
    exponential_decay(0.3, 0.9),
    step_decay(0.3, 7),
    piecewise_decay(0.3, (5, 30)),
    cosine_decay(0.3, 40),
    warmup_cosine(0.3, 10, 40),
]


@pytest.mark.parametrize("schedule", ALL)
def test_a_rate_is_a_float64_scalar_and_vmaps_over_counts(schedule):
    rate = schedule(torch.tensor(11))
    assert rate.shape == ()
    assert rate.dtype == torch.float64
    # vectorised cos and pow may round differently from their scalar forms
    torch.testing.assert_close(vmap(schedule)(torch.arange(STEPS)), our_rates(schedule), rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize(
    "build",
    [
        constant_schedule,
        lambda rate: exponential_decay(rate, 0.9),
        lambda rate: step_decay(rate, 7),
        lambda rate: piecewise_decay(rate, (5, 30)),
        lambda rate: cosine_decay(rate, 40),
        lambda rate: warmup_cosine(rate, 10, 40),
    ],
)
def test_the_gradient_flows_to_a_tensor_rate(build):
    count = torch.tensor(12)
    initial = torch.tensor(0.3, dtype=torch.float64)
    slope = grad(lambda rate: build(rate)(count))(initial)
    # every schedule is linear in its first rate, so the derivative is the rate per unit; 2 roundings
    torch.testing.assert_close(slope, build(initial)(count) / initial, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: constant_schedule(float("nan")), r"constant_schedule: value must be > 0 \(e.g. 1e-3\), got nan"),
        (lambda: constant_schedule(float("inf")), r"constant_schedule: value must be finite .*, got inf"),
        (
            lambda: constant_schedule(torch.ones(2)),
            r"constant_schedule: value must be a number or a \(\) tensor .*\(2,\)",
        ),
        (lambda: exponential_decay(0.0, 0.9), r"exponential_decay: initial must be > 0 .*, got 0.0"),
        (lambda: exponential_decay(0.1, -0.9), r"exponential_decay: decay_rate must be > 0 .*, got -0.9"),
        (lambda: exponential_decay(0.1, 0.9, decay_steps=0), r"exponential_decay: decay_steps must be > 0 .*, got 0"),
        (lambda: step_decay(0.1, 0), r"step_decay: decay_steps must be >= 1 .*, got 0"),
        (lambda: step_decay(0.1, 5, factor=float("nan")), r"step_decay: factor must be > 0 .*, got nan"),
        (lambda: piecewise_decay(0.1, ()), r"piecewise_decay: milestones must hold at least one count .*, got none"),
        (lambda: piecewise_decay(0.1, (5, 5)), r"piecewise_decay: milestones must be > 0 and rise .*, got \(5, 5\)"),
        (lambda: piecewise_decay(0.1, (0, 5)), r"piecewise_decay: milestones must be > 0 and rise .*, got \(0, 5\)"),
        (lambda: cosine_decay(0.1, float("nan")), r"cosine_decay: decay_steps must be > 0 .*, got nan"),
        (lambda: cosine_decay(0.1, 5, final=-1.0), r"cosine_decay: final must be >= 0 and finite .*, got -1.0"),
        (lambda: warmup_cosine(-1.0, 5, 5), r"warmup_cosine: peak must be > 0 .*, got -1.0"),
        (lambda: warmup_cosine(0.1, -1, 5), r"warmup_cosine: warmup_steps must be >= 0 .*, got -1"),
        (lambda: warmup_cosine(0.1, 1, 5, final=float("nan")), r"warmup_cosine: final must be >= 0 .*, got nan"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_name_and_a_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
