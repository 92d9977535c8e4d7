"""The invariant features of ONE system: dimensionless numbers that carry over to any scale and N.

Unchanged by translation, rotation, boost, permutation of the bodies, time reversal, and a change
of units (x → λx, m → μm, t → (λ³/(Gμ))^{1/2} t); finite with their derivatives for bodies at rest,
massless pairs and collinear symmetric states. So a policy dt = τ(x) · f(features), τ a time scale
of the system, scales with the system exactly.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..base.forward_mode import number
from ..base.types import System
from ..physics.gravity import Derivatives, Gravity, kinetic_energy, work_on_all
from ..physics.invariants import to_centre_of_mass
from ..physics.pair_criteria import free_fall_rate_squared
from ..physics.pairs import pair_difference, pair_rows

_PAIR_NAMES = ("fly-by", "radial", "mass fraction", "mass balance", "softening", "tide")
INVARIANT_NAMES = (
    *(f"{name}, tightest pairs" for name in _PAIR_NAMES),
    *(f"{name}, other pairs" for name in _PAIR_NAMES),
    "hierarchy 2",
    "hierarchy 4",
    "virial",
    "jerk",
    "depth",
    "change of force",
    "change of kinetic energy",
    "curvature",
)
# Energies are compared on a logarithmic scale that ends 1e-9 below the tightest pair's (amplitude; the
# square is what is added), so that the features stay bounded where the total energy passes 0.
_FLOOR = 1e-18


def build_invariant(gravity: Gravity) -> Callable[[System], Tensor]:
    """The invariant features as a function of one system.

    Pairs i < j have the free-fall rate ω_ij = (G m_ij/R³)^{1/2} with m_ij = mᵢ + mⱼ and
    R² = r² + s², and the weight q_ij = ω_ij²/Σω², which sums to 1: the share of the pair in the
    2-norm of rates, 1/τ = (Σω²)^{1/2}. Of every pair:

        fly-by  v²R/(v²R + G m_ij)              radial        (v·r)²/(v²R² + G m_ij R)
        mass fraction  m_ij/Σm                  mass balance  4 mᵢmⱼ/m_ij²
        softening  s/(s + R)                    tide          δ²/(δ² + (G m_ij/R²)²)

    with δ the relative acceleration that the rest of the system gives the pair. Each is averaged with
    q_ij (the tightest pairs) and with q_ij(1 − q_ij) (the others, if any). Of the system:

        hierarchy  1 − Σq², 1 − Σq⁴             virial   K/(K + |W|)
        jerk  j²/(j² + a s)                     depth    ln(S/|E|), S² = Σ (G mᵢmⱼ/R)²

    (a, j, s: mass-weighted norms of acceleration, jerk and snap), and the terms of which the energy error
    of one leapfrog step is made (from its modified Hamiltonian: dt³ times a sum of Σ m a·j and
    Σ m v·s): change of force ln(τ³|Σ m a·j|/|E|), change of kinetic energy ln(τ³|Σ m v·s|/|E|), and
    curvature ln(τ² s/a). The logarithms are soft at both ends and divided by 10.

    Args:
        gravity: accelerations and derivatives, G and softening.

    Returns:
        A function of one `System` -> (20,), dimensionless.

    Source: the pair terms and q-weights are this project's; the energy error of the leapfrog from its
        modified Hamiltonian after Yoshida 1993, Celestial Mechanics 56, 27.
    """

    def features(system: System) -> Tensor:
        centred = to_centre_of_mass(system)
        # The bodies stay where they are: moved to the centre of mass, a close pair may fall together.
        system = system._replace(velocity=centred.velocity)
        tick = free_fall_rate_squared(gravity, system).sum().rsqrt().detach()  # a unit: features do not depend on it
        derivatives = gravity.derivatives(system, tick, centred.position)
        terms, rate_squared, pair_energy = _pair_terms(gravity, system, derivatives.acceleration / tick / tick)
        total_rate = rate_squared.sum()
        share = rate_squared / total_rate  # > 0, as at least one body has mass
        weights = torch.stack([share, share * (1 - share)], -1)
        hierarchy = torch.stack([1 - share.pow(2).sum(), 1 - share.pow(4).sum()])
        whole = _whole_terms(gravity, centred, derivatives, total_rate, pair_energy, tick)
        return torch.cat([(terms @ weights).T.reshape(-1), hierarchy, whole])

    return features


def _pair_terms(gravity: Gravity, system: System, acceleration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The six pair terms (6, P), squared free-fall rates (P,), and energies G mᵢmⱼ/RΣm (P,) of the pairs.

    A pair without mass has rate 0 and so no weight; its terms only have to be finite, with their
    derivatives, and are computed as if it had the mass of the system.
    """
    mass_1, mass_2 = pair_rows(system.mass)
    r, v, a = pair_difference(torch.cat([system.position, system.velocity, acceleration], 1)).chunk(3, 1)
    distance = (r.pow(2).sum(-1) + gravity.softening**2).sqrt()
    inverse = distance.reciprocal()  # of its powers the second derivatives stay in float32, of quotients they do not
    pair_mass = mass_1 + mass_2
    rate_squared = gravity.G * pair_mass * inverse.pow(3)
    some_mass = torch.where(pair_mass > 0, pair_mass, system.mass.sum())
    attraction = gravity.G * some_mass * inverse  # (length / time)², as v² is
    speed_squared = v.pow(2).sum(-1)
    rest, pull = a + rate_squared[:, None] * r, attraction * inverse
    larger = torch.maximum(rest.abs().amax(-1), pull).detach()  # their squares overflow float32 where they do not
    rest_squared, pull_squared = (rest / larger[:, None]).pow(2).sum(-1), (pull / larger).pow(2)
    terms = torch.stack(
        [
            speed_squared / (speed_squared + attraction),
            (v * r).sum(-1).pow(2) / (distance**2 * (speed_squared + attraction)),
            pair_mass / system.mass.sum(),
            4 * (mass_1 / some_mass) * (mass_2 / some_mass),
            gravity.softening / (gravity.softening + distance),
            rest_squared / (rest_squared + pull_squared),
        ]
    )
    return terms, rate_squared, gravity.G * mass_1 * (mass_2 / system.mass.sum()) * inverse


def _whole_terms(
    gravity: Gravity,
    system: System,
    derivatives: Derivatives,
    rate_squared: Tensor,
    pair_energy: Tensor,
    tick: Tensor,
) -> Tensor:
    """The terms of the system as a whole, (6,), from derivatives in that unit of time ().

    Everything is made dimensionless before it is squared, with the rate ω = 1/τ and the speed u = (S/Σm)^{1/2}:
    in a close encounter a squared snap overflows float32 long before the snap does, which does so itself. Energies are
    per mass, as the product of two masses in kilograms overflows it too.
    """
    total = system.mass.sum()
    system = system._replace(mass=system.mass / total, work=system.work / total)
    kinetic = kinetic_energy(system)
    potential = gravity.external_energy(system) - pair_energy.sum()
    depth, rate = pair_energy.pow(2).sum(), rate_squared.sqrt()
    attracted = depth > 0  # not so if all bodies but one are massless: then the square of a speed of that rate
    unit = torch.where(attracted, depth, (number(gravity.G, total) * total * rate).pow(4 / 3)).sqrt()
    speed = unit.sqrt()
    turn = rate * tick  # 1, but for its derivative
    a, j, s = (x / (speed * tick) for x in derivatives)
    a, j, s, v = a / turn, j / turn**2, s / turn**3, system.velocity / speed
    weight = system.mass[:, None]
    products = torch.stack([a * a, j * j, s * s, a * j, v * s])
    a_a, j_j, s_s, a_j, v_s = (weight * products).sum((1, 2)).unbind()
    energy = (kinetic + potential - work_on_all(system)) / unit
    size = kinetic + potential.abs()
    virial = torch.where(size > 0, kinetic / torch.where(size > 0, size, 1.0), 0.0)
    numerators = torch.stack([attracted.to(energy), a_j, v_s, _root(s_s)])
    denominators = torch.stack([energy, energy, energy, _root(a_a)])
    return torch.cat(
        [torch.stack([virial, _jerk_share(j_j, _root(a_a) * _root(s_s))]), _soft_log(numerators, denominators)]
    )


def _jerk_share(jerk_squared: Tensor, product: Tensor) -> Tensor:
    """j²/(j² + a s), 0 where all are 0; masked before and after the division."""
    some = jerk_squared + product > 0
    return torch.where(some, jerk_squared / torch.where(some, jerk_squared + product, 1.0), 0.0)


def _root(square: Tensor) -> Tensor:
    """The root of a number ≥ 0, with derivative 0 at 0: masked before and after."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _soft_log(x: Tensor, y: Tensor) -> Tensor:
    """ln(|x|/|y|)/10 of dimensionless numbers, both raised by the floor, so that neither end is infinite."""
    return 0.05 * ((x.pow(2) + _FLOOR).log() - (y.pow(2) + _FLOOR).log())
