"""What TorchInductor would compute wrongly or inaccurately is given to it otherwise."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from aits_func.base import inductor_repairs
from aits_func.base.engine import build_engine, missing_compiler

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")


def magnitudes(dtype):
    """(114, 1) numbers of both signs, from 1e-12 to 100."""
    size = torch.logspace(-12, 2, 57, dtype=torch.float64)
    return torch.cat([size, -size]).to(dtype)[:, None]


def off_by(value, exact):
    """The largest relative error, in units of the last place."""
    numbers = torch.finfo(value.dtype)
    known = (exact.abs() < numbers.max) & (exact.abs() > numbers.tiny)
    return float(((value.double() - exact).abs() / exact.abs())[known].max()) / numbers.eps


FUNCTIONS = {
    "tanh": (torch.tanh, inductor_repairs.tanh),
    "expm1": (torch.expm1, inductor_repairs.expm1),
    "elu": (lambda x: F.elu(x, 0.7), lambda x: inductor_repairs.elu(x, 0.7)),
    "celu": (lambda x: F.celu(x, 0.7), lambda x: inductor_repairs.celu(x, 0.7)),
    "atanh": (torch.atanh, inductor_repairs.atanh),
}
# A tanh of a few roundings, and a quotient in which 1 − t is at least a half: twenty of them at most.
UNITS = 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_formula_is_as_good_as_the_function_at_every_magnitude(name, dtype):
    function, formula = FUNCTIONS[name]
    x = magnitudes(dtype)
    assert off_by(formula(x), function(x.double())) < UNITS
    assert torch.equal(formula(x).isnan(), function(x).isnan())


def test_the_formula_of_the_error_function_is_as_good_in_single_precision():
    x = magnitudes(torch.float32)
    assert off_by(inductor_repairs.erf(x), torch.erf(x.double())) < UNITS


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_numbers_keep_their_digits_when_torchinductor_compiles(dtype, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    functions = {name: function for name, (function, _) in FUNCTIONS.items()} | {"erf": torch.erf, "selu": F.selu}
    engine = build_engine(lambda x: {name: f(x) for name, f in functions.items()}, mode="on", batched=(True,))
    x = magnitudes(dtype)
    ours = engine(x)
    assert engine.back_end == "inductor"
    for name, function in functions.items():
        assert off_by(ours[name], function(x.double())) < UNITS, name


def replaced(x):
    """Parts of arrays of one number replaced, in all ways there are; none of the arrays is read a second time."""
    same, first = [(x.sum() + k).expand(x.shape) for k in range(8)], torch.tensor([0])
    return (
        same[0].index_fill(1, first, 2.0),
        same[1].index_fill(1, first, x.sum() * 2),
        same[2].index_copy(1, first, x[:, :1]),
        same[3].index_add(1, first, x[:, :1]),
        same[4].index_put((first,), x[:1]),
        same[5].index_put((first,), x[:1], accumulate=True),
        same[6].put(first, x[0, :1]),
        same[7].scatter(1, torch.zeros(len(x), 1, dtype=torch.int64), 3.0),
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("batched", [True, False])
def test_a_part_of_an_array_of_one_number_is_replaced_alone(batched, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    engine = build_engine(replaced, mode="on", batched=(batched,))
    for number, (ours, theirs) in enumerate(zip(engine(x), replaced(x), strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0, msg=str(number))  # sums of 27 numbers
    assert engine.back_end == "inductor"


TWO = torch.tensor([1, 0])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "exchange",
    [
        lambda y: y.index_copy(0, TWO, y[:2]),
        lambda y: y.index_add(0, TWO, y[:2]),
        lambda y: y.index_put((TWO,), y[:2]),
        lambda y: y.put(TWO, y[:2]),
    ],
    ids=["index_copy", "index_add", "index_put", "put"],
)
def test_numbers_that_take_the_place_of_others_of_one_array_are_read_before(exchange, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    x = torch.arange(9, dtype=torch.float64)
    engine = build_engine(lambda x: exchange(x.square()), mode="on", batched=(True,))
    assert torch.equal(engine(x), exchange(x.square()))  # whole numbers
    assert engine.back_end == "inductor"
