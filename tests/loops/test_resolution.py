"""Thresholds below the rounding error of an energy are found, and refused in words."""

import pytest
import torch
from torch.func import vmap

import aits_func as af
from aits_func.base.tree import cast, take
from aits_func.loops import resolution
from aits_func.loops.resolution import check_guard, check_reach, count_out_of_reach, out_of_reach, rounding_errors
from aits_func.timestep.rounding import MARGIN

GRAVITY = af.build_gravity()
POLICY = af.build_criterion_policy(af.p_norm(GRAVITY, eta=0.1))


def objective(threshold, E_upper=None, **options):
    step = af.build_step(POLICY, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_threshold=threshold, **options)
    upper = E_upper or threshold / 2
    return af.build_objective(step, E_lower=upper / 10, E_upper=upper)


def home_and_away(dtype=torch.float32):
    """Five binaries at the origin, and five a thousand units from it: rounding errors of some 1e-7 and 1e-3."""
    systems = af.binaries(0, 10, eccentricity=(0.0, 0.3))
    shift = torch.zeros(10, 1, 2, dtype=torch.float64)
    shift[5:] = 1e3
    return cast(systems._replace(position=systems.position + shift), dtype=dtype)


def population(systems):
    return af.init_population(systems, gravity=GRAVITY)


def test_those_far_away_are_out_of_reach_and_the_others_not():
    limit = objective(1e-5).limit
    assert out_of_reach(home_and_away(), limit, 1e-5).tolist() == [False] * 5 + [True] * 5
    assert out_of_reach(home_and_away(torch.float64), limit, 1e-5).tolist() == [False] * 10


def test_the_verdict_turns_at_the_margin():
    limit, systems = objective(1e-5).limit, take(home_and_away(), slice(0, 1))
    edge = MARGIN * float(rounding_errors(systems, limit))
    assert out_of_reach(systems, limit, 0.99 * edge).tolist() == [True]
    assert out_of_reach(systems, limit, 1.01 * edge).tolist() == [False]


def test_in_pieces_the_errors_are_the_same(monkeypatch):
    limit, systems = objective(1e-5).limit, home_and_away()
    whole = rounding_errors(systems, limit)
    monkeypatch.setattr(resolution, "_PAIRS", 12)  # three pairs of bodies at a time
    assert torch.equal(rounding_errors(systems, limit), whole)


def test_samples_out_of_reach_are_counted_by_what_is_asked_of_them():
    samples = vmap(af.first_sample)(home_and_away())
    loose, narrow = objective(1e-1, E_upper=1e-5), objective(1e-5)
    assert count_out_of_reach((samples,), loose, "minibatch") == 0
    assert count_out_of_reach((samples,), loose, "band") == 5
    assert count_out_of_reach((samples, samples), narrow, "trajectory") == 10
    idle = samples._replace(active=torch.zeros(10, dtype=torch.bool))
    assert count_out_of_reach((idle,), narrow, "minibatch") == 0
    assert count_out_of_reach((samples,), narrow._replace(limit=None), "minibatch") == 0  # a step of one's own


def test_a_threshold_out_of_reach_is_refused_by_name_with_what_can_be_met():
    people = population(home_and_away())
    with pytest.raises(ValueError, match="is below the rounding error") as refusal:
        check_reach(people, objective(1e-5), band=False, where="here")
    message = str(refusal.value)
    assert message.startswith("here: energy_threshold = 1e-05 is below the rounding error of the energy of system ")
    assert "of group 0, " in message
    assert 'set dtype = "float64"' in message
    # What it advises is accepted.
    advised = float(message.split("ask for ")[1].split(" ")[0])
    check_reach(people, objective(advised), band=True, where="here")


def test_the_upper_edge_of_the_band_is_looked_at_where_it_is_asked_for():
    people, loose = population(home_and_away()), objective(1e-1, E_upper=1e-5)
    check_reach(people, loose, band=False, where="here")
    with pytest.raises(ValueError, match=r"^here: E_upper = 1e-05 is below the rounding error"):
        check_reach(people, loose, band=True, where="here")


@pytest.mark.parametrize(("dtype", "threshold"), [(torch.float64, 1e-13), (torch.float32, 1e-4)])
def test_thresholds_that_ordinary_systems_can_meet_are_let_through(dtype, threshold):
    for systems in (af.binaries(0, 64), af.gaussian_cluster(0, 64), af.hierarchical_triple(0, 64)):
        check_reach(population(cast(systems, dtype=dtype)), objective(threshold), band=True, where="here")
    check_reach((), objective(1e-13), band=True, where="here")


@pytest.mark.parametrize("mass_ratio", [2e-12, 1e-13])
def test_an_energy_that_the_source_s_guard_would_falsify_is_refused_there_and_welcome_on_the_other_scales(mass_ratio):
    # E = −G m₁ m₂ / 2a = −1e-12 for a ratio of 2e-12: the guard makes 0 of it, and every error infinite.
    light = af.binaries(0, 2, mass_ratio=(mass_ratio, mass_ratio), semi_major_axis=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"systems\[0\]: the energy of system 0 is -.*too small beside the 1e-12"):
        af.init_population(light, gravity=GRAVITY, energy_scale="source")
    for scale in ("total", "kinetic"):
        af.init_population(light, gravity=GRAVITY, energy_scale=scale)
    check_guard(af.binaries(0, 2, mass_ratio=(1e-9, 1e-9)), gravity=GRAVITY, where="here")
