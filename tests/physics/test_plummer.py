"""Plummer spheres: exact units where asked for, and the distribution function of Plummer where not."""

import math

import pytest
import torch
from torch.func import vmap

from aits_func.physics.gravity import build_gravity, kinetic_energy
from aits_func.physics.invariants import centre_of_mass
from aits_func.physics.plummer import plummer_sphere

LENGTH = 3 * math.pi / 16  # Plummer's length in Hénon's units
CUT = 10.0  # where the sphere ends, in Plummer lengths
INSIDE = (1 + CUT**-2) ** -1.5  # mass within it
COUNT, BODIES = 24, 400


@pytest.fixture(scope="module")
def raw():
    """Systems before virial scaling, large enough that centring them moves little (1/√N of a speed)."""
    return plummer_sphere(11, COUNT, bodies=BODIES, exact_units=False)


def radius_of_mass():
    """Radii of equal shares of the mass inside the cut, from a bisection of M(r) = r³ (1 + r²)^{-3/2}."""
    share = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 * INSIDE
    low, high = torch.zeros_like(share), torch.full_like(share, CUT)
    for _ in range(60):
        middle = (low + high) / 2
        above = middle**3 * (1 + middle**2) ** -1.5 > share
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low, share / INSIDE


def kolmogorov(sample, distribution):
    """Largest distance of the sample's cumulative distribution from the one given."""
    sample = sample.flatten().sort().values
    rank = torch.arange(1, len(sample) + 1, dtype=torch.float64) / len(sample)
    return (distribution(sample) - rank).abs().max().item()


# 0.1 % point of Kolmogorov's distribution for so many bodies, and the shift by centring, 1/√N of a standard
# deviation in each system, which the average over systems undoes in first order.
KOLMOGOROV = 1.95 / math.sqrt(COUNT * BODIES)


@pytest.mark.parametrize("G", [1.0, 4.3])
@pytest.mark.parametrize("bodies", [2, 16])
def test_exact_units_are_mass_one_and_energy_minus_a_quarter_in_virial_equilibrium(bodies, G):
    systems = plummer_sphere(10, 50, bodies=bodies, G=G)
    gravity = build_gravity(G=G)
    W, K = vmap(gravity.potential_energy)(systems), vmap(kinetic_energy)(systems)
    # A sum of 120 pairs and one scaling: some roundings each.
    torch.testing.assert_close(W / G, torch.full_like(W, -0.5), rtol=1e-14, atol=0)
    torch.testing.assert_close(K / G, torch.full_like(K, 0.25), rtol=1e-14, atol=0)
    torch.testing.assert_close(systems.mass.sum(-1), torch.ones(50, dtype=torch.float64), rtol=1e-15, atol=0)
    for x in vmap(centre_of_mass)(systems):
        assert x.abs().max() < 1e-15  # roundings of places and speeds of order 1


def test_radii_are_distributed_as_plummers(raw):
    radius = raw.position.norm(dim=-1) / LENGTH
    assert kolmogorov(radius, lambda r: r**3 * (1 + r**2) ** -1.5 / INSIDE) < KOLMOGOROV
    assert radius.max() < CUT + 1  # + what centring moves


def test_speeds_are_distributed_over_the_escape_speed_as_aarseth_henon_and_wielen_say(raw):
    radius = raw.position.norm(dim=-1) / LENGTH
    q = raw.velocity.norm(dim=-1) * math.sqrt(LENGTH) / math.sqrt(2) * (1 + radius**2) ** 0.25
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(grid**2 * (1 - grid**2) ** 3.5, grid)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), cumulative / cumulative[-1]])
    assert kolmogorov(q, lambda x: cumulative[(x * 20_000).round().long().clamp(max=20_000)]) < KOLMOGOROV


def test_places_and_motions_are_isotropic_and_know_nothing_of_each_other(raw):
    place = raw.position / raw.position.norm(dim=-1, keepdim=True)
    motion = raw.velocity / raw.velocity.norm(dim=-1, keepdim=True)
    n = COUNT * BODIES
    for direction in (place, motion):
        tensor = torch.einsum("bni,bnj->ij", direction, direction) / n
        # Each n_i n_j has variance below 4/45; four standard errors.
        assert (tensor - torch.eye(3, dtype=torch.float64) / 3).abs().max() < 4 * math.sqrt(4 / 45 / n)
        # The mean of n_i⁴ is 1/5, and its variance 1/9 − 1/25: this tells a sphere from a cube.
        assert (direction.pow(4).mean((0, 1)) - 0.2).abs().max() < 4 * math.sqrt((1 / 9 - 1 / 25) / n)
    assert (place * motion).sum(-1).mean().abs() < 4 * math.sqrt(1 / 3 / n)


def test_energies_before_scaling_are_those_of_the_sphere_on_average(raw):
    r, share = radius_of_mass()
    # W = −∫ M(<r)/r dM and K = ½ ∫ ½ (1 + r²)^{-1/2} dM, in Hénon's units, each less 1/N: a body does not
    # attract itself, and centring takes a body's worth of motion.
    W = -(share / r).mean().item() / LENGTH * (1 - 1 / BODIES)
    K = (0.25 / (1 + r**2).sqrt()).mean().item() / LENGTH * (1 - 1 / BODIES)
    # The cut takes away the outermost 1.5 % of the mass and gives it to the rest: W is 2.7 % too deep by it.
    assert abs(W + 0.5) < 0.03 * 0.5
    assert abs(K - 0.25) < 0.03 * 0.25
    potential, kinetic = vmap(build_gravity().potential_energy)(raw), vmap(kinetic_energy)(raw)
    for value, expected in ((potential, W), (kinetic, K)):
        error = value.std().item() / math.sqrt(COUNT)
        assert value.mean().item() == pytest.approx(expected, abs=4 * error)
        assert error < 0.01 * abs(expected)  # so that the line above says something


def test_virial_scaling_changes_nothing_but_the_scales(raw):
    exact = plummer_sphere(11, COUNT, bodies=BODIES)
    for ours, theirs in ((exact.position, raw.position), (exact.velocity, raw.velocity)):
        ratio = ours / theirs
        first = ratio[:, :1, :1]
        assert ((ratio - first) / first).abs().max() < 1e-14  # two roundings
        assert ((first - 1).abs() < 0.2).all()  # energies of 400 bodies scatter by 1/√400 and their tails
