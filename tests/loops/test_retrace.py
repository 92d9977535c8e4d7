"""The retraced gradient against backpropagation and finite differences, what it costs in memory, what it refuses."""

import math
import subprocess
import sys

import pytest
import torch
from torch.func import grad

from aits_func.base import tree
from aits_func.learning.network import Layer
from aits_func.loops.retrace import retrace
from aits_func.loops.simulate import simulate
from aits_func.physics.compositions import compose
from aits_func.physics.direct_schemes import build_implicit_symmetric
from aits_func.physics.fields import build_tidal_field, straight_path
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.known_orbits import known_orbit
from aits_func.physics.pair_criteria import hut_makino, p_norm
from aits_func.physics.reversible_schemes import build_hairer_soderlind, build_time_transformed_leapfrog
from aits_func.physics.step_function import REVERSIBLE
from aits_func.physics.time_transformations import pair_norm
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_residual_policy
from aits_func.timestep.run import FINISHED, NOT_POSITIVE
from aits_func.timestep.transformation_policy import build_transformation_policy

GRAVITY = build_gravity(softening=0.1)
BARE = build_gravity()


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def triples(count=3, *, seed=1, dimensions=2):
    return gaussian_cluster(
        seed, count, bodies=3, dimensions=dimensions, position_scale=1.0, velocity_scale=0.5, mass_range=(0.5, 2.0)
    )


def grown(params, seed=5):
    """Parameters in the midst of training: the last layer no longer zero."""
    make = torch.Generator().manual_seed(seed)
    layers = [
        Layer(*(0.5 * torch.randn(leaf.shape, generator=make, dtype=torch.float64) for leaf in layer))
        for layer in params["network"]
    ]
    return {**params, "network": tuple(layers)}


def of_positions(gravity=GRAVITY):
    """Hairer–Söderlind on drift–kick–drift, with a classical criterion."""
    policy = build_criterion_policy(p_norm(gravity, eta=0.1))
    return policy, policy.init(0), build_hairer_soderlind(gravity, base="dkd")


def of_states():
    """Hairer–Söderlind on kick–drift–kick, with a network that sees velocities."""
    policy = build_residual_policy(build_features("invariant", GRAVITY), p_norm(GRAVITY, eta=0.1), hidden=(3,))
    return policy, grown(policy.init(0)), build_hairer_soderlind(GRAVITY)


def transformed():
    """The time-transformed leapfrog, with a network that sees positions."""
    policy = build_transformation_policy(GRAVITY, eta=0.1, hidden=(3,))
    return policy, grown(policy.init(0)), build_time_transformed_leapfrog(GRAVITY)


MODELS = {"Hairer–Söderlind dkd": of_positions, "Hairer–Söderlind kdk": of_states, "time-transformed": transformed}


def scalar(end, seed=3):
    """A number that every coordinate, velocity and clock of the end enters with a weight of its own."""
    make = torch.Generator().manual_seed(seed)
    return sum((leaf * torch.randn(leaf.shape, generator=make, dtype=torch.float64)).sum() for leaf in end[1:4])


def assert_same_gradient(ours, theirs, rtol=1e-9):
    """Equal, each leaf up to a part of its largest entry.

    The path back carries the rounding of a few dozen stages, 1e-16 each and magnified some hundredfold by the
    derivative of a triple's flow; measured: below 1e-12. A wrong term would show at order 1.
    """
    for number, (a, b) in enumerate(zip(tree.leaves(ours), tree.leaves(theirs), strict=True)):
        size = float(b.abs().max()) + 1e-3  # leaves that enter nowhere have gradient 0 on both sides
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * size, msg=lambda t, n=number: f"leaf {n}: {t}")


# --- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("order", "steps"), [(2, 12), (4, 4)])
def test_the_gradient_after_so_many_steps_is_that_of_backpropagation_through_simulate(name, order, steps):
    policy, params, base = MODELS[name]()
    scheme = compose(base, order)

    def through(run):
        def loss(params, systems, h):
            end, _ = run(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, steps=steps, h=h)
            return scalar(end)

        return grad(loss, argnums=(0, 1, 2))(params, triples(), tensor(1.3))

    ours, theirs = through(retrace), through(simulate)
    assert_same_gradient(ours, theirs)
    assert all(leaf.abs().max() > 1e-3 for leaf in ours[1][:3])  # masses, positions and velocities all matter
    assert abs(ours[2]) > 1e-3
    assert all(leaf.abs().max() > 0 for leaf in tree.leaves(ours[0]))


@pytest.mark.parametrize(
    ("name", "order"), [*((name, 2) for name in MODELS), ("Hairer–Söderlind dkd", 4), ("time-transformed", 4)]
)
def test_the_gradient_at_a_time_of_their_own_is_that_of_backpropagation_through_simulate(name, order):
    policy, params, base = MODELS[name]()
    scheme = compose(base, order)

    def through(run):
        def loss(params, systems, h, t_end):
            end, _ = run(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, t_end=t_end, h=h)
            return scalar(end)

        # the systems arrive after one, three or eight steps and more
        return grad(loss, argnums=(0, 1, 2, 3))(params, triples(), tensor(1.0), tensor([0.1, 0.31, 0.7]))

    ours, theirs = through(retrace), through(simulate)
    assert_same_gradient(ours, theirs)
    assert ours[3].abs().min() > 1e-3
    assert abs(ours[2]) < 1  # of h, at a fixed time, the discretisation error alone is left


@pytest.mark.parametrize("moving", [False, True])
def test_the_gradient_in_the_constants_of_a_field_is_that_of_backpropagation(moving):
    systems = triples(2)

    def gravity_of(constants):
        mass, place, velocity = constants
        place = straight_path(place, velocity) if moving else place
        return build_gravity(softening=0.1, field=build_tidal_field(mass, place))

    def policy_of(gravity):
        return build_criterion_policy(pair_norm(gravity, eta=0.1))

    params = policy_of(GRAVITY).init(0)

    def ours(constants, params):
        end, _ = retrace(
            params,
            systems,
            policy=policy_of,
            gravity=gravity_of,
            scheme=build_time_transformed_leapfrog,
            t_end=0.5,
            constants=constants,
        )
        return scalar(end)

    def theirs(constants, params):
        gravity = gravity_of(constants)
        scheme, policy = build_time_transformed_leapfrog(gravity), policy_of(gravity)
        end, _ = simulate(params, systems, policy=policy, gravity=gravity, scheme=scheme, t_end=0.5)
        return scalar(end)

    constants = (tensor(0.8), tensor([2.0, 1.0]), tensor([-1.0, 0.4]))
    slopes = grad(ours, argnums=(0, 1))(constants, params)
    assert_same_gradient(slopes, grad(theirs, argnums=(0, 1))(constants, params))
    assert all(leaf.abs().min() > 1e-3 for leaf in slopes[0][: 3 if moving else 2])
    d = 1e-5
    for number, value in enumerate(constants[: 3 if moving else 2]):
        steps = [[*constants[:number], value + sign * d, *constants[number + 1 :]] for sign in (1, -1)]
        difference = (ours(steps[0], params) - ours(steps[1], params)) / (2 * d)
        # truncation d² f'''/6, rounding 1e-15/d: both about 1e-10; measured: below 1e-9
        torch.testing.assert_close(slopes[0][number].sum(), difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("ends", [{"steps": 15}, {"t_end": 0.6}])
def test_the_gradient_is_that_of_finite_differences(ends):
    policy, params, scheme = transformed()
    systems, h = triples(1), tensor(1.2)

    def loss(params, systems, h):
        end, _ = retrace(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, h=h, **ends)
        return scalar(end)

    slopes = tree.leaves(grad(loss, argnums=(0, 1, 2))(params, systems, h))
    values, d, make = tree.leaves((params, systems, h)), 1e-5, torch.Generator().manual_seed(2)
    for number, slope in enumerate(slopes):
        direction = torch.randn(slope.shape, generator=make, dtype=torch.float64)

        def moved(sign, number=number, direction=direction):
            leaves = [v + sign * d * direction if k == number else v for k, v in enumerate(values)]
            return loss(*tree.replace_leaves((params, systems, h), leaves))

        # truncation d² f'''/6 = 1e-10 f''' / 6, rounding 1e-14/d = 1e-9; measured: 2e-9 at worst
        torch.testing.assert_close(
            (slope * direction).sum(), (moved(1) - moved(-1)) / (2 * d), rtol=1e-6, atol=1e-7, msg=f"leaf {number}"
        )


def test_plain_autograd_gives_the_gradient_of_torch_func():
    policy, params, scheme = of_positions()

    def loss(params, systems, h):
        end, _ = retrace(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, steps=8, h=h)
        return scalar(end)

    arguments = (params, triples(2), tensor(1.0))
    ours = grad(loss, argnums=(0, 1, 2))(*arguments)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(arguments)]
    value = loss(*tree.replace_leaves(arguments, leaves))
    theirs = torch.autograd.grad(value, leaves, materialize_grads=True)
    # one and the same code, to the bit
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(ours), theirs, strict=True))
    value.detach()  # nothing of the graph is left behind in what is returned without asking for a gradient:
    assert not loss(*arguments).requires_grad


def test_a_second_derivative_is_refused_and_never_zero():
    policy, params, scheme = of_positions()

    def loss(position):
        system = tree.take(triples(1), 0)._replace(position=position)
        end, _ = retrace(params, system, policy=policy, gravity=GRAVITY, scheme=scheme, steps=2)
        return scalar(end)

    start = triples(1).position[0]
    with pytest.raises(RuntimeError, match="retrace: can be differentiated once only"):
        grad(lambda x: grad(loss)(x).sum())(start)
    leaf = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="retrace: can be differentiated once only"):
        torch.autograd.grad(slope.sum(), leaf)


def test_single_precision_stays_single():
    policy, params, scheme = of_positions()
    single = tree.cast((params, triples(2)), dtype=torch.float32)

    def loss(systems, params):
        end, _ = retrace(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, steps=8)
        return scalar(end)

    slopes = grad(loss)(single[1], single[0])
    assert {leaf.dtype for leaf in tree.leaves(slopes)} == {torch.float32}
    end, _ = retrace(single[0], single[1], policy=policy, gravity=GRAVITY, scheme=scheme, steps=2)
    assert {leaf.dtype for leaf in end} == {torch.float32}
    # 8 steps at 6e-8, the derivative of the flow is of size 1 to 10; measured: 3e-6
    for ours, double in zip(slopes, grad(loss)(triples(2), params), strict=True):
        torch.testing.assert_close(ours.double(), double, rtol=1e-3, atol=1e-4)


# --- the end, and what is said of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_end_is_that_of_simulate(name):
    policy, params, scheme = MODELS[name]()
    common = {"policy": policy, "gravity": GRAVITY, "scheme": scheme}
    for ends, side_steps in [({"steps": 9}, 0), ({"t_end": tensor([0.1, 0.3, 0.7])}, 1)]:
        ours, info = retrace(params, triples(), **common, **ends)
        theirs, its_info = simulate(params, triples(), **common, **ends)
        assert info.finished.tolist() == [True] * 3
        assert info.steps.tolist() == (its_info.steps - side_steps).tolist()  # the one that lands is not counted
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)  # the same operations in the same order


def test_one_system_is_a_batch_of_one_without_the_axis():
    policy, params, scheme = of_positions()

    def loss(systems, pick):
        end, info = retrace(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, t_end=0.4)
        return scalar(pick(end)), info

    alone, info = grad(lambda s: loss(s, lambda end: end), has_aux=True)(tree.take(triples(1), 0))
    batch, its_info = grad(lambda s: loss(s, lambda end: tree.take(end, 0)), has_aux=True)(triples(1))
    for a, b in zip((*alone, *info), (*batch, *its_info), strict=True):
        assert torch.equal(a, b[0])


def test_a_system_that_does_not_arrive_is_told_and_leaves_the_others_alone():
    policy, params, scheme = of_positions()
    common = {"policy": policy, "gravity": GRAVITY, "scheme": scheme}
    ends = tensor([0.1, 40.0, 0.3])
    end, info = retrace(params, triples(), t_end=ends, max_steps=20, **common)
    assert info.finished.tolist() == [True, False, True]
    assert info.steps[1] == 20
    after, _ = retrace(params, triples(), steps=20, **common)
    assert torch.equal(end.position[1], after.position[1])  # its last good state

    def of_two(systems):
        end, _ = retrace(params, systems, t_end=ends, max_steps=20, **common)
        return scalar(tree.take(end, torch.tensor([0, 2])))

    def by_themselves(systems):
        end, _ = retrace(params, tree.take(systems, torch.tensor([0, 2])), t_end=ends[::2], **common)
        return scalar(end)

    assert_same_gradient(grad(of_two)(triples()), grad(by_themselves)(triples()), rtol=1e-12)


def test_a_run_whose_rho_is_no_longer_positive_stops_before_and_has_a_finite_gradient():
    # steps of 0.6 free-fall times: three of these twelve end as "transformation not positive"
    policy = build_criterion_policy(p_norm(BARE, eta=0.1))
    common = {"policy": policy, "gravity": BARE, "scheme": build_hairer_soderlind(BARE, base="dkd"), "h": 6.0}
    systems = gaussian_cluster(1, 12, bodies=3, dimensions=2, position_scale=1.0, velocity_scale=0.5)
    _, wanted = simulate(policy.init(0), systems, steps=20, **common)

    def loss(systems):
        end, info = retrace(policy.init(0), systems, steps=20, **common)
        return scalar(end), (end, info)

    slope, (end, info) = grad(loss, has_aux=True)(systems)
    assert info.finished.tolist() == (wanted.status == FINISHED).tolist()
    assert (wanted.status == NOT_POSITIVE).any()
    assert info.finished.any()
    assert info.steps.tolist() == wanted.steps.tolist()
    assert all(leaf.isfinite().all() for leaf in (*end, *slope))


def test_where_the_way_back_is_lost_to_chaos_the_backward_pass_warns():
    # Steps of 0.3 free-fall times through close encounters: after 300 of them rounding has grown to 8e-5 of the size.
    # How far it grows hangs on the machine's rounding, but it grows exponentially: 100 steps more leave a margin.
    policy = build_criterion_policy(p_norm(BARE, eta=0.1))
    scheme = build_hairer_soderlind(BARE, base="dkd")
    clusters = gaussian_cluster(1, 4, bodies=3, dimensions=2, position_scale=1.0, velocity_scale=0.5)
    system = tree.take(clusters, 1)

    def loss(system, steps):
        end, _ = retrace(policy.init(0), system, policy=policy, gravity=BARE, scheme=scheme, steps=steps, h=3.0)
        return scalar(end)

    with pytest.warns(UserWarning, match=r"retrace: the way back missed the start by .* shorten the run"):
        grad(loss)(system, 400)
    grad(loss)(system, 16)  # in silence


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_scheme_that_does_not_give_its_path_back_is_refused():
    policy = build_criterion_policy(p_norm(GRAVITY))
    for scheme, name in [
        (build_implicit_symmetric(build_leapfrog_kdk(GRAVITY)), "implicit_symmetric"),
        (of_positions()[2]._replace(name="direct", reversible=False), "direct"),
    ]:
        with pytest.raises(ValueError, match=f"retrace: only an explicit reversible scheme .*; {name} does not"):
            retrace(policy.init(0), triples(), policy=policy, gravity=GRAVITY, scheme=scheme, steps=2)


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (build_criterion_policy(hut_makino(GRAVITY)), "is not smooth"),
        (build_criterion_policy(p_norm(GRAVITY)._replace(traits=REVERSIBLE._replace(even=False))), "changes when"),
        (build_criterion_policy(p_norm(GRAVITY)._replace(traits=REVERSIBLE._replace(memoryless=False))), "remembers"),
    ],
)
def test_a_policy_that_would_break_reversibility_is_refused(policy, complaint):
    with pytest.raises(ValueError, match=f"retrace: the scheme hairer_soderlind .*{complaint}"):
        retrace((), triples(), policy=policy, gravity=GRAVITY, scheme=build_hairer_soderlind(GRAVITY), steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give either t_end \(a time\) or steps"),
        ({"t_end": 1.0, "steps": 3}, r"give either t_end \(a time\) or steps"),
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"t_end": 0.0}, "t_end must be finite and later than the start, got 0.0 for system 0"),
        ({"steps": 2, "h": -1.0}, r"h must be one number > 0 and finite \(a factor on the step\), got -1.0"),
        ({"steps": 2, "h": math.nan}, "h must be one number > 0 .*got nan"),
        ({"t_end": 1.0, "max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"steps": 2, "compile": "yes"}, "compile must be one of auto, on, off, got 'yes'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    policy, params, scheme = of_positions()
    with pytest.raises(ValueError, match=message):
        retrace(params, triples(), policy=policy, gravity=GRAVITY, scheme=scheme, **options)


# --- memory ----------------------------------------------------------------------------------------------------------

MEMORY = """
import resource, sys
import torch
from torch.func import grad
import aits_func as af
from aits_func.loops.retrace import retrace

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

base, (compile, *counts) = peak(), sys.argv[1:]
gravity = af.build_gravity()
criterion = af.p_norm(gravity, eta=0.1)
policy, scheme = af.build_criterion_policy(criterion), af.build_hairer_soderlind(gravity, base="dkd")

def loss(system, steps):
    end, info = retrace(
        policy.init(0), system, policy=policy, gravity=gravity, scheme=scheme, steps=steps, compile=compile
    )
    return (end.position**2).sum(), info.finished

for steps in map(int, counts):
    slope, finished = grad(loss, has_aux=True)(af.known_orbit("figure_eight"), steps)
    assert bool(finished) and bool(slope.position.isfinite().all()) and float(slope.position.abs().max()) > 0.1
    print(peak() - base)
"""


def memory(*arguments):
    """Peak memory after each run, MiB above that after the imports, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", MEMORY, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return list(map(float, done.stdout.split()))


def test_ten_times_the_steps_take_no_more_memory():
    few, many = memory("off", 40, 400)
    # Backpropagation keeps 0.3 MiB of every step, so would take 108 MiB more; the allocator's own noise is below 3.
    assert many - few < 8


@pytest.mark.slow
def test_a_hundred_thousand_steps_of_the_figure_eight_take_less_than_200_mib():
    # Measured: 195 MiB, almost all of them the compiler's; 16,000 periods' worth of rounding is no matter, as the
    # orbit is stable and reversed step by step.
    (used,) = memory("on", 100_000)
    assert used < 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Hairer–Söderlind dkd", "time-transformed"])
def test_compiled_gradients_are_those_of_eager_ones(name):
    policy, params, scheme = MODELS[name]()

    def loss(params, systems, h, compile):
        end, _ = retrace(params, systems, policy=policy, gravity=GRAVITY, scheme=scheme, steps=12, h=h, compile=compile)
        return scalar(end)

    ours, theirs = (grad(loss, argnums=(0, 1, 2))(params, triples(), tensor(1.0), compile) for compile in ("on", "off"))
    assert_same_gradient(ours, theirs)  # machine code rounds otherwise, and no more


def test_the_figure_eight_can_be_shot_at_its_own_period():
    # Along the orbit of period T the end moves with the clock: d|x(T) − x(0)|² / dT = 0 at the true period. The
    # derivative by t_end is 2 (x − x₀)·v, whatever scheme leads there.
    policy, params, scheme = of_positions(BARE)
    system = known_orbit("figure_eight")

    def run(t_end):
        end, _ = retrace(params, system, policy=policy, gravity=BARE, scheme=compose(scheme, 4), t_end=t_end)
        return end

    t_end = tensor(1.0)
    slope = grad(lambda t: (run(t).position - system.position).pow(2).sum())(t_end)
    end = run(t_end)
    # Of a fixed-order scheme the derivative by the landing time is the velocity of the side step, which is that of
    # the orbit up to the scheme's own error: order 4 in steps of 0.05, measured 3e-6.
    expected = 2 * ((end.position - system.position) * end.velocity).sum()
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=0)
