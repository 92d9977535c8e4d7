"""``compile`` at the command line: what is told while one waits, what is written, and a machine without a compiler."""

import json
import time

import pytest
import torch

from aits_func.base import engine
from aits_func.base.engine import Compilation
from aits_func.edge.checkpoint import read_metadata, save_checkpoint
from aits_func.edge.config import TrainConfig, config_from_dict, read_toml
from aits_func.edge.terminal import compilation_report, training_progress
from aits_func.edge.tracking import read_metrics

safetensors = pytest.importorskip("safetensors.torch")
tomli_w = pytest.importorskip("tomli_w")

CPU = torch.device("cpu")
MISSING = "no C++ compiler was found"
RULES = [{"name": "free fall", "criterion": "free_fall", "eta": 1.0, "tolerances": [0.1, 0.03]}]


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(engine, "missing_compiler", lambda device: MISSING)


@pytest.fixture
def quick_compiler(monkeypatch):
    """Every compilation takes five hundredths of a second, and gives the function itself."""

    def compile_(self, trees, leaves, structure):
        time.sleep(0.05)
        return engine._Code(lambda given: self._eager(given, structure), "native", "")

    monkeypatch.setattr(engine, "missing_compiler", lambda device: "")
    monkeypatch.setattr(engine.Engine, "_compile", compile_)


def summary(run):
    return json.loads((run / "summary.json").read_text())["train"]


def tensors(run):
    return safetensors.load_file(run / "checkpoint.safetensors")


def assert_same_numbers(run, other):
    """Equal within rounding: batches are filled up where they may be compiled for."""
    left, right = tensors(run), tensors(other)
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        torch.testing.assert_close(leaf, right[name], rtol=1e-7, atol=1e-10, equal_nan=True, msg=name)
    for key in ("accepted", "rejected", "collection_updates", "replay_iterations"):
        assert summary(run)[key] == summary(other)[key], key


# --- what is told


def test_a_line_when_it_begins_and_one_when_it_ends(capsys, quick_compiler):
    tell = compilation_report(CPU)
    for event in (Compilation("a step", None, ""), Compilation("a step", 12.34, "", "native")) * 2:
        tell(event)
    assert capsys.readouterr() == ("", "compiling a step ...\ncompiled a step in 12.3 s (native code)\n" * 2)


def test_what_did_not_become_native_code_is_told_with_the_reason(capsys, quick_compiler):
    compilation_report(CPU)(Compilation("a step", 12.34, "", "inductor", "there is an argument of torch.int32"))
    line = "compiled a step in 12.3 s (TorchInductor's, not native: there is an argument of torch.int32)\n"
    assert capsys.readouterr().err == line


def test_a_reason_is_told_once_and_another_again(capsys, quick_compiler):
    tell = compilation_report(CPU)
    for label, reason in (("a step", "of A"), ("a step", "of A"), ("a step", "of B"), ("an update", "of A")):
        tell(Compilation(label, 0.1, reason))
    lines = ["a step runs eagerly: of A", "a step runs eagerly: of B", "an update runs eagerly: of A"]
    assert capsys.readouterr().err.splitlines() == lines


def test_without_a_compiler_nothing_is_announced(capsys, no_compiler):
    tell = compilation_report(CPU)
    tell(Compilation("a step", None, ""))
    assert capsys.readouterr().err == ""
    tell(Compilation("a step", 0.0, MISSING))
    assert capsys.readouterr().err == f"a step runs eagerly: {MISSING}\n"


def test_beside_a_progress_bar_the_line_stands_on_its_own(capsys, monkeypatch, quick_compiler):
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich that is a terminal
    monkeypatch.setenv("TERM", "xterm")
    with training_progress(2, 0):
        compilation_report(CPU)(Compilation("a step [of it]", None, ""))
    shown = capsys.readouterr()
    assert "0/2" in shown.out
    assert any(line.endswith("compiling a step [of it] ...") for line in (shown.out + shown.err).splitlines())


# --- training


def test_training_without_a_compiler_says_so_once_and_learns_the_same(aits, succeed, write, tmp_path, no_compiler):
    config = write()
    succeed("train", config, "--out", "off")
    code, out, err = aits("train", config, "--compile", "auto", "--out", "auto")
    assert code == 0
    assert out.count("epoch ") == 2  # what stdout is read for is as before
    lines = err.splitlines()
    assert lines
    assert len(set(lines)) == len(lines)
    assert all(line.endswith(f" runs eagerly: {MISSING}") for line in lines)
    assert any(line.startswith("a step of the collection ") for line in lines)
    assert_same_numbers(tmp_path / "auto", tmp_path / "off")


def test_the_seconds_of_the_compiler_are_told_and_written(aits, write, tmp_path, quick_compiler):
    code, _, err = aits("train", write(), "--compile", "auto", "--out", "a")
    begun = [line for line in err.splitlines() if line.startswith("compiling ")]
    ended = [line for line in err.splitlines() if line.startswith("compiled ")]
    assert code == 0
    assert begun
    assert len(begun) == len(ended)
    assert err.splitlines()[0] == "compiling a step of the collection ..."
    lines, numbers = read_metrics(tmp_path / "a" / "metrics.jsonl"), summary(tmp_path / "a")
    assert numbers["compile_seconds"] == pytest.approx(sum(line["compile_seconds"] for line in lines), abs=1e-3)
    assert 0.05 * len(begun) <= numbers["compile_seconds"] + 1e-3
    assert numbers["compile_seconds"] <= numbers["seconds"]


def test_a_resumed_run_adds_to_the_seconds_of_the_compiler(aits, write, tmp_path, quick_compiler):
    aits("train", write(), "--compile", "auto", "--epochs", "1", "--out", "a")
    before = summary(tmp_path / "a")["compile_seconds"]
    assert aits("train", "--resume", "a", "--epochs", "2").code == 0
    lines = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert lines[0]["compile_seconds"] == before > 0
    assert summary(tmp_path / "a")["compile_seconds"] == pytest.approx(before + lines[1]["compile_seconds"], abs=1e-3)


def test_without_compile_nothing_is_told_and_no_second_is_counted(succeed, write, tmp_path):
    succeed("train", write(), "--out", "a")  # in silence on stderr
    assert summary(tmp_path / "a")["compile_seconds"] == 0
    assert all("compile_seconds" not in line for line in read_metrics(tmp_path / "a" / "metrics.jsonl"))


def test_a_run_is_not_resumed_in_another_way(succeed, refuse, write):
    succeed("train", write(), "--epochs", "1", "--out", "a")
    message = refuse("train", "--resume", "a", "--epochs", "2", "--compile", "auto")
    assert "its run has compile = 'off', this configuration 'auto'" in message


def test_a_checkpoint_from_before_there_was_the_key_is_not_compiled(succeed, trained, tmp_path):
    path = trained / "checkpoint.safetensors"
    old = {key: value for key, value in read_metadata(path).config.items() if key != "compile"}
    assert config_from_dict(TrainConfig, old, where="old").compile == "off"
    (tmp_path / "old").mkdir()
    stored = tomli_w.dumps({"train": old})
    (tmp_path / "old" / "config.toml").write_text(stored)
    save_tensors(path, tmp_path / "old" / "checkpoint.safetensors", old)
    metrics = [line for line in (trained / "metrics.jsonl").read_text().splitlines() if line]
    (tmp_path / "old" / "metrics.jsonl").write_text("\n".join(metrics) + "\n")
    assert "trained on" in succeed("inspect", "old")
    succeed("train", "--resume", "old", "--epochs", "3")
    assert read_toml(tmp_path / "old" / "config.toml")["train"]["compile"] == "off"


def save_tensors(source, target, config):
    """A checkpoint again, with another configuration."""
    metadata, leaves = read_metadata(source), safetensors.load_file(source)
    save_checkpoint(target, leaves, config=config, seed=metadata.seed, epoch=metadata.epoch)


# --- every command


def test_compile_on_without_a_compiler_is_refused_before_anything_is_written(
    refuse, write, tmp_path, trained, no_compiler
):
    config = write()
    (tmp_path / "compare.toml").write_text(
        tomli_w.dumps({"compare": {"systems": ["figure_eight"], "t_end": 0.1, "rules": RULES}})
    )
    for command in (
        ("train", config),
        ("both", config),
        ("simulate", config, "--checkpoint", trained),
        ("compare", "compare.toml"),
    ):
        message = refuse(*command, "--compile", "on", "--out", "a")
        assert message.endswith(f'compile = "on", but {MISSING}; install one, or set compile = "auto" or "off"')
        assert not (tmp_path / "a").exists()


def test_what_was_trained_compiled_is_inspected_where_there_is_no_compiler(
    aits, succeed, write, quick_compiler, monkeypatch
):
    assert aits("train", write(), "--epochs", "1", "--compile", "on", "--out", "a").code == 0
    monkeypatch.setattr(engine, "missing_compiler", lambda device: MISSING)
    assert "compile" in succeed("inspect", "a")


def test_both_takes_one_flag_for_training_and_simulation(aits, write, tmp_path, no_compiler):
    code, _, err = aits("both", write(), "--compile", "auto", "--out", "a")
    assert code == 0
    tables = read_toml(tmp_path / "a" / "config.toml")
    assert (tables["train"]["compile"], tables["simulate"]["compile"]) == ("auto", "auto")
    assert f"a step of the collection runs eagerly: {MISSING}" in err.splitlines()
    assert f"a step of the simulation runs eagerly: {MISSING}" in err.splitlines()


def test_a_simulation_and_a_comparison_tell_of_it_too(aits, tmp_path, trained, no_compiler):
    flags = ["--t-end", "0.02", "--compile", "auto"]
    systems = ["--systems", "figure_eight"]
    code, _, err = aits("simulate", "--checkpoint", trained, *systems, *flags, "--out", "a")
    assert (code, err) == (0, f"a step of the simulation runs eagerly: {MISSING}\n")
    (tmp_path / "b.toml").write_text(tomli_w.dumps({"compare": {"rules": RULES, "resamples": 0}}))
    code, _, err = aits("compare", "b.toml", *systems, *flags, "--out", "b")
    assert code == 0
    assert err.count(MISSING) == 1
