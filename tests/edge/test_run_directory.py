"""Run directories: one process at a time in each, also after one was killed there."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from aits_func.edge import run_directory
from aits_func.edge.config import InputError
from aits_func.edge.run_directory import LOCK, new_run, require_run, resumed_run

TRAINS = "[train]\nepochs = 2\n"


@pytest.fixture
def run(tmp_path):
    """A directory that holds a run as far as its names go."""
    (tmp_path / "config.toml").write_text(TRAINS)
    (tmp_path / "checkpoint.safetensors").touch()
    return tmp_path


def in_use(path):
    return f"{path}: another process is at work in this run directory; wait for its end, or choose another --out"


# --- the lock


@pytest.mark.parametrize("begin", [resumed_run, new_run])
def test_one_process_at_a_time(tmp_path, begin):
    with new_run(tmp_path / "a"):
        if begin is resumed_run:
            (tmp_path / "a" / "config.toml").write_text(TRAINS)
        with pytest.raises(InputError) as caught, begin(tmp_path / "a"):
            pytest.fail("both are in")
        assert str(caught.value) == in_use(tmp_path / "a")
    with resumed_run(tmp_path / "a") if begin is resumed_run else new_run(tmp_path / "a"):
        pass


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt])
def test_the_lock_is_given_back_whatever_happens_and_nothing_is_left(run, end):
    def work():
        with resumed_run(run):
            assert (run / LOCK).exists()
            raise end

    for _ in range(2):
        with pytest.raises(end):
            work()
    assert sorted(os.listdir(run)) == ["checkpoint.safetensors", "config.toml"]


HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_another_process_holds_until_it_is_killed(run):
    with subprocess.Popen([sys.executable, "-c", HOLDER, run / LOCK], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is at work"), resumed_run(run):
            pytest.fail("both are in")
        holder.send_signal(signal.SIGKILL)
    assert (run / LOCK).exists()  # which a process that is killed does not remove
    with resumed_run(run):
        pass
    assert not (run / LOCK).exists()


def test_a_lock_that_its_holder_has_just_removed_is_taken_anew(run, monkeypatch):
    real, calls = fcntl.flock, []

    def late(handle, operation):
        """The first lock is had on a file that has lost its name in between."""
        calls.append(handle)
        if len(calls) == 1:
            (run / LOCK).unlink()
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with resumed_run(run):
        assert len(calls) == 2
        monkeypatch.undo()
        with pytest.raises(InputError, match="another process is at work"), resumed_run(run):
            pytest.fail("both are in")


def test_on_a_file_system_without_locks_it_goes_on_and_removes_nothing(run, monkeypatch):
    def without(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    (run / ".metrics.jsonl.123.part").touch()  # it may be another process that is writing it
    with resumed_run(run):
        pass
    assert (run / ".metrics.jsonl.123.part").exists()


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_no_handle_is_left_open(run, monkeypatch):
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")
    with resumed_run(run), pytest.raises(InputError), resumed_run(run):
        pass
    with monkeypatch.context() as patched:
        answers = iter([False, False, True])
        patched.setattr(run_directory, "_is_the_file", lambda handle, path: next(answers))
        with resumed_run(run):
            pass
    with monkeypatch.context() as patched:
        patched.setattr(run_directory, "_is_the_file", interrupt)
        with pytest.raises(KeyboardInterrupt), resumed_run(run):
            pass
    assert len(os.listdir("/proc/self/fd")) == handles


@pytest.mark.parametrize("late", [False, True])
def test_whoever_is_interrupted_at_the_lock_does_not_keep_it(run, monkeypatch, late):
    real = fcntl.flock

    def interrupted(handle, operation):
        """The signal comes before or after the kernel has given the lock."""
        if late:
            real(handle, operation)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", interrupted)
        with pytest.raises(KeyboardInterrupt), resumed_run(run):
            pytest.fail("it went on")
    with resumed_run(run):
        pass
    assert sorted(os.listdir(run)) == ["checkpoint.safetensors", "config.toml"]


# --- what a killed process leaves


def test_temporary_files_of_a_killed_process_are_removed_and_no_others(run):
    mine = (".notes.part", "x.12.part", ".metrics.jsonl.part", ".a.12.partial", "checkpoint.12.part")
    for name in (".checkpoint.safetensors.12.part", ".config.toml.4567.part", *mine):
        (run / name).touch()
    with resumed_run(run):
        assert {*os.listdir(run)} == {"checkpoint.safetensors", "config.toml", LOCK, *mine}


def test_a_new_run_takes_the_directory_of_one_that_was_killed_before_its_configuration(tmp_path):
    for name in (LOCK, ".config.toml.12.part"):
        (tmp_path / name).touch()
    with new_run(tmp_path):
        assert os.listdir(tmp_path) == [LOCK]


def test_a_run_that_was_killed_before_its_first_checkpoint_can_be_resumed(tmp_path):
    (tmp_path / "config.toml").write_text(TRAINS)
    require_run(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    require_run(tmp_path)
    go_on = r"already holds another run \(config.toml\).* go on with: aits train --resume"
    with pytest.raises(InputError, match=go_on), new_run(tmp_path):
        pytest.fail("it was taken")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", '{"epoch": 0}\n'),  # it had a checkpoint
        ("config.toml", "[simulate]\nt_end = 1.0\n"),
        ("config.toml", "[train"),
    ],
)
def test_other_directories_without_a_checkpoint_cannot_be_resumed(tmp_path, name, content):
    (tmp_path / "config.toml").write_text(TRAINS)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=r"holds no run to resume \(checkpoint.safetensors is missing\)"):
        require_run(tmp_path)
    with pytest.raises(InputError, match=r"\(config.toml\); choose another --out$"), new_run(tmp_path):
        pytest.fail("it was taken")


def test_a_directory_that_cannot_be_written_to_is_refused(run, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", fail)
    for begin, message in (
        (resumed_run(run), "cannot write to this run directory: Read-only file system; copy it"),
        (new_run(run / "new"), "cannot make this run directory: Read-only file system; choose another --out"),
    ):
        with pytest.raises(InputError, match=message), begin:
            pytest.fail("it was taken")
