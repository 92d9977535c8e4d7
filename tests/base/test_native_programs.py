"""Whole functions as native code, called through an `Engine`: batches of all sizes, networks, threads, scans."""

import itertools
import threading

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base import engine as engines
from aits_func.base.engine import build_engine, missing_compiler
from aits_func.base.native_source import write_source

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
SIZES = (
    *(1, 5, 33, 257, 1000),  # a part of a vector, of a tile, of a chunk
    *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 8, 31, 48, 64, 255, 512, 5000)),
)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(autouse=True)
def natively(monkeypatch):
    """Nothing here may be compiled by anybody else."""

    def refuse(graph, example):
        raise AssertionError("this is not native code")

    monkeypatch.setattr(engines, "_machine_code", refuse)


def is_native(engine):
    """Whether all that it has compiled is native."""
    return bool(engine._compiled) and all(code.back_end == "native" for code in engine._compiled.values())


def leaves_of(result):
    return torch.utils._pytree.tree_leaves(result)


def assert_same_bits(ours, theirs):
    for mine, expected in zip(leaves_of(ours), leaves_of(theirs), strict=True):
        assert (mine.shape, mine.dtype) == (expected.shape, expected.dtype)
        assert torch.equal(mine, expected)


def assert_close(ours, theirs, rtol, atol):
    for mine, expected in zip(leaves_of(ours), leaves_of(theirs), strict=True):
        assert (mine.shape, mine.dtype) == (expected.shape, expected.dtype)
        torch.testing.assert_close(mine, expected, rtol=rtol, atol=atol)


# --- batches of all sizes --------------------------------------------------------------------------------------------


def network(weights, x):
    w, b, v = weights
    return torch.tanh(x @ w + b) @ v


def study(weights, x):
    """Of everything something: lanes, rows, a mask, a count, and gradients that need a sum over the batch first."""
    chosen = x[..., 0] > -0.5

    def loss(weights):
        miss = (vmap(network, in_dims=(None, 0))(weights, x).squeeze(-1) - x[..., 1]).square()
        return torch.where(chosen, miss, 0.0).sum() / chosen.to(x.dtype).sum().clamp(min=1)

    slopes = grad(loss)(weights)
    value = network(weights, x).squeeze(-1)
    # The gradient's size is known when all systems have been seen, and then wanted by every one of them.
    moved = x - 0.1 * slopes[2].square().sum() * (x - x.mean(0))
    return {
        "slopes": slopes,
        "value": value,
        "moved": moved,
        "chosen": chosen,
        "count": chosen.sum(),
        "most": value.amax(),
        "padded": torch.stack([value, torch.zeros_like(value), value.mean().expand(value.shape)], 1),
    }


WEIGHTS = (random(3, 20, seed=1), random(20, seed=2), 0.2 * random(20, 1, seed=3))


@pytest.fixture(scope="module")
def studied():
    return build_engine(study, mode="on", batched=(False, True))


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
def test_batches_of_any_size_give_what_torch_gives(studied, size):
    # Sums of twenty numbers of order one; over the batch means of numbers of order one, of which rounding errors of
    # 1e-16 add up like √5000 at random, or 70.
    assert_close(studied(WEIGHTS, random(size, 3)), study(WEIGHTS, random(size, 3)), rtol=1e-13, atol=1e-13)
    assert is_native(studied)


@needs_compiler
def test_a_batch_in_single_precision_gives_what_torch_gives():
    def without_whole_numbers(weights, x):
        return {name: value for name, value in study(weights, x).items() if name != "count"}

    engine = build_engine(without_whole_numbers, mode="on", batched=(False, True))
    single = tuple(w.float() for w in WEIGHTS)
    for size in (33, 1000):
        x = random(size, 3).float()
        ours = engine(single, x)
        exact = study(WEIGHTS, x.double())
        # Within 1e-5 of the exact numbers: some hundred roundings of 6e-8 of numbers of order one.
        for name, value in ours.items():
            for mine, expected in zip(leaves_of(value), leaves_of(exact[name]), strict=True):
                assert mine.dtype == (torch.bool if name == "chosen" else torch.float32)
                torch.testing.assert_close(mine, expected.to(mine.dtype), rtol=1e-5, atol=1e-5)


def square(weights, x):
    """A batch of 64 with layers of 64, or of 3 with bodies of 3: no axis can be known by its size."""
    w, b = weights
    hidden = torch.relu(x @ w + b)
    results = hidden.sum(0), hidden.sum(1), (hidden @ w)[:, 2], hidden.t() @ x, x.t().sum(0)
    if len(x) == 3:
        results = *results, x[:, :, None] - x[:, None, :], x - x.mean(0), x - x.mean(1, keepdim=True), x * b, w + 1
    return results


@needs_compiler
@pytest.mark.parametrize("size", [3, 64])
def test_a_batch_as_long_as_another_axis_is_not_taken_for_it(size):
    engine = build_engine(square, mode="on", batched=(False, True))
    weights, x = (random(size, size), random(size, seed=2)), random(size, size, seed=3)
    assert_close(engine(weights, x), square(weights, x), rtol=0, atol=1e-12)  # sums of 64 products, two times over
    assert is_native(engine)


# --- networks --------------------------------------------------------------------------------------------------------


def silu(x):
    return x * torch.sigmoid(x)


def layers(width, outputs, seed):
    shapes = ((3, width), (width,), (width, width), (width,), (width, outputs), (outputs,))
    return [random(*shape, seed=seed + k) / max(1, shape[0]) ** 0.5 for k, shape in enumerate(shapes)]


def fit(activation, weights, x, target):
    """Values, and the gradient of a loss, of a network that is written for one system."""

    def one(weights, x):
        first, a, second, b, third, c = weights
        hidden = activation(torch.nn.functional.linear(x, first.t(), a))
        return activation(hidden @ second + b) @ third + c

    def loss(weights):
        return (vmap(one, in_dims=(None, 0))(weights, x) - target).square().mean()

    return vmap(one, in_dims=(None, 0))(weights, x), grad(loss)(weights)


@needs_compiler
@pytest.mark.parametrize(
    ("width", "outputs", "activation"),
    [
        (1, 3, torch.tanh),
        pytest.param(2, 1, torch.relu, marks=pytest.mark.slow),
        pytest.param(3, 3, silu, marks=pytest.mark.slow),
        (5, 1, torch.sigmoid),
        pytest.param(20, 3, torch.relu, marks=pytest.mark.slow),
        (64, 1, silu),
        (65, 3, torch.tanh),
    ],
)
def test_networks_and_their_gradients_are_those_of_torch(width, outputs, activation):
    def fitted(weights, x, target):
        return fit(activation, weights, x, target)

    engine = build_engine(fitted, mode="on", batched=(False, True, True))
    weights, x, target = layers(width, outputs, 10), random(100, 3), random(100, outputs, seed=5)
    # Sums of up to 65 products, three times, and of 100 systems: numbers of order one, each with a rounding of 1e-16.
    assert_close(engine(weights, x, target), fitted(weights, x, target), rtol=1e-12, atol=1e-13)
    assert is_native(engine)


# --- threads, memory -------------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
def test_bits_depend_neither_on_the_number_of_threads_nor_on_earlier_calls(studied, threads):
    x = random(5000, 3)
    threads(1)
    alone = studied(WEIGHTS, x)
    studied(WEIGHTS, torch.full_like(x, torch.nan))  # leaves what it likes in the memory that is kept
    for count in (1, 2, 2, 3):
        threads(count)
        assert_same_bits(studied(WEIGHTS, x), alone)


@needs_compiler
def test_a_call_writes_to_no_argument_and_gives_memory_of_its_own(studied):
    weights, x = tuple(w.clone() for w in WEIGHTS), random(257, 3)
    ours = studied(weights, x)
    assert_same_bits((weights, x), (WEIGHTS, random(257, 3)))
    kept = [leaf.clone() for leaf in leaves_of(ours)]
    again = studied(weights, x + 1)  # no result of a call lies where one of another does
    assert_same_bits(leaves_of(ours), kept)
    places = [leaf.data_ptr() for leaf in (*leaves_of(ours), *leaves_of(again), *weights, x)]
    assert len(set(places)) == len(places)
    for leaf in leaves_of(ours):
        leaf.zero_()
    assert_same_bits(studied(weights, x), kept)


@needs_compiler
def test_arguments_in_any_order_of_memory_give_the_same_bits(studied):
    x = random(257, 3)
    plain = studied(WEIGHTS, x)
    w, b, v = WEIGHTS
    wide = random(3, 514, seed=8)
    wide[:, ::2] = x.t()
    for weights, lying in (
        ((w.t().contiguous().t(), b, v), x.t().contiguous().t()),
        ((torch.stack([w, w], -1)[..., 0], torch.stack([b, b], -1)[..., 1], v.expand(20, 1)), wide.t()[::2]),
        ((w, b, v), torch.cat([x, x])[257:]),
    ):
        assert torch.equal(lying, x)
        assert_same_bits(studied(weights, lying), plain)


@needs_compiler
def test_two_threads_that_call_one_engine_at_the_same_time_get_each_its_own_results(studied, threads):
    threads(1)
    inputs = [random(1000, 3, seed=seed) for seed in range(2)]
    expected = [studied(WEIGHTS, x) for x in inputs]
    start, wrong, done = threading.Barrier(2), [], []

    def call(number):
        start.wait()
        for _ in range(200):
            ours = leaves_of(studied(WEIGHTS, inputs[number]))
            if not all(map(torch.equal, ours, leaves_of(expected[number]))):
                wrong.append(number)
        done.append(number)

    each = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    assert (wrong, sorted(done)) == ([], [0, 1])


# --- calls in turn ---------------------------------------------------------------------------------------------------


def step(carry, x):
    """Two carried arrays that change places, and something of every step."""
    here, there, count = carry
    forward = torch.tanh(there + x["push"][:, None] * x["scale"])
    return (forward, here, count + 1), {"length": forward.square().sum(1), "all": forward.sum()}


def carried(batch=40):
    return random(batch, 3), random(batch, 3, seed=1), torch.zeros(batch, dtype=torch.int64)


def steps(count, batch=40):
    return {"push": random(count, batch, seed=2), "scale": random(count, batch, 3, seed=3)}


def in_a_loop(function, carry, rest):
    noted = []
    for k in range(len(leaves_of(rest)[0])):
        carry, y = function(carry, {name: x[k] for name, x in rest.items()})
        noted.append(y)
    return carry, {name: torch.stack([y[name] for y in noted]) for name in noted[0]}


@pytest.fixture(scope="module")
def scanned():
    return build_engine(step, mode="on", batched=(True, True))


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_a_scan_has_the_bits_of_calls_in_a_loop_and_leaves_its_carry_alone(scanned, count, monkeypatch):
    carry, rest = carried(), steps(count)
    expected = in_a_loop(scanned, carried(), rest)
    monkeypatch.setattr(scanned, "_function", None)
    monkeypatch.setattr(engines._Native, "__call__", None)  # one call into native code, and no other
    last, noted = scanned.scan(carry, rest)
    assert_same_bits((last, noted), expected)
    assert_same_bits((carry, rest), (carried(), steps(count)))
    assert not {x.data_ptr() for x in last} & {x.data_ptr() for x in carry}
    assert is_native(scanned)
    shape, dtype = last[2].shape, last[2].dtype
    assert torch.equal(last[2], torch.full(shape, count, dtype=dtype))  # every step was made, once


@needs_compiler
def test_a_scan_takes_its_arguments_in_any_order_of_memory(scanned):
    rest = steps(16)
    expected = scanned.scan(carried(), rest)
    turned = {name: x.movedim(0, -1).contiguous().movedim(-1, 0) for name, x in rest.items()}
    assert_same_bits(
        scanned.scan(tuple(x.movedim(0, -1).contiguous().movedim(-1, 0) for x in carried()), turned), expected
    )
    same = {name: x[:1].expand(5, *x.shape[1:]) for name, x in rest.items()}  # five times the same memory
    assert_same_bits(scanned.scan(carried(), same), in_a_loop(scanned, carried(), same))


def test_without_a_compiler_a_scan_is_a_loop():
    engine = build_engine(step, mode="off", batched=(True, True))
    assert_same_bits(engine.scan(carried(), steps(3)), in_a_loop(step, carried(), steps(3)))


@needs_compiler
def test_a_scan_whose_carry_changes_its_shape_is_a_loop(monkeypatch):
    monkeypatch.setattr(engines, "_machine_code", lambda graph, example: graph)  # nothing else need be compiled here

    def longer(carry, x):
        return torch.cat([carry, x["push"][:, None]], 1), {"sum": carry.sum(1)}

    engine = build_engine(longer, mode="on", batched=(True, True))
    start, rest = random(12, 1), {"push": random(3, 12, seed=1)}
    last, noted = engine.scan(start, rest)
    expected, expected_noted = in_a_loop(longer, start, rest)
    assert last.shape == (12, 4)
    # Sums of three numbers in the same order.
    assert_close((last, noted), (expected, expected_noted), rtol=0, atol=1e-15)


@needs_compiler
def test_a_scan_that_is_differentiated_runs_eagerly_and_keeps_its_gradients(scanned):
    rest = steps(3)

    def end(scan, start):
        _, there, count = carried()
        (last, *_), noted = scan((start, there, count), rest)
        return last.sum() + noted["all"].sum()

    by_scan = grad(lambda start: end(scanned.scan, start))(carried()[0])
    by_loop = grad(lambda start: end(lambda *given: in_a_loop(step, *given), start))(carried()[0])
    assert by_scan.abs().max() > 0
    assert torch.equal(by_scan, by_loop)


# --- members side by side --------------------------------------------------------------------------------------------


@needs_compiler
def test_members_side_by_side_have_the_bits_of_each_alone(threads):
    members = 16
    weights = tuple(w + 0.1 * random(members, *w.shape, seed=4) for w in WEIGHTS)
    x = random(members, 200, 3, seed=4)
    alone = build_engine(study, mode="on", batched=(False, True))
    each = [leaves_of(alone(tuple(w[k] for w in weights), x[k])) for k in range(members)]
    expected = [torch.stack(leaves) for leaves in zip(*each, strict=True)]
    together = build_engine(study, mode="on", batched=(False, True), mapped=True)
    for count, lying in itertools.product((1, 2), (x, x.movedim(1, -1).contiguous().movedim(-1, 1))):
        threads(count)
        for _ in range(20):  # threads that wrote to the same memory would do so now and then
            assert_same_bits(leaves_of(together(weights, lying)), expected)
    assert is_native(together)
    assert is_native(alone)


# --- what a fresh look found -----------------------------------------------------------------------------------------


@needs_compiler
def test_elements_of_two_neighbours_are_not_taken_for_the_first():
    def across(matrix, first, second, x):
        rows = (x @ matrix).tanh()
        square = rows * rows
        return torch.cat([rows[:, 8:], square[:, :8]], 1).sin(), torch.cat([first[12:], second[:12]])

    engine = build_engine(across, mode="on", batched=(False, False, False, True))
    arguments = random(5, 20), random(24, seed=1), random(24, seed=2), random(40, 5, seed=3)
    # Sums of five products of order one, and functions of them that are exact to a few roundings of 1e-16.
    assert_close(engine(*arguments), across(*arguments), rtol=1e-14, atol=1e-14)
    assert is_native(engine)


@needs_compiler
def test_a_batch_of_one_beside_a_longer_axis_is_not_for_native_code(monkeypatch):
    monkeypatch.undo()
    engine = build_engine(lambda x: (x + x.new_zeros(5, 3)).sum(0), mode="on", batched=(True,))
    x = random(1, 3)
    assert_close(engine(x), 5 * x[0], rtol=1e-15, atol=0)  # five equal numbers
    assert engine.fallback != ""


@needs_compiler
@pytest.mark.parametrize(
    ("step", "carry", "batched"),
    [
        (lambda c, x: (c.t() * 1.5 + x.t(), c[:, 0]), random(3, 3), (True, True)),
        (lambda c, x: (torch.stack([x[:, 0] * 0, x[:, 0] * 0 + 1], 1), c.sum(1)), random(3, 2), (True, True)),
        (lambda c, x: (x * 2, c[1].sum() + x[:, 0]), random(3, 3), (False, True)),
        (lambda c, x: ((c[0] + x, c[1]), c[0]), (random(3, 3), random(3, 3, seed=1)), (True, True)),
    ],
    ids=["the batch moves", "all alike", "it becomes a batch", "two leaves"],
)
def test_a_carry_is_read_as_it_lies(step, carry, batched, monkeypatch):
    monkeypatch.undo()  # some of these are for TorchInductor
    engine, x = build_engine(step, mode="on", batched=batched), random(4, 3, 3, seed=9)
    expected, noted = carry, []
    for each in x:
        expected, y = step(expected, each)
        noted.append(y)
    # A few sums and products of numbers of order one.
    assert_close(engine.scan(carry, x), (expected, torch.stack(noted)), rtol=1e-13, atol=1e-13)


@needs_compiler
def test_rows_of_different_number_are_refused_and_not_read_beyond_their_end():
    engine = build_engine(lambda c, x, y: (c + x * y, x), mode="on", batched=(True, True, True))
    with pytest.raises(
        ValueError, match=r"scan: every leaf of rest must have the same number of rows >= 1, got \[2, 3\]"
    ):
        engine.scan(random(40), random(3, 40), random(2, 40))
    with pytest.raises(ValueError, match="got no leaf"):
        engine.scan(random(40))
    mapped = build_engine(lambda x, y: x * y, mode="on", batched=(True, True), mapped=True)
    with pytest.raises(ValueError, match=r"must all have one length >= 1, got \[3, 4\]"):
        mapped(random(4, 40), random(3, 40))


@needs_compiler
def test_the_fallback_is_that_of_the_latest_call(monkeypatch):
    monkeypatch.undo()
    engine = build_engine(lambda x: x.sin(), mode="on", batched=(True,))
    for size, native in ((8, True), (2, False), (8, True), (2, False)):
        engine(random(size))
        assert (engine.fallback == "") == native


@needs_compiler
def test_results_lie_on_the_cpu_whatever_the_default_device_is():
    engine = build_engine(lambda x: (x.exp(), x.sum()), mode="on", batched=(True,))
    x = random(40)
    expected = engine(x)
    with torch.device("meta"):
        assert_same_bits(engine(x), expected)
        again = build_engine(lambda x: (x.exp(), x.sum()), mode="on", batched=(True,))(x)
    assert_same_bits(again, expected)


@needs_compiler
def test_what_is_the_same_for_a_thousand_systems_is_not_written_down_a_thousand_times(monkeypatch):
    lengths = []
    load = engines.load

    def measured(program, example, batched):
        lengths.append(len(write_source(program).text))
        return load(program, example, batched)

    monkeypatch.setattr(engines, "load", measured)
    function = vmap(lambda x, w: (w.log(), x * 2), in_dims=(0, None))
    arguments = random(1000, 3), random(3, 4, seed=1).abs()
    engine = build_engine(function, mode="on", batched=(True, False))
    assert_close(engine(*arguments), function(*arguments), rtol=1e-15, atol=1e-15)  # one logarithm, one product
    assert is_native(engine)
    assert lengths[0] < 10_000  # characters; twelve numbers, and not twelve thousand


@needs_compiler
def test_ten_thousand_numbers_that_have_nothing_to_do_with_a_batch_are_not_for_native_code(monkeypatch):
    monkeypatch.setattr(engines, "_machine_code", lambda graph, example: graph)  # nothing else need be compiled here
    engine = build_engine(lambda x: (x * 2, torch.eye(100, dtype=x.dtype)), mode="on", batched=(True,))
    assert_same_bits(engine(random(7, 3)), (random(7, 3) * 2, torch.eye(100, dtype=torch.float64)))
    assert "numbers" in engine.fallback


@needs_compiler
@pytest.mark.parametrize("size", [3, 5])
def test_diagonals_of_every_system_are_native_and_those_across_the_batch_are_not(size, monkeypatch):
    monkeypatch.setattr(engines, "_machine_code", lambda graph, example: graph)  # nothing else need be compiled here
    x = random(size, 3, 3)
    for inside, function in (
        (True, lambda x: x.diagonal(dim1=1, dim2=2) * 2),
        (True, lambda x: x.diagonal(1, 2, 1).sum(1)),
        (False, lambda x: x[:, :, 0].diagonal() * 2),
        (False, lambda x: x.diagonal(0, 0, 2) * 2),
    ):
        engine = build_engine(function, mode="on", batched=(True,))
        # A few sums and products of numbers of order one.
        assert_close(engine(x), function(x), rtol=1e-15, atol=1e-15)
        assert (engine.back_end == "native") == inside
