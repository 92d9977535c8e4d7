"""``aits inspect``: what a checkpoint is, in words."""

import json
import struct

import torch

from aits_func.edge.checkpoint import read_metadata, save_checkpoint, with_digest
from aits_func.timestep.invariant import INVARIANT_NAMES


def table(text):
    """The cells of the printed tables, a wrapped cell joined to what it continues."""
    rows = {}
    for line in text.splitlines():
        if line.count("│") == 3:
            _, key, value, _ = (cell.strip() for cell in line.split("│"))
            last = key or last  # noqa: F821, a first line always has a key
            rows[last] = f"{rows.get(last, '')} {value}".strip()
    return rows


def test_it_says_what_the_policy_is_and_sees_and_was_trained_on(succeed, trained):
    rows = table(succeed("inspect", trained))
    assert rows["finished epochs"] == "2 of 2"
    assert rows["seed"] == "0"
    assert rows["written with"] == f"torch {torch.__version__}"
    assert rows["trained on"] == "N = 2, D = 2"
    # 20 features to 4 neurons to 1 output, with biases, and η: (20 + 1) 4 + (4 + 1) 1 + 1.
    assert rows["policy"] == "residual on p_norm, 90 parameters"
    assert rows["features"] == f"invariant (20): {', '.join(INVARIANT_NAMES)}"


def test_it_says_how_the_configuration_differs_from_the_defaults_and_only_that(succeed, trained):
    rows = table(succeed("inspect", trained).split("configuration, where it differs from the defaults")[1])
    assert set(rows) == {"systems", "hidden", "epochs", "steps_per_epoch", "replay_steps"}
    assert (rows["hidden"], rows["epochs"]) == ("[4]", "2")


def test_a_run_and_its_file_are_one(succeed, trained):
    assert succeed("inspect", trained) == succeed("inspect", trained / "checkpoint.safetensors")


def test_a_policy_with_a_memory_of_two_shapes_is_described(succeed, write):
    systems = [{"kind": "binaries", "count": 1}, {"kind": "free_fall_triple", "count": 1, "dimensions": 3}]
    options = {"systems": systems, "features": "delta_mag", "history_len": 2, "epochs": 1, "steps_per_epoch": 4}
    succeed("train", write(train=options), "--out", "a")
    rows = table(succeed("inspect", "a"))
    assert rows["trained on"] == "N = 2, D = 2, N = 3, D = 3"
    assert rows["features"].startswith("delta_mag (20): Δx mean[-2], ")


def test_it_changes_nothing(succeed, trained):
    before = {path: path.read_bytes() for path in trained.iterdir()}
    succeed("inspect", trained)
    assert {path: path.read_bytes() for path in trained.iterdir()} == before


def test_a_policy_that_was_trained_on_another_device_is_described_here(succeed, trained, tmp_path):
    path = tmp_path / "elsewhere"
    data = (trained / "checkpoint.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"]) | {"device": "cuda:99"}
    header["__metadata__"]["config"] = json.dumps(config)
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(with_digest(struct.pack("<Q", len(text)) + text + data[8 + length :]))
    assert read_metadata(path).config["device"] == "cuda:99"
    assert table(succeed("inspect", path))["device"] == "cuda:99"


def test_a_checkpoint_of_another_configuration_is_refused_by_the_leaf_that_does_not_fit(refuse, trained, tmp_path):
    config = read_metadata(trained / "checkpoint.safetensors").config
    save_checkpoint(tmp_path / "a", {"params": {"network": torch.zeros(2)}}, config=config, seed=0, epoch=1)
    assert "lacks params.criterion.log_eta" in refuse("inspect", tmp_path / "a")


def test_a_folder_without_a_checkpoint_is_refused(refuse, tmp_path):
    message = refuse("inspect", tmp_path)
    assert f"{tmp_path}/checkpoint.safetensors: cannot read this checkpoint: No such file" in message


def test_no_control_character_of_a_checkpoint_reaches_the_terminal(succeed, trained, tmp_path):
    data = (trained / "checkpoint.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["torch"] = "\x1b[2J9.9"
    header["__metadata__"]["config"] = json.dumps(json.loads(header["__metadata__"]["config"]) | {"device": "\x1b[31m"})
    text = json.dumps(header, separators=(",", ":")).encode()
    (tmp_path / "a").write_bytes(with_digest(struct.pack("<Q", len(text)) + text + data[8 + length :]))
    rows = table(out := succeed("inspect", tmp_path / "a"))
    assert (rows["written with"], rows["device"]) == (r"torch \x1b[2J9.9", r"\x1b[31m")
    assert all(line.isprintable() for line in out.split("\n"))
