"""Which back end runs: a covering table of what can be chosen, compiled and compared with eager code.

python -m benchmarks.back_ends [--rows 1 2 3] [--choose]

Prints a Markdown table. For every row of `back_end_rows` the functions that it compiles are run once,
eagerly and compiled; what differs by more than rounding is said, and the exit code is then 1. The engine's own
comparison is switched off meanwhile, or it would put eager results in the place of wrong ones.
"""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.func import vmap

import aits_func as af
from aits_func.base.engine import Compilation, watch_compilation
from aits_func.base.tree import cast, leaves, map_leaves
from aits_func.base.types import Sample, System, TrainState
from aits_func.edge.adapters import flatten_problem
from aits_func.loops.learner import Learner
from aits_func.loops.objective import Groups
from aits_func.physics.gravity import Gravity
from aits_func.physics.integrators import Integrator
from aits_func.physics.scheme import Scheme
from aits_func.timestep.policy import Policy
from aits_func.timestep.window import first_sample, push
from benchmarks.back_end_rows import NONE, Row, choose, rows

SYSTEMS = 16
HISTORY = 2  # states, of the features that remember
UNSWITCHED = {"AITS_FUNC_CHECK_COMPILED": "0"}
# Of a float64 and a float32: rounding of a step, its rules and their derivatives, by some hundred operations of numbers
# that differ by a few powers of ten.
ROUNDING = {"float64": 1e-9, "float32": 2e-3}

# Results that are differences of numbers of size 1, and known to the digits of those.
OF_SIZE_ONE = ("errors", "update beyond its gradient")
# ε, of the largest component of a gradient: the rounding of some hundred operations, some units each. Eager code with
# other roundings (base/agreement) moves components that cancel to nothing by 1e5 ε; another back end by 1e2 ε.
CANCELLED = 1e3


class Ran(NamedTuple):
    """What became of one compiled function: `Compilation`'s words."""

    label: str
    back_end: str
    why: str  # "" if native


class Outcome(NamedTuple):
    """What a row came to."""

    ran: tuple[Ran, ...]
    wrong: str  # how compiled differs from eager; "" if it does not


class Setting(NamedTuple):
    """What a row chooses, built."""

    gravity: Gravity
    policy: Policy
    scheme: Scheme | Integrator
    systems: tuple[System, ...]  # groups, of leaves (B, ...)
    params: Any
    history_len: int


def build(row: Row) -> Setting:
    """The row as the objects that it names.

    Raises:
        ValueError: if the library refuses a choice beside another.
    """
    field = {
        NONE: None,
        "fixed": af.build_tidal_field(2.0, [4.0, -3.0, 2.0][: int(row.dimensions)]),
        "moving": af.build_tidal_field(
            2.0, af.straight_path([4.0, -3.0, 2.0][: int(row.dimensions)], [0.5, 1.0, -0.3][: int(row.dimensions)])
        ),
    }[row.field]
    gravity = af.build_gravity(softening=0.05, field=field)
    history_len = HISTORY if row.features == "delta_mag" else 0
    policy = _build_policy(row, gravity, history_len)
    integrator = "leapfrog_kdk" if row.integrator == NONE else row.integrator
    if row.scheme == "direct" and row.order == "2":
        scheme: Scheme | Integrator = af.build_integrator(integrator, gravity)
    else:
        positions = policy.position_form is not None
        scheme = af.build_scheme(
            row.scheme, gravity, order=int(row.order), integrator=integrator, positions_only=positions
        )
    af.build_step(policy, gravity, scheme)  # refuses what cannot be
    dtype = getattr(torch, row.dtype)
    make = torch.Generator().manual_seed(1)
    moved = map_leaves(  # so that no layer is 0, and no gradient with it
        lambda leaf: leaf + 0.1 * torch.randn(leaf.shape, generator=make, dtype=leaf.dtype), policy.init(0)
    )
    systems = tuple(
        af.gaussian_cluster(
            7 * n,
            SYSTEMS,
            bodies=n,
            dimensions=int(row.dimensions),
            position_scale=1.0,
            velocity_scale=0.3,
            mass_range=(0.5, 1.5),
        )
        for n in map(int, row.bodies.split(" and "))
    )
    return Setting(gravity, policy, scheme, cast(systems, dtype=dtype), cast(moved, dtype=dtype), history_len)


def _build_policy(row: Row, gravity: Gravity, history_len: int) -> Policy:
    criterion = None
    if row.criterion != NONE:
        criterion = af.build_criterion(row.criterion, gravity, eta=0.3, dt=0.1)
    if row.policy == "criterion":
        return af.build_criterion_policy(criterion)
    words = {"hidden": (6, 5), "activation": row.activation}
    if row.policy == "transformation":
        return af.build_transformation_policy(gravity, eta=0.3, **words)
    features = af.build_features(row.features, gravity, history_len=history_len)
    if row.policy == "mlp":
        return af.build_mlp_policy(features, timescale=criterion, **words)
    return af.build_residual_policy(features, criterion, **words)


def run(row: Row) -> Outcome:
    """A row, eagerly and compiled."""
    setting = build(row)
    task = {"simulate": _simulate, "collect": _collect, "replay": _replay, "objective": _minimise}[row.task]
    eager = task(row, setting, "off")
    seen: list[Compilation] = []
    before = {name: os.environ.get(name) for name in UNSWITCHED}
    os.environ.update(UNSWITCHED)
    try:
        with watch_compilation(seen.append), warnings.catch_warnings():
            warnings.simplefilter("error")  # of the native compiler's own failures
            compiled = task(row, setting, "auto")
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
    ran = tuple(Ran(event.label, event.back_end, event.fallback) for event in seen if event.seconds is not None)
    return Outcome(ran, _difference(compiled, eager, _tolerance(row, setting)))


def _simulate(row: Row, setting: Setting, compile: str) -> dict[str, Any]:
    (systems,) = setting.systems
    after, info = af.simulate(
        setting.params,
        systems,
        policy=setting.policy,
        gravity=setting.gravity,
        scheme=setting.scheme,
        steps=1,
        history_len=setting.history_len,
        energy_scale=row.energy_scale,
        compile=compile,
    )
    counts = (info.status, info.steps)
    return {"systems": after, "dt": info.mean_dt, "counts": counts, "errors": info.final_energy_error}


def _collect(row: Row, setting: Setting, compile: str) -> dict[str, Any]:
    learner = _learner(row, setting)
    population = af.init_population(
        setting.systems, gravity=setting.gravity, history_len=setting.history_len, energy_scale=row.energy_scale
    )
    state = af.init_train_state(setting.params, learner.optimizer, population)
    state, trajectory, info = af.collect_trajectory(state, learner=learner, max_retrain_steps=1, compile=compile)
    return {
        "params": state.params,
        "optimizer": state.opt_state,
        "systems": [group.sample for group in state.population],
        "trajectory": trajectory,
        "counts": torch.tensor([info.accepted, info.rejected, info.updates]),
    }


def _replay(row: Row, setting: Setting, compile: str) -> dict[str, Any]:
    learner = _learner(row, setting)
    state = af.init_train_state(setting.params, learner.optimizer)
    options = {"replay_batch_size": SYSTEMS, "replay_steps": 1, "loss_on": "all", "convergence": "band"}
    state, info = af.generalize_on_trajectory(state, _samples(setting), learner=learner, compile=compile, **options)
    seen = torch.stack([torch.as_tensor(info.loss), *(column[0] for column in info.history)])
    report = {"report": list(seen.unbind())}
    if row.optimizer != "adamw":
        return {"params": state.params, "optimizer": state.opt_state, **report}
    return {**_update_by_gradient(learner.optimizer, setting.params, state), **report}


def _update_by_gradient(optimizer: Any, params: Any, after: TrainState) -> dict[str, Any]:
    """One update of Adam as the gradient that made it, and by what it is not the update that eager code makes of that.

    Adam moves a parameter by lr·g/(|g| + 1e-8): a component that is nothing but rounding, as that of a weight that
    changes nothing (of a learned time transformation, for two bodies alone), by as much as lr. Parameters after it
    are defined no better than that; the gradient, and the update that follows from it, are.
    """
    ones = map_leaves(torch.ones_like, params)
    _, counted = optimizer.update(ones, optimizer.init(params), params)
    moments = after.opt_state.inner.first_moment  # the gradient times a number
    gradient = map_leaves(lambda m, of_one: m / of_one, moments, counted.inner.first_moment)
    update, state = optimizer.update(gradient, optimizer.init(params), params)
    expected = leaves((af.apply_updates(params, update), state))
    pairs = list(zip(leaves((after.params, after.opt_state)), expected, strict=True))
    return {
        "gradient": gradient,
        "update beyond its gradient": [(ours - theirs) / max(1.0, _size(theirs)) for ours, theirs in pairs],
    }


def _minimise(row: Row, setting: Setting, compile: str) -> dict[str, Any]:
    objective, samples = _learner(row, setting).objective, _samples(setting)
    problem = flatten_problem(objective, setting.params, samples, compile=compile)
    value, gradient = problem.loss_and_gradient(problem.start)
    given = (problem.residuals(problem.start), problem.jacobian(problem.start), gradient)
    return {"problem": [torch.as_tensor(value), *map(torch.as_tensor, given)]}


def _tolerance(row: Row, setting: Setting) -> float:
    """What rounding makes of a row's results, relative."""
    if row.task == "simulate":
        return ROUNDING[row.dtype]
    # The loss is made of ln ε: an error ε of energies that are known to a resolution is known to that over ε.
    resolution = torch.finfo(getattr(torch, row.dtype)).eps
    return max(ROUNDING[row.dtype], 30 * resolution / _learner(row, setting).objective.E_lower)


def _learner(row: Row, setting: Setting) -> Learner:
    """The learner of a row, with a threshold that half of the samples reach."""

    def step(threshold: float) -> Any:
        words = {"energy_threshold": threshold, "energy_scale": row.energy_scale}
        return af.build_step(setting.policy, setting.gravity, setting.scheme, **words)

    _, info = af.build_objective(step(1.0)).attempt(setting.params, _samples(setting))
    errors = info.energy_error.sort().values
    middle = len(errors) // 2
    threshold = max(1e-9, float((errors[middle - 1] * errors[middle]).sqrt()))  # between two errors, far from both
    name = "sgd" if row.optimizer == NONE else row.optimizer
    optimizer = af.levenberg_marquardt() if name == "levenberg_marquardt" else af.build_optimizer(name, 1e-2)
    return af.build_learner(step(threshold), optimizer, E_lower=threshold / 30, E_upper=threshold)


def _samples(setting: Setting) -> Groups:
    """The systems as samples, with a window of states that they came from."""

    def sample(system: System) -> Sample:
        start = first_sample(system, setting.history_len)
        window, dt = start.window, torch.full_like(system.time, 0.01)
        for k in range(setting.history_len, 0, -1):
            window = push(window, system._replace(position=system.position - k * dt * system.velocity), dt)
        return start._replace(window=window)

    return tuple(vmap(sample)(systems) for systems in setting.systems)


def _difference(ours: dict[str, Any], theirs: dict[str, Any], rounding: float) -> str:
    """How two results differ by more than rounding, of the largest number in an array; "" if they do not."""
    for name in theirs:
        whole = max((_size(y) for y in leaves(theirs[name]) if y.is_floating_point()), default=0.0)
        for number, (x, y) in enumerate(zip(leaves(ours[name]), leaves(theirs[name]), strict=True)):
            if x.shape != y.shape or x.dtype != y.dtype:
                return f"{name} {number} is {tuple(x.shape)} of {x.dtype} and not {tuple(y.shape)} of {y.dtype}"
            if not y.is_floating_point():
                if not torch.equal(x, y):
                    return f"{name} {number} is {x.tolist()} and not {y.tolist()}"
                continue
            same = (x == y) | (x.isnan() & y.isnan())
            # An energy error is the difference of two energies, and known to the digits of those.
            size = 1.0 if name in OF_SIZE_ONE else _size(y)
            off = torch.where(same, torch.zeros_like(x), (x - y).abs()).nan_to_num(nan=math.inf)
            # Terms of the size of the largest component cancel in those that are nothing but rounding.
            cancelled = CANCELLED * torch.finfo(y.dtype).eps * whole if name == "gradient" else 0.0
            if bool((off > max(rounding * size, cancelled)).any()):
                return f"{name} {number} is off by {float(off.max()):.2g}, the largest being {size:.2g}"
    return ""


def _size(x: torch.Tensor) -> float:
    """The largest finite number in an array."""
    return float(torch.where(x.isfinite(), x, 0).abs().max()) if x.numel() else 0.0


HEAD = (
    "| # | task | bodies, dimensions, field | policy | network | scheme | optimizer, type, energy | what ran |\n"
    "|---|---|---|---|---|---|---|---|"
)


def line(number: int, row: Row, ran: Sequence[Ran]) -> str:
    """A row of the page."""
    bodies = f"{row.bodies}, {row.dimensions}" + ("" if row.field == NONE else f", {row.field}")
    policy = row.policy if row.criterion == NONE else f"{row.policy}, {row.criterion}"
    network = ", ".join(word for word in (row.features, row.activation) if word != NONE) or NONE
    scheme = " ".join(
        word for word in (row.scheme, row.integrator, "" if row.order == "2" else row.order) if word not in ("", NONE)
    )
    training = ", ".join(word for word in (row.optimizer, row.dtype, row.energy_scale) if word != NONE)
    words = (f"{x.label}: {x.back_end}" + ("" if x.back_end == "native" else f" ({x.why})") for x in ran)
    told = "; ".join(dict.fromkeys(words))  # once for two shapes of one function
    return f"| {number} | {row.task} | {bodies} | {policy} | {network} | {scheme} | {training} | {told} |"


def main() -> int:
    """Print the table; the exit code is 1 if compiled code was not eager code somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", nargs="+", type=int, help="these alone, counted from 1")
    parser.add_argument("--choose", action="store_true", help="choose rows anew, in half an hour, and print them alone")
    options = parser.parse_args()
    if options.choose:
        print("\n".join("\t".join(row) for row in choose()))
        return 0
    table = rows()
    failed = False
    print(HEAD)
    for number in options.rows or range(1, 1 + len(table)):
        outcome = run(table[number - 1])
        print(line(number, table[number - 1], outcome.ran), flush=True)
        if outcome.wrong:
            failed = True
            print(f"row {number}, compiled against eager: {outcome.wrong}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
