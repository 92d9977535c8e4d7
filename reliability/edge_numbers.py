"""Numbers at the edge: close encounters, tiny masses, many bodies, no energy, and minibatches that all explode.

    python -m reliability.edge_numbers [--short] [--json F]

Everything goes through the public interface. A case is one system in one precision, seen through one vocabulary of
features, or stepped by one criterion, integrator or scheme.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

import aits_func as af
from aits_func.base.tree import cast, leaves, map_leaves
from aits_func.physics.criteria import CRITERIA
from aits_func.physics.integrators import INTEGRATORS
from aits_func.physics.schemes import SCHEMES
from reliability.findings import Finding, main

DTYPES = (torch.float64, torch.float32)
VOCABULARIES = ("invariant", "basic", "rich")
SEPARATIONS = tuple(10.0**-digits for digits in range(1, 13))
MASS_RATIOS = (1.0, 1e-3, 1e-6, 1e-9, 1e-12)
GRAVITY, SOFT = af.build_gravity(), af.build_gravity(softening=1e-3)
REPRESENTABLE = {"hairer_soderlind": 5e-10, "time_transformed": 5e-11}
"""Schemes that differentiate 1/τ along the motion, and the separations below which float32 does not have what they
differentiate (squared rates over times, 1e45 at 1e-10; the time-transformed leapfrog fails at 1e-11 beside a mass of
1e-12): there a gradient may be NaN, and nothing is promised."""
SHOWN = 5  # broken cases that are named


class Family(NamedTuple):
    """Systems of one kind and shape."""

    name: str
    systems: af.System  # (B, ...) float64


def campaign(short: bool) -> list[Finding]:
    """All promises at all edges; the short form leaves out most of the many-body systems and combinations."""
    everything = list(families(short))
    return [
        judge("features are finite", feature_cases(everything)),
        judge("a criterion's step is finite and > 0", criterion_cases(everything[:1] if short else everything)),
        judge(
            "step, error, loss and gradient are finite or inf as they are to be",
            step_cases(everything[::2] if short else everything, short),
        ),
        judge("exploded steps are pushed down", explosion_cases(everything)),
        judge("a minibatch that all explodes recovers", recovery_cases(short)),
        judge("a minibatch that all passes ends at once with the same bits", passing_cases(everything)),
        judge("an exploding sample does not touch the verdict on another", neighbour_cases(everything)),
        judge("collection and replay end", ending_cases(everything, short)),
        judge("no energy is refused on one scale and learned on the other", zero_energy_cases()),
        judge("thresholds below rounding are refused or named, those above are met", threshold_cases()),
    ]


Case = tuple[str, bool]
"""What was tried, and whether the promise held."""


def judge(promise: str, cases: Iterator[Case]) -> Finding:
    """One finding of many cases."""
    tried = list(cases)
    broken = [name for name, held in tried if not held]
    return Finding(promise, not broken, {"cases": len(tried), "broken": len(broken)}, tuple(broken[:SHOWN]))


# --- the systems


def families(short: bool) -> Iterator[Family]:
    """Encounters, crowds, test particles, and systems without energy."""
    yield Family(
        "encounters", encounters(SEPARATIONS[::5] if short else SEPARATIONS, MASS_RATIOS[:: 4 if short else 1])
    )
    for bodies, count in ((2, 4), (3, 4), (8, 2)) + (() if short else ((64, 1), (256, 1), (1024, 1))):
        yield Family(f"N = {bodies}", af.gaussian_cluster(bodies, count, bodies=bodies, position_scale=1.0))
    crowd = af.gaussian_cluster(5, 3, bodies=5, position_scale=1.0)
    mass = crowd.mass.clone()
    mass[0, 1:], mass[1, 0], mass[2, :3] = 0.0, 0.0, 0.0  # all but one, one, and three
    yield Family("massless", crowd._replace(mass=mass))
    yield Family("no energy", without_energy())


def encounters(separations: Sequence[float], mass_ratios: Sequence[float]) -> af.System:
    """A pair at every separation and mass ratio, bound, and a third body of mass 1 at a distance of 1."""
    rows = []
    for separation, ratio in product(separations, mass_ratios):
        speed = 0.8 * math.sqrt((1 + ratio) / separation)
        rows.append(
            (
                torch.tensor([1.0, ratio, 1.0], dtype=torch.float64),
                torch.tensor([[-separation, 0.0], [0.0, 0.0], [0.3, 1.0]], dtype=torch.float64),
                torch.tensor([[0.1, 0.0], [0.0, speed], [-0.2, 0.1]], dtype=torch.float64),
            )
        )
    return af.make_system(*(torch.stack(column) for column in zip(*rows, strict=True)))


def without_energy() -> af.System:
    """Parabolic pairs, E = 0 exactly, and a few roundings beside it."""
    x = torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    factors = 1 + 2.0**-52 * torch.tensor([0.0, 1.0, -1.0, 8.0, -8.0], dtype=torch.float64)
    rows = len(factors)
    return af.make_system(torch.ones(rows, 2, dtype=torch.float64), x.repeat(rows, 1, 1), v * factors[:, None, None])


def samples_of(family: Family, dtype: torch.dtype) -> af.Sample:
    """Its samples without history; leaves (B, ...)."""
    return vmap(af.first_sample)(cast(family.systems, dtype=dtype))


def named(family: Family, dtype: torch.dtype, by: str, right: Tensor) -> Iterator[Case]:
    """A case for each system of a family; right (B,) bool."""
    for row, held in enumerate(right.tolist()):
        yield f"{by}: system {row} of {family.name}, {str(dtype).removeprefix('torch.')}", held


# --- what is looked at


def feature_cases(everything: list[Family]) -> Iterator[Case]:
    """Every vocabulary of every system."""
    for family, dtype, vocabulary in product(everything, DTYPES, VOCABULARIES):
        features, samples = af.build_features(vocabulary, GRAVITY), samples_of(family, dtype)
        values = torch.stack([features.apply(one.system, one.window) for one in rows_of(samples)])
        yield from named(family, dtype, vocabulary, values.isfinite().all(1))


def rows_of(samples: af.Sample) -> Iterator[af.Sample]:
    """One sample after the other: of a thousand bodies the pairs of one fill a hundred megabytes."""
    for row in range(len(samples.active)):
        yield map_leaves(lambda leaf, row=row: leaf[row], samples)


def criterion_cases(everything: list[Family]) -> Iterator[Case]:
    """Every criterion, and its derivative by its constants, of systems of up to eight bodies."""
    for family, dtype, name in product(everything, DTYPES, CRITERIA):
        if family.systems.mass.shape[1] > 8:
            continue
        criterion = af.build_criterion(name, SOFT if name == "gadget" else GRAVITY, eta=None)
        params, systems = cast(criterion.init(), dtype=dtype), cast(family.systems, dtype=dtype)
        dt = vmap(lambda system, c=criterion, p=params: c.timescale(p, system))(systems)
        slopes = vmap(grad(lambda p, system, c=criterion: c.timescale(p, system).log()), (None, 0))(params, systems)
        yield from named(family, dtype, name, (dt > 0) & dt.isfinite() & finite_rows(slopes, len(dt)))


def finite_rows(tree: object, rows: int) -> Tensor:
    """(B,) bool: where all leaves (B, ...) are finite."""
    return torch.stack([leaf.reshape(rows, -1).isfinite().all(1) for leaf in leaves(tree)]).all(0)


def residual_policy(eta: float = 0.02) -> af.Policy:
    """The default policy, small."""
    return af.build_residual_policy(af.build_features("invariant", GRAVITY), af.p_norm(GRAVITY, eta=eta), hidden=(4,))


def ways(short: bool) -> Iterator[tuple[str, af.Integrator | af.Scheme]]:
    """Every integrator in the direct scheme, and every other scheme."""
    for name in INTEGRATORS[:1] if short else INTEGRATORS:
        yield name, af.build_integrator(name, GRAVITY)
    for name in SCHEMES[2:3] if short else SCHEMES[1:]:
        yield name, af.build_scheme(name, GRAVITY)


def step_cases(everything: list[Family], short: bool) -> Iterator[Case]:
    """One step in every way, on both scales of energy; above 64 bodies with the leapfrog alone."""
    policy = residual_policy()
    scales = ("total",) if short else ("total", "kinetic")
    for family, dtype, (name, way), scale in product(everything, DTYPES, ways(short), scales):
        if family.systems.mass.shape[1] > 64 and name != INTEGRATORS[0]:
            continue
        objective = af.build_objective(af.build_step(policy, GRAVITY, way, energy_scale=scale))
        params, samples = cast(policy.init(0), dtype=dtype), samples_of(family, dtype)
        right = sound(objective, params, samples)
        if family.name == "encounters" and dtype == torch.float32 and name in REPRESENTABLE:
            right = right | (closest(samples.system) < REPRESENTABLE[name])
        yield from named(family, dtype, f"{name}, {scale}", right)


def closest(systems: af.System) -> Tensor:
    """(B,) separation of the first two bodies."""
    return (systems.position[:, 1] - systems.position[:, 0]).norm(dim=-1)


def sound(objective: af.Objective, params: object, samples: af.Sample) -> Tensor:
    """(B,) bool: dt > 0, an energy error that is a number or, if it exploded, inf; loss and gradient are finite."""
    _, info = objective.attempt(params, samples)
    losses = objective.sample_losses(params, samples, "all")
    gradients = objective.sample_gradients(params, samples, "all")
    error = info.energy_error
    right = (info.dt > 0) & info.dt.isfinite() & torch.where(info.exploded, error.isinf(), error.isfinite())
    return right & losses.isfinite() & finite_rows(gradients, len(error))


def constant_learner(log_dt: float, dtype: torch.dtype, rate: float = 1.0) -> tuple[af.TrainState, af.Learner]:
    """A policy of one step for all, e^log_dt, and Adam."""
    policy = af.build_criterion_policy(af.constant(dt=1.0))
    learner = af.build_learner(af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY)), af.adam(rate))
    return af.init_train_state({"log_dt": torch.tensor(log_dt, dtype=dtype)}, learner.optimizer), learner


def explosion_cases(everything: list[Family]) -> Iterator[Case]:
    """At a step that no number survives: exploded, an infinite error, and a gradient by which dt falls."""
    for family, dtype in product(everything, DTYPES):
        if family.systems.mass.shape[1] > 64:
            continue
        log_dt = 0.45 * math.log(torch.finfo(dtype).max)
        state, learner = constant_learner(log_dt, dtype)
        samples = samples_of(family, dtype)
        _, info = learner.objective.attempt(state.params, samples)
        slope = learner.objective.sample_gradients(state.params, samples, "all")["log_dt"]
        right = (info.energy_error.isinf() & (slope > 0) & slope.isfinite()) | ~info.exploded
        yield from named(family, dtype, f"dt = e^{log_dt:.0f}", right & info.dt.isfinite() & slope.isfinite())


def recovery_cases(short: bool) -> Iterator[Case]:
    """From steps that all explode Adam comes back to steps that all pass, from ln dt = L in some L of its steps."""
    for dtype, start in product(DTYPES, (20.0,) if short else (20.0, 35.0)):
        state, learner = constant_learner(start, dtype)
        samples = vmap(af.first_sample)(cast(af.binaries(0, 8, eccentricity=(0.0, 0.3)), dtype=dtype))
        before = learner.objective.attempt(state.params, samples)[1]
        _, info = af.generalize_on_trajectory(state, samples, learner=learner, replay_steps=150)
        yield f"ln dt = {start}, {dtype}: {info.iterations} iterations", not before.accepted.any() and info.converged


def passing_cases(everything: list[Family]) -> Iterator[Case]:
    """A step so short that it is no step: every sample passes, and nothing is updated."""
    for family, dtype in product(everything, DTYPES):
        if family.systems.mass.shape[1] > 64 or family.name == "no energy":
            continue
        state, learner = constant_learner(-60.0, dtype)
        after, info = af.generalize_on_trajectory(state, samples_of(family, dtype), learner=learner, min_replay_size=1)
        same = torch.equal(after.params["log_dt"], state.params["log_dt"])
        yield f"{family.name}, {dtype}: {info.iterations} iterations", info.converged and info.iterations == 1 and same


def neighbour_cases(everything: list[Family]) -> Iterator[Case]:
    """Every other system of a family made to explode: what is said of the rest stays the same, bit for bit."""
    policy = residual_policy()
    objective = af.build_objective(af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY)))
    for family, dtype in product(everything, DTYPES):
        params, samples = cast(policy.init(0), dtype=dtype), samples_of(family, dtype)
        if len(samples.active) < 2 or family.systems.mass.shape[1] > 64:
            continue
        fast = samples.system.velocity.clone()
        fast[::2] = torch.finfo(dtype).max ** 0.75
        wild = samples._replace(system=samples.system._replace(velocity=fast))
        (_, alone), (_, beside) = (objective.attempt(params, batch) for batch in (samples, wild))
        same = torch.stack([one[1::2] == other[1::2] for one, other in zip(alone, beside, strict=True)]).all()
        yield f"{family.name}, {dtype}", bool(same & beside.exploded[::2].all())


def ending_cases(everything: list[Family], short: bool) -> Iterator[Case]:
    """A collection of two steps and a replay of three iterations, with little patience."""
    for family, dtype, eta in product(everything, DTYPES, (50.0,) if short else (0.02, 50.0)):
        if family.systems.mass.shape[1] > (8 if short else 256):
            continue
        if short and family.name not in ("encounters", "no energy"):
            continue
        policy = residual_policy(eta)
        step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_scale="kinetic")
        learner = af.build_learner(step, af.adamw(0.1))
        systems = cast(with_some_energy(family.systems), dtype=dtype)
        population = af.init_population(systems, gravity=GRAVITY, energy_scale="kinetic")
        state = af.init_train_state(cast(policy.init(0), dtype=dtype), learner.optimizer, population)
        after, info = af.train_epoch_two_phase(
            state,
            learner=learner,
            steps_per_epoch=2,
            max_retrain_steps=10 if short else 40,
            replay_steps=3,
            loss_on="all",
        )
        finite = all(bool(leaf.isfinite().all()) for leaf in leaves(after.params))
        yield f"{family.name}, {dtype}, eta = {eta}: {info.collect.status}", finite and info.replay.iterations <= 3


def with_some_energy(systems: af.System) -> af.System:
    """Without those in which one body has all the mass and none moves: there is no error to learn from."""
    some = (systems.mass > 0).sum(1) > 1
    return map_leaves(lambda leaf: leaf[some], systems)


def zero_energy_cases() -> Iterator[Case]:
    """E = 0 and beside it."""
    for dtype in DTYPES:
        systems = cast(without_energy(), dtype=dtype)
        for row in range(len(systems.mass)):
            one = map_leaves(lambda leaf, row=row: leaf[row : row + 1], systems)
            yield f"row {row}, {dtype}, total", "energy_scale" in refusal(lambda one=one: population_of(one, "total"))
            yield f"row {row}, {dtype}, kinetic", not refusal(lambda one=one: population_of(one, "kinetic"))


def population_of(systems: af.System, energy_scale: str) -> object:
    """The population of some systems, if it is not refused."""
    return af.init_population(systems, gravity=GRAVITY, energy_scale=energy_scale)


def refusal(call: Callable[[], object]) -> str:
    """What is said in refusing; "" if nothing is."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def threshold_cases() -> Iterator[Case]:
    """Below the precision of any energy, below the rounding of these, and above."""
    policy = af.build_criterion_policy(af.p_norm(GRAVITY, eta=1e-3))
    for threshold in (1e-17, 1e-18, 1e-30, 1e-300):
        said = refusal(
            lambda t=threshold: af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_threshold=t)
        )
        yield f"threshold {threshold:g} is refused by the builder", "precision of energies in float64" in said
    for dtype, away in product(DTYPES, (0.0, 1e3)):
        for factor, status in ((1e-2, "below_rounding"), (100.0, "complete")):
            if factor < 1 and dtype == torch.float64 and away == 0:
                continue  # below the precision of any energy: refused by the builder
            found = collect_at(dtype, away, factor)
            yield f"{factor:g} of the rounding error, {dtype}, {away:g} away: {found}", found == status


def collect_at(dtype: torch.dtype, away: float, factor: float) -> str:
    """How a collection of binaries ends whose threshold is so many times their rounding error."""
    from aits_func.timestep.step import limit_of

    eta = 1e-3 if dtype == torch.float32 else 1e-6
    policy, scheme = af.build_criterion_policy(af.p_norm(GRAVITY, eta=eta)), af.build_leapfrog_kdk(GRAVITY)
    systems = af.binaries(0, 2, eccentricity=(0.0, 0.2))
    systems = cast(systems._replace(position=systems.position + away), dtype=dtype)
    limit = limit_of(af.build_step(policy, GRAVITY, scheme))
    floor = float(vmap(limit.rounding_error)(systems).max()) if limit else math.nan
    threshold = factor * floor
    step = af.build_step(policy, GRAVITY, scheme, energy_threshold=threshold)
    learner = af.build_learner(step, af.sgd(1e-3), E_lower=threshold / 100, E_upper=threshold)
    population = af.init_population(systems, gravity=GRAVITY)
    state = af.init_train_state(cast(policy.init(0), dtype=dtype), learner.optimizer, population)
    return af.collect_trajectory(state, learner=learner, steps_per_epoch=10)[2].status


if __name__ == "__main__":
    main(campaign, __doc__)
