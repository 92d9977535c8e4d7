"""The replay iteration of `replay` in JAX again, as one would write it: arrays, ``vmap``, and a call per iteration.

    peer = build_peer("invariant", energy_threshold=1e-15, E_lower=1e-16, E_upper=1e-15)
    params, trajectory = jax_peer.convert(policy.init(0)), jax_peer.convert(samples)
    params, opt_state, loss, all_accepted = peer.iterate(params, peer.init(params), trajectory, index)

The mathematics is that of `jax_peer`. There everything is written out for the compiler; here a system is two arrays
(N, D), pairs are arrays (N, N), and every iteration is one call of one jitted function. Pairs i < j are summed under a
mask; the diagonal is masked before the root, where its derivative would not be finite.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.jax_peer import FLOOR, GUARD, build_update, import_jax, network


class PlainPeer(NamedTuple):
    """The replay iteration in JAX, one call each."""

    init: Callable[[Any], Any]  # params -> optimizer state
    iterate: Callable[..., tuple[Any, Any, Any, Any]]
    # (params, opt_state, trajectory, index (B,)) -> (params, opt_state, loss (), whether all passed ())


class Pairs(NamedTuple):
    """What the places of the bodies of one system say, row i and column j of every pair."""

    difference: Any  # (N, N, D)  xⱼ − xᵢ
    inverse: Any  # (N, N)  1/R, R² = r² + s²; a finite number on the diagonal
    upper: Any  # (N, N)  bool; whether i < j


def build_peer(
    features: str,
    *,
    energy_threshold: float,
    E_lower: float,
    E_upper: float,
    learning_rate: float = 1e-4,
    bound: float = 4.0,
    G: float = 1.0,
    softening: float = 0.0,
) -> PlainPeer:
    """The compiled iteration; arguments and limits are those of `jax_peer.build_peer`.

    Args:
        features: "invariant" or "rich".
        energy_threshold: on the relative energy error.
        E_lower: lower edge of the band.
        E_upper: upper edge.
        learning_rate: Adam's.
        bound: e^c, the largest factor between the policy and its criterion.
        G: gravitational constant.
        softening: length s.
    """
    jax = import_jax()
    jnp = jax.numpy
    of_system, exponent = {"invariant": _invariant, "rich": _rich}[features], math.log(bound)

    def attempt(params: Any, sample: Any) -> tuple[Any, Any]:
        """Step and relative energy error of one system: () and ()."""
        mass, position, velocity, _, work = sample.system
        pairs = _pairs(position, softening)
        correction = jnp.tanh(network(params["network"], of_system(sample.system, pairs, G, softening)))
        rate = jnp.sqrt(_rates_squared(mass, pairs, G).sum())
        tau = jnp.exp(params["criterion"]["log_eta"] + exponent * correction) / rate
        dt = jnp.where(sample.active, tau, 0.0)
        half = velocity + dt / 2 * _acceleration(mass, pairs, G)
        pairs_after = _pairs(position + dt * half, softening)
        velocity_after = half + dt / 2 * _acceleration(mass, pairs_after, G)
        before = _kinetic(mass, velocity) - _pair_energies(mass, pairs, G).sum() - work
        after = _kinetic(mass, velocity_after) - _pair_energies(mass, pairs_after, G).sum() - work
        return tau, jnp.abs(after - before) / jnp.abs(before + GUARD * jnp.abs(before) + GUARD)

    init, update = build_update(attempt, energy_threshold, E_lower, E_upper, learning_rate)
    return PlainPeer(init, jax.jit(update))


def _pairs(position: Any, softening: float) -> Pairs:
    """(N, D) -> `Pairs`."""
    import jax
    import jax.numpy as jnp

    difference, diagonal = _differences(position), jnp.eye(len(position), dtype=bool)
    inverse = jax.lax.rsqrt(jnp.where(diagonal, 1.0, (difference**2).sum(-1) + softening**2))
    return Pairs(difference, inverse, jnp.triu(jnp.ones_like(diagonal), 1))


def _differences(x: Any) -> Any:
    """xⱼ − xᵢ: (N, D) -> (N, N, D)."""
    return x[None, :, :] - x[:, None, :]


def _rates_squared(mass: Any, pairs: Pairs, G: float) -> Any:
    """G(mᵢ + mⱼ)/R³ where i < j, else 0: (N, N)."""
    import jax.numpy as jnp

    return jnp.where(pairs.upper, G * (mass[:, None] + mass[None, :]) * pairs.inverse**3, 0.0)


def _pair_energies(mass: Any, pairs: Pairs, G: float) -> Any:
    """G mᵢmⱼ/R where i < j, else 0: (N, N)."""
    import jax.numpy as jnp

    return jnp.where(pairs.upper, G * mass[:, None] * mass[None, :] * pairs.inverse, 0.0)


def _kinetic(mass: Any, velocity: Any) -> Any:
    return 0.5 * (mass[:, None] * velocity**2).sum()


def _acceleration(mass: Any, pairs: Pairs, G: float) -> Any:
    """Σⱼ G mⱼ(xⱼ − xᵢ)/R³: (N, D). On the diagonal the difference is 0."""
    import jax.numpy as jnp

    return jnp.einsum("ij,ijd->id", G * mass * pairs.inverse**3, pairs.difference)


def _derivatives(mass: Any, velocity: Any, pairs: Pairs, G: float) -> tuple[Any, Any, Any]:
    """Acceleration, jerk and snap, (N, D) each (Nitadori & Makino 2008, equations 3 to 6)."""
    d, inverse = pairs.difference, pairs.inverse[:, :, None]
    weight = G * mass[None, :, None] * inverse**3
    acceleration = (weight * d).sum(1)
    v, a = _differences(velocity), _differences(acceleration)
    alpha = (d * v).sum(-1, keepdims=True) * inverse**2
    beta = (v * v + d * a).sum(-1, keepdims=True) * inverse**2 + alpha**2
    jerk = weight * v - 3 * alpha * weight * d
    snap = weight * a - 6 * alpha * jerk - 3 * beta * weight * d
    return acceleration, jerk.sum(1), snap.sum(1)


def _to_centre_of_mass(system: Any) -> Any:
    weight, x, v = system.mass / system.mass.sum(), system.position, system.velocity
    return system._replace(position=x - weight @ x, velocity=v - weight @ v)


def _rich(system: Any, pairs: Pairs, G: float, softening: float) -> Any:
    """The 23 features "rich" of `build_features`, in its order: (23,)."""
    import jax.numpy as jnp

    def spread(x: Any) -> list[Any]:
        return [x.mean(), x.min(), x.max(), jnp.sqrt((x**2).mean() + GUARD)]

    centred, mass = _to_centre_of_mass(system), system.mass
    vectors = (centred.position, centred.velocity, _acceleration(mass, pairs, G))
    lengths = [jnp.linalg.norm(x, axis=-1) for x in vectors]
    apart = jnp.sqrt((pairs.difference**2).sum(-1) + softening**2 + GUARD)
    least, most = apart.min(where=pairs.upper, initial=jnp.inf), apart.max(where=pairs.upper, initial=0.0)
    ends = [least, apart.mean(where=pairs.upper), most]
    spreads = [value for x in (mass, *lengths) for value in spread(x)]
    return jnp.stack([*system.position.shape, mass.sum(), *spreads, *ends, softening])


def _invariant(system: Any, pairs: Pairs, G: float, softening: float) -> Any:
    """The 20 features of `build_invariant`, in its order: (20,)."""
    import jax.numpy as jnp

    system = _to_centre_of_mass(system)
    derivatives = _derivatives(system.mass, system.velocity, pairs, G)
    rates_squared = _rates_squared(system.mass, pairs, G)
    share = rates_squared / rates_squared.sum()
    weights = jnp.stack([share, share * (1 - share)])
    terms = _pair_terms(system, pairs, derivatives[0], G, softening)
    averages = (weights[:, None] * terms).sum((2, 3)).reshape(-1)
    hierarchy = jnp.stack([1 - (share**2).sum(), 1 - (share**4).sum()])
    return jnp.concatenate([averages, hierarchy, _whole_terms(system, pairs, derivatives, rates_squared.sum(), G)])


def _pair_terms(system: Any, pairs: Pairs, acceleration: Any, G: float, softening: float) -> Any:
    """The six terms of every pair, (6, N, N), finite where no pair is."""
    import jax.numpy as jnp

    mass, r, inverse = system.mass, pairs.difference, pairs.inverse
    v, a = _differences(system.velocity), _differences(acceleration)
    pair_mass = mass[:, None] + mass[None, :]
    some_mass = jnp.where(pair_mass > 0, pair_mass, 1.0)  # without mass there is no weight either
    attraction, speed_squared = G * some_mass * inverse, (v**2).sum(-1)
    rest = ((a + (G * pair_mass * inverse**3)[:, :, None] * r) ** 2).sum(-1)
    return jnp.stack(
        [
            speed_squared / (speed_squared + attraction),
            ((v * r).sum(-1) * inverse) ** 2 / (speed_squared + attraction),
            pair_mass / mass.sum(),
            4 * mass[:, None] * mass[None, :] / some_mass**2,
            softening / (softening + 1 / inverse),
            rest / (rest + (attraction * inverse) ** 2),
        ]
    )


def _whole_terms(system: Any, pairs: Pairs, derivatives: tuple[Any, Any, Any], rate_squared: Any, G: float) -> Any:
    """The six terms of the system as a whole, (6,); dimensionless before anything is squared."""
    import jax.numpy as jnp

    mass, pair_energies = system.mass, _pair_energies(system.mass, pairs, G)
    kinetic, potential, depth = _kinetic(mass, system.velocity), -pair_energies.sum(), (pair_energies**2).sum()
    attracted = depth > 0
    unit = jnp.where(attracted, jnp.sqrt(depth), 1.0)
    rate, speed = jnp.sqrt(rate_squared), jnp.sqrt(unit / mass.sum())
    a, j, s = (x / speed / rate**order for order, x in enumerate(derivatives, 1))
    v = system.velocity / speed

    def weighted(x: Any, y: Any) -> Any:
        return (mass[:, None] * x * y).sum() / mass.sum()

    energy, size = (kinetic + potential - system.work) / unit, kinetic + jnp.abs(potential)
    j_j, a_norm, s_norm = weighted(j, j), jnp.sqrt(weighted(a, a)), jnp.sqrt(weighted(s, s))
    whole = j_j + a_norm * s_norm
    shares = [jnp.where(size > 0, kinetic / size, 0.0), jnp.where(whole > 0, j_j / whole, 0.0)]
    x = jnp.stack([attracted.astype(energy.dtype), weighted(a, j), weighted(v, s), s_norm])
    y = jnp.stack([energy, energy, energy, a_norm])
    return jnp.concatenate([jnp.stack(shares), 0.05 * (jnp.log(x**2 + FLOOR) - jnp.log(y**2 + FLOOR))])
