"""Do time and memory of an iteration grow with the work, without a cliff? (R6)

    python -m benchmarks.growth

Batches of 2⁹ to 2¹⁷ three-body samples, and of bodies 2 to 1,024 at a constant number of pairs; eager, float64, rich
features, MLP 64-64. The ratio of a step is the time per unit of work over that of the one before; the row shows the
largest. Peak memory is that of a process of its own, above what it holds before the first iteration.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import torch

import aits_func as af
from benchmarks.timing import Missing, Row, main, seconds
from benchmarks.workload import FAILING, build, trajectory

BATCHES, BODIES, PAIRS = tuple(2**k for k in range(9, 18, 2)), (2, 8, 32, 128, 512, 1024), 2**19
MEMORY = tuple(2**k for k in (15, 16, 17))  # smaller ones hide behind what importing torch has taken
TOLERATED = 1.5  # a cache that overflows may cost so much; a cliff is more


def measure() -> list[Row | Missing]:
    """Time by batch, time by bodies, memory by batch."""
    by_batch = [(size, _seconds(size, 3) / size) for size in BATCHES]
    by_bodies = [(n, _seconds(max(1, PAIRS // (n * n)), n) / PAIRS) for n in BODIES]
    memory = [(size, _memory(size)) for size in MEMORY]
    return [
        _row("time per sample, batch 2⁹ to 2¹⁷", by_batch),
        _row("time per pair, 2 to 1,024 bodies", by_bodies),
        _row("peak memory per sample, batch 2¹⁵ to 2¹⁷", [(size, gib * 2**20 / size) for size, gib in memory], "KiB"),
    ]


def _row(work: str, figures: list[tuple[int, float]], unit: str = "s") -> Row:
    steps = [after[1] / before[1] for before, after in itertools.pairwise(figures)]
    worst, first, last = max(steps), figures[0][1], figures[-1][1]
    note = "largest of the steps"
    return Row("R6", work, last, first, worst, min(steps), worst, TOLERATED, at_most=True, note=note, unit=unit)


def _seconds(samples: int, bodies: int) -> float:
    policy, learner = build("rich", **FAILING)
    state, batch = _state(policy, learner), trajectory(samples, bodies)
    seconds(lambda: learner.update(state, (batch,), "failed"))
    return seconds(lambda: learner.update(state, (batch,), "failed"), 3)


def _state(policy: af.Policy, learner: af.Learner) -> af.TrainState:
    return af.init_train_state(policy.init(0), learner.optimizer)


def _memory(samples: int) -> float:
    """GiB, of a fresh process."""
    command = [sys.executable, "-c", f"from benchmarks.growth import peak; print(peak({samples}))"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(samples: int) -> float:
    """GiB that one iteration takes above what is there before it."""
    policy, learner = build("rich", **FAILING)
    state, batch = _state(policy, learner), trajectory(samples)
    torch.set_num_threads(1)
    before = _high_water()
    learner.update(state, (batch,), "failed")
    return _high_water() - before


def _high_water() -> float:
    """Largest resident memory of this process so far, GiB; what ``getrusage`` says counts the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    main(measure, __doc__)
