"""Compile or run eagerly: a pure function of trees of tensors as machine code, with the reason where it is not.

A function is traced once for every set of shapes, dtypes and devices that it is called with. There is no tracing of
Python in between, and so no guard to check at every call: on small systems those cost as much as the arithmetic. In
exchange machine code knows no autograd; take gradients inside the function.

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
import shutil
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
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from .check import require, require_choice
from .cuda_graphs import capture
from .lanes import spread
from .native_graph import UnsuitableError, build_program
from .native_library import NativeCode, load

MODES = ("auto", "on", "off")
Build = TypeVar("Build", bound=Callable[..., Any])
_FEWEST = 8  # systems in a batch from which vector lanes are worth it
_OPTIONS = {
    "max_fusion_size": 4096,  # of 64: a system's arithmetic is one loop, not many with a pass through memory between
    "cpp.min_chunk_size": 256,  # of 512: a minibatch of 512 is shared by two threads (128: a barrier costs more)
    "size_asserts": False,  # the engine looks machine code up by shape, and lays its arguments contiguous
}


class Compilation(NamedTuple):
    """What `watch_compilation` is told, once when a compilation begins and once when it ends."""

    label: str  # what is compiled, in words
    seconds: float | None  # what it took; None when it begins
    reason: str  # why it runs eagerly after all; "" if it does not


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


class Engine:
    """A function that is compiled when it is first called with new shapes; call it like the function itself.

    Made by `build_engine`. It holds machine code, and is therefore the one kind of object here that changes by
    being called: ``reason`` says why it runs eagerly for some shapes ("" if for none), ``compile_seconds`` what
    compiling has cost, ``fallback`` why the latest call was not one of a native function ("" if it was).
    """

    def __init__(
        self, function: Callable[..., Any], mode: str, batched: Sequence[bool], label: str, mapped: bool = False
    ) -> None:
        self.reason = "compile is off" if mode == "off" else ""
        self.compile_seconds, self.fallback = 0.0, "nothing is compiled yet"
        self._one, self._axis = function, int(mapped)
        self._function = vmap(function) if mapped else function
        self._mode, self._batched, self._label = mode, tuple(batched), label
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._fallbacks: dict[Any, str] = {}

    def __call__(self, *trees: Any) -> Any:
        """The function of these trees, compiled unless there is a ``reason``."""
        if self._mode == "off":
            return self._function(*trees)
        leaves: list[Tensor]
        leaves, structure = optree.tree_flatten(trees)  # type: ignore[arg-type]
        if any(map(is_tracked, leaves)):
            return self._function(*trees)
        return self._code_for(trees, leaves, structure)(leaves)

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
            code = self._code_for(one, *optree.tree_flatten(one))  # type: ignore[arg-type]
            if isinstance(code, _Native) and (results := code.scan(handed, leaves, optree.tree_structure(carry))):
                return results
        noted = []
        for others in zip(*(leaf.unbind(0) for leaf in leaves), strict=True):
            carry, y = self(carry, *optree.tree_unflatten(structure, others))
            noted.append(y)
        return carry, optree.tree_map(lambda *ys: torch.stack(ys), *noted)

    def _code_for(self, trees: Sequence[Any], leaves: list[Tensor], structure: Any) -> Callable[[list[Tensor]], Any]:
        """What is called for these shapes, compiled if it is not yet.

        The identity of two leaves does not matter: nothing is written in place.
        """
        key = (structure, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        if key not in self._compiled:
            self.fallback = "nothing could be compiled"
            self._compiled[key] = self._compile_or_not(trees, leaves, structure)
            self._fallbacks[key] = self.fallback
        self.fallback = self._fallbacks[key]
        return self._compiled[key]

    def _compile_or_not(
        self, trees: Sequence[Any], leaves: list[Tensor], structure: Any
    ) -> Callable[[list[Tensor]], Any]:
        """Machine code, or the function itself and a reason, for these shapes alone."""
        tell = _watcher.get() or (lambda event: None)
        began = time.perf_counter()
        tell(Compilation(self._label, None, ""))
        reason = missing_compiler(leaves[0].device) if leaves else "there is no tensor to compile for"
        code: Callable[..., Any] | None = None
        if not reason:
            try:
                code = self._compile(trees, leaves, structure)
            except Exception as error:  # whatever a tracer or a compiler may raise: eager code is always right
                reason = f"torch could not compile it: {' '.join(str(error).split())[:200]}"
        seconds = time.perf_counter() - began
        self.reason, self.compile_seconds = reason or self.reason, self.compile_seconds + seconds
        tell(Compilation(self._label, seconds, reason))
        if reason and self._mode == "on":
            raise ValueError(f'compile = "on": {reason}; use compile = "auto" or "off"')
        return code or (lambda arguments: self._function(*optree.tree_unflatten(structure, arguments)))

    def _compile(self, trees: Sequence[Any], leaves: list[Tensor], structure: Any) -> Callable[..., Any]:
        of_result: list[Any] = []
        axis = self._axis

        def flat(*flat_leaves: Tensor) -> tuple[Tensor, ...]:
            result, spec = optree.tree_flatten(self._one(*optree.tree_unflatten(structure, flat_leaves)))
            of_result[:] = [spec]
            # A result that is an argument, or stands there twice, would be one memory under two names.
            return tuple(leaf.clone(memory_format=torch.contiguous_format) for leaf in result)

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own deprecations are nothing that a user can mend
            stored = [leaf.detach().contiguous() for leaf in leaves]
            example = [leaf[0] for leaf in stored] if self._axis else stored
            # On shapes alone: a large ensemble is traced as fast as a small one, and what is fused takes no memory.
            graph = _trace(flat, example)
            batched = self._batched_leaves(trees, 1)
            try:
                native = _native(graph, example, batched)
            except UnsuitableError as error:
                self.fallback = str(error)
            except Exception as error:  # a gap in the native compiler: the other one may know how
                self.fallback = f"{type(error).__name__}: {error}"
            else:
                self.fallback = ""
                return _Native(native, of_result[0], bool(self._axis))
            if example[0].device.type == "cpu":
                graph = _trace(graph, example, _CPU_FORMULAS)
            batched = self._batched_leaves(trees, _FEWEST)
            spread_out = spread(graph, example, batched) if any(batched) else None
            if spread_out is None:
                batched = [False] * len(leaves)
            graph, result_batched = spread_out or (graph, [False] * of_result[0].num_leaves)
            lying = [_to_last(leaf, axis) if moved else leaf for leaf, moved in zip(stored, batched, strict=True)]
            # The vectors of one member become matrices, members by systems.
            code = _machine_code(_trace(vmap(graph), lying) if self._axis else graph, lying)
        spec = of_result[0]

        def run(arguments: list[Tensor]) -> Any:
            with torch.no_grad():
                pairs = zip(arguments, batched, strict=True)
                results = code(*(_to_last(x, axis) if moved else x.contiguous() for x, moved in pairs))
            pairs = zip(results, result_batched, strict=True)
            flat_result = [x.movedim(-1, axis) if moved else x for x, moved in pairs]
            return optree.tree_unflatten(spec, flat_result)

        return run

    def _batched_leaves(self, trees: Sequence[Any], fewest: int) -> list[bool]:
        """Which leaves have a batch axis of so many systems or more."""
        flags: list[bool] = []
        for number, tree in enumerate(trees):
            has = number < len(self._batched) and self._batched[number]
            flags += [has and leaf.shape[self._axis] >= fewest for leaf in optree.tree_leaves(tree)]
        return flags


def _tanh(x: Tensor) -> Tensor:
    """1 − 2/(e²ˣ + 1), and the Taylor series where that would lose digits: to 20 roundings, relative.

    The vector library's own tanh takes three times as long, and half of the time of a network outside its products.
    """
    square = x * x
    series = torch.full_like(x, _TANH_SERIES[-1])
    for coefficient in reversed(_TANH_SERIES[:-1]):
        series = coefficient + square * series
    grown = (2 * x.clamp(-20, 20)).exp()  # tanh is 1 to the last digit beyond 20
    return torch.where(x.abs() < 0.1, x * series, 1 - 2 / (grown + 1))


_TANH_SERIES = (1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075)
_CPU_FORMULAS = {torch.ops.aten.tanh.default: _tanh}


def _native(graph: fx.GraphModule, example: Sequence[Tensor], batched: Sequence[bool]) -> NativeCode:
    """The whole graph as one native function of arguments with the batch in front."""
    if any(leaf.device.type != "cpu" for leaf in example) or not any(batched):
        raise UnsuitableError("there is no batch on the CPU")
    return load(build_program(graph, example, batched), example, batched)


def _laid(leaf: Tensor, strides: tuple[int, ...], before: int = 0) -> Tensor:
    """A tensor that lies in memory as a native function reads it, behind so many axes that are not its business."""
    if leaf.stride()[before:] == strides:
        return leaf
    shape = leaf.shape[before:]
    out = torch.empty_strided(
        (*leaf.shape[:before], *shape), (*[math.prod(shape)] * before, *strides), dtype=leaf.dtype
    )
    return out.copy_(leaf)


def _trace(function: Callable[..., Any], example: list[Tensor], formulas: Any = None) -> fx.GraphModule:
    return make_fx(function, formulas, "fake", _allow_non_fake_inputs=True)(*example)


def _to_last(leaf: Tensor, axis: int) -> Tensor:
    """The batch axis last, and contiguous: nothing to do for a tensor that lies so already."""
    return leaf.movedim(axis, -1).contiguous()


def _machine_code(graph: fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
    # A second of imports, for those who compile.
    inductor = importlib.import_module("torch._inductor")
    symbolic = importlib.import_module("torch.fx.experimental.symbolic_shapes")
    fakes = importlib.import_module("torch._subclasses.fake_tensor")
    # TorchInductor looks into its cache on disk only where there is a shape environment, as in ``torch.compile``.
    fake = fakes.FakeTensorMode(shape_env=symbolic.ShapeEnv())
    shapes = [fake.from_tensor(leaf, static_shapes=True) for leaf in example]
    with tracing(TracingContext(fake)):
        code = inductor.compile(graph, shapes, options=_OPTIONS)
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
        mode: "on" compiles; "auto" compiles where that is possible, and runs eagerly with a ``reason`` where not; "off"
            runs eagerly.
        batched: for every argument, whether all of its leaves have a leading batch axis: such a function is compiled
            for one system per vector lane.
        label: what it is, in words, for those who wait for it.
        mapped: lift it by ``vmap`` over a leading axis of all leaves of all arguments, such as the members of an
            ensemble; what is said of batches is then meant of one member.

    Returns:
        An `Engine`. Compiled and eager results agree within rounding; but a system that a mask leaves out of a sum is
        not looked at there, so that it cannot make NaN of it. Arguments that somebody differentiates, by
        autograd or `torch.func`, are run eagerly, so that no gradient is lost.

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
