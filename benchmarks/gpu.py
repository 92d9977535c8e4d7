"""The training iteration and large sums on a GPU. (G1)

    python -m benchmarks.gpu

Without one, the row says so: nothing of it can be measured elsewhere.
"""

import torch

from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, trajectory

BATCH, ITERATIONS, REPEATS = 512, 64, 7


def measure() -> list[Row | Missing]:
    """A replay update, compiled with CUDA graphs, against eager code on the same card."""
    work = "replay update on a GPU, CUDA graph against eager"
    if not torch.cuda.is_available():
        return [Missing("G1", work, "no GPU")]
    from aits_func.base.engine import build_engine
    from aits_func.base.tree import cast

    policy, learner = build("rich", **FAILING)
    params = cast(policy.init(0), device="cuda")
    batch = cast(trajectory(BATCH), device="cuda")
    state = learner.optimizer.init(params)

    def update(params: object, opt_state: object, samples: object) -> object:
        import aits_func as af

        whole = af.TrainState(params, opt_state, (), torch.zeros((), device="cuda"))
        after, (loss, _) = learner.update(whole, (samples,), "failed")
        return after.params, after.opt_state, loss

    compiled = build_engine(update, mode="on", batched=(False, False, True))

    def timed(function: object) -> float:
        def run() -> None:
            for _ in range(ITERATIONS):
                function(params, state, batch)  # type: ignore[operator]
            torch.cuda.synchronize()

        return seconds(run) / ITERATIONS

    timed(compiled), timed(update)
    return [row("G1", work, alternate(lambda: timed(compiled), lambda: timed(update), REPEATS), 1.5)]


if __name__ == "__main__":
    main(measure, __doc__)
