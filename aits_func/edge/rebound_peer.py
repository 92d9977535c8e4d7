"""REBOUND's integrators as peers: the same statistics and the same count of force evaluations as our own rules.

REBOUND (`pip install 'aits_func[rebound]'`, 4.4 or newer) is imported when a run starts, never before.
"""

import ctypes
import importlib.util
import math
import time
import warnings
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import check_system, has_room, make_room, require, require_choice
from ..base.tree import cast, concatenate, expand, stack, take
from ..base.types import System
from ..loops.arguments import check_end
from ..loops.collect import check_energies
from ..physics.gravity import Gravity, build_gravity
from ..physics.invariants import angular_momentum, centre_of_mass
from ..physics.paths import work_between
from ..timestep.energies import potentials_of, weigh
from .extras import load_extra


class PeerRule(TypedDict):
    """What tells one peer from another: arguments of `run_rebound`."""

    integrator: str
    adaptive_mode: str


PEER_RULES: dict[str, PeerRule] = {
    "rebound_ias15": {"integrator": "ias15", "adaptive_mode": "prs23"},
    "rebound_ias15_global": {"integrator": "ias15", "adaptive_mode": "global"},
    "rebound_whfast": {"integrator": "whfast", "adaptive_mode": "prs23"},
    "rebound_leapfrog": {"integrator": "leapfrog", "adaptive_mode": "prs23"},
}
PEERS = tuple(PEER_RULES)
"""The names of the peers; ``run_rebound(systems, **PEER_RULES[name], ...)`` runs one."""

INTEGRATORS = ("ias15", "whfast", "leapfrog")
_ADAPTIVE_MODES = {"global": 1, "prs23": 2}  # REBOUND's numbers: its words changed between 4.4 and 5.0

FINISHED, EVALUATION_LIMIT, TIME_LIMIT, NOT_FINITE, STALLED, REFUSED = range(6)
PEER_STATUS_NAMES = ("finished", "evaluation limit", "time limit", "not finite", "stalled", "refused")

_CHUNK = 1024  # states whose energies are taken at once
_FIRST_STEP = 0.01  # of IAS15, in free-fall times; it adapts at once, REBOUND's own 0.001 depends on the units
_LARGEST_COUNT = 2**53  # beyond it a step count is no number that a float tells from the next


class PeerResult(NamedTuple):
    """The report on B systems that REBOUND integrated. Energies are those of `build_gravity`, softening included, with
    the centre of mass at rest. Where bodies are massless, an error is the largest of the system's and theirs, as in
    `simulate`; the work on them is summed between the states that REBOUND gives, see `work_between`.

    Where a run failed (any status but "finished") the statistics are those of the part that was run. The error
    ε = (E − E₀)/|E₀| is taken at the start and after every step; each step's share of an integral is ε after it
    times its length, as in `simulate`, and the middle of the step stands for t.

    Shapes: as commented on the fields. Errors are dimensionless.
    """

    status: Tensor  # (B,) int64, index into PEER_STATUS_NAMES; 0 = finished, all others have failed
    steps: Tensor  # (B,) int64, steps taken; not those that IAS15 rejected
    force_evaluations: Tensor  # (B,) int64, as REBOUND made them, rejected steps included; not those of the way back
    final_energy_error: Tensor  # (B,) |ε| at the end
    max_energy_error: Tensor  # (B,) its maximum over the steps
    max_error_over_potential: Tensor  # (B,) maximum of |E − E₀| / |W(t)|, W the potential energy
    mean_energy_error: Tensor  # (B,) time average (1/T) ∫ |ε| dt
    drift_slope: Tensor  # (B,) 1 / time; least-squares slope of ε, ∫ (t − t̄) ε dt / (T³/12), t̄ the middle of the run
    angular_momentum_residual: Tensor  # (B,) |L − L₀|, mass · length² / time
    return_error: Tensor  # (B,) max |x − x₀| / rms radius of the start; infinite if failed, NaN if not asked for
    end_time: Tensor  # (B,) time reached


class _Setting(NamedTuple):
    """What is the same for all systems of a batch: plain numbers."""

    rebound: Any  # the module
    integrator: str
    adaptive_mode: str
    tolerance: float
    gravity: Gravity
    max_evaluations: int
    timeout: float  # seconds

    @property
    def adaptive(self) -> bool:
        return self.integrator == "ias15"


class _Samples(NamedTuple):
    """What is kept of the S states of a run, the start and one per step."""

    time: Tensor  # (S,) time since the start
    energy: Tensor  # (S,) E, or with massless bodies (S, 1 + N), see `timestep.energies`
    depth: Tensor  # the same; |W| and |φ|
    scale: Tensor  # the same; what errors are relative to, of every state as if it were the first


class _Run(NamedTuple):
    """One system's run."""

    status: int
    evaluations: int
    samples: _Samples
    start: System  # as REBOUND got it, bodies sorted
    end: System  # the last finite state


def available() -> bool:
    """Whether REBOUND is installed."""
    return importlib.util.find_spec("rebound") is not None


def run_rebound(
    systems: System,
    *,
    integrator: str,
    tolerance: float,
    t_end: Tensor | float,
    G: float,
    softening: float = 0.0,
    adaptive_mode: str = "prs23",
    return_error: bool = False,
    max_evaluations: int = 10_000_000,
    timeout: float = 600.0,
) -> PeerResult:
    """Integrate every system of a batch to ``t_end`` with one of REBOUND's integrators, in float64 on the CPU.

    A force evaluation is one call of REBOUND's routine that updates all accelerations, counted by a callback in
    ``additional_forces`` (which adds no force, and changes no bit of the result):

        ias15     one at the start of a step and 7 per iteration of its predictor-corrector loop (at most 12), on
                  rejected steps too;
        leapfrog  one per step (drift-kick-drift), none at the start;
        whfast    one per step: the kick by the forces *beyond* the Keplerian ones. Its Kepler step solves
                  Kepler's equation for every body, twice a step as safe mode has it, and evaluates no force: the
                  count leaves that work out.

    ``tolerance`` is ε of IAS15. For the other two it is the step in units of the shortest free-fall time at the
    start, dt = tolerance · min_ij (r² + s²)^{3/4} / √(G(mᵢ + mⱼ)), shortened a little so that it divides the run
    into whole steps. IAS15's last step is shortened to end at t_end.

    IAS15 chooses its steps by adaptive_mode: "prs23", REBOUND's default, which comes to a halt where a body's
    acceleration vanishes, as at every collinear passage of a symmetric orbit (status "stalled"), or "global", its
    former default. WHFast runs synchronised (safe mode), in Jacobi coordinates. It is made for one dominant body:
    for its sake the bodies are sorted, the heaviest first (of equals the one nearest to the centre of mass), the
    others by their distance from it, so that no result depends on the order in which they are given.

    Trouble is data: a system that reaches a limit, is no longer finite, or comes to a halt has that as its status.

    Args:
        systems: B systems, leaves (B, ...); test particles may have mass 0.
        integrator: "ias15", "whfast" or "leapfrog".
        tolerance: as above, > 0.
        t_end: the time to end at, one for all or (B,), later than every start.
        G: gravitational constant.
        softening: Plummer softening length s, ≥ 0; 0 for WHFast, whose Kepler step knows none.
        adaptive_mode: of IAS15, "prs23" or "global"; the others ignore it.
        return_error: whether to go back as well: turn the velocities at t_end and integrate the same span afresh.
        max_evaluations: force evaluations per system and way, ≥ 1. A run that needs more is stopped at the end of the
            step under way: after one more, with IAS15 after at most 85 more.
        timeout: seconds per system and way, > 0; looked at after every step.

    Returns:
        A `PeerResult`, float64 on the CPU.

    Raises:
        InputError: if REBOUND is not installed.
        ValueError: if an argument is out of range, or the systems are no batch or cannot be integrated (see
            `check_system` and `check_energies`).

    Source: Rein & Liu 2012, A&A 537, A128 (REBOUND, leapfrog); Rein & Spiegel 2015, MNRAS 446, 1424 (IAS15); Pham,
        Rein & Spiegel 2024, OJAp 7, 1 (its steps); Rein & Tamayo 2015, MNRAS 452, 376 (WHFast).
    """
    _check_options(integrator, adaptive_mode, tolerance, softening, max_evaluations, timeout)
    gravity = build_gravity(G=G, softening=softening)
    systems = cast(systems, dtype=torch.float64, device="cpu")
    systems = make_room(systems._replace(work=torch.zeros_like(systems.time)))  # REBOUND has no field that works
    span = _check_systems(systems, t_end, gravity)
    rebound = load_extra("rebound", "rebound")
    setting = _Setting(rebound, integrator, adaptive_mode, float(tolerance), gravity, max_evaluations, timeout)
    rows = [_run_one(take(systems, number), float(span[number]), setting, return_error) for number in range(len(span))]
    return stack(rows)


def _check_options(
    integrator: str, adaptive_mode: str, tolerance: float, softening: float, max_evaluations: int, timeout: float
) -> None:
    require_choice("run_rebound", "integrator", integrator, INTEGRATORS)
    require_choice("run_rebound", "adaptive_mode", adaptive_mode, tuple(_ADAPTIVE_MODES))
    require(0 < tolerance < math.inf, f"run_rebound: tolerance must be > 0 and finite, got {tolerance}")
    require(max_evaluations >= 1, f"run_rebound: max_evaluations must be >= 1, got {max_evaluations}")
    require(timeout > 0, f"run_rebound: timeout must be > 0 seconds, got {timeout}")
    require(
        integrator != "whfast" or softening == 0,
        f"run_rebound: softening must be 0 for whfast, whose Kepler step is not softened, got {softening}; "
        "set it to 0, or choose ias15 or leapfrog",
    )


def _check_systems(systems: System, t_end: Tensor | float, gravity: Gravity) -> Tensor:
    """How long to integrate each, (B,)."""
    check_system(systems, softening=gravity.softening, batched=True, where="run_rebound")
    check_energies(systems, gravity=gravity, energy_scale="total", where="run_rebound")
    end = torch.as_tensor(t_end, dtype=torch.float64, device="cpu").expand_as(systems.time)
    check_end("run_rebound", systems.time, end)
    return end - systems.time


def _run_one(system: System, span: float, setting: _Setting, return_error: bool) -> PeerResult:
    start = _sorted_bodies(system)
    dt = _first_step(start, span, setting)
    run = _integrate(start, span, dt, setting)
    back = _return_error(run, span, dt, setting) if return_error else math.nan
    spin = angular_momentum(run.end) - angular_momentum(run.start)
    return PeerResult(
        torch.tensor(run.status),
        torch.tensor(len(run.samples.time) - 1),
        torch.tensor(run.evaluations),
        *_energy_statistics(run.samples),
        spin.reshape(-1).norm(),
        torch.tensor(back, dtype=torch.float64),
        # REBOUND adds its steps up; a run of whole steps that has finished is at t_end but for that rounding.
        system.time + (span if run.status == FINISHED else run.samples.time[-1]),
    )


def _energy_statistics(samples: _Samples) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Final, maximal, maximal over |W|, and mean error, and the slope of its drift; () each."""
    change = samples.energy - samples.energy[0]
    error = (change / samples.scale[0]).reshape(len(change), -1)
    size = error.abs().amax(1)
    dt, elapsed = samples.time.diff(), samples.time[-1]
    span = torch.where(elapsed > 0, elapsed, 1.0)
    middle = (samples.time[1:] + samples.time[:-1] - elapsed) / 2
    mean = (size[1:] * dt).sum() / span
    slopes = (middle * dt) @ error[1:] * 12 / span**3
    over = torch.where(change == 0, change, change / samples.depth).abs()  # no potential energy, and none is needed
    return size[-1], size.max(), over.max(), mean, slopes[slopes.abs().argmax()]


def _return_error(run: _Run, span: float, dt: float, setting: _Setting) -> float:
    """How far from their start the bodies end that are sent back from the end, over its rms radius."""
    if run.status != FINISHED:
        return math.inf
    # A fresh start, not the same simulation: IAS15 predicts from the step before, which led the other way.
    turned = run.end._replace(velocity=-run.end.velocity)
    # A fixed step goes back as it came, or nothing would be reversed.
    back = _integrate(turned, span, _first_step(turned, span, setting) if setting.adaptive else dt, setting)
    if back.status != FINISHED:
        return math.inf
    radius = (run.start.position - centre_of_mass(run.start)[0]).pow(2).sum(-1).mean().sqrt()
    return float((back.end.position - run.start.position).norm(dim=-1).max() / radius)


def _sorted_bodies(system: System) -> System:
    """The heaviest body first, the others by distance from it: the order that Jacobi coordinates want."""
    from_centre = (system.position - centre_of_mass(system)[0]).norm(dim=-1)
    heaviest = system.mass == system.mass.max()
    first = torch.where(heaviest, from_centre, math.inf).argmin()
    distance = (system.position - system.position[first]).norm(dim=-1)
    distance[first] = -1.0
    order = distance.argsort(stable=True)
    mass, position, velocity = (leaf[order] for leaf in system[:3])
    return system._replace(mass=mass, position=position, velocity=velocity)


# --- one run


def _integrate(system: System, span: float, dt: float, setting: _Setting) -> _Run:
    """One system from its state over a span of time, its clock in REBOUND starting at 0."""
    simulation = _build_simulation(system, dt, setting)
    watch = _Watch(simulation, system, setting)
    simulation.additional_forces = watch.count
    simulation.heartbeat = watch.look
    # Fixed steps: a goal half a step early is passed by the last of the whole steps, whatever the roundings of t.
    goal, exact = (span, 1) if setting.adaptive else (span - dt / 2, 0)
    refused = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # REBOUND's advice on steps that are too long
        try:
            simulation.integrate(goal, exact_finish_time=exact)
        except (RuntimeError, setting.rebound.GenericError):  # what REBOUND makes of its own error messages
            refused = True
    samples, end = watch.finish()
    status = REFUSED if refused and watch.status == FINISHED else watch.status
    clock = system.time + samples.time[-1]
    return _Run(status, watch.evaluations, samples, system, end._replace(time=clock))


def _build_simulation(system: System, dt: float, setting: _Setting) -> Any:
    """A ``rebound.Simulation`` of one system, its integrator set."""
    simulation = setting.rebound.Simulation()
    simulation.G, simulation.softening = setting.gravity.G, setting.gravity.softening
    simulation.integrator, simulation.dt = setting.integrator, dt
    for m, x, v in zip(system.mass.tolist(), system.position.tolist(), system.velocity.tolist(), strict=True):
        x, v = (*x, 0.0)[:3], (*v, 0.0)[:3]
        simulation.add(m=m, x=x[0], y=x[1], z=x[2], vx=v[0], vy=v[1], vz=v[2])
    options = _options(simulation, setting.integrator)
    if setting.adaptive:
        options.epsilon = setting.tolerance
        options.adaptive_mode = _ADAPTIVE_MODES[setting.adaptive_mode]
    if setting.integrator == "whfast":
        options.safe_mode = 1  # else the state between two steps is half a Kepler step off, and so is its energy
    return simulation


def _options(simulation: Any, integrator: str) -> Any:
    """Where an integrator keeps its options: since REBOUND 5 in ``simulation.integrator``."""
    return getattr(simulation, f"ri_{integrator}", simulation.integrator)


def _first_step(system: System, span: float, setting: _Setting) -> float:
    """The fixed step, which divides the span; for IAS15 one to begin with."""
    free_fall = _shortest_free_fall(system, setting.gravity)
    if setting.adaptive:
        return min(_FIRST_STEP * free_fall, span)
    return span / max(1, math.ceil(min(span / free_fall / setting.tolerance, _LARGEST_COUNT)))


def _shortest_free_fall(system: System, gravity: Gravity) -> float:
    """min_ij (r² + s²)^{3/4} / √(G(mᵢ + mⱼ)) over the pairs with mass."""
    first, second = torch.triu_indices(len(system.mass), len(system.mass), 1)
    squared = (system.position[second] - system.position[first]).pow(2).sum(-1) + gravity.softening**2
    rate = (gravity.G * (system.mass[first] + system.mass[second])).sqrt() / squared**0.75
    return 1 / float(rate.max())


class _Watch:
    """Counts evaluations, keeps the state after every step, and stops what goes wrong.

    REBOUND calls back into it from C, where an exception would be printed and forgotten: so it raises none.
    """

    def __init__(self, simulation: Any, system: System, setting: _Setting) -> None:
        self.status, self.evaluations = FINISHED, 0
        self._simulation, self._setting, self._system = simulation, setting, system
        self._deadline = time.monotonic() + setting.timeout
        particle = setting.rebound.Particle
        self._columns = [[getattr(particle, f"{v}{axis}").offset // 8 for axis in "xyz"] for v in ("", "v")]
        bodies, width = len(system.mass), ctypes.sizeof(particle) // 8
        # The particles lie in one block of memory, which stays where it is while none is added.
        self._source = ctypes.addressof(simulation._particles.contents)
        self._size = bodies * width * 8
        self._view = (ctypes.c_double * (bodies * width)).from_address(self._source)
        self._coordinates = slice(self._columns[0][0], None, width)
        self._chunk = torch.empty(_CHUNK, bodies, width, dtype=torch.float64)
        self._target = self._chunk.data_ptr()
        self._times: list[float] = []
        self._kept: list[_Samples] = []
        self._last = system

    def count(self, _: Any) -> None:
        """After every force evaluation."""
        self.evaluations += 1
        if self.evaluations > self._setting.max_evaluations:
            self._stop(EVALUATION_LIMIT)

    def look(self, _: Any) -> None:
        """At the start and after every step."""
        now = self._simulation.t
        if self.status == EVALUATION_LIMIT and self._setting.adaptive:
            return None  # a step that was not weighed: see _stop
        if self._times or self._kept:
            if not math.isfinite(sum(self._view[self._coordinates])):
                return self._stop(NOT_FINITE)
            if not now > (self._times[-1] if self._times else float(self._kept[-1].time[-1])):
                return self._stop(STALLED)
            if time.monotonic() > self._deadline:
                self._stop(TIME_LIMIT)
        return self._keep(now)

    def finish(self) -> tuple[_Samples, System]:
        """All samples, and the last state: finite ones only."""
        if not self._kept and not self._times:  # refused before it began
            self._keep(0.0)
        if self._times:
            self._weigh()
        self._simulation = None  # which keeps the callbacks, and so this
        samples = _Samples(*(torch.cat(columns) for columns in zip(*self._kept, strict=True)))
        return samples, self._last

    def _keep(self, now: float) -> None:
        ctypes.memmove(self._target + len(self._times) * self._size, self._source, self._size)
        self._times.append(now)
        if len(self._times) == _CHUNK:
            self._weigh()

    def _stop(self, status: int) -> None:
        """End the run after the step under way, unless it has ended."""
        if self.status == FINISHED:
            self.status = status
            if self._setting.adaptive:
                # Or a step that is rejected again and again would never end: with 0 it is accepted as it is.
                _options(self._simulation, "ias15").epsilon = 0.0
            self._simulation.stop()

    def _weigh(self) -> None:
        """Energies of the states in the chunk, which is then empty; the first that is not finite ends the run."""
        states, dimensions = self._chunk[: len(self._times)], self._system.position.shape[-1]
        position, velocity = (states[:, :, columns[:dimensions]] for columns in self._columns)
        copies = System(*(leaf.expand(len(states), *leaf.shape) for leaf in self._system))
        clock = torch.tensor(self._times, dtype=torch.float64)
        systems = copies._replace(position=position, velocity=velocity, time=clock)
        if has_room(self._system):
            systems = systems._replace(work=self._add_up_work(systems))
        gravity = self._setting.gravity
        energy, scale = vmap(lambda system: weigh(system, gravity, "total"))(systems)
        depth = vmap(lambda system: potentials_of(system, gravity, "total"))(systems)
        samples = _Samples(clock, energy, depth, scale)
        known = (energy.isfinite() & ~depth.isnan()).reshape(len(states), -1).all(1)
        finite = known & velocity.isfinite().all(-1).all(-1)
        good = int(finite.long().cumprod(0).sum())
        if good < len(states):
            self._stop(NOT_FINITE)
        if good:
            self._kept.append(_Samples(*(column[:good] for column in samples)))
            self._last = take(systems, good - 1)
        self._times.clear()

    def _add_up_work(self, systems: System) -> Tensor:
        """The work of every state in the chunk, (S, 1 + N), from that of the one before."""
        if self._kept:
            so_far, path = self._last.work[1:], concatenate([expand(self._last, 1), systems])
        else:
            so_far, path = torch.zeros_like(self._system.mass), systems
        gained = so_far + work_between(self._setting.gravity, path).cumsum(0)
        gained = gained if self._kept else torch.cat([so_far[None], gained])
        return torch.cat([torch.zeros_like(gained[:, :1]), gained], 1)
