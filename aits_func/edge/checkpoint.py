"""Checkpoints: safetensors with dotted leaf names, and JSON metadata. No code is ever executed.

Written to a temporary file beside the target, synced, then moved over it, so that a checkpoint is
always whole: the old one or the new one.
"""

import contextlib
import hashlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..base.tree import named_leaves, replace_leaves
from .config import WriteError
from .extras import load_extra
from .untrusted import InputError, cannot_read, check_tables, require_regular

FORMAT = "aits_func checkpoint"
VERSION = 2  # 2: with a digest
MAX_HEADER = 2**20
"""Largest header that is read, in bytes: names, shapes and metadata; that of a usual run has ten thousand."""

Tree = TypeVar("Tree")
_NO_DIGEST = 32 * "0"
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


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
        "digest": _NO_DIGEST,
    }
    write_atomically(Path(path), with_digest(safetensors.save(tensors, metadata)))


def with_digest(content: bytes) -> bytes:
    """A checkpoint with its digest filled in: of all its bytes, where the digest itself counts as zeros.

    It finds damage, not forgery: whoever changes a file on purpose can write a new one.
    """
    entry = b'"digest":"%s"'
    content = re.sub(entry % b"[0-9a-f]{32}", entry % _NO_DIGEST.encode(), content, count=1)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return content.replace(entry % _NO_DIGEST.encode(), entry % digest.encode(), 1)


def _check_digest(path: str | Path) -> None:
    """Refuse a checkpoint in which any bit is not as it was written; the file is read piece by piece."""
    stored = str(_read_header(Path(path))["__metadata__"].get("digest")).encode("ascii", errors="replace")
    with open(path, "rb") as file:
        start = file.read(8)
        header = file.read(*struct.unpack("<Q", start))
        found = hashlib.blake2b(start, digest_size=16)
        found.update(header.replace(b'"digest":"%s"' % stored, b'"digest":"%s"' % _NO_DIGEST.encode(), 1))
        while piece := file.read(2**20):
            found.update(piece)
    if found.hexdigest().encode() != stored:
        raise InputError(f"{path}: damaged checkpoint (its digest is not that of its content); use another one")


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
        config, numbers = json.loads(header["config"]), (int(header["seed"]), int(header["epoch"]))
        check_tables((config, numbers), str(path))
        # Not what dict() makes of a list of pairs, whose keys need not be words; and no run is before its start.
        if not isinstance(config, dict) or not isinstance(header["torch"], str) or numbers[1] < 0:
            raise ValueError
        return Metadata(config, *numbers, header["torch"], _trained_shapes(entries))
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        raise InputError(f"{path}: the checkpoint's metadata is damaged; use another checkpoint") from None


def _trained_shapes(entries: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    positions = {k: v["shape"] for k, v in entries.items() if k.endswith("sample.system.position")}
    if not all(type(size) is int for shape in positions.values() for size in shape[-2:]):
        raise ValueError
    return tuple((shape[-2], shape[-1]) for _, shape in sorted(positions.items()))


def load_checkpoint(path: str | Path, like: Tree, *, prefix: str = "") -> Tree:
    """Read a checkpoint into the structure of a tree that has the same leaves, and check its digest.

    Args:
        path: the file.
        like: a pytree with the names, shapes, dtypes and devices that are expected.
        prefix: the dotted path of ``like`` inside the checkpoint, e.g. "params."; "" for all of it, and then
            a leaf that ``like`` lacks is an error too.

    Returns:
        The tree, its leaves from the file, on the devices of ``like``. No more is read than that.

    Raises:
        InputError: naming the first leaf that is missing, superfluous, or of another shape or dtype; or if a bit of
            the file is not as it was written.
    """
    read_metadata(path)
    stored = {name: entry for name, entry in _read_header(Path(path)).items() if name != "__metadata__"}
    wanted = {prefix + name: leaf for name, leaf in named_leaves(like).items()}
    for name, leaf in wanted.items():
        _check_leaf(path, name, leaf, stored)
    surplus = sorted(set(stored) - set(wanted)) if not prefix else []
    if surplus:
        raise InputError(f"{path}: holds {surplus[0]}, which this configuration has not; was it made by another one?")
    _check_digest(path)
    return replace_leaves(like, _read_tensors(path, wanted))


def _read_tensors(path: str | Path, wanted: dict[str, Tensor]) -> list[Tensor]:
    """The tensors of those names, on the devices of those leaves."""
    safetensors = load_extra("safetensors.torch", "cli")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            # Cloned, as what it returns is a view of the file, which others may change.
            return [file.get_tensor(name).clone().to(leaf.device) for name, leaf in wanted.items()]
    except Exception as error:  # the Rust side raises its own class, whose home moved between releases
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: damaged checkpoint ({reason}); use another one") from None


def _check_leaf(path: str | Path, name: str, leaf: Tensor, stored: dict[str, Any]) -> None:
    if name not in stored:
        raise InputError(f"{path}: lacks {name}, which this configuration has; was it made by another one?")
    entry = stored[name] if isinstance(stored[name], dict) else {}
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not isinstance(shape, list) or not isinstance(dtype, str):
        raise InputError(f"{path}: damaged checkpoint ({name} has no shape or dtype); use another one")
    if shape != list(leaf.shape) or _DTYPES.get(dtype) != leaf.dtype:
        raise InputError(
            f"{path}: {name} is {tuple(shape)} {_DTYPES.get(dtype, dtype)}, this configuration wants "
            f"{tuple(leaf.shape)} {leaf.dtype}; was it made by another one?"
        )


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: eight bytes of length, then that many of JSON."""
    try:
        require_regular(path, "this checkpoint")
        with path.open("rb") as file:
            size = path.stat().st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise InputError(f"{path}: truncated or not a checkpoint; use another one")
            header = json.loads(file.read(length))
    except (InputError, OSError) as error:
        raise cannot_read(path, "this checkpoint", error) from None
    except (struct.error, ValueError, RecursionError):
        raise InputError(f"{path}: truncated or not a checkpoint; use another one") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a checkpoint of aits_func; name a run directory or its checkpoint.safetensors")
    return header
