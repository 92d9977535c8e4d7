"""Real disks that are too small or read-only: file systems in memory, in a namespace that only this process sees.

As root, or where the system lets users have such namespaces. There a disk is full when it is full, not when a test
says so: with each size, and each number of files, it is another call that fails.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reliability.findings import Finding, main
from reliability.kills import prepared
from reliability.nursery import Child, Run, nursery
from reliability.runs import Ended, advice, difference, is_complete, is_one_line, unreadable, work_folder

EPOCHS = 12
_NAMESPACE = ("unshare", "--map-root-user", "--mount")


def findings_in_a_namespace(short: bool) -> list[Finding]:
    """The findings of this campaign, made in a process that may mount file systems; none where that cannot be."""
    if short or not shutil.which("unshare") or subprocess.run([*_NAMESPACE, "true"], capture_output=True).returncode:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "findings.json"
        command = [*_NAMESPACE, sys.executable, "-m", "reliability.disks", "--json", str(path)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if not path.exists():
            return [Finding("real disks can be tried", False, {"exit code": done.returncode})]
        return [Finding(**each) for each in json.loads(path.read_text())]


def campaign(short: bool) -> list[Finding]:
    """Small disks of every size, with few files, and read-only ones."""
    with work_folder(in_memory=True) as place, nursery() as run:
        folder = prepared(place / "runs", EPOCHS, run)
        disk = folder / "disk"
        disk.mkdir()
        sizes = [f"size={4 * pages}k" for pages in range(1, 48, 8 if short else 2)]
        counts = [f"size=10m,nr_inodes={count}" for count in range(1, 12, 4 if short else 1)]
        return [
            _trainings("disks too small by any number of pages", sizes, disk, run),
            _trainings("disks for too few files", counts, disk, run),
            *_other_commands(disk, run, sizes[::2]),
            _read_only(disk, run),
        ]


def _trainings(title: str, options: list[str], disk: Path, run: Run) -> Finding:
    broken, failed = [], Counter[str]()
    for option in options:
        _mount(disk, option)
        (end,) = run(Child(str(disk), ("train", "../run.toml", "--out", "run"), pictures=True))
        if end.code:
            failed[_where(end)] += 1
            problem = _stopped(end, disk / "run") or _after_making_space(disk, run, end)
        else:
            problem = difference(disk / "run", disk.parent / "whole")
        broken += [f"{option}: {problem}"] if problem else []
        _unmount(disk)
    return Finding(
        f"{title}: one line, and with more space the training goes on to the same bits",
        failed.total() > 0 and not broken,
        {"disks": len(options), "full": failed.total(), **{f"full at {place}": n for place, n in failed.items()}},
        tuple(broken[:5]),
    )


def _other_commands(disk: Path, run: Run, options: list[str]) -> Iterator[Finding]:
    for command in (("both",), ("simulate", "--checkpoint", "../whole"), ("compare",)):
        broken, failed = [], Counter[str]()
        for option in options:
            _mount(disk, option)
            word, *more = command
            (end,) = run(Child(str(disk), (word, "../run.toml", *more, "--out", "run"), pictures=True))
            if end.code:
                failed[_where(end)] += 1
                problem = _stopped(end, disk / "run")
                broken += [f"{option}: {problem}"] if problem else []
            _unmount(disk)
        yield Finding(
            f"disks too small for aits {command[0]}: one line, and what was written can be read",
            failed.total() > 0 and not broken,
            {"disks": len(options), "full": failed.total(), **{f"full at {place}": n for place, n in failed.items()}},
            tuple(broken[:5]),
        )


def _read_only(disk: Path, run: Run) -> Finding:
    """New runs and resumed ones are refused; what only reads a run there works."""
    _mount(disk, "size=10m")
    shutil.copytree(disk.parent / "whole", disk / "run")
    _remount(disk, "ro")
    at, broken = str(disk), []
    for words in (("train", "../run.toml", "--out", "new"), ("train", "--resume", "run", "--epochs", "20")):
        (end,) = run(Child(at, words))
        if end.code != 2 or not is_one_line(end) or "Read-only" not in end.err:
            broken.append(f"{' '.join(words)}: {end.code}, {end.err}")
    reading = ("simulate", "../run.toml", "--checkpoint", "run", "--out", "../simulated")
    for words in (("inspect", "run"), reading):
        (end,) = run(Child(at, words))
        if end.code or end.err:
            broken.append(f"{' '.join(words)}: {end.code}, {end.err}")
    _unmount(disk)
    return Finding(
        "a read-only disk is refused with one line, and can be read", not broken, {"cases": 4}, tuple(broken)
    )


def _where(end: Ended) -> str:
    """Which file an error names."""
    return Path(end.err.split("error: ")[-1].split(":")[0]).name


def _stopped(end: Ended, directory: Path) -> str:
    if end.code not in (1, 2) or not is_one_line(end) or "No space left on device" not in end.err:
        return f"exit code {end.code}, {end.err.strip()[-300:]!r}"
    left = [path.name for path in directory.iterdir() if path.name.startswith(".")] if directory.is_dir() else []
    return ", ".join((*unreadable(directory), *(f"{name} is left" for name in left)))


def _after_making_space(disk: Path, run: Run, end: Ended) -> str:
    _remount(disk, "size=10m,nr_inodes=100")
    said = advice(end)
    fresh = ("train", "../run.toml", "--out", "run")
    resumed = ("train", "--resume", "run")
    words = fresh if not said else said if said[0] == "train" else resumed
    (end,) = run(Child(str(disk), words, pictures=True))
    if not is_complete(end):
        return f"is not gone on with: exit code {end.code}, {end.err.strip()!r}"
    return difference(disk / "run", disk.parent / "whole")


def _mount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def _unmount(disk: Path) -> None:
    subprocess.run(["umount", str(disk)], check=True)


if __name__ == "__main__":
    main(campaign, __doc__)
