"""The run of one system against plain loops: statistics, statuses, landings and events."""

import itertools
import math

import pytest
import torch
from torch.func import vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.loops.arguments import measure
from aits_func.loops.simulate import simulate
from aits_func.physics.compositions import compose
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.integrators import build_leapfrog_dkd, build_leapfrog_kdk
from aits_func.physics.invariants import to_centre_of_mass
from aits_func.physics.orbits import two_body_orbit
from aits_func.physics.pair_criteria import p_norm
from aits_func.physics.schemes import SCHEMES, as_scheme, build_scheme
from aits_func.physics.time_transformations import pair_norm
from aits_func.timestep.binding import bind
from aits_func.timestep.policy import Policy, build_criterion_policy
from aits_func.timestep.run import (
    ARRIVED,
    FINISHED,
    NOT_FINITE,
    NOT_POSITIVE,
    RUNNING,
    STALLED,
    STATUS_NAMES,
    STEP_LIMIT,
    Watch,
    build_stepper,
    escaping,
    no_step,
)
from aits_func.timestep.window import empty_window

SOFTENING = 0.1
GRAVITY = build_gravity(softening=SOFTENING)
BARE = build_gravity()


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def triple(row=0):
    return tree.take(gaussian_cluster(1, 4, bodies=3, position_scale=1.0, velocity_scale=0.5), row)


def model(name, order=2, eta=0.1, gravity=GRAVITY):
    criterion = pair_norm(gravity, eta=eta) if name == "time_transformed" else p_norm(gravity, eta=eta)
    scheme = build_scheme(name, gravity, positions_only=True)
    return build_criterion_policy(criterion), criterion.init(), compose(scheme, order)


def stepper_of(policy, scheme, *, gravity=GRAVITY, watch=None, threshold=2e-4, scale="total"):
    options = {"history_len": 0, "energy_threshold": threshold, "watch": watch or Watch(), "energy_scale": scale}
    return build_stepper(policy, gravity, scheme, **options)


def start_of(system, *, gravity=GRAVITY, scale="total", min_dt=0.0, max_steps=1000):
    batch = measure(tree.map_leaves(lambda leaf: leaf[None], system), gravity, scale, min_dt, max_steps)
    return tree.take(batch, 0)


def begun(policy, params, scheme, system, *, gravity=GRAVITY, **options):
    """(stepper, start, run): ready to go."""
    watch = options.pop("watch", None)
    stepper = stepper_of(policy, scheme, gravity=gravity, watch=watch, scale=options.get("scale", "total"))
    start = start_of(system, gravity=gravity, **options)
    return stepper, start, stepper.begin(params, system, start)


ONE = tensor(1.0)
FOREVER = tensor(math.inf)


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMES)
def test_advancing_is_a_step_of_the_scheme_and_the_statistics_are_those_of_a_plain_loop(name):
    policy, params, scheme = model(name)
    system = triple()
    stepper, start, run = begun(policy, params, scheme, system, scale="kinetic")
    e0, w0 = GRAVITY.energy(system), GRAVITY.potential_energy(system)
    scale = e0 - w0 + abs(w0)  # K₀ + |W₀|
    rule = bind(policy, params, empty_window(system, 0), scheme=scheme, gravity=GRAVITY)
    now, carry = system, scheme.init(rule, system, compensated=True)
    times, errors, over_potential, steps, sizes = [0.0], [], [], [], [float(scale)]
    for _ in range(12):
        run = stepper.advance(params, ONE, start, run, FOREVER)
        now, carry, dt, _ = scheme.step(rule, now, carry, ONE)
        error = float((GRAVITY.energy(now) - e0) / scale)
        times.append(times[-1] + float(dt))
        steps.append(float(dt))
        errors.append(error)
        over_potential.append(abs(error) * float(scale / abs(GRAVITY.potential_energy(now))))
        sizes.append(float(GRAVITY.energy_size(now)))
    assert (int(run.status), int(run.steps)) == (RUNNING, 12)
    for ours, theirs in zip(run.system, now, strict=True):
        assert torch.equal(ours, theirs)  # the same functions
    stats = run.statistics
    close = {"rel": 1e-9, "abs": 1e-15}  # sums of twelve numbers that carry 1e-16 of energies of size 1
    assert float(run.error) == pytest.approx(abs(errors[-1]), **close)
    assert float(stats.max_error) == pytest.approx(max(map(abs, errors)), **close)
    assert float(stats.max_potential_error) == pytest.approx(max(over_potential), **close)
    assert float(stats.error_integral) == pytest.approx(
        sum(abs(e) * d for e, d in zip(errors, steps, strict=True)), **close
    )
    assert float(stats.signed_integral) == pytest.approx(
        sum(e * d for e, d in zip(errors, steps, strict=True)), **close
    )
    moment = sum((t - d / 2) * e * d for t, e, d in zip(times[1:], errors, steps, strict=True))
    assert float(stats.moment) == pytest.approx(moment, **close)
    # Of each step relative to what it began with, as the step itself is judged.
    changes = [abs(a - b) * sizes[0] / own for a, b, own in zip(errors, [0.0, *errors[:-1]], sizes, strict=False)]
    assert int(stats.over_threshold) == sum(change >= 2e-4 for change in changes)


@pytest.mark.parametrize(("name", "order"), [("hairer_soderlind", 4), ("time_transformed", 6)])
def test_stages_and_a_conclusion_are_an_advance(name, order):
    policy, params, scheme = model(name, order)
    stepper, start, run = begun(policy, params, scheme, triple())
    whole = stepper.advance(params, ONE, start, run, FOREVER)
    out = no_step(run)
    for coefficient in scheme.stages:
        out = stepper.stage(params, coefficient * ONE, run, out)
    for ours, theirs in zip(tree.leaves(stepper.conclude(start, run, out, FOREVER)), tree.leaves(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_the_drift_is_the_slope_of_a_least_squares_line():
    # equal steps, and an error that is recorded at the end of each: a sum over steps, up to their length over the run
    policy = Policy(lambda seed: (), lambda params, system, window: torch.full_like(system.time, 1 / 256))
    common = {"policy": policy, "gravity": GRAVITY, "scheme": as_scheme(build_leapfrog_kdk(GRAVITY))}
    system = triple(1)
    _, info = simulate((), system, t_end=1.0, record_every=1, **common)
    stepper, start, run = begun(policy, (), common["scheme"], system)
    errors = []
    for _ in range(256):
        run = stepper.advance((), ONE, start, run, FOREVER)
        errors.append(float((run.energy - start.energy) / start.scale))
    times, y = info.recording.time[1:], tensor(errors)
    centred = times - times.mean()
    slope = float((centred * (y - y.mean())).sum() / (centred**2).sum())
    # the middle of the steps is half a step off, and the constant part of the error does not quite cancel: 1/256
    assert float(info.energy_drift) == pytest.approx(slope, abs=0.02 * float(y.abs().max()))
    assert abs(slope) > 0.1 * float(y.abs().max())


# --- statuses --------------------------------------------------------------------------------------------------------


def status_after(dt, *, target=FOREVER, steps=1, **options):
    policy = Policy(lambda seed: (), lambda params, system, window: torch.full_like(system.time, dt))
    stepper, start, run = begun(policy, (), as_scheme(build_leapfrog_kdk(GRAVITY)), triple(), **options)
    for _ in range(steps):
        run = stepper.advance((), ONE, start, run, target)
    return run


@pytest.mark.parametrize(
    ("dt", "options", "status"),
    [
        (0.01, {}, RUNNING),
        (0.01, {"max_steps": 1}, STEP_LIMIT),
        (0.01, {"target": tensor(0.02), "steps": 3}, ARRIVED),
        (0.01, {"target": tensor(0.01)}, ARRIVED),  # the step that reaches it is the side step's
        (math.inf, {"target": tensor(1.0)}, ARRIVED),
        (math.inf, {}, ARRIVED),
        (math.nan, {}, NOT_FINITE),
        (1e200, {}, NOT_FINITE),
        (0.0, {}, STALLED),
        (-0.1, {}, STALLED),
        (0.01, {"min_dt": 0.01}, STALLED),
        (0.01, {"min_dt": 0.009}, RUNNING),
        (1e-17, {"target": tensor(1.0)}, STALLED),  # as many steps as there are numbers
        (1e-15, {"target": tensor(1.0)}, RUNNING),
    ],
)
def test_the_status_says_how_a_step_went(dt, options, status):
    run = status_after(dt, **options)
    assert STATUS_NAMES[run.status] == STATUS_NAMES[status]
    moved = status in (RUNNING, STEP_LIMIT)
    for leaf, old in zip(run.system[1:3], triple()[1:3], strict=True):
        assert leaf.isfinite().all()
        if "steps" not in options:
            assert torch.equal(leaf, old) != moved


def test_a_run_that_has_ended_stays_as_it_is():
    ended = status_after(0.01, max_steps=2, steps=2)
    for leaf, same in zip(tree.leaves(status_after(0.01, max_steps=2, steps=5)), tree.leaves(ended), strict=True):
        assert torch.equal(leaf, same)
    assert (int(ended.status), int(ended.steps)) == (STEP_LIMIT, 2)


@pytest.mark.parametrize("name", ["hairer_soderlind", "time_transformed"])
def test_a_transformation_that_is_no_longer_positive_ends_the_run_before_that_step(name):
    criterion = (pair_norm if name == "time_transformed" else p_norm)(GRAVITY, eta=0.3)
    if name == "time_transformed":
        criterion = pair_norm(GRAVITY, eta=0.3, unit="one")
    policy, scheme = build_criterion_policy(criterion), build_scheme(name, GRAVITY, positions_only=True)
    system = triple()._replace(velocity=1e3 * triple().position)  # flies apart
    stepper, start, run = begun(policy, criterion.init(), scheme, system)
    run = stepper.advance(criterion.init(), ONE, start, run, FOREVER)
    assert STATUS_NAMES[run.status] == STATUS_NAMES[NOT_POSITIVE] == "transformation not positive"
    assert int(run.steps) == 0
    assert all(torch.equal(leaf, old) for leaf, old in zip(run.system, system, strict=True))


def test_a_run_begins_without_statistics_and_a_turned_one_again():
    policy, params, scheme = model("hairer_soderlind")
    system = triple()
    stepper, start, run = begun(policy, params, scheme, system)
    assert int(run.steps) == 0
    assert run.statistics.escaper == -1
    for _ in range(5):
        run = stepper.advance(params, ONE, start, run, FOREVER)
    back = stepper.turn(params, run)
    assert torch.equal(back.system.velocity, -run.system.velocity)
    assert torch.equal(back.carry.rho, run.carry.rho)  # ρ is state, and is not started afresh
    assert (int(back.steps), float(back.statistics.max_error)) == (0, 0.0)
    for _ in range(5):
        back = stepper.advance(params, ONE, start, back, FOREVER)
    # the map is its own inverse: five steps of rounding
    torch.testing.assert_close(back.system.position, system.position, rtol=0, atol=1e-14)
    torch.testing.assert_close(back.system.velocity, -system.velocity, rtol=0, atol=1e-14)


# --- landing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [
        *((name, 2) for name in SCHEMES),
        *((name, order) for name in ("hairer_soderlind", "time_transformed") for order in (4, 8)),
    ],
)
@pytest.mark.parametrize("part", [0.999, 0.03])
def test_a_side_step_lands_on_the_time_for_any_part_of_a_step(name, order, part):
    policy, params, scheme = model(name, order)
    stepper, start, run = begun(policy, params, scheme, triple())
    run = stepper.advance(params, ONE, start, run, FOREVER)
    next_one = stepper.advance(params, ONE, start, run, FOREVER)
    target = run.system.time + part * (next_one.system.time - run.system.time)
    landed = stepper.land(params, ONE, start, run, target)
    assert int(landed.status) == FINISHED
    assert torch.equal(landed.system.time, target)
    # The state belongs to that time: with the h of the landing, the scheme's own clock says so.
    rule = bind(policy, params, empty_window(run.system, 0), scheme=scheme, gravity=GRAVITY)
    if scheme.equal_steps:
        out = scheme.step(rule._replace(timescale=lambda s: target - run.system.time), run.system, run.carry, ONE)
    else:
        low, high = tensor(0.0), tensor(1.5)
        for _ in range(60):  # bisection
            middle = (low + high) / 2
            short = scheme.step(rule, run.system, run.carry, middle).dt < target - run.system.time
            low, high = (middle, high) if short else (low, middle)
        out = scheme.step(rule, run.system, run.carry, (low + high) / 2)
    assert float(out.system.time) == pytest.approx(float(target), rel=1e-12)
    # a step of dt ≤ 1 with speeds of order 1, at an h that is known to 1e-13
    torch.testing.assert_close(landed.system.position, out.system.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(landed.system.velocity, out.system.velocity, rtol=0, atol=1e-11)


def test_landing_is_counted_as_output_and_as_one_step():
    policy, params, scheme = model("time_transformed")
    stepper, start, run = begun(policy, params, scheme, triple())
    landed = stepper.land(params, ONE, start, run, tensor(0.01))
    assert int(landed.steps) == 1
    assert int(landed.output_steps) > 1  # the iterations
    direct = model("direct")
    stepper, start, run = begun(*direct, triple())
    landed = stepper.land(direct[1], ONE, start, run, tensor(0.01))
    assert (int(landed.steps), int(landed.output_steps)) == (1, 0)


def test_a_landing_that_fails_leaves_the_last_state_and_says_so():
    # While two bodies approach, no h at all makes a step that is long enough: dt = h/(ρ + ½hG) < 2/G.
    criterion = p_norm(BARE, eta=0.1)
    scheme = build_scheme("hairer_soderlind", BARE, positions_only=True)
    system = make_system(tensor([1.0, 1.0]), tensor([[1.0, 0.0], [-1.0, 0.0]]), tensor([[-1.0, 0.1], [1.0, -0.1]]))
    stepper, start, run = begun(build_criterion_policy(criterion), criterion.init(), scheme, system, gravity=BARE)
    limit = 2 / float(run.carry.slope)
    assert 0 < limit < 5
    landed = stepper.land(criterion.init(), ONE, start, run, tensor(10 * limit))
    assert STATUS_NAMES[landed.status] == STATUS_NAMES[NOT_FINITE]
    assert all(torch.equal(leaf, old) for leaf, old in zip(landed.system, system, strict=True))


# --- events ----------------------------------------------------------------------------------------------------------


def test_the_closest_approach_and_the_first_encounter_are_those_of_the_recorded_path():
    policy, params, scheme = model("hairer_soderlind", eta=0.05)
    systems = gaussian_cluster(3, 4, bodies=4, position_scale=1.0, velocity_scale=0.5)
    _, info = simulate(
        params,
        systems,
        policy=policy,
        gravity=GRAVITY,
        scheme=scheme,
        t_end=1.0,
        record_every=1,
        encounter_distance=0.05,
    )
    recording = info.recording
    met = 0
    for row in range(4):
        closest, first = math.inf, math.inf
        for frame in range(len(recording.time)):
            x = recording.position[frame, row]
            distance = min(float((x[i] - x[j]).norm()) for i in range(4) for j in range(i))
            closest = min(closest, distance)
            if frame and distance < 0.05 and first == math.inf:  # the start is no event
                first = float(recording.time[frame, row])
        assert float(info.closest_distance[row]) == pytest.approx(closest, rel=1e-14)  # a root of a sum of squares
        assert float(info.encounter_time[row]) == first
        met += first < math.inf
    assert 0 < met < 4


def test_at_the_pericentre_the_closest_distance_is_that_of_the_orbit():
    orbit = two_body_orbit(mass=[1.0, 0.5], semi_major_axis=1.0, eccentricity=0.8, mean_anomaly=math.pi)
    policy, params, scheme = model("time_transformed", eta=0.02, gravity=BARE)
    period = 2 * math.pi / math.sqrt(1.5)
    _, info = simulate(params, orbit, policy=policy, gravity=BARE, scheme=scheme, t_end=period, encounter_distance=0.3)
    # a (1 − e) = 0.2, seen at the ends of steps of 0.02 of the encounter: second order in their distance to it
    assert float(info.closest_distance) == pytest.approx(0.2, rel=1e-3)
    # r = a (1 − e cos E) = 0.3 on the way in: cos E = 0.875, and t from Kepler's equation; up to one step
    anomaly = 2 * math.pi - math.acos(0.875)
    wanted = (anomaly - 0.8 * math.sin(anomaly) - math.pi) * period / (2 * math.pi)
    assert float(info.encounter_time) == pytest.approx(wanted, abs=0.02)
    assert float(info.encounter_time) > wanted  # after it happened


def flying(speed):
    """A binary at rest around the origin, and a third body that leaves along x from x = 4."""
    mass = tensor([1.0, 1.0, 0.1])
    position = tensor([[0.0, 0.5], [0.0, -0.5], [4.0, 0.0]])
    return make_system(mass, position, tensor([[0.7, 0.0], [-0.7, 0.0], [speed, 0.0]]))


def naive_escaping(system, distance, G=1.0):
    """Sets of bodies, put together by twos that are the nearest in period to each other; then each against the rest."""

    def centre(group):
        m = sum(float(system.mass[j]) for j in group)
        if m == 0:
            (j,) = group
            return 0.0, system.position[j], system.velocity[j]
        return m, *(sum(system.mass[j] * x[j] for j in group) / m for x in (system.position, system.velocity))

    def period(one, two):
        (m1, x1, v1), (m2, x2, v2) = centre(one), centre(two)
        binding = G * (m1 + m2) / float((x2 - x1).norm()) - float((v2 - v1) @ (v2 - v1)) / 2
        if binding <= 0 or m1 + m2 == 0:
            return math.inf
        return 2 * math.pi * math.sqrt((G * (m1 + m2) / (2 * binding)) ** 3 / (G * (m1 + m2)))

    bodies = range(len(system.mass))
    groups = [(k,) for k in bodies]
    for _ in range(len(groups) - 2):
        periods = {(a, b): period(a, b) for a, b in itertools.permutations(groups, 2)}
        nearest = {a: min((periods[a, b], b) for b in groups if b != a) for a in groups} if len(groups) > 1 else {}
        pairs = [(a, b) for a, (t, b) in nearest.items() if t < math.inf and nearest[b][1] == a and a < b]
        groups = [g for g in groups if not any(g in pair for pair in pairs)] + [a + b for a, b in pairs]
    leaving = set()
    for group in groups:
        others = tuple(j for j in bodies if j not in group)
        if float(system.mass[list(others)].sum()) >= float(system.mass[list(group)].sum()) and others:
            r, v = (mine - theirs for mine, theirs in zip(centre(group)[1:], centre(others)[1:], strict=True))
            radius = float(r.norm())
            if radius > distance and float(r @ v) > 0 and float(v @ v) / 2 > G * float(system.mass.sum()) / radius:
                leaving.update(group)
    return [k in leaving for k in bodies]


@pytest.mark.parametrize("speed", [0.0, 0.5, 1.0, 1.1, 3.0, -3.0])
@pytest.mark.parametrize("distance", [3.0, 5.0])
def test_a_body_escapes_if_it_is_far_unbound_and_moves_away(speed, distance):
    system = flying(speed)
    assert escaping(system, distance, G=1.0).tolist() == naive_escaping(system, distance)


@pytest.mark.parametrize("bodies", [2, 3, 4, 7])
def test_escapes_of_random_clusters_are_those_of_the_two_body_formula(bodies):
    scales = {"position_scale": 2.0, "velocity_scale": 1.0}
    systems = gaussian_cluster(4, 60, bodies=bodies, dimensions=3, **scales)
    some = torch.rand(systems.mass.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    systems = systems._replace(mass=torch.where(some & (systems.mass.cumsum(1) > systems.mass), 0.0, systems.mass))
    found = vmap(lambda s: escaping(s, 2.0, G=1.0))(systems)
    expected = [naive_escaping(tree.take(systems, row), 2.0) for row in range(60)]
    assert found.tolist() == expected
    assert 5 < int(found.sum()) < 40 * bodies


def around(*parts):
    """Bodies (mass, place, speed) on the plane, seen from their centre of mass."""
    mass, position, velocity = (tensor(list(column)) for column in zip(*parts, strict=True))
    return to_centre_of_mass(make_system(mass, position, velocity))


def binary(mass, separation, place, speed, G=1.0):
    """Two equal bodies on a circle of that diameter, whose centre has that place and speed."""
    half, orbital = separation / 2, math.sqrt(G * mass / separation) / 2
    return tuple(
        (mass / 2, [place[0] + side * half, place[1]], [speed[0], speed[1] + side * orbital]) for side in (1, -1)
    )


def test_a_member_of_a_tight_binary_that_is_bound_to_a_third_body_is_no_escaper():
    """Its members move at 5, which alone would let them go; their centre moves at the speed of a circle."""
    for angle in torch.linspace(0, 6, 7).tolist():
        place, speed = [2 * math.cos(angle), 2 * math.sin(angle)], [-math.sin(angle), math.cos(angle)]
        system = around((1.9, [0.0, 0.0], [0.0, 0.0]), *binary(0.1, 1e-3, place, speed))
        assert float(system.velocity[1:].norm(dim=1).max()) > 2 * math.sqrt(2 * 2 / 2)
        assert escaping(system, 0.5, G=1.0).tolist() == [False] * 3


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_tight_binary_that_leaves_escapes_with_both_members_from_just_above_the_speed_of_a_parabola(number):
    parabola = math.sqrt(2 * 2.0 / 3.0)  # ½v² = GM/r with M = 2 and r = 3
    for factor, leaves in ((0.999, False), (1.001, True), (-2.0, False)):
        parts = [(1.9, [0.0, 0.0], [0.0, 0.0]), *binary(0.1, 1e-3, [3.0, 0.0], [factor * parabola, 0.0])]
        parts = parts[number:] + parts[:number]  # whichever comes first
        alone = parts.index((1.9, [0.0, 0.0], [0.0, 0.0]))
        found = escaping(around(*parts), 2.0, G=1.0).tolist()
        assert found == [leaves and k != alone for k in range(3)], factor


def test_a_triple_in_a_triple_is_judged_level_by_level():
    """A binary around a planet around a star, each level faster than the one around it: nothing leaves.

    And the planet with its binary leaves as a whole where it is unbound to the star.
    """
    inner = binary(2e-6, 1e-7, [0.0, 1.001], [-1.0 - math.sqrt(1e-3 / 1e-3), 0.0])  # at 4.5 around each other
    planet = (1e-3, [0.0, 1.0], [-1.0, 0.0])
    assert escaping(around((1.0, [0.0, 0.0], [0.0, 0.0]), planet, *inner), 0.5, G=1.0).tolist() == [False] * 4
    away = [(m, x, [v[0], v[1] + 2.0]) for m, x, v in (planet, *inner)]
    assert escaping(around((1.0, [0.0, 0.0], [0.0, 0.0]), *away), 0.5, G=1.0).tolist() == [False] + [True] * 3
    assert escaping(around((1.0, [0.0, 0.0], [0.0, 0.0]), *away), 1.1, G=1.0).tolist() == [False] * 4


def test_two_binaries_that_are_bound_to_each_other_stay_and_a_grain_between_them_leaves_alone():
    pairs = [
        part
        for side in (1, -1)
        for part in binary(1.0, 1e-3, [0.0, side * 1.0], [side * 0.5, 0.0])  # a circle of diameter 2: v² = 2/2/4
    ]
    assert escaping(around(*pairs), 0.5, G=1.0).tolist() == [False] * 4
    grain = (0.0, [5.0, 0.0], [1.0, 0.0])  # ½v² = 0.5 > 2/5
    assert escaping(around(*pairs, grain), 0.5, G=1.0).tolist() == [False] * 4 + [True]
    slow = (0.0, [5.0, 0.0], [0.8, 0.0])
    assert escaping(around(*pairs, slow), 0.5, G=1.0).tolist() == [False] * 5


def test_a_planet_with_more_moons_than_there_are_rounds_keeps_those_that_the_rounds_reach():
    """Ten moons, each fast enough to leave the star if judged alone; eight rounds put eight of them to their planet."""
    moons = []
    for k in range(10):
        a = 1e-4 * 1.2**k
        moons.append((1e-12, [1.0, -a], [math.sqrt(1e-3 / a), 1.0]))  # away from the star, at 1.39 or more
    system = around((1.0, [0.0, 0.0], [0.0, 0.0]), (1e-3, [1.0, 0.0], [0.0, 1.0]), *moons)
    assert escaping(system, 0.5, G=1.0).tolist() == [False] * 10 + [True] * 2


def test_groups_are_the_same_in_any_units_in_float32_as_well():
    systems = gaussian_cluster(7, 40, bodies=5, dimensions=2, position_scale=2.0, velocity_scale=1.0)
    expected = vmap(lambda s: escaping(s, 2.0, G=1.0))(systems)
    metre, kilogram, G = 1.5e11, 2e30, 6.674e-11
    speed = math.sqrt(G * kilogram / metre)
    scaled = systems._replace(
        mass=systems.mass * kilogram, position=systems.position * metre, velocity=systems.velocity * speed
    )
    for dtype in (torch.float64, torch.float32):
        found = vmap(lambda s: escaping(s, 2.0 * metre, G=G))(tree.cast(scaled, dtype=dtype))
        assert torch.equal(found, expected)
    assert expected.any()


def test_no_body_escapes_from_nothing():
    system = flying(3.0)._replace(mass=tensor([0.0, 0.0, 1.0]))
    assert not escaping(system, 1.0, G=1.0)[2]  # it holds all of the mass
    assert escaping(flying(3.0)._replace(mass=tensor([1.0, 1.0, 0.0])), 1.0, G=1.0)[2]  # a test particle may


def test_the_escape_is_reported_with_its_body_and_the_time_of_the_first_step_beyond():
    policy = Policy(lambda seed: (), lambda params, system, window: torch.full_like(system.time, 1 / 64))
    common = {"policy": policy, "gravity": GRAVITY, "scheme": as_scheme(build_leapfrog_dkd(GRAVITY))}
    _, info = simulate((), flying(2.0), t_end=2.0, escape_distance=5.0, record_every=1, **common)
    assert int(info.escaper) == 2
    # no force on it to speak of: it has slowed from 2.0 to 1.9 when it comes to x = 5
    assert float(info.escape_time) == pytest.approx(0.5, abs=0.05)
    reached = [float(t) for t, x in zip(info.recording.time, info.recording.position, strict=True) if x[2, 0] > 5.0]
    # the distance is that to the others' centre, which has hardly moved: the very step, or the next
    assert 0 <= float(info.escape_time) - reached[0] <= 1 / 64
    _, bound = simulate((), flying(0.3), t_end=2.0, escape_distance=5.0, **common)
    assert (float(bound.escape_time), int(bound.escaper)) == (math.inf, -1)
    _, unwatched = simulate((), flying(2.0), t_end=2.0, **common)
    assert (float(unwatched.escape_time), int(unwatched.escaper)) == (math.inf, -1)
    assert float(unwatched.closest_distance) == math.inf
