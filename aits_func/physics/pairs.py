"""The pairs i < j of ONE system: what each of the two has, and how they differ.

Without self-pairs there is nothing to mask. Eager code takes the rows of both by index, one operation each; where a
compiler traces and pairs are few, they are written out one by one, so that no index is computed at run time.
"""

import itertools
import math

import torch
from torch import Tensor

from ..base.engine import is_traced

FEW_BODIES = 8
"""Bodies up to which pairs are written out for a compiler; the code grows with their square."""


def pair_indices(bodies: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of the N(N−1)/2 pairs i < j, two (P,)."""
    first, second = torch.triu_indices(bodies, bodies, 1, device=device)
    return first, second


def written_out(bodies: int) -> bool:
    """Whether a compiler traces and the pairs of so many bodies are to be written out."""
    return bodies <= FEW_BODIES and is_traced()


def pair_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the first and the second of every pair have: (N, ...) -> two (P, ...).

    Indexed, not by ``index_select``: of that one's derivative under vmap torch 2.13 compiles wrong code.
    """
    bodies = x.shape[0]
    if written_out(bodies):
        pairs = list(itertools.combinations(x.unbind(0), 2))
        if not pairs:  # one body alone
            return x[:0], x[:0]
        first, second = zip(*pairs, strict=True)
        return torch.stack(first), torch.stack(second)
    first_index, second_index = pair_indices(bodies, x.device)
    return x[first_index], x[second_index]


def pair_difference(x: Tensor) -> Tensor:
    """xⱼ − xᵢ of the pairs: (N, D) -> (P, D)."""
    first, second = pair_rows(x)
    return second - first


def pair_distance(position: Tensor, softening: float) -> Tensor:
    """(|xⱼ − xᵢ|² + s²)^{1/2} of the pairs: (N, D) -> (P,)."""
    return (pair_difference(position).pow(2).sum(-1) + softening**2).sqrt()


def inverse_cube(distance: Tensor) -> Tensor:
    """R^-3 of any shape, with no power beyond it in its first two derivatives.

    Those of 1/R³ as a quotient are taken by R³: they go through R^-6 and R^-9, which float32 does not have below
    5e-7 and 1e-4, though what comes out is finite. Schemes that follow τ differentiate it by the places of bodies.
    """
    return distance.reciprocal().pow(3)


def inverse_distance(separation: Tensor, softening: float) -> Tensor:
    """(d² + s²)^{-1/2} of (N, N, D), and 0 on the diagonal: a body is infinitely far from itself.

    So a self-pair adds exactly nothing, to a force as to its derivatives of any order in both modes. (A finite distance
    there would have a unit, and reverse mode would cancel terms of its size against the true ones of size 1/L³.)
    """
    itself = torch.eye(separation.shape[0], dtype=torch.bool, device=separation.device)
    return (separation.pow(2).sum(-1) + softening**2).masked_fill(itself, math.inf).rsqrt()
