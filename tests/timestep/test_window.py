"""The window holds the last H states, oldest first, and says which of its slots hold one."""

import pytest
import torch
from torch.func import vmap

from aits_func.base.types import Sample, System, Window
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.timestep.window import empty_window, first_sample, forget, is_full, push


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def system_at(time):
    """A system whose every number tells its time."""
    bodies = torch.full((3, 2), float(time), dtype=torch.float64)
    return System(torch.ones(3, dtype=torch.float64), bodies, 10 * bodies, tensor(float(time)), tensor(0.0))


def pushed(history_len, count):
    """The window after ``count`` steps from states 0, 1, ... of lengths 0.5, 1.5, ..."""
    window = empty_window(system_at(0), history_len)
    for number in range(count):
        window = push(window, system_at(number), tensor(number + 0.5))
    return window


def test_an_empty_window_is_all_invalid_finite_and_without_steps():
    window = empty_window(system_at(7), 3)
    assert isinstance(window, Window)
    assert window.valid.tolist() == [False] * 3
    assert window.dt.tolist() == [0.0] * 4
    assert window.position.shape == window.velocity.shape == (3, 3, 2)
    assert window.position.unique().tolist() == [7.0]  # the present state stands in for the missing ones
    assert window.velocity.unique().tolist() == [70.0]
    assert window.time.tolist() == [7.0] * 3
    assert not is_full(window)


def test_states_enter_at_the_end_and_leave_at_the_beginning():
    window = pushed(3, 5)
    assert window.time.tolist() == [2.0, 3.0, 4.0]
    assert window.position[:, 1, 0].tolist() == [2.0, 3.0, 4.0]
    assert window.velocity[:, 2, 1].tolist() == [20.0, 30.0, 40.0]
    assert window.valid.tolist() == [True] * 3


def test_every_state_has_the_step_that_led_to_it_and_the_present_one_the_last():
    # states 2, 3, 4 and the present one were reached by steps 1.5, 2.5, 3.5 and 4.5
    assert pushed(3, 5).dt.tolist() == [1.5, 2.5, 3.5, 4.5]
    # state 0 is the first, so no step led to it
    assert pushed(3, 3).dt.tolist() == [0.0, 0.5, 1.5, 2.5]


def test_a_window_fills_from_its_end():
    for count, valid in [(0, [0, 0, 0]), (1, [0, 0, 1]), (2, [0, 1, 1]), (3, [1, 1, 1]), (4, [1, 1, 1])]:
        window = pushed(3, count)
        assert window.valid.tolist() == [bool(v) for v in valid]
        assert bool(is_full(window)) is (count >= 3)
    assert pushed(3, 2).time[1:].tolist() == [0.0, 1.0]


def test_pushing_changes_nothing_but_what_it_returns():
    window = pushed(2, 2)
    before = [leaf.clone() for leaf in window]
    push(window, system_at(9), tensor(9.0))
    assert all(torch.equal(leaf, old) for leaf, old in zip(window, before, strict=True))


def test_without_history_a_window_keeps_the_last_step_alone_and_is_always_full():
    window = pushed(0, 0)
    assert window.position.shape == (0, 3, 2)
    assert window.dt.tolist() == [0.0]
    assert is_full(window)
    window = pushed(0, 4)
    assert window.position.shape == (0, 3, 2)
    assert window.valid.shape == window.time.shape == (0,)
    assert window.dt.tolist() == [3.5]
    assert is_full(window)


def test_a_forgotten_window_has_no_valid_slot_and_no_step():
    window = pushed(3, 5)
    forgotten = forget(window)
    assert forgotten.valid.tolist() == [False] * 3
    assert forgotten.dt.tolist() == [0.0] * 4
    assert torch.equal(forgotten.position, window.position)
    assert window.valid.all()  # the window itself remembers
    assert forget(pushed(0, 2)).dt.tolist() == [0.0]


def test_the_first_sample_is_active_with_no_history_and_no_step():
    sample = first_sample(system_at(3), 2)
    assert isinstance(sample, Sample)
    assert sample.active.dtype == torch.bool
    assert bool(sample.active)
    assert sample.dt == 0
    assert sample.window.valid.tolist() == [False, False]
    assert all(torch.equal(a, b) for a, b in zip(sample.system, system_at(3), strict=True))
    assert first_sample(system_at(3)).window.valid.shape == (0,)


@pytest.mark.parametrize("history_len", [0, 1, 3])
def test_vmap_over_systems_is_the_loop(history_len):
    systems = gaussian_cluster(0, 4, bodies=3)
    dts = torch.linspace(0.1, 0.4, 4, dtype=torch.float64)

    def window_of(system, dt):
        return push(push(first_sample(system, history_len).window, system, dt), system, 2 * dt)

    together = vmap(window_of)(systems, dts)
    for row in range(4):
        alone = window_of(System(*(leaf[row] for leaf in systems)), dts[row])
        # nothing but copies is made, so exactly
        assert all(torch.equal(leaf[row], one) for leaf, one in zip(together, alone, strict=True))


def test_the_dtype_of_the_system_is_kept():
    single = System(*(leaf.float() for leaf in system_at(1)))
    window = push(empty_window(single, 2), single, torch.tensor(0.5))
    assert {leaf.dtype for leaf in window} == {torch.float32, torch.bool}
    assert first_sample(single, 2).dt.dtype == torch.float32
