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
from .native_graph import Node, Program, UnsuitableError, padded
from .native_idle import find_idle

SYSTEMS_OF_A_CHUNK, MOST_CHUNKS = 256, 64
_TILES = (48, 32)  # systems: many times the six rows that a product works on, and whole vectors
_ALIGNED = 16  # words
_LOOPS = ("layer", "outer", "dot", "sum", "sum_batch")  # over the rows of a tile, one call each
_GATHERING = ("permuted", "panel", "assemble")  # of arrays, one call each
_SUMS = ("fold", "sum_batch", "outer")  # over the batch

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


class _Cut(NamedTuple):
    """How a batch is cut: systems of a chunk, chunks, and systems of a tile."""

    chunk: int
    chunks: int
    tile: int


class _Segment(NamedTuple):
    """Nodes of one pass over the tiles that stand in one loop, or a single call."""

    kind: str  # "lanes", "rows" or "call"
    nodes: list[Node]


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


def cut(batch: int) -> _Cut:
    """How a batch of so many systems is cut."""
    chunks = max(1, min(MOST_CHUNKS, batch // SYSTEMS_OF_A_CHUNK))
    share = -(-batch // chunks)
    tile = min(_TILES, key=lambda size: -(-share // size) * size)
    chunk = -(-share // tile) * tile
    return _Cut(chunk, -(-batch // chunk), tile)


class _Memory:
    """Words given out one behind the other, whole cache lines each; those given back are given out again."""

    def __init__(self) -> None:
        self.words = 0
        self._free: dict[int, list[int]] = {}

    def take(self, words: int) -> int:
        words = -(-words // _ALIGNED) * _ALIGNED
        if self._free.get(words):
            return self._free[words].pop()
        self.words += words
        return self.words - words

    def give_back(self, place: int, words: int) -> None:
        self._free.setdefault(-(-words // _ALIGNED) * _ALIGNED, []).append(place)


class _Writer:
    """Writes one program. What lies where is decided first, then it is written down line by line."""

    def __init__(self, program: Program) -> None:
        self.program, self.cut = program, cut(program.batch)
        self.number = {node.serial: k for k, node in enumerate(program.nodes)}
        self.passes = 1 + max((node.level for node in program.nodes if node.spread), default=-1)
        self.segments = [self._segments(level) for level in range(self.passes)]
        self.idle = [find_idle(program, level) if level else [] for level in range(self.passes)]
        self.home = {
            node.serial: (level, place)
            for level, segments in enumerate(self.segments)
            for place, segment in enumerate(segments)
            for node in segment.nodes
        }
        self.users: dict[int, list[Node]] = {node.serial: [] for node in program.nodes}
        for node in program.nodes:
            for arg in node.nodes:
                self.users[arg.serial].append(node)
        self.results: dict[int, list[tuple[int, int]]] = {node.serial: [] for node in program.nodes}
        self.direct: dict[int, int] = {}  # arrays that are computed where a result is to lie
        for k, result in enumerate(program.results):
            for place, (node, at) in enumerate(result.elements):
                if node.kind != "array":
                    self.results[node.serial].append((k, place))
                elif not at and node.op != "argument" and node.dtype == program.real:
                    self.direct.setdefault(node.serial, k)
        self.shared, self.kept, self.local = _Memory(), _Memory(), _Memory()
        self.place: dict[int, str] = {}
        self.moved: dict[int, str] = {}  # lanes and rows that the pass under way finds elsewhere
        self.gathered: dict[int, dict[Node, int]] = {}  # by level: what a pass may look for in memory of its own
        self.lines: list[str] = []
        self._place_all()

    # --- what stands in which loop -----------------------------------------------------------------------------------

    def _segments(self, level: int) -> list[_Segment]:
        """The nodes of one pass, as few loops as a greedy choice makes."""
        mine = [n for n in self.program.nodes if (n.spread or n.op in _SUMS) and n.level == level]
        left, done, segments = mine, {n.serial for n in self.program.nodes} - {n.serial for n in mine}, []
        while left:
            chosen: list[Node] = []
            kind = "lanes"

            def ready(node: Node) -> bool:
                return all(arg.serial in done for arg in node.nodes)

            first = next((n for n in left if ready(n) and _kind(n) == "lanes"), None) or next(filter(ready, left))
            kind = _kind(first)
            for node in left:
                alike = _kind(node) == kind and (kind == "lanes" or node.size == first.size)
                if alike and ready(node) and (kind != "call" or node is first):
                    chosen.append(node)
                    done.add(node.serial)
            left = [node for node in left if node.serial not in done]
            segments.append(_Segment(kind, chosen))
        return segments

    # --- what lies where ---------------------------------------------------------------------------------------------

    def _place_all(self) -> None:
        real = self.program.real
        for node in self.program.nodes:
            if node.kind == "array":
                if node.op == "argument":
                    self.place[node.serial] = f"(const {_name(node.dtype)} *)in[{node.args[0]}]"
                elif node.serial in self.direct:
                    self.place[node.serial] = f"(real *)out[{self.direct[node.serial]}]"
                elif node.op in _SUMS:
                    self.place[node.serial] = f"shared + {self.shared.take(node.size)}"
                if node.op in _SUMS:
                    rows = node.size if node.op == "sum_batch" else node.args[1].size
                    count = 1 if node.op == "sum_batch" else node.args[0].size
                    self.place[-1 - node.serial] = f"{self.local.take(count * padded(rows, real))}"
            elif node.op == "fold":
                self.place[-1 - node.serial] = f"{self.local.take(_ALIGNED)}"
        for level, segments in enumerate(self.segments):
            ends: dict[int, list[tuple[int, int]]] = {}
            if self.idle[level]:
                self.gathered[level] = {node: self.local.take(self._words(node)) for node in self._found(level)}
            for index, segment in enumerate(segments):
                for node in segment.nodes:
                    last = self._last_use(node, level, index)
                    if last is None:
                        continue
                    words = self._words(node)
                    if last[0] > level:
                        self.place[node.serial] = f"kept + {self.kept.take(words)}"
                    else:
                        place = self.local.take(words)
                        self.place[node.serial] = f"local + {place}"
                        ends.setdefault(last[1], []).append((place, words))
                for place, words in ends.pop(index, []):
                    self.local.give_back(place, words)

    def _words(self, node: Node) -> int:
        """Memory of a lane or a row for one tile."""
        return self.cut.tile * (padded(node.size, self.program.real) if node.kind == "row" else 1)

    def _found(self, level: int) -> list[Node]:
        """What a pass finds of those before it."""
        args = {arg.serial: arg for segment in self.segments[level] for n in segment.nodes for arg in n.nodes}
        return [arg for arg in args.values() if arg.spread and self.home[arg.serial][0] < level]

    def _last_use(self, node: Node, level: int, index: int) -> tuple[int, int] | None:
        """The last segment that looks for a node of a tile in memory, if there is one."""
        if not node.spread:
            return None
        uses = [self.home[user.serial] for user in self.users[node.serial]]
        if node.op == "load":  # read again where it is wanted one by one
            uses = [use for use in uses if self.idle[use[0]] or self.segments[use[0]][use[1]].kind != "lanes"]
        uses = [use for use in uses if use != (level, index)]
        uses += [(later, 0) for later, cases in enumerate(self.idle) if any(case.mask is node for case in cases)]
        if node.op == "assemble" or _kind(node) == "call":
            uses = [*uses, (level, index)]
        return max(uses) if uses else None

    # --- the text ----------------------------------------------------------------------------------------------------

    def write(self) -> Source:
        """The translation unit."""
        self._uniform(-1)
        for level in range(self.passes):
            self._pass(level)
            self._uniform(level)
        self._copies()
        chunk, chunks, tile = self.cut
        tiles = chunks * (chunk // tile)
        own = self.local.words + _ALIGNED * 8  # chunks of different threads do not share a cache line
        words = self.shared.words + tiles * self.kept.words + chunks * own + _ALIGNED
        head = [
            f"constexpr long B = {self.program.batch}, CHUNK = {chunk}, CHUNKS = {chunks}, TILE = {tile};",
            f"constexpr long KEPT = {self.kept.words}, LOCAL = {own}, WORDS = {words};",
            f"constexpr long INS = {self.program.arguments}, OUTS = {len(self.program.results)};",
            f"constexpr bool INDEPENDENT = {str(self._is_independent()).lower()};",
            "static void run(const void *const *in, void *const *out, real *memory, int threads, long from, long to) {",
            "real *const shared = memory;",
            f"real *const keeping = memory + {self.shared.words};",
            f"real *const locals = keeping + {tiles * self.kept.words};",
        ]
        return Source("\n".join([*head, *self.lines, "}", ""]), words, self._is_independent())

    def _is_independent(self) -> bool:
        """Whether no system has to do with another, so that chunks need not wait for each other between two calls."""
        sums = any(node.op in _SUMS for node in self.program.nodes)
        return not sums and all(result.axis is not None for result in self.program.results)

    def say(self, line: str) -> None:
        """One line more."""
        self.lines.append(line)

    def _uniform(self, level: int) -> None:
        """Numbers and arrays, after the pass that they depend on."""
        left = [n for n in self.program.nodes if not n.spread and n.level == level and n.op not in _SUMS]
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
        name = f"const {_name(node.dtype)} n{self.number[node.serial]}"
        if node.op == "item":
            self.say(f"{name} = ((const {_name(node.dtype)} *)in[{node.args[0]}])[{node.args[1]}];")
        elif node.op == "element":
            self.say(f"{name} = {self.array(node.args[0])}[{node.args[1]}];")
        elif node.op == "sum":
            self.say(f"{name} = sum_array({self.array(node.args[0])}, {node.args[0].size});")
        elif node.op != "constant":
            self.say(f"{name} = {self.formula(node, self.scalar)};")
        self._store_number(node)

    def _store_number(self, node: Node) -> None:
        for result, place in self.results[node.serial]:
            kind = _name(self.program.results[result].dtype)
            self.say(f"(({kind} *)out[{result}])[{place}] = {self.scalar(node)};")

    def _arrays(self, nodes: Sequence[Node]) -> None:
        """Arrays of one size in one loop, or one that is gathered."""
        inside = {n.serial for n in nodes}
        for node in nodes:
            outlives = node.op in _GATHERING or any(user.serial not in inside for user in self.users[node.serial])
            if node.serial not in self.place and (outlives or self._is_copied(node)):
                self.place[node.serial] = f"shared + {self.shared.take(node.size)}"
            if node.serial in self.place:
                kind = f"const {_name(node.dtype)}" if node.op == "argument" else "real"
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
            if arg.op == "argument" or arg.serial in self.direct:
                return f"load({self.array(arg)} + i, m)"
            return f"{_fetch(arg)}({self.array(arg)} + i)"

        self.say(f"for (long i = 0; i < {node.size}; i += V) {{")
        self.say(f"const long m = {node.size} - i < V ? {node.size} - i : V; (void)m;")
        for node in nodes:
            name = f"x{self.number[node.serial]}"
            self.say(f"const {_vector(node)} {name} = {self.formula(node, operand)};")
            if node.serial in self.direct:
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
        segments = self.segments[level]
        sums = [n for segment in segments for n in segment.nodes if n.op in _SUMS]
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
                self.say(f"keep(local + {self.place[-1 - node.serial]}, {neutral});")
        self.say("const long last = (c + 1) * CHUNK < B ? (c + 1) * CHUNK : B;")
        if self.idle[level]:
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

    def _tile(self, segments: Sequence[_Segment]) -> None:
        for segment in segments:
            if segment.kind == "lanes":
                self._lanes(segment.nodes)
            elif segment.kind == "rows":
                self._rows(segment.nodes)
            else:
                self._call(segment.nodes[0])

    def _busy_tiles(self, level: int, segments: Sequence[_Segment]) -> None:
        """Tiles of those systems alone that add something; a tile in which all of them do is taken as it lies."""
        real, found = self.program.real, self.gathered[level]
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
            f"{'!' if case.value else ''}is_set({self.place[case.mask.serial]} + i)" for case in self.idle[level]
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
            self.say(f"if (first) memset(local + {self.place[-1 - node.serial]}, 0, {count} * sizeof(real));")

    def _lanes(self, nodes: Sequence[Node]) -> None:
        """Values of every system, written out one by one on vectors of systems."""
        inside = {n.serial for n in nodes}
        folds = [n for n in nodes if n.op == "fold"]
        self.say("{")
        for node in folds:
            arg = node.nodes[0]
            self.say(
                f"{_vector(arg)} s{self.number[node.serial]} = {_fetch(arg)}(local + {self.place[-1 - node.serial]});"
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
            self.say(f"keep(local + {self.place[-1 - node.serial]}, s{self.number[node.serial]});")
        self.say("}")

    def _read(self, node: Node) -> str:
        """A lane that another loop has left in memory, or an argument."""
        if node.op == "load" and node.serial not in self.moved:
            number, k = node.args
            return f"load((const {_name(node.dtype)} *)in[{number}] + {k} * B + s + v, m)"
        return f"{_fetch(node)}({self.place[node.serial]} + v)"

    def _store_lane(self, node: Node) -> None:
        for result, place in self.results[node.serial]:
            kind = _name(self.program.results[result].dtype)
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
            sum_, factor = f"local + {self.place[-1 - node.serial]}", self.place[right.serial]
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
            self.say(f"sum_batch(local + {self.place[-1 - node.serial]}, {source}, {step}, n, first);")

    def _store_called(self, node: Node) -> None:
        for result, place in self.results[node.serial]:
            self.say(f"memcpy((real *)out[{result}] + {place} * B + s, {self.place[node.serial]}, n * sizeof(real));")

    def _put_together(self, node: Node) -> None:
        """A sum over the batch, from what the chunks have."""
        name = self.number[node.serial]
        chunks = f"locals + {self.place[-1 - node.serial]}, LOCAL, CHUNKS"
        if node.op == "fold":
            op = _of_masks(node.args[0], node.dtype)
            combine = _FORMULAS[op].format("x", "y")
            kind, fetch = _vector(node), _fetch(node)
            self.say(f"{kind} s{name} = {fetch}(locals + {self.place[-1 - node.serial]});")
            self.say(
                f"for (long c = 1; c < CHUNKS; c++) {{ const {kind} x = s{name}, "
                f"y = {fetch}(locals + c * LOCAL + {self.place[-1 - node.serial]}); s{name} = {combine}; }}"
            )
            scalar = _name(node.dtype)
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
            if self.direct.get(node.serial) == k:
                continue
            if node.dtype != self.program.real and node.op != "argument":
                raise UnsuitableError("there is an array of masks among the results")
            kind = _name(result.dtype)
            self.say(f"memcpy(out[{k}], {self.array(node)}, {node.size} * sizeof({kind}));")

    # --- words -------------------------------------------------------------------------------------------------------

    def formula(self, node: Node, operand: Callable[[Node], str]) -> str:
        """The expression of a pointwise operation."""
        operands = [operand(arg) for arg in node.nodes]
        if node.op == "convert":
            return f"{_kind_of(node.dtype)}_of_{_kind_of(node.nodes[0].dtype)}({operands[0]})"
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


def _kind(node: Node) -> str:
    if node.op in _LOOPS:
        return "call"
    return "lanes" if node.kind == "lane" or node.op in ("fold", "assemble") else "rows"


def _of_masks(op: str, dtype: torch.dtype) -> str:
    """What arithmetic on truth values means."""
    return {"mul": "and", "add": "or", "max": "or", "min": "and"}.get(op, op) if dtype == torch.bool else op


def _kind_of(dtype: torch.dtype) -> str:
    return "mask" if dtype == torch.bool else ("real" if dtype.is_floating_point else "int")


def _name(dtype: torch.dtype) -> str:
    return {"mask": "bool", "real": "real", "int": "int64_t"}[_kind_of(dtype)]


def _vector(node: Node) -> str:
    return "vr" if node.dtype.is_floating_point else "vm"


def _fetch(node: Node) -> str:
    return "fetch" if node.dtype.is_floating_point else "fetch_words"
