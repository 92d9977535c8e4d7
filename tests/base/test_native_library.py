"""What is compiled is kept: found again by its text, never half written, in a folder of the user's own."""

import os
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from aits_func.base import native_library
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
    remembering = (native_library._temporary, native_library._machine)
    for each in remembering:
        each.cache_clear()
    yield tmp_path / "cache"
    for each in remembering:
        each.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """The commands that make something: others ask the compiler for its version, or for the processor."""
    commands, run = [], subprocess.run

    def noting(command, **options):
        if "-o" in command:
            commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", noting)
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
            ("13.0", "x86", "flags: avx") if what == "compiler" else (*native_library._machine(find_compiler())[:2], "")
        )
        monkeypatch.setattr(native_library, "_machine", lambda compiler: other)
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
    monkeypatch.setattr(native_library, "_machine", lambda compiler: ("1.0",))
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
    fake_compiler(monkeypatch, tmp_path, "exit 1")
    engine = build_engine(lambda x: 2 * x, mode="on", batched=(True,))
    assert torch.equal(engine(X), 2 * X)
    assert engine.reason == ""


# --- the folder ------------------------------------------------------------------------------------------------------


@needs_compiler
def test_the_folder_is_made_for_the_user_alone_and_one_that_others_can_write_to_is_refused(cache, compilations):
    times(2.0)
    assert stat.S_IMODE(cache.stat().st_mode) & 0o022 == 0
    for mode in (0o777, 0o720, 0o702):
        cache.chmod(mode)
        with pytest.raises(UnsuitableError, match=f"others can write to the cache of machine code, {cache}"):
            times(2.0)  # not even what is there already is loaded
    cache.chmod(0o755)  # to read it is no harm
    times(2.0)
    assert len(compilations) == 1


@needs_compiler
def test_a_folder_of_somebody_else_is_refused(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    with pytest.raises(UnsuitableError, match="others can write to the cache of machine code"):
        times(2.0)


@needs_compiler
def test_the_folder_is_in_the_home_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("AITS_FUNC_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native_library._cache() == tmp_path / ".cache" / "aits_func"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", "")
    assert native_library._cache() == tmp_path / ".cache" / "aits_func"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "named"))
    assert native_library._cache() == tmp_path / "named"


@needs_compiler
@pytest.mark.parametrize("why", ["a file in its place", "no permission", "no home"])
def test_where_nothing_can_be_kept_code_is_compiled_for_this_process_alone(why, tmp_path, compilations, monkeypatch):
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.delenv("AITS_FUNC_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if why == "a file in its place":
        (tmp_path / "home").write_text("no folder")
    elif why == "no permission":
        may = os.access  # the superuser may write everywhere
        monkeypatch.setattr(os, "access", lambda path, *mode: "aits_func" not in str(path) and may(path, *mode))
    else:
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    for _ in range(2):
        assert torch.equal(times(2.0)([X])[0], 2 * X)
    assert len(compilations) == 1
    (folder,) = elsewhere.iterdir()
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# --- half written ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_library_is_put_in_place_at_once_when_it_is_whole(cache, monkeypatch):
    """The first compiler writes half of its file, and waits until somebody else has loaded the same program."""
    run, arguments, half = subprocess.run, [], threading.Event()

    def run_slowly(command, **options):
        if "-o" not in command or arguments:
            return run(command, **options)
        arguments.append(command)
        made = Path(command[command.index("-o") + 1])
        made.write_bytes(b"half of a library")
        half.set()
        assert waited.wait(30)
        return run(command, **options)

    waited, results = threading.Event(), []
    monkeypatch.setattr(subprocess, "run", run_slowly)
    thread = threading.Thread(target=lambda: results.append(times(2.0)([X])[0]))
    thread.start()
    assert half.wait(30)
    assert [path for path in cache.iterdir() if path.suffix == ".so"] == []
    assert torch.equal(times(2.0)([X])[0], 2 * X)  # compiled by itself
    waited.set()
    thread.join()
    assert torch.equal(results[0], 2 * X)
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@needs_compiler
def test_what_an_interrupted_compiler_has_left_is_not_loaded(cache, compilations, monkeypatch):
    run = subprocess.run

    def interrupted(command, **options):
        if "-o" not in command:
            return run(command, **options)
        Path(command[command.index("-o") + 1]).write_bytes(b"half of a library")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            times(2.0)
    assert list(cache.iterdir()) == []
    assert torch.equal(times(2.0)([X])[0], 2 * X)


@needs_compiler
def test_a_library_that_is_broken_is_made_anew(cache, compilations, monkeypatch):
    made = []

    def breaking(text):
        path = compiled(text)
        if not made:
            path.unlink()
            path.write_bytes(b"half of a library")
        made.append(path)
        return path

    compiled = native_library._compiled
    monkeypatch.setattr(native_library, "_compiled", breaking)
    assert torch.equal(times(7.0)([X])[0], 7 * X)
    assert len(compilations) == 2
    assert made[0] == made[1]
