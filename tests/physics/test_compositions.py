"""Compositions: their coefficients, the order they reach, and that a composed map is as reversible as its stages."""

import itertools
import math

import pytest
import torch

from aits_func.base.check import make_system
from aits_func.physics.compositions import COMPOSITIONS, compose
from aits_func.physics.direct_schemes import build_direct, build_implicit_symmetric
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.reversible_schemes import build_hairer_soderlind, build_time_transformed_leapfrog
from aits_func.physics.scheme import reverse_velocities
from aits_func.physics.step_function import StepFunction
from aits_func.physics.time_transformations import pair_norm

F = torch.float64
ORDERS = list(COMPOSITIONS)

# name: (the scheme, a smooth step function for it)
SCHEMES = {
    "Hairer-Soderlind kdk": (build_hairer_soderlind, lambda g: p_norm(g, eta=1.0, pairs=("free_fall", "fly_by"))),
    "Hairer-Soderlind dkd": (lambda g: build_hairer_soderlind(g, base="dkd"), lambda g: p_norm(g, eta=1.0)),
    "time-transformed": (build_time_transformed_leapfrog, lambda g: pair_norm(g, eta=1.0)),
}


def tensor(values):
    return torch.tensor(values, dtype=F)


def three_bodies():
    """With a softening of 1 nothing happens faster than in a time of 1: a mild problem, for orders."""
    position = tensor([[-1.0, 0.1], [1.1, 0.0], [0.1, 0.9]])
    velocity = tensor([[0.1, 0.5], [-0.1, -0.6], [0.3, -0.1]])
    return make_system(tensor([1.0, 0.8, 1.3]), position, velocity)


def moving_field():
    return build_tidal_field(30.0, straight_path([6.0, -3.0], [0.5, 1.0]))


def made(name, gravity, order):
    build, criterion = SCHEMES[name]
    rule = criterion(gravity)
    params, form = rule.init(), rule.position_form
    bound = StepFunction(
        lambda system: rule.timescale(params, system),
        lambda system: form.constants(params, system),
        lambda system, constants: form.rate(params, system, constants),
    )
    return compose(build(gravity), order), bound


def run(scheme, rule, system, h, n_steps, carry=None):
    """The last outcome of that many steps."""
    carry, h = scheme.init(rule, system) if carry is None else carry, tensor(h)
    with torch.no_grad():
        for _ in range(n_steps):
            out = scheme.step(rule, system, carry, h)
            system, carry = out.system, out.carry
    return out


def flat(system):
    return torch.cat([system.position.flatten(), system.velocity.flatten(), system.time[None]])


def distance(one, other):
    return (flat(one) - flat(other)).abs().max().item()


def halvings(name, order, gravity, *, times):
    """Systems at one length of the fictitious time, 2, by steps that are halved so many times."""
    scheme, rule = made(name, gravity, order)
    first = {2: 20, 4: 8, 6: 6, 8: 4}[order]  # errors of 1e-4 to 1e-8, and after two halvings still above 1e-12
    return [run(scheme, rule, three_bodies(), 2.0 / n, n).system for n in (first * 2**k for k in range(times + 1))]


# What stands beside the leading term is smaller by the square of the longest stage: 0.01 at order 2, 0.1 at the others,
# of which the halvings leave a few tenths in the exponent at most. (Measured: 0.001 to 0.06.)
NEAR = {2: 0.02, 4: 0.1, 6: 0.1, 8: 0.3}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SCHEMES)
def test_halving_h_shows_the_order_of_the_map_with_its_clock(name, order):
    ends = halvings(name, order, build_gravity(softening=1.0), times=2)
    first, second = ((flat(one) - flat(other)).norm().item() for one, other in itertools.pairwise(ends))
    assert math.log2(first / second) == pytest.approx(order, abs=NEAR[order])


@pytest.mark.parametrize(
    ("name", "order"),
    # at order 8 the leading terms of the energy nearly cancel here, and order 10 shows
    [("Hairer-Soderlind kdk", 4), ("Hairer-Soderlind dkd", 4), ("time-transformed", 4), ("time-transformed", 6)],
)
def test_in_a_moving_field_the_energy_less_the_work_is_kept_to_that_order(name, order):
    gravity = build_gravity(softening=1.0, field=moving_field())
    before = gravity.energy(three_bodies())
    ends = halvings(name, order, gravity, times=1)
    errors = [(gravity.energy(end) - before).abs().item() for end in ends]
    assert ends[0].work.abs() > 100 * errors[0]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=NEAR[order])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_composed_step_is_its_stages_one_by_one(name, order):
    gravity, system, h = build_gravity(softening=0.5), three_bodies(), tensor(0.3)
    composed, rule = made(name, gravity, order)
    base, _ = made(name, gravity, 2)
    out = composed.step(rule, system, composed.init(rule, system), h)
    state, carry, dt = system, base.init(rule, system), tensor(0.0)
    for coefficient in COMPOSITIONS[order]:
        stage = base.step(rule, state, carry, coefficient * h)
        state, carry, dt = stage.system, stage.carry, dt + stage.dt
    for ours, theirs in zip(out.system, state, strict=True):
        assert torch.equal(ours, theirs)
    assert out.dt == dt
    assert out.dt.item() == pytest.approx(out.system.time.item(), rel=1e-14)  # 17 sums in either


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_composed_scheme_comes_back_with_velocities_reversed_and_by_a_negative_h(name, order):
    gravity, system = build_gravity(softening=0.5), three_bodies()
    scheme, rule = made(name, gravity, order)
    there = run(scheme, rule, system, 0.4, 4)
    assert distance(there.system, system) > 0.3
    # up to 136 stages of some 10 roundings of 1e-16
    retraced = run(scheme, rule, there.system, -0.4, 4, there.carry)
    assert distance(retraced.system, system) < 1e-13
    turned = reverse_velocities(there.system)
    back = run(scheme, rule, turned, 0.4, 4, scheme.turn(rule, turned, there.carry))
    assert distance(reverse_velocities(back.system)._replace(time=system.time), system) < 1e-13


@pytest.mark.parametrize("order", ORDERS)
def test_the_stages_are_a_palindrome_and_meet_the_conditions_on_their_powers(order):
    stages = COMPOSITIONS[order]
    assert len(stages) == {2: 1, 4: 5, 6: 9, 8: 17}[order]
    assert stages == stages[::-1]
    for power in range(1, order, 2):
        # 17 powers of numbers below 1, given to 20 digits
        assert math.fsum(c**power for c in stages) == pytest.approx(float(power == 1), abs=3e-15)
    assert abs(sum(c ** (order + 1) for c in stages)) > 1e-4


def test_the_stages_are_those_of_suzuki_and_of_kahan_and_li():
    p = 1 / (4 - 4 ** (1 / 3))
    assert COMPOSITIONS[4] == (p, p, 1 - 4 * p, p, p)
    # the first one and the middle one, as printed in the sources
    assert (COMPOSITIONS[6][0], COMPOSITIONS[6][4]) == (0.39216144400731413928, 0.79854399093482996340)
    assert (COMPOSITIONS[8][0], COMPOSITIONS[8][8]) == (0.13020248308889008088, -0.60550853383003451170)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_composed_scheme_costs_as_many_forces_as_it_has_stages_and_is_else_the_same(name, order):
    gravity = build_gravity()
    base, composed = SCHEMES[name][0](gravity), made(name, gravity, order)[0]
    assert composed.evaluations_per_step == composed.rule_evaluations == len(COMPOSITIONS[order])
    for field in ("name", "traits", "reversible", "position_form", "equal_steps", "evaluations_at_start"):
        assert getattr(composed, field) == getattr(base, field)


@pytest.mark.parametrize("build", [build_direct, build_implicit_symmetric])
def test_a_scheme_that_is_no_symmetric_map_stays_at_order_two(build):
    scheme = build(build_leapfrog_kdk(build_gravity()))
    assert compose(scheme, 2) == scheme
    message = (
        rf"^compose: only an explicit reversible scheme can be raised to order 4; {scheme.name} is not: use "
        r"hairer_soderlind or time_transformed, or order = 2$"
    )
    with pytest.raises(ValueError, match=message):
        compose(scheme, 4)


@pytest.mark.parametrize("order", [0, 1, 3, 5, 10])
def test_another_order_is_refused_with_the_known_ones(order):
    with pytest.raises(ValueError, match=rf"^compose: order must be one of 2, 4, 6, 8, got {order}$"):
        compose(build_hairer_soderlind(build_gravity()), order)
