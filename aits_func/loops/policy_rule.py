"""A policy in a scheme as a rule of a comparison: its tolerance is the factor h on its step."""

import time

import torch
from torch import Tensor
from torch.func import vmap

from ..base.check import require
from ..base.tree import cast
from ..base.types import Params, System
from ..physics.gravity import Gravity, in_double
from ..physics.integrators import Integrator
from ..physics.invariants import centre_of_mass
from ..physics.scheme import Scheme
from ..physics.schemes import as_scheme
from ..timestep.policy import Policy
from ..timestep.run import FINISHED, STATUS_NAMES
from .rules import Rule, RunStatistics
from .simulate import simulate


def build_policy_rule(
    name: str,
    policy: Policy,
    params: Params,
    *,
    gravity: Gravity,
    scheme: Scheme | Integrator,
    t_end: float | Tensor,
    tolerances: tuple[float, ...],
    history_len: int = 0,
    max_evaluations: int = 1_000_000,
    energy_scale: str = "total",
    return_error: bool = False,
    compile: str = "auto",
) -> Rule:
    """A policy with its parameters, in a scheme, as a `Rule` that is swept over h.

    Args:
        name: of the rule.
        policy: predicts dt.
        params: its parameters, in the dtype and on the device of the systems.
        gravity: weighs the energies.
        scheme: advances the systems.
        t_end: the time to end at, one for all or (B,).
        tolerances: the values of h, > 0; 1 is the policy's own step.
        history_len: H, as the policy's features want it.
        max_evaluations: force evaluations after which a system has failed, ≥ 1.
        energy_scale: "total", "kinetic" or "source", as in `attempt_single_step`.
        return_error: whether to go back as well.
        compile: "auto", "on" or "off".

    Returns:
        A `Rule` that reports on the CPU, in float64. Its force evaluations are those of the start and the steps, not
        those of the side step that lands on t_end, which is output.

    Raises:
        ValueError: if max_evaluations is not ≥ 1.
    """
    require(max_evaluations >= 1, f"build_policy_rule: max_evaluations must be >= 1, got {max_evaluations}")
    whole = as_scheme(scheme)  # once: what is compiled for a scheme is kept for that very one
    steps = max(1, max_evaluations // whole.evaluations_per_step)

    def run(systems: System, h: float) -> RunStatistics:
        began = time.perf_counter()
        _, info = simulate(
            params,
            systems,
            policy=policy,
            gravity=gravity,
            scheme=whole,
            t_end=t_end,
            h=h,
            history_len=history_len,
            max_steps=steps,
            energy_scale=energy_scale,
            return_error=return_error,
            compile=compile,
        )
        statistics = RunStatistics(
            failed=info.status != FINISHED,
            force_evaluations=info.force_evaluations,
            rule_evaluations=info.rule_evaluations,
            final_energy_error=info.final_energy_error,
            mean_energy_error=info.mean_energy_error,
            max_potential_error=info.max_potential_error,
            max_energy_error=info.max_energy_error,
            angular_momentum_error=info.angular_momentum_residual / natural_spin(systems, gravity),
            return_error=info.return_error,
            energy_drift=info.energy_drift,
            seconds=torch.tensor(time.perf_counter() - began),
        )
        endings = tuple(STATUS_NAMES[code] for code in info.status.tolist())
        return cast(statistics, dtype=torch.float64, device="cpu")._replace(endings=endings)

    return Rule(name, run, tolerances)


def natural_spin(systems: System, gravity: Gravity) -> Tensor:
    """A scale of angular momentum that does not vanish with it: M (G M R)^{1/2}, R the rms distance from the centre.

    Args:
        systems: B systems, leaves (B, ...).
        gravity: supplies G.

    Returns:
        (B,), mass · length² / time, in float64: in metres and kilograms it is no float32.
    """
    systems = in_double(systems)
    mass = systems.mass.sum(-1)
    centre = vmap(centre_of_mass)(systems)[0]
    radius = (systems.position - centre[:, None]).pow(2).sum(-1).mean(-1).sqrt()
    return mass * (gravity.G * mass * radius).sqrt()
