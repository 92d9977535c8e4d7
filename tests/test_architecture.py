"""The house: imports go only down, the library needs two packages, and public names say what they take and raise."""

import ast
import inspect
import re
import sys
import typing
from pathlib import Path

import pytest

import aits_func
from aits_func import testing

PACKAGE = Path(aits_func.__file__).parent
ROOT = PACKAGE.parent
FLOORS = {"base": 0, "physics": 1, "learning": 1, "timestep": 2, "loops": 3, "edge": 4}
ROOF = "testing"  # imports what it likes and is imported by nobody
DOORS = ("__init__", "__main__")  # outside all rooms: the front door, and the one to the command line
ALLOWED = {"torch", "optree", "aits_func"} | sys.stdlib_module_names
OF_THE_EDGE = {"numpy", "safetensors", "tomli_w", "rich", "matplotlib"}


class Import(typing.NamedTuple):
    """One module that another one imports, both as tuples: ("loops", "collect")."""

    importer: tuple[str, ...]
    imported: tuple[str, ...]
    top: str  # first word of what is imported: "torch", or "aits_func"


def modules():
    """Every module of the package by its place in it; a package's own module is named like its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts] = path
    return found


MODULES = modules()


def imports_of(place, path):
    """Every import in a module, those inside functions and under TYPE_CHECKING included."""
    package = place if path.name == "__init__.py" and place != ("__init__",) else place[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield resolve(place, tuple(alias.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            stem = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                stem = ("aits_func", *package[: len(package) - node.level + 1], *stem)
            for alias in node.names:
                yield resolve(place, (*stem, alias.name))


def resolve(importer, name):
    """What is imported: of ours the module, without the name in it."""
    if name[0] != "aits_func":
        return Import(importer, name, name[0])
    inside = name[1:]
    while inside and inside not in MODULES:
        inside = inside[:-1]
    return Import(importer, inside, "aits_func")


IMPORTS = [each for place, path in MODULES.items() for each in imports_of(place, path)]
OURS = [each for each in IMPORTS if each.top == "aits_func"]


def test_the_reader_of_imports_sees_them_all():
    seen = {(each.importer, each.imported) for each in OURS}
    assert (("loops", "epoch"), ("loops", "collect")) in seen  # from .collect import ...
    assert (("loops", "epoch"), ("base", "rng")) in seen  # from ..base.rng import ...
    assert (("learning", "optimizers"), ("base", "tree")) in seen  # from ..base import tree
    assert (("edge", "cli"), ("edge", "commands")) in seen  # from . import commands, in a function
    assert (("__init__",), ("base", "types")) in seen  # under TYPE_CHECKING
    assert (("__main__",), ("edge", "cli")) in seen
    assert Import(("base", "rng"), ("torch",), "torch") in IMPORTS


def test_every_module_is_in_a_room():
    assert {place[0] for place in MODULES} == {*FLOORS, ROOF, *DOORS}


def test_imports_go_only_down():
    up = [
        f"{'.'.join(each.importer)} imports {'.'.join(each.imported)}"
        for each in OURS
        if each.importer[0] in FLOORS
        and each.importer[0] != each.imported[0]
        and not FLOORS.get(each.imported[0], 9) < FLOORS[each.importer[0]]
    ]
    assert up == []


def test_the_sisters_do_not_know_each_other():
    pairs = {(each.importer[0], each.imported[0]) for each in OURS if each.imported}
    assert ("physics", "learning") not in pairs
    assert ("learning", "physics") not in pairs


def test_nobody_imports_the_front_door_or_the_roof():
    for each in OURS:
        assert each.imported not in ((), ("__init__",)), each
        assert each.imported[0] != ROOF or each.importer[0] == ROOF, each


def test_only_the_doors_and_the_edge_import_the_edge():
    assert {each.importer[0] for each in OURS if each.imported[0] == "edge"} == {"edge", "__main__"}


def test_there_is_no_circle_of_imports():
    graph = {place: {each.imported for each in OURS if each.importer == place} - {place} for place in MODULES}
    while graph:
        free = {place for place, needs in graph.items() if not needs & graph.keys()}
        assert free, f"these import each other in a circle: {sorted('.'.join(place) for place in graph)}"
        graph = {place: needs for place, needs in graph.items() if place not in free}


def test_the_library_needs_torch_and_optree_and_the_standard_library_alone():
    strange = {
        f"{'.'.join(each.importer)} imports {each.top}"
        for each in IMPORTS
        if each.importer[0] not in ("edge", ROOF) and each.top not in ALLOWED
    }
    assert strange == set()


def test_the_edge_and_the_roof_need_nothing_that_their_extras_do_not_install():
    for each in IMPORTS:
        assert each.importer[0] != "edge" or each.top in ALLOWED | OF_THE_EDGE, each
        assert each.importer[0] != ROOF or each.top in ALLOWED | {"hypothesis"}, each
    extras = re.search(r"^cli = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.M)
    assert extras is not None
    assert {re.split(r"[>=<]", word.strip(' "'))[0].replace("-", "_") for word in extras[1].split(",")} == OF_THE_EDGE


def test_the_extras_that_the_edge_loads_by_name_are_those():
    named = set()
    for path in (PACKAGE / "edge").glob("*.py"):
        named |= {name.split(".")[0] for name in re.findall(r'load_extra\("([\w.]+)", "cli"\)', path.read_text())}
    assert named | {"numpy"} == OF_THE_EDGE  # files of initial conditions import numpy, with an error of their own


# --- what the files say


def test_every_module_says_what_it_is():
    silent = [str(path) for path in MODULES.values() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []


def public_nodes():
    for place, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield ".".join((*place, node.name)), node


def test_everything_without_an_underscore_has_a_docstring():
    assert [name for name, node in public_nodes() if not ast.get_docstring(node)] == []


def test_no_user_input_is_checked_by_a_bare_assert():
    asserts = [
        f"{'.'.join(place)}: {ast.unparse(node)}"
        for place, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert asserts == ["edge.training_run: assert info is not None"]  # for the type checker


# --- what the public names say

SHAPE = re.compile(
    r"\(\s*\)"  # ()
    r"|\((?:[BNDHFTSPM23]|outputs|inputs|\.\.\.)(?:[,) ·+]|\*)"  # (N, D)
    r"|\b[BNT] (?:samples|systems|bodies)\b"
    r"|[Ss]hape"
)


def named_elsewhere():
    """Public functions and NamedTuples: whoever defers to one by name need not repeat its shapes."""
    return {node.name for _, node in public_nodes() if isinstance(node, ast.ClassDef)} | set(aits_func.__all__)


def public():
    return {name: getattr(aits_func, name) for name in aits_func.__all__}


def source_of(function):
    return ast.parse(inspect.cleandoc("\n" + inspect.getsource(function))).body[0]


def raises(function):
    """Whether a function's own lines raise, or call a validator. What its callees raise is theirs to say."""
    own = [node for node in ast.walk(source_of(function)) if isinstance(node, ast.Raise | ast.Call)]
    called = {ast.unparse(node.func).split(".")[-1] for node in own if isinstance(node, ast.Call)}
    validates = {name for name in called if re.match(r"_?(require|check_(?!all_pass|energy_threshold))", name)}
    return any(isinstance(node, ast.Raise) for node in own) or bool(validates)


FUNCTIONS = {name: value for name, value in public().items() if inspect.isfunction(value)}
TREES = {name: value for name, value in public().items() if inspect.isclass(value)}
LAWS = {name: value for name, value in vars(testing).items() if inspect.isfunction(value)}


def test_every_public_name_is_a_function_or_a_named_tuple():
    assert FUNCTIONS.keys() | TREES.keys() == set(aits_func.__all__)
    assert all(issubclass(value, tuple) and hasattr(value, "_fields") for value in TREES.values())


@pytest.mark.parametrize("name", sorted({**FUNCTIONS, **LAWS}))
def test_a_public_function_says_what_it_takes_returns_and_raises(name):
    function = {**FUNCTIONS, **LAWS}[name]
    doc = inspect.getdoc(function) or ""
    assert doc.split("\n")[0], "one sentence that says what it is"
    assert SHAPE.search(doc) or named_elsewhere() & set(re.findall(r"`(\w+)`", doc)), (
        "the shapes of what it takes or returns"
    )
    if raises(function):
        assert "\nRaises:\n" in doc, "what it raises"
    parameters = [p for p in inspect.signature(function).parameters if p not in ("self",)]
    if "\n\n" in doc:  # a sentence may be all that a function of one line needs
        assert "\nReturns:\n" in doc or inspect.signature(function).return_annotation is None, "what it returns"
        section = doc.split("\nArgs:\n")[1].split("\n\n")[0] if "\nArgs:\n" in doc else ""
        documented = {
            word.strip("* ")
            for line in section.split("\n")
            if re.match(r"    \S", line)
            for word in line.split(":")[0].split(",")
        }
        assert documented == set(parameters), "every argument, and no other"
    assert len(parameters) <= 1 or "\nArgs:\n" in doc, "the arguments, if there are several"


@pytest.mark.parametrize("name", sorted(TREES))
def test_a_public_tuple_says_what_its_fields_are(name):
    value = TREES[name]
    doc = inspect.getdoc(value) or ""
    code = inspect.getsource(value)
    assert doc
    assert not doc.startswith(f"{name}("), "a docstring of its own, not the one that NamedTuple makes"
    deferred = named_elsewhere() & set(re.findall(r"`(\w+)`", doc))
    assert SHAPE.search(code) or "plain numbers" in doc or deferred, "the shapes of its fields"
    for line in code.splitlines():
        if re.match(r"    \w+: Tensor\b", line):
            assert SHAPE.search(line.partition("#")[2]), f"the shape, in a comment: {line.strip()}"


# Formulas and algorithms of others, which the docstring has to name. Not in the list: what is the source system's
# (system.md), textbook definitions (energy, momentum), and what is this project's own.
SOURCED = (
    "adam",
    "adamw",
    "binaries",
    "build_leapfrog_dkd",
    "build_leapfrog_kdk",
    "build_mlp",
    "clip_by_global_norm",
    "cosine_decay",
    "fly_by",
    "free_fall",
    "free_fall_triple",
    "gaussian_cluster",
    "hierarchical_triple",
    "orbital_period",
    "p_norm",
    "plummer_sphere",
    "sgd",
    "skip_nonfinite",
    "two_body_orbit",
    "warmup_cosine",
)


@pytest.mark.parametrize("name", SOURCED)
def test_a_formula_of_someone_else_s_names_its_source(name):
    doc = inspect.getdoc(public()[name])
    source = re.search(r"^Source: (.+)", doc, re.M)
    assert source is not None
    # A year, or the routine that this package grew from.
    assert re.search(r"\b1[6-9]\d\d\b|\b20\d\d\b|training routine|optax", doc[source.start() :])
