"""The problem of these examples: 64 sets of three bodies, a small network alone, and the band [1e-6, 1e-4]."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.func import vmap

import aits_func as af


class Problem(NamedTuple):
    """What an optimizer is given."""

    policy: af.Policy
    step: Callable[..., Any]  # one attempted step of one system
    objective: af.Objective
    samples: af.Sample  # leaves (64, ...)


def build_problem(hidden: tuple[int, ...] = (8,)) -> Problem:
    """The same problem for all of them."""
    gravity = af.build_gravity()
    features, criterion = af.build_features("invariant", gravity), af.p_norm(gravity, eta=1.0)
    policy = af.build_mlp_policy(features, timescale=criterion, hidden=hidden)
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
    systems = af.gaussian_cluster(0, 64, bodies=3, position_scale=1.0, velocity_scale=0.6)
    samples = vmap(af.first_sample)(systems)
    return Problem(policy, step, af.build_objective(step), samples)


def loss_of(problem: Problem, params: object) -> float:
    """Mean square distance of all samples from the band."""
    return float(problem.objective.loss(params, problem.samples, "all")[0].detach())


def train(problem: Problem, optimizer: af.GradientTransformation | af.LeastSquares, steps: int) -> tuple[float, float]:
    """Part 2 with any optimizer: the loss before and after."""
    learner = af.build_learner(problem.step, optimizer)
    state = af.init_train_state(problem.policy.init(0), learner.optimizer)
    before = loss_of(problem, state.params)
    state, _ = af.generalize_on_trajectory(
        state, problem.samples, learner=learner, replay_batch_size=32, replay_steps=steps, loss_on="all",
        convergence="band",
    )  # fmt: skip
    return before, loss_of(problem, state.params)


def show(name: str, losses: tuple[float, float]) -> None:
    """One line."""
    print(f"{name}: loss {losses[0]:.3g} before, {losses[1]:.3g} after")
