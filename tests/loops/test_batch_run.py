"""A batch on its way: who is stepped, who is frozen, who leaves, and that what is compiled is kept."""

import math

import pytest
import torch

from aits_func.base import tree
from aits_func.loops import batch_run
from aits_func.loops.arguments import measure
from aits_func.loops.batch_run import Forgetful, build_batch, reach, scatter
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.schemes import as_scheme
from aits_func.timestep.policy import Policy
from aits_func.timestep.run import FINISHED, STEP_LIMIT, Watch

GRAVITY = build_gravity(softening=0.1)
KDK = as_scheme(build_leapfrog_kdk(GRAVITY))
POLICY = Policy(lambda seed: (), lambda params, system, window: torch.full_like(system.time, 1 / 64))
ONE = torch.tensor(1.0, dtype=torch.float64)


def batch_of(compile="off", policy=POLICY):
    options = {"history_len": 0, "energy_threshold": 1e-4, "watch": Watch(), "compile": compile}
    return build_batch(policy, GRAVITY, KDK, **options)


def begun(batch, count, max_steps=1000):
    systems = gaussian_cluster(1, count, bodies=3, position_scale=1.0, velocity_scale=0.5)
    start = measure(systems, GRAVITY, "total", 0.0, max_steps)
    return start, batch.begin((), systems, start)


class Ledger:
    """A recorder that notes who is in the batch, and a batch that notes how large it is."""

    def __init__(self, batch):
        self.rows, self.sizes, self.landings = [], [], []

        def advance(params, h, start, runs, target):
            assert len({len(leaf) for leaf in tree.leaves((start, runs, target))}) == 1
            self.sizes.append(len(target))
            return batch.advance(params, h, start, runs, target)

        def land(*arguments):
            self.landings.append(len(arguments[-1]))
            return batch.land(*arguments)

        self.batch = batch._replace(advance=advance, land=land)

    def record(self, active, rows):
        self.rows.append(rows.tolist())


def lengths(*steps):
    """Times that take so many whole steps of 1/64 and a half one."""
    return (torch.tensor(steps, dtype=torch.float64) + 0.5) / 64


def test_systems_leave_the_batch_when_half_of_it_is_done():
    ledger = Ledger(batch_of())
    # 64 systems: 40 of a few steps, 16 of thirty, 8 of a hundred, well mixed
    steps = [100 if i % 8 == 4 else 30 if i % 4 == 1 else 4 for i in range(64)]
    start, runs = begun(ledger.batch, 64)
    last, landed = reach(ledger.batch, (), ONE, start, runs, lengths(*steps), ledger)
    # looked at every 16 steps; not smaller than 16
    assert ledger.sizes[:16] == [64] * 16
    assert ledger.sizes[16:32] == [24] * 16
    assert set(ledger.sizes[32:]) == {16}
    assert len(ledger.sizes) == 112  # the first multiple of 16 beyond 101
    assert all(len(rows) == size for rows, size in zip(ledger.rows, ledger.sizes, strict=True))
    # those that still run are always in it, each row once and in order
    wanted = {i for i in range(64) if steps[i] == 100}
    assert all(wanted <= set(rows) and rows == sorted(set(rows)) for rows in ledger.rows)
    # all of them are landed at once, each from where it was
    assert ledger.landings == [64]
    assert last.steps.tolist() == steps
    assert torch.equal(landed.system.time, lengths(*steps))
    assert landed.status.tolist() == [FINISHED] * 64


def test_those_that_have_left_are_as_if_everybody_had_stayed(monkeypatch):
    steps = [3 + 7 * (i % 6) for i in range(40)]
    batch = batch_of()
    start, runs = begun(batch, 40)
    ledger = Ledger(batch)
    left = reach(ledger.batch, (), ONE, start, runs, lengths(*steps), Forgetful())
    assert min(ledger.sizes) < 40
    monkeypatch.setattr(batch_run, "_SMALLEST_BATCH", 1000)
    stayed = Ledger(batch)
    whole = reach(stayed.batch, (), ONE, start, runs, lengths(*steps), Forgetful())
    assert set(stayed.sizes) == {40}
    for ours, theirs in zip(tree.leaves(left), tree.leaves(whole), strict=True):
        # a smaller batch may be summed otherwise: 40 steps of 1e-16 in a softened triple
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_a_compiled_batch_shrinks_seldom_to_powers_of_its_base():
    assert [batch_run._size_above(left, 2) for left in (1, 5, 17, 64)] == [1, 5, 17, 64]
    # of base 8, so that few sizes have to be compiled for
    assert [batch_run._size_above(left, 8) for left in (1, 2, 8, 9, 64, 65)] == [1, 8, 8, 64, 64, 512]


def test_a_batch_that_is_done_at_once_is_not_stepped_to_the_limit():
    ledger = Ledger(batch_of())
    start, runs = begun(ledger.batch, 3)
    reach(ledger.batch, (), ONE, start, runs, lengths(0, 0, 1), ledger)
    assert len(ledger.sizes) == 16  # one look


def test_a_step_limit_stops_in_time_and_nobody_is_landed():
    ledger = Ledger(batch_of())
    start, runs = begun(ledger.batch, 3, max_steps=5)
    forever = torch.full((3,), math.inf, dtype=torch.float64)
    last, end = reach(ledger.batch, (), ONE, start, runs, forever, ledger)
    assert len(ledger.sizes) == 5
    assert ledger.landings == []
    assert end.status.tolist() == [STEP_LIMIT] * 3
    assert last is end


def test_scattering_replaces_rows_and_nothing_else():
    full, part = {"a": torch.zeros(4, 2), "b": torch.arange(4)}, {"a": torch.ones(2, 2), "b": torch.tensor([7, 8])}
    new = scatter(full, torch.tensor([3, 1]), part)
    assert new["a"].tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    assert new["b"].tolist() == [0, 8, 2, 7]
    assert full["b"].tolist() == [0, 1, 2, 3]


def test_what_is_compiled_for_one_model_is_kept_for_it_alone():
    assert batch_of("auto") is batch_of("auto")
    assert batch_of("auto") is not batch_of("on")
    assert batch_of("auto", POLICY._replace(init=lambda seed: ())) is not batch_of("auto")
    assert batch_of("off") is not batch_of("off")  # nothing to keep


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="compile must be one of auto, on, off, got 'yes'"):
        batch_of("yes")
