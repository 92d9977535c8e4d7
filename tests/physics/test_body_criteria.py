"""The criteria of bodies against their formulas, with derivatives by nested forward mode of the acceleration alone."""

import math

import pytest
import torch
from torch.func import jacfwd, jvp

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.body_criteria import BALANCED, aarseth, gadget, prs23, prs23_moving, tidal
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.known_orbits import known_orbit

F = torch.float64
SHAPES = [(2, 2, 0), (2, 3, 1), (4, 3, 2), (5, 2, 0)]
EVERY = {"aarseth": aarseth, "prs23": prs23, "prs23_moving": prs23_moving, "gadget": gadget, "tidal": tidal}
# The acceleration is a sum of at most 4 terms that may exceed it tenfold, and each of up to three derivatives of it
# loses one more digit.
ROUNDING = {"rtol": 1e-11, "atol": 0}


def random_system(N=4, D=3, *, seed=0, massless=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 0.7)


def moving_field(D):
    return build_tidal_field(20.0, straight_path([4.0, -3.0, 2.0][:D], [0.5, 1.0, -0.3][:D]))


def two_bodies(*, distance=2.0, speed=0.0, softening=0.0):
    """A test particle beside a mass of 3 at rest, and the gravity of the two."""
    position = torch.tensor([[0.0, 0.0], [distance, 0.0]], dtype=F)
    velocity = torch.tensor([[0.0, 0.0], [0.0, speed]], dtype=F)
    system = make_system(torch.tensor([3.0, 0.0], dtype=F), position, velocity)
    return system, build_gravity(softening=softening)


def step(criterion, system):
    return criterion.timescale(criterion.init(), system)


def norms_of_each_body(gravity, system, *, most):
    """a, j, s, … of each body as floats: derivatives along the motion, nested, of ``gravity.acceleration`` alone."""

    def acceleration(x, v, t):
        return gravity.acceleration(system.mass, x, t)

    def along_the_motion(function):
        return lambda x, v, t: jvp(function, (x, v, t), (v, acceleration(x, v, t), torch.ones_like(t)))[1]

    function, columns = acceleration, []
    for _ in range(most + 1):
        columns.append([math.hypot(*vector) for vector in function(*system[1:4]).tolist()])
        function = along_the_motion(function)
    return list(zip(*columns, strict=True))


def naive_aarseth(gravity, system, eta, p=math.inf):
    rates = []
    for a, j, s, c in norms_of_each_body(gravity, system, most=3):
        if j > 0 or s > 0:
            rates.append(math.sqrt((j * c + s * s) / (eta * (a * s + j * j))))
    return 1 / max(rates) if p == math.inf else sum(rate**p for rate in rates) ** (-1 / p)


def naive_prs23(gravity, system, eta):
    bodies = norms_of_each_body(gravity, system, most=2)
    return eta * min(math.sqrt(2 * a * a / (j * j + a * s)) for a, j, s in bodies if j > 0 or s > 0)


def naive_tidal(gravity, system, eta, p=math.inf):
    # in space, as a planar system has a tide across its plane
    position = torch.nn.functional.pad(system.position, (0, 3 - system.position.shape[1]))
    rates = []
    for i in range(len(system.mass)):

        def force(place, i=i):
            moved = torch.cat([position[:i], place[None], position[i + 1 :]])
            return gravity.acceleration(system.mass, moved, system.time)[i]

        squares = sum(element**2 for row in jacfwd(force)(position[i]).tolist() for element in row)
        rates.append((squares / 6) ** 0.25 / math.sqrt(eta))
    return 1 / max(rates) if p == math.inf else sum(rate**p for rate in rates) ** (-1 / p)


@pytest.mark.parametrize("moving", [False, True], ids=["isolated", "moving field"])
@pytest.mark.parametrize("softening", [0.0, 0.5])
@pytest.mark.parametrize(("N", "D", "massless"), SHAPES)
def test_aarseth_and_prs23_are_those_of_a_loop_over_bodies(N, D, massless, softening, moving):
    system = random_system(N, D, massless=massless)
    gravity = build_gravity(G=1.7, softening=softening, field=moving_field(D) if moving else None)
    for p in (math.inf, 3.0):
        expected = naive_aarseth(gravity, system, 0.05, p)
        torch.testing.assert_close(step(aarseth(gravity, eta=0.05, p=p), system).item(), expected, **ROUNDING)
    expected = naive_prs23(gravity, system, 0.1)
    for build in (prs23, prs23_moving):  # nobody stands in balance in these systems
        torch.testing.assert_close(step(build(gravity, eta=0.1), system).item(), expected, **ROUNDING)


@pytest.mark.parametrize("moving", [False, True], ids=["isolated", "moving field"])
@pytest.mark.parametrize(("N", "D", "massless"), SHAPES)
def test_gadget_s_step_is_that_of_the_most_accelerated_body(N, D, massless, moving):
    system = random_system(N, D, massless=massless)
    gravity = build_gravity(G=1.7, softening=0.3, field=moving_field(D) if moving else None)
    steps = [math.sqrt(2 * 0.04 * 0.3 / a) for (a,) in norms_of_each_body(gravity, system, most=0) if a > 0]
    torch.testing.assert_close(step(gadget(gravity, eta=0.04), system).item(), min(steps), **ROUNDING)


@pytest.mark.parametrize("softening", [0.0, 0.5])
@pytest.mark.parametrize("p", [math.inf, 1.0, 4.0])
@pytest.mark.parametrize(("N", "D", "massless"), SHAPES)
def test_the_tidal_step_is_that_of_the_derivative_of_each_force_by_the_body_s_own_place(N, D, massless, p, softening):
    system = random_system(N, D, massless=massless)
    gravity = build_gravity(G=1.7, softening=softening)
    expected = naive_tidal(gravity, system, 1e-3, p)
    torch.testing.assert_close(step(tidal(gravity, eta=1e-3, p=p), system).item(), expected, **ROUNDING)


def test_near_a_point_mass_the_tidal_step_is_a_free_fall_time():
    system, gravity = two_bodies(distance=2.0)
    # ‖T‖² = 6 (GM/r³)²: a rounding or two per power
    assert step(tidal(gravity, eta=1e-4), system).item() == pytest.approx(0.01 * math.sqrt(8 / 3), rel=1e-14)


@pytest.mark.parametrize(
    ("build", "factor"),
    # on a circle a, j, s, c are in the ratio 1 : ω : ω² : ω³, so every root is a number over ω
    [(lambda g: aarseth(g, eta=0.09), 0.3), (lambda g: prs23(g, eta=0.1), 0.1), (lambda g: prs23_moving(g), 0.175)],
)
def test_on_a_circular_orbit_the_step_is_a_fixed_part_of_the_period(build, factor):
    for distance in (0.5, 2.0, 1e4):
        rate = math.sqrt(3 / distance**3)
        system, gravity = two_bodies(distance=distance, speed=rate * distance)
        assert step(build(gravity), system).item() == pytest.approx(factor / rate, rel=1e-13)  # three derivatives


@pytest.mark.parametrize("dtype", [F, torch.float32])
def test_at_the_start_of_the_figure_eight_prs23_freezes_and_prs23_moving_does_not(dtype):
    system, gravity = tree.cast(known_orbit("figure_eight"), dtype=dtype), build_gravity()
    frozen, moving = (
        criterion.timescale(tree.cast(criterion.init(), dtype=dtype), system)
        for criterion in (prs23(gravity), prs23_moving(gravity))
    )
    # The middle body has a = 0 up to a rounding or two, and a jerk of order 1: dt is of the order of a rounding.
    assert 0 < frozen < 10 * torch.finfo(dtype).eps
    others = [norms for norms in norms_of_each_body(gravity, known_orbit("figure_eight"), most=2) if norms[0] > 1e-9]
    assert len(others) == 2
    expected = min(0.175 * math.sqrt(2 * a * a / (j * j + a * s)) for a, j, s in others)
    assert moving.item() == pytest.approx(expected, rel=100 * torch.finfo(dtype).eps)  # three derivatives


def test_around_a_passage_through_balance_the_skipped_stretch_is_that_of_the_bound():
    """A body off the middle by δ has a ≈ 4δ, and pulls of 2 in sum: it is skipped for δ < BALANCED/2."""
    base, gravity = known_orbit("figure_eight"), build_gravity()

    def step_of(criterion, off):
        shifted = base.position.clone()
        shifted[2, 0] += off
        return step(criterion, base._replace(position=shifted)).item()

    for part, counts in ((0.4, False), (0.6, True)):
        plain, skipping = (step_of(build(gravity), part * BALANCED) for build in (prs23, prs23_moving))
        assert (plain == skipping) == counts
        assert plain < 0.1 * step_of(prs23_moving(gravity), 0.0)  # a/j of the middle one is of order BALANCED


@pytest.mark.parametrize("name", EVERY)
def test_in_a_unit_of_time_twice_as_long_the_step_is_half_the_number(name):
    system = random_system(4, 3, massless=1)
    same = system._replace(velocity=2 * system.velocity)
    ours, theirs = (
        step(EVERY[name](build_gravity(G=G, softening=0.25)), state) for G, state in ((1.0, system), (4.0, same))
    )
    # powers of two do not round, but their square roots' factors may
    torch.testing.assert_close(theirs, ours / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["aarseth", "prs23", "prs23_moving", "tidal"])
def test_in_single_precision_a_close_encounter_has_a_step_though_the_products_overflow(name):
    distance = 1e-5
    speed = math.sqrt(3 / distance)  # a = 3e10, j = 2e18, s = 1e26, c = 5e33 and j c overflows 3e38
    system, gravity = two_bodies(distance=distance, speed=speed)
    criterion = EVERY[name](gravity)
    params, single = tree.cast((criterion.init(), system), dtype=torch.float32)
    # 6e-8 times what three derivatives make of it
    assert criterion.timescale(params, single).item() == pytest.approx(step(criterion, system).item(), rel=1e-4)


def test_the_parameter_is_the_logarithm_of_eta_and_can_be_moved():
    system, gravity = random_system(), build_gravity(softening=0.2)
    for build in EVERY.values():
        moved = build(gravity, eta=0.01).timescale(build(gravity, eta=0.5).init(), system)
        torch.testing.assert_close(moved, step(build(gravity, eta=0.5), system), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: aarseth(g, p=0.0), r"^aarseth: p must be > 0 \(infinite for the minimum\), got 0\.0$"),
        (lambda g: aarseth(g, p=math.nan), "^aarseth: p must be > 0"),
        (lambda g: aarseth(g, eta=0.0), r"^aarseth: eta must be > 0 and finite \(e\.g\. 0\.02\), got 0\.0$"),
        (lambda g: prs23(g, eta=math.nan), "^prs23: eta must be > 0"),
        (lambda g: prs23_moving(g, eta=-1.0), "^prs23_moving: eta must be > 0"),
        (lambda g: tidal(g, p=-2.0), r"^tidal: p must be > 0 \(infinite for the minimum\), got -2\.0$"),
        (lambda g: tidal(g, eta=math.inf), "^tidal: eta must be > 0 and finite"),
        (
            lambda g: gadget(g),
            r"^gadget: needs a softening length > 0, got 0\.0; soften gravity, or use tidal$",
        ),
        (lambda g: gadget(build_gravity(softening=0.1), eta=0.0), "^gadget: eta must be > 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(build_gravity())
