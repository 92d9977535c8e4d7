"""Accelerations in tiles, with all their derivatives, against the array of all pairs."""

import pytest
import torch
from torch.func import grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from aits_func.physics import tiled_gravity
from aits_func.physics.gravity import mutual_acceleration, mutual_potential_energy
from aits_func.physics.tiled_gravity import MANY_BODIES, tiled_acceleration, tiled_potential_energy

N = 40
CLOSE = {"rtol": 1e-11, "atol": 1e-11}  # sums of 40 terms up to 1e3 in another order


@pytest.fixture(autouse=True)
def _several_tiles(monkeypatch):
    monkeypatch.setattr(tiled_gravity, "_PAIRS", 7 * N)


def draw(*shape, key=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


MASS, POSITION, WEIGHT = draw(N).exp(), draw(N, 3, key=1), draw(N, 3, key=2)


def tiled(mass, position):
    return tiled_acceleration(mass, position, 2.5, 0.1)


def whole(mass, position):
    return mutual_acceleration(mass, position, G=2.5, softening=0.1)


def weighted(force):
    return lambda mass, position: (force(mass, position) * WEIGHT).sum()


QUANTITIES = {
    "the value": lambda f: f(MASS, POSITION),
    "the gradient by masses": lambda f: grad(weighted(f), 0)(MASS, POSITION),
    "the gradient by positions": lambda f: grad(weighted(f), 1)(MASS, POSITION),
    "the tangent": lambda f: jvp(f, (MASS, POSITION), (draw(N, key=3), WEIGHT))[1],
    "the tangent of a tangent": lambda f: jvp(
        lambda x: jvp(lambda y: f(MASS, y), (x,), (WEIGHT,))[1], (POSITION,), (WEIGHT,)
    )[1],
    "the gradient of a tangent": lambda f: grad(
        lambda x: jvp(lambda y: f(MASS, y), (x,), (WEIGHT,))[1].pow(2).sum() / 1e4
    )(POSITION),
    "the gradient of a gradient": lambda f: grad(lambda x: grad(lambda y: weighted(f)(MASS, y))(x).pow(2).sum() / 1e4)(
        POSITION
    ),
    "the tangent of a gradient": lambda f: jvp(
        lambda x: grad(lambda y: weighted(f)(MASS, y))(x), (POSITION,), (WEIGHT,)
    )[1],
    "a batch of values": lambda f: vmap(f, in_dims=(None, 0))(MASS, torch.stack([POSITION, 2 * POSITION])),
    "a batch of gradients": lambda f: vmap(grad(weighted(f), 1), in_dims=(0, None))(
        torch.stack([MASS, 2 * MASS]), POSITION
    ),
}


@pytest.mark.parametrize("what", QUANTITIES)
def test_tiles_give_what_the_array_of_all_pairs_gives(what):
    got, want = QUANTITIES[what](tiled), QUANTITIES[what](whole)
    scale = want.abs().amax()
    torch.testing.assert_close(got / scale, want / scale, **CLOSE)


def tiled_energy(mass, position):
    return tiled_potential_energy(mass, position, 2.5, 0.1)


def whole_energy(mass, position):
    return mutual_potential_energy(mass, position, G=2.5, softening=0.1)


ENERGY_QUANTITIES = {
    "the value": lambda f: f(MASS, POSITION),
    "the gradient by masses": lambda f: grad(f, 0)(MASS, POSITION),
    "the gradient by positions": lambda f: grad(f, 1)(MASS, POSITION),
    "the tangent": lambda f: jvp(f, (MASS, POSITION), (draw(N, key=3), WEIGHT))[1],
    "the tangent of a tangent": lambda f: jvp(
        lambda x: jvp(lambda y: f(MASS, y), (x,), (WEIGHT,))[1], (POSITION,), (WEIGHT,)
    )[1],
    "the gradient of a gradient": lambda f: grad(lambda x: (grad(f, 1)(MASS, x) * WEIGHT).sum())(POSITION),
    "the mixed derivative": lambda f: grad(lambda m: (grad(f, 1)(m, POSITION) * WEIGHT).sum())(MASS),
    "the second derivative by masses": lambda f: grad(lambda x: grad(f, 0)(MASS, x).pow(2).sum())(POSITION),
    "a batch of values": lambda f: vmap(f, in_dims=(None, 0))(MASS, torch.stack([POSITION, 2 * POSITION])),
}


@pytest.mark.parametrize("what", ENERGY_QUANTITIES)
def test_energies_in_tiles_are_those_of_all_pairs(what):
    got, want = ENERGY_QUANTITIES[what](tiled_energy), ENERGY_QUANTITIES[what](whole_energy)
    scale = want.abs().amax()
    torch.testing.assert_close(got / scale, want / scale, **CLOSE)


def test_without_softening_a_body_does_not_pull_itself_and_gradients_are_finite():
    def force(mass, position):
        return tiled_acceleration(mass, position, 1.0, 0.0)

    torch.testing.assert_close(
        force(MASS, POSITION), mutual_acceleration(MASS, POSITION, G=1.0, softening=0.0), **CLOSE
    )
    assert grad(weighted(force), 1)(MASS, POSITION).isfinite().all()


def test_internal_forces_add_up_to_nothing():
    force = MASS[:, None] * tiled(MASS, POSITION)
    assert force.sum(0).abs().max() < 1e-12 * force.abs().sum()  # Newton's third law, to rounding


def test_many_bodies_are_summed_in_tiles_and_a_compiler_sees_one_piece():
    bodies = MANY_BODIES
    mass, position = draw(bodies).exp(), draw(bodies, 3)
    graph = make_fx(lambda m, x: mutual_acceleration(m, x, G=1.0, softening=0.1))(mass, position)
    assert not any(node.target is torch.ops.aten.cat.default for node in graph.graph.nodes)
    want = vmap(lambda i: _one(mass, position, i))(torch.arange(bodies))
    torch.testing.assert_close(mutual_acceleration(mass, position, G=1.0, softening=0.1), want, **CLOSE)


def _one(mass, position, i):
    d = position - position[i]
    return (mass[:, None] * d / ((d**2).sum(-1) + 0.01)[:, None] ** 1.5).sum(0)
