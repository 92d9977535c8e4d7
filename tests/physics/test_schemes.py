"""Schemes by name, what all of them have in common, and an integrator or a scheme as so many steps of one."""

import math

import pytest
import torch
from torch.func import jvp, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.compositions import COMPOSITIONS
from aits_func.physics.gravity import build_gravity, work_on_all
from aits_func.physics.integrators import INTEGRATORS, build_integrator
from aits_func.physics.invariants import angular_momentum, linear_momentum
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.schemes import SCHEMES, as_scheme, build_scheme
from aits_func.physics.step_function import StepFunction

F = torch.float64
EVERY = [
    ("direct", {}),
    ("direct", {"integrator": "hermite"}),
    ("implicit_symmetric", {"integrator": "yoshida4"}),
    ("hairer_soderlind", {}),
    ("hairer_soderlind", {"positions_only": True}),
    ("hairer_soderlind", {"order": 4}),
    ("time_transformed", {}),
    ("time_transformed", {"order": 4}),
]
ALL = pytest.mark.parametrize(("name", "options"), EVERY, ids=[" ".join([n, *map(str, o.values())]) for n, o in EVERY])


def tensor(values):
    return torch.tensor(values, dtype=F)


def random_system(N=3, D=2, *, seed=0, massless=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 0.25)


def rule_of(gravity, *, eta=0.1, dtype=F):
    criterion = p_norm(gravity, eta=eta)
    params, form = tree.cast(criterion.init(), dtype=dtype), criterion.position_form
    return StepFunction(
        lambda system: criterion.timescale(params, system),
        lambda system: form.constants(params, system),
        lambda system, constants: form.rate(params, system, constants),
    )


def run(scheme, rule, system, h, n_steps):
    """(system, sum of dt) after that many steps."""
    carry, elapsed = scheme.init(rule, system), torch.zeros_like(system.time)
    for _ in range(n_steps):
        out = scheme.step(rule, system, carry, h)
        system, carry, elapsed = out.system, out.carry, elapsed + out.dt
    return system, elapsed


@ALL
def test_force_evaluations_and_those_of_the_rule_are_as_many_as_declared(name, options):
    plain, forces, rules = build_gravity(softening=0.1), [], []

    def counted(function, calls):
        def call(*arguments):
            calls.append(1)
            return function(*arguments)

        return call

    gravity = plain._replace(acceleration=counted(plain.acceleration, forces))
    base = rule_of(plain)
    rule = StepFunction(counted(base.timescale, rules), base.constants, counted(base.rate, rules))
    scheme, system = build_scheme(name, gravity, **options), random_system()
    carry = scheme.init(rule, system)
    assert len(forces) == scheme.evaluations_at_start
    rules.clear()
    for k in range(1, 4):
        out = scheme.step(rule, system, carry, tensor(0.1))
        system, carry = out.system, out.carry
        assert len(forces) == scheme.evaluations_at_start + k * scheme.evaluations_per_step
        assert len(rules) == k * scheme.rule_evaluations


@ALL
def test_a_step_of_h_zero_changes_nothing(name, options):
    gravity, system = build_gravity(softening=0.1), random_system()._replace(work=tensor(0.3))
    after, elapsed = run(build_scheme(name, gravity, **options), rule_of(gravity), system, tensor(0.0), 2)
    assert elapsed == 0
    for leaf, start in zip(after, system, strict=True):
        assert torch.equal(leaf, start)


@ALL
def test_a_short_step_takes_h_times_the_step_of_the_rule_and_follows_velocity_and_force(name, options):
    gravity, system = build_gravity(softening=0.1), random_system()
    scheme, rule = build_scheme(name, gravity, **options), rule_of(gravity)
    carry = scheme.init(rule, system)
    at_zero, unit = tensor(0.0), tensor(1.0)
    _, slope = jvp(lambda h: tuple(scheme.step(rule, system, carry, h).system), (at_zero,), (unit,))
    tau = rule.timescale(system)
    force = gravity.acceleration(system.mass, system.position, system.time)
    # derivatives at h = 0: the same sums, in another order
    torch.testing.assert_close(slope[1], tau * system.velocity, rtol=1e-13, atol=0)
    torch.testing.assert_close(slope[2], tau * force, rtol=1e-13, atol=0)
    torch.testing.assert_close(slope[3], tau, rtol=1e-13, atol=0)


@ALL
def test_dt_is_what_the_clock_advances_by_and_masses_and_momenta_stay(name, options):
    gravity, system = build_gravity(softening=0.1), random_system(4, 3, massless=1)
    after, elapsed = run(build_scheme(name, gravity, **options), rule_of(gravity), system, tensor(0.5), 20)
    assert elapsed > 0.1
    torch.testing.assert_close(after.time, system.time + elapsed, rtol=1e-14, atol=0)  # 100 stages, rounded at random
    assert torch.equal(after.mass, system.mass)
    assert work_on_all(after) == 0
    for kept in (linear_momentum, angular_momentum):
        # every kick is of pairs; Hermite keeps the angular momentum to its order alone
        loose = kept is angular_momentum and options.get("integrator") == "hermite"
        torch.testing.assert_close(kept(after), kept(system), rtol=0, atol=1e-4 if loose else 1e-13)


@ALL
def test_a_batch_with_an_h_for_every_system_is_the_systems_one_by_one(name, options):
    gravity = build_gravity(softening=0.1)
    scheme, rule = build_scheme(name, gravity, **options), rule_of(gravity)
    systems, h = [random_system(seed=k) for k in range(3)], tensor([0.0, 0.3, 0.6])
    batch, _ = vmap(lambda system, h: run(scheme, rule, system, h, 2))(tree.stack(systems), h)
    for k, system in enumerate(systems):
        alone, _ = run(scheme, rule, system, h[k], 2)
        for ours, theirs in zip(tree.take(batch, k), alone, strict=True):
            # vmap and a Python loop agree to rounding, not bit for bit
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@ALL
def test_single_precision_stays_single(name, options):
    gravity, system = build_gravity(softening=0.1), tree.cast(random_system(), dtype=torch.float32)
    scheme, rule = build_scheme(name, gravity, **options), rule_of(gravity, dtype=torch.float32)
    out = scheme.step(rule, system, scheme.init(rule, system), torch.tensor(0.5))
    assert all(leaf.dtype == torch.float32 for leaf in tree.leaves((out.system, out.carry, out.dt)))
    assert out.valid.dtype == torch.bool


@ALL
def test_a_step_is_differentiable_by_h_and_the_rule(name, options):
    gravity, system = build_gravity(softening=0.1), random_system()
    scheme = build_scheme(name, gravity, **options)

    def kinetic(h, log_eta):
        criterion = p_norm(gravity)
        form, params = criterion.position_form, {"log_eta": log_eta}
        rule = StepFunction(
            lambda state: criterion.timescale(params, state),
            lambda state: (),
            lambda state, constants: form.rate(params, state, constants),
        )
        return run(scheme, rule, system, h, 2)[0].velocity.pow(2).sum()

    h, log_eta, small = tensor(0.8), tensor(math.log(0.3)), 1e-5
    for which, slope in enumerate(torch.func.grad(kinetic, argnums=(0, 1))(h, log_eta)):
        high, low = (kinetic(h + s * (which == 0), log_eta + s * (which == 1)) for s in (small, -small))
        # central difference: small² = 1e-10 for the curve, with a coefficient of up to 1000, and rounding over small
        torch.testing.assert_close(slope, (high - low) / (2 * small), rtol=1e-7, atol=1e-10)


def test_a_scheme_by_name_has_that_name_and_the_order_asked_for():
    gravity = build_gravity()
    for name in SCHEMES:
        assert build_scheme(name, gravity).name == name
        assert build_scheme(name, gravity).stages == (1.0,)
    for order in COMPOSITIONS:
        for name in ("hairer_soderlind", "time_transformed"):
            scheme = build_scheme(name, gravity, order=order)
            assert scheme.stages == COMPOSITIONS[order]
            assert scheme.name == name


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_direct_and_the_implicit_scheme_step_with_the_integrator_of_that_name(integrator):
    gravity, system = build_gravity(softening=0.1), random_system()
    rule = StepFunction(lambda state: torch.full_like(state.time, 0.1), lambda state: (), lambda state, _: None)
    method = build_integrator(integrator, gravity)
    expected, _ = method.step(system, method.init(system), tensor(0.05))
    for name in ("direct", "implicit_symmetric"):
        after, _ = run(build_scheme(name, gravity, integrator=integrator), rule, system, tensor(0.5), 1)
        assert torch.equal(after.position, expected.position)
        assert torch.equal(after.velocity, expected.velocity)


def test_hairer_soderlind_drifts_first_exactly_if_its_rule_is_of_positions_alone():
    gravity, system = build_gravity(softening=0.1), random_system()
    rule = rule_of(gravity)
    for positions_only in (False, True):
        scheme = build_scheme("hairer_soderlind", gravity, positions_only=positions_only)
        assert scheme.position_form == positions_only
        assert scheme.evaluations_at_start == (0 if positions_only else 1)
        out = scheme.step(rule, system, scheme.init(rule, system), tensor(0.5))
        base = build_integrator("leapfrog_dkd" if positions_only else "leapfrog_kdk", gravity)
        expected, _ = base.step(system, base.init(system), out.dt)
        assert torch.equal(out.system.position, expected.position)
        assert torch.equal(out.system.velocity, expected.velocity)
    for name in ("direct", "implicit_symmetric", "time_transformed"):
        assert build_scheme(name, gravity, positions_only=True).position_form == (name == "time_transformed")


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_an_integrator_as_a_scheme_takes_so_many_steps_of_one_dt(name, n_steps):
    gravity, system = build_gravity(softening=0.1), random_system()
    integrator, rule = build_integrator(name, gravity), rule_of(gravity)
    scheme = as_scheme(integrator, n_steps=n_steps)
    assert (scheme.name, scheme.equal_steps, scheme.rule_evaluations) == ("direct", n_steps, 1)
    assert scheme.evaluations_per_step == n_steps * integrator.evaluations_per_step
    after, elapsed = run(scheme, rule, system, tensor(0.5), 1)
    dt, carry, state = 0.5 * rule.timescale(system), integrator.init(system), system
    for _ in range(n_steps):
        state, carry = integrator.step(state, carry, dt)
    assert elapsed == n_steps * dt
    for ours, theirs in zip(after, state, strict=True):
        assert torch.equal(ours, theirs)


@ALL
def test_a_scheme_of_so_many_steps_takes_as_many_steps_of_h(name, options):
    gravity, system = build_gravity(softening=0.1), random_system()
    base, rule, h = build_scheme(name, gravity, **options), rule_of(gravity), tensor(0.5)
    several = as_scheme(base, n_steps=3)
    assert several.evaluations_per_step == 3 * base.evaluations_per_step
    assert several.rule_evaluations == 3 * base.rule_evaluations
    assert several.evaluations_at_start == base.evaluations_at_start
    assert several.equal_steps == 3 * base.equal_steps
    ours, elapsed = run(several, rule, system, h, 1)
    theirs, dt = run(base, rule, system, h, 3)
    assert elapsed.item() == pytest.approx(dt.item(), rel=1e-14)  # a sum of sums
    for leaf, expected in zip(ours, theirs, strict=True):
        assert torch.equal(leaf, expected)
    assert as_scheme(base) == base


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, options in EVERY if build_scheme(name, build_gravity(), **options).equal_steps],
)
def test_at_constant_step_a_scheme_of_equal_steps_takes_that_many_times_h_tau(name, options):
    scheme = as_scheme(build_scheme(name, build_gravity(softening=0.1), **options), n_steps=4)
    rule = StepFunction(lambda state: torch.full_like(state.time, 0.125), lambda state: (), lambda state, _: None)
    _, elapsed = run(scheme, rule, random_system(), tensor(0.5), 1)
    assert elapsed == scheme.equal_steps * 0.5 * 0.125


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: build_scheme("leapfrog", g),
            r"^build_scheme: name must be one of direct, implicit_symmetric, hairer_soderlind, time_transformed, got "
            r"'leapfrog'$",
        ),
        (lambda g: build_scheme("direct", g, order=4), r"^compose: only an explicit .* order 4; direct is not"),
        (lambda g: build_scheme("implicit_symmetric", g, order=6), r"^compose: .* order 6; implicit_symmetric is not"),
        (lambda g: build_scheme("time_transformed", g, order=5), r"^compose: order must be one of 2, 4, 6, 8, got 5$"),
        (lambda g: build_scheme("direct", g, integrator="euler"), r"^build_integrator: name must be one of .*'euler'$"),
        (
            lambda g: as_scheme(build_integrator("hermite", g), n_steps=0),
            r"^build_direct: n_steps must be >= 1, got 0$",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(build_gravity())
