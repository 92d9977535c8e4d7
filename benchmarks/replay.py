"""What does one replay iteration cost, vmapped, against the same iteration as a Python loop over samples? (R1)

    python -m benchmarks.replay
    python -m benchmarks.replay --memory 65536

The iteration: draw a minibatch of 512 three-body samples, predict, step, weigh the energy, band loss, gradient, Adam.
The peer is the way of the document that this project grew from: one sample at a time through autograd, with
``torch.optim.Adam``, calling the very same functions of one system. Float64, MLP 64-64, all samples failing, so that
both do all of the work; ours eager and compiled. With ``--memory`` the peak resident memory of the process after
three eager
iterations is printed instead.
"""

import resource
import sys
from collections.abc import Callable

import torch

import aits_func as af
from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, replay, trajectory

FEATURES, BATCH, REPEATS = ("invariant", "rich"), 512, 5


def looped(step: Callable, policy: af.Policy, samples: af.Sample, batch: int) -> Callable[[int], None]:
    """The same iteration, sample by sample: step, loss, mean over the failed, backward, torch.optim.Adam."""
    import optree

    params = optree.tree_map(lambda leaf: leaf.clone().requires_grad_(), policy.init(0))
    optimizer = torch.optim.Adam(optree.tree_leaves(params), lr=1e-4)

    def iterate(number: int) -> None:
        (minibatch,) = af.sample_minibatch(samples, batch, seed=number)
        losses, passed = [], []
        for i in range(batch):
            sample = optree.tree_map(lambda leaf, i=i: leaf[i], minibatch)
            _, info = step(params, sample)
            loss = af.compute_single_step_loss(info.energy_error, info.dt, info.exploded, E_lower=1e-16, E_upper=1e-15)
            passed.append(bool(info.accepted))
            if not passed[-1]:
                losses.append(loss)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()

    return iterate


def measure() -> list[Row | Missing]:
    """Both vocabularies, eager and compiled."""
    rows: list[Row | Missing] = []
    for features in FEATURES:
        policy, learner = build(features, **FAILING)
        samples = trajectory(2 * BATCH)
        slow = looped(_step_of(features), policy, samples, BATCH)
        seconds(lambda slow=slow: slow(0))
        for mode, reach in (("off", 80.0), ("on", 700.0)):
            fast = replay(policy, learner, samples, BATCH, mode)
            fast(16)
            count = 16 if mode == "off" else 160
            pairs = alternate(
                lambda fast=fast, count=count: seconds(lambda: fast(count)) / count,
                lambda slow=slow: seconds(lambda: slow(0)),
                REPEATS,
            )
            name = "eager" if mode == "off" else "compiled"
            rows.append(row("R1", f"replay iteration, {features} features, {name}, against a loop", pairs, reach))
    return rows


def _step_of(features: str) -> Callable:
    gravity = af.build_gravity()
    policy = af.build_residual_policy(
        af.build_features(features, gravity), af.p_norm(gravity, eta=0.3), hidden=(64, 64)
    )
    return af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=FAILING["energy_threshold"])


def memory(batch: int) -> None:
    """Print the peak resident memory of this process, before and after three eager iterations, in GiB."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    policy, learner = build("invariant", **FAILING)
    state, samples = af.init_train_state(policy.init(0), learner.optimizer), trajectory(batch)
    before = peak()
    for _ in range(3):
        state, _ = learner.update(state, (samples,), "failed")
    print(f"peak resident memory {peak():.2f} GiB ({before:.2f} before three iterations with {batch} samples)")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--memory":
        memory(int(sys.argv[2]))
    else:
        main(measure, __doc__)
