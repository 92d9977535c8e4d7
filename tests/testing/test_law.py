"""How laws are tried, and what is said when one is broken."""

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st

from aits_func.testing.law import LawError, check_laws, demand, demand_close, demand_pure, demand_trees_close


def small(subject, draw):
    demand(draw(st.integers(0, 100)) < subject, "a number that is too large")


def crash(subject, draw):
    raise RuntimeError("not a law")


def tried(subject, only=None, without=(), settings=None):
    check_laws("check_it", {"small": small, "crash": crash}, subject, only=only, without=without, settings=settings)


def test_a_broken_law_is_named_and_the_simplest_example_is_shown():
    with pytest.raises(LawError, match="check_it: small: a number that is too large") as caught:
        tried(10, only=["small"])
    assert caught.value.args == ("check_it: small: a number that is too large",)
    assert any("Draw 1: 10" in note for note in caught.value.__notes__)


def test_any_other_error_says_during_which_law_it_came():
    with pytest.raises(RuntimeError, match="not a law") as caught:
        tried(10, only=["crash"])
    assert "while the law was tried: check_it: crash" in caught.value.__notes__


def test_laws_can_be_chosen_and_left_out():
    tried(101, without=["crash"])
    with pytest.raises(RuntimeError):
        tried(101)


def test_a_law_that_does_not_exist_is_refused_with_the_names_of_those_that_do():
    for options in ({"only": ["tiny"]}, {"without": ["tiny"]}):
        with pytest.raises(ValueError, match="check_it: there is no law 'tiny'; there are small, crash"):
            tried(10, **options)


def test_the_settings_of_the_caller_count():
    seen = []

    def law(subject, draw):
        seen.append(draw(st.integers()))

    few = settings(max_examples=7, phases=[Phase.generate], database=None)
    check_laws("check_it", {"law": law}, None, only=None, without=(), settings=few)
    assert len(seen) == 7


def test_tensors_are_compared_to_a_share_of_the_largest():
    one = torch.tensor([1e-9, 1.0])
    demand_close(one, torch.tensor([0.0, 1.0]), "x", tolerance=1e-8)
    with pytest.raises(LawError, match=r"x: got .* instead of \[0.0, 1.0\], off by 1e-09 > 1e-10"):
        demand_close(one, torch.tensor([0.0, 1.0]), "x", tolerance=1e-10)
    demand_close(one, torch.tensor([0.0, 1.0]), "x", tolerance=1e-10, scale=10.0)


@pytest.mark.parametrize(
    "other", [torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.tensor([float("nan"), 1.0])]
)
def test_another_shape_another_dtype_and_nan_never_agree(other):
    with pytest.raises(LawError):
        demand_close(other, torch.zeros(2), "x", tolerance=1e9, scale=1e9)


def test_a_leaf_that_differs_is_named():
    ours, theirs = ({"a": torch.zeros(1), "b": b} for b in (torch.ones(1), torch.zeros(1)))
    with pytest.raises(LawError, match="outcome, b: got"):
        demand_trees_close(ours, theirs, "outcome", tolerance=0.1)


def test_a_pure_function_may_return_nan():
    out = demand_pure(lambda x: x / x, torch.zeros(2))
    assert out.isnan().all()


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: x.add_(1), "it changed an argument in place"),
        (lambda x: x + torch.rand(()), "it drew from torch's global generator"),
        (lambda x: (x + 1).requires_grad_(), "requires_grad"),
    ],
)
def test_an_impure_function_is_seen(function, complaint):
    with pytest.raises(LawError, match=complaint):
        demand_pure(function, torch.zeros(2))


def test_a_function_with_a_memory_is_seen():
    calls = []

    def function(x):
        calls.append(x)
        return x + len(calls)

    with pytest.raises(LawError, match=r"called twice it gave \[1.0, 1.0\] and \[2.0, 2.0\]"):
        demand_pure(function, torch.zeros(2))
