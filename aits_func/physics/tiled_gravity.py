"""Forces and energy of ONE system of many bodies, tile by tile: no array of all pairs, in the derivatives neither.

    aᵢ = G Σⱼ mⱼ d/R³,   d = xⱼ − xᵢ,   R² = |d|² + s²,   J = 1/R³ − 3 d dᵀ/R⁵ (the derivative of d/R³ by d)

A tile is a block of rows i against all bodies j. Reverse mode through a plain loop over tiles would keep every one of
them; so the derivatives are written down. Both are sums over j as well, made in tiles of the same size:

    tangent     ȧᵢ = G Σⱼ (ṁⱼ d/R³ + mⱼ J(ẋⱼ − ẋᵢ))
    cotangents  x̄ₖ = G Σⱼ J(mₖ āⱼ − mⱼ āₖ),   m̄ₖ = −G Σⱼ (d/R³)·āⱼ   (d = xⱼ − xₖ)

The potential energy W = ½ Σ mᵢ φᵢ, φᵢ = −G Σⱼ mⱼ/R, has the derivatives ∂W/∂xᵢ = −mᵢ aᵢ and ∂W/∂mᵢ = φᵢ.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.func import jvp, vjp

from ..base.engine import is_traced

MANY_BODIES = 512
"""Bodies from which accelerations are summed in tiles: below, an array of all pairs fits into the cache."""

_PAIRS = 2**15
"""Pairs in a tile: a few arrays of so many numbers fit into a cache of 1 MiB."""


def tiled_acceleration(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
    """Accelerations that many bodies give each other.

    Args:
        mass: (N,).
        position: (N, D), no two bodies at one place unless softened.
        G: gravitational constant.
        softening: length s.

    Returns:
        (N, D), length / time². First derivatives, forward and reverse, take memory for one tile; a compiler fuses the
        sum and needs none.
    """
    if _tangents_of_tangents():
        return _accelerate(mass, position, G, softening)
    return _Tiled.apply(mass, position, G, softening)


def _tangents_of_tangents() -> bool:
    """Whether forward mode is nested: torch 2.13 then loses the outer tangent of a custom function without a word."""
    levels = retrieve_all_functorch_interpreters()
    return sum(level.key() == TransformType.Jvp for level in levels) > 1


def _accelerate(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
    def tile(rows: slice) -> Tensor:
        d, cube, _ = _separation(position, rows, softening)
        return torch.stack([(G * mass * cube * x).sum(1) for x in d], -1)

    return _rows_of(tile, position)


class _Tiled(torch.autograd.Function):
    """The sum and its derivatives, under every transform of `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
        return _accelerate(mass, position, G, softening)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        mass, position, ctx.G, ctx.softening = inputs
        ctx.save_for_backward(mass, position)
        ctx.save_for_forward(mass, position)

    @staticmethod
    def jvp(ctx: Any, mass_rate: Tensor, velocity: Tensor, *_: Any) -> Tensor:
        mass, position = ctx.saved_tensors
        mass_rate = torch.zeros_like(mass) if mass_rate is None else mass_rate
        velocity = torch.zeros_like(position) if velocity is None else velocity

        def tile(rows: slice) -> Tensor:
            d, cube, fifth = _separation(position, rows, ctx.softening)
            w = [v[None, :] - v[rows, None] for v in velocity.unbind(-1)]
            along = 3 * fifth * _dot(d, w)
            change = [mass_rate * cube * x + mass * (cube * y - along * x) for x, y in zip(d, w, strict=True)]
            return ctx.G * torch.stack([c.sum(1) for c in change], -1)

        return _rows_of(tile, position)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None, None]:
        mass, position = ctx.saved_tensors
        both = _Pull.apply(mass, position, cotangent, ctx.G, ctx.softening)
        return both[:, -1], both[:, :-1], None, None


class _Pull(torch.autograd.Function):
    """The cotangents (N, D + 1), of positions and last of masses.

    A function of its own, as `torch.func` keeps what a backward pass computes, in case it is differentiated again; only
    then are its tiles differentiated one by one, and kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(mass: Tensor, position: Tensor, cotangent: Tensor, G: float, softening: float) -> Tensor:
        return _pull(mass, position, cotangent, G, softening)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.G, ctx.softening = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        G, softening = ctx.G, ctx.softening
        given = [torch.zeros_like(x) if t is None else t for x, t in zip(ctx.saved_tensors, tangents, strict=False)]
        return jvp(lambda m, x, c: _pull(m, x, c, G, softening), ctx.saved_tensors, tuple(given))[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        G, softening = ctx.G, ctx.softening
        back = vjp(lambda m, x, c: _pull(m, x, c, G, softening), *ctx.saved_tensors)[1]
        return (*back(cotangent), None, None)


def tiled_potential_energy(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
    """Potential energy of many bodies in each other's field.

    Args:
        mass: (N,).
        position: (N, D), no two bodies at one place unless softened.
        G: gravitational constant.
        softening: length s.

    Returns:
        (), mass · length² / time²; memory as in `tiled_acceleration`.
    """
    if _tangents_of_tangents():
        return (mass * _potential(mass, position, G, softening)).sum() / 2
    return _Energy.apply(mass, position, G, softening)


def tiled_potentials(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
    """The potential at every one of many bodies.

    Args:
        mass: (N,).
        position: (N, D).
        G: gravitational constant.
        softening: length s.

    Returns:
        (N,), (length / time)²; memory for one tile. The tiles of its derivatives are kept.
    """
    if _tangents_of_tangents():
        return _potential(mass, position, G, softening)
    return _Potential.apply(mass, position, G, softening)


class _Energy(torch.autograd.Function):
    """W, whose derivatives are the forces and the potentials."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
        return (mass * _potential(mass, position, G, softening)).sum() / 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        mass, position, ctx.G, ctx.softening = inputs
        ctx.save_for_backward(mass, position)
        ctx.save_for_forward(mass, position)

    @staticmethod
    def jvp(ctx: Any, mass_rate: Any, velocity: Any, *_: Any) -> Tensor:
        mass, position = ctx.saved_tensors
        of_mass, of_position = _energy_derivatives(mass, position, ctx.G, ctx.softening)
        change = torch.zeros_like(mass).sum()
        change = change if mass_rate is None else change + (of_mass * mass_rate).sum()
        return change if velocity is None else change + (of_position * velocity).sum()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None, None]:
        mass, position = ctx.saved_tensors
        of_mass, of_position = _energy_derivatives(mass, position, ctx.G, ctx.softening)
        return cotangent * of_mass, cotangent * of_position, None, None


def _energy_derivatives(mass: Tensor, position: Tensor, G: float, softening: float) -> tuple[Tensor, Tensor]:
    """∂W/∂m = φ (N,) and ∂W/∂x = −m a (N, D)."""
    force = -mass[:, None] * tiled_acceleration(mass, position, G, softening)
    return _Potential.apply(mass, position, G, softening), force


class _Potential(torch.autograd.Function):
    """φ, a function of its own for the reason that `_Pull` is one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
        return _potential(mass, position, G, softening)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        mass, position, ctx.G, ctx.softening = inputs
        ctx.save_for_backward(mass, position)
        ctx.save_for_forward(mass, position)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        G, softening = ctx.G, ctx.softening
        given = [torch.zeros_like(x) if t is None else t for x, t in zip(ctx.saved_tensors, tangents, strict=False)]
        return jvp(lambda m, x: _potential(m, x, G, softening), ctx.saved_tensors, tuple(given))[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        G, softening = ctx.G, ctx.softening
        return (*vjp(lambda m, x: _potential(m, x, G, softening), *ctx.saved_tensors)[1](cotangent), None, None)


def _potential(mass: Tensor, position: Tensor, G: float, softening: float) -> Tensor:
    def tile(rows: slice) -> Tensor:
        _, inverse_square, itself = _inverse_square(position, rows, softening)
        inverse = torch.where(itself, torch.zeros_like(inverse_square), inverse_square.sqrt())
        return -G * (mass * inverse).sum(1)

    return _rows_of(tile, position)


def _pull(mass: Tensor, position: Tensor, cotangent: Tensor, G: float, softening: float) -> Tensor:
    columns = cotangent.unbind(-1)

    def tile(rows: slice) -> Tensor:
        d, cube, fifth = _separation(position, rows, softening)
        w = [mass[rows, None] * c[None, :] - mass * c[rows, None] for c in columns]
        along = 3 * fifth * _dot(d, w)
        of_position = [(cube * y - along * x).sum(1) for x, y in zip(d, w, strict=True)]
        of_mass = -(cube * _dot(d, [c[None, :] for c in columns])).sum(1)
        return G * torch.stack([*of_position, of_mass], -1)

    return _rows_of(tile, position)


def _rows_of(tile: Callable[[slice], Tensor], position: Tensor) -> Tensor:
    """All rows, tile after tile. A compiler gets one piece: it keeps no pairs, and would write out every tile."""
    bodies = position.shape[0]
    size = bodies if is_traced() else max(1, _PAIRS // bodies)
    pieces = [tile(slice(start, min(start + size, bodies))) for start in range(0, bodies, size)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _separation(position: Tensor, rows: slice, softening: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Components of d, (rows, N) each, and 1/R³ and 1/R⁵, 0 for a body with itself."""
    d, inverse_square, itself = _inverse_square(position, rows, softening)
    cube = torch.where(itself, torch.zeros_like(inverse_square), inverse_square * inverse_square.sqrt())
    return d, cube, cube * inverse_square


def _inverse_square(position: Tensor, rows: slice, softening: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Components of d, 1/R², and which pairs are a body with itself: there 1/R² is 1, to be masked after the root."""
    d = [x[None, :] - x[rows, None] for x in position.unbind(-1)]
    square = _dot(d, d) + softening**2
    index = torch.arange(position.shape[0], device=position.device)
    itself = index[rows, None] == index[None, :]
    return d, torch.where(itself, torch.ones_like(square), square).reciprocal(), itself


def _dot(x: list[Tensor], y: list[Tensor]) -> Tensor:
    total = x[0] * y[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        total = total + a * b
    return total
