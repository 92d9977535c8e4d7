"""What does a step of one system cost with a learned policy? (S3)

    python -m benchmarks.single_system

The figure-eight, MLP 64-64 on invariant features, float64, one thread, compiled, without statistics; the peer is the
network's arithmetic alone in numpy. The target is an absolute time, 25 µs, so the ratio is the time over that.
"""

import itertools

import numpy as np
import torch

import aits_func as af
from aits_func.base.engine import watch_compilation
from benchmarks.timing import Missing, Row, alternate, main, row, seconds

STEPS, REPEATS, TARGET = 2_000, 5, 25e-6


def measure() -> list[Row | Missing]:
    """The one row."""
    torch.set_num_threads(1)
    gravity = af.build_gravity()
    seen = af.build_features("invariant", gravity)
    policy = af.build_residual_policy(seen, af.p_norm(gravity, eta=0.02))
    params, system, integrator = policy.init(0), af.known_orbit("figure_eight"), af.build_leapfrog_kdk(gravity)

    def run() -> object:
        return af.simulate(
            params,
            system,
            policy=policy,
            gravity=gravity,
            scheme=integrator,
            steps=STEPS,
            statistics=False,
            compile="on",
        )

    spent: list[float] = []
    with watch_compilation(lambda event: spent.append(event.seconds or 0.0)):
        run()
    sizes = (seen.size, 64, 64, 1)
    layers = [(np.random.default_rng(0).normal(size=(n, m)), np.zeros(n)) for m, n in itertools.pairwise(sizes)]

    def network() -> object:
        x = np.ones(seen.size)
        for weight, bias in layers[:-1]:
            x = np.tanh(weight @ x + bias)
        return layers[-1][0] @ x

    pairs = alternate(lambda: seconds(run) / STEPS, lambda: seconds(network, STEPS), REPEATS)
    figure = row(
        "S3",
        "one system, learned step, time over 25 µs",
        [(a, TARGET) for a, _ in pairs],
        1.0,
        at_most=True,
        inverse=True,
    )
    numpy_time = float(np.median([b for _, b in pairs]))
    return [figure._replace(note=f"network alone in numpy {1e6 * numpy_time:.1f} µs; compiled in {sum(spent):.1f} s")]


if __name__ == "__main__":
    main(measure, __doc__)
