"""The laws of optimizers, on every one that is shipped and what is put around them; torch.optim is the oracle."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aits_func.base import tree
from aits_func.learning.optimizers import adam, adamw, build_optimizer, sgd
from aits_func.learning.schedules import cosine_decay
from aits_func.learning.transformations import chain, clip_by_global_norm, skip_nonfinite
from aits_func.testing import OPTIMIZER_LAWS, check_optimizer, filled, signed, structures


def like(oracle, rate, **options):
    return lambda leaves: oracle(leaves, lr=rate, **options)


def adaptive(build, oracle, rate, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    """(optimizer, options): ours and torch's of the same constants."""
    ours = build(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return ours, {"oracle": like(oracle, rate, betas=(b1, b2), eps=eps, weight_decay=weight_decay)}


def descent(rate, **options):
    return sgd(rate, **options), {"oracle": like(torch.optim.SGD, rate, **options)}


# Thirty examples of every law of every object would take minutes; a defect breaks a law on most of the first ten.
EXAMPLES = settings(max_examples=max(5, settings().max_examples // 3))

# No b1 between 0 and 0.1: torch's lerp computes b1 as 1 − (1 − b1) and loses digits that we keep.
OPTIMIZERS = {
    "sgd": descent(0.01),
    "sgd, decay": descent(1e-5, weight_decay=0.1),
    "sgd, momentum": descent(0.003, momentum=0.9),
    "sgd, small momentum and dampening": descent(0.01, momentum=0.1, dampening=0.7, weight_decay=0.01),
    "sgd, full dampening": descent(0.01, momentum=0.5, dampening=1.0),
    "sgd, Nesterov": descent(0.003, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": adaptive(adam, torch.optim.Adam, 1e-2),
    "adam, decay": adaptive(adam, torch.optim.Adam, 1e-3, weight_decay=0.1),
    "adam, no first moment": adaptive(adam, torch.optim.Adam, 1e-3, b1=0.0, b2=0.5, eps=1e-2),
    "adam, short memory": adaptive(adam, torch.optim.Adam, 1e-5, b1=0.1, b2=0.1),
    "adamw": adaptive(adamw, torch.optim.AdamW, 1e-2, weight_decay=0.01),
    "adamw, long memory": adaptive(adamw, torch.optim.AdamW, 1e-3, b1=0.99, weight_decay=0.1),
    "sgd, clipped": (chain(clip_by_global_norm(1.0), sgd(0.03, momentum=0.5)), {}),
    "adam that skips": (skip_nonfinite(adam(1e-2)), {"skips_nonfinite": True}),
    "adam on a schedule": (adam(cosine_decay(1e-2, 100)), {}),
    "as the command line builds it": (build_optimizer("adamw", 3e-3, clip_norm=1.0), {"skips_nonfinite": True}),
}


@pytest.mark.parametrize("law", OPTIMIZER_LAWS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_the_law(name, law):
    optimizer, options = OPTIMIZERS[name]
    check_optimizer(optimizer, laws=[law], settings=EXAMPLES, **options)


@given(st.data(), st.floats(1e-6, 1e6))
def test_a_clipped_gradient_is_no_longer_than_the_bound_and_keeps_its_direction(data, max_norm):
    grads = data.draw(structures().flatmap(lambda structure: filled(structure, signed(1e-6, 1e12))))
    updates, _ = clip_by_global_norm(max_norm).update(grads, (), grads)
    norm = tree.global_norm(grads)
    assert tree.global_norm(updates) <= max_norm * (1 + 1e-14)  # a norm of up to 16 elements, rounded twice
    factor = min(1.0, max_norm / (norm.item() + 1e-6))
    for leaf, update in zip(tree.leaves(grads), tree.leaves(updates), strict=True):
        torch.testing.assert_close(update, factor * leaf, rtol=1e-14, atol=0)  # one quotient, one product


@given(st.data())
def test_plain_descent_has_no_memory(data):
    structure = data.draw(structures())
    params, gradient = (data.draw(filled(structure, signed(0.1, 10.0))) for _ in "ab")
    optimizer, zero = sgd(0.01), tree.map_leaves(torch.zeros_like, params)
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    updates, _ = optimizer.update(zero, state, params)
    assert not any(leaf.any() for leaf in tree.leaves(updates))
