"""The campaign of kills: its short form holds, and it notices a run that does not survive."""

import random
import shutil
import signal
import subprocess

import pytest

numpy = pytest.importorskip("numpy")
pytest.importorskip("safetensors")
pytest.importorskip("tomli_w")

from reliability import kills  # noqa: E402, after the skips
from reliability.kills import campaign, compiled, findings, live  # noqa: E402
from reliability.nursery import nursery  # noqa: E402
from reliability.runs import Ended  # noqa: E402


def test_whatever_moment_a_training_is_killed_at_it_goes_on_to_the_same_bits():
    found = campaign(True)
    assert [(each.promise, each.broken) for each in found if not each.held] == []
    assert found[0].figures["restarts"] >= 10


@pytest.mark.slow
def test_a_training_that_is_killed_while_it_compiles_goes_on_to_the_same_bits_and_leaves_nothing(tmp_path):
    with nursery() as run:
        kills.prepared(tmp_path / "few", 1, run)  # when this has answered, all is loaded
        lives = compiled(tmp_path / "native", kills.NATIVE, run, random.Random(1), lives=2, deaths=3)
    found = findings({"compiling": lives}, 1)
    assert [(each.promise, each.broken) for each in found if not each.held] == []
    assert len(found) == 4
    assert found[3].figures["kills of runs that are compiled"] >= 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with an unbroken run, made in this process."""
    from aits_func.edge.cli import main
    from reliability.runs import write_configuration

    folder = tmp_path_factory.mktemp("runs")
    write_configuration(folder, epochs=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("aits_func.edge.pictures._save", lambda figure, path: path.touch())
        assert main(["train", str(folder / "run.toml"), "--out", str(folder / "whole")]) == 0
    return folder


def lived(whole, name, *changes, cache=None):
    """A run that is killed once for every change but the last, each a function that makes of it what it is then."""
    way = "compiling" if cache else "in a play"
    shutil.rmtree(whole / name, ignore_errors=True)
    ends = iter(changes)

    def attempt(arguments, death):
        code = next(ends)(whole / name)
        return Ended(code, "", "aits train: error: refused\n", "a call" if code < 0 else "")

    return findings({way: [live(whole, name, range(len(changes) - 1), attempt, cache)]}, 1)


def killed(change=lambda run: None):
    def act(run):
        shutil.copytree(run.parent / "whole", run, dirs_exist_ok=True)
        change(run)
        return -signal.SIGKILL

    return act


def done(change=lambda run: None):
    def act(run):
        shutil.copytree(run.parent / "whole", run, dirs_exist_ok=True)
        change(run)
        return 0

    return act


def edit(name, change):
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes()))


def held(found):
    return [each.held for each in found]


def test_a_run_that_survives_keeps_all_promises(whole):
    assert held(lived(whole, "a", killed(), killed(), done())) == [True, True, True]


def test_nothing_is_shown_by_runs_that_nobody_killed(whole):
    assert held(lived(whole, "a", done())) == [False, False, False]


def test_a_run_that_is_refused_breaks_the_first(whole):
    found = lived(whole, "a", killed(), lambda run: 2, done())
    assert held(found) == [False, True, True]
    assert "exit code 2, aits train: error: refused" in found[0].broken[0]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoint.safetensors", lambda content: content[:-1]),
        ("checkpoint.safetensors", lambda content: content[:100]),
        ("config.toml", lambda content: content[:20]),
        ("metrics.jsonl", lambda content: content.replace(b'"epoch"', b'"epoch', 1)),
        ("summary.json", lambda content: content[:-5]),
        ("training_trajectory.npz", lambda content: content[:-30]),
    ],
)
def test_a_file_that_cannot_be_read_breaks_the_second(whole, name, change):
    found = lived(whole, "a", killed(edit(name, change)), done())
    assert held(found) == [True, False, True]
    assert name in found[1].broken[0]


def test_temporary_files_that_add_up_break_the_second(whole):
    def litter(run):
        for number in (1, 2):
            (run / f".config.toml.{number}.part").touch()

    def tidy(run):
        for path in run.glob(".*"):
            path.unlink()

    assert held(lived(whole, "a", killed(litter), done(tidy))) == [True, False, True]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoint.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),  # one bit
        ("metrics.jsonl", lambda content: content + content.splitlines(keepends=True)[-1]),
        ("metrics.jsonl", lambda content: content.splitlines(keepends=True)[0]),
        ("summary.json", lambda content: content.replace(b'"accepted": 12', b'"accepted": 13')),
        ("config.toml", lambda content: content + b"# mine\n"),
    ],
)
def test_an_end_that_is_not_that_of_the_unbroken_run_breaks_the_third(whole, name, change):
    found = lived(whole, "a", killed(), done(edit(name, change)))
    assert held(found) == [True, True, False]
    assert name in found[2].broken[0]


def test_a_file_too_many_and_one_too_few_break_the_third(whole):
    more = lived(whole, "a", killed(), done(lambda run: (run / ".lock").touch()))
    less = lived(whole, "a", killed(), done(lambda run: (run / "training.png").unlink()))
    assert held(more) == held(less) == [True, True, False]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "PATIENCE", 0.1)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_a_compiled_run_that_leaves_nothing_keeps_the_fourth(whole, cache):
    assert held(lived(whole, "a", killed(), done(), cache=cache)) == [True] * 4


def test_a_folder_or_a_damaged_file_in_the_cache_breaks_the_fourth(whole, cache):
    folder, damaged = cache / "work-0", cache / "0.so"
    for change, undo in ((folder.mkdir, folder.rmdir), (damaged.touch, damaged.unlink)):
        found = lived(whole, "a", killed(lambda run, change=change: change()), done(), cache=cache)
        assert held(found) == [True, True, True, False]
        undo()


def test_a_compiler_that_goes_on_breaks_the_fourth(whole, cache):
    with subprocess.Popen(["sleep", "60"], cwd=cache) as process:
        found = lived(whole, "a", killed(), done(), cache=cache)
        process.kill()
    assert held(found) == [True, True, True, False]
    assert f"process {process.pid}" in found[3].broken[0]
