"""What do 32 policies cost that are trained at once, against 32 runs one after the other? (E1)

    python -m benchmarks.policy_ensemble

MLP 64-64 on invariant features, 512 of 1,024 three-body samples in a minibatch, float64, all failing, so that no member
stops; the same seeds on both sides, and whole calls with their reports at the end. At once means compiled; one after
the other is timed eager and compiled. What compiling costs once is left out on both sides.
"""

import torch

import aits_func as af
from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, trajectory

MEMBERS, BATCH, REPEATS = range(32), 512, 5


def measure() -> list[Row | Missing]:
    """Against eager runs, and against compiled ones."""
    policy, learner = build("invariant", **FAILING)
    samples = (trajectory(2 * BATCH),)

    def options(steps: int, compile: str) -> dict:
        return {"learner": learner, "replay_batch_size": BATCH, "replay_steps": steps, "compile": compile}

    def at_once(steps: int) -> af.EnsembleInfo:
        states = af.init_ensemble(policy.init, learner, MEMBERS)
        return af.generalize_ensemble(states, samples, seeds=MEMBERS, **options(steps, "on"))[1]

    def one_by_one(steps: int, compile: str) -> list[af.ReplayInfo]:
        starts = [af.init_train_state(policy.init(seed), learner.optimizer) for seed in MEMBERS]
        return [
            af.generalize_on_trajectory(state, samples, seed=seed, **options(steps, compile))[1]
            for seed, state in zip(MEMBERS, starts, strict=True)
        ]

    _compare(at_once(16).members, one_by_one(16, "on"))  # and compile
    rows: list[Row | Missing] = []
    for compile, name, steps, reach in (("off", "eager", 16, 1 / 3), ("on", "compiled", 64, 0.8)):
        pairs = alternate(
            lambda steps=steps: seconds(lambda: at_once(steps)) / steps,
            lambda steps=steps, compile=compile: seconds(lambda: one_by_one(steps, compile)) / steps,
            REPEATS,
        )
        work = f"{len(MEMBERS)} policies at once, an iteration of all, over that of as many {name} runs"
        rows.append(row("E1", work, pairs, reach, at_most=True, inverse=True))
    return rows


def _compare(ours: tuple[af.ReplayInfo, ...], theirs: list[af.ReplayInfo]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.history.loss, other.history.loss, rtol=1e-6, atol=1e-9)


if __name__ == "__main__":
    main(measure, __doc__)
