"""Everything runs on a GPU as on the CPU: the same draws, and the same numbers within rounding."""

import pytest
import torch

import aits_func as af
from aits_func.base.tree import cast, leaves
from aits_func.edge.cli import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing is run on one")

DEVICES = ("cpu", "cuda")


def training(device, compile):
    """The state after 40 iterations of the replay."""
    gravity = af.build_gravity()
    policy = af.build_residual_policy(af.build_features("invariant", gravity), af.p_norm(gravity, eta=0.3))
    step = af.build_step(policy, gravity, af.build_leapfrog_kdk(gravity), energy_threshold=1e-5)
    learner = af.build_learner(step, af.adam(1e-3))
    systems = cast(af.gaussian_cluster(0, 256), device=device)
    samples = torch.func.vmap(af.first_sample)(systems)
    state = af.init_train_state(cast(policy.init(0), device=device), learner.optimizer)
    state, info = af.generalize_on_trajectory(
        state, samples, learner=learner, replay_batch_size=64, replay_steps=40, compile=compile
    )
    return state.params, info


@pytest.mark.parametrize("compile", ["off", "on"])
def test_the_replay_on_a_gpu_is_that_on_the_cpu(compile):
    (here, seen), (there, seen_there) = (training(device, compile) for device in DEVICES)
    # Forty steps of Adam, 1e-3 each at most: rounding is magnified where a gradient is small beside its history.
    for ours, theirs in zip(leaves(here), leaves(there), strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=0, atol=1e-6)
    assert seen.iterations == seen_there.iterations
    torch.testing.assert_close(seen.history.loss, seen_there.history.loss, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("compile", ["off", "on"])
def test_a_simulation_on_a_gpu_is_that_on_the_cpu(compile):
    gravity = af.build_gravity()
    policy = af.build_criterion_policy(af.p_norm(gravity, eta=0.01))
    ends = []
    for device in DEVICES:
        systems, params = cast(af.gaussian_cluster(0, 64, position_scale=1.0), device=device), policy.init(0)
        end, _ = af.simulate(
            cast(params, device=device), systems, policy=policy, gravity=gravity,
            scheme=af.build_leapfrog_kdk(gravity), steps=100, compile=compile,
        )  # fmt: skip
        ends.append(end)
    # A hundred small steps, away from encounters: rounding grows little.
    torch.testing.assert_close(ends[0].position, ends[1].position.cpu(), rtol=0, atol=1e-9)


def test_the_command_line_trains_on_a_gpu(tmp_path):
    config, out = tmp_path / "train.toml", tmp_path / "run"
    config.write_text('[train]\nsystems = [{ kind = "binaries", count = 8 }]\nepochs = 1\nsteps_per_epoch = 4\n')
    assert main(["train", str(config), "--device", DEVICES[1], "--compile", "auto", "--out", str(out)]) == 0
    assert (out / "checkpoint.safetensors").exists()
