"""From a configuration to the functions that it describes."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.func import vmap

from ..base import engine
from ..base.tree import cast, take
from ..base.types import Params, System
from ..learning.least_squares import LeastSquares, levenberg_marquardt
from ..learning.optimizers import build_optimizer
from ..learning.schedules import LearningRate, cosine_decay
from ..learning.transformations import GradientTransformation
from ..loops.learner import Learner, build_learner
from ..physics.criteria import build_criterion
from ..physics.criterion import Criterion
from ..physics.fields import Field, build_tidal_field, straight_path
from ..physics.gravity import Gravity, build_gravity
from ..physics.integrators import Integrator, build_integrator
from ..physics.scheme import Scheme
from ..physics.schemes import build_scheme
from ..timestep.features import Features, Scales, auto_scales, build_features, manual_scales
from ..timestep.policy import Policy, build_criterion_policy, build_mlp_policy, build_residual_policy
from ..timestep.step import build_step
from ..timestep.transformation_policy import build_transformation_policy
from .config import InputError, PhysicsConfig, TrainConfig, nearest


class Physics(NamedTuple):
    """Gravity, and where and in what numbers it is computed."""

    gravity: Gravity
    dtype: torch.dtype
    device: torch.device


class Training(NamedTuple):
    """Everything that training needs, made from one configuration."""

    physics: Physics
    features: Features
    policy: Policy
    optimizer: GradientTransformation | LeastSquares
    learner: Learner


def build_physics(config: PhysicsConfig, where: str) -> Physics:
    """Gravity, dtype and device of a configuration; sets torch's number of threads.

    Raises:
        InputError: if the device is not there, the field is malformed, or compile = "on" has no compiler.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = find_device(config.device, where)
    reason = engine.missing_compiler(device)
    if reason and getattr(config, "compile", "off") == "on":
        raise InputError(f'{where}: compile = "on", but {reason}; install one, or set compile = "auto" or "off"')
    gravity = build_gravity(G=config.G, softening=config.softening, field=_build_field(config, where))
    return Physics(gravity, getattr(torch, config.dtype), device)


def find_device(name: str, where: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        InputError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # refuses "meta", which holds no numbers
    except (RuntimeError, AssertionError, ImportError):
        there = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"{where}: device {name!r} is not there; choose from {', '.join(there)}") from None
    return device


def resolve_scales(config: TrainConfig, physics: Physics, first: System) -> TrainConfig:
    """The configuration with scales "auto" replaced by the numbers they come to for this system.

    A policy is thereby complete without the systems that it was trained on.
    """
    if config.normalize_inputs != "auto":
        return config
    scales = auto_scales(first, physics.gravity)
    return replace(
        config,
        normalize_inputs="manual",
        length_scale=scales.length,
        speed_scale=scales.speed,
        acceleration_scale=scales.acceleration,
        time_scale=scales.time,
    )


def build_training(config: TrainConfig, physics: Physics) -> Training:
    """Features, policy, optimizer and learner of a configuration whose scales are resolved."""
    features, policy = build_policy(config, physics.gravity)
    optimizer = _build_optimizer(config)
    step = build_step(
        policy,
        physics.gravity,
        build_config_scheme(config, physics.gravity, policy),
        n_steps=config.n_steps,
        energy_threshold=config.energy_threshold,
        energy_scale=config.energy_scale,
    )
    learner = build_learner(step, optimizer, E_lower=config.E_lower, E_upper=config.E_upper)
    return Training(physics, features, policy, optimizer, learner)


def build_config_scheme(config: PhysicsConfig, gravity: Gravity, policy: Policy) -> Scheme | Integrator:
    """The scheme that a configuration names, as this policy wants it; of the direct one its integrator.

    (As an integrator, because ``n_steps`` integrator steps then share one dt.)
    """
    return scheme_for(policy, gravity, config.scheme, config.order, config.integrator)


def scheme_for(policy: Policy, gravity: Gravity, name: str, order: int, integrator: str) -> Scheme | Integrator:
    """The scheme of that name for this policy: Hairer–Söderlind is built on what the policy depends on."""
    if name == "direct" and order == 2:
        return build_integrator(integrator, gravity)
    positions_only = policy.position_form is not None
    return build_scheme(name, gravity, order=order, integrator=integrator, positions_only=positions_only)


def _build_optimizer(config: TrainConfig) -> GradientTransformation | LeastSquares:
    if config.optimizer == "levenberg_marquardt":
        return levenberg_marquardt()
    return build_optimizer(
        config.optimizer,
        _learning_rate(config),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm or None,
        momentum=config.momentum,
    )


def _learning_rate(config: TrainConfig) -> LearningRate:
    """Constant, or on a cosine down to a hundredth; not to zero, or a later collection could not retrain."""
    if not config.decay_steps:
        return config.learning_rate
    return cosine_decay(config.learning_rate, config.decay_steps, final=0.01 * config.learning_rate)


def build_policy(config: TrainConfig, gravity: Gravity) -> tuple[Features, Policy]:
    """The features and the policy that a configuration describes."""
    features = build_features(config.features, gravity, history_len=config.history_len, scales=_scales(config))
    criterion = named_criterion(config, gravity)
    network = {
        "hidden": config.hidden,
        "activation": config.activation,
        "fourier_features": config.fourier_features,
    }
    if config.policy == "criterion":
        return features, build_criterion_policy(criterion)
    if config.policy == "transformation":
        own = {"eta": config.eta, "p": config.p, "weights": config.weights, "bound": config.bound}
        shape = {"hidden": config.hidden, "activation": config.activation}
        return features, build_transformation_policy(gravity, **own, **shape)  # type: ignore[arg-type]
    if config.policy == "mlp":
        timescale = build_criterion("p_norm", gravity, eta=1.0, p=config.p)
        return features, build_mlp_policy(features, timescale=timescale, **network)  # type: ignore[arg-type]
    return features, build_residual_policy(features, criterion, bound=config.bound, **network)  # type: ignore[arg-type]


def named_criterion(config: TrainConfig, gravity: Gravity) -> Criterion:
    """The classical criterion that a configuration names, at its start values."""
    name = "pair_norm" if config.policy == "transformation" else config.criterion
    return build_criterion(name, gravity, eta=config.eta, p=config.p, dt=config.dt, weights=config.weights)


def init_params(policy: Policy, seed: int, physics: Physics) -> Params:
    """The policy's first parameters, in the dtype and on the device of the run."""
    return cast(policy.init(seed), dtype=physics.dtype, device=physics.device)


def first_system(systems: System) -> System:
    """The first system of a batch."""
    return take(systems, 0)


def mean_criterion_dt(criterion: Criterion, systems: System) -> float:
    """What a criterion's own step would be, averaged over a batch of systems."""
    constants = cast(criterion.init(), dtype=systems.mass.dtype, device=systems.mass.device)
    return float(vmap(lambda system: criterion.timescale(constants, system))(systems).mean())


def _scales(config: TrainConfig) -> Scales | None:
    if config.normalize_inputs == "none":
        return None
    return manual_scales(
        config.length_scale, config.speed_scale, config.acceleration_scale or None, config.time_scale or None
    )


def _build_field(config: PhysicsConfig, where: str) -> Field | None:
    if not config.field:
        return None
    table = dict(config.field)
    kind = table.pop("kind", "tidal")
    if kind != "tidal":
        raise InputError(f"{where}: field kind must be 'tidal', got {kind!r}")
    for key, value in table.items():
        _check_field_entry(key, value, where)
    if not {"mass", "position"} <= set(table):
        raise InputError(f"{where}: field needs mass and position, and velocity if it moves; got {sorted(table)}")
    try:
        moves = "velocity" in table
        place = straight_path(table["position"], table["velocity"]) if moves else table["position"]
        return build_tidal_field(table["mass"], place, G=config.G)
    except ValueError as error:
        raise InputError(f"{where}: field: {error}") from None


def _check_field_entry(key: str, value: Any, where: str) -> None:
    known = ("kind", "mass", "position", "velocity")
    if key not in known:
        raise InputError(f"{where}: field takes {', '.join(known)}, not {key!r}{nearest(key, known)}")
    if key == "mass":
        right, rule = _is_number(value), "a finite number"
    else:
        right = isinstance(value, list) and len(value) in (2, 3) and all(map(_is_number, value))
        rule = "a list of 2 or 3 finite numbers"
    if not right:
        raise InputError(f"{where}: field {key} must be {rule}, got {value!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # written so that NaN fails
