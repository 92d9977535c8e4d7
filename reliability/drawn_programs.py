"""Programs drawn at random: functions of a batch of systems, of one system, their derivatives, steps of a scan.

A program is a text of Python that can be run as it stands. It is drawn line by line, on arguments that are there, and a
line that torch refuses is drawn again; so most programs run, and whoever runs one drops the rest.
"""

import random
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reliability.drawn_operations import ACROSS, KNOWN, OWN, RARE, WRITES

KINDS = (  # and how often
    *("batch",) * 9,
    *("vmap",) * 8,
    *("grad of a sum",) * 4,
    *("grad of a sum under vmap",) * 4,
    *("vmap of grad",) * 4,
    *("vjp", "jvp", "vjp of vmap", "jvp of vmap"),
    *("vmap of jacfwd", "vmap of jacrev"),
    *("scan", "scan", "scan of vmap"),
    *("mapped", "mapped vmap"),
)
_LARGEST = 40
"""Elements per system: what is small is compiled soon."""
_NAME = re.compile(r"\b[xwv]\d+\b")
_PLACE = re.compile(r"\{([a-zA-Z=]+)\}")
_TORCH_NAMES = {torch.float64: "torch.float64", torch.float32: "torch.float32"}


class Argument(NamedTuple):
    """One argument of a program."""

    name: str
    shape: tuple[int, ...]  # of one system
    dtype: torch.dtype
    batched: bool
    seed: int
    wild: bool  # with NaN, infinities, denormal and huge numbers, -0.0, and the largest whole numbers

    def draw(self, before: tuple[int, ...]) -> Tensor:
        """Its value, with these axes in front."""
        shape = (*before, *self.shape)
        generator = torch.Generator().manual_seed(self.seed)
        if self.dtype == torch.bool:
            return torch.rand(shape, generator=generator) < 0.6
        if self.dtype == torch.int64:
            value = torch.randint(-6, 7, shape, generator=generator)
            return _mixed(value, _WILD_WHOLE, generator) if self.wild else value
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (_mixed(value, _WILD_REAL, generator) if self.wild else value).to(self.dtype)


_WILD_WHOLE = (2**62, -(2**63), 2**63 - 1, 2**53 + 1, 0, -1, 2**31)
_WILD_REAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-310, -4e-320, 1e-42, 1e300, -1e300, 1e18, 1.0)


def _mixed(value: Tensor, others: Sequence[float], generator: torch.Generator) -> Tensor:
    chosen = torch.tensor(others, dtype=value.dtype)[torch.randint(len(others), value.shape, generator=generator)]
    return torch.where(torch.rand(value.shape, generator=generator) < 0.25, chosen, value)


class Line(NamedTuple):
    """One line of a program."""

    targets: tuple[str, ...]
    text: str  # what stands behind "targets = ", or a statement
    rare: bool

    @property
    def source(self) -> str:
        """As it stands in the program."""
        return f"{', '.join(self.targets)} = {self.text}" if self.targets else self.text

    @property
    def writes(self) -> bool:
        """Whether it writes to a tensor."""
        return not self.targets or re.search(r"_\(|out=", self.text) is not None

    @property
    def uses(self) -> set[str]:
        """Names that it reads, or writes to."""
        return set(_NAME.findall(self.text))


class DrawnProgram(NamedTuple):
    """A program and what it is called with."""

    seed: int
    kind: str
    real: torch.dtype
    batch: int
    times: int  # calls of a scan, members of what is mapped; 1 otherwise
    arguments: tuple[Argument, ...]
    lines: tuple[Line, ...]
    across: bool  # whether something is summed over the batch

    @property
    def results(self) -> list[str]:
        """What is returned: whatever has been made and is not used, and what is written to."""
        used = {name for line in self.lines if line.targets for name in line.uses}
        written = {_NAME.findall(line.text)[0] for line in self.lines if not line.targets}
        made = [name for line in self.lines for name in line.targets]
        last = [name for name in made if name not in used or name in written]
        return (last or made)[-6:]

    @property
    def writes(self) -> bool:
        """Whether it writes to a tensor."""
        return any(line.writes for line in self.lines)

    @property
    def differentiates(self) -> bool:
        """Whether a derivative is taken."""
        return any(word in self.kind for word in ("grad", "vjp", "jvp", "jac"))

    @property
    def batched(self) -> tuple[bool, ...]:
        """Which arguments have a batch axis."""
        return tuple(each.batched for each in self.arguments)

    @property
    def values(self) -> list[Tensor]:
        """Its arguments; those of a scan are the first carry and all that comes after it."""
        front = [() if "scan" in self.kind and k == 0 else (self.times,) for k in range(len(self.arguments))]
        several = "scan" in self.kind or "mapped" in self.kind
        return [
            each.draw((*(before if several else ()), *((self.batch,) if each.batched else ())))
            for each, before in zip(self.arguments, front, strict=True)
        ]

    def without(self, number: int) -> "DrawnProgram":
        """The program without a line, and all that cannot be said without it."""
        gone = set(self.lines[number].targets)
        kept = []
        for k, line in enumerate(self.lines):
            if k == number or line.uses & gone:
                gone |= set(line.targets) if line.targets else set()
            else:
                kept.append(line)
        return self._replace(lines=tuple(kept))

    @property
    def source(self) -> str:
        """The text of ``function``."""
        names = [each.name for each in self.arguments]
        body = [f"    {line.source}" for line in self.lines]
        lines = [f"def one({', '.join(names)}):", *body, f"    return ({', '.join(self._returned())},)", ""]
        return "\n".join([*lines, *self._around(names), ""])

    def _returned(self) -> list[str]:
        if "scan" in self.kind:
            return [f"carried({self.arguments[0].name}, {', '.join(self.results)})", *self.results]
        return self.results

    def _around(self, names: Sequence[str]) -> list[str]:
        """The lines that make ``function`` of ``one``."""
        axes = tuple(0 if each.batched else None for each in self.arguments)
        mapped = f"vmap(one, in_dims={axes})"
        kind = self.kind
        if "scan" in kind:
            inner = mapped if "vmap" in kind else "one"
            given = ", ".join(names)
            return [
                f"def function({given}):",
                f"    new, *others = {inner}({given})",
                "    return new, tuple(others)",
            ]
        if kind in ("batch", "mapped"):
            return ["function = one"]
        if kind in ("vmap", "mapped vmap"):
            return [f"function = {mapped}"]
        places = tuple(k for k, each in enumerate(self.arguments) if each.dtype == self.real)
        given = ", ".join(names)
        if kind == "vmap of grad":
            return [f"function = vmap(grad(lambda {given}: total(one({given})), {places}), in_dims={axes})"]
        if kind.startswith("vmap of jac"):
            make = kind.removeprefix("vmap of ")
            return [f"function = vmap({make}(lambda {given}: reals(one({given})), {places[:2]}), in_dims={axes})"]
        inner = mapped if "vmap" in kind else "one"
        if kind.startswith("grad"):
            return [f"function = grad(lambda {given}: total({inner}({given})), {places})"]
        some = ", ".join(names[k] for k in places)
        if kind.startswith("vjp"):
            return [
                f"def function({given}):",
                f"    results, pull = vjp(lambda {some}: reals({inner}({given})), {some})",
                "    return results, pull(tuple(0.5 * each.detach() + 0.25 for each in results))",
            ]
        tangents = ", ".join(f"{names[k]} * 0.5 + 0.25" for k in places)
        return [
            f"def function({given}):",
            f"    return jvp(lambda {some}: reals({inner}({given})), ({some},), ({tangents},))",
        ]

    def function(self) -> Callable[..., Any]:
        """The program as a function."""
        names: dict[str, Any] = {}
        exec(compile(HEAD + self.source, "<drawn program>", "exec"), names)
        return names["function"]

    def line_of(self, error: BaseException) -> int | None:
        """Which line raised an error."""
        found, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<drawn program>" and trace.tb_frame.f_code.co_name == "one":
                found = trace.tb_lineno - HEAD.count("\n") - 2
            trace = trace.tb_next
        return found if found is not None and 0 <= found < len(self.lines) else None

    def script(self) -> str:
        """A script that shows what compiled and eager give."""
        values = []
        for each, value in zip(self.arguments, self.values, strict=True):
            values.append(f"{each.name} = torch.tensor({value.tolist()}, dtype={value.dtype})")
        given = ", ".join(each.name for each in self.arguments)
        options = f"batched={self.batched}, mapped={'mapped' in self.kind}"
        call = [
            f"engine = build_engine(function, {options})",
            f"print(engine({given}), engine.fallback)",
            f"print(build_engine(function, mode='off', {options})({given}))",
        ]
        if "scan" in self.kind:
            call = [line.replace(f"({given})", f".scan({given})") for line in call]
        heading = [f"# seed {self.seed}: {self.kind}", "from aits_func.base.engine import build_engine", ""]
        numbers = ["nan, inf = float('nan'), float('inf')"]
        return "\n".join([*heading, HEAD, self.source, *numbers, *values, *call])


HEAD = """\
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

def reals(results):
    return tuple(each for each in results if each.is_floating_point())

def total(results):
    return sum((k + 1) * each.sum() for k, each in enumerate(reals(results)))

def carried(old, *results):
    for each in results:
        if each.shape == old.shape and each.dtype == old.dtype:
            return each.tanh() if each.is_floating_point() else each
    return old * 0.5 if old.is_floating_point() else old

"""


def draw_program(seed: int, kind: str | None = None) -> DrawnProgram:
    """The program of a seed; whether torch accepts it as a whole is for the caller to see."""
    return _Drawing(seed, kind).draw()


class _Drawing:
    """A program while it is drawn: its random numbers, and the values it has so far."""

    def __init__(self, seed: int, kind: str | None) -> None:
        self.random = random.Random(seed)
        choice, chance = self.random.choice, self.random.random
        self.seed, self.kind = seed, kind or choice(KINDS)
        self.real = torch.float64 if chance() < 0.8 else torch.float32
        self.whole = "vmap" not in self.kind  # whether it is written for a batch
        self.batch = choice((3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 65, 70))
        if chance() < 0.02:
            self.batch = 1000  # several chunks
        self.rare = chance() < 0.12  # whether it may contain what native code does not know
        self.writing = chance() < 0.4
        self.summing = self.whole and chance() < 0.3
        self.wild = chance() < 0.2 and not (self.summing or self.kind.startswith("grad"))
        self.values: dict[str, Tensor] = {}
        self.lines: list[Line] = []
        self.used: set[str] = set()
        self.spread: set[str] = set()  # what differs from system to system
        self.count = 0

    def draw(self) -> DrawnProgram:
        arguments = self._arguments()
        for each in arguments:
            self.values[each.name] = each.draw((self.batch,) if each.batched and self.whole else ())
            self.spread |= {each.name} if each.batched else set()
        self.kept = {value.untyped_storage().data_ptr() for value in self.values.values()}
        length = self.random.randint(3, 13)
        for _ in range(400):
            if len(self.lines) >= length:
                break
            self._line()
        times = self.random.randint(2, 4) if "scan" in self.kind or "mapped" in self.kind else 1
        across = self.summing or self.kind.startswith(("grad", "vjp"))
        return DrawnProgram(
            self.seed, self.kind, self.real, self.batch, times, tuple(arguments), tuple(self.lines), across
        )

    def _arguments(self) -> list[Argument]:
        choice, chance = self.random.choice, self.random.random
        n, m = choice((1, 2, 3, 3, 4, 5)), choice((2, 3, 4))
        if chance() < 0.15:  # the batch cannot be told by its length
            self.batch = max(3, n)
        wide = choice((4, 6, 9, 20))
        shapes = [(), (n,), (n,), (n, m), (n, m), (m,), (n, n)]
        floats = [Argument("x0", choice(shapes[1:]), self.real, True, self.random.getrandbits(30), self.wild)]
        if chance() < 0.6:
            floats.append(Argument("x1", choice(shapes), self.real, True, self.random.getrandbits(30), self.wild))
        others = []
        whole = 0.45 if self.real == torch.float64 else 0.15  # beside float32 they are not for native code
        if chance() < whole:
            others.append(Argument("x2", choice(shapes), torch.int64, True, self.random.getrandbits(30), self.wild))
        if chance() < 0.35:
            others.append(Argument("x3", choice(shapes), torch.bool, True, self.random.getrandbits(30), False))
        last = floats[0].shape[-1]
        shared = [(), (last,), (last, wide), (last, last), (n, m), (wide,), (last, 1)]
        for name in ("w0", "w1"):
            alone = "scan" in self.kind and not others and len(floats) == 1 and name == "w1"  # a scan is over something
            if chance() < 0.5 or alone:
                dtype = torch.int64 if chance() < 0.1 else self.real
                others.append(Argument(name, choice(shared), dtype, False, self.random.getrandbits(30), False))
        return floats + others

    # --- lines

    def _line(self) -> None:
        chance = self.random.random
        texts: Sequence[str] = KNOWN
        rare = False
        if self.writing and chance() < 0.5:
            owned = any(self._is_own(value) for value in self.values.values())
            texts = WRITES if owned and chance() < 0.75 else OWN
        elif self.summing and chance() < 0.25:
            texts = ACROSS
        elif self.rare and chance() < 0.4:
            texts, rare = RARE, True
        text = self._filled(self.random.choice(texts))
        if text is None:
            return
        if text.startswith("!"):
            line = Line((), text[1:], rare)
        elif text.startswith("*"):
            self.count += 2
            line = Line((f"v{self.count - 2}", f"v{self.count - 1}"), f"{text[1:]}[:2]", rare)
        else:
            self.count += 1
            line = Line((f"v{self.count - 1}",), text, rare)
        if self._does(line):
            self.lines.append(line)
            self.used |= line.uses
            if line.uses & self.spread:  # what is written to is the first name of a statement
                self.spread |= set(line.targets or _NAME.findall(line.text)[:1])

    def _does(self, line: Line) -> bool:
        """Whether torch does what a line says, with results of a size that is wanted."""
        names: dict[str, Any] = {"torch": torch, **self.values}
        used = [self.values[name] for name in line.uses]
        before = {name: self.values[name].shape for name in line.uses}
        if line.writes and any(_is_of_one_memory(x, y) for x, y in combinations(used, 2)):
            return False  # torch may read what it has just written, or not
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(line.source, names)
        except Exception:  # whatever torch refuses
            return False
        if "out=" in line.text and any(self.values[name].shape != shape for name, shape in before.items()):
            return False  # torch is about to refuse an ``out`` of another shape
        made = {name: names[name] for name in line.targets}
        most = _LARGEST * (self.batch if self.whole else 1)
        if not all(isinstance(x, Tensor) and 0 < x.numel() <= most and x.ndim <= 5 for x in made.values()):
            return False
        self.values |= made
        return True

    def _is_own(self, value: Tensor) -> bool:
        return value.untyped_storage().data_ptr() not in self.kept

    def _value(self, test: Callable[[Tensor], bool]) -> str | None:
        """The name of a value; late ones, and those that differ from system to system, are chosen more."""
        names = [name for name, value in self.values.items() if test(value)]
        if not names:
            return None
        weights = [
            (4.0 if name not in self.used else 1.0) * (3.0 if name in self.spread else 1.0) * (1 + 3 * k / len(names))
            for k, name in enumerate(names)
        ]
        return self.random.choices(names, weights)[0]

    def _filled(self, text: str) -> str | None:
        """A text with its places filled, or None if something is missing."""
        known: dict[str, str] = {}
        first: list[str] = []
        parts: list[str] = []
        at = 0
        for place in _PLACE.finditer(text):
            parts.append(text[at : place.start()])
            at = place.end()
            slot = place.group(1)
            if slot not in known:
                given = self._place(slot, first, "".join(parts))
                if given is None:
                    return None
                known[slot] = given
            parts.append(known[slot])
        return "".join([*parts, text[at:]])

    def _place(self, slot: str, first: list[str], before: str) -> str | None:
        choice = self.random.choice
        if slot in _TESTS:
            test = _TESTS[slot]
            real, own = self.real, slot[0] in "fgh"
            # A real tensor of another type is left to what is rare.
            name = self._value(lambda x: test(x, real) and (not own or self._is_own(x)))
            if name is not None:
                first.append(name)
                return self._viewed(name) if slot.endswith("v") else name
            return None
        if slot == "s":
            return choice(("0.5", "-1.5", "2.0", "3", "0.1", "-0.25", "1", "0.0", "1e-3"))
        if slot == "k":
            return choice(("2", "3", "-1", "0", "5"))
        if slot == "R":
            return _TORCH_NAMES[self.real]
        if slot == "K":
            return choice(("True", "False"))
        if slot == "=":
            return self._written(before)
        if not first:
            return None
        shape = self.values[first[0]].shape
        if slot == "ix":
            return self._index(shape)
        rank = len(shape)
        low = 1 if self.whole and self.random.random() < 0.95 else 0
        if rank <= low:
            return None
        if slot in ("d", "e"):
            number = self.random.randrange(low, rank)
            self.axis = number if slot == "d" else self.axis
            return str(number - rank if self.random.random() < 0.4 else number)
        if slot == "ds":
            chosen = self.random.sample(range(low, rank), self.random.randint(1, rank - low))
            return str(tuple(chosen))
        if slot == "pm":
            order = list(range(low, rank))
            self.random.shuffle(order)
            return ", ".join(map(str, [*range(low), *order]))
        self.axis = getattr(self, "axis", rank - 1)
        axis = self.axis if "{d}" in before or self.axis < rank else rank - 1
        size = shape[axis] if axis < rank else 1
        return str(size) if slot == "z" else str(self.random.randrange(-size, size))

    def _index(self, shape: Sequence[int]) -> str | None:
        """An index of a tensor of this shape, written as people write it."""
        if not shape:
            return "[()]"
        whole = self.whole and self.random.random() < 0.95
        parts: list[str] = [":"] if whole else []
        for size in shape[len(parts) :]:
            place = self.random.randrange(-size, size)
            choices = [
                ":",
                ":",
                str(place),
                f"{place}:",
                f"::{self.random.randint(1, 3)}",
                f":{self.random.randint(1, size)}",
            ]
            parts.append(self.random.choice(choices))
        chance = self.random.random()
        if chance < 0.15:
            parts = ["...", parts[-1]]
        elif chance < 0.25:
            parts.append("None")
        elif chance < 0.5:
            parts = parts[: self.random.randint(1, len(parts))]
        return f"[{', '.join(parts)}]"

    def _viewed(self, name: str) -> str | None:
        """A view of a value, or of a view of it."""
        text, value = name, self.values[name]
        for _ in range(self.random.choice((0, 1, 1, 2))):
            rank, low = value.ndim, int(self.whole)
            options = [self._index(value.shape), ".mT", ".unsqueeze(-1)", ".detach()", ".view(value.shape)"]
            if rank > low:
                axis = self.random.randrange(low, rank)
                options += [
                    f".select({axis}, 0)",
                    f".unbind({axis})[-1]",
                    f".transpose({axis}, -1)",
                    f".narrow({axis}, 0, 1)",
                ]
                options += [
                    f".movedim({axis}, -1)",
                    f".split(1, {axis})[0]",
                    f".diagonal(dim1={axis}, dim2=-1)",
                    ".squeeze(-1)",
                ]
            extra = self.random.choice([x for x in options if x])
            extra = extra.replace("value.shape", str(tuple(value.shape)))
            try:
                value = eval(f"value{extra}", {"value": value})
            except Exception:
                continue
            text += extra
        return text

    def _written(self, before: str) -> str | None:
        """Something that can be written to what stands in front of it."""
        place = before.lstrip("!").split("out=")[0]
        place = re.split(r"\.\w+_\($| [-+*/&|]?= $|\], \[$", place)[0]
        place = place.removeprefix("torch._foreach_add_([")
        place = re.split(r"\.(?:scatter|addcmul|lerp|masked_scatter)\w*_\(", place)[0]
        try:
            target = eval(place, {"torch": torch, **self.values})
        except Exception:
            return None
        if self.random.random() < 0.15:
            return "True" if target.dtype == torch.bool else "2" if target.dtype == torch.int64 else "1.5"
        fits = []
        for name, value in self.values.items():
            if value.dtype != target.dtype or _is_of_one_memory(value, target):
                continue
            candidates = [
                name,
                f"{name}.mT",
                f"{name}[..., 0]",
                f"{name}[..., :1]",
                f"{name}[..., -1:]",
                f"{name}.unsqueeze(-1)",
            ]
            candidates += [f"{name}.sum(-1)", f"{name}.flip(-1)", f"{name}.expand({tuple(target.shape)})"]
            for each in candidates:
                try:
                    shape = eval(each, {name: value}).shape
                    if torch.broadcast_shapes(shape, target.shape) == target.shape:
                        fits.append(each)
                except Exception:
                    continue
        return self.random.choice(fits) if fits else None


def _is_of_one_memory(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


_TESTS: dict[str, Callable[[Tensor, torch.dtype], bool]] = {
    **{slot: lambda x, real: x.dtype == real for slot in ("a", "b", "c", "f", "fv")},
    **{slot: lambda x, real: x.dtype == torch.int64 for slot in ("i", "j", "g", "gv")},
    **{slot: lambda x, real: x.dtype == torch.bool for slot in ("m", "n", "h", "hv")},
}
