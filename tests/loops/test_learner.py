"""An update with few gradients is the update: on a step without physics, ε = difficulty · dt³."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.base import tree
from aits_func.base.types import StepInfo, System
from aits_func.learning.optimizers import adam, sgd
from aits_func.loops.collect import init_train_state
from aits_func.loops.learner import Learner, build_learner, room_for
from aits_func.timestep.window import first_sample

THRESHOLD = 2e-4


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def stub_step(params, sample):
    """dt = e^(log_dt + slope · mass), ε = difficulty · dt³ with the difficulty on the system's clock."""
    dt = torch.where(sample.active, (params["log_dt"] + params["slope"] * sample.system.mass[0]).exp(), 0.0)
    exploded = dt > 10
    error = torch.where(exploded, torch.inf, sample.system.time * torch.where(exploded, 1.0, dt) ** 3)
    return sample.system, StepInfo(dt, error, error < THRESHOLD, exploded)


def group(difficulties, *, bodies=2, active=None):
    difficulties = tensor(list(difficulties))
    count = len(difficulties)
    x = torch.zeros(count, bodies, 2, dtype=torch.float64)
    mass = 1 + torch.arange(count * bodies, dtype=torch.float64).reshape(count, bodies) / 10
    samples = vmap(lambda system: first_sample(system, 0))(
        System(mass, x, x, difficulties, torch.zeros_like(difficulties))
    )
    return samples if active is None else samples._replace(active=torch.tensor(active))


# At dt = 0.1, ε is a thousandth of the difficulty: inside the band from 1e-3 to 0.1, accepted below 0.2.
EASY, INSIDE, NEARLY, HARD = (1e-4, 5e-4), (2e-3, 2e-2, 5e-2, 9e-2), (0.15,), (0.5, 3.0, 40.0)
ONE = (group((*INSIDE, *HARD, *EASY, *NEARLY)),)
TWO = (*ONE, group((*HARD, *INSIDE, *INSIDE), bodies=3))
OPTIMIZERS = {
    "sgd": sgd(1e-3, momentum=0.9, weight_decay=0.1),
    "adam": adam(1e-2, weight_decay=0.1),
}


def begin(optimizer, dt=0.1):
    return init_train_state({"log_dt": tensor(math.log(dt)), "slope": tensor(1e-3)}, optimizer)


def assert_close(ours, theirs):
    for (name, leaf), same in zip(tree.named_leaves(ours).items(), tree.leaves(theirs), strict=True):
        # Sums of at most twenty residuals, of order ten, in another order; Adam divides two of them.
        torch.testing.assert_close(leaf, same, rtol=1e-13, atol=1e-15, msg=lambda text, name=name: f"{name}: {text}")


def assert_same(ours, theirs):
    for (name, leaf), same in zip(tree.named_leaves(ours).items(), tree.leaves(theirs), strict=True):
        assert torch.equal(leaf, same), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize(("on", "pulling"), [("failed", 3), ("all", 6)])
@pytest.mark.parametrize("more", [0, 1, 100])
def test_an_update_with_room_for_those_that_pull_is_the_update_of_all(optimizer, batch, on, pulling, more):
    learner = build_learner(stub_step, OPTIMIZERS[optimizer])
    ours = theirs = begin(learner.optimizer)
    for _ in range(3):  # the optimizer's state is the same too
        pulled = learner.update_some(ours, batch, on, pulling + more)
        theirs, (loss, info) = learner.update(theirs, batch, on)
        assert_close(pulled.state, theirs)
        assert_close(pulled.loss, loss)
        assert_close(pulled.info, info)
        assert (pulled.pulling.dtype, int(pulled.pulling)) == (torch.int64, pulling)
        ours = pulled.state
    assert not torch.equal(ours.params["slope"], begin(learner.optimizer).params["slope"])


def test_one_group_alone_needs_no_tuple_around_it():
    learner = build_learner(stub_step, sgd(1e-3))
    alone, wrapped = (learner.update_some(begin(learner.optimizer), batch, "all", 6) for batch in (ONE[0], ONE))
    assert_same(alone, wrapped)


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_those_that_pull_are_counted_beyond_the_room_too_and_there_the_state_is_another(room):
    learner = build_learner(stub_step, sgd(1e-3))
    start = begin(learner.optimizer)
    pulled = learner.update_some(start, ONE, "failed", room)
    right, (loss, info) = learner.update(start, ONE, "failed")
    assert int(pulled.pulling) == 3
    assert_close((pulled.loss, pulled.info), (loss, info))
    difference = float((pulled.state.params["log_dt"] - right.params["log_dt"]).abs())
    # One left out has a residual of at least ln 5, and so 6 ln 5 / 3 · 1e-3 of the step; rounding is 1e-16.
    assert difference > 3e-3 if room < 3 else difference < 1e-15


def test_the_count_is_that_of_the_group_with_most_and_leaves_out_the_inactive():
    learner = build_learner(stub_step, sgd(1e-3))
    start = begin(learner.optimizer)
    first = group([*HARD, *HARD], active=[True, False, True, True, False, True])
    second = group([*HARD, *HARD, *EASY, *NEARLY, *INSIDE], bodies=3)
    for batch, on, count in [
        ((first,), "failed", 4),
        ((first, second), "failed", 6),
        ((second, first), "all", 9),
        ((group(INSIDE), first), "all", 4),
        ((group(INSIDE), group(INSIDE, bodies=3)), "all", 0),
        ((group(EASY),), "failed", 0),
        ((group(EASY),), "all", 2),
    ]:
        assert int(learner.update_some(start, batch, on, 16).pulling) == count
        right, _ = learner.update(start, batch, on)
        assert_close(learner.update_some(start, batch, on, 16).state, right)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("batch", "on"),
    [
        ((group((*EASY, *INSIDE, *NEARLY)),), "failed"),
        ((group(HARD, active=[False] * 3), group(HARD, bodies=3, active=[False] * 3)), "all"),
    ],
    ids=["all accepted", "all inactive"],
)
def test_where_none_is_chosen_the_state_stays_what_it_was(optimizer, batch, on):
    learner = build_learner(stub_step, OPTIMIZERS[optimizer])  # momentum and weight decay would move it
    moved = learner.update(begin(learner.optimizer), ONE, "all")[0]
    pulled = learner.update_some(moved, batch, on, 2)
    assert_same(pulled.state, moved)
    assert (float(pulled.loss), int(pulled.pulling)) == (0.0, 0)


def test_where_all_are_chosen_and_none_pulls_momentum_and_decay_move_as_ever():
    learner = build_learner(stub_step, OPTIMIZERS["sgd"])
    moved = learner.update(begin(learner.optimizer), ONE, "all")[0]
    pulled, right = learner.update_some(moved, group(INSIDE), "all", 2), learner.update(moved, group(INSIDE), "all")[0]
    assert int(pulled.pulling) == 0
    assert_close(pulled.state, right)
    assert not torch.equal(right.params["log_dt"], moved.params["log_dt"])


def test_exploded_samples_pull():
    learner = build_learner(stub_step, sgd(1e-3))
    start = begin(learner.optimizer, dt=1e3)
    pulled = learner.update_some(start, TWO, "failed", 11)
    assert pulled.info.exploded.all()
    assert int(pulled.pulling) == 11  # of the second group; the first has ten
    assert_close(pulled.state, learner.update(start, TWO, "failed")[0])


def test_a_sample_inside_the_band_does_not_matter_even_if_its_gradient_is_not_a_number():
    def cornered_step(params, sample):
        """ε has a root of 0 in it where the mass is above 1.5: the same value, and an infinite slope."""
        system, info = stub_step(params, sample)
        corner = torch.where(sample.system.mass[0] > 1.5, info.dt - info.dt.detach(), 1.0).sqrt() - 1.0
        corner = torch.where(sample.system.mass[0] > 1.5, corner + 1.0, 0.0)
        return system, info._replace(energy_error=info.energy_error + corner)

    batch = group((*HARD, *INSIDE))  # masses 1.0, 1.2, 1.4, and above 1.5 those inside the band
    cornered, smooth = build_learner(cornered_step, sgd(1e-3)), build_learner(stub_step, sgd(1e-3))
    start = begin(smooth.optimizer)
    assert cornered.update(start, batch, "all")[0].params["log_dt"].isnan()
    expected, _ = smooth.update(start, batch, "all")
    for room in (3, 5):  # with room to spare, too
        assert_close(cornered.update_some(start, batch, "all", room).state, expected)


def test_few_gradients_are_computed_for_few_samples_and_once():
    sizes = []

    def counting_step(params, sample):
        sizes.append(torch._C._functorch.get_unwrapped(sample.system.mass).shape[0])
        return stub_step(params, sample)

    learner = build_learner(counting_step, sgd(1e-3))
    learner.update_some(begin(learner.optimizer), TWO, "failed", 4)
    assert sizes == [10, 11, 4, 4]  # all of both groups without gradient, then the room of each
    sizes.clear()
    learner.update_some(begin(learner.optimizer), TWO, "failed", 100)
    assert sizes == [10, 11, 10, 11]  # a group is never filled up beyond what it has


def test_the_state_given_is_not_changed_and_the_rest_of_it_comes_back():
    learner = build_learner(stub_step, OPTIMIZERS["adam"])
    start = begin(learner.optimizer)
    before = [leaf.clone() for leaf in tree.leaves((start, TWO))]
    after = learner.update_some(start, TWO, "all", 6).state
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves((start, TWO)), before, strict=True))
    assert (after.population, after.epoch) == (start.population, start.epoch)


@pytest.mark.parametrize(
    ("sizes", "pulling", "room"),
    [
        ((200,), 0, 25),
        ((200,), 25, 25),  # an eighth
        ((200,), 26, 0),  # one too many: all of them
        ((201,), 26, 26),  # rounded up
        ((17,), 16, 16),  # never less than 16
        ((17,), 17, 0),
        ((16,), 0, 0),  # no smaller than all
        ((100, 100), 25, 25),  # an eighth of both together
        ((16, 10), 0, 0),
        ((10, 300), 39, 39),
        ((10, 300), 40, 0),
    ],
)
def test_the_room_is_an_eighth_of_the_batch_at_least_sixteen_or_none(sizes, pulling, room):
    batch = tuple(group([1.0] * size, bodies=2 + k) for k, size in enumerate(sizes))
    assert room_for(batch, pulling) == room
    if len(batch) == 1:
        assert room_for(batch[0], pulling) == room


def test_a_learner_made_by_hand_need_not_know_how_to_update_some():
    inner = build_learner(stub_step, sgd(1e-3))
    assert Learner(inner.objective, inner.optimizer, inner.update).update_some is None
