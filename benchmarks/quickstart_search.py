"""Which learning rate and which band should the quickstart have? One ensemble for each band, members by rate and seed.

    python -m benchmarks.quickstart_search

The systems of configs/quickstart.toml: 48 eccentric binaries and 48 free-fall triples, 32 steps of each by the policy
at its start; then its replay (100 iterations on minibatches of 512, loss on all samples) for six learning rates and 4
seeds at once. What counts is the whole trajectory afterwards: how much of it lies inside the band, and how long its
steps are. A short search: of one generalization, not of fourteen epochs.
"""

import argparse
import json
from pathlib import Path

import torch

import aits_func as af

RATES, SEEDS, ITERATIONS, BATCH = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), range(4), 100, 512
BANDS = ((1e-7, 1e-5), (1e-6, 1e-4), (1e-5, 1e-4))
GRAVITY = af.build_gravity()


def build_learner(E_lower: float, E_upper: float) -> tuple[af.Policy, af.Learner]:
    """The quickstart's policy, and AdamW with its rate in its state."""
    policy = af.build_residual_policy(af.build_features("invariant", GRAVITY), af.p_norm(GRAVITY, eta=0.02), bound=4.0)
    step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY))
    return policy, af.build_learner(step, af.with_rate(af.adamw(1.0)), E_lower=E_lower, E_upper=E_upper)


def trajectory() -> tuple[af.Sample, ...]:
    """States on the way of the quickstart's systems."""
    policy, _ = build_learner(1e-6, 1e-4)
    step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_threshold=1e9)
    learner = af.build_learner(step, af.sgd(1e-3))  # nothing is asked of it: every step is accepted
    systems = (
        af.binaries(0, 48, eccentricity=(0.6, 0.95), semi_major_axis=(0.8, 1.2)),
        af.free_fall_triple(1, 48),
    )
    population = af.init_population(systems, gravity=GRAVITY)
    state = af.init_train_state(policy.init(0), learner.optimizer, population)
    return af.collect_trajectory(state, learner=learner, steps_per_epoch=32)[1]


def search(band: tuple[float, float], samples: tuple[af.Sample, ...]) -> list[dict[str, float]]:
    """A row for every learning rate: least, median and most over the seeds."""
    policy, learner = build_learner(*band)
    seeds = [seed for _ in RATES for seed in SEEDS]
    states = af.init_ensemble(policy.init, learner, seeds)
    rates = torch.tensor([rate for rate in RATES for _ in SEEDS], dtype=torch.float64)
    states = states._replace(opt_state=states.opt_state._replace(rate=rates))
    options = {"replay_batch_size": BATCH, "replay_steps": ITERATIONS, "loss_on": "all", "convergence": "band"}
    _, info = af.generalize_ensemble(states, samples, learner=learner, seeds=seeds, compile="auto", **options)
    rows = []
    for k, rate in enumerate(RATES):
        few = af.EnsembleInfo(info.members[k * len(SEEDS) : (k + 1) * len(SEEDS)])
        inside, dt = few.spread("band_rate"), few.spread("mean_dt")
        rows.append(
            {
                "E_lower": band[0],
                "E_upper": band[1],
                "learning_rate": rate,
                "inside_least": inside.least,
                "inside": inside.median,
                "inside_most": inside.most,
                "mean_dt": dt.median,
            }
        )
    return rows


def main() -> None:
    """Print the table, and write the rows where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    samples = trajectory()
    rows = [row for band in BANDS for row in search(band, samples)]
    print("| band | learning rate | inside, median (least to most) | mean step |\n|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['E_lower']:g} to {row['E_upper']:g} | {row['learning_rate']:g} | {row['inside']:.1%} "
            f"({row['inside_least']:.1%} to {row['inside_most']:.1%}) | {row['mean_dt']:.3g} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
