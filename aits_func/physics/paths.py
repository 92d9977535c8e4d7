"""The work on massless bodies between states of a path that somebody else's integrator went.

Such an integrator gives states and no work. Between two of them the path is taken to be the polynomial of ninth degree
that has their places, velocities, accelerations, jerks and snaps, and ∂ₜφ is summed along it by Gauss and Legendre's
rule with six nodes. For steps of a tenth of an orbit what is left out is some 1e-12 of φ, and it falls with the tenth
power of the step: what a high-order integrator makes of h below that is not seen.
"""

import math

import torch
from torch import Tensor
from torch.func import vmap

from ..base.tree import take
from ..base.types import System
from .gravity import Gravity

_GIVEN = 5  # place and four derivatives at either end
_NODES = 6
_PAIRS = 2**21  # of bodies, in all states that are taken at once: some arrays of so many vectors fit into memory


def work_between(gravity: Gravity, states: System) -> Tensor:
    """The work on each body from one state to the next.

    Args:
        gravity: the forces.
        states: S ≥ 1 states of ONE system in the order of time, leaves (S, ...), float64.

    Returns:
        (S − 1, N), (length / time)².
    """
    size = max(2, _PAIRS // states.mass.shape[-1] ** 2)
    count = len(states.time)
    starts = range(0, count - 1, size - 1)
    pieces = [_between(gravity, take(states, slice(start, min(start + size, count)))) for start in starts]
    return torch.cat([states.mass.new_zeros(0, states.mass.shape[-1]), *pieces])


def _between(gravity: Gravity, states: System) -> Tensor:
    derivatives = vmap(gravity.derivatives)(states)
    data = torch.stack([states.position, states.velocity, *derivatives])  # (5, S, N, D)
    dt = states.time.diff()
    start, end = take(states, slice(None, -1)), data[:, 1:]
    powers = torch.stack([dt**k for k in range(_GIVEN)])[:, :, None, None]
    coefficients = _interpolate(data[:, :-1] * powers, end * powers)  # (10, S − 1, N, D), of powers of u = (t − t₀)/dt
    total = torch.zeros_like(start.mass)
    for u, weight in zip(*_gauss_legendre(_NODES), strict=True):
        place = sum(c * u**k for k, c in enumerate(coefficients))
        speed = sum(k * c * u ** (k - 1) for k, c in enumerate(coefficients) if k) / dt[:, None, None]
        there = start._replace(position=place, velocity=speed, time=start.time + u * dt)
        total = total + weight * dt[:, None] * vmap(gravity.potential_rates)(there)
    return total


def _interpolate(start: Tensor, end: Tensor) -> Tensor:
    """Coefficients (2k, ...) of the polynomial in u with these k derivatives (k, ...) at u = 0 and at u = 1."""
    count = len(start)
    low = torch.stack([start[k] / math.factorial(k) for k in range(count)])
    missing = [
        end[r] - sum(math.perm(k, r) * low[k] for k in range(r, count)) for r in range(count)
    ]  # by what the polynomial of the start misses the end
    matrix = torch.tensor(
        [[float(math.perm(count + k, r)) for k in range(count)] for r in range(count)], dtype=start.dtype
    )
    high = torch.linalg.solve(matrix, torch.stack(missing).reshape(count, -1)).reshape(start.shape)
    return torch.cat([low, high])


def _gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]: eigenvalues and first components of the eigenvectors of the Jacobi matrix.

    Source: Golub & Welsch 1969, Mathematics of Computation 23, 221.
    """
    k = torch.arange(1, nodes, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return ((values + 1) / 2).tolist(), vectors[0].pow(2).tolist()
