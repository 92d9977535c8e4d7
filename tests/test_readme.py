"""What the README and the examples say is what happens."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_library_example_runs_as_printed_and_trains_a_policy_that_keeps_the_energy(capsys):
    names = {}
    exec(compile(block("python")[0], "README.md", "exec"), names)
    report, info = names["report"], names["info"]
    assert capsys.readouterr().out.count("\n") >= 4  # one line per epoch, and the report
    assert info.epoch == 2
    assert info.collect.accepted == 16 * 8
    # Every step was to lose less than 2e-4; over a run errors of both signs add up to a few times that.
    assert float(report.final_energy_error.max()) < 1e-2
    assert bool((report.status == 1).all())


def test_the_laws_of_the_readme_hold_of_its_policy(few_examples):
    import aits_func as af

    gravity = af.build_gravity(G=1.0)
    policy = af.build_residual_policy(af.build_features("invariant", gravity), af.p_norm(gravity, eta=0.02))
    exec(compile(block("python")[1], "README.md", "exec"), {"af": af, "policy": policy})


@pytest.fixture
def few_examples():
    """Laws are tried on a handful of examples, and what breaks one is not made simpler."""
    before = settings.get_current_profile_name()
    settings.register_profile("few", settings(), max_examples=3, phases=[Phase.generate])
    settings.load_profile("few")
    yield
    settings.load_profile(before)


DOCS = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_example_of_a_page_runs_as_printed(page, capsys, few_examples):
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    for example in examples:
        exec(compile(example, page.name, "exec"), {})
        assert capsys.readouterr().out


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page):
    linked = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [name for name in linked if not (page.parent / name).exists()] == []


def test_a_reversible_scheme_does_on_the_page_what_the_page_says(capsys):
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reversibility.md").read_text("utf-8"), re.S)[0]
    names = {}
    exec(compile(example, "reversibility.md", "exec"), names)
    assert "is not smooth" in capsys.readouterr().out
    # The end error of a reversible scheme cancels after a whole period: 2e-6; forth and back is rounding, 1e-14.
    assert float(names["info"].final_energy_error) < 1e-4
    assert float(names["info"].return_error) < 1e-11


def test_the_library_example_has_about_twenty_lines_of_code():
    code = [line for line in block("python")[0].splitlines() if line.strip() and not line.startswith("#")]
    assert len(code) <= 22


def test_ci_runs_the_test_command_of_the_readme_to_the_letter():
    (command,) = [line.strip() for text in block("sh") for line in text.splitlines() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_file_and_folder_that_the_readme_names_is_there():
    linked = re.findall(r"\]\(([^)]+)\)", README)
    listed = re.findall(r"^\| (`[^|]+`) \|", README, re.M)
    folders = [name for cell in listed for name in re.findall(r"`([^`]+)`", cell)]
    assert linked
    assert len(folders) >= 9
    assert [name for name in (*linked, *folders) if not (ROOT / name).exists()] == []


def test_the_dataloader_example_lowers_the_loss(capsys):
    runpy.run_path(str(ROOT / "examples" / "dataloader.py"), run_name="__main__")
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("loss")]
    assert len(losses) == 8
    # Two passes of Adam at 3e-3 move ln dt by 0.02; the loss starts at (ln of dozens)² and must feel it.
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(autouse=True)
def _leave_no_global_random_state():
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())
