"""A multilayer perceptron as a pair of pure functions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.check import require, require_choice
from ..base.rng import generator


class Layer(NamedTuple):
    """Parameters of one affine layer."""

    weight: Tensor  # (outputs, inputs)
    bias: Tensor  # (outputs,)


class Network(NamedTuple):
    """A network: ``init(seed) -> params`` and ``apply(params, features (F,)) -> (outputs,)``."""

    init: Callable[[int], Any]
    apply: Callable[[Any, Tensor], Tensor]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": lambda x: x * x.sigmoid(),  # the derivative of torch's own writes in place, which no transform may see
    "gelu": torch.nn.functional.gelu,
}


def build_mlp(
    inputs: int,
    hidden: Sequence[int] = (64, 64),
    outputs: int = 1,
    *,
    activation: str = "tanh",
    zero_last: bool = False,
    fourier_features: int = 0,
    fourier_scale: float = 1.0,
    fourier_seed: int = 0,
) -> Network:
    """A multilayer perceptron, optionally behind Gaussian Fourier features.

    Weights and biases start uniform in ±inputs^{-1/2}, as those of ``torch.nn.Linear``. With
    fourier_features = M > 0 the input x becomes (sin 2πBx, cos 2πBx), B an (M, inputs) Gaussian
    matrix that is drawn once from fourier_seed and is no parameter.

    Args:
        inputs: number of features F ≥ 1.
        hidden: sizes of the hidden layers, each ≥ 1; () is a linear map.
        outputs: number of outputs ≥ 1.
        activation: "tanh", "relu", "silu" or "gelu".
        zero_last: start the last layer at zero, so that the network starts as the constant 0.
        fourier_features: M; 0 for none.
        fourier_scale: standard deviation of the entries of B, > 0.
        fourier_seed: the key B is drawn from.

    Returns:
        A `Network`; its params are a tuple of `Layer`, float64 on the CPU.

    Raises:
        ValueError: on a size < 1, an unknown activation or a fourier_scale that is not > 0.

    Source: Rahimi & Recht 2007, NIPS, and Tancik et al. 2020, arXiv:2006.10739 (Fourier features).
    """
    sizes = (inputs, *hidden, outputs)
    require(all(n >= 1 for n in sizes), f"build_mlp: every layer size must be >= 1, got {sizes}")
    require(fourier_features >= 0, f"build_mlp: fourier_features must be >= 0, got {fourier_features}")
    require(fourier_scale > 0, f"build_mlp: fourier_scale must be > 0, got {fourier_scale}")
    require_choice("build_mlp", "activation", activation, tuple(ACTIVATIONS))
    activate = ACTIVATIONS[activation]
    draw = torch.randn(fourier_features, inputs, generator=generator(fourier_seed, "fourier"), dtype=torch.float64)
    frequencies = 2 * math.pi * fourier_scale * draw
    if fourier_features:
        sizes = (2 * fourier_features, *sizes[1:])

    def init(seed: int) -> tuple[Layer, ...]:
        layers = [_init_layer(seed, index, sizes) for index in range(len(sizes) - 1)]
        if zero_last:
            layers[-1] = Layer(torch.zeros_like(layers[-1].weight), torch.zeros_like(layers[-1].bias))
        return tuple(layers)

    def apply(params: tuple[Layer, ...], features: Tensor) -> Tensor:
        x = features
        if fourier_features:
            phase = torch.nn.functional.linear(x, frequencies.to(x))
            x = torch.cat([phase.sin(), phase.cos()], -1)
        for layer in params[:-1]:
            x = activate(torch.nn.functional.linear(x, layer.weight, layer.bias))
        return torch.nn.functional.linear(x, params[-1].weight, params[-1].bias)

    return Network(init, apply)


def _init_layer(seed: int, index: int, sizes: Sequence[int]) -> Layer:
    inputs, outputs = sizes[index], sizes[index + 1]
    draw = torch.rand(outputs, inputs + 1, generator=generator(seed, "layer", index), dtype=torch.float64)
    uniform = (2 * draw - 1) * inputs**-0.5
    return Layer(uniform[:, :-1].contiguous(), uniform[:, -1].contiguous())
