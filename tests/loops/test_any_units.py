"""Training and long runs in SI units and in tiny ones: the same gradients as in units of size 1, to rounding.

The gravitational constant is that of the units, lengths are an astronomical unit, a parsec and a picometre, so that the
unit of time follows. Values and derivatives are compared after conversion.
"""

import math

import pytest
import torch
from torch.func import grad, vmap

import aits_func as af
from aits_func.base import tree
from aits_func.testing.derivatives import weighted_sum

# (length, mass, gravitational constant)
UNITS = {
    "Sun and Earth": (1.5e11, 2e30, 6.674e-11),
    "parsecs": (3.086e16, 2e30, 6.674e-11),
    "tiny": (1e-12, 1e-12, 6.674e-11),
    "huge": (1e17, 1e17, 1.0),
}
SOFTENING = 0.05
EVERY = [pytest.param(name, marks=() if name in ("Sun and Earth", "tiny") else pytest.mark.slow) for name in UNITS]
# scheme: the criterion that it is tried with, and p and η of that
SCHEMES = {
    "direct": ("p_norm_both", 2.0, 0.2),
    "implicit_symmetric": ("tidal_p_norm", 4.0, 0.02),  # whose step goes with the root of η
    "hairer_soderlind": ("p_norm_both", 2.0, 0.2),
    "time_transformed": ("pair_norm", 2.0, 0.2),
}
# Sums of some hundred terms of 1e-16 in a run of some ten steps, in which nothing comes close.
RUN = 1e-11
# ε is a difference of energies some 1e-4 of their size: 1e-16 of those is 1e-12 of it, and of its logarithm.
LOSS = 1e-10


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


class In:
    """Everything in given units."""

    def __init__(self, length=1.0, mass=1.0, G=1.0):
        self.length, self.mass, self.time = length, mass, math.sqrt(length**3 / (G * mass))
        self.gravity = af.build_gravity(G=G, softening=SOFTENING * length)

    def systems(self, count=4):
        """Triples about as far apart as 1, turned differently, in slow motion."""
        turn = 0.3 * torch.arange(count, dtype=torch.float64)[:, None] + tensor([0.0, 2.0, 4.3])
        radius = tensor([0.8, 1.0, 1.3])
        position = radius[:, None] * torch.stack([turn.cos(), turn.sin()], -1)
        velocity = 0.4 * torch.stack([(2 * turn).sin(), turn.cos()], -1)
        mass = tensor([1.0, 0.7, 1.4]).expand(count, 3)
        return af.make_system(self.mass * mass, self.length * position, self.length / self.time * velocity)

    def system(self):
        return tree.take(self.systems(), 0)

    def policy(self, criterion, p, eta, *, network=True):
        rule = af.build_criterion(criterion, self.gravity, eta=eta, p=p)
        if not network:
            return af.build_criterion_policy(rule)
        return af.build_residual_policy(af.build_features("invariant", self.gravity), rule, hidden=(4,))

    def end(self, way, scheme):
        """A sum of the coordinates at the end of a run, of (log η, masses, positions, velocities) -> ()."""
        policy = self.policy(*SCHEMES[scheme], network=False)
        build = af.build_scheme(scheme, self.gravity)

        def total(log_eta, mass, position, velocity):
            system = self.system()._replace(mass=mass, position=position, velocity=velocity)
            options = {"policy": policy, "gravity": self.gravity, "scheme": build, "t_end": 0.3 * self.time}
            after, _ = way({"log_eta": log_eta}, system, **options)
            return weighted_sum(after.position / self.length, after.velocity * (self.time / self.length))

        return total

    def arguments(self, scheme):
        return (tensor(math.log(SCHEMES[scheme][2])), *self.system()[:3])

    def factors(self):
        """What derivatives by those arguments are multiplied by."""
        return 1.0, self.mass, self.length, self.length / self.time


def assert_near(actual, expected, tolerance):
    """Up to a share of the largest element, or of 1: everything here is of that size."""
    assert float((actual - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


RUNS = [
    (way, scheme)
    for way in (af.simulate, af.retrace)
    for scheme in SCHEMES
    if way is af.simulate or scheme in ("hairer_soderlind", "time_transformed")
]


@pytest.mark.parametrize("units", EVERY)
@pytest.mark.parametrize(("way", "scheme"), RUNS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_the_end_of_a_run_has_the_same_derivatives_in_any_units(way, scheme, units):
    here, there = In(), In(*UNITS[units])
    ours, theirs = there.end(way, scheme), here.end(way, scheme)
    assert_near(ours(*there.arguments(scheme)), theirs(*here.arguments(scheme)), RUN)
    slopes = grad(ours, argnums=(0, 1, 2, 3))(*there.arguments(scheme))
    expected = grad(theirs, argnums=(0, 1, 2, 3))(*here.arguments(scheme))
    for slope, factor, one in zip(slopes, there.factors(), expected, strict=True):
        assert_near(slope * factor, one, RUN)


@pytest.mark.parametrize("units", ["Sun and Earth", "tiny"])
@pytest.mark.parametrize("way", [af.simulate, af.retrace])
def test_they_are_those_of_central_differences(way, units):
    there = In(*UNITS[units])
    total, at = there.end(way, "hairer_soderlind"), there.arguments("hairer_soderlind")
    slopes = grad(total, argnums=(0, 1, 2, 3))(*at)
    for number, (slope, size) in enumerate(zip(slopes, (1.0, *there.factors()[1:]), strict=True)):
        step = 1e-4 * size * torch.ones_like(at[number])
        ahead, behind = (total(*at[:number], at[number] + k * step, *at[number + 1 :]) for k in (1, -1))
        # Errors of (1e-4)² times third derivatives of order 100, and of 1e-14 over the step.
        torch.testing.assert_close((slope * step).sum(), (ahead - behind) / 2, rtol=1e-5, atol=1e-9)


def attempt(there, scheme="direct"):
    criterion, p, eta = SCHEMES[scheme]
    policy = there.policy(criterion, p, 3 * eta)  # outside of the band, where the loss is 0
    step = af.build_step(policy, there.gravity, af.build_scheme(scheme, there.gravity))
    params = tree.map_leaves(lambda leaf: leaf + 0.1 * torch.ones_like(leaf), policy.init(3))
    samples = vmap(af.first_sample)(there.systems())
    return step, params, samples


@pytest.mark.parametrize("units", EVERY)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_loss_its_gradient_and_the_jacobian_are_the_same_in_any_units(scheme, units):
    (step, params, samples), (its_step, same, others) = (attempt(x, scheme) for x in (In(*UNITS[units]), In()))
    ours, theirs = af.build_objective(step), af.build_objective(its_step)

    def loss(objective, params, batch):
        return objective.loss(params, (batch,), "all")[0]

    assert_near(loss(ours, params, samples), loss(theirs, same, others), LOSS)
    of_ours, of_theirs = grad(loss, argnums=1)(ours, params, samples), grad(loss, argnums=1)(theirs, same, others)
    largest = max(float(leaf.abs().max()) for leaf in tree.leaves(of_theirs))
    assert largest > 1.0
    for leaf, expected in zip(tree.leaves(of_ours), tree.leaves(of_theirs), strict=True):
        assert float((leaf - expected).abs().max()) <= LOSS * largest
    (_, rows), (_, expected_rows) = ours.jacobian(params, (samples,)), theirs.jacobian(same, (others,))
    for leaf, expected in zip(tree.leaves(rows), tree.leaves(expected_rows), strict=True):
        assert float((leaf - expected).abs().max()) <= LOSS * largest


@pytest.mark.parametrize("units", ["Sun and Earth", "tiny"])
def test_the_gradient_of_the_loss_by_the_state_is_that_of_central_differences(units):
    there = In(*UNITS[units])
    step, params, samples = attempt(there)
    objective = af.build_objective(step)

    def loss(position):
        moved = samples._replace(system=samples.system._replace(position=position))
        return objective.loss(params, (moved,), "all")[0]

    at = samples.system.position
    slope, along = grad(loss)(at), there.length * torch.linspace(-1, 1, at.numel(), dtype=at.dtype).reshape(at.shape)
    ahead, behind = (loss(at + k * 1e-5 * along) for k in (1, -1))
    # Errors of (1e-5)² times the third derivative, and of ln ε, known to 1e-12, over the step.
    torch.testing.assert_close((slope * along).sum(), (ahead - behind) / 2e-5, rtol=1e-5, atol=0)


def test_a_step_of_levenberg_marquardt_is_the_same_in_any_units():
    after = []
    for there in (In(), *(In(*units) for units in UNITS.values())):
        step, params, samples = attempt(there)
        learner = af.build_learner(step, af.levenberg_marquardt())
        state = af.init_train_state(params, af.levenberg_marquardt())
        trained, _ = af.generalize_on_trajectory(
            state, (samples,), learner=learner, seed=0, replay_steps=2, loss_on="all", convergence="band"
        )
        after.append(trained.params)
    for params in after[1:]:
        for leaf, expected in zip(tree.leaves(params), tree.leaves(after[0]), strict=True):
            # The damped Gram matrix magnifies the rounding of its rows a thousandfold.
            torch.testing.assert_close(leaf, expected, rtol=1e-7, atol=1e-7)


def test_in_single_precision_the_gradient_of_the_loss_is_right_in_si_units_of_planetary_systems():
    # Reverse mode goes through 1/R³, 3e-34 per cubic metre at an astronomical unit; from 1e13 m on it is denormal, and
    # the product of two masses in kilograms, which Ω = Σ m m'/r is made of, is no float32 at all.
    def gradient(there):
        step, params, samples = attempt(there)
        objective = af.build_objective(step)
        params, samples = (tree.cast(x, dtype=torch.float32) for x in (params, samples))
        return grad(lambda p: objective.loss(p, (samples,), "all")[0])(params)

    ours, theirs = gradient(In(*UNITS["Sun and Earth"])), gradient(In())
    largest = max(float(leaf.abs().max()) for leaf in tree.leaves(theirs))
    for leaf, expected in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        # States rounded by 6e-8 give errors of 1e-4 a rounding of 1e-3 of themselves.
        assert float((leaf - expected).abs().max()) <= 1e-2 * largest
