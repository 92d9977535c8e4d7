"""The single step, against a leapfrog and an energy written out body by body, and finite differences."""

import math

import pytest
import torch
from torch.func import grad, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.learning.losses import compute_single_step_loss
from aits_func.learning.network import Layer
from aits_func.physics.criterion import no_constants
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_dkd, build_leapfrog_kdk, evolve
from aits_func.physics.pair_criteria import hut_makino, p_norm
from aits_func.physics.schemes import SCHEMES, build_scheme
from aits_func.physics.step_function import REVERSIBLE, PositionForm
from aits_func.physics.time_transformations import pair_norm
from aits_func.timestep.binding import bind
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import Policy, build_criterion_policy, build_residual_policy
from aits_func.timestep.step import attempt_single_step, build_step
from aits_func.timestep.transformation_policy import build_transformation_policy
from aits_func.timestep.window import first_sample

SOFTENING = 0.05
GRAVITY = build_gravity(softening=SOFTENING)
KDK = build_leapfrog_kdk(GRAVITY)


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


# The step is read off the system's clock: every sample brings its own, and the one parameter scales it.
CLOCK = Policy(lambda seed: tensor(1.0), lambda params, system, window: params * system.time)


def samples_with(dts, *, seed=1, bodies=3, dimensions=2):
    """Triples of size and speed 1, the wanted dt on their clocks."""
    systems = gaussian_cluster(
        seed, len(dts), bodies=bodies, dimensions=dimensions, position_scale=1.0, velocity_scale=0.5
    )
    return vmap(first_sample)(systems._replace(time=tensor(list(dts))))


def batched(step):
    return vmap(step, in_dims=(None, 0))


def naive_acceleration(mass, x, i, softening=SOFTENING):
    total = torch.zeros_like(x[i])
    for j in range(len(mass)):
        if j != i:
            d = x[j] - x[i]
            total = total + mass[j] * d / ((d * d).sum() + softening**2) ** 1.5
    return total


def naive_energies(mass, x, v, softening=SOFTENING):
    kinetic = sum(0.5 * mass[i] * (v[i] * v[i]).sum() for i in range(len(mass)))
    potential = 0.0
    for i in range(len(mass)):
        for j in range(i):
            potential = potential - mass[i] * mass[j] / (((x[j] - x[i]) ** 2).sum() + softening**2).sqrt()
    return kinetic, potential


def naive_leapfrog(mass, x, v, dt, n_steps=1):
    for _ in range(n_steps):
        v = v + dt / 2 * torch.stack([naive_acceleration(mass, x, i) for i in range(len(mass))])
        x = x + dt * v
        v = v + dt / 2 * torch.stack([naive_acceleration(mass, x, i) for i in range(len(mass))])
    return x, v


def naive_error(system, dt, n_steps=1, energy_scale="total"):
    (k0, w0), moved = naive_energies(*system[:3]), naive_leapfrog(*system[:3], dt, n_steps)
    k1, w1 = naive_energies(system.mass, *moved)
    e0 = k0 + w0
    scale = {"total": abs(e0), "kinetic": k0 + abs(w0), "source": abs(e0 + 1e-12 * abs(e0) + 1e-12)}[energy_scale]
    return abs(k1 + w1 - e0) / scale


@pytest.mark.parametrize("energy_scale", ["total", "kinetic", "source"])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_step_is_a_leapfrog_and_its_error_that_of_the_energy(energy_scale, n_steps, dimensions):
    samples = samples_with([0.3, 0.1, 0.02], dimensions=dimensions)
    step = build_step(CLOCK, GRAVITY, KDK, n_steps=n_steps, energy_scale=energy_scale, energy_threshold=1e-5)
    after, info = batched(step)(tensor(1.0), samples)
    for row in range(3):
        system = tree.take(samples.system, row)
        dt = system.time
        x, v = naive_leapfrog(*system[:3], dt, n_steps)
        # sums of three terms in another order, 1e-16 each
        torch.testing.assert_close(after.position[row], x, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(after.velocity[row], v, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(after.time[row], (1 + n_steps) * dt, rtol=1e-15, atol=0)
        assert info.dt[row] == dt
        # a difference of energies of size 1, which carry 1e-15
        expected = naive_error(system, dt, n_steps, energy_scale)
        torch.testing.assert_close(info.energy_error[row], expected, rtol=0, atol=1e-13)
        assert bool(info.accepted[row]) is bool(expected < 1e-5)
    assert info.accepted.any()
    assert not info.accepted.all()
    assert not info.exploded.any()
    assert torch.equal(after.mass, samples.system.mass)


@pytest.mark.parametrize("build", [build_leapfrog_kdk, build_leapfrog_dkd])
def test_n_steps_are_so_many_steps_of_the_one_predicted_dt(build):
    integrator = build(GRAVITY)
    sample = tree.take(samples_with([0.1]), 0)
    after, info = build_step(CLOCK, GRAVITY, integrator, n_steps=4)(tensor(1.0), sample)
    system = sample.system
    for _ in range(4):  # one at a time, the force at the start evaluated anew
        system = evolve(integrator, system, tensor(0.1))
    for ours, theirs in zip(after, system, strict=True):
        assert torch.equal(ours, theirs)  # the force handed on is the force evaluated anew, bit for bit
    expected = abs(GRAVITY.energy(system) - GRAVITY.energy(sample.system)) / abs(GRAVITY.energy(sample.system))
    torch.testing.assert_close(info.energy_error, expected, rtol=1e-15, atol=0)
    assert info.dt == 0.1  # as predicted, not the sum
    # the clock reads 0.1 at the start; had the policy been asked again it would have said more
    torch.testing.assert_close(after.time, tensor(0.5), rtol=1e-15, atol=0)


def test_a_step_is_accepted_if_and_only_if_its_error_is_below_the_threshold():
    sample = tree.take(samples_with([0.1]), 0)
    error = float(build_step(CLOCK, GRAVITY, KDK)(tensor(1.0), sample)[1].energy_error)
    assert error > 0
    for threshold, accepted in [(error, False), (math.nextafter(error, 1), True), (error / 2, False), (1.0, True)]:
        step = build_step(CLOCK, GRAVITY, KDK, energy_threshold=threshold)
        assert bool(step(tensor(1.0), sample)[1].accepted) is accepted


def test_the_bound_step_is_the_attempt_with_its_words_filled_in():
    sample = tree.take(samples_with([0.1]), 0)
    step = build_step(CLOCK, GRAVITY, KDK, n_steps=2, energy_threshold=1e-3, energy_scale="kinetic")
    words = {"policy": CLOCK, "gravity": GRAVITY, "scheme": KDK}
    options = {"n_steps": 2, "energy_threshold": 1e-3, "energy_scale": "kinetic"}
    for ours, theirs in zip(
        tree.leaves(step(tensor(1.0), sample)),
        tree.leaves(attempt_single_step(tensor(1.0), sample, **words, **options)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_an_inactive_sample_stays_and_passes_whatever_the_policy_says():
    samples = samples_with([0.3, 1e200, 0.3])._replace(active=torch.tensor([False, False, True]))
    after, info = batched(build_step(CLOCK, GRAVITY, KDK, n_steps=2, energy_threshold=1e-12))(tensor(1.0), samples)
    assert info.dt.tolist() == [0.0, 0.0, 0.3]
    assert info.energy_error[:2].tolist() == [0.0, 0.0]
    assert info.accepted.tolist() == [True, True, False]
    assert info.exploded.tolist() == [False] * 3
    for leaf, old in zip(after, samples.system, strict=True):
        assert torch.equal(leaf[:2], old[:2])
    assert not torch.equal(after.position[2], samples.system.position[2])


def test_an_inactive_sample_passes_even_if_its_energy_is_not_a_number():
    sample = tree.take(samples_with([0.3]), 0)
    system = sample.system._replace(velocity=1e200 * sample.system.velocity)
    sample = sample._replace(system=system, active=torch.tensor(False))
    after, info = build_step(CLOCK, GRAVITY, KDK)(tensor(1.0), sample)
    assert info.accepted
    assert info.dt == 0
    assert torch.equal(after.velocity, system.velocity)


@pytest.mark.parametrize("dt", [1e200, 1e120, math.inf, math.nan])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_an_exploded_step_is_infinite_in_error_flagged_and_leaves_the_system(dt, n_steps):
    samples = samples_with([0.05, dt, 0.05])
    after, info = batched(build_step(CLOCK, GRAVITY, KDK, n_steps=n_steps))(tensor(1.0), samples)
    assert info.exploded.tolist() == [False, True, False]
    assert info.energy_error[1] == math.inf
    assert info.energy_error[::2].isfinite().all()
    assert not info.accepted[1]
    torch.testing.assert_close(info.dt[1], tensor(dt), equal_nan=True, rtol=0, atol=0)  # reported as predicted
    for leaf, old in zip(after, samples.system, strict=True):
        torch.testing.assert_close(leaf[1], old[1], equal_nan=True, rtol=0, atol=0)


def mean_loss(step, params, samples):
    _, info = batched(step)(params, samples)
    return compute_single_step_loss(info.energy_error, info.dt, info.exploded).mean()


@pytest.mark.parametrize("n_steps", [1, 3])
def test_one_exploded_sample_leaves_the_gradient_of_everyone_else_as_it_is(n_steps):
    step = build_step(CLOCK, GRAVITY, KDK, n_steps=n_steps)
    samples = samples_with([0.3, 1e200, 0.2])
    per_sample = Policy(CLOCK.init, lambda params, system, window: params[0] * system.time)
    step = build_step(per_sample, GRAVITY, KDK, n_steps=n_steps)

    def total(scales, samples):  # a parameter for every sample, to see its own gradient
        _, info = vmap(step)((scales,), samples)
        return compute_single_step_loss(info.energy_error, info.dt, info.exploded).sum()

    slopes = grad(total)(torch.ones(3, dtype=torch.float64), samples)
    assert slopes.isfinite().all()
    alone = grad(total)(torch.ones(2, dtype=torch.float64), tree.take(samples, torch.tensor([0, 2])))
    torch.testing.assert_close(slopes[::2], alone, rtol=1e-13, atol=0)  # a smaller batch may sum in another order
    # of the exploded one: 2 r d ln dt/d scale = 2 · (−ln 1e-4)
    torch.testing.assert_close(slopes[1], tensor(2 * math.log(1e4)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_steps", [1, 5])
def test_the_gradient_is_finite_for_every_step_from_the_smallest_number_to_the_largest(dtype, n_steps):
    span = 0.999 * math.log10(torch.finfo(dtype).max)
    powers = torch.linspace(-span, span, 200, dtype=torch.float64)
    samples = tree.cast(samples_with((10.0**powers).tolist()), dtype=dtype)
    step = build_step(CLOCK, GRAVITY, KDK, n_steps=n_steps)

    def loss(scale, sample):
        _, info = step(scale, sample)
        return compute_single_step_loss(info.energy_error, info.dt, info.exploded), info

    slopes, info = vmap(grad(loss, has_aux=True))(torch.ones(200, dtype=dtype), samples)
    assert slopes.isfinite().all()
    assert (slopes[info.exploded] > 0).all()
    assert info.exploded[-1]
    assert not info.exploded[:100].any()
    first = int(info.exploded.nonzero()[0])  # every longer step explodes too: there is no gap in the middle
    assert info.exploded[first:].all()


def residual_policy(hidden=(3,)):
    return build_residual_policy(build_features("invariant", GRAVITY), p_norm(GRAVITY, eta=1.0), hidden=hidden)


def grown(params, seed=5):
    """Parameters in the midst of training: the last layer no longer zero."""
    make = torch.Generator().manual_seed(seed)
    layers = [
        Layer(*(0.5 * torch.randn(leaf.shape, generator=make, dtype=torch.float64) for leaf in layer))
        for layer in params["network"]
    ]
    return {**params, "network": tuple(layers)}


@pytest.mark.parametrize("n_steps", [1, 2])
def test_the_gradient_of_the_loss_is_that_of_central_differences(n_steps):
    policy = residual_policy()
    step = build_step(policy, GRAVITY, KDK, n_steps=n_steps)
    samples, params = samples_with([0.0] * 4, seed=3), grown(policy.init(0))
    slope = grad(lambda p: mean_loss(step, p, samples))(params)
    assert mean_loss(step, params, samples) > 1  # some lie outside of the band, or there were nothing to see
    leaves, h = tree.leaves(params), 1e-5
    for number, (leaf, derivative) in enumerate(zip(leaves, tree.leaves(slope), strict=True)):
        shifts = h * torch.eye(leaf.numel(), dtype=torch.float64).reshape(-1, *leaf.shape)

        def shifted(shift, number=number):
            moved = [old + shift if k == number else old for k, old in enumerate(leaves)]
            return mean_loss(step, tree.replace_leaves(params, moved), samples)

        difference = (vmap(shifted)(shifts) - vmap(shifted)(-shifts)) / (2 * h)
        # truncation h² f'''/6 = 1e-10 f'''; rounding: the energies carry 1e-16 and ε > 1e-5, so ln ε
        # carries 1e-11, divided by h: 1e-6 at worst. Measured: 6e-8, at gradients of 12
        torch.testing.assert_close(derivative.reshape(-1), difference, rtol=0, atol=1e-6)


def test_the_gradient_is_that_of_autograd_through_the_body_by_body_loops():
    policy = residual_policy()
    step = build_step(policy, GRAVITY, KDK)
    samples, params = samples_with([0.0] * 4, seed=3), grown(policy.init(0))
    slope = grad(lambda p: mean_loss(step, p, samples))(params)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    loss = 0.0
    for row in range(4):
        sample = tree.take(samples, row)
        dt = policy.apply(tree.replace_leaves(params, leaves), sample.system, sample.window)
        x = (naive_error(sample.system, dt) + 1e-12).log()
        loss = loss + (math.log(1e-6) - x).clamp(min=0) ** 2 + (x - math.log(1e-4)).clamp(min=0) ** 2
    (loss / 4).backward()
    for ours, leaf in zip(tree.leaves(slope), leaves, strict=True):
        # d ln ε / d dt = ΔE'/ΔE: energies carry 1e-15 of themselves, ΔE is 1e-4 of them
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-10, atol=1e-10)


def test_vmap_over_samples_is_the_loop():
    policy = residual_policy()
    step = build_step(policy, GRAVITY, KDK, energy_threshold=1e-5)
    samples, params = samples_with([0.0] * 6), grown(policy.init(0))
    after, info = batched(step)(params, samples)
    for row in range(6):
        one, its_info = step(params, tree.take(samples, row))
        for ours, theirs in zip(after, one, strict=True):
            torch.testing.assert_close(ours[row], theirs, rtol=1e-12, atol=1e-14)  # another order of summation
        torch.testing.assert_close(info.dt[row], its_info.dt, rtol=1e-12, atol=0)
        torch.testing.assert_close(info.energy_error[row], its_info.energy_error, rtol=0, atol=1e-13)
        assert info.accepted[row] == its_info.accepted


MOVING = build_tidal_field(0.5, straight_path([3.0, 1.0], [-1.0, 0.4]))


def test_in_a_moving_field_what_is_weighed_is_the_energy_less_the_work():
    gravity = build_gravity(softening=SOFTENING, field=MOVING)
    system = tree.take(gaussian_cluster(2, 1, position_scale=1.0, velocity_scale=0.5), 0)
    sample, dt = first_sample(system), tensor(0.02)
    policy = Policy(lambda seed: dt, lambda params, system, window: params)
    after, info = build_step(policy, gravity, build_leapfrog_kdk(gravity))(dt, sample)

    def field_energy(x, t):
        return sum(m * MOVING.potential(place, t) for m, place in zip(system.mass, x, strict=True))

    def energy(x, v, t):
        return sum(naive_energies(system.mass, x, v)) + field_energy(x, t)

    before = energy(system.position, system.velocity, system.time)
    end = energy(after.position, after.velocity, after.time)
    # the leapfrog's work: half a step of ∂ₜΦ at either end
    rates = [grad(field_energy, argnums=1)(s.position, s.time) for s in (system, after)]
    work = dt / 2 * (rates[0] + rates[1])
    torch.testing.assert_close(after.work, work, rtol=1e-13, atol=0)
    expected = abs(end - work - before) / abs(before)
    torch.testing.assert_close(info.energy_error, expected, rtol=0, atol=1e-12)  # rounding and the guard, of size 1
    # without the work the step would have been blamed for what the perturber did
    assert abs(end - before) / abs(before) > 30 * info.energy_error


def test_in_a_moving_field_the_error_of_one_step_is_of_third_order():
    gravity = build_gravity(softening=SOFTENING, field=MOVING)
    system = tree.take(gaussian_cluster(2, 1, position_scale=1.0, velocity_scale=0.5), 0)
    policy = Policy(lambda seed: (), lambda params, system, window: params)
    step = build_step(policy, gravity, build_leapfrog_kdk(gravity))
    errors = [float(step(tensor(dt), first_sample(system))[1].energy_error) for dt in (0.004, 0.002, 0.001)]
    # halving dt divides it by 8, up to the next order, which is dt times a rate of 1 to 10
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(8, rel=0.025)


def test_the_kinetic_scale_weighs_a_system_whose_total_energy_is_zero():
    # two bodies of mass 1 at distance 2, each at speed 1/√2: K = 1/2 and W = −1/2
    speed = math.sqrt(0.5)
    system = make_system(tensor([1.0, 1.0]), tensor([[1.0, 0.0], [-1.0, 0.0]]), tensor([[0.0, speed], [0.0, -speed]]))
    gravity = build_gravity()
    policy = Policy(lambda seed: (), lambda params, system, window: params)
    errors = {}
    for scale in ("total", "kinetic"):
        step = build_step(policy, gravity, build_leapfrog_kdk(gravity), energy_scale=scale)
        errors[scale] = float(step(tensor(0.1), first_sample(system))[1].energy_error)
        change = float(gravity.energy(step(tensor(0.1), first_sample(system))[0]) - gravity.energy(system))
    assert errors["kinetic"] == pytest.approx(abs(change), abs=1e-16)  # K₀ + |W₀| = 1
    assert errors["kinetic"] < 1e-4
    assert errors["total"] > 1e3  # the total is 0 to rounding, so nothing is left but the guard


def test_the_step_draws_no_random_numbers_and_changes_no_input():
    samples, params = samples_with([0.1, 1e200, 0.1]), tensor(1.0)
    before = [leaf.clone() for leaf in tree.leaves(samples)]
    state = torch.get_rng_state()
    batched(build_step(CLOCK, GRAVITY, KDK))(params, samples)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(leaf, old) for leaf, old in zip(tree.leaves(samples), before, strict=True))
    assert params == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps must be >= 1, got 0"),
        ({"energy_threshold": 0.0}, r"energy_threshold must be > 0 \(a relative energy error, e.g. 2e-4\), got 0.0"),
        ({"energy_threshold": math.nan}, "energy_threshold must be > 0 .*got nan"),
        ({"energy_threshold": 1e-18}, "energy_threshold must be >= 2.2e-16, the precision of energies in float64, got"),
        ({"energy_scale": "potential"}, "energy_scale must be one of total, kinetic, source, got 'potential'"),
    ],
)
def test_what_is_no_step_is_refused(options, message):
    with pytest.raises(ValueError, match=f"build_step: {message}"):
        build_step(CLOCK, GRAVITY, KDK, **options)


# --- schemes ---------------------------------------------------------------------------------------------------------


def learned(name, unit="natural"):
    """A policy in the midst of training where it belongs: (policy, params, scheme)."""
    if name == "time_transformed":
        policy = build_transformation_policy(GRAVITY, eta=0.3, unit=unit, hidden=(3,))
    else:
        policy = build_residual_policy(build_features("invariant", GRAVITY), p_norm(GRAVITY, eta=0.6), hidden=(3,))
    return policy, grown(policy.init(0)), build_scheme(name, GRAVITY)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("n_steps", [1, 2])
def test_a_step_is_the_begin_and_the_steps_of_its_scheme(name, n_steps):
    policy, params, scheme = learned(name)
    samples = samples_with([0.0] * 3)
    step = build_step(policy, GRAVITY, scheme, h=0.7, n_steps=n_steps, energy_threshold=1e-4)
    after, info = batched(step)(params, samples)
    for row in range(3):
        sample = tree.take(samples, row)
        rule = bind(policy, params, sample.window, scheme=scheme, gravity=GRAVITY)
        system, elapsed = sample.system, tensor(0.0)
        carry = scheme.init(rule, system)
        for _ in range(n_steps):
            system, carry, dt, _ = scheme.step(rule, system, carry, tensor(0.7))
            elapsed = elapsed + dt
        for ours, theirs in zip(tree.take(after, row), system, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)  # the same formulas, summed otherwise
        torch.testing.assert_close(info.dt[row], elapsed / n_steps, rtol=1e-12, atol=0)
        error = abs(GRAVITY.energy(system) - GRAVITY.energy(sample.system)) / abs(GRAVITY.energy(sample.system))
        # energies carry 1e-15 of their parts, some ten times the total; the guard is another 1e-12 of the error
        torch.testing.assert_close(info.energy_error[row], error, rtol=1e-10, atol=1e-13)
        assert bool(info.accepted[row]) == bool(error < 1e-4)
    assert not info.exploded.any()


@pytest.mark.parametrize("name", ["hairer_soderlind", "time_transformed"])
def test_what_a_scheme_carries_starts_afresh_from_the_parameters_at_hand(name):
    # η twice as large: ρ and W half, so twice the step, as nothing of the first attempt is kept
    criterion = pair_norm if name == "time_transformed" else p_norm
    policy = build_criterion_policy(criterion(GRAVITY, eta=1e-4))
    step = batched(build_step(policy, GRAVITY, build_scheme(name, GRAVITY)))
    samples, params = samples_with([0.0] * 3), policy.init(0)
    once, twice = (step({"log_eta": params["log_eta"] + math.log(k)}, samples)[1].dt for k in (1, 2))
    # up to the change of the step within itself, some η = 1e-4 of it
    torch.testing.assert_close(twice / once, torch.full((3,), 2.0, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["hairer_soderlind", "time_transformed"])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_the_gradient_in_a_reversible_scheme_is_that_of_central_differences(name, n_steps):
    policy, params, scheme = learned(name)
    step = build_step(policy, GRAVITY, scheme, n_steps=n_steps)
    samples = samples_with([0.0] * 4, seed=3)
    slope = grad(lambda p: mean_loss(step, p, samples))(params)
    assert mean_loss(step, params, samples) > 1  # some lie outside of the band, or there were nothing to see
    leaves, h = tree.leaves(params), 1e-5
    make = torch.Generator().manual_seed(0)
    for number, (leaf, derivative) in enumerate(zip(leaves, tree.leaves(slope), strict=True)):
        direction = torch.randn(leaf.shape, generator=make, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [old + sign * h * direction if k == number else old for k, old in enumerate(leaves)]
            ends.append(mean_loss(step, tree.replace_leaves(params, moved), samples))
        # as in the direct scheme: the energies carry 1e-16 and ε > 1e-5, so ln ε carries 1e-11, divided by h: 1e-6
        torch.testing.assert_close((derivative * direction).sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=3e-6)
    assert all(leaf.abs().max() > 0 for leaf in tree.leaves(slope))


def flying_apart(samples, row):
    """One of the systems expands so fast that its ρ or W would be negative after a step."""
    velocity = samples.system.velocity.clone()
    velocity[row] = 1e3 * samples.system.position[row]
    return samples._replace(system=samples.system._replace(velocity=velocity))


@pytest.mark.parametrize("name", ["hairer_soderlind", "time_transformed"])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_a_step_whose_transformation_turns_negative_has_exploded_and_leaves_the_others_alone(name, n_steps):
    policy, params, scheme = learned(name, unit="one")  # the natural unit would grow with the energy
    step = build_step(policy, GRAVITY, scheme, n_steps=n_steps)
    samples = flying_apart(samples_with([0.0] * 3, seed=3), 1)
    sample = tree.take(samples, 1)
    rule = bind(policy, params, sample.window, scheme=scheme, gravity=GRAVITY)
    out = scheme.step(rule, sample.system, scheme.init(rule, sample.system), tensor(1.0))
    assert not out.valid
    assert out.system.position.isfinite().all()  # not an overflow, but ρ or W

    after, info = batched(step)(params, samples)
    assert info.exploded.tolist() == [False, True, False]
    assert not info.accepted[1]
    assert info.energy_error[1] == math.inf
    # the dt that the policy said
    said = policy.apply(params, sample.system, sample.window)
    torch.testing.assert_close(info.dt[1], said, rtol=1e-12, atol=0)
    for leaf, old in zip(after, samples.system, strict=True):
        assert torch.equal(leaf[1], old[1])

    def losses(params, samples):
        _, info = batched(step)(params, samples)
        return compute_single_step_loss(info.energy_error, info.dt, info.exploded)

    slope = grad(lambda p: losses(p, samples)[::2].sum())(params)
    alone = grad(lambda p: losses(p, tree.take(samples, torch.tensor([0, 2]))).sum())(params)
    for ours, theirs in zip(tree.leaves(slope), tree.leaves(alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)  # a smaller batch sums in another order
    whole = grad(lambda p: losses(p, samples).sum())(params)
    assert all(leaf.isfinite().all() for leaf in tree.leaves(whole))


def test_a_reversible_scheme_refuses_a_policy_with_a_kink_and_one_of_unknown_traits():
    for name in ("hairer_soderlind", "time_transformed", "implicit_symmetric"):
        scheme = build_scheme(name, GRAVITY)
        with pytest.raises(ValueError, match=f"build_step: the scheme {name} is reversible, and .* is not smooth"):
            build_step(build_criterion_policy(hut_makino(GRAVITY)), GRAVITY, scheme)
        with pytest.raises(ValueError, match="a rule of your own declares what holds"):
            build_step(CLOCK, GRAVITY, scheme)
    build_step(CLOCK, GRAVITY, build_scheme("direct", GRAVITY))  # any rule will do


@pytest.mark.parametrize("h", [0.0, -1.0, math.nan])
def test_a_factor_that_is_not_positive_is_refused(h):
    with pytest.raises(ValueError, match=r"build_step: h must be > 0 \(a factor on the step, 1 for none\), got"):
        build_step(CLOCK, GRAVITY, KDK, h=h)


def test_h_is_a_factor_on_the_step():
    sample = tree.take(samples_with([0.1]), 0)
    _, info = build_step(CLOCK, GRAVITY, KDK, h=0.5)(tensor(1.0), sample)
    assert info.dt == 0.05


# The clock as a step function that reversible schemes take, on its word.
SWORN = CLOCK._replace(
    traits=REVERSIBLE,
    position_form=PositionForm(no_constants, lambda params, system, constants: 1 / (params * system.time)),
)


@pytest.mark.parametrize("name", ["hairer_soderlind", "time_transformed"])
def test_an_infinite_step_explodes_in_a_reversible_scheme_and_leaves_the_bodies_where_they_are(name):
    samples = samples_with([0.05, math.inf, 0.05])
    step = build_step(SWORN, GRAVITY, build_scheme(name, GRAVITY))

    after, info = batched(step)(tensor(1.0), samples)
    assert info.exploded.tolist() == [False, True, False]
    for leaf, old in zip(after[1:3], samples.system[1:3], strict=True):
        assert torch.equal(leaf[1], old[1])
