"""Kepler orbits: Kepler's equation, vis-viva, REBOUND's orientation in space, and the way back to elements."""

import math
import re

import pytest
import torch
from torch.func import grad, jvp

from aits_func.physics.invariants import centre_of_mass
from aits_func.physics.orbits import (
    eccentric_anomaly,
    orbital_elements,
    orbital_period,
    relative_orbit,
    rotation,
    two_body_orbit,
)

COUNT = 40
G = 0.7
# Elements and states are some ten float64 operations apart, of which the worst magnify rounding by 1/(1−e) ≤ 100.
# With these draws all agree within 2e-14; values are of order 1.
ROUNDING = 1e-13


def draw(low, high, *, seed):
    rng = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(COUNT, generator=rng, dtype=torch.float64)


def random_elements():
    angles = ("mean_anomaly", "longitude_of_ascending_node", "argument_of_pericentre")
    return {
        "mass": torch.stack([draw(0.1, 2.0, seed=1), draw(0.1, 2.0, seed=2)], -1),
        "semi_major_axis": draw(0.5, 3.0, seed=3),
        "eccentricity": draw(0.0, 0.99, seed=4),
        "inclination": draw(0.0, math.pi, seed=5),
    } | {name: draw(-math.pi, math.pi, seed=6 + i) for i, name in enumerate(angles)}


def relative(system):
    return system.position[..., 1, :] - system.position[..., 0, :], (
        system.velocity[..., 1, :] - system.velocity[..., 0, :]
    )


def rebound_state(elements, index, anomaly):
    rebound = pytest.importorskip("rebound")
    simulation = rebound.Simulation()
    simulation.G = G
    value = {name: tensor[index].tolist() for name, tensor in elements.items()}
    simulation.add(m=value["mass"][0])
    simulation.add(
        m=value["mass"][1],
        a=value["semi_major_axis"],
        e=value["eccentricity"],
        inc=value["inclination"],
        Omega=value["longitude_of_ascending_node"],
        omega=value["argument_of_pericentre"],
        **{anomaly[0]: value[anomaly[1]]},
    )
    simulation.move_to_com()
    rows = [[p.x, p.y, p.z, p.vx, p.vy, p.vz] for p in simulation.particles]
    return simulation, torch.tensor(rows, dtype=torch.float64)


def test_keplers_equation_holds_for_every_mean_anomaly_and_eccentricity():
    near_one = 1 - torch.logspace(-15, -2, 30, dtype=torch.float64)
    e = torch.cat([torch.linspace(0, 0.99, 100, dtype=torch.float64), near_one])
    tiny = torch.logspace(-18, 0, 100, dtype=torch.float64)
    M = torch.cat([torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64), tiny, -tiny])
    M, e = torch.meshgrid(M, e, indexing="ij")
    E = eccentric_anomaly(M, e)
    # The residual is that of its own evaluation: two ulps of π, and of E where that is small.
    assert ((E - e * E.sin() - M).abs() <= 2 * 2.3e-16 * (E.abs() + M.abs())).all()
    assert (E.abs() <= math.pi).all()
    assert torch.equal(eccentric_anomaly(-M, e), -E)


def test_a_mean_anomaly_of_many_turns_is_brought_back_to_one():
    M, e = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    # 1000 turns are 6e3, of which the last digit is 1e-12; dE/dM is up to 1/(1-e) = 5.
    torch.testing.assert_close(eccentric_anomaly(M + 2000 * math.pi, e), eccentric_anomaly(M, e), rtol=0, atol=1e-11)


def test_velocity_is_the_derivative_of_position_with_time():
    elements = random_elements()
    a, e, M = (elements[name] for name in ("semi_major_axis", "eccentricity", "mean_anomaly"))
    mu, zero = torch.ones_like(a), torch.zeros_like(a)
    turn = rotation(zero, elements["inclination"], zero)
    rate = (mu / a**3).sqrt()

    def place(mean_anomaly):
        return relative_orbit(mu, a, e, eccentric_anomaly(mean_anomaly, e), turn)

    (_, velocity), (derivative, _) = jvp(place, (M,), (rate,))
    torch.testing.assert_close(derivative, velocity, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_speed_and_distance_obey_vis_viva(dimensions):
    elements = random_elements() | ({"inclination": 0.0} if dimensions == 2 else {})
    r, v = relative(two_body_orbit(**elements, dimensions=dimensions, G=G))
    mu = G * elements["mass"].sum(-1)
    expected = mu * (2 / r.norm(dim=-1) - 1 / elements["semi_major_axis"])
    torch.testing.assert_close(v.pow(2).sum(-1), expected, rtol=ROUNDING, atol=0)
    assert r.shape == (COUNT, dimensions)


@pytest.mark.parametrize(("letter", "name"), [("M", "mean_anomaly"), ("f", "true_anomaly")])
def test_bodies_stand_and_move_in_space_as_those_of_rebound(letter, name):
    elements = random_elements()
    elements[name] = elements.pop("mean_anomaly")
    system = two_body_orbit(**elements, dimensions=3, G=G)
    ours = torch.cat([system.position, system.velocity], -1)
    for i in range(COUNT):
        _, theirs = rebound_state(elements, i, (letter, name))
        torch.testing.assert_close(ours[i], theirs, rtol=ROUNDING, atol=ROUNDING)


def test_rebound_finds_the_elements_that_we_put_in_and_so_do_we():
    elements = random_elements()
    system = two_body_orbit(**elements, dimensions=3, G=G)
    ours, period = orbital_elements(system, G=G), orbital_period(system, G=G)
    torch.testing.assert_close(ours.semi_major_axis, elements["semi_major_axis"], rtol=ROUNDING, atol=0)
    torch.testing.assert_close(ours.eccentricity, elements["eccentricity"], rtol=0, atol=ROUNDING)
    for i in range(COUNT):
        simulation, _ = rebound_state(elements, i, ("M", "mean_anomaly"))
        of_rebound = simulation.particles[1].orbit().P
        assert of_rebound == pytest.approx(period[i].item(), rel=ROUNDING)


def test_the_period_is_the_time_after_which_the_bodies_are_back():
    elements = {"mass": [1.5, 0.5], "semi_major_axis": 0.9, "eccentricity": 0.9, "mean_anomaly": 2.0}
    system = two_body_orbit(**elements, dimensions=3, inclination=0.4, G=G)
    rebound = pytest.importorskip("rebound")
    simulation = rebound.Simulation()
    simulation.G = G
    simulation.integrator = "ias15"
    for m, x, v in zip(system.mass, system.position.tolist(), system.velocity.tolist(), strict=True):
        simulation.add(m=m.item(), **dict(zip(("x", "y", "z", "vx", "vy", "vz"), x + v, strict=True)))
    simulation.integrate(orbital_period(system, G=G).item())
    back = torch.tensor([[p.x, p.y, p.z] for p in simulation.particles], dtype=torch.float64)
    # IAS15 keeps the energy to a few 1e-16 per step, and the phase of some hundred steps through one pericentre.
    torch.testing.assert_close(back, system.position, rtol=0, atol=1e-12)


def test_the_centre_of_mass_rests_at_the_origin_for_unequal_and_for_no_masses():
    for mass in ([1.0, 0.001], [0.0, 2.0], [3.0, 0.0], [0.3, 0.7]):
        system = two_body_orbit(mass=mass, semi_major_axis=1.0, eccentricity=0.7, mean_anomaly=1.0)
        for x in centre_of_mass(system):
            assert x.abs().max() < 1e-15  # a few roundings of order 1


def test_a_test_particle_alone_moves():
    system = two_body_orbit(mass=[3.0, 0.0], semi_major_axis=2.0, eccentricity=0.5, G=G)
    assert system.position.tolist() == [[0, 0], [1.0, 0.0]]
    assert system.velocity[0].tolist() == [0.0, 0.0]
    assert system.velocity[1, 1].item() == pytest.approx(math.sqrt(3 * G / 2 * 3), rel=1e-15)  # √(μ/a (1+e)/(1−e))


def test_the_true_anomaly_is_the_angle_from_pericentre_even_at_apocentre():
    f = torch.tensor([0.0, 1.0, math.pi, -2.0, 7.0], dtype=torch.float64)
    system = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.9, true_anomaly=f)
    r, _ = relative(system)
    # 7 − 2π loses a digit, and near f = π rounding of E counts ten times.
    assert ((torch.atan2(r[:, 1], r[:, 0]) - f + 1).remainder(2 * math.pi) - 1).abs().max() < 1e-14
    assert r[2, 0].item() == pytest.approx(-1.9, rel=1e-15)


def test_a_circular_orbit_has_no_eccentricity_to_rounding():
    M = torch.linspace(-3, 3, 50, dtype=torch.float64)
    system = two_body_orbit(mass=[1.0, 2.0], semi_major_axis=0.3, eccentricity=0.0, mean_anomaly=M, G=G)
    assert orbital_elements(system, G=G).eccentricity.max() < 2e-15  # √(1 − h²/μa) would give 2e-8


def test_bodies_that_are_not_bound_have_no_period_and_a_hyperbola():
    bound = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=torch.tensor([0.5, 0.5]))
    fast = bound._replace(velocity=bound.velocity * torch.tensor([1.0, 1.5], dtype=torch.float64)[:, None, None])
    period, (a, e) = orbital_period(fast), orbital_elements(fast)
    assert period[0].item() == pytest.approx(2 * math.pi / math.sqrt(2), rel=1e-14)
    assert period[1] == math.inf
    assert a[1] < 0
    assert e[1] > 1

    def total(factor):
        return orbital_period(bound._replace(velocity=bound.velocity * factor[:, None, None]))[0]

    assert grad(total)(torch.tensor([1.0, 1.5], dtype=torch.float64)).isfinite().all()


def test_one_number_for_each_element_makes_one_system_and_one_row_of_numbers_a_batch():
    one = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.5)
    assert one.position.shape == (2, 2)
    assert orbital_period(one).shape == ()
    masses = torch.ones(4, 2, dtype=torch.float32)
    batch = two_body_orbit(mass=masses, semi_major_axis=1.0, eccentricity=0.5, dimensions=3)
    assert batch.position.shape == (4, 2, 3)
    assert {leaf.dtype for leaf in batch} == {torch.float32}
    rows = two_body_orbit(mass=[1.0, 2.0], semi_major_axis=1.0, eccentricity=torch.tensor([0.1, 0.2, 0.3]))
    assert rows.mass.tolist() == [[1.0, 2.0]] * 3
    assert orbital_elements(rows).eccentricity.tolist() == pytest.approx([0.1, 0.2, 0.3], abs=1e-7)  # given in float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eccentricity": 1.0}, "eccentricity must be in [0, 1)"),
        ({"eccentricity": -0.1}, "eccentricity must be in [0, 1)"),
        ({"eccentricity": math.nan}, "eccentricity must be finite"),
        ({"semi_major_axis": 0.0}, "semi_major_axis must be > 0"),
        ({"semi_major_axis": torch.tensor([1.0, -1.0])}, "semi_major_axis must be > 0"),
        ({"semi_major_axis": math.inf}, "semi_major_axis must be finite"),
        ({"inclination": 0.1}, "inclination must be 0 in two dimensions"),
        ({"inclination": math.nan, "dimensions": 3}, "inclination must be finite"),
        ({"true_anomaly": math.nan}, "true_anomaly must be finite"),
        ({"mean_anomaly": math.inf}, "mean_anomaly must be finite"),
        ({"true_anomaly": 0.0, "mean_anomaly": 0.0}, "give one of them"),
        ({"mass": [1.0, 1.0, 1.0]}, "mass must have shape (2,) or (B, 2)"),
        ({"mass": [1.0, -1.0]}, "mass must be >= 0"),
        ({"mass": [0.0, 0.0]}, "mass must be >= 0"),
        ({"mass": [1.0, math.nan]}, "mass must be >= 0"),
        ({"mass": torch.ones(3, 2), "eccentricity": torch.zeros(2)}, "one batch (B,)"),
        ({"eccentricity": torch.zeros(2, 2)}, "one batch (B,)"),
        ({"dimensions": 1}, "dimensions must be 2 or 3"),
        ({"G": 0.0}, "G must be > 0"),
        ({"G": math.nan}, "G must be > 0"),
    ],
)
def test_an_impossible_orbit_is_refused_in_one_line(change, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        two_body_orbit(**({"mass": [1.0, 1.0], "semi_major_axis": 1.0, "eccentricity": 0.5} | change))
    assert str(caught.value).startswith("two_body_orbit: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [orbital_elements, orbital_period])
def test_elements_of_three_bodies_or_without_gravity_are_refused(function):
    two = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.5)
    three = two._replace(mass=torch.ones(3), position=torch.ones(3, 2), velocity=torch.ones(3, 2))
    with pytest.raises(ValueError, match=f"{function.__name__}: 2 bodies are needed, got N = 3"):
        function(three)
    with pytest.raises(ValueError, match=f"{function.__name__}: G must be > 0"):
        function(two, G=math.nan)
