"""A float32 step is weighed in float64: its energy error is that of the states, not of the sums."""

import torch
from torch.func import grad, vmap

import aits_func as af
from aits_func.base.tree import cast, leaves

SMALL = 3e-3  # of a criterion whose energy errors per step, in exact arithmetic, are some 1e-11


def small_steps(systems):
    """One step of a few thousandths of a free-fall time, by a criterion; samples, step and parameters."""
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=SMALL))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
    samples = vmap(af.first_sample)(systems)
    return step, policy.init(0), samples


def test_small_float32_steps_have_the_error_that_exact_sums_over_their_states_have():
    systems = cast(af.gaussian_cluster(0, 500, bodies=8), dtype=torch.float32)
    step, params, samples = small_steps(systems)
    after, info = vmap(step, in_dims=(None, 0))(cast(params, dtype=torch.float32), samples)
    gravity = af.build_gravity()
    before, then = (vmap(gravity.energy)(cast(x, dtype=torch.float64)) for x in (systems, after))
    exact = ((then - before) / before).abs()
    assert info.energy_error.dtype == after.position.dtype == torch.float32
    # ε itself is a float32: rounding 6e-8, relative.
    torch.testing.assert_close(info.energy_error.double(), exact, rtol=1e-6, atol=1e-11)
    # Sums in float32 give 0 for every tenth system, and 6e-8 for the median.
    assert (info.energy_error == 0).sum() < 5
    assert info.energy_error.median() < 3e-8


def test_the_gradient_of_a_float32_error_is_that_of_float64():
    systems = af.gaussian_cluster(3, 40, bodies=3)
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=0.2))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))

    def slope(dtype):
        samples = cast(vmap(af.first_sample)(systems), dtype=dtype)
        params = cast(policy.init(0), dtype=dtype)

        def error(params, sample):
            return step(params, sample)[1].energy_error.log()

        grads = vmap(grad(error), in_dims=(None, 0))(params, samples)
        return torch.cat([leaf.flatten() for leaf in leaves(grads)])

    double, single = slope(torch.float64), slope(torch.float32)
    assert single.dtype == torch.float32
    # The states are rounded by 6e-8; their energy errors are larger than 1e-4 for nearly all of these.
    assert ((single.double() - double).abs() < 1e-3 * double.abs()).double().mean() > 0.9


def test_a_float32_run_reports_the_error_of_its_states_with_statistics_and_without():
    systems = cast(af.gaussian_cluster(1, 20, bodies=3), dtype=torch.float32)
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=0.01))
    for statistics in (True, False):
        end, info = af.simulate(
            cast(policy.init(0), dtype=torch.float32),
            systems,
            policy=policy,
            gravity=gravity,
            scheme=af.build_leapfrog_kdk(gravity),
            steps=64,
            statistics=statistics,
        )
        before, then = (vmap(gravity.energy)(cast(x, dtype=torch.float64)) for x in (systems, end))
        assert info.final_energy_error.dtype == torch.float32
        torch.testing.assert_close(
            info.final_energy_error.double(), ((then - before) / before).abs(), rtol=1e-6, atol=1e-11
        )
