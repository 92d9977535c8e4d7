"""Where the values of a native program lie, and in which loops they are computed: decided before a line is written.

The systems are cut into chunks, which threads share, and chunks into tiles. A pass over all tiles is a sequence of
loops: over lanes, over rows of one size, or one call. What one loop leaves to another lies in memory: of the tile for
the same pass, of all tiles for a later one.
"""

from typing import NamedTuple

import torch

from .native_graph import SUMS, Node, Program, padded
from .native_idle import find_idle

SYSTEMS_OF_A_CHUNK, MOST_CHUNKS = 256, 64
ALIGNED = 16  # words of a cache line, or of two
_TILES = (48, 32)  # systems: many times the six rows that a product works on, and whole vectors
_LOOPS = ("layer", "outer", "dot", "sum", "sum_batch")  # over the rows of a tile, one call each


class Cut(NamedTuple):
    """How a batch is cut: systems of a chunk, chunks, and systems of a tile."""

    chunk: int
    chunks: int
    tile: int


class Segment(NamedTuple):
    """Nodes of one pass over the tiles that stand in one loop, or a single call."""

    kind: str  # "lanes", "rows" or "call"
    nodes: list[Node]


def cut(batch: int) -> Cut:
    """How a batch of so many systems is cut."""
    chunks = max(1, min(MOST_CHUNKS, batch // SYSTEMS_OF_A_CHUNK))
    share = -(-batch // chunks)
    tile = min(_TILES, key=lambda size: -(-share // size) * size)
    chunk = -(-share // tile) * tile
    return Cut(chunk, -(-batch // chunk), tile)


class Memory:
    """Words given out one behind the other, whole cache lines each; those given back are given out again."""

    def __init__(self) -> None:
        self.words = 0
        self._free: dict[int, list[int]] = {}

    def take(self, words: int) -> int:
        """Where so many words are free."""
        words = -(-words // ALIGNED) * ALIGNED
        if self._free.get(words):
            return self._free[words].pop()
        self.words += words
        return self.words - words

    def give_back(self, place: int, words: int) -> None:
        """They are free again."""
        self._free.setdefault(-(-words // ALIGNED) * ALIGNED, []).append(place)


class Layout:
    """Of one program. Places are expressions of C++; that of a sum over the batch in its chunk is an offset."""

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
        self.shared, self.kept, self.local = Memory(), Memory(), Memory()
        self.place: dict[int, str] = {}
        self.partial: dict[int, int] = {}  # of sums
        self.gathered: dict[int, dict[Node, int]] = {}  # by level: what a pass may look for in memory of its own
        self._place_all()

    # --- what stands in which loop -----------------------------------------------------------------------------------

    def _segments(self, level: int) -> list[Segment]:
        """The nodes of one pass, as few loops as a greedy choice makes."""
        mine = [n for n in self.program.nodes if (n.spread or n.op in SUMS) and n.level == level]
        left, done, segments = mine, {n.serial for n in self.program.nodes} - {n.serial for n in mine}, []
        while left:
            chosen: list[Node] = []

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
            segments.append(Segment(kind, chosen))
        return segments

    # --- what lies where ---------------------------------------------------------------------------------------------

    def _place_all(self) -> None:
        real = self.program.real
        for node in self.program.nodes:
            if node.kind == "array":
                if node.op == "argument":
                    self.place[node.serial] = f"(const {name_of(node.dtype)} *)in[{node.args[0]}]"
                elif node.serial in self.direct:
                    self.place[node.serial] = f"(real *)out[{self.direct[node.serial]}]"
                elif node.op in SUMS:
                    self.place[node.serial] = f"shared + {self.shared.take(node.size)}"
                if node.op in SUMS:
                    rows = node.size if node.op == "sum_batch" else node.args[1].size
                    count = 1 if node.op == "sum_batch" else node.args[0].size
                    self.partial[node.serial] = self.local.take(count * padded(rows, real))
            elif node.op == "fold":
                self.partial[node.serial] = self.local.take(ALIGNED)
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


def _kind(node: Node) -> str:
    if node.op in _LOOPS:
        return "call"
    return "lanes" if node.kind == "lane" or node.op in ("fold", "assemble") else "rows"


def kind_of(dtype: torch.dtype) -> str:
    """What values of a type are in the kernels' names: "mask", "real" or "int"."""
    return "mask" if dtype == torch.bool else ("real" if dtype.is_floating_point else "int")


def name_of(dtype: torch.dtype) -> str:
    """The type of C++ in which arguments and results of a type lie in memory."""
    return {"mask": "bool", "real": "real", "int": "int64_t"}[kind_of(dtype)]
