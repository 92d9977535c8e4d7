"""The time-step criteria of ONE system by name; what one is says `criterion`."""

from collections.abc import Callable
from typing import Any

from ..base.check import require_choice
from .body_criteria import aarseth, gadget, prs23, prs23_moving, tidal
from .criterion import Criterion, bounded_exp, log_parameter, no_constants
from .gravity import Gravity
from .pair_criteria import fly_by, free_fall, huayno, hut_makino, p_norm
from .step_function import REVERSIBLE, PositionForm
from .time_transformations import logarithmic, pair_norm


def constant(*, dt: float) -> Criterion:
    """The same step everywhere.

    Args:
        dt: > 0, in units of time; the start value exp of the parameter ``log_dt``.

    Returns:
        A `Criterion` with dt (), and a position form.

    Raises:
        ValueError: if dt is not > 0.
    """
    return Criterion(
        log_parameter("log_dt", dt, "constant", name="dt"),
        lambda params, system: bounded_exp(params["log_dt"]),
        REVERSIBLE,
        PositionForm(no_constants, lambda params, system, constants: 1 / bounded_exp(params["log_dt"])),
    )


def build_criterion(
    name: str,
    gravity: Gravity,
    *,
    eta: float | None = 0.02,
    p: float = 2.0,
    dt: float = 1e-3,
    weights: str = "mass_product",
    unit: str = "natural",
) -> Criterion:
    """The criterion of that name.

    Args:
        name: one of `CRITERIA`. Of pairs: "free_fall", "fly_by", "p_norm" (of free-fall times), "p_norm_both" (of
            free-fall and fly-by times), "hut_makino", "huayno". Of bodies: "aarseth", "prs23", "prs23_moving",
            "gadget", "tidal", and with the p-norm of rates for the minimum over bodies "aarseth_p_norm",
            "tidal_p_norm". Time transformations: "pair_norm", "logarithmic". And "constant".
        gravity: supplies forces, G and the softening.
        eta: accuracy parameter η of all but "constant"; None for the criterion's own default. What it means differs:
            dt goes with η, but with its root in "aarseth", "gadget" and "tidal", and with either p-norm of those.
        p: exponent of "pair_norm" and of every name with p_norm in it.
        dt: the step of "constant", in units of time.
        weights: of "pair_norm": "mass_product" or "root_sum".
        unit: of "pair_norm" and "logarithmic": "natural" or "one".

    Returns:
        A `Criterion` with dt ().

    Raises:
        ValueError: if there is none of that name, or it refuses what it is given.
    """
    require_choice("build_criterion", "name", name, CRITERIA)
    if name == "constant":
        return constant(dt=dt)
    own: dict[str, Any] = {} if eta is None else {"eta": eta}
    if name in _OF_AN_EXPONENT:
        own["p"] = p
    if name == "pair_norm":
        own["weights"] = weights
    if name in ("pair_norm", "logarithmic"):
        own["unit"] = unit
    return _MAKERS[name](gravity, **own)


def _p_norm_both(gravity: Gravity, **own: float) -> Criterion:
    return p_norm(gravity, pairs=("free_fall", "fly_by"), **own)


_MAKERS: dict[str, Callable[..., Criterion]] = {
    "free_fall": free_fall,
    "fly_by": fly_by,
    "p_norm": p_norm,
    "p_norm_both": _p_norm_both,
    "hut_makino": hut_makino,
    "huayno": huayno,
    "aarseth": aarseth,
    "aarseth_p_norm": aarseth,
    "prs23": prs23,
    "prs23_moving": prs23_moving,
    "gadget": gadget,
    "tidal": tidal,
    "tidal_p_norm": tidal,
    "pair_norm": pair_norm,
    "logarithmic": logarithmic,
}
_OF_AN_EXPONENT = ("p_norm", "p_norm_both", "aarseth_p_norm", "tidal_p_norm", "pair_norm")

CRITERIA = (*_MAKERS, "constant")
"""The names that `build_criterion` knows."""

CONSTANTS_OF: dict[str, tuple[str, ...]] = {
    **{name: ("eta", "p") if name in _OF_AN_EXPONENT else ("eta",) for name in _MAKERS},
    "pair_norm": ("eta", "p", "weights", "unit"),
    "logarithmic": ("eta", "unit"),
    "constant": ("dt",),
}
"""Which arguments of `build_criterion` each of them reads."""
