"""A function as a graph of operations of which none writes: what both compilers can read without looking back.

A trace records what torch did, writes included: ``y[:, 1] = x[:, 0]`` is a copy into a view of y, whose result nobody
uses. A reader that follows results alone would leave it out. So writes are turned into operations with results
(``select_scatter`` and the like, by ``torch.func.functionalize``; views by strides into slices), and what still writes
after that, into an argument or a tensor from outside, is refused, as is what draws random numbers: compiled, it would
not be what eager code does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from . import strided

_aten = torch.ops.aten

# They change how one tensor is looked at, not what is in memory, and the trace goes on with the result: ``linear``
# under ``vmap`` squeezes like that. So no second trace is needed for them.
_LOOKS = {
    _aten.squeeze_.default: _aten.squeeze.default,
    _aten.squeeze_.dim: _aten.squeeze.dim,
    _aten.squeeze_.dims: _aten.squeeze.dims,
    _aten.unsqueeze_.default: _aten.unsqueeze.default,
    _aten.transpose_.default: _aten.transpose.int,
    _aten.t_.default: _aten.t.default,
}


_WRITES = "it writes into its arguments, or into a tensor that it was not given"


class ImpureError(Exception):
    """A function does more, or less, than its results say, for the reason given."""


class TooLongError(Exception):
    """A function has more operations than its caller would wait for."""


def trace_pure(
    function: Callable[..., Any],
    example: Sequence[Tensor],
    read: list[Tensor] | None = None,
    most: float = math.inf,
) -> fx.GraphModule:
    """The graph of a function, without an operation that writes.

    Args:
        function: tensors in, a sequence of tensors out.
        example: arguments; they are looked at for shape and dtype alone.
        read: where to note tensors from outside of which the function reads a number.
        most: the most operations that the function may have.

    Returns:
        A graph of the same arguments.

    Raises:
        TooLongError: as soon as there are more operations than that.
        ImpureError: if the function writes into its arguments or into a tensor from outside, reads in one operation
            what that writes to, draws random numbers, or looks at memory by strides in a way that is no slice; or if
            torch loses values of it in the trace.
    """
    graph = trace(function, example, read=read, most=most)
    for node in graph.graph.nodes:
        if node.target in _LOOKS and node.args[0].op == "call_function":
            node.target = _LOOKS[node.target]
    _clear_of_zero_tangents(graph, example)
    if any(map(_reads_what_it_writes, graph.graph.nodes)):
        raise ImpureError("it reads memory in the operation that writes to it, so that the order would matter")
    try:
        if any(map(_writes, graph.graph.nodes)):
            graph = trace(functionalize(graph, remove="mutations"), example, strided.FORMULAS)
        elif any(node.target in strided.FORMULAS for node in graph.graph.nodes):
            graph = trace(graph, example, strided.FORMULAS)
    except strided.StridedError as error:
        raise ImpureError(str(error)) from error
    _join_reshapes(graph)
    for node in graph.graph.nodes:
        if _writes(node):
            raise ImpureError(_WRITES)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ImpureError("it draws random numbers, of which compiled code would draw others")
        if not node.users and node.op == "call_function" and node.is_impure():
            raise ImpureError(f"it calls {node.target}, which is there for what it does and not for its result")
    graph.recompile()
    return graph


def _join_reshapes(graph: fx.GraphModule) -> None:
    """Make one of two reshapes in turn: through memory in one row, say, which mixes what a reader keeps apart."""
    reshapes = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)
    for node in graph.graph.nodes:
        while node.target in reshapes and node.args[0].target in reshapes:
            node.target = _aten.reshape.default
            node.args = (node.args[0].args[0], node.meta["val"].shape)
    graph.graph.eliminate_dead_code()


class _Outside(TorchDispatchMode):
    """Keeps tensors that the function was not given as they are while it is traced, and notes whose numbers it reads.

    And counts the operations.

    In a trace they are the real ones: a write to one would be done, once for every trace, and a number that is read of
    one (``float(x)``) stands in the graph as a number.
    """

    def __init__(self, read: list[Tensor], most: float) -> None:
        super().__init__()
        self._read, self._left = read, most

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooLongError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._count()
        if func._schema.is_mutable:
            told = {each.name: each for each in func._schema.arguments}
            given = [*zip(told.values(), args, strict=False), *((told[name], x) for name, x in kwargs.items())]
            written = [x for each, x in given if each.alias_info is not None and each.alias_info.is_write]
            if any(map(_is_real, pytree.tree_leaves(written))):
                raise ImpureError(_WRITES)
        if func is _aten._local_scalar_dense.default and _is_real(args[0]):
            self._read.append(args[0])
        return func(*args, **kwargs)


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and not isinstance(x, FakeTensor)


def trace(
    function: Callable[..., Any],
    example: Sequence[Tensor],
    formulas: Any = None,
    read: list[Tensor] | None = None,
    most: float = math.inf,
) -> fx.GraphModule:
    """The graph of a function as it is, on shapes alone.

    A large ensemble is traced as fast as a small one, and takes no memory.

    Args:
        function: tensors in, a sequence of tensors out.
        example: arguments.
        formulas: operations that are to be written as others.
        read: where to note tensors from outside of which the function reads a number.
        most: the most operations that the function may have.

    Returns:
        A graph of the same arguments.

    Raises:
        TooLongError: as soon as there are more operations than that.
        ImpureError: if the function writes into a tensor that it was not given.
    """
    read = [] if read is None else read

    def watched(*given: Tensor) -> Any:
        with _Outside(read, most):
            return function(*given)

    return make_fx(watched, formulas, "fake", _allow_non_fake_inputs=True)(*example)


def _clear_of_zero_tangents(graph: fx.GraphModule, example: Sequence[Tensor]) -> None:
    """Take out, in place, what forward mode leaves behind where a tangent is 0 everywhere.

    torch keeps such a tangent as a tensor without memory, and finds the shape of what comes of it on tensors without
    values, on the device "meta". A trace records both. The shapes are used by nothing, and run again they would be
    arguments on two devices; a zero without memory that is used crashes the process in the code of TorchInductor.

    Raises:
        ImpureError: if something on the device "meta" is used: inside of two maps torch 2.13 puts values there.
    """
    for node in graph.graph.nodes:
        if node.target is _aten._efficientzerotensor.default:
            node.target = _aten.zeros.default
    graph.graph.eliminate_dead_code()  # which keeps what writes, and what draws random numbers
    graph.recompile()
    if any(leaf.device.type == "meta" for leaf in example):
        return
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.device.type == "meta":
            raise ImpureError("it takes forward mode inside of two maps, of which torch traces values without memory")


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _reads_what_it_writes(node: fx.Node) -> bool:
    """Whether what an operation writes to overlaps something else that it is given.

    Free of writes, everything would be read first. Eager code reads an element when its turn comes, and goes through
    the lists of ``torch._foreach_add_`` one by one. To read exactly what is written, element by element, is the same
    in any order.
    """
    if not _writes(node):
        return False
    told = {each.name: each for each in node.target._schema.arguments}  # type: ignore[union-attr]
    given = [*zip(told.values(), node.args, strict=False), *((told[name], x) for name, x in node.kwargs.items())]
    places = [
        (told.alias_info is not None and told.alias_info.is_write, number, x.meta["val"])
        for told, several in given
        for number, x in enumerate(several if isinstance(several, (list, tuple)) else [several])
        if isinstance(x, fx.Node) and isinstance(x.meta.get("val"), Tensor)
    ]
    in_step = torch.Tag.pointwise in node.target.tags or node.target in _IN_STEP  # type: ignore[union-attr]
    for k, (written, number, x) in enumerate(places):
        for j, (_, other, y) in enumerate(places):
            if not written or j == k or x.untyped_storage()._cdata != y.untyped_storage()._cdata:
                continue
            if not (in_step and number == other and _lying(x) == _lying(y)) and _overlap(x, y):
                return True
    return False


_IN_STEP = {_aten.copy_.default} | {
    getattr(packet, each)
    for packet in (_aten._foreach_add_, _aten._foreach_sub_, _aten._foreach_mul_, _aten._foreach_div_)
    for each in packet.overloads()
}
"""Operations that go through their arguments element by element, beside those that torch says so of."""


def _lying(x: Tensor) -> tuple[object, ...]:
    return x.dtype, tuple(x.shape), x.stride(), x.storage_offset()


def _overlap(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors in one memory have an element in common."""
    return x.dtype != y.dtype or bool(torch.isin(_elements(x), _elements(y)).any())


def _elements(x: Tensor) -> Tensor:
    """Where in memory the elements of a tensor lie."""
    places = torch.tensor(int(x.storage_offset()), device="cpu")
    for n, step in zip(x.shape, x.stride(), strict=True):
        places = places[..., None] + step * torch.arange(n if step else min(n, 1), device="cpu")
    return places.reshape(-1)
