"""Checkpoints: safetensors with dotted leaf names, and JSON metadata. No code is ever executed.

Written to a temporary file beside the target, synced, then moved over it, so that a checkpoint is
always whole: the old one or the new one.
"""

import contextlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..base.tree import named_leaves, replace_leaves
from .config import InputError, WriteError
from .extras import load_extra

FORMAT = "aits_func checkpoint"
VERSION = 1
Tree = TypeVar("Tree")


class Metadata(NamedTuple):
    """What a checkpoint says about itself."""

    config: dict[str, Any]  # of the training run, scales resolved
    seed: int
    epoch: int  # finished epochs
    torch: str  # version that wrote it
    shapes: tuple[tuple[int, int], ...]  # (N, D) of the systems it was trained on


def save_checkpoint(path: str | Path, tree: Any, *, config: dict[str, Any], seed: int, epoch: int) -> None:
    """Write a pytree of tensors with its metadata, atomically.

    Args:
        path: the file; it is replaced only once the new one is complete on disk.
        tree: a pytree of tensors, e.g. a `TrainState`.
        config: plain values, JSON-serialisable.
        seed: the key of the run.
        epoch: finished epochs.

    Raises:
        WriteError: if the file cannot be written.
    """
    safetensors = load_extra("safetensors.torch", "cli")
    # safetensors wants contiguous tensors that share no memory.
    tensors = {
        name: leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, leaf in named_leaves(tree).items()
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "config": json.dumps(config),
        "seed": str(seed),
        "epoch": str(epoch),
        "torch": torch.__version__,
    }
    write_atomically(Path(path), safetensors.save(tensors, metadata))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written, not even after a power cut.

    A process that is killed can leave its temporary file, see `is_left_behind`.

    Raises:
        WriteError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Not mkstemp, whose files nobody but the owner could read.
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise WriteError(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # after a success there is none, and no folder may be there either
            temporary.unlink()


def is_left_behind(path: Path) -> bool:
    """Whether a file is called like the temporary ones of `write_atomically`."""
    return re.fullmatch(r"\..+\.\d+\.part", path.name) is not None


def _sync_directory(path: Path) -> None:
    """Make the new directory entry durable; without it a power cut can bring the old file back."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_metadata(path: str | Path) -> Metadata:
    """What a checkpoint says about itself, without reading its tensors.

    Raises:
        InputError: if the file is missing, truncated, not a checkpoint of ours, or of another version.
    """
    entries = _read_header(Path(path))
    header = entries.get("__metadata__", {})
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of aits_func; name a run directory or its checkpoint.safetensors")
    if header.get("format_version") != str(VERSION):
        raise InputError(
            f"{path}: checkpoint format version {header.get('format_version')}, this program reads {VERSION}; "
            "use the release that wrote it"
        )
    try:
        config = dict(json.loads(header["config"]))
        return Metadata(config, int(header["seed"]), int(header["epoch"]), header["torch"], _trained_shapes(entries))
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        raise InputError(f"{path}: the checkpoint's metadata is damaged; use another checkpoint") from None


def _trained_shapes(entries: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    positions = {k: v["shape"] for k, v in entries.items() if k.endswith("sample.system.position")}
    return tuple((int(shape[-2]), int(shape[-1])) for _, shape in sorted(positions.items()))


def load_checkpoint(path: str | Path, like: Tree, *, prefix: str = "") -> Tree:
    """Read a checkpoint into the structure of a tree that has the same leaves.

    Args:
        path: the file.
        like: a pytree with the names, shapes, dtypes and devices that are expected.
        prefix: the dotted path of ``like`` inside the checkpoint, e.g. "params."; "" for all of it, and then
            a leaf that ``like`` lacks is an error too.

    Returns:
        The tree, its leaves from the file, on the devices of ``like``.

    Raises:
        InputError: naming the first leaf that is missing, superfluous, or of another shape or dtype.
    """
    read_metadata(path)
    safetensors = load_extra("safetensors.torch", "cli")
    try:
        stored: dict[str, Tensor] = safetensors.load_file(str(path))
    except Exception as error:  # the Rust side raises its own class, whose home moved between releases
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: damaged checkpoint ({reason}); use another one") from None
    wanted = {prefix + name: leaf for name, leaf in named_leaves(like).items()}
    for name, leaf in wanted.items():
        _check_leaf(path, name, leaf, stored)
    surplus = sorted(set(stored) - set(wanted)) if not prefix else []
    if surplus:
        raise InputError(f"{path}: holds {surplus[0]}, which this configuration has not; was it made by another one?")
    return replace_leaves(like, [stored[name].to(leaf.device) for name, leaf in wanted.items()])


def _check_leaf(path: str | Path, name: str, leaf: Tensor, stored: dict[str, Tensor]) -> None:
    if name not in stored:
        raise InputError(f"{path}: lacks {name}, which this configuration has; was it made by another one?")
    got = stored[name]
    if got.shape != leaf.shape or got.dtype != leaf.dtype:
        raise InputError(
            f"{path}: {name} is {tuple(got.shape)} {got.dtype}, this configuration wants {tuple(leaf.shape)} "
            f"{leaf.dtype}; was it made by another one?"
        )


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: eight bytes of length, then that many of JSON."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, 100_000_000):
                raise InputError(f"{path}: truncated or not a checkpoint; use another one")
            header = json.loads(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot read this checkpoint: {error.strerror}; check the path") from None
    except (struct.error, ValueError, RecursionError):
        raise InputError(f"{path}: truncated or not a checkpoint; use another one") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a checkpoint of aits_func; name a run directory or its checkpoint.safetensors")
    return header
