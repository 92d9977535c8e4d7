"""Derivatives of a float32 system are float32 in both modes, and those of float64 up to rounding."""

import pytest
import torch
from torch.func import grad, jacfwd, jvp, vmap

import aits_func as af
from aits_func.base import tree
from aits_func.physics.criteria import CRITERIA
from aits_func.physics.schemes import SCHEMES
from aits_func.testing.derivatives import numbers_like
from aits_func.timestep.binding import bind
from aits_func.timestep.features import VOCABULARIES
from aits_func.timestep.window import first_sample

S = torch.float32
# A derivative is a sum of terms up to a hundred times as large, of features, rates and a network, each of them rounded
# some ten times by 6e-8.
ROUNDING = 1e-4
FIELDS = {
    "alone": None,
    "fixed": af.build_tidal_field(2.0, [4.0, -3.0]),
    "moving": af.build_tidal_field(2.0, af.straight_path([4.0, -3.0], [0.5, 1.0])),
}
GRAVITY = af.build_gravity(G=1.5, softening=0.05)


def state():
    """Three bodies of float64 numbers that float32 has as well."""
    systems = af.gaussian_cluster(3, 1, bodies=3, dimensions=2, velocity_scale=0.3, mass_range=(0.5, 1.5))
    return tree.cast(tree.cast(tree.take(systems, 0), dtype=S), dtype=torch.float64)


def own(params):
    """Parameters that say something in every layer, such numbers as well."""
    made = torch.Generator().manual_seed(1)
    moved = tree.map_leaves(lambda x: x + 0.2 * torch.randn(x.shape, generator=made, dtype=x.dtype), params)
    return tree.cast(tree.cast(moved, dtype=S), dtype=torch.float64)


def demand_same(function, at):
    """In both modes, for all arguments at once and one by one."""
    single = tuple(x.to(S) for x in at)
    (value, slope), (theirs, expected) = (jvp(function, x, numbers_like(*x)) for x in (single, at))
    parts = grad(lambda *x: sum(leaf.sum() for leaf in tree.leaves(function(*x))), argnums=tuple(range(len(at))))(*at)
    size = float(sum(part.abs().sum() for part in parts))
    for ours, right in zip(tree.leaves((value, slope)), tree.leaves((theirs, expected)), strict=True):
        assert ours.dtype == S
        bound = ROUNDING * max(size, float(right.abs().max()))
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=bound)
    for leaf in tree.leaves(jacfwd(function, argnums=tuple(range(len(at))))(*single)):
        assert leaf.dtype == S
    batch = tuple(torch.stack([x, x]) for x in single)
    together = vmap(lambda *x: jvp(function, x, numbers_like(*x))[1])(*batch)
    for ours, right in zip(tree.leaves(together), tree.leaves(expected), strict=True):
        assert ours.dtype == S
        torch.testing.assert_close(ours[1].double(), right, rtol=0, atol=ROUNDING * max(size, float(right.abs().max())))


def of_numbers(function, params):
    """A function of params and system, as one of masses, places, velocities and the leaves of params; and where."""
    system = state()

    def of_all(mass, position, velocity, *leaves):
        cast = tree.cast(system, dtype=mass.dtype)
        return function(
            tree.replace_leaves(params, leaves), cast._replace(mass=mass, position=position, velocity=velocity)
        )

    return of_all, (*system[:3], *tree.leaves(params))


@pytest.mark.parametrize("name", CRITERIA)
def test_of_a_criterion(name):
    criterion = af.build_criterion(name, GRAVITY, eta=0.3, dt=0.1)
    demand_same(*of_numbers(criterion.timescale, own(criterion.init())))
    form = criterion.position_form
    if form is not None:
        demand_same(
            *of_numbers(lambda p, system: form.rate(p, system, form.constants(p, system)), own(criterion.init()))
        )


def policies():
    yield "transformation", af.build_transformation_policy(GRAVITY, eta=0.3, hidden=(4,)), 0
    for name in VOCABULARIES:
        history_len = 2 if name == "delta_mag" else 0
        features = af.build_features(name, GRAVITY, history_len=history_len)
        criterion = af.p_norm(GRAVITY, eta=0.3)
        yield f"residual, {name}", af.build_residual_policy(features, criterion, hidden=(4,)), history_len
        unit = criterion if features.dimensionless else None
        yield f"mlp, {name}", af.build_mlp_policy(features, timescale=unit, hidden=(4,)), history_len


@pytest.mark.parametrize(("policy", "history_len"), [pytest.param(*rest, id=name) for name, *rest in policies()])
def test_of_a_policy(policy, history_len):
    def step(params, system):
        return policy.apply(params, system, first_sample(system, history_len).window)

    demand_same(*of_numbers(step, own(policy.init(0))))


@pytest.mark.parametrize("field", FIELDS)
def test_of_energies_and_powers(field):
    gravity = af.build_gravity(G=1.5, softening=0.05, field=FIELDS[field])

    def all_of_it(params, system):
        power = gravity.power(system.mass, system.position, system.time)
        return gravity.energy(system), gravity.energy_size(system), power, gravity.potential_rates(system)

    demand_same(*of_numbers(all_of_it, ()))


def schemes():
    for integrator in ("leapfrog_dkd", "hermite", "yoshida4"):
        yield "direct", 2, integrator, False
    yield "implicit_symmetric", 2, "leapfrog_kdk", False
    yield "hairer_soderlind", 2, "leapfrog_kdk", False
    for name in ("hairer_soderlind", "time_transformed"):
        for order in (2, 4):
            yield name, order, "leapfrog_kdk", True


def test_no_scheme_is_left_out():
    assert {name for name, *_ in schemes()} == {*SCHEMES}


@pytest.mark.parametrize(("name", "order", "integrator", "positions"), [*schemes()])
@pytest.mark.parametrize("field", ["alone", "moving"])
def test_of_a_step_of_a_scheme(name, order, integrator, positions, field):
    gravity = af.build_gravity(G=1.5, softening=0.05, field=FIELDS[field])
    scheme = af.build_scheme(name, gravity, order=order, integrator=integrator, positions_only=positions)
    if positions:
        policy = af.build_transformation_policy(gravity, eta=0.05, hidden=(4,))
    else:
        features = af.build_features("invariant", gravity)
        policy = af.build_residual_policy(features, af.pair_norm(gravity, eta=0.05), hidden=(4,))

    def step(params, system):
        rule = bind(policy, params, first_sample(system, 0).window, scheme=scheme, gravity=gravity)
        out = scheme.step(rule, system, scheme.init(rule, system), torch.ones_like(system.time))
        return out.system, out.carry, out.dt

    demand_same(*of_numbers(step, own(policy.init(0))))
