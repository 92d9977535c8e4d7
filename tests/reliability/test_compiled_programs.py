"""The campaign of drawn programs: compiled is eager, and it notices what is broken."""

import pytest
import torch

from aits_func.base import engine as engines
from aits_func.base import native_graph
from aits_func.base.engine import missing_compiler
from reliability.compiled_programs import accepted, campaign, findings, outcome, valid_program
from reliability.drawn_programs import Argument, DrawnProgram, Line
from reliability.rounding import Traced, compare

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
aten = torch.ops.aten


@pytest.fixture(autouse=True)
def without_the_check_of_the_engine(monkeypatch):
    monkeypatch.setenv("AITS_FUNC_CHECK_COMPILED", "0")


@needs_compiler
@pytest.mark.slow
def test_drawn_programs_give_compiled_what_they_give_eagerly():
    found = campaign(True)
    assert [(each.promise, each.broken) for each in found if not each.held] == []
    assert found[0].figures["native"] > found[0].figures["programs"] / 2


@needs_compiler
def test_a_few_drawn_programs_give_compiled_what_they_give_eagerly(monkeypatch):
    monkeypatch.setattr(engines, "_machine_code", lambda graph, example: graph)  # TorchInductor takes its time
    found = [outcome(valid_program(number)) for number in range(12)]
    assert [each.script for each in found if each.wrong] == []
    assert sum(each.back_end == "native" for each in found) > 6


def written(kind, *lines, real=torch.float64):
    """A program of one's own, of x0 (4,), a batch, and w0 (4, 20)."""
    arguments = Argument("x0", (4,), real, True, 0, False), Argument("w0", (4, 20), real, False, 1, False)
    texts = [line.partition(" := ") for line in lines]
    told = [Line((name,), text, False) if text else Line((), name, False) for name, _, text in texts]
    return DrawnProgram(0, kind, real, 7, 2, arguments, tuple(told), True)


BATCH = ("v0 := torch.zeros_like(x0)", "v0[:, 1] = x0[:, 0]", "v1 := x0.sin()", "v2 := v0 - v1")


def without_writes(function, example, read=None, most=None):
    """A graph from which writes are left out, as a reader leaves them out that follows results alone."""
    graph = engines.trace(function, example, read=read)
    for node in reversed(graph.graph.nodes):
        if node.target is aten.copy_.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    return graph


def formula(name, overload, told):
    """A plan to change one formula of the reader of graphs."""
    return native_graph, name, getattr(native_graph, name) | {overload: told}


TURNED = formula("_POINTWISE", aten.sub.Tensor, lambda make, x, y: make("sub", y, x))
DEFECTS = {
    "a write is left out": ((engines, "trace_pure", without_writes), "batch", BATCH),
    "a difference has the other sign": (TURNED, "batch", BATCH),
    "a sine is off by 1e-12": (
        formula("_POINTWISE", aten.sin.default, lambda make, x: make("mul", make("sin", x), 1 + 1e-12)),
        "vjp",
        BATCH,
    ),
    "a sum is the largest": (
        formula("_FOLDS", aten.sum.dim_IntList, ("max", False)),
        "scan",
        ("v0 := x0 * 2", "v1 := v0.sum(-1)"),
    ),
}


@needs_compiler
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_and_shown_by_a_program_that_can_be_run(name, monkeypatch):
    change, kind, lines = DEFECTS[name]
    drawn = accepted(written(kind, *lines))
    assert outcome(drawn).wrong == ""
    monkeypatch.setattr(*change)
    found = outcome(drawn)
    assert found.wrong
    finding = findings([found], 0)[0]
    assert not finding.held
    assert found.script in finding.broken[0]
    shown: dict[str, object] = {}
    exec(found.script, shown)  # it prints both results
    assert callable(shown["function"])


@needs_compiler
def test_what_is_shown_has_no_line_that_does_not_matter(monkeypatch):
    monkeypatch.setattr(*TURNED)
    drawn = accepted(written("batch", "v7 := x0.cos()", *BATCH, "v8 := v7 * v7", "v9 := v2 - v1"))
    shown = outcome(drawn).script
    assert "cos" not in shown
    assert "v0[:, 1]" not in shown
    assert " - " in shown


def test_programs_are_drawn_again_from_their_seed():
    assert [valid_program(number).program for number in range(5)] == [valid_program(n).program for n in range(5)]


# --- what counts as the same


def traced(function, *values):
    return Traced(function, values)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_another_order_of_a_sum_that_cancels_is_the_same_and_a_wrong_digit_is_not():
    x = torch.cat([random(50, 9) * 1e6, -random(50, 9) * 1e6, random(50, 1, seed=1)], 1)

    def total(x):
        return x.sum(1)

    other = x.flip(1).cumsum(1)[:, -1]
    assert compare(other, total(x), traced(total, x)).wrong == ""
    # Nineteen numbers of 1e6 are summed to 19 × 1e6 × 1e-16 = 2e-9.
    assert compare(total(x) + 1e-6, total(x), traced(total, x)).wrong != ""
    assert compare(x.sin() * (1 + 1e-12), x.sin(), traced(torch.sin, x)).wrong != ""


def test_a_comparison_that_rounding_decides_is_undecided_and_any_other_is_wrong():
    x = random(40, 3)

    def chosen(x):
        return (x.sum(1) >= x[:, 0] + x[:, 1] + x[:, 2]) & (x[:, 0] > -2)

    eager, close = chosen(x), x[:, 0] > -2
    verdict = compare(torch.where(close, ~eager, eager), eager, traced(chosen, x))
    assert verdict == ("", int(close.sum()))
    assert compare(~eager, eager, traced(chosen, x)).wrong != ""  # where x₀ ≤ −2 nothing depends on rounding


@pytest.mark.parametrize(
    ("ours", "eager"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(3), torch.zeros(3, 1)),
        ((torch.zeros(3),), torch.zeros(3)),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])),
        (torch.tensor([torch.inf]), torch.tensor([-torch.inf])),
    ],
    ids=["type", "shape", "structure", "whole number", "nan", "no nan", "sign"],
)
def test_another_type_shape_structure_or_value_is_wrong(ours, eager):
    assert compare(ours, eager, traced(lambda: eager)).wrong != ""
