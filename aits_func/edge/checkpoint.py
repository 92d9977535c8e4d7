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

from ..base.tree import leaf_names, named_leaves, replace_leaves
from .config import WriteError
from .extras import load_extra
from .untrusted import InputError, cannot_read, check_tables, require_regular

FORMAT = "aits_func checkpoint"
VERSION = 2  # 2: with a digest
MAX_HEADER = 2**20
"""Largest header that is read, in bytes: names, shapes and metadata; that of a usual run has ten thousand."""

Tree = TypeVar("Tree")
_NO_DIGEST = 32 * "0"
_RESERVED = "__metadata__"  # by safetensors
_OF_SYSTEMS = "sample.system.position"  # the end of the names of the leaves that say (N, D) of the systems
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
    """Write a pytree of tensors with its metadata, atomically; what is written, `load_checkpoint` gives back.

    Args:
        path: the file; it is replaced only once the new one is complete on disk.
        tree: a pytree of tensors, e.g. a `TrainState`; every leaf is stored under its dotted path.
        config: plain values, JSON-serialisable.
        seed: the key of the run.
        epoch: finished epochs.

    Raises:
        InputError: if two leaves have one dotted path or a leaf a reserved one, a leaf is no tensor, or of a dtype that
            is not read, the header would be larger than `MAX_HEADER`, or the metadata would be refused by
            `read_metadata`. Nothing is written then.
        WriteError: if the file cannot be written.
    """
    _check_names(path, tree)
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
    content = with_digest(safetensors.save(tensors, metadata))
    _check_content(path, content, named_leaves(tree))
    write_atomically(Path(path), content)


def _check_names(path: str | Path, tree: Any) -> None:
    """Refuse leaves that would overwrite each other, or the metadata, or be no tensors that are read."""
    _check_distinct(path, tree)
    known = {dtype: word for word, dtype in _DTYPES.items()}
    for name, leaf in named_leaves(tree).items():
        if not isinstance(leaf, Tensor):
            kind = type(leaf).__name__
            raise InputError(f"{path}: cannot save {name or 'the tree'}: not a tensor but a {kind}; use torch.tensor")
        if leaf.dtype not in known:
            dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in known)
            raise InputError(f"{path}: cannot save {name} in {leaf.dtype}; convert it to one of {dtypes}")
        if name == _RESERVED or (name.endswith(_OF_SYSTEMS) and leaf.ndim < 2) or not _is_text(name):
            why = "is reserved" if _is_text(name) else "is no Unicode text"
            raise InputError(f"{path}: cannot save a leaf called {name!r}, which {why}; give it another name")


def _check_distinct(path: str | Path, tree: Any) -> None:
    """Refuse a tree in which two leaves have one name."""
    names = leaf_names(tree)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"{path}: two leaves are both called {double}, and one would be lost; rename a key (a point in a key reads "
            "like a key of an inner dict)"
        )


def _is_text(name: str) -> bool:
    """Whether it can be written in UTF-8, which half a character cannot."""
    return name.encode(errors="replace").decode() == name


def _check_content(path: str | Path, content: bytes, wanted: dict[str, Tensor]) -> None:
    """Refuse to write what would be refused when it is read."""
    (length,) = struct.unpack("<Q", content[:8])
    if length > MAX_HEADER:
        raise InputError(
            f"{path}: cannot save {len(wanted)} leaves: their names, shapes and the configuration take {length} bytes, "
            f"and {MAX_HEADER} are read; stack leaves, or shorten their names"
        )
    entries = json.loads(content[8 : 8 + length])
    try:
        _metadata(entries, str(path))
    except InputError as error:
        raise InputError(f"{path}: cannot save this: {error}; see config, seed and epoch") from None
    for name, leaf in wanted.items():
        _check_leaf(path, name, leaf, entries)


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
    return _metadata(_read_header(Path(path)), str(path))


def _metadata(entries: dict[str, Any], path: str) -> Metadata:
    """What the header of a checkpoint says, which error messages call ``path``."""
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
        check_tables((config, numbers), path)
        # Not what dict() makes of a list of pairs, whose keys need not be words; and no run is before its start.
        if not isinstance(config, dict) or not isinstance(header["torch"], str) or numbers[1] < 0:
            raise ValueError
        return Metadata(config, *numbers, header["torch"], _trained_shapes(entries))
    except InputError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        raise InputError(f"{path}: the checkpoint's metadata is damaged; use another checkpoint") from None


def _trained_shapes(entries: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    positions = {k: v["shape"] for k, v in entries.items() if k.endswith(_OF_SYSTEMS)}
    if not all(type(size) is int for shape in positions.values() for size in shape[-2:]):
        raise ValueError
    return tuple((shape[-2], shape[-1]) for _, shape in sorted(positions.items()))


def load_checkpoint(path: str | Path, like: Tree, *, prefix: str = "", cast: bool = False) -> Tree:
    """Read a checkpoint into the structure of a tree that has the same leaves, and check its digest.

    Args:
        path: the file.
        like: a pytree with the names, shapes, dtypes and devices that are expected.
        prefix: the dotted path of ``like`` inside the checkpoint, e.g. "params."; "" for all of it, and then
            a leaf that ``like`` lacks is an error too.
        cast: whether floating-point leaves of another floating-point dtype are converted; `other_dtypes` says which.

    Returns:
        The tree, its leaves from the file, on the devices of ``like``. No more is read than that.

    Raises:
        InputError: naming the first leaf that is missing, superfluous, or of another shape or dtype, or too large for
            the dtype that it is cast to; if two leaves of ``like`` have one name; or if a bit of the file is not as
            it was written.
    """
    _check_distinct(path, like)
    read_metadata(path)
    stored = {name: entry for name, entry in _read_header(Path(path)).items() if name != "__metadata__"}
    wanted = {prefix + name: leaf for name, leaf in named_leaves(like).items()}
    for name, leaf in wanted.items():
        _check_leaf(path, name, leaf, stored, cast=cast)
    surplus = sorted(set(stored) - set(wanted)) if not prefix else []
    if surplus:
        raise InputError(f"{path}: holds {surplus[0]}, which this configuration has not; was it made by another one?")
    _check_digest(path)
    return replace_leaves(like, _read_tensors(path, wanted))


def other_dtypes(path: str | Path, like: Any, *, prefix: str = "") -> dict[str, tuple[torch.dtype, torch.dtype]]:
    """The leaves that are stored in another dtype than ``like`` has: by name, (that of the file, that of ``like``).

    Args:
        path: of a checkpoint that ``like`` can be loaded from.
        like: as in `load_checkpoint`.
        prefix: as in `load_checkpoint`.
    """
    stored = _read_header(Path(path))
    both = {name: (_DTYPES[stored[prefix + name]["dtype"]], leaf.dtype) for name, leaf in named_leaves(like).items()}
    return {name: (theirs, ours) for name, (theirs, ours) in both.items() if theirs != ours}


def _read_tensors(path: str | Path, wanted: dict[str, Tensor]) -> list[Tensor]:
    """The tensors of those names, on the devices and in the dtypes of those leaves."""
    safetensors = load_extra("safetensors.torch", "cli")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            # Cloned, as what it returns is a view of the file, which others may change.
            found = [file.get_tensor(name).clone() for name in wanted]
    except Exception as error:  # the Rust side raises its own class, whose home moved between releases
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: damaged checkpoint ({reason}); use another one") from None
    return [_moved(path, name, tensor, leaf) for (name, leaf), tensor in zip(wanted.items(), found, strict=True)]


def _moved(path: str | Path, name: str, tensor: Tensor, leaf: Tensor) -> Tensor:
    """The tensor in the dtype and on the device of the leaf."""
    moved = tensor.to(leaf.dtype)
    if moved.dtype != tensor.dtype and bool((moved.isinf() & ~tensor.isinf()).any()):
        raise InputError(f"{path}: {name} is too large for {leaf.dtype}; compute in {tensor.dtype}, as it was saved")
    return moved.to(leaf.device)


def _check_leaf(path: str | Path, name: str, leaf: Tensor, stored: dict[str, Any], *, cast: bool = False) -> None:
    if name not in stored:
        raise InputError(f"{path}: lacks {name}, which this configuration has; was it made by another one?")
    entry = stored[name] if isinstance(stored[name], dict) else {}
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not isinstance(shape, list) or not isinstance(dtype, str):
        raise InputError(f"{path}: damaged checkpoint ({name} has no shape or dtype); use another one")
    theirs = _DTYPES.get(dtype)
    fits = theirs == leaf.dtype or (
        cast and theirs is not None and theirs.is_floating_point and leaf.is_floating_point()
    )
    if shape != list(leaf.shape) or not fits:
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
