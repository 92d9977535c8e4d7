"""A traced function of a batch of systems as a program of few kinds of nodes, from which `native_source` writes C++.

Every array is known by its elements per system. An element is an atom: what one node computes, or one place in the
result of a node that computes many. Operations that only move elements about (views, stacks, transposes, their
derivatives) are done here, once and for all, by letting torch move the atoms' numbers; nothing of them is left in the
program. A node is of one of four kinds:

    number   one value, the same for all systems
    array    many values, the same for all systems: a parameter, its gradient
    lane     one value for every system
    row      many values for every system: a layer of a network

Numbers and lanes are written out one by one; arrays and rows are loops. A sum over the batch makes a number of a lane,
and an array of a row. What needs such a sum cannot start before all systems have been seen: ``level`` counts how often
that happens on the way to a node, and is what the program is cut by.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

_aten = torch.ops.aten

FEW = 4
"""Elements up to which the result of a loop is taken apart into lanes or numbers."""

SMALL = 16
"""Elements up to which an argument without a batch axis is taken apart into numbers."""

WIDEST = 64
"""Elements per system up to which arrays are taken apart into lanes."""

LARGEST = 2**15
"""Elements of a matrix that is read anew for every tile: beyond, a library that blocks for the cache wins."""

LONGEST = 12_000
"""Nodes up to which a program is worth compiling."""


MOST_NUMBERS = 512
"""Numbers among the elements of a result, each of which is a line of C++: a compiler takes minutes for ten thousand."""


SUMS = ("fold", "sum_batch", "outer")
"""Operations that sum over the batch: of a lane, of a row, and of the products of two rows."""


class UnsuitableError(Exception):
    """There is no such program for a function, for the reason given."""


class Node(NamedTuple):
    """One operation. Its arguments are nodes, and whatever plain values it is told."""

    op: str
    args: tuple[Any, ...]
    kind: str  # "number", "array", "lane" or "row"
    dtype: torch.dtype
    size: int  # values: of an array in all, of a row per system; 1 otherwise
    level: int  # numbers and arrays: −1 for those that need no system; lanes and rows: 0 for those that need no sum
    serial: int  # first of its atoms

    def __hash__(self) -> int:
        return self.serial

    def __eq__(self, other: object) -> bool:
        return self is other  # as a tuple it would compare all that stands behind it, again and again

    def __ne__(self, other: object) -> bool:
        return self is not other

    @property
    def nodes(self) -> list["Node"]:
        """The arguments that are nodes."""
        return [arg for arg in self.args if isinstance(arg, Node)]

    @property
    def whole(self) -> bool:
        """Whether it computes many values in a loop."""
        return self.kind in ("array", "row")

    @property
    def spread(self) -> bool:
        """Whether it computes something for every system."""
        return self.kind in ("lane", "row")


class Result(NamedTuple):
    """One result of the function."""

    elements: list[tuple[Node, int]]  # the node and the place in it of every element, batch axis left out
    shape: tuple[int, ...]  # without the batch axis
    axis: int | None  # where the batch axis is
    dtype: torch.dtype


class Program(NamedTuple):
    """What is to be computed, in an order in which it can be."""

    nodes: list[Node]
    results: list[Result]
    arguments: int
    batch: int
    real: torch.dtype  # of all floating-point values


class _Value(NamedTuple):
    """An array of the traced function.

    Shapes: ids is shape with 2 in the place of the batch axis: the numbers of the atoms, and their complements.
    """

    ids: Tensor
    axis: int | None  # the batch axis
    shape: tuple[int, ...]

    @property
    def atoms(self) -> Tensor:
        """The numbers of its atoms, batch axis left out."""
        return self.ids if self.axis is None else self.ids.select(self.axis, 0)


def build_program(graph: fx.GraphModule, example: Sequence[Tensor], batched: Sequence[bool]) -> Program:
    """The program of a graph.

    Args:
        graph: made by ``make_fx``; its results are a sequence of tensors.
        example: its arguments, batched ones with the batch in front.
        batched: which arguments have a batch axis.

    Returns:
        A `Program` for arguments of which the batched ones are stored batch-last.

    Raises:
        UnsuitableError: if there is none.
    """
    sizes = {len(x) for x, has in zip(example, batched, strict=True) if has}
    reals = {x.dtype for x in example if x.is_floating_point()}
    if len(sizes) != 1 or 2 in sizes:
        raise UnsuitableError("there is not one batch, of more than two systems")
    if len(reals) != 1 or not reals <= {torch.float64, torch.float32}:
        raise UnsuitableError("there is not one type of floating-point numbers")
    try:
        with torch.device("cpu"):  # numbers of atoms, whatever else is made elsewhere
            return _Reader(sizes.pop(), reals.pop()).read(graph, example, batched)
    except (IndexError, ValueError, RuntimeError) as error:  # of torch, asked to move what cannot be moved like that
        raise UnsuitableError(f"elements of the batch are mixed: {error}") from error


class _Reader:
    """Reads a graph operation by operation; what it has read is its state."""

    def __init__(self, batch: int, real: torch.dtype) -> None:
        self.batch, self.real = batch, real
        self._nodes: dict[Any, Node] = {}
        self._owners: list[Node] = []  # of every atom
        self._constants: dict[int, Tensor] = {}  # by the serials of their nodes

    def read(self, graph: fx.GraphModule, example: Sequence[Tensor], batched: Sequence[bool]) -> Program:
        values: dict[fx.Node, Any] = {}
        arguments = iter(enumerate(zip(example, batched, strict=True)))
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                number, (leaf, has) = next(arguments)
                values[node] = self._argument(number, leaf, has)
            elif node.op == "get_attr":
                values[node] = self._known(getattr(graph, node.target))
            elif node.op == "output":
                results = node.args[0]
                dtypes = [x.meta["val"].dtype for x in results]
                return self._program([values[x] for x in results], dtypes, len(example))
            elif node.users:
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda x: values[x])
                values[node] = self._call(node.target, args, kwargs, node.meta.get("val"), _is_turned(node))
                if len(self._nodes) > LONGEST:
                    raise UnsuitableError(f"there are more than {LONGEST} operations")
        raise UnsuitableError("there are no results")

    def _program(self, values: Sequence[_Value], dtypes: Sequence[torch.dtype], arguments: int) -> Program:
        results, wanted = [], set()
        for value, dtype in zip(values, dtypes, strict=True):
            if value.axis is None and value.ids.numel() > MOST_NUMBERS:
                value = self._once_per_system(value)
            atoms = value.atoms.reshape(-1).tolist()
            owners = [self._owners[a] for a in atoms]
            if value.axis is None and any(node.whole for node in owners) and (node := self.loop(value.atoms)).whole:
                atoms, owners = list(range(node.serial, node.serial + node.size)), [node] * node.size
            elif value.axis is None:
                owners = [self.atom(a) for a in atoms]
                atoms = [node.serial for node in owners]
            if value.axis is None and any(node.spread for node in owners):
                raise UnsuitableError("a result of one system of a batch")
            if value.axis is not None:  # rows are read element by element
                owners = [self.spread(self.atom(a)) for a in atoms]
                atoms = [node.serial for node in owners]
            if any(node.dtype != dtype for node in owners):
                raise UnsuitableError(f"there is a result of {dtype}")
            elements = [(node, a - node.serial) for node, a in zip(owners, atoms, strict=True)]
            results.append(Result(elements, tuple(value.atoms.shape), value.axis, dtype))
            wanted |= {node.serial for node in owners}
        kept = []
        for node in sorted(self._nodes.values(), key=lambda node: -node.serial):  # arguments stand before their users
            if node.serial in wanted:
                kept.append(node)
                wanted |= {arg.serial for arg in node.nodes}
        return Program(kept[::-1], results, arguments, self.batch, self.real)

    def _once_per_system(self, value: _Value) -> _Value:
        """An array that is the same for all systems, with a batch axis if it has one to spare, or nothing but loops."""
        for axis, n in enumerate(value.shape):
            if n == self.batch and bool((value.ids == value.ids.narrow(axis, 0, 1)).all()):
                return self.value(value.ids.select(axis, 0), axis)
        if not all(self._owners[a].whole for a in value.ids.reshape(-1).tolist()):
            raise UnsuitableError(f"there is a result of more than {MOST_NUMBERS} numbers")
        return value

    # --- nodes -------------------------------------------------------------------------------------------------------

    def node(self, op: str, *args: Any, kind: str, dtype: torch.dtype, size: int = 1) -> Node:
        """The node of an operation: the same one for the same operation on the same arguments."""
        if dtype.is_floating_point and dtype != self.real:
            raise UnsuitableError("there is more than one type of floating-point numbers")
        key = (op, kind, dtype, size, *(("node", arg.serial) if isinstance(arg, Node) else arg for arg in args))
        if key not in self._nodes:
            nodes = [arg for arg in args if isinstance(arg, Node)]
            if kind in ("lane", "row"):
                level = max([0, *(n.level + (not n.spread) for n in nodes)])
            else:
                level = max([-1, *(n.level for n in nodes)])
            self._nodes[key] = Node(op, args, kind, dtype, size, level, len(self._owners))
            self._owners += [self._nodes[key]] * size
        return self._nodes[key]

    def constant(self, value: Any, dtype: torch.dtype) -> Node:
        """A number that is known already."""
        if dtype == torch.bool:
            text = "true" if value else "false"
        elif dtype.is_floating_point:
            text = _literal(float(value))
        else:
            text, dtype = f"INT64_C({int(value)})", torch.int64
        node = self.node("constant", text, kind="number", dtype=dtype)
        if dtype == self.real:
            self._constants[node.serial] = torch.tensor(value, dtype=dtype)
        return node

    def atom(self, number: int) -> Node:
        """One element as a node of its own."""
        node = self._owners[number]
        if not node.whole:
            return node
        if node.kind == "array" and node.op != "argument" and node.dtype == torch.int64:
            raise UnsuitableError("there is an element of an array of whole numbers")
        kind = "lane" if node.spread else "number"
        return self.node("element", node, number - node.serial, kind=kind, dtype=node.dtype)

    def pointwise(self, op: str, *args: Node, dtype: torch.dtype, size: int) -> Node:
        """An operation on values that stand side by side; done here if all of them are known."""
        known = [self._constants.get(arg.serial) for arg in args]
        if op in _FOLDED and dtype == self.real and None not in known:
            return self.constant(float(_FOLDED[op](*known)), dtype)
        if op == "mul" and 1.0 in known and dtype == self.real:
            return args[known.index(None)]
        many = any(arg.whole for arg in args)
        kinds = ("row", "lane") if any(arg.spread for arg in args) else ("array", "number")
        return self.node(op, *args, kind=kinds[not many], dtype=dtype, size=size if many else 1)

    def spread(self, node: Node) -> Node:
        """A lane, or a number once for every system."""
        return node if node.spread else self.node("spread", node, kind="lane", dtype=node.dtype)

    def convert(self, node: Node, dtype: torch.dtype) -> Node:
        """A node in another type."""
        if node.dtype == dtype:
            return node
        return self.node("convert", node, kind=node.kind, dtype=dtype, size=node.size)

    # --- arrays ------------------------------------------------------------------------------------------------------

    def value(self, atoms: Tensor, axis: int | None) -> _Value:
        """An array of these atoms, with a batch axis put in."""
        if axis is None:
            return _Value(atoms, None, tuple(atoms.shape))
        shape = (*atoms.shape[:axis], self.batch, *atoms.shape[axis:])
        return _Value(torch.stack([atoms, ~atoms], axis), axis, shape)

    def of_nodes(self, nodes: Sequence[Node], inner: Sequence[int], axis: int | None) -> _Value:
        """An array of lanes or numbers."""
        return self.value(torch.tensor([x.serial for x in nodes], dtype=torch.int64).reshape(tuple(inner)), axis)

    def of_loop(self, node: Node, inner: Sequence[int], axis: int | None) -> _Value:
        """All that an array or a row computes."""
        if node.size <= FEW:
            return self.of_nodes([self.atom(node.serial + k) for k in range(node.size)], inner, axis)
        return self.value(torch.arange(node.serial, node.serial + node.size).reshape(tuple(inner)), axis)

    def _argument(self, number: int, leaf: Tensor, batched: bool) -> _Value:
        dtype, inner = leaf.dtype, tuple(leaf.shape[1:] if batched else leaf.shape)
        size = math.prod(inner)
        if dtype not in (self.real, torch.bool, torch.int64):
            raise UnsuitableError(f"there is an argument of {dtype}")
        if batched and size > WIDEST:
            raise UnsuitableError(f"there are more than {WIDEST} elements per system")
        if size > SMALL and not batched:
            return self.of_loop(self.node("argument", number, kind="array", dtype=dtype, size=size), inner, None)
        op, kind, axis = ("load", "lane", 0) if batched else ("item", "number", None)
        return self.of_nodes([self.node(op, number, k, kind=kind, dtype=dtype) for k in range(size)], inner, axis)

    def _known(self, tensor: Tensor) -> _Value:
        if tensor.numel() > LONGEST:
            raise UnsuitableError("there is a large constant")
        flat = tensor.detach().reshape(-1).tolist()
        return self.of_nodes([self.constant(x, tensor.dtype) for x in flat], tensor.shape, None)

    # --- operations --------------------------------------------------------------------------------------------------

    def _call(self, target: Any, args: Any, kwargs: Any, expected: Any, turned: bool) -> Any:
        if target is operator.getitem:
            return args[0][args[1]]
        if isinstance(expected, Tensor) and expected.dtype not in (self.real, torch.bool, torch.int64):
            raise UnsuitableError(f"there are values of {expected.dtype}")
        if not kwargs.keys() <= _LOOKED_AT:
            raise UnsuitableError(f"{target} is told {', '.join(sorted(kwargs.keys() - _LOOKED_AT))}")
        if target in _FILLED:  # one number, in the shape of another array
            known = _FILLED[target]
            node = self.constant(args[-1] if known is None else known, expected.dtype)
            return _Value(torch.tensor(node.serial).expand(expected.shape), None, tuple(expected.shape))
        if target in _MADE and not _values((args, kwargs)):
            return self._known(target(*args, **kwargs))
        if target in _MOVES:
            return self._move(_MOVES[target], args, expected)
        if target in _FOLDS:
            return self._fold(*_FOLDS[target], args, expected)
        if target in _WRITTEN_OVER:
            return self._pointwise(lambda make, x: make.convert(x), args[1:2], expected)
        if target in _POINTWISE:
            if kwargs.get("alpha", 1) != 1 or (target in _FACTORED and args[2:] not in ((), (1,))):
                raise UnsuitableError("there is an operation with a factor")
            return self._pointwise(_POINTWISE[target], args[:2] if target in _FACTORED else args, expected)
        if target is _aten.bmm.default:
            return self.small_products(args[0], args[1], expected.dtype)
        if target is _aten.mm.default:
            if expected.dtype != self.real:
                raise UnsuitableError(f"there is a matrix product of {expected.dtype}")
            return self.product(args[0], args[1], turned)
        raise UnsuitableError(f"{target} is not known")

    def _move(self, move: Callable[..., Any], args: Any, expected: Any) -> Any:
        """What torch does with elements, done with their numbers."""
        batched = any(x.axis is not None for x in _values(args))
        moved = move(self, args, expected)

        def one(ids: Tensor, like: Tensor) -> _Value:
            # The batch has two places here, and more, or one, in truth.
            places = [k for k, (n, m) in enumerate(zip(ids.shape, like.shape, strict=True)) if n != m]
            found = len(places) == 1 if batched and ids.numel() else len(places) <= batched
            if not found or any(like.shape[k] != self.batch for k in places):
                raise UnsuitableError("elements of the batch are mixed")
            if places and not torch.equal(ids.select(places[0], 1), ~ids.select(places[0], 0)):
                raise UnsuitableError("elements of the batch are mixed")  # other elements of the second system
            return _Value(ids, places[0] if places else None, tuple(like.shape))

        if isinstance(moved, Tensor):
            return one(moved, expected)
        if len(moved) != len(expected):
            raise UnsuitableError("elements of the batch are mixed")
        return [one(ids, like) for ids, like in zip(moved, expected, strict=True)]

    def together(self, values: Sequence[_Value]) -> list[Tensor]:
        """Their ids, all with a batch axis if one has it, in the same place."""
        axes = {x.axis for x in values if x.axis is not None}
        if not axes:
            return [x.ids for x in values]
        if len(axes) > 1:
            raise UnsuitableError("batches lie in different places")
        (axis,) = axes
        return [self.with_axis(x, axis) for x in values]

    def with_axis(self, x: _Value, axis: int) -> Tensor:
        """Its ids with a batch axis at this place, where it has one or is as long as the batch and the same for all."""
        if x.axis is None:
            return self.value(self.same(x, axis).squeeze(axis), axis).ids
        if x.axis != axis:
            raise UnsuitableError("batches lie in different places")
        return x.ids

    def same(self, x: _Value, axis: int) -> Tensor:
        """Of an array that has the size of the batch in an axis, but is the same for all systems, the first place."""
        first = x.ids.narrow(axis, 0, 1)
        if x.ids.stride(axis) and not bool((x.ids == first).all()):
            raise UnsuitableError("an array is as long as the batch and is no batch")
        return first

    # pointwise

    def _pointwise(self, formula: Callable[..., Node], args: Sequence[Any], expected: Tensor) -> _Value:
        shape, values = tuple(expected.shape), _values(args)
        axes = {x.axis + len(shape) - len(x.shape) for x in values if x.axis is not None}
        if len(axes) > 1:
            raise UnsuitableError("batches lie in different places")
        axis = axes.pop() if axes else None
        if axis is not None and shape[axis] != self.batch:  # a batch of one, beside something longer
            raise UnsuitableError("elements of the batch are mixed")
        inner = tuple(n for k, n in enumerate(shape) if k != axis)
        atoms = [self._broadcast(x, shape, axis) for x in values]
        # Along an axis in which nothing changes, once is enough.
        varies = [any(x.stride(k) and n > 1 for x in atoms) for k, n in enumerate(inner)]
        kept = [n if v or n == 0 else 1 for n, v in zip(inner, varies, strict=True)]
        atoms = [x[tuple(slice(n) for n in kept)] for x in atoms]
        count, dtype = math.prod(kept), expected.dtype
        if count > FEW and any(self._owners[int(x.reshape(-1)[0])].whole for x in atoms):
            columns = [[self.loop(x)] for x in atoms]
        else:
            columns = [[self.atom(a) for a in x.reshape(-1).tolist()] for x in atoms]
        made = []
        for each in zip(*columns, strict=True) if columns else [()]:  # torch lifts plain numbers as well
            given = iter(each)
            operands = [next(given) if isinstance(x, _Value) else x for x in args]
            made.append(formula(_Maker(self, dtype, count), *operands))
        if len(made) == 1 and made[0].whole:
            result = self.of_loop(made[0], kept, None).ids
        else:
            result = self.of_nodes(made, kept, None).ids
        return self.value(result.expand(inner), axis)

    def _broadcast(self, x: _Value, shape: tuple[int, ...], axis: int | None) -> Tensor:
        """Its atoms in a result of this shape, batch axis left out."""
        missing = len(shape) - len(x.shape)
        ids, own = x.ids, None if axis is None else axis - missing
        if own is not None and own >= 0:
            ids = ids.select(own, 0) if x.axis is not None or x.shape[own] == 1 else self.same(x, own).squeeze(own)
        inner = tuple(n for k, n in enumerate(shape) if k != axis)
        return ids.expand(inner)

    def loop(self, atoms: Tensor) -> Node:
        """The node of these elements in this order; where there is none, one that gathers them."""
        flat = atoms.reshape(-1)
        first = int(flat[0])
        if bool((flat == first).all()):
            return self.atom(first)
        node = self._owners[first]
        if node.whole and torch.equal(flat, torch.arange(node.serial, node.serial + node.size)):
            return node
        if (place := self.place(atoms)) is not None:
            node, start, steps = place
            return self.node(
                "permuted", node, start, tuple(atoms.shape), steps, kind="array", dtype=node.dtype, size=len(flat)
            )
        each = [self.atom(a) for a in flat.tolist()]
        kind = "row" if any(x.spread for x in each) else "array"
        dtype = each[0].dtype
        if dtype != self.real:
            raise UnsuitableError(f"there is an array of {dtype} that is put together")
        return self.node("assemble", *(self.convert(x, dtype) for x in each), kind=kind, dtype=dtype, size=len(each))

    def place(self, atoms: Tensor) -> tuple[Node, int, tuple[int, ...]] | None:
        """The array in which these elements lie with a fixed step along every axis: node, first place and steps."""
        flat = atoms.reshape(-1)
        first = int(flat[0])
        node = self._owners[first]
        steps = tuple(int(atoms.select(k, 1).reshape(-1)[0]) - first if n > 1 else 0 for k, n in enumerate(atoms.shape))
        grids = [torch.arange(n) * step for n, step in zip(atoms.shape, steps, strict=True)]
        regular = first + sum(torch.meshgrid(*grids, indexing="ij"), start=torch.zeros_like(atoms))
        inside = node.serial <= int(flat.min()) and int(flat.max()) < node.serial + node.size
        return (node, first - node.serial, steps) if node.kind == "array" and inside and regular.equal(atoms) else None

    # folds

    def _fold(self, op: str, is_mean: bool, args: Sequence[Any], expected: Tensor) -> _Value:
        x = args[0]
        chosen = args[1] if len(args) > 1 else None
        rank = len(x.shape)
        wanted = [chosen] if isinstance(chosen, int) else list(chosen if chosen is not None else ())
        over = {k % rank for k in wanted} or set(range(rank))
        dtype = self.real if is_mean else expected.dtype
        inner_axes = [k for k in range(rank) if k != x.axis]
        across = x.axis is not None and x.axis in over
        keeps = [place for place, k in enumerate(inner_axes) if k not in over]
        folds = [place for place, k in enumerate(inner_axes) if k in over]
        if not x.atoms.numel():
            raise UnsuitableError("there is a sum over nothing")
        atoms = x.atoms.permute((*keeps, *folds)).reshape(*(x.atoms.shape[k] for k in keeps), -1)
        make = _Maker(self, dtype, 1)
        columns = atoms.reshape(-1, atoms.shape[-1])
        nodes = self._fold_systems(op, columns, make) if not across else self._fold_batch(op, columns, make)
        count = columns.shape[1] * (self.batch if across else 1)
        if is_mean:
            nodes = [_Maker(self, dtype, node.size)("div", node, count) for node in nodes]
        shape = tuple(expected.shape)
        axis = None
        if x.axis is not None and not across:
            axis = x.axis if len(shape) == rank else x.axis - sum(k < x.axis for k in over)
        inner = tuple(n for k, n in enumerate(shape) if k != axis)
        if len(nodes) == 1 and nodes[0].whole:
            return self.of_loop(nodes[0], inner, axis)
        return self.of_nodes(nodes, inner, axis)

    def _fold_systems(self, op: str, columns: Tensor, make: "_Maker") -> list[Node]:
        """Every row of elements folded, system by system."""
        if columns.shape[1] > FEW and self._owners[int(columns[0, 0])].whole:
            if len(columns) > 1 or op != "add":
                raise UnsuitableError("there is a fold of a part of a loop")
            node = self.loop(columns[0])
            if not node.whole:
                raise UnsuitableError("there is a sum of many equal elements")
            if node.dtype != self.real or make.dtype != self.real:  # torch converts every element before it adds up
                raise UnsuitableError(f"there is a sum of many elements of {node.dtype} as {make.dtype}")
            kind = "lane" if node.spread else "number"
            return [self.node("sum", node, kind=kind, dtype=node.dtype)]
        return [self._folded(op, [self.atom(a) for a in column], make) for column in columns.tolist()]

    def _folded(self, op: str, nodes: Sequence[Node], make: "_Maker") -> Node:
        total = make.convert(nodes[0])
        for node in nodes[1:]:
            total = make(op, total, node)
        return total

    def _fold_batch(self, op: str, columns: Tensor, make: "_Maker") -> list[Node]:
        """The same, and then over all systems."""
        if len(columns) > FEW and columns.shape[1] == 1 and self._owners[int(columns[0, 0])].whole:
            row = self.loop(columns[:, 0])
            if op != "add" or row.kind != "row" or row.dtype != self.real or make.dtype != self.real:
                raise UnsuitableError("there is a fold of many elements that is no sum")
            return [self.node("sum_batch", row, kind="array", dtype=row.dtype, size=row.size)]
        nodes = self._fold_systems(op, columns, make)
        if not all(node.spread for node in nodes):
            raise UnsuitableError("there is a sum over systems that are all the same")
        return [self.node("fold", op, node, kind="number", dtype=node.dtype) for node in nodes]

    # matrix products

    def product(self, a: _Value, b: _Value, turned: bool) -> _Value:
        """Of two matrices, of which one or both have a row or a column for every system."""
        if a.axis is None and b.axis is None:
            raise UnsuitableError("there is a matrix product that has nothing to do with the batch")
        if a.axis == 0 and b.axis is None:
            return self._layer(a.ids.select(0, 0), b.ids)
        if a.axis is None and b.axis == 1:
            result = self._layer(b.ids.select(1, 0), a.ids.t())
            return self.value(result.atoms, 1)
        if a.axis == 1 and b.axis == 0:
            left, right = a.ids.select(1, 0), b.ids.select(0, 0)
            # Whoever turns it first thing is given it the other way round in memory.
            return self.value(self._outer(right, left).ids.t(), None) if turned else self._outer(left, right)
        raise UnsuitableError("there is a matrix product along and across the batch")

    def _layer(self, inputs: Tensor, matrix: Tensor) -> _Value:
        """Rows (K,) of all systems times one matrix (K, N)."""
        k, n = matrix.shape
        if matrix.numel() > LARGEST:
            raise UnsuitableError(f"there is a matrix of more than {LARGEST} elements")
        if k == 1:  # for every system a multiple of one row
            node = self.pointwise("mul", self.atom(int(inputs[0])), self.loop(matrix[0]), dtype=self.real, size=n)
            return self.of_loop(node, (n,), 0) if node.whole else self.of_nodes([node], (n,), 0)
        rows = self.row(inputs)
        if n == 1:
            column = self.loop(matrix[:, 0])
            if not column.whole:
                raise UnsuitableError("there is a matrix of equal elements")
            return self.of_nodes([self.node("dot", rows, column, kind="lane", dtype=self.real)], (1,), 0)
        place = self.place(matrix)
        if place is None:
            place = self.loop(matrix), 0, (n, 1)
            if not place[0].whole:
                raise UnsuitableError("there is a matrix of equal elements")
        node, start, steps = place
        panel = self.node(
            "panel", node, start, (k, n), steps, kind="array", dtype=self.real, size=k * padded(n, self.real)
        )
        return self.of_loop(self.node("layer", rows, panel, kind="row", dtype=self.real, size=n), (n,), 0)

    def row(self, atoms: Tensor) -> Node:
        """These elements of every system as one row."""
        node = self.loop(atoms)
        if node.kind == "row":
            return node
        each = [self.atom(a) for a in atoms.reshape(-1).tolist()]
        return self.node("assemble", *each, kind="row", dtype=self.real, size=len(each))

    def _outer(self, left: Tensor, right: Tensor) -> _Value:
        """Σ over systems of the products of rows (M,) and (N,): an array (M, N)."""
        m, n = len(left), len(right)
        if m * n > LARGEST:
            raise UnsuitableError(f"there is a matrix of more than {LARGEST} elements")
        if m == 1 or n == 1:
            one, many = (left, right) if m == 1 else (right, left)
            scaled = self.pointwise(
                "mul",
                self.row(many) if len(many) > 1 else self.atom(int(many[0])),
                self.atom(int(one[0])),
                dtype=self.real,
                size=len(many),
            )
            if len(many) == 1:
                return self.of_nodes([self.node("fold", "add", scaled, kind="number", dtype=self.real)], (m, n), None)
            node = self.node("sum_batch", scaled, kind="array", dtype=self.real, size=len(many))
            return self.of_loop(node, (m, n), None)
        node = self.node("outer", self.row(left), self.row(right), kind="array", dtype=self.real, size=m * n)
        return self.of_loop(node, (m, n), None)

    def small_products(self, a: _Value, b: _Value, dtype: torch.dtype) -> _Value:
        """Products of small matrices, one pair per system, of real or whole numbers."""
        if a.axis != 0 or b.axis != 0 or math.prod(a.shape[1:]) * b.shape[2] > WIDEST:
            raise UnsuitableError("there are matrix products for every system")
        make = _Maker(self, dtype, 1)
        x, y = a.atoms.tolist(), b.atoms.t().tolist()
        nodes = []
        for row in x:
            for column in y:
                pairs = [make("mul", self.atom(p), self.atom(q)) for p, q in zip(row, column, strict=True)]
                nodes.append(self._folded("add", pairs, make))
        return self.of_nodes(nodes, (len(x), len(y)), 0)


class _Maker:
    """Writes down formulas of pointwise operations: ``make("mul", x, y)`` on nodes and plain numbers."""

    def __init__(self, reader: _Reader, dtype: torch.dtype, size: int) -> None:
        self.reader, self.dtype, self.size = reader, dtype, size

    def __call__(self, op: str, *args: Any) -> Node:
        """An operation in the type of the result, such as torch would do it."""
        return self.typed(op, self.dtype, self.dtype, *args)

    def typed(self, op: str, work: torch.dtype, dtype: torch.dtype, *args: Any) -> Node:
        """An operation on arguments of one type with a result of another."""
        return self.reader.pointwise(op, *(self.convert(x, work) for x in args), dtype=dtype, size=self.size)

    def convert(self, x: Any, dtype: torch.dtype | None = None) -> Node:
        """A node or a number as a node of a type."""
        dtype = dtype or self.dtype
        return self.reader.convert(x, dtype) if isinstance(x, Node) else self.reader.constant(x, dtype)

    def compare(self, op: str, x: Any, y: Any) -> Node:
        """A comparison, in the wider type of the two."""
        types = [z.dtype if isinstance(z, Node) else _TYPES[type(z)] for z in (x, y)]
        if any(t.is_floating_point for t in types):
            return self.typed(op, self.reader.real, torch.bool, x, y)
        truth = set(types) == {torch.bool} and op in ("eq", "ne")
        return self.typed(op, torch.bool if truth else torch.int64, torch.bool, x, y)

    def where(self, mask: Node, x: Any, y: Any) -> Node:
        """x where the mask is set, else y."""
        operands = (self.convert(mask, torch.bool), self.convert(x), self.convert(y))
        return self.reader.pointwise("where", *operands, dtype=self.dtype, size=self.size)


def padded(n: int, real: torch.dtype) -> int:
    """Columns of a row in memory, of which the last ones may mean nothing: whole vectors, of whatever processor."""
    most = 64 // real.itemsize
    return -(-n // most) * most


_FOLDED: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
}
_TYPES = {float: torch.float64, int: torch.int64, bool: torch.bool}


def _literal(value: float) -> str:
    """A number as C++ reads it, to the last bit."""
    if math.isfinite(value):
        return f"real({value.hex()})"
    return "real(NAN)" if math.isnan(value) else f"real({'-' if value < 0 else ''}INFINITY)"


def _is_turned(node: fx.Node) -> bool:
    """Whether all that is done with a matrix is to transpose it."""
    return all(user.target is _aten.t.default for user in node.users)


def _values(tree: Any) -> list[_Value]:
    leaves = torch.utils._pytree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, _Value))
    return [x for x in leaves if isinstance(x, _Value)]


# --- what is known of torch's operations -----------------------------------------------------------------------------

_FILLED: dict[Any, float | None] = {  # a value, or None for the last argument
    _aten.zeros_like.default: 0.0,
    _aten.ones_like.default: 1.0,
    _aten.new_zeros.default: 0.0,
    _aten.new_ones.default: 1.0,
    _aten.full_like.default: None,
    _aten.new_full.default: None,
    _aten.fill.Scalar: None,
    _aten.zero.default: 0.0,
    # what nobody has written yet is anything
    _aten.new_empty.default: 0.0,
    _aten.new_empty_strided.default: 0.0,
    _aten.empty.memory_format: 0.0,
    _aten.empty_strided.default: 0.0,
    _aten.empty_like.default: 0.0,
}
_WRITTEN_OVER = {_aten.copy.default, _aten.fill.Tensor}  # the first argument has a shape and no other say
_LOOKED_AT = {"dtype", "alpha", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
"""What operations may be told by name: a dtype shows in the result, and the last ones change no number."""

_MADE = {
    _aten.scalar_tensor.default,
    _aten.eye.default,
    _aten.zeros.default,
    _aten.ones.default,
    _aten.full.default,
    _aten.arange.default,
    _aten.arange.start,
    _aten.arange.start_step,
}


def _moved_by(operation: Any) -> Callable[..., Any]:
    """An operation on one array that can be done on numbers as it stands."""
    return lambda reader, args, expected: operation(args[0].ids, *args[1:])


def _split_by(operation: Any) -> Callable[..., Any]:
    """One piece is the whole, of the batch as well."""
    return lambda reader, args, expected: [args[0].ids] if len(expected) == 1 else operation(args[0].ids, *args[1:])


def _joined_by(operation: Any) -> Callable[..., Any]:
    def join(reader: _Reader, args: Any, expected: Any) -> Tensor:
        pieces = [x for x in args[0] if x.shape != (0,)]  # torch lets such a tensor stand beside any others
        return operation(reader.together(pieces), *args[1:])

    return join


def _expand(reader: _Reader, args: Any, expected: Any) -> Tensor:
    x, sizes = args[0], list(expected.shape)
    if x.axis is not None:
        sizes[x.axis + len(sizes) - len(x.shape)] = 2
    return x.ids.expand(sizes)


def _reshape(reader: _Reader, args: Any, expected: Any) -> Tensor:
    x, sizes = args[0], list(expected.shape)
    if x.axis is not None:
        before = math.prod(x.shape[: x.axis])
        same = [k for k, n in enumerate(sizes) if n == reader.batch and math.prod(sizes[:k]) == before]
        if not same:
            raise UnsuitableError("elements of the batch are mixed")
        sizes[same[-1] if x.shape[x.axis] != 1 else same[0]] = 2
    return x.ids.reshape(sizes)


def _put_back(take: Any) -> Callable[..., Any]:
    """The derivative of taking elements out: they go back to where they were, and zeros stay elsewhere."""

    def put(reader: _Reader, args: Any, expected: Any) -> Tensor:
        grad, _, *rest = args
        zero = torch.tensor(reader.constant(0.0, expected.dtype).serial)
        if grad.axis is None:
            whole = zero.repeat(expected.shape)
        else:
            gained = len(expected.shape) > len(grad.shape) and rest[0] % len(expected.shape) <= grad.axis
            axis = grad.axis + gained
            inner = [n for k, n in enumerate(expected.shape) if k != axis]
            whole = reader.value(zero.repeat(inner), axis).ids
        take(whole, *rest).copy_(grad.ids)
        return whole

    return put


def _put_into(take: Any, *, drops: bool) -> Callable[..., Any]:
    """A part of an array written over: what ``take`` would take out of the result; ``drops``: and lose its axis."""

    def put(reader: _Reader, args: Any, expected: Any) -> Tensor:
        whole, part, dim, *rest = (*args, 0) if len(args) == 2 else args
        dim %= len(whole.shape)
        axis = whole.axis
        if axis is None and part.axis is not None:
            axis = part.axis + (drops and part.axis >= dim)
        if axis is None:
            ids = whole.ids.clone()
        elif axis == dim:
            raise UnsuitableError("elements of the batch are mixed")
        else:
            ids = reader.with_axis(whole, axis).clone()
            part = part._replace(ids=reader.with_axis(part, axis - (drops and axis > dim)))
        take(ids, dim, *rest).copy_(part.ids)
        return ids

    return put


def _diagonal(reader: _Reader, args: Any, expected: Any) -> Tensor:
    x, *rest = args
    given = rest[1:]
    first, second = (k % len(x.shape) for k in (*given, *(0, 1)[len(given) :]))
    if x.axis in (first, second):
        raise UnsuitableError("elements of the batch are mixed")
    return torch.diagonal(x.ids, *rest)


_MOVES: dict[Any, Callable[..., Any]] = {
    _aten.permute.default: _moved_by(torch.permute),
    _aten.transpose.int: _moved_by(torch.transpose),
    _aten.t.default: _moved_by(torch.t),
    _aten.select.int: _moved_by(torch.select),
    _aten.unbind.int: _moved_by(torch.unbind),
    _aten.slice.Tensor: _moved_by(_aten.slice.Tensor),
    _aten.split.Tensor: _split_by(_aten.split.Tensor),
    _aten.split_with_sizes.default: _split_by(_aten.split_with_sizes.default),
    _aten.unsqueeze.default: _moved_by(torch.unsqueeze),
    _aten.squeeze.default: _moved_by(torch.squeeze),
    _aten.squeeze.dim: _moved_by(torch.squeeze),
    _aten.squeeze.dims: _moved_by(torch.squeeze),
    _aten.expand.default: _expand,
    _aten.view.default: _reshape,
    _aten._unsafe_view.default: _reshape,
    _aten.reshape.default: _reshape,
    _aten.cat.default: _joined_by(torch.cat),
    _aten.stack.default: _joined_by(torch.stack),
    _aten.select_backward.default: _put_back(torch.select),
    _aten.slice_backward.default: _put_back(_aten.slice.Tensor),
    _aten.select_scatter.default: _put_into(torch.select, drops=True),
    _aten.slice_scatter.default: _put_into(_aten.slice.Tensor, drops=False),
    _aten.diagonal.default: _diagonal,
}

_FOLDS: dict[Any, tuple[str, bool]] = {  # pairwise operation, and whether it is a mean
    _aten.sum.default: ("add", False),
    _aten.sum.dim_IntList: ("add", False),
    _aten.mean.default: ("add", True),
    _aten.mean.dim: ("add", True),
    _aten.amax.default: ("max", False),
    _aten.amin.default: ("min", False),
    _aten.any.default: ("or", False),
    _aten.any.dim: ("or", False),
    _aten.any.dims: ("or", False),
    _aten.all.default: ("and", False),
    _aten.all.dim: ("and", False),
    _aten.all.dims: ("and", False),
}


def _op(name: str) -> Callable[..., Node]:
    return lambda make, *args: make(name, *args)


def _compared(name: str) -> Callable[..., Node]:
    return lambda make, x, y: make.compare(name, x, y)


def _clamp(make: _Maker, x: Node, least: Any = None, most: Any = None) -> Node:
    x = x if least is None else make("max", x, least)
    return x if most is None else make("min", x, most)


def _power(make: _Maker, x: Any, exponent: Any) -> Node:
    """Small whole and half exponents without a logarithm, as torch does it."""
    if isinstance(exponent, Node) or not make.dtype.is_floating_point:
        return make("pow", x, exponent)
    square = make("mul", x, x)
    known = {
        0.5: lambda: make("sqrt", x),
        -0.5: lambda: make("div", 1, make("sqrt", x)),
        -1.0: lambda: make("div", 1, x),
        -2.0: lambda: make("div", 1, square),
        1.0: lambda: make.convert(x),
        2.0: lambda: square,
        3.0: lambda: make("mul", square, x),
        4.0: lambda: make("mul", square, square),
    }
    return known[float(exponent)]() if float(exponent) in known else make("pow", x, exponent)


def _sign(make: _Maker, x: Node) -> Node:
    return make("sub", make.convert(make.compare("gt", x, 0)), make.convert(make.compare("lt", x, 0)))


def _sigmoid(make: _Maker, x: Node) -> Node:
    return make("div", 1, make("add", 1, make("exp", make("neg", x))))


_POINTWISE: dict[Any, Callable[..., Node]] = {
    **{
        overload: _op(name)
        for name, packet in {"add": _aten.add, "sub": _aten.sub, "mul": _aten.mul, "div": _aten.div}.items()
        for overload in (packet.Tensor, packet.Scalar)
    },
    **{
        overload: _compared(name)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for overload in (getattr(_aten, name).Tensor, getattr(_aten, name).Scalar)
    },
    **{getattr(_aten, name).default: _op(name) for name in ("neg", "abs", "exp", "log", "sqrt", "tanh", "sin", "cos")},
    _aten.maximum.default: _op("max"),
    _aten.minimum.default: _op("min"),
    _aten.bitwise_and.Tensor: _op("and"),
    _aten.bitwise_or.Tensor: _op("or"),
    _aten.bitwise_not.default: _op("not"),
    _aten.logical_and.default: _op("and"),
    _aten.logical_or.default: _op("or"),
    _aten.logical_not.default: lambda make, x: make.typed("not", torch.bool, torch.bool, x),
    _aten.where.self: lambda make, mask, x, y: make.where(mask, x, y),
    _aten.masked_fill.Scalar: lambda make, x, mask, value: make.where(mask, value, x),
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: _clamp,
    _aten.clamp_max.default: lambda make, x, most: make("min", x, most),
    _aten.rsub.Scalar: lambda make, x, y: make("sub", y, x),
    _aten.reciprocal.default: lambda make, x: make("div", 1, x),
    _aten.rsqrt.default: lambda make, x: make("div", 1, make("sqrt", x)),
    _aten.pow.Tensor_Scalar: _power,
    _aten.pow.Scalar: _power,
    _aten.pow.Tensor_Tensor: _power,
    _aten.sgn.default: _sign,
    _aten.sign.default: _sign,
    _aten.isinf.default: lambda make, x: make.compare("eq", make.typed("abs", x.dtype, x.dtype, x), math.inf),
    _aten.isnan.default: lambda make, x: make.compare("ne", x, x),
    _aten.relu.default: lambda make, x: make("max", x, 0),
    _aten.threshold_backward.default: lambda make, grad, x, t: make.where(make.compare("le", x, t), 0, grad),
    _aten.tanh_backward.default: lambda make, grad, y: make("mul", grad, make("sub", 1, make("mul", y, y))),
    _aten.sigmoid.default: _sigmoid,
    _aten.sigmoid_backward.default: lambda make, g, y: make("mul", g, make("mul", make("sub", 1, y), y)),
    _aten.silu.default: lambda make, x: make("mul", x, _sigmoid(make, x)),
    **{
        overload: lambda make, x, *_: make.convert(x)
        for overload in (
            _aten.clone.default,
            _aten.detach.default,
            _aten.alias.default,
            _aten.contiguous.default,
            _aten.lift_fresh_copy.default,
            _aten._to_copy.default,
        )
    },
}

_FACTORED = {_aten.add.Scalar, _aten.sub.Scalar, _aten.rsub.Scalar}  # the third argument multiplies the second
