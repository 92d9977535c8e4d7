"""What the tests of the command line share: tiny configurations, and the command line called in this process."""

from typing import NamedTuple

import pytest

pytest.importorskip("safetensors")
tomli_w = pytest.importorskip("tomli_w")

from aits_func.edge.cli import main  # noqa: E402, after the skips

TRAIN = {
    "systems": [{"kind": "binaries", "count": 2}],
    "hidden": [4],
    "epochs": 2,
    "steps_per_epoch": 3,
    "replay_steps": 2,
}
ROUND = {"kind": "binaries", "count": 2, "seed": 7, "eccentricity": [0.0, 0.2]}  # some fifteen steps in 0.1
SIMULATE = {"systems": [ROUND], "t_end": 0.1, "max_steps": 200}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def call(capture, *arguments):
    """One command as the shell sees it: exit code, stdout, stderr."""
    capture.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return Outcome(code, *capture.readouterr())


def write_toml(path, train=None, simulate=None, **shared):
    """A configuration file with sections [train] and [simulate]: the tiny ones, changed."""
    sections = {"train": TRAIN | (train or {}), "simulate": SIMULATE | (simulate or {})}
    path.write_text(tomli_w.dumps(shared | sections), encoding="utf-8")
    return path


@pytest.fixture
def real_pictures():
    """Ask for it to have pictures drawn."""


@pytest.fixture(autouse=True)
def _hasty_pictures(request, monkeypatch):
    """Laying out a picture takes longer than a tiny run; unless a test looks at them they are left empty."""
    if "real_pictures" not in request.fixturenames:
        monkeypatch.setattr("aits_func.edge.pictures._save", lambda figure, path: path.touch())


@pytest.fixture
def aits(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: ``aits("train", "a.toml").code``."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(capsys, *arguments)


@pytest.fixture
def succeed(aits):
    """Run a command that must succeed, in silence on stderr; returns what it printed."""

    def run(*arguments):
        outcome = aits(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        return outcome.out

    return run


@pytest.fixture
def refuse(aits):
    """Run a command that must be refused: exit code 2 and one line on stderr, which is returned."""

    def run(*arguments):
        outcome = aits(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.err.count("\n") == 1
        assert outcome.err.startswith("aits")
        assert ": error: " in outcome.err
        assert outcome.out == ""
        return outcome.err.rstrip("\n")

    return run


@pytest.fixture
def write(tmp_path):
    """Write a tiny configuration: ``write("a.toml", {"epochs": 3}, G=2.0)``."""
    return lambda name="run.toml", train=None, simulate=None, **shared: write_toml(
        tmp_path / name, train, simulate, **shared
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of a finished tiny run of two epochs; not to be written to."""
    place = tmp_path_factory.mktemp("trained")
    assert main(["train", str(write_toml(place / "run.toml")), "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture(scope="session")
def trained_on_rich(tmp_path_factory):
    """The same with features that fit N = 2, D = 2 alone."""
    place = tmp_path_factory.mktemp("rich")
    config = write_toml(place / "run.toml", {"features": "rich", "epochs": 1})
    assert main(["train", str(config), "--out", str(place / "run")]) == 0
    return place / "run"
