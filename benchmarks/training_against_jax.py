"""Is a replay iteration faster than the same one in JAX? (R2)

    python -m benchmarks.training_against_jax

512 three-body samples, MLP 64-64, float64, all failing, minibatches drawn anew. Two peers with optax.adam do the same
mathematics: `jax_plain_peer`, written as one writes JAX, a jitted call per iteration; and `jax_peer`, tuned by hand:
bodies and axes written out, sixteen iterations in one ``lax.scan``.
"""

import itertools
from collections.abc import Callable

import torch

import aits_func as af
from benchmarks import jax_peer, jax_plain_peer
from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, replay, trajectory

ITERATIONS, REPEATS, BATCH = 160, 9, 512
PEERS = {"JAX": jax_plain_peer.build_peer, "JAX tuned by hand": jax_peer.build_peer}


def measure() -> list[Row | Missing]:
    """One row for every peer and vocabulary of features."""
    return [_measure(features, peer) for peer, features in itertools.product(PEERS, ("rich", "invariant"))]


def _measure(features: str, name: str) -> Row | Missing:
    work = f"replay iteration, {features} features, against {name}"
    if reason := jax_peer.missing():
        return Missing("R2", work, reason)
    policy, learner = build(features, **FAILING)
    samples = trajectory(2 * BATCH)
    ours = replay(policy, learner, samples, BATCH, "on")
    theirs = _theirs(PEERS[name](features, **FAILING), policy, samples)
    ours(32), theirs(32)  # compile
    pairs = alternate(
        lambda: seconds(lambda: ours(ITERATIONS)) / ITERATIONS,
        lambda: seconds(lambda: theirs(ITERATIONS)) / ITERATIONS,
        REPEATS,
    )
    return row("R2", work, pairs, 2.0)


def _theirs(
    peer: jax_peer.Peer | jax_plain_peer.PlainPeer, policy: af.Policy, samples: af.Sample
) -> Callable[[int], None]:
    """So many iterations in JAX; the host looks at the verdicts once in sixteen, as ours does."""
    params, data = jax_peer.convert(policy.init(0)), jax_peer.convert(samples)
    state = [params, peer.init(params)]

    def sixteen() -> bool:
        indices = torch.stack([torch.randperm(2 * BATCH)[:BATCH] for _ in range(16)]).numpy()
        if isinstance(peer, jax_peer.Peer):
            *state[:], _, passed = peer.iterate_many(*state, data, indices)
            return bool(passed.any())
        verdicts = []
        for index in indices:
            *state[:], _, passed = peer.iterate(*state, data, index)
            verdicts.append(passed)
        return any(map(bool, verdicts))

    def run(iterations: int) -> None:
        for _ in range(iterations // 16):
            if sixteen():
                raise RuntimeError("a minibatch passed: the work is not what this benchmark means to time")

    return run


if __name__ == "__main__":
    main(measure, __doc__)
