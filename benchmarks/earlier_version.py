"""Did a change make anything slower? Our own sides of R1, R2 and S1 to S3, against those of an earlier version.

    python -m benchmarks.earlier_version REVISION

Both versions compile in a process of their own, with a cache of their own, and then work by turns: each waits while the
other is timed. The earlier one is a worktree of git; what is timed is this script's, through functions of the library
and of `benchmarks.workload` that both versions have.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPEATS, REACH = 9, 0.9  # not slower by more than a tenth
WORK = {
    "eager rich": ("R1", "replay iteration, rich features, eager"),
    "eager invariant": ("R1", "replay iteration, invariant features, eager"),
    "compiled rich": ("R1, R2", "replay iteration, rich features, compiled"),
    "compiled invariant": ("R1, R2", "replay iteration, invariant features, compiled"),
    "double": ("S1", "16,384 three-body systems, fixed step, float64"),
    "single": ("S1", "16,384 three-body systems, fixed step, float32"),
    "learned": ("S2", "16,384 three-body systems, learned step"),
    "one": ("S3", "one system, learned step"),
}


def build(name: str) -> Callable[[], float]:
    """A piece of work, compiled and warm: called, it gives the seconds per unit of it."""
    import torch

    import aits_func as af
    from benchmarks.timing import seconds
    from benchmarks.workload import FAILING, build, replay, trajectory

    kind, _, features = name.partition(" ")
    if features:
        policy, learner = build(features, **FAILING)
        iterate = replay(policy, learner, trajectory(1024), 512, "off" if kind == "eager" else "on")
        count = 16 if kind == "eager" else 320
        iterate(32)
        return lambda: seconds(lambda: iterate(count)) / count
    torch.set_num_threads(1 if name == "one" else os.cpu_count() or 1)
    gravity = af.build_gravity(softening=0.0 if name == "one" else 0.05)
    rule = af.p_norm(gravity, eta=0.02)
    policy = af.build_residual_policy(af.build_features("invariant", gravity), rule)
    if name in ("double", "single"):
        policy = af.build_criterion_policy(af.build_criterion("constant", gravity, dt=1e-3))
    systems = af.known_orbit("figure_eight")
    if name != "one":
        systems = af.gaussian_cluster(0, 16_384, bodies=3, dimensions=3, position_scale=1.0, velocity_scale=0.3)
    if name == "single":
        systems = af.System(*(leaf.float() for leaf in systems))
    params = torch.utils._pytree.tree_map(lambda leaf: leaf.to(systems.mass), policy.init(0))
    integrator, steps = af.build_leapfrog_kdk(gravity), {"one": 2000, "learned": 64}.get(name, 1600)
    options = {"policy": policy, "gravity": gravity, "scheme": integrator, "steps": steps, "statistics": False}

    def run() -> object:
        return af.simulate(params, systems, **options, compile="on")

    run()
    return lambda: seconds(run) / (steps * (1 if name == "one" else len(systems.mass)))


def work() -> None:
    """One version: for every name that comes in, the seconds go out."""
    built: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in built:
            built.clear()
            built[name] = build(name)
        print(built[name](), flush=True)


@contextmanager
def version(tree: Path, folder: Path) -> Iterator[Callable[[str], float]]:
    """A process that works in a tree of files."""
    environment = os.environ | {"PYTHONPATH": str(tree), "AITS_FUNC_CACHE_DIR": str(folder)}
    folder.mkdir(mode=0o700)
    command = [sys.executable, str(Path(__file__).resolve()), "--work"]
    with subprocess.Popen(
        command, env=environment, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, told = process.stdin, process.stdout

        def seconds_of(name: str) -> float:
            print(name, file=asked, flush=True)
            return float(told.readline())

        yield seconds_of
        asked.close()


def main() -> int:
    """Print the table; the exit code is 1 if something is slower by more than a tenth."""
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.earlier_version REVISION", file=sys.stderr)
        return 2
    from benchmarks.timing import alternate, row, table

    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        earlier = place / "earlier"
        subprocess.run(["git", "-C", here, "worktree", "add", "-q", "--detach", earlier, sys.argv[1]], check=True)
        try:
            with version(here, place / "a") as ours, version(earlier, place / "b") as theirs:
                rows = []
                for name, (question, what) in WORK.items():
                    ours(name), theirs(name)  # compile
                    pairs = alternate(lambda n=name: ours(n), lambda n=name: theirs(n), REPEATS)
                    rows.append(row(question, what, pairs, REACH))
        finally:
            subprocess.run(["git", "-C", here, "worktree", "remove", "--force", earlier], check=True)
    print(table(rows))
    return 0 if all(each.reached for each in rows) else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        sys.exit(main())
