"""Forces as a compiler is given them, and as machine code, against sums over pairs in forty digits.

Eager code sums arrays of all pairs; a compiler is given pairs one by one, and many bodies in one tile. These tests hold
those formulas to numbers of their own: an oracle that shares no arithmetic with them.
"""

import itertools
from decimal import Context, Decimal, localcontext

import pytest
import torch
from torch.func import jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.base.engine import build_engine, missing_compiler
from aits_func.physics import pairs, tiled_gravity
from aits_func.physics.gravity import mutual_acceleration, mutual_potential_energy
from aits_func.physics.pairs import FEW_BODIES, pair_difference, pair_distance, pair_rows
from aits_func.physics.tiled_gravity import tiled_acceleration, tiled_potential_energy

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
F = torch.float64
G, SOFT = 1.7, 0.3
# Of every term of a sum: d, its square, their sum, the root and its cube or fifth power, and the products, some twenty
# roundings of half of 2.2e-16; and up to eight more of the sum itself.
ROUNDING = 32 * torch.finfo(F).eps
DIGITS = Context(prec=40)
SHAPES = [(N, D, s) for N in range(2, FEW_BODIES + 1) for D in (2, 3) for s in (0.0, SOFT)]


def bodies(N, D, seed=0):
    """mass (N,), one of three or more 0, and position (N, D), with a direction and a weight for each of both."""
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = 10 ** (-3 * torch.rand(N, generator=make, dtype=F))
    if N > 2:
        mass[N // 2] = 0
    others = (torch.randn(N, D, generator=make, dtype=F) for _ in range(3))
    return mass, *others, torch.randn(N, generator=make, dtype=F), torch.randn((), generator=make, dtype=F)


def quantities(acceleration, potential):
    """A function of `bodies`: forces and the energy, how they change along a direction, and their slopes.

    Returns: a (N, D), W (), da (N, D), dW (), and the slopes of Σ weight · a and weight · W by mass (N,) and position
    (N, D).
    """

    def all_of_them(mass, position, velocity, weight, rate, scale):
        a, da = jvp(acceleration, (mass, position), (rate, velocity))
        W, dW = jvp(potential, (mass, position), (rate, velocity))
        slopes_of_a = vjp(acceleration, mass, position)[1](weight)
        slopes_of_W = vjp(potential, mass, position)[1](scale)
        return a, W, da, dW, *slopes_of_a, *slopes_of_W

    return all_of_them


def formulas(softening):
    """What eager code and compilers call."""
    return quantities(
        lambda mass, position: mutual_acceleration(mass, position, G=G, softening=softening),
        lambda mass, position: mutual_potential_energy(mass, position, G=G, softening=softening),
    )


def in_one_tile(softening):
    """The formulas of many bodies."""
    return quantities(
        lambda mass, position: tiled_acceleration(mass, position, G, softening),
        lambda mass, position: tiled_potential_energy(mass, position, G, softening),
    )


class Sum:
    """A sum in forty digits, and that of the sizes of its terms."""

    def __init__(self):
        self.total, self.size = Decimal(0), Decimal(0)

    def add(self, term):
        self.total, self.size = self.total + term, self.size + abs(term)


def naive(softening, mass, position, velocity, weight, rate, scale):
    """The sums of `quantities`, term by term in plain Python: for each a nested list of `Sum`."""
    N, D = position.shape
    m, x, v, w, r = ([Decimal(e) for e in leaf.flatten().tolist()] for leaf in (mass, position, velocity, weight, rate))
    x, v, w = ([leaf[D * i : D * (i + 1)] for i in range(N)] for leaf in (x, v, w))
    g, c = Decimal(G), Decimal(scale.item())
    a, da, of_x, W_of_x = ([[Sum() for _ in range(D)] for _ in range(N)] for _ in range(4))
    of_m, W_of_m, W, dW = [Sum() for _ in range(N)], [Sum() for _ in range(N)], Sum(), Sum()
    for i, j in itertools.permutations(range(N), 2):
        d = [q - p for p, q in zip(x[i], x[j], strict=True)]
        R2 = sum(e * e for e in d) + Decimal(softening) ** 2
        third = 1 / (R2 * R2.sqrt())
        for k in range(D):
            a[i][k].add(g * m[j] * d[k] * third)
            da[i][k].add(g * r[j] * d[k] * third)
            of_m[j].add(w[i][k] * g * d[k] * third)
            W_of_x[i][k].add(-c * g * m[i] * m[j] * d[k] * third)
            dW.add(-g * m[i] * m[j] * d[k] * third * v[i][k])
            for n in range(D):  # ∂aᵢ/∂xⱼ = G mⱼ (I/R³ − 3 d dᵀ/R⁵) = −∂aᵢ/∂xᵢ, pair by pair; v and x̄ part by part
                for term in ((third if k == n else Decimal(0)), -3 * d[k] * d[n] * third / R2):
                    da[i][k].add(g * m[j] * term * v[j][n])
                    da[i][k].add(-g * m[j] * term * v[i][n])
                    of_x[j][n].add(w[i][k] * g * m[j] * term)
                    of_x[i][n].add(-w[i][k] * g * m[j] * term)
        W_of_m[j].add(-c * g * m[i] / R2.sqrt())
        if i < j:
            W.add(-g * m[i] * m[j] / R2.sqrt())
            dW.add(-g * r[i] * m[j] / R2.sqrt())
            dW.add(-g * m[i] * r[j] / R2.sqrt())
    return a, W, da, dW, of_m, of_x, W_of_m, W_of_x


def read(nested, part):
    """A nested list of `Sum` as a tensor."""
    if isinstance(nested, list):
        return torch.stack([read(each, part) for each in nested])
    return torch.tensor(float(getattr(nested, part)), dtype=F)


NAMES = ("a", "W", "da", "dW", "slope by mass", "slope by position", "of W by mass", "of W by position")


def assert_exact(results, softening, given):
    with localcontext(DIGITS):
        sums = naive(softening, *given)
    for name, ours, exact in zip(NAMES, results, sums, strict=True):
        error, size = (ours - read(exact, "total")).abs(), read(exact, "size")
        assert (error <= ROUNDING * size).all(), f"{name}: off by {(error / size).nan_to_num().max():.1e} of its terms"


def assert_momentum_stays(mass, acceleration, position, softening):
    force = mass[:, None] * acceleration
    d = position[None] - position[:, None]
    R = (d.pow(2).sum(-1) + softening**2).sqrt() + torch.eye(len(mass), dtype=F)
    size = (G * mass[:, None, None] * mass[None, :, None] * d.abs() / R[:, :, None] ** 3).sum((0, 1))
    # What two bodies do to each other is one number, and so rounded alike: left are the products with the masses and
    # the sums.
    assert (force.sum(0).abs() <= (len(mass) + 4) * torch.finfo(F).eps * size).all()


def traced(function, given):
    """What a compiler is given, run as it stands."""
    graph = make_fx(function)(*given)
    return graph, graph(*given)


@pytest.fixture
def as_if_traced(monkeypatch):
    """What a compiler is given, without its tracer, which takes seconds for a few bodies."""
    monkeypatch.setattr(pairs, "is_traced", lambda: True)
    monkeypatch.setattr(tiled_gravity, "is_traced", lambda: True)


@pytest.mark.parametrize(("N", "D", "softening"), SHAPES)
def test_pairs_one_by_one_pull_as_the_sums_say_with_their_derivatives(as_if_traced, N, D, softening):
    given = bodies(N, D)
    results = formulas(softening)(*given)
    assert_exact(results, softening, given)
    assert_momentum_stays(given[0], results[0], given[1], softening)


@pytest.mark.parametrize("softening", [0.0, SOFT])
@pytest.mark.parametrize("formula", [formulas, in_one_tile])
@pytest.mark.parametrize("D", [2, 3])
def test_so_do_the_arrays_of_all_pairs_and_the_one_tile_for_more_bodies(as_if_traced, D, formula, softening):
    given = bodies(FEW_BODIES + 1, D)
    assert_exact(formula(softening)(*given), softening, given)


@pytest.mark.parametrize(("N", "D", "softening"), [(2, 3, 0.0), (4, 2, SOFT)])
@pytest.mark.parametrize("formula", [formulas, in_one_tile])
def test_so_does_a_trace(N, D, softening, formula):
    given = bodies(N, D)
    graph, results = traced(formula(softening), given)
    assert_exact(results, softening, given)
    shapes = {tuple(node.meta["val"].shape) for node in graph.graph.nodes if "tensor_meta" in node.meta}
    assert ((N, N) in shapes) == (formula is in_one_tile)  # pairs one by one leave no array of all pairs


@pytest.mark.parametrize("formula", [formulas, in_one_tile])
@pytest.mark.parametrize(("N", "D", "softening"), SHAPES[1::5])
def test_so_does_eager_code(N, D, softening, formula):
    given = bodies(N, D)
    assert_exact(formula(softening)(*given), softening, given)


@pytest.mark.parametrize(("N", "D"), [(N, D) for N in range(1, FEW_BODIES + 1) for D in (2, 3)])
def test_a_traced_pair_is_what_its_two_bodies_have(N, D):
    mass, position, *_ = bodies(N, D)
    both = list(itertools.combinations(range(N), 2))
    for x in (mass, position):
        first, second = traced(pair_rows, (x,))[1]
        assert torch.equal(first, x[[i for i, _ in both]])
        assert torch.equal(second, x[[j for _, j in both]])
    if not both:
        return
    d = torch.stack([position[j] - position[i] for i, j in both])
    assert torch.equal(traced(pair_difference, (position,))[1], d)
    with localcontext(DIGITS):
        exact = [float((sum(Decimal(e) ** 2 for e in row) + Decimal(SOFT) ** 2).sqrt()) for row in d.tolist()]
    ours = traced(lambda x: pair_distance(x, SOFT), (position,))[1]
    torch.testing.assert_close(ours, torch.tensor(exact, dtype=F), rtol=4 * torch.finfo(F).eps, atol=0)


@pytest.mark.parametrize("D", [2, 3])
def test_a_body_alone_is_pulled_by_nobody_in_a_trace_either(D):
    given = bodies(1, D)
    for results in (traced(formulas(0.0), given)[1], formulas(0.0)(*given)):
        assert all(torch.equal(each, torch.zeros_like(each)) for each in results)


@needs_compiler
@pytest.mark.parametrize(
    ("N", "D", "softening"),
    [(2, 2, 0.0), (3, 3, SOFT), (4, 2, 0.0), pytest.param(FEW_BODIES, 3, 0.0, marks=pytest.mark.slow)],
)
def test_machine_code_pulls_as_the_sums_say_with_its_derivatives(N, D, softening):
    systems = [bodies(N, D, seed) for seed in range(4)]
    engine = build_engine(vmap(formulas(softening)), mode="on", batched=(True,) * 6)
    results = engine(*map(torch.stack, zip(*systems, strict=True)))
    assert engine.fallback == ""  # one function of our own, and not TorchInductor's
    for number, given in enumerate(systems):
        own = [leaf[number] for leaf in results]
        assert_exact(own, softening, given)
        assert_momentum_stays(given[0], own[0], given[1], softening)
