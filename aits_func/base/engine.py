"""Compile or run eagerly: a pure function of trees of tensors as machine code, with the reason where it is not.

A function is traced once for every set of shapes, dtypes and devices that it is called with. There is no tracing of
Python in between, and so no guard to check at every call: on small systems those cost as much as the arithmetic. In
exchange machine code knows no autograd; take gradients inside the function.

Compiled is eager, or it is not compiled. What a function writes becomes an operation like others, or is refused
(`pure_graph`); and the first call for every set of shapes is run eagerly as well, and has to come out the same
(`agreement`; not where the environment says ``AITS_FUNC_CHECK_COMPILED=0``).

On the CPU, where it is said which arguments are batches, the whole graph becomes one native function (`native_graph`):
every few systems go through all of it while they are in the cache, networks and the gradient included. It can be called
many times in turn without coming back (`Engine.scan`). What it does not know, and whatever runs on a GPU, is handed to
TorchInductor, rewritten for one system per vector lane (`lanes`). Both keep what they have compiled on disk, so that
the next process only has to trace.

The arrays of batched arguments and results lie batch-last in memory, behind the same shape: one that comes from an
engine goes into the next without being moved.
"""

import importlib
import math
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar, cast

import optree
import torch
from torch import Tensor, fx
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._guards import TracingContext, tracing
from torch.autograd import forward_ad
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from . import pure_graph, strided
from .agreement import describe_difference
from .check import require, require_choice
from .cuda_graphs import capture
from .inductor_cache import INDUCTOR_OPTIONS, inductor_folder
from .inductor_repairs import CPU_FORMULAS, REPAIRS
from .lanes import spread
from .native_graph import UnsuitableError, build_program
from .native_library import NativeCode, load
from .pure_graph import ImpureError, TooLongError, trace, trace_pure
from .tree import in_order

MODES = ("auto", "on", "off")
BACK_ENDS = ("native", "inductor", "eager")
"""What a function can become: one native function, machine code of TorchInductor, or what it was."""

Build = TypeVar("Build", bound=Callable[..., Any])
_FEW_NUMBERS = 64  # of a tensor from outside, of which a copy is kept: more take longer to compare than a step
_FEWEST = 8  # systems in a batch from which vector lanes are worth it
_OPTIONS = {
    "max_fusion_size": 4096,  # of 64: a system's arithmetic is one loop, not many with a pass through memory between
    "cpp.min_chunk_size": 256,  # of 512: a minibatch of 512 is shared by two threads (128: a barrier costs more)
    "size_asserts": False,  # the engine looks machine code up by shape, and lays its arguments contiguous
}


class Compilation(NamedTuple):
    """What `watch_compilation` is told, once when a compilation begins and once when it ends."""

    label: str  # what is compiled, in words
    seconds: float | None  # what it took, the comparison with eager code included; None when it begins
    reason: str  # why it runs eagerly after all; "" if it does not
    back_end: str = ""  # one of `BACK_ENDS`: what it became; "" when it begins
    fallback: str = ""  # why it did not become a native function; "" if it did


_watcher: ContextVar[Callable[[Compilation], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watch_compilation(tell: Callable[[Compilation], None]) -> Iterator[None]:
    """Have ``tell`` called with a `Compilation` whenever one begins or ends inside this context.

    A first compilation takes seconds, in which a user would like to know what he is waiting for.
    """
    token = _watcher.set(tell)
    try:
        yield
    finally:
        _watcher.reset(token)


class _Native:
    """Machine code of a whole function, called with the leaves of its arguments."""

    def __init__(self, code: NativeCode, structure: Any, mapped: bool) -> None:
        self._code, self._structure, self._mapped = code, structure, mapped
        self.skips = code.skips

    def __call__(self, arguments: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            pairs = zip(arguments, self._code.lying, strict=True)
            laid = [_laid(leaf, strides, self._mapped) for leaf, strides in pairs]
            results = self._code.side_by_side(laid) if self._mapped else self._code(laid)
        return optree.tree_unflatten(self._structure, results)

    def scan(self, carry: Sequence[Tensor], rest: Sequence[Tensor], structure: Any) -> Any:
        """See `Engine.scan`; None if what is carried on changes its shape, or how it lies in memory."""
        count, lying = len(carry), self._code.lying
        given = [(tuple(x.shape), strides, x.dtype) for x, strides in zip(carry, lying, strict=False)]
        if given != [tuple(to) for to in self._code.results[:count]] or self._structure.children()[0] != structure:
            return None
        with torch.no_grad():
            laid = [_laid(leaf, strides) for leaf, strides in zip(carry, lying[:count], strict=True)]
            others = [_laid(leaf, strides, 1) for leaf, strides in zip(rest, lying[count:], strict=True)]
            results = self._code.in_turn(laid, others)
        return optree.tree_unflatten(self._structure, results)


class _Code(NamedTuple):
    """What is called for one set of shapes."""

    call: Callable[[list[Tensor]], Any]
    back_end: str
    fallback: str  # why it is not native; "" if it is
    outside: tuple["_Outside", ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether a tensor from outside, whose values may stand in the code as numbers, was written to since."""
        return any(each.is_stale for each in self.outside)


class _Outside(NamedTuple):
    """A tensor that a function was not given, as it was when the function was compiled."""

    tensor: Tensor
    version: int  # −1 where torch counts none
    numbers: Tensor  # a copy of a small one; of a large one nothing

    @classmethod
    def of(cls, tensor: Tensor) -> "_Outside":
        """As it is now."""
        version = -1 if tensor.is_inference() else tensor._version
        small = tensor.numel() <= _FEW_NUMBERS or version < 0
        return cls(tensor, version, tensor.detach().clone() if small else tensor.new_empty(0))

    @property
    def is_stale(self) -> bool:
        """Whether it was written to: by torch, or, as far as there is a copy, behind its back."""
        if self.version >= 0 and self.tensor._version != self.version:
            return True
        same = self.numbers.numel() == 0 or torch.equal(self.numbers, self.tensor)
        return not same and not torch.allclose(self.numbers, self.tensor, rtol=0, atol=0, equal_nan=True)


class Engine:
    """A function that is compiled when it is first called with new shapes; call it like the function itself.

    Made by `build_engine`. It holds machine code, and is therefore the one kind of object here that changes by
    being called: ``reason`` says why it runs eagerly for some shapes ("" if for none), ``compile_seconds`` what
    compiling has cost, ``back_end`` which of `BACK_ENDS` the latest call ran on, and ``fallback`` why that was not a
    native function ("" if it was).
    """

    def __init__(
        self, function: Callable[..., Any], mode: str, batched: Sequence[bool], label: str, mapped: bool = False
    ) -> None:
        self.reason = "compile is off" if mode == "off" else ""
        self.compile_seconds, self.back_end, self.fallback = 0.0, "eager", self.reason or "nothing is compiled yet"
        self._one, self._axis = function, int(mapped)
        self._function = vmap(function) if mapped else function
        self._mode, self._batched, self._label = mode, tuple(batched), label
        self._compiled: dict[Any, _Code] = {}
        self._renewed: set[Any] = set()  # what was compiled again, as a tensor from outside was written to

    def __call__(self, *trees: Any) -> Any:
        """The function of these trees, compiled unless there is a ``reason``."""
        if self._mode == "off":
            return self._function(*trees)
        leaves: list[Tensor]
        leaves, structure = optree.tree_flatten(trees)  # type: ignore[arg-type]
        if any(map(is_tracked, leaves)):
            self.back_end, self.fallback = "eager", "somebody differentiates its arguments, or maps over them"
            return self._function(*trees)
        if self._axis:
            counts = {len(leaf) if leaf.ndim else 0 for leaf in leaves}
            require(
                len(counts) == 1 and 0 not in counts,
                f"the arguments of several members must all have one length >= 1, got {sorted(counts) or 'no leaf'}",
            )
        return self._code_for(trees, leaves, structure).call(leaves)

    def scan(self, carry: Any, *rest: Any) -> Any:
        """A function (carry, x, ...) -> (carry, y), called for every x, ... in turn.

        Where the whole function is native code the calls are one, and the host is not asked in between.

        Args:
            carry: a tree, handed on from one call to the next.
            rest: trees whose leaves have an axis (K,) in front, K ≥ 1: the other arguments of every call.

        Returns:
            (the last carry; a tree like y with an axis (K,) in front).

        Raises:
            ValueError: if the leaves of rest have not all one K ≥ 1.
        """
        leaves: list[Tensor]
        leaves, structure = optree.tree_flatten(rest)  # type: ignore[arg-type]
        counts = {len(leaf) if leaf.ndim else 0 for leaf in leaves}
        require(
            len(counts) == 1 and 0 not in counts,
            f"scan: every leaf of rest must have the same number of rows >= 1, got {sorted(counts) or 'no leaf'}",
        )
        handed: list[Tensor] = optree.tree_leaves(carry)
        if self._mode != "off" and not self._axis and not any(map(is_tracked, (*handed, *leaves))):
            one = (carry, *optree.tree_unflatten(structure, [leaf[0] for leaf in leaves]))
            code = self._code_for(one, *optree.tree_flatten(one)).call  # type: ignore[arg-type]
            if isinstance(code, _Native) and (results := code.scan(handed, leaves, optree.tree_structure(carry))):
                return results
        noted = []
        for others in zip(*(leaf.unbind(0) for leaf in leaves), strict=True):
            carry, y = self(carry, *optree.tree_unflatten(structure, others))
            noted.append(y)
        return carry, optree.tree_map(lambda *ys: torch.stack(ys), *noted)

    def difference(self, *trees: Any) -> str:
        """How compiled code differs from eager code at these arguments, by more than roundings, in one line.

        Compiled functions are compared like this at their first call; here is the same for any other.

        Args:
            trees: arguments, which nobody differentiates.

        Returns:
            "" if it does not differ, or runs eagerly.
        """
        leaves: list[Tensor]
        leaves, structure = optree.tree_flatten(trees)  # type: ignore[arg-type]
        if self._mode == "off":
            return ""
        with _compiling:  # it may trace
            return self._difference(self._code_for(trees, leaves, structure), leaves, structure)

    def _code_for(self, trees: Sequence[Any], leaves: list[Tensor], structure: Any) -> _Code:
        """What is called for these shapes, compiled if it is not yet.

        The identity of two leaves does not matter: nothing is written in place.
        """
        key = (structure, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        code = self._compiled.get(key)
        if code is None or code.is_stale:
            with _compiling:  # torch traces and compiles for one thread at a time
                code = self._compiled.get(key)
                if code is None or code.is_stale:
                    # Once: somebody who writes to it again and again would wait for the compiler again and again.
                    reason = _WRITTEN_AGAIN if code is not None and key in self._renewed else ""
                    self._renewed |= {key} if code is not None else set()
                    code = self._compiled[key] = self._compile_or_not(trees, leaves, structure, reason)
        self.back_end, self.fallback = code.back_end, code.fallback
        return code

    def _compile_or_not(self, trees: Sequence[Any], leaves: list[Tensor], structure: Any, reason: str) -> _Code:
        """Machine code, or the function itself and a reason (which may be known), for these shapes alone."""
        tell = _watcher.get() or (lambda event: None)
        began = time.perf_counter()
        tell(Compilation(self._label, None, ""))
        reason = reason or (missing_compiler(leaves[0].device) if leaves else "there is no tensor to compile for")
        code, wrong = None, ""
        if not reason:
            try:
                code = self._compile(trees, leaves, structure)
            except ImpureError as error:
                reason = str(error)
            except TooLongError:
                reason = (
                    f"it has more than {_MOST:,} operations, and compilers would take many minutes for them; "
                    'compile = "on" waits'
                )
            except Exception as error:  # whatever a tracer or a compiler may raise: eager code is always right
                reason = f"torch could not compile it: {_in_one_line(error)}"
                if _is_ours(error):
                    reason = f"the compiler failed: {_in_one_line(error)}"
                    _warn(f"{self._label} runs eagerly: {reason}. Report it.")
        if code is not None and os.environ.get("AITS_FUNC_CHECK_COMPILED", "1") != "0":
            try:
                wrong = self._difference(code, leaves, structure)
                wrong = wrong and f"its compiled results were not the eager ones: {wrong}"
            except Exception as error:
                wrong = f"its compiled results could not be compared with eager ones: {_in_one_line(error)}"
        if code is None or wrong:
            reason = wrong or reason
            code = _Code(lambda given: self._eager(list(map(in_order, given)), structure), "eager", reason)
        seconds = time.perf_counter() - began
        self.reason, self.compile_seconds = reason or self.reason, self.compile_seconds + seconds
        tell(Compilation(self._label, seconds, reason, code.back_end, code.fallback))
        if wrong:
            _warn(f"{self._label} runs eagerly: {reason}. This is a fault of a compiler; report it.")
        elif reason and self._mode == "on":
            raise ValueError(f'compile = "on": {reason}; use compile = "auto" or "off"')
        return code

    def _eager(self, leaves: Sequence[Tensor], structure: Any) -> Any:
        return self._function(*optree.tree_unflatten(structure, leaves))

    def _difference(self, code: _Code, leaves: Sequence[Tensor], structure: Any) -> str:
        """See `difference`."""
        if code.back_end == "eager":
            return ""
        given = [in_order(leaf.detach()) for leaf in leaves]

        def eager(arguments: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return optree.tree_leaves(self._eager(arguments, structure))

        skips = isinstance(code.call, _Native) and code.call.skips
        try:
            return describe_difference(optree.tree_leaves(code.call(given)), eager, given, skips)
        except (MemoryError, torch.OutOfMemoryError):  # eager code needs more memory than compiled code
            _warn(f"{self._label} is compiled, but there is no memory to compare the results with eager ones.")
            return ""

    def _compile(self, trees: Sequence[Any], leaves: list[Tensor], structure: Any) -> _Code:
        of_result: list[Any] = []
        axis = self._axis

        def flat(*flat_leaves: Tensor) -> tuple[Tensor, ...]:
            result, spec = optree.tree_flatten(self._one(*optree.tree_unflatten(structure, flat_leaves)))
            of_result[:] = [spec]
            # A result that is an argument, or stands there twice, would be one memory under two names.
            return tuple(leaf.clone(memory_format=torch.contiguous_format) for leaf in result)

        with torch.no_grad(), _quiet():
            stored = [in_order(leaf.detach()) for leaf in leaves]
            example = [leaf[0] for leaf in stored] if self._axis else stored
            read: list[Tensor] = []
            graph = trace_pure(flat, example, read, math.inf if self._mode == "on" else _MOST)
            outside = _outside(graph, read)
        try:
            native = _native(graph, example, self._batched_leaves(trees, 1))
        except UnsuitableError as error:
            fallback = str(error)
        except Exception as error:  # a gap in the native compiler: the other one may know how
            fallback = f"the native compiler failed: {_in_one_line(error)}"
            _warn(f"{self._label}: {fallback}; TorchInductor compiles it instead. Report it.")
        else:
            return _Code(_Native(native, of_result[0], bool(self._axis)), "native", "", outside)
        with torch.no_grad(), _quiet():
            if example[0].device.type == "cpu":
                graph = trace(graph, example, CPU_FORMULAS)
            batched, fault = self._batched_leaves(trees, _FEWEST), ""
            try:
                spread_out = spread(graph, example, batched) if any(batched) else None
            except Exception as error:  # a gap in what rewrites graphs: they may stay as they are
                spread_out, fault = None, _in_one_line(error)
            if spread_out is None:
                batched = [False] * len(leaves)
            graph, result_batched = spread_out or (graph, [False] * of_result[0].num_leaves)
            lying = [_to_last(leaf, axis) if moved else leaf for leaf, moved in zip(stored, batched, strict=True)]
            # The vectors of one member become matrices, members by systems.
            code = _machine_code(trace(vmap(graph), lying) if self._axis else graph, lying)
        if fault:
            _warn(f"{self._label}: it could not be rewritten for vector lanes ({fault}), and may be slow. Report it.")
        spec = of_result[0]

        def run(arguments: list[Tensor]) -> Any:
            with torch.no_grad():
                pairs = zip(arguments, batched, strict=True)
                results = code(*(_to_last(x, axis) if moved else in_order(x) for x, moved in pairs))
            pairs = zip(results, result_batched, strict=True)
            flat_result = [x.movedim(-1, axis) if moved else x for x, moved in pairs]
            return optree.tree_unflatten(spec, flat_result)

        return _Code(run, "inductor", fallback, outside)

    def _batched_leaves(self, trees: Sequence[Any], fewest: int) -> list[bool]:
        """Which leaves have a batch axis of so many systems or more."""
        flags: list[bool] = []
        for number, tree in enumerate(trees):
            has = number < len(self._batched) and self._batched[number]
            flags += [has and leaf.shape[self._axis] >= fewest for leaf in optree.tree_leaves(tree)]
        return flags


_compiling = threading.RLock()
# What compile = "auto" compiles: TorchInductor takes a minute or two for so many, and for five times as many ten.
_MOST = 25_000
_WRITTEN_AGAIN = "a tensor that it was not given is written to again and again; give it as an argument"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by what reads and rewrites graphs here, and not by torch or by the traced function."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename in (__file__, pure_graph.__file__, strided.__file__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the compiler's own deprecations, which are nothing that a user can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _outside(graph: fx.GraphModule, read: Sequence[Tensor]) -> tuple[_Outside, ...]:
    """The tensors that a graph has from elsewhere, or of which it has numbers."""
    found = [getattr(graph, node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    tensors = {id(x): x for x in (*found, *read) if isinstance(x, Tensor)}
    return tuple(map(_Outside.of, tensors.values()))


def _native(graph: fx.GraphModule, example: Sequence[Tensor], batched: Sequence[bool]) -> NativeCode:
    """The whole graph as one native function of arguments with the batch in front."""
    if any(leaf.device.type != "cpu" for leaf in example) or not any(batched):
        raise UnsuitableError("there is no batch on the CPU")
    return load(build_program(graph, example, batched), example, batched)


def _laid(leaf: Tensor, strides: tuple[int, ...], before: int = 0) -> Tensor:
    """A tensor that lies in memory as a native function reads it, behind so many axes that are not its business."""
    if leaf.stride()[before:] == strides and not leaf.is_neg():
        return leaf
    shape = leaf.shape[before:]
    out = torch.empty_strided(
        (*leaf.shape[:before], *shape), (*[math.prod(shape)] * before, *strides), dtype=leaf.dtype
    )
    return out.copy_(leaf)


def _to_last(leaf: Tensor, axis: int) -> Tensor:
    """The batch axis last, and contiguous: nothing to do for a tensor that lies so already."""
    return in_order(leaf.movedim(axis, -1))


def _machine_code(graph: fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
    # A second of imports, for those who compile.
    inductor = importlib.import_module("torch._inductor")
    symbolic = importlib.import_module("torch.fx.experimental.symbolic_shapes")
    fakes = importlib.import_module("torch._subclasses.fake_tensor")
    # TorchInductor looks into its cache on disk only where there is a shape environment, as in ``torch.compile``.
    fake = fakes.FakeTensorMode(shape_env=symbolic.ShapeEnv())
    shapes = [fake.from_tensor(leaf, static_shapes=True) for leaf in example]
    options = {**_OPTIONS, **REPAIRS, **INDUCTOR_OPTIONS}
    with inductor_folder(graph, shapes, options):
        with tracing(TracingContext(fake)):
            code = inductor.compile(graph, shapes, options=options)
        return capture(code, example) if example[0].device.type == "cuda" else code


def build_engine(
    function: Callable[..., Any],
    *,
    mode: str = "auto",
    batched: Sequence[bool] = (),
    label: str = "a function",
    mapped: bool = False,
) -> Engine:
    """A pure function, compiled when called.

    Args:
        function: trees of tensors in, a tree of tensors out; no Python branch on a tensor's value.
        mode: "on" compiles; "auto" compiles where that is possible and takes no more than a few minutes, and runs
            eagerly with a ``reason`` where not; "off" runs eagerly.
        batched: for every argument, whether all of its leaves have a leading batch axis: such a function is compiled
            for one system per vector lane.
        label: what it is, in words, for those who wait for it.
        mapped: lift it by ``vmap`` over a leading axis of all leaves of all arguments, such as the members of an
            ensemble; what is said of batches is then meant of one member.

    Returns:
        An `Engine`. Compiled and eager results agree within rounding; but a system that a mask leaves out of a sum is
        not looked at there, so that it cannot make NaN of it. The first call for new shapes is run eagerly as well;
        if the results differ by more, it stays eager for these shapes, with a ``RuntimeWarning``. A function that
        writes into its arguments or into a tensor from outside, or draws random numbers, is not compiled. Arguments
        that somebody differentiates, by autograd or `torch.func`, are run eagerly, so that no gradient is lost.

    Raises:
        ValueError: if mode is another word.
    """
    require_choice("build_engine", "compile", mode, MODES)
    return Engine(function, mode, batched, label, mapped)


def remember(build: Build) -> Build:
    """A builder whose results are kept, and found again for the same arguments: compiling once is enough.

    Arguments that cannot be hashed (a user's own policy may be anything) are built for anew each time.
    """
    kept = lru_cache(maxsize=64)(build)

    @wraps(build)
    def find(*args: Any, **kwargs: Any) -> Any:
        try:
            hash((args, tuple(kwargs.items())))
        except TypeError:
            return build(*args, **kwargs)
        return kept(*args, **kwargs)

    return cast("Build", find)


def is_traced() -> bool:
    """Whether what runs now is being traced for a compiler, by an `Engine` or by ``torch.compile``.

    What is many small operations to eager code may be the better choice for a compiler, and the other way round.
    """
    return get_proxy_mode() is not None or torch.compiler.is_compiling()


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
