"""The laws of integrators, on every one that is shipped, and that a bound orbit stays bound."""

import pytest
from hypothesis import given, settings

from aits_func.physics.gravity import build_gravity
from aits_func.physics.integrators import INTEGRATORS, build_integrator, evolve
from aits_func.physics.pair_criteria import p_norm
from aits_func.testing import INTEGRATOR_LAWS, check_integrator, orbits

LEAPFROGS = ("leapfrog_kdk", "leapfrog_dkd")
# Hermite corrects positions and velocities apart, and so keeps the angular momentum to its order alone.
PROMISES = {
    "leapfrog_kdk": {"order": 2},
    "leapfrog_dkd": {"order": 2},
    "hermite": {"order": 4, "reversible": False, "symplectic": False, "without": ["angular momentum"]},
    "yoshida4": {"order": 4},
    "yoshida6": {"order": 6},
    "yoshida8": {"order": 8},
}
# Thirty examples of every law of every object would take minutes; a defect breaks a law on most of the first ten.
EXAMPLES = settings(max_examples=max(5, settings().max_examples // 3))
QUICK = ("order", "linear momentum")  # of the others, whose steps are made of leapfrogs, or slow


def cases():
    for name in INTEGRATORS:
        for law in INTEGRATOR_LAWS:
            slow = name not in LEAPFROGS and law not in QUICK
            yield pytest.param(name, law, marks=pytest.mark.slow if slow else (), id=f"{name}-{law}")


@pytest.mark.parametrize(("name", "law"), list(cases()))
def test_an_integrator_keeps_the_law(name, law):
    check_integrator(lambda gravity: build_integrator(name, gravity), laws=[law], settings=EXAMPLES, **PROMISES[name])


@pytest.mark.parametrize("name", LEAPFROGS)
@given(system=orbits(eccentricity=(0.0, 0.5)))
def test_a_bound_orbit_stays_bound_and_its_energy_comes_back(name, system):
    gravity = build_gravity()
    criterion = p_norm(gravity, eta=0.05, pairs=("free_fall", "fly_by"))
    before = gravity.energy(system)
    dt = criterion.timescale(criterion.init(), system)
    after = gravity.energy(evolve(build_integrator(name, gravity), system, dt, n_steps=200))
    # an error of order (dt/τ)² = 2.5e-3 that oscillates and does not grow; at e = 0.5 with a factor 4
    assert (after - before).abs() < 0.01 * before.abs()
