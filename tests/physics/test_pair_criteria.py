"""The criteria of pair times that test_criteria does not know one by one: Hut–Makino and HUAYNO."""

import math

import pytest
import torch
from torch.func import grad, jvp

from aits_func.base.check import make_system
from aits_func.physics.gravity import build_gravity
from aits_func.physics.pair_criteria import fly_by, free_fall, huayno, hut_makino, p_norm

F = torch.float64
ROUNDING = {"rtol": 1e-13, "atol": 0}  # differences that cancel to a tenth, powers, and a minimum of at most 30 terms


def random_system(N=4, D=3, *, seed=0, massless=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity)


def step(criterion, system):
    return criterion.timescale(criterion.init(), system)


def naive_steps(system, eta, G, softening, *, symmetric):
    """Free-fall and fly-by times of all pairs that have them, as in the table of formulas."""
    mass, x, v = (leaf.tolist() for leaf in system[:3])
    steps = []
    for i in range(len(mass)):
        for j in range(i):
            dx, dv = ([b - a for a, b in zip(y[i], y[j], strict=True)] for y in (x, v))
            r = math.sqrt(sum(c * c for c in dx) + softening**2)
            speed, Gm = math.hypot(*dv), G * (mass[i] + mass[j])
            product = sum(a * b for a, b in zip(dx, dv, strict=True)) / r**2
            pair = []
            if Gm > 0:
                tau = eta * math.sqrt(r**3 / Gm)
                pair.append((tau, 1.5 * tau * product))
            if speed > 0 and Gm > 0:
                tau = eta * r / speed
                pair.append((tau, tau * product * (1 + Gm / (speed**2 * r))))
            steps += [tau / (1 - min(change, 1) / 2) if symmetric else tau for tau, change in pair]
    return steps


@pytest.mark.parametrize("softening", [0.0, 0.5])
@pytest.mark.parametrize("eta", [0.03, 3.0])  # at 3 most derivatives are beyond the cap
@pytest.mark.parametrize(("N", "D", "massless"), [(2, 2, 0), (2, 3, 1), (4, 3, 2), (6, 2, 3)])
@pytest.mark.parametrize(("build", "symmetric"), [(hut_makino, False), (huayno, True)])
@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_the_shortest_of_a_loop_over_pairs(build, symmetric, N, D, massless, eta, softening, seed):
    system = random_system(N, D, massless=massless, seed=seed)
    ours = step(build(build_gravity(G=1.7, softening=softening), eta=eta), system)
    expected = min(naive_steps(system, eta, 1.7, softening, symmetric=symmetric))
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=F), **ROUNDING)


@pytest.mark.parametrize("p", [1.0, 2.0, 5.0])
def test_hut_makino_at_a_finite_exponent_is_the_p_norm_of_both_times(p):
    system, gravity = random_system(), build_gravity(softening=0.1)
    both = p_norm(gravity, eta=0.03, p=p, pairs=("free_fall", "fly_by"))
    assert step(hut_makino(gravity, p=p), system) == step(both, system)


def test_hut_makino_is_the_shorter_of_its_two_parts():
    for seed in range(5):
        system, gravity = random_system(seed=seed), build_gravity()
        parts = [step(build(gravity, eta=0.03), system) for build in (free_fall, fly_by)]
        assert step(hut_makino(gravity), system) == min(parts)


@pytest.mark.parametrize("kind", ["free_fall", "fly_by"])
@pytest.mark.parametrize("softening", [0.0, 0.4])
def test_what_huayno_takes_for_the_derivative_of_a_pair_time_is_the_one_along_the_orbit_of_the_pair(kind, softening):
    gravity = build_gravity(G=1.7, softening=softening)
    for seed in range(6):
        system = random_system(2, 3, seed=seed)
        # a hundred times faster or slower than free fall, so that the minimum is of the kind in question
        system = system._replace(velocity=system.velocity * (100 if kind == "fly_by" else 0.01))
        if kind == "free_fall" and (system.position[1] - system.position[0]) @ system.velocity.diff(dim=0)[0] < 0:
            system = system._replace(velocity=-system.velocity)  # apart: else the fly-by time shrinks to about 0
        plain = {"free_fall": free_fall, "fly_by": fly_by}[kind](gravity, eta=1e-3)
        acceleration = gravity.acceleration(system.mass, system.position, system.time)
        tau, change = jvp(
            lambda x, v, s=system, rule=plain: step(rule, s._replace(position=x, velocity=v)),
            (system.position, system.velocity),
            (system.velocity, acceleration),
        )
        torch.testing.assert_close(step(huayno(gravity, eta=1e-3), system), tau / (1 - change / 2), **ROUNDING)


def test_bodies_at_rest_have_a_free_fall_time_alone():
    system, gravity = random_system(), build_gravity()
    system = system._replace(velocity=torch.ones_like(system.velocity))  # a boost is no motion
    for build in (hut_makino, huayno):
        torch.testing.assert_close(step(build(gravity, eta=0.02), system), step(free_fall(gravity), system), **ROUNDING)


def test_of_bodies_that_just_left_rest_huayno_s_step_grows_with_their_speed():
    """They fall for a time v/a before they have that speed; the step is η-free and about that time."""
    gravity = build_gravity()
    position = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=F)
    for speed in (1e-3, 1e-6, 1e-9):
        velocity = torch.tensor([[speed, 0.0], [0.0, 0.0]], dtype=F)  # towards each other
        system = make_system(torch.tensor([0.5, 0.5], dtype=F), position, velocity)
        # 2 v r²/(G m): what is left out is of relative order v and v/η
        assert step(huayno(gravity), system).item() == pytest.approx(2 * speed, rel=100 * speed + 1e-13)


def test_the_parameter_of_huayno_has_a_gradient():
    criterion, system = huayno(build_gravity()), random_system()
    params, small = criterion.init(), 1e-6
    slope = grad(criterion.timescale)(params, system)["log_eta"]
    high, low = (criterion.timescale({"log_eta": params["log_eta"] + s}, system) for s in (small, -small))
    # central difference: small² for the curve, 1e-16/small for rounding
    torch.testing.assert_close(slope, (high - low) / (2 * small), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: hut_makino(g, p=0.0), r"^hut_makino: p must be > 0 \(infinite for the minimum\), got 0\.0$"),
        (lambda g: hut_makino(g, p=math.nan), "hut_makino: p must be > 0"),
        (lambda g: hut_makino(g, eta=-1.0), "hut_makino: eta must be > 0"),
        (lambda g: huayno(g, eta=0.0), "huayno: eta must be > 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(build_gravity())
