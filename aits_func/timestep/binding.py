"""A policy with its parameters and its history bound: the step function that schemes are handed."""

import torch
from torch import Tensor

from ..base.types import Params, System, Window
from ..physics.criterion import scaled_reciprocal
from ..physics.gravity import Gravity
from ..physics.invariants import at_rest_as_a_whole
from ..physics.scheme import Scheme
from ..physics.step_function import PositionForm, StepFunction
from .policy import Policy, position_form_of


def bind(policy: Policy, params: Params, window: Window, *, scheme: Scheme, gravity: Gravity) -> StepFunction:
    """The policy as a step function of ONE system's state.

    A scheme that needs a function of positions alone gets the policy's own position form, or, of a policy that
    has none, the policy `at_rest`.

    Args:
        policy: predicts dt.
        params: its parameters.
        window: the states before; schemes other than the direct one only take policies that do not read it.
        scheme: decides which form is needed.
        gravity: supplies the energy that `at_rest` keeps.

    Returns:
        A `StepFunction`.
    """
    form = position_form_of(policy)
    if form is None and scheme.position_form:
        form = at_rest(policy, window, gravity)

    def timescale(system: System) -> Tensor:
        return policy.apply(params, system, window)

    if form is None:
        return StepFunction(
            timescale, lambda system: (), lambda system, constants: scaled_reciprocal(timescale(system))
        )
    return StepFunction(
        timescale,
        lambda system: form.constants(params, system),
        lambda system, constants: form.rate(params, system, constants),
    )


def at_rest(policy: Policy, window: Window, gravity: Gravity) -> PositionForm:
    """A policy as a function of positions: what it says of the same bodies at rest, at the energy of the run.

        Ω(x) = 1/τ(x, v = 0),   with the work set so that E = K + W − work is that of the start

    So a policy that was trained on whole states can drive a time-transformed leapfrog. It then sees nothing of
    the velocities but their energy.

    Args:
        policy: smooth, memoryless and even in the velocities.
        window: any; it is not read.
        gravity: energies.

    Returns:
        A `PositionForm` whose constants are the energy with the centre of mass at rest, ().
    """

    def rate(params: Params, system: System, energy: Tensor) -> Tensor:
        still = system._replace(
            velocity=torch.zeros_like(system.velocity), work=gravity.potential_energy(system) - energy
        )
        return scaled_reciprocal(policy.apply(params, still, window))

    return PositionForm(lambda params, system: gravity.energy(at_rest_as_a_whole(system)), rate)
