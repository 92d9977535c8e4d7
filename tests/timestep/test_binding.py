"""A bound policy: which form a scheme gets, and what a policy says of bodies at rest."""

import pytest
import torch
from torch.func import grad, jvp, vmap

from aits_func.base import tree
from aits_func.learning.network import Layer
from aits_func.loops.simulate import simulate
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.orbits import two_body_orbit
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.schemes import as_scheme, build_scheme
from aits_func.physics.time_transformations import pair_norm
from aits_func.timestep.binding import at_rest, bind
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import Policy, build_criterion_policy, build_residual_policy
from aits_func.timestep.run import FINISHED
from aits_func.timestep.window import empty_window

GRAVITY = build_gravity(softening=0.1)
DIRECT = as_scheme(build_leapfrog_kdk(GRAVITY))
TRANSFORMED = build_scheme("time_transformed", GRAVITY)


def triple(row=0, *, velocity_scale=0.5):
    systems = gaussian_cluster(1, 4, bodies=3, position_scale=1.0, velocity_scale=velocity_scale)
    return tree.take(systems, row)


def residual(gravity=GRAVITY, seed=5, eta=0.1):
    """A policy that sees velocities, in the midst of training: (policy, params)."""
    policy = build_residual_policy(build_features("invariant", gravity), p_norm(gravity, eta=eta), hidden=(3,))
    params, make = policy.init(0), torch.Generator().manual_seed(seed)
    layers = [
        Layer(*(torch.randn(leaf.shape, generator=make, dtype=torch.float64) for leaf in layer))
        for layer in params["network"]
    ]
    return policy, {**params, "network": tuple(layers)}


def bound(policy, params, system, scheme, gravity=GRAVITY):
    return bind(policy, params, empty_window(system, 0), scheme=scheme, gravity=gravity)


# --- which form ------------------------------------------------------------------------------------------------------


def test_the_timescale_is_that_of_the_policy_in_every_scheme():
    for policy, params in [residual(), (criterion := build_criterion_policy(pair_norm(GRAVITY)), criterion.init(0))]:
        for scheme in (DIRECT, TRANSFORMED):
            system = triple()
            rule = bound(policy, params, system, scheme)
            assert torch.equal(rule.timescale(system), policy.apply(params, system, empty_window(system, 0)))


def test_a_policy_with_a_position_form_is_bound_with_its_own():
    criterion = pair_norm(GRAVITY, eta=0.1)
    policy = build_criterion_policy(criterion)
    start, later = triple(0), triple(1)
    for scheme in (DIRECT, TRANSFORMED):
        rule = bound(policy, policy.init(0), start, scheme)
        constants = rule.constants(start)
        assert torch.equal(constants, criterion.position_form.constants(criterion.init(), start))
        # the unit stays that of the start, wherever the bodies are
        expected = criterion.position_form.rate(criterion.init(), later, constants)
        assert torch.equal(rule.rate(later, constants), expected)


def test_without_one_the_rate_is_one_over_the_step_unless_a_scheme_wants_positions_alone():
    policy, params = residual()
    system = triple()
    rule = bound(policy, params, system, DIRECT)
    assert rule.constants(system) == ()
    torch.testing.assert_close(rule.rate(system, ()), 1 / rule.timescale(system), rtol=1e-15, atol=0)
    rule = bound(policy, params, system, TRANSFORMED)
    # its centre of mass is at rest to rounding, and so its energy is that of the system to rounding
    torch.testing.assert_close(rule.constants(system), GRAVITY.energy(system), rtol=1e-14, atol=0)


def test_somebody_elses_pair_of_functions_is_a_policy_too():
    class Mine:
        @staticmethod
        def apply(params, system, window):
            return params * system.time

    system = triple()._replace(time=torch.tensor(3.0, dtype=torch.float64))
    rule = bound(Mine, torch.tensor(2.0, dtype=torch.float64), system, DIRECT)
    assert (rule.timescale(system), rule.rate(system, rule.constants(system))) == (6.0, 1 / 6)


def test_the_window_reaches_the_policy():
    policy = Policy(lambda seed: (), lambda params, system, window: window.dt[-1] + 1)
    system = triple()
    window = empty_window(system, 2)._replace(dt=torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64))
    assert bind(policy, (), window, scheme=DIRECT, gravity=GRAVITY).timescale(system) == 1.5


# --- at rest ---------------------------------------------------------------------------------------------------------


def test_what_is_said_at_rest_is_what_the_policy_says_of_bodies_at_rest_with_the_energy_of_the_run():
    seen = []

    def apply(params, system, window):
        seen.append(system)
        return system.position.pow(2).sum() + GRAVITY.energy(system)

    start, later = triple(0), triple(1)
    policy = Policy(lambda seed: (), apply)
    rule = bound(policy, (), start, TRANSFORMED)
    energy = rule.constants(start)
    rate = rule.rate(later, energy)
    (still,) = seen
    assert (still.velocity == 0).all()
    assert torch.equal(still.position, later.position)
    # E = K + W − work with K = 0: the work makes up for what the bodies at rest lack. Two sums of size 1.
    torch.testing.assert_close(GRAVITY.energy(still), GRAVITY.energy(start), rtol=1e-14, atol=0)
    torch.testing.assert_close(1 / rate, later.position.pow(2).sum() + GRAVITY.energy(start), rtol=1e-14, atol=0)


def test_the_form_at_rest_reads_no_velocity_and_of_bodies_that_rest_it_is_the_policy():
    policy, params = residual()
    form = at_rest(policy, empty_window(triple(), 0), GRAVITY)
    system = triple()
    energy = form.constants(params, system)
    moved = system._replace(velocity=system.velocity + 1.0, work=system.work + 3.0)
    assert torch.equal(form.rate(params, moved, energy), form.rate(params, system, energy))
    still = triple(velocity_scale=0.0)
    window = empty_window(still, 0)
    own = form.rate(params, still, form.constants(params, still))
    torch.testing.assert_close(own, 1 / policy.apply(params, still, window), rtol=1e-15, atol=0)


def test_the_form_at_rest_is_a_rate_whose_derivatives_are_finite():
    policy, params = residual()
    system = triple()
    form = at_rest(policy, empty_window(system, 0), GRAVITY)

    def rate(position, params):
        return form.rate(params, system._replace(position=position), form.constants(params, system))

    slope, of_params = grad(rate, argnums=(0, 1))(system.position, params)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0.1
    assert all(leaf.isfinite().all() for leaf in tree.leaves(of_params))
    along = jvp(lambda x: rate(x, params), (system.position,), (system.velocity,))[1]
    # forward and backward: sums of the same numbers in another order
    torch.testing.assert_close(along, (slope * system.velocity).sum(), rtol=1e-11, atol=1e-13)


def test_a_policy_of_whole_states_drives_the_time_transformed_leapfrog_and_is_reversible_there():
    policy, params = residual(eta=0.3)
    systems = gaussian_cluster(1, 3, bodies=3, position_scale=1.0, velocity_scale=0.5)
    common = {"policy": policy, "gravity": GRAVITY, "scheme": TRANSFORMED, "t_end": 0.5, "return_error": True}
    _, info = simulate(params, systems, **common)
    assert info.status.tolist() == [FINISHED] * 3
    assert info.return_error.max() < 1e-11  # rounding, some fifty steps of 1e-16, magnified by a softened triple
    _, finer = simulate(params, systems, h=0.5, **common)
    # order 2: half the step, a quarter of the error, in the median of the three
    ratio = (info.max_potential_error / finer.max_potential_error).median()
    assert 2.5 < ratio < 6


def test_the_energy_at_rest_is_that_less_the_work_of_a_moving_field():
    gravity = build_gravity(softening=0.1, field=build_tidal_field(0.5, straight_path([3.0, 1.0], [-1.0, 0.4])))
    start = triple()
    policy, params = residual(gravity)
    scheme = build_scheme("time_transformed", gravity)
    rule = bound(policy, params, start, scheme, gravity)
    energy = rule.constants(start)
    later = tree.take(gaussian_cluster(9, 1, bodies=3, position_scale=1.0, velocity_scale=0.5), 0)
    later = later._replace(time=torch.tensor(0.7, dtype=torch.float64), work=torch.tensor(0.2, dtype=torch.float64))
    seen = []
    spy = Policy(policy.init, lambda p, system, window: (seen.append(system), policy.apply(p, system, window))[1])
    bound(spy, params, start, scheme, gravity).rate(later, energy)
    # the field of that time is in the potential energy, and the conserved quantity is that of the start
    torch.testing.assert_close(gravity.energy(seen[0]), gravity.energy(start), rtol=1e-13, atol=0)


@pytest.mark.parametrize("eccentricity", [0.3, 0.9])
def test_an_untrained_policy_at_rest_follows_a_kepler_orbit_as_its_criterion_does(eccentricity):
    # With the last layer at zero, dt is the criterion's own: the p-norm of free-fall times, at rest or not.
    bare = build_gravity()
    mass = torch.tensor([1.0, 0.5], dtype=torch.float64)
    system = two_body_orbit(mass=mass, semi_major_axis=1.0, eccentricity=eccentricity)
    criterion = p_norm(bare, eta=0.1)
    learned = build_residual_policy(build_features("invariant", bare), criterion, hidden=(3,))
    classic = build_criterion_policy(criterion)
    scheme = build_scheme("time_transformed", bare)
    ends = [
        simulate(p.init(0), system, policy=p, gravity=bare, scheme=scheme, t_end=2.0)[0] for p in (learned, classic)
    ]
    torch.testing.assert_close(ends[0].position, ends[1].position, rtol=1e-9, atol=1e-9)  # rounding over 100 steps


def test_binding_is_a_pure_function_of_one_system_that_can_be_mapped():
    policy, params = residual()
    systems = gaussian_cluster(1, 4, bodies=3, position_scale=1.0, velocity_scale=0.5)

    def rate(system):
        rule = bound(policy, params, system, TRANSFORMED)
        return rule.rate(system, rule.constants(system))

    mapped = vmap(rate)(systems)
    for row in range(4):
        torch.testing.assert_close(mapped[row], rate(tree.take(systems, row)), rtol=1e-12, atol=0)
