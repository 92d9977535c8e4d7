"""Every way to train that the examples show does train."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.func import grad

ROOT = Path(__file__).parents[1]
# What the loss falls to, at most, over what it was: a tenth of what each was seen to leave is not asked for.
LEAST = {
    "torch_optim": 0.1,
    "torchopt_optimizer": 0.1,
    "lbfgs": 0.01,
    "scipy_least_squares": 0.01,
    "scipy_minimize": 0.01,
    "evolution_strategy": 0.1,
    "learned_learning_rate": 0.5,
    "own_optimizer": 0.1,
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
