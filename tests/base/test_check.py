"""The validators: what is refused, in which words, and what is not."""

import math

import pytest
import torch

from aits_func.base.check import check_system, make_system, require, require_choice
from aits_func.base.types import System

F = torch.float64
MASS = torch.tensor([1.0, 2.0, 0.0], dtype=F)
POSITION = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=F)
VELOCITY = torch.tensor([[0.0, 0.1], [0.0, -0.1], [0.2, 0.0]], dtype=F)
SYSTEM = System(MASS, POSITION, VELOCITY, torch.tensor(0.5, dtype=F), torch.tensor(0.0, dtype=F))
BATCH = System(*(torch.stack([leaf, leaf]) for leaf in SYSTEM))


def changed(system=SYSTEM, **fields):
    return system._replace(**fields)


def with_element(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def test_a_condition_that_holds_passes_and_one_that_does_not_raises_its_message():
    require(True, "never")
    with pytest.raises(ValueError, match=r"^the message$"):
        require(False, "the message")


def test_a_choice_outside_the_list_is_refused_with_the_list():
    require_choice("here", "name", "b", ("a", "b"))
    with pytest.raises(ValueError, match=r"^here: name must be one of a, b, got 'c'$"):
        require_choice("here", "name", "c", ("a", "b"))


def test_a_good_system_and_a_good_batch_pass():
    check_system(SYSTEM)
    check_system(BATCH, batched=True)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_dimensions_and_every_floating_point_dtype_pass(dimensions, dtype):
    position = torch.eye(3, dtype=dtype)[:, :dimensions]
    system = make_system(torch.ones(3, dtype=dtype), position, torch.zeros_like(position))
    assert all(leaf.dtype == dtype for leaf in system)


ONE = [
    ({"mass": torch.tensor(1.0, dtype=F)}, r"mass must have shape \(N,\), got \(\)"),
    ({"mass": MASS[:, None]}, r"mass must have shape \(N,\), got \(3, 1\)"),
    ({"mass": MASS[:1]}, "at least 2 bodies are needed, got N = 1"),
    ({"mass": MASS[:2]}, r"position must have shape \(2, 2\), as mass has \(2,\), got \(3, 2\)"),
    ({"position": POSITION[:, 0]}, r"position must have shape \(N, D\) with D = 2 or 3, got \(3,\)"),
    ({"position": POSITION[:, :1]}, r"position must have shape \(N, D\) with D = 2 or 3, got \(3, 1\)"),
    ({"position": torch.zeros(3, 4, dtype=F)}, r"position must have shape \(N, D\) with D = 2 or 3, got \(3, 4\)"),
    ({"velocity": VELOCITY[:2]}, r"velocity must have shape \(3, 2\), as mass has \(3,\), got \(2, 2\)"),
    ({"velocity": torch.zeros(3, 3, dtype=F)}, r"velocity must have shape \(3, 2\), .* got \(3, 3\)"),
    ({"time": torch.zeros(1, dtype=F)}, r"time must have shape \(\), as mass has \(3,\), got \(1,\)"),
    ({"work": torch.zeros(3, dtype=F)}, r"work must have shape \(4,\), as mass has \(3,\), got \(3,\)"),
    ({"position": POSITION.float()}, r"one floating-point dtype, got position torch.float32 and mass torch.float64"),
    ({"work": torch.tensor(0)}, r"one floating-point dtype, got work torch.int64"),
    ({"velocity": VELOCITY.to("meta")}, "on one device, got velocity on meta and mass on cpu"),
    ({"mass": with_element(MASS, 0, math.inf)}, "mass must be finite"),
    ({"position": with_element(POSITION, (2, 1), math.nan)}, "position must be finite, got NaN or infinity in it"),
    ({"velocity": with_element(VELOCITY, (0, 0), -math.inf)}, "velocity must be finite"),
    ({"time": torch.tensor(math.nan, dtype=F)}, "time must be finite"),
    ({"work": torch.tensor(math.inf, dtype=F)}, "work must be finite"),
    ({"mass": with_element(MASS, 2, -1e-9)}, r"mass must be >= 0 \(0 for a test particle\), got a negative one"),
    ({"mass": torch.zeros(3, dtype=F)}, "at least one body must have mass, got none"),
    ({"position": with_element(POSITION, 2, POSITION[1])}, "bodies 1 and 2 are at the same place; move one, or set"),
]


@pytest.mark.parametrize(("fields", "message"), ONE)
def test_a_bad_system_is_refused_in_words_that_name_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=rf"^system: .*{message}"):
        check_system(changed(**fields))


def test_a_system_of_integers_is_refused():
    whole = System(*(leaf.long() for leaf in SYSTEM))
    with pytest.raises(ValueError, match=r"floating-point dtype, got mass torch.int64 .* convert them"):
        check_system(whole)


BATCHED = [
    ({"mass": MASS}, r"mass must have shape \(B, N,\), got \(3,\)"),
    ({"position": POSITION}, r"position must have shape \(B, N, D\) with D = 2 or 3, got \(3, 2\)"),
    ({"velocity": BATCH.velocity[:1]}, r"velocity must have shape \(2, 3, 2\), as mass has \(2, 3\), got \(1, 3, 2\)"),
    ({"time": torch.tensor(0.0, dtype=F)}, r"time must have shape \(2,\), as mass has \(2, 3\), got \(\)"),
    ({"mass": with_element(BATCH.mass, 1, 0.0)}, "at least one body must have mass"),
    ({"mass": with_element(BATCH.mass, (1, 0), -1.0)}, "mass must be >= 0"),
    ({"position": with_element(BATCH.position, (1, 2), POSITION[0])}, "bodies 0 and 2 are at the same place"),
]


@pytest.mark.parametrize(("fields", "message"), BATCHED)
def test_one_bad_system_spoils_a_batch(fields, message):
    with pytest.raises(ValueError, match=rf"^system: .*{message}"):
        check_system(changed(BATCH, **fields), batched=True)


def test_a_batch_is_no_system_and_a_system_no_batch():
    with pytest.raises(ValueError, match=r"mass must have shape \(N,\), got \(2, 3\)"):
        check_system(BATCH)
    with pytest.raises(ValueError, match=r"mass must have shape \(B, N,\), got \(3,\)"):
        check_system(SYSTEM, batched=True)


def test_the_message_says_where():
    with pytest.raises(ValueError, match=r"^my file, line 3: at least 2 bodies"):
        check_system(changed(mass=MASS[:1]), where="my file, line 3")


def test_softened_bodies_may_coincide():
    together = changed(position=with_element(POSITION, 1, POSITION[0]))
    check_system(together, softening=1e-3)
    for softening in (0.0, math.nan):
        with pytest.raises(ValueError, match="bodies 0 and 1 are at the same place"):
            check_system(together, softening=softening)


def test_even_massless_bodies_may_not_coincide_unsoftened():
    massless = changed(mass=torch.tensor([1.0, 0.0, 0.0], dtype=F), position=with_element(POSITION, 2, POSITION[1]))
    with pytest.raises(ValueError, match="bodies 1 and 2 are at the same place"):
        check_system(massless)


def test_bodies_at_one_place_in_different_systems_of_a_batch_do_not_coincide():
    shifted = changed(BATCH, position=torch.stack([POSITION, POSITION.flip(0)]))
    check_system(shifted, batched=True)


def test_a_made_system_keeps_its_tensors_and_starts_without_work():
    system = make_system(MASS, POSITION, VELOCITY, 1.5)
    assert torch.equal(system.mass, MASS)
    assert torch.equal(system.position, POSITION)
    assert torch.equal(system.velocity, VELOCITY)
    assert system.time.item() == 1.5
    assert system.time.shape == ()
    assert system.work.tolist() == [0.0] * 4  # one body is massless


def test_time_takes_the_dtype_of_the_masses_and_is_zero_unless_given():
    system = make_system(MASS.float(), POSITION.float(), VELOCITY.float(), torch.tensor(2.0, dtype=F))
    assert system.time.dtype == system.work.dtype == torch.float32
    assert make_system(MASS, POSITION, VELOCITY).time.item() == 0


@pytest.mark.parametrize(
    ("time", "want"), [(2.0, [2.0, 2.0]), (torch.tensor(3.0), [3.0, 3.0]), (torch.tensor([1.0, 4.0]), [1.0, 4.0])]
)
def test_a_batch_is_made_with_one_time_or_with_one_for_every_system(time, want):
    batch = make_system(BATCH.mass, BATCH.position, BATCH.velocity, time)
    assert batch.time.tolist() == want
    assert not batch.work.any()


def test_making_a_system_checks_it():
    with pytest.raises(ValueError, match=r"^system: velocity must have shape \(3, 2\)"):
        make_system(MASS, POSITION, VELOCITY[:2])
    with pytest.raises(ValueError, match=r"^system: time must be finite"):
        make_system(MASS, POSITION, VELOCITY, math.nan)
    with pytest.raises(ValueError, match=r"^system: position must have shape \(2, 2\), as mass has \(2,\)"):
        make_system(MASS[:2], POSITION, VELOCITY)
    coincident = with_element(POSITION, 1, POSITION[0])
    with pytest.raises(ValueError, match="set softening > 0"):
        make_system(MASS, coincident, VELOCITY)
    make_system(MASS, coincident, VELOCITY, softening=0.1)


@pytest.mark.parametrize(
    ("system", "time", "message"),
    [
        (SYSTEM, torch.zeros(1, dtype=F), r"shape \(\), got \(1,\)"),
        (SYSTEM, torch.zeros(3, dtype=F), r"shape \(\), got \(3,\)"),
        (BATCH, torch.zeros(1, dtype=F), r"shape \(2,\), got \(1,\)"),
    ],
)
def test_a_time_of_another_shape_is_refused(system, time, message):
    with pytest.raises(ValueError, match=rf"^make_system: time must be a number or have {message}$"):
        make_system(*system[:3], time)


@pytest.mark.parametrize("where", range(3))
def test_lists_are_refused_with_the_remedy(where):
    arguments = [MASS, POSITION, VELOCITY]
    arguments[where] = arguments[where].tolist()
    with pytest.raises(ValueError, match=r"^make_system: .* must be tensors, e\.g\. torch\.tensor\("):
        make_system(*arguments)
