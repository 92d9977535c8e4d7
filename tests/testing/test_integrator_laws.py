"""Every law of integrators fails on an integrator with the defect that it is for."""

import pytest
import torch
from hypothesis import Phase, settings

from aits_func.physics.integrators import build_hermite, build_leapfrog_dkd, build_leapfrog_kdk
from aits_func.testing import INTEGRATOR_LAWS, LawError, check_integrator

FOUND = settings(max_examples=50, phases=[Phase.generate], derandomize=True, database=None)


class Halved(torch.autograd.Function):
    """The identity, with the right tangent and half of the cotangent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent / 2


def leapfrog(change):
    """A builder of a leapfrog after whose every step ``change(before, after, dt)`` is made to the state."""

    def build(gravity):
        sound = build_leapfrog_dkd(gravity)

        def step(system, carry, dt):
            after, carry = sound.step(system, carry, dt)
            return change(system, after, dt), carry

        return sound._replace(step=step)

    return build


def euler(gravity):
    """Kick, then drift: of first order, though symplectic."""
    sound = build_leapfrog_dkd(gravity)

    def step(system, carry, dt):
        force = gravity.acceleration(system.mass, system.position, system.time)
        kicked = system._replace(velocity=system.velocity + dt * force)
        return kicked._replace(position=system.position + dt * kicked.velocity, time=system.time + dt), carry

    return sound._replace(step=step)


def forgetful(gravity):
    """A leapfrog that starts compensated sums with something already lost."""
    sound = build_leapfrog_kdk(gravity)

    def init(system, compensated=False):
        carry = sound.init(system, compensated)
        if not compensated:
            return carry
        return carry._replace(lost=carry.lost._replace(position=carry.lost.position + 1e-6))

    return sound._replace(init=init)


def turned(system, after, dt):
    """A rotation of all velocities by an angle of order dt², as a wrong field would make."""
    c, s = (dt**2).cos(), (dt**2).sin()
    vx, vy = after.velocity[:, 0], after.velocity[:, 1]
    return after._replace(
        velocity=torch.cat([torch.stack([c * vx - s * vy, s * vx + c * vy], 1), after.velocity[:, 2:]], 1)
    )


def without_work(system, after, dt):
    """A leapfrog that knows nothing of the work on test particles."""
    return after._replace(work=system.work)


def half_the_work(system, after, dt):
    """One that takes the bodies with mass to move at half their speed."""
    return after._replace(work=(system.work + after.work) / 2)


def impure(system, after, dt):
    system.velocity.add_(0.0 * dt).add_(1e-3)
    return after


def level(system, after, dt):
    depth = torch._C._functorch.maybe_current_level() or 0
    return after._replace(velocity=after.velocity * (1 + 1e-3 * depth))


def half_pulled(system, after, dt):
    """The right motion, half of whose cotangent is lost."""
    return after._replace(velocity=Halved.apply(after.velocity))


DEFECTS = {
    "order": euler,
    "reversal": build_hermite,
    "mirror": build_hermite,
    "zero": leapfrog(lambda s, a, dt: a._replace(position=a.position + 1e-16 * (1 + a.position.abs()))),
    "clock": leapfrog(lambda s, a, dt: a._replace(time=s.time + 1.001 * dt)),
    "linear momentum": leapfrog(lambda s, a, dt: a._replace(velocity=a.velocity + 1e-3 * dt)),
    "angular momentum": build_hermite,
    "frames": leapfrog(turned),
    "units": leapfrog(lambda s, a, dt: a._replace(velocity=a.velocity * (1 - 1e-3 * dt))),
    "derivatives": leapfrog(half_pulled),
    "test particles": leapfrog(lambda s, a, dt: a._replace(velocity=a.velocity - 1e-3 * a.velocity.mean(0))),
    "test particle energy": leapfrog(without_work),
    "test particle work": leapfrog(half_the_work),
    "symplectic": leapfrog(lambda s, a, dt: a._replace(velocity=a.velocity * (1 - 1e-3 * dt))),
    "compensated": forgetful,
    "single": leapfrog(lambda s, a, dt: a._replace(time=a.time.double())),
    "pure": leapfrog(impure),
    "vmap": leapfrog(level),
}


def test_there_is_a_defect_for_every_law():
    assert DEFECTS.keys() == INTEGRATOR_LAWS.keys()


@pytest.mark.parametrize("law", INTEGRATOR_LAWS)
def test_a_law_fails_on_its_defect(law):
    with pytest.raises(LawError, match=f"^check_integrator: {law}: "):
        check_integrator(DEFECTS[law], order=2, laws=[law], settings=FOUND)


def pulled_by_itself(gravity):
    """A leapfrog whose self-pairs are masked as if they were 1 length apart: the right motion in any units."""

    def acceleration(mass, position, time):
        apart = position[None] - position[:, None]
        square = apart.pow(2).sum(-1) + torch.eye(len(mass), dtype=mass.dtype) + gravity.softening**2
        return ((gravity.G * mass * square.rsqrt() ** 3)[:, :, None] * apart).sum(1)

    return build_leapfrog_kdk(gravity._replace(acceleration=acceleration))


def test_a_self_pair_that_is_masked_by_a_length_breaks_the_law_of_units_by_its_derivatives():
    with pytest.raises(LawError, match=r"units: the derivative of the motion in other units by the (mass|position)"):
        check_integrator(pulled_by_itself, order=2, laws=["units"], settings=FOUND)


def test_what_is_not_promised_is_not_tried():
    laws = ("reversal", "mirror", "symplectic")
    check_integrator(build_hermite, order=4, reversible=False, symplectic=False, laws=laws, settings=FOUND)


def test_a_method_of_higher_order_than_asked_passes_and_one_of_lower_order_does_not():
    check_integrator(build_hermite, order=3, laws=["order"], settings=FOUND)
    with pytest.raises(LawError, match=r"its order is 2.*, which is not 3"):
        check_integrator(build_leapfrog_kdk, order=3, laws=["order"], settings=FOUND)


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="check_integrator: order must be >= 1, got 0"):
        check_integrator(build_leapfrog_kdk, order=0)
