"""Initial conditions by name: what the ``systems`` key of a configuration stands for."""

import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from ..base.rng import fold_in
from ..base.tree import cast, concatenate, expand, length
from ..base.types import System
from ..physics.initial_conditions import (
    binaries,
    free_fall_triple,
    gaussian_cluster,
    hierarchical_triple,
)
from ..physics.known_orbits import KNOWN_ORBITS, known_orbit
from ..physics.orbits import orbital_period
from ..physics.plummer import plummer_sphere
from .config import InputError, Spec
from .initial_condition_files import load_system

GENERATORS: dict[str, Callable[..., System]] = {
    "binaries": binaries,
    "free_fall_triple": free_fall_triple,
    "gaussian_cluster": gaussian_cluster,
    "hierarchical_triple": hierarchical_triple,
    "plummer_sphere": plummer_sphere,
}
FILE_SUFFIXES = (".npy", ".txt", ".json")
_DEFAULT_COUNT = 32


class SystemSet(NamedTuple):
    """Systems that came from one entry of ``systems``."""

    label: str
    systems: System  # leaves (B, ...)
    period: Tensor  # (B,) time; infinite where none is known
    t_end: Tensor  # (B,) time; NaN where the entry does not say


def load_systems(
    specs: Sequence[Spec], *, seed: int, G: float, dtype: torch.dtype, device: torch.device, where: str
) -> list[SystemSet]:
    """The systems of all entries.

    Args:
        specs: entries of the ``systems`` key.
        seed: the key of the run; the number of the entry is folded in.
        G: gravitational constant of the run.
        dtype: floating-point type of the systems.
        device: where they go.
        where: what error messages call the configuration.

    Returns:
        One `SystemSet` per entry.

    Raises:
        InputError: on an unknown name, kind or argument, a file that cannot be read, or a packaged
            orbit or file in units with another G.
    """
    sets = [_load(spec, fold_in(seed, "systems", number), G, where) for number, spec in enumerate(specs)]
    return [SystemSet(s.label, *cast(_tensors(s), dtype=dtype, device=device)) for s in sets]


def group_by_shape(sets: Sequence[SystemSet]) -> list[SystemSet]:
    """The same systems with those of one shape (N, D) in one batch, in the order they came."""
    shapes: dict[tuple[int, ...], list[SystemSet]] = {}
    for item in sets:
        shapes.setdefault(tuple(item.systems.position.shape[1:]), []).append(item)
    return [
        SystemSet(" + ".join(s.label for s in same), *concatenate([_tensors(s) for s in same]))
        for same in shapes.values()
    ]


def _tensors(item: SystemSet) -> tuple[System, Tensor, Tensor]:
    """The set without its label, which is no tensor."""
    return item.systems, item.period, item.t_end


def _load(spec: Spec, seed: int, G: float, where: str) -> SystemSet:
    if isinstance(spec, str):
        spec = {"name": spec}
    options = dict(spec)
    t_end = options.pop("t_end", math.nan)
    if isinstance(t_end, bool) or not isinstance(t_end, int | float) or t_end <= 0:
        raise InputError(f"{where}: t_end of an entry of systems must be a number > 0, got {t_end!r}")
    label = options.pop("label", None)
    if "kind" in options:
        name, systems, period = _generate(options, seed, G, where)
    elif set(options) == {"name"}:
        name, systems, period = _named(str(options["name"]), G, where)
    else:
        raise InputError(
            f"{where}: an entry of systems must be a packaged orbit, a file, or a table with a kind "
            f"({', '.join(GENERATORS)}), got {spec!r}"
        )
    batch = length(systems)
    return SystemSet(str(label or name), systems, period, torch.full((batch,), float(t_end), dtype=torch.float64))


def _generate(options: dict[str, Any], seed: int, G: float, where: str) -> tuple[str, System, Tensor]:
    kind = options.pop("kind")
    if kind not in GENERATORS:
        close = difflib.get_close_matches(str(kind), list(GENERATORS), n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(GENERATORS)}"
        raise InputError(f"{where}: unknown kind of systems {kind!r}{hint}")
    generator = GENERATORS[kind]
    takes = list(inspect.signature(generator).parameters)
    for key in options:
        if key not in takes:
            close = difflib.get_close_matches(key, takes, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(takes)}"
            raise InputError(f"{where}: systems of kind {kind!r} take no {key!r}{hint}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    arguments.setdefault("seed", seed)
    arguments.setdefault("count", _DEFAULT_COUNT)
    if "G" in takes:
        arguments.setdefault("G", G)
    try:
        systems = generator(**arguments)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: systems of kind {kind!r}: {error}") from None
    return kind, systems, _kepler_periods(systems, G)


def _named(name: str, G: float, where: str) -> tuple[str, System, Tensor]:
    if name.endswith(FILE_SUFFIXES):
        loaded = load_system(name)
        system, its_G, period = loaded.system, loaded.G, loaded.period
    elif name in KNOWN_ORBITS:
        orbit = KNOWN_ORBITS[name]
        system, its_G, period = known_orbit(name), orbit.G, orbit.period
    else:
        names = [*KNOWN_ORBITS, *GENERATORS]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"{where}: {name!r} is neither a packaged orbit ({', '.join(KNOWN_ORBITS)}) nor a file that ends in "
            f"{', '.join(FILE_SUFFIXES)}{hint}"
        )
    if its_G is not None and not math.isclose(its_G, G, rel_tol=1e-9):
        raise InputError(f"{where}: {name} is in units with G = {its_G}, the run has G = {G}; set G = {its_G}")
    batch = expand(system, 1)
    known = torch.full((1,), period, dtype=torch.float64) if period else _kepler_periods(batch, G)
    return name, batch, known


def _kepler_periods(systems: System, G: float) -> Tensor:
    """Kepler periods (B,) of two-body systems, infinite for others."""
    if systems.mass.shape[-1] == 2:
        return orbital_period(systems, G=G)
    return torch.full_like(systems.time, math.inf)


def check_energies(energy: Callable[[System], Tensor], sets: Sequence[SystemSet], where: str) -> None:
    """Refuse sets that hold a system of total energy 0."""
    for item in sets:
        if bool((vmap(energy)(item.systems) == 0).any()):
            raise InputError(
                f"{where}: {item.label} has total energy 0, so a relative energy error has no meaning; "
                'set energy_scale = "kinetic"'
            )
