"""The classical criteria against plain loops, their limits, their units and their derivatives."""

import math

import pytest
import torch
from torch.func import grad, grad_and_value, jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.body_criteria import aarseth, gadget, prs23, prs23_moving, tidal
from aits_func.physics.criteria import CRITERIA, build_criterion, constant
from aits_func.physics.criterion import rate_p_norm
from aits_func.physics.fields import build_tidal_field
from aits_func.physics.gravity import build_gravity
from aits_func.physics.known_orbits import known_orbit
from aits_func.physics.pair_criteria import (
    fly_by,
    fly_by_rate_squared,
    free_fall,
    free_fall_rate_squared,
    huayno,
    hut_makino,
    p_norm,
)
from aits_func.physics.step_function import REVERSIBLE, Traits
from aits_func.physics.time_transformations import logarithmic, pair_norm

F = torch.float64
ROUNDING = {"rtol": 1e-14, "atol": 0}  # sums of at most 15 positive terms, powers and roots of them
NAMES = list(CRITERIA)
SMOOTH = {"p_norm", "p_norm_both", "pair_norm", "logarithmic", "constant"}  # at p = 2
OF_POSITIONS = {"free_fall", "p_norm", "gadget", "tidal", "tidal_p_norm", "pair_norm", "logarithmic", "constant"}
BY_THE_ROOT = {"aarseth", "aarseth_p_norm", "gadget", "tidal", "tidal_p_norm"}  # dt goes with the root of η
SOFT = build_gravity(softening=0.1)
PAIRS = [("free_fall",), ("fly_by",), ("free_fall", "fly_by")]
EXPONENTS = [0.7, 1.0, 2.0, 5.0]


def random_system(N=4, D=3, *, seed=0, massless=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity)


def step(criterion, system):
    return criterion.timescale(criterion.init(), system)


def naive_times(kind, system, G=1.0, softening=0.0):
    """Times of all pairs that have one, in plain Python."""
    mass, x, v = (leaf.tolist() for leaf in system[:3])
    times = []
    for i in range(len(mass)):
        for j in range(i):
            r = math.sqrt(math.dist(x[i], x[j]) ** 2 + softening**2)
            if kind == "free_fall" and mass[i] + mass[j] > 0:
                times.append(math.sqrt(r**3 / (G * (mass[i] + mass[j]))))
            if kind == "fly_by" and v[i] != v[j] and mass[i] + mass[j] > 0:
                times.append(r / math.dist(v[i], v[j]))
    return times


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=F), **(tolerance or ROUNDING))


@pytest.mark.parametrize("softening", [0.0, 0.5])
@pytest.mark.parametrize(("N", "D", "massless"), [(2, 2, 0), (2, 3, 1), (4, 3, 2), (6, 2, 3)])
@pytest.mark.parametrize(("build", "kind"), [(free_fall, "free_fall"), (fly_by, "fly_by")])
def test_free_fall_and_fly_by_are_the_shortest_time_of_a_loop_over_pairs(build, kind, N, D, massless, softening):
    system = random_system(N, D, massless=massless)
    gravity = build_gravity(G=1.7, softening=softening)
    close(step(build(gravity, eta=0.03), system), 0.03 * min(naive_times(kind, system, 1.7, softening)))


@pytest.mark.parametrize("softening", [0.0, 0.5])
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize(("N", "D", "massless"), [(2, 3, 1), (6, 2, 3)])
def test_the_p_norm_is_that_of_a_loop_over_pairs(N, D, massless, pairs, p, softening):
    system = random_system(N, D, massless=massless)
    gravity = build_gravity(G=1.7, softening=softening)
    times = [time for kind in pairs for time in naive_times(kind, system, 1.7, softening)]
    expected = 0.03 * sum(time**-p for time in times) ** (-1 / p)
    close(step(p_norm(gravity, eta=0.03, p=p, pairs=pairs), system), expected)


@pytest.mark.parametrize("p", [20.0, 200.0, 2000.0])
def test_the_p_norm_of_many_pairs_tends_to_the_shortest_time(p):
    system = random_system(6, 3)
    shortest = step(free_fall(build_gravity()), system).item()
    ratio = step(p_norm(build_gravity(), p=p), system).item() / shortest
    # between all 15 pairs being shortest and one alone, whatever the system; 1e-14: rounding
    assert 15 ** (-1 / p) * (1 - 1e-14) <= ratio <= 1 + 1e-14


@pytest.mark.parametrize("pairs", PAIRS)
def test_the_p_norm_is_shorter_than_the_shortest_time_and_grows_with_p(pairs):
    system, gravity = random_system(6, 3), build_gravity()
    steps = [step(p_norm(gravity, p=p, pairs=pairs), system).item() for p in (0.7, 1, 2, 4, 8, 16)]
    assert steps == sorted(steps)
    shortest = 0.02 * min(time for kind in pairs for time in naive_times(kind, system))
    assert steps[0] < 0.5 * shortest  # 15 pairs or more, of which one does not outweigh the others at p < 1
    assert steps[-1] <= shortest * (1 + 1e-14)  # rounding, where one pair outweighs all others


@pytest.mark.parametrize("p", [1.0, 2.0, 50.0])
def test_the_p_norm_of_rates_far_from_one_neither_overflows_nor_vanishes_in_single_precision(p):
    for size in (1e-18, 1e18):
        rates = torch.tensor([3.0, 4.0]) * size
        expected = size**0.5 * (3.0 ** (p / 2) + 4.0 ** (p / 2)) ** (1 / p)
        # roundings of 6e-8; a power multiplies them by its exponent, and the root divides them again
        assert rate_p_norm(rates, p).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("length", "mass"), [(2.0, 3.0), (1e-3, 1e2), (1e6, 1e-4)])
def test_a_change_of_units_changes_the_step_like_a_time(name, length, mass):
    system = random_system(5, 3, massless=2)
    time = math.sqrt(length**3 / mass)
    other = make_system(mass * system.mass, length * system.position, length / time * system.velocity)
    scaled = build_criterion(name, build_gravity(softening=0.2 * length), dt=1e-3 * time)
    ours, theirs = step(build_criterion(name, build_gravity(softening=0.2), dt=1e-3), system), step(scaled, other)
    # the roundings of the units, of sums that may cancel to a tenth, and of up to three derivatives of them
    torch.testing.assert_close(theirs, time * ours, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "huayno"])
def test_a_step_changes_by_itself_or_half_of_it_with_the_logarithm_of_its_parameter(name):
    criterion, system = build_criterion(name, SOFT), random_system()
    params = criterion.init()
    slope = grad(criterion.timescale)(params, system)
    assert list(slope) == list(params) == ["log_dt" if name == "constant" else "log_eta"]
    expected = (0.5 if name in BY_THE_ROOT else 1.0) * criterion.timescale(params, system)
    torch.testing.assert_close(next(iter(slope.values())), expected, rtol=1e-15, atol=0)  # a rounding or two


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("huayno", "constant")])
def test_the_step_is_eta_or_its_root_times_a_time_of_the_system(name):
    system = random_system()
    ours, theirs = (step(build_criterion(name, SOFT, eta=eta), system) for eta in (0.02, 0.3))
    torch.testing.assert_close(theirs, 15 ** (0.5 if name in BY_THE_ROOT else 1.0) * ours, **ROUNDING)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("N", [2, 4])
def test_at_rest_or_without_mass_a_step_and_its_derivatives_are_finite(name, N):
    for system in (random_system(N, massless=1), random_system(N, massless=N - 1), random_system(N)):
        for moving in (system, system._replace(velocity=torch.zeros_like(system.velocity))):
            criterion = build_criterion(name, SOFT)
            assert 0 < step(criterion, moving) < math.inf
            slopes = grad(criterion.timescale, argnums=(0, 1))(criterion.init(), moving)
            assert all(leaf.isfinite().all() for leaf in tree.leaves(slopes))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gadget"])
@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_at_a_collinear_passage_of_the_figure_eight_the_derivatives_of_every_step_are_finite(name, dtype):
    orbit = known_orbit("figure_eight")
    system = tree.cast(orbit, dtype=dtype)
    criterion = build_criterion(name, build_gravity())
    params = tree.cast(criterion.init(), dtype=dtype)
    for moving in (system, system._replace(velocity=torch.zeros_like(system.velocity))):
        slopes, value = grad_and_value(criterion.timescale, argnums=(0, 1))(params, moving)
        assert 0 < value < math.inf
        assert all(leaf.isfinite().all() for leaf in tree.leaves(slopes))
        still = tree.map_leaves(torch.zeros_like, (params, moving))
        towards = (still[0], still[1]._replace(position=torch.ones_like(moving.position)))
        along = jvp(criterion.timescale, (params, moving), towards)[1]
        assert along.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_unchanged_when_all_velocities_are_reversed_exactly_if_it_says_so(name):
    system, criterion = random_system(), build_criterion(name, SOFT)
    back = step(criterion, system._replace(velocity=-system.velocity))
    assert criterion.traits.even == (name != "huayno")
    # signs do not round: the same to the last bit
    assert (back == step(criterion, system)) == criterion.traits.even


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_memoryless_and_those_without_a_minimum_are_smooth(name):
    assert build_criterion(name, SOFT).traits == Traits(smooth=name in SMOOTH, memoryless=True, even=name != "huayno")


def test_what_is_smooth_depends_on_the_exponent_where_a_rate_may_vanish():
    def smooth(criterion):
        return criterion.traits == REVERSIBLE

    for p in (0.5, 1.0, 2.0, 4.0):
        assert smooth(p_norm(SOFT, p=p))
        assert smooth(p_norm(SOFT, p=p, pairs=("free_fall", "fly_by"))) == (p > 1)
        assert smooth(hut_makino(SOFT, p=p)) == (p > 1)
        assert smooth(tidal(SOFT, p=p)) == (p > 2)
        assert not smooth(p_norm(SOFT, p=p, pairs=("fly_by",)))
        assert not smooth(aarseth(SOFT, p=p))
    assert not smooth(p_norm(SOFT, p=math.inf))


@pytest.mark.parametrize("name", ["free_fall", "hut_makino", "tidal", "gadget", "p_norm", "p_norm_both", "pair_norm"])
def test_where_two_pairs_change_places_a_minimum_has_a_kink_and_a_smooth_step_has_none(name):
    """One body moves away from the middle of two others: the pair that was shorter becomes the longer one."""

    def at(shift):
        position = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [shift, 0.3]], dtype=F)
        mass = torch.tensor([1.0, 1.0, 3.0], dtype=F)  # so that the outer bodies feel the stronger tide and force
        return make_system(mass, position, torch.tensor([[0.2, 0.1], [-0.2, 0.1], [0, 0]], dtype=F))

    criterion, small = build_criterion(name, SOFT), 1e-4
    right, here, left = (math.log(step(criterion, at(shift))) for shift in (small, 0.0, -small))
    jump = (right - 2 * here + left) / small  # of the slope of log dt
    # smooth: small · its second derivative, of order 10 here; kink: twice its slope, of order 1
    assert abs(jump) < 1e-2 if criterion.traits.smooth else abs(jump) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_position_form_is_one_over_the_step_and_ignores_velocity_and_work(name):
    field = build_tidal_field(20.0, [4.0, -3.0, 2.0])
    criterion = build_criterion(name, build_gravity(G=1.7, softening=0.3, field=field))
    assert (criterion.position_form is not None) == (name in OF_POSITIONS)
    if criterion.position_form is None:
        return
    system, params = random_system(massless=1), criterion.init()
    constants = criterion.position_form.constants(params, system)
    rate = criterion.position_form.rate(params, system, constants)
    torch.testing.assert_close(1 / rate, criterion.timescale(params, system), **ROUNDING)
    elsewhere = system._replace(velocity=system.velocity + 3, work=system.work + 1)
    assert criterion.position_form.rate(params, elsewhere, constants) == rate
    if name not in ("pair_norm", "logarithmic"):
        assert constants == ()
        assert criterion.timescale(params, elsewhere) == criterion.timescale(params, system)


@pytest.mark.parametrize("p", EXPONENTS)
def test_the_derivatives_of_a_p_norm_of_both_times_are_finite_at_rest_and_for_massless_pairs(p):
    system = random_system(massless=2)
    system = system._replace(velocity=torch.zeros_like(system.velocity))
    criterion = p_norm(build_gravity(), p=p, pairs=("free_fall", "fly_by"))
    slopes = grad(criterion.timescale, argnums=(0, 1))(criterion.init(), system)
    assert all(leaf.isfinite().all() for leaf in tree.leaves(slopes))
    _, along = jvp(lambda v: step(criterion, system._replace(velocity=v)), (system.velocity,), (system.position,))
    assert along.isfinite()


def test_where_nothing_moves_the_fly_by_time_is_very_long_and_finite():
    system = random_system()
    system = system._replace(velocity=torch.ones_like(system.velocity))  # a boost is no motion
    criterion = fly_by(build_gravity())
    assert 1e30 < step(criterion, system) < math.inf
    slope = grad(criterion.timescale)(criterion.init(), system)["log_eta"]
    assert slope == step(criterion, system)


def test_a_massless_pair_does_not_count_for_free_fall_however_close():
    mass = torch.tensor([1.0, 0.0, 0.0], dtype=F)
    position = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1e-6]], dtype=F)
    system = make_system(mass, position, torch.zeros_like(position))
    close(step(free_fall(build_gravity(), eta=1.0), system), 1.0, rtol=1e-11, atol=0)  # r² = 1 + 1e-12 of the other
    # two pairs of one time: 2^(-1/2)
    close(step(p_norm(build_gravity(), eta=1.0), system), 2**-0.5, rtol=1e-11, atol=0)


def test_the_constant_step_reads_nothing():
    assert step(constant(dt=0.01), random_system()).item() == pytest.approx(0.01, rel=1e-15)  # exp of log


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("free_fall", lambda g: free_fall(g, eta=0.05)),
        ("fly_by", lambda g: fly_by(g, eta=0.05)),
        ("p_norm", lambda g: p_norm(g, eta=0.05, p=3.0)),
        ("p_norm_both", lambda g: p_norm(g, eta=0.05, p=3.0, pairs=("free_fall", "fly_by"))),
        ("hut_makino", lambda g: hut_makino(g, eta=0.05)),
        ("huayno", lambda g: huayno(g, eta=0.05)),
        ("aarseth", lambda g: aarseth(g, eta=0.05)),
        ("aarseth_p_norm", lambda g: aarseth(g, eta=0.05, p=3.0)),
        ("prs23", lambda g: prs23(g, eta=0.05)),
        ("prs23_moving", lambda g: prs23_moving(g, eta=0.05)),
        ("gadget", lambda g: gadget(g, eta=0.05)),
        ("tidal", lambda g: tidal(g, eta=0.05)),
        ("tidal_p_norm", lambda g: tidal(g, eta=0.05, p=3.0)),
        ("pair_norm", lambda g: pair_norm(g, eta=0.05, p=3.0, weights="root_sum", unit="one")),
        ("logarithmic", lambda g: logarithmic(g, eta=0.05, unit="one")),
        ("constant", lambda g: constant(dt=0.5)),
    ],
)
def test_a_criterion_by_name_is_the_one_of_that_name(name, same):
    gravity, system = build_gravity(softening=0.1), random_system()
    built = build_criterion(name, gravity, eta=0.05, p=3.0, dt=0.5, weights="root_sum", unit="one")
    assert step(built, system) == step(same(gravity), system)


@pytest.mark.parametrize(
    ("name", "eta"),
    [
        ("free_fall", 0.02),
        ("p_norm_both", 0.02),
        ("hut_makino", 0.03),
        ("huayno", 0.03),
        ("aarseth", 0.02),
        ("prs23", 0.175),
        ("prs23_moving", 0.175),
        ("gadget", 0.025),
        ("tidal", 4e-4),
        ("pair_norm", 0.02),
    ],
)
def test_without_an_eta_a_criterion_by_name_has_its_own(name, eta):
    assert build_criterion(name, SOFT, eta=None).init()["log_eta"].item() == math.log(eta)
    assert build_criterion(name, SOFT).init()["log_eta"].item() == math.log(0.02)


def test_rates_are_those_of_the_pairs_in_their_order():
    system, gravity = random_system(3, 2), build_gravity(G=1.7)
    x, v, m = system.position, system.velocity, system.mass
    for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        r = (x[i] - x[j]).norm()
        torch.testing.assert_close(free_fall_rate_squared(gravity, system)[k], 1.7 * (m[i] + m[j]) / r**3, **ROUNDING)
        torch.testing.assert_close(fly_by_rate_squared(gravity, system)[k], ((v[i] - v[j]).norm() / r) ** 2, **ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_systems_one_by_one(name):
    systems = [random_system(seed=seed) for seed in range(3)]
    criterion = build_criterion(name, SOFT)
    batch = vmap(criterion.timescale, in_dims=(None, 0))(criterion.init(), tree.stack(systems))
    # vmap and a Python loop agree to rounding, not bit for bit
    torch.testing.assert_close(batch, torch.stack([step(criterion, system) for system in systems]), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_with_parameters_in_single_precision_the_step_is_single(name):
    criterion, system = build_criterion(name, SOFT), random_system()
    single = criterion.timescale(*(tree.cast(x, dtype=torch.float32) for x in (criterion.init(), system)))
    assert single.dtype == torch.float32
    # roundings of 6e-8 in sums and powers of 6 pairs, and in up to three derivatives of them
    assert single.item() == pytest.approx(step(criterion, system).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: free_fall(g, eta=0.0), r"^free_fall: eta must be > 0 and finite \(e\.g\. 0\.02\), got 0\.0$"),
        (lambda g: free_fall(g, eta=math.nan), "free_fall: eta must be > 0"),
        (lambda g: free_fall(g, eta=math.inf), "free_fall: eta must be > 0 and finite"),
        (lambda g: fly_by(g, eta=-1.0), "fly_by: eta must be > 0"),
        (lambda g: p_norm(g, eta=0.0), "p_norm: eta must be > 0"),
        (lambda g: p_norm(g, p=0.0), r"^p_norm: p must be > 0 \(e\.g\. 2\), got 0\.0$"),
        (lambda g: p_norm(g, p=math.nan), "p_norm: p must be > 0"),
        (lambda g: p_norm(g, pairs=()), "p_norm: pairs must name at least one"),
        (lambda g: p_norm(g, pairs=("free_fall", "tidal")), r"p_norm: pairs must be one of .*, got 'tidal'"),
        (lambda g: constant(dt=0.0), "constant: dt must be > 0"),
        (lambda g: build_criterion("power_law", g), r"^build_criterion: name must be one of .*, got 'power_law'$"),
        (lambda g: build_criterion("gadget", g), r"^gadget: needs a softening length > 0, got 0\.0; soften gravity"),
        (lambda g: build_criterion("constant", g, dt=-1.0), "constant: dt must be > 0"),
        (lambda g: build_criterion("p_norm", g, p=-2.0), "p_norm: p must be > 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(build_gravity())
