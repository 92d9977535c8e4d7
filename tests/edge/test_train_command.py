"""``aits train``: what a run leaves behind, that it can be run again and resumed to the bit, and how it ends."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from aits_func.base.tree import take
from aits_func.edge import signals, training_run
from aits_func.edge.checkpoint import read_metadata
from aits_func.edge.config import TrainConfig, WriteError, build_config, read_toml
from aits_func.edge.initial_condition_files import save_system
from aits_func.edge.tracking import read_metrics
from aits_func.physics.initial_conditions import binaries

numpy = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.torch")

PNG = b"\x89PNG\r\n\x1a\n"
MIXED = [{"kind": "binaries", "count": 2}, {"kind": "free_fall_triple", "count": 1, "minimum_separation": 0.2}]
FILES = {
    "config.toml",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "training_trajectory.npz",
    "summary.json",
    "training.png",
}


def tensors(run):
    return safetensors.load_file(run / "checkpoint.safetensors")


def metrics(run):
    """Every line, without the one number that a clock made."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(run / "metrics.jsonl")]


def summary(run):
    return json.loads((run / "summary.json").read_text())["train"]


def assert_same_run(run, other):
    left, right = tensors(run), tensors(other)
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        # Bits, not values: stop times are infinite, and a NaN would be unequal to itself.
        assert leaf.dtype == right[name].dtype, name
        assert torch.equal(leaf, right[name]), name
    assert metrics(run) == metrics(other)


# --- what a run leaves behind


def test_a_run_leaves_its_files_and_no_others(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    assert (trained / "training.png").read_bytes().startswith(PNG)
    assert (trained / "training.png").stat().st_size > 5000  # three pairs of axes; an empty picture has 2 kB


def test_the_configuration_it_leaves_is_the_one_it_ran_with(trained):
    tables = read_toml(trained / "config.toml")
    assert tables.keys() == {"train"}
    assert set(tables["train"]) == set(TrainConfig.__dataclass_fields__)
    config = build_config(TrainConfig, tables, {}, where="config.toml")
    assert (config.epochs, config.hidden, config.systems) == (2, (4,), ({"kind": "binaries", "count": 2},))


def test_the_configuration_it_leaves_makes_the_same_run_again(succeed, tmp_path, trained):
    succeed("train", trained / "config.toml", "--out", tmp_path / "again")
    assert_same_run(tmp_path / "again", trained)
    assert (tmp_path / "again" / "config.toml").read_text() == (trained / "config.toml").read_text()


def test_scales_are_resolved_in_the_configuration_it_leaves(succeed, write, tmp_path):
    succeed("train", write(train={"normalize_inputs": "auto", "features": "basic", "epochs": 1}), "--out", "a")
    table = read_toml(tmp_path / "a" / "config.toml")["train"]
    assert table["normalize_inputs"] == "manual"
    assert table["time_scale"] == table["length_scale"] / table["speed_scale"]
    assert table["length_scale"] != 1.0
    succeed("train", "a/config.toml", "--out", "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_metrics_have_one_line_per_epoch_with_both_phases(trained):
    lines = read_metrics(trained / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1]
    for line in lines:
        assert line["collect_status"] == "complete"
        assert line["collect_accepted"] == line["collect_recorded"] == 6  # 2 systems, 3 steps each
        assert line["seconds"] > 0
        assert 0 <= line["replay_band_rate"] <= line["replay_pass_rate"] <= 1
        assert 1 <= line["replay_iterations"] <= 2
        assert line["replay_mean_dt"] > 0


def test_the_summary_adds_up_the_lines_of_the_metrics(trained):
    lines, numbers = read_metrics(trained / "metrics.jsonl"), summary(trained)
    assert (numbers["status"], numbers["epochs"], numbers["warnings"]) == ("complete", 2, [])
    for key, column in (
        ("accepted", "collect_accepted"),
        ("rejected", "collect_rejected"),
        ("collection_updates", "collect_updates"),
        ("replay_iterations", "replay_iterations"),
    ):
        assert numbers[key] == sum(line[column] for line in lines)
    for key in ("pass_rate", "band_rate", "mean_energy_error", "max_energy_error", "mean_dt", "loss", "converged"):
        assert numbers[f"replay_{key}"] == lines[-1][f"replay_{key}"]
    assert numbers["seconds"] == pytest.approx(sum(line["seconds"] for line in lines), abs=1e-3)  # it is rounded to ms


def test_the_last_trajectory_is_kept_group_by_group(succeed, write, tmp_path):
    succeed("train", write(train={"systems": MIXED, "epochs": 1}), "--out", "a")
    with numpy.load(tmp_path / "a" / "training_trajectory.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {
            f"group{n}_{name}" for n in (0, 1) for name in ("mass", "position", "velocity", "time", "dt")
        }
        assert arrays["group0_position"].shape == (6, 2, 2)  # 2 systems and 3 steps, N = 2, D = 2
        assert arrays["group1_velocity"].shape == (3, 3, 2)
        assert (arrays["group0_dt"] > 0).all()


def test_the_checkpoint_says_what_it_was_trained_on(succeed, write, tmp_path):
    succeed("train", write(train={"systems": MIXED, "epochs": 1}, seed=5), "--out", "a")
    metadata = read_metadata(tmp_path / "a" / "checkpoint.safetensors")
    assert (metadata.seed, metadata.epoch, metadata.shapes) == (5, 1, ((2, 2), (3, 2)))
    assert metadata.config == read_toml(tmp_path / "a" / "config.toml")["train"]


def test_every_epoch_is_shown_in_one_line(succeed, write):
    lines = succeed("train", write(), "--out", "a").splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert "energy error" in lines[0]
    assert "mean dt" in lines[0]
    assert lines[2:] == ["trained policy: a/checkpoint.safetensors"]
    assert lines[1].endswith("  converged")


def test_a_policy_that_did_not_converge_is_not_shown_as_one_that_did(succeed, write, tmp_path):
    band = {"E_lower": 9.9e-5, "E_upper": 1e-4, "replay_steps": 1}  # so narrow that one iteration does not meet it
    lines = succeed("train", write(train=band), "--out", "a").splitlines()
    assert all(line.endswith("  not converged") for line in lines[:2])
    assert lines[2] == ("trained policy: a/checkpoint.safetensors (last epoch: not converged; 0 of 2 epochs converged)")
    assert [line["outcome"] for line in metrics(tmp_path / "a")] == ["not_converged"] * 2
    assert summary(tmp_path / "a")["outcomes"] == {"not_converged": 2}
    assert summary(tmp_path / "a")["outcome"] == "not_converged"


def test_without_out_the_run_is_named_after_its_file(succeed, write, tmp_path):
    succeed("train", write("mine.toml", {"epochs": 1}))
    assert {path.name for path in (tmp_path / "runs" / "mine").iterdir()} == FILES


def test_flags_alone_make_a_run(succeed, tmp_path):
    flags = ["--systems", "pythagorean", "--hidden", "3", "2", "--epochs", "1", "--steps-per-epoch", "2"]
    succeed("train", *flags, "--replay-steps", "1", "--learning-rate", "0.001", "--no-stop-at-period", "--out", "a")
    table = read_toml(tmp_path / "a" / "config.toml")["train"]
    assert (table["systems"], table["hidden"], table["learning_rate"]) == (["pythagorean"], [3, 2], 1e-3)


def test_an_empty_file_is_the_defaults(succeed, tmp_path):
    (tmp_path / "empty.toml").touch()
    tiny = ["--systems", "pythagorean", "--epochs", "1", "--steps-per-epoch", "2", "--replay-steps", "1"]
    succeed("train", "empty.toml", *tiny)
    assert (tmp_path / "runs" / "empty" / "config.toml").is_file()


def test_a_new_configuration_is_one_that_runs(succeed, tmp_path):
    assert "aits train my.toml" in succeed("train", "--new", "my.toml")
    tiny = ["--epochs", "1", "--steps-per-epoch", "2", "--replay-steps", "1", "--systems", "pythagorean"]
    succeed("train", "my.toml", *tiny, "--out", "a")
    assert summary(tmp_path / "a")["epochs"] == 1


# --- what a run depends on


def test_the_same_seed_gives_the_same_run_and_another_seed_another(succeed, write, tmp_path, trained):
    config = write()
    succeed("train", config, "--out", "a")
    assert_same_run(tmp_path / "a", trained)
    succeed("train", config, "--seed", "1", "--out", "b")
    assert metrics(tmp_path / "b") != metrics(trained)


RESUMED = {
    "plain": {},
    "two shapes": {"systems": MIXED},
    "history": {"features": "delta_mag", "history_len": 2, "systems": MIXED, "steps_per_epoch": 4},
    "restart": {"restart_each_epoch": True},
    "restart with history": {
        "features": "basic",
        "history_len": 2,
        "restart_each_epoch": True,
        "steps_per_epoch": 4,
        "systems": MIXED[1:],
    },
    "float32": {"dtype": "float32"},
    "kinetic": {"energy_scale": "kinetic", "systems": ["lagrange_triangle"], "n_steps": 2},
    "moving field": {"field": {"mass": 0.1, "position": [4.0, 0.0], "velocity": [0.0, 0.5]}},
    "stop at period": {
        "stop_at_period": True,
        "steps_per_epoch": 20,
        "policy": "criterion",
        "eta": 0.4,
        "energy_threshold": 100.0,
        "E_upper": 10.0,
    },
    "momentum": {
        "optimizer": "sgd",
        "momentum": 0.9,
        "clip_norm": 0.5,
        "loss_on": "failed",
        "convergence": "minibatch",
    },
    "decaying rate": {"decay_steps": 5},
    "scaled": {"features": "rich", "normalize_inputs": "auto", "fourier_features": 2, "convergence": "trajectory"},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(succeed, write, tmp_path, options):
    config = write(train=options)
    succeed("train", config, "--epochs", "4", "--out", "whole")
    succeed("train", config, "--epochs", "2", "--out", "broken")
    half = tensors(tmp_path / "broken")
    succeed("train", "--resume", "broken", "--epochs", "4")
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    assert int(half["epoch"]) == 2
    if options.get("stop_at_period"):  # all have retired before the end: nothing is left to learn from
        assert metrics(tmp_path / "whole")[-1]["collect_accepted"] == 0
    else:
        assert any(not torch.equal(leaf, half[name]) for name, leaf in tensors(tmp_path / "whole").items())


def test_a_resumed_run_leaves_the_files_of_an_unbroken_one(succeed, write, tmp_path):
    config = write()
    succeed("train", config, "--epochs", "3", "--out", "whole")
    succeed("train", config, "--epochs", "1", "--out", "broken")
    succeed("train", config, "--resume", "broken", "--epochs", "3")
    assert (tmp_path / "broken" / "config.toml").read_text() == (tmp_path / "whole" / "config.toml").read_text()
    whole, broken = summary(tmp_path / "whole"), summary(tmp_path / "broken")
    assert {k: v for k, v in whole.items() if k != "seconds"} == {k: v for k, v in broken.items() if k != "seconds"}
    with (
        numpy.load(tmp_path / "whole" / "training_trajectory.npz") as a,
        numpy.load(tmp_path / "broken" / "training_trajectory.npz") as b,
    ):
        assert set(a) == set(b)
        assert all((a[name] == b[name]).all() for name in a)


def test_a_run_that_died_between_metrics_and_checkpoint_resumes_without_a_double_line(succeed, write, tmp_path):
    config = write()
    succeed("train", config, "--epochs", "3", "--out", "whole")
    succeed("train", config, "--epochs", "2", "--out", "broken")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "replay_mean_dt": 1.0}\n{"epoch": 3, "repl')
    succeed("train", "--resume", "broken", "--epochs", "3")
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_a_run_that_died_before_its_first_checkpoint_resumes_from_its_beginning(succeed, write, tmp_path):
    succeed("train", write(), "--out", "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.toml").write_bytes((tmp_path / "whole" / "config.toml").read_bytes())
    succeed("train", "--resume", "broken")
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    assert {path.name for path in (tmp_path / "broken").iterdir()} == FILES


def test_a_run_that_lost_its_checkpoint_is_not_started_over(refuse, succeed, write, tmp_path):
    succeed("train", write(), "--out", "a")
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    (tmp_path / "a" / "checkpoint.safetensors").unlink()
    assert "holds no run to resume (checkpoint.safetensors is missing)" in refuse("train", "--resume", "a")
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


def test_the_checkpoint_that_says_that_all_is_done_is_written_after_the_results(aits, write, tmp_path, monkeypatch):
    def fail(*arguments):
        raise WriteError(tmp_path / "a" / "summary.json", OSError(28, "No space left on device"))

    monkeypatch.setattr("aits_func.edge.run_directory.write_summary", fail)
    assert aits("train", write(), "--out", "a").code == 1
    assert read_metadata(tmp_path / "a" / "checkpoint.safetensors").epoch == 1
    monkeypatch.undo()
    assert aits("train", "--resume", tmp_path / "a").code == 0
    assert summary(tmp_path / "a")["epochs"] == 2


def test_a_run_that_died_while_its_picture_was_drawn_has_it_drawn_when_it_is_resumed(refuse, succeed, write, tmp_path):
    succeed("train", write(), "--out", "a")
    (tmp_path / "a" / "training.png").unlink()
    assert "all 2 epochs are done" in refuse("train", "--resume", "a")
    assert (tmp_path / "a" / "training.png").exists()


def test_a_picture_of_fewer_epochs_does_not_stay(succeed, write, tmp_path, monkeypatch):
    succeed("train", write(), "--out", "a")
    shown = []
    monkeypatch.setattr("aits_func.edge.training_run.draw_training", lambda path, lines, config: shown.append(lines))
    succeed("train", "--resume", "a", "--epochs", "3")
    assert [len(lines) for lines in shown] == [3]
    assert not (tmp_path / "a" / "training.png").exists()


def test_metrics_are_on_disk_before_the_checkpoint_that_counts_on_them(succeed, write, monkeypatch):
    synced = []
    real = os.fsync

    def sync(handle):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).split(".")[:2])
        real(handle)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", sync)
    succeed("train", write(train={"epochs": 1}), "--out", "a")
    line = synced.index(["metrics", "jsonl"])
    assert ["", "checkpoint"] in synced[line + 1 :]
    assert synced[:line].count(["", "checkpoint"]) == 1  # the one of epoch 0


def test_a_resumed_run_may_change_where_and_how_fast_it_runs(succeed, write, tmp_path):
    succeed("train", write(train={"epochs": 1}), "--out", "a")
    before = torch.get_num_threads()
    try:
        succeed("train", "--resume", "a", "--epochs", "2", "--threads", "1", "--device", "cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    table = read_toml(tmp_path / "a" / "config.toml")["train"]
    assert (table["threads"], table["device"], table["epochs"]) == (1, "cpu", 2)


def test_a_resumed_run_keeps_the_other_section_of_its_configuration(succeed, write, tmp_path):
    config = write(train={"epochs": 1}, simulate={"t_end": 0.25})
    succeed("both", config, "--out", "a")
    before = read_toml(tmp_path / "a" / "config.toml")
    succeed("train", "--resume", "a", "--epochs", "2")
    after = read_toml(tmp_path / "a" / "config.toml")
    assert after["simulate"] == before["simulate"]
    assert after["train"] == before["train"] | {"epochs": 2}


# --- the physics of a run


def test_float32_stays_float32(succeed, write, tmp_path):
    succeed("train", write(train={"dtype": "float32", "epochs": 1}), "--out", "a")
    floats = [leaf.dtype for leaf in tensors(tmp_path / "a").values() if leaf.is_floating_point()]
    assert len(floats) > 10
    assert set(floats) == {torch.float32}


def test_systems_retire_at_their_period(succeed, write, tmp_path):
    options = RESUMED["stop at period"] | {"epochs": 3, "systems": [{"kind": "binaries", "count": 2}]}
    succeed("train", write(train=options), "--out", "a")
    state = tensors(tmp_path / "a")
    time_, stop = state["population.0.sample.system.time"], state["population.0.stop_time"]
    assert bool((time_ >= stop).all())
    assert bool((time_ - state["population.0.sample.window.dt"][:, -1] < stop).all())  # and with the first step beyond
    assert not state["population.0.sample.active"].any()


def test_a_moving_field_does_work_on_the_systems_and_the_energy_with_it_is_kept(succeed, write, tmp_path):
    field = {"mass": 50.0, "position": [4.0, 0.0], "velocity": [0.0, 5.0]}
    succeed("train", write(train={"field": field, "epochs": 1, "systems": ["pythagorean"]}), "--out", "a")
    assert bool((tensors(tmp_path / "a")["population.0.sample.system.work"] != 0).all())
    assert summary(tmp_path / "a")["accepted"] == 3


def test_a_run_without_a_field_does_no_work(trained):
    assert not tensors(trained)["population.0.sample.system.work"].any()


def test_a_system_without_energy_trains_on_the_kinetic_scale(succeed, write, tmp_path):
    rows = {"G": 1, "mass": [1, 1], "position": [[0, 0], [1, 0]], "velocity": [[0, 1], [0, -1]]}  # E = 1 − 1
    (tmp_path / "parabola.json").write_text(json.dumps(rows))
    config = write(train={"systems": ["parabola.json"], "energy_scale": "kinetic", "epochs": 1})
    succeed("train", config, "--out", "a")
    assert summary(tmp_path / "a")["accepted"] == 3


def test_a_file_trains_like_the_system_in_it(succeed, write, tmp_path):
    save_system(tmp_path / "one.txt", take(binaries(3, 1), 0), G=1.0)
    succeed("train", write(train={"systems": ["one.txt"], "epochs": 1}), "--out", "a")
    same = {"kind": "binaries", "count": 1, "seed": 3}
    succeed("train", write(train={"systems": [same], "epochs": 1}), "--out", "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


# --- warnings


def test_part_2_that_never_runs_is_warned_of(aits, tmp_path):
    # The source system as it was: one system, one step an epoch, two samples at least. At this threshold all pass.
    table = 'preset = "source"\nhidden = [4]\nepochs = 7\nE_upper = 1e6\nenergy_threshold = 1e7\n'
    (tmp_path / "source.toml").write_text(f"[train]\n{table}")
    outcome = aits("train", "source.toml", "--out", "a")
    assert outcome.code == 0
    assert outcome.err.startswith(
        "warning: Part 2 never ran: the last trajectory has 1 samples, and min_replay_size is 2"
    )
    assert summary(tmp_path / "a")["replay_skipped"] is True
    assert summary(tmp_path / "a")["replay_converged"] is False  # nothing was judged
    assert summary(tmp_path / "a")["outcome"] == "skipped"
    assert "not replayed: fewer samples than min_replay_size (1 samples)" in outcome.out


def test_a_policy_that_passes_by_tiny_steps_is_warned_of(aits, write, tmp_path):
    # A policy learns to stay far below a criterion that takes much too long steps; with "all" it would be led back.
    options = {"policy": "criterion", "eta": 5.0, "optimizer": "sgd", "learning_rate": 0.5, "epochs": 1}
    options |= {"loss_on": "failed", "convergence": "minibatch"}
    outcome = aits("train", write(train=options), "--out", "a")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: the mean step is ")
    assert 'use loss_on = "all" and convergence = "band"' in outcome.err
    assert summary(tmp_path / "a")["warnings"] == [outcome.err.removeprefix("warning: ").strip()]


# --- how it can end


STUCK = {
    "policy": "mlp",
    "features": "basic",
    "energy_threshold": 1e-9,
    "E_lower": 1e-12,
    "E_upper": 1e-10,
    "max_retrain_steps": 2,
    "learning_rate": 1e-6,
}


def test_a_stuck_collection_ends_with_code_1_one_line_and_everything_kept(aits, write, tmp_path):
    outcome = aits("train", write(train=STUCK | {"epochs": 3}), "--out", "a")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("aits: error: epoch 0: system ")
    for part in ("was rejected 2 times in a row", "energy error", "dt = ", "threshold 1e-09", "raise learning_rate"):
        assert part in outcome.err
    assert outcome.err.endswith("what was learned is in a\n")
    assert outcome.out.rstrip().endswith("stuck: a step cannot be learned (2 of its systems)")
    assert "retired" not in outcome.out
    assert [(line["outcome"], line["replay_converged"]) for line in metrics(tmp_path / "a")] == [
        ("retrain_limit", False)
    ]
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    assert (summary(tmp_path / "a")["status"], len(metrics(tmp_path / "a"))) == ("retrain_limit", 1)
    assert read_metadata(tmp_path / "a" / "checkpoint.safetensors").epoch == 1


def test_a_stuck_system_of_a_file_that_says_no_units_is_named_and_no_other(aits, write, tmp_path):
    pair = {"mass": [1.0, 1.0], "position": [[-0.5, 0.0], [0.5, 0.0]], "velocity": [[0.0, -0.7], [0.0, 0.7]]}
    (tmp_path / "silent.json").write_text(json.dumps(pair))
    (tmp_path / "says.json").write_text(json.dumps(pair | {"G": 1.0}))
    (tmp_path / "three.txt").write_text("1 0 0 0 0\n1e-3 1 0 0 1\n1e-3 0 2 -0.7 0\n")
    stuck = STUCK | {"features": "invariant", "epochs": 1, "max_retrain_steps": 1}
    outcome = aits("train", write(train=stuck | {"systems": ["says.json", "three.txt", "silent.json"]}), "--out", "a")
    assert outcome.code == 1
    error = outcome.err.splitlines()[-1]
    assert "was rejected 1 times in a row" in error
    # in the order of the groups: those of two bodies first, as the first entry is
    assert "; the file does not say G (silent.json, three.txt), and a wrong one does this as well: set G; what" in error
    outcome = aits("train", write(train=stuck | {"systems": ["says.json", "figure_eight"]}), "--out", "b")
    assert outcome.code == 1
    assert "does not say G" not in outcome.err


def test_a_remedy_names_no_key_that_the_optimizer_has_not(aits, write):
    options = {key: value for key, value in STUCK.items() if key != "learning_rate"} | {
        "optimizer": "levenberg_marquardt"
    }
    outcome = aits("train", write(train=options | {"max_retrain_steps": 1, "epochs": 1}), "--out", "a")
    assert outcome.code == 1
    assert "; raise max_retrain_steps or energy_threshold; what was learned" in outcome.err


def test_epochs_after_all_systems_have_retired_say_so(succeed, write, tmp_path):
    options = RESUMED["stop at period"] | {"epochs": 4}
    lines = succeed("train", write(train=options), "--out", "a").splitlines()
    assert lines[3].endswith("nothing tried: every system has retired")
    assert metrics(tmp_path / "a")[3]["outcome"] == "retired"
    assert lines[4].endswith("epochs converged)")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"energy_threshold": 1e-18, "E_upper": 1e-18, "E_lower": 1e-19}, "energy_threshold must be >= 2.2e-16"),
        (
            {"dtype": "float32", "energy_threshold": 1e-9, "E_upper": 5e-10, "E_lower": 1e-11},
            "energy_threshold = 1e-09 is below the rounding error of the energy of system ",
        ),
        (
            {"dtype": "float32", "loss_on": "all", "convergence": "band", "E_upper": 1e-9, "E_lower": 1e-11},
            "E_upper = 1e-09 is below the rounding error of the energy of system ",
        ),
    ],
)
def test_a_threshold_below_rounding_is_refused_before_anything_is_done(refuse, write, tmp_path, options, complaint):
    assert complaint in refuse("train", write(train=options), "--out", "a")
    assert not (tmp_path / "a").exists()


def test_an_upper_edge_that_nothing_asks_for_may_lie_below_rounding(succeed, write):
    seed_rules = {"loss_on": "failed", "convergence": "minibatch"}
    options = {"dtype": "float32", "E_upper": 1e-9, "E_lower": 1e-11, "epochs": 1}
    succeed("train", write(train=options | seed_rules), "--out", "a")


def test_a_system_that_comes_below_rounding_on_its_way_ends_the_run_and_is_named(aits, write, tmp_path, monkeypatch):
    # Let through at the start, as if it were only later that the state is so.
    monkeypatch.setattr("aits_func.edge.training_run.check_reach", lambda *args, **kwargs: None)
    options = {"dtype": "float32", "energy_threshold": 1e-12, "E_upper": 1e-13, "E_lower": 1e-14, "epochs": 2}
    outcome = aits("train", write(train=options), "--out", "a")
    assert outcome.code == 1
    error = outcome.err.splitlines()[-1]
    assert error.startswith("aits: error: epoch 0: energy_threshold = 1e-12 is below the rounding error of the energy")
    assert "only chance would meet it; ask for " in error
    assert summary(tmp_path / "a")["status"] == "below_rounding"


def test_a_stuck_run_can_be_resumed(aits, write, tmp_path):
    assert aits("train", write(train=STUCK | {"epochs": 3}), "--out", "a").code == 1
    assert aits("train", "--resume", "a").code == 1  # as stuck as before, in the next epoch
    assert [line["epoch"] for line in metrics(tmp_path / "a")] == [0, 1]


def test_numbers_that_json_has_not_are_null_in_metrics_and_summary(aits, write, tmp_path):
    aits("train", write(train=STUCK | {"max_retrain_steps": 1}), "--out", "a")
    for text in ((tmp_path / "a" / name).read_text() for name in ("metrics.jsonl", "summary.json")):
        assert "null" in text
        json.loads(text, parse_constant=pytest.fail)


def wait_for(condition, process, seconds=60):
    for _ in range(seconds * 50):
        if condition() or process.poll() is not None:
            break
        time.sleep(0.02)
    assert condition(), process.communicate()


# A shell starts background jobs with SIGINT ignored, and their children inherit that.
INTERRUPTIBLE = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('aits_func', run_name='__main__')"
)


def test_ctrl_c_ends_with_130_and_a_command_that_goes_on_from_there(succeed, write, tmp_path):
    config = write(train={"epochs": 2000})
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "train", str(config), "--out", "my run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: read_metrics(tmp_path / "my run" / "metrics.jsonl"), process)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    epoch = read_metadata(tmp_path / "my run" / "checkpoint.safetensors").epoch
    assert message == f"aits train: interrupted after epoch {epoch}; go on with: aits train --resume 'my run'\n"
    assert not [path for path in (tmp_path / "my run").iterdir() if path.name.startswith(".")]
    more = epoch + 2
    succeed("train", "--resume", "my run", "--epochs", more)
    succeed("train", config, "--epochs", more, "--out", "whole")
    assert_same_run(tmp_path / "my run", tmp_path / "whole")


def test_an_interrupt_before_anything_is_written_leaves_nothing(aits, write, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("aits_func.edge.training_run.load_systems", interrupt)
    outcome = aits("train", write(), "--out", "a")
    assert (outcome.code, outcome.err) == (130, "aits train: interrupted\n")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("interrupt", "code"), [(KeyboardInterrupt, 130), (signals.Terminated, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupt_says_how_to_go_on(aits, write, monkeypatch, interrupt, code):
    real = training_run.epoch_metrics

    def stop(info, seconds):
        if info.epoch == 1:
            raise interrupt
        return real(info, seconds)

    monkeypatch.setattr(training_run, "epoch_metrics", stop)
    outcome = aits("train", write(), "--out", "a b")
    assert outcome.code == code
    assert outcome.err == "aits train: interrupted after epoch 1; go on with: aits train --resume 'a b'\n"


def test_an_interrupt_before_the_first_checkpoint_says_how_to_go_on(aits, succeed, write, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "JsonlTracker", interrupt)
        outcome = aits("train", write(), "--out", "a")
    assert (outcome.code, outcome.err) == (130, "aits train: interrupted; go on with: aits train --resume a\n")
    succeed("train", "--resume", "a")


def test_an_interrupt_does_not_send_to_the_run_of_somebody_else(aits, succeed, write, monkeypatch):
    succeed("train", write(), "--out", "a")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "load_systems", interrupt)
    outcome = aits("train", write(), "--out", "a")  # which would have been refused
    assert (outcome.code, outcome.err) == (130, "aits train: interrupted\n")


def full_disk(*arguments):
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_with_1_and_the_command_that_goes_on(aits, succeed, write, tmp_path, monkeypatch):
    real = training_run.JsonlTracker.log

    def log(self, metrics):
        if metrics["epoch"] == 1:
            monkeypatch.setattr(os, "fsync", full_disk)
        real(self, metrics)

    monkeypatch.setattr(training_run.JsonlTracker, "log", log)
    outcome = aits("train", write(), "--out", "a")
    assert outcome.code == 1
    assert outcome.err == (
        "aits train: error: a/metrics.jsonl: cannot write this file: No space left on device; stopped after epoch 1; "
        "go on with: aits train --resume a\n"
    )
    monkeypatch.undo()
    assert aits("train", "--resume", tmp_path / "a").code == 0
    assert [line["epoch"] for line in metrics(tmp_path / "a")] == [0, 1]


def test_a_disk_that_is_full_from_the_start_sends_to_another_place(aits, write, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    outcome = aits("train", write(), "--out", "a")
    assert outcome.code == 1
    assert outcome.err == (
        "aits train: error: a/config.toml: cannot write this file: No space left on device; choose another --out\n"
    )


def test_output_that_goes_nowhere_ends_with_1_and_the_command_that_goes_on(aits, write, monkeypatch):
    monkeypatch.setattr("aits_func.edge.terminal.describe", full_disk)
    outcome = aits("train", write(), "--out", "a")
    assert outcome.code == 1
    assert outcome.err == (
        "aits train: error: [Errno 28] No space left on device; stopped after epoch 1; "
        "go on with: aits train --resume a\n"
    )


def test_a_run_that_is_at_work_is_not_resumed_nor_started_again(aits, refuse, succeed, write, monkeypatch):
    succeed("train", write(), "--out", "a")
    refused = []

    def meanwhile(*arguments):
        refused.append(refuse("train", "--resume", "a", "--epochs", "4"))
        refused.append(refuse("train", write(), "--out", "a"))

    monkeypatch.setattr(training_run, "draw_training", meanwhile)
    assert aits("train", "--resume", "a", "--epochs", "3").code == 0
    assert "a: another process is at work in this run directory; wait for its end" in refused[0]
    assert "a: already holds another run (config.toml)" in refused[1]


def test_debug_shows_the_traceback(aits, write):
    with pytest.raises(ValueError, match="epochs must be >= 1"):
        aits("train", write(), "--epochs", "0", "--debug")


def test_mean_dt_of_a_run_is_finite(trained):
    assert math.isfinite(summary(trained)["replay_mean_dt"])


# --- schemes

SCHEMES = {
    "hairer_soderlind": {"scheme": "hairer_soderlind"},
    "hairer_soderlind 4": {"scheme": "hairer_soderlind", "order": 4},
    "time_transformed": {"scheme": "time_transformed", "policy": "transformation"},
    "at rest": {"scheme": "time_transformed", "policy": "residual"},
    "implicit_symmetric": {"scheme": "implicit_symmetric"},
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, marks=pytest.mark.slow if "order" in o else (), id=name) for name, o in SCHEMES.items()],
)
def test_a_policy_is_trained_in_every_scheme_and_simulated_in_the_same(succeed, write, tmp_path, options):
    config = write(train=options | {"epochs": 1})
    succeed("train", config, "--out", "a")
    table = read_toml(tmp_path / "a" / "config.toml")["train"]
    assert {key: table[key] for key in options} == options
    (line,) = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert line["collect_accepted"] == 6
    assert line["replay_mean_dt"] > 0
    succeed("simulate", config, "--checkpoint", "a", "--out", "b")
    simulated = read_toml(tmp_path / "b" / "config.toml")["simulate"]
    assert (simulated["scheme"], simulated["order"]) == (options["scheme"], options.get("order", 2))
    (row,) = json.loads((tmp_path / "b" / "summary.json").read_text())["simulate"]["results"]
    assert row["status"]["finished"] == row["count"] == 2
    # what a step and a start cost says which scheme it was
    per_step, at_start = {
        "hairer_soderlind": (5 if "order" in options else 1, 1),  # on kick–drift–kick, as it sees velocities
        "time_transformed": (1, 0),
        "implicit_symmetric": (3, 1),
    }[options["scheme"]]
    assert row["force_evaluations"] == per_step * row["steps"] + at_start * row["count"]


def test_the_scheme_decides_on_what_is_learned(succeed, write, tmp_path):
    for scheme in ("direct", "hairer_soderlind"):
        succeed("train", write(train={"epochs": 1, "scheme": scheme}), "--out", scheme)
    left, right = tensors(tmp_path / "direct"), tensors(tmp_path / "hairer_soderlind")
    assert left.keys() == right.keys()
    assert any(not torch.equal(left[name], right[name]) for name in left)


def test_a_simulation_may_ask_for_another_scheme_than_the_training(succeed, write, tmp_path):
    config = write(train={"epochs": 1, "scheme": "hairer_soderlind"})
    succeed("train", config, "--out", "a")
    succeed("simulate", config, "--checkpoint", "a", "--out", "b", "--scheme", "direct")
    (row,) = json.loads((tmp_path / "b" / "summary.json").read_text())["simulate"]["results"]
    assert read_toml(tmp_path / "b" / "config.toml")["simulate"]["scheme"] == "direct"
    assert row["force_evaluations"] == row["steps"] + row["count"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"scheme": "hairer_soderlind", "criterion": "hut_makino"}, "this step function is not smooth"),
        ({"scheme": "hairer_soderlind", "activation": "relu"}, "this step function is not smooth"),
        ({"scheme": "time_transformed", "features": "basic"}, "this step function"),
        ({"order": 4}, "order"),
    ],
)
def test_a_policy_that_its_scheme_does_not_take_is_refused(refuse, write, tmp_path, options, complaint):
    assert complaint in refuse("train", write(train=options), "--out", "a")
    assert not (tmp_path / "a").exists()


def test_an_interrupt_of_a_run_that_cannot_be_resumed_says_no_more(aits, succeed, write, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    succeed("train", write(), "--out", "a")
    (tmp_path / "a" / "checkpoint.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr("aits_func.edge.training_run.stored_config", interrupt)
    outcome = aits("train", "--resume", "a", "--epochs", "3")
    assert (outcome.code, outcome.err) == (130, "aits train: interrupted\n")
