"""The work of the training questions: three-body samples, a residual policy, and an iteration of the replay."""

from collections.abc import Callable, Sequence

import torch

import aits_func as af
from aits_func.loops.objective import prepare
from aits_func.loops.replay_iteration import GOING, begin, build_iteration, draw_minibatches, run_until_stop

FAILING = {"energy_threshold": 1e-15, "E_lower": 1e-16, "E_upper": 1e-15}
"""A threshold so small that every sample fails."""


def build(
    features: str = "rich",
    hidden: Sequence[int] = (64, 64),
    *,
    energy_threshold: float,
    E_lower: float,
    E_upper: float,
    learning_rate: float = 1e-4,
) -> tuple[af.Policy, af.Learner]:
    """A policy and its learner."""
    gravity = af.build_gravity()
    seen = af.build_features(features, gravity)
    policy = af.build_residual_policy(seen, af.p_norm(gravity, eta=0.3), hidden=hidden)
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=energy_threshold)
    return policy, af.build_learner(step, af.adam(learning_rate), E_lower=E_lower, E_upper=E_upper)


def trajectory(samples: int, bodies: int = 3) -> af.Sample:
    """Samples without history."""
    systems = af.gaussian_cluster(0, samples, bodies=bodies, position_scale=1.0, velocity_scale=0.3)
    return torch.func.vmap(af.first_sample)(systems)


def replay(
    policy: af.Policy, learner: af.Learner, samples: af.Sample, batch: int, compile: str, room: int = 0
) -> Callable[[int], None]:
    """So many iterations as `generalize_on_trajectory` makes them: in sixteens, with one look of the host in each.

    ``room`` is for so many gradients, where there is no native code that leaves out the others by itself.
    """
    iterate = build_iteration(learner, "failed", "minibatch", 0, compile)
    state = af.init_train_state(policy.init(0), learner.optimizer)
    progress, drawn = begin(state, torch.device("cpu")), 0
    prepared = prepare(samples, learner.objective)

    def run(iterations: int) -> None:
        nonlocal progress, drawn, iterate
        for _ in range(iterations // 16):
            seeds = range(drawn, drawn + 16)
            drawn += 16
            minibatches = draw_minibatches(prepared, batch, seeds, fixed_shapes=compile != "off")
            progress, _, code = run_until_stop(iterate, progress, minibatches)
            if code != GOING:
                raise RuntimeError("an iteration froze: the work is not what this benchmark means to time")
            if room and iterate.fallback:
                iterate = build_iteration(learner, "failed", "minibatch", room, compile)

    return run
