"""A trajectory is a pytree with a leading axis, so a ``DataLoader`` over its rows works.

    python examples/dataloader.py

Collects a trajectory, then trains on it with torch's own loader in place of `generalize_on_trajectory`.
"""

import optree
import torch
from torch.utils.data import DataLoader

import aits_func as af


def main() -> None:
    """Train for two passes over a trajectory of 128 samples."""
    gravity = af.build_gravity()
    policy = af.build_residual_policy(af.build_features("invariant", gravity), af.p_norm(gravity, eta=0.1))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=1e-2)
    learner = af.build_learner(step, af.adamw(3e-3), E_lower=1e-6, E_upper=1e-5)
    population = af.init_population(af.binaries(0, 16), gravity=gravity)
    state = af.init_train_state(policy.init(0), learner.optimizer, population)
    state, (trajectory,), info = af.collect_trajectory(state, learner=learner, steps_per_epoch=8)
    print(f"collected {info.recorded} samples")

    rows = [optree.tree_map(lambda leaf, i=i: leaf[i], trajectory) for i in range(info.recorded)]
    loader = DataLoader(
        rows,
        batch_size=32,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        collate_fn=lambda batch: optree.tree_map(lambda *same: torch.stack(same), *batch),
    )
    for _ in range(2):
        for minibatch in loader:
            state, (loss, _) = learner.update(state, minibatch, "all")
            print(f"loss {float(loss):.3f}")


if __name__ == "__main__":
    main()
