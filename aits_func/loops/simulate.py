"""Simulation of a batch of systems with a step function in a scheme, statistics included.

Steps are never rejected nor cut short. A run stops before the step that would pass the time it is to
reach, and a side step of just the right h, taken from there and then forgotten, gives the state at that
time. So what a scheme carries (ρ, W, the force) is that of an undisturbed run.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import make_room, require, require_choice
from ..base.tree import leaves, map_leaves
from ..base.types import Params, System
from ..physics.gravity import Gravity, in_double
from ..physics.integrators import Integrator
from ..physics.invariants import angular_momentum, centre_of_mass, linear_momentum
from ..physics.scheme import Scheme, check_traits
from ..physics.schemes import as_scheme
from ..timestep.energies import ENERGY_SCALES, energies, largest
from ..timestep.policy import Policy, traits_of
from ..timestep.run import ARRIVED, FINISHED, RUNNING, STEP_LIMIT, Run, Start, Statistics, Watch
from .arguments import check_params, measure, step_factor, times_to_reach
from .batch_run import Batch, Forgetful, build_batch, reach
from .collect import check_energies, weighable
from .tape import Recording, Tape

_BLOCKS = (*range(128, 7, -8), 4, 2, 1)  # steps that are judged together: the first that divides their number
_FEW_PARAMETERS = 16  # of a criterion; a network has thousands
_FEW_SYSTEMS = 64  # for which a call takes longer than a network


class SimulationInfo(NamedTuple):
    """The report on B simulated systems. All errors are relative to the energy scale of the start.

    E is the internal energy, that with the centre of mass at rest; with an external field, in the field's frame. Where
    bodies are massless, |E − E₀| / scale is the largest of the system's error and theirs (see `timestep.energies`).

    Shapes: as commented on the fields. Units: ``mean_dt`` is a time; errors are dimensionless.
    """

    status: Tensor  # (B,) int64, index into STATUS_NAMES
    steps: Tensor  # (B,) int64, predicted steps, the one that lands on t_end included
    force_evaluations: Tensor  # (B,) int64, of those steps and of the start
    output_evaluations: Tensor  # (B,) int64, spent besides to land on t_end and output_times
    rule_evaluations: Tensor  # (B,) int64, evaluations of the step function, with its derivative where needed
    over_threshold: Tensor  # (B,) int64, steps that training would reject: their own energy error reached it
    final_energy_error: Tensor  # (B,) |E − E₀| / scale at the end
    max_energy_error: Tensor  # (B,) its maximum over the steps
    max_potential_error: Tensor  # (B,) maximum of |E − E₀| / |W(t)|, W the potential energy
    mean_energy_error: Tensor  # (B,) time average (1/T) ∫ |E − E₀| / scale dt
    energy_drift: Tensor  # (B,) 1 / time; the steepest slope of a least-squares line through (E − E₀) / scale
    momentum_residual: Tensor  # (B,) float64  |P − P₀|, mass · length / time
    angular_momentum_residual: Tensor  # (B,) float64  |L − L₀|, mass · length² / time
    return_error: Tensor  # (B,) max |x − x₀| / rms radius after the way back; infinite if failed, NaN if not asked for
    mean_dt: Tensor  # (B,) time
    closest_distance: Tensor  # (B,) length; smallest pair distance at a step's end; infinite if not watched
    encounter_time: Tensor  # (B,) time at which a pair first came closer than encounter_distance; infinite: never
    escape_time: Tensor  # (B,) time at which a body was first found to escape; infinite: never
    escaper: Tensor  # (B,) int64, which body, of a group that leaves together its first; −1: none
    recording: Recording
    outputs: tuple[System, ...]  # the systems at each of output_times; where a run ended before, its last state


def simulate(
    params: Params,
    systems: System,
    *,
    policy: Policy,
    gravity: Gravity,
    scheme: Scheme | Integrator,
    t_end: float | Tensor | None = None,
    steps: int | None = None,
    h: float | Tensor = 1.0,
    output_times: Sequence[float | Tensor] | Tensor = (),
    history_len: int = 0,
    n_steps: int = 1,
    max_steps: int = 1_000_000,
    min_dt: float = 0.0,
    energy_threshold: float = 2e-4,
    energy_scale: str = "total",
    record_every: int = 0,
    encounter_distance: float = 0.0,
    escape_distance: float = math.inf,
    return_error: bool = False,
    statistics: bool = True,
    compile: str = "off",
) -> tuple[System, SimulationInfo]:
    """Advance one system, or every system of a batch, to ``t_end`` or by a number of steps.

    Steps are taken as the scheme makes them, never rejected and never cut short: the state at ``t_end`` (and at every
    one of ``output_times``) comes from a side step of the h that lands there, from the last state before it. A
    system that is done, or cannot go on, is frozen with a status, and leaves the batch with others. Positions and
    time are summed with compensation. Differentiable in params, systems, t_end and h by ``torch.func`` and by
    autograd; memory then grows with the number of steps (see `retrace`). A system whose next step overflows makes the
    gradient of what all share NaN: look at the status, and leave it out of a batch that is differentiated.

    Args:
        params: the policy's parameters.
        systems: B systems of one shape, leaves (B, ...), or one system.
        policy: predicts dt.
        gravity: weighs the energies.
        scheme: advances the systems; an `Integrator` stands for the direct scheme with it.
        t_end: the time to end at, one for all or (B,), later than every start; or None with ``steps``.
        steps: the number of steps to take instead.
        h: a factor on the step, > 0; 1 for the policy's own step.
        output_times: times from the start to t_end, both included, ascending, each one for all or (B,); a sequence
            or an array, e.g. ``torch.linspace(0, t_end, 5)``.
        history_len: H, as the policy's features want it.
        n_steps: integrator steps of one dt in the direct scheme, steps of any other scheme; ≥ 1.
        max_steps: predicted steps after which a system ends with status "step limit", ≥ 1.
        min_dt: a step not longer than this, or too short to change the time, ends a system as "stalled"; ≥ 0.
        energy_threshold: what a step is counted against.
        energy_scale: "total": |E₀|; "kinetic": K₀ + |W₀|; "source", as in `attempt_single_step`.
        record_every: record every so many steps; 0 for the first and the last state only.
        encounter_distance: report when a pair first comes closer than this; 0 to look for none.
        escape_distance: report when an unbound body first leaves this distance behind; infinite to look for none.
        return_error: whether to go back as well, with all velocities reversed and by as many steps. (A field that
            depends on time goes on in time, and nothing returns.)
        statistics: False for ensembles of which the end alone is wanted, many times faster where the step itself is
            cheap: no energy is weighed on the way, ``over_threshold`` is −1, and of the energy errors all but the final
            one are NaN, as is the drift. Where ``steps`` is given several are judged together, and a run that
            cannot go on ends before the last such block. Takes neither record_every nor encounter_distance nor
            escape_distance.
        compile: "on", "auto" (where there is a compiler) or "off"; worth its seconds for long runs. What is
            differentiated runs eagerly.

    Returns:
        (systems at the end, `SimulationInfo`); of one system, without the leading axis. Status per system: see
        ``STATUS_NAMES`` of timestep.run; where a run could not go on, its last good state is returned.

    Raises:
        ValueError: if t_end is not finite and later than every start, neither or both of t_end and steps are given,
            output_times do not ascend from start to t_end, a number is out of range, statistics are off and needed,
            energy_scale is another word, the scheme does not take this policy, or an energy is no scale to measure by
            (see `check_energies`).
    """
    single = systems.mass.ndim == 1
    if single:
        systems = map_leaves(lambda leaf: leaf[None], systems)
    require(n_steps >= 1, f"simulate: n_steps must be >= 1, got {n_steps}")
    require(max_steps >= 1, f"simulate: max_steps must be >= 1, got {max_steps}")
    require(record_every >= 0, f"simulate: record_every must be >= 0 (0 for the ends only), got {record_every}")
    require_choice("simulate", "energy_scale", energy_scale, ENERGY_SCALES)
    targets = times_to_reach("simulate", systems, t_end=t_end, steps=steps, output_times=output_times)
    whole = as_scheme(scheme, n_steps=n_steps)
    require(min_dt >= 0, f"simulate: min_dt must be >= 0 (a time; 0 for none), got {min_dt}")
    size = step_factor("simulate", h, systems)
    check_params("simulate", params, systems)
    require(encounter_distance >= 0, f"simulate: encounter_distance must be >= 0, got {encounter_distance}")
    require(escape_distance > 0, f"simulate: escape_distance must be > 0, got {escape_distance}")
    require(energy_threshold > 0, f"simulate: energy_threshold must be > 0, got {energy_threshold}")
    check_traits(whole, traits_of(policy), "simulate")
    systems = make_room(systems)
    if statistics:  # without them no energy is asked for on the way
        check_energies(systems, gravity=gravity, energy_scale=energy_scale, where="simulate")
    watch = Watch(encounter_distance, escape_distance)
    require(
        statistics or not (record_every or encounter_distance > 0 or escape_distance < math.inf),
        "simulate: record_every, encounter_distance and escape_distance need statistics = True",
    )
    batch = build_batch(
        policy,
        gravity,
        whole,
        history_len=history_len,
        energy_threshold=energy_threshold,
        watch=watch,
        compile=compile,
        energy_scale=energy_scale,
        statistics=statistics,
        block=1 if statistics or steps is None or history_len else _block(params, whole, steps, len(systems.mass)),
    )
    start = measure(systems, gravity, energy_scale, min_dt, max_steps if steps is None else steps)
    runs = batch.begin(params, systems, start)
    tape = Tape(record_every, runs)
    outputs = []
    for target in targets[:-1]:
        tape.begin()
        runs, landed = reach(batch, params, size, start, runs, target, tape)
        outputs.append(landed.system)
        runs = runs._replace(
            status=torch.where(runs.status == ARRIVED, torch.zeros_like(runs.status), runs.status),
            output_steps=torch.where(runs.status == ARRIVED, landed.output_steps + 1, runs.output_steps),
        )
    tape.begin()
    last, runs = reach(batch, params, size, start, runs, targets[-1], tape)
    if steps is not None:  # for a given number of steps the limit is the end
        runs = runs._replace(status=torch.where(runs.status == STEP_LIMIT, FINISHED, runs.status))
    back = _return_errors(batch, params, size, start, systems, last, runs) if return_error else None
    if not statistics:
        runs = _weigh_the_end(systems, runs, gravity, energy_scale, start)
    info = _report(systems, runs, whole, tape.stack(runs), tuple(outputs), back)
    return (_only(runs.system), _only_info(info)) if single else (runs.system, info)


def _return_errors(
    batch: Batch, params: Params, h: Tensor, start: Start, systems: System, last: Run, runs: Run
) -> Tensor:
    """(B,): the way back, from the last state before the end, by as many steps as led there."""
    count = last.steps
    back = batch.turn(params, last)
    back = back._replace(status=torch.where((runs.status == FINISHED) & (count > 0), RUNNING, FINISHED))
    forever = torch.full_like(start.time, math.inf)
    _, back = reach(batch, params, h, start._replace(max_steps=count), back, forever, Forgetful())
    centre = vmap(centre_of_mass)(systems)[0]
    radius = (systems.position - centre[:, None]).pow(2).sum(-1).mean(-1).sqrt()
    missed = (back.system.position - systems.position).norm(dim=-1).amax(-1) / radius
    returned = (runs.status == FINISHED) & ((back.status == STEP_LIMIT) | (count == 0))
    return torch.where(returned, missed, torch.full_like(missed, math.inf))


def _block(params: Params, scheme: Scheme, steps: int, count: int) -> int:
    """Steps that are judged together: several, unless a network's own work is long beside a verdict, and to compile."""
    long = count > _FEW_SYSTEMS and sum(leaf.numel() for leaf in leaves(params)) > _FEW_PARAMETERS
    if long or len(scheme.stages) > 1:
        return 1
    return next(block for block in _BLOCKS if steps % block == 0)


def _weigh_the_end(systems: System, runs: Run, gravity: Gravity, energy_scale: str, start: Start) -> Run:
    """Runs without statistics with what their last states alone tell."""
    now = vmap(lambda system: energies(system, gravity, energy_scale))(in_double(runs.system))
    error = vmap(largest)((now - start.energy).abs() / start.scale).to(runs.dt.dtype)
    error = torch.where(weighable(systems, gravity, energy_scale), error, torch.full_like(error, math.nan))
    unknown, never = torch.full_like(error, math.nan), torch.full_like(error, math.inf)
    none = torch.full_like(runs.steps, -1)
    nothing = Statistics(none, unknown, unknown, unknown, unknown, unknown, never, never, never, none)
    return runs._replace(error=error, statistics=nothing)


def _report(
    start: System,
    runs: Run,
    scheme: Scheme,
    recording: Recording,
    outputs: tuple[System, ...],
    return_error: Tensor | None,
) -> SimulationInfo:
    end, stats = runs.system, runs.statistics
    elapsed = end.time - start.time
    span = torch.where(elapsed > 0, elapsed, torch.ones_like(elapsed))
    first, last = in_double(start), in_double(end)  # as energies are: in metres and kilograms m x × v is no float32
    momentum = vmap(linear_momentum)(last) - vmap(linear_momentum)(first)
    spin = vmap(angular_momentum)(last) - vmap(angular_momentum)(first)
    return SimulationInfo(
        status=runs.status,
        steps=runs.steps,
        force_evaluations=scheme.evaluations_at_start + scheme.evaluations_per_step * runs.steps,
        output_evaluations=scheme.evaluations_per_step * runs.output_steps,
        rule_evaluations=scheme.rule_evaluations * runs.steps + (scheme.equal_steps == 0),
        over_threshold=stats.over_threshold,
        final_energy_error=runs.error,
        max_energy_error=stats.max_error,
        max_potential_error=stats.max_potential_error,
        mean_energy_error=stats.error_integral / span,
        energy_drift=_drift(stats, elapsed, span),
        momentum_residual=momentum.norm(dim=-1),
        angular_momentum_residual=spin.reshape(len(spin), -1).norm(dim=-1),
        return_error=torch.full_like(runs.error, math.nan) if return_error is None else return_error,
        mean_dt=elapsed / runs.steps.clamp(min=1),
        closest_distance=stats.closest_distance,
        encounter_time=stats.encounter_time,
        escape_time=stats.escape_time,
        escaper=stats.escaper,
        recording=recording,
        outputs=outputs,
    )


def _drift(stats: Statistics, elapsed: Tensor, span: Tensor) -> Tensor:
    """(B,): the slope of the error that drifts most, of a system or of one of its massless bodies."""

    def of_one(moment: Tensor, integral: Tensor, elapsed: Tensor, span: Tensor) -> Tensor:
        # Divided one by one: the cube of a span in seconds overflows float32.
        slopes = (moment / span - integral * (elapsed / span) / 2) / span * 12 / span
        return slopes.take_along_dim(slopes.abs().argmax(0, keepdim=True), 0)[0] if slopes.ndim else slopes

    return vmap(of_one)(stats.moment, stats.signed_integral, elapsed, span)


def _only(tree: System) -> System:
    return map_leaves(lambda leaf: leaf[0], tree)


def _only_info(info: SimulationInfo) -> SimulationInfo:
    """The report on a batch of one, without its leading axis."""
    columns: dict[str, Any] = {k: v[0] for k, v in info._asdict().items() if isinstance(v, Tensor)}
    recording = Recording(*(leaf[:, 0] for leaf in info.recording))
    return info._replace(recording=recording, outputs=tuple(_only(system) for system in info.outputs), **columns)
