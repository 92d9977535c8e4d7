"""Optimizers agree with torch.optim, and pass vmap, grad and torch.compile."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.optim import lr_scheduler

from aits_func.base import tree
from aits_func.learning.optimizers import adam, adamw, apply_updates, build_optimizer, sgd
from aits_func.learning.schedules import cosine_decay, exponential_decay

STEPS = 50
# One update differs from torch's by roundings (1e-16). With a momentum that averages they hardly
# grow in 50 steps; measured: at most 3e-14. (With b1 = 0 or b2 = 0 Adam's steps hardly shrink with
# the gradient, it bounces around the minimum, and 1e-16 becomes 1e-1: those are compared on
# gradients that are given.)
AGREEMENT = {"rtol": 1e-12, "atol": 1e-12}


class Layer(NamedTuple):
    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)


def make_params(seed=0, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=make, dtype=torch.float64).to(dtype)

    layers = (Layer(draw(4, 2), draw(4)), Layer(draw(1, 4), draw(1)))
    return {"net": {"layers": layers}, "gain": (draw(),), "centre": draw(2)}


def loss(params):
    """A network on fixed data plus Rosenbrock's valley: neither quadratic nor convex."""
    dtype = params["centre"].dtype
    x = torch.linspace(-1, 1, 12, dtype=dtype).reshape(6, 2)
    first, second = params["net"]["layers"]
    y = torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    fit = (params["gain"][0] * y[:, 0] - x.prod(-1).sin()).pow(2).mean()
    a, b = params["centre"]
    return fit + 0.1 * (b - a * a).pow(2) + 0.1 * (1 - a).pow(2)


def run(optimizer, params, steps=STEPS, gradient=grad(loss)):  # noqa: B008
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradient(params), state, params)
        params = apply_updates(params, updates)
    return params


def run_torch(make, params, *, clip_norm=None, schedule=None):
    """(the parameters after STEPS of loss, the gradients on the way).

    The peer is then run on those gradients: along its own path a rounding error of a gradient near 0, which
    Adam divides by the gradient's own size, grows from step to step, on some machines beyond the tolerance.
    """
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    optimizer = make(leaves)
    scheduler = None if schedule is None else schedule(optimizer)
    seen = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(tree.replace_leaves(params, leaves)).backward()
        seen.append(tree.replace_leaves(params, [leaf.grad.clone() for leaf in leaves]))
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return tree.replace_leaves(params, [leaf.detach() for leaf in leaves]), seen


def replayed(gradients):
    given = iter(gradients)
    return lambda params: next(given)


def assert_close(actual, expected, **tolerance):
    named, others = tree.named_leaves(actual), tree.named_leaves(expected)
    assert named.keys() == others.keys()
    for name, leaf in named.items():
        torch.testing.assert_close(leaf, others[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def assert_same(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


SGD_CASES = [
    {},
    {"weight_decay": 0.05},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.8, "dampening": 0.5, "weight_decay": 0.05},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
]


@pytest.mark.parametrize("options", SGD_CASES, ids=str)
def test_fifty_steps_of_sgd_are_those_of_torch(options):
    expected, seen = run_torch(lambda leaves: torch.optim.SGD(leaves, lr=0.05, **options), make_params())
    assert_close(run(sgd(0.05, **options), make_params(), gradient=replayed(seen)), expected, **AGREEMENT)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (adam, torch.optim.Adam, {}),
        (adam, torch.optim.Adam, {"weight_decay": 0.1}),
        (adamw, torch.optim.AdamW, {}),
        (adamw, torch.optim.AdamW, {"weight_decay": 0.0}),
        (adamw, torch.optim.AdamW, {"weight_decay": 0.3}),
    ],
)
@pytest.mark.parametrize(("b1", "b2", "eps"), [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3)])
def test_fifty_steps_of_adam_and_adamw_are_those_of_torch(ours, theirs, options, b1, b2, eps):
    expected, seen = run_torch(
        lambda leaves: theirs(leaves, lr=0.03, betas=(b1, b2), eps=eps, **options), make_params()
    )
    assert_close(
        run(ours(0.03, b1=b1, b2=b2, eps=eps, **options), make_params(), gradient=replayed(seen)), expected, **AGREEMENT
    )


@pytest.mark.parametrize(("ours", "theirs"), [(adam, torch.optim.Adam), (adamw, torch.optim.AdamW)])
@pytest.mark.parametrize(("b1", "b2"), [(0.0, 0.0), (0.0, 0.9), (0.5, 0.0)])
def test_adam_without_memory_is_that_of_torch_on_given_gradients(ours, theirs, b1, b2):
    given = [make_params(seed) for seed in range(1, 9)]
    gradients = iter(given)
    params = run(ours(0.03, b1=b1, b2=b2), make_params(), 8, lambda params: next(gradients))
    leaves = [leaf.clone() for leaf in tree.leaves(make_params())]
    optimizer = theirs(leaves, lr=0.03, betas=(b1, b2))
    for gradient in given:
        for leaf, value in zip(leaves, tree.leaves(gradient), strict=True):
            leaf.grad = value.clone()
        optimizer.step()
    assert_close(params, tree.replace_leaves(params, leaves), **AGREEMENT)


@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        ("sgd", {"momentum": 0.9}, lambda leaves: torch.optim.SGD(leaves, lr=0.05, momentum=0.9)),
        ("sgd", {"weight_decay": 0.1}, lambda leaves: torch.optim.SGD(leaves, lr=0.05, weight_decay=0.1)),
        ("adam", {}, lambda leaves: torch.optim.Adam(leaves, lr=0.05)),
        ("adam", {"weight_decay": 0.1}, lambda leaves: torch.optim.Adam(leaves, lr=0.05, weight_decay=0.1)),
        ("adamw", {}, lambda leaves: torch.optim.AdamW(leaves, lr=0.05)),
        ("adamw", {"weight_decay": 0.0}, lambda leaves: torch.optim.Adam(leaves, lr=0.05)),
    ],
)
@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_an_optimizer_built_by_name_is_that_of_torch_behind_its_clipping(name, options, make, clip_norm):
    expected, seen = run_torch(make, make_params(), clip_norm=clip_norm)
    optimizer = build_optimizer(name, 0.05, clip_norm=clip_norm, **options)
    assert_close(run(optimizer, make_params(), gradient=replayed(seen)), expected, **AGREEMENT)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(sgd, torch.optim.SGD), (adam, torch.optim.Adam), (adamw, torch.optim.AdamW)]
)
def test_a_schedule_is_that_of_torch_at_the_same_update(ours, theirs):
    for schedule, build in [
        (exponential_decay(0.05, 0.9), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9)),
        (cosine_decay(0.05, STEPS), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS)),
    ]:
        expected, seen = run_torch(lambda leaves: theirs(leaves, lr=0.05), make_params(), schedule=build)
        assert_close(run(ours(schedule), make_params(), gradient=replayed(seen)), expected, **AGREEMENT)


BUILDERS = {
    "sgd": lambda rate: sgd(rate, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": lambda rate: sgd(rate, momentum=0.9, dampening=0.3),
    "adam": lambda rate: adam(rate, weight_decay=0.01),
    "adamw": lambda rate: adamw(rate),
    "guarded": lambda rate: build_optimizer("adam", rate, clip_norm=0.3),
}
builders = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


@builders
def test_a_tensor_rate_is_the_number_and_the_constant_schedule(build):
    expected = run(build(0.05), make_params(), steps=3)
    assert_same(run(build(tensor(0.05)), make_params(), steps=3), expected)
    assert_same(run(build(lambda count: tensor(0.05)), make_params(), steps=3), expected)


@builders
def test_vmap_over_parameter_sets_is_the_loop(build):
    each = [make_params(seed) for seed in range(3)]
    together = vmap(lambda params: run(build(0.05), params, steps=4))(tree.stack(each))
    # batched products and sums may round differently, by 1e-16 of the sum; four steps hardly magnify it
    assert_close(together, tree.stack([run(build(0.05), params, steps=4) for params in each]), rtol=1e-12, atol=1e-12)


@builders
def test_a_state_made_outside_vmap_goes_through_it(build):
    optimizer = build(0.05)
    params = tree.stack([make_params(seed) for seed in range(3)])
    grads = vmap(grad(loss))(params)
    updates, state = vmap(optimizer.update)(grads, vmap(optimizer.init)(params), params)
    for lane in range(3):
        one = tree.take(params, lane)
        expected, expected_state = optimizer.update(tree.take(grads, lane), optimizer.init(one), one)
        # clipping sums in another order; all else is elementwise
        assert_close(tree.take(updates, lane), expected, rtol=1e-13, atol=0)
        assert_close(tree.take(state, lane), expected_state, rtol=1e-13, atol=0)


@builders
def test_vmap_over_learning_rates_is_the_loop(build):
    rates = tensor([0.001, 0.02, 0.1])
    params = make_params()
    together = vmap(lambda rate: run(build(rate), params, steps=4))(rates)
    each = [run(build(rate), params, steps=4) for rate in rates]
    assert_close(together, tree.stack(each), rtol=1e-12, atol=1e-12)  # as for the parameter sets


@builders
def test_the_gradient_by_the_learning_rate_through_five_updates_is_the_finite_difference(build):
    def after(rate):
        return loss(run(build(rate), make_params(), steps=5))

    rate, step = tensor(0.03), 1e-5
    difference = (after(rate + step) - after(rate - step)) / (2 * step)
    slope = grad(after)(rate)
    # truncation: step² f'''/(6 f'), measured 2e-8 at most; rounding: 1e-16 / step = 1e-11
    torch.testing.assert_close(slope, difference, rtol=3e-7, atol=0)
    assert slope < -1  # a larger rate would have come further


@builders
def test_a_weight_without_gradient_does_not_poison_the_gradient_by_the_learning_rate(build):
    def dead(params):
        """The gradient by ``unused`` is 0 by way of a function of ``used``, as behind a dead unit."""
        return params["used"].cosh().sum() + (params["unused"] * torch.relu(-params["used"].pow(2))).sum()

    def after(rate):
        params = {"used": tensor([1.0, 2.0]), "unused": tensor([0.0, 3.0])}
        new = run(build(rate), params, steps=3, gradient=grad(dead))
        return sum(leaf.sum() for leaf in tree.leaves(new))

    assert grad(after)(tensor(0.03)).isfinite()
    assert grad(grad(after))(tensor(0.03)).isfinite()


def test_an_update_compiles_without_a_graph_break():
    optimizer = build_optimizer("adamw", cosine_decay(0.05, 10), clip_norm=0.3)
    compiled = torch.compile(optimizer.update, fullgraph=True, backend="aot_eager")
    params = make_params()
    grads, state = grad(loss)(params), optimizer.init(params)
    for stance in ("default", "fail_on_recompile"):  # the second call, with other counts, reuses the first's code
        with torch.compiler.set_stance(stance):
            updates, new = compiled(grads, state, params)
        expected, expected_new = optimizer.update(grads, state, params)
        # aot_eager runs the same kernels; decompositions may reorder a product
        assert_close(updates, expected, rtol=1e-14, atol=0)
        assert_close(new, expected_new, rtol=1e-14, atol=0)
        state = new


@builders
def test_an_update_leaves_its_inputs_bit_for_bit_as_they_were(build):
    optimizer, params = build(0.05), make_params()
    grads, state = grad(loss)(params), optimizer.init(params)
    _, state = optimizer.update(grads, state, params)
    before = tree.map_leaves(torch.clone, (grads, state, params))
    updates, _ = optimizer.update(grads, state, params)
    apply_updates(params, updates)
    assert_same((grads, state, params), before)


@builders
def test_no_gradient_is_asked_for_and_none_is_recorded(build):
    optimizer, params = build(0.05), make_params()
    out = optimizer.update(grad(loss)(params), optimizer.init(params), params)
    assert not any(leaf.requires_grad for leaf in tree.leaves(out))


@builders
@pytest.mark.parametrize("rate", [0.05, tensor(0.05), cosine_decay(0.05, 10)], ids=["number", "tensor", "schedule"])
def test_float32_stays_float32_and_counts_stay_integers(build, rate):
    optimizer, params = build(rate), make_params(dtype=torch.float32)
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(grad(loss)(params), state, params)
        params = apply_updates(params, updates)
    assert {leaf.dtype for leaf in tree.leaves((updates, params))} == {torch.float32}
    for name, leaf in tree.named_leaves(state).items():
        counts = name.endswith(("updates_made", "skipped"))
        assert leaf.dtype == (torch.int64 if counts else torch.float32), name


def test_the_bias_correction_has_all_the_digits_of_float32():
    params = torch.ones(3)
    gradient = torch.full((3,), 0.5)
    updates, _ = adam(0.1).update(gradient, adam(0.1).init(params), params)
    # the first update is −η g/(|g| + ε): 5 roundings of 6e-8; with 1 − 0.999 in float32 it is 2.4e-5 off
    torch.testing.assert_close(updates, torch.full((3,), -0.1), rtol=3e-7, atol=0)


def test_a_bad_gradient_in_a_run_is_as_if_it_had_not_been():
    def bad_at_third(params):
        calls.append(None)
        grads = grad(loss)(params)
        return tree.map_leaves(lambda leaf: leaf * math.nan, grads) if len(calls) == 3 else grads

    calls = []
    optimizer = build_optimizer("adam", exponential_decay(0.05, 0.9), clip_norm=0.3)
    assert_same(run(optimizer, make_params(), steps=9, gradient=bad_at_third), run(optimizer, make_params(), steps=8))
    assert len(calls) == 9


def test_the_state_is_tensors_only_and_empty_without_momentum():
    params = make_params()
    assert sgd(0.1).init(params).velocity == ()
    for build in BUILDERS.values():
        assert all(isinstance(leaf, Tensor) for leaf in tree.leaves(build(0.1).init(params)))


def test_the_memory_of_a_fresh_state_is_not_shared():
    first = tree.leaves(adam(0.1).init(make_params()))
    assert len({leaf.data_ptr() for leaf in first}) == len(first)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adam(math.nan), r"^adam: learning_rate must be > 0 \(e.g. 1e-3\), got nan$"),
        (lambda: adamw(0), r"^adamw: learning_rate must be > 0 \(e.g. 1e-3\), got 0$"),
        (lambda: sgd(-1.0), r"^sgd: learning_rate must be > 0 \(e.g. 1e-3\), got -1.0$"),
        (lambda: sgd(math.inf), r"^sgd: learning_rate must be finite \(e.g. 1e-3\), got inf$"),
        (lambda: adam(torch.ones(2)), r"^adam: learning_rate must be a number or a \(\) tensor .*, got \(2,\)$"),
        (lambda: adam(0.1, b1=1.0), r"^adam: b1 must be in \[0, 1\) \(e.g. 0.9\), got 1.0$"),
        (lambda: adamw(0.1, b2=math.nan), r"^adamw: b2 must be in \[0, 1\) \(e.g. 0.9\), got nan$"),
        (lambda: adam(0.1, eps=0.0), r"^adam: eps must be > 0 \(e.g. 1e-8\), got 0.0$"),
        (lambda: adam(0.1, weight_decay=math.nan), r"^adam: weight_decay must be >= 0 and finite .*, got nan$"),
        (lambda: sgd(0.1, weight_decay=-1.0), r"^sgd: weight_decay must be >= 0 and finite .*, got -1.0$"),
        (lambda: sgd(0.1, momentum=math.nan), r"^sgd: momentum must be in \[0, 1\) .*, got nan$"),
        (lambda: sgd(0.1, momentum=0.9, dampening=2.0), r"^sgd: dampening must be in \[0, 1\] .*, got 2.0$"),
        (lambda: sgd(0.1, nesterov=True), r"^sgd: nesterov needs momentum > 0 \(e.g. 0.9\), got 0.0$"),
        (
            lambda: sgd(0.1, nesterov=True, momentum=0.9, dampening=0.1),
            r"^sgd: nesterov needs dampening = 0, got 0.1$",
        ),
        (lambda: build_optimizer("lion", 0.1), r"^build_optimizer: name must be one of sgd, adam, adamw, got 'lion'$"),
        (lambda: build_optimizer("adam", math.nan), r"^adam: learning_rate must be > 0 \(e.g. 1e-3\), got nan$"),
        (lambda: build_optimizer("adam", 0.1, weight_decay=-1.0), r"^adam: weight_decay must be >= 0 .*, got -1.0$"),
        (
            lambda: build_optimizer("adam", 0.1, clip_norm=0.0),
            r"^clip_by_global_norm: max_norm must be > 0 .*, got 0.0$",
        ),
        (
            lambda: build_optimizer("adamw", 0.1, momentum=0.9),
            r"^build_optimizer: momentum must be 0 with adamw, .* 0.9$",
        ),
        (lambda: build_optimizer("sgd", 0.1, momentum=1.0), r"^sgd: momentum must be in \[0, 1\) .*, got 1.0$"),
        (lambda: adam(0.1).init(()), r"^init: params must hold at least one tensor, got an empty tree$"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_name_and_a_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
