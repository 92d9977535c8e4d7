"""Are large ensembles faster than REBOUND's C code, and what does a learned policy add? (S1, S2)

    python -m benchmarks.ensemble

16,384 three-body systems, leapfrog, through `simulate(statistics=False)`. S1: a fixed step; the peer is REBOUND's
leapfrog, one process per core, float64 (it has no float32). Two thirds of REBOUND's time on three bodies is its own
work per step (it reads the clock twice), not the forces. S2: the steps of an MLP 64-64 on invariant features, against
S1 and the policy's bare matrix products together.
"""

import itertools
from collections.abc import Callable

import optree
import torch

import aits_func as af
from benchmarks import rebound_ensemble
from benchmarks.timing import Missing, Row, alternate, main, row, seconds

SYSTEMS, STEPS, LEARNED_STEPS, REPEATS, STEP = 16_384, 1_600, 64, 5, 1e-3
gravity = af.build_gravity(softening=0.05)


def measure() -> list[Row | Missing]:
    """S1 in both precisions, S2."""
    systems = af.gaussian_cluster(0, SYSTEMS, bodies=3, dimensions=3, position_scale=1.0, velocity_scale=0.3)
    fixed = af.build_criterion_policy(af.build_criterion("constant", gravity, dt=STEP))
    double, single = _per_step(systems, fixed, STEPS), _per_step(_single(systems), fixed, STEPS)
    rows: list[Row | Missing] = []
    work = "16,384 three-body systems, fixed step, {}, per system and step, against REBOUND"
    if reason := rebound_ensemble.missing():
        rows += [Missing("S1", work.format(name), reason) for name in ("float64", "float32")]
    else:
        bodies = (systems.mass.numpy(), systems.position.numpy(), systems.velocity.numpy())
        with rebound_ensemble.Ensemble(*bodies, softening=gravity.softening) as peer:

            def rebound() -> float:
                return peer.advance(200, STEP) / (200 * SYSTEMS)

            rebound()
            rows.append(row("S1", work.format("float64"), alternate(double, rebound, REPEATS), 1.5))
            rows.append(row("S1", work.format("float32"), alternate(single, rebound, REPEATS), 7.0))
    seen = af.build_features("invariant", gravity)
    learned = _per_step(systems, af.build_residual_policy(seen, af.p_norm(gravity, eta=0.02)), LEARNED_STEPS)
    pairs = alternate(learned, lambda: double() + _products(seen.size), REPEATS)
    rows.append(
        row("S2", "learned steps, time over S1 and the matrix products", pairs, 1.3, at_most=True, inverse=True)
    )
    return rows


def _per_step(systems: af.System, policy: af.Policy, steps: int) -> Callable[[], float]:
    """Seconds per system and step, compiled and warm."""
    params = _like(policy.init(0), systems)

    def run() -> object:
        return af.simulate(
            params,
            systems,
            policy=policy,
            gravity=gravity,
            scheme=integrator,
            steps=steps,
            statistics=False,
            compile="on",
        )

    integrator = af.build_leapfrog_kdk(gravity)
    run()
    return lambda: seconds(run) / (steps * len(systems.mass))


def _like(params: object, systems: af.System) -> object:
    return optree.tree_map(lambda leaf: leaf.to(systems.mass), params)


def _single(systems: af.System) -> af.System:
    return af.System(*(leaf.float() for leaf in systems))


def _products(inputs: int) -> float:
    """Seconds per system of the network's matrix products."""
    sizes = (inputs, 64, 64, 1)
    layers = [torch.randn(n, m, dtype=torch.float64) for m, n in itertools.pairwise(sizes)]
    rows = [torch.randn(SYSTEMS, m, dtype=torch.float64) for m in sizes[:-1]]

    def run() -> None:
        for x, weight in zip(rows, layers, strict=True):
            x @ weight.T

    run()
    return seconds(run, 5) / SYSTEMS


if __name__ == "__main__":
    main(measure, __doc__)
