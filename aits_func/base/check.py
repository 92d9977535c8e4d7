"""Validators, run at the borders of the library and never inside ``vmap``.

Each raises ``ValueError`` with one line: where, what, and the remedy.
"""

import torch
from torch import Tensor

from .types import System


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless the condition holds. Write it so that NaN fails: x > 0."""
    if not condition:
        raise ValueError(message)


def require_choice(where: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    require(value in choices, f"{where}: {name} must be one of {', '.join(choices)}, got {value!r}")


def check_system(system: System, *, softening: float = 0.0, batched: bool = False, where: str = "system") -> None:
    """Check shape, dtype, device and values of one system or a batch of them.

    Args:
        system: mass (N,), position and velocity (N, D), time (), work () or (1 + N,); with ``batched`` every
            leaf has one more leading axis B.
        softening: with none, coincident bodies are refused.
        batched: whether there is a leading axis.
        where: what the error message calls the system.

    Raises:
        ValueError: on a wrong shape, mixed dtypes or devices, a dtype that is not floating point,
            NaN or infinite values, negative masses, N < 2, D other than 2 or 3, no mass at all, or
            coincident bodies.
    """
    _check_shapes(system, int(batched), where)
    for name, leaf in system._asdict().items():
        require(
            leaf.dtype == system.mass.dtype and leaf.is_floating_point(),
            f"{where}: all fields must share one floating-point dtype, got {name} {leaf.dtype} and mass "
            f"{system.mass.dtype}; convert them, e.g. with .double()",
        )
        require(
            leaf.device == system.mass.device,
            f"{where}: all fields must be on one device, got {name} on {leaf.device} and mass on {system.mass.device}",
        )
        require(bool(leaf.isfinite().all()), f"{where}: {name} must be finite, got NaN or infinity in it")
    require(bool((system.mass >= 0).all()), f"{where}: mass must be >= 0 (0 for a test particle), got a negative one")
    require(bool((system.mass.sum(-1) > 0).all()), f"{where}: at least one body must have mass, got none")
    if not softening > 0:
        _check_coincidence(system, where)


def _check_shapes(system: System, lead: int, where: str) -> None:
    letters = "B, " if lead else ""
    require(
        system.mass.ndim == 1 + lead,
        f"{where}: mass must have shape ({letters}N,), got {tuple(system.mass.shape)}",
    )
    *batch, bodies = system.mass.shape
    require(bodies >= 2, f"{where}: at least 2 bodies are needed, got N = {bodies}")
    require(
        system.position.ndim == 2 + lead and system.position.shape[-1] in (2, 3),
        f"{where}: position must have shape ({letters}N, D) with D = 2 or 3, got {tuple(system.position.shape)}",
    )
    shape = (*batch, bodies, system.position.shape[-1])
    work = (*batch, 1 + bodies) if system.work.ndim == 1 + lead else tuple(batch)
    for name, want in (("position", shape), ("velocity", shape), ("time", tuple(batch)), ("work", work)):
        got = tuple(getattr(system, name).shape)
        require(
            got == want, f"{where}: {name} must have shape {want}, as mass has {tuple(system.mass.shape)}, got {got}"
        )


def _check_coincidence(system: System, where: str) -> None:
    """Two bodies at one place have no finite force, not even if both are massless (0 · ∞)."""
    systems = system.position.reshape(-1, *system.position.shape[-2:])
    # Neighbours in the order of the first coordinate: an array of all pairs would take gigabytes for many bodies.
    order = systems[..., 0].argsort(dim=-1, stable=True)
    place = systems.gather(1, order[..., None].expand_as(systems))
    equal = place[:, 1:, 0] == place[:, :-1, 0]
    for row in equal.any(-1).nonzero()[:, 0].tolist():
        _, same, count = systems[row].unique(dim=0, return_inverse=True, return_counts=True)
        if bool((count > 1).any()):
            first, second = (same == int((count > 1).nonzero()[0])).nonzero()[:2, 0].tolist()
            raise ValueError(
                f"{where}: bodies {first} and {second} are at the same place; move one, or set softening > 0"
            )


def make_system(
    mass: Tensor, position: Tensor, velocity: Tensor, time: Tensor | float = 0.0, *, softening: float = 0.0
) -> System:
    """One system, or a batch of them, from tensors, checked.

    Args:
        mass: (N,) or (B, N), ≥ 0.
        position: (N, D) or (B, N, D), D = 2 or 3.
        velocity: like position.
        time: a number, () or (B,).
        softening: > 0 if the system is going to be softened: then bodies may coincide.

    Returns:
        A `System` in the dtype and on the device of ``mass``, its ``work`` zero (see `make_room`).

    Raises:
        ValueError: as `check_system` does.

    Example:
        >>> import torch
        >>> mass = torch.ones(2, dtype=torch.float64)
        >>> position = torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=torch.float64)
        >>> velocity = torch.tensor([[0.0, 0.7], [0.0, -0.7]], dtype=torch.float64)
        >>> make_system(mass, position, velocity).time
        tensor(0., dtype=torch.float64)
    """
    require(
        all(isinstance(x, Tensor) for x in (mass, position, velocity)),
        "make_system: mass, position and velocity must be tensors, e.g. torch.tensor(mass, dtype=torch.float64)",
    )
    clock = torch.as_tensor(time, dtype=mass.dtype, device=mass.device)
    require(
        clock.ndim == 0 or clock.shape == mass.shape[:-1],
        f"make_system: time must be a number or have shape {tuple(mass.shape[:-1])}, got {tuple(clock.shape)}",
    )
    clock = clock.expand(mass.shape[:-1])
    system = System(mass, position, velocity, clock, torch.zeros_like(clock))
    check_system(system, softening=softening, batched=mass.ndim == 2)
    return make_room(system)


def has_room(system: System) -> bool:
    """Whether ONE system carries the work on each of its bodies."""
    return system.work.ndim == 1


def make_room(systems: System, *, always: bool = False) -> System:
    """Systems as they are, or with room for the work on each body if one of them is massless.

    Args:
        systems: leaves (...), one system or a batch, whose masses can be looked at (not inside of ``vmap``).
        always: whether to make it whatever the masses, so that systems fit into one batch.

    Returns:
        The same; ``work`` is (..., 1 + N) if any mass is 0.
    """
    if systems.work.ndim == systems.mass.ndim or not (always or bool((systems.mass == 0).any())):
        return systems
    none = torch.zeros_like(systems.mass)
    return systems._replace(work=torch.cat([systems.work[..., None], none], -1))
