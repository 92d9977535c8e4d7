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
    """Parts of arrays of one number replaced, in all ways there are."""
    same, first = x.sum().expand(x.shape), torch.tensor([0])
    return (
        same.index_fill(1, first, 2.0),
        same.index_fill(1, first, x.sum() * 2),
        same.index_copy(1, first, x[:, :1]),
        same.index_add(1, first, x[:, :1]),
        same.index_put((first,), x[:1]),
        same.index_put((first,), x[:1], accumulate=True),
        same.put(first, x[0, :1]),
        same.scatter(1, torch.zeros(len(x), 1, dtype=torch.int64), 3.0),
    )


def exchanged(x):
    """Parts of an array replaced by others of it, in all ways there are."""
    y, two = x.exp(), torch.tensor([1, 0])
    z = x.cos()
    z[..., two] = z[..., :2].clone()
    return (
        z,
        y.index_copy(1, two, y[:, :2]),
        (y + 1).index_add(1, two, (y + 1)[:, :2]),
        (y + 2).index_put((two,), (y + 2)[:2]),
        (y + 3).put(two, (y + 3).flatten()[:2]),
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("function", [replaced, exchanged])
def test_a_part_of_an_array_is_replaced_alone_and_read_before(function, batched, monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    engine = build_engine(function, mode="on", batched=(batched,))
    for number, (ours, theirs) in enumerate(zip(engine(x), function(x), strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0, msg=str(number))  # sums of 27 numbers
    assert engine.back_end == "inductor"
