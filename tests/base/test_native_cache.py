"""What is compiled is loaded only if it is whole and nobody else can have written it, and nothing is left behind."""

import ctypes
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from aits_func.base import inductor_cache, native_cache, native_guard, native_library, own_folder, workplace
from aits_func.base.engine import missing_compiler
from aits_func.base.native_graph import UnsuitableError

needs_compiler = pytest.mark.skipif(missing_compiler(torch.device("cpu")) != "", reason="needs a C++ compiler")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
on_linux = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
FOREIGN = 12345  # the number of a user who is not us
NAME = "0" * 64 + ".so"
CONTENT = random.Random(1).randbytes(3 * 4096 + 100)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of compiled code for one test alone, and a place for temporary ones."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "cache"))
    remembering = (native_cache._temporary, native_cache._say, native_cache._tidy_up)
    for each in remembering:
        each.cache_clear()
    yield tmp_path / "cache"
    for each in remembering:
        each.cache_clear()


def keep(content=CONTENT, name=NAME):
    with native_cache.new_folder() as place:
        (place / "made").write_bytes(content)
        native_cache.seal(place / "made", name)
        native_cache.keep(place / "made", name)


def program(answer):
    """A library of a few pages that knows one number; its text says which."""
    return f'extern "C" const char pages[20000] = {{{answer}}}; extern "C" int answer() {{ return pages[0]; }}'


def loaded(answer=7):
    return native_library._loaded(program(answer)).answer()


@pytest.fixture
def compilations(monkeypatch):
    commands, run = [], native_library._run

    def noting(command, place):
        commands.append(command)
        return run(command, place)

    monkeypatch.setattr(native_library, "_run", noting)
    return commands


# --- whole -----------------------------------------------------------------------------------------------------------


def damages(whole, draw):
    """(what was done, the content of the file then)."""
    page, end = 4096, len(whole)
    for size in (0, 1, 63, 64, page - 1, page, page + 1, end // 2, end - 48, end - 32, end - 1, *range(end - 50, end)):
        yield f"cut off at {size}", whole[:size]
    for begin in range(0, end, page):
        yield f"a page of zeros at {begin}", (whole[:begin] + bytes(page) + whole[begin + page :])[:end]
    yield "zeros", bytes(end)
    yield "zeros from a page on", whole[:page] + bytes(end - page)
    for bit in (0, 8 * end - 1, *(draw.randrange(8 * end) for _ in range(200)), *range(8 * (end - 51), 8 * end, 7)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(changed)
    yield "longer by one", whole + b"\0"
    yield "twice", whole + whole
    yield "no seal", whole[:-50]
    yield "text", b"half of a library"


def test_no_damaged_file_is_found_and_it_can_be_kept_anew(cache):
    keep()
    whole = (cache / NAME).read_bytes()
    assert native_cache.read(NAME) == CONTENT
    assert native_cache.find(NAME) == cache / NAME
    for what, content in damages(whole, random.Random(2)):
        (cache / NAME).write_bytes(content)
        assert native_cache.read(NAME) is None, what
        assert native_cache.find(NAME) is None, what
    keep()
    assert native_cache.read(NAME) == CONTENT


def test_a_file_under_the_name_of_another_is_not_found(cache):
    other = "1" * 64 + ".so"
    keep()
    shutil.copy(cache / NAME, cache / other)
    assert native_cache.read(other) is None


@pytest.mark.parametrize(
    "what", ["a folder", "a full folder", "a link", "a link to a folder", "a broken link", "a pipe"]
)
def test_what_is_no_file_is_not_followed_and_is_replaced(what, cache, tmp_path):
    keep()
    good = tmp_path / "good"
    (cache / NAME).rename(good)
    path = cache / NAME
    if what.endswith("folder") and "link" not in what:
        path.mkdir()
        if "full" in what:
            (path / "file").touch()
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"a link": good, "a link to a folder": tmp_path}.get(what, tmp_path / "gone"))
    assert native_cache.read(NAME) is None
    keep()
    assert native_cache.read(NAME) == CONTENT
    assert path.is_file()
    assert not path.is_symlink()
    assert good.is_file()


_CHILDREN = """
import os, random, sys
sys.path.insert(0, sys.argv[1])
import test_native_cache as here

def child(work):
    pid = os.fork()  # of a process that has loaded nothing
    if pid == 0:
        os._exit(work())
    return pid

def code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run_with_children(script, *arguments):
    """A process that forks others."""
    command = [sys.executable, "-c", _CHILDREN + script, str(Path(__file__).parent), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_LOADS = """
assert code(child(here.loaded)) == 7
(path,) = here.native_cache.cache_folder().glob("*.so")
every = [each for each in here.damages(path.read_bytes(), random.Random(3)) if not each[0].startswith("bit")]
every = every[:10] + [each for each in every[10:] if not each[0].startswith("cut off")]
for what, content in every:
    path.write_bytes(content)
    assert code(child(here.loaded)) == 7, what
    assert here.native_cache.find(path.name), what
print(len(every))
"""


@needs_compiler
def test_no_process_dies_of_a_damaged_library(cache):
    """In processes of their own, as one that maps a file that was cut off is killed by SIGBUS."""
    out, err = (process := run_with_children(_LOADS)).communicate(timeout=300)
    assert process.returncode == 0, err
    assert int(out) >= 15


@needs_compiler
def test_a_library_is_loaded_from_a_file_that_cannot_be_executed_as_a_program(cache, compilations):
    assert loaded() == 7
    (library,) = cache.iterdir()
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).answer())"
    done = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


@needs_compiler
def test_a_library_is_put_in_place_at_once_when_it_is_whole(cache, monkeypatch):
    """The first compiler writes half of its file, and waits until somebody else has loaded the same program."""
    run, arguments, half, waited, results = native_library._run, [], threading.Event(), threading.Event(), []

    def run_slowly(command, place):
        if arguments:
            return run(command, place)
        arguments.append(command)
        Path(command[command.index("-o") + 1]).write_bytes(b"half of a library")
        half.set()
        assert waited.wait(30)
        return run(command, place)

    monkeypatch.setattr(native_library, "_run", run_slowly)
    thread = threading.Thread(target=lambda: results.append(loaded()))
    thread.start()
    assert half.wait(30)
    assert list(cache.glob("*.so")) == []
    assert loaded() == 7  # compiled by itself
    waited.set()
    thread.join()
    assert results == [7]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


_KEEP_AND_READ = """
def keep_and_read():
    for number in range(20):
        here.keep(bytes([number]) * 50000)
        content = here.native_cache.read(here.NAME)
        assert content is not None and len(set(content)) == 1 and len(content) == 50000, number
    return 0

assert [code(pid) for pid in [child(keep_and_read) for _ in range(3)]] == [0, 0, 0]
"""


def test_processes_that_keep_the_same_name_again_and_again_never_find_half_of_each(cache):
    """Digest and content are one file, so that those of two writers do not mix."""
    _, err = (process := run_with_children(_KEEP_AND_READ)).communicate(timeout=300)
    assert process.returncode == 0, err
    assert [path.name for path in cache.iterdir()] == [NAME]


# --- the user's own --------------------------------------------------------------------------------------------------


def is_refused(caplog):
    """Whether what lies in the cache is not looked at, and another folder is taken, with one line that says why."""
    native_cache._say.cache_clear()
    caplog.clear()
    found = native_cache.cache_folder()
    lines = [record.getMessage() for record in caplog.records if record.name == "aits_func"]
    temporary = found.parent == Path(tempfile.gettempdir()) and stat.S_IMODE(found.stat().st_mode) == 0o700
    assert temporary == (len(lines) == 1), lines
    if temporary:
        assert lines[0].startswith("aits_func: the cache of compiled programs is not used: ")
        assert "\n" not in lines[0]
        assert native_cache.read(NAME) is None
    return lines[0] if temporary else ""


@pytest.mark.parametrize("mask", [0, 0o002, 0o022, 0o077])
def test_folders_and_files_are_for_the_user_alone_whatever_the_umask(mask, cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "a" / "b" / "cache"))
    before = os.umask(mask)
    try:
        with native_cache.new_folder() as place:
            work = stat.S_IMODE(place.stat().st_mode)
        keep()
    finally:
        os.umask(before)
    assert work == 0o700
    for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "cache"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "cache" / NAME).stat().st_mode) == 0o600
    assert native_cache.read(NAME) == CONTENT
    assert not is_refused(caplog)


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o1777, 0o2770])
def test_a_folder_that_others_can_write_to_is_not_used_even_if_it_was_made_beforehand(mode, cache, caplog):
    keep()
    cache.chmod(mode)
    assert f"{cache} can be written to by others" in is_refused(caplog)
    cache.chmod(0o755)  # to read it is no harm
    assert not is_refused(caplog)
    assert native_cache.read(NAME) == CONTENT


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_nor_is_one_in_a_folder_in_which_others_can_put_another_in_its_place(
    mode, cache, tmp_path, monkeypatch, caplog
):
    above = tmp_path / "above"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(above / "between" / "cache"))
    keep()
    above.chmod(mode)
    assert f"{above} can be written to by others" in is_refused(caplog)
    above.chmod(0o1777)  # as /tmp: what is ours stays there
    assert not is_refused(caplog)


@needs_root
def test_what_belongs_to_somebody_else_is_not_used(cache, tmp_path, monkeypatch, caplog):
    above = tmp_path / "above"
    folder = above / "cache"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(folder))
    keep()
    for path in (folder, above):
        os.chown(path, FOREIGN, FOREIGN)
        assert f"{path} belongs to another user" in is_refused(caplog)
        os.chown(path, 0, 0)
    assert native_cache.read(NAME) == CONTENT
    os.chown(folder / NAME, FOREIGN, FOREIGN)
    assert native_cache.read(NAME) is None
    keep()
    assert native_cache.read(NAME) == CONTENT


def test_nor_is_what_belongs_to_anybody_but_who_asks(cache, monkeypatch):
    keep()
    real = os.geteuid()
    assert own_folder.reason_against(cache) == ""
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    assert "belongs to another user" in own_folder.reason_against(cache)
    assert native_cache.content_of(cache / NAME) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_can_write_to_is_not_found(mode, cache):
    keep()
    (cache / NAME).chmod(mode)
    assert native_cache.read(NAME) is None
    keep()
    assert native_cache.read(NAME) == CONTENT


def test_a_link_of_ones_own_is_followed(cache, tmp_path, monkeypatch, caplog):
    keep()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "first").symlink_to("../links/second")
    (tmp_path / "links" / "second").symlink_to(tmp_path)
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "links" / "first" / "cache"))
    assert not is_refused(caplog)
    assert native_cache.read(NAME) == CONTENT


@needs_root
def test_a_link_that_somebody_else_has_made_or_can_change_is_not_followed(cache, tmp_path, monkeypatch, caplog):
    keep()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(cache)
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(shared / "link"))
    assert not is_refused(caplog)
    os.lchown(shared / "link", FOREIGN, FOREIGN)
    assert f"{shared}/link belongs to another user" in is_refused(caplog)
    (tmp_path / "own").symlink_to(shared / "link")  # nor behind another one
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "own"))
    assert f"{shared}/link belongs to another user" in is_refused(caplog)


@needs_compiler
@pytest.mark.parametrize("way", ["open folder", "open file", "open above"])
def test_code_that_was_planted_is_not_run(way, tmp_path, monkeypatch):
    """A library with a good seal under the right name, where others can write: compiled anew."""
    cache = tmp_path / "above" / "cache"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(cache))
    assert loaded(3) == 3
    (path,) = cache.glob("*.so")
    assert loaded(4) == 4
    (other,) = set(cache.glob("*.so")) - {path}
    content = other.read_bytes()[:-50]
    path.unlink()  # this process has loaded it
    path.write_bytes(content)
    native_cache.seal(path, path.name)
    assert ctypes.CDLL(str(native_cache.find(path.name))).answer() == 4  # it would be loaded
    {"open folder": cache, "open file": path, "open above": cache.parent}[way].chmod(0o777)
    assert loaded(3) == 3


def test_where_there_is_no_place_at_all_nothing_is_compiled(cache, tmp_path):
    (tmp_path / "temporary").chmod(0o777)
    keep()
    cache.chmod(0o777)
    with pytest.raises(UnsuitableError, match="no folder for compiled programs in which nobody else can write: /"):
        loaded()


def test_the_folder_is_in_the_home_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("AITS_FUNC_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert native_cache.cache_folder() == tmp_path / ".cache" / "aits_func"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", "")
    assert native_cache.cache_folder() == tmp_path / ".cache" / "aits_func"
    monkeypatch.setenv("AITS_FUNC_CACHE_DIR", str(tmp_path / "named"))
    assert native_cache.cache_folder() == tmp_path / "named"


@needs_compiler
@pytest.mark.parametrize("why", ["a file in its place", "no permission", "no home"])
def test_where_nothing_can_be_kept_code_is_compiled_for_this_process_alone(
    why, tmp_path, compilations, monkeypatch, caplog
):
    monkeypatch.delenv("AITS_FUNC_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if why == "a file in its place":
        (tmp_path / "home").write_text("no folder")
    elif why == "no permission":
        may = os.access  # the superuser may write everywhere
        monkeypatch.setattr(os, "access", lambda path, *mode: ".cache" not in str(path) and may(path, *mode))
    else:
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    for _ in range(2):
        assert loaded() == 7
    assert len(compilations) == 1
    assert is_refused(caplog)
    (folder,) = (path for path in (tmp_path / "temporary").iterdir() if path.is_dir())
    assert [path.suffix for path in folder.iterdir()] == [".so"]


# --- nothing is left -------------------------------------------------------------------------------------------------


_ARE_KILLED = """
here.native_library.find_compiler = lambda: sys.argv[2]
print(*[child(here.loaded) for _ in range(int(sys.argv[3]))], flush=True)
print(*[os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(sys.argv[3]))])
"""


def eventually(condition):
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


@on_linux
def test_a_process_that_is_killed_while_it_compiles_leaves_no_compiler_and_no_folder(cache, tmp_path):
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    script = tmp_path / "compiler"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 1.0 && exit 0\nsleep 60 & sleep 60; wait\n')
    script.chmod(0o700)
    process = run_with_children(_ARE_KILLED, str(script), str(len(numbers)))
    children = [int(word) for word in process.stdout.readline().split()]

    def working():
        """The shell and two others, in a folder for each."""
        return [len(native_guard.processes_in(str(path))) for path in cache.glob("work-*") if path.is_dir()]

    assert eventually(lambda: working() == [3] * len(numbers))
    everybody = native_guard.processes_in(str(cache))
    for pid, number in zip(children, numbers, strict=True):
        os.kill(pid, number)
    codes, _ = process.communicate(timeout=60)
    assert "0" not in codes.split()
    assert eventually(lambda: list(cache.iterdir()) == [])
    assert not everybody & native_guard.processes_in("")


def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(cache):
    native_cache.cache_folder()  # which looks for the dead once in a process
    living, held = workplace.claim(cache)
    _, handle = workplace.claim(cache)
    os.close(handle)  # as the system does when a process ends
    without_lock = cache / f"work-{'a' * 16}"
    without_lock.mkdir()
    (without_lock / "program.cpp").touch()
    (cache / "work-of-mine").mkdir()
    with native_cache.new_folder() as place:
        folders = {path.name for path in cache.iterdir() if path.is_dir()}
        assert folders == {living.name, place.name, "work-of-mine"}
    assert {path.name for path in cache.iterdir()} == {living.name, f"{living.name}.lock", "work-of-mine"}
    workplace.release(living, held)


def test_a_folder_that_is_swept_before_it_is_locked_is_not_used(cache, monkeypatch):
    """Somebody takes the lock for that of a dead process in the moment between its making and its locking."""
    import fcntl

    cache.mkdir(mode=0o700)
    flock, swept = fcntl.flock, []

    def late(handle, what):
        if not swept:
            swept.append(handle)
            monkeypatch.setattr(fcntl, "flock", flock)
            workplace.sweep(cache)
        return flock(handle, what)

    monkeypatch.setattr(fcntl, "flock", late)
    with native_cache.new_folder() as place:
        assert swept
        assert place.is_dir()
        assert place.with_suffix(".lock").exists()
    assert list(cache.iterdir()) == []


# --- the bound -------------------------------------------------------------------------------------------------------


def names(count):
    return [f"{number:064x}.so" for number in range(count)]


def test_what_was_used_longest_ago_goes_first(cache, monkeypatch):
    one, two, three, four = names(4)
    for age, name in enumerate((one, two, three)):
        keep(name=name)
        os.utime(cache / name, (1000 + age, 1000 + age))
    (cache / "mine").write_bytes(CONTENT)
    assert native_cache.read(one) == CONTENT  # used just now
    monkeypatch.setattr(native_cache, "MOST_FILES", 3)
    keep(name=four)
    assert {path.name for path in cache.iterdir()} == {one, three, four, "mine"}
    monkeypatch.setattr(native_cache, "MOST_FILES", 100)
    monkeypatch.setattr(native_cache, "MOST_BYTES", 2 * (len(CONTENT) + 50))
    keep(name=two)
    assert len(list(cache.glob("*.so"))) == 2
    assert native_cache.read(two) == CONTENT
    monkeypatch.setattr(native_cache, "MOST_BYTES", len(CONTENT) + 60)  # the newest stays in any case
    keep(name=three)
    assert [path.name for path in cache.glob("*.so")] == [three]


@needs_compiler
def test_a_library_that_is_removed_is_good_for_those_who_have_it_and_made_anew_for_others(
    cache, compilations, monkeypatch
):
    assert loaded(5) == 5
    library = native_library._loaded(program(6))
    monkeypatch.setattr(native_cache, "MOST_FILES", 1)
    assert loaded(8) == 8
    assert len(list(cache.glob("*.so"))) == 1
    assert library.answer() == 6
    assert loaded(6) == 6
    assert len(compilations) == 4
    find = native_cache.find

    def find_what_goes(name):
        """In the moment between the look and the loading."""
        path = find(name)
        shutil.rmtree(cache)
        return path

    monkeypatch.setattr(native_cache, "find", find_what_goes)
    assert loaded(6) == 6


# --- TorchInductor ---------------------------------------------------------------------------------------------------


def graph_of(function, *example):
    return torch.fx.experimental.proxy_tensor.make_fx(function)(*example)


@pytest.fixture
def no_trials(monkeypatch):
    """Without the small programs that try out the processor, which take seconds."""
    from torch._inductor import cpu_vec_isa

    monkeypatch.setattr(cpu_vec_isa, "pick_vec_isa", lambda: None)


def compiled(factor, content=b"made"):
    """What a compiler finds in its folder, to which it adds a file if it is not there."""
    x = torch.ones(3)
    with inductor_cache.inductor_folder(graph_of(lambda x: factor * x, x), [x], {}):
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        found = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        if not found:
            (folder / "ab").mkdir()
            (folder / "ab" / "library.so").write_bytes(content)
            (folder / "locks").mkdir()
            (folder / "locks" / "library.lock").touch()
    assert not folder.exists()
    return found


@pytest.mark.usefixtures("no_trials")
def test_what_the_other_compiler_makes_is_kept_for_the_same_program_and_forgotten_when_damaged(cache):
    assert compiled(2) == {}
    (path,) = cache.iterdir()
    assert compiled(2) == {"library.so": b"made"}
    assert compiled(3) == {}
    whole = path.read_bytes()
    for what, content in (("cut off", whole[:-1]), ("zeros", bytes(len(whole))), ("empty", b"")):
        path.write_bytes(content)
        assert compiled(2, what.encode()) == {}
        assert compiled(2) == {"library.so": what.encode()}
    assert len(list(cache.iterdir())) == 2


@pytest.mark.usefixtures("no_trials")
def test_programs_that_differ_in_a_constant_alone_are_kept_apart():
    def name(constant):
        x = torch.ones(3)
        return inductor_cache._description(graph_of(lambda x: x + torch.tensor(constant), x), [x])

    assert name([1.0, 2.0, 3.0]) == name([1.0, 2.0, 3.0])
    assert name([1.0, 2.0, 3.0]) != name([1.0, 2.0, 4.0])


@pytest.mark.usefixtures("no_trials")
@pytest.mark.parametrize("value", [None, "/somewhere/else"])
def test_others_who_use_the_other_compiler_keep_their_folder(value, cache, monkeypatch):
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if value:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", value)
    before, x = dict(os.environ), torch.ones(3)

    def fail():
        with inductor_cache.inductor_folder(graph_of(lambda x: 2 * x, x), [x], {}):
            assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(cache)
            assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(cache)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    compiled(2)
    assert dict(os.environ) == before


_OTHER = """
import time, torch
from aits_func.base import engine
def sorting(x): return x.sort(0).values * x + x.cumsum(0)
began = time.monotonic()
run = engine.build_engine(sorting, mode="on")
x = torch.arange(33, dtype=torch.float64).flip(0)
assert torch.equal(run(x), sorting(x)) and run.fallback
"""


@pytest.mark.slow
@needs_compiler
def test_the_other_compiler_loads_nothing_from_a_folder_that_all_can_write_to_and_nothing_damaged(cache, tmp_path):
    """Its compiler leaves a note of every call. All of what it loads lies in our cache, sealed."""
    shared, tools, calls = tmp_path / "shared", tmp_path / "tools", tmp_path / "calls"
    shared.mkdir(), tools.mkdir()
    (tools / "g++").write_text(
        f'#!/bin/sh\ncase "$*" in *" -o "*) echo call >> {calls};; esac\nexec {shutil.which("g++")} "$@"\n'
    )
    (tools / "g++").chmod(0o700)
    environment = {**os.environ, "TMPDIR": str(shared), "PATH": f"{tools}:{os.environ['PATH']}"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)

    def compilations():
        """How many a new process makes."""
        calls.write_text("")
        done = subprocess.run([sys.executable, "-c", _OTHER], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert [path for path in shared.rglob("*") if path.is_file()] == []
        assert {path.suffix for path in cache.iterdir()} == {".inductor"}
        return len(calls.read_text().splitlines())

    assert compilations() > 0
    assert compilations() == 0
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1000])
    assert compilations() > 0
    assert compilations() == 0


@pytest.mark.slow
@on_linux
@needs_compiler
def test_the_other_compiler_ends_too_when_its_process_is_killed(cache):
    process = subprocess.Popen([sys.executable, "-c", _OTHER])
    assert eventually(lambda: native_guard.processes_in(str(cache)))
    compilers = native_guard.processes_in(str(cache))
    process.kill()
    process.wait()
    assert eventually(lambda: list(cache.iterdir()) == [])
    assert not compilers & native_guard.processes_in("")
