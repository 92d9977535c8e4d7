"""Clipping, chaining and skipping: against torch, and against their own promises."""

import math

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.learning.optimizers import adam, build_optimizer, sgd
from aits_func.learning.transformations import (
    apply_updates,
    chain,
    clip_by_global_norm,
    safe_root,
    skip_nonfinite,
    with_rate,
)


def make_grads(scale):
    make = torch.Generator().manual_seed(3)

    def draw(*shape):
        return scale * torch.randn(shape, generator=make, dtype=torch.float64)

    return {"layers": ((draw(3, 2), draw(3)), (draw(1, 3), draw(1))), "scale": draw()}


def assert_same(actual, expected):
    """Bit for bit, dtype included."""
    named, others = tree.named_leaves(actual), tree.named_leaves(expected)
    assert named.keys() == others.keys()
    for name, leaf in named.items():
        assert leaf.dtype == others[name].dtype, name
        assert torch.equal(leaf, others[name]), name


def clipped(grads, max_norm):
    updates, state = clip_by_global_norm(max_norm).update(grads, (), grads)
    assert state == ()
    return updates


@pytest.mark.parametrize("scale", [1e-8, 0.1, 1.0, 1e3, 1e100])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0])
def test_clipping_is_clip_grad_norm_of_torch(scale, max_norm):
    grads = make_grads(scale)
    leaves = [torch.zeros_like(leaf).requires_grad_() for leaf in tree.leaves(grads)]
    for leaf, gradient in zip(leaves, tree.leaves(grads), strict=True):
        leaf.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(leaves, max_norm)
    for ours, theirs in zip(tree.leaves(clipped(grads, max_norm)), leaves, strict=True):
        # the squares are summed in another order: some roundings in a sum of 14
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_clipping_and_the_norm_know_no_unit_where_squares_are_no_numbers(dtype):
    """Gradient and bound times 2^k give the update times 2^k, up to the last power that a number has."""
    grads = tree.cast(make_grads(1.0), dtype=dtype)
    norm = tree.global_norm(grads)
    powers = (-960, -540, 30, 540, 1015) if dtype == torch.float64 else (-110, -70, 30, 70, 120)
    few = 16 * torch.finfo(dtype).eps  # a sum of 14, and three quotients
    for power in map(torch.tensor, powers):
        scaled = [torch.ldexp(leaf, power) for leaf in tree.leaves(grads)]
        torch.testing.assert_close(torch.ldexp(tree.global_norm(scaled), -power), norm, rtol=few, atol=0)
        if power > 0:  # below, the 1e-6 of torch is more than the gradient
            for one, two in zip(clipped(scaled, 2.0 ** int(power)), tree.leaves(grads), strict=True):
                expected = two / (norm + 1e-6 * 2.0 ** -int(power))
                torch.testing.assert_close(torch.ldexp(one, -power), expected, rtol=few, atol=0)


@pytest.mark.parametrize(("dtype", "big"), [(torch.float64, 1e200), (torch.float64, 1.7e308), (torch.float32, 1e25)])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_any_finite_gradient_is_shortened_to_the_bound_even_one_whose_norm_is_no_number(dtype, big, count):
    updates = clipped({"w": torch.full((count,), -big, dtype=dtype)}, 2.0)["w"]
    expected = torch.full((count,), -2.0 / count**0.5, dtype=dtype)
    torch.testing.assert_close(updates, expected, rtol=count * torch.finfo(dtype).eps, atol=0)  # a sum of so many


@pytest.mark.parametrize("small", [1e-200, 1e-300])
def test_a_norm_whose_square_underflows_is_a_norm(small):
    grads = {"w": torch.full((4,), small, dtype=torch.float64), "b": torch.zeros(2, 0, dtype=torch.float64)}
    torch.testing.assert_close(
        tree.global_norm(grads), torch.tensor(2 * small, dtype=torch.float64), rtol=1e-15, atol=0
    )
    assert_same(clipped(grads, 1.0), grads)


def test_one_element_that_is_no_number_makes_all_of_a_clipped_gradient_none_as_in_torch():
    for value in (math.nan, math.inf):
        updates = clipped(spoil(make_grads(1.0), value), 1.0)
        theirs = [torch.zeros_like(leaf).requires_grad_() for leaf in tree.leaves(updates)]
        for leaf, gradient in zip(theirs, tree.leaves(spoil(make_grads(1.0), value)), strict=True):
            leaf.grad = gradient
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        for ours, leaf in zip(tree.leaves(updates), theirs, strict=True):
            assert torch.equal(ours.nan_to_num(7.0), leaf.grad.nan_to_num(7.0))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimizer_that_clips_uses_a_gradient_of_1e200_and_one_that_does_not_leaves_it_out(name):
    params, huge = make_grads(1.0), make_grads(1e200)
    for clip_norm, skipped in ((1.0, 0), (None, 1)):
        optimizer = build_optimizer(name, 0.1, clip_norm=clip_norm)
        updates, state = optimizer.update(huge, optimizer.init(params), params)
        assert int(state.skipped) == skipped
        other, _ = optimizer.update(make_grads(1e9), optimizer.init(params), params)
        for one, two in zip(tree.leaves(updates), tree.leaves(other), strict=True):
            assert bool(one.any()) == (skipped == 0)
            if not skipped:  # of a gradient of 1e9 the 1e-6 of torch is 1e-15
                torch.testing.assert_close(one, two, rtol=1e-13, atol=0)


def test_a_gradient_shorter_than_the_bound_passes_bit_for_bit():
    grads = make_grads(0.01)
    assert_same(clipped(grads, 1.0), grads)


def test_clipping_vmaps_to_a_norm_per_lane():
    lanes = [make_grads(scale) for scale in (0.01, 1.0, 100.0)]
    together = vmap(lambda grads: clipped(grads, 1.0))(tree.stack(lanes))
    for lane, grads in enumerate(lanes):
        # a batched sum may add in another order
        torch.testing.assert_close(tree.take(together, lane), clipped(grads, 1.0), rtol=1e-14, atol=0)


def test_clipping_has_a_finite_derivative_where_the_gradient_is_zero():
    zero = torch.zeros(3, dtype=torch.float64)
    first = grad(lambda g: clipped(g, 1.0).sum())
    assert torch.equal(first(zero), torch.ones_like(zero))  # below the bound it is the identity
    assert grad(lambda g: first(g).sum())(zero).isfinite().all()


def test_the_gradient_flows_to_a_tensor_bound():
    grads = make_grads(100.0)
    norm = tree.global_norm(grads)
    slope = grad(lambda bound: tree.global_norm(clipped(grads, bound)))(torch.tensor(2.0, dtype=torch.float64))
    # d(c ‖g‖ / (‖g‖ + 1e-6)) / dc, through a root and its inverse: some roundings
    torch.testing.assert_close(slope, norm / (norm + 1e-6), rtol=1e-14, atol=0)


def test_a_bound_in_float64_leaves_gradients_in_float32():
    grads = tree.cast(make_grads(100.0), dtype=torch.float32)
    updates = clipped(grads, torch.tensor(1.0, dtype=torch.float64))
    assert {leaf.dtype for leaf in tree.leaves(updates)} == {torch.float32}


def test_the_safe_root_is_the_root_with_derivative_zero_at_zero():
    x = torch.tensor([0.0, 4.0, 1e-300], dtype=torch.float64)
    assert torch.equal(safe_root(x), x.sqrt())
    slope = vmap(grad(safe_root))(x)
    assert slope[0] == 0
    torch.testing.assert_close(slope[1:], 0.5 / x[1:].sqrt(), rtol=1e-15, atol=0)  # two roundings
    assert vmap(grad(grad(safe_root)))(x)[0] == 0


def test_a_chain_passes_the_updates_of_each_to_the_next():
    grads, params = make_grads(100.0), make_grads(1.0)
    inner = sgd(0.1, momentum=0.9)
    whole = chain(clip_by_global_norm(1.0), inner)
    updates, state = whole.update(grads, whole.init(params), params)
    expected, expected_state = inner.update(clipped(grads, 1.0), inner.init(params), params)
    assert_same(updates, expected)
    assert_same(state, ((), expected_state))


def test_an_empty_chain_is_the_identity():
    grads = make_grads(1.0)
    updates, state = chain().update(grads, chain().init(grads), grads)
    assert state == ()
    assert_same(updates, grads)


def spoil(grads, value):
    """The same gradient with one element of one leaf gone."""
    (first, second), scale = grads["layers"], grads["scale"]
    weight = first[0].clone()
    weight[1, 1] = value
    return {"layers": ((weight, first[1]), second), "scale": scale}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200], ids=str)
@pytest.mark.parametrize("inner", [sgd(0.1, momentum=0.9), chain(clip_by_global_norm(1.0), adam(0.1))])
def test_a_bad_gradient_leaves_everything_and_the_run_goes_on_as_if_it_had_not_been(value, inner):
    optimizer = skip_nonfinite(inner)
    params = make_grads(1.0)
    first, second = make_grads(0.3), make_grads(-0.2)

    updates, state = optimizer.update(first, optimizer.init(params), params)
    params = apply_updates(params, updates)
    updates, after = optimizer.update(spoil(first, value), state, params)
    assert all(not leaf.any() for leaf in tree.leaves(updates))
    assert_same(apply_updates(params, updates), params)
    assert_same(after.inner, state.inner)
    assert (state.skipped.item(), after.skipped.item()) == (0, 1)

    never, never_state = optimizer.update(second, state, params)
    updates, after = optimizer.update(second, after, params)
    assert_same(updates, never)
    assert_same(after.inner, never_state.inner)
    assert (never_state.skipped.item(), after.skipped.item()) == (0, 1)


def test_a_good_gradient_passes_as_if_there_were_no_guard():
    grads, params, inner = make_grads(0.3), make_grads(1.0), adam(0.1)
    updates, state = skip_nonfinite(inner).update(grads, skip_nonfinite(inner).init(params), params)
    expected, expected_state = inner.update(grads, inner.init(params), params)
    assert_same(updates, expected)
    assert_same(state.inner, expected_state)


def test_a_zero_gradient_is_not_skipped():
    params = make_grads(1.0)
    optimizer = skip_nonfinite(adam(0.1))
    _, state = optimizer.update(tree.map_leaves(torch.zeros_like, params), optimizer.init(params), params)
    assert (state.skipped.item(), state.inner.updates_made.item()) == (0, 1)


def test_only_the_lane_with_the_bad_gradient_is_skipped():
    optimizer = skip_nonfinite(adam(0.1))
    good, params = make_grads(0.3), make_grads(1.0)
    batch = tree.expand(params, 2)
    updates, state = vmap(optimizer.update)(
        tree.stack([good, spoil(good, math.nan)]), vmap(optimizer.init)(batch), batch
    )
    assert state.skipped.tolist() == [0, 1]
    assert state.inner.updates_made.tolist() == [1, 0]
    assert all(bool(leaf[0].all()) and not leaf[1].any() for leaf in tree.leaves(updates))


def test_no_nan_of_a_skipped_gradient_reaches_a_derivative_through_the_update():
    params = torch.tensor([1.0, 2.0], dtype=torch.float64)
    good, bad = torch.tensor([0.5, 0.25], dtype=torch.float64), torch.tensor([math.nan, math.inf], dtype=torch.float64)

    def loss(rate, *gradients):
        optimizer = skip_nonfinite(adam(rate))
        now, state = params, optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient + now, state, now)
            now = apply_updates(now, updates)
        return now.pow(2).sum()

    rate = torch.tensor(0.1, dtype=torch.float64)
    slope = grad(loss)(rate, good, bad, good)
    assert slope.isfinite()
    # bit for bit that of a run without it, since only zeros are added
    assert torch.equal(slope, grad(loss)(rate, good, good))


def test_updates_keep_the_dtype_of_the_parameters():
    params = {"a": torch.ones(2), "b": torch.ones(())}
    new = apply_updates(params, {"a": torch.ones(2), "b": torch.ones((), dtype=torch.float64)})
    assert [leaf.dtype for leaf in tree.leaves(new)] == [torch.float32] * 2


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_no_bound_is_refused(value):
    with pytest.raises(ValueError, match=r"clip_by_global_norm: max_norm must be (> 0|finite) \(e.g. 1.0\), got "):
        clip_by_global_norm(value)


# --- a rate in the state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [adam, sgd])
def test_a_rate_around_an_optimizer_of_rate_one_is_its_learning_rate(inner):
    params, grads = make_grads(1.0), make_grads(0.3)
    ours, theirs = with_rate(inner(1.0), 3e-2), inner(3e-2)
    state, other = ours.init(params), theirs.init(params)
    for _ in range(3):
        updates, state = ours.update(grads, state, params)
        expected, other = theirs.update(grads, other, params)
        for one, two in zip(tree.leaves(updates), tree.leaves(expected), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-15, atol=0)  # two products in another order


def test_members_with_rates_of_their_own_are_updated_as_alone():
    params, grads = make_grads(1.0), make_grads(0.3)
    optimizer = with_rate(adam(1.0))
    rates = torch.tensor([1e-3, 1e-2], dtype=torch.float64)
    state = optimizer.init(params)

    def step(rate):
        return optimizer.update(grads, state._replace(rate=rate), params)[0]

    both = vmap(step)(rates)
    for place, rate in enumerate(rates):
        alone, _ = adam(float(rate)).update(grads, adam(1.0).init(params), params)
        for one, two in zip(tree.leaves(both), tree.leaves(alone), strict=True):
            torch.testing.assert_close(one[place], two, rtol=1e-14, atol=0)  # rounding of three products


def test_updates_are_differentiated_by_the_rate():
    params, grads = make_grads(1.0), make_grads(0.3)
    optimizer = with_rate(sgd(1.0))
    state = optimizer.init(params)

    def decrease(rate):
        after = apply_updates(params, optimizer.update(grads, state._replace(rate=rate), params)[0])
        return sum((leaf * slope).sum() for leaf, slope in zip(tree.leaves(after), tree.leaves(grads), strict=True))

    slope = grad(decrease)(torch.tensor(0.5, dtype=torch.float64))
    expected = -sum(leaf.pow(2).sum() for leaf in tree.leaves(grads))
    torch.testing.assert_close(slope, expected, rtol=1e-14, atol=0)  # the same sum


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="with_rate: rate must be"):
        with_rate(sgd(1.0), rate)
