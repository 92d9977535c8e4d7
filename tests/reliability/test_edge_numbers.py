"""The edge campaign in its short form; and it sees what is broken."""

import torch

from reliability import edge_numbers
from reliability.edge_numbers import campaign, families, feature_cases, judge, neighbour_cases, recovery_cases


def test_every_promise_holds_at_the_edges():
    for finding in campaign(short=True):
        assert finding.held, (finding.promise, finding.broken)


def test_features_that_are_not_numbers_are_found(monkeypatch):
    monkeypatch.setattr("aits_func.timestep.invariant._soft_log", lambda x, y: (x - x) / (y - y))
    finding = judge("features", feature_cases([edge_numbers.Family("pair", edge_numbers.without_energy())]))
    assert not finding.held
    assert "invariant: system 0 of pair, float64" in finding.broken


def test_a_loss_that_learns_nothing_from_an_explosion_is_found(monkeypatch):
    def deaf(energy_error, dt, exploded, *, E_lower, E_upper, reference):
        return torch.where(exploded, 0.0 * dt, energy_error.log())

    monkeypatch.setattr("aits_func.loops.objective.band_residual", deaf)
    assert not judge("recovers", recovery_cases(short=True)).held


def test_a_neighbour_that_leaks_is_found(monkeypatch):
    everything = [family for family in families(True) if family.name == "N = 3"]
    assert judge("neighbours", neighbour_cases(everything)).held
    build = edge_numbers.af.build_objective

    def leaky(step, **options):
        objective = build(step, **options)

        def attempt(params, batch):
            after, info = objective.attempt(params, batch)
            return after, info._replace(accepted=info.accepted & ~info.exploded.any())

        return objective._replace(attempt=attempt)

    monkeypatch.setattr(edge_numbers.af, "build_objective", leaky)
    assert not judge("neighbours", neighbour_cases(everything)).held
