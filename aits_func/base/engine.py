"""Compile or run eagerly: a pure function of trees of tensors as machine code, with the reason where it is not.

A function is traced once for every set of shapes, dtypes and devices that it is called with, and the graph
handed to TorchInductor. There is no tracing of Python in between, and so no guard to check at every call: on small
systems those cost as much as the arithmetic. In exchange machine code knows no autograd; take gradients inside the
function.
"""

import importlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optree
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from .check import require_choice

MODES = ("auto", "on", "off")


class Engine:
    """A function that is compiled when it is first called with new shapes; call it like the function itself.

    Made by `build_engine`. It holds machine code, and is therefore the one kind of object here that changes by
    being called: ``reason`` says why it runs eagerly for some shapes ("" if for none), ``compile_seconds`` what
    compiling has cost.
    """

    def __init__(self, function: Callable[..., Any], mode: str) -> None:
        self.reason = "compile is off" if mode == "off" else ""
        self.compile_seconds = 0.0
        self._function, self._mode = function, mode
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *trees: Any) -> Any:
        """The function of these trees, compiled unless there is a ``reason``."""
        if self._mode == "off":
            return self._function(*trees)
        leaves: list[Tensor]
        leaves, structure = optree.tree_flatten(trees)  # type: ignore[arg-type]
        if any(map(is_tracked, leaves)):
            return self._function(*trees)
        leaves = [leaf.contiguous() for leaf in leaves]
        # The identity of two leaves does not matter: nothing is written in place.
        key = (structure, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        if key not in self._compiled:
            self._compiled[key] = self._compile_or_not(leaves, structure)
        return self._compiled[key](leaves)

    def _compile_or_not(self, leaves: list[Tensor], structure: Any) -> Callable[[list[Tensor]], Any]:
        """Machine code, or the function itself and a reason, for these shapes alone."""
        reason = missing_compiler(leaves[0].device) if leaves else "there is no tensor to compile for"
        if not reason:
            try:
                return self._compile(leaves, structure)
            except Exception as error:  # whatever a tracer or a compiler may raise: eager code is always right
                reason = f"torch could not compile it: {' '.join(str(error).split())[:200]}"
        if self._mode == "on":
            raise ValueError(f'compile = "on": {reason}; use compile = "auto" or "off"')
        self.reason = reason
        return lambda arguments: self._function(*optree.tree_unflatten(structure, arguments))

    def _compile(self, leaves: list[Tensor], structure: Any) -> Callable[..., Any]:
        began = time.perf_counter()
        of_result: list[Any] = []

        def flat(*flat_leaves: Tensor) -> tuple[Tensor, ...]:
            result, spec = optree.tree_flatten(self._function(*optree.tree_unflatten(structure, flat_leaves)))
            of_result[:] = [spec]
            # A result that is an argument, or stands there twice, would be one memory under two names.
            return tuple(leaf.clone() for leaf in result)

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own deprecations are nothing that a user can mend
            example = [leaf.detach() for leaf in leaves]
            graph = make_fx(flat)(*example)
            inductor = importlib.import_module("torch._inductor")  # a second of imports, for those who compile
            code = inductor.compile(graph, example)
        self.compile_seconds += time.perf_counter() - began
        spec = of_result[0]

        def run(arguments: list[Tensor]) -> Any:
            with torch.no_grad():
                return optree.tree_unflatten(spec, code(*arguments))

        return run


def build_engine(function: Callable[..., Any], *, mode: str = "auto") -> Engine:
    """A pure function, compiled when called.

    Args:
        function: trees of tensors in, a tree of tensors out; no Python branch on a tensor's value.
        mode: "on" compiles; "auto" compiles where that is possible, and runs eagerly with a ``reason`` where not; "off"
            runs eagerly.

    Returns:
        An `Engine`. Compiled and eager results agree within rounding. Arguments that somebody differentiates, by
        autograd or `torch.func`, are run eagerly, so that no gradient is lost.

    Raises:
        ValueError: if mode is another word.
    """
    require_choice("build_engine", "compile", mode, MODES)
    return Engine(function, mode)


def is_tracked(leaf: Tensor) -> bool:
    """Whether somebody differentiates or maps over this tensor."""
    if (leaf.requires_grad and torch.is_grad_enabled()) or torch._C._functorch.is_functorch_wrapped_tensor(leaf):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(leaf).tangent is not None


@contextmanager
def outside_transforms() -> Iterator[Callable[[Tensor], Tensor]]:
    """Compute as if no transform of `torch.func` were under way: for a backward pass that is differentiated no further.

    Yields a function that gives a tensor as it is there.
    """

    def plain(leaf: Tensor) -> Tensor:
        while torch._C._functorch.is_functorch_wrapped_tensor(leaf):
            leaf = torch._C._functorch.get_unwrapped(leaf)
        return leaf.detach()

    with torch.no_grad(), temporarily_clear_interpreter_stack():
        yield plain


def missing_compiler(device: torch.device) -> str:
    """Why nothing can be compiled for this device, or "" if it can."""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return "no C++ compiler was found"
    return ""
