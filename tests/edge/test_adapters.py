"""Other people's optimizers: against themselves, our own of the same name, and finite differences."""

import subprocess
import sys

import pytest
import torch
from torch.func import grad, vmap

import aits_func as af
from aits_func.base.engine import watch_compilation
from aits_func.base.tree import cast, leaves, map_leaves
from aits_func.edge.adapters import flatten_problem, from_torch_optimizer, from_torchopt
from aits_func.edge.checkpoint import load_checkpoint, save_checkpoint
from aits_func.edge.config import InputError

numpy = pytest.importorskip("numpy")


def problem(count=12):
    gravity = af.build_gravity()
    features, criterion = af.build_features("invariant", gravity), af.p_norm(gravity, eta=0.3)
    policy = af.build_mlp_policy(features, timescale=criterion, hidden=(4,))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
    samples = vmap(af.first_sample)(af.free_fall_triple(0, count, minimum_separation=0.1))
    return policy, step, samples


def descend(step, samples, params, optimizer, count=6):
    learner = af.build_learner(step, optimizer)
    state = af.init_train_state(params, learner.optimizer)
    for _ in range(count):
        state, _ = learner.update(state, samples, "all")
    return state


PAIRS = {
    "Adam": (lambda params: torch.optim.Adam(params, lr=1e-2), af.adam(1e-2)),
    "AdamW": (lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.1), af.adamw(1e-2, weight_decay=0.1)),
    "SGD": (
        lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9, dampening=0.3),
        af.sgd(1e-3, momentum=0.9, dampening=0.3),
    ),
    "SGD without memory": (lambda params: torch.optim.SGD(params, lr=1e-3), af.sgd(1e-3)),
}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)
def test_a_torch_optimizer_in_the_learner_is_ours_of_the_same_name(theirs, ours):
    policy, step, samples = problem()
    start = policy.init(0)
    found = descend(step, samples, start, from_torch_optimizer(theirs)).params
    expected = descend(step, samples, start, ours).params
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        # Updates go through a difference of parameters: a rounding of 1e-16 each, six times, divided by small moments.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert not torch.equal(leaves(found)[0], leaves(start)[0])


THEIRS = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},  # makes its memory when it is built
    "Adam": {"amsgrad": True},
    "Adamax": {},
    "AdamW": {"foreach": True},
    "ASGD": {"t0": 1.0},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize(("name", "settings"), THEIRS.items(), ids=THEIRS)
def test_as_a_pair_an_optimizer_of_torch_does_what_it_does_as_an_object(name, settings):
    def build(params):
        return getattr(torch.optim, name)(params, lr=1e-2, **settings)

    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (3, 4), "scalar": (), "vector": (5,)}
    params = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
    mutable = [leaf.clone() for leaf in leaves(params)]
    theirs, pair = build(mutable), from_torch_optimizer(build)
    state = pair.init(params)
    for count in range(8):  # RAdam changes its rule after five
        grads = map_leaves(lambda leaf, count=count: torch.sin(3 * leaf + count), params)
        for leaf in mutable:
            leaf.grad = torch.sin(3 * leaf + count)
        updates, state = pair.update(grads, state, params)
        params = af.apply_updates(params, updates)
        theirs.step()
    for one, other in zip(leaves(params), mutable, strict=True):
        # θ + (θ' − θ) is θ' but for a rounding of 1e-16, at numbers of order one, eight times.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_the_memory_of_a_torch_optimizer_goes_through_a_checkpoint(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    policy, step, samples = problem()
    optimizer = from_torch_optimizer(lambda params: torch.optim.NAdam(params, lr=1e-2))
    learner = af.build_learner(step, optimizer)
    state = descend(step, samples, policy.init(0), optimizer, 3)
    save_checkpoint(tmp_path / "it", state, config={}, seed=0, epoch=0)
    resumed = load_checkpoint(tmp_path / "it", af.init_train_state(policy.init(1), optimizer))
    for _ in range(3):
        state, _ = learner.update(state, samples, "all")
        resumed, _ = learner.update(resumed, samples, "all")
    for one, other in zip(leaves(resumed), leaves(state), strict=True):
        assert torch.equal(one, other)


def test_nothing_that_is_given_is_changed_and_a_state_may_be_used_twice():
    policy, step, samples = problem()
    optimizer = from_torch_optimizer(lambda params: torch.optim.RAdam(params, lr=1e-2))
    state = descend(step, samples, policy.init(0), optimizer, 6)
    before = [leaf.clone() for leaf in leaves((state.params, state.opt_state))]
    grads = map_leaves(torch.ones_like, state.params)
    first, _ = optimizer.update(grads, state.opt_state, state.params)
    again, _ = optimizer.update(grads, state.opt_state, state.params)
    for one, other in zip(leaves(first), leaves(again), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(leaves((state.params, state.opt_state)), before, strict=True):
        assert torch.equal(one, other)
    assert not any(leaf.requires_grad for leaf in leaves((state.params, first)))


def test_a_compiled_replay_with_a_torch_optimizer_runs_eagerly():
    policy, step, samples = problem(32)
    learner = af.build_learner(step, from_torch_optimizer(lambda params: torch.optim.Adam(params, lr=1e-2)))
    state = af.init_train_state(policy.init(0), learner.optimizer)
    options = {"learner": learner, "replay_steps": 3, "loss_on": "all"}
    told = []
    with watch_compilation(told.append):
        ends = [af.generalize_on_trajectory(state, samples, compile=mode, **options)[0] for mode in ("off", "auto")]
    assert all("torch.optim works in place" in event.reason for event in told if event.seconds is not None)
    assert told
    with pytest.raises(ValueError, match=r'compile = "on": .* torch\.optim works in place'):
        af.generalize_on_trajectory(state, samples, compile="on", **options)
    for one, other in zip(*(leaves(end.params) for end in ends), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)  # the order of samples in memory


def test_optimizers_that_cannot_be_a_pair_are_refused():
    params = {"x": torch.ones(3, dtype=torch.float64)}
    with pytest.raises(ValueError, match="LBFGS evaluates the loss several times"):
        from_torch_optimizer(lambda given: torch.optim.LBFGS(given)).init(params)
    with pytest.raises(ValueError, match="params must hold at least one tensor"):
        from_torch_optimizer(lambda given: torch.optim.SGD(given, lr=1.0)).init(())
    optimizer = from_torch_optimizer(lambda given: torch.optim.SGD(given, lr=1.0))
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="inside no transform"):
        grad(lambda x: optimizer.update({"x": x}, state, params)[0]["x"].sum())(params["x"])
    with pytest.raises(ValueError, match="inside no transform"):
        vmap(lambda x: optimizer.init({"x": x}))(torch.ones(2, 3))


def test_an_ensemble_with_a_torch_optimizer_is_refused():
    policy, step, samples = problem()
    learner = af.build_learner(step, from_torch_optimizer(lambda params: torch.optim.Adam(params, lr=1e-2)))
    states = af.init_ensemble(policy.init, learner, range(2))
    with pytest.raises(ValueError, match=r"inside no transform of torch\.func"):
        af.generalize_ensemble(states, samples, learner=learner, seeds=range(2), replay_steps=2)


def test_a_pair_in_the_form_of_torchopt_is_told_to_write_nothing_in_place():
    class Pair:
        def init(self, params):
            return ()

        def update(self, updates, state, *, params=None, inplace=True):
            assert not inplace
            assert params is not None
            return map_leaves(lambda leaf: -0.1 * leaf, updates), state

    policy, step, samples = problem()
    found = descend(step, samples, policy.init(0), from_torchopt(Pair())).params
    expected = descend(step, samples, policy.init(0), af.sgd(0.1)).params
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # one product in another order


OURS = {
    "adam": ({}, af.adam(1e-2)),
    "adamw": ({"weight_decay": 0.1}, af.adamw(1e-2, weight_decay=0.1)),
    "sgd": ({"momentum": 0.9}, af.sgd(1e-2, momentum=0.9)),
}


@pytest.mark.parametrize("name", OURS)
def test_an_optimizer_of_torchopt_in_the_learner_is_ours_of_the_same_name(name):
    torchopt = pytest.importorskip("torchopt", reason="TorchOpt is not installed")
    settings, ours = OURS[name]
    policy, step, samples = problem()
    start, usual = policy.init(0), torch.get_default_dtype()
    optimizer = from_torchopt(getattr(torchopt, name)(1e-2, **settings))
    rough = descend(step, samples, start, optimizer).params
    expected = descend(step, samples, start, ours).params
    try:
        torch.set_default_dtype(torch.float64)
        found = descend(step, samples, start, optimizer).params
    finally:
        torch.set_default_dtype(usual)
    for near, one, other in zip(*map(leaves, (rough, found, expected)), strict=True):
        # The same operations in another order: a rounding of 1e-16 each, six times, divided by small moments.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
        # Its bias corrections have the default dtype: 6e-8 (float32) of 1 in 1 − 0.999 is 6e-5, half of that in the
        # root, of a step of 1e-2, six times.
        torch.testing.assert_close(near, other, rtol=0, atol=2e-6)
    assert not torch.equal(leaves(found)[0], leaves(start)[0])


def test_an_optimizer_of_torchopt_that_counts_in_plain_numbers_is_refused():
    class Pair:
        def init(self, params):
            return ({"count": 0, "mean": params},)

    with pytest.raises(ValueError, match=r"from_torchopt: the optimizer keeps a number .* \(at 0.count\)"):
        from_torchopt(Pair()).init({"x": torch.ones(3)})


def test_a_flat_problem_is_the_objective_and_has_its_derivatives():
    policy, step, samples = problem()
    objective, params = af.build_objective(step), policy.init(0)
    flat = flatten_problem(objective, params, samples)
    for one, other in zip(leaves(flat.unflatten(flat.start)), leaves(params), strict=True):
        assert torch.equal(one, other)
    rows, (loss, gradient) = flat.jacobian(flat.start), flat.loss_and_gradient(flat.start)
    residuals = flat.residuals(flat.start)
    assert rows.shape == (12, flat.start.size)
    numpy.testing.assert_allclose(residuals, objective.residuals(params, samples).numpy(), rtol=1e-9)
    numpy.testing.assert_allclose(loss, (residuals**2).mean(), rtol=1e-12)
    numpy.testing.assert_allclose(gradient, 2 * rows.T @ residuals / 12, rtol=1e-8, atol=1e-10)
    h = 1e-6  # h² of truncation, 1e-16/h of rounding, and ε itself is rounded by 1e-16 in 1e-6
    shifts = h * numpy.eye(flat.start.size)
    slopes = [(flat.residuals(flat.start + d) - flat.residuals(flat.start - d)) / (2 * h) for d in shifts]
    numpy.testing.assert_allclose(rows, numpy.stack(slopes, 1), rtol=1e-4, atol=1e-4)
    assert (abs(rows).max(0) > 1e-2).sum() > flat.start.size / 2  # no comparison of zeros


def test_a_flat_problem_of_several_shapes_and_in_float32_is_one_in_float64():
    policy, step, samples = problem()
    groups = cast((samples, vmap(af.first_sample)(af.binaries(0, 8))), dtype=torch.float32)
    objective, params = af.build_objective(step), cast(policy.init(0), dtype=torch.float32)
    for on in ("all", "failed"):
        flat = flatten_problem(objective, params, groups, on=on)
        loss, gradient = flat.loss_and_gradient(flat.start)
        assert flat.residuals(flat.start).shape == (20,)
        assert flat.jacobian(flat.start).shape == (20, flat.start.size)
        for array in (flat.start, flat.residuals(flat.start), flat.jacobian(flat.start), gradient):
            assert array.dtype == numpy.float64
        assert {leaf.dtype for leaf in leaves(flat.unflatten(flat.start))} == {torch.float32}
        assert loss == float(objective.loss(params, groups, on)[0])


def test_what_a_flat_problem_cannot_be_made_of_or_asked_is_refused():
    policy, step, samples = problem()
    objective, params = af.build_objective(step), policy.init(0)
    with pytest.raises(ValueError, match="flatten_problem: on must be one of failed, all, got 'most'"):
        flatten_problem(objective, params, samples, on="most")
    with pytest.raises(ValueError, match="compile must be one of"):
        flatten_problem(objective, params, samples, compile="perhaps")
    flat = flatten_problem(objective, params, samples)
    for x in (flat.start[1:], flat.start[:, None]):
        with pytest.raises(ValueError, match=rf"x must have shape \(P,\) = \({flat.start.size},\), got"):
            flat.residuals(x)


def test_without_numpy_torch_optim_works_and_a_flat_problem_names_the_extra(monkeypatch):
    code = (
        "import sys, warnings; sys.modules['numpy'] = None; warnings.simplefilter('ignore')\n"
        "import torch\nfrom aits_func.edge.adapters import from_torch_optimizer\n"
        "pair = from_torch_optimizer(lambda params: torch.optim.SGD(params, lr=1.0))\n"
        "print(pair.update((torch.ones(1),), pair.init((torch.ones(1),)), (torch.ones(1),))[0][0].item())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "-1.0\n"
    policy, step, samples = problem()
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(InputError, match=r"needs numpy, which is not installed; pip install 'aits_func\[scipy\]'"):
        flatten_problem(af.build_objective(step), policy.init(0), samples)


def test_a_flat_problem_without_parameters_is_refused():
    _, step, samples = problem()
    with pytest.raises(ValueError, match="flatten_problem: params must hold at least one tensor"):
        flatten_problem(af.build_objective(step), (), samples)


@pytest.mark.slow  # half a minute to compile
def test_compiled_residuals_are_the_eager_ones():
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=0.3))  # one parameter, two bodies: soon compiled
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity))
    samples = vmap(af.first_sample)(af.binaries(0, 12))
    eager, compiled = (
        flatten_problem(af.build_objective(step), policy.init(0), samples, compile=mode) for mode in ("off", "auto")
    )
    # ε of 1e-4 and more, of energies rounded by 1e-16, in a logarithm.
    numpy.testing.assert_allclose(compiled.residuals(eager.start), eager.residuals(eager.start), rtol=1e-10, atol=1e-10)
