"""The learned time transformation: where it begins, where it has to be exact, and what it scales with."""

import itertools
import math

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.learning.losses import compute_single_step_loss
from aits_func.learning.network import Layer
from aits_func.learning.optimizers import adam
from aits_func.loops.collect import init_population, init_train_state
from aits_func.loops.epoch import run_two_phase_training
from aits_func.loops.learner import build_learner
from aits_func.loops.replay import evaluate_trajectory
from aits_func.loops.simulate import simulate
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, gaussian_cluster
from aits_func.physics.orbits import orbital_period
from aits_func.physics.reversible_schemes import build_time_transformed_leapfrog
from aits_func.physics.step_function import REVERSIBLE
from aits_func.physics.time_transformations import pair_norm
from aits_func.timestep.run import FINISHED
from aits_func.timestep.step import build_step
from aits_func.timestep.transformation_policy import build_transformation_policy

GRAVITY = build_gravity()
SOFT = build_gravity(softening=0.1)


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def grown(params, seed=5, size=1.0):
    """Parameters in the midst of training: the last layer no longer zero."""
    make = torch.Generator().manual_seed(seed)
    layers = [
        Layer(*(size * torch.randn(leaf.shape, generator=make, dtype=torch.float64) for leaf in layer))
        for layer in params["network"]
    ]
    return {**params, "network": tuple(layers)}


def learned(gravity=GRAVITY, **options):
    """(policy, params with random weights)."""
    policy = build_transformation_policy(gravity, hidden=(4, 4), **options)
    return policy, grown(policy.init(0))


def triples(count=6, *, bodies=3, dimensions=2, velocity_scale=0.5):
    return gaussian_cluster(
        1,
        count,
        bodies=bodies,
        dimensions=dimensions,
        position_scale=1.0,
        velocity_scale=velocity_scale,
        mass_range=(0.5, 2.0),
    )


def steps_of(policy, params, systems):
    return vmap(lambda system: policy.apply(params, system, ()))(systems)


# --- where it begins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"p": 1.0}, {"weights": "root_sum"}, {"unit": "one"}, {"eta": 0.3, "p": 3.0, "unit": "one"}]
)
@pytest.mark.parametrize("gravity", [GRAVITY, SOFT], ids=["bare", "softened"])
def test_untrained_it_is_the_pair_norm_to_the_bit(gravity, options):
    policy, criterion = build_transformation_policy(gravity, **options), pair_norm(gravity, **options)
    params, own = policy.init(0), criterion.init()
    for systems in (triples(), triples(bodies=5, dimensions=3), triples(velocity_scale=0.0)):
        expected = vmap(lambda system: criterion.timescale(own, system))(systems)
        # its factor is exp(0) = 1, and 1/Ω is taken of the same Ω: nothing is left to round
        assert torch.equal(steps_of(policy, params, systems), expected)


def test_trained_it_is_another_and_within_its_bound():
    for bound in (1.5, 4.0):
        policy, params = learned(bound=bound)
        params = {**params, "network": grown(params, size=30.0)["network"]}  # saturated
        systems = triples(50)
        own = steps_of(policy, policy.init(0), systems)
        factor = steps_of(policy, params, systems) / own
        assert factor.max() < bound * (1 + 1e-12)
        assert factor.min() > (1 - 1e-12) / bound
        assert (factor.log().abs().amax() > 0.9 * math.log(bound)).all()


def test_the_step_is_one_over_the_rate_of_its_position_form():
    policy, params = learned(SOFT)
    for row in range(3):
        system = tree.take(triples(), row)
        constants = policy.position_form.constants(params, system)
        rate = policy.position_form.rate(params, system, constants)
        torch.testing.assert_close(policy.apply(params, system, ()), 1 / rate, rtol=1e-15, atol=0)
        # its centre of mass is at rest to rounding
        torch.testing.assert_close(constants.energy, SOFT.energy(system), rtol=1e-13, atol=0)


def test_it_is_reversible_unless_it_has_a_kink():
    assert build_transformation_policy(GRAVITY).traits == REVERSIBLE
    assert build_transformation_policy(GRAVITY, activation="relu").traits == REVERSIBLE._replace(smooth=False)


# --- where a pair is alone -------------------------------------------------------------------------------------------


def test_the_factor_tends_to_one_as_a_pair_is_left_alone():
    policy, params = learned()
    base = tree.take(triples(1), 0)
    deviations = []
    for distance in (1e1, 1e2, 1e3, 1e4):
        position = base.position.clone()
        position[2] = position[:2].mean(0) + torch.tensor([distance, 0.0], dtype=torch.float64)
        system = base._replace(position=position)
        kept = policy.position_form.constants(params, system)
        rate, bare = (policy.position_form.rate(p, system, kept) for p in (params, policy.init(0)))
        deviations.append(abs(float((rate / bare).log())))
    # z₁ = 1 − Σ q² is twice the share of the outer pairs, which falls as 1/distance²
    for near, far in itertools.pairwise(deviations):
        assert near / far == pytest.approx(100, rel=0.3)  # up to the next order, 1/distance of the leading one
    assert deviations[0] > 1e-4


def test_the_factor_tends_to_one_as_two_of_three_bodies_meet():
    policy, params = learned()
    base = tree.take(triples(1), 0)
    kept = policy.position_form.constants(params, base)
    deviations = []
    for separation in (1e-1, 1e-2, 1e-3, 1e-4):
        position = base.position.clone()
        position[1] = position[0] + torch.tensor([0.0, separation], dtype=torch.float64)
        system = base._replace(position=position)
        rate, bare = (policy.position_form.rate(p, system, kept) for p in (params, policy.init(0)))
        deviations.append(abs(float((rate / bare).log())))
    assert deviations[-1] < 1e-6  # separation² to within the weights
    assert all(far < near / 50 for near, far in itertools.pairwise(deviations[1:]))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_kepler_orbit_keeps_its_energy_to_rounding_whatever_the_network_says(seed):
    policy = build_transformation_policy(GRAVITY, eta=0.1, hidden=(4, 4))
    params = grown(policy.init(0), seed=seed, size=3.0)
    systems = binaries(seed, 4, eccentricity=(0.0, 0.99))
    _, info = simulate(
        params,
        systems,
        policy=policy,
        gravity=GRAVITY,
        scheme=build_time_transformed_leapfrog(GRAVITY),
        t_end=2 * orbital_period(systems),
    )
    assert info.status.tolist() == [FINISHED] * 4
    # against |W(t)|, as |E₀| is up to 200 times smaller than the potential at such a pericentre; measured: 3e-15
    assert info.max_potential_error.max() < 1e-12
    assert (info.steps > 50).all()  # so it was no other orbit that was followed exactly


def test_with_a_third_body_the_network_does_say_something():
    policy, params = learned()
    factor = steps_of(policy, params, triples(20)) / steps_of(policy, policy.init(0), triples(20))
    assert (factor - 1).abs().median() > 0.05


# --- what it scales with ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "mass"), [(1e3, 1.0), (1.0, 1e-4), (2.5e-3, 7.0)])
@pytest.mark.parametrize("G", [1.0, 4.0])
def test_under_a_change_of_units_the_step_scales_with_the_time(length, mass, G):
    options = {"hidden": (4, 4), "eta": 0.1}
    soft = build_gravity(G=G, softening=0.1)
    policy = build_transformation_policy(soft, **options)
    scaled = build_transformation_policy(build_gravity(G=G, softening=0.1 * length), **options)
    params, systems = grown(policy.init(0)), triples()
    time = math.sqrt(length**3 / mass)  # G stays as it is
    others = make_system(mass * systems.mass, length * systems.position, length / time * systems.velocity)
    # sums and roots of float64
    torch.testing.assert_close(
        steps_of(scaled, params, others), time * steps_of(policy, params, systems), rtol=1e-11, atol=0
    )


def test_it_does_not_depend_on_the_order_of_the_bodies_on_where_or_how_they_are_turned():
    policy, params = learned(SOFT)
    systems = triples()
    own = steps_of(policy, params, systems)
    order = torch.tensor([2, 0, 1])
    c, s = math.cos(0.7), math.sin(0.7)
    turn = tensor([[c, -s], [s, c]])
    for others in (
        systems._replace(
            mass=systems.mass[:, order], position=systems.position[:, order], velocity=systems.velocity[:, order]
        ),
        systems._replace(position=systems.position + 3.0),
        systems._replace(position=systems.position @ turn.T, velocity=systems.velocity @ turn.T),
    ):
        torch.testing.assert_close(steps_of(policy, params, others), own, rtol=1e-11, atol=0)  # other roundings


def test_it_is_even_in_the_velocities_and_at_a_fixed_energy_does_not_depend_on_them():
    policy, params = learned(SOFT)
    system = tree.take(triples(), 0)
    back = system._replace(velocity=-system.velocity)
    assert torch.equal(policy.apply(params, back, ()), policy.apply(params, system, ()))
    kept = policy.position_form.constants(params, system)
    faster = system._replace(velocity=3 * system.velocity, work=system.work + 1.0)
    assert torch.equal(policy.position_form.rate(params, faster, kept), policy.position_form.rate(params, system, kept))
    # of a whole state: the same speed shared out otherwise is the same energy
    c, s = math.cos(1.1), math.sin(1.1)
    turned = system._replace(velocity=system.velocity @ tensor([[c, -s], [s, c]]).T)
    torch.testing.assert_close(policy.apply(params, turned, ()), policy.apply(params, system, ()), rtol=1e-12, atol=0)


# --- gradients -------------------------------------------------------------------------------------------------------


def extremes():
    one = tree.take(triples(), 0)
    still = one._replace(velocity=torch.zeros_like(one.velocity))
    yield "ordinary", one
    yield "at rest", still
    yield "a test particle", one._replace(mass=tensor([1.0, 0.5, 0.0]))
    yield "two test particles", one._replace(mass=tensor([1.0, 0.0, 0.0]))
    yield "two bodies", one._replace(mass=one.mass[:2], position=one.position[:2], velocity=one.velocity[:2])
    yield (
        "collinear and symmetric",
        one._replace(mass=tensor([1.0, 1.0, 1.0]), position=tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])),
    )


@pytest.mark.parametrize("gravity", [GRAVITY, SOFT], ids=["bare", "softened"])
@pytest.mark.parametrize("weights", ["mass_product", "root_sum"])
def test_the_step_and_its_gradients_are_finite_at_rest_and_with_massless_bodies(gravity, weights):
    policy, params = learned(gravity, weights=weights)
    for name, system in extremes():
        dt = policy.apply(params, system, ())
        assert dt.isfinite(), name
        assert dt > 0, name
        slopes = grad(lambda p, s: policy.apply(p, s, ()).log(), argnums=(0, 1))(params, system)
        assert all(leaf.isfinite().all() for leaf in tree.leaves(slopes)), name


def test_the_gradient_is_that_of_central_differences():
    policy, params = learned(SOFT)
    system = tree.take(triples(), 0)
    kept = policy.position_form.constants(params, system)

    def log_rate(params, position):
        return policy.position_form.rate(params, system._replace(position=position), kept).log()

    start, d = (params, system.position), 1e-5
    slopes, values = tree.leaves(grad(log_rate, argnums=(0, 1))(*start)), tree.leaves(start)
    for number, slope in enumerate(slopes):
        direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        ends = [
            log_rate(
                *tree.replace_leaves(
                    start, [v + sign * d * direction if k == number else v for k, v in enumerate(values)]
                )
            )
            for sign in (1, -1)
        ]
        # truncation d² f'''/6 and rounding 1e-15/d, both about 1e-10
        torch.testing.assert_close((slope * direction).sum(), (ends[0] - ends[1]) / (2 * d), rtol=1e-6, atol=1e-8)


def test_it_learns_in_the_time_transformed_scheme():
    policy = build_transformation_policy(GRAVITY, eta=0.3, hidden=(4,))  # steps too long: few errors are in the band
    step = build_step(policy, GRAVITY, build_time_transformed_leapfrog(GRAVITY))
    optimizer = adam(0.03)
    learner = build_learner(step, optimizer, E_lower=1e-6, E_upper=1e-4)
    state = init_train_state(policy.init(0), optimizer, init_population(triples(8), gravity=GRAVITY))
    options = {"epochs": 1, "steps_per_epoch": 4, "replay_steps": 60, "loss_on": "all", "convergence": "band"}
    ((after, info),) = run_two_phase_training(state, learner=learner, **options)

    def judged(params):
        """(fraction inside the band, mean loss) on what was collected."""
        seen = evaluate_trajectory(params, info.trajectory, objective=learner.objective)
        inside = (seen.energy_error > 1e-6) & (seen.energy_error < 1e-4)
        loss = compute_single_step_loss(seen.energy_error, seen.dt, seen.exploded)
        return float(inside.double().mean()), float(loss.mean())

    (rate, loss), (trained_rate, trained_loss) = judged(state.params), judged(after.params)
    assert trained_rate > rate + 0.1
    assert trained_loss < 0.5 * loss
    assert after.params["network"][-1].weight.abs().max() > 1e-3  # the network has moved, and not η alone
