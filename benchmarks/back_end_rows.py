"""A covering table of what can be chosen: every pair of choices that make sense together stands in some row.

A fault of a compiler mostly needs two choices to meet: a criterion and a scheme, an optimizer and a type of numbers.
All pairs fit into some ninety rows where all combinations would be millions (Cohen, Dalal, Fredman & Patton 1997, IEEE
Transactions on Software Engineering 23, 437; the greedy way of this module is theirs).
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import NamedTuple, TypeAlias

from aits_func.learning.network import ACTIVATIONS
from aits_func.physics.criteria import CRITERIA
from aits_func.physics.integrators import INTEGRATORS
from aits_func.physics.schemes import SCHEMES
from aits_func.timestep.features import VOCABULARIES
from aits_func.timestep.step import ENERGY_SCALES

NONE = "-"
WRITTEN = Path(__file__).with_name("back_end_rows.tsv")


class Row(NamedTuple):
    """One choice of everything; "-" where there is nothing to choose."""

    task: str
    criterion: str
    scheme: str
    order: str
    policy: str
    features: str
    optimizer: str
    integrator: str
    activation: str
    dtype: str
    bodies: str
    dimensions: str
    energy_scale: str
    field: str


CHOICES = Row(
    task=("simulate", "collect", "replay", "objective"),
    criterion=(*CRITERIA, NONE),
    scheme=SCHEMES,
    order=("2", "4", "6", "8"),
    policy=("residual", "mlp", "criterion", "transformation"),
    features=(*VOCABULARIES, NONE),
    optimizer=("adamw", "sgd", "levenberg_marquardt", NONE),  # adam is adamw but for the decay
    integrator=(*INTEGRATORS, NONE),
    activation=(*ACTIVATIONS, NONE),
    dtype=("float64", "float32"),
    bodies=("2", "3", "2 and 3"),
    dimensions=("2", "3"),
    energy_scale=ENERGY_SCALES,
    field=(NONE, "fixed", "moving"),
)  # type: ignore[arg-type]
"""What each column may hold."""

_SLOW = ("mlp", "gelu", "levenberg_marquardt", "float32", "2 and 3", "prs23_moving", "tidal", "tidal_p_norm")
"""What TorchInductor compiles, so that such choices rather meet each other."""

_BY_RULES = ("policy", "task", "features", "scheme", "criterion", "optimizer", "order", "activation", "integrator")
_BY_RULES += tuple(name for name in Row._fields if name not in _BY_RULES)

_LOOSE = ("integrator", "activation", "dtype", "bodies", "dimensions", "energy_scale", "field")
"""Columns of which pairs with a criterion are not asked for: each criterion is many operations of the same kinds."""

EXPLICIT = ("hairer_soderlind", "time_transformed")
REVERSIBLE = ("implicit_symmetric", *EXPLICIT)
SMOOTH = ("p_norm", "p_norm_both", "pair_norm", "logarithmic", "constant", NONE)

Pair: TypeAlias = tuple[int, str, int, str]
"""Two choices: (column, choice, column, choice)."""

Rule = Callable[..., bool]
"""Whether choices exclude each other; its arguments are named after the columns that it looks at."""

MEANINGLESS: dict[str, Rule] = {
    "an optimizer without training, or training without one": lambda task, optimizer: (
        (optimizer == NONE) != (task in ("simulate", "objective"))
    ),
    "features without a network, or a network without": lambda policy, features: (
        (features == NONE) != (policy in ("criterion", "transformation"))
    ),
    "an activation without a network, or a network without": lambda policy, activation: (
        (activation == NONE) != (policy == "criterion")
    ),
    "a learned transformation of another criterion than pair_norm": lambda policy, criterion: (
        policy == "transformation" and criterion != "pair_norm"
    ),
    "a criterion beside features with units, or none where it is read": lambda policy, features, criterion: (
        (criterion == NONE) != (policy == "mlp" and features != "invariant")
    ),
    "an integrator of a scheme that has its own": lambda scheme, integrator: (
        (integrator == NONE) != (scheme in EXPLICIT)
    ),
    "systems of two shapes outside of training": lambda task, bodies: (
        bodies == "2 and 3" and task not in ("collect", "replay")
    ),
}
"""Combinations that nobody can write down, by what they would be."""

TOO_LONG: dict[str, Rule] = {
    "nine or more stages in one step of training, differentiated": lambda task, order: (
        task != "simulate" and order in ("6", "8")
    ),
    "seven or more forces in one step of training, differentiated": lambda task, integrator: (
        task != "simulate" and integrator in ("yoshida6", "yoshida8")
    ),
}
"""What is left out because it takes minutes to trace alone: the same operations as fewer stages, repeated."""

_NOT_SMOOTH = "is reversible, and this step function is not smooth"
REFUSED: dict[str, tuple[Rule, str]] = {
    "a composition of a scheme that is no symmetric map": (
        lambda scheme, order: scheme not in EXPLICIT and order != "2",
        "only an explicit reversible scheme can be raised to order",
    ),
    "a reversible scheme with a criterion that is not smooth": (
        lambda scheme, criterion: scheme in REVERSIBLE and criterion not in SMOOTH,
        _NOT_SMOOTH,
    ),
    "a reversible scheme with features that are not smooth, or remember": (
        lambda scheme, features: scheme in REVERSIBLE and features in ("basic", "rich", "delta_mag"),
        _NOT_SMOOTH,
    ),
    "a reversible scheme with a network that has kinks": (
        lambda scheme, activation: scheme in REVERSIBLE and activation == "relu",
        _NOT_SMOOTH,
    ),
}
"""Combinations that the library refuses, by what they are, with its words."""


def holds(rule: Rule, row: Row) -> bool:
    """Whether a rule excludes a row."""
    return rule(**{name: getattr(row, name) for name in signature(rule).parameters})


def pairs_of(row: Row) -> frozenset[Pair]:
    """The pairs of choices in a row that the table is asked for."""
    return frozenset((i, row[i], j, row[j]) for i, j in columns())


@lru_cache
def possible_pairs() -> tuple[Pair, ...]:
    """All pairs of choices that stand in some row that makes sense and is not refused."""
    every = [(i, a, j, b) for i, j in columns() for a in CHOICES[i] for b in CHOICES[j]]
    return tuple(pair for pair in every if complete(pair, random.Random(0)))


@lru_cache
def rows() -> tuple[Row, ...]:
    """The table, as it was chosen by `choose` and written down."""
    lines = WRITTEN.read_text(encoding="utf-8").splitlines()
    return tuple(Row(*line.split("\t")) for line in lines)


def choose(effort: int = 30, seed: int = 0) -> tuple[Row, ...]:
    """A table: row after row the one that brings most pairs, of some drawn at random.

    Args:
        effort: so many pairs that are missing are looked at for each row, and as many rows around each.
        seed: of the draws.
    """
    draw = random.Random(seed)
    missing = dict.fromkeys(possible_pairs())
    table: list[Row] = []
    while missing:
        drawn = [complete(pair, draw) for pair in itertools.islice(missing, effort) for _ in range(effort)]
        table.append(max(filter(None, drawn), key=lambda row: len(missing.keys() & pairs_of(row)) / _cost(row)))
        missing = {pair: None for pair in missing if pair not in pairs_of(table[-1])}
    asked = set(possible_pairs())
    held = Counter(pair for row in table for pair in pairs_of(row) if pair in asked)
    for row in sorted(table, key=_cost, reverse=True):  # whose pairs all stand elsewhere by now
        own = [pair for pair in pairs_of(row) if pair in held]
        if all(held[pair] > 1 for pair in own):
            table.remove(row)
            held.subtract(own)
    return tuple(sorted(table, key=lambda row: [choices.index(x) for choices, x in zip(CHOICES, row, strict=True)]))


def _cost(row: Row) -> float:
    """About how long a row takes to compile: what native code does not know goes to TorchInductor, in a minute."""
    slow = sum(choice in _SLOW for choice in row) > 0
    long = row.order != "2" or row.integrator in ("yoshida6", "yoshida8") or row.field != NONE
    return (8 if slow else 1) * (1.5 if long else 1) * (1.5 if "3" in row or row.bodies == "2 and 3" else 1)


def complete(pair: Pair, draw: random.Random, *, refused: str = "") -> Row | None:
    """A row with this pair of choices, the others drawn at random.

    Args:
        pair: (column, choice, column, choice).
        draw: the random numbers.
        refused: a name of `REFUSED`: for that reason it may be, and for no other.

    Returns:
        A row that makes sense and is not refused; None if there is none.
    """
    rules = [
        *MEANINGLESS.values(),
        *TOO_LONG.values(),
        *(rule for name, (rule, _) in REFUSED.items() if name != refused),
    ]
    looks_at = [(rule, tuple(signature(rule).parameters)) for rule in rules]
    fixed = {Row._fields[pair[0]]: pair[1], Row._fields[pair[2]]: pair[3]}
    # What excludes most comes first, so that a dead end is soon found.
    order = [*fixed, *(name for name in _BY_RULES if name not in fixed)]

    def allowed(so_far: dict[str, str], newest: str) -> bool:
        return not any(
            newest in names and so_far.keys() >= set(names) and rule(**{name: so_far[name] for name in names})
            for rule, names in looks_at
        )

    def search(so_far: dict[str, str], left: list[str]) -> dict[str, str] | None:
        if not left:
            return so_far
        name, *others = left
        choices = [fixed[name]] if name in fixed else draw.sample(getattr(CHOICES, name), len(getattr(CHOICES, name)))
        for choice in choices:
            longer = {**so_far, name: choice}
            if allowed(longer, name) and (found := search(longer, others)):
                return found
        return None

    found = search({}, order)
    return Row(**found) if found else None


def columns() -> Iterator[tuple[int, int]]:
    """The pairs of columns that are asked for."""
    for i, j in itertools.combinations(range(len(Row._fields)), 2):
        if not (Row._fields[i] == "criterion" and Row._fields[j] in _LOOSE):
            yield i, j
