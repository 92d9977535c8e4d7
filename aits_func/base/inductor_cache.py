"""What TorchInductor compiles for us lies in our own cache, under the same seal; nothing else is ever loaded by it.

TorchInductor's own folder is ``/tmp/torchinductor_<user>``, a name that anybody can guess, where everybody can write;
it loads libraries from there, and pickles. A library that was cut off while it was written ends the process. So it
works in a folder that is empty but for what was kept of the same program (`native_cache`), and all that it has made
there is kept as one file. ``TORCHINDUCTOR_CACHE_DIR`` is for others who use TorchInductor, and is left to them.
"""

import contextlib
import hashlib
import importlib
import io
import operator
import os
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from . import native_cache
from .native_library import find_compiler, machine

INDUCTOR_OPTIONS: Mapping[str, Any] = {"cpp_cache_precompile_headers": False}
"""Of TorchInductor: its compiled headers would lie in its own folder, wherever its cache is."""

_NOT_KEPT = ("locks", "triton")  # what Triton makes is in the graphs too, and knows where it lay
_lock = threading.RLock()  # for the environment, which is one for all threads


@contextmanager
def inductor_folder(graph: fx.GraphModule, example: Sequence[Tensor], options: Mapping[str, Any]) -> Iterator[None]:
    """Have TorchInductor compile a graph in a folder that nobody else can have written to.

    The environment of the process says so meanwhile; a compilation by somebody else in that moment would go there too.

    Args:
        graph: what is compiled inside this context.
        example: its arguments, of any values.
        options: of TorchInductor.

    Raises:
        UnsuitableError: if there is no place for such a folder.
    """
    on_gpu = any(leaf.device.type != "cpu" for leaf in example)
    # Kernels of a GPU may be looked for again when they run.
    with _lock, native_cache.new_folder(lasting=on_gpu) as place:
        folder = place / "inductor"
        folder.mkdir(mode=0o700)
        with _environment(TORCHINDUCTOR_CACHE_DIR=str(folder), TRITON_CACHE_DIR=str(folder / "triton")):
            if not on_gpu:
                # Small programs try out the processor, once in a process; they are the same for all graphs.
                with _kept(_name("processor"), folder):
                    importlib.import_module("torch._inductor.cpu_vec_isa").pick_vec_isa()
            with _kept(_name(_description(graph, example), str(dict(options))), folder):
                yield


@contextmanager
def _kept(name: str, folder: Path) -> Iterator[None]:
    """Begin with what was kept under this name; what is made in this context is kept with it."""
    before = _files(folder)
    if (content := native_cache.read(name)) is not None:
        _unpack(content, folder)
    unpacked = _files(folder)
    yield
    files = _files(folder)
    if files != unpacked:
        made = folder.with_name(name)
        # What cannot be written down, on a full disk, is made again by the next process.
        with contextlib.suppress(OSError):
            _pack(made, folder, files - before)
            native_cache.seal(made, name)
            native_cache.keep(made, name)


def _files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.parts[0] not in _NOT_KEPT}


def _unpack(content: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)


def _pack(made: Path, folder: Path, names: set[str]) -> None:
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(names):
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _name(*parts: str) -> str:
    """Of a file that depends on these, on the machine and on the versions."""
    compiler = find_compiler()
    about = (torch.__version__, sys.version, str(torch.get_num_threads()), *(machine(compiler) if compiler else ()))
    return hashlib.sha256("\0".join([*parts, *about]).encode()).hexdigest() + ".inductor"


def _description(graph: fx.GraphModule, example: Sequence[Tensor]) -> str:
    """What is compiled, to find the right file; TorchInductor has a key of its own for what it finds in it."""
    lines = [str((leaf.shape, leaf.stride(), leaf.dtype, leaf.device)) for leaf in example]
    for module in graph.modules():
        if isinstance(module, fx.GraphModule):
            lines.append(module.code)
            named = (operator.attrgetter(node.target)(module) for node in module.graph.nodes if node.op == "get_attr")
            lines += [_constant(each) for each in named if isinstance(each, Tensor)]
    return "\n".join(lines)


def _constant(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(bytes(content.tolist())).hexdigest()}"
