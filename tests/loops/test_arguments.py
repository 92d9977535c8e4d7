"""What the loops over time are asked for: ends, factors and scales, and what is refused."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.base import tree
from aits_func.loops.arguments import measure, step_factor, times_to_reach
from aits_func.physics.gravity import build_gravity, kinetic_energy
from aits_func.physics.initial_conditions import gaussian_cluster

GRAVITY = build_gravity(softening=0.1)


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
        ({"t_end": 3.0, "output_times": (0.5,)}, r"output_times\[0\] must be finite and later than the start, got 0.5"),
        (
            {"t_end": 3.0, "output_times": (2.0, 2.0)},
            r"output_times\[1\] must be finite and later than output_times\[0\], got 2.0 for system 0, which is at 2.0",
        ),
        ({"t_end": 3.0, "output_times": (3.0,)}, r"t_end must be finite and later than output_times\[0\], got 3.0"),
        ({"t_end": 3.0, "output_times": (math.nan,)}, r"output_times\[0\] must be finite .* got nan"),
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
