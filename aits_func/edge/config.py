"""Configuration: TOML files and command-line flags, which exist at the edge only.

A file has sections ``[train]``, ``[simulate]`` and ``[compare]``; keys above the first section are
shared by all. Flags override sections, sections override shared keys. Every key is known here, with its
type and its range, so that a mistake is found before anything runs.
"""

import difflib
import itertools
import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from .untrusted import InputError as InputError
from .untrusted import check_tables, read_regular_file

Spec: TypeAlias = str | dict[str, Any]
"""Where systems come from: a packaged orbit's name, a file, or a generator and its arguments."""


class WriteError(InputError):
    """A file cannot be written: the disk is full, or its folder has gone. What was asked for was in order."""

    def __init__(self, path: Path, error: OSError) -> None:
        """Of the file, and of what the system said."""
        self.fact = f"{path}: cannot write this file: {error.strerror}"  # for whoever knows a better remedy
        super().__init__(f"{self.fact}; choose another --out")


@dataclass(frozen=True)
class PhysicsConfig:
    """What all sections share."""

    seed: int = 0
    device: str = "auto"
    dtype: str = "float64"
    threads: int = 0
    G: float = 1.0
    softening: float = 0.0
    field: dict[str, Any] = field(default_factory=dict)
    integrator: str = "leapfrog_kdk"
    scheme: str = "direct"
    order: int = 2
    n_steps: int = 1
    energy_threshold: float = 2e-4
    energy_scale: str = "total"


@dataclass(frozen=True)
class TrainConfig(PhysicsConfig):
    """Everything a training run depends on."""

    preset: str = ""
    systems: tuple[Spec, ...] = ({"kind": "binaries"}, {"kind": "free_fall_triple"})
    features: str = "invariant"
    history_len: int = 0
    normalize_inputs: str = "none"
    length_scale: float = 1.0
    speed_scale: float = 1.0
    acceleration_scale: float = 0.0
    time_scale: float = 0.0
    policy: str = "residual"
    criterion: str = "p_norm"
    eta: float = 0.02
    p: float = 2.0
    weights: str = "mass_product"
    dt: float = 1e-3
    bound: float = 4.0
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    fourier_features: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    decay_steps: int = 0
    weight_decay: float = 1e-2
    momentum: float = 0.0
    clip_norm: float = 0.0
    epochs: int = 20
    steps_per_epoch: int = 32
    max_retrain_steps: int = 1000
    restart_each_epoch: bool = False
    stop_at_period: bool = False
    E_lower: float = 1e-6
    E_upper: float = 1e-4
    loss_on: str = "all"
    convergence: str = "band"
    history: str = "snapshot"
    replay_batch_size: int = 512
    replay_steps: int = 100
    min_replay_size: int = 2
    compile: str = "off"


@dataclass(frozen=True)
class SimulateConfig(PhysicsConfig):
    """Everything a simulation depends on, besides the policy."""

    checkpoint: str = ""
    systems: tuple[Spec, ...] = ("figure_eight",)
    t_end: float = 10.0
    h: float = 1.0
    max_steps: int = 100_000
    record_every: int = 1
    compile: str = "off"
    compare: bool = False
    compare_tolerance: float = 0.02


@dataclass(frozen=True)
class CompareConfig(PhysicsConfig):
    """Everything a comparison of rules depends on."""

    systems: tuple[Spec, ...] = ({"kind": "free_fall_triple"},)
    t_end: float = 10.0
    rules: tuple[dict[str, Any], ...] = ()
    reference: str = ""
    max_evaluations: int = 200_000
    peer_timeout: float = 60.0
    cost: str = "median"
    resamples: int = 200
    return_error: bool = False
    compile: str = "auto"


Config = TypeVar("Config", bound=PhysicsConfig)
_SECTIONS: dict[type[PhysicsConfig], str] = {
    TrainConfig: "train",
    SimulateConfig: "simulate",
    CompareConfig: "compare",
}

RULE_KEYS = (
    *("name", "scheme", "integrator", "criterion", "weights", "unit", "checkpoint", "peer"),
    *("eta", "p", "dt", "order", "tolerances"),
)
"""The keys of a rule of a comparison."""

# Of the source system: its features, network, optimizer, loss and energy scale. It is not that system whole: where the
# two part is listed in docs/reliability.md.
SOURCE_PRESET: dict[str, Any] = {
    "systems": ({"kind": "binaries", "count": 1},),
    "features": "delta_mag",
    "history_len": 5,
    "policy": "mlp",
    "hidden": (200, 1000, 1000, 200),
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "weight_decay": 1e-2,
    "steps_per_epoch": 1,
    "loss_on": "failed",
    "convergence": "minibatch",
    "replay_steps": 1000,
    "energy_scale": "source",
}

CHOICES: dict[str, tuple[str, ...]] = {
    "preset": ("", "source"),
    "dtype": ("float64", "float32"),
    "integrator": ("leapfrog_kdk", "leapfrog_dkd", "hermite", "yoshida4", "yoshida6", "yoshida8"),
    "scheme": ("direct", "implicit_symmetric", "hairer_soderlind", "time_transformed"),
    "energy_scale": ("total", "kinetic", "source"),
    "compile": ("auto", "on", "off"),
    "cost": ("median", "mean"),
    "features": ("invariant", "basic", "rich", "delta_mag"),
    "normalize_inputs": ("none", "auto", "manual"),
    "policy": ("residual", "mlp", "criterion", "transformation"),
    "criterion": (
        *("free_fall", "fly_by", "p_norm", "p_norm_both", "hut_makino", "huayno", "aarseth", "aarseth_p_norm"),
        *("prs23", "prs23_moving", "gadget", "tidal", "tidal_p_norm", "pair_norm", "logarithmic", "constant"),
    ),
    "weights": ("mass_product", "root_sum"),
    "unit": ("natural", "one"),
    "activation": ("tanh", "relu", "silu", "gelu"),
    "optimizer": ("sgd", "adam", "adamw", "levenberg_marquardt"),
    "loss_on": ("failed", "all"),
    "convergence": ("minibatch", "band", "trajectory"),
    "history": ("snapshot", "ignore"),
}
_AT_LEAST: dict[str, float] = {
    **dict.fromkeys(("n_steps", "epochs", "steps_per_epoch", "max_retrain_steps", "replay_batch_size"), 1),
    **dict.fromkeys(("replay_steps", "max_steps", "max_evaluations"), 1),
    **dict.fromkeys(
        ("seed", "threads", "resamples", "softening", "history_len", "acceleration_scale", "time_scale"), 0
    ),
    **dict.fromkeys(
        ("fourier_features", "decay_steps", "weight_decay", "momentum", "clip_norm", "min_replay_size", "record_every"),
        0,
    ),
}
_ABOVE: dict[str, float] = {
    **dict.fromkeys(("G", "energy_threshold", "length_scale", "speed_scale", "eta", "p", "dt", "learning_rate"), 0),
    **dict.fromkeys(("E_lower", "t_end", "h", "compare_tolerance", "peer_timeout"), 0),
    "bound": 1,
}
_AT_MOST: dict[str, float] = {
    "history_len": 10_000,  # what memory can hold, and far more
    "fourier_features": 65_536,
    "softening": 1e150,  # its square is finite
}
_MOST_ENTRIES = 1000  # of a list
_MOST_FEATURES = 23  # of one state
MAX_WEIGHTS = 2**25
"""Most weights of a network: 256 MiB in float64, and a few times that to draw them and to train."""

MAX_FILE = 256 * 2**10
"""Largest configuration file, in bytes; the largest that is shipped has 8 thousand."""

_MOST_POINTS = 256  # on one line: the parser's time goes with the square of the parts of a dotted key


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: if the file is missing, not a regular one, larger than `MAX_FILE`, not UTF-8, not TOML, or
            nested too deeply.
    """
    data = read_regular_file(path, most=MAX_FILE, what="this configuration")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: cannot read this configuration: not a UTF-8 text file; check the path") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MOST_POINTS:
            raise InputError(f"{path}: line {number} has more than {_MOST_POINTS} points; break it into several")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise InputError(f"{path}: not valid TOML: {error}") from None
    check_tables(tables, str(path))
    return tables


def build_config(
    kind: type[Config], tables: Mapping[str, Any], flags: Mapping[str, Any], *, where: str, base: Config | None = None
) -> Config:
    """A checked configuration from the tables of a file and the flags of a command line.

    Args:
        kind: `TrainConfig`, `SimulateConfig` or `CompareConfig`.
        tables: the file's content; {} for no file.
        flags: values by key; these are already of the right type.
        where: what error messages call the file.
        base: what keys that nobody names default to.

    Returns:
        The configuration.

    Raises:
        InputError: on an unknown key (with the nearest right one), a wrong type, or a value out of range.
    """
    section = _SECTIONS[kind]
    _refuse_unknown_sections(tables, where)
    for other, name in _SECTIONS.items():  # a mistake in another section is found as well
        _typed(other, tables.get(name, {}), f"{where} [{name}]", skip_foreign=False)
    values: dict[str, Any] = {}
    shared = {key: value for key, value in tables.items() if not isinstance(value, dict) or key == "field"}
    for place, table in ((where, shared), (f"{where} [{section}]", tables.get(section, {}))):
        values.update(_typed(kind, table, place, skip_foreign=place == where))
    values.update(flags)
    base = kind() if base is None else base
    if values.get("preset") == "source" and kind is TrainConfig:
        base = replace(base, **SOURCE_PRESET)
    config = replace(base, **values)
    check_config(config, where)
    return config


def config_from_dict(kind: type[Config], table: Mapping[str, Any], *, where: str) -> Config:
    """A configuration from what `config_to_dict` made of one, checked like a file's section."""
    values = _typed(kind, table, where, skip_foreign=False)
    config = replace(kind(), **values)
    check_config(config, where)
    return config


def config_to_dict(config: PhysicsConfig) -> dict[str, Any]:
    """Plain values by key, as TOML and JSON hold them."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def check_config(config: PhysicsConfig, where: str) -> None:
    """Check every value of a configuration against its range.

    Raises:
        InputError: naming the first value that is out of range.
    """
    for item in fields(config):
        _check_value(item.name, getattr(config, item.name), where)
    if isinstance(config, TrainConfig):
        _check_training(config, where)
    if not getattr(config, "systems", True):
        raise InputError(f"{where}: systems must name at least one source of initial conditions, got none")


def _check_value(key: str, value: Any, where: str) -> None:
    if key in CHOICES and value not in CHOICES[key]:
        words = ", ".join(word for word in CHOICES[key] if word)
        raise InputError(f"{where}: {key} must be one of {words}, got {value!r}{nearest(value, CHOICES[key])}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {key} must be finite, got {value}")
    if key == "threads" and value > (os.cpu_count() or 1):
        raise InputError(f"{where}: threads must be <= {os.cpu_count()}, the processors of this machine, got {value}")
    if key in _AT_LEAST and not value >= _AT_LEAST[key]:
        raise InputError(f"{where}: {key} must be >= {_AT_LEAST[key]}, got {value}")
    if key in _ABOVE and not value > _ABOVE[key]:
        raise InputError(f"{where}: {key} must be > {_ABOVE[key]}, got {value}")
    if key == "order" and value not in (2, 4, 6, 8):
        raise InputError(f"{where}: order must be one of 2, 4, 6, 8, got {value}")
    if key in _AT_MOST and value > _AT_MOST[key]:
        raise InputError(f"{where}: {key} must be <= {_AT_MOST[key]}, got {value}")
    if key == "hidden" and not all(size >= 1 for size in value):
        raise InputError(f"{where}: hidden must be layer sizes >= 1, got {list(value)}")
    if isinstance(value, tuple) and len(value) > _MOST_ENTRIES:
        raise InputError(f"{where}: {key} must have at most {_MOST_ENTRIES} entries, got {len(value)}")


def _check_training(config: TrainConfig, where: str) -> None:
    drawn = least_weights(config) + _MOST_FEATURES * (config.history_len + 1) * config.fourier_features
    if drawn > MAX_WEIGHTS:
        raise InputError(
            f"{where}: the network must have at most {MAX_WEIGHTS} weights, got about {drawn} from hidden = "
            f"{list(config.hidden)}, history_len = {config.history_len} and fourier_features = "
            f"{config.fourier_features}; choose smaller ones"
        )
    if not config.E_lower < config.E_upper:
        raise InputError(f"{where}: E_lower must be < E_upper = {config.E_upper}, got {config.E_lower}")
    if not config.energy_threshold > config.E_lower:
        raise InputError(
            f"{where}: energy_threshold must be > E_lower = {config.E_lower}, or no step inside the band is ever "
            f"accepted; got {config.energy_threshold}"
        )
    if config.E_upper > config.energy_threshold:
        raise InputError(
            f"{where}: E_upper must be <= energy_threshold = {config.energy_threshold}, or steps inside the band are "
            f"rejected and nothing moves them; got {config.E_upper}"
        )
    if config.convergence == "band" and config.loss_on == "failed":
        raise InputError(
            f'{where}: convergence = "band" needs loss_on = "all": accepted samples below the band never fail, so '
            "nothing would move them into it"
        )
    if config.features == "delta_mag" and config.history_len < 1:
        raise InputError(f"{where}: features = 'delta_mag' compares states; set history_len >= 1")
    if config.features == "invariant" and config.history_len > 0:
        raise InputError(f"{where}: features = 'invariant' has no memory; set history_len = 0 or other features")
    if config.restart_each_epoch and config.history_len and config.steps_per_epoch <= config.history_len:
        raise InputError(
            f"{where}: with restart_each_epoch, steps_per_epoch = {config.steps_per_epoch} steps only fill windows of "
            f"history_len = {config.history_len} and every trajectory is empty; set steps_per_epoch > history_len"
        )
    if config.optimizer == "levenberg_marquardt":
        _check_second_order(config, where)


_OF_FIRST_ORDER = ("learning_rate", "decay_steps", "weight_decay", "momentum", "clip_norm")


def _check_second_order(config: TrainConfig, where: str) -> None:
    """Refuse what would be ignored: a step of Levenberg and Marquardt is as long as the residuals say."""
    for key in _OF_FIRST_ORDER:
        default = default_of(TrainConfig, key)
        if getattr(config, key) != default:
            raise InputError(
                f'{where}: optimizer = "levenberg_marquardt" has no {key}, got {getattr(config, key)}; leave it out '
                f"(or at {default})"
            )


def least_weights(config: TrainConfig) -> int:
    """Weights that the policy of a configuration has at least, whatever its features: there is one per state."""
    if config.policy == "criterion":
        return 0
    inputs = 1 if config.policy == "transformation" else 2 * config.fourier_features or config.history_len + 1
    return sum(a * b for a, b in itertools.pairwise((inputs, *config.hidden, 1)))


def _refuse_unknown_sections(tables: Mapping[str, Any], where: str) -> None:
    known = (*_SECTIONS.values(), "field")
    shared = {f.name for kind in _SECTIONS for f in fields(kind)}
    for key, value in tables.items():
        if isinstance(value, dict) and key not in known:
            raise InputError(f"{where}: unknown section [{key}]{nearest(key, known)}")
        if key in _SECTIONS.values() and not isinstance(value, dict):
            raise InputError(f"{where}: {key} must be a section, written [{key}]")
        if not isinstance(value, dict) and key not in shared:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, shared)}")


def _typed(kind: type[PhysicsConfig], table: Mapping[str, Any], where: str, *, skip_foreign: bool) -> dict[str, Any]:
    """The table's values in the types of the configuration's fields."""
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in hints:
            if skip_foreign:  # a shared key that only the other section has
                continue
            home = "[[compare.rules]]" if kind is CompareConfig and key in RULE_KEYS else section_of(key)
            end = f"; it belongs to {home}" if home else nearest(key, hints)
            raise InputError(f"{where}: unknown key {key!r}{end}")
        values[key] = _coerce(key, value, hints[key], where)
    return values


def section_of(key: str) -> str:
    """The sections that a key belongs to, e.g. "[simulate] or [compare]"; "" if there is none."""
    return " or ".join(f"[{name}]" for kind, name in _SECTIONS.items() if key in {f.name for f in fields(kind)})


def _coerce(key: str, value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else math.inf  # refused with the infinite ones
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(f"every entry of {key}", item, typing.get_args(hint)[0], where) for item in value)
    if typing.get_origin(hint) is tuple and key == "systems" and isinstance(value, str):
        return (value,)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        return dict(value)
    if isinstance(hint, types.UnionType) and isinstance(value, str | dict):
        return value
    raise InputError(f"{where}: {key} must be {_type_name(hint)}, got {value!r}")


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    if hint in names:
        return names[hint]
    origin = typing.get_origin(hint)
    return {tuple: "a list", dict: "a table"}.get(origin, "a name, a file or a table with a kind")


def nearest(word: Any, known: typing.Iterable[str]) -> str:
    """The end of an error message: the known word that is most like this one, if any is."""
    by_lower = {item.lower(): item for item in known}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def default_of(kind: type[PhysicsConfig], key: str) -> Any:
    """The default of a key, for help texts."""
    item = next(f for f in fields(kind) if f.name == key)
    return {} if item.default is MISSING else item.default
