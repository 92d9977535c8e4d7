"""The folder of what is compiled. Code is loaded from it: what lies there is whole, and nobody else has written it.

It is ``AITS_FUNC_CACHE_DIR``, or ``~/.cache/aits_func``. Every file ends in a digest of its name and content, in the
file itself, so that the two cannot part: one that was cut off, damaged or exchanged is as good as not there. A folder
that somebody else owns or can write to, or that lies in such a one, is not used; a folder of this process alone is used
in its place, and one line in the log says why.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

from . import workplace
from .native_graph import UnsuitableError
from .own_folder import POSIX, make_folder, reason_against, reason_against_way, suspicion

MOST_BYTES = 512 * 2**20
MOST_FILES = 2000
"""The bound of the cache: what has not been used for the longest time goes first."""

_SEAL = b"\naits_func sealed\n"
_DIGEST = 32  # bytes
_ENTRY = re.compile(r"[0-9a-f]{64}\.(so|inductor)")
_TEMPORARY = "aits_func-"


def cache_folder() -> Path:
    """The folder of what is compiled, without symbolic links; made if it is not there.

    Raises:
        UnsuitableError: if there is no place at all where nobody else can write.
    """
    try:
        folder = Path(os.environ.get("AITS_FUNC_CACHE_DIR") or Path.home() / ".cache" / "aits_func").absolute()
        make_folder(folder)
        reason = reason_against(folder)
        if not reason and not os.access(folder, os.W_OK | os.X_OK):
            reason = f"{folder} cannot be written to"
        folder = folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # no home
        reason = f"it cannot be made ({error})"
    if reason:
        _say(
            f"the cache of compiled programs is not used: {reason}. What is compiled is kept for this process alone; "
            "mend that, or set AITS_FUNC_CACHE_DIR to a folder of your own"
        )
        return _temporary(os.getpid())
    _tidy_up(folder, os.getpid())
    return folder


@contextmanager
def new_folder(*, lasting: bool = False) -> Iterator[Path]:
    """A folder in the cache in which to make something: see `workplace`."""
    with workplace.workplace(cache_folder(), lasting=lasting) as place:
        yield place


def find(name: str) -> Path | None:
    """The file of this name, if it is as it was kept; it counts as used now."""
    path = cache_folder() / name
    return path if content_of(path) is not None else None


def read(name: str) -> bytes | None:
    """What was kept under this name, if it is as it was kept; it counts as used now."""
    return content_of(cache_folder() / name)


def seal(made: Path, name: str) -> None:
    """Put the digest at the end of a file, where it does no harm to a library, and bring all of it to the disk.

    Args:
        made: a file in a `new_folder`.
        name: under which it is going to be kept.
    """
    with made.open("r+b") as file:
        if POSIX:
            os.fchmod(file.fileno(), 0o600)
        digest = _digest(name, file.read())
        file.write(_SEAL + digest)
        file.flush()
        os.fsync(file.fileno())


def keep(made: Path, name: str) -> None:
    """Move a sealed file into the cache, at once, and make room for it. One that cannot be moved is not kept."""
    folder = made.parent.parent
    try:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        made.replace(folder / name)
        _bring_to_disk(folder)
        _make_room(folder, name)
    except OSError as error:
        _say(f"a compiled program cannot be kept in {folder} ({error}), and is compiled again by the next process")


def _digest(name: str, content: bytes) -> bytes:
    """Of the name too: a file that was copied to the name of another is none."""
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def content_of(path: Path) -> bytes | None:
    """What a file that was kept holds; None if it is not whole, or not ours alone."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES or suspicion(status):
                return None
            whole = file.read()
    except OSError:
        return None
    end = len(whole) - len(_SEAL) - _DIGEST
    if end < 0 or whole[end:] != _SEAL + _digest(path.name, whole[:end]):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return whole[:end]


def _open(path: str, flags: int) -> int:
    """Not through a link, and without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _bring_to_disk(folder: Path) -> None:
    if POSIX:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_room(folder: Path, newest: str) -> None:
    """Remove what was used longest ago. Whoever has loaded it keeps it; whoever is about to makes it anew."""
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # somebody else makes room too
            if _ENTRY.fullmatch(entry.name) and entry.name != newest and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, status.st_size, entry.path))
    size, count = (folder / newest).stat().st_size, 1
    for _, bytes_, path in sorted(found, reverse=True):
        size, count = size + bytes_, count + 1
        if size > MOST_BYTES or count > MOST_FILES:
            Path(path).unlink(missing_ok=True)


@cache
def _say(line: str) -> None:
    """Once in a process. In the log, as warnings are switched off while something is compiled."""
    logging.getLogger("aits_func").warning("aits_func: %s", line)


@lru_cache(maxsize=8)
def _tidy_up(folder: Path, process: int) -> None:
    """Once in a process: remove what others that were killed have left."""
    for base, prefix in ((folder, ()), (Path(tempfile.gettempdir()), (_TEMPORARY,))):
        with contextlib.suppress(OSError):
            workplace.sweep(base, *prefix)


@lru_cache(maxsize=1)
def _temporary(owner: int) -> Path:
    """A folder of this process (not of those that it forks), removed when it ends."""
    base = Path(tempfile.gettempdir()).resolve()
    try:
        if reason := reason_against_way(base):
            raise UnsuitableError(f"there is no folder for compiled programs in which nobody else can write: {reason}")
        folder, handle = workplace.claim(base, _TEMPORARY)
    except OSError as error:
        raise UnsuitableError(f"there is no folder for compiled programs: {error}") from error
    workplace.release_at_exit(folder, handle)
    return folder
