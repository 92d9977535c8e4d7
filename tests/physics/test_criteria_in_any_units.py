"""Every criterion in SI units, in tiny and in huge ones: its step and derivatives are those in units of size 1."""

import math

import pytest
import torch
from torch.func import grad, jacfwd

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.base.types import System
from aits_func.physics.criteria import CRITERIA, build_criterion
from aits_func.physics.gravity import build_gravity

F = torch.float64
# (length, mass, time): an astronomical unit and a year, a parsec and 1e8 of those, and what is far beyond either
UNITS = [
    (1.5e11, 2e30, 3e7),
    (3e16, 2e30, 3e15),
    (1e-12, 1e-12, 1e-12),
    (1e17, 1e17, 1e17),
    (1e-12, 1e17, 1e17),
    (1e17, 1e-12, 1e-12),
]
SOFTENING = 0.1
# Sums of a few terms of 1e-16, of which the third derivative of the acceleration is the longest.
ROUNDING = 1e-11


def cluster(massless=0):
    make = torch.Generator().manual_seed(31)
    position, velocity = (torch.randn(5, 3, generator=make, dtype=F) for _ in range(2))
    mass = torch.rand(5, generator=make, dtype=F) + 0.5
    mass[5 - massless :] = 0
    return make_system(mass, position, 0.5 * velocity, 0.3)


def at_rest():
    return cluster()._replace(velocity=torch.zeros(5, 3, dtype=F))


def step_of(name, length=1.0, mass=1.0, time=1.0):
    """(log η, masses, positions, velocities, clock) -> dt in those units, and the start value of log η."""
    gravity = build_gravity(G=length**3 / (mass * time**2), softening=SOFTENING * length)
    criterion = build_criterion(name, gravity, dt=1e-3 * time)
    ((key, start),) = criterion.init().items()

    def dt(constant, mass, position, velocity, clock):
        system = System(mass, position, velocity, clock, torch.zeros_like(clock))
        return criterion.timescale({key: constant}, system)

    return dt, start


def assert_near(actual, expected, scale=0.0):
    bound = ROUNDING * max(scale, float(expected.abs().max()))
    assert float((actual - expected).abs().max()) <= bound


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("system", [cluster(), cluster(massless=2), at_rest()], ids=["masses", "massless", "at rest"])
def test_a_criterion_and_its_derivatives_are_the_same_in_any_units(name, system, units):
    length, mass, time = units
    (ours, constant), (theirs, start) = step_of(name, *units), step_of(name)
    here = (start, *system[:3], system.time)
    moved = (mass * system.mass, length * system.position, length / time * system.velocity, time * system.time)
    there = (constant, *moved)
    expected = theirs(*here)
    assert_near(ours(*there) / time, expected)
    slopes, forwards = (mode(ours, argnums=(0, 1, 2, 3))(*there) for mode in (grad, jacfwd))
    factors = (1.0, mass, length, length / time)
    for slope, forward, one, factor in zip(
        slopes, forwards, grad(theirs, argnums=(0, 1, 2, 3))(*here), factors, strict=True
    ):
        assert_near(slope * factor / time, one, scale=float(expected))
        assert_near(slope * factor, forward * factor, scale=float(expected) * time)


def test_bodies_at_rest_have_a_fly_by_time_that_stands_for_infinity_beside_their_free_fall_time():
    for time in (1.0, 3e15):
        system = tree.cast(at_rest(), dtype=torch.float32)
        gravity = build_gravity(G=1 / time**2, softening=SOFTENING)
        fly_by, free_fall = (build_criterion(name, gravity) for name in ("fly_by", "free_fall"))
        long, short = (
            float(rule.timescale(tree.cast(rule.init(), dtype=torch.float32), system)) for rule in (fly_by, free_fall)
        )
        assert 1e8 * short < long < math.inf
