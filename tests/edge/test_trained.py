"""Checkpoints that are well-formed and of no use: refused by the name of what is wrong, before anything is computed."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("safetensors")

from aits_func.base.tree import named_leaves, replace_leaves
from aits_func.edge import training_run
from aits_func.edge.assemble import build_physics, build_policy, init_params
from aits_func.edge.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from aits_func.edge.config import InputError, config_from_dict, config_to_dict, least_weights
from aits_func.edge.trained import load_policy, load_state, trained_config


class Run(NamedTuple):
    """A finished run: its configuration, and the state that its checkpoint holds."""

    config: object
    state: object


@pytest.fixture(scope="module")
def run(trained):
    path = trained / "checkpoint.safetensors"
    config = trained_config(path)
    return Run(config, load_checkpoint(path, training_run.prepare(config, "run").state))


def saved(path, run, change=None, epoch=2, **values):
    """The checkpoint of that run with leaves changed in one element each, and values of the configuration."""
    leaves = {name: leaf.clone() for name, leaf in named_leaves(run.state).items()}
    for name, value in (change or {}).items():
        leaves[name].view(-1)[0] = value
    state = replace_leaves(run.state, list(leaves.values()))
    save_checkpoint(path, state, config=config_to_dict(run.config) | values, seed=0, epoch=epoch)
    return path


def policy_of(path, config):
    physics = build_physics(config, "run")
    return load_policy(path, init_params(build_policy(config, physics.gravity)[1], 0, physics))


def refused(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


PLACE = "population.0.sample.system.position"


def names(run, ending):
    return [name for name in named_leaves(run.state) if name.endswith(ending)]


def test_what_is_in_order_is_loaded_bit_for_bit(run, tmp_path):
    path = saved(tmp_path / "a", run)
    assert trained_config(path) == run.config
    for name, leaf in named_leaves(load_state(path, run.state)).items():
        assert torch.equal(leaf, named_leaves(run.state)[name]), name
    for name, leaf in named_leaves(policy_of(path, run.config)).items():
        assert torch.equal(leaf, named_leaves(run.state.params)[name]), name


@pytest.mark.parametrize(
    ("value", "what"), [(math.nan, "NaN"), (math.inf, "an infinite number"), (-math.inf, "an inf")]
)
def test_a_parameter_that_is_not_finite_is_named_for_policies_and_for_states(run, tmp_path, value, what):
    (name,) = [name for name in names(run, "0.weight") if name.startswith("params.")]
    path = saved(tmp_path / "a", run, {name: value})
    for message in (refused(policy_of, path, run.config), refused(load_state, path, run.state)):
        assert message.startswith(f"{path}: {name} holds {what}")
        assert message.endswith("so that nothing can be computed with it; use another one")


def test_a_nan_in_any_number_of_a_state_is_named(run, tmp_path):
    floating = [name for name, leaf in named_leaves(run.state).items() if leaf.is_floating_point() and leaf.numel()]
    assert len(floating) > 20
    for name in floating:
        path = saved(tmp_path / "a", run, {name: math.nan})
        assert refused(load_state, path, run.state).startswith(f"{path}: {name} holds NaN")


def test_only_times_of_retirement_and_the_optimizer_may_be_infinite(run, tmp_path):
    floating = [name for name, leaf in named_leaves(run.state).items() if leaf.is_floating_point() and leaf.numel()]
    endless = [name for name in floating if name.startswith("opt_state.") or name.endswith(".stop_time")]
    assert 2 < len(endless) < len(floating)
    for name in floating:
        path = saved(tmp_path / "a", run, {name: math.inf})
        if name in endless:
            load_state(path, run.state)
        else:
            assert refused(load_state, path, run.state).startswith(f"{path}: {name} holds an infinite number")


def test_a_policy_is_read_where_the_rest_of_the_state_is_damaged(run, tmp_path):
    policy_of(saved(tmp_path / "a", run, {PLACE: math.nan}), run.config)


def test_a_system_that_is_none_is_refused(run, tmp_path):
    path = saved(tmp_path / "a", run, {"population.0.sample.system.mass": -1.0})
    assert f"{path}: system: mass must be >= 0" in refused(load_state, path, run.state)


@pytest.mark.parametrize("epoch", [1, 2**40, -1])
def test_a_state_of_another_epoch_than_the_metadata_say_is_refused(run, tmp_path, epoch):
    path = saved(tmp_path / "a", run, {"epoch": epoch})
    assert f"damaged checkpoint (epoch is {epoch}, its metadata say 2)" in refused(load_state, path, run.state)


def test_a_network_that_the_file_cannot_hold_is_never_built(run, tmp_path):
    path = saved(tmp_path / "a", run, hidden=[5000, 5000])  # 25 million weights, which could be drawn
    assert "its configuration has a network of 2000" in refused(trained_config, path)
    assert "more than the whole file; use another one" in refused(trained_config, path)


def test_a_network_has_at_least_the_weights_that_are_counted(run):
    for values in (
        {},
        {"hidden": ()},
        {"hidden": (3, 5)},
        {"policy": "mlp", "features": "basic", "history_len": 2},
        {"features": "delta_mag", "history_len": 3, "fourier_features": 2},
        {"policy": "transformation"},
        {"policy": "criterion"},
    ):
        config = replace(run.config, **values)
        physics = build_physics(config, "run")
        params = init_params(build_policy(config, physics.gravity)[1], 0, physics)
        assert least_weights(config) <= sum(leaf.numel() for leaf in named_leaves(params).values()), values


def test_the_configuration_of_a_checkpoint_is_checked_like_any_other(run, tmp_path):
    path = saved(tmp_path / "a", run, history_len=10**9, features="rich", policy="criterion")
    assert f"{path}: history_len must be <= 10000" in refused(trained_config, path)
    assert config_from_dict(type(run.config), read_metadata(saved(path, run)).config, where="a") == run.config
