"""Second-order optimizers for residuals: Levenberg–Marquardt in sample space.

    optimizer = levenberg_marquardt()
    state = optimizer.init(params)
    updates, state = optimizer.update(problem, state, params)
    params = apply_updates(params, updates)

A `LeastSquares` optimizer is a `GradientTransformation` that sees more: where that one is given the gradient of a mean
of squares, this one is given the residuals themselves, as functions of the parameters (see `Residuals`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from ..base import tree
from ..base.check import require
from ..base.forward_mode import jvp
from ..base.types import Params
from .transformations import apply_updates, cast_like, count_zero

_BLOCK = 128  # rows of J Jᵀ that are computed together


class Residuals(NamedTuple):
    """A least-squares problem, ½ Σ r² over B residuals, around any parameters.

    Shapes: as commented on the fields.
    """

    values: Callable[[Params], Tensor]  # params -> r (B,)
    jacobian: Callable[[Params], tuple[Tensor, Params]]  # params -> (r (R,), ∂r/∂θ as leaves (R, ...)): at least those
    # rows where r is not 0, in any order, and rows of zeros
    rows: int  # R, at most


class LeastSquares(NamedTuple):
    """A rule that turns residuals into updates.

    Shapes: ``init(params) -> state``; ``update(problem, state, params) -> (updates, state)`` with a `Residuals`, where
    updates have the structure, shapes and dtypes of params.
    """

    init: Callable[[Params], Any]
    update: Callable[[Residuals, Any, Params], tuple[Params, Any]]


class LevenbergMarquardtState(NamedTuple):
    """What `levenberg_marquardt` carries.

    Shapes: as commented on the fields.
    """

    updates_made: Tensor  # () int64; refused ones included, those where all residuals were 0 not
    refused: Tensor  # () int64; steps that would have made things worse
    damping: Tensor  # () float64; λ in units of |Jᵀr|²/|r|²
    growth: Tensor  # () float64; the factor on the damping when a step is refused
    gain: Tensor  # () float64; of the last step: decrease of Σ r² over what the linear model promised


def levenberg_marquardt(
    damping: float = 1e-2,
    *,
    smallest: float = 1e-8,
    largest: float = 1e3,
    budget: int = 2**25,
    iterations: int = 20,
) -> LeastSquares:
    """Levenberg–Marquardt for fewer residuals than parameters.

        δ = −Jᵀ (J Jᵀ + λ s I)⁻¹ r,   s = |Jᵀr|² / |r|²

    which is the usual −(JᵀJ + λ s I)⁻¹ Jᵀr, at the cost of a system of R equations in place of one of P, the number of
    parameters. The scale s makes λ a number without unit. A step that does not lower Σ r² is refused: its
    update is 0 and λ grows by 2, 4, 8, ...; otherwise λ shrinks or grows by max(1/3, 1 − (2g − 1)³), with the
    gain ratio g of the decrease to that of the linear model, |r|² − |r + Jδ|².

    J is computed and the equations solved by Cholesky's method where R·P fits the budget. Otherwise there is no J:
    conjugate gradients multiply by it with jvp and vjp. Both are static choices, of shapes alone, so that all of it
    passes ``vmap`` and a compiler.

    Args:
        damping: λ at the start, > 0.
        smallest: λ is never smaller, > 0.
        largest: λ is never larger; at 1000 a step is a thousandth of what the model asks for along r.
        budget: elements of J up to which it is computed, ≥ 0; 2²⁵ are 256 MiB in float64.
        iterations: of conjugate gradients, ≥ 1; they freeze at a relative residual of 1e-3.

    Returns:
        A `LeastSquares` with state `LevenbergMarquardtState`.

    Raises:
        ValueError: if a number is out of its range.

    Source: Levenberg 1944, Quarterly of Applied Mathematics 2, 164; Marquardt 1963, SIAM Journal 11, 431; the damping
        by gain ratio from Nielsen 1999, report IMM-REP-1999-05, Technical University of Denmark.
    """
    where = "levenberg_marquardt"
    require(0 < smallest <= damping <= largest, f"{where}: need 0 < smallest <= damping <= largest, got {damping}")
    require(budget >= 0, f"{where}: budget must be >= 0 (elements of the Jacobian, e.g. 2**25), got {budget}")
    require(iterations >= 1, f"{where}: iterations must be >= 1 (of conjugate gradients, e.g. 20), got {iterations}")

    def init(params: Params) -> LevenbergMarquardtState:
        zero = count_zero(params)
        number = zero.double()
        return LevenbergMarquardtState(zero, zero, number + damping, number + 2.0, number)

    def update(
        problem: Residuals, state: LevenbergMarquardtState, params: Params
    ) -> tuple[Params, LevenbergMarquardtState]:
        elements = problem.rows * sum(leaf.numel() for leaf in tree.leaves(params))
        solve = _solve_dense if elements <= budget else _solve_matrix_free(iterations)
        updates, unit, before, promised = solve(problem, state.damping, params)
        after = (problem.values(apply_updates(params, updates)) / unit).pow(2).sum()
        good, idle = (after < before) & after.isfinite(), before == 0
        gain = ((before - after) / _or_one(promised)).double()
        factor = torch.where(good, torch.clamp(1 - (2 * gain - 1) ** 3, min=1 / 3), state.growth)
        nothing = tree.map_leaves(torch.zeros_like, params)
        new = LevenbergMarquardtState(
            state.updates_made + 1,
            state.refused + ~good,
            (state.damping * factor).clamp(smallest, largest),
            torch.where(good, torch.full_like(state.growth, 2.0), 2 * state.growth).clamp(max=largest),
            torch.where(good, gain, torch.zeros_like(gain)),
        )
        # Where nothing pulls nothing is learnt about the damping either.
        return tree.select(good, updates, nothing), tree.select(idle, state, new)

    return LeastSquares(init, update)


def _solve_dense(problem: Residuals, damping: Tensor, params: Params) -> tuple[Params, Tensor, Tensor, Tensor]:
    """(δ, the unit of residuals (), |r|² in it, what the linear model promises |r|² to lose).

    In units of the largest residual and the largest slope, as the squares of either may be no numbers.
    """
    r, rows = problem.jacobian(params)
    columns = [leaf.reshape(len(r), -1) for leaf in tree.leaves(rows)]  # (R, p) each, P in all
    unit, slope = _largest([r]), _largest(columns)
    r = r / unit
    scale = _scale(r, sum((((r @ x) / slope).pow(2).sum() for x in columns), torch.zeros_like(r[0])))
    shift = cast_like(damping, r) * scale
    diagonal = shift * torch.eye(len(r), dtype=r.dtype, device=r.device)
    factor, failed = torch.linalg.cholesky_ex(_lower_gram(columns, slope) + diagonal)
    y = torch.cholesky_solve(r[:, None], factor)[:, 0]
    y = torch.where(failed == 0, y, torch.full_like(y, torch.nan))  # refused, and damped more
    step = [
        (-(y @ x) / slope * (unit / slope)).reshape(leaf.shape)
        for x, leaf in zip(columns, tree.leaves(params), strict=True)
    ]
    return tree.replace_leaves(params, step), unit, r @ r, r @ r - shift**2 * (y @ y)  # r + Jδ = λ s y


def _largest(parts: list[Tensor]) -> Tensor:
    """The largest size of an element, (), to divide by: 1 where there is none, or it is no number."""
    sizes = [part.detach().abs().amax() for part in parts if part.numel()]
    largest = torch.stack(sizes).amax()
    usable = largest.isfinite() & (largest >= torch.finfo(largest.dtype).tiny)
    return torch.where(usable, largest, torch.ones_like(largest))


def _lower_gram(columns: list[Tensor], slope: Tensor) -> Tensor:
    """J Jᵀ over slope², (R, R), without most of what lies above its diagonal: Cholesky's method does not look there.

    Leaf by leaf, as J in one piece would be a copy, and block by block, which saves a third of the time: this product
    is most of a step.
    """
    count, rows = len(columns[0]), []
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        products = [(x[start:stop] / slope / slope) @ x[:stop].mT for x in columns]
        rows.append(torch.nn.functional.pad(sum(products[1:], products[0]), (0, count - stop)))
    return torch.cat(rows)


def _solve_matrix_free(iterations: int) -> Callable[..., tuple[Params, Tensor, Tensor, Tensor]]:
    """The same without J, by conjugate gradients for (J Jᵀ + λ s I) y = r; slopes are in units of that of Σ r²."""

    def solve(problem: Residuals, damping: Tensor, params: Params) -> tuple[Params, Tensor, Tensor, Tensor]:
        r, pull = vjp(problem.values, params)[:2]
        unit = _largest([r])
        r = r / unit
        slope = _largest(tree.leaves(pull(r)[0]))

        def transposed(y: Tensor) -> Params:
            return tree.map_leaves(lambda leaf: leaf / cast_like(slope, leaf), pull(y)[0])

        def times_gram(y: Tensor) -> Tensor:
            return jvp(problem.values, (params,), (transposed(y),))[1] / slope

        shift = cast_like(damping, r) * _scale(r, r @ times_gram(r))
        y, rest, direction = torch.zeros_like(r), r, r
        size = start = r @ r
        for _ in range(iterations):
            product = times_gram(direction) + shift * direction
            going = size > 1e-6 * start
            length = torch.where(going, size / _or_one(direction @ product), torch.zeros_like(size))
            y, rest = y + length * direction, rest - length * product
            new = rest @ rest
            direction = rest + torch.where(going, new / _or_one(size), torch.zeros_like(size)) * direction
            size = new
        left = shift * y + rest  # r + Jδ, of whatever y the iterations have come to
        factor = -unit / slope
        step = tree.map_leaves(lambda leaf: cast_like(factor, leaf) * leaf, transposed(y))
        return step, unit, start, start - left @ left

    return solve


def _scale(r: Tensor, slope_squared: Tensor) -> Tensor:
    """|Jᵀr|²/|r|², or 1 where nothing pulls: () > 0."""
    scale = slope_squared / _or_one(r @ r)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.ones_like(x))
