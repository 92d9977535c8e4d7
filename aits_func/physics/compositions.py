"""Symmetric compositions: a scheme of order 2 raised to order 4, 6 or 8 by stages of unequal length."""

from ..base.check import require
from .scheme import Scheme


def compose(scheme: Scheme, order: int) -> Scheme:
    """A scheme of higher order from a symmetric one of order 2, as stages of h cᵢ, some of them backwards.

    Args:
        scheme: explicit and reversible.
        order: 2 (the scheme itself), 4 (5 stages), 6 (9) or 8 (17).

    Returns:
        A `Scheme`; the carry is the base's.

    Raises:
        ValueError: if the scheme is not a symmetric map, or order is another number.

    Source: order 4 Suzuki 1990, Physics Letters A 146, 319; orders 6 and 8 Kahan & Li 1997, Mathematics of
        Computation 66, 1089.
    """
    require(order in COMPOSITIONS, f"compose: order must be one of {', '.join(map(str, COMPOSITIONS))}, got {order}")
    require(
        order == 2 or scheme.reversible,
        f"compose: only an explicit reversible scheme can be raised to order {order}; {scheme.name} is not: use "
        "hairer_soderlind or time_transformed, or order = 2",
    )
    return scheme._replace(stages=COMPOSITIONS[order])


def _palindrome(*half: float) -> tuple[float, ...]:
    """Stage lengths from the first to the middle one, and back."""
    return (*half, *reversed(half[:-1]))


_SUZUKI = 1 / (4 - 4 ** (1 / 3))
COMPOSITIONS: dict[int, tuple[float, ...]] = {
    2: (1.0,),
    4: _palindrome(_SUZUKI, _SUZUKI, 1 - 4 * _SUZUKI),
    6: _palindrome(
        0.39216144400731413928,
        0.33259913678935943860,
        -0.70624617255763935981,
        0.082213596293550800230,
        0.79854399093482996340,
    ),
    8: _palindrome(
        0.13020248308889008088,
        0.56116298177510838456,
        -0.38947496264484728641,
        0.15884190655515560090,
        -0.39590389413323757734,
        0.18453964097831570709,
        0.25837438768632204729,
        0.29501172360931029887,
        -0.60550853383003451170,
    ),
}
