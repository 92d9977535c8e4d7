"""The peers in JAX do the work of our update: the same loss, and the same parameters after it."""

import importlib
from pathlib import Path

import pytest
import torch

import aits_func as af
from aits_func.base import tree
from aits_func.loops.collect import init_train_state
from aits_func.physics.invariants import to_centre_of_mass

pytest.importorskip("jax")
pytest.importorskip("optax")

ROOT = Path(__file__).parents[1]
SAMPLES, LEARNING_RATE, BOUND, NATURE = 24, 1e-2, 3.0, {"G": 1.5, "softening": 0.1}
PICKED = (3, 17, 0, 8, 5, 23, 11, 2)
# Smaller than any error, among the errors (so that some samples pass), and larger than any.
BANDS = {
    "none pass": {"energy_threshold": 1e-15, "E_lower": 1e-16, "E_upper": 1e-15},
    "some pass": {"energy_threshold": 1e-4, "E_lower": 1e-6, "E_upper": 1e-5},
    "all pass": {"energy_threshold": 1e9, "E_lower": 1e8, "E_upper": 1e9},
}


@pytest.fixture
def peers(monkeypatch):
    """The modules of the benchmarks, which are not installed, by name."""
    monkeypatch.syspath_prepend(ROOT)
    return {name: importlib.import_module(f"benchmarks.{name}") for name in ("jax_peer", "jax_plain_peer")}


def our_learner(features, *, energy_threshold, E_lower, E_upper):
    """A policy and its learner, with constants that are nobody's defaults."""
    gravity = af.build_gravity(**NATURE)
    seen, criterion = af.build_features(features, gravity), af.p_norm(gravity, eta=0.3)
    policy = af.build_residual_policy(seen, criterion, hidden=(16, 16), bound=BOUND)
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=energy_threshold)
    return policy, af.build_learner(step, af.adam(LEARNING_RATE), E_lower=E_lower, E_upper=E_upper)


def trajectory():
    """Four bodies in space, one nearly massless, seen from their centre; one of the picked samples is inactive.

    The peers weigh energies in the frame that is given, and know no massless bodies.
    """
    systems = af.gaussian_cluster(0, SAMPLES, bodies=4, dimensions=3, position_scale=1.0, velocity_scale=0.3)
    systems = systems._replace(mass=systems.mass * torch.tensor([1.0, 1.0, 1e-9, 1.0]))
    samples = torch.func.vmap(lambda system: af.first_sample(to_centre_of_mass(system)))(systems)
    return samples._replace(active=torch.arange(SAMPLES) != PICKED[2])


def perturbed(params):
    """Parameters away from the start, where the last layer is zero and nothing of the features is felt."""
    generator = torch.Generator().manual_seed(1)
    return tree.map_leaves(lambda x: x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype), params)


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("features", ["rich", "invariant"])
@pytest.mark.parametrize("peer_name", ["jax_peer", "jax_plain_peer"])
def test_two_iterations_of_a_peer_are_two_of_our_updates(peers, peer_name, features, band):
    convert, build_peer = peers["jax_peer"].convert, peers[peer_name].build_peer
    policy, learner = our_learner(features, **BANDS[band])
    samples = trajectory()
    state = init_train_state(perturbed(policy.init(0)), learner.optimizer)
    index = torch.tensor(PICKED)
    peer = build_peer(features, learning_rate=LEARNING_RATE, bound=BOUND, **NATURE, **BANDS[band])
    data, params = convert(samples), convert(state.params)
    opt_state = peer.init(params)
    for _ in range(2):
        state, (loss, info) = learner.update(state, tree.take(samples, index))
        params, opt_state, peer_loss, all_accepted = peer.iterate(params, opt_state, data, index.numpy())
        assert bool(all_accepted) == bool(info.accepted.all()) == (band == "all pass")
        assert (int(info.accepted.sum()) > 1) == (band != "none pass")  # the inactive one passes always
        # ε is a small difference of two energies: its rounding, relative, is 1e-16 over ε.
        torch.testing.assert_close(torch.tensor(float(peer_loss), dtype=loss.dtype), loss, rtol=1e-10, atol=0)
        assert_close(params, convert(state.params))


def assert_close(theirs, ours):
    import jax
    import numpy

    # The first step of Adam is the sign of the gradient, the second tells its size from that of the first.
    jax.tree.map(lambda x, y: numpy.testing.assert_allclose(x, y, rtol=0, atol=1e-8 * LEARNING_RATE), theirs, ours)
