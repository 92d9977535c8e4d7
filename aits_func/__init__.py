"""Learned time steps for N-body integrators, trained from energy conservation alone, on torch.func.

The front door: every public name, each from its room. Names are loaded when they are first used, so
that ``aits --help`` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base.check import check_system as check_system
    from .base.check import make_system as make_system
    from .base.engine import build_engine as build_engine
    from .base.types import Population as Population
    from .base.types import Sample as Sample
    from .base.types import StepInfo as StepInfo
    from .base.types import System as System
    from .base.types import TrainState as TrainState
    from .base.types import Window as Window
    from .learning.least_squares import LeastSquares as LeastSquares
    from .learning.least_squares import Residuals as Residuals
    from .learning.least_squares import levenberg_marquardt as levenberg_marquardt
    from .learning.losses import aggregate_minibatch_loss as aggregate_minibatch_loss
    from .learning.losses import check_all_pass as check_all_pass
    from .learning.losses import check_energy_threshold as check_energy_threshold
    from .learning.losses import compute_single_step_loss as compute_single_step_loss
    from .learning.losses import relative_energy_error as relative_energy_error
    from .learning.network import Network as Network
    from .learning.network import build_mlp as build_mlp
    from .learning.optimizers import adam as adam
    from .learning.optimizers import adamw as adamw
    from .learning.optimizers import build_optimizer as build_optimizer
    from .learning.optimizers import sgd as sgd
    from .learning.schedules import constant_schedule as constant_schedule
    from .learning.schedules import cosine_decay as cosine_decay
    from .learning.schedules import exponential_decay as exponential_decay
    from .learning.schedules import piecewise_decay as piecewise_decay
    from .learning.schedules import step_decay as step_decay
    from .learning.schedules import warmup_cosine as warmup_cosine
    from .learning.transformations import GradientTransformation as GradientTransformation
    from .learning.transformations import apply_updates as apply_updates
    from .learning.transformations import chain as chain
    from .learning.transformations import clip_by_global_norm as clip_by_global_norm
    from .learning.transformations import skip_nonfinite as skip_nonfinite
    from .learning.transformations import with_rate as with_rate
    from .loops.collect import CollectInfo as CollectInfo
    from .loops.collect import collect_trajectory as collect_trajectory
    from .loops.collect import init_population as init_population
    from .loops.collect import init_train_state as init_train_state
    from .loops.compare import Comparison as Comparison
    from .loops.compare import compare as compare
    from .loops.compare import summarise as summarise
    from .loops.ensemble import EnsembleInfo as EnsembleInfo
    from .loops.ensemble import generalize_ensemble as generalize_ensemble
    from .loops.ensemble import init_ensemble as init_ensemble
    from .loops.epoch import EpochInfo as EpochInfo
    from .loops.epoch import run_two_phase_training as run_two_phase_training
    from .loops.epoch import train_epoch_two_phase as train_epoch_two_phase
    from .loops.equal_cost import match_cost as match_cost
    from .loops.learner import Learner as Learner
    from .loops.learner import build_learner as build_learner
    from .loops.objective import Objective as Objective
    from .loops.objective import build_objective as build_objective
    from .loops.objective import evaluate_minibatch as evaluate_minibatch
    from .loops.policy_rule import build_policy_rule as build_policy_rule
    from .loops.replay import ReplayInfo as ReplayInfo
    from .loops.replay import evaluate_trajectory as evaluate_trajectory
    from .loops.replay import generalize_on_trajectory as generalize_on_trajectory
    from .loops.replay import sample_minibatch as sample_minibatch
    from .loops.retrace import RetraceInfo as RetraceInfo
    from .loops.retrace import retrace as retrace
    from .loops.rules import Rule as Rule
    from .loops.rules import RunStatistics as RunStatistics
    from .loops.rules import run_rules as run_rules
    from .loops.simulate import SimulationInfo as SimulationInfo
    from .loops.simulate import simulate as simulate
    from .physics.body_criteria import aarseth as aarseth
    from .physics.body_criteria import gadget as gadget
    from .physics.body_criteria import prs23 as prs23
    from .physics.body_criteria import prs23_moving as prs23_moving
    from .physics.body_criteria import tidal as tidal
    from .physics.compositions import compose as compose
    from .physics.criteria import build_criterion as build_criterion
    from .physics.criteria import constant as constant
    from .physics.criterion import Criterion as Criterion
    from .physics.direct_schemes import build_direct as build_direct
    from .physics.direct_schemes import build_implicit_symmetric as build_implicit_symmetric
    from .physics.fields import Field as Field
    from .physics.fields import build_tidal_field as build_tidal_field
    from .physics.fields import straight_path as straight_path
    from .physics.gravity import Gravity as Gravity
    from .physics.gravity import build_gravity as build_gravity
    from .physics.gravity import kinetic_energy as kinetic_energy
    from .physics.initial_conditions import binaries as binaries
    from .physics.initial_conditions import free_fall_triple as free_fall_triple
    from .physics.initial_conditions import gaussian_cluster as gaussian_cluster
    from .physics.initial_conditions import hierarchical_triple as hierarchical_triple
    from .physics.integrators import Integrator as Integrator
    from .physics.integrators import build_hermite as build_hermite
    from .physics.integrators import build_integrator as build_integrator
    from .physics.integrators import build_leapfrog_dkd as build_leapfrog_dkd
    from .physics.integrators import build_leapfrog_kdk as build_leapfrog_kdk
    from .physics.integrators import build_yoshida as build_yoshida
    from .physics.integrators import evolve as evolve
    from .physics.invariants import angular_momentum as angular_momentum
    from .physics.invariants import centre_of_mass as centre_of_mass
    from .physics.invariants import linear_momentum as linear_momentum
    from .physics.known_orbits import known_orbit as known_orbit
    from .physics.orbits import orbital_period as orbital_period
    from .physics.orbits import two_body_orbit as two_body_orbit
    from .physics.pair_criteria import fly_by as fly_by
    from .physics.pair_criteria import free_fall as free_fall
    from .physics.pair_criteria import huayno as huayno
    from .physics.pair_criteria import hut_makino as hut_makino
    from .physics.pair_criteria import p_norm as p_norm
    from .physics.plummer import plummer_sphere as plummer_sphere
    from .physics.reversible_schemes import build_hairer_soderlind as build_hairer_soderlind
    from .physics.reversible_schemes import build_time_transformed_leapfrog as build_time_transformed_leapfrog
    from .physics.scheme import Scheme as Scheme
    from .physics.scheme import SchemeStep as SchemeStep
    from .physics.schemes import build_scheme as build_scheme
    from .physics.step_function import PositionForm as PositionForm
    from .physics.step_function import StepFunction as StepFunction
    from .physics.step_function import Traits as Traits
    from .physics.time_transformations import from_omega as from_omega
    from .physics.time_transformations import logarithmic as logarithmic
    from .physics.time_transformations import pair_norm as pair_norm
    from .timestep.features import Features as Features
    from .timestep.features import Scales as Scales
    from .timestep.features import auto_scales as auto_scales
    from .timestep.features import build_features as build_features
    from .timestep.features import manual_scales as manual_scales
    from .timestep.policy import Policy as Policy
    from .timestep.policy import build_criterion_policy as build_criterion_policy
    from .timestep.policy import build_mlp_policy as build_mlp_policy
    from .timestep.policy import build_residual_policy as build_residual_policy
    from .timestep.step import attempt_single_step as attempt_single_step
    from .timestep.step import build_step as build_step
    from .timestep.transformation_policy import build_transformation_policy as build_transformation_policy
    from .timestep.window import empty_window as empty_window
    from .timestep.window import first_sample as first_sample
    from .timestep.window import push as push

__version__ = "0.1.0"

# Where each public name lives; a test holds it equal to the imports above, which type checkers read.
_HOMES: dict[str, tuple[str, ...]] = {
    "base.check": ("check_system", "make_system"),
    "base.engine": ("build_engine",),
    "base.types": ("Population", "Sample", "StepInfo", "System", "TrainState", "Window"),
    "learning.losses": (
        "aggregate_minibatch_loss",
        "check_all_pass",
        "check_energy_threshold",
        "compute_single_step_loss",
        "relative_energy_error",
    ),
    "learning.network": ("Network", "build_mlp"),
    "learning.least_squares": ("LeastSquares", "Residuals", "levenberg_marquardt"),
    "learning.optimizers": ("adam", "adamw", "build_optimizer", "sgd"),
    "learning.schedules": (
        "constant_schedule",
        "cosine_decay",
        "exponential_decay",
        "piecewise_decay",
        "step_decay",
        "warmup_cosine",
    ),
    "learning.transformations": (
        "GradientTransformation",
        "apply_updates",
        "chain",
        "clip_by_global_norm",
        "skip_nonfinite",
        "with_rate",
    ),
    "loops.collect": ("CollectInfo", "collect_trajectory", "init_population", "init_train_state"),
    "loops.compare": ("Comparison", "compare", "summarise"),
    "loops.ensemble": ("EnsembleInfo", "generalize_ensemble", "init_ensemble"),
    "loops.epoch": ("EpochInfo", "run_two_phase_training", "train_epoch_two_phase"),
    "loops.equal_cost": ("match_cost",),
    "loops.learner": ("Learner", "build_learner"),
    "loops.objective": ("Objective", "build_objective", "evaluate_minibatch"),
    "loops.policy_rule": ("build_policy_rule",),
    "loops.replay": ("ReplayInfo", "evaluate_trajectory", "generalize_on_trajectory", "sample_minibatch"),
    "loops.retrace": ("RetraceInfo", "retrace"),
    "loops.rules": ("Rule", "RunStatistics", "run_rules"),
    "loops.simulate": ("SimulationInfo", "simulate"),
    "physics.body_criteria": ("aarseth", "gadget", "prs23", "prs23_moving", "tidal"),
    "physics.compositions": ("compose",),
    "physics.criteria": ("build_criterion", "constant"),
    "physics.criterion": ("Criterion",),
    "physics.direct_schemes": ("build_direct", "build_implicit_symmetric"),
    "physics.fields": ("Field", "build_tidal_field", "straight_path"),
    "physics.gravity": ("Gravity", "build_gravity", "kinetic_energy"),
    "physics.initial_conditions": ("binaries", "free_fall_triple", "gaussian_cluster", "hierarchical_triple"),
    "physics.integrators": (
        "Integrator",
        "build_hermite",
        "build_integrator",
        "build_leapfrog_dkd",
        "build_leapfrog_kdk",
        "build_yoshida",
        "evolve",
    ),
    "physics.invariants": ("angular_momentum", "centre_of_mass", "linear_momentum"),
    "physics.known_orbits": ("known_orbit",),
    "physics.orbits": ("orbital_period", "two_body_orbit"),
    "physics.pair_criteria": ("fly_by", "free_fall", "huayno", "hut_makino", "p_norm"),
    "physics.plummer": ("plummer_sphere",),
    "physics.reversible_schemes": ("build_hairer_soderlind", "build_time_transformed_leapfrog"),
    "physics.scheme": ("Scheme", "SchemeStep"),
    "physics.schemes": ("build_scheme",),
    "physics.step_function": ("PositionForm", "StepFunction", "Traits"),
    "physics.time_transformations": ("from_omega", "logarithmic", "pair_norm"),
    "timestep.features": ("Features", "Scales", "auto_scales", "build_features", "manual_scales"),
    "timestep.policy": ("Policy", "build_criterion_policy", "build_mlp_policy", "build_residual_policy"),
    "timestep.step": ("attempt_single_step", "build_step"),
    "timestep.transformation_policy": ("build_transformation_policy",),
    "timestep.window": ("empty_window", "first_sample", "push"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
