"""Known orbits, as constants: periodic three-body orbits, the Pythagorean problem, the outer solar system.

Facts with their sources; no files are read. Lengths, times and masses are in the units that each
entry names: build the gravity with the entry's own ``G``.
"""

import difflib
from typing import NamedTuple, TypeAlias

import torch

from ..base.check import make_system
from ..base.types import System

Vectors: TypeAlias = tuple[tuple[float, ...], ...]
"""(N, D) numbers."""


class Reference(NamedTuple):
    """Where the bodies are at a later time, as published. Shapes: as commented. Units: of the orbit."""

    t: float  # ()      time since the start
    position: Vectors  # (N, D)  length; trust it to its printed digits


class Approach(NamedTuple):
    """The closest approach of two bodies, as published. Units: of the orbit."""

    t: float  # ()  time since the start
    distance: float  # ()  length


class KnownOrbit(NamedTuple):
    """One known orbit; plain numbers, no tensors (see `known_orbit` for those).

    Shapes: as commented. Units: as ``units`` says.
    """

    name: str
    description: str
    source: str
    units: str
    mass: tuple[float, ...]  # (N,)    mass
    position: Vectors  # (N, D)  length
    velocity: Vectors  # (N, D)  length / time
    G: float = 1.0  # ()      length³ / (mass time²)
    period: float | None = None  # ()      time; None if the orbit is not periodic
    energy: float | None = None  # ()      mass length² / time²; None where no source states it
    reference: Reference | None = None
    closest_approach: Approach | None = None
    bodies: tuple[str, ...] = ()  # (N,)    their names, if they have any


_ORBITS = (
    KnownOrbit(
        name="figure_eight",
        description="Figure-eight choreography of three equal masses; periodic.",
        source="Chenciner & Montgomery 2000; digits of the collinear start by Suvakov & Dmitrasinovic",
        units="G = 1, mass = 1",
        mass=(1.0, 1.0, 1.0),
        position=((-1.0, 0.0), (1.0, 0.0), (0.0, 0.0)),
        velocity=(
            (0.347116888119226, 0.532724945387937),
            (0.347116888119226, 0.532724945387937),
            (-0.694233776238452, -1.065449890775874),
        ),
        period=6.325913982926752,
        energy=-1.28714199563,
    ),
    KnownOrbit(
        name="lagrange_triangle",
        description="Three equal masses on a rotating equilateral triangle of side 1 (unstable).",
        source="Lagrange 1772",
        units="G = 1, mass = 1",
        mass=(1.0, 1.0, 1.0),
        position=((0.5773502691896258, 0.0), (-0.2886751345948129, 0.5), (-0.2886751345948129, -0.5)),
        velocity=((0.0, 1.0), (-0.8660254037844386, -0.5), (0.8660254037844386, -0.5)),
        period=3.6275987284684357,
    ),
    KnownOrbit(
        name="butterfly_1",
        description="Periodic three-body orbit butterfly_1 of equal masses, collinear start.",
        source="Suvakov & Dmitrasinovic 2013, PRL 110, 114301",
        units="G = 1, mass = 1",
        mass=(1.0, 1.0, 1.0),
        position=((-1.0, 0.0), (1.0, 0.0), (0.0, 0.0)),
        velocity=(
            (0.306893420445669, 0.125506567019571),
            (0.306893420445669, 0.125506567019571),
            (-0.613786840891338, -0.251013134039142),
        ),
        period=6.234674838573193,
    ),
    KnownOrbit(
        name="moth_1",
        description="Periodic three-body orbit moth_1 of equal masses, collinear start.",
        source="Suvakov & Dmitrasinovic 2013, PRL 110, 114301",
        units="G = 1, mass = 1",
        mass=(1.0, 1.0, 1.0),
        position=((-1.0, 0.0), (1.0, 0.0), (0.0, 0.0)),
        velocity=(
            (0.464445172817842, 0.396060014652845),
            (0.464445172817842, 0.396060014652845),
            (-0.928890345635684, -0.79212002930569),
        ),
        period=14.894305175017841,
    ),
    KnownOrbit(
        name="yin_yang_1a",
        description="Periodic three-body orbit yin_yang_1a of equal masses, collinear start.",
        source="Suvakov & Dmitrasinovic 2013, PRL 110, 114301",
        units="G = 1, mass = 1",
        mass=(1.0, 1.0, 1.0),
        position=((-1.0, 0.0), (1.0, 0.0), (0.0, 0.0)),
        velocity=(
            (0.513938537459262, 0.30473591934695),
            (0.513938537459262, 0.30473591934695),
            (-1.027877074918524, -0.6094718386939),
        ),
        period=17.328834018504512,
    ),
    KnownOrbit(
        name="pythagorean",
        description=(
            "Pythagorean (Burrau) three-body problem: masses 3, 4, 5 at rest at the corners opposite the "
            "sides of a 3-4-5 triangle. Deep encounters; body of mass 3 escapes after t of about 60, leaving "
            "a binary of a = 0.5524, e = 0.9887."
        ),
        source="Burrau 1913; Szebehely & Peters 1967",
        units="G = 1",
        mass=(3.0, 4.0, 5.0),
        position=((1.0, 3.0), (-2.0, -1.0), (1.0, -1.0)),
        velocity=((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
        energy=-12.816666666666666,
        reference=Reference(
            t=10.0, position=((0.77848041, 0.1413923), (-2.02509248, 0.09721938), (1.15298574, -0.16261089))
        ),
        closest_approach=Approach(t=15.83, distance=0.00041),
    ),
    KnownOrbit(
        name="outer_solar_system",
        description=(
            "Sun (with the inner planets), Jupiter, Saturn, Uranus, Neptune and Pluto as a test particle of zero mass."
        ),
        source="Applegate et al. 1986, AJ 92, 176",
        units="au, day, solar mass; G = k^2, k = 0.01720209895 (Gaussian constant)",
        G=0.00029591220828559115,
        bodies=("Sun", "Jupiter", "Saturn", "Uranus", "Neptune", "Pluto"),
        mass=(
            1.00000597682,
            0.0009547861040430418,
            0.00028558373315055975,
            4.372731645458918e-05,
            5.1775913844879365e-05,
            0.0,
        ),
        position=(
            (-0.00406428567034226, -0.00608813756435987, -1.66162304225834e-06),
            (3.40546614227466, 3.62978190075864, 0.0342386261766577),
            (6.60801554403466, 6.38084674585064, -0.136145963724542),
            (11.1636331405597, 16.0373479057256, 0.361783279369958),
            (-30.1777243405203, 1.91155314998064, -0.153887595621042),
            (-21.3858977531573, 32.0719104739886, 2.49245689556096),
        ),
        velocity=(
            (6.69048890636161e-06, -6.33922479583593e-06, -3.13202145590767e-09),
            (-0.00559797969310664, 0.00551815399480116, -2.66711392865591e-06),
            (-0.00417354020307064, 0.00399723751748116, 1.67206320571441e-05),
            (-0.00325884806151064, 0.00206438412905916, -2.17699042180559e-05),
            (-0.000217471785045538, -0.00311361111025884, 3.58344705491441e-05),
            (-0.00176936577252484, -0.00206720938381724, 0.000658091931493844),
        ),
    ),
)

KNOWN_ORBITS: dict[str, KnownOrbit] = {orbit.name: orbit for orbit in _ORBITS}
"""The packaged orbits by name."""


def known_orbit(name: str) -> System:
    """The initial state of a known orbit, in the units and with the G of ``KNOWN_ORBITS[name]``.

    Args:
        name: one of the keys of `KNOWN_ORBITS`.

    Returns:
        One `System` (N bodies, D dimensions), float64, on the CPU, at time 0.

    Raises:
        ValueError: if there is no such orbit; the message lists the names and the nearest one.

    Source: as ``KNOWN_ORBITS[name].source`` says.

    Example:
        >>> known_orbit("figure_eight").position.shape
        torch.Size([3, 2])
    """
    if name not in KNOWN_ORBITS:
        near = difflib.get_close_matches(str(name).lower(), KNOWN_ORBITS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"known_orbit: name must be one of {', '.join(KNOWN_ORBITS)}, got {name!r}{hint}")
    orbit = KNOWN_ORBITS[name]
    return make_system(*(torch.tensor(x, dtype=torch.float64) for x in (orbit.mass, orbit.position, orbit.velocity)))
