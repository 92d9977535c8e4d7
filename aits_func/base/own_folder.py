"""Whether what lies in a folder can have been written by somebody else."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

POSIX = os.name == "posix"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OPEN = "can be written to by others (chmod go-w)"
_MOST_LINKS = 40  # as many as Linux follows


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, for the user alone whatever the umask is."""
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # somebody was faster; it is looked at like any other
            each.mkdir(mode=0o700)


def reason_against(folder: Path) -> str:
    """Why somebody else can have written what is in a folder, or can put another one in its place; "" if not."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    own = suspicion(folder.stat())
    return reason_against_way(folder) or (f"{folder.resolve()} {own}" if own else "")


def reason_against_way(folder: Path) -> str:
    """Why somebody else can put another folder in the place of one that is ours; "" if nobody can."""
    for path, status in _way_to(folder) if POSIX else ():
        if status.st_uid not in (0, os.geteuid()):
            return f"{path} belongs to another user (number {status.st_uid})"
        # Where the sticky bit is set nobody moves what is another's. The bits of a link say nothing.
        if status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX and not stat.S_ISLNK(status.st_mode):
            return f"{path} {_OPEN}"
    return ""


def suspicion(status: os.stat_result) -> str:
    """Why others can have written this file, or into this folder; "" if they cannot."""
    if POSIX and status.st_uid != os.geteuid():
        return f"belongs to another user (number {status.st_uid})"
    if POSIX and status.st_mode & _OTHERS:
        return _OPEN
    return ""


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every folder and every link that is gone through on the way to a path, and itself."""
    here, links = Path(path.anchor), 0
    yield here, here.lstat()
    parts = list(reversed(path.parts[1:]))
    while parts:
        part = parts.pop()
        here = here.parent if part == ".." else here / part
        status = here.lstat()
        yield here, status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"too many links: {path}")
            target = Path(os.readlink(here))
            here = Path(target.anchor) if target.is_absolute() else here.parent
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
