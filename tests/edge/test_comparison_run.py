"""Comparisons from a configuration: what a rule becomes, in which scheme, and who is run on what."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("safetensors")

from aits_func.edge import comparison_run
from aits_func.edge.assemble import build_physics
from aits_func.edge.comparison_run import check_sets, compare_sets, plan_rules, run_set
from aits_func.edge.config import CompareConfig, InputError
from aits_func.edge.simulation_run import load_sets

ROUND = {"kind": "binaries", "count": 2, "seed": 7, "eccentricity": [0.0, 0.2]}
CONFIG = CompareConfig(systems=(ROUND,), t_end=0.1, compile="off", resamples=0)
PHYSICS = build_physics(CONFIG, "a.toml")


def plan(*rules, **changes):
    config = replace(CONFIG, rules=rules, **changes)
    return plan_rules(config, build_physics(config, "a.toml"), "a.toml")


def scheme_of(rule, **changes):
    ((planned,), missing) = plan(rule, **changes)
    assert missing == []
    return planned.scheme


# --- plans


@pytest.mark.parametrize(
    ("rule", "evaluations", "stages", "position_form"),
    [
        # (force evaluations at the start and per step, stages, whether positions alone are read)
        ({"criterion": "p_norm"}, (1, 1), 1, False),
        ({"criterion": "p_norm", "integrator": "leapfrog_dkd"}, (0, 1), 1, False),
        ({"criterion": "p_norm", "integrator": "yoshida4"}, (1, 3), 1, False),
        ({"criterion": "p_norm", "scheme": "hairer_soderlind"}, (0, 1), 1, True),  # drift–kick–drift
        ({"criterion": "p_norm_both", "scheme": "hairer_soderlind"}, (1, 1), 1, False),  # its steps need velocities
        ({"criterion": "p_norm", "scheme": "hairer_soderlind", "order": 6}, (0, 9), 9, True),
        ({"criterion": "pair_norm", "scheme": "time_transformed"}, (0, 1), 1, True),
        ({"criterion": "pair_norm", "scheme": "time_transformed", "order": 8}, (0, 17), 17, True),
    ],
)
def test_a_rule_is_run_in_the_scheme_that_fits_it(rule, evaluations, stages, position_form):
    scheme = scheme_of(rule)
    assert (scheme.evaluations_at_start, scheme.evaluations_per_step) == evaluations
    assert (len(scheme.stages), scheme.position_form) == (stages, position_form)


def test_a_rule_without_a_scheme_takes_that_of_the_configuration_with_its_order():
    shared = {"scheme": "hairer_soderlind", "order": 4}
    scheme = scheme_of({"criterion": "p_norm"}, **shared)
    assert (scheme.name, len(scheme.stages)) == ("hairer_soderlind", 5)
    own = scheme_of({"criterion": "p_norm", "scheme": "time_transformed"}, **shared)
    assert (own.name, len(own.stages)) == ("time_transformed", 1)  # another scheme, so its own order 2
    assert len(scheme_of({"criterion": "p_norm", "order": 6}, **shared).stages) == 9
    assert len(scheme_of({"criterion": "p_norm"}, n_steps=3, **shared).stages) == 15


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ({"criterion": "p_norm"}, "direct, p_norm"),
        ({"criterion": "p_norm", "scheme": "hairer_soderlind"}, "hairer_soderlind, p_norm"),
        ({"criterion": "p_norm", "scheme": "hairer_soderlind", "order": 4}, "hairer_soderlind 4, p_norm"),
        ({"criterion": "p_norm", "name": "mine"}, "mine"),
    ],
)
def test_a_rule_is_called_by_its_name_or_by_what_it_is(rule, name):
    assert plan(rule)[0][0].name == name


def test_a_rule_that_takes_the_scheme_of_the_configuration_is_called_by_it():
    assert plan({"criterion": "p_norm"}, scheme="hairer_soderlind")[0][0].name == "hairer_soderlind, p_norm"


def test_the_constants_of_a_rule_reach_its_criterion():
    (first, second), _ = plan(
        {"criterion": "p_norm", "eta": 0.5, "name": "a"}, {"criterion": "constant", "dt": 0.25, "name": "b"}
    )
    assert first.predictor.params["log_eta"].exp().item() == pytest.approx(0.5, rel=1e-15)  # exp(ln 0.5)
    system = load_sets(CONFIG, PHYSICS, "a.toml")[0].systems
    one = second.predictor.policy.apply(second.predictor.params, type(system)(*(leaf[0] for leaf in system)), ())
    assert one.item() == pytest.approx(0.25, rel=1e-15)
    assert first.tolerances == (1.0, 0.3, 0.1)  # unless it names its own


def test_parameters_have_the_precision_of_the_configuration():
    (planned,), _ = plan({"criterion": "p_norm"}, dtype="float32")
    assert planned.predictor.params["log_eta"].dtype == torch.float32


def test_missing_peers_are_named_and_left_out(monkeypatch):
    monkeypatch.setattr(comparison_run, "available", lambda: False)
    plans, missing = plan({"criterion": "p_norm"}, {"peer": "rebound_ias15"}, {"peer": "rebound_whfast", "name": "W"})
    assert ([p.name for p in plans], missing) == (["direct, p_norm"], ["rebound_ias15", "W"])


def test_an_installed_peer_is_a_plan_without_a_policy(monkeypatch):
    monkeypatch.setattr(comparison_run, "available", lambda: True)
    (planned,), missing = plan({"peer": "rebound_ias15", "tolerances": [1e-3]})
    assert (planned.predictor, planned.scheme, planned.tolerances, missing) == (None, None, (1e-3,), [])


# --- runs


def test_every_rule_is_run_on_every_set_in_order_and_shown_as_it_is_done():
    config = replace(CONFIG, systems=(ROUND | {"label": "one"}, ROUND | {"label": "two", "count": 3}))
    sets = load_sets(config, PHYSICS, "a.toml")
    plans, _ = plan(
        {"criterion": "p_norm", "eta": 1.0, "tolerances": [0.3, 0.1]},
        {"criterion": "p_norm", "scheme": "hairer_soderlind", "eta": 1.0, "tolerances": [0.2]},
    )
    shown = []

    def show(item, outcome, seconds):
        assert seconds > 0
        shown.append((item.label, outcome.rule, outcome.tolerance, len(outcome.statistics.failed)))

    results = list(compare_sets(plans, sets, config, PHYSICS, show))
    assert shown == [
        (label, rule, tolerance, count)
        for label, count in (("one", 2), ("two", 3))
        for rule, tolerance in (("direct, p_norm", 0.3), ("direct, p_norm", 0.1), ("hairer_soderlind, p_norm", 0.2))
    ]
    assert [r.systems.label for r in results] == ["one", "two"]
    assert [r.comparison.systems for r in results] == [2, 3]
    assert {r.comparison.reference for r in results} == {"direct, p_norm"}


def test_outcomes_come_one_by_one():
    (item,) = load_sets(CONFIG, PHYSICS, "a.toml")
    # the second in so many steps that nobody would wait for them
    plans, _ = plan({"criterion": "p_norm", "eta": 1.0, "tolerances": [0.3, 1e-12]})
    outcome, seconds = next(run_set(plans, item, CONFIG, PHYSICS))
    assert outcome.tolerance == 0.3
    assert seconds > 0
    assert not outcome.statistics.failed.any()


def test_a_policy_of_dimensional_features_is_held_to_the_shapes_that_it_was_trained_on(trained_on_rich, trained):
    rich, invariant = ({"checkpoint": str(place), "name": place.parent.name} for place in (trained_on_rich, trained))
    pairs = load_sets(CONFIG, PHYSICS, "a.toml")
    triples = load_sets(replace(CONFIG, systems=("figure_eight",)), PHYSICS, "a.toml")
    plans, _ = plan(rich)
    check_sets(plans, pairs, "a.toml")
    with pytest.raises(InputError, match=r"a\.toml: rich.* was trained on systems of another shape than figure_eight"):
        check_sets(plans, [*pairs, *triples], "a.toml")
    check_sets(plan(invariant)[0], triples, "a.toml")  # no matter to invariant features
