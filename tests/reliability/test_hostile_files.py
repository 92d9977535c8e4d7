"""Hostile files: the short form of the campaign, and that the campaign sees every promise that is broken."""

import os
import pickle
import random
import time

import pytest

pytest.importorskip("numpy")
pytest.importorskip("safetensors")
pytest.importorskip("tomli_w")

from reliability import hostile_files, hostile_memory, hostile_readers
from reliability.hostile_formats import damaged, pickles, read_good_files
from reliability.hostile_memory import Measured


@pytest.fixture(scope="module")
def work():
    with hostile_files.workplace() as folder:
        yield folder


def test_every_promise_about_hostile_files_is_held():
    findings = hostile_files.campaign(short=True)
    assert [finding.broken for finding in findings if not finding.held] == []
    assert findings[-1].figures["most, MiB"] > 4  # the size of the largest file that is read


PROMISES = ("refused in one printable line", "no code", "written outside", "takes")


def broken_by(work, read, inputs=40):
    """The promises that the campaign finds broken where files are read by this function."""
    cases = hostile_files.fuzz(work, inputs, lambda reader: reader._replace(read=lambda: read(work / reader.file)))
    findings = hostile_files.summarise(cases)
    assert all(bool(finding.broken) is not finding.held for finding in findings)
    return [short for short in PROMISES for finding in findings if short in finding.promise and not finding.held]


def fail(error):
    raise error


def unpickle(path):
    """What runs whatever code is in a file."""
    try:
        pickle.loads(path.read_bytes())
    except Exception as error:
        raise ValueError("no pickle") from error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("epoch"),
        RecursionError(),
        ValueError("two\nlines"),
        ValueError("\x1b[2J"),
        ValueError(""),
        SystemExit(1),
    ],
    ids=repr,
)
def test_it_sees_what_is_no_refusal_in_one_line(work, error):
    assert broken_by(work, lambda path: fail(error), inputs=3) == [PROMISES[0]]


def test_it_sees_a_warning(work):
    import warnings

    assert broken_by(work, lambda path: warnings.warn("odd", stacklevel=1), inputs=3) == [PROMISES[0]]


def test_it_sees_code_that_is_run(work):
    # Among so many files there are pickles: 2 in 100.
    assert broken_by(work, unpickle, inputs=300) == list(PROMISES[:3])  # it makes a folder
    assert not os.path.exists(work / "executed")


def test_it_sees_what_is_written_outside_of_a_run(work):
    assert broken_by(work, lambda path: (work.parent / "escaped").write_text("x"), inputs=3) == [
        PROMISES[0],
        PROMISES[2],
    ]
    (work.parent / "escaped").unlink()
    assert broken_by(work, lambda path: (work / "out").mkdir(), inputs=3) == []


def test_it_sees_a_reader_that_does_not_end(work, monkeypatch):
    monkeypatch.setattr(hostile_readers, "LONGEST", 0.2)
    monkeypatch.setattr(hostile_files, "LONGEST", 0.2)
    assert broken_by(work, lambda path: time.sleep(60), inputs=1) == [PROMISES[0], PROMISES[3]]


def test_it_sees_a_command_that_ends_otherwise(work, monkeypatch):
    monkeypatch.setattr(hostile_readers, "main", lambda arguments: 1)
    verdict = hostile_readers.judge(lambda: hostile_readers.command("inspect", "run"), work)
    assert verdict.broken.startswith("RuntimeError: exit code 1")
    monkeypatch.setattr(hostile_readers, "main", lambda arguments: print("\x1b[2J") or 0)
    verdict = hostile_readers.judge(lambda: hostile_readers.command("inspect", "run"), work)
    assert "a control character reaches the terminal" in verdict.broken


def test_it_sees_a_flipped_bit_that_is_let_through(work, monkeypatch):
    monkeypatch.setattr("aits_func.edge.checkpoint._check_digest", lambda path: None)
    assert not hostile_files.flip_single_bits(work, 100).held


def test_it_sees_a_file_that_takes_too_much():
    quiet = Measured("a", 1.0, 0.1, "")
    assert hostile_memory.summarise([quiet]).held
    for bad in (quiet._replace(mebibytes=hostile_memory.BOUND + 1), quiet._replace(broken="the process died")):
        assert not hostile_memory.summarise([quiet, bad]).held


def test_the_same_number_makes_the_same_file(work):
    good, bombs = read_good_files(work), pickles()
    for kind in good:
        first, second = (damaged(random.Random("hostile 5"), kind, good, bombs) for _ in range(2))
        assert first == second
        assert first != damaged(random.Random("hostile 6"), kind, good, bombs)
