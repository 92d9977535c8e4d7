"""The tape: whose frames are shown when, in bounded memory. (What is on them says test_simulate.)"""

import pytest
import torch

from aits_func.base import tree
from aits_func.loops import tape
from aits_func.loops.arguments import measure
from aits_func.loops.batch_run import build_batch
from aits_func.loops.tape import Tape
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.schemes import as_scheme
from aits_func.timestep.policy import Policy
from aits_func.timestep.run import ARRIVED, FINISHED, RUNNING, STEP_LIMIT, Watch

GRAVITY = build_gravity(softening=0.1)
POLICY = Policy(lambda seed: (), lambda params, system, window: torch.full_like(system.time, 1 / 64))


@pytest.fixture
def runs():
    """Three systems at their start."""
    scheme = as_scheme(build_leapfrog_kdk(GRAVITY))
    options = {"history_len": 0, "energy_threshold": 1e-4, "watch": Watch(), "compile": "off"}
    batch = build_batch(POLICY, GRAVITY, scheme, **options)
    systems = gaussian_cluster(1, 3, bodies=3, position_scale=1.0, velocity_scale=0.5)
    return batch.begin((), systems, measure(systems, GRAVITY, "total", 0.0, 1000))


def at(runs, *times, status=(RUNNING,) * 3):
    """The same runs at these times, which are all that tells one frame from another here."""
    clock = torch.tensor(times, dtype=torch.float64)
    return runs._replace(system=runs.system._replace(time=clock), status=torch.tensor(status))


ALL = torch.arange(3)


def test_a_frame_is_kept_of_every_so_many_th_step_with_the_first_and_the_last(runs):
    recorder = Tape(2, runs)
    for step in range(1, 6):
        recorder.record(at(runs, *[float(step)] * 3), ALL)
    shown = recorder.stack(at(runs, 9.0, 9.0, 9.0, status=(FINISHED,) * 3))
    assert shown.time[:, 0].tolist() == [0.0, 2.0, 4.0, 9.0]
    assert shown.position.shape == (4, 3, *runs.system.position.shape[1:])


def test_without_being_asked_a_tape_keeps_the_ends_alone(runs):
    recorder = Tape(0, runs)
    recorder.record(at(runs, 1.0, 1.0, 1.0), ALL)
    assert recorder.stack(at(runs, 9.0, 9.0, 9.0)).time[:, 0].tolist() == [0.0, 9.0]


def test_those_that_have_left_the_batch_stay_as_they_were_last_seen(runs):
    recorder = Tape(1, runs)
    recorder.record(at(runs, 1.0, 1.0, 1.0, status=(RUNNING, STEP_LIMIT, RUNNING)), ALL)
    rows = torch.tensor([0, 2])
    recorder.record(tree.take(at(runs, 2.0, -1.0, 2.5), rows), rows)
    shown = recorder.stack(at(runs, 3.0, 1.0, 3.5))
    assert shown.time.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 1.0, 2.5], [3.0, 1.0, 3.5]]


def test_a_system_that_has_arrived_is_shown_at_its_end_and_not_before_the_last_leg(runs):
    recorder = Tape(1, runs)
    arrived = (ARRIVED, RUNNING, RUNNING)
    recorder.record(at(runs, 1.0, 1.0, 1.0, status=arrived), ALL)  # at an output time: it goes on from there
    recorder.begin()
    recorder.record(at(runs, 2.0, 2.0, 2.0, status=arrived), ALL)  # now at its end, where the side step leads
    shown = recorder.stack(at(runs, 2.5, 3.0, 3.0))
    assert shown.time.tolist() == [[0.0] * 3, [1.0, 1.0, 1.0], [2.5, 2.0, 2.0], [2.5, 3.0, 3.0]]


def test_frames_in_which_nobody_runs_any_more_are_left_out(runs):
    recorder = Tape(1, runs)
    recorder.record(at(runs, 1.0, 1.0, 1.0), ALL)
    done = at(runs, 2.0, 2.0, 2.0, status=(ARRIVED, STEP_LIMIT, ARRIVED))
    recorder.record(done, ALL)
    recorder.record(done, ALL)
    assert recorder.stack(at(runs, 2.0, 2.0, 2.0)).time[:, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("every", "kept"), [(1, 4), (3, 6)])
def test_a_long_tape_is_thinned_by_halves_and_stays_bounded(monkeypatch, runs, every, kept):
    monkeypatch.setattr(tape, "_MAX_FRAMES", 10)
    recorder = Tape(every, runs)
    for step in range(1, 40):
        recorder.record(at(runs, *[float(step)] * 3), ALL)
        assert len(recorder.frames) <= 10
    times = recorder.stack(at(runs, 40.0, 40.0, 40.0)).time[:, 0].tolist()
    assert times == [*map(float, range(0, 40, kept)), 40.0]
