"""The replay iteration of `replay`, written in JAX: what does a good compiler make of the same mathematics?

    peer = build_peer("invariant", energy_threshold=1e-15, E_lower=1e-16, E_upper=1e-15)
    params, trajectory = convert(policy.init(0)), convert(samples)
    params, opt_state, loss, all_accepted = peer.iterate(params, peer.init(params), trajectory, index)

The residual policy dt = τ(x) · exp(c · tanh NN(features)) with the 2-norm of free-fall rates as its criterion, one
kick–drift–kick step, the band loss over the failed samples, and ``optax.adam``, all in one compiled function.
``jax`` and ``optax`` are wanted by this file alone; they are imported where they are used.

Bodies and axes are written out: every quantity of a system is a number, and under ``vmap`` a lane with one number per
system, so that the compiler sees one long elementwise expression without reductions. This is for few bodies, as the
code grows with their square. There is no external field and no history.
"""

import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

FEATURES = ("invariant", "rich")
GUARD = 1e-12  # of the energy error, the logarithm of the band loss, and the roots of the rich features
FLOOR = 1e-18  # of the logarithms of the invariant features

Vector = list[Any]
"""One number per axis."""


class Peer(NamedTuple):
    """The replay iteration in JAX. Nothing is donated: for parameters this few it was measured to save nothing."""

    init: Callable[[Any], Any]  # params -> optimizer state
    iterate: Callable[..., tuple[Any, Any, Any, Any]]
    # (params, opt_state, trajectory, index (B,)) -> (params, opt_state, loss (), whether all passed ())
    iterate_many: Callable[..., tuple[Any, Any, Any, Any]]
    # (params, opt_state, trajectory, indices (K, B)) -> (params, opt_state, losses (K,), whether all passed (K,))


class Pair(NamedTuple):
    """What the places of two bodies i < j say."""

    i: int
    j: int
    difference: Vector  # xⱼ − xᵢ
    inverse: Any  # 1/R, R² = r² + s²


class Bodies(NamedTuple):
    """One system, number by number."""

    mass: Vector
    position: list[Vector]
    velocity: list[Vector]


def missing() -> str:
    """What is not installed of that which the peer needs; empty if nothing."""
    for name in ("jax", "optax"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    return ""


def convert(tree: Any, dtype: str | None = None) -> Any:
    """Tensors as JAX arrays, in the same NamedTuples, tuples, lists and dicts.

    Args:
        tree: a pytree of tensors.
        dtype: what floating-point leaves are cast to, "float32" or "float64"; None keeps theirs. The peer computes in
            the dtype that it is given.
    """
    jax = import_jax()
    if isinstance(tree, torch.Tensor):
        array = jax.numpy.array(tree.detach().cpu().numpy())  # a copy, not the tensor's memory
        return array.astype(dtype) if dtype and tree.is_floating_point() else array
    if isinstance(tree, dict):
        return {key: convert(value, dtype) for key, value in tree.items()}
    children = [convert(child, dtype) for child in tree]
    return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)


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
) -> Peer:
    """The compiled iteration; η and the sizes of the network come with the parameters.

    A finite dt whose step explodes has the loss of `band_residual`, but by a plain mask: where a derivative overflows
    with it, or dt itself is infinite, the gradient of the whole batch is not finite.

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
        """Step and relative energy error of one system."""
        bodies, work = _written_out(sample.system), sample.system.work
        mass, pairs = bodies.mass, _pairs(bodies.position, softening)
        correction = jnp.tanh(network(params["network"], jnp.stack(of_system(bodies, pairs, work, G, softening))))
        rate = jnp.sqrt(sum(_rate_squared(mass, pair, G) for pair in pairs))
        tau = jnp.exp(params["criterion"]["log_eta"] + exponent * correction) / rate
        dt = jnp.where(sample.active, tau, 0.0)
        half = _moved(bodies.velocity, dt / 2, _acceleration(mass, pairs, G))
        position = _moved(bodies.position, dt, half)
        pairs_after = _pairs(position, softening)
        velocity = _moved(half, dt / 2, _acceleration(mass, pairs_after, G))
        before = _energy(bodies, pairs, G) - work
        after = _energy(Bodies(mass, position, velocity), pairs_after, G) - work
        return tau, jnp.abs(after - before) / jnp.abs(before + GUARD * jnp.abs(before) + GUARD)

    init, update = build_update(attempt, energy_threshold, E_lower, E_upper, learning_rate)

    def iterate_many(params: Any, opt_state: Any, trajectory: Any, indices: Any) -> tuple[Any, Any, Any, Any]:
        def body(carry: Any, index: Any) -> tuple[Any, Any]:
            *carry, loss, all_accepted = update(*carry, trajectory, index)
            return tuple(carry), (loss, all_accepted)

        (params, opt_state), (losses, all_accepted) = jax.lax.scan(body, (params, opt_state), indices)
        return params, opt_state, losses, all_accepted

    return Peer(init, jax.jit(update), jax.jit(iterate_many))


def build_update(
    attempt: Callable[[Any, Any], tuple[Any, Any]],
    energy_threshold: float,
    E_lower: float,
    E_upper: float,
    learning_rate: float,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Initial state and update of Adam, on the band loss of what one system's ``attempt`` says: its step and error."""
    jax = import_jax()
    import optax

    jnp = jax.numpy
    optimizer = optax.adam(learning_rate)
    lower, upper = math.log(E_lower), math.log(E_upper)

    def loss_of(params: Any, batch: Any) -> tuple[Any, tuple[Any, Any]]:
        tau, error = jax.vmap(attempt, in_axes=(None, 0))(params, batch)
        exploded = ~((error < jnp.finfo(error.dtype).max ** 0.5) & jnp.isfinite(tau)) & batch.active
        accepted = ((error < energy_threshold) & ~exploded) | ~batch.active
        x = jnp.log(jnp.where(exploded, 1.0, error) + GUARD)
        inside = jnp.maximum(x - upper, 0.0) - jnp.maximum(lower - x, 0.0)
        log_dt = jnp.log(tau)
        residual = jnp.where(exploded, log_dt - jax.lax.stop_gradient(log_dt) - upper, inside)
        failed = batch.active & ~accepted
        count = failed.sum()
        loss = jnp.where(failed, residual**2, 0.0).sum() / jnp.maximum(count, 1).astype(error.dtype)
        return loss, (count > 0, accepted.all())

    def update(params: Any, opt_state: Any, trajectory: Any, index: Any) -> tuple[Any, Any, Any, Any]:
        batch = jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds"), trajectory)
        (loss, (some, all_accepted)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, batch)
        updates, moved = optimizer.update(grads, opt_state, params)
        # A mean over no samples has gradient 0, but momentum would still move.
        new = jax.tree.map(
            lambda a, b: jnp.where(some, a, b), (optax.apply_updates(params, updates), moved), (params, opt_state)
        )
        return *new, loss, all_accepted

    return optimizer.init, update


def network(layers: Sequence[Any], seen: Any) -> Any:
    """(F,) -> ()."""
    import jax.numpy as jnp

    x = jnp.where(jnp.isfinite(seen), seen, 0.0)
    for layer in layers[:-1]:
        x = jnp.tanh(layer.weight @ x + layer.bias)
    return (layers[-1].weight @ x + layers[-1].bias)[0]


def import_jax() -> Any:
    """JAX, told not to narrow float64 to float32."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def _written_out(system: Any) -> Bodies:
    bodies, axes = range(system.position.shape[0]), range(system.position.shape[1])
    position, velocity = ([[x[i, d] for d in axes] for i in bodies] for x in (system.position, system.velocity))
    return Bodies([system.mass[i] for i in bodies], position, velocity)


def _pairs(position: list[Vector], softening: float) -> list[Pair]:
    from jax.lax import rsqrt

    pairs = []
    for i, j in itertools.combinations(range(len(position)), 2):
        difference = _minus(position[j], position[i])
        pairs.append(Pair(i, j, difference, rsqrt(_dot(difference, difference) + softening**2)))
    return pairs


def _rate_squared(mass: Vector, pair: Pair, G: float) -> Any:
    """G(mᵢ + mⱼ)/R³."""
    return G * (mass[pair.i] + mass[pair.j]) * _cube(pair.inverse)


def _energy(bodies: Bodies, pairs: list[Pair], G: float) -> Any:
    return _kinetic(bodies) - sum(_pair_energy(bodies.mass, pair, G) for pair in pairs)


def _kinetic(bodies: Bodies) -> Any:
    return 0.5 * sum(m * _dot(v, v) for m, v in zip(bodies.mass, bodies.velocity, strict=True))


def _pair_energy(mass: Vector, pair: Pair, G: float) -> Any:
    """G mᵢmⱼ/R."""
    return G * mass[pair.i] * mass[pair.j] * pair.inverse


def _acceleration(mass: Vector, pairs: list[Pair], G: float) -> list[Vector]:
    pulls = [_times(G * _cube(pair.inverse), pair.difference) for pair in pairs]
    return _gathered(mass, pairs, pulls)


def _derivatives(bodies: Bodies, pairs: list[Pair], G: float) -> tuple[list[Vector], list[Vector], list[Vector]]:
    """Acceleration, jerk and snap of every body, in closed form (Nitadori & Makino 2008, equations 3 to 6)."""
    acceleration = _acceleration(bodies.mass, pairs, G)
    jerks, snaps = [], []
    for i, j, d, inverse in pairs:
        v, a = _minus(bodies.velocity[j], bodies.velocity[i]), _minus(acceleration[j], acceleration[i])
        square, weight = inverse * inverse, G * _cube(inverse)
        alpha = _dot(d, v) * square
        beta = (_dot(v, v) + _dot(d, a)) * square + alpha * alpha
        pull = _times(weight, d)
        jerk = [weight * y - 3 * alpha * x for x, y in zip(pull, v, strict=True)]
        snap = [weight * z - 6 * alpha * y - 3 * beta * x for x, y, z in zip(pull, jerk, a, strict=True)]
        jerks.append(jerk)
        snaps.append(snap)
    return acceleration, _gathered(bodies.mass, pairs, jerks), _gathered(bodies.mass, pairs, snaps)


def _gathered(mass: Vector, pairs: list[Pair], per_mass: list[Vector]) -> list[Vector]:
    """What every body gets of all pairs, given what the first of a pair gets per mass of the second."""
    sums: list[Vector] = [[0.0] * len(per_mass[0]) for _ in mass]
    for pair, pull in zip(pairs, per_mass, strict=True):
        sums[pair.i] = [s + mass[pair.j] * p for s, p in zip(sums[pair.i], pull, strict=True)]
        sums[pair.j] = [s - mass[pair.i] * p for s, p in zip(sums[pair.j], pull, strict=True)]
    return sums


def _to_centre_of_mass(bodies: Bodies) -> Bodies:
    total = sum(bodies.mass)
    weight = [m / total for m in bodies.mass]

    def centred(rows: list[Vector]) -> list[Vector]:
        centre = [_dot(weight, column) for column in zip(*rows, strict=True)]
        return [_minus(row, centre) for row in rows]

    return Bodies(bodies.mass, centred(bodies.position), centred(bodies.velocity))


def _rich(bodies: Bodies, pairs: list[Pair], work: Any, G: float, softening: float) -> Vector:
    """The 23 features "rich" of `build_features`, in its order."""
    import jax.numpy as jnp

    def lengths(rows: list[Vector]) -> Vector:
        return [jnp.sqrt(_dot(row, row)) for row in rows]

    def mean(values: Vector) -> Any:
        return sum(values) / len(values)

    def spread(values: Vector) -> Vector:
        return [mean(values), _least(values), _most(values), jnp.sqrt(_dot(values, values) / len(values) + GUARD)]

    centred = _to_centre_of_mass(bodies)
    strengths = lengths(_acceleration(bodies.mass, pairs, G))
    apart = [jnp.sqrt(_dot(d, d) + softening**2 + GUARD) for _, _, d, _ in pairs]
    known = [len(bodies.mass), len(bodies.position[0])]
    constants = [jnp.asarray(value, work.dtype) for value in (*known, softening)]
    quantities = (bodies.mass, lengths(centred.position), lengths(centred.velocity), strengths)
    spreads = [value for values in quantities for value in spread(values)]
    ends = [_least(apart), mean(apart), _most(apart)]
    return [*constants[:2], sum(bodies.mass), *spreads, *ends, constants[2]]


def _invariant(bodies: Bodies, pairs: list[Pair], work: Any, G: float, softening: float) -> Vector:
    """The 20 features of `build_invariant`, in its order."""
    import jax.numpy as jnp

    bodies = _to_centre_of_mass(bodies)
    mass, total = bodies.mass, sum(bodies.mass)
    derivatives = _derivatives(bodies, pairs, G)
    rates_squared = [_rate_squared(mass, pair, G) for pair in pairs]
    rate_squared = sum(rates_squared)
    shares = [x / rate_squared for x in rates_squared]
    terms = []
    for pair, pair_rate_squared in zip(pairs, rates_squared, strict=True):
        v, a = (_minus(x[pair.j], x[pair.i]) for x in (bodies.velocity, derivatives[0]))
        r, distance = pair.difference, 1 / pair.inverse
        pair_mass = mass[pair.i] + mass[pair.j]
        some_mass = jnp.where(pair_mass > 0, pair_mass, 1.0)  # without mass there is no weight either
        attraction = G * some_mass * pair.inverse
        tide = [x + pair_rate_squared * y for x, y in zip(a, r, strict=True)]
        v_v, v_r, rest, strength = _dot(v, v), _dot(v, r), _dot(tide, tide), attraction * pair.inverse
        terms.append(
            [
                v_v / (v_v + attraction),
                v_r * v_r * pair.inverse * pair.inverse / (v_v + attraction),
                pair_mass / total,
                4 * mass[pair.i] * mass[pair.j] / (some_mass * some_mass),
                softening / (softening + distance),
                rest / (rest + strength * strength),
            ]
        )
    weights = (shares, [q * (1 - q) for q in shares])
    averages = [_dot(weight, column) for weight in weights for column in zip(*terms, strict=True)]
    squares = [q * q for q in shares]
    hierarchy = [1 - sum(squares), 1 - _dot(squares, squares)]

    kinetic, pair_energies = _kinetic(bodies), [_pair_energy(mass, pair, G) for pair in pairs]
    potential, depth = -sum(pair_energies), _dot(pair_energies, pair_energies)
    attracted = depth > 0
    unit = jnp.where(attracted, jnp.sqrt(depth), 1.0)
    rate, speed = jnp.sqrt(rate_squared), jnp.sqrt(unit / total)
    per_time, per_speed = 1 / rate, 1 / speed
    factors = [per_speed * per_time, per_speed * per_time * per_time, per_speed * per_time * per_time * per_time]
    a, j, s = ([_times(f, row) for row in rows] for f, rows in zip(factors, derivatives, strict=True))
    v = [_times(per_speed, row) for row in bodies.velocity]

    def weighted(x: list[Vector], y: list[Vector]) -> Any:
        return sum(m * _dot(p, q) for m, p, q in zip(mass, x, y, strict=True)) / total

    def soft_log(x: Any, y: Any) -> Any:
        return 0.05 * (jnp.log(x * x + FLOOR) - jnp.log(y * y + FLOOR))

    energy, size = (kinetic + potential - work) / unit, kinetic + jnp.abs(potential)
    virial = jnp.where(size > 0, kinetic / size, 0.0)
    j_j, a_norm, s_norm = weighted(j, j), jnp.sqrt(weighted(a, a)), jnp.sqrt(weighted(s, s))
    whole = j_j + a_norm * s_norm
    jerk = jnp.where(whole > 0, j_j / whole, 0.0)
    numerators = (attracted.astype(energy.dtype), weighted(a, j), weighted(v, s))
    logarithms = [soft_log(x, energy) for x in numerators] + [soft_log(s_norm, a_norm)]
    return [*averages, *hierarchy, virial, jerk, *logarithms]


def _least(values: Vector) -> Any:
    import jax.numpy as jnp

    least = values[0]
    for value in values[1:]:
        least = jnp.minimum(least, value)
    return least


def _most(values: Vector) -> Any:
    import jax.numpy as jnp

    most = values[0]
    for value in values[1:]:
        most = jnp.maximum(most, value)
    return most


def _moved(rows: list[Vector], factor: Any, by: list[Vector]) -> list[Vector]:
    return [[x + factor * y for x, y in zip(row, rates, strict=True)] for row, rates in zip(rows, by, strict=True)]


def _dot(x: Sequence[Any], y: Sequence[Any]) -> Any:
    return sum(a * b for a, b in zip(x, y, strict=True))


def _minus(x: Vector, y: Vector) -> Vector:
    return [a - b for a, b in zip(x, y, strict=True)]


def _times(factor: Any, x: Vector) -> Vector:
    return [factor * a for a in x]


def _cube(x: Any) -> Any:
    return x * x * x
