"""Comets: a step learned on restricted systems of three bodies is right for comets that it has never seen.

    python -m reliability.comets [--short] [--json F]

A star, a planet on a circle around it, and a massless comet. A policy is trained on some of them in both phases, each
epoch over one orbit of the comet, and then follows others over one orbit, from apocentre to apocentre, as Part 1 does:
a step is accepted or rejected, and where one is rejected the policy learns from it and tries again. No energy of the
system depends on the comet, so what is looked at is the comet's own: h = ½v² + φ less the work of the others on it,
relative to ½v² + |φ|.

Over the orbit that adds up to a drift, of h and of the Jacobi constant. It is compared with that of the energies of
systems whose third body has mass, followed with a policy that was trained on such systems. They are judged relative to
K + |W|, as comets are to ½v² + |φ|; relative to |E| a step near the pericentre of an orbit with e = ½ would have to be
seven times better, and more so the larger e is. The Jacobi constant is one for a pair on a circle: a leapfrog takes the
pair off it by half a per cent, and how the constant answers to that is no error of the comet's.

The second opinion on a step is that of SciPy's DOP853, which takes the three bodies from the same state over the same
time: by how much does the comet's ½v² + φ differ? No work enters that, so it is another number than the verdict's, of
the same order in dt, and it sees what the leapfrog's work may hide.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.func import vmap

import aits_func as af
from aits_func.base.tree import map_leaves, stack
from aits_func.base.types import Params
from reliability.findings import Finding, main
from reliability.long_run import one_thread

THRESHOLD = 1e-5
BAND = (THRESHOLD / 100, 0.3 * THRESHOLD)  # its upper edge below the threshold: room for what was not seen
HEAVY = 0.05  # a third body with five times the mass of the heaviest planet: the energy of the system is mostly its own
EXACT = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14}
GRAVITY = af.build_gravity()
LEAPFROG = af.build_leapfrog_kdk(GRAVITY)
POLICY = af.build_residual_policy(
    af.build_features("invariant", GRAVITY), af.p_norm(GRAVITY, eta=0.1, pairs=("free_fall", "fly_by")), hidden=(16,)
)

Figures: TypeAlias = Mapping[str, int | float | str]


class Plan(NamedTuple):
    """How much is trained and followed: plain numbers."""

    trained: int  # systems
    epochs: int
    steps: int  # of each in an epoch, at most
    replay_steps: int
    followed: int  # systems
    most: int  # steps of each that is followed; a comet's orbit takes some 300, in an encounter with the planet 1,000
    heavy: int  # the same of systems whose third body has mass, some of which have closer encounters; 0: no comparison


FULL = Plan(24, 3, 400, 40, 48, 100_000, 1_000)
SHORT = Plan(8, 1, 120, 10, 12, 150, 0)  # half an orbit of each


class Path(NamedTuple):
    """All attempts of one collection, (R, B) or with these leading axes: R rounds of B systems."""

    start: af.System
    after: af.System  # where an attempt led, whatever was made of it
    accepted: Tensor  # bool
    rejected: Tensor  # bool; neither: that system had arrived
    error: Tensor  # relative, as the step judged it


def campaign(short: bool, draw: int = 0) -> list[Finding]:
    """Train on restricted systems and follow others; the same with a third body that has mass.

    Args:
        short: whether the short form is wanted.
        draw: another number draws other systems, to train on and to follow.
    """
    plan = SHORT if short else FULL
    with one_thread():
        comets = follow(train(plan, draw=draw), plan.followed, most=plan.most, draw=draw)
        findings = [judge_verdict(comets), judge_steps(comets)]
        if plan.heavy:
            heavy = {"energy_scale": "kinetic", "mass": HEAVY, "draw": draw}
            massive = follow(train(plan, **heavy), plan.followed, most=plan.heavy, **heavy)
            findings += judge_drift(comets, massive)
        return findings


def systems(seed: int, count: int, mass: float = 0.0) -> tuple[af.System, Tensor]:
    """Stars of mass 1 with a planet on a circle of radius 1, and a comet at the apocentre of its orbit, e up to 0.8.

    Args:
        seed: of the draw.
        count: B.
        mass: of the comet.

    Returns:
        (systems, leaves (B, ...); the comets' periods (B,)).
    """
    limits = ((1e-4, 1e-2), (1.6, 3.0), (0.2, 0.8), (0.0, 2 * math.pi))
    generator = torch.Generator().manual_seed(seed)
    planet, a, e, angle = (
        low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64) for low, high in limits
    )
    pair = af.two_body_orbit(
        mass=torch.stack([torch.ones_like(planet), planet], -1),
        semi_major_axis=torch.ones_like(planet),
        eccentricity=0.0,
    )
    axis = torch.stack([angle.cos(), angle.sin()], -1)
    across = torch.stack([-axis[:, 1], axis[:, 0]], -1)
    distance, speed = a * (1 + e), ((1 + planet) * (1 - e) / (a * (1 + e))).sqrt()
    made = af.make_system(
        torch.cat([pair.mass, torch.full_like(planet, mass)[:, None]], 1),
        torch.cat([pair.position, (distance[:, None] * axis)[:, None]], 1),
        torch.cat([pair.velocity, (speed[:, None] * across)[:, None]], 1),
    )
    return made, 2 * math.pi * (a**3 / (1 + planet)).sqrt()


def learner_of(energy_scale: str = "total") -> af.Learner:
    """What is trained with; "source" would judge by the energy of the bodies with mass alone."""
    step = af.build_step(POLICY, GRAVITY, LEAPFROG, energy_threshold=THRESHOLD, energy_scale=energy_scale)
    return af.build_learner(step, af.levenberg_marquardt(), E_lower=BAND[0], E_upper=BAND[1])


def train(plan: Plan, energy_scale: str = "total", mass: float = 0.0, draw: int = 0) -> Params:
    """The parameters after both phases, every epoch from the start over one orbit."""
    learner = learner_of(energy_scale)
    start, period = systems(100 + draw, plan.trained, mass)
    population = af.init_population((start,), gravity=GRAVITY, stop_time=(period,), energy_scale=energy_scale)
    state = af.init_train_state(POLICY.init(0), learner.optimizer, population)
    options = {"steps_per_epoch": plan.steps, "loss_on": "all", "convergence": "band", "replay_batch_size": 256}
    *_, (last, _) = af.run_two_phase_training(
        state,
        learner=learner,
        epochs=plan.epochs,
        restart_from=population,
        replay_steps=plan.replay_steps,
        **options,
    )
    return last.params


def follow(
    params: Params,
    count: int,
    energy_scale: str = "total",
    mass: float = 0.0,
    most: int = 100_000,
    draw: int = 0,
) -> Path:
    """Systems that training has not seen, over one orbit of the third body, every attempt taken down."""
    learner = learner_of(energy_scale)
    tries: list[tuple[af.System, Tensor, af.System, af.StepInfo]] = []

    def attempt(params: Params, batch: tuple[af.Sample, ...]) -> tuple[tuple[af.System, ...], af.StepInfo]:
        after, info = learner.objective.attempt(params, batch)
        tries.append((batch[0].system, batch[0].active, after[0], info))
        return after, info

    start, period = systems(7 + draw, count, mass)
    population = af.init_population((start,), gravity=GRAVITY, stop_time=(period,), energy_scale=energy_scale)
    state = af.init_train_state(params, learner.optimizer, population)
    watched = learner._replace(objective=learner.objective._replace(attempt=attempt))
    state, _, info = af.collect_trajectory(state, learner=watched, steps_per_epoch=most)
    if info.status != "complete":
        raise RuntimeError(f"the collection ended with {info.status}: {info.stuck}")
    before, active, after, seen = stack(tries)
    return Path(before, after, active & seen.accepted, active & ~seen.accepted, seen.energy_error)


def own_energy(states: af.System) -> tuple[Tensor, Tensor]:
    """½v² + φ of the third body and ½v² + |φ|, in the frame of the centre of mass: leaves (T, ...) -> (T,) each."""
    velocity = states.velocity[:, 2] - (states.mass[..., None] * states.velocity).sum(1) / states.mass.sum(1)[:, None]
    distance = (states.position[:, :2] - states.position[:, 2:]).norm(dim=-1)
    kinetic, potential = velocity.pow(2).sum(-1) / 2, -(states.mass[:, :2] / distance).sum(-1)
    return kinetic + potential, kinetic - potential


def jacobi_constants(states: af.System) -> Tensor:
    """½v² + φ − ω x×v of the third body, leaves (T, ...) -> (T,), of a pair on a circle of radius 1."""
    x, v = states.position[:, 2], states.velocity[:, 2]
    return own_energy(states)[0] - states.mass[:, :2].sum(-1).sqrt() * (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0])


def taken(path: Path) -> tuple[af.System, af.System]:
    """The accepted steps, row after row of a system's: their states before and after, leaves (T, ...)."""
    return map_leaves(lambda leaf: leaf[path.accepted], path.start), map_leaves(
        lambda leaf: leaf[path.accepted], path.after
    )


def exactly(start: af.System, duration: Tensor) -> af.System:
    """Where the three bodies really are after so long, leaves (T, ...): every step in units of its own length."""
    mass, dt = start.mass.numpy(), duration.numpy()[:, None, None]
    shape = (len(mass), 2, 3, 2)

    def motion(_: float, y: np.ndarray) -> np.ndarray:
        x, v = y.reshape(shape)[:, 0], y.reshape(shape)[:, 1]
        apart = x[:, None] - x[:, :, None]
        square = (apart**2).sum(-1) + np.eye(3)
        pull = (mass[:, None, :] * square**-1.5)[..., None] * apart
        return np.stack([dt * v, dt * pull.sum(2)], 1).ravel()

    y = np.stack([start.position.numpy(), start.velocity.numpy()], 1).ravel()
    end = torch.from_numpy(solve_ivp(motion, (0.0, 1.0), y, **EXACT).y[:, -1].reshape(shape))
    return start._replace(position=end[:, 0], velocity=end[:, 1], time=start.time + duration)


def judge_verdict(path: Path) -> Finding:
    """Every accepted step by the comet's h, weighed here, less the work that the step took down."""
    before, after = taken(path)
    (old, size), (new, _) = own_energy(before), own_energy(after)
    errors = (new - old - (after.work - before.work)[:, 3]).abs() / size
    promise = f"every accepted step of a comet that was never seen has an error of its own below {THRESHOLD:g}"
    figures = {
        "comets": path.accepted.shape[1],
        "steps accepted": len(errors),
        "steps rejected": int(path.rejected.sum()),
        "rejected of comet": _named(path.rejected.sum(0)),
        "largest error": float(errors.max()),
    }
    return Finding(promise, *_below(path, errors, figures))


def judge_steps(path: Path) -> Finding:
    """Every accepted step by the comet's ½v² + φ, against that after the same time by DOP853."""
    before, after = taken(path)
    exact = exactly(before, after.time - before.time)
    errors = (own_energy(after)[0] - own_energy(exact)[0]).abs() / own_energy(before)[1]
    promise = f"against an exact integration of the same step the comet's energy is off by less than {THRESHOLD:g}"
    return Finding(promise, *_below(path, errors, {"steps": len(errors), "largest error": float(errors.max())}))


def judge_drift(comets: Path, massive: Path) -> list[Finding]:
    """The largest departure from the start within the orbit: medians over systems, nine tenths, and the worst."""

    def energies(states: af.System) -> tuple[Tensor, Tensor]:
        energy = vmap(GRAVITY.energy)(states)
        return energy, energy.abs()

    own = _drifts(comets, lambda s: (own_energy(s)[0] - s.work[:, 3], own_energy(s)[1]))
    jacobi = _drifts(comets, lambda s: (jacobi_constants(s), own_energy(s)[1]))
    relative = _drifts(massive, energies)
    sized = _drifts(massive, lambda s: (vmap(GRAVITY.energy)(s), vmap(GRAVITY.energy_size)(s)))
    steps = {"steps of a comet": _median_steps(comets), "steps of a massive system": _median_steps(massive)}
    return [
        _no_more(
            "energies of comets drift no more than those of massive systems, both over kinetic plus potential energy",
            own,
            sized,
            steps,
        ),
        _no_more(
            "Jacobi constants, over the same, drift no more than energies of massive systems, over the total energy",
            jacobi,
            relative,
            {**_parts_of_jacobi(comets), **steps},
        ),
    ]


def _parts_of_jacobi(path: Path) -> dict[str, float]:
    """The worst drift of a Jacobi constant that the comet's own steps make, and how far its pair leaves the circle.

    An exact step changes the constant too, as the pair is no longer on a circle: what a step makes is the difference.
    """
    before, after = taken(path)
    made = jacobi_constants(after) - jacobi_constants(exactly(before, after.time - before.time))
    size = own_energy(before)[1]
    comet = torch.arange(path.accepted.shape[1]).expand_as(path.accepted)[path.accepted]
    rows = [comet == row for row in range(path.accepted.shape[1])]
    own = max(float((made[mine].cumsum(0) / size[mine][0]).abs().max()) for mine in rows)
    apart = (after.position[:, 1] - after.position[:, 0]).norm(dim=-1)
    return {"worst without what exact steps change": own, "pair off its circle by": float((apart - 1).abs().max())}


def _below(path: Path, errors: Tensor, figures: Figures) -> tuple[bool, Figures, tuple[str, ...]]:
    comet = torch.arange(path.accepted.shape[1]).expand_as(path.accepted)[path.accepted]
    wrong = ~(errors < THRESHOLD)
    counts = torch.bincount(comet[wrong], minlength=path.accepted.shape[1])
    broken = tuple(f"comet {row}: {int(counts[row])} steps" for row in counts.nonzero()[:, 0].tolist())
    return not broken, figures, broken[:5]


def _named(counts: Tensor) -> str:
    named = [f"{row} ({int(counts[row])})" for row in counts.nonzero()[:, 0].tolist()]
    return " ".join(named) or "none"


def _median_steps(path: Path) -> int:
    return int(path.accepted.sum(0).median())


def _drifts(path: Path, measure: Callable[[af.System], tuple[Tensor, Tensor]]) -> Tensor:
    """(B,): the largest |value − value at the start| over the scale at the start, after accepted steps."""
    drifts = []
    for row in range(path.accepted.shape[1]):
        good = path.accepted[:, row]
        value, size = measure(map_leaves(lambda leaf, good=good, row=row: leaf[good, row][:1], path.start))
        after = measure(map_leaves(lambda leaf, good=good, row=row: leaf[good, row], path.after))[0]
        drifts.append(((after - value) / size).abs().max())
    return torch.stack(drifts)


def _no_more(promise: str, drifts: Tensor, others: Tensor, figures: Figures) -> Finding:
    at = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
    ours, theirs = drifts.quantile(at).tolist(), others.quantile(at).tolist()
    words = ("median", "of nine in ten", "worst")
    shown = {f"{word}: {mine:.3g} and": it for word, mine, it in zip(words, ours, theirs, strict=True)}
    broken = tuple(
        f"{word}: {mine:.3g} against {it:.3g}" for word, mine, it in zip(words, ours, theirs, strict=True) if mine > it
    )
    return Finding(promise, not broken, {**shown, **figures}, broken)


if __name__ == "__main__":
    main(campaign, __doc__)
