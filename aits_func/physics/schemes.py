"""The schemes of ONE system by name; what one is says `scheme`."""

from ..base.check import require_choice
from ..base.engine import remember
from .compositions import compose
from .direct_schemes import build_direct, build_implicit_symmetric
from .gravity import Gravity
from .integrators import Integrator, build_integrator
from .reversible_schemes import build_hairer_soderlind, build_time_transformed_leapfrog
from .scheme import Scheme


def build_scheme(
    name: str, gravity: Gravity, *, order: int = 2, integrator: str = "leapfrog_kdk", positions_only: bool = False
) -> Scheme:
    """The scheme of that name.

    Args:
        name: one of `SCHEMES`: "direct", "implicit_symmetric", "hairer_soderlind" or "time_transformed".
        gravity: forces.
        order: 2, 4, 6 or 8; above 2 for the two explicit reversible schemes alone.
        integrator: what the direct scheme, and the implicit one, step with; see `build_integrator`.
        positions_only: whether the step function has a form of positions alone; then Hairer–Söderlind is built on
            drift–kick–drift.

    Returns:
        A `Scheme`.

    Raises:
        ValueError: on an unknown name, or an order that it does not have.
    """
    require_choice("build_scheme", "name", name, SCHEMES)
    if name == "direct":
        return compose(build_direct(build_integrator(integrator, gravity)), order)
    if name == "implicit_symmetric":
        return compose(build_implicit_symmetric(build_integrator(integrator, gravity)), order)
    if name == "hairer_soderlind":
        return compose(build_hairer_soderlind(gravity, base="dkd" if positions_only else "kdk"), order)
    return compose(build_time_transformed_leapfrog(gravity), order)


SCHEMES = ("direct", "implicit_symmetric", "hairer_soderlind", "time_transformed")


@remember  # so that what was compiled for a scheme is found again
def as_scheme(scheme: Scheme | Integrator, *, n_steps: int = 1) -> Scheme:
    """An integrator as the direct scheme with n_steps of one dt; a scheme repeated n_steps times."""
    if isinstance(scheme, Integrator):
        return build_direct(scheme, n_steps=n_steps)
    return scheme._replace(stages=scheme.stages * n_steps, equal_steps=scheme.equal_steps * n_steps)
