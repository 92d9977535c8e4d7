"""What does an iteration cost when few samples fail? (R4)

    python -m benchmarks.near_convergence

512 three-body samples, MLP 64-64, float64, compiled. The threshold is such that one sample in sixteen fails, and the
learning rate so small that it goes on to; the peer is the same iteration with all failing.
"""

import torch

import aits_func as af
from aits_func.loops.learner import room_for
from benchmarks.timing import Missing, Row, alternate, main, row, seconds
from benchmarks.workload import FAILING, build, replay, trajectory

BATCH, ITERATIONS, REPEATS = 512, 160, 7


def measure() -> list[Row | Missing]:
    """The one row."""
    samples = trajectory(2 * BATCH)
    policy, all_fail = build("rich", **FAILING)
    _, errors = all_fail.objective.attempt(policy.init(0), (samples,))
    bound = float(errors.energy_error.quantile(15 / 16))
    _, few_fail = build(
        "rich", energy_threshold=bound, E_lower=1e-30, E_upper=bound, learning_rate=1e-12
    )  # so small a rate that the samples that fail stay the same
    room = room_for((af.sample_minibatch(samples, BATCH)[0],), BATCH // 16)
    few, every = (
        replay(policy, few_fail, samples, BATCH, "on", room=room),
        replay(policy, all_fail, samples, BATCH, "on"),
    )
    few(32), every(32)
    pairs = alternate(
        lambda: seconds(lambda: few(ITERATIONS)) / ITERATIONS,
        lambda: seconds(lambda: every(ITERATIONS)) / ITERATIONS,
        REPEATS,
    )
    share = float(torch.as_tensor(errors.energy_error >= bound).double().mean())
    note = f"{share:.1%} fail"
    return [
        row(
            "R4", "few samples fail, time over that with all failing", pairs, 0.5, at_most=True, inverse=True, note=note
        )
    ]


if __name__ == "__main__":
    main(measure, __doc__)
