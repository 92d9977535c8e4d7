"""The band loss leads back to the band from any dt: the laws of objectives, on the one that is shipped."""

import pytest
from hypothesis import settings

from aits_func.loops.learner import build_learner
from aits_func.testing import OBJECTIVE_LAWS, check_objective

# An example of "first order" takes up to some 1,500 iterations of some milliseconds.
EXAMPLES = settings(max_examples=max(3, settings().max_examples // 10), deadline=None)


@pytest.mark.parametrize("law", OBJECTIVE_LAWS)
def test_the_band_loss_keeps_the_law(law):
    check_objective(build_learner, laws=[law], settings=EXAMPLES)
