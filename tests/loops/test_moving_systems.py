"""How a system moves as a whole is nothing that its steps are judged by: in no loop, whatever its speed."""

import math

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base.check import make_system
from aits_func.base.tree import leaves
from aits_func.base.types import System
from aits_func.learning.optimizers import sgd
from aits_func.loops.collect import check_energies, collect_trajectory, init_population, init_train_state
from aits_func.loops.learner import build_learner
from aits_func.loops.objective import build_objective
from aits_func.loops.replay import generalize_on_trajectory
from aits_func.loops.resolution import rounding_errors
from aits_func.loops.simulate import simulate
from aits_func.physics.fields import Field
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.step import build_step, limit_of
from aits_func.timestep.window import first_sample

GRAVITY = build_gravity()
POLICY = build_criterion_policy(p_norm(GRAVITY, eta=0.1))
LEAPFROG = build_leapfrog_kdk(GRAVITY)
# A speed of 5 is rounded by 4e-16, and enters energies by its product with speeds of order 1; some ten steps.
ROUNDED = 1e-13


def step(**options):
    return build_step(POLICY, GRAVITY, LEAPFROG, energy_scale=options.pop("energy_scale", "kinetic"), **options)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def clusters(count=6):
    """Every second one has a test particle."""
    systems = gaussian_cluster(3, count, bodies=3, position_scale=1.0, velocity_scale=0.3, mass_range=(0.5, 1.5))
    mass = systems.mass.clone()
    mass[::2, 2] = 0
    return make_system(mass, systems.position, systems.velocity)


def moving(systems, speed=5.0):
    return systems._replace(velocity=systems.velocity + tensor([speed, -speed / 2]))


def samples(systems):
    return (vmap(lambda system: first_sample(system, 0))(systems),)


def test_the_error_of_a_step_its_loss_and_its_gradient_are_the_same():
    objective = build_objective(step())
    outcomes = []
    for systems in (clusters(), moving(clusters())):
        (value, info), slope = objective.loss(POLICY.init(0), samples(systems), "all"), None
        slope = grad(lambda p, s=systems: objective.loss(p, samples(s), "all")[0])(POLICY.init(0))
        outcomes.append((info.energy_error, value, *leaves(slope)))
    assert (outcomes[0][0] > 1e-6).all()
    for here, there in zip(*outcomes, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-6, atol=ROUNDED)  # a loss of ln ε magnifies by 1/ε


def test_a_binary_that_moves_fast_is_not_judged_by_its_speed():
    """The kinetic energy of the centre of mass, 1e6 times the internal energy, was a scale that let every step pass."""
    binary = binaries(1, 4, eccentricity=(0.6, 0.6))
    _, info = build_objective(step(energy_scale="total")).attempt(POLICY.init(0), samples(moving(binary, 1e3)))
    _, rest = build_objective(step(energy_scale="total")).attempt(POLICY.init(0), samples(binary))
    # A speed of 1000 is rounded by 1e-13, and so is the energy.
    torch.testing.assert_close(info.energy_error, rest.energy_error, rtol=0, atol=1e-11)


def test_the_speed_at_which_the_energy_vanishes_in_the_frame_at_hand_is_no_ground_to_refuse():
    orbit = binaries(1, 1, eccentricity=(0.5, 0.5), semi_major_axis=(1.0, 1.0))
    fast = moving(orbit, math.sqrt(0.4))  # ½ · 2 · (1 + ¼) v² = ½, and the energy is −½
    assert float((GRAVITY.energy(System(*(leaf[0] for leaf in fast)))).abs()) < 1e-12
    check_energies(fast, gravity=GRAVITY, energy_scale="total", where="systems")
    with pytest.raises(ValueError, match="has total energy 0"):  # the source's number is that of the frame at hand
        check_energies(fast, gravity=GRAVITY, energy_scale="source", where="systems")


def test_collection_accepts_and_rejects_the_same_steps_and_replay_learns_the_same():
    learner = build_learner(step(energy_threshold=1e-5), sgd(1e-2), E_lower=1e-7, E_upper=1e-5)
    ends = []
    for systems in (clusters(), moving(clusters())):
        population = init_population((systems,), gravity=GRAVITY, energy_scale="kinetic")
        state = init_train_state(POLICY.init(0), learner.optimizer, population)
        state, trajectory, info = collect_trajectory(state, learner=learner, steps_per_epoch=8)
        state, _ = generalize_on_trajectory(state, trajectory, learner=learner, replay_steps=5, loss_on="all")
        ends.append((info.accepted, info.rejected, info.max_energy_error, *(float(x) for x in leaves(state.params))))
    assert ends[0][1] > 0
    assert ends[1] == pytest.approx(ends[0], rel=1e-6)  # updates of ln ε, which magnify roundings by 1/ε


@pytest.mark.parametrize("statistics", [True, False])
def test_a_simulation_reports_the_same(statistics):
    reports = []
    for systems in (clusters(), moving(clusters())):
        _, info = simulate(
            POLICY.init(0),
            systems,
            policy=POLICY,
            gravity=GRAVITY,
            scheme=LEAPFROG,
            t_end=0.5,
            energy_scale="kinetic",
            energy_threshold=1e-3,
            statistics=statistics,
        )
        seen = (info.final_energy_error, info.max_energy_error, info.max_potential_error, info.energy_drift)
        reports.append((info.status, info.steps, info.over_threshold, *(x.nan_to_num(-1.0) for x in seen)))
    assert reports[0][3].max() > 1e-4
    for here, there in zip(*reports, strict=True):
        torch.testing.assert_close(there, here, rtol=0, atol=1e3 * ROUNDED)  # errors grow in encounters


def test_rounding_is_that_of_the_velocities_as_they_are_given():
    """Measured: the rms of errors of steps too short to make one of their own, over many random systems."""
    systems = gaussian_cluster(5, 400, bodies=3, position_scale=1.0, velocity_scale=0.3)
    short = build_criterion_policy(p_norm(GRAVITY, eta=1e-9))
    for speed in (0.0, 30.0):
        there = moving(systems, speed)
        judge = build_step(short, GRAVITY, LEAPFROG, energy_scale="kinetic")
        _, info = vmap(judge, in_dims=(None, 0))(short.init(0), vmap(lambda s: first_sample(s, 0))(there))
        ratio = (info.energy_error / rounding_errors(there, limit_of(judge))).pow(2).mean().sqrt()
        assert (
            0.25 < ratio < 4.0
        )  # as `rounding_error` says of itself, "between 0.5 and 4 times", and a factor for luck


def test_with_a_field_the_frame_is_that_of_the_field():
    pull = Field(lambda x, t: -0.1 * x, lambda x, t: 0.05 * x.pow(2).sum(), static=True)
    gravity = build_gravity(field=pull)
    judge = build_step(POLICY, gravity, build_leapfrog_kdk(gravity), energy_scale="kinetic")
    (sample,) = samples(moving(clusters()))
    after, info = vmap(judge, in_dims=(None, 0))(POLICY.init(0), sample)
    whole = sample.system.mass[1::2] > 0
    assert whole.all()
    before, now = (
        vmap(gravity.energy)(System(*(x[1::2] for x in s._replace(work=s.work[:, 0])))) for s in (sample.system, after)
    )
    size = vmap(gravity.energy_size)(System(*(x[1::2] for x in sample.system._replace(work=sample.system.work[:, 0]))))
    torch.testing.assert_close(info.energy_error[1::2], (now - before).abs() / size, rtol=1e-9, atol=ROUNDED)
