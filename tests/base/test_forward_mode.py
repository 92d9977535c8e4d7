"""Forward mode keeps the type of numbers, at any nesting, and is torch's in all else."""

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base.forward_mode import jvp, number

WITH_NUMBERS = {
    "x * 2.5": lambda x: x * 2.5,
    "2.5 * x": lambda x: 2.5 * x,
    "x / 2.5": lambda x: x / 2.5,
    "0.5 / x": lambda x: 0.5 / x,
    "x + 0.5": lambda x: x + 0.5,
    "0.5 + x": lambda x: 0.5 + x,
    "x - 0.5": lambda x: x - 0.5,
    "0.5 - x": lambda x: 0.5 - x,
    "x / 2": lambda x: x / 2,
    "x ** 1.5": lambda x: x**1.5,
    "exp of a product": lambda x: (0.3 * x).exp(),
    "a number of its own": lambda x: number(2.5, x) * x,
    "a network of it": lambda x: torch.nn.functional.linear(torch.stack([0.3 * x, x - 0.1]), torch.eye(2).to(x)).sum(),
}
SINGLE = {"float32": torch.float32, "float64": torch.float64}
ULPS = 8  # of some three operations, and of what the type of 0.3 makes of it


def at(dtype):
    return torch.tensor(0.71875, dtype=dtype)  # a number of both types


@pytest.mark.parametrize("function", WITH_NUMBERS.values(), ids=WITH_NUMBERS)
@pytest.mark.parametrize("dtype", SINGLE.values(), ids=SINGLE)
def test_value_and_derivative_are_of_the_type_and_those_of_reverse_mode_in_float64(function, dtype):
    one = torch.ones((), dtype=dtype)

    def slope(x):
        return jvp(function, (x,), (torch.ones_like(x),))[1]

    value, first = jvp(function, (at(dtype),), (one,))
    second = jvp(slope, (at(dtype),), (one,))[1]
    mixed = grad(slope)(at(dtype))
    mapped = vmap(slope)(at(dtype).expand(3))
    expected = grad(function)(at(torch.float64))
    curved = grad(grad(function))(at(torch.float64))
    assert {x.dtype for x in (value, first, second, mixed, mapped)} == {dtype}
    assert (value.shape, first.shape, second.shape, mapped.shape) == ((), (), (), (3,))
    near = {"rel": ULPS * torch.finfo(dtype).eps, "abs": ULPS * torch.finfo(dtype).eps}
    assert float(value) == pytest.approx(float(function(at(torch.float64))), **near)
    assert float(first) == pytest.approx(float(expected), **near)
    assert mapped.tolist() == pytest.approx([float(expected)] * 3, **near)
    assert float(second) == pytest.approx(float(curved), **near)
    assert float(mixed) == pytest.approx(float(curved), **near)


def test_trees_go_in_and_come_out_as_they_are():
    given = {"a": torch.arange(6.0).reshape(2, 3), "b": (torch.tensor(2.0),)}
    value, rate = jvp(
        lambda tree, x: {"sum": 0.5 * tree["a"].sum() * x, "b": tree["b"]},
        (given, at(torch.float32)),
        (given, at(torch.float32)),
    )
    assert value["sum"].shape == rate["sum"].shape == value["b"][0].shape == ()
    assert float(rate["sum"]) == 2 * float(value["sum"])  # of a product of two numbers that grow by themselves
    assert rate["b"][0].dtype == torch.float32


@pytest.mark.parametrize("sign", ["*", "/", "+", "-"])
def test_a_number_changes_no_bit_and_keeps_the_type_under_torchs_own_forward_mode(sign):
    signs = {"*": torch.mul, "/": torch.div, "+": torch.add, "-": torch.sub}
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))

    def ours(x):
        return signs[sign](x, number(0.3, x))

    plain = torch.stack([signs[sign](row, 0.3) for row in x])
    value, rate = zip(*(torch.func.jvp(ours, (row,), (row,)) for row in x), strict=True)
    assert torch.equal(torch.stack(value), plain)
    assert {each.dtype for each in rate} == {torch.float32}
    assert torch.equal(torch.stack([ours(row) for row in x]), plain)
    assert number(0.3, x) == number(0.3, x[0]) == 0.3  # out of forward mode it is itself
