"""What all schemes share: a step is its stages, traits are asked for, and costs are counted per stage."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from aits_func.base.check import make_system
from aits_func.physics.direct_schemes import build_direct, build_implicit_symmetric
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.reversible_schemes import build_hairer_soderlind, build_time_transformed_leapfrog
from aits_func.physics.scheme import Scheme, SchemeStep, all_valid, check_traits, join, reverse_velocities
from aits_func.physics.step_function import REVERSIBLE, StepFunction, Traits

F = torch.float64
RULE = StepFunction(lambda system: system.time * 0 + 0.25, lambda system: (), lambda system, constants: system.time)
ADVICE = (
    ", or use the direct scheme (a rule of your own declares what holds: traits = "
    "Traits(smooth=True, memoryless=True, even=True))"
)


def a_system(time=0.5):
    position = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=F)
    return make_system(torch.ones(2, dtype=F), position, torch.ones_like(position), time)


class Visits(NamedTuple):
    """The clock of every stage so far, so that a test sees in which order they came."""

    times: Tensor


def clockwork(stages=(1.0,), *, stops_at=None):
    """A scheme that only moves the clock, by its rule; a stage that ends at the time ``stops_at`` is not valid."""

    def init(rule, system, compensated=False):
        return Visits(system.time[None])

    def stage(rule, system, carry, h):
        dt = h * rule.timescale(system)
        after = system._replace(time=system.time + dt)
        valid = after.time != (torch.nan if stops_at is None else stops_at)
        return SchemeStep(after, Visits(torch.cat([carry.times, after.time[None]])), dt, valid)

    return Scheme(
        "clockwork",
        init,
        stage,
        init,
        REVERSIBLE,
        reversible=True,
        position_form=False,
        equal_steps=1,
        evaluations_at_start=4,
        evaluations_per_stage=2,
        rule_evaluations_per_stage=3,
        stages=stages,
    )


def test_a_step_is_its_stages_in_turn_each_of_its_part_of_h_and_dt_their_sum():
    scheme = clockwork((2.0, -1.0, 0.5))
    system = a_system()
    out = scheme.step(RULE, system, scheme.init(RULE, system), torch.tensor(2.0, dtype=F))
    assert out.carry.times.tolist() == [0.5, 1.5, 1.0, 1.25]
    assert out.system.time == 1.25
    assert out.dt == 0.75
    assert out.valid


@pytest.mark.parametrize(("stops_at", "valid"), [(1.5, False), (1.0, False), (1.25, False), (7.0, True)])
def test_a_step_is_valid_if_every_stage_of_it_is(stops_at, valid):
    scheme = clockwork((2.0, -1.0, 0.5), stops_at=stops_at)
    system = a_system()
    out = scheme.step(RULE, system, scheme.init(RULE, system), torch.tensor(2.0, dtype=F))
    assert out.valid == valid
    assert out.system.time == 1.25  # a stage that is not valid is data; the others follow it


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_two_stages_joined_end_where_the_second_does_and_what_holds_of_both_holds(first, second):
    one = SchemeStep(a_system(1.0), "one", torch.tensor(0.25), torch.tensor(first))
    two = SchemeStep(a_system(2.0), "two", torch.tensor(0.5), torch.tensor(second))
    both = join(one, two)
    assert both.system.time == 2.0
    assert both.carry == "two"
    assert both.dt == 0.75
    assert both.valid == (first and second)


def test_costs_are_those_of_a_stage_times_their_number():
    scheme = clockwork((2.0, -1.0, 0.5))
    assert scheme.evaluations_per_step == 6
    assert scheme.rule_evaluations == 9
    assert scheme.evaluations_at_start == 4


def test_reversed_twice_a_system_is_the_same_and_reversed_once_only_its_velocities_differ():
    system = a_system()
    there = reverse_velocities(system)
    assert torch.equal(there.velocity, -system.velocity)
    for name in ("mass", "position", "time", "work"):
        assert torch.equal(getattr(there, name), getattr(system, name))
    assert torch.equal(reverse_velocities(there).velocity, system.velocity)


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_without_rho_and_w_a_step_is_valid_of_whatever_length(dtype):
    for dt in (0.0, -1.0, torch.inf, torch.nan):
        valid = all_valid(torch.tensor(dt, dtype=dtype))
        assert valid.dtype == torch.bool
        assert valid.shape == ()
        assert valid


LACKING = [
    (
        {"smooth": False},
        "is not smooth (a min, max, clip or relu in it); use p-norms and tanh, silu or gelu",
    ),
    ({"memoryless": False}, "remembers past states; use features without history"),
    ({"even": False}, "changes when all velocities are reversed; use a rule that is even in them"),
]


@pytest.mark.parametrize(("lacks", "reason"), LACKING)
@pytest.mark.parametrize(
    "build",
    [
        lambda g: build_implicit_symmetric(build_leapfrog_kdk(g)),
        build_hairer_soderlind,
        build_time_transformed_leapfrog,
    ],
)
def test_a_step_function_that_lacks_a_trait_is_refused_by_name_with_the_remedy(build, lacks, reason):
    scheme = build(build_gravity())
    with pytest.raises(ValueError, match=r"^simulate: ") as refused:
        check_traits(scheme, REVERSIBLE._replace(**lacks), "simulate")
    message = f"simulate: the scheme {scheme.name} is reversible, and this step function {reason}{ADVICE}"
    assert str(refused.value) == message
    check_traits(scheme, REVERSIBLE, "simulate")


def test_the_direct_scheme_takes_any_step_function():
    scheme = build_direct(build_leapfrog_kdk(build_gravity()))
    for lacks, _ in LACKING:
        check_traits(scheme, REVERSIBLE._replace(**lacks), "simulate")
    check_traits(scheme, Traits(), "simulate")


def test_a_scheme_is_only_refused_what_it_asks_for():
    scheme = clockwork()._replace(traits=Traits(even=True))
    check_traits(scheme, Traits(even=True), "here")
    with pytest.raises(ValueError, match=r"^here: the scheme clockwork .* changes when all velocities are reversed"):
        check_traits(scheme, Traits(smooth=True, memoryless=True), "here")
