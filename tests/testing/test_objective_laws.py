"""Every law of objectives, seen to fail on a defect that is planted for it."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.learning import losses
from aits_func.loops.learner import build_learner
from aits_func.testing import OBJECTIVE_LAWS, LawError, check_objective

# Nothing is shrunk, and the same examples come every time: the defects break a law on most of them.
FOUND = settings(max_examples=6, deadline=None, phases=[Phase.generate], derandomize=True, database=None)


def source_loss(error, dt, exploded, *, E_lower, E_upper, reference):
    """Without a reference: flat below 1e-12, with slopes of rounding."""
    return losses.band_residual(error, dt, exploded, E_lower=E_lower, E_upper=E_upper)


def unmasked(error, dt, exploded, *, E_lower, E_upper, reference):
    """The logarithm of what is infinite where a step exploded, masked afterwards alone."""
    x = torch.where(exploded, 0.0 * error, error.log())
    return x - torch.log(torch.as_tensor(E_upper, dtype=x.dtype))


def shortens(error, dt, exploded, *, E_lower, E_upper, reference):
    """The slope of ln dt below rounding, with the wrong sign."""
    right = losses.band_residual(error, dt, exploded, E_lower=E_lower, E_upper=E_upper, reference=reference)
    log_dt = dt.log()
    return torch.where(error < 1e-13, right.detach() - (log_dt - log_dt.detach()), right)


DEFECTS = {"first order": source_loss, "second order": source_loss, "finite": unmasked, "direction": shortens}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == OBJECTIVE_LAWS.keys()


@pytest.mark.parametrize("law", OBJECTIVE_LAWS)
def test_a_law_fails_on_its_defect(law, monkeypatch):
    monkeypatch.setattr("aits_func.loops.objective.band_residual", DEFECTS[law])
    with pytest.raises(LawError, match=f"^check_objective: {law}: "):
        check_objective(build_learner, laws=[law], settings=FOUND)
