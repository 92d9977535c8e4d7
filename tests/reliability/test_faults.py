"""The campaign of faults: its short form holds, and it notices each thing that can be wrong."""

import random
import shutil

import pytest

pytest.importorskip("numpy")
pytest.importorskip("safetensors")
pytest.importorskip("tomli_w")

from reliability import cases, faults, sharing
from reliability.runs import Ended, advice, is_one_line


def test_faults_end_in_one_line_and_lose_nothing():
    found = faults.campaign(True)
    assert [(each.promise, each.broken) for each in found if not each.held] == []


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


STOPPED = (
    "aits train: error: a/summary.json: cannot write this file: Full; stopped after epoch 1; go on with: aits {}\n"
)
GO_ON = STOPPED.format("train --resume a")


def play(whole, first, *, unlink=(), touch=()):
    """What the campaign says of a process that ends so, whose directory is then complete but for some files."""
    shutil.rmtree(whole / "a", ignore_errors=True)
    shutil.copytree(whole / "whole", whole / "a")
    for name in unlink:
        (whole / "a" / name).unlink()
    for name in touch:
        (whole / "a" / name).touch()
    case = cases.stopped_and_resumed(whole, lambda child: [Ended(0, "", "")], "ENOSPC", 1, first, "a")
    return case.broken


def test_a_process_that_stops_as_it_should_is_found_to(whole):
    assert play(whole, Ended(1, "", GO_ON, "a call")) == ""


@pytest.mark.parametrize(
    ("end", "complaint"),
    [
        (Ended(0, "", GO_ON), "exit code 0"),
        (Ended(-9, "", GO_ON), "exit code -9"),
        (Ended(1, "", ""), "exit code 1"),
        (Ended(1, "", "Traceback (most recent call last):\n  ...\nOSError\n"), "exit code 1"),
        (Ended(1, "", GO_ON + GO_ON), "exit code 1"),
        (Ended(1, "", "aits train: error: full\n"), "does not say how to go on"),
    ],
)
def test_a_process_that_stops_otherwise_is_found_to(whole, end, complaint):
    assert complaint in play(whole, end)


def test_what_is_left_lost_or_damaged_is_found(whole):
    end = Ended(1, "", GO_ON)
    assert play(whole, end, touch=[".lock"]) == ".lock is left"
    assert play(whole, end, touch=[".summary.json.12.part"]) == ".summary.json.12.part is left"
    assert "its files are" in play(whole, end, unlink=["summary.json"])
    assert "and there is no run" in play(whole, end, unlink=["config.toml"])
    damaged = play(whole, end, unlink=["checkpoint.safetensors"], touch=["checkpoint.safetensors"])
    assert "checkpoint.safetensors: truncated or not a checkpoint" in damaged


@pytest.mark.parametrize(
    ("codes", "errors", "right"),
    [
        ((0, 2), ("", "aits train: error: in use\n"), True),
        ((2, 0), ("aits train: error: in use\n", ""), True),
        ((0, 0), ("", ""), False),
        ((2, 2), ("aits train: error: in use\n",) * 2, False),
        ((0, 1), ("", "aits train: error: in use\n"), False),
        ((0, 2), ("", "Traceback\n\n"), False),
    ],
)
def test_two_in_one_directory_are_found(whole, codes, errors, right):
    shutil.rmtree(whole / "b", ignore_errors=True)
    shutil.copytree(whole / "whole", whole / "b")
    ends = [Ended(code, "", error) for code, error in zip(codes, errors, strict=True)]
    case = sharing._two_new(whole, lambda *children: ends, random.Random(0), "b")
    assert (case.broken == "") is right


def test_a_negative_duration_is_found(whole):
    def run(child):
        name = child.arguments[-1]
        shutil.rmtree(whole / name, ignore_errors=True)
        shutil.copytree(whole / "whole", whole / name)
        text = (whole / name / "metrics.jsonl").read_text()
        (whole / name / "metrics.jsonl").write_text(text.replace('"seconds": ', '"seconds": -', 1))
        return [Ended(0, "", "")]

    assert faults.clocks(whole, run, 1).broken == ("clock1: a negative duration",)


def test_a_promise_that_nothing_has_tested_is_not_held():
    assert not cases.finding("a", []).held
    assert not cases.finding("a", [cases.Case("b", False, "")]).held


def test_advice_and_lines_are_read_as_a_user_reads_them():
    assert advice(Ended(1, "", STOPPED.format("train --resume 'my run'"))) == ("train", "--resume", "my run")
    assert advice(Ended(1, "", "aits train: interrupted\n")) == ()
    assert is_one_line(Ended(2, "", "aits: error: a\n"))
    assert not is_one_line(Ended(2, "", "warning: a\n"))
