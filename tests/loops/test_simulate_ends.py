"""Runs of which the end alone is wanted: `simulate` without statistics against `simulate` with them."""

import math

import pytest
import torch

from aits_func.loops.simulate import simulate
from aits_func.physics.criteria import constant
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.pair_criteria import p_norm
from aits_func.timestep.policy import Policy, build_criterion_policy
from aits_func.timestep.run import FINISHED, NOT_FINITE

GRAVITY = build_gravity(softening=0.1)
KDK = build_leapfrog_kdk(GRAVITY)
FIXED = build_criterion_policy(constant(dt=1e-2))
VARYING = build_criterion_policy(p_norm(GRAVITY, eta=0.05))
SYSTEMS = gaussian_cluster(3, 16, bodies=3, dimensions=3, position_scale=1.0, velocity_scale=0.3)


def run(policy, systems=SYSTEMS, **options):
    return simulate(policy.init(0), systems, policy=policy, gravity=GRAVITY, scheme=KDK, **options)


@pytest.mark.parametrize("policy", [FIXED, VARYING], ids=["fixed", "varying"])
@pytest.mark.parametrize("until", [{"steps": 1}, {"steps": 12}, {"steps": 37}, {"steps": 128}, {"t_end": 0.8}], ids=str)
def test_the_end_is_that_of_a_run_with_statistics_to_the_bit(policy, until):
    (plain, told), (bare, short) = run(policy, **until), run(policy, statistics=False, **until)
    for got, want in zip(bare, plain, strict=True):
        assert torch.equal(got, want)
    for name in ("status", "steps", "force_evaluations", "mean_dt", "momentum_residual"):
        assert torch.equal(getattr(short, name), getattr(told, name)), name
    # the same energies, weighed at the end of the run and at the end of its last step
    torch.testing.assert_close(short.final_energy_error, told.final_energy_error, rtol=1e-9, atol=1e-15)


def test_what_was_not_measured_says_so():
    _, info = run(FIXED, steps=8, statistics=False)
    assert info.over_threshold.eq(-1).all()
    for name in ("max_energy_error", "max_potential_error", "mean_energy_error", "energy_drift"):
        assert getattr(info, name).isnan().all(), name


def test_a_run_that_explodes_ends_at_its_last_finite_block_and_the_others_go_on():
    def explode(params, system, window):
        late = (system.time > 0.35) & (system.mass[0] > 100)
        return torch.where(late, math.nan, torch.full_like(system.time, 1e-2))

    heavy = SYSTEMS._replace(mass=SYSTEMS.mass.clone().index_fill_(0, torch.tensor([5]), 200.0))
    end, info = run(Policy(lambda seed: (), explode), heavy, steps=64, statistics=False)
    assert info.status.tolist() == [NOT_FINITE if row == 5 else FINISHED for row in range(16)]
    assert all(leaf.isfinite().all() for leaf in end)
    assert info.steps[5] in range(0, 37)


@pytest.mark.slow  # half a minute to compile
@pytest.mark.parametrize("precision", [torch.float64, torch.float32], ids=str)
def test_compiled_blocks_are_eager_ones_within_rounding(precision):
    systems = type(SYSTEMS)(*(leaf.to(precision) for leaf in SYSTEMS))
    params = {name: leaf.to(precision) for name, leaf in FIXED.init(0).items()}
    options = {"policy": FIXED, "gravity": GRAVITY, "scheme": KDK, "steps": 32, "statistics": False}
    compiled, info = simulate(params, systems, compile="on", **options)
    eager, _ = simulate(params, systems, compile="off", **options)
    assert info.steps.eq(32).all()
    # 32 steps of order 1, each rounded some ten times
    tolerance = 1e3 * torch.finfo(precision).eps
    torch.testing.assert_close(compiled.position, eager.position, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "option", [{"record_every": 1}, {"encounter_distance": 0.1}, {"escape_distance": 5.0}], ids=str
)
def test_what_needs_a_look_at_every_step_is_refused_without_statistics(option):
    with pytest.raises(ValueError, match="need statistics = True"):
        run(FIXED, steps=4, statistics=False, **option)
