"""Massless bodies are judged by their own energies, in training, in simulation and without statistics."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.base.check import make_system
from aits_func.base.tree import leaves, replace_leaves
from aits_func.base.types import System
from aits_func.learning.optimizers import adam
from aits_func.loops.collect import check_energies, collect_trajectory, init_population, init_train_state
from aits_func.loops.learner import build_learner
from aits_func.loops.objective import build_objective
from aits_func.loops.simulate import simulate
from aits_func.physics.criteria import build_criterion
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.massless import own_energies
from aits_func.physics.orbits import two_body_orbit
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.run import FINISHED
from aits_func.timestep.step import build_step
from aits_func.timestep.window import first_sample

GRAVITY = build_gravity()
LEAPFROG = build_leapfrog_kdk(GRAVITY)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def constant_policy(dt):
    return build_criterion_policy(build_criterion("constant", GRAVITY, dt=dt))


def comet(jupiter=9.5e-4):
    """A comet that falls to the star, in the restricted problem of three bodies."""
    pair = two_body_orbit(mass=[1.0, jupiter], semi_major_axis=1.0, eccentricity=0.0)
    distance, speed = 0.6 * 1.98, math.sqrt(0.02 / 1.98 / 0.6)
    return make_system(
        torch.cat([pair.mass, tensor([0.0])]),
        torch.cat([pair.position, pair.position[:1] + tensor([[0.0, distance]])]),
        torch.cat([pair.velocity, pair.velocity[:1] + tensor([[-speed, 0.0]])]),
    )


def jacobi(system):
    """Of the third body, in the frame of the centre of mass of a pair on a circle of radius 1."""
    x, v, m = system.position[2], system.velocity[2], system.mass[:2]
    potential = -(m / (system.position[:2] - x).norm(dim=-1)).sum()
    return float(v.pow(2).sum() / 2 + potential - m.sum().sqrt() * (x[0] * v[1] - x[1] * v[0]))


def run(system, dt, **options):
    policy = constant_policy(dt)
    return simulate(policy.init(0), system, policy=policy, gravity=GRAVITY, scheme=LEAPFROG, **options)


@pytest.mark.parametrize("statistics", [True, False])
def test_a_particle_that_is_thrown_out_of_its_orbit_is_an_error(statistics):
    e = 0.9
    start = make_system(
        tensor([1.0, 0.0]),
        tensor([[0.0, 0.0], [1 - e, 0.0]]),
        tensor([[0.1, 0.0], [0.1, math.sqrt((1 + e) / (1 - e))]]),
    )
    end, info = run(start, 0.05, t_end=2 * math.pi, statistics=statistics)
    x, v = end.position[1] - end.position[0], end.velocity[1] - end.velocity[0]
    specific = v.pow(2).sum() / 2 - 1 / x.norm()
    assert specific > 5  # and it was −1/2
    torch.testing.assert_close(info.final_energy_error, (specific + 0.5) / (9.5 + 10.0), rtol=1e-12, atol=0)
    if statistics:
        assert info.over_threshold >= 1
        assert info.max_energy_error >= info.final_energy_error


def test_a_comet_whose_jacobi_constant_is_lost_is_an_error():
    start = comet()
    end, info = run(start, 0.02, t_end=6.0)
    assert abs(jacobi(end) - jacobi(start)) > 100
    # Of ½v² + |φ| = 0.85: the constant is that of a pair on a perfect circle, which theirs nearly is.
    assert float(info.final_energy_error) > 100
    assert info.over_threshold > 10


@pytest.mark.parametrize("dt", [1e-3, 5e-4])
def test_as_long_as_the_comet_is_followed_its_error_is_that_of_its_jacobi_constant(dt):
    start = comet()
    end, info = run(start, dt, t_end=1.0)
    size = float(start.velocity[2].pow(2).sum() / 2 + GRAVITY.potentials(start)[2].abs())
    lost = abs(jacobi(end) - jacobi(start)) / size
    assert 1e-9 < lost < 1e-3
    # Two measures of one error: they differ by that of the pair's circle, a hundredth.
    assert float(info.final_energy_error) == pytest.approx(lost, rel=0.2)


@pytest.mark.parametrize("energy_scale", ["total", "kinetic"])
def test_a_run_counts_the_steps_that_training_would_reject(energy_scale):
    """½v² + |φ| of a comet that falls grows tenfold on the way, and with it what a step's own error is relative to."""
    system, policy, threshold = comet(), constant_policy(0.01), 3e-6
    _, info = run(system, 0.01, steps=140, energy_threshold=threshold, energy_scale=energy_scale)
    step = build_step(policy, GRAVITY, LEAPFROG, energy_threshold=threshold, energy_scale=energy_scale)
    rejected = of_the_start = 0
    size = float(own_energies(GRAVITY, system)[1][2])
    for _ in range(140):
        after, judged = step(policy.init(0), first_sample(system, 0))
        rejected += not judged.accepted
        change = (own_energies(GRAVITY, after)[0] - own_energies(GRAVITY, system)[0])[2].abs()
        of_the_start += float(change) / size >= threshold
        system = after
    assert info.over_threshold == rejected
    assert 5 < rejected < of_the_start - 5  # relative to the start it would be another number


def test_a_star_at_rest_with_test_particles_is_an_ordinary_system():
    start = make_system(
        tensor([1.0, 0.0, 0.0]),
        tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]),
        tensor([[0.0, 0.0], [0.0, 1.0], [-math.sqrt(0.5), 0.0]]),
    )
    check_energies(System(*(x[None] for x in start)), gravity=GRAVITY, energy_scale="total", where="systems")
    end, info = run(start, 0.01, t_end=2 * math.pi)
    assert info.status == FINISHED
    # A leapfrog is off by dt² per unit of time, but for a factor; the energy on a circle stays.
    torch.testing.assert_close(end.position[1], tensor([1.0, 0.0]), rtol=0, atol=2 * math.pi * 0.01**2)
    assert info.max_energy_error < 1e-9
    with pytest.raises(ValueError, match='set energy_scale = "total", which judges massless bodies'):
        check_energies(System(*(x[None] for x in start)), gravity=GRAVITY, energy_scale="source", where="systems")


def test_without_statistics_no_energy_is_asked_for_and_where_there_is_none_the_error_is_not_known():
    at_escape = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.0)
    parabolic = at_escape._replace(velocity=math.sqrt(2) * at_escape.velocity)
    with pytest.raises(ValueError, match="has total energy 0"):
        run(parabolic, 0.01, t_end=1.0)
    _, info = run(parabolic, 0.01, t_end=1.0, statistics=False)
    assert info.status == FINISHED
    assert info.final_energy_error.isnan()


def test_the_errors_of_a_run_are_the_largest_of_the_system_and_its_massless_bodies():
    """Beside a comet that is followed badly the pair is followed well: alone it has the smaller error."""
    start = comet(jupiter=0.3)
    pair = System(start.mass[:2], start.position[:2], start.velocity[:2], start.time, start.work[0])
    _, whole = run(start, 0.02, t_end=1.0)
    _, alone = run(pair, 0.02, t_end=1.0)
    for name in ("final_energy_error", "max_energy_error", "mean_energy_error", "max_potential_error"):
        assert getattr(whole, name) > 10 * getattr(alone, name), name
    assert whole.energy_drift.abs() > alone.energy_drift.abs()


def test_a_step_inside_vmap_that_cannot_see_its_test_particles_says_so():
    """`System` made by hand, without room for the work."""
    start = comet()
    blind = System(*(x[None] for x in start[:4]), torch.zeros(1, dtype=torch.float64))
    policy = constant_policy(1e-3)
    step = build_step(policy, GRAVITY, LEAPFROG)
    _, info = vmap(step, in_dims=(None, 0))(policy.init(0), vmap(lambda s: first_sample(s, 0))(blind))
    assert info.exploded.item()
    assert not info.accepted.item()
    _, seen = step(policy.init(0), first_sample(start, 0))
    assert seen.accepted.item()


def test_training_makes_the_step_short_enough_for_the_comet():
    """With the energy of the system alone the first step passes: it does not know the comet."""
    start = System(*(x[None] for x in comet()))
    policy = constant_policy(0.1)
    step = build_step(policy, GRAVITY, LEAPFROG, energy_threshold=1e-5)
    learner = build_learner(step, adam(0.05), E_lower=1e-7, E_upper=1e-5)
    state = init_train_state(policy.init(0), learner.optimizer, init_population((start,), gravity=GRAVITY))
    state, (trajectory,), info = collect_trajectory(state, learner=learner, steps_per_epoch=4)
    assert info.rejected > 0
    assert info.max_energy_error < 1e-5
    assert len(trajectory.dt) == 4
    assert float(trajectory.dt[-1]) < 0.1


def test_the_loss_of_a_massless_body_has_the_gradient_of_differences():
    policy = constant_policy(0.05)
    objective = build_objective(build_step(policy, GRAVITY, LEAPFROG))
    batch = (vmap(lambda s: first_sample(s, 0))(System(*(x[None] for x in comet()))),)
    (start,) = leaves(policy.init(0))

    def loss(x):
        return objective.loss(replace_leaves(policy.init(0), [x]), batch, "all")[0]

    h = 1e-5
    numeric = (loss(start + h) - loss(start - h)) / (2 * h)
    # Third differences make h² of it, and roundings of an energy 1e-16 / (ε h).
    torch.testing.assert_close(torch.func.grad(loss)(start), numeric, rtol=1e-5, atol=0)
