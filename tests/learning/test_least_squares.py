"""Levenberg–Marquardt: its step against dense linear algebra, its damping, and what it refuses."""

import shutil
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from aits_func.base.engine import build_engine
from aits_func.learning.least_squares import Residuals, levenberg_marquardt
from aits_func.learning.transformations import apply_updates

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler was found")


class Line(NamedTuple):
    """Parameters of two shapes."""

    weight: Tensor  # (3, 2)
    offset: Tensor  # ()


def start(dtype=torch.float64):
    return Line(torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.6]], dtype=dtype), torch.tensor(0.2, dtype=dtype))


def flat(line):
    return torch.cat([line.weight.flatten(), line.offset[None]])


def problem_of(function, rows):
    """A problem with the Jacobian of ``jacrev``."""
    return Residuals(function, lambda params: (function(params), jacrev(function)(params)), rows)


def linear(rows=4, dtype=torch.float64):
    """A x − b in seven parameters."""
    generator = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, 7, generator=generator, dtype=torch.float64).to(dtype)
    right = torch.randn(rows, generator=generator, dtype=torch.float64).to(dtype)
    return problem_of(lambda params: matrix @ flat(params) - right, rows), matrix


def bent(params):
    """Four residuals that no line of parameters leaves straight."""
    x = flat(params)
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0], x[2] * x[3] - 0.3, torch.sin(x[4]) + x[5] * x[6]])


def descend(optimizer, problem, params, count):
    state = optimizer.init(params)
    for _ in range(count):
        updates, state = optimizer.update(problem, state, params)
        params = apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
@pytest.mark.parametrize("rows", [4, 7, 20], ids=["fewer rows", "as many", "more rows"])
def test_a_step_is_that_of_the_damped_normal_equations(rows, budget):
    problem, matrix = linear(rows)
    optimizer, params, damping = levenberg_marquardt(0.3, budget=budget, iterations=40), start(), 0.3
    updates, _ = optimizer.update(problem, optimizer.init(params), params)
    r = problem.values(params)
    slope = matrix.mT @ r
    shift = damping * (slope @ slope) / (r @ r)
    expected = -torch.linalg.solve(matrix.mT @ matrix + shift * torch.eye(7, dtype=r.dtype), slope)
    # Conjugate gradients stop at a relative residual of 1e-3 of equations that are well conditioned by the damping.
    tolerance = 1e-12 if budget else 1e-2 * float(expected.norm())
    torch.testing.assert_close(flat(updates), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
@pytest.mark.parametrize(("of_slopes", "of_residuals"), [(600, 0), (-600, 0), (0, 600), (0, -600), (600, 600)])
def test_a_step_knows_no_unit_where_the_squares_of_slopes_or_residuals_are_no_numbers(of_slopes, of_residuals, budget):
    """J times 2^a and r times 2^b, with squares up to 2^1200, change the parameters by 2^(b-a) of what they did."""
    (problem, matrix), zero = (
        linear(4),
        Line(torch.zeros(3, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)),
    )
    right = -problem.values(zero)
    slopes, shift = matrix * 2.0**of_slopes, right * 2.0**of_residuals
    scaled = problem_of(lambda params: slopes @ flat(params) - shift, 4)
    optimizer = levenberg_marquardt(0.3, budget=budget)
    expected, known = optimizer.update(problem, optimizer.init(zero), zero)
    updates, state = optimizer.update(scaled, optimizer.init(zero), zero)
    assert (int(known.refused), int(state.refused)) == (0, 0)
    # powers of two, but for the largest slope and residual, by which all is divided and multiplied again: roundings
    torch.testing.assert_close(
        flat(updates) * 2.0 ** (of_slopes - of_residuals), flat(expected), rtol=1e-11, atol=1e-13
    )
    torch.testing.assert_close(state.damping, known.damping, rtol=1e-10, atol=0)


def test_almost_undamped_a_step_solves_linear_equations_by_the_smallest_change():
    problem, matrix = linear(4)
    params, _ = descend(levenberg_marquardt(1e-8), problem, start(), 1)
    smallest = torch.linalg.pinv(matrix) @ -problem.values(start())
    # The damping itself, relative.
    torch.testing.assert_close(flat(params) - flat(start()), smallest, rtol=1e-6, atol=1e-6)


def test_rows_of_many_blocks_are_those_of_one(monkeypatch):
    problem, _ = linear(20)
    whole = descend(levenberg_marquardt(), problem, start(), 1)[0]
    monkeypatch.setattr("aits_func.learning.least_squares._BLOCK", 6)
    torch.testing.assert_close(flat(descend(levenberg_marquardt(), problem, start(), 1)[0]), flat(whole))


@pytest.mark.parametrize("damping", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
def test_what_a_linear_problem_promises_it_keeps(damping, budget):
    problem, _ = linear(4)
    _, state = descend(levenberg_marquardt(damping, budget=budget), problem, start(), 1)
    assert abs(float(state.gain) - 1) < 1e-9  # rounding, of a decrease that is a hundredth of the sum
    assert int(state.refused) == 0
    assert abs(float(state.damping) / (damping / 3) - 1) < 1e-12  # max(1/3, 1 − (2g − 1)³) at g = 1


@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
def test_it_goes_on_to_rounding_where_all_residuals_can_vanish(budget):
    problem = problem_of(bent, 4)
    params, _ = descend(levenberg_marquardt(budget=budget), problem, start(), 40)
    assert float(bent(params).abs().max()) < 1e-12  # rounding: ten times a number of order one


def test_the_least_sum_of_squares_is_found_where_none_vanishes():
    problem, matrix = linear(20)
    right = matrix @ flat(start()) - problem.values(start())
    best = torch.linalg.lstsq(matrix, right).solution
    params, _ = descend(levenberg_marquardt(), problem, start(), 30)
    # A decrease of the sum that is smaller than its rounding is refused: parameters are known to the root of that.
    torch.testing.assert_close(flat(params), best, rtol=0, atol=1e-7)


def only_worse():
    """Residuals whose Jacobian has the wrong sign, so that every step makes them larger."""
    straight, _ = linear(4)

    def backwards(params):
        values, slopes = straight.jacobian(params)
        return values, Line(*(-leaf for leaf in slopes))

    return straight._replace(jacobian=backwards)


def test_a_step_that_makes_things_worse_is_refused_and_damped_by_two_four_eight():
    optimizer, params = levenberg_marquardt(1e-2), start()
    state, seen = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(only_worse(), state, params)
        assert torch.equal(flat(updates), torch.zeros(7, dtype=torch.float64))
        seen.append(float(state.damping))
    assert seen == pytest.approx([2e-2, 8e-2, 64e-2], rel=1e-12)
    assert (int(state.refused), int(state.updates_made)) == (3, 3)


def test_the_damping_stays_between_its_limits():
    _, down = descend(levenberg_marquardt(1.0, smallest=0.2), linear(4)[0], start(), 2)
    _, up = descend(levenberg_marquardt(1e-2, largest=5.0), only_worse(), start(), 30)
    assert float(down.damping) == 0.2  # not a ninth
    assert float(up.damping) == 5.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_step_into_what_is_not_finite_is_refused(bad):
    problem, _ = linear(4)
    here = flat(start())

    def values(params):
        inside = (flat(params) - here).abs().max() == 0
        return torch.where(inside, problem.values(params), torch.full_like(problem.values(params), bad))

    params, state = descend(levenberg_marquardt(), problem._replace(values=values), start(), 1)
    assert torch.equal(flat(params), here)
    assert int(state.refused) == 1


def test_slopes_that_are_not_finite_are_refused():
    problem, _ = linear(4)

    def broken(params):
        values, slopes = problem.jacobian(params)
        return values, Line(slopes.weight * torch.nan, slopes.offset)

    params, state = descend(levenberg_marquardt(), problem._replace(jacobian=broken), start(), 1)
    assert torch.equal(flat(params), flat(start()))
    assert int(state.refused) == 1


def test_where_every_residual_is_zero_nothing_changes():
    zero = problem_of(lambda params: 0 * bent(params), 4)
    optimizer = levenberg_marquardt()
    params, state = descend(optimizer, zero, start(), 3)
    assert torch.equal(flat(params), flat(start()))
    assert all(map(torch.equal, state, optimizer.init(start())))


def test_rows_of_zeros_and_the_order_of_rows_do_not_matter():
    problem, _ = linear(4)

    def other(params):
        values, slopes = problem.jacobian(params)
        order = [2, 0, 3, 1]
        values = torch.cat([values[order], values.new_zeros(3)])
        return values, Line(*(torch.cat([leaf[order], leaf.new_zeros(3, *leaf.shape[1:])]) for leaf in slopes))

    ours, _ = descend(levenberg_marquardt(), problem, start(), 1)
    theirs, _ = descend(levenberg_marquardt(), problem._replace(jacobian=other, rows=7), start(), 1)
    torch.testing.assert_close(flat(ours), flat(theirs))


def one_step(params, target):
    """A step for residuals that depend on data."""
    optimizer = levenberg_marquardt()
    problem = problem_of(lambda other: bent(other) - target, 4)
    updates, state = optimizer.update(problem, optimizer.init(params), params)
    return updates, state.gain


@needs_compiler
def test_a_compiled_step_is_the_eager_one():
    target = torch.tensor([0.1, 0.2, -0.3, 0.4], dtype=torch.float64)
    engine = build_engine(one_step, mode="on")
    updates, gain = engine(start(), target)
    expected, expected_gain = one_step(start(), target)
    torch.testing.assert_close(flat(updates), flat(expected), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gain, expected_gain, rtol=1e-10, atol=0)  # a difference of sums


@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
def test_it_maps_over_problems(budget):
    targets = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer = levenberg_marquardt(budget=budget)

    def step(target):
        problem = problem_of(lambda other: bent(other) - target, 4)
        return optimizer.update(problem, optimizer.init(start()), start())[0]

    mapped = vmap(step)(targets)
    for number, target in enumerate(targets):
        one = step(target)
        torch.testing.assert_close(mapped.weight[number], one.weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("budget", [2**25, 0], ids=["dense", "matrix-free"])
def test_float32_stays_float32(budget):
    problem, _ = linear(4, torch.float32)
    updates, _ = levenberg_marquardt(budget=budget).update(
        problem, levenberg_marquardt().init(start(torch.float32)), start(torch.float32)
    )
    assert {leaf.dtype for leaf in updates} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": 0.0}, "need 0 < smallest <= damping <= largest"),
        ({"damping": torch.nan}, "need 0 < smallest <= damping <= largest"),
        ({"damping": 1.0, "largest": 0.5}, "need 0 < smallest <= damping <= largest"),
        ({"budget": -1}, "budget must be >= 0"),
        ({"iterations": 0}, "iterations must be >= 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"levenberg_marquardt: {message}"):
        levenberg_marquardt(**arguments)
