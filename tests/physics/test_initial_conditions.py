"""Generators: right shapes, same seed same bits, at rest in their centre of mass, drawn as they say.

Statistics are of fixed seeds, so they do not flicker; each bound is four standard errors of the
mean that is tested, wide enough for one seed in ten thousand to fail.
"""

import math
import re

import pytest
import torch
from torch.func import vmap

from aits_func.base.check import check_system
from aits_func.base.types import System
from aits_func.physics import initial_conditions
from aits_func.physics.initial_conditions import binaries, free_fall_triple, gaussian_cluster, hierarchical_triple
from aits_func.physics.invariants import angular_momentum, centre_of_mass
from aits_func.physics.orbits import orbital_elements, orbital_period
from aits_func.physics.plummer import plummer_sphere

GENERATORS = {
    "gaussian_cluster": (gaussian_cluster, {}, (3, 2)),
    "gaussian_cluster of five in 3D": (
        gaussian_cluster,
        {"bodies": 5, "dimensions": 3, "mass_range": (0.1, 3.0)},
        (5, 3),
    ),
    "binaries": (binaries, {}, (2, 2)),
    "binaries in 3D": (binaries, {"dimensions": 3, "phase": "random", "mass_ratio": (0.1, 1.0)}, (2, 3)),
    "hierarchical_triple": (hierarchical_triple, {}, (3, 2)),
    "hierarchical_triple in 3D": (
        hierarchical_triple,
        {"dimensions": 3, "mutual_inclination": (0.0, math.pi), "mass_range": (0.5, 2.0)},
        (3, 3),
    ),
    "free_fall_triple": (free_fall_triple, {}, (3, 2)),
    "free_fall_triple in 3D": (free_fall_triple, {"dimensions": 3, "mass_range": (0.1, 3.0)}, (3, 3)),
    "plummer_sphere": (plummer_sphere, {}, (16, 3)),
    "plummer_sphere of two": (plummer_sphere, {"bodies": 2, "exact_units": False}, (2, 3)),
}
each_generator = pytest.mark.parametrize("name", GENERATORS)


def generate(name, seed=0, count=20):
    function, parameters, _ = GENERATORS[name]
    return function(seed, count, **parameters)


def pair(system, i, j):
    """Two of the bodies of every system, as a system."""
    pick = torch.tensor([i, j])
    return System(system.mass[:, pick], system.position[:, pick], system.velocity[:, pick], system.time, system.work)


def inner_and_outer(triple):
    """The pair (0, 1), and their centre of mass with body 2."""
    inner = pair(triple, 0, 1)
    position, velocity = vmap(centre_of_mass)(inner)
    outer = System(
        torch.stack([inner.mass.sum(-1), triple.mass[:, 2]], -1),
        torch.stack([position, triple.position[:, 2]], 1),
        torch.stack([velocity, triple.velocity[:, 2]], 1),
        triple.time,
        triple.work,
    )
    return inner, outer


def normals(systems):
    """Direction of the angular momentum of the relative orbit, (B, 3)."""
    position, velocity = systems.position, systems.velocity
    h = torch.linalg.cross(position[:, 1] - position[:, 0], velocity[:, 1] - velocity[:, 0])
    return h / h.norm(dim=-1, keepdim=True)


@each_generator
def test_a_generator_returns_a_checked_batch_in_double_precision_on_the_cpu(name):
    systems = generate(name)
    bodies, dimensions = GENERATORS[name][2]
    assert systems.position.shape == (20, bodies, dimensions)
    assert {(leaf.dtype, leaf.device.type) for leaf in systems} == {(torch.float64, "cpu")}
    assert not systems.time.any()
    assert not systems.work.any()
    check_system(systems, batched=True)


@each_generator
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_system_everywhere(name):
    first, again, other = generate(name), generate(name), generate(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert (first.position != other.position).any(-1).any(-1).all()
    assert len({tuple(row.flatten().tolist()) for row in first.position}) == 20


@each_generator
def test_a_generator_neither_reads_nor_moves_the_global_random_state(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(generate(name).position, first.position)


@each_generator
def test_the_centre_of_mass_rests_at_the_origin(name):
    systems = generate(name)
    for x, size in zip(vmap(centre_of_mass)(systems), (systems.position, systems.velocity), strict=True):
        # A sum of N roundings of the largest coordinate, which in all is below 40.
        assert x.abs().max() <= 1e-15 * max(1.0, size.abs().max())


@each_generator
def test_one_system_can_be_asked_for(name):
    assert generate(name, count=1).mass.shape == (1, GENERATORS[name][2][0])


def test_a_gaussian_cluster_has_the_spread_that_was_asked_for():
    count, bodies = 2000, 4
    systems = gaussian_cluster(1, count, bodies=bodies, dimensions=3, position_scale=0.3, velocity_scale=2.0)
    numbers = count * (bodies - 1) * 3  # independent ones: centring takes a body's worth
    for x, scale in ((systems.position, 0.3), (systems.velocity, 2.0)):
        variance = x.pow(2).sum() / numbers
        assert variance.item() == pytest.approx(scale**2, rel=4 * math.sqrt(2 / numbers))
    assert (systems.mass == 1).all()


def test_gaussian_clusters_can_be_at_rest_and_of_many_masses():
    systems = gaussian_cluster(1, 2000, velocity_scale=0.0, mass_range=(0.5, 2.5))
    assert not systems.velocity.any()
    assert systems.mass.min() >= 0.5
    assert systems.mass.max() <= 2.5
    assert systems.mass.mean().item() == pytest.approx(1.5, abs=4 * 2 / math.sqrt(12 * 6000))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_binaries_start_at_pericentre_with_elements_uniform_in_their_ranges(dimensions):
    systems = binaries(2, 2000, dimensions=dimensions, G=0.5)
    a, e = orbital_elements(systems, G=0.5)
    r = systems.position[:, 1] - systems.position[:, 0]
    v = systems.velocity[:, 1] - systems.velocity[:, 0]
    distance = r.norm(dim=-1)
    # Elements from states lose 1/(1−e) ≤ 20 roundings.
    torch.testing.assert_close(distance, a * (1 - e), rtol=1e-13, atol=0)
    assert ((r * v).sum(-1) / distance / v.norm(dim=-1)).abs().max() < 1e-15
    for value, low, high in ((a, 0.8, 1.2), (e, 0.6, 0.95)):
        assert value.min() > low - 1e-13
        assert value.max() < high + 1e-13
        error = (high - low) / math.sqrt(12 * 2000)
        assert value.mean().item() == pytest.approx((low + high) / 2, abs=4 * error)
        assert value.var().item() == pytest.approx((high - low) ** 2 / 12, rel=0.1)  # 4 · √(0.8 / 2000) = 0.08
    assert (systems.mass == 1).all()


def test_binaries_in_the_plane_run_counter_clockwise_from_anywhere():
    systems = binaries(2, 2000)
    assert (vmap(angular_momentum)(systems) > 0).all()
    direction = systems.position[:, 1] / systems.position[:, 1].norm(dim=-1, keepdim=True)
    assert direction.mean(0).abs().max() < 4 * math.sqrt(0.5 / 2000)


def test_binaries_in_space_are_isotropic():
    systems = binaries(2, 2000, dimensions=3)
    pericentre = systems.position[:, 1] / systems.position[:, 1].norm(dim=-1, keepdim=True)
    for direction in (normals(systems), pericentre):
        assert direction.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / 2000)
        tensor = direction.T @ direction / 2000
        # Each n_i n_j has variance below 4/45.
        assert (tensor - torch.eye(3, dtype=torch.float64) / 3).abs().max() < 4 * math.sqrt(4 / 45 / 2000)


def test_binaries_met_at_a_random_time_are_as_far_apart_as_the_time_average():
    systems = binaries(3, 4000, eccentricity=(0.8, 0.8), semi_major_axis=(1.0, 1.0), phase="random")
    distance = (systems.position[:, 1] - systems.position[:, 0]).norm(dim=-1)
    # Averages over time on a Kepler orbit: of r/a 1 + e²/2, of (r/a)² 1 + 3e²/2.
    error = math.sqrt((1 + 1.5 * 0.64 - 1.32**2) / 4000)
    assert distance.mean().item() == pytest.approx(1.32, abs=4 * error)
    approaching = ((systems.position[:, 1] * systems.velocity[:, 1]).sum(-1) < 0).double().mean().item()
    assert approaching == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))
    a, e = orbital_elements(systems)
    assert (a - 1).abs().max() < 1e-13  # roundings, magnified by 1/(1−e)
    assert (e - 0.8).abs().max() < 1e-14


def test_binaries_have_the_masses_that_were_asked_for():
    systems = binaries(4, 500, mass_ratio=(0.1, 0.5), total_mass=3.0)
    ratio = systems.mass[:, 1] / systems.mass[:, 0]
    assert (systems.mass.sum(-1) - 3).abs().max() < 1e-15
    assert ratio.min() >= 0.1 - 1e-15
    assert ratio.max() <= 0.5 + 1e-15
    assert ratio.mean().item() == pytest.approx(0.3, abs=4 * 0.4 / math.sqrt(12 * 500))
    assert (binaries(4, 5, mass_ratio=(0.0, 0.0)).mass[:, 1] == 0).all()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_both_orbits_of_a_hierarchical_triple_have_elements_in_their_ranges(dimensions):
    triples = hierarchical_triple(
        5,
        1000,
        inner_semi_major_axis=(0.5, 2.0),
        semi_major_axis_ratio=(8.0, 12.0),
        inner_eccentricity=(0.3, 0.7),
        outer_eccentricity=(0.1, 0.6),
        mass_range=(0.5, 1.5),
        dimensions=dimensions,
        G=2.0,
    )
    inner, outer = (orbital_elements(part, G=2.0) for part in inner_and_outer(triples))
    ratio = outer.semi_major_axis / inner.semi_major_axis
    for value, low, high in (
        (inner.semi_major_axis, 0.5, 2.0),
        (ratio, 8.0, 12.0),
        (inner.eccentricity, 0.3, 0.7),
        (outer.eccentricity, 0.1, 0.6),
        (triples.mass.flatten(), 0.5, 1.5),
    ):
        # Differences of places 20 apart: 1e-14 of them, magnified by 1/(1−e) and the ratio.
        assert value.min() > low - 1e-12
        assert value.max() < high + 1e-12
        assert value.mean().item() == pytest.approx((low + high) / 2, abs=4 * (high - low) / math.sqrt(12 * 1000))


def test_the_orbits_of_a_hierarchical_triple_are_inclined_as_asked_and_the_outer_one_isotropic():
    triples = hierarchical_triple(6, 2000, dimensions=3, mutual_inclination=(0.2, 1.3))
    inner, outer = (normals(part) for part in inner_and_outer(triples))
    cosine = (inner * outer).sum(-1)
    low, high = math.cos(1.3), math.cos(0.2)
    assert cosine.min() > low - 1e-13  # roundings
    assert cosine.max() < high + 1e-13
    assert cosine.mean().item() == pytest.approx((low + high) / 2, abs=4 * (high - low) / math.sqrt(12 * 2000))
    for direction in (inner, outer):
        assert direction.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / 2000)


def test_a_hierarchical_triple_is_coplanar_by_default_even_in_space():
    inner, outer = (normals(part) for part in inner_and_outer(hierarchical_triple(6, 50, dimensions=3)))
    assert ((inner * outer).sum(-1) - 1).abs().max() < 1e-14  # roundings


def test_the_bodies_of_hierarchical_triples_are_anywhere_on_their_orbits():
    same = {"inner_eccentricity": (0.5, 0.5), "outer_eccentricity": (0.5, 0.5), "semi_major_axis_ratio": (10.0, 10.0)}
    parts = inner_and_outer(hierarchical_triple(7, 4000, **same))
    for part, a in zip(parts, (1.0, 10.0), strict=True):
        distance = (part.position[:, 1] - part.position[:, 0]).norm(dim=-1) / a
        error = math.sqrt((1 + 1.5 * 0.25 - 1.125**2) / 4000)
        assert distance.mean().item() == pytest.approx(1.125, abs=4 * error)  # 1 + e²/2, the time average


def test_default_hierarchical_triples_are_stable_by_mardling_and_aarseth():
    inner, outer = (orbital_elements(part) for part in inner_and_outer(hierarchical_triple(8, 2000)))
    e = outer.eccentricity
    critical = 2.8 * ((1 + 0.5) * (1 + e) / (1 - e).sqrt()) ** 0.4  # outer mass ratio 1/2
    assert (outer.semi_major_axis * (1 - e) / inner.semi_major_axis > critical).all()


def test_a_hierarchical_triple_turns_with_two_periods_far_apart():
    inner, outer = (orbital_period(part) for part in inner_and_outer(hierarchical_triple(8, 100)))
    # Kepler: (a_out / a_in)^{3/2} √(2/3), with a ratio of 10 at least.
    assert (outer / inner).min() >= 10**1.5 * math.sqrt(2 / 3) * (1 - 1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_free_fall_starts_at_rest_from_every_triangle_of_the_region_once(dimensions):
    triples = free_fall_triple(9, 4000, dimensions=dimensions, mass_range=(0.5, 2.0))
    assert not triples.velocity.any()
    sides = {(i, j): (triples.position[:, j] - triples.position[:, i]).norm(dim=-1) for i in range(3) for j in range(i)}
    base, from_first, from_second = sides[1, 0], sides[2, 0], sides[2, 1]
    # Coordinates of body 2 in the frame of region D, from its distances to the other two; a few roundings.
    assert (base - 1).abs().max() < 1e-14
    x = (from_first**2 - from_second**2) / 2
    height2 = from_second**2 - (x - 0.5) ** 2
    assert from_first.max() <= 1 + 1e-14
    assert x.min() >= -1e-14
    assert from_second.min() > 0.01 - 1e-14
    # Centroid of D: area A = π/6 − √3/8, ∫x = √3/8 − A/2, ∫y = 5/48. What is left out next to body 1 moves it by 1e-4.
    A = math.pi / 6 - math.sqrt(3) / 8
    for value, integral in ((x, math.sqrt(3) / 8 - A / 2), (height2.clamp(min=0).sqrt(), 5 / 48)):
        error = value.std().item() / math.sqrt(4000)
        assert value.mean().item() == pytest.approx(integral / A, abs=4 * error)


def test_free_fall_in_the_plane_keeps_the_orientation_of_the_region():
    triples = free_fall_triple(9, 100)
    base = triples.position[:, 1] - triples.position[:, 0]
    height = triples.position[:, 2, 1] - triples.position[:, 0, 1]
    assert (base - torch.tensor([1.0, 0.0], dtype=torch.float64)).abs().max() < 1e-15
    assert height.min() >= 0


def test_free_fall_in_space_is_the_same_triangle_turned_at_random():
    plane, space = free_fall_triple(9, 1000), free_fall_triple(9, 1000, dimensions=3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        lengths = [(s.position[:, i] - s.position[:, j]).norm(dim=-1) for s in (plane, space)]
        torch.testing.assert_close(*lengths, rtol=0, atol=1e-14)  # a few roundings
    base = space.position[:, 1] - space.position[:, 0]
    assert base.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / 1000)


def test_bodies_in_free_fall_can_be_kept_well_apart():
    triples = free_fall_triple(9, 1000, minimum_separation=0.5)
    assert (triples.position[:, 2] - triples.position[:, 1]).norm(dim=-1).min() > 0.5 - 1e-15


def test_redrawing_ends_with_an_error_and_never_goes_on_for_ever(monkeypatch):
    monkeypatch.setattr(initial_conditions, "_MAX_ROUNDS", 1)
    with pytest.raises(RuntimeError, match="no place found"):
        free_fall_triple(9, 1000)


NAN = math.nan
WRONG = [
    (gaussian_cluster, {"position_scale": 0.0}, "position_scale must be > 0"),
    (gaussian_cluster, {"position_scale": NAN}, "position_scale must be > 0"),
    (gaussian_cluster, {"velocity_scale": -1.0}, "velocity_scale must be >= 0"),
    (gaussian_cluster, {"velocity_scale": NAN}, "velocity_scale must be >= 0"),
    (gaussian_cluster, {"mass_range": (0.0, 1.0)}, "mass_range must be a pair (low, high) of numbers in (0, inf)"),
    (gaussian_cluster, {"mass_range": (2.0, 1.0)}, "with low <= high, got (2.0, 1.0)"),
    (gaussian_cluster, {"mass_range": (1.0, NAN)}, "mass_range must be a pair"),
    (gaussian_cluster, {"mass_range": (1.0, math.inf)}, "mass_range must be a pair"),
    (gaussian_cluster, {"mass_range": 1.0}, "mass_range must be a pair"),
    (gaussian_cluster, {"mass_range": (1.0,)}, "mass_range must be a pair"),
    (gaussian_cluster, {"mass_range": ("1", "2")}, "mass_range must be a pair"),
    (gaussian_cluster, {"bodies": 1}, "bodies must be a whole number >= 2, got 1"),
    (gaussian_cluster, {"bodies": 2.5}, "bodies must be a whole number >= 2, got 2.5"),
    (gaussian_cluster, {"dimensions": 4}, "dimensions must be 2 or 3, got 4"),
    (gaussian_cluster, {"count": 0}, "count must be a whole number >= 1, got 0"),
    (gaussian_cluster, {"count": NAN}, "count must be a whole number >= 1, got nan"),
    (binaries, {"eccentricity": (0.5, 1.0)}, "eccentricity must be a pair (low, high) of numbers in [0, 1)"),
    (binaries, {"eccentricity": (-0.1, 0.5)}, "eccentricity must be a pair"),
    (binaries, {"semi_major_axis": (0.0, 1.0)}, "semi_major_axis must be a pair"),
    (binaries, {"mass_ratio": (-1.0, 1.0)}, "mass_ratio must be a pair"),
    (binaries, {"total_mass": NAN}, "total_mass must be > 0"),
    (binaries, {"phase": "apocentre"}, "phase must be one of pericentre, random, got 'apocentre'"),
    (binaries, {"G": NAN}, "G must be > 0"),
    (hierarchical_triple, {"inner_semi_major_axis": (0.0, 1.0)}, "inner_semi_major_axis must be a pair"),
    (hierarchical_triple, {"semi_major_axis_ratio": (NAN, 20.0)}, "semi_major_axis_ratio must be a pair"),
    (hierarchical_triple, {"inner_eccentricity": (0.0, 1.0)}, "inner_eccentricity must be a pair"),
    (hierarchical_triple, {"outer_eccentricity": (0.0, 1.0)}, "outer_eccentricity must be a pair"),
    (hierarchical_triple, {"semi_major_axis_ratio": (3.0, 20.0)}, "the outer pericentre, ratio (1 - e) = 1.5"),
    (hierarchical_triple, {"mutual_inclination": (0.0, 4.0), "dimensions": 3}, "numbers in [0, pi]"),
    (hierarchical_triple, {"mutual_inclination": (0.0, 0.1)}, "mutual_inclination must be (0, 0) in two dimensions"),
    (hierarchical_triple, {"mass_range": (0.0, 0.0)}, "mass_range must be a pair"),
    (hierarchical_triple, {"G": 0.0}, "G must be > 0"),
    (free_fall_triple, {"minimum_separation": 0.0}, "minimum_separation must be in (0, 0.5]"),
    (free_fall_triple, {"minimum_separation": 0.6}, "minimum_separation must be in (0, 0.5]"),
    (free_fall_triple, {"minimum_separation": NAN}, "minimum_separation must be in (0, 0.5]"),
    (free_fall_triple, {"mass_range": (-1.0, 1.0)}, "mass_range must be a pair"),
    (free_fall_triple, {"dimensions": NAN}, "dimensions must be 2 or 3"),
    (plummer_sphere, {"bodies": 1}, "bodies must be a whole number >= 2"),
    (plummer_sphere, {"count": -1}, "count must be a whole number >= 1"),
    (plummer_sphere, {"G": NAN}, "G must be > 0"),
]


@pytest.mark.parametrize(("function", "change", "words"), WRONG)
def test_a_wrong_parameter_is_refused_in_one_line_that_names_it(function, change, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        function(0, change.get("count", 3), **{name: value for name, value in change.items() if name != "count"})
    assert str(caught.value).startswith(f"{function.__name__}: ")
    assert "\n" not in str(caught.value)
