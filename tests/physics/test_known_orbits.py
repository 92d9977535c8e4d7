"""The packaged orbits do what is said of them: REBOUND's IAS15 follows them, and energies agree."""

import math

import pytest
import torch

from aits_func.physics.gravity import build_gravity, work_on_all
from aits_func.physics.invariants import centre_of_mass
from aits_func.physics.known_orbits import KNOWN_ORBITS, known_orbit
from aits_func.physics.orbits import orbital_elements, orbital_period

rebound = pytest.importorskip("rebound")

PERIODIC = [name for name, orbit in KNOWN_ORBITS.items() if orbit.period is not None]


def simulate(orbit, t):
    """Positions and velocities after the time t, (N, D) each, with IAS15 to machine precision.

    With the error-based step: REBOUND's default one (PRS23) is zero where a body has no
    acceleration, as the middle one of each collinear start has, and integrates for ever.
    """
    simulation = start(orbit)
    simulation.integrate(t)
    return state(simulation, len(orbit.position[0]))


def start(orbit):
    simulation = rebound.Simulation()
    simulation.G = orbit.G
    simulation.integrator = "ias15"
    simulation.integrator.adaptive_mode = "global"
    for m, x, v in zip(orbit.mass, orbit.position, orbit.velocity, strict=True):
        fields = zip(("x", "y", "z", "vx", "vy", "vz"), (*x, 0.0)[:3] + (*v, 0.0)[:3], strict=True)
        simulation.add(m=m, **dict(fields))
    return simulation


def state(simulation, dimensions):
    position = [[p.x, p.y, p.z][:dimensions] for p in simulation.particles]
    velocity = [[p.vx, p.vy, p.vz][:dimensions] for p in simulation.particles]
    return torch.tensor(position, dtype=torch.float64), torch.tensor(velocity, dtype=torch.float64)


@pytest.mark.parametrize("name", KNOWN_ORBITS)
def test_an_orbit_is_a_checked_system_in_double_precision(name):
    system, orbit = known_orbit(name), KNOWN_ORBITS[name]
    assert {leaf.dtype for leaf in system} == {torch.float64}
    assert (tuple(system.mass.tolist()), system.time.item(), work_on_all(system).item()) == (orbit.mass, 0.0, 0.0)
    assert system.position.tolist() == [list(row) for row in orbit.position]
    assert system.velocity.tolist() == [list(row) for row in orbit.velocity]
    assert orbit.name == name
    assert orbit.source
    assert orbit.units
    assert len(orbit.bodies) in (0, len(orbit.mass))


@pytest.mark.parametrize("name", KNOWN_ORBITS)
def test_the_centre_of_mass_rests_at_the_origin(name):
    system = known_orbit(name)
    size, speed = system.position.abs().max(), system.velocity.abs().max()
    position, velocity = centre_of_mass(system)
    bound = 1e-15  # a few roundings of the sum, relative to the largest coordinate
    assert position.abs().max() <= bound * size
    assert velocity.abs().max() <= bound * speed


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("figure_eight", 5e-12),  # printed to 11 decimals
        ("pythagorean", 1e-14),  # exact: -(12/5 + 15/4 + 20/3); a few roundings of 12.8
    ],
)
def test_the_energy_is_the_one_that_is_stated(name, tolerance):
    orbit = KNOWN_ORBITS[name]
    energy = build_gravity(G=orbit.G).energy(known_orbit(name)).item()
    assert energy == pytest.approx(orbit.energy, rel=0, abs=tolerance)


def test_every_stated_energy_is_tested():
    assert {name for name, orbit in KNOWN_ORBITS.items() if orbit.energy is not None} == {"figure_eight", "pythagorean"}


def test_the_lagrange_triangle_turns_with_the_rate_that_lagrange_found():
    # ω² = G Σm / side³, so the period is 2π/√3, to rounding.
    assert KNOWN_ORBITS["lagrange_triangle"].period == pytest.approx(2 * math.pi / math.sqrt(3), rel=1e-15)
    assert build_gravity().energy(known_orbit("lagrange_triangle")).item() == pytest.approx(-1.5, rel=1e-15)


@pytest.mark.parametrize("name", PERIODIC)
def test_a_periodic_orbit_returns_to_its_start(name):
    orbit, system = KNOWN_ORBITS[name], known_orbit(name)
    position, velocity = simulate(orbit, orbit.period)
    # Start and period are printed to 15 digits, and the orbit magnifies their rounding: up to 5.8e-11 in position
    # and 7.0e-11 in velocity (yin_yang_1a), nearly the same with every step criterion of IAS15.
    torch.testing.assert_close(position, system.position, rtol=0, atol=1e-10)
    torch.testing.assert_close(velocity, system.velocity, rtol=0, atol=1e-10)


def test_the_pythagorean_bodies_are_where_the_reference_has_them():
    orbit = KNOWN_ORBITS["pythagorean"]
    position, _ = simulate(orbit, orbit.reference.t)
    published = torch.tensor(orbit.reference.position, dtype=torch.float64)
    torch.testing.assert_close(position, published, rtol=0, atol=5e-9)  # half of the eighth decimal, the last


def test_the_closest_approach_of_the_pythagorean_bodies_is_when_and_as_close_as_stated():
    orbit = KNOWN_ORBITS["pythagorean"]
    simulation = start(orbit)
    simulation.integrate(orbit.closest_approach.t - 0.02)
    closest = []
    while simulation.t < orbit.closest_approach.t + 0.02:
        simulation.steps(1)
        position, _ = state(simulation, 2)
        closest.append((torch.nn.functional.pdist(position).min().item(), simulation.t))
    distance, t = min(closest)
    assert t == pytest.approx(orbit.closest_approach.t, rel=0, abs=0.005)  # printed to two decimals
    # Half of the last printed digit; the steps there, 1e-7 apart at speed 209, pass the pericentre within 1e-6.
    assert distance == pytest.approx(orbit.closest_approach.distance, rel=0, abs=5e-6)


def test_the_planets_have_their_years_in_the_units_that_are_stated():
    orbit, system = KNOWN_ORBITS["outer_solar_system"], known_orbit("outer_solar_system")
    # Sidereal periods in days and axes in au (NASA fact sheets). Osculating ones about the Sun alone differ from
    # these means by up to 1 % (Uranus, in both senses), as Jupiter moves the Sun.
    years = {"Jupiter": (4332.6, 5.20), "Saturn": (10759, 9.54), "Uranus": (30687, 19.2), "Neptune": (60190, 30.1)}
    for name, (days, axis) in (years | {"Pluto": (90560, 39.5)}).items():
        pair = torch.tensor([0, orbit.bodies.index(name)])
        two = system._replace(mass=system.mass[pair], position=system.position[pair], velocity=system.velocity[pair])
        assert orbital_period(two, G=orbit.G).item() == pytest.approx(days, rel=0.02), name
        assert orbital_elements(two, G=orbit.G).semi_major_axis.item() == pytest.approx(axis, rel=0.015), name


@pytest.mark.parametrize(
    ("wrong", "right"), [("figure8", "figure_eight"), ("Pythagoras", "pythagorean"), ("moth", "moth_1")]
)
def test_a_wrong_name_is_answered_with_the_names_and_the_nearest_one(wrong, right):
    with pytest.raises(ValueError, match=f"did you mean '{right}'") as caught:
        known_orbit(wrong)
    assert all(name in str(caught.value) for name in KNOWN_ORBITS)
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_is_answered_without_a_guess():
    with pytest.raises(ValueError, match="known_orbit: name must be one of figure_eight") as caught:
        known_orbit("zzz")
    assert "did you mean" not in str(caught.value)
