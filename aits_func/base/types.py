"""The pytrees that several rooms share.

Shapes are written with these letters, in the whole package:

    B  batch        N  bodies       D  dimensions (2 or 3)
    H  history      F  features     T  samples of a trajectory

Every type is a ``NamedTuple`` of tensors only, so that it passes ``vmap``, ``grad`` and
``torch.compile`` unregistered. The shapes given are those of ONE system; in a batch every leaf
has one more leading axis. Nothing is written in place: change a field with ``_replace``.

Units are the caller's: any set of units in which the gravitational constant has the value G
that was handed to `build_gravity`.
"""

from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

Params: TypeAlias = Any
"""A pytree of tensors: the parameters of a policy."""


class System(NamedTuple):
    """One gravitating system at one instant.

    Make one with `make_system`, which supplies the last two fields and checks the shapes.

    Shapes: as commented on the fields. Units: the caller's (see `build_gravity`).
    """

    mass: Tensor  # (N,)    mass; zero for a test particle
    position: Tensor  # (N, D)  length
    velocity: Tensor  # (N, D)  length / time
    time: Tensor  # ()      time
    work: Tensor  # ()      energy that a time-dependent external field has put in, ∫ Σ mᵢ ∂ₜΦ dt; with massless bodies
    #                 (1 + N,): that, and what field and the other bodies have put into each, ∫ ∂ₜφ dt, per unit of mass


class Window(NamedTuple):
    """The last H states before the present one, oldest first, and the steps between them.

    Shapes: as commented on the fields. A slot that holds no state yet has ``valid`` False; what
    else stands in it never reaches a feature.
    """

    position: Tensor  # (H, N, D)  length
    velocity: Tensor  # (H, N, D)  length / time
    time: Tensor  # (H,)       time
    dt: Tensor  # (H + 1,)   time; the step that led to each state, the present one last; 0 = first
    valid: Tensor  # (H,)       bool; whether the slot holds a state


class Sample(NamedTuple):
    """What one step is predicted from, and the step that was validated there.

    A trajectory is a `Sample` whose leaves have a leading axis T, or a tuple of such groups, one
    for every shape (N, D, H) that occurs.

    Shapes: of one sample; see `System` and `Window`.
    """

    system: System  # the state that the step starts from
    window: Window  # the states before it
    dt: Tensor  # ()  time; the accepted step (0 where none was attempted yet)
    active: Tensor  # ()  bool; an inactive sample takes dt = 0, has no error, and passes
    reference: "Reference | tuple[()]" = ()  # what its loss needs to know of the system; () until that was worked out


class Reference(NamedTuple):
    """What the energy error and the length of a step are compared with where the error alone says nothing.

    It depends on the system, on what the step is judged by, and on the dtype, but not on parameters: training works it
    out once for every sample and not in every iteration. Nothing that is saved or returned holds one.

    Shapes: (), of one sample.
    """

    rounding: Tensor  # ()  relative energy error below which that of a step is made of rounding, whatever dt is
    time: Tensor  # ()  time > 0 in which the system changes; not finite where nothing changes it


class StepInfo(NamedTuple):
    """What one attempted step reports.

    Shapes: all (), of one step. Units: dt in time, the energy error relative (dimensionless).
    """

    dt: Tensor  # ()  time; the step as predicted (0 for an inactive sample)
    energy_error: Tensor  # ()  relative energy error of the step; infinite where it exploded
    accepted: Tensor  # ()  bool; energy_error < energy_threshold
    exploded: Tensor  # ()  bool; the step, or its energy, was not finite


class TrainState(NamedTuple):
    """All that training carries from one epoch to the next; a checkpoint is exactly this.

    Shapes: pytrees of tensors. ``population`` is a tuple of groups, one `Population` for every
    shape (N, D) that occurs.
    """

    params: Params  # the policy's parameters
    opt_state: Any  # the optimizer's state
    population: "tuple[Population, ...]"  # the systems that Part 1 advances
    epoch: Tensor  # ()  int64; number of finished epochs


class Population(NamedTuple):
    """B systems of one shape on their way through Part 1.

    Shapes: every leaf of ``sample`` has a leading axis B.
    """

    sample: Sample  # (B, ...)  present state and window of every system
    stop_time: Tensor  # (B,)      time at which the system retires for good; infinite: never
