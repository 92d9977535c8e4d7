"""Criteria and schemes as a compiler is given them: traced, and run as they stand in the trace, against eager."""

import pytest
import torch
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.base.tree import cast, leaves, replace_leaves
from aits_func.physics.criteria import CRITERIA, build_criterion
from aits_func.physics.criterion import no_constants
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import INTEGRATORS
from aits_func.physics.invariants import centre_of_mass
from aits_func.physics.pairs import pair_distance
from aits_func.physics.schemes import SCHEMES, build_scheme
from aits_func.physics.step_function import StepFunction

FIELDS = {
    "none": None,
    "fixed": build_tidal_field(2.0, [3.0, 1.0]),
    "moving": build_tidal_field(2.0, straight_path([3.0, 1.0], [0.2, -0.1])),
}
# The same operations on the same numbers, pairs one by one instead of by index: sums of three in another order, and in
# derivatives terms that exceed their sum by a hundred.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def traced(function, systems):
    """What the operations in the trace give, those left out that nothing comes of."""

    def flat(*given):
        return tuple(leaves(function(replace_leaves(systems, list(given)))))

    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*leaves(systems))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    results = graph(*leaves(systems))
    assert all(each.device == systems.mass.device for each in results)
    return results


def systems_of(count, bodies):
    return gaussian_cluster(bodies, count, bodies=bodies, position_scale=1.0)


def assert_traced_is_eager(function, systems):
    for ours, theirs in zip(traced(function, systems), leaves(function(systems)), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def pick(cases, quick):
    """(what, field) for all of them: the quick ones, and the others in the deep profile."""
    pairs = [(case, field) for case in cases for field in FIELDS]
    return [pair if quick(*pair) else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "field"),
    pick(CRITERIA, lambda name, field: field == "none" or (field == "fixed" and name in ("tidal", "free_fall"))),
)
def test_a_traced_criterion_is_the_eager_one_with_its_gradient(name, field):
    criterion = build_criterion(name, build_gravity(softening=0.1, field=FIELDS[field]), eta=0.1)
    params = criterion.init()

    def steps_and_slopes(systems):
        steps = vmap(lambda system: criterion.timescale(params, system))(systems)
        slopes = grad(lambda p: vmap(lambda system: criterion.timescale(p, system))(systems).sum())(params)
        return steps, slopes

    assert_traced_is_eager(steps_and_slopes, systems_of(2, 3 if field == "none" else 2))


DRIVEN = [
    *(("direct", integrator, False) for integrator in INTEGRATORS[:4]),  # the others are more of the fourth
    *((name, "leapfrog_kdk", positions) for name in SCHEMES[1:] for positions in (False, True)),
]


@pytest.mark.parametrize(
    ("driven", "field"),
    pick(DRIVEN, lambda driven, field: field == "none" or (field == "moving" and driven[0] == "time_transformed")),
)
def test_a_traced_step_of_a_scheme_is_the_eager_one(driven, field):
    name, integrator, positions_only = driven
    gravity = build_gravity(softening=0.1, field=FIELDS[field])
    criterion = build_criterion("p_norm", gravity, eta=0.05)
    scheme = build_scheme(name, gravity, integrator=integrator, positions_only=positions_only)

    def two_steps(systems):
        params, form = cast(criterion.init(), dtype=systems.mass.dtype), criterion.position_form
        rule = StepFunction(
            lambda system: criterion.timescale(params, system),
            lambda system: no_constants(params, system),
            lambda system, constants: form.rate(params, system, constants),
        )

        def of_one(system):
            h = torch.ones_like(system.time)
            first = scheme.step(rule, system, scheme.init(rule, system, compensated=True), h)
            return scheme.step(rule, first.system, first.carry, h)

        return vmap(of_one)(systems)

    assert_traced_is_eager(two_steps, systems_of(2, 2))
    single = cast(systems_of(2, 2), dtype=torch.float32)
    for results in (traced(two_steps, single), leaves(two_steps(single))):
        assert {x.dtype for x in results if x.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("field", FIELDS)
def test_traced_derivatives_in_units_of_the_system_are_the_eager_ones(field):
    gravity = build_gravity(softening=0.1, field=FIELDS[field])

    def derivatives(systems):
        def of_one(system):
            unit = pair_distance(system.position, 0.1).sum()  # of its own, and so one more axis for every system
            return gravity.derivatives(system, unit, system.position - centre_of_mass(system)[0])

        return vmap(of_one)(systems)

    assert_traced_is_eager(derivatives, systems_of(2, 3))
