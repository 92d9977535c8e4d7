"""Laws of compiled functions: on whatever systems they are given, what comes out is what eager code gives."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

import aits_func as af
from aits_func.base.engine import missing_compiler
from aits_func.base.tree import leaves, replace_leaves
from aits_func.testing import batches
from aits_func.timestep.window import first_sample

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
COUNT = 9  # a vector of processors with wide ones, and a part of another
GRAVITY = af.build_gravity()


def residual():
    return af.build_residual_policy(af.build_features("invariant", GRAVITY), af.p_norm(GRAVITY, eta=0.05), hidden=(8,))


@functools.cache
def subject(name):
    """(a compiled function of parameters and samples, its parameters)."""
    policy = af.build_criterion_policy(af.p_norm(GRAVITY, eta=0.05)) if name == "criterion" else residual()
    step = af.build_step(policy, GRAVITY, af.build_leapfrog_kdk(GRAVITY), energy_threshold=1e-4)
    objective = af.build_objective(step)
    function = vmap(step, in_dims=(None, 0))
    if name == "gradient":

        def function(params, samples):
            return torch.func.grad(lambda p: objective.loss(p, (samples,))[0])(params)

    return af.build_engine(function, mode="on", batched=(False, True), label=name), policy.init(0)


@needs_compiler
@pytest.mark.parametrize("name", ["criterion", "residual", "gradient"])
@given(
    systems=batches(COUNT, bodies=3, dimensions=2, min_separation=0.01, massless=True),
    length=st.integers(-12, 12),
    step=st.integers(-5, 4),
)
def test_no_drawn_systems_raise_a_false_alarm(name, systems, length, step):
    engine, params = subject(name)
    # In any unit of length; with steps that are far too long, or so short that an error is all rounding.
    unit = 10.0**length
    systems = systems._replace(position=systems.position * unit, velocity=systems.velocity * unit**-0.5)
    params = replace_leaves(params, [x + step if x.ndim == 0 else x for x in leaves(params)])  # ln η
    samples = vmap(lambda system: first_sample(system, 0))(systems)
    assert engine.difference(params, samples) == ""
    assert engine.back_end == "native"
