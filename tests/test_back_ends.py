"""Compiled equals eager wherever two choices meet, and it is said which back end ran."""

import importlib
import random
from pathlib import Path

import pytest
import torch

import aits_func
from aits_func.base.engine import missing_compiler
from aits_func.base.types import TrainState
from aits_func.physics import gravity

ROOT = Path(__file__).parents[1]
ROWS = (ROOT / "benchmarks" / "back_end_rows.tsv").read_text(encoding="utf-8").splitlines()
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()
# Ten that are native code and compiled in seconds: of every scheme, policy and vocabulary of features.
QUICK = (2, 4, 6, 8, 14, 18, 20, 25, 26, 41)

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")


@pytest.fixture
def load(monkeypatch):
    """A module of the benchmarks, which are not installed, by name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_every_pair_of_choices_that_can_stand_in_a_row_stands_in_one(load):
    table = load("back_end_rows")
    held = set().union(*map(table.pairs_of, table.rows()))
    assert held >= set(table.possible_pairs())
    assert len(set(table.rows())) == len(table.rows()) == len(ROWS)
    for row in table.rows():
        assert all(choice in choices for choice, choices in zip(row, table.CHOICES, strict=True))
        assert not [name for name, rule in {**table.MEANINGLESS, **table.TOO_LONG}.items() if table.holds(rule, row)]


def test_every_row_is_something_that_the_library_takes(load):
    for row in load("back_end_rows").rows():
        load("back_ends").build(row)


def test_what_the_table_leaves_out_as_refused_is_refused(load):
    table, build, draw = load("back_end_rows"), load("back_ends").build, random.Random(0)
    for name, (rule, message) in table.REFUSED.items():
        pairs = [(i, a, j, b) for i, j in table.columns() for a in table.CHOICES[i] for b in table.CHOICES[j]]
        rows = [table.complete(pair, draw, refused=name) for pair in draw.sample(pairs, 200)]
        broken = [row for row in rows if row is not None and table.holds(rule, row)]
        assert len(broken) >= 5, name
        for row in broken:
            with pytest.raises(ValueError, match=message):
                build(row)


def test_the_page_has_the_table_row_by_row(load):
    table, script = load("back_end_rows").rows(), load("back_ends")
    first = PAGE.index(script.HEAD.splitlines()[0])
    assert PAGE[first : first + 2] == script.HEAD.splitlines()
    for number, (row, shown) in enumerate(zip(table, PAGE[first + 2 : first + 2 + len(table)], strict=True), 1):
        # What ran is compared where it runs: here the row is the one that is spoken of, and something is said of it.
        chosen, told = script.line(number, row, ()).removesuffix(" |").rsplit("| ", 1)[0], shown.split("| ")[-1]
        assert shown.startswith(chosen), number
        assert told.removesuffix(" |"), number
    assert not "".join(PAGE[first + 2 + len(table) :]).startswith("|")


@needs_compiler
@pytest.mark.parametrize("number", QUICK)
def test_ten_rows_become_native_code_and_come_out_as_eager_code_does(load, number):
    row = load("back_end_rows").rows()[number - 1]
    outcome = load("back_ends").run(row)
    assert outcome.wrong == ""
    assert {each.back_end for each in outcome.ran} == {"native"}
    assert load("back_ends").line(number, row, outcome.ran) in PAGE


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("number", sorted({*range(1, 1 + len(ROWS))} - {*QUICK}))
def test_all_rows_are_compiled_by_one_of_the_two_and_come_out_as_eager_code_does(load, number):
    row = load("back_end_rows").rows()[number - 1]
    outcome = load("back_ends").run(row)
    assert outcome.wrong == ""
    assert {each.back_end for each in outcome.ran} <= {"native", "inductor"}
    assert load("back_ends").line(number, row, outcome.ran) in PAGE


@needs_compiler
def test_a_wrong_compiled_result_is_seen(load, monkeypatch):
    def asymmetric(mass, position, G, softening):
        right = pair_by_pair(mass, position, G, softening)
        return torch.cat([right[:1], right[1:] * (1 + 1e-5)])

    pair_by_pair = gravity._acceleration_pair_by_pair
    monkeypatch.setattr(gravity, "_acceleration_pair_by_pair", asymmetric)  # what compilers alone are given
    assert "is off by" in load("back_ends").run(load("back_end_rows").rows()[QUICK[0] - 1]).wrong


def test_a_gradient_is_compared_up_to_the_rounding_of_its_largest_component_and_no_further(load):
    differs, eps = load("back_ends")._difference, torch.finfo(torch.float64).eps
    gradient = [torch.tensor([29.0], dtype=torch.float64), torch.tensor([3e-12, 5e-15], dtype=torch.float64)]

    def beside(change):
        return differs({"gradient": [gradient[0], gradient[1] + change]}, {"gradient": gradient}, 1e-9)

    assert beside(100 * 29 * eps) == ""  # what cancels to nothing
    assert "gradient 1 is off by" in beside(1e4 * 29 * eps)
    assert "gradient 0 is off by" in differs(
        {"gradient": [gradient[0] * (1 + 1e-8), gradient[1]]}, {"gradient": gradient}, 1e-9
    )
    # Of parameters, or of anything else, there is no such allowance.
    assert "params 1 is off by" in differs({"params": [gradient[0], gradient[1] * 2]}, {"params": gradient}, 1e-9)


def test_what_eager_adam_does_not_make_of_a_gradient_is_seen_however_small_the_gradient(load):
    script, optimizer = load("back_ends"), aits_func.build_optimizer("adamw", 1e-2)
    params = torch.tensor([0.5, -0.25], dtype=torch.float64)
    gradient = torch.tensor([29.0, 3e-12], dtype=torch.float64)
    update, moments = optimizer.update(gradient, optimizer.init(params), params)
    after = TrainState(params + update, moments, (), ())._replace
    right = script._update_by_gradient(optimizer, params, after())
    wrong = script._update_by_gradient(optimizer, params, after(params=params + update * (1 + 1e-5)))
    assert script._difference(right, right, 1e-9) == ""
    assert float(right["gradient"][1]) == pytest.approx(3e-12, rel=1e-14)  # a product and a quotient
    assert "update beyond its gradient 0 is off by" in script._difference(wrong, right, 1e-9)
