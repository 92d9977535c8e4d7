"""Initial conditions by name: what the ``systems`` key of a configuration stands for."""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap

from ..base.rng import fold_in
from ..base.tree import cast, concatenate, expand, length
from ..base.types import System
from ..loops.collect import check_energies
from ..physics.gravity import in_double
from ..physics.initial_conditions import (
    binaries,
    free_fall_triple,
    gaussian_cluster,
    hierarchical_triple,
)
from ..physics.invariants import centre_of_mass
from ..physics.known_orbits import KNOWN_ORBITS, known_orbit
from ..physics.orbits import orbital_period
from ..physics.plummer import plummer_sphere
from ..physics.tiled_gravity import MANY_BODIES
from .assemble import Physics
from .config import CompareConfig, InputError, PhysicsConfig, SimulateConfig, Spec, TrainConfig, nearest
from .initial_condition_files import LoadedSystem, load_system
from .untrusted import printable

GENERATORS: dict[str, Callable[..., System]] = {
    "binaries": binaries,
    "free_fall_triple": free_fall_triple,
    "gaussian_cluster": gaussian_cluster,
    "hierarchical_triple": hierarchical_triple,
    "plummer_sphere": plummer_sphere,
}
_LONGEST_LABEL = 200
FILE_SUFFIXES = (".npy", ".txt", ".json")
_DEFAULT_COUNT = 32
_MOST_BODIES = 2**22  # in all systems of one entry: their draws take about a gigabyte
_MOST_PAIRS = 2**26  # that are held at once, 512 MiB for every number of a pair; of many bodies only tiles are held
SystemsConfig: TypeAlias = TrainConfig | SimulateConfig | CompareConfig


class SystemSet(NamedTuple):
    """Systems that came from one entry of ``systems``."""

    label: str
    systems: System  # leaves (B, ...)
    period: Tensor  # (B,) time; infinite where none is known
    t_end: Tensor  # (B,) time; NaN where the entry does not say
    notes: tuple[str, ...] = ()  # what was assumed or not read, for the user to see
    G_assumed: bool = False  # whether they come from a file that says no G


def load_systems(config: SystemsConfig, physics: Physics, where: str) -> list[SystemSet]:
    """The systems of all entries of a configuration, in its dtype and on its device.

    Args:
        config: its ``systems``, and what they have to fit; the number of the entry is folded into the seed.
        physics: made from the same configuration.
        where: what error messages call the configuration.

    Returns:
        One `SystemSet` per entry, each with a label of its own.

    Raises:
        InputError: on an unknown name, kind or argument, a file that cannot be read, systems in units with
            another G, of another dimension than the field, or whose energy is no scale to measure an error by.
    """
    sets: list[SystemSet] = []
    for number, spec in enumerate(config.systems):
        # Training and simulation draw apart, or "unseen" systems would be those of the training.
        use = "systems" if isinstance(config, TrainConfig) else "simulated systems"
        item = _load(spec, fold_in(config.seed, use, number), config, where)
        tensors = cast(_tensors(item), dtype=physics.dtype, device=physics.device)
        sets.append(SystemSet(_own_label(item.label, sets), *tensors, item.notes, item.G_assumed))
    for number, item in enumerate(sets):
        _check_field(config.field, item, where)
        try:
            check_energies(
                item.systems, gravity=physics.gravity, energy_scale=config.energy_scale, where=f"{where}: {item.label}"
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        if item.G_assumed and not config.field and bool((_internal_energy(item.systems, physics) > 0).all()):
            unbound = (
                f"{item.label} is unbound from its start with G = {config.G:g}, which its file does not say: set G to "
                "its value in the units of the file if they have another"
            )
            sets[number] = item._replace(notes=(*item.notes, unbound))
    return sets


def _internal_energy(systems: System, physics: Physics) -> Tensor:
    """Energies (B,) in the frames of the centres of mass, where the total ones do not depend on the frame."""

    def energy(system: System) -> Tensor:
        heavy = in_double(system)
        return physics.gravity.energy(heavy._replace(velocity=heavy.velocity - centre_of_mass(heavy)[1]))

    return vmap(energy)(systems)


def array_name(label: str) -> str:
    """A label as part of the name of an array in a file."""
    return label.replace(" ", "_").replace("/", "_")


def _own_label(label: str, others: Sequence[SystemSet]) -> str:
    """The label, numbered if another set has it: results and arrays go by labels."""
    taken = {array_name(other.label) for other in others}
    numbered = (f"{label} {number}" if number > 1 else label for number in itertools.count(1))
    return next(name for name in numbered if array_name(name) not in taken)


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


def _load(spec: Spec, seed: int, config: SystemsConfig, where: str) -> SystemSet:
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    t_end = _t_end(options, where)
    label = _label(options.pop("label", ""), where)
    if "kind" in options:
        name, systems, period = _generate(options, seed, config.G, where)
        found = SystemSet(name, systems, period, period)  # the end follows
    elif "name" in options and set(options) <= {"name", "seed"}:
        _check_seed(options.get("seed", 0), where)
        found = _named(str(options["name"]), config, where)
    else:
        raise InputError(
            f"{where}: an entry of systems must be a packaged orbit, a file, or a table with a kind "
            f"({', '.join(GENERATORS)}) or with the name of an orbit or a file (and label, t_end, seed), got {spec!r}"
        )
    ends = torch.full((length(found.systems),), t_end, dtype=torch.float64)
    return found._replace(label=label or printable(found.label), t_end=ends)


def _check_seed(seed: Any, where: str) -> None:
    """A seed beside the name of an orbit or a file, which draw nothing: entries take it alike, whatever they name."""
    if type(seed) is not int or seed < 0:
        raise InputError(f"{where}: seed of an entry of systems must be a whole number >= 0, got {seed!r}")


def _label(label: Any, where: str) -> str:
    """The label of an entry; it goes into tables, pictures and the names of arrays."""
    if not isinstance(label, str):
        raise InputError(f"{where}: label of an entry of systems must be a string, got {label!r}")
    if not label.isprintable() or len(label) > _LONGEST_LABEL:
        raise InputError(
            f"{where}: label of an entry of systems must be at most {_LONGEST_LABEL} printable characters, "
            f"got {label!r}"
        )
    return label


def _t_end(options: dict[str, Any], where: str) -> float:
    """The end time of an entry, NaN where it names none."""
    if "t_end" not in options:
        return math.nan
    t_end = options.pop("t_end")
    if type(t_end) not in (int, float) or not 0 < t_end < 1e300:
        raise InputError(f"{where}: t_end of an entry of systems must be a number > 0 and finite, got {t_end!r}")
    return float(t_end)


def _generate(options: dict[str, Any], seed: int, G: float, where: str) -> tuple[str, System, Tensor]:
    kind = str(options.pop("kind"))
    if kind not in GENERATORS:
        raise InputError(
            f"{where}: kind of systems must be one of {', '.join(GENERATORS)}, got {kind!r}{nearest(kind, GENERATORS)}"
        )
    generator = GENERATORS[kind]
    takes = list(inspect.signature(generator).parameters)
    for key in options:
        if key not in takes:
            raise InputError(
                f"{where}: systems of kind {kind!r} take {', '.join(takes)}, not {key!r}{nearest(key, takes)}"
            )
    if "G" in takes:
        _check_units(f"kind {kind!r}", options.setdefault("G", G), G, where)
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    drawn = {"seed": seed, "count": _DEFAULT_COUNT} | arguments
    _check_size(drawn["count"], drawn.get("bodies", _default_bodies(generator)), f"{where}: systems of kind {kind!r}")
    try:
        systems = generator(**drawn)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # the last: more than memory can hold
        raise InputError(f"{where}: systems of kind {kind!r}: {error}") from None
    return kind, systems, _kepler_periods(systems, G)


def _default_bodies(generator: Callable[..., System]) -> int:
    parameter = inspect.signature(generator).parameters.get("bodies")
    return 3 if parameter is None else parameter.default


def _check_size(count: Any, bodies: Any, where: str) -> None:
    """Refuse more than memory can hold; a number that is none is the generator's to refuse."""
    if type(count) is not int or type(bodies) is not int:
        return
    pairs = count * bodies * min(bodies, MANY_BODIES)
    if count * bodies > _MOST_BODIES or pairs > _MOST_PAIRS:
        raise InputError(
            f"{where}: count = {count} of bodies = {bodies} are more than memory may hold ({_MOST_BODIES} bodies, "
            f"{_MOST_PAIRS} pairs); choose a smaller count"
        )


def _named(name: str, config: SystemsConfig, where: str) -> SystemSet:
    notes: tuple[str, ...] = ()
    G_assumed = False
    if name.lower().endswith(FILE_SUFFIXES):
        loaded = load_system(name, dtype=getattr(torch, config.dtype), softening=config.softening)
        _check_softening(name, loaded, config, where)
        system, its_G, period = loaded.system, loaded.G, loaded.period
        G_assumed = its_G is None
        notes = tuple(f"{name}: {note}" for note in loaded.notes) + _assumed(name, loaded, config, where)
    elif name in KNOWN_ORBITS:
        system, its_G, period = known_orbit(name), KNOWN_ORBITS[name].G, KNOWN_ORBITS[name].period
    elif name in GENERATORS:
        raise InputError(
            f"{where}: {name!r} is a generator, which needs a table in a configuration file: systems = "
            f'[{{ kind = "{name}", count = {_DEFAULT_COUNT} }}]; by its name alone a packaged orbit '
            f"({', '.join(KNOWN_ORBITS)}) or a file is found"
        )
    else:
        raise InputError(
            f"{where}: {name!r} is neither a packaged orbit ({', '.join(KNOWN_ORBITS)}) nor a file that ends in "
            f"{', '.join(FILE_SUFFIXES)}{nearest(name, [*KNOWN_ORBITS, *GENERATORS])}"
        )
    if its_G is not None:
        _check_units(name, its_G, config.G, where)
    batch = expand(system, 1)
    known = torch.full((1,), period, dtype=torch.float64) if period else _kepler_periods(batch, config.G)
    return SystemSet(name, batch, known, known, notes, G_assumed)


def _assumed(name: str, loaded: LoadedSystem, config: SystemsConfig, where: str) -> tuple[str, ...]:
    """What is assumed of a file that does not say its G: to be shown, as nearly every set of units has another.

    Raises:
        InputError: if it names units and nobody names their G.
    """
    if loaded.G is not None:
        return ()
    how = "write G into the file" if not name.lower().endswith(".npy") else "save it as .txt or .json with a G"
    if loaded.units and config.G == PhysicsConfig.G:
        raise InputError(
            f"{where}: {name} says units ({loaded.units}) and no G; {how}, or set G to its value in these units"
        )
    units = f" (its units: {loaded.units})" if loaded.units else ""
    return (f"{name}: says no G{units}; G = {config.G:g} is assumed: set G if it has another in its units, or {how}",)


def _check_softening(name: str, loaded: LoadedSystem, config: SystemsConfig, where: str) -> None:
    """Refuse a system that is to be softened otherwise than its file says."""
    its = loaded.softening
    if its is not None and not math.isclose(its, config.softening, rel_tol=1e-9):
        raise InputError(
            f"{where}: {name} has softening = {its}, the run has softening = {config.softening}; set softening = {its}"
        )


def _check_units(name: str, its_G: Any, G: float, where: str) -> None:
    """Refuse systems in units with another G than the run's; a G that is no number is the generator's to refuse."""
    if isinstance(its_G, int | float) and not math.isclose(its_G, G, rel_tol=1e-9):
        raise InputError(f"{where}: {name} is in units with G = {its_G}, the run has G = {G}; set G = {its_G}")


def _kepler_periods(systems: System, G: float) -> Tensor:
    """Kepler periods (B,) of two-body systems, infinite for others."""
    if systems.mass.shape[-1] == 2:
        return orbital_period(systems, G=G)
    return torch.full_like(systems.time, math.inf)


def _check_field(field: dict[str, Any], item: SystemSet, where: str) -> None:
    bodies, dimensions = item.systems.position.shape[1:]
    if field and len(field["position"]) != dimensions:
        raise InputError(
            f"{where}: field position has {len(field['position'])} numbers, but {item.label} (N = {bodies}) has "
            f"D = {dimensions}; give it as many"
        )
