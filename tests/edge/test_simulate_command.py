"""``aits simulate``: what it writes, that the numbers are the library's own, and what it refuses to begin."""

import errno
import io
import json
import math
import os
import re
import sys

import pytest
import torch

from aits_func.base.tree import take
from aits_func.edge.assemble import build_config_scheme, build_physics, build_policy, init_params
from aits_func.edge.checkpoint import load_checkpoint, read_metadata
from aits_func.edge.config import SimulateConfig, TrainConfig, build_config, config_from_dict, read_toml
from aits_func.edge.initial_condition_files import load_system, save_system
from aits_func.edge.simulation_run import LEARNED, load_sets
from aits_func.loops.simulate import simulate
from aits_func.physics.known_orbits import known_orbit
from aits_func.timestep.run import STATUS_NAMES

numpy = pytest.importorskip("numpy")
tomli_w = pytest.importorskip("tomli_w")

PNG = b"\x89PNG\r\n\x1a\n"
FILES = {"config.toml", "summary.json", "trajectory.npz", "end", "orbits.png", "energy_error.png", "steps.png"}
ROUND = {"kind": "binaries", "seed": 7, "eccentricity": [0.0, 0.2]}
TWO_SETS = [ROUND | {"count": 2}, {"name": "figure_eight", "t_end": 0.2}]
FIELDS = {
    "rule",
    "constant",
    "systems",
    "count",
    "status",
    "steps",
    "force_evaluations",
    "accepted",
    "rejected",
    "final_energy_error",
    "mean_energy_error",
    "max_energy_error",
    "momentum_residual_max",
    "angular_momentum_residual_max",
    "mean_dt",
    "seconds",
}


def results(run):
    return json.loads((run / "summary.json").read_text())["simulate"]["results"]


def arrays(run):
    with numpy.load(run / "trajectory.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def without_clock(run):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in results(run)]


def by_the_library(run, trained):
    """What `simulate` of the library says about the first set of a run."""
    config = build_config(SimulateConfig, read_toml(run / "config.toml"), {}, where="a")
    policy_config = config_from_dict(TrainConfig, read_metadata(trained / "checkpoint.safetensors").config, where="b")
    physics = build_physics(config, "a")
    _, policy = build_policy(policy_config, physics.gravity)
    params = load_checkpoint(trained / "checkpoint.safetensors", init_params(policy, 0, physics), prefix="params.")
    item = load_sets(config, physics, "a")[0]
    return simulate(
        params,
        item.systems,
        policy=policy,
        gravity=physics.gravity,
        scheme=build_config_scheme(config, physics.gravity, policy),
        t_end=item.t_end,
        max_steps=config.max_steps,
        record_every=config.record_every,
    )


def test_a_simulation_leaves_its_files_and_no_others(real_pictures, succeed, write, tmp_path, trained):
    out = succeed("simulate", write(simulate={"systems": TWO_SETS}), "--checkpoint", trained, "--out", "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    for name in FILES:
        if name.endswith(".png"):
            assert (tmp_path / "a" / name).read_bytes().startswith(PNG)
            assert (tmp_path / "a" / name).stat().st_size > 5000  # two pairs of axes; an empty picture has 2 kB
    assert "binaries (2)" in out
    assert "figure_eight (1)" in out
    assert out.endswith("written to a\n")


def test_the_summary_has_every_number_of_every_set(succeed, write, tmp_path, trained):
    succeed("simulate", write(simulate={"systems": TWO_SETS}), "--checkpoint", trained, "--out", "a")
    rows = results(tmp_path / "a")
    assert [(row["rule"], row["systems"], row["count"]) for row in rows] == [
        (LEARNED, "binaries", 2),
        (LEARNED, "figure_eight", 1),
    ]
    for row in rows:
        assert set(row) == FIELDS
        assert row["status"] == dict.fromkeys(STATUS_NAMES, 0) | {"finished": row["count"]}
        assert row["accepted"] + row["rejected"] == row["steps"]
        assert row["force_evaluations"] == row["steps"] + row["count"]  # leapfrog: one a step, one at the start
        assert row["constant"] is None


def test_the_numbers_are_those_of_the_library(succeed, write, tmp_path, trained):
    succeed("simulate", write(simulate={"record_every": 2}), "--checkpoint", trained, "--out", "a")
    _, info = by_the_library(tmp_path / "a", trained)
    (row,) = results(tmp_path / "a")
    assert row["steps"] == int(info.steps.sum())
    assert row["force_evaluations"] == int(info.force_evaluations.sum())
    assert row["rejected"] == int(info.over_threshold.sum())
    assert row["momentum_residual_max"] == float(info.momentum_residual.max())
    assert row["angular_momentum_residual_max"] == float(info.angular_momentum_residual.max())
    assert row["mean_dt"] == float(info.mean_dt.mean())
    for key in ("final", "mean", "max"):
        # Of two systems the median and the 90 % quantile are the larger: no interpolation.
        largest = float(getattr(info, f"{key}_energy_error").max())
        assert row[f"{key}_energy_error"] == {"median": largest, "90 %": largest}
    for name, value in info.recording._asdict().items():
        assert torch.equal(arrays(tmp_path / "a")[f"binaries_{name}"], value), name


def test_momentum_and_angular_momentum_are_kept_to_rounding(succeed, write, tmp_path, trained):
    succeed("simulate", write(simulate={"systems": TWO_SETS}), "--checkpoint", trained, "--out", "a")
    for row in results(tmp_path / "a"):
        # The leapfrog keeps both exactly; some twenty steps of numbers of order 1 lose a few 1e-16 each.
        assert 0 <= row["momentum_residual_max"] < 1e-13
        assert 0 <= row["angular_momentum_residual_max"] < 1e-13


def test_the_trajectory_starts_at_the_systems_and_ends_at_their_ends(succeed, write, tmp_path, trained):
    succeed("simulate", write(simulate={"systems": TWO_SETS}), "--checkpoint", trained, "--out", "a")
    paths = arrays(tmp_path / "a")
    assert set(paths) == {
        f"{label}_{name}"
        for label in ("binaries", "figure_eight")
        for name in ("time", "mass", "position", "velocity", "dt", "energy_error")
    }
    assert torch.equal(paths["figure_eight_mass"][0], known_orbit("figure_eight").mass)
    assert torch.equal(paths["figure_eight_velocity"][0, 0], known_orbit("figure_eight").velocity)
    assert torch.equal(paths["figure_eight_position"][0, 0], known_orbit("figure_eight").position)
    assert paths["figure_eight_time"][0].item() == 0
    assert paths["figure_eight_time"][-1].item() == 0.2
    assert paths["binaries_time"][-1].tolist() == [0.1, 0.1]
    assert paths["binaries_position"].shape[1:] == (2, 2, 2)


def test_the_configuration_it_leaves_makes_the_same_simulation_again(succeed, write, tmp_path, trained):
    config = write(simulate={"systems": TWO_SETS}, G=1.0)
    succeed("simulate", config, "--checkpoint", trained, "--max-steps", "150", "--out", "a")
    table = read_toml(tmp_path / "a" / "config.toml")["simulate"]
    assert set(table) == set(SimulateConfig.__dataclass_fields__)
    assert (table["checkpoint"], table["max_steps"]) == (str(trained), 150)
    succeed("simulate", "a/config.toml", "--out", "b")
    assert without_clock(tmp_path / "a") == without_clock(tmp_path / "b")
    assert (tmp_path / "a" / "config.toml").read_text() == (tmp_path / "b" / "config.toml").read_text()


@pytest.mark.parametrize("name", ["", "checkpoint.safetensors"])
def test_the_policy_may_be_named_by_its_run_or_its_file(succeed, write, trained, name):
    succeed("simulate", write(), "--checkpoint", trained / name, "--out", "a")


def test_physics_that_nobody_names_is_that_of_the_training(succeed, write, tmp_path):
    physics = {"G": 4.0, "softening": 0.05, "integrator": "leapfrog_dkd", "energy_scale": "kinetic", "n_steps": 2}
    succeed("train", write(train=physics | {"epochs": 1}), "--out", "t")
    succeed("simulate", write(simulate={"softening": 0.0}), "--checkpoint", "t", "--out", "a")
    table = read_toml(tmp_path / "a" / "config.toml")["simulate"]
    assert {key: table[key] for key in physics} == physics | {"softening": 0.0}


def test_flags_alone_make_a_simulation(succeed, tmp_path, trained):
    flags = ["--systems", "figure_eight", "pythagorean", "--t-end", "0.1", "--record-every", "0"]
    succeed("simulate", "--checkpoint", trained, *flags, "--out", "a")
    assert [row["systems"] for row in results(tmp_path / "a")] == ["figure_eight", "pythagorean"]
    assert arrays(tmp_path / "a")["pythagorean_time"].shape == (2, 1)  # the first state and the last


def test_a_file_simulates_like_the_orbit_in_it(succeed, write, tmp_path, trained):
    save_system(tmp_path / "eight.json", known_orbit("figure_eight"), G=1.0)
    config = write(simulate={"systems": ["eight.json", "figure_eight"]})
    succeed("simulate", config, "--checkpoint", trained, "--out", "a")
    first, second = without_clock(tmp_path / "a")
    assert first | {"systems": ""} == second | {"systems": ""}


def test_two_sets_of_one_kind_are_kept_apart(succeed, write, tmp_path, trained):
    sets = [ROUND | {"count": 1}, ROUND | {"count": 3, "seed": 2, "t_end": 0.05}]
    succeed("simulate", write(simulate={"systems": sets}), "--checkpoint", trained, "--out", "a")
    assert [(row["systems"], row["count"]) for row in results(tmp_path / "a")] == [("binaries", 1), ("binaries 2", 3)]
    assert arrays(tmp_path / "a")["binaries_2_time"][-1].tolist() == [0.05] * 3
    succeed("simulate", write(simulate={"systems": sets[:1]}), "--checkpoint", trained, "--out", "b")
    # Batches of four and of one may sum in another order; a dozen steps pass on rounding errors of 1e-16.
    torch.testing.assert_close(
        arrays(tmp_path / "a")["binaries_position"][-1],
        arrays(tmp_path / "b")["binaries_position"][-1],
        rtol=0,
        atol=1e-13,
    )


def test_a_label_is_text_and_nothing_else(real_pictures, succeed, write, tmp_path, trained):
    label = "a[/b] $x_$ 50 % [red] / \\q$"
    config = write(simulate={"systems": [{"name": "figure_eight", "label": label, "t_end": 0.05}]})
    assert label in succeed("simulate", config, "--checkpoint", trained, "--out", "a")
    assert results(tmp_path / "a")[0]["systems"] == label


# --- what the next run starts from


def end(run, name):
    return json.loads((run / "end" / f"{name}.json").read_text())


def test_every_system_leaves_a_file_of_its_end_with_its_time_and_its_constants(succeed, write, tmp_path, trained):
    out = succeed("simulate", write(simulate={"systems": TWO_SETS}), "--checkpoint", trained, "--out", "a")
    assert {path.name for path in (tmp_path / "a" / "end").iterdir()} == {
        "binaries_0.json",
        "binaries_1.json",
        "figure_eight.json",
    }
    assert "to go on from where these end: --systems a/end/*.json\n" in out
    paths = arrays(tmp_path / "a")
    for label, row, name in (("binaries", 0, "binaries_0"), ("binaries", 1, "binaries_1"), ("figure_eight", 0, "")):
        content = end(tmp_path / "a", name or label)
        assert (content.pop("G"), content.pop("softening")) == (1.0, 0.0)
        assert content.pop("time") == paths[f"{label}_time"][-1, row].item() == {"binaries": 0.1}.get(label, 0.2)
        assert content.pop("mass") == paths[f"{label}_mass"][row].tolist()
        for key in ("position", "velocity"):
            assert content.pop(key) == paths[f"{label}_{key}"][-1, row].tolist()  # to the bit
        assert content == {}


def test_constants_that_the_end_belongs_to_stand_with_it(succeed, write, tmp_path, trained):
    sets = [ROUND | {"count": 1}]
    config = write(simulate={"systems": sets, "softening": 0.01}, G=2.0)
    succeed("simulate", config, "--checkpoint", trained, "--out", "a")
    assert (end(tmp_path / "a", "binaries")["G"], end(tmp_path / "a", "binaries")["softening"]) == (2.0, 0.01)


# The constant step 1/64, trained so little that it is that still.
CONSTANT = {
    **{"systems": ["figure_eight"], "policy": "criterion", "criterion": "constant", "dt": 1 / 64},
    **{"learning_rate": 1e-300, "epochs": 1},
}


def test_a_run_in_one_piece_is_two_runs_of_which_the_second_starts_at_the_end_of_the_first(succeed, write, tmp_path):
    succeed("train", write(train=CONSTANT), "--out", "t")
    sets = ("--checkpoint", "t", "--systems")
    succeed("simulate", *sets, "figure_eight", "pythagorean", "--t-end", "1", "--out", "half")
    files = [tmp_path / "half" / "end" / f"{name}.json" for name in ("figure_eight", "pythagorean")]
    first = [load_system(path).system for path in files]
    assert [end(tmp_path / "half", path.stem)["time"] for path in files] == [1.0, 1.0]
    start = float(first[0].time)
    assert start == 1.0  # else the second run would be the first one again
    succeed("simulate", *sets, *files, "--t-end", start + 1, "--out", "rest")
    succeed("simulate", *sets, "figure_eight", "pythagorean", "--t-end", "2", "--out", "whole")
    for name, system in zip(("figure_eight", "pythagorean"), first, strict=True):
        assert torch.equal(arrays(tmp_path / "half")[f"{name}_position"][-1, 0], system.position)
        whole, rest = (end(tmp_path / run, name) for run in ("whole", "rest"))
        assert rest["time"] == start + 1
        assert whole["mass"] == rest["mass"]
        for key in ("position", "velocity"):
            # The same 128 steps; that at the end of the first run is a rounding of the time longer or shorter, and at
            # speeds below 10, without an encounter, that is all: some 1e-15, magnified a hundredfold by t = 2.
            assert numpy.allclose(whole[key], rest[key], rtol=0, atol=1e-12), (name, key)


def test_a_system_that_did_not_finish_can_be_gone_on_with(aits, succeed, write, tmp_path):
    succeed("train", write(train=CONSTANT), "--out", "t")
    sets = ("--checkpoint", "t", "--systems")
    cut = aits("simulate", *sets, "figure_eight", "--t-end", "1", "--max-steps", "32", "--out", "half")
    assert cut.code == 1
    assert end(tmp_path / "half", "figure_eight")["time"] == pytest.approx(0.5, rel=1e-13)  # 32 steps of 1/64
    start = float(load_system(tmp_path / "half" / "end" / "figure_eight.json").system.time)
    succeed("simulate", *sets, "half/end/figure_eight.json", "--t-end", start + 0.5, "--out", "rest")
    succeed("simulate", *sets, "figure_eight", "--t-end", "1", "--out", "whole")
    ends = [end(tmp_path / run, "figure_eight")["position"] for run in ("rest", "whole")]
    assert numpy.allclose(*ends, rtol=0, atol=1e-13)  # 64 steps, as above


def test_no_two_ends_share_a_name_and_no_label_leads_out_of_the_directory(succeed, write, tmp_path, trained):
    one = ROUND | {"count": 1}
    labels = ["pair_2", "pair", "pair_b", "a/b", "..", "-x", "é", "x" * 150, "COM1 ", "set_4"]
    sets = [ROUND | {"count": 3, "label": "pair"}, *(one | {"label": label} for label in labels)]
    succeed("simulate", write(simulate={"systems": sets}), "--checkpoint", trained, "--out", "a")
    names = sorted(path.name for path in (tmp_path / "a" / "end").iterdir())
    assert len(names) == 3 + len(labels)
    assert all(re.fullmatch(r"[\w.-]+\.json", name, re.ASCII) and len(name) < 120 for name in names)
    for name in names:
        load_system(tmp_path / "a" / "end" / name)


def test_of_more_bodies_than_a_file_holds_the_end_is_in_the_trajectory_and_it_says_so(
    succeed, write, tmp_path, trained, monkeypatch
):
    monkeypatch.setattr("aits_func.edge.simulation_run.MAX_BODIES", 2)
    out = succeed("simulate", write(simulate={"systems": TWO_SETS}), "--checkpoint", trained, "--out", "a")
    assert "figure_eight: more bodies than a file of initial conditions holds; its end is in trajectory.npz" in out
    assert len(list((tmp_path / "a" / "end").iterdir())) == 2


# --- beside classical rules


def test_classical_rules_are_run_at_equal_cost_on_the_same_systems(succeed, write, tmp_path, trained):
    sets = [ROUND | {"count": 2}, "figure_eight"]
    config = write(simulate={"systems": sets, "t_end": 0.4, "compare": True, "compare_tolerance": 0.03})
    out = succeed("simulate", config, "--checkpoint", trained, "--out", "a")
    rows = results(tmp_path / "a")
    rules = ("learned policy", "free-fall criterion", "constant step")
    assert [(row["rule"], row["systems"]) for row in rows] == [
        (rule, name) for rule in rules for name in ("binaries", "figure_eight")
    ]
    cost = {row["rule"]: row["force_evaluations"] for row in rows if row["systems"] == "binaries"}
    for rule in rules[1:]:
        assert cost[rule] == pytest.approx(cost[LEARNED], rel=0.03)  # compare_tolerance
    assert all(row["constant"] > 0 for row in rows[2:])
    verdict = json.loads((tmp_path / "a" / "summary.json").read_text())["simulate"]["verdict"]
    assert len(verdict) == 4
    for line in verdict:
        assert line in out
        assert "the learned policy neither wins nor loses: " in line  # of two systems, or of one
        assert "fewer than 5 systems decide nothing" in line


def test_the_verdict_names_the_errors_of_the_table(succeed, write, tmp_path, trained):
    config = write(simulate={"compare": True})
    succeed("simulate", config, "--checkpoint", trained, "--out", "a")
    mine, *others = results(tmp_path / "a")
    verdict = json.loads((tmp_path / "a" / "summary.json").read_text())["simulate"]["verdict"]
    for other, line in zip(others, verdict[:2], strict=True):
        assert f"against the {other['rule']}" in line
        for key, name in (("final", "final"), ("mean", "time-averaged")):
            for quantile in ("median", "90 %"):
                ours, theirs = (row[f"{key}_energy_error"][quantile] for row in (mine, other))
                assert f"{name} error, {quantile} ({ours:.3g} against {theirs:.3g}, ratio " in line


# --- how it can end


def test_systems_that_do_not_finish_are_counted_and_count_as_infinite(aits, write, tmp_path, trained):
    sets = [
        {"kind": "binaries", "count": 2, "t_end": 1e-4, "seed": 1},
        {"kind": "free_fall_triple", "count": 1, "t_end": 50.0},
    ]
    outcome = aits(
        "simulate", write(simulate={"systems": sets, "max_steps": 20}), "--checkpoint", trained, "--out", "a"
    )
    assert outcome.code == 1
    assert outcome.err == (
        "aits: error: systems did not finish (free_fall_triple: 1 step limit); step limit: raise max_steps, shorten "
        "t_end, or go on from the last states; see a/summary.json\n"
    )
    finished, cut = results(tmp_path / "a")
    assert finished["status"]["finished"] == 2
    assert cut["status"]["step limit"] == 1
    assert cut["steps"] == 20
    assert cut["final_energy_error"] == {"median": None, "90 %": None}  # infinity, for which JSON has no number


SUN_AND_EARTH = "1.989e30 0 0 0 0\n5.972e24 1.496e11 0 0 29780\n"  # SI


def test_a_file_without_g_that_stalls_is_told_of_g_and_not_to_take_more_steps(aits, tmp_path, trained):
    # With G = 1 the Earth falls straight into the Sun in seconds, and no step is short enough.
    (tmp_path / "si.txt").write_text(SUN_AND_EARTH)
    flags = ["simulate", "--checkpoint", trained, "--systems", "si.txt", "--t-end", "1e4", "--record-every", "0"]
    outcome = aits(*flags, "--out", "a")
    assumed, failed = outcome.err.splitlines()
    assert outcome.code == 1
    assert assumed == (
        "note: si.txt: says no G; G = 1 is assumed: set G if it has another in its units, or write G into the file"
    )
    assert failed == (
        "aits: error: systems did not finish (si.txt: 1 stalled); stalled: the step fell below the rounding of the "
        "time, so more steps would not help: set softening > 0 if bodies meet, check that G is that of the units, or "
        "use float64 if it is float32; the file does not say G (si.txt), and a wrong one does this as well: set G; see "
        "a/summary.json"
    )
    right = aits(*flags, "--G", "6.674e-11", "--out", "b")
    assert (right.code, right.err.count("\n")) == (0, 1)
    assert "G = 6.674e-11 is assumed" in right.err
    (tmp_path / "si.txt").write_text("# G = 6.674e-11\n" + SUN_AND_EARTH)
    assert aits(*flags, "--G", "6.674e-11", "--out", "c")[::2] == (0, "")


def test_every_status_among_those_that_did_not_finish_has_its_remedy(aits, write, tmp_path, trained):
    (tmp_path / "si.txt").write_text("# G = 1\n" + SUN_AND_EARTH)
    sets = [{"kind": "free_fall_triple", "count": 1, "t_end": 50.0}, {"name": "si.txt", "t_end": 1e4}]
    config = write(simulate={"systems": sets, "max_steps": 2000, "record_every": 0})
    (line,) = aits("simulate", config, "--checkpoint", trained, "--out", "a").err.splitlines()
    assert "; step limit: raise max_steps, shorten t_end, or go on from the last states; stalled: the step" in line
    assert "set G" not in line  # the file says it


def test_what_is_not_read_of_a_file_is_told_by_every_command_and_once(aits, write, tmp_path, trained):
    (tmp_path / "a.txt").write_text("# G = 1\n# id m x y vx vy\n1 1 0 0 0 -0.5\n2 1 1 0 0 0.5\n")
    note = "note: a.txt: not read: 'id'\n"
    config = write(train={"systems": ["a.txt", "a.txt"]}, simulate={"systems": ["a.txt"]})
    for command in (["train"], ["simulate", "--checkpoint", trained]):
        outcome = aits(command[0], config, *command[1:], "--out", command[0])
        assert (outcome.code, outcome.err) == (0, note)
    rules = [
        {"criterion": "free_fall", "tolerances": [1.0]},
        {"criterion": "constant", "dt": 0.01, "tolerances": [1.0]},
    ]
    compare = {"systems": ["a.txt"], "t_end": 0.1, "rules": rules, "resamples": 10, "compile": "off"}
    (tmp_path / "c.toml").write_text(tomli_w.dumps({"compare": compare}))
    outcome = aits("compare", "c.toml", "--out", "c")
    assert (outcome.code, outcome.err) == (0, note)


def test_a_run_goes_from_the_time_of_the_file_to_t_end(refuse, succeed, tmp_path, trained):
    (tmp_path / "a.txt").write_text("# G = 1, time = 10\n1 0 0 0 -0.5\n1 1 0 0 0.5\n")
    flags = ["simulate", "--checkpoint", trained, "--systems", "a.txt", "--out", "a"]
    assert refuse(*flags, "--t-end", "10").endswith(
        "t_end = 10 is not later than the start of a.txt at 10; it is the time at which a run ends, not how long it "
        "lasts: set a later one"
    )
    succeed(*flags, "--t-end", "10.5")
    times = arrays(tmp_path / "a")["a.txt_time"]
    assert (float(times[0]), float(times[-1])) == (10.0, 10.5)


def test_if_no_system_finishes_the_exit_code_is_1_with_one_line(aits, write, tmp_path, trained):
    outcome = aits("simulate", write(), "--max-steps", "2", "--checkpoint", trained, "--out", "a")
    assert outcome.code == 1
    assert outcome.err.startswith("aits: error: systems did not finish (")
    assert outcome.err.count("\n") == 1
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES


def test_an_interrupt_says_no_more_than_that(aits, write, trained, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("aits_func.edge.commands.load_policy", interrupt)
    outcome = aits("simulate", write(), "--checkpoint", trained, "--out", trained)  # where a training could go on
    assert (outcome.code, outcome.err) == (130, "aits simulate: interrupted\n")


@pytest.mark.parametrize(
    ("simulate", "flags"),
    [
        ({"systems": ["nothing_like_it"]}, []),
        ({"systems": [{"kind": "binaries", "t_end": -1.0}]}, []),
        ({"field": {"mass": 1.0, "position": [9.0, 0.0, 0.0]}}, []),
    ],
)
def test_what_is_refused_leaves_no_directory_behind(refuse, write, tmp_path, trained, simulate, flags):
    refuse("simulate", write(simulate=simulate), "--checkpoint", trained, *flags, "--out", "a")
    assert not (tmp_path / "a").exists()


def test_a_policy_on_rich_features_refuses_another_number_of_bodies(refuse, succeed, write, tmp_path, trained_on_rich):
    config = write(simulate={"systems": ["figure_eight"]})
    message = refuse("simulate", config, "--checkpoint", trained_on_rich, "--out", "a")
    assert "figure_eight has N = 3, D = 2" in message
    assert "'rich' features and was trained on N = 2, D = 2 alone" in message
    assert not (tmp_path / "a").exists()
    cube = [{"kind": "binaries", "count": 1, "dimensions": 3}]
    assert "N = 2, D = 3" in refuse(
        "simulate", write(simulate={"systems": cube}), "--checkpoint", trained_on_rich, "--out", "a"
    )
    succeed("simulate", write(), "--checkpoint", trained_on_rich, "--out", "a")


def test_a_policy_on_invariant_features_takes_any_number_of_bodies(succeed, write, tmp_path, trained):
    sets = [
        {"kind": "gaussian_cluster", "count": 1, "bodies": n, "dimensions": 3, "position_scale": 1.0} for n in (3, 5)
    ]
    succeed("simulate", write(simulate={"systems": sets, "t_end": 0.1}), "--checkpoint", trained, "--out", "a")
    assert all(math.isfinite(row["final_energy_error"]["median"]) for row in results(tmp_path / "a"))


def test_a_policy_with_a_memory_simulates(succeed, write, tmp_path):
    options = {"features": "delta_mag", "history_len": 2, "steps_per_epoch": 4, "epochs": 1}
    succeed("train", write(train=options), "--out", "t")
    succeed("simulate", write(), "--checkpoint", "t", "--out", "a")
    assert results(tmp_path / "a")[0]["status"]["finished"] == 2


def test_a_simulation_in_float32_is_one(succeed, write, tmp_path):
    succeed("train", write(train={"dtype": "float32", "epochs": 1}), "--out", "t")
    succeed("simulate", write(), "--checkpoint", "t", "--out", "a")
    assert {value.dtype for value in arrays(tmp_path / "a").values()} == {torch.float32}


@pytest.mark.parametrize(("there", "here"), [("float64", "float32"), ("float32", "float64")])
def test_a_policy_of_another_precision_is_cast_and_a_line_says_so(aits, succeed, write, tmp_path, there, here):
    succeed("train", write(train={"dtype": there, "epochs": 1}), "--out", "t")
    outcome = aits("simulate", write(), "--checkpoint", "t", "--dtype", here, "--out", "a")
    told = f"note: t/checkpoint.safetensors: the policy was trained in {there}, cast to {here}\n"
    assert (outcome.code, outcome.err) == (0, told)
    assert {value.dtype for value in arrays(tmp_path / "a").values()} == {getattr(torch, here)}
    # the same policy: its steps and those in its own precision differ by its roundings, some 1e-7 of them
    succeed("simulate", write(), "--checkpoint", "t", "--out", "b")
    ours, theirs = (results(tmp_path / run)[0]["mean_dt"] for run in ("a", "b"))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_simulation_in_a_moving_field_keeps_the_energy_that_counts_its_work(succeed, write, tmp_path, trained):
    field = {"mass": 0.5, "position": [4.0, 0.0], "velocity": [0.0, 0.5]}
    config = write(simulate={"field": field, "systems": [ROUND | {"count": 1}]})
    succeed("simulate", config, "--checkpoint", trained, "--out", "a")
    (row,) = results(tmp_path / "a")
    # The policy's steps lose less than 1e-4 each without a field; uncounted work would be of order 1e-2.
    assert row["final_energy_error"]["median"] < 1e-3
    assert take(arrays(tmp_path / "a")["binaries_time"], -1).item() == 0.1


def test_in_a_comparison_a_system_that_does_not_finish_is_a_result_and_no_failure(aits, write, tmp_path, trained):
    sets = [
        {"kind": "binaries", "count": 2, "t_end": 1e-3, "seed": 1},
        {"kind": "free_fall_triple", "count": 1, "t_end": 50.0},
    ]
    config = write(simulate={"systems": sets, "max_steps": 20, "compare": True})
    outcome = aits("simulate", config, "--checkpoint", trained, "--out", "a")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: systems did not finish (free_fall_triple: 1 step limit)")
    assert "inf" in outcome.out


def test_a_label_that_climbs_stays_inside_the_run(succeed, write, tmp_path, trained):
    (tmp_path / "deep").mkdir()
    config = write(simulate={"systems": [ROUND | {"label": "../../escaped"}, ROUND | {"label": "/tmp/../escaped"}]})
    before = set(tmp_path.rglob("*"))
    succeed("simulate", config, "--checkpoint", trained, "--out", "deep/a")
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "deep" / "a") for path in new)
    assert not [path for path in new if "escaped" in path.name]
    names = numpy.load(tmp_path / "deep" / "a" / "trajectory.npz").files
    assert {name.split("escaped")[0] for name in names} == {".._.._", "_tmp_.._"}


class _NobodyReads(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_results_that_nobody_reads_are_on_disk_and_it_says_that_they_were_not_shown(
    aits, write, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "stdout", _NobodyReads())
    outcome = aits("simulate", write(), "--checkpoint", trained, "--no-compare", "--out", "a")
    assert (outcome.code, outcome.err) == (1, "aits simulate: error: [Errno 32] Broken pipe\n")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
