"""C++ for a program of `native_graph`: one function, in which every tile of systems goes through the whole program.

The systems are cut into chunks, which threads share, and chunks into tiles so small that what is known of a tile stays
in the cache nearest to the processor. For a tile, lanes are written out operation by operation on vectors of a few
systems; layers of a network are products of the tile's rows with a matrix; sums over the batch are kept chunk by chunk
and put together at the end, in the order of the chunks, so that no result depends on the number of threads. What needs
such a sum comes in another pass over all tiles, which finds what the first one has left.

Names: n12 is a number, a12 the memory of an array, x12 a lane or a vector of a row in registers, p12 where the lane or
row of a tile lies in memory, s12 a sum over the batch of one chunk.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .native_delay import delay
from .native_graph import SUMS, Node, Program, UnsuitableError, padded
from .native_layout import ALIGNED, Layout, Segment, kind_of, name_of

_GATHERING = ("permuted", "panel", "assemble")  # of arrays, one call each

_FORMULAS = {
    "spread": "{}",
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "and": "{} & {}",
    "or": "{} | {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "not": "negated({})",
    "abs": "absolute({})",
    "max": "max({}, {})",
    "min": "min({}, {})",
    "where": "where({}, {}, {})",
    "sqrt": "root({})",
    "exp": "exponential({})",
    "log": "logarithm({})",
    "tanh": "hyperbolic_tangent({})",
    "sin": "sine({})",
    "cos": "cosine({})",
    "pow": "power({}, {})",
}
_NEUTRAL = {"add": "0", "max": "-INFINITY", "min": "INFINITY", "and": "true", "or": "false"}


class Source(NamedTuple):
    """A translation unit, and the memory that its function wants."""

    text: str  # to be compiled behind ``native_kernels.h``
    words: int  # zeros, of the width of a floating-point value, for every thread that calls it
    independent: bool  # whether its chunks may be computed one by one
    skips: bool  # whether it leaves out systems that a mask leaves out, see `native_idle`


def write_source(program: Program) -> Source:
    """The source of ``run(in, out, memory, threads, from, to)``, which computes these chunks; see ``native_calls.h``.

    Args:
        program: what it computes.

    Returns:
        A `Source`. Batched arguments and results lie batch-last.

    Raises:
        UnsuitableError: if the program cannot be written down.
    """
    if program.real != torch.float64 and any((n.spread or n.whole) and n.dtype == torch.int64 for n in program.nodes):
        raise UnsuitableError("there are whole numbers of 64 bits beside floating-point ones of 32")
    return _Writer(delay(program)).write()


class _Writer:
    """Writes one program down, line by line."""

    def __init__(self, program: Program) -> None:
        layout = Layout(program)
        self.program, self.layout, self.cut = program, layout, layout.cut
        self.number, self.users, self.results = layout.number, layout.users, layout.results
        self.place, self.partial, self.shared = layout.place, layout.partial, layout.shared
        self.moved: dict[int, str] = {}  # lanes and rows that the pass under way finds elsewhere
        self.lines: list[str] = []

    def write(self) -> Source:
        """The translation unit."""
        self._uniform(-1)
        for level in range(self.layout.passes):
            self._pass(level)
            self._uniform(level)
        self._copies()
        chunk, chunks, tile = self.cut
        tiles = chunks * (chunk // tile)
        own = self.layout.local.words + ALIGNED * 8  # chunks of different threads do not share a cache line
        words = self.shared.words + tiles * self.layout.kept.words + chunks * own + ALIGNED
        head = [
            f"constexpr long B = {self.program.batch}, CHUNK = {chunk}, CHUNKS = {chunks}, TILE = {tile};",
            f"constexpr long KEPT = {self.layout.kept.words}, LOCAL = {own}, WORDS = {words};",
            f"constexpr long INS = {self.program.arguments}, OUTS = {len(self.program.results)};",
            f"constexpr bool INDEPENDENT = {str(self._is_independent()).lower()};",
            "static void run(const void *const *in, void *const *out, real *memory, int threads, long from, long to) {",
            "real *const shared = memory;",
            f"real *const keeping = memory + {self.shared.words};",
            f"real *const locals = keeping + {tiles * self.layout.kept.words};",
        ]
        text = "\n".join([*head, *self.lines, "}", ""])
        return Source(text, words, self._is_independent(), any(self.layout.idle))

    def _is_independent(self) -> bool:
        """Whether no system has to do with another, so that chunks need not wait for each other between two calls."""
        sums = any(node.op in SUMS for node in self.program.nodes)
        return not sums and all(result.axis is not None for result in self.program.results)

    def say(self, line: str) -> None:
        """One line more."""
        self.lines.append(line)

    def _uniform(self, level: int) -> None:
        """Numbers and arrays, after the pass that they depend on."""
        left = [n for n in self.program.nodes if not n.spread and n.level == level and n.op not in SUMS]
        missing = {n.serial for n in left}

        def ready(node: Node) -> bool:
            return not any(arg.serial in missing for arg in node.nodes)

        while left:
            first = next((n for n in left if n.kind == "number" and ready(n)), None) or next(filter(ready, left))
            chosen = []
            for node in left:
                if first.kind == "number":
                    alike = node.kind == "number"
                else:
                    alike = node.kind == "array" and node.size == first.size and node.op not in _GATHERING
                if node is first or (alike and ready(node) and first.op not in (*_GATHERING, "argument")):
                    chosen.append(node)
                    missing.discard(node.serial)
            left = [node for node in left if node.serial in missing]
            if first.kind == "number":
                for node in chosen:
                    self._number(node)
            else:
                self._arrays(chosen)

    def _number(self, node: Node) -> None:
        name = f"const {name_of(node.dtype)} n{self.number[node.serial]}"
        if node.op == "item":
            self.say(f"{name} = ((const {name_of(node.dtype)} *)in[{node.args[0]}])[{node.args[1]}];")
        elif node.op == "element":
            self.say(f"{name} = {self.array(node.args[0])}[{node.args[1]}];")
        elif node.op == "sum":
            self.say(f"{name} = sum_array({self.array(node.args[0])}, {node.args[0].size});")
        elif node.op != "constant":
            self.say(f"{name} = {self.formula(node, self.scalar)};")
        self._store_number(node)

    def _store_number(self, node: Node) -> None:
        for result, place in self.results[node.serial]:
            kind = name_of(self.program.results[result].dtype)
            self.say(f"(({kind} *)out[{result}])[{place}] = {self.scalar(node)};")

    def _arrays(self, nodes: Sequence[Node]) -> None:
        """Arrays of one size in one loop, or one that is gathered."""
        inside = {n.serial for n in nodes}
        for node in nodes:
            outlives = node.op in _GATHERING or any(user.serial not in inside for user in self.users[node.serial])
            if node.serial not in self.place and (outlives or self._is_copied(node)):
                self.place[node.serial] = f"shared + {self.shared.take(node.size)}"
            if node.serial in self.place:
                kind = f"const {name_of(node.dtype)}" if node.op == "argument" else "real"
                self.say(f"{kind} *const a{self.number[node.serial]} = {self.place[node.serial]};")
        node = nodes[0]
        if node.op == "argument":
            return
        if node.op in _GATHERING:
            self._gather(node)
            return

        def operand(arg: Node) -> str:
            if arg.kind == "number":
                return f"all({self.scalar(arg)})"
            if arg.serial in inside:
                return f"x{self.number[arg.serial]}"
            if arg.op == "argument" or arg.serial in self.layout.direct:
                return f"load({self.array(arg)} + i, m)"
            return f"{_fetch(arg)}({self.array(arg)} + i)"

        self.say(f"for (long i = 0; i < {node.size}; i += V) {{")
        self.say(f"const long m = {node.size} - i < V ? {node.size} - i : V; (void)m;")
        for node in nodes:
            name = f"x{self.number[node.serial]}"
            self.say(f"const {_vector(node)} {name} = {self.formula(node, operand)};")
            if node.serial in self.layout.direct:
                self.say(f"store({self.array(node)} + i, {name}, m);")
            elif node.serial in self.place:
                self.say(f"keep({self.array(node)} + i, {name});")
        self.say("}")

    def _gather(self, node: Node) -> None:
        out = self.array(node)
        if node.op == "assemble":
            for k, arg in enumerate(node.nodes):
                self.say(f"{out}[{k}] = {self.scalar(arg)};")
            return
        source, start, shape, steps = node.args
        if source.dtype != self.program.real:
            raise UnsuitableError("there is an array of masks that is moved about")
        if node.op == "panel":
            step = padded(shape[1], self.program.real)
            self.say(
                f"pack({out}, {self.array(source)} + {start}, {steps[0]}, {steps[1]}, {shape[0]}, {shape[1]}, {step});"
            )
            return
        axes = [(n, s) for n, s in zip(shape, steps, strict=True) if n > 1]
        if len(axes) > 2:
            raise UnsuitableError("there is an array of three axes that is moved about")
        (rows, down), (columns, along) = ([(1, 0)] * (2 - len(axes))) + axes
        self.say(f"permute({out}, {self.array(source)} + {start}, {down}, {along}, {rows}, {columns});")

    # a pass over all tiles

    def _pass(self, level: int) -> None:
        segments = self.layout.segments[level]
        sums = [n for segment in segments for n in segment.nodes if n.op in SUMS]
        for node in sums:
            if node.kind == "array":
                self.say(f"real *const a{self.number[node.serial]} = {self.place[node.serial]};")
        if self.cut.chunks > 1:
            self.say("#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)")
        self.say("for (long c = from; c < to; c++) {")
        self.say("real *const local = locals + c * LOCAL;")
        for node in sums:
            if node.op == "fold":
                neutral = f"all({self.neutral(node)})"
                self.say(f"keep(local + {self.partial[node.serial]}, {neutral});")
        self.say("const long last = (c + 1) * CHUNK < B ? (c + 1) * CHUNK : B;")
        if self.layout.idle[level]:
            self._busy_tiles(level, segments)
        else:
            self.say("for (long s = c * CHUNK; s < last; s += TILE) {")
            self.say("const long n = last - s < TILE ? last - s : TILE;")
            self.say("const bool first = s == c * CHUNK; (void)first;")
            self.say("real *const kept = keeping + s / TILE * KEPT; (void)kept;")
            self._tile(segments)
            self.say("}")
        self.say("}")
        for node in sums:
            self._put_together(node)

    def _tile(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if segment.kind == "lanes":
                self._lanes(segment.nodes)
            elif segment.kind == "rows":
                self._rows(segment.nodes)
            else:
                self._call(segment.nodes[0])

    def _busy_tiles(self, level: int, segments: Sequence[Segment]) -> None:
        """Tiles of those systems alone that add something; a tile in which all of them do is taken as it lies."""
        real, found = self.program.real, self.layout.gathered[level]
        sums = [n for segment in segments for n in segment.nodes if n.op in ("outer", "sum_batch")]
        self.say("bool first = true;")
        self.say("for (long next = c * CHUNK; next < last;) {")
        self.say("long n = 0, busy[TILE];")
        for node in found:
            self.say(f"const real *p{self.number[node.serial]} = local + {found[node]};")
        self.say("while (next < last) {")
        self.say("const long there = last - next < TILE ? last - next : TILE;")
        self.say("real *const kept = keeping + next / TILE * KEPT;")
        self.say("long count = 0;")
        condition = " && ".join(
            f"{'!' if case.value else ''}is_set({self.place[case.mask.serial]} + i)" for case in self.layout.idle[level]
        )
        self.say(f"for (long i = 0; i < there; i++) if ({condition}) busy[count++] = i;")
        self.say("if (n + count > TILE) break;")
        self.say("next += TILE;")
        self.say("if (n == 0 && count == there) {")
        for node in found:
            self.say(f"p{self.number[node.serial]} = {self.place[node.serial]};")
        self.say("n = there;")
        self.say("break;")
        self.say("}")
        for node in found:
            width = padded(node.size, real) if node.kind == "row" else 1
            self.say(f"gather(local + {found[node]} + n * {width}, {self.place[node.serial]}, busy, count, {width});")
        self.say("n += count;")
        self.say("}")
        self.say("if (n == 0) continue;")
        places = {node.serial: self.place[node.serial] for node in found}
        self.moved = {node.serial: f"p{self.number[node.serial]}" for node in found}
        self.place |= self.moved
        self._tile(segments)
        self.place, self.moved = self.place | places, {}
        self.say("first = false;")
        self.say("}")
        for node in sums:
            rows = node.size if node.op == "sum_batch" else node.args[1].size
            count = (1 if node.op == "sum_batch" else node.args[0].size) * padded(rows, real)
            self.say(f"if (first) memset(local + {self.partial[node.serial]}, 0, {count} * sizeof(real));")

    def _lanes(self, nodes: Sequence[Node]) -> None:
        """Values of every system, written out one by one on vectors of systems."""
        inside = {n.serial for n in nodes}
        folds = [n for n in nodes if n.op == "fold"]
        self.say("{")
        for node in folds:
            arg = node.nodes[0]
            self.say(
                f"{_vector(arg)} s{self.number[node.serial]} = {_fetch(arg)}(local + {self.partial[node.serial]});"
            )
        self.say("for (long v = 0; v < n; v += V) {")
        self.say("const long m = n - v < V ? n - v : V; (void)m;")
        known: set[int] = set()

        def operand(arg: Node) -> str:
            if arg.kind == "number":
                return f"all({self.scalar(arg)})"
            if arg.serial not in known:
                if arg.serial in inside and arg.op != "load":
                    raise AssertionError(f"{arg.op} is wanted before it is known")
                known.add(arg.serial)
                self.say(f"const {_vector(arg)} x{self.number[arg.serial]} = {self._read(arg)};")
            return f"x{self.number[arg.serial]}"

        for node in nodes:
            name = f"x{self.number[node.serial]}"
            if node.op == "fold":
                value, sum_ = operand(node.nodes[0]), f"s{self.number[node.serial]}"
                counted = f"(m == V ? {value} : where(before(m), {value}, all({self.neutral(node)})))"
                self.say(f"{sum_} = {_FORMULAS[_of_masks(node.args[0], node.dtype)].format(sum_, counted)};")
                continue
            if node.op == "assemble":
                step = padded(node.size, self.program.real)
                for k, arg in enumerate(node.nodes):
                    self.say(f"scatter({self.place[node.serial]} + v * {step} + {k}, {step}, {operand(arg)});")
                continue
            if node.op == "load":
                if not self.results[node.serial] and node.serial not in self.place:
                    continue
                operand(node)
            elif node.op == "element":
                row = node.args[0]
                step = padded(row.size, self.program.real)
                read = "column" if row.dtype == self.program.real else "column_words"
                place = f"{self.place[row.serial]} + v * {step} + {node.args[1]}"
                self.say(f"const {_vector(node)} {name} = {read}({place}, {step});")
            else:
                self.say(f"const {_vector(node)} {name} = {self.formula(node, operand)};")
            known.add(node.serial)
            if node.serial in self.place:
                self.say(f"keep({self.place[node.serial]} + v, {name});")
            self._store_lane(node)
        self.say("}")
        for node in folds:
            self.say(f"keep(local + {self.partial[node.serial]}, s{self.number[node.serial]});")
        self.say("}")

    def _read(self, node: Node) -> str:
        """A lane that another loop has left in memory, or an argument."""
        if node.op == "load" and node.serial not in self.moved:
            number, k = node.args
            return f"load((const {name_of(node.dtype)} *)in[{number}] + {k} * B + s + v, m)"
        return f"{_fetch(node)}({self.place[node.serial]} + v)"

    def _store_lane(self, node: Node) -> None:
        for result, place in self.results[node.serial]:
            kind = name_of(self.program.results[result].dtype)
            self.say(f"store(({kind} *)out[{result}] + {place} * B + s + v, x{self.number[node.serial]}, m);")

    def _rows(self, nodes: Sequence[Node]) -> None:
        """Rows of one size, operation by operation in one loop."""
        inside = {n.serial for n in nodes}
        size = nodes[0].size
        step = padded(size, self.program.real)
        outer = [arg for n in nodes for arg in n.nodes if arg.serial not in inside and arg.kind in ("lane", "array")]

        def operand(arg: Node) -> str:
            if arg.kind == "number":
                return f"all({self.scalar(arg)})"
            if arg.serial in inside:
                return f"x{self.number[arg.serial]}"
            if arg.kind == "lane":
                read = "all(({})[l])" if arg.dtype == self.program.real else "all_words({} + l)"
                return read.format(self.place[arg.serial])
            if arg.kind == "row":
                return f"{_fetch(arg)}({self.place[arg.serial]} + i)"
            if arg.op != "argument" and arg.dtype != self.program.real:  # our own memory: whole vectors
                return f"fetch_words({self.array(arg)} + f)"
            return f"load({self.array(arg)} + f, {size} - f < V ? {size} - f : V)"

        if outer:
            self.say(f"for (long l = 0; l < n; l++) for (long f = 0; f < {size}; f += V) {{")
            self.say(f"const long i = l * {step} + f;")
        else:
            self.say(f"for (long i = 0; i < n * {step}; i += V) {{")
        for node in nodes:
            name = f"x{self.number[node.serial]}"
            self.say(f"const {_vector(node)} {name} = {self.formula(node, operand)};")
            if node.serial in self.place:
                self.say(f"keep({self.place[node.serial]} + i, {name});")
        self.say("}")

    def _call(self, node: Node) -> None:
        real, rows = self.program.real, node.args[0]
        source, step = self.place[rows.serial], padded(rows.size, real)
        if node.op == "layer":
            columns = padded(node.size, real)
            self.say(
                f"product<false, true>({source}, {step}, 1, {self.array(node.args[1])}, {columns}, "
                f"{self.place[node.serial]}, {columns}, n, {rows.size}, {columns});"
            )
        elif node.op == "outer":
            right = node.args[1]
            columns = padded(right.size, real)
            sum_, factor = f"local + {self.partial[node.serial]}", self.place[right.serial]
            self.say(
                f"(first ? product<false, false> : product<true, false>)({source}, 1, {step}, {factor}, {columns}, "
                f"{sum_}, {columns}, {rows.size}, n, {columns});"
            )
        elif node.op == "dot":
            vector = self.array(node.args[1])
            self.say(f"dot_rows({self.place[node.serial]}, {source}, {step}, {vector}, n, {rows.size});")
            self._store_called(node)
        elif node.op == "sum":
            self.say(f"sum_rows({self.place[node.serial]}, {source}, {step}, n, {rows.size});")
            self._store_called(node)
        else:
            self.say(f"sum_batch(local + {self.partial[node.serial]}, {source}, {step}, n, first);")

    def _store_called(self, node: Node) -> None:
        for result, place in self.results[node.serial]:
            self.say(f"memcpy((real *)out[{result}] + {place} * B + s, {self.place[node.serial]}, n * sizeof(real));")

    def _put_together(self, node: Node) -> None:
        """A sum over the batch, from what the chunks have."""
        name = self.number[node.serial]
        chunks = f"locals + {self.partial[node.serial]}, LOCAL, CHUNKS"
        if node.op == "fold":
            op = _of_masks(node.args[0], node.dtype)
            combine = _FORMULAS[op].format("x", "y")
            kind, fetch = _vector(node), _fetch(node)
            self.say(f"{kind} s{name} = {fetch}(locals + {self.partial[node.serial]});")
            self.say(
                f"for (long c = 1; c < CHUNKS; c++) {{ const {kind} x = s{name}, "
                f"y = {fetch}(locals + c * LOCAL + {self.partial[node.serial]}); s{name} = {combine}; }}"
            )
            scalar = name_of(node.dtype)
            self.say(f"{scalar} n{name} = s{name}[0];")
            self.say(
                f"for (long i = 1; i < V; i++) {{ const {scalar} x = n{name}, y = s{name}[i]; n{name} = {combine}; }}"
            )
            self._store_number(node)
        elif node.op == "sum_batch":
            self.say(f"sum_chunks(a{name}, {chunks}, 1, {node.size}, {padded(node.size, self.program.real)});")
        else:
            left, right = node.nodes
            step = padded(right.size, self.program.real)
            self.say(f"sum_chunks(a{name}, {chunks}, {left.size}, {right.size}, {step});")

    def _is_copied(self, node: Node) -> bool:
        return any(n.serial == node.serial for r in self.program.results for n, _ in r.elements[:1])

    def _copies(self) -> None:
        """Results that are arrays and lie elsewhere so far."""
        for k, result in enumerate(self.program.results):
            if not result.elements or result.elements[0][0].kind != "array":
                continue
            node = result.elements[0][0]
            if self.layout.direct.get(node.serial) == k:
                continue
            if node.dtype != self.program.real and node.op != "argument":
                raise UnsuitableError("there is an array of masks among the results")
            kind = name_of(result.dtype)
            self.say(f"memcpy(out[{k}], {self.array(node)}, {node.size} * sizeof({kind}));")

    # --- words -------------------------------------------------------------------------------------------------------

    def formula(self, node: Node, operand: Callable[[Node], str]) -> str:
        """The expression of a pointwise operation."""
        operands = [operand(arg) for arg in node.nodes]
        if node.op == "convert":
            return f"{kind_of(node.dtype)}_of_{kind_of(node.nodes[0].dtype)}({operands[0]})"
        if node.op not in _FORMULAS:
            raise UnsuitableError(f"nobody has written down {node.op}")
        return _FORMULAS[_of_masks(node.op, node.dtype)].format(*operands)

    def scalar(self, node: Node) -> str:
        """A number by its name, or as it is."""
        return node.args[0] if node.op == "constant" else f"n{self.number[node.serial]}"

    def array(self, node: Node) -> str:
        """Where an array lies."""
        return f"a{self.number[node.serial]}"

    def neutral(self, node: Node) -> str:
        """What a fold begins with."""
        arg = node.nodes[0]
        if arg.dtype == torch.bool:
            return _NEUTRAL[_of_masks(node.args[0], torch.bool)]
        if arg.dtype == torch.int64:
            limits = {"add": "INT64_C(0)", "max": "INT64_MIN", "min": "INT64_MAX"}
            return f"int64_t({limits[node.args[0]]})"
        return f"real({_NEUTRAL[node.args[0]]})"


def _of_masks(op: str, dtype: torch.dtype) -> str:
    """What arithmetic on truth values means."""
    return {"mul": "and", "add": "or", "max": "or", "min": "and"}.get(op, op) if dtype == torch.bool else op


def _vector(node: Node) -> str:
    return "vr" if node.dtype.is_floating_point else "vm"


def _fetch(node: Node) -> str:
    return "fetch" if node.dtype.is_floating_point else "fetch_words"
