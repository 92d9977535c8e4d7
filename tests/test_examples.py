"""Every way to train that the examples show does train."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.func import grad

import aits_func as af
from aits_func.base.tree import leaves

ROOT = Path(__file__).parents[1]
# The loss after over the loss before, at most; behind it what was seen. There are four times between them and more, as
# training magnifies rounding, and another machine's takes another path.
LEAST = {
    "torch_optim": 0.1,  # 0.009
    "torchopt_optimizer": 0.1,  # 0.001
    "lbfgs": 0.01,  # 3e-4
    "scipy_least_squares": 0.01,  # 0
    "scipy_minimize": 0.01,  # 1e-12
    "evolution_strategy": 0.01,  # 1e-4
    "learned_learning_rate": 0.5,  # 0.02; four steps of gradient descent from 52
    "own_optimizer": 0.1,  # 0.02
}
NEEDS = {"scipy_least_squares": "scipy", "scipy_minimize": "scipy", "torchopt_optimizer": "torchopt"}


def test_every_example_of_an_optimizer_is_run_here():
    files = {path.stem for path in (ROOT / "examples" / "optimizers").glob("*.py")}
    assert files == {*LEAST, "problem", "__init__"}


@pytest.mark.parametrize("name", LEAST)
def test_an_example_lowers_the_loss(name, monkeypatch, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    monkeypatch.syspath_prepend(ROOT)
    before, after = importlib.import_module(f"examples.optimizers.{name}").main()
    assert f"loss {before:.3g} before" in capsys.readouterr().out
    assert after < LEAST[name] * before


def test_an_optimizer_of_one_s_own_is_what_the_replay_steps_with(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    example = importlib.import_module("examples.optimizers.own_optimizer")
    problem, rate = importlib.import_module("examples.optimizers.problem").build_problem(), 2.0**-7
    learner = af.build_learner(problem.step, example.lion(rate))
    start = af.init_train_state(problem.policy.init(0), learner.optimizer)
    options = {"learner": learner, "replay_batch_size": 32, "replay_steps": 5, "loss_on": "all"}
    state, _ = af.generalize_on_trajectory(start, problem.samples, **options)
    for after, before in zip(leaves(state.params), leaves(start.params), strict=True):
        steps = (after - before) / rate
        # Every update is one rate to either side, or none where the gradient is 0: whole numbers, of sums rounded by
        # 1e-16 over a rate of 1e-2.
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-12)
        assert steps.abs().amax() <= 5.5
        assert steps.abs().amax() >= 0.5


def test_the_gradient_through_twenty_updates_is_that_of_central_differences(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    example = importlib.import_module("examples.optimizers.learned_learning_rate")
    problem, x, h = importlib.import_module("examples.optimizers.problem").build_problem(), -4.5, 1e-5

    def loss(log_rate):
        return example.loss_after(problem, log_rate)

    slope = grad(loss)(torch.tensor(x, dtype=torch.float64))
    below, above = (loss(torch.tensor(x + sign * h, dtype=torch.float64)) for sign in (-1, 1))
    # h² of truncation times a curvature of order hundred, and 1e-12 of rounding over h.
    torch.testing.assert_close(slope, (above - below) / (2 * h), rtol=1e-4, atol=1e-5)
