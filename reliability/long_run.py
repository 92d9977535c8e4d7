"""Long runs: ten million steps per system without drift beyond a random walk, and without growth of memory.

    python -m reliability.long_run [--short] [--json F]

What drifts. A leapfrog of fixed step keeps a modified energy, not the energy: E swings with the orbit by some dt², and
beside that swing a random walk of rounding errors cannot be seen. So it is the modified energy that is followed,

    E + dt² (−Σ m v·j / 12 − Σ m a² / 24),   a and j the acceleration and its rate,

which swings by dt⁴ only, and it is looked at after whole periods, where even that is the same again. What is left is
rounding: errors of random sign add up to the square root of the number of steps, a bias of one sign (a step that is
rounded, coefficients that do not sum to 1, a compiler that takes a shortcut) to the number itself.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

import aits_func as af
from aits_func.base.engine import watch_compilation
from reliability.findings import Finding, main

ROOM = 8.0  # MiB that a process may grow after its warm-up: pools of the allocator fill up, a leak does not end
PERIOD = 6.325913982926752  # of the figure eight, as published
DISTURBANCE = 1e-5  # of every coordinate, relative to a size of 1: far inside the region where the orbit is stable
RESAMPLES, SIGMAS = 200, 3.0
GRAVITY = af.build_gravity()


class Plan(NamedTuple):
    """How long a run is and how often it is looked at: plain numbers."""

    systems: int
    steps_per_leg: int
    legs: tuple[int, ...]  # after how many legs the energy is weighed
    dt: float  # time
    compile: str


FULL = Plan(256, 25_600, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 391), PERIOD / 25_600, "on")
# A step so short that within a part of a period dt⁴ is nothing: there is no time for whole periods.
SHORT = Plan(64, 128, (1, 2, 3, 4, 6, 8, 12), 1e-5, "off")

Advance = Callable[[af.System, int], af.System]
"""So many steps further, leaves (B, ...)."""


class Growth(NamedTuple):
    """How the energy of an ensemble walked away."""

    steps: Tensor  # (L,) int64
    error: Tensor  # (L, B) signed relative error of the modified energy
    memory: tuple[float, ...]  # MiB resident after each of the L looks


def campaign(short: bool) -> list[Finding]:
    """Energy and memory of long simulations, memory of long trainings."""
    plan = SHORT if short else FULL
    with one_thread():
        growth = watch_energy(plan, leapfrog(plan))
        findings = [judge_energy(growth), judge_memory("a long simulation does not grow", growth.memory, "looks")]
        findings.append(watch_training("a long training does not grow", 30 if short else 2_000, "off"))
        if not short:  # there to be patient
            findings.append(watch_training("a long compiled training does not grow", 2_000, "on"))
            findings.append(watch_rebuilding(400))
    return findings


@contextmanager
def one_thread() -> Iterator[None]:
    """Small ensembles are faster without a second thread, and do not suffer from what else runs on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ensemble(count: int) -> af.System:
    """Figure eights, each disturbed a little in another way; leaves (B, ...)."""
    start, generator = af.known_orbit("figure_eight"), torch.Generator().manual_seed(0)

    def disturbed(x: Tensor) -> Tensor:
        return x + DISTURBANCE * torch.randn(count, *x.shape, generator=generator, dtype=x.dtype)

    return af.make_system(start.mass.repeat(count, 1), disturbed(start.position), disturbed(start.velocity))


def leapfrog(plan: Plan) -> Advance:
    """Steps of one length, as `simulate` takes them for an ensemble."""
    policy = af.build_criterion_policy(af.constant(dt=plan.dt))
    params, scheme = policy.init(0), af.build_leapfrog_kdk(GRAVITY)

    def advance(systems: af.System, steps: int) -> af.System:
        end, info = af.simulate(
            params,
            systems,
            policy=policy,
            gravity=GRAVITY,
            scheme=scheme,
            steps=steps,
            statistics=False,
            compile=plan.compile,
        )
        if not bool((info.steps == steps).all()):
            raise RuntimeError(f"a system took {int(info.steps.min())} of {steps} steps")
        return end

    return advance


def modified_energy(system: af.System, dt: float) -> Tensor:
    """What a kick–drift–kick leapfrog keeps up to dt⁴, (): the energy with its term in dt².

    Source: Yoshida 1993, Celestial Mechanics and Dynamical Astronomy 56, 27 (the modified Hamiltonian).
    """
    rates, mass = GRAVITY.derivatives(system), system.mass[:, None]
    swing = (mass * system.velocity * rates.jerk).sum() / 12 + (mass * rates.acceleration**2).sum() / 24
    return GRAVITY.energy(system) - dt**2 * swing


def watch_energy(plan: Plan, advance: Advance) -> Growth:
    """Run the plan, weighing energy and memory at every look."""
    systems = ensemble(plan.systems)
    weigh = vmap(lambda system: modified_energy(system, plan.dt))
    start, errors, memory, done = weigh(systems), [], [], 0
    for legs in plan.legs:
        for _ in range(legs - done):
            systems = advance(systems, plan.steps_per_leg)
        done = legs
        errors.append((weigh(systems) - start) / start.abs())
        memory.append(resident())
        print(f"{legs * plan.steps_per_leg:,} steps: {float(errors[-1].std()):.2e}", file=sys.stderr, flush=True)
    return Growth(torch.tensor(plan.legs) * plan.steps_per_leg, torch.stack(errors), tuple(memory))


def exponent(steps: Tensor, error: Tensor) -> float:
    """Slope of a straight line through the logarithms of rms errors over those of the steps; error (L, B)."""
    x, y = steps.double().log(), error.pow(2).mean(1).sqrt().log()
    x = x - x.mean()
    return float((x * y).sum() / x.pow(2).sum())


def judge_energy(growth: Growth) -> Finding:
    """No steeper than a random walk, whose exponent is 1/2; how far chance may carry it is found by resampling members.

    (Errors at two looks are parts of one walk, so nothing but whole members is independent.)
    """
    members, generator = growth.error.shape[1], torch.Generator().manual_seed(1)
    draws = torch.randint(members, (RESAMPLES, members), generator=generator)
    spread = float(torch.tensor([exponent(growth.steps, growth.error[:, draw]) for draw in draws]).std())
    slope, last = exponent(growth.steps, growth.error), growth.error[-1]
    held = bool(growth.error.isfinite().all()) and slope <= 0.5 + SIGMAS * spread
    figures = {
        "systems": members,
        "steps of each": int(growth.steps[-1]),
        "exponent": slope,
        "its error": spread,
        "rms relative error at the end": float(last.pow(2).mean().sqrt()),
        "mean over its own error": float(last.mean() / (last.std() / math.sqrt(members))),
    }
    broken = () if held else (f"exponent {slope:.3f} ± {spread:.3f} is above 1/2",)
    return Finding("the energy error grows no faster than the root of the steps", held, figures, broken)


def resident() -> float:
    """Memory of this process that is in use, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def judge_memory(promise: str, memory: tuple[float, ...], unit: str, ready: int = 0) -> Finding:
    """Memory at the end against that after the warm-up: a tenth of the way, or ``ready`` where that came later."""
    warm = min(max(len(memory) // 10, ready), len(memory) - 1)
    grown = memory[-1] - memory[warm]
    held = grown <= ROOM
    figures: dict[str, int | float | str] = {
        unit: len(memory),
        "MiB after the warm-up": memory[warm],
        "MiB at the end": memory[-1],
    }
    broken = () if held else (f"grew by {grown:.1f} MiB, more than {ROOM} MiB",)
    return Finding(f"{promise} by more than {ROOM:g} MiB", held, figures, broken)


def tiny_training(epochs: int, compile: str = "off") -> Iterator[object]:
    """A training of two binaries, its functions built anew."""
    policy = af.build_residual_policy(af.build_features("invariant", GRAVITY), af.p_norm(GRAVITY), hidden=(4,))
    learner = af.build_learner(af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY)), af.adamw(1e-3))
    population = af.init_population(af.binaries(0, 2), gravity=GRAVITY)
    return af.run_two_phase_training(
        af.init_train_state(policy.init(0), learner.optimizer, population),
        learner=learner,
        epochs=epochs,
        steps_per_epoch=3,
        replay_steps=2,
        loss_on="all",
        convergence="band",
        compile=compile,
    )


def watch_training(promise: str, epochs: int, compile: str) -> Finding:
    """Memory after every epoch of one training, from the last compilation on.

    What trains on rejected steps is compiled when the first one is rejected, which may take hundreds of epochs.
    """
    memory: list[float] = []
    compiled = [0]
    with watch_compilation(lambda event: compiled.append(len(memory))):
        for _ in tiny_training(epochs, compile):
            memory.append(resident())
    return judge_memory(promise, tuple(memory), "epochs", ready=max(compiled))


def watch_rebuilding(trainings: int) -> Finding:
    """Memory after trainings that are each built from nothing: what is remembered of them has an end.

    Sixty-four sets of functions are kept on purpose (`remember`), so those that fill it up are the warm-up.
    """
    memory = []
    for number in range(64 + trainings):
        for _ in tiny_training(1):
            pass
        if number >= 64:
            memory.append(resident())
    return judge_memory("training after training does not grow", tuple(memory), "trainings")


if __name__ == "__main__":
    main(campaign, __doc__)
