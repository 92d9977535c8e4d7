"""``aits both``: training and simulation in one directory, and nothing trained for what cannot be simulated."""

import json

import pytest

from aits_func.edge.config import read_toml

ALL = {
    "config.toml",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "training_trajectory.npz",
    "trajectory.npz",
    "end",
    "summary.json",
    "training.png",
    "orbits.png",
    "energy_error.png",
    "steps.png",
}


def summary(run):
    return json.loads((run / "summary.json").read_text())


def results(run):
    rows = summary(run)["simulate"]["results"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_it_leaves_the_files_of_both_in_one_directory(real_pictures, succeed, write, tmp_path):
    out = succeed("both", write("mine.toml"))
    run = tmp_path / "runs" / "mine"
    assert {path.name for path in run.iterdir()} == ALL
    assert all((run / name).stat().st_size > 5000 for name in ALL if name.endswith(".png"))  # an empty one has 2 kB
    assert set(summary(run)) == {"train", "simulate"}
    assert "trained policy: runs/mine/checkpoint.safetensors" in out
    assert out.endswith("written to runs/mine\n")


def test_it_does_what_the_two_commands_do_one_after_the_other(succeed, write, tmp_path):
    config = write(train={"G": 2.0}, simulate={"compare": True})
    succeed("both", config, "--out", "both")
    succeed("train", config, "--out", "train")
    succeed("simulate", config, "--checkpoint", "train", "--out", "simulate")
    assert results(tmp_path / "both") == results(tmp_path / "simulate")
    for key, value in summary(tmp_path / "train")["train"].items():
        assert key == "seconds" or summary(tmp_path / "both")["train"][key] == value
    tables = read_toml(tmp_path / "both" / "config.toml")
    assert tables["train"] == read_toml(tmp_path / "train" / "config.toml")["train"]
    simulated = read_toml(tmp_path / "simulate" / "config.toml")["simulate"]
    assert tables["simulate"] == simulated | {"checkpoint": ""}


def test_the_configuration_it_leaves_does_both_again(succeed, write, tmp_path):
    succeed("both", write(), "--out", "a")
    succeed("both", "a/config.toml", "--out", "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_flags_reach_the_section_that_knows_them_and_shared_ones_both(succeed, write, tmp_path):
    flags = ["--epochs", "1", "--t-end", "0.2", "--softening", "0.01", "--compare"]
    succeed("both", write(), *flags, "--out", "a")
    tables = read_toml(tmp_path / "a" / "config.toml")
    assert (tables["train"]["epochs"], tables["simulate"]["t_end"], tables["simulate"]["compare"]) == (1, 0.2, True)
    assert tables["train"]["softening"] == tables["simulate"]["softening"] == 0.01


@pytest.mark.parametrize(
    ("train", "simulate", "complaint"),
    [
        ({"features": "rich"}, {"systems": ["figure_eight"]}, "figure_eight has N = 3, D = 2"),
        ({}, {"systems": ["figure_seven"]}, "did you mean 'figure_eight'?"),
        ({}, {"t_end": -1.0}, "t_end must be > 0"),
        ({}, {"max_step": 3}, "did you mean 'max_steps'?"),
        ({}, {"device": "cuda:99"}, "device 'cuda:99' is not there"),
    ],
)
def test_a_simulation_that_cannot_be_done_is_refused_before_the_training(
    refuse, write, tmp_path, train, simulate, complaint
):
    assert complaint in refuse("both", write(train=train, simulate=simulate), "--out", "a")
    assert not (tmp_path / "a").exists()


def test_after_a_training_that_was_stuck_nothing_is_simulated(aits, write, tmp_path):
    stuck = {"energy_threshold": 1e-12, "E_lower": 1e-14, "E_upper": 1e-13, "max_retrain_steps": 1}
    outcome = aits("both", write(train=stuck), "--out", "a")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert set(summary(tmp_path / "a")) == {"train"}


def test_an_interrupt_after_the_training_says_how_to_simulate(aits, succeed, write, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("aits_func.edge.commands._simulate", interrupt)
        outcome = aits("both", write(), "--out", "a")
    assert outcome.code == 130
    assert outcome.err == "aits both: interrupted after training; go on with: aits simulate --checkpoint a --out DIR\n"
    succeed("simulate", "--checkpoint", "a", "--t-end", "0.1", "--out", "b")
