"""The strategies: what they draw is valid, well-conditioned, varied and readable."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from aits_func.base.check import check_system
from aits_func.physics.orbits import orbital_elements
from aits_func.testing import batches, numbers, orbits, permutations, rotations, samples, strategies, systems, windows
from aits_func.timestep.window import empty_window


def seen(strategy, condition):
    """An example of it, unshrunk; hypothesis raises NoSuchExample if it meets none."""
    once = settings(max_examples=500, phases=[Phase.generate], database=None)
    return find(strategy, lambda example: bool(condition(example)), settings=once)


@given(systems(massless=True, max_time=5.0))
def test_every_system_is_valid_and_no_two_bodies_are_closer_than_the_bound(system):
    check_system(system)
    assert system.mass.dtype == torch.float64
    # the bound is kept by construction; the difference of two sums of cell and displacement is rounded
    assert torch.pdist(system.position).amin() >= 0.25 - 1e-12
    assert 2 <= len(system.mass) <= 6
    assert 0 <= system.time <= 5


@given(systems(bodies=24, dimensions=2, min_separation=0.9, max_speed=0.0, mass=(1.0, 1.0)))
def test_the_options_bound_what_is_drawn(system):
    assert system.position.shape == (24, 2)
    assert torch.pdist(system.position).amin() >= 0.9 - 1e-12  # rounding, as above
    assert not system.velocity.any()
    assert (system.mass == 1).all()


@given(batches(size=(1, 4), bodies=(2, 4)))
def test_every_batch_is_valid_and_of_one_shape(batch):
    check_system(batch, batched=True)
    assert 1 <= batch.mass.shape[0] <= 4


@given(orbits(eccentricity=(0.2, 0.8), semi_major_axis=(1.0, 1.5), G=2.0))
def test_every_orbit_is_bound_and_has_the_elements_asked_for(system):
    check_system(system)
    elements = orbital_elements(system, G=2.0)
    # at e <= 0.8 the energy is a difference of terms up to 10 times itself: 1e-15 becomes 1e-14
    assert 0.2 - 1e-12 <= elements.eccentricity <= 0.8 + 1e-12
    assert 1.0 - 1e-12 <= elements.semi_major_axis <= 1.5 + 1e-12


@given(st.data(), systems(max_time=1.0), st.integers(0, 3), st.sampled_from([True, False, None]))
def test_a_window_is_filled_from_its_end_with_states_near_the_present_one(data, system, history, full):
    window = data.draw(windows(system, history, full=full))
    empty = empty_window(system, history)
    for leaf, like in zip(window, empty, strict=True):
        assert leaf.shape == like.shape
        assert leaf.dtype == like.dtype
    held = int(window.valid.sum())
    assert window.valid.tolist() == [False] * (history - held) + [True] * held
    if history and full is not None:
        assert (held == history) == full
    if held < history:
        assert not window.dt[: history + 1 - held].any()
    clock = torch.cat([window.time, system.time[None]])
    # the times are sums of the steps, in another order
    torch.testing.assert_close(clock.diff()[history - held :], window.dt[1 + history - held :], rtol=0, atol=1e-14)
    bound = torch.pdist(system.position).amin() / 8
    assert ((window.position - system.position).norm(dim=-1) <= bound * (1 + 1e-12)).all()  # rounding


@given(samples(history_len=2, full=True))
def test_a_sample_carries_its_window_and_a_step(sample):
    check_system(sample.system)
    assert sample.window.valid.all()
    assert sample.dt.shape == ()
    assert sample.dt > 0
    assert sample.active


@pytest.mark.parametrize("dimensions", [2, 3])
@given(data=st.data())
def test_a_rotation_is_orthogonal_and_proper(dimensions, data):
    matrix = data.draw(rotations(dimensions))
    identity = torch.eye(dimensions, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, identity, rtol=0, atol=1e-14)  # roundings of unit vectors
    torch.testing.assert_close(torch.linalg.det(matrix), identity[0, 0], rtol=0, atol=1e-14)


@given(permutations(5))
def test_a_permutation_holds_every_body_once(order):
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]


@given(numbers(-0.3, 2.0))
def test_numbers_lie_between_their_bounds_and_are_never_tiny(x):
    assert -0.3 <= x <= 2.0
    assert x == 0 or abs(x) >= 0.001


@pytest.mark.parametrize(
    ("strategy", "condition"),
    [
        (systems(), lambda s: s.position.shape == (6, 3)),
        (systems(), lambda s: s.position.shape == (2, 2)),
        (systems(massless=True), lambda s: (s.mass == 0).any()),
        (systems(massless=True), lambda s: (s.mass > 0).sum() == 1),
        (systems(), lambda s: torch.pdist(s.position).amin() < 0.4),
        (samples(history_len=3), lambda s: s.window.valid.tolist() == [False, True, True]),
        (samples(history_len=3), lambda s: not s.window.valid.any()),
        (samples(inactive=True), lambda s: not s.active),
        (rotations(3), lambda R: (R.diagonal() < 0.9).all()),
        (orbits(dimensions=3), lambda s: s.velocity[0, 2] != 0),
        (permutations(3), lambda order: order.tolist() == [2, 1, 0]),
    ],
)
def test_what_may_vary_does_vary(strategy, condition):
    assert seen(strategy, condition) is not None


@pytest.mark.slow
def test_a_failing_example_shrinks_to_two_bodies_with_round_coordinates():
    system = find(systems(bodies=(2, 3)), lambda system: system.velocity.norm() > 1)
    assert system.mass.tolist() == [0.1, 0.1]
    assert system.position.tolist() == [[0, 0], [0, 1]]
    # at most one component is needed to be faster than 1
    assert sorted(system.velocity.abs().flatten().tolist())[:3] == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: systems(bodies=1), "systems: bodies must be a number or a .* between 2 and 24, got 1"),
        (lambda: systems(bodies=(4, 3)), "systems: bodies"),
        (lambda: systems(dimensions=(1, 3)), "systems: dimensions"),
        (lambda: systems(min_separation=2.0), "systems: min_separation"),
        (lambda: systems(min_separation=0.0), "systems: min_separation"),
        (lambda: systems(mass=(0.0, 1.0)), "systems: mass"),
        (lambda: systems(max_speed=-1.0), "systems: max_speed"),
        (lambda: systems(max_time=math.nan), "systems: max_time"),
        (lambda: batches(size=0), "batches: size must be a number or a .* >= 1, got 0"),
        (lambda: batches(bodies=1), "batches: bodies"),
        (lambda: orbits(eccentricity=(0.5, 1.0)), "orbits: eccentricity"),
        (lambda: orbits(semi_major_axis=(0.0, 1.0)), "orbits: semi_major_axis"),
        (lambda: orbits(mass=(2.0, 1.0)), "orbits: mass"),
        (lambda: orbits(G=0.0), "orbits: G"),
        (lambda: samples(history_len=-1), "samples: history_len"),
        (lambda: rotations(4), "rotations: dimensions"),
        (lambda: permutations(0), "permutations: n"),
        (lambda: numbers(0.0001, 0.0002), "numbers: there must be a multiple of 0.001"),
    ],
)
def test_a_bad_argument_is_refused_where_the_strategy_is_made(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_window_is_refused_for_a_batch_or_a_negative_length():
    batch = seen(batches(size=2), lambda batch: True)
    with pytest.raises(ValueError, match="windows: one system is needed"):
        windows(batch)
    with pytest.raises(ValueError, match="windows: history_len"):
        windows(seen(systems(), lambda system: True), -1)


def test_without_hypothesis_the_error_names_the_extra():
    code = "import sys; sys.modules['hypothesis'] = None; import aits_func.testing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "pip install 'aits_func[testing]'" in result.stderr.splitlines()[-1]


def test_nothing_in_the_package_imports_the_strategies():
    root = Path(strategies.__file__).parents[1]
    others = [path for path in root.rglob("*.py") if path.parent.name != "testing"]
    assert len(others) > 20
    for path in others:
        lines = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
        assert not any("testing" in line or "hypothesis" in line for line in lines), path
