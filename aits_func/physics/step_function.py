"""What a scheme asks of the function that chooses its steps, and what is known about one.

A step function τ(x) > 0 is a criterion or a policy with its parameters (and its history) bound. Schemes
read it in one of two forms: ``timescale`` of the whole state, or, where the step depends on the
positions alone up to constants of the motion, the ``rate`` Ω(x) = 1/τ(x), whose change along the
motion costs no force.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..base.types import Params, System


class Traits(NamedTuple):
    """What is promised of a step function: bools without shape. Nothing is, unless its builder says so.

    A reversible scheme needs all three: it refuses a step function that lacks one.
    """

    smooth: bool = False  # differentiable wherever bodies are apart: no min, max or clip
    memoryless: bool = False  # a function of the present state alone
    even: bool = False  # unchanged when all velocities are reversed

    def both(self, other: "Traits") -> "Traits":
        """What holds of a function that is made of two others."""
        return Traits(*(a and b for a, b in zip(self, other, strict=True)))


REVERSIBLE = Traits(smooth=True, memoryless=True, even=True)


class PositionForm(NamedTuple):
    """A step rule that depends on positions alone, as Ω(x) = 1/τ(x), up to constants of the motion.

    ``constants(params, system) -> pytree`` is read once, where a run begins; ``rate(params, system, constants)
    -> ()`` reads mass, position and time of the system, never its velocity or work. Units of the
    rate: 1 / time.
    """

    constants: Callable[[Params, System], Any]
    rate: Callable[[Params, System, Any], Tensor]


class StepFunction(NamedTuple):
    """A step rule with its parameters bound: what schemes are handed. Shapes: one `System` in, () out.

    ``constants(system)`` and ``rate(system, constants)`` are those of a `PositionForm`.
    """

    timescale: Callable[[System], Tensor]  # τ > 0, time
    constants: Callable[[System], Any]
    rate: Callable[[System, Any], Tensor]  # Ω = 1/τ, 1 / time
