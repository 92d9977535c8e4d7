"""What does one replay iteration cost, vmapped, against the same iteration as a Python loop over samples?

    python -m benchmarks.replay [--samples 512] [--repeats 5]
    python -m benchmarks.replay --memory 65536

The iteration: draw a minibatch of three-body samples, predict, step, weigh the energy, band loss, gradient,
Adam. The peer is the way of the document that this project grew from: one sample at a time through autograd,
with ``torch.optim.Adam``, calling the very same functions of one system. Both are eager and in float64, on an
MLP 64-64, with all samples failing, so that both do all of the work. Timed in turn, A B A B ...; the ratio is
taken pair by pair. With ``--memory`` the peak resident memory of the process after three vmapped iterations is
printed instead.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import aits_func as af

FEATURES = ("invariant", "rich")


def build(features: str) -> tuple[af.Policy, Callable, af.Learner]:
    """Policy, step and learner; a threshold so small that every sample fails."""
    gravity = af.build_gravity()
    seen = af.build_features(features, gravity)
    policy = af.build_residual_policy(seen, af.p_norm(gravity, eta=0.3), hidden=(64, 64))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=1e-15)
    return policy, step, af.build_learner(step, af.adam(1e-4), E_lower=1e-16, E_upper=1e-15)


def trajectory(samples: int) -> af.Sample:
    """Three-body samples without history."""
    systems = af.gaussian_cluster(0, samples, bodies=3, position_scale=1.0, velocity_scale=0.3)
    return torch.func.vmap(af.first_sample)(systems)


def vmapped(learner: af.Learner, policy: af.Policy, samples: af.Sample, batch: int) -> Callable[[int], None]:
    """One iteration of generalize_on_trajectory's loop, with the host's look at the verdict."""
    state = [af.init_train_state(policy.init(0), learner.optimizer)]

    def iterate(number: int) -> None:
        minibatch = af.sample_minibatch(samples, batch, seed=number)
        state[0], (_, info) = learner.update(state[0], minibatch, "failed")
        assert not bool(info.accepted.all())

    return iterate


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


def seconds(iterate: Callable[[int], None], numbers: range) -> float:
    """Wall seconds per iteration."""
    began = time.perf_counter()
    for number in numbers:
        iterate(number)
    return (time.perf_counter() - began) / len(numbers)


def compare(features: str, batch: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of both, and the ratios pair by pair."""
    policy, step, learner = build(features)
    samples = trajectory(2 * batch)
    fast, slow = vmapped(learner, policy, samples, batch), looped(step, policy, samples, batch)
    seconds(fast, range(10)), seconds(slow, range(1))  # warm up
    pairs = [(seconds(fast, range(20)), seconds(slow, range(1))) for _ in range(repeats)]
    ratios = [b / a for a, b in pairs]
    return {
        "vmap_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "loop_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def memory(batch: int) -> dict[str, float]:
    """Peak resident memory of this process, before and after three iterations, in GiB."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    policy, _, learner = build("invariant")
    samples = trajectory(batch)
    before = peak()
    seconds(vmapped(learner, policy, samples, batch), range(3))
    return {"samples": batch, "peak_before_GiB": before, "peak_GiB": peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, metavar="SAMPLES", help="measure peak memory instead")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.memory:
        figures: dict = {"memory": memory(options.memory)}
        print(
            "peak resident memory {peak_GiB:.2f} GiB ({peak_before_GiB:.2f} before the first of three iterations "
            "with {samples} samples)".format(**figures["memory"])
        )
    else:
        figures = {name: compare(name, options.samples, options.repeats) for name in FEATURES}
        print(
            f"one replay iteration, {options.samples} three-body samples, MLP 64-64, float64, eager, "
            f"{torch.get_num_threads()} threads"
        )
        print(f"{'features':12}{'vmap':>12}{'Python loop':>14}{'ratio':>10}   (min to max of {options.repeats})")
        for name, row in figures.items():
            print(
                "{0:12}{vmap_ms:9.1f} ms{loop_ms:11.0f} ms{ratio_median:9.0f} ×   "
                "({ratio_min:.0f} to {ratio_max:.0f})".format(name, **row)
            )
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
