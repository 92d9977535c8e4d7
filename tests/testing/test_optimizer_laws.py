"""Every law of optimizers fails on an optimizer with the defect that it is for."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.base import tree
from aits_func.learning.optimizers import adam, sgd
from aits_func.learning.transformations import GradientTransformation, skip_nonfinite
from aits_func.testing import OPTIMIZER_LAWS, LawError, check_optimizer

FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)
SOUND = adam(0.01)


def changed(change):
    """Adam whose updates are changed: ``change(leaf of the updates, leaf of the gradients, leaf of params)``."""

    def update(grads, state, params):
        updates, state = SOUND.update(grads, state, params)
        return tree.map_leaves(change, updates, grads, params), state

    return GradientTransformation(SOUND.init, update)


def longer_state(grads, state, params):
    updates, _ = SOUND.update(grads, state[0], params)
    return updates, (state[0], torch.cat([state[1], state[1].new_zeros(1)]))


def counter():
    """An optimizer that keeps count in a closure."""
    calls = []

    def update(grads, state, params):
        calls.append(None)
        return tree.map_leaves(lambda leaf: -0.01 * leaf / len(calls), grads), state

    return GradientTransformation(lambda params: (), update)


def level(update, grad, param):
    return update * (1 + 1e-3 * (torch._C._functorch.maybe_current_level() or 0))


def like_sgd(leaves):
    return torch.optim.SGD(leaves, lr=0.01)


DEFECTS = {
    "structure": (GradientTransformation(lambda p: (SOUND.init(p), torch.zeros(1)), longer_state), {}),
    "zero gradient": (changed(lambda u, g, p: u + 1e-9), {}),
    "descent": (changed(lambda u, g, p: -u), {}),
    "bowl": (changed(lambda u, g, p: u + 0.02 * p.sign()), {}),
    "finite": (changed(lambda u, g, p: u / (g.abs() < 1e3)), {}),
    "pure": (counter(), {}),
    "vmap": (changed(level), {}),
    "single": (changed(lambda u, g, p: u.double()), {}),
    "oracle": (sgd(0.01, momentum=0.9), {"oracle": like_sgd}),
    "nonfinite": (SOUND, {"skips_nonfinite": True}),
}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == OPTIMIZER_LAWS.keys()


@pytest.mark.parametrize("law", OPTIMIZER_LAWS)
def test_a_law_fails_on_its_defect(law):
    optimizer, options = DEFECTS[law]
    with pytest.raises(LawError, match=f"^check_optimizer: {law}: "):
        check_optimizer(optimizer, laws=[law], settings=FOUND, **options)


def test_what_is_not_promised_is_not_tried():
    check_optimizer(SOUND, laws=["nonfinite", "oracle"], settings=FOUND)
    check_optimizer(skip_nonfinite(SOUND), skips_nonfinite=True, laws=["nonfinite"], settings=FOUND)


def test_a_state_that_is_no_tensor_is_named():
    optimizer = GradientTransformation(lambda params: {"count": 0}, lambda g, s, p: (g, s))
    with pytest.raises(LawError, match="a state must be made of tensors, got int in count"):
        check_optimizer(optimizer, laws=["structure"], settings=FOUND)
