"""The time transformations against plain loops, their natural unit, and functions of one's own."""

import math

import pytest
import torch
from torch.func import grad, jvp

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.fields import build_tidal_field
from aits_func.physics.gravity import build_gravity
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.step_function import REVERSIBLE
from aits_func.physics.time_transformations import UNBOUND, UNITS, WEIGHTS, from_omega, logarithmic, pair_norm

F = torch.float64
ROUNDING = 1e-13  # powers of sums of at most 10 positive terms, and an energy that cancels to a tenth
EXPONENTS = [0.7, 1.0, 2.0, 5.0]


def random_system(N=4, D=3, *, seed=0, massless=0, speed=0.3):
    """Bound, at this speed, unless only one body has mass."""
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    velocity = velocity - (mass / mass.sum()) @ velocity
    return make_system(mass, position, speed * velocity)


def with_energy_zero(system, gravity, *, off=0.0):
    """The same places, and velocities at which K = |W| (1 + off)."""
    W = gravity.potential_energy(system)
    K = gravity.energy(system) - W
    return system._replace(velocity=system.velocity * ((1 + off) * W.abs() / K).sqrt())


def step(criterion, system):
    return criterion.timescale(criterion.init(), system).item()


def form_of(criterion, start, system):
    """(Ω/(η U) of ``system``, U of ``start``)."""
    params, form = criterion.init(), criterion.position_form
    constants = form.constants(params, start)
    return form.rate(params, system, constants).item(), constants.item()


def pairs_of(system, G, softening, weights):
    """(mᵢmⱼ, w, r, free-fall time) of all pairs, in plain Python."""
    mass, x = system.mass.tolist(), system.position.tolist()
    rows = []
    for i in range(len(mass)):
        for j in range(i):
            r = math.sqrt(math.dist(x[i], x[j]) ** 2 + softening**2)
            w = mass[i] * mass[j] if weights == "mass_product" else math.sqrt(mass[i] + mass[j])
            total = G * (mass[i] + mass[j])
            rows.append((mass[i] * mass[j], w, r, math.sqrt(r**3 / total) if total > 0 else math.inf))
    return rows


def naive_omega(system, p, G, softening, weights):
    return sum((w / r) ** p for _, w, r, _ in pairs_of(system, G, softening, weights)) ** (1 / p)


def naive_unit(system, p, G, softening, weights):
    """R = G Σ mᵢmⱼ / 2|E|, t_* = (R³/(G Σm))^½, Ω_* = ‖w‖_p / R, and U = Ω_* t_*."""
    rows = pairs_of(system, G, softening, weights)
    moving = zip(system.mass.tolist(), system.velocity.tolist(), strict=True)
    kinetic = sum(m * sum(c * c for c in v) / 2 for m, v in moving)
    energy = kinetic - sum(G * mm / r for mm, _, r, _ in rows)
    R = G * sum(mm for mm, _, _, _ in rows) / (2 * abs(energy))
    t = math.sqrt(R**3 / (G * sum(system.mass.tolist())))
    return sum(w**p for _, w, _, _ in rows) ** (1 / p) / R * t


@pytest.mark.parametrize("softening", [0.0, 0.5])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(("N", "D", "massless"), [(2, 2, 0), (4, 3, 2), (5, 2, 0)])
def test_the_pair_norm_is_that_of_a_loop_over_pairs_in_either_unit(N, D, massless, p, weights, softening):
    system, gravity = random_system(N, D, massless=massless), build_gravity(G=1.7, softening=softening)
    omega = naive_omega(system, p, 1.7, softening, weights)
    for unit in UNITS:
        U = 1.0 if unit == "one" else naive_unit(system, p, 1.7, softening, weights)
        criterion = pair_norm(gravity, eta=0.03, p=p, weights=weights, unit=unit)
        assert step(criterion, system) == pytest.approx(0.03 * U / omega, rel=ROUNDING)
        assert form_of(criterion, system, system) == pytest.approx((omega / (0.03 * U), U), rel=ROUNDING)


@pytest.mark.parametrize("unit", UNITS)
def test_the_logarithmic_one_is_the_potential_without_its_constant(unit):
    system, gravity = random_system(), build_gravity(G=1.7, softening=0.2)
    criterion = logarithmic(gravity, eta=0.03, unit=unit)
    rate, U = form_of(criterion, system, system)
    assert rate == pytest.approx(-gravity.potential_energy(system).item() / 1.7 / (0.03 * U), rel=ROUNDING)
    assert step(criterion, system) == step(pair_norm(gravity, eta=0.03, p=1.0, unit=unit), system)


def test_on_a_circular_orbit_the_natural_step_is_eta_over_the_orbital_rate():
    """R is the distance, t_* one over the rate, and Ω = Ω_*, whatever the weights and the exponent."""
    for weights in WEIGHTS:
        for p, distance in zip(EXPONENTS, (1e-3, 0.5, 2.0, 1e3), strict=True):
            mass, G = torch.tensor([1.0, 3.0], dtype=F), 2.0
            rate = math.sqrt(G * 4 / distance**3)
            position = torch.tensor([[-0.75 * distance, 0.0], [0.25 * distance, 0.0]], dtype=F)
            velocity = rate * position.flip(1) * torch.tensor([-1.0, 1.0], dtype=F)
            criterion = pair_norm(build_gravity(G=G), eta=0.01, p=p, weights=weights)
            system = make_system(mass, position, velocity)
            assert step(criterion, system) == pytest.approx(0.01 / rate, rel=1e-14)  # roots and powers of one pair


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_where_the_energy_is_zero_the_step_is_the_p_norm_of_free_fall_times(p, weights):
    gravity = build_gravity(G=1.7, softening=0.1)
    system = with_energy_zero(random_system(), gravity)
    fall = step(p_norm(gravity, eta=0.03, p=2.0), system)
    criterion = pair_norm(gravity, eta=0.03, p=p, weights=weights)
    assert step(criterion, system) == pytest.approx(fall, rel=ROUNDING)
    rate, U = form_of(criterion, system, system)
    assert rate * fall == pytest.approx(1.0, rel=ROUNDING)
    assert naive_omega(system, p, 1.7, 0.1, weights) * fall / 0.03 == pytest.approx(U, rel=ROUNDING)


def test_the_energy_counts_as_zero_below_its_bound_of_the_energy_size():
    gravity = build_gravity()
    # 2|E| = 2 off K of K + |W| = (2 + off) K: the ratio is off, up to its square
    for off, bound in ((2.1 * UNBOUND, True), (0.9 * UNBOUND, False), (-2.1 * UNBOUND, True), (-0.9 * UNBOUND, False)):
        system = with_energy_zero(random_system(), gravity, off=off)
        _, U = form_of(pair_norm(gravity), system, system)
        assert (abs(U / naive_unit(system, 2.0, 1.0, 0.0, "mass_product") - 1) < 1e-11) == bound  # E cancels to 1/100


def test_between_the_two_units_the_step_goes_smoothly():
    gravity = build_gravity()
    criterion = pair_norm(gravity)

    def log_step(off):
        return math.log(step(criterion, with_energy_zero(random_system(), gravity, off=off * UNBOUND)))

    # Over the whole way the step changes by a factor; in a thousandth of it by little, and its slope by less: a jump
    # would be the whole of it, a kink twice the slope.
    whole = abs(log_step(2.1) - log_step(0.9))
    assert whole > 0.1
    for off in (1.0, 1.3, 1.5, 1.7, 2.0):
        left, here, right = (log_step(off + shift) for shift in (-1e-3, 0.0, 1e-3))
        assert abs(right - left) < 0.02 * whole
        assert abs(right - 2 * here + left) < 1e-3 * whole


def test_with_one_massive_body_only_root_sum_sees_anything_and_its_unit_is_a_free_fall_time():
    system, gravity = random_system(4, 3, massless=3), build_gravity()
    # the three pairs of the massive body have a free-fall time; the others have neither that nor a weight
    expected = step(p_norm(gravity, eta=0.02, p=2.0), system)
    assert step(pair_norm(gravity, weights="root_sum"), system) == pytest.approx(expected, rel=ROUNDING)
    unseen = pair_norm(gravity)
    assert 1e30 < step(unseen, system) < math.inf
    assert form_of(unseen, system, system)[0] == 0


def test_a_test_particle_counts_by_the_root_of_the_sum_and_not_by_the_product():
    heavy = make_system(*(leaf[:3] for leaf in random_system(4)[:3]))
    position = torch.cat([heavy.position, heavy.position[:1] + 0.01])
    near = make_system(
        torch.cat([heavy.mass, torch.zeros(1, dtype=F)]), position, torch.cat([heavy.velocity, heavy.velocity[:1]])
    )
    gravity = build_gravity()
    by_product, by_sum = (pair_norm(gravity, weights=w, unit="one") for w in ("mass_product", "root_sum"))
    assert step(by_product, near) == step(by_product, heavy)
    assert step(by_sum, near) < 0.1 * step(by_sum, heavy)


def test_the_unit_is_read_where_a_run_begins_and_the_rate_follows_the_positions_alone():
    gravity = build_gravity()
    start, later = random_system(seed=1), random_system(seed=2)
    for unit in UNITS:
        criterion = pair_norm(gravity, eta=0.03, unit=unit)
        rate, U = form_of(criterion, start, later)
        assert rate == pytest.approx(naive_omega(later, 2.0, 1.0, 0.0, "mass_product") / (0.03 * U), rel=ROUNDING)
        faster = later._replace(velocity=3 * later.velocity, work=later.work + 1)
        assert form_of(criterion, start, faster) == (rate, U)


def test_the_natural_unit_is_the_same_in_every_frame_and_counts_the_work():
    system = random_system()
    boosted = system._replace(velocity=system.velocity + torch.tensor([3.0, -1.0, 0.5], dtype=F))
    for gravity in (build_gravity(), build_gravity(field=build_tidal_field(1.0, [5.0, 3.0, 0.0]))):
        ours, theirs = (form_of(pair_norm(gravity), state, state)[1] for state in (system, boosted))
        assert theirs == pytest.approx(ours, rel=ROUNDING)  # K about 10 times larger cancels
    # the energy is the conserved one, K + W − work
    kinetic = gravity.energy(system) - gravity.potential_energy(system)
    at_rest = system._replace(velocity=torch.zeros_like(system.velocity), work=system.work - kinetic)
    assert form_of(pair_norm(build_gravity()), at_rest, at_rest)[1] == pytest.approx(
        form_of(pair_norm(build_gravity()), system, system)[1], rel=ROUNDING
    )


def test_with_the_unit_one_the_step_has_the_caller_s_units():
    system, gravity = random_system(), build_gravity()
    criterion = pair_norm(gravity, unit="one")
    twice = system._replace(position=2 * system.position)  # powers of two: a rounding at most
    assert step(criterion, twice) == pytest.approx(2 * step(criterion, system), rel=1e-15)
    heavier = system._replace(mass=2 * system.mass)
    assert step(criterion, heavier) == pytest.approx(step(criterion, system) / 4, rel=1e-15)


def distance_rate(mass, position):
    return (mass[0] + mass[1]) / (position[1] - position[0]).pow(2).sum().sqrt()


def powered_rate(params, mass, position):
    return params["size"] * distance_rate(mass, position) ** params["power"].exp()


def test_a_function_of_one_s_own_is_the_rate_over_eta():
    system = random_system()
    criterion = from_omega(distance_rate, eta=0.1)
    expected = distance_rate(system.mass, system.position).item() / 0.1  # and a rounding or two
    assert step(criterion, system) == pytest.approx(1 / expected, rel=1e-15)
    params, form = criterion.init(), criterion.position_form
    assert form.constants(params, system) == ()
    assert form.rate(params, system, ()).item() == pytest.approx(expected, rel=1e-15)
    assert list(params) == ["log_eta"]


def test_a_function_with_parameters_of_its_own_has_them_beside_eta_and_a_gradient_by_them():
    def init():
        return {"size": torch.tensor(3.0, dtype=F), "power": torch.tensor(0.4, dtype=F)}

    system, criterion = random_system(), from_omega(powered_rate, eta=0.1, init=init)
    params = criterion.init()
    assert sorted(params) == ["log_eta", "omega"]
    assert params["omega"] == init()
    base = distance_rate(system.mass, system.position).item()
    expected = 3 * base ** math.exp(0.4) / 0.1  # and a few roundings, here and below
    for tau in (criterion.timescale(params, system), 1 / criterion.position_form.rate(params, system, ())):
        assert tau.item() == pytest.approx(1 / expected, rel=1e-14)
    slopes = grad(criterion.timescale)(params, system)
    # d ln τ by size, by power, by ln η
    assert slopes["omega"]["size"].item() == pytest.approx(-1 / expected / 3, rel=1e-14)
    assert slopes["omega"]["power"].item() == pytest.approx(-math.log(base) * math.exp(0.4) / expected, rel=ROUNDING)
    assert slopes["log_eta"].item() == pytest.approx(1 / expected, rel=1e-14)


def test_what_is_said_of_a_function_of_one_s_own_is_what_its_owner_says():
    assert from_omega(distance_rate).traits == REVERSIBLE
    assert from_omega(distance_rate, smooth=False).traits == REVERSIBLE._replace(smooth=False)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_step_and_its_derivatives_are_finite_where_the_energy_is_zero_and_without_mass(weights):
    gravity = build_gravity()
    systems = [random_system(4, massless=k) for k in (0, 2, 3)]
    systems += [with_energy_zero(systems[0], gravity)]
    systems += [system._replace(velocity=0 * system.velocity) for system in systems[:3]]
    criterion = pair_norm(gravity, weights=weights, p=0.7)
    params = criterion.init()
    for system in systems:
        slopes = grad(criterion.timescale, argnums=(0, 1))(params, system)
        assert all(leaf.isfinite().all() for leaf in tree.leaves(slopes))

        def rate(x, system=system):
            form = criterion.position_form
            return form.rate(params, system._replace(position=x), form.constants(params, system))

        assert jvp(rate, (system.position,), (system.position,))[1].isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: pair_norm(g, p=0.0), r"^pair_norm: p must be > 0 and finite \(e\.g\. 2\), got 0\.0$"),
        (lambda g: pair_norm(g, p=math.inf), "^pair_norm: p must be > 0 and finite"),
        (lambda g: pair_norm(g, p=math.nan), "^pair_norm: p must be > 0 and finite"),
        (
            lambda g: pair_norm(g, weights="mass"),
            r"^pair_norm: weights must be one of mass_product, root_sum, got 'mass'$",
        ),
        (lambda g: pair_norm(g, unit="two"), r"^pair_norm: unit must be one of natural, one, got 'two'$"),
        (lambda g: pair_norm(g, eta=0.0), "^pair_norm: eta must be > 0"),
        (lambda g: logarithmic(g, eta=math.nan), "^logarithmic: eta must be > 0"),
        (lambda g: logarithmic(g, unit="henon"), r"^logarithmic: unit must be one of natural, one, got 'henon'$"),
        (lambda g: from_omega(distance_rate, eta=-1.0), "^from_omega: eta must be > 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(build_gravity())
