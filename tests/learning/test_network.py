"""The network is a stack of torch.nn.Linear, behind Fourier features if wanted, and a function of its seed."""

import math

import pytest
import torch
from torch import nn
from torch.func import grad, jacrev, vmap

from aits_func.base import tree
from aits_func.learning.network import Layer, build_mlp

# Matrix products of at most 8 terms of size 1: the same kernels, but batched they may sum in another order.
ROUNDING = {"rtol": 1e-13, "atol": 1e-14}
MODULES = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torch_stack(params, activation):
    modules = []
    for layer in params:
        linear = nn.Linear(*reversed(layer.weight.shape), dtype=torch.float64)
        linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        modules += [linear, MODULES[activation]()]
    return nn.Sequential(*modules[:-1])


@pytest.mark.parametrize("activation", MODULES)
@pytest.mark.parametrize("hidden", [(), (8,), (7, 5, 3)])
def test_the_network_is_a_stack_of_linear_modules(activation, hidden):
    network = build_mlp(4, hidden, 2, activation=activation)
    params = network.init(3)
    assert [layer.weight.shape for layer in params] == list(zip((*hidden, 2), (4, *hidden), strict=True))
    stack, features = torch_stack(params, activation), draw(6, 4)
    expected = stack(features)
    torch.testing.assert_close(vmap(network.apply, in_dims=(None, 0))(params, features), expected, **ROUNDING)
    torch.testing.assert_close(torch.stack([network.apply(params, x) for x in features]), expected, **ROUNDING)


@pytest.mark.parametrize("activation", MODULES)
def test_the_gradient_is_that_of_the_stack_of_modules(activation):
    network = build_mlp(4, (8, 5), activation=activation)
    params, features = network.init(0), draw(4)
    stack = torch_stack(params, activation)
    stack(features).square().sum().backward()
    gradient = grad(lambda p: network.apply(p, features).square().sum())(params)
    for ours, theirs in zip(tree.leaves(gradient), stack.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, **ROUNDING)


def test_weights_and_biases_start_uniform_like_those_of_a_linear_module():
    layer = build_mlp(100, (), 400).init(5)[0]
    values = torch.cat([layer.weight.flatten(), layer.bias])
    assert values.abs().max() <= 0.1  # inputs^{-1/2}
    assert layer.bias.abs().max() > 0.09  # 400 draws all below 0.9 of the bound: 1e-18
    # 40,400 uniform numbers: mean ± 0.0577/201 = 2.9e-4, variance 1/300 ± 0.9/201 of it; 5 sigma each
    assert abs(values.mean()) < 1.5e-3
    assert values.var() == pytest.approx(1 / 300, rel=0.023)
    torch_bound = nn.Linear(100, 400).weight.detach().abs().max()  # drawn from torch's own rule
    assert values.abs().max() == pytest.approx(float(torch_bound), rel=1e-3)  # 40,000 draws come that near


def test_a_zero_last_layer_makes_the_network_the_constant_zero_and_nothing_else():
    plain, zero = build_mlp(4, (8, 5), 3), build_mlp(4, (8, 5), 3, zero_last=True)
    params, zeroed = plain.init(2), zero.init(2)
    assert torch.equal(zero.apply(zeroed, 100 * draw(4)), torch.zeros(3, dtype=torch.float64))
    for ours, theirs in zip(tree.leaves(zeroed[:-1]), tree.leaves(params[:-1]), strict=True):
        assert torch.equal(ours, theirs)
    assert plain.apply(params, draw(4)).abs().min() > 0
    slope = grad(lambda p: zero.apply(p, draw(4)).sum())(zeroed)
    assert slope[-1].weight.abs().min() > 0  # it can leave zero at the first update


def fourier_matrix(network, params, inputs, count):
    """2πB, read off at 0: d sin(2πBx)/dx = 2πB there, if the last layer hands its input through."""
    return jacrev(lambda x: network.apply(params, x))(torch.zeros(inputs, dtype=torch.float64))[:count]


def handed_through(count):
    return (Layer(torch.eye(2 * count, dtype=torch.float64), torch.zeros(2 * count, dtype=torch.float64)),)


def test_fourier_features_are_the_sines_and_cosines_of_one_fixed_matrix():
    network = build_mlp(3, (), 8, fourier_features=4, fourier_scale=0.2)
    assert network.init(0)[0].weight.shape == (8, 8)
    matrix = fourier_matrix(network, handed_through(4), 3, 4)
    for x in draw(5, 3):
        expected = torch.cat([(matrix @ x).sin(), (matrix @ x).cos()])
        torch.testing.assert_close(network.apply(handed_through(4), x), expected, **ROUNDING)


def test_the_fourier_matrix_is_gaussian_with_the_scale_asked_for():
    network = build_mlp(50, (), 200, fourier_features=100, fourier_scale=0.7)
    entries = fourier_matrix(network, handed_through(100), 50, 100).flatten() / (2 * math.pi)
    # 5000 draws: mean ± 0.7/71, standard deviation ± 1 %, fourth moment ± 0.07; 5 sigma each
    assert abs(entries.mean()) < 0.05
    assert entries.std() == pytest.approx(0.7, rel=0.05)
    assert ((entries / entries.std()) ** 4).mean() == pytest.approx(3.0, abs=0.35)


def test_the_fourier_matrix_depends_on_its_own_seed_alone_and_is_no_parameter():
    def matrix(**options):
        network = build_mlp(3, (), 8, fourier_features=4, **options)
        assert len(tree.leaves(network.init(1))) == 2
        return fourier_matrix(network, handed_through(4), 3, 4)

    assert torch.equal(matrix(), matrix())
    assert torch.equal(matrix(), matrix(fourier_seed=0))
    assert not torch.equal(matrix(), matrix(fourier_seed=1))
    torch.testing.assert_close(matrix(fourier_scale=2.0), 2 * matrix(), rtol=1e-15, atol=0)  # a factor of 2 is exact


def test_parameters_are_determined_by_the_seed():
    network = build_mlp(4, (8, 5))
    params, again, other = network.init(7), network.init(7), network.init(8)
    for ours, same, another in zip(*map(tree.leaves, (params, again, other)), strict=True):
        assert torch.equal(ours, same)
        assert not torch.equal(ours, another)
        assert ours.dtype == torch.float64
    square = build_mlp(5, (5,), 5).init(7)
    assert not torch.equal(square[0].weight, square[1].weight)  # each layer draws with a key of its own


def test_no_global_generator_is_touched():
    before = torch.get_rng_state()
    build_mlp(4, (8,), fourier_features=3).init(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_dtype_of_the_parameters_is_that_of_the_output():
    network = build_mlp(4, (8,), fourier_features=3)
    params = network.init(0)
    single = network.apply(tree.cast(params, dtype=torch.float32), draw(4).float())
    assert single.dtype == torch.float32
    # single precision: phases of size 10 carry 1e-6, sums of 8 such terms
    torch.testing.assert_close(single.double(), network.apply(params, draw(4)), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, r"every layer size must be >= 1, got \(0, 64, 64, 1\)"),
        ((4, (8, 0)), {}, "every layer size must be >= 1"),
        ((4, (8,), 0), {}, "every layer size must be >= 1"),
        ((4,), {"activation": "swish"}, "activation must be one of tanh, relu, silu, gelu, got 'swish'"),
        ((4,), {"fourier_features": -1}, "fourier_features must be >= 0, got -1"),
        ((4,), {"fourier_scale": 0.0}, "fourier_scale must be > 0"),
        ((4,), {"fourier_scale": math.nan}, "fourier_scale must be > 0, got nan"),
    ],
)
def test_what_is_no_network_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=f"build_mlp: {message}"):
        build_mlp(*arguments, **options)
