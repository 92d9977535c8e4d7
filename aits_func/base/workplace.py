"""Folders in which something is made: locked while their owner lives, and removed by whoever comes after him."""

import atexit
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import native_guard
from .native_guard import end_processes
from .own_folder import POSIX

try:
    import fcntl
except ImportError:  # there are no locks on Windows, and folders of the dead are removed by nobody
    fcntl = None  # type: ignore[assignment]

_PREFIX = "work-"


@contextmanager
def workplace(base: Path, *, lasting: bool = False) -> Iterator[Path]:
    """A folder in which to make something; gone at the end.

    If that is an exception, or this process is killed, the processes that work in the folder are ended too.

    Args:
        base: where it is going to lie; nobody else can write there.
        lasting: keep it until this process ends.
    """
    sweep(base)
    folder, handle = claim(base)
    guard = _start_guard(folder)
    try:
        yield folder
    except BaseException:
        end_processes(str(folder))
        raise
    finally:
        if lasting:
            release_at_exit(folder, handle)
        else:
            release(folder, handle)
        if guard:
            guard.kill()
            guard.wait()


def _start_guard(folder: Path) -> "subprocess.Popen[bytes] | None":
    """See `native_guard`."""
    if not sys.platform.startswith("linux") or not sys.executable or getattr(sys, "frozen", False):
        return None
    command = [sys.executable, "-I", "-S", native_guard.__file__, str(os.getpid()), str(folder)]
    try:
        # Out of the reach of a terminal's Ctrl-C, and without anything of ours that it would hold open.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return None


def claim(base: Path, prefix: str = _PREFIX) -> tuple[Path, int]:
    """A new folder, and the lock beside it that says that its owner lives; the lock comes first and goes last."""
    while True:
        folder = base / f"{prefix}{secrets.token_hex(8)}"
        lock = Path(f"{folder}.lock")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
            if lock.exists() and os.path.samestat(lock.stat(), os.fstat(handle)):  # nobody has swept it meanwhile
                folder.mkdir(mode=0o700)
                return folder, handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def release(folder: Path, handle: int) -> None:
    """Remove a folder that was claimed, and its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(f"{folder}.lock")
    os.close(handle)


def release_at_exit(folder: Path, handle: int) -> None:
    """The same when this process ends (not one that it forks)."""
    owner = os.getpid()
    atexit.register(lambda: release(folder, handle) if os.getpid() == owner else None)


def sweep(base: Path, prefix: str = _PREFIX) -> None:
    """Remove the folders whose owners are gone."""
    if fcntl is None:
        return
    for entry in os.scandir(base):
        name = entry.name.removesuffix(".lock")
        if not re.fullmatch(re.escape(prefix) + "[0-9a-f]{16}", name) or not _is_mine(entry):
            continue
        folder = base / name
        try:
            handle = os.open(f"{folder}.lock", os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:  # nobody makes a folder before it has the lock
            shutil.rmtree(folder, ignore_errors=True)
            continue
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its owner lives, or there are no locks
            os.close(handle)
            continue
        release(folder, handle)


def _is_mine(entry: "os.DirEntry[str]") -> bool:
    try:
        return not POSIX or entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        return False
