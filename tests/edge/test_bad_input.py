"""Every bad input: exit code 2 and one line on stderr that says what, where and what to do, without a traceback."""

import io
import json
import os
import struct
import subprocess
import sys

import pytest

from aits_func.edge.checkpoint import with_digest
from aits_func.edge.cli import main

np = pytest.importorskip("numpy")

GOOD = {"mass": [1, 2], "position": [[0, 0], [1, 0]], "velocity": [[0, 1], [0, -1]]}
ROWS = [[1.0, 0.0, 0.0, 0.0, 1.0], [2.0, 1.0, 0.0, 0.0, -1.0]]


def json_bytes(**changes):
    return json.dumps(GOOD | changes).encode()


def array_bytes(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def changed(row, column, value):
    rows = [list(each) for each in ROWS]
    rows[row][column] = value
    return rows


def text(rows):
    return "\n".join(" ".join(map(str, row)) for row in rows).encode()


BAD_FILES = {
    "NaN position": ("a.npy", array_bytes(np.array(changed(1, 1, np.nan))), "position of body 1 is NaN or infinite"),
    "infinite velocity": ("a.txt", text(changed(0, 4, "inf")), "velocity of body 0 is NaN or infinite"),
    "NaN mass": ("a.json", json_bytes(mass=[1, float("nan")]), "mass of body 1 is NaN or infinite"),
    "infinite mass": ("a.npy", array_bytes(np.array(changed(0, 0, np.inf))), "mass of body 0 is NaN or infinite"),
    "coincident bodies": (
        "a.txt",
        text(changed(1, 1, 0.0)),
        "bodies 0 and 1 are at the same place; move one, or set softening",
    ),
    "negative mass": ("a.json", json_bytes(mass=[1, -2]), "mass must be >= 0"),
    "no mass at all": ("a.txt", text([[0, *row[1:]] for row in ROWS]), "at least one body must have mass"),
    "wrong shape": ("a.npy", array_bytes(np.array(ROWS)[:, :4]), "must have shape (N, 5) or (N, 7), got (2, 4)"),
    "one body": ("a.npy", array_bytes(np.array(ROWS)[:1]), "2 to 4096 bodies are needed, got N = 1"),
    "one dimension": ("a.json", json_bytes(position=[[0], [1]], velocity=[[0], [1]]), "one row of 2 or 3 numbers"),
    "four dimensions": ("a.npy", array_bytes(np.ones((2, 9))), "must have shape (N, 5) or (N, 7), got (2, 9)"),
    "object array": ("a.npy", array_bytes(np.array([[{}] * 5] * 2), allow_pickle=True), "holds objects"),
    "text in a row": ("a.txt", text(changed(0, 0, "one")), "line 1 has what is no number"),
    "no JSON": ("a.json", b"{", "is not valid JSON"),
    "an empty file": ("a.txt", b"", "is empty"),
}


@pytest.mark.parametrize(("name", "content", "complaint"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_of_initial_conditions(refuse, write, tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    message = refuse("train", write(train={"systems": [name]}), "--out", "a")
    assert name in message
    assert complaint in message
    assert not (tmp_path / "a").exists()


def test_a_bad_file_is_refused_by_simulate_too(refuse, write, tmp_path, trained):
    (tmp_path / "a.json").write_bytes(json_bytes(mass=[1, -2]))
    message = refuse("simulate", write(simulate={"systems": ["a.json"]}), "--checkpoint", trained, "--out", "a")
    assert "mass must be >= 0" in message


def test_a_file_that_is_not_there(refuse, write):
    message = refuse("train", write(train={"systems": ["gone.npy"]}))
    assert "'gone.npy': no such file; check the path" in message


RANGES = {
    "E_lower at E_upper": ({"E_lower": 1e-4}, "E_lower must be < E_upper = 0.0001, got 0.0001"),
    "E_lower above E_upper": ({"E_lower": 1e-3}, "E_lower must be < E_upper"),
    "threshold at E_lower": ({"energy_threshold": 1e-6}, "energy_threshold must be > E_lower = 1e-06"),
    "threshold below E_lower": ({"energy_threshold": 1e-9}, "energy_threshold must be > E_lower = 1e-06"),
    "no epochs": ({"epochs": 0}, "epochs must be >= 1, got 0"),
    "no steps": ({"n_steps": 0}, "n_steps must be >= 1, got 0"),
    "no batch": ({"replay_batch_size": 0}, "replay_batch_size must be >= 1, got 0"),
    "no learning rate": ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
    "NaN": ({"eta": float("nan")}, "eta must be finite, got nan"),
    "one body": ({"systems": [{"kind": "gaussian_cluster", "bodies": 1}]}, "bodies must be a whole number >= 2, got 1"),
    "one dimension": ({"systems": [{"kind": "gaussian_cluster", "dimensions": 1}]}, "dimensions must be 2 or 3, got 1"),
    "unbound": ({"systems": [{"kind": "binaries", "eccentricity": [0.5, 1.0]}]}, "numbers in [0, 1) with low <= high"),
    "no systems": ({"systems": []}, "systems must name at least one source"),
    "unknown key": ({"epoch": 3}, "[train]: unknown key 'epoch'; did you mean 'epochs'?"),
    "another type": ({"epochs": "three"}, "[train]: epochs must be a whole number, got 'three'"),
    "another word": (
        {"optimizer": "adamm"},
        "optimizer must be one of sgd, adam, adamw, levenberg_marquardt, got 'adamm'; did you mean",
    ),
    "a rate for a method that has none": (
        {"optimizer": "levenberg_marquardt", "learning_rate": 1e-2},
        'optimizer = "levenberg_marquardt" has no learning_rate, got 0.01; leave it out (or at 0.003)',
    ),
    "decay for a method that has none": (
        {"optimizer": "levenberg_marquardt", "clip_norm": 1.0},
        'optimizer = "levenberg_marquardt" has no clip_norm, got 1.0; leave it out (or at 0.0)',
    ),
    "another way to compile": ({"compile": "yes"}, "compile must be one of auto, on, off, got 'yes'"),
    "momentum": ({"optimizer": "sgd", "momentum": 1.0}, "momentum must be in [0, 1)"),
    "no period": ({"stop_at_period": True, "systems": ["pythagorean"]}, "none is known for pythagorean"),
    "auto scales at rest": (
        {"systems": ["pythagorean"], "normalize_inputs": "auto", "features": "basic"},
        "give the scales L0 and V0 by hand",
    ),
    "no such device": ({"device": "cuda:99"}, "device 'cuda:99' is not there; choose from auto, cpu"),
    "no device at all": ({"device": "meta"}, "device 'meta' is not there; choose from auto, cpu"),
    "a number as field": ({"field": 3}, "field must be a table"),
    "a field without mass": ({"field": {"position": [5.0, 0.0]}}, "field needs mass and position"),
    "a field misspelt": ({"field": {"mas": 1.0}}, "not 'mas'; did you mean 'mass'?"),
    "a field of another kind": ({"field": {"kind": "bar"}}, "field kind must be 'tidal', got 'bar'"),
    "a field of words": (
        {"field": {"mass": "a", "position": [5.0, 0.0]}},
        "field mass must be a finite number, got 'a'",
    ),
    "a field nowhere": ({"field": {"mass": 1.0, "position": [0.0, 0.0]}}, "not the origin"),
    "a negative field": ({"field": {"mass": -1.0, "position": [5.0, 0.0]}}, "mass must be > 0, got -1.0"),
    "a field in space": ({"field": {"mass": 1.0, "position": [5.0, 0.0, 0.0]}}, "field position has 3 numbers"),
    "a field of NaN": (
        {"field": {"mass": 1.0, "position": [5.0, 0.0], "velocity": [float("nan"), 0.0]}},
        "field velocity must be a list of 2 or 3 finite numbers",
    ),
    "a field askew": (
        {"field": {"mass": 1.0, "position": [5.0, 0.0], "velocity": [0.0, 0.0, 1.0]}},
        "must have the same length, got 2 and 3",
    ),
}


@pytest.mark.parametrize(("options", "complaint"), RANGES.values(), ids=RANGES)
def test_a_bad_value_in_the_configuration(refuse, write, tmp_path, options, complaint):
    assert complaint in refuse("train", write(train=options), "--out", "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"t_end": 0.0}, "t_end must be > 0, got 0.0"),
        ({"t_end": -2.0}, "t_end must be > 0, got -2.0"),
        ({"systems": [{"kind": "binaries", "t_end": 0}]}, "t_end of an entry of systems must be a number > 0"),
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"t_ned": 1.0}, "[simulate]: unknown key 't_ned'; did you mean 't_end'?"),
        ({"systems": []}, "systems must name at least one source"),
    ],
)
def test_a_bad_value_for_a_simulation(refuse, write, tmp_path, trained, options, complaint):
    assert complaint in refuse("simulate", write(simulate=options), "--checkpoint", trained, "--out", "a")
    assert not (tmp_path / "a").exists()


def test_a_system_without_energy_on_the_total_scale(refuse, write, tmp_path):
    rows = {"mass": [1, 1], "position": [[0, 0], [1, 0]], "velocity": [[0, 1], [0, -1]]}  # E = 1 − 1
    (tmp_path / "zero.json").write_text(json.dumps(rows))
    message = refuse("train", write(train={"systems": ["pythagorean", "zero.json"]}), "--out", "a")
    assert (
        "zero.json: system 0 has total energy 0, so a relative energy error has no meaning; "
        'set energy_scale = "kinetic"' in message
    )


# --- configuration files and flags


def test_an_unknown_section(refuse, tmp_path):
    (tmp_path / "a.toml").write_text("[trian]\nepochs = 1\n")
    assert refuse("train", "a.toml").endswith("a.toml: unknown section [trian]; did you mean 'train'?")


@pytest.mark.parametrize(
    "content",
    [
        '["\\u001b[2J"]\n',
        '"\\u001b]0;x\\u0007" = 1\n',
        '[train]\ndevice = "\\u001b[31m"\n',
        '[train]\nsystems = ["\\u009b2J.txt"]\n',
        '[train]\nsystems = [{kind = "binaries", label = "a\\nb\\u001b[2J"}]\n',
    ],
)
def test_no_control_character_of_a_file_reaches_the_terminal(refuse, tmp_path, content):
    (tmp_path / "a.toml").write_text(content)
    assert refuse("train", "a.toml", "--out", "a").isprintable()


def test_a_message_stays_short_whatever_it_quotes(refuse, tmp_path):
    (tmp_path / "a.toml").write_text(f'[train]\noptimizer = "{200_000 * "x"}"\n')
    message = refuse("train", "a.toml")
    assert len(message) < 1600
    assert message.startswith("aits train: error: a.toml: optimizer must be one of ")


def test_what_is_not_toml(refuse, tmp_path):
    (tmp_path / "a.toml").write_text("epochs: 3\n")
    assert "a.toml: not valid TOML: " in refuse("train", "a.toml")


def test_a_configuration_that_is_not_there(refuse):
    for command in (["train"], ["both"], ["simulate"]):
        assert "gone.toml: cannot read this configuration: No such file" in refuse(*command, "gone.toml")


def test_no_configuration_at_all(refuse):
    assert "write one to start from with: aits train --new my.toml" in refuse("train")
    assert "simulate needs a policy; set checkpoint (or --checkpoint)" in refuse("simulate")
    assert "arguments are required: config; see aits both --help" in refuse("both")
    assert "arguments are required: path; see aits inspect --help" in refuse("inspect")


@pytest.mark.parametrize("command", ["train", "simulate", "both"])
@pytest.mark.parametrize("flag", ["--seeed", "--seeed=3"])
def test_a_misspelt_flag(refuse, write, command, flag):
    message = refuse(command, write(), flag)
    assert message == f"aits {command}: error: unrecognized arguments: {flag}; did you mean '--seed'?"


@pytest.mark.parametrize(
    ("command", "flag", "home"),
    [
        ("simulate", "--learning-rate=2", "[train]"),
        ("train", "--t-end", "[simulate] or [compare]"),
        ("both", "--systems", "[train] or [simulate] or [compare]"),
        ("compare", "--rules", "[compare]"),
    ],
)
def test_a_flag_of_another_command_or_a_key_that_is_no_flag(refuse, write, command, flag, home):
    assert refuse(command, write(), flag).endswith(f"unrecognized arguments: {flag}; it belongs to {home}")


def test_an_abbreviated_flag_is_a_misspelt_one(refuse, write):
    assert "did you mean '--epochs'?" in refuse("train", write(), "--epoch", "3")


def test_a_flag_that_is_like_no_other(refuse, write):
    assert refuse("train", write(), "--qqqq").endswith("unrecognized arguments: --qqqq; see aits train --help")


def test_a_word_too_many(refuse, write):
    assert "unrecognized arguments: more; see aits train --help" in refuse("train", write(), "more")


def test_a_flag_of_another_type(refuse, write):
    assert "--epochs: invalid int value: 'x'; see aits train --help" in refuse("train", write(), "--epochs", "x")


def test_a_flag_out_of_range(refuse, write):
    assert "epochs must be >= 1, got 0" in refuse("train", write(), "--epochs", "0")


def test_no_command_and_an_unknown_one(refuse):
    assert "required: {train,simulate,both,compare,inspect}; see aits --help" in refuse()
    assert "invalid choice: 'trian' (choose from" in refuse("trian")


def test_a_new_configuration_over_an_old_one(refuse, write, tmp_path):
    path = write()
    before = path.read_bytes()
    assert "exists already; choose another name for --new" in refuse("train", "--new", path)
    assert path.read_bytes() == before
    assert "cannot write this file: Not a directory" in refuse("train", "--new", path / "b.toml")


# --- places


@pytest.mark.parametrize("command", ["train", "both"])
def test_a_place_where_nothing_can_be_written(refuse, write, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below", "file/far/below"):
        message = refuse(command, write(), "--out", place)
        assert message.startswith(f"aits {command}: error: {place}: cannot make this run directory: ")
        assert message.endswith("; choose another --out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_simulation_has_to_go_somewhere_too(refuse, write, tmp_path, trained):
    (tmp_path / "file").touch()
    assert "cannot make this run directory" in refuse("simulate", write(), "--checkpoint", trained, "--out", "file/a")
    assert "a run directory is needed: --out DIR" in refuse("simulate", "--checkpoint", trained)
    assert "a run directory is needed: --out DIR" in refuse("train", "--systems", "pythagorean")


def test_a_name_too_long_for_a_directory(refuse, write):
    for flag in ("--out", "--resume"):
        assert "this run directory: File name too long" in refuse("train", write(), flag, "x" * 300)


@pytest.mark.parametrize("command", ["train", "both", "simulate"])
def test_a_directory_that_holds_another_run(refuse, succeed, write, tmp_path, trained, command):
    succeed("train", write(train={"epochs": 1}), "--out", "mine")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    more = ["--checkpoint", trained] if command == "simulate" else []
    message = refuse(command, write(), *more, "--out", "mine")
    assert (
        "mine: already holds another run (config.toml); choose another --out, or go on with: aits train --resume mine"
        in message
    )
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "summary.json"])
def test_what_is_left_of_another_run_is_enough(refuse, write, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).touch()
    assert f"mine: already holds another run ({name})" in refuse("train", write(), "--out", "mine")


# --- resuming


@pytest.fixture
def run(succeed, write, tmp_path):
    """A run of two epochs to be resumed, and a watch that a refusal changes nothing in it."""
    succeed("train", write(), "--out", "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    yield tmp_path / "run"
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--features", "basic"], "its run has features = 'invariant', this configuration 'basic'"),
        (["--hidden", "5"], "its run has hidden = [4], this configuration [5]"),
        (["--seed", "1"], "its run has seed = 0, this configuration 1"),
        (["--systems", "pythagorean"], "its run has systems = "),
        (["--learning-rate", "0.5"], "its run has learning_rate = 0.003, this configuration 0.5"),
    ],
)
def test_resuming_with_another_configuration(refuse, run, flags, complaint):
    message = refuse("train", "--resume", "run", "--epochs", "4", *flags)
    assert complaint in message
    assert "resume it as it was (only epochs, threads, device may change), or start another run with --out" in message


def test_resuming_with_another_file(refuse, write, run):
    other = write("other.toml", {"policy": "mlp", "epochs": 4})
    assert "its run has policy = 'residual', this configuration 'mlp'" in refuse("train", other, "--resume", "run")


def test_resuming_what_is_done(refuse, run):
    assert refuse("train", "--resume", "run").endswith("all 2 epochs are done; ask for more with --epochs 22")


def test_resuming_to_another_place(refuse, run):
    message = refuse("train", "--resume", "run", "--epochs", "4", "--out", "b")
    assert "--out and --resume exclude each other" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[trian]\n", "run/config.toml: unknown section [trian]; did you mean 'train'?"),
        ("[simulate]\nt_ned = 1.0\n", "run/config.toml [simulate]: unknown key 't_ned'; did you mean 't_end'?"),
        ("x = " + "[" * 100 + "]" * 100, "run/config.toml: is nested more than 16 levels deep"),
    ],
)
def test_resuming_a_run_whose_configuration_was_spoilt(refuse, succeed, write, tmp_path, content, complaint):
    succeed("train", write(), "--out", "run")
    (tmp_path / "run" / "config.toml").write_text(content)
    assert complaint in refuse("train", "--resume", "run", "--epochs", "3")
    assert (tmp_path / "run" / "config.toml").read_text() == content


def test_resuming_a_run_whose_metrics_were_spoilt(aits, succeed, write, tmp_path):
    succeed("train", write(), "--out", "run")
    own = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines = [own[0], '{"epoch": 1}\n', "[" * 5000 + "\n", own[1].replace('"seconds": ', '"seconds": "x", "more": ')]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines))
    succeed("train", "--resume", "run", "--epochs", "3")
    after = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in after] == [0, 2]


def test_resuming_where_the_metrics_are_a_pipe(aits, succeed, write, tmp_path):
    succeed("train", write(), "--out", "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "run" / "metrics.jsonl")
    outcome = aits("train", "--resume", "run", "--epochs", "3")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "run/metrics.jsonl: cannot read these metrics: not a regular file" in outcome.err


def test_resuming_no_run(refuse, write, tmp_path):
    for place in ("nowhere", "run.toml", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        write()
        assert f"{place}: holds no run to resume (config.toml is missing)" in refuse("train", "--resume", place)


# --- checkpoints


def damage(run, change):
    path = run / "checkpoint.safetensors"
    path.write_bytes(change(path.read_bytes()))


def other_version(data):
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].replace(b'"format_version":"2"', b'"format_version":"9"')
    return data[:8] + header + data[8 + length :]


DAMAGE = {
    "truncated tensors": (lambda data: data[:-8], "damaged checkpoint"),
    "truncated header": (lambda data: data[:100], "truncated or not a checkpoint; use another one"),
    "empty": (lambda data: b"", "truncated or not a checkpoint; use another one"),
    "another version": (
        other_version,
        "checkpoint format version 9, this program reads 2; use the release that wrote it",
    ),
    "something else": (lambda data: b"PK\3\4" + data, "truncated or not a checkpoint"),
}


@pytest.mark.parametrize(("change", "complaint"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_every_command(refuse, succeed, write, tmp_path, change, complaint):
    config = write(train={"epochs": 1})
    succeed("train", config, "--out", "run")
    damage(tmp_path / "run", change)
    for command in (
        ["simulate", config, "--checkpoint", "run", "--out", "a"],
        ["inspect", "run"],
        ["train", "--resume", "run", "--epochs", "3"],
    ):
        message = refuse(*command)
        assert "run/checkpoint.safetensors: " in message
        assert complaint in message
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_of_nan_is_refused_by_every_command_by_the_name_of_the_leaf(refuse, succeed, write, tmp_path):
    config = write(train={"epochs": 1})
    succeed("train", config, "--out", "run")
    damage(tmp_path / "run", lambda data: with_digest(nan_everywhere(data)))
    for command in (
        ["simulate", config, "--checkpoint", "run", "--out", "a"],
        ["inspect", "run"],
        ["train", "--resume", "run", "--epochs", "3"],
    ):
        assert "run/checkpoint.safetensors: params.criterion.log_eta holds NaN, so that" in refuse(*command)
    assert not (tmp_path / "a").exists()


def nan_everywhere(data):
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {name: entry for name, entry in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}
    changed = bytearray(data)
    for entry in tensors.values():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "F64":
            changed[begin:end] = struct.pack("<d", float("nan")) * ((end - begin) // 8)
    return bytes(changed)


def test_a_checkpoint_that_is_not_there(refuse, succeed, write, tmp_path):
    config = write(train={"epochs": 1})
    succeed("train", config, "--out", "run")
    os.remove(tmp_path / "run" / "checkpoint.safetensors")
    gone = "run/checkpoint.safetensors: cannot read this checkpoint: No such file or directory; check the path"
    assert gone in refuse("simulate", config, "--checkpoint", "run", "--out", "a")
    assert gone in refuse("inspect", "run")
    assert "run: holds no run to resume (checkpoint.safetensors is missing)" in refuse("train", "--resume", "run")


def test_a_policy_for_another_number_of_bodies(refuse, write, trained_on_rich):
    config = write(simulate={"systems": ["figure_eight"]})
    message = refuse("simulate", config, "--checkpoint", trained_on_rich, "--out", "a")
    assert "figure_eight has N = 3, D = 2; this policy reads 'rich' features and was trained on N = 2, D = 2" in message
    assert message.endswith("train it on such systems, or with features = 'invariant'")


# --- as a program


def program(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "aits_func", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_program_exits_with_2_and_one_line(tmp_path):
    (tmp_path / "a.toml").write_text("[train]\nepochs = 0\n")
    done = program("train", "a.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "aits train: error: a.toml: epochs must be >= 1, got 0\n"


def test_the_program_exits_with_2_where_the_parser_refuses(tmp_path):
    done = program("train", "a.toml", "--epoch", "3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "aits train: error: unrecognized arguments: --epoch 3; did you mean '--epochs'?\n"


def test_an_input_error_of_several_lines_is_printed_as_one(monkeypatch, capsys):
    def fail(options):
        raise ValueError("first\n  second")

    monkeypatch.setattr("aits_func.edge.commands.inspect", fail)
    assert main(["inspect", "x"]) == 2
    assert capsys.readouterr().err == "aits inspect: error: first second\n"
