"""The four vocabularies against plain numpy, written from design/system.md §6, and the invariants' known values."""

import math

import numpy as np
import pytest
import torch
from torch.func import jacfwd, jacrev, vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.base.types import Window
from aits_func.physics.fields import build_tidal_field
from aits_func.physics.gravity import build_gravity
from aits_func.physics.orbits import two_body_orbit
from aits_func.timestep.features import Scales, auto_scales, build_features, manual_scales
from aits_func.timestep.window import empty_window, push

F = torch.float64
G = 1.7
# Sums of at most 15 terms with a few roundings of 1e-16 each; of Gaussian positions terms exceed their
# sums by 100 at most. atol is for the guards 1e-12, which may stand before or after a scale of order 1.
AGREEMENT = {"rtol": 1e-13, "atol": 1e-14}
SHAPES = [(N, D) for N in (2, 3, 6) for D in (2, 3)]
SIZES = {"basic": 11, "rich": 23, "delta_mag": 10}


# ---------------------------------------------------------------- systems and windows


def random_system(N=3, D=3, *, seed=0, massless=0):
    make = torch.Generator().manual_seed(100 * seed + 10 * N + D)
    mass = torch.rand(N, generator=make, dtype=F) + 0.5
    mass[N - massless :] = 0
    position, velocity = (torch.randn(N, D, generator=make, dtype=F) for _ in range(2))
    return make_system(mass, position, velocity, 3.0)


def random_history(system, H, valid=None, *, seed=0):
    """A window of H states of which the last ``valid`` (all unless given) hold one; the others hold NaN."""
    make = torch.Generator().manual_seed(seed)
    N, D = system.position.shape
    position, velocity = (torch.randn(H, N, D, generator=make, dtype=F) for _ in range(2))
    dt = torch.rand(H + 1, generator=make, dtype=F) + 0.1
    time = system.time - dt[1:].flip(0).cumsum(0).flip(0)
    missing = H - (H if valid is None else valid)
    for leaf in (position, velocity, time, dt):
        leaf[:missing] = math.nan
    return Window(position, velocity, time, dt, torch.arange(H) >= missing)


def featurize(vocabulary, system, window=None, *, gravity=None, scales=None):
    gravity = build_gravity(G=G) if gravity is None else gravity
    window = empty_window(system, 0) if window is None else window
    history = window.valid.shape[0]
    return build_features(vocabulary, gravity, history_len=history, scales=scales).apply(system, window)


def invariant(system, **options):
    features = build_features("invariant", build_gravity(**options))
    return dict(zip(features.names, features.apply(system, empty_window(system, 0)).tolist(), strict=True))


# ---------------------------------------------------------------- the source's vocabularies in numpy


def states(system, window):
    """Past states and the present one, oldest first: lists of (mass, x, v) about the centre of mass."""
    mass = system.mass.numpy()
    past = zip(window.position.numpy(), window.velocity.numpy(), strict=True)
    rows = [*past, (system.position.numpy(), system.velocity.numpy())]
    return [(mass, x - mass @ x / mass.sum(), v - mass @ v / mass.sum()) for x, v in rows]


def accelerations(mass, x, softening):
    a = np.zeros_like(x)
    for i in range(len(mass)):
        for j in range(len(mass)):
            if i != j:
                a[i] += G * mass[j] * (x[j] - x[i]) / (np.sum((x[j] - x[i]) ** 2) + softening**2) ** 1.5
    return a


def size(x):
    return np.array([math.hypot(*row) for row in x])


def rms(x):
    return math.sqrt(np.mean(x**2) + 1e-12)


def pair_distances(x, softening):
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    return np.array([math.sqrt(np.sum((x[i] - x[j]) ** 2) + softening**2 + 1e-12) for i, j in pairs])


def ingredients(state, softening, scales):
    mass, x, v = state
    a = accelerations(mass, x, softening)
    lengths = pair_distances(x, softening) / scales.length
    return mass, size(x) / scales.length, size(v) / scales.speed, size(a) / scales.acceleration, lengths


def naive_basic(state, softening, scales):
    mass, r, v, a, pairs = ingredients(state, softening, scales)
    spread = [f(x) for x in (r, v, a) for f in (np.mean, np.max)]
    return [len(mass), state[1].shape[1], mass.sum(), *spread, pairs.min(), pairs.mean()]


def naive_rich(state, softening, scales):
    mass, r, v, a, pairs = ingredients(state, softening, scales)
    spread = [f(x) for x in (mass, r, v, a) for f in (np.mean, np.min, np.max, rms)]
    ends = [pairs.min(), pairs.mean(), pairs.max(), softening / scales.length]
    return [len(mass), state[1].shape[1], mass.sum(), *spread, *ends]


def naive_delta_mag(earlier, later, dt, softening, scales):
    (mass, x0, v0), (_, x1, v1) = earlier, later
    a0, a1 = (accelerations(mass, x, max(softening, 1e-6)) for x in (x0, x1))
    changes = (
        size(x1 - x0) / scales.length,
        size(v1 - v0) / scales.speed,
        size(a1 - a0) / scales.acceleration,
    )
    return [*(f(change) for change in changes for f in (np.mean, np.max, rms)), dt / scales.time]


def naive(vocabulary, system, window, *, softening=0.0, scales=Scales(1.0, 1.0, 1.0, 1.0)):  # noqa: B008
    rows = states(system, window)
    if vocabulary == "delta_mag":
        steps = window.dt[1:].tolist()
        triples = zip(rows[:-1], rows[1:], steps, strict=True)
        blocks = [naive_delta_mag(*triple, softening, scales) for triple in triples]
    else:
        blocks = [{"basic": naive_basic, "rich": naive_rich}[vocabulary](row, softening, scales) for row in rows]
    return torch.tensor(np.concatenate(blocks), dtype=F)


CASES = [("basic", 0), ("basic", 2), ("rich", 0), ("rich", 3), ("delta_mag", 1), ("delta_mag", 3)]


@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("vocabulary", "H"), CASES)
@pytest.mark.parametrize(("N", "D"), SHAPES)
def test_a_vocabulary_of_the_source_is_the_one_in_numpy(N, D, vocabulary, H, softening):
    system = random_system(N, D, massless=N // 3)
    window = random_history(system, H)
    ours = featurize(vocabulary, system, window, gravity=build_gravity(G=G, softening=softening))
    torch.testing.assert_close(ours, naive(vocabulary, system, window, softening=softening), **AGREEMENT)


@pytest.mark.parametrize(("vocabulary", "H"), CASES)
def test_scales_divide_lengths_speeds_accelerations_and_times(vocabulary, H):
    system, scales = random_system(4, 3), Scales(2.0, 3.0, 5.0, 7.0)
    window = random_history(system, H)
    ours = featurize(vocabulary, system, window, gravity=build_gravity(G=G, softening=0.3), scales=scales)
    expected = naive(vocabulary, system, window, softening=0.3, scales=scales)
    # 1e-12: the guard of a root may stand before or after a scale of order 1, and what it guards is about 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("vocabulary", "H"), CASES)
def test_sizes_and_names_fit_the_vector(vocabulary, H):
    features = build_features(vocabulary, build_gravity(), history_len=H)
    blocks = H if vocabulary == "delta_mag" else H + 1
    system = random_system()
    assert features.size == len(features.names) == SIZES[vocabulary] * blocks
    assert features.apply(system, random_history(system, H)).shape == (features.size,)
    assert len(set(features.names)) == features.size
    assert features.history_len == H
    assert not features.dimensionless


@pytest.mark.parametrize("vocabulary", ["basic", "rich"])
def test_names_say_what_stands_in_their_column(vocabulary):
    system, gravity = random_system(4, 2), build_gravity(G=G, softening=0.3)
    features = build_features(vocabulary, gravity)
    values = dict(zip(features.names, features.apply(system, empty_window(system, 0)).tolist(), strict=True))
    mass, r, v, a, pairs = ingredients(states(system, empty_window(system, 0))[0], 0.3, Scales(1, 1, 1, 1))
    functions = {"mean": np.mean, "min": np.min, "max": np.max, "rms": rms}
    quantities = {"m": mass, "r": r, "v": v, "a": a, "pair": pairs}
    whole = {"bodies": 4, "dimensions": 2, "total mass": mass.sum(), "softening": 0.3}
    for name, value in values.items():
        quantity, _, function = name.partition(" ")
        expected = whole[name] if name in whole else functions[function](quantities[quantity])
        assert value == pytest.approx(expected, rel=1e-13), name  # rounding, as AGREEMENT


def test_names_with_history_say_how_many_steps_ago():
    names = build_features("basic", build_gravity(), history_len=2).names
    assert [name for name in names if name.startswith("r mean")] == ["r mean[-2]", "r mean[-1]", "r mean[0]"]
    names = build_features("delta_mag", build_gravity(), history_len=2).names
    assert [name for name in names if name.startswith("dt")] == ["dt[-2]", "dt[-1]"]
    assert names[9] == "dt[-2]"  # the dt closes its interval, oldest first


@pytest.mark.parametrize("valid", [0, 1, 2, 3])
@pytest.mark.parametrize("vocabulary", list(SIZES))
def test_missing_history_is_zero_in_exactly_its_columns_whatever_stands_in_the_slots(vocabulary, valid):
    system, H = random_system(), 3
    full, partial = random_history(system, H), random_history(system, H, valid)
    missing = (H - valid) * SIZES[vocabulary]
    gravity = build_gravity(G=G, softening=0.3)
    ours, whole = (featurize(vocabulary, system, window, gravity=gravity) for window in (partial, full))
    assert not ours[:missing].any()
    assert torch.equal(ours[missing:], whole[missing:])
    assert whole[:missing].all()  # so the zeros say something


@pytest.mark.parametrize("vocabulary", list(SIZES))
def test_the_history_of_a_run_enters_oldest_first(vocabulary):
    first, second, third = (random_system(seed=seed) for seed in (1, 2, 3))
    first, second = (old._replace(mass=third.mass) for old in (first, second))
    window = push(empty_window(first, 2), first, torch.tensor(0.25, dtype=F))
    window = push(window, second, torch.tensor(0.5, dtype=F))
    ours = featurize(vocabulary, third, window)
    torch.testing.assert_close(ours, naive(vocabulary, third, window), **AGREEMENT)
    if vocabulary == "delta_mag":
        assert ours[9::10].tolist() == [0.25, 0.5]


def test_delta_mag_is_finite_where_bodies_met_in_the_past():
    system = random_system()
    window = random_history(system, 2)
    window.position[0, 1] = window.position[0, 0]  # accelerations are softened by 1e-6 at least
    assert featurize("delta_mag", system, window).isfinite().all()
    near = window.position[0, 0] + torch.tensor([1e-6, 0.0, 0.0], dtype=F)
    window.position[0, 1] = near
    # the distance of 1e-6 is a difference of numbers of order 1, known to 1e-10, and enters the force squared
    torch.testing.assert_close(
        featurize("delta_mag", system, window), naive("delta_mag", system, window), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("vocabulary", ["basic", "rich"])
def test_accelerations_contain_the_external_field(vocabulary):
    mass = torch.tensor([1.0, 1.0], dtype=F)
    position = torch.tensor([[0.5, 0.25], [-0.5, -0.25]], dtype=F)
    system = make_system(mass, position, position.flip(1))
    gravity = build_gravity(G=G, field=build_tidal_field(50.0, [3.0, 1.0], G=G))
    features = build_features(vocabulary, gravity)
    values = dict(zip(features.names, features.apply(system, empty_window(system, 0)).tolist(), strict=True))
    strengths = gravity.acceleration(system.mass, system.position, system.time).norm(dim=1)
    assert strengths.max() > 1.1 * featurize(vocabulary, system).tolist()[features.names.index("a max")]
    assert values["a max"] == pytest.approx(strengths.max().item(), rel=1e-13)  # one root and a few sums


# ---------------------------------------------------------------- scales and arguments


@pytest.mark.parametrize("softening", [0.0, 0.3])
def test_automatic_scales_are_those_of_the_system(softening):
    system = random_system(4, 3, massless=1)
    mass, x, v = states(system, empty_window(system, 0))[0]
    length = np.mean(pair_distances(x, softening))
    speed = math.sqrt(np.mean(size(v) ** 2))
    acceleration = math.sqrt(np.mean(size(accelerations(mass, x, softening)) ** 2))
    scales = auto_scales(system, build_gravity(G=G, softening=softening))
    # 1e-12: pair distances here may have the guard of the features or not
    assert tuple(scales) == pytest.approx((length, speed, acceleration, length / speed), rel=1e-10)


def test_automatic_scales_do_not_depend_on_the_frame():
    system = random_system(4, 3)
    moved = system._replace(position=system.position + 5, velocity=system.velocity - 3)
    # positions 5 times as large, so roundings 5 times as large
    assert tuple(auto_scales(moved, build_gravity())) == pytest.approx(auto_scales(system, build_gravity()), rel=1e-13)


def test_automatic_scales_refuse_a_system_that_has_none():
    system = random_system()
    rest = system._replace(velocity=torch.ones_like(system.velocity))
    with pytest.raises(ValueError, match=r"^auto_scales: .* at rest or feels no force; give the scales L0 and V0"):
        auto_scales(rest, build_gravity())


def test_manual_scales_are_completed_from_length_and_speed():
    assert manual_scales(2.0, 3.0) == Scales(2.0, 3.0, 4.5, 2.0 / 3.0)
    assert manual_scales(2.0, 3.0, 5.0, 7.0) == Scales(2.0, 3.0, 5.0, 7.0)


@pytest.mark.parametrize(
    "values", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0, -1.0)]
)
def test_manual_scales_must_be_positive(values):
    with pytest.raises(ValueError, match=r"^manual_scales: .* must be > 0"):
        manual_scales(*values)


@pytest.mark.parametrize(
    ("vocabulary", "history", "message"),
    [
        ("fancy", 0, r"^build_features: vocabulary must be one of invariant, .*, got 'fancy'$"),
        ("basic", -1, r"^build_features: history_len must be >= 0, got -1$"),
        ("delta_mag", 0, r"^build_features: delta_mag compares states; set history_len >= 1, got 0$"),
        ("invariant", 2, r"^build_features: invariant .* set history_len = 0, got 2$"),
    ],
)
def test_bad_arguments_are_refused(vocabulary, history, message):
    with pytest.raises(ValueError, match=message):
        build_features(vocabulary, build_gravity(), history_len=history)


# ---------------------------------------------------------------- the invariant features


def soft_log(top, bottom):
    """ln(top/bottom)/10, both raised by 1e-9 in the mean square: the ends of the scale."""
    return 0.05 * (math.log(top**2 + 1e-18) - math.log(bottom**2 + 1e-18))


def naive_invariant(system, gravity):
    """The docstring of `build_invariant` in plain Python; derivatives are tested in test_gravity."""
    mass, x, v = states(system, empty_window(system, 0))[0]
    centred = system._replace(position=torch.tensor(x), velocity=torch.tensor(v))
    a, jerk, snap = (part.numpy() for part in gravity.derivatives(centred))
    s, rows = gravity.softening, []
    for i in range(len(mass)):
        for j in range(i):
            m, r, u = mass[i] + mass[j], x[j] - x[i], v[j] - v[i]
            if m == 0:
                continue
            R = math.sqrt(r @ r + s * s)
            pull = gravity.G * m / R
            own = -gravity.G * m * r / R**3
            rest = np.sum((a[j] - a[i] - own) ** 2)
            terms = [
                u @ u / (u @ u + pull),
                (u @ r) ** 2 / (R * R * (u @ u) + pull * R * R),
                m / mass.sum(),
                4 * mass[i] * mass[j] / m**2,
                s / (s + R),
                rest / (rest + (pull / R) ** 2),
            ]
            rows.append((terms, gravity.G * m / R**3, gravity.G * mass[i] * mass[j] / R))
    q = np.array([rate for _, rate, _ in rows])
    tau, q = q.sum() ** -0.5, q / q.sum()
    terms, pulls = np.array([terms for terms, _, _ in rows]), np.array([energy for _, _, energy in rows])
    kinetic = 0.5 * np.sum(mass * np.sum(v * v, 1))
    potential = gravity.external_energy(centred).item() - pulls.sum()
    energy, depth = abs(kinetic + potential - system.work.item()), math.sqrt(np.sum(pulls**2))

    def mean(one, other):
        return np.sum(mass * np.sum(one * other, 1))

    aa, ss, jj = (math.sqrt(mean(part, part)) for part in (a, snap, jerk))
    return torch.tensor(
        [
            *(q @ terms),
            *((q * (1 - q)) @ terms),
            1 - np.sum(q**2),
            1 - np.sum(q**4),
            kinetic / (kinetic + abs(potential)),
            jj**2 / (jj**2 + aa * ss),
            soft_log(1.0, energy / depth),
            soft_log(tau**3 * mean(a, jerk) / depth, energy / depth),
            soft_log(tau**3 * mean(v, snap) / depth, energy / depth),
            soft_log(tau**2 * ss / aa, 1.0),
        ],
        dtype=F,
    )


@pytest.mark.parametrize("field", [None, build_tidal_field(5.0, [4.0, -3.0, 2.0], G=G)], ids=["isolated", "tidal"])
@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize(("N", "massless"), [(2, 0), (3, 0), (4, 2), (6, 3)])
def test_the_invariant_features_are_those_of_their_definition(N, massless, softening, field):
    system = random_system(N, 3, massless=massless)._replace(work=torch.tensor(0.1, dtype=F))
    gravity = build_gravity(G=G, softening=softening, field=field)
    ours = build_features("invariant", gravity).apply(system, empty_window(system, 0))
    # about 100 roundings of 1e-16; the energy and the sums over a·j and v·snap cancel to 1 % at most
    torch.testing.assert_close(ours, naive_invariant(system, gravity), rtol=0, atol=1e-12)


def test_there_are_twenty_named_invariant_features_that_need_no_history():
    features = build_features("invariant", build_gravity())
    assert features.size == len(set(features.names)) == 20
    assert features.dimensionless
    assert features.history_len == 0
    system = random_system()
    without, with_history = (
        features.apply(system, window) for window in (empty_window(system, 0), random_history(system, 2))
    )
    assert torch.equal(without, with_history)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("masses", [[1.0, 1.0], [3.0, 0.2]])
def test_a_circular_binary_has_the_values_of_a_circular_binary(masses, dimensions):
    system = two_body_orbit(mass=masses, semi_major_axis=0.7, eccentricity=0.0, mean_anomaly=1.0, dimensions=dimensions)
    values = invariant(system)
    balance = 4 * masses[0] * masses[1] / sum(masses) ** 2
    never = 0.1 * math.log(1e-9 / 0.5)  # a·j = v·snap = 0: the lower end of the scale, and |E| = S/2
    expected = {
        "fly-by, tightest pairs": 0.5,  # v² = G M/r
        "radial, tightest pairs": 0.0,
        "mass fraction, tightest pairs": 1.0,
        "mass balance, tightest pairs": balance,
        "softening, tightest pairs": 0.0,
        "tide, tightest pairs": 0.0,
        **{name: 0.0 for name in values if name.endswith("other pairs") or name.startswith("hierarchy")},
        "virial": 1 / 3,  # K = |W|/2
        "jerk": 0.5,  # a = ω² r, j = ω³ r, s = ω⁴ r
        "depth": 0.1 * math.log(2),  # E = W/2
        "change of force": never,
        "change of kinetic energy": never,
        "curvature": 0.0,  # τ = 1/ω
    }
    assert values.keys() == expected.keys()
    # Roundings of 1e-16; at the end of a scale an error of 1e-16 in a·j is weighed against 1e-9, squared.
    assert values == pytest.approx(expected, abs=1e-13)


def test_on_an_eccentric_orbit_the_radial_feature_vanishes_at_the_turning_points_only():
    def radial(mean_anomaly):
        return invariant(
            two_body_orbit(mass=[1.0, 2.0], semi_major_axis=1.0, eccentricity=0.6, mean_anomaly=mean_anomaly)
        )["radial, tightest pairs"]

    assert radial(0.0) == pytest.approx(0, abs=1e-28)  # the square of a rounding
    assert radial(math.pi) == pytest.approx(0, abs=1e-28)
    assert radial(0.3) > 0.1
    assert radial(0.3) == pytest.approx(radial(-0.3), rel=1e-13)  # time reversal, to rounding


def test_a_distant_third_body_leaves_the_tightest_pair_as_it_was():
    pair = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.5, mean_anomaly=1.0)
    far = torch.tensor([[1e4, 0.0]], dtype=F)
    triple = make_system(
        torch.cat([pair.mass, pair.mass[:1]]),
        torch.cat([pair.position, far]),
        torch.cat([pair.velocity, torch.zeros_like(far)]),
    )
    alone, together = invariant(pair), invariant(triple)
    for name in alone:
        if name.endswith("tightest pairs") and not name.startswith("mass fraction"):
            assert together[name] == pytest.approx(alone[name], abs=1e-10)  # its share of Σω² is (1e-4)³
    assert together["mass fraction, tightest pairs"] == pytest.approx(2 / 3, abs=1e-10)


def special_states():
    equal, three = torch.ones(3, dtype=F), torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=F)
    still = torch.zeros_like(three)
    spin = torch.tensor([[0.0, -0.8], [0.0, 0.0], [0.0, 0.8]], dtype=F)
    general = random_system(4, 2)
    return {
        "at rest": general._replace(velocity=torch.zeros_like(general.velocity)),
        "collinear and symmetric at rest": make_system(equal, three, still),
        "collinear and symmetric, turning": make_system(equal, three, spin),
        "collinear and symmetric, breathing": make_system(equal, three, three),
        "a massless pair": random_system(4, 2, massless=2),
        "a massless pair at rest": general._replace(
            mass=torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=F), velocity=torch.zeros_like(general.velocity)
        ),
        "a massless pair that moves alike": random_system(4, 2, massless=2)._replace(
            velocity=torch.tensor([[0.1, 0.2], [0.3, -0.4], [0.5, 0.6], [0.5, 0.6]], dtype=F)
        ),
        "one body with mass": random_system(4, 2, massless=3),
        "one body with mass and all at rest": random_system(4, 2, massless=3)._replace(
            velocity=torch.zeros(4, 2, dtype=F)
        ),
        "a test particle at the centre of a symmetric pair": make_system(
            torch.tensor([1.0, 0.0, 1.0], dtype=F), three, spin
        ),
    }


@pytest.mark.parametrize("softening", [0.0, 0.1])
@pytest.mark.parametrize("state", list(special_states()))
@pytest.mark.parametrize("derivative", [jacfwd, jacrev])
def test_invariant_features_and_their_derivatives_are_finite_in_special_states(derivative, state, softening):
    system = special_states()[state]
    features = build_features("invariant", build_gravity(softening=softening))

    def of(mass, position, velocity):
        changed = system._replace(mass=mass, position=position, velocity=velocity)
        return features.apply(changed, empty_window(changed, 0))

    at = (system.mass, system.position, system.velocity)
    assert of(*at).isfinite().all()
    for slope in derivative(of, argnums=(0, 1, 2))(*at):
        assert slope.isfinite().all()


@pytest.mark.parametrize(("vocabulary", "H"), [("basic", 1), ("rich", 1), ("delta_mag", 1)])
@pytest.mark.parametrize("state", list(special_states()))
def test_features_of_the_source_and_their_derivatives_are_finite_in_special_states(state, vocabulary, H):
    system = special_states()[state]
    features = build_features(vocabulary, build_gravity(), history_len=H)
    still = push(empty_window(system, H), system, torch.tensor(0.1, dtype=F))  # nothing changed since: |Δx| = 0
    for window in (empty_window(system, H), still):

        def of(position, velocity, window=window):
            return features.apply(system._replace(position=position, velocity=velocity), window)

        assert of(system.position, system.velocity).isfinite().all()
        for slope in jacrev(of, argnums=(0, 1))(system.position, system.velocity):
            assert slope.isfinite().all()


def test_with_mass_in_one_body_alone_there_is_no_energy_to_speak_of():
    system = make_system(
        torch.tensor([2.0, 0.0], dtype=F),
        torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=F),
        torch.tensor([[0.5, 0.0], [0.5, 1.0]], dtype=F),
    )
    values = invariant(system)
    assert values["fly-by, tightest pairs"] == pytest.approx(1 / 3, rel=1e-13)  # v² = 1, G M/r = 2
    assert values["mass fraction, tightest pairs"] == 1
    assert values["mass balance, tightest pairs"] == 0
    for name in ("virial", "jerk", "depth", "change of force", "change of kinetic energy", "curvature"):
        assert values[name] == 0


@pytest.mark.parametrize("name", ["mass fraction", "mass balance", "softening", "tide", "fly-by", "radial"])
@pytest.mark.parametrize("seed", range(3))
def test_pair_features_lie_between_0_and_1(name, seed):
    values = invariant(random_system(5, 3, seed=seed, massless=1), softening=0.1)
    assert 0 <= values[f"{name}, tightest pairs"] <= 1
    assert 0 <= values[f"{name}, other pairs"] <= 1


# ---------------------------------------------------------------- all four


@pytest.mark.parametrize(("vocabulary", "H"), CASES)
def test_a_window_of_another_length_is_refused(vocabulary, H):
    system = random_system()
    features = build_features(vocabulary, build_gravity(), history_len=H)
    with pytest.raises(ValueError, match=rf"^features: the window holds {H + 1} states, these features read {H};"):
        features.apply(system, random_history(system, H + 1))


@pytest.mark.parametrize(("vocabulary", "H"), [*CASES, ("invariant", 0)])
def test_a_batch_is_the_systems_one_by_one(vocabulary, H):
    systems = [random_system(4, 2, seed=seed) for seed in range(3)]
    windows = [random_history(system, H, valid=min(H, k), seed=k) for k, system in enumerate(systems)]
    features = build_features(vocabulary, build_gravity(), history_len=H)
    batch = vmap(features.apply)(tree.stack(systems), tree.stack(windows))
    one_by_one = [features.apply(system, window) for system, window in zip(systems, windows, strict=True)]
    # vmap and a Python loop agree to rounding, of sums that cancel to 1 % at most
    torch.testing.assert_close(batch, torch.stack(one_by_one), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("vocabulary", "H"), [*CASES, ("invariant", 0)])
def test_single_precision_stays_single_and_agrees_to_its_rounding(vocabulary, H):
    system = random_system(4, 2)
    window, features = random_history(system, H), build_features(vocabulary, build_gravity(), history_len=H)
    single = features.apply(*(tree.cast(x, dtype=torch.float32) for x in (system, window)))
    assert single.dtype == torch.float32
    # roundings of 6e-8 in sums that cancel to 1 % at most
    torch.testing.assert_close(single.double(), features.apply(system, window), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("massless", [1, 2, 3])
@pytest.mark.parametrize(("length", "mass", "G"), [(1.5e11, 2e30, 6.674e-11), (1e-12, 1e-12, 1.0), (1e17, 1e-12, 1.0)])
def test_beside_massless_bodies_invariant_features_and_their_derivatives_are_the_same_in_any_units(
    length, mass, G, massless
):
    make = torch.Generator().manual_seed(3)
    position, velocity = (torch.randn(4, 2, generator=make, dtype=torch.float64) for _ in range(2))
    masses = torch.tensor([1.0, 0.7, 1.4, 0.5], dtype=torch.float64)
    masses = torch.where(torch.arange(4) < 4 - massless, masses, 0.0)
    time = math.sqrt(length**3 / (G * mass))

    def features(G, m, x, v):
        system = make_system(masses, position, velocity)._replace(mass=m, position=x, velocity=v)
        return build_features("invariant", build_gravity(G=G)).apply(system, empty_window(system, 0))

    here, factors = (masses, position, velocity), (mass, length, length / time)
    there = [x * factor for x, factor in zip(here, factors, strict=True)]
    # Logarithms whose arguments may be 1e-3 of their unit, and up to the third power of a rate.
    torch.testing.assert_close(features(G, *there), features(1.0, *here), rtol=0, atol=1e-11)
    slopes, expected = (jacrev(features, argnums=(1, 2, 3))(g, *at) for g, at in ((G, there), (1.0, here)))
    for slope, one, factor in zip(slopes, expected, factors, strict=True):
        torch.testing.assert_close(slope * factor, one, rtol=1e-9, atol=1e-10)


def test_in_single_precision_invariant_features_are_finite_in_si_units_of_planetary_systems():
    length, mass, G = 1.5e11, 2e30, 6.674e-11  # products of masses and cubes of lengths are no float32
    orbit = two_body_orbit(mass=[mass, 0.3 * mass], semi_major_axis=length, eccentricity=0.5, mean_anomaly=1.0, G=G)
    features = build_features("invariant", build_gravity(G=G))
    single = tree.cast(orbit, dtype=torch.float32)
    ours, theirs = (features.apply(system, empty_window(system, 0)) for system in (single, orbit))
    # Roundings of 6e-8 in derivatives up to the third; logarithms of what vanishes for two bodies are made of them.
    torch.testing.assert_close(ours[:-4].double(), theirs[:-4], rtol=0, atol=1e-5)
    assert ours.isfinite().all()
