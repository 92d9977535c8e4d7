"""What the loops over time are asked for: ends, factors and scales, and what is refused."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.base import tree
from aits_func.loops.arguments import measure, step_factor, times_to_reach
from aits_func.physics.gravity import build_gravity, kinetic_energy
from aits_func.physics.initial_conditions import gaussian_cluster

numpy = pytest.importorskip("numpy")

GRAVITY = build_gravity(softening=0.1)


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def triples(count=3, time=1.0):
    systems = gaussian_cluster(1, count, bodies=3, position_scale=1.0, velocity_scale=0.5)
    return systems._replace(time=torch.full_like(systems.time, time))


def test_systems_are_measured_against_their_own_energy():
    systems = triples()
    energy, potential = vmap(GRAVITY.energy)(systems), vmap(GRAVITY.potential_energy)(systems)
    total = measure(systems, GRAVITY, "total", 0.25, 7)
    assert torch.equal(total.energy, energy)
    assert torch.equal(total.scale, energy.abs())
    assert torch.equal(total.time, systems.time)
    assert total.min_dt.tolist() == [0.25] * 3
    assert (total.max_steps.tolist(), total.max_steps.dtype) == ([7] * 3, torch.int64)
    kinetic = measure(systems, GRAVITY, "kinetic", 0.0, 7)
    # K + |W|: two sums in another order
    expected = vmap(kinetic_energy)(systems) + potential.abs()
    torch.testing.assert_close(kinetic.scale, expected, rtol=1e-14, atol=0)


def test_the_factor_is_one_number_in_the_precision_of_the_systems():
    systems = tree.cast(triples(), dtype=torch.float32)
    size = step_factor("here", 0.5, systems)
    assert (size.shape, size.dtype, float(size)) == ((), torch.float32, 0.5)
    given = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    assert step_factor("here", given, triples()) is given  # so that it can be differentiated by


@pytest.mark.parametrize("h", [0.0, -1.0, math.nan, torch.tensor([1.0, 2.0])])
def test_a_factor_that_is_none_is_refused(h):
    with pytest.raises(ValueError, match=r"^here: h must be one number > 0 and finite \(a factor on the step\), got"):
        step_factor("here", h, triples())


def test_the_times_are_those_of_the_outputs_and_the_end_one_for_each_system():
    ends = torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64)
    times = times_to_reach("here", triples(), t_end=ends, steps=None, output_times=(2.0, ends - 1.5))
    assert [t.tolist() for t in times] == [[2.0] * 3, [2.5, 3.5, 4.5], [4.0, 5.0, 6.0]]
    assert times_to_reach("here", triples(), t_end=0.1 + 1, steps=None)[0].tolist() == [1.1] * 3  # not through float32


def test_both_ends_are_output_times_and_a_time_may_be_there_twice():
    for wanted in ((1.0, 2.5, 2.5, 4.0), numpy.array([1.0, 2.5, 2.5, 4.0]), tensor([1.0, 2.5, 2.5, 4.0])):
        times = times_to_reach("here", triples(), t_end=4.0, steps=None, output_times=wanted)
        assert [t.tolist() for t in times] == [[t] * 3 for t in (1.0, 2.5, 2.5, 4.0, 4.0)]
    ends = tensor([4.0, 5.0, 6.0])
    times = times_to_reach("here", triples(), t_end=ends, steps=None, output_times=torch.stack([ends - 2, ends]))
    assert [t.tolist() for t in times] == [[2.0, 3.0, 4.0], [4.0, 5.0, 6.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize(
    ("start", "length"), [(0.0, 0.1), (0.1, 0.1), (0.3, math.tau), (0.0, 1e-9 / 3), (0.1, 1e9 / 3)]
)
def test_a_linspace_in_float32_begins_and_ends_where_the_run_does(start, length):
    # torch.linspace is float32 by default: 0.1 and 2π round up there, to times after the end
    wanted = torch.linspace(start, start + length, 5)
    times = times_to_reach("here", triples(time=start), t_end=start + length, steps=None, output_times=wanted)
    assert (times[0].tolist(), times[-2].tolist()) == ([start] * 3, [start + length] * 3)
    assert times[2].tolist() == [float(wanted[2])] * 3  # what is no end is as it was given


def test_times_in_numbers_that_do_not_tell_the_ends_apart_are_not_guessed_at():
    wanted = torch.linspace(0.1, 0.1 + 1e-9, 3)  # 0.1 three times over
    with pytest.raises(ValueError, match=r"output_times\[0\] must be a time .*, got 0.10000000149"):
        times_to_reach("here", triples(time=0.1), t_end=0.1 + 1e-9, steps=None, output_times=wanted)


def test_a_time_that_is_moved_to_an_end_is_still_differentiated_by():
    def last(wanted):
        return times_to_reach("here", triples(), t_end=1.1, steps=None, output_times=wanted)[-2].sum()

    assert torch.func.grad(last)(torch.tensor([1.05, 1.1])).tolist() == [0.0, 3.0]


def test_a_number_of_steps_has_no_end_in_time():
    (time,) = times_to_reach("here", triples(), t_end=None, steps=5)
    assert time.tolist() == [math.inf] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_end": None, "steps": None}, r"give either t_end \(a time\) or steps \(a number of steps to take\)"),
        ({"t_end": 2.0, "steps": 5}, r"give either t_end \(a time\) or steps"),
        ({"t_end": None, "steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"t_end": None, "steps": 5, "output_times": (2.0,)}, "output_times need t_end, not a number of steps"),
        ({"t_end": 1.0}, "t_end must be finite and later than the start, got 1.0 for system 0, which starts at 1.0"),
        ({"t_end": math.nan}, "t_end must be finite .* got nan"),
        ({"t_end": math.inf}, "t_end must be finite .* got inf"),
        (
            {"t_end": 3.0, "output_times": (0.5,)},
            r"output_times\[0\] must be a time between the start and t_end, got 0.5 for system 0, where these are 1.0 "
            "and 3.0; give the times in ascending order",
        ),
        (
            {"t_end": 3.0, "output_times": (2.0, 1.5)},
            r"output_times\[1\] must be a time between output_times\[0\] and t_end, got 1.5 for system 0, where these "
            "are 2.0 and 3.0",
        ),
        ({"t_end": 3.0, "output_times": (3.5,)}, r"output_times\[0\] must be a time .* a t_end that is not earlier"),
        ({"t_end": 3.0, "output_times": (math.nan,)}, r"output_times\[0\] must be a time .* got nan"),
        ({"t_end": 3.0, "output_times": 2.0}, r"output_times must be a sequence of times, e.g. \(0.5, 1.0\), got 2.0"),
        ({"t_end": 3.0, "output_times": torch.tensor(2.0)}, "output_times must be a sequence of times"),
        ({"t_end": None, "steps": 5, "output_times": numpy.ones(2)}, "output_times need t_end, not a number"),
        ({"t_end": None, "steps": 5, "output_times": torch.ones(2)}, "output_times need t_end, not a number"),
        ({"t_end": 0.5}, "t_end must be finite .* which starts at 1.0; to go back in time reverse the velocities"),
    ],
)
def test_times_in_the_wrong_order_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^here: {message}"):
        times_to_reach("here", triples(), **{"steps": None, **options})


def test_what_is_no_batch_is_refused():
    one = tree.take(triples(1), 0)
    with pytest.raises(ValueError, match=r"^here: systems must be one system or a batch, .* got \(3,\)"):
        times_to_reach("here", one, t_end=2.0, steps=None)
    deep = tree.map_leaves(lambda leaf: leaf[None], triples())
    with pytest.raises(ValueError, match=r"got \(1, 3, 3\)"):
        times_to_reach("here", deep, t_end=2.0, steps=None)
