"""Massless bodies: the potential at each, the work on it, and the energy that so is conserved."""

import math

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base.check import make_room, make_system
from aits_func.base.tree import cast, expand
from aits_func.base.types import System
from aits_func.physics.criteria import build_criterion
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import INTEGRATORS, build_integrator, evolve
from aits_func.physics.massless import own_energies
from aits_func.physics.orbits import two_body_orbit
from aits_func.physics.paths import work_between
from aits_func.physics.potentials import mutual_potential_rate, mutual_potentials
from aits_func.physics.schemes import build_scheme
from aits_func.physics.tiled_gravity import MANY_BODIES
from aits_func.timestep.binding import bind
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.window import empty_window

F = torch.float64
ORDERS = {"leapfrog_kdk": 2, "leapfrog_dkd": 2, "hermite": 4, "yoshida4": 4, "yoshida6": 6, "yoshida8": 8}


def tensor(values):
    return torch.tensor(values, dtype=F)


def random_system(N=5, D=3, *, massless=2, boost=0.0, seed=0):
    make = torch.Generator().manual_seed(seed)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, 2 * position, velocity + boost)


def about_a_binary(mass=0.0, boost=0.0):
    """A third body on a wide orbit about an eccentric binary."""
    pair = two_body_orbit(mass=[1.0, 0.3], semi_major_axis=1.0, eccentricity=0.4, mean_anomaly=1.0)
    position = torch.cat([pair.position, tensor([[0.3, 1.7]])])
    velocity = torch.cat([pair.velocity, tensor([[-0.8, 0.2]])]) + boost
    return make_system(torch.cat([pair.mass, tensor([mass])]), position, velocity)


# --- room for the work -----------------------------------------------------------------------------------------------


def test_only_a_system_with_a_massless_body_has_room_for_the_work_on_each():
    assert random_system(massless=0).work.shape == ()
    assert random_system(massless=1).work.tolist() == [0.0] * 6


def test_room_is_made_once_and_keeps_the_work_on_the_whole():
    given = System(*random_system()[:4], tensor(0.25))
    roomy = make_room(given)
    assert roomy.work.tolist() == [0.25, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert make_room(roomy) is roomy
    batch = expand(given, 2)._replace(mass=torch.stack([torch.ones(5, dtype=F), given.mass]))
    assert make_room(batch).work.shape == (2, 6)  # one of them is enough


# --- the potential and its rate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("softening", [0.0, 0.3])
def test_the_potential_at_a_body_is_the_sum_over_the_others(softening):
    system = random_system()
    gravity = build_gravity(G=1.3, softening=softening)
    m, x = system.mass.tolist(), system.position.tolist()
    naive = [
        -1.3 * sum(m[j] / math.hypot(math.dist(x[i], x[j]), softening) for j in range(5) if j != i) for i in range(5)
    ]
    torch.testing.assert_close(gravity.potentials(system), tensor(naive), rtol=1e-14, atol=0)  # sums of four terms


@pytest.mark.parametrize("field", [None, "fixed", "moving"])
def test_the_rate_of_the_potential_is_that_at_a_place_which_rests_in_the_frame_that_judges(field):
    place, drift = [6.0, -3.0, 2.0], [0.5, 1.0, -0.3]
    R = {None: None, "fixed": place, "moving": straight_path(place, drift)}[field]
    external = None if field is None else build_tidal_field(20.0, R)
    system = random_system(boost=0.7)
    gravity = build_gravity(softening=0.1, field=external)
    frame = 0.0 if field else (system.mass[:, None] * system.velocity).sum(0) / system.mass.sum()

    def potential(body, t):
        """At the place of that body, which moves with the frame, while the others go on."""
        position = system.position + t * system.velocity
        position = position.index_put((torch.tensor([body]),), system.position[body] + t * frame)
        return gravity.potentials(system._replace(position=position, time=system.time + t))[body]

    h = 1e-5  # third differences are h² of numbers of order 1, roundings 1e-16/h
    slopes = [(potential(body, h) - potential(body, -h)) / (2 * h) for body in range(5)]
    torch.testing.assert_close(gravity.potential_rates(system), torch.stack(slopes), rtol=1e-8, atol=1e-9)


def test_many_bodies_are_summed_in_tiles_with_the_same_values_and_derivatives(monkeypatch):
    system = random_system(40, 3, massless=20)
    direction = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=F)

    def of(position):
        at = {"G": 1.1, "softening": 0.2}
        rates = mutual_potential_rate(system.mass, position, system.velocity, **at)
        return (mutual_potentials(system.mass, position, **at) * direction[:, 0] + rates * direction[:, 1]).sum()

    whole = of(system.position), grad(of)(system.position)
    monkeypatch.setattr("aits_func.physics.potentials.MANY_BODIES", 2)
    assert MANY_BODIES > 40
    tiled = of(system.position), grad(of)(system.position)
    for ours, theirs in zip(tiled, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)  # sums of 40 terms in another order


# --- the energy of each ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.parametrize("field", [False, True])
def test_the_energy_of_a_massless_body_less_its_work_is_conserved_to_the_order_of_the_integrator(name, field):
    moving = build_tidal_field(20.0, straight_path([6.0, -3.0], [0.5, 1.0])) if field else None
    gravity, order = build_gravity(field=moving), ORDERS[name]
    integrator, start = build_integrator(name, gravity), about_a_binary()

    def error(steps):
        after = evolve(integrator, start, tensor(2.0 / steps), n_steps=steps)
        return float((own_energies(gravity, after)[0] - own_energies(gravity, start)[0])[2].abs())

    few = {4: 128, 8: 16}.get(order, 32)  # so that both errors lie above rounding
    # The next term is of two orders more for symmetric methods, one for Hermite's, which has to be small.
    assert math.log2(error(few) / error(2 * few)) > order - 0.3


def test_in_uniform_motion_the_energy_and_the_work_are_the_same():
    gravity = build_gravity()
    for name in INTEGRATORS:
        integrator = build_integrator(name, gravity)
        after = [evolve(integrator, about_a_binary(boost=u), tensor(0.05), n_steps=10) for u in (0.0, 30.0)]
        here, there = (torch.cat([own_energies(gravity, each)[0][2:], each.work[3:]]) for each in after)
        # Speeds of 30 are rounded by 4e-15, ten steps of forces of order 1.
        torch.testing.assert_close(there, here, rtol=0, atol=1e-12)


def test_about_a_single_body_nothing_is_done_to_it():
    start = two_body_orbit(mass=[1.0, 0.0], semi_major_axis=1.0, eccentricity=0.6)
    start = start._replace(velocity=start.velocity + 2.0)
    after = evolve(build_integrator("leapfrog_kdk", build_gravity()), start, tensor(0.01), n_steps=50)
    assert after.work[2].abs() < 1e-14  # roundings of the frame
    h, size = own_energies(build_gravity(), start)
    torch.testing.assert_close(h[1], tensor(-0.5), rtol=1e-14, atol=0)  # −GM/2a
    torch.testing.assert_close(size[1], tensor(0.5 * 4.0 + 2.5), rtol=1e-14, atol=0)  # v² = (1 + e)/(1 − e), r = 0.4


def test_the_work_is_what_the_others_lose_to_a_body_of_small_mass():
    gravity = build_gravity()
    integrator = build_integrator("yoshida8", gravity)

    def end(mass):
        start = about_a_binary()
        return evolve(integrator, start._replace(mass=start.mass + tensor([0.0, 0.0, mass])), tensor(0.02), n_steps=100)

    def of_the_pair(system):
        pair = System(system.mass[:2], system.position[:2], system.velocity[:2], system.time, tensor(0.0))
        return gravity.energy(gravity.judged(pair))

    small = 1e-6  # of which the square enters the difference, and 1e-16 over it
    lost = (of_the_pair(end(-small)) - of_the_pair(end(small))) / (2 * small)
    torch.testing.assert_close(end(0.0).work[3], lost, rtol=0, atol=1e-9)
    assert lost.abs() > 0.01


@pytest.mark.parametrize("name", ["implicit_symmetric", "hairer_soderlind", "time_transformed"])
def test_every_scheme_carries_the_work(name):
    """Reversible ones also take it back."""
    gravity, start = build_gravity(), about_a_binary()
    scheme = build_scheme(name, gravity)
    rule_of = "pair_norm" if scheme.position_form else "p_norm"
    policy = build_criterion_policy(build_criterion(rule_of, gravity, eta=0.02))
    rule = bind(policy, policy.init(0), empty_window(start, 0), scheme=scheme, gravity=gravity)
    system, carry = start, scheme.init(rule, start)
    for _ in range(20):
        system, carry, _, _ = scheme.step(rule, system, carry, tensor(1.0))
    change = (own_energies(gravity, system)[0] - own_energies(gravity, start)[0])[2].abs()
    assert system.work[3].abs() > 1e-3
    assert change < 1e-4  # second order at 0.02 of a time scale, and the work itself is some 0.01
    if scheme.reversible:
        for _ in range(20):
            system, carry, _, _ = scheme.step(rule, system, carry, tensor(-1.0))
        torch.testing.assert_close(system.work, start.work, rtol=0, atol=1e-13)


def test_single_precision_stays_single():
    system = cast(about_a_binary(), dtype=torch.float32)
    for name in INTEGRATORS:
        after = evolve(build_integrator(name, build_gravity()), system, torch.tensor(0.01))
        assert after.work.dtype == torch.float32


# --- the work along somebody else's path -----------------------------------------------------------------------------


@pytest.mark.parametrize("boost", [0.0, 3.0])
def test_the_work_between_states_of_a_path_is_that_on_the_path(boost):
    gravity, start = build_gravity(), about_a_binary(boost=boost)
    exact = build_integrator("yoshida8", gravity)
    states = [start]
    for _ in range(20):
        states.append(evolve(exact, states[-1], tensor(0.005), n_steps=20))
    path = System(*(torch.stack(leaves) for leaves in zip(*states, strict=True)))
    ours = work_between(gravity, path).cumsum(0)[:, 2]
    # A tenth of the time scale of the pair: the tenth power of it, by the constant of the interpolation, 1e-3 / 10!.
    torch.testing.assert_close(ours, path.work[1:, 3], rtol=0, atol=1e-12)
    assert path.work[-1, 3].abs() > 0.01


def test_a_path_of_one_state_has_no_work_and_a_long_one_is_taken_in_pieces(monkeypatch):
    gravity, start = build_gravity(), about_a_binary()
    assert work_between(gravity, expand(start, 1)).shape == (0, 3)
    integrator = build_integrator("leapfrog_kdk", gravity)
    states = [evolve(integrator, start, tensor(0.02), n_steps=count) for count in range(1, 12)]
    path = System(*(torch.stack(leaves) for leaves in zip(*states, strict=True)))
    whole = work_between(gravity, path)
    monkeypatch.setattr("aits_func.physics.paths._PAIRS", 27)  # three states at once
    assert torch.equal(work_between(gravity, path), whole)


def test_the_derivative_of_an_error_of_a_massless_body_is_that_of_differences():
    gravity = build_gravity()
    integrator, start = build_integrator("leapfrog_kdk", gravity), about_a_binary()

    def error(dt):
        after = evolve(integrator, start, dt)
        return (own_energies(gravity, after)[0] - own_energies(gravity, start)[0])[2]

    at, h = tensor(0.1), 1e-4
    numeric = (error(at + h) - error(at - h)) / (2 * h)
    # Third differences: h² of it; roundings 1e-16/h.
    torch.testing.assert_close(grad(error)(at), numeric, rtol=1e-5, atol=1e-11)
    together = vmap(grad(error))(torch.stack([at, at / 2]))
    torch.testing.assert_close(together[0], grad(error)(at), rtol=1e-12, atol=0)
