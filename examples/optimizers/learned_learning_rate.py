"""A learning rate that is learned: the gradient of the loss after twenty updates, through all of them.

python -m examples.optimizers.learned_learning_rate
"""

import torch
from torch import Tensor
from torch.func import grad_and_value

import aits_func as af

from .problem import Problem, build_problem, show

UPDATES, META_STEPS, META_RATE = 20, 4, 0.5


def loss_after(problem: Problem, log_rate: Tensor) -> Tensor:
    """The loss after twenty updates of Adam at this learning rate, a pure function of its logarithm: ()."""
    learner = af.build_learner(problem.step, af.with_rate(af.adam(1.0)))
    state = af.init_train_state(problem.policy.init(0), learner.optimizer)
    state = state._replace(opt_state=state.opt_state._replace(rate=log_rate.exp()))
    for seed in range(UPDATES):
        minibatch = af.sample_minibatch(problem.samples, 32, seed=seed)
        state, _ = learner.update(state, minibatch, "all")
    return learner.objective.loss(state.params, problem.samples, "all")[0]


def main() -> tuple[float, float]:
    """Four steps of gradient descent on the logarithm of the learning rate, their length that of the sign."""
    problem, log_rate = build_problem(), torch.tensor(3e-3, dtype=torch.float64).log()
    before = float(loss_after(problem, log_rate))
    for _ in range(META_STEPS):
        slope, loss = grad_and_value(lambda x: loss_after(problem, x))(log_rate)
        print(f"learning rate {float(log_rate.exp()):.3g}: loss after {UPDATES} updates {float(loss):.3g}")
        log_rate = log_rate - META_RATE * slope.sign()
    losses = before, float(loss_after(problem, log_rate))
    show(f"learning rate {float(log_rate.exp()):.3g}", losses)
    return losses


if __name__ == "__main__":
    main()
