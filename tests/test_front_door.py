"""The front door: every public name, from its room, without waiting for what nobody asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import aits_func
from aits_func.edge.cli import main

ROOT = Path(aits_func.__file__).parents[1]
SEED = (
    "attempt_single_step",
    "check_energy_threshold",
    "compute_single_step_loss",
    "sample_minibatch",
    "evaluate_minibatch",
    "generalize_on_trajectory",
    "collect_trajectory",
    "train_epoch_two_phase",
    "run_two_phase_training",
    "build_features",
)


def imports_for_type_checkers():
    """{module: names} of the imports under TYPE_CHECKING."""
    tree = ast.parse(Path(aits_func.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name, "written `import x as x`, which type checkers take for public"
            homes.setdefault(node.module, []).append(alias.name)
    return homes


def run(code, *, repeats=1):
    """What a fresh interpreter prints, as numbers; the smallest of several runs, as others use this machine too."""
    command = [sys.executable, "-c", code]
    return min(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(repeats)
    )


def test_type_checkers_and_programs_see_the_same_names():
    assert {module: tuple(sorted(names)) for module, names in imports_for_type_checkers().items()} == {
        module: tuple(sorted(names)) for module, names in aits_func._HOMES.items()
    }


@pytest.mark.parametrize("module", sorted(aits_func._HOMES))
def test_every_name_is_what_its_room_holds(module):
    room = importlib.import_module(f"aits_func.{module}")
    for name in aits_func._HOMES[module]:
        assert getattr(aits_func, name) is getattr(room, name)


def test_no_name_has_two_homes():
    names = [name for group in aits_func._HOMES.values() for name in group]
    assert len(names) == len(set(names)) == len(aits_func.__all__)


def test_a_function_s_home_is_where_it_is_written():
    for module, names in aits_func._HOMES.items():
        for name in names:
            assert getattr(aits_func, name).__module__ == f"aits_func.{module}", name


def test_the_names_of_the_seed_are_there():
    assert set(SEED) <= set(aits_func.__all__)
    assert all(callable(getattr(aits_func, name)) for name in SEED)


def test_names_are_found_by_dir_and_star():
    assert set(aits_func.__all__) <= set(dir(aits_func))
    names = {}
    exec("from aits_func import *", names)
    assert set(aits_func.__all__) <= names.keys()


def test_a_name_is_loaded_once():
    assert aits_func.build_gravity is aits_func.build_gravity
    assert vars(aits_func)["build_gravity"] is aits_func.build_gravity


@pytest.mark.parametrize("name", ["buld_gravity", "numpy", "__wrapped__", "Trajectory"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'aits_func' has no attribute '{name}'"):
        getattr(aits_func, name)
    assert not hasattr(aits_func, name)


def test_the_version_is_that_of_the_package():
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    assert line == f'version = "{aits_func.__version__}"'


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys, aits_func; print(sum(name.split('.')[0] in ('torch', 'optree', 'numpy') for name in sys.modules))"
    )
    assert run(code) == 0


def test_with_torch_loaded_every_name_is_there_in_less_than_three_tenths_of_a_second():
    code = (
        "import torch, torch.func, time; start = time.perf_counter(); import aits_func; "
        "[getattr(aits_func, name) for name in aits_func.__all__]; print(time.perf_counter() - start)"
    )
    assert run(code, repeats=3) < 0.3


@pytest.mark.parametrize("command", [[], ["train"], ["simulate"], ["both"], ["inspect"]])
def test_help_is_a_page_that_names_every_flag(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: {' '.join(['aits', *command])} ")
    flags = {"train": "--learning-rate", "simulate": "--max-steps", "both": "--t-end", "inspect": "run directory"}
    assert all(flags[word] in page for word in command)


def test_help_answers_in_half_a_second():
    code = (
        "import subprocess, sys, time; start = time.perf_counter(); "
        "command = [sys.executable, '-m', 'aits_func', 'train', '--help']; "
        "subprocess.run(command, check=True, stdout=subprocess.DEVNULL); "
        "print(time.perf_counter() - start)"
    )
    assert run(code, repeats=3) < 0.5


def test_help_does_not_load_torch():
    code = (
        "import contextlib, io, sys\nfrom aits_func.edge.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['train', '--help'])\n"
        "print(int('torch' in sys.modules))"
    )
    assert run(code) == 0


def test_python_m_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "aits_func", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: aits ")
