"""Laws of the optimizers, on random trees of parameters and random sequences of gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aits_func.base import tree
from aits_func.learning.optimizers import adam, adamw, apply_updates, sgd
from aits_func.learning.transformations import clip_by_global_norm, skip_nonfinite

quick = settings(max_examples=40, deadline=None)  # a first call into torch.optim takes seconds


def signed(low, high):
    """Zero, or a number of magnitude in [low, high]."""
    size = st.floats(low, high)
    return st.just(0.0) | size | size.map(lambda x: -x)


@st.composite
def structures(draw):
    """A nested tree whose leaves are shapes, as strings lest they count as nodes."""
    shape = st.sampled_from(["", "1", "3", "2 2"])
    return draw(
        st.recursive(
            shape, lambda inner: st.tuples(inner, inner) | st.fixed_dictionaries({"b": inner, "a": inner}), max_leaves=4
        )
    )


@st.composite
def trees(draw, structure, numbers):
    def fill(text):
        shape = tuple(int(size) for size in text.split())
        count = torch.Size(shape).numel()
        flat = draw(st.lists(numbers, min_size=count, max_size=count))
        return torch.tensor(flat, dtype=torch.float64).reshape(shape)

    return tree.map_leaves(fill, structure)


@st.composite
def runs(draw):
    """Parameters, and up to five gradients for them.

    Gradients are 0 or at least 0.5, and weight decays at most 0.1 of parameters around 1, so that
    the two do not cancel to a rounding error, which Adam's first update would divide by itself.
    """
    structure = draw(structures())
    params = draw(trees(structure, signed(0.1, 1.0)))
    return params, draw(st.lists(trees(structure, signed(0.5, 1e3)), min_size=1, max_size=5))


def ours(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = apply_updates(params, updates)
    return params


def theirs(make, params, gradients):
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    optimizer = make(leaves)
    for gradient in gradients:
        for leaf, value in zip(leaves, tree.leaves(gradient), strict=True):
            leaf.grad = value.clone()
        optimizer.step()
    return [leaf.detach() for leaf in leaves]


decays = st.sampled_from([0.0, 0.01, 0.1])
rates = st.floats(1e-5, 1e-2)


@st.composite
def sgd_options(draw):
    nesterov = draw(st.booleans())
    return {
        "momentum": draw(st.floats(0.1, 0.99) if nesterov else st.floats(0.0, 0.99)),
        "dampening": 0.0 if nesterov else draw(st.floats(0.0, 1.0)),
        "nesterov": nesterov,
        "weight_decay": draw(decays),
    }


@st.composite
def adam_options(draw):
    """No b1 between 0 and 0.1: torch's lerp computes b1 as 1 − (1 − b1) and loses digits that we keep."""
    return {
        "b1": draw(st.just(0.0) | st.floats(0.1, 0.99)),
        "b2": draw(st.floats(0.1, 0.999)),  # with 0 a zero gradient means a step of 1/eps
        "eps": draw(st.floats(1e-8, 1e-2)),
        "weight_decay": draw(decays),
    }


def assert_agreement(optimizer, make, run):
    params, gradients = run
    expected = theirs(make, params, gradients)
    for leaf, other in zip(tree.leaves(ours(optimizer, params, gradients)), expected, strict=True):
        # five updates of a few roundings each, 1e-16 of parameters up to 50 (0.01 · 1e3 · 5)
        torch.testing.assert_close(leaf, other, rtol=1e-12, atol=1e-12)


@quick
@given(runs(), rates, sgd_options())
def test_sgd_is_that_of_torch_on_any_gradients(run, rate, options):
    assert_agreement(sgd(rate, **options), lambda leaves: torch.optim.SGD(leaves, lr=rate, **options), run)


@pytest.mark.parametrize(("build", "oracle"), [(adam, torch.optim.Adam), (adamw, torch.optim.AdamW)])
@quick
@given(run=runs(), rate=rates, options=adam_options())
def test_adam_and_adamw_are_those_of_torch_on_any_gradients(build, oracle, run, rate, options):
    betas = {"betas": (options["b1"], options["b2"]), "eps": options["eps"], "weight_decay": options["weight_decay"]}
    assert_agreement(build(rate, **options), lambda leaves: oracle(leaves, lr=rate, **betas), run)


@quick
@given(runs(), rates)
def test_without_weight_decay_a_zero_gradient_moves_nothing(run, rate):
    params, gradients = run
    zero = tree.map_leaves(torch.zeros_like, params)
    for optimizer in (sgd(rate), sgd(rate, momentum=0.9), sgd(rate, momentum=0.9, nesterov=True), adam(rate)):
        updates, _ = optimizer.update(zero, optimizer.init(params), params)
        assert not any(leaf.any() for leaf in tree.leaves(updates))
    # plain descent has no memory: also after other gradients
    _, state = sgd(rate).update(gradients[0], sgd(rate).init(params), params)
    updates, _ = sgd(rate).update(zero, state, params)
    assert not any(leaf.any() for leaf in tree.leaves(updates))


@quick
@given(st.data(), st.floats(1e-6, 1e6))
def test_a_clipped_gradient_is_no_longer_than_the_bound_and_keeps_its_direction(data, max_norm):
    grads = data.draw(structures().flatmap(lambda structure: trees(structure, signed(1e-6, 1e12))))
    updates, _ = clip_by_global_norm(max_norm).update(grads, (), grads)
    norm = tree.global_norm(grads)
    assert tree.global_norm(updates) <= max_norm * (1 + 1e-14)  # a norm of up to 16 elements, rounded twice
    factor = min(1.0, max_norm / (norm.item() + 1e-6))
    for leaf, update in zip(tree.leaves(grads), tree.leaves(updates), strict=True):
        torch.testing.assert_close(update, factor * leaf, rtol=1e-14, atol=0)  # one quotient, one product


@quick
@given(runs(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_skipping_bad_gradients_anywhere_is_the_run_without_them(run, value, data):
    params, gradients = run
    bad = tree.map_leaves(lambda leaf: torch.full_like(leaf, value), params)
    where = data.draw(st.lists(st.integers(0, len(gradients)), max_size=3))
    mixed = list(gradients)
    for index in where:
        mixed.insert(index, bad)
    optimizer = skip_nonfinite(adam(0.01))
    for leaf, other in zip(
        tree.leaves(ours(optimizer, params, mixed)), tree.leaves(ours(optimizer, params, gradients)), strict=True
    ):
        assert torch.equal(leaf, other)
