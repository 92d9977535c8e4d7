"""The same seed on the same machine gives the same bits; what may differ is measured.

    python -m reliability.repeatability [--short] [--json F]

Promised to the bit, for one version of the library, of torch and of the compiler, on one machine with one number of
threads: eager code against eager code, compiled against compiled, in one process or two, with a cold or a warm cache of
compiled code, however often the host looks at a replay. Not promised to the bit: another number of threads or size of
batch (sums are split and vectorised otherwise), eager against compiled (other formulas and another order of sums), and
another device. There ONE step or ONE update agrees to the rounding of what is computed; over many steps an encounter
magnifies any rounding, and trainings part at the first verdict that falls the other way.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

import aits_func as af
from aits_func.base.engine import missing_compiler
from aits_func.base.tree import cast, leaves, map_leaves
from reliability.findings import Finding, main

GRAVITY = af.build_gravity()
ROUNDING = 1e-10
"""Largest relative difference of one step or update in float64 where bits may differ: gradients are sums over bodies
and samples whose terms cancel, so a few thousand roundings of 2e-16, with a factor of a hundred to spare."""


def campaign(short: bool) -> list[Finding]:
    """Bits that must be the same, and differences that may be there."""
    modes = ["off"] if short or missing_compiler(torch.device("cpu")) else ["off", "on"]
    findings = [same_bits(f"the same bits in this process, compile = {mode}", here(mode)) for mode in modes]
    if not short:
        findings += [
            same_bits(f"the same bits in other processes, compile = {mode}", elsewhere(mode)) for mode in modes
        ]
    findings.append(same_bits("the same bits however often the host looks", looks()))
    findings.append(differences("two threads against one", other_threads()))
    findings.append(differences("a batch against its systems alone", alone_and_together()))
    if "on" in modes:
        findings.append(differences("compiled against eager", (one_update("on"), one_update("off"))))
    if torch.cuda.is_available():
        findings.append(differences("a GPU against the CPU", (one_update("off", "cuda"), one_update("off"))))
    return findings


# --- what is run


def built(device: str = "cpu") -> tuple[af.TrainState, af.Learner, af.Sample]:
    """A small training, and samples to replay."""
    policy = af.build_residual_policy(
        af.build_features("invariant", GRAVITY), af.p_norm(GRAVITY, eta=0.3), hidden=(8, 8)
    )
    learner = af.build_learner(af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY)), af.adamw(1e-2))
    systems = cast(af.gaussian_cluster(0, 64, position_scale=1.0, velocity_scale=0.3), device=device)
    population = af.init_population(systems, gravity=GRAVITY, energy_scale="kinetic")
    state = af.init_train_state(cast(policy.init(0), device=device), learner.optimizer, population)
    return state, learner, vmap(af.first_sample)(systems)


def everything(compile: str) -> list[Tensor]:
    """All that training, replay, an ensemble and a simulation leave behind."""
    state, learner, samples = built()
    options: dict[str, Any] = {"learner": learner, "compile": compile}
    left: list[Any] = []
    for after, info in af.run_two_phase_training(
        state,
        epochs=2,
        seed=3,
        steps_per_epoch=2,
        replay_steps=4,
        max_retrain_steps=20,
        replay_batch_size=32,
        **options,
    ):
        left += [after, info.trajectory, info.replay.history]
    policy = af.build_criterion_policy(af.p_norm(GRAVITY, eta=0.02))
    systems = af.gaussian_cluster(1, 16, position_scale=1.0)
    left.append(
        af.simulate(
            policy.init(0), systems, policy=policy, gravity=GRAVITY, scheme=af.build_leapfrog_kdk(GRAVITY),
            steps=32, compile=compile,
        )[0]
    )  # fmt: skip
    members = af.init_ensemble(lambda seed: map_leaves(lambda x: x + 0.01 * seed, state.params), learner, [1, 2])
    left.append(
        af.generalize_ensemble(members, samples, seeds=[1, 2], replay_steps=2, replay_batch_size=32, **options)[0]
    )
    return [leaf for leaf in leaves(left) if isinstance(leaf, Tensor)]


def fingerprint(tensors: list[Tensor]) -> str:
    """A hash of all bits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def here(compile: str) -> list[str]:
    """Twice in this process, all functions built anew."""
    return [fingerprint(everything(compile)) for _ in range(2)]


def elsewhere(compile: str) -> list[str]:
    """Twice in new processes that share a cache of compiled code: cold, then warm."""
    code = f"from reliability.repeatability import everything, fingerprint; print(fingerprint(everything({compile!r})))"
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"AITS_FUNC_CACHE_DIR": cache}
        return [
            subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            ).stdout.split()[-1]
            for _ in range(2)
        ]


def looks() -> list[str]:
    """A replay whose verdicts are looked at after every, every third and every sixteenth iteration."""
    state, learner, samples = built()
    options: dict[str, Any] = {"learner": learner, "replay_steps": 9, "replay_batch_size": 32, "seed": 5}
    ends = [af.generalize_on_trajectory(state, samples, check_every=every, **options)[0] for every in (1, 3, 16)]
    return [fingerprint(leaves((end.params, end.opt_state))) for end in ends]


def same_bits(promise: str, prints: list[str]) -> Finding:
    """One finding of several fingerprints."""
    held = len(set(prints)) == 1
    return Finding(
        promise, held, {"runs": len(prints), "different results": len(set(prints))}, () if held else tuple(prints)
    )


# --- what may differ


def one_update(compile: str, device: str = "cpu", count: int | None = None) -> list[Tensor]:
    """Steps, errors, losses and the mean gradient of one minibatch."""
    state, learner, samples = built(device)
    samples = map_leaves(lambda leaf: leaf[:count], samples)
    objective = learner.objective

    def judged(params: Any, batch: af.Sample) -> Any:
        (after,), info = objective.attempt(params, (batch,))
        return after, info.dt, objective.sample_gradients(params, batch, "all")

    out = af.build_engine(judged, mode=compile, batched=(False, True))(state.params, samples)
    return [leaf.detach().cpu() for leaf in leaves(out)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def other_threads() -> tuple[list[Tensor], list[Tensor]]:
    """With two threads and with one."""
    results = []
    for count in (2, 1):
        with threads(count):
            results.append(one_update("off"))
    return results[0], results[1]


def alone_and_together() -> tuple[list[Tensor], list[Tensor]]:
    """The first sample of a batch of 64, and that sample alone."""
    return [leaf[:1] for leaf in one_update("off")], one_update("off", count=1)


def differences(name: str, pair: tuple[list[Tensor], list[Tensor]]) -> Finding:
    """How far two lists of results are apart, each relative to its largest entry."""
    apart = max(relative(one, other) for one, other in zip(*pair, strict=True))
    held = apart <= ROUNDING
    figures: dict[str, int | float | str] = {
        "largest relative difference": apart,
        "bits": "same" if apart == 0 else "differ",
    }
    return Finding(
        f"one update of {name} agrees to {ROUNDING:g}", held, figures, () if held else (f"apart by {apart:.2g}",)
    )


def relative(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest entry."""
    size = float(other.double().abs().max())
    return float((one.double() - other.double()).abs().max()) / size if size else float((one != other).any())


if __name__ == "__main__":
    main(campaign, __doc__)
