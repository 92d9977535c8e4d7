"""A policy as a rule: the numbers of simulate, in the words of a comparison."""

import math

import pytest
import torch

from aits_func.base import tree
from aits_func.loops.policy_rule import build_policy_rule, natural_spin
from aits_func.loops.rules import RunStatistics, run_rules
from aits_func.loops.simulate import simulate
from aits_func.physics.compositions import compose
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.invariants import angular_momentum, centre_of_mass, linear_momentum
from aits_func.physics.orbits import two_body_orbit
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.reversible_schemes import build_hairer_soderlind
from aits_func.physics.schemes import as_scheme
from aits_func.timestep.policy import build_criterion_policy
from aits_func.timestep.run import FINISHED, STEP_LIMIT

GRAVITY = build_gravity(softening=0.1)
POLICY = build_criterion_policy(p_norm(GRAVITY, eta=1.0))
REVERSIBLE = build_hairer_soderlind(GRAVITY, base="dkd")


def triples(count=3):
    return gaussian_cluster(1, count, bodies=3, position_scale=1.0, velocity_scale=0.5)


def rule_of(scheme=REVERSIBLE, params=None, **options):
    words = {"gravity": GRAVITY, "scheme": scheme, "t_end": 0.5, "tolerances": (0.3, 0.1), "compile": "off", **options}
    return build_policy_rule("mine", POLICY, POLICY.init(0) if params is None else params, **words)


@pytest.mark.parametrize("scheme", [REVERSIBLE, build_leapfrog_kdk(GRAVITY)], ids=["reversible", "direct"])
def test_a_rule_reports_what_simulate_does_at_its_tolerance_as_h(scheme):
    ends = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    rule = rule_of(scheme, t_end=ends, return_error=True, energy_scale="kinetic")
    assert (rule.name, rule.tolerances) == ("mine", (0.3, 0.1))
    for h in rule.tolerances:
        ours = rule.run(triples(), h)
        _, info = simulate(
            POLICY.init(0),
            triples(),
            policy=POLICY,
            gravity=GRAVITY,
            scheme=scheme,
            t_end=ends,
            h=h,
            energy_scale="kinetic",
            return_error=True,
        )
        same = (
            *("force_evaluations", "rule_evaluations", "final_energy_error", "mean_energy_error"),
            *("max_potential_error", "max_energy_error", "return_error", "energy_drift"),
        )
        for name in same:
            assert torch.equal(getattr(ours, name), getattr(info, name).to(getattr(ours, name).dtype)), name
        assert not ours.failed.any()
        spin = info.angular_momentum_residual / natural_spin(triples(), GRAVITY)
        assert torch.equal(ours.angular_momentum_error, spin)
        assert ours.seconds > 0


def test_a_smaller_tolerance_costs_more_and_errs_less():
    outcomes = list(run_rules([rule_of(t_end=2.0)], triples()))
    coarse, fine = (outcome.statistics for outcome in outcomes)
    assert (fine.force_evaluations > 2 * coarse.force_evaluations).all()
    assert fine.max_potential_error.median() < coarse.max_potential_error.median() / 4  # order 2, a third of the step


def test_force_evaluations_are_limited_whatever_a_step_costs():
    fourth = compose(REVERSIBLE, 4)  # five of them a step
    for scheme, steps in [(REVERSIBLE, 12), (fourth, 2)]:
        statistics = rule_of(scheme, max_evaluations=12, t_end=50.0).run(triples(), 0.1)
        assert statistics.failed.all()
        _, info = simulate(
            POLICY.init(0), triples(), policy=POLICY, gravity=GRAVITY, scheme=scheme, t_end=50.0, h=0.1, max_steps=steps
        )
        assert info.status.tolist() == [STEP_LIMIT] * 3
        assert torch.equal(statistics.force_evaluations, info.force_evaluations)
        assert (statistics.force_evaluations <= 12).all()


def test_a_limit_below_one_step_still_allows_one():
    statistics = rule_of(compose(REVERSIBLE, 4), max_evaluations=1).run(triples(), 0.1)
    assert statistics.force_evaluations.tolist() == [5] * 3


def test_a_limit_of_none_is_refused():
    with pytest.raises(ValueError, match="build_policy_rule: max_evaluations must be >= 1, got 0"):
        rule_of(max_evaluations=0)


def test_what_was_not_asked_for_is_nan():
    assert rule_of().run(triples(), 0.3).return_error.isnan().all()


def test_single_precision_is_reported_in_double():
    systems, params = tree.cast((triples(), POLICY.init(0)), dtype=torch.float32)
    statistics = rule_of(params=params).run(systems, 0.3)
    assert isinstance(statistics, RunStatistics)
    assert statistics.endings == ("finished",) * 3
    others = ("failed", "endings")
    floats = [leaf for name, leaf in statistics._asdict().items() if "evaluations" not in name and name not in others]
    assert {leaf.dtype for leaf in floats} == {torch.float64}
    assert (statistics.failed.dtype, statistics.force_evaluations.dtype) == (torch.bool, torch.int64)
    _, info = simulate(params, systems, policy=POLICY, gravity=GRAVITY, scheme=REVERSIBLE, t_end=0.5, h=0.3)
    assert info.status.tolist() == [FINISHED] * 3
    assert torch.equal(statistics.max_energy_error, info.max_energy_error.double())


def test_an_integrator_is_the_direct_scheme_with_it():
    kdk = build_leapfrog_kdk(GRAVITY)
    ours, theirs = (rule_of(scheme).run(triples(), 0.3) for scheme in (kdk, as_scheme(kdk)))
    assert all(torch.equal(a, b) for a, b in zip(ours[:8], theirs[:8], strict=True))


@pytest.mark.parametrize("G", [1.0, 4.0])
def test_the_natural_spin_of_a_circular_binary_of_equal_masses_is_some_three_times_its_own(G):
    # m = ½ each at distance ½ from the centre: M (G M R)^½ = (G/2)^½; L = ¼ √G
    bare = build_gravity(G=G)
    orbit = two_body_orbit(mass=[0.5, 0.5], semi_major_axis=1.0, eccentricity=0.0, G=G)
    batch = tree.map_leaves(lambda leaf: leaf[None], orbit)
    assert float(natural_spin(batch, bare)[0]) == pytest.approx(math.sqrt(G / 2), rel=1e-14)


def test_the_natural_spin_does_not_vanish_with_the_angular_momentum():
    still = triples()._replace(velocity=torch.zeros_like(triples().velocity))
    assert (natural_spin(still, GRAVITY) > 0.1).all()


def test_momenta_of_planets_in_metres_and_kilograms_are_summed_in_float64_whatever_the_run_is_in():
    """m x × v of the Earth is 3e40, which no float32 is: the residual was NaN, and any error over its scale 0."""
    G = 6.674e-11
    gravity = build_gravity(G=G)
    orbit = two_body_orbit(mass=[2e30, 6e24], semi_major_axis=1.5e11, eccentricity=0.5, G=G)
    system = tree.cast(tree.map_leaves(lambda leaf: leaf[None], orbit), dtype=torch.float32)
    policy = build_criterion_policy(p_norm(gravity, eta=0.02))
    params = tree.cast(policy.init(0), dtype=torch.float32)
    scheme = build_leapfrog_kdk(gravity)
    after, info = simulate(params, system, policy=policy, gravity=gravity, scheme=scheme, t_end=1e6)
    first, last = (tree.cast(tree.take(x, 0), dtype=torch.float64) for x in (system, after))
    for found, momentum in (
        (info.momentum_residual, linear_momentum),
        (info.angular_momentum_residual, angular_momentum),
    ):
        change = momentum(last) - momentum(first)
        # the same sums of two
        assert float(found[0]) == pytest.approx(float(change.norm()), rel=1e-12)
    spin = natural_spin(system, gravity)
    mass, radius = 2e30 + 6e24, (first.position - centre_of_mass(first)[0]).pow(2).sum(1).mean().sqrt()
    assert float(spin[0]) == pytest.approx(
        mass * math.sqrt(G * mass * float(radius)), rel=1e-6
    )  # a float32 of the mass
    # rounding of a float32 state over a few steps, and no less: never exactly 0
    assert 0 < float(info.angular_momentum_residual[0] / angular_momentum(first)) < 1e-5
