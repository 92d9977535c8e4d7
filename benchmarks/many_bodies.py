"""Are the accelerations of one large system summed without an array of all pairs, at REBOUND's pair rate? (S4)

    python -m benchmarks.many_bodies

16,384 bodies, float64, one thread each, compiled. Beside the time, the memory that a process needs for it, the
gradient included: an array of all pairs is 2 GiB for every number it holds.
"""

import resource

import torch

import aits_func as af
from aits_func.base.engine import build_engine
from aits_func.physics.gravity import mutual_acceleration
from benchmarks import rebound_ensemble
from benchmarks.timing import Missing, Row, alternate, main, row, seconds

BODIES, SOFTENING, REPEATS = 16_384, 0.01, 5


def measure() -> list[Row | Missing]:
    """The row of times, and that of memory."""
    torch.set_num_threads(1)
    system = af.gaussian_cluster(0, 1, bodies=BODIES, dimensions=3, position_scale=1.0, velocity_scale=0.3)
    mass, position, velocity = system.mass[0], system.position[0], system.velocity[0]

    def force(x: torch.Tensor) -> torch.Tensor:
        return mutual_acceleration(mass, x, G=1.0, softening=SOFTENING)

    before = _peak()  # the systems are checked, and nothing in that is large
    value = build_engine(force, mode="on")
    pull = build_engine(torch.func.grad(lambda x: force(x).pow(2).sum()), mode="on")
    value(position), pull(position)
    used = _peak() - before
    memory = Row(
        "S4", "peak memory of force and gradient, with the compiler's", used, 2.0, used / 2.0, used / 2.0,
        used / 2.0, 1.0, at_most=True, note="against one array of all pairs", unit="GiB",
    )  # fmt: skip
    work = f"accelerations of {BODIES:,} bodies, against REBOUND, one thread each"
    if reason := rebound_ensemble.missing():
        return [Missing("S4", work, reason), memory]
    bodies = [x.numpy() for x in (mass, position, velocity)]
    pairs = alternate(
        lambda: seconds(lambda: value(position)),
        lambda: rebound_ensemble.force_seconds(*bodies, 1, G=1.0, softening=SOFTENING)[0],
        REPEATS,
    )
    theirs = torch.from_numpy(rebound_ensemble.accelerations(*bodies, G=1.0, softening=SOFTENING))
    torch.testing.assert_close(value(position), theirs, rtol=1e-9, atol=1e-9)  # the same work
    return [row("S4", work, pairs, 1.0), memory]


def _peak() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main(measure, __doc__)
