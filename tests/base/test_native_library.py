"""What is compiled is found again by its text; compilers that fail are a reason, and leave nothing behind."""

import os
import shutil
import signal
import subprocess
import time

import pytest
import torch

from aits_func.base import native_library, workplace
from aits_func.base.engine import build_engine, missing_compiler
from aits_func.base.native_graph import UnsuitableError, build_program
from aits_func.base.native_library import find_compiler, load
from aits_func.base.pure_graph import trace

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
X = torch.arange(5, dtype=torch.float64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of compiled code for one test alone."""
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "cache"))
    machine = native_library.machine
    machine.cache_clear()
    yield tmp_path / "cache"
    machine.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """The commands that make something."""
    commands, run = [], native_library._run

    def noting(command, place):
        commands.append(command)
        return run(command, place)

    monkeypatch.setattr(native_library, "_run", noting)
    return commands


def times(factor, x=X):
    """Native code for x times a factor."""
    return load(build_program(trace(lambda x: (factor * x,), [x]), [x], [True]), [x], [True])


def fake_compiler(monkeypatch, folder, body):
    """A compiler that knows its version, and does this for the rest."""
    script = folder / "compiler"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 1.0 && exit 0\n{body}\n')
    script.chmod(0o700)
    monkeypatch.setattr(native_library, "find_compiler", lambda: str(script))


# --- found again -----------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_program_is_compiled_once_and_another_anew(cache, compilations):
    assert torch.equal(times(2.0)([X])[0], 2 * X)
    assert len(compilations) == 1
    assert torch.equal(times(2.0)([X])[0], 2 * X)
    assert len(compilations) == 1
    assert torch.equal(times(3.0)([X])[0], 3 * X)
    assert len(compilations) == 2
    single = X.float()
    assert torch.equal(times(2.0, single)([single])[0], 2 * single)  # the same text but for the type of a number
    assert len(compilations) == 3
    longer = torch.arange(6, dtype=torch.float64)
    assert torch.equal(times(2.0, longer)([longer])[0], 2 * longer)
    assert len(compilations) == 4
    assert sorted(path.suffix for path in cache.iterdir()) == [".so"] * 4  # and nothing else is left there


@needs_compiler
@pytest.mark.parametrize("what", ["options", "compiler", "processor", "header"])
def test_code_for_other_options_another_compiler_or_processor_is_compiled_anew(what, compilations, monkeypatch):
    times(2.0)
    if what == "options":
        monkeypatch.setattr(native_library, "_OPTIONS", (*native_library._OPTIONS, "-g0"))
    elif what == "header":
        text = native_library._text
        monkeypatch.setattr(native_library, "_text", lambda *args: text(*args) + "// changed\n")
    else:
        other = (
            ("13.0", "x86", "flags: avx") if what == "compiler" else (*native_library.machine(find_compiler())[:2], "")
        )
        monkeypatch.setattr(native_library, "machine", lambda compiler: other)
    assert torch.equal(times(2.0)([X])[0], 2 * X)
    assert len(compilations) == 2


# --- compilers that fail ---------------------------------------------------------------------------------------------


def test_the_message_of_a_compiler_that_refuses_is_the_reason(tmp_path, cache, monkeypatch):
    fake_compiler(monkeypatch, tmp_path, "echo 'error: no such processor' >&2; exit 1")
    with pytest.raises(UnsuitableError, match=r"^the C\+\+ compiler refused: error: no such processor"):
        times(2.0)
    assert list(cache.iterdir()) == []  # nothing is left of the attempt


def test_a_compiler_that_does_not_run_or_takes_too_long_is_a_reason(tmp_path, cache, monkeypatch):
    fake_compiler(monkeypatch, tmp_path, "exec sleep 20")
    monkeypatch.setattr(native_library, "_SECONDS", 0.2)
    with pytest.raises(UnsuitableError, match=r"^the C\+\+ compiler did not run: .*timed out"):
        times(2.0)
    monkeypatch.setattr(native_library, "machine", lambda compiler: ("1.0",))
    monkeypatch.setattr(native_library, "find_compiler", lambda: str(tmp_path / "gone"))
    with pytest.raises(UnsuitableError, match=r"^the C\+\+ compiler did not run: .*No such file"):
        times(2.0)
    monkeypatch.setattr(native_library, "find_compiler", lambda: "")
    with pytest.raises(UnsuitableError, match=r"^there is no C\+\+ compiler$"):
        times(2.0)
    assert list(cache.iterdir()) == []


def test_any_of_the_usual_compilers_is_found_and_the_first_of_them_first(monkeypatch):
    for there, found in (({"g++", "c++"}, "g++"), ({"clang++", "c++"}, "clang++"), ({"c++"}, "c++"), (set(), "")):
        monkeypatch.setattr(shutil, "which", lambda name, there=there: name if name in there else None)
        assert find_compiler() == found


@needs_compiler
def test_where_the_native_compiler_fails_an_engine_compiles_otherwise_and_is_right(tmp_path, monkeypatch):
    monkeypatch.delenv("AITS_FUNC_CACHE_DIR")  # what the other compiler needs first takes it long, once
    fake_compiler(monkeypatch, tmp_path, "exit 1")
    engine = build_engine(lambda x: 2 * x, mode="on", batched=(True,))
    assert torch.equal(engine(X), 2 * X)
    assert engine.reason == ""


@needs_compiler
def test_ctrl_c_ends_the_compiler_and_what_it_has_started(tmp_path, cache, monkeypatch):
    fake_compiler(monkeypatch, tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    process, communicate = [], subprocess.Popen.communicate

    def interrupted(self, *args, **options):
        process.append(self)
        until = time.monotonic() + 30
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().endswith("\n"):
            assert time.monotonic() < until
            time.sleep(0.01)
        raise KeyboardInterrupt

    native_library.machine(native_library.find_compiler())  # asked for its version before anything is interrupted
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    monkeypatch.setattr(workplace, "end_processes", lambda folder: None)  # where there is no /proc
    with pytest.raises(KeyboardInterrupt):
        times(2.0)
    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    assert process[0].returncode == -signal.SIGKILL
    assert not is_running(int((tmp_path / "child").read_text()))
    assert list(cache.iterdir()) == []


def is_running(pid):
    """Whether a process is there a moment later; one that has ended and that nobody has waited for is not."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.02)
    return True
