"""A comparison of rules from a configuration: criteria, checkpoints and other people's codes on the same systems."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..base.tree import cast, map_leaves
from ..base.types import System
from ..loops.compare import Comparison, summarise
from ..loops.policy_rule import build_policy_rule, natural_spin
from ..loops.remedies import REMEDY_IN_COMPARISON, REMEDY_OF_PEER, say_assumed_units
from ..loops.rules import Outcome, Rule, RunStatistics, run_rules
from ..physics.criteria import CONSTANTS_OF, build_criterion
from ..physics.criterion import Criterion
from ..physics.scheme import Scheme, check_traits
from ..physics.schemes import as_scheme
from ..timestep.policy import Policy, build_criterion_policy, traits_of
from .assemble import Physics, build_policy, init_params, scheme_for
from .checkpoint import read_metadata
from .config import CHOICES, CompareConfig, InputError, nearest
from .rebound_peer import FINISHED as PEER_FINISHED
from .rebound_peer import PEER_RULES, PEER_STATUS_NAMES, PEERS, available, run_rebound
from .run_directory import checkpoint_file
from .systems import SystemSet
from .trained import load_policy, say_cast, trained_config

_KINDS = ("criterion", "checkpoint", "peer")
_WORDS = ("name", "scheme", "integrator", "criterion", "weights", "unit", "checkpoint", "peer")
_NUMBERS = ("eta", "p", "dt")
_KEYS = (*_WORDS, *_NUMBERS, "order", "tolerances")
_DEFAULT_TOLERANCES = (1.0, 0.3, 0.1)


class PolicyOf(NamedTuple):
    """What a rule predicts steps with."""

    policy: Policy
    params: Any
    history_len: int
    dimensionless: bool  # whether it carries over to other N


class Plan(NamedTuple):
    """One rule of a configuration, checked."""

    name: str
    spec: dict[str, Any]
    predictor: PolicyOf | None  # None for a peer
    scheme: Scheme | None  # one for all sets, so that what was compiled for one serves the next
    tolerances: tuple[float, ...]


class SetComparison(NamedTuple):
    """What came of one set of systems."""

    systems: SystemSet
    comparison: Comparison


class SetFailure(NamedTuple):
    """A set of systems that could not be compared."""

    systems: SystemSet
    reason: str


def plan_rules(config: CompareConfig, physics: Physics, where: str) -> tuple[list[Plan], list[str]]:
    """The rules of a configuration, and the names of peers that are not installed.

    Raises:
        InputError: on an unknown key, a wrong value, a rule that its scheme does not take, a checkpoint that cannot
            be read, two rules of one name, or a reference that is none of them.
    """
    if not config.rules:
        raise InputError(f"{where}: compare needs rules; add at least one [[compare.rules]] with a criterion")
    plans, missing = [], []
    for number, spec in enumerate(config.rules, 1):
        place = f"{where}: rule {number}"
        _check_spec(spec, place)
        plan = _plan(spec, config, physics, place)
        if plan.predictor is None and not available():
            missing.append(plan.name)
        else:
            plans.append(plan)
    names = [plan.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{where}: two rules are called {name!r}; give them a name each")
    if config.reference and config.reference not in (*names, *missing):
        raise InputError(
            f"{where}: reference must be the name of a rule ({', '.join(names)}), got {config.reference!r}"
            f"{nearest(config.reference, names)}"
        )
    if not plans:
        raise InputError(f"{where}: all rules are peers that are not installed; pip install 'aits_func[rebound]'")
    return plans, missing


def notes(plans: Sequence[Plan]) -> list[str]:
    """What is to be said about the policies of the rules, a line each."""
    learned = {
        plan.spec["checkpoint"]: plan.predictor for plan in plans if "checkpoint" in plan.spec and plan.predictor
    }
    return [note for path, of in learned.items() if (note := say_cast(checkpoint_file(Path(path)), of.params))]


def run_set(
    plans: Sequence[Plan], item: SystemSet, config: CompareConfig, physics: Physics
) -> Iterator[tuple[Outcome, float]]:
    """Run all rules on one set; yields every outcome with the seconds that it took."""
    rules = [_rule(plan, item, config, physics) for plan in plans]
    began = time.perf_counter()
    for outcome in run_rules(rules, item.systems):
        now = time.perf_counter()
        yield outcome, now - began
        began = now


def compare_sets(
    plans: Sequence[Plan],
    sets: Sequence[SystemSet],
    config: CompareConfig,
    physics: Physics,
    show: Callable[[SystemSet, Outcome, float], None],
) -> Iterator[SetComparison | SetFailure]:
    """Every rule on every set; yields what came of each set as soon as it is there. One that fails ends no other."""
    for item in sets:
        try:
            outcomes = []
            for outcome, seconds in run_set(plans, item, config, physics):
                show(item, outcome, seconds)
                outcomes.append(outcome)
            comparison = summarise(
                outcomes,
                reference=chosen_reference(plans, config),
                cost=config.cost,
                resamples=config.resamples,
                seed=config.seed,
            )
        except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:  # of memory torch raises the third
            yield SetFailure(item, str(error) or type(error).__name__)
        else:
            yield SetComparison(item, comparison)


def remedies(plans: Sequence[Plan], result: SetComparison) -> list[str]:
    """What to do about the systems that failed in a comparison of one set: a line for every status and remedy.

    A peer has other remedies than a rule of this library, and one peer others than the next.
    """
    peers = {plan.name: plan.spec.get("peer") for plan in plans}
    rules: dict[tuple[str, str], dict[str, None]] = {}
    for point in result.comparison.points:
        peer = peers[point.rule]
        table = REMEDY_OF_PEER[peer] if peer else REMEDY_IN_COMPARISON
        for status, _ in point.failures:
            rules.setdefault((status, table[status]), {})[point.rule] = None
    said = [f"{status} ({', '.join(names)}): {remedy}" for (status, remedy), names in rules.items()]
    if said and result.systems.G_assumed:
        said.append(say_assumed_units([result.systems.label]))
    return said


def chosen_reference(plans: Sequence[Plan], config: CompareConfig) -> str:
    """The rule that the others are compared with: that of the configuration, or the first of those that are there."""
    names = [plan.name for plan in plans]
    return config.reference if config.reference in names else names[0]


def check_sets(plans: Sequence[Plan], sets: Sequence[SystemSet], where: str) -> None:
    """Refuse what would fail hours later: features that do not carry over to the bodies of a set.

    Raises:
        InputError: naming the rule and the set.
    """
    for plan in plans:
        if plan.predictor is None or plan.predictor.dimensionless:
            continue
        shapes = read_metadata(checkpoint_file(Path(plan.spec["checkpoint"]))).shapes
        for item in sets:
            bodies, dimensions = item.systems.position.shape[1:]
            if (bodies, dimensions) not in shapes:
                raise InputError(
                    f"{where}: {plan.name} was trained on systems of another shape than {item.label} "
                    f"(N = {bodies}, D = {dimensions}); train it with features = 'invariant'"
                )


def _check_spec(spec: dict[str, Any], place: str) -> None:
    for key, value in spec.items():
        if key not in _KEYS:
            raise InputError(f"{place}: takes {', '.join(_KEYS)}, not {key!r}{nearest(key, _KEYS)}")
        if key in _WORDS and not isinstance(value, str):
            raise InputError(f"{place}: {key} must be a string, got {value!r}")
        if key in _NUMBERS and not (type(value) in (int, float) and 0 < value < 1e300):
            raise InputError(f"{place}: {key} must be a number > 0, got {value!r}")
        if key in CHOICES and value not in CHOICES[key]:
            words = CHOICES[key]
            raise InputError(f"{place}: {key} must be one of {', '.join(words)}, got {value!r}{nearest(value, words)}")
    given = [kind for kind in _KINDS if kind in spec]
    if len(given) != 1:
        raise InputError(f"{place}: needs exactly one of {', '.join(_KINDS)}, got {', '.join(given) or 'none'}")
    order = spec.get("order", 2)
    if type(order) is not int or order not in (2, 4, 6, 8):
        raise InputError(f"{place}: order must be one of 2, 4, 6, 8, got {order!r}")
    _refuse_useless(spec, given[0], place)
    if spec.get("peer", PEERS[0]) not in PEERS:
        raise InputError(f"{place}: peer must be one of {', '.join(PEERS)}, got {spec['peer']!r}")
    sweep = spec.get("tolerances", list(_DEFAULT_TOLERANCES))
    if not isinstance(sweep, list) or not sweep or not all(type(t) in (int, float) and 0 < t < 1e300 for t in sweep):
        raise InputError(f"{place}: tolerances must be a list of numbers > 0, got {sweep!r}")


def _refuse_useless(spec: dict[str, Any], kind: str, place: str) -> None:
    """A key that would be ignored is a misunderstanding."""
    of_kind = {
        "criterion": {"name", "tolerances", "criterion", "scheme", "order", *CONSTANTS_OF.get(spec.get(kind, ""), ())},
        "checkpoint": {"name", "tolerances", "checkpoint", "scheme", "order"},
        "peer": {"name", "tolerances", "peer"},
    }[kind]
    if spec.get("scheme", "direct") in ("direct", "implicit_symmetric"):
        of_kind |= {"integrator"} if kind != "peer" else set()
    for key in spec:
        if key not in of_kind:
            what = f"{spec['scheme']} has an integrator of its own" if key == "integrator" else f"this {kind} has none"
            raise InputError(f"{place}: {key} would be ignored: {what}; it takes {', '.join(sorted(of_kind))}")


def _plan(spec: dict[str, Any], config: CompareConfig, physics: Physics, place: str) -> Plan:
    tolerances = tuple(float(t) for t in spec.get("tolerances", _DEFAULT_TOLERANCES))
    if "peer" in spec:
        if config.field:
            raise InputError(f"{place}: peers know no external field; leave out the field, or this rule")
        if config.energy_scale != "total":
            raise InputError(
                f'{place}: peers measure errors by |E₀|; set energy_scale = "total", or leave out this rule'
            )
        if spec["peer"] == "rebound_whfast" and config.softening > 0:
            raise InputError(f"{place}: rebound_whfast knows no softening; set softening = 0, or leave out this rule")
        return Plan(spec.get("name", spec["peer"]), spec, None, None, tolerances)
    try:
        predictor = _of_checkpoint(spec, physics) if "checkpoint" in spec else _of_criterion(spec, physics)
        scheme = _scheme(spec, predictor, config, physics)
        check_traits(scheme, traits_of(predictor.policy), "compare")
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None
    return Plan(spec.get("name") or _name(spec, config.scheme), spec, predictor, scheme, tolerances)


def _of_criterion(spec: dict[str, Any], physics: Physics) -> PolicyOf:
    known = ("p", "dt", "weights", "unit")
    options = {key: spec[key] for key in known if key in spec}
    criterion: Criterion = build_criterion(spec["criterion"], physics.gravity, eta=spec.get("eta"), **options)
    policy = build_criterion_policy(criterion)
    return PolicyOf(policy, cast(policy.init(0), dtype=physics.dtype, device=physics.device), 0, True)


def _of_checkpoint(spec: dict[str, Any], physics: Physics) -> PolicyOf:
    path = checkpoint_file(Path(spec["checkpoint"]))
    trained = trained_config(path)
    features, policy = build_policy(trained, physics.gravity)
    params = load_policy(path, init_params(policy, 0, physics))
    return PolicyOf(policy, params, features.history_len, features.dimensionless or trained.policy == "transformation")


def _scheme(spec: dict[str, Any], predictor: PolicyOf, config: CompareConfig, physics: Physics) -> Scheme:
    name, order = spec.get("scheme", config.scheme), spec.get("order", config.order if "scheme" not in spec else 2)
    integrator = spec.get("integrator", config.integrator)
    return as_scheme(scheme_for(predictor.policy, physics.gravity, name, order, integrator), n_steps=config.n_steps)


def _name(spec: dict[str, Any], scheme: str) -> str:
    """A name made of what the rule is, in its own scheme or in this one."""
    what = Path(spec["checkpoint"]).name if "checkpoint" in spec else spec["criterion"]
    order = f" {spec['order']}" if "order" in spec else ""
    return f"{spec.get('scheme', scheme)}{order}, {what}"


def _rule(plan: Plan, item: SystemSet, config: CompareConfig, physics: Physics) -> Rule:
    if plan.predictor is None or plan.scheme is None:
        return _peer_rule(plan, item, config, physics)
    return build_policy_rule(
        plan.name,
        plan.predictor.policy,
        plan.predictor.params,
        gravity=physics.gravity,
        scheme=plan.scheme,
        t_end=item.t_end,
        tolerances=plan.tolerances,
        history_len=plan.predictor.history_len,
        max_evaluations=config.max_evaluations,
        energy_scale=config.energy_scale,
        return_error=config.return_error,
        compile=config.compile,
    )


def _peer_rule(plan: Plan, item: SystemSet, config: CompareConfig, physics: Physics) -> Rule:
    def run(systems: System, tolerance: float) -> RunStatistics:
        began = time.perf_counter()
        result = run_rebound(
            systems,
            **PEER_RULES[plan.spec["peer"]],
            tolerance=tolerance,
            t_end=item.t_end,
            G=config.G,
            softening=config.softening,
            return_error=config.return_error,
            max_evaluations=config.max_evaluations,
            timeout=config.peer_timeout,
        )
        spin = natural_spin(map_leaves(lambda leaf: leaf.double().cpu(), systems), physics.gravity)
        return RunStatistics(
            failed=result.status != PEER_FINISHED,
            force_evaluations=result.force_evaluations,
            rule_evaluations=torch.zeros_like(result.force_evaluations),
            final_energy_error=result.final_energy_error,
            mean_energy_error=result.mean_energy_error,
            max_potential_error=result.max_error_over_potential,
            max_energy_error=result.max_energy_error,
            angular_momentum_error=result.angular_momentum_residual / spin,
            return_error=result.return_error,
            energy_drift=result.drift_slope,
            seconds=torch.tensor(time.perf_counter() - began, dtype=torch.float64),
            endings=tuple(PEER_STATUS_NAMES[code] for code in result.status.tolist()),
        )

    return Rule(plan.name, run, plan.tolerances)
