"""Two massless bodies do not act on each other, so what one is to the other changes no step and no feature."""

import math

import pytest
import torch
from torch.func import grad, jacrev, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.physics.body_criteria import gadget
from aits_func.physics.criteria import CRITERIA, build_criterion
from aits_func.physics.gravity import build_gravity
from aits_func.physics.pair_criteria import fly_by, hut_makino, p_norm
from aits_func.timestep.invariant import build_invariant
from aits_func.timestep.transformation_policy import build_transformation_policy

F = torch.float64
PAIRS = ("free_fall", "fly_by", "hut_makino", "huayno")  # a minimum over pairs
SUMS = ("p_norm", "p_norm_both")  # a p-norm over pairs, here p = 2
SOFTENED = build_gravity(softening=0.05)


def tensor(rows):
    return torch.tensor(rows, dtype=F)


# A planet of a star, and two grains, one of which passes the other at 1e-9 with the speed 0.1.
FOUR = make_system(
    tensor([1.0, 1e-3, 0.0, 0.0]),
    tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1e-9, 2.0]]),
    tensor([[0.0, 0.0], [0.0, 1.0], [-0.7, 0.0], [-0.7, 0.1]]),
)


def without(system, body):
    kept = [j for j in range(len(system.mass)) if j != body]
    return system._replace(mass=system.mass[kept], position=system.position[kept], velocity=system.velocity[kept])


def step_of(name, gravity=None):
    criterion = build_criterion(name, gravity or build_gravity())
    return lambda system: criterion.timescale(criterion.init(), system)


@pytest.mark.parametrize("name", PAIRS)
def test_a_minimum_over_pairs_is_the_smaller_one_of_the_systems_without_either_massless_body(name):
    step = step_of(name)
    assert step(FOUR) == min(step(without(FOUR, 2)), step(without(FOUR, 3)))


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_pairs_is_that_of_the_systems_without_either_less_what_both_have(name):
    step = step_of(name)
    one, other, both = (step(x) ** -2 for x in (without(FOUR, 2), without(FOUR, 3), without(without(FOUR, 3), 2)))
    # rounding of sums of six numbers of one size
    torch.testing.assert_close(step(FOUR), (one + other - both) ** -0.5, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("name", "expected"), [("hut_makino", 0.01999), ("fly_by", 0.02), ("huayno", 0.01999)])
def test_a_close_passage_of_two_massless_bodies_does_not_shorten_the_step(name, expected):
    assert float(step_of(name)(FOUR)) == pytest.approx(expected, rel=1e-5)  # its printed digits


def mirrored(x):
    """What one of the massless bodies has, seen in the plane of the massive ones: the last body's last coordinate."""
    sign = torch.ones_like(x)
    sign[-1, -1] = -1
    return x * sign


def beside_a_plane(bodies, dimensions, seed, *, apart=1e-7):
    """Massive bodies that stay in the plane x_D = 0, and two massless ones close to each other above it.

    To the massive bodies, and to each alone, it is the same whether the last one is above the plane or below; what the
    two are to each other becomes something else by seven orders of magnitude.
    """
    make = torch.Generator().manual_seed(seed)
    mass = torch.rand(bodies, generator=make, dtype=F) + 0.5
    position, velocity = (torch.randn(bodies, dimensions, generator=make, dtype=F) for _ in range(2))
    position[:-2, -1] = velocity[:-2, -1] = mass[-2:] = 0
    position[-2, -1] += 2
    position[-1] = position[-2] + apart
    return make_system(mass, position, velocity)


def everything():
    plain = build_gravity()
    for name in CRITERIA:
        criterion = build_criterion(name, SOFTENED if name == "gadget" else plain, weights="root_sum")
        yield name, lambda s, c=criterion: c.timescale(c.init(), s)
    for p in (1.0, 3.0):
        criterion = hut_makino(plain, p=p)
        yield f"hut_makino, p = {p}", lambda s, c=criterion: c.timescale(c.init(), s)
    yield "gadget, p_norm", lambda s: gadget(SOFTENED).timescale(gadget(SOFTENED).init(), s)
    yield "invariant features", build_invariant(plain)
    yield "softened invariant features", build_invariant(SOFTENED)
    policy = build_transformation_policy(plain, weights="root_sum")
    params = tree.map_leaves(lambda leaf: leaf + 0.1, policy.init(0))
    yield "transformation policy", lambda s: policy.apply(params, s, None)


EVERYTHING = dict(everything())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", EVERYTHING)
def test_what_two_massless_bodies_are_to_each_other_changes_no_step_no_feature_and_no_derivative(name, dimensions):
    function = EVERYTHING[name]

    def slopes(system):
        by_place, by_speed = jacrev(lambda x, v: function(system._replace(position=x, velocity=v)), (0, 1))(
            system.position, system.velocity
        )
        return [across(x) for x in (by_place, by_speed)]

    def across(slopes):
        """Those along the plane alone of the massive bodies: out of it they do see above from below."""
        slopes = slopes.clone()
        slopes[..., :-2, -1] = 0
        return slopes

    for seed in range(3):
        system = beside_a_plane(5, dimensions, seed)
        image = system._replace(position=mirrored(system.position), velocity=mirrored(system.velocity))
        # sums in another order: rounding, with 1e-2 of what cancels left
        torch.testing.assert_close(function(system), function(image), rtol=1e-12, atol=1e-14)
        for here, there in zip(slopes(system), slopes(image), strict=True):
            back = there.reshape(-1, *there.shape[-2:])
            back = torch.stack([mirrored(x) for x in back]).reshape(there.shape)
            size = float(here.abs().max())
            torch.testing.assert_close(here, back, rtol=1e-9, atol=1e-11 * size)  # third powers of 1/r of rounding


@pytest.mark.parametrize("name", [*PAIRS, *SUMS])
@pytest.mark.parametrize("apart", [1e-3, 1e-60, 1e-90])
def test_however_close_two_massless_bodies_are_step_and_slopes_are_finite_and_the_same(name, apart):
    """1/r³ of 1e-90 is the last that there is; its square is not."""
    position = FOUR.position.clone()
    position[2:] = tensor([[2.0, 0.0], [2.0, apart]])  # on the axis: 2.0 + 1e-60 would be 2.0
    system = FOUR._replace(position=position)
    far = system._replace(position=torch.cat([position[:3], tensor([[2.0, -apart]])]))
    step = step_of(name)
    slopes = grad(lambda x, v: step(system._replace(position=x, velocity=v)), (0, 1))(system.position, system.velocity)
    assert all(leaf.isfinite().all() for leaf in slopes)
    assert float(step(system)) > 1e-3
    torch.testing.assert_close(step(system), step(far), rtol=2 * apart + 1e-14, atol=0)  # the place of one body


def test_where_no_body_that_counts_moves_there_is_no_bound():
    """The massless two fly by each other; what has mass rests with both: the fly-by time is as good as infinite."""
    system = make_system(tensor([1.0, 1.0]), tensor([[0.0, 0.0], [1.0, 0.0]]), torch.zeros(2, 2, dtype=F))._replace(
        mass=torch.zeros(2, dtype=F), velocity=tensor([[0.0, 0.0], [0.0, 1.0]])
    )
    for build in (fly_by, hut_makino, p_norm):
        criterion = build(build_gravity())
        dt = criterion.timescale(criterion.init(), system)
        assert 1e10 < float(dt) < math.inf


def test_a_batch_of_systems_with_and_without_mass_is_taken_one_by_one():
    systems = tree.stack([FOUR, FOUR._replace(mass=tensor([1.0, 1e-3, 1e-3, 0.0]))])
    for name in (*PAIRS, *SUMS):
        step = step_of(name)
        both = vmap(step)(systems)
        torch.testing.assert_close(
            both, torch.stack([step(tree.take(systems, k)) for k in range(2)]), rtol=1e-14, atol=0
        )
        assert name in ("free_fall", "p_norm") or both[1] < 1e-6 < both[0]  # a mass of 1e-3 counts
