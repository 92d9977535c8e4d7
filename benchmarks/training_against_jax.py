"""Is a replay iteration faster than the same one in JAX? (R2)

    python -m benchmarks.training_against_jax

512 three-body samples, MLP 64-64, float64, all failing. The peer (`jax_peer`) is one jitted function with optax.adam,
written for speed, and is given its best form: sixteen iterations in one ``lax.scan``. Both draw their minibatches anew.
"""

import torch

from benchmarks import jax_peer
from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, replay, trajectory

ITERATIONS, REPEATS, BATCH = 160, 7, 512


def measure() -> list[Row | Missing]:
    """One row for every vocabulary of features."""
    return [_measure(features) for features in ("rich", "invariant")]


def _measure(features: str) -> Row | Missing:
    work = f"replay iteration, {features} features, against JAX"
    if reason := jax_peer.missing():
        return Missing("R2", work, reason)
    policy, learner = build(features, **FAILING)
    samples = trajectory(2 * BATCH)
    ours = replay(policy, learner, samples, BATCH, "on")
    peer = jax_peer.build_peer(features, **FAILING)
    params, data = jax_peer.convert(policy.init(0)), jax_peer.convert(samples)
    state = [params, peer.init(params)]

    def jax_iterations(count: int) -> None:
        for _ in range(count // 16):
            indices = torch.stack([torch.randperm(2 * BATCH)[:BATCH] for _ in range(16)]).numpy()
            *state[:], _, passed = peer.iterate_many(*state, data, indices)
            if bool(passed.any()):
                raise RuntimeError("a minibatch passed: the work is not what this benchmark means to time")

    ours(32), jax_iterations(32)  # compile
    pairs = alternate(
        lambda: seconds(lambda: ours(ITERATIONS)) / ITERATIONS,
        lambda: seconds(lambda: jax_iterations(ITERATIONS)) / ITERATIONS,
        REPEATS,
    )
    return row("R2", work, pairs, 2.0)


if __name__ == "__main__":
    main(measure, __doc__)
