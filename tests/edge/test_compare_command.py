"""``aits compare``: what it writes, that the numbers are the library's own, and what it refuses to begin."""

import csv
import json
import math

import numpy
import pytest
import torch

from aits_func.edge import comparison_run
from aits_func.edge.checkpoint import load_checkpoint
from aits_func.edge.comparison_run import available
from aits_func.edge.config import CompareConfig, read_toml
from aits_func.edge.rebound_peer import PEER_RULES, run_rebound
from aits_func.loops.compare import compare
from aits_func.loops.policy_rule import build_policy_rule, natural_spin
from aits_func.loops.remedies import REMEDY_OF_PEER
from aits_func.loops.work_precision import LEVELS, METRICS, QUANTILES
from aits_func.physics.compositions import compose
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries
from aits_func.physics.integrators import build_leapfrog_kdk
from aits_func.physics.known_orbits import known_orbit
from aits_func.physics.pair_criteria import free_fall, p_norm
from aits_func.physics.reversible_schemes import build_hairer_soderlind
from aits_func.physics.schemes import SCHEMES, build_scheme
from aits_func.timestep.features import build_features
from aits_func.timestep.policy import build_criterion_policy, build_residual_policy

tomli_w = pytest.importorskip("tomli_w")

FILES = {"config.toml", "points.csv", "needs.csv", "comparison.json", "work_precision.png", "work_precision.pdf"}
ROUND = {"kind": "binaries", "count": 2, "seed": 7, "eccentricity": [0.0, 0.2]}
FREE_FALL = {"name": "free fall", "criterion": "free_fall", "eta": 1.0, "tolerances": [0.1, 0.03]}
REVERSIBLE = {
    "name": "fourth order",
    "scheme": "hairer_soderlind",
    "order": 4,
    "criterion": "p_norm",
    "eta": 1.0,
    "tolerances": [0.3, 0.1],
}
PEER = {"name": "IAS15", "peer": "rebound_ias15_global", "tolerances": [1e-6]}
GRAVITY = build_gravity()


def table(**changes):
    """The section [compare] of two rules on two binaries, changed."""
    section = {"systems": [ROUND], "t_end": 0.2, "rules": [FREE_FALL, REVERSIBLE], "compile": "off", "resamples": 20}
    return section | changes


@pytest.fixture
def compare_file(tmp_path):
    """Write a configuration with a section [compare]: ``compare_file(t_end=0.1)``; shared keys in ``shared``."""

    def write(shared=None, **changes):
        path = tmp_path / "compare.toml"
        path.write_text(tomli_w.dumps({"seed": 3, **(shared or {}), "compare": table(**changes)}), encoding="utf-8")
        return path

    return write


def rows(run, name):
    with (run / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report(run):
    (result,) = json.loads((run / "comparison.json").read_text()).values()
    return result


def systems():
    return binaries(7, 2, eccentricity=(0.0, 0.2))


def by_the_library(policy, params, scheme, name, tolerances, **options):
    return build_policy_rule(
        name, policy, params, gravity=GRAVITY, scheme=scheme, t_end=0.2, tolerances=tolerances, compile="off", **options
    )


def the_two_rules(**options):
    first, second = free_fall(GRAVITY, eta=1.0), p_norm(GRAVITY, eta=1.0)
    one, other = build_criterion_policy(first), build_criterion_policy(second)
    fourth = compose(build_hairer_soderlind(GRAVITY, base="dkd"), 4)
    return [
        by_the_library(one, one.init(0), build_leapfrog_kdk(GRAVITY), "free fall", (0.1, 0.03), **options),
        by_the_library(other, other.init(0), fourth, "fourth order", (0.3, 0.1), **options),
    ]


def assert_same_points(entries, points):
    """All but the clock: the same functions of the same systems, so to the bit."""
    assert len(entries) == len(points)
    for entry, point in zip(entries, points, strict=True):
        assert (entry["rule"], entry["tolerance"]) == (point.rule, point.tolerance)
        assert (entry["systems"], entry["failed"]) == (point.systems, point.failed)
        assert entry["median_evaluations"] == point.median_evaluations._asdict()
        assert entry["mean_evaluations"] == point.mean_evaluations._asdict()
        assert entry["rule_evaluations"] == point.rule_evaluations
        for metric in METRICS:
            for quantile in QUANTILES:
                ours, theirs = entry["errors"][metric][str(quantile)], point.error(metric, quantile)._asdict()
                assert ours == {key: value if math.isfinite(value) else None for key, value in theirs.items()}


# --- what it writes


def test_a_comparison_leaves_its_files_and_no_others(real_pictures, succeed, compare_file, tmp_path):
    out = succeed("compare", compare_file(), "--out", "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    assert (tmp_path / "a" / "work_precision.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (tmp_path / "a" / "work_precision.pdf").read_bytes().startswith(b"%PDF-")
    for name in ("work_precision.png", "work_precision.pdf"):
        assert (tmp_path / "a" / name).stat().st_size > 5000  # two pairs of axes; an empty picture has 2 kB
    lines = out.splitlines()
    assert [line.split("  ")[:2] for line in lines[:4]] == [
        ["1/4", "binaries: free fall at 0.1"],
        ["2/4", "binaries: free fall at 0.03"],
        ["3/4", "binaries: fourth order at 0.3"],
        ["4/4", "binaries: fourth order at 0.1"],
    ]
    assert "binaries (2): median force evaluations for a time-averaged" in out
    assert lines[-1] == "written to a"


def test_the_numbers_are_those_of_the_library(succeed, compare_file, tmp_path):
    succeed("compare", compare_file(return_error=True), "--out", "a")
    expected = compare(the_two_rules(return_error=True), systems(), resamples=20, seed=3)
    result = report(tmp_path / "a")
    assert (result["systems"], result["reference"], result["cost"]) == (2, "free fall", "median")
    assert_same_points(result["points"], expected.points)
    for entry, need in zip(result["needs"], expected.needs, strict=True):
        for key, value in need._asdict().items():
            if key in ("evaluations", "ratio"):
                value = {k: v if math.isfinite(v) else None for k, v in value._asdict().items()}
            assert entry[key] == value, key


def test_the_tables_hold_the_same_numbers_as_the_json(succeed, compare_file, tmp_path):
    succeed("compare", compare_file(), "--out", "a")
    result, points, needs = (
        report(tmp_path / "a"),
        rows(tmp_path / "a", "points.csv"),
        rows(tmp_path / "a", "needs.csv"),
    )
    assert len(points) == 4 * len(METRICS) * len(QUANTILES)
    assert len(needs) == len(result["needs"]) > 0
    by_place = {(p["rule"], p["tolerance"]): p for p in result["points"]}
    for row in points:
        point = by_place[row["rule"], float(row["tolerance"])]
        assert float(row["median_evaluations"]) == point["median_evaluations"]["value"]
        value = point["errors"][row["metric"]][row["quantile"]]["value"]
        assert (float(row["error"]) == value) if value is not None else (row["error"] in ("nan", "inf"))
    for row, need in zip(needs, result["needs"], strict=True):
        assert (row["set"], row["rule"], float(row["level"])) == ("binaries", need["rule"], need["level"])
        assert need["level"] in LEVELS


def test_the_configuration_it_leaves_makes_the_same_comparison_again(succeed, compare_file, tmp_path):
    succeed("compare", compare_file(), "--out", "a")
    assert set(read_toml(tmp_path / "a" / "config.toml")["compare"]) == set(CompareConfig.__dataclass_fields__)
    succeed("compare", "a/config.toml", "--out", "b")
    left, right = report(tmp_path / "a"), report(tmp_path / "b")
    for point in (*left["points"], *right["points"]):
        del point["seconds"]
    assert left == right


def test_flags_override_the_file(succeed, compare_file, tmp_path):
    succeed("compare", compare_file(), "--out", "a", "--cost", "mean", "--reference", "fourth order", "--t-end", "0.1")
    result = report(tmp_path / "a")
    assert (result["cost"], result["reference"]) == ("mean", "fourth order")
    longer = compare(the_two_rules(), systems(), resamples=0)
    for entry, point in zip(result["points"], longer.points, strict=True):
        assert entry["mean_evaluations"]["value"] < point.mean_evaluations.value


def test_every_set_has_its_own_entry_and_end(succeed, compare_file, tmp_path):
    sets = [ROUND | {"label": "short", "t_end": 0.1}, ROUND | {"label": "long"}]
    succeed("compare", compare_file(systems=sets, rules=[FREE_FALL]), "--out", "a")
    tables = json.loads((tmp_path / "a" / "comparison.json").read_text())
    assert list(tables) == ["short", "long"]
    short, long = (tables[label]["points"][1]["mean_evaluations"]["value"] for label in tables)
    assert short < 0.8 * long
    assert {row["set"] for row in rows(tmp_path / "a", "points.csv")} == {"short", "long"}


def test_a_system_that_fails_is_part_of_the_result(succeed, compare_file, tmp_path):
    rule = FREE_FALL | {"tolerances": [0.01, 0.02]}  # some twenty steps and more
    out = succeed("compare", compare_file(max_evaluations=4, rules=[rule]), "--out", "a")
    assert out.count("2 of 2 failed (2 step limit)") == 2
    assert "binaries, failed: step limit (free fall): raise max_evaluations, or the tolerances\n" in out
    for point in report(tmp_path / "a")["points"]:
        assert point["failed"] == 2
        assert point["failures"] == {"step limit": 2}
        assert point["median_evaluations"]["value"] is None  # infinite
    assert {row["median_evaluations"] for row in rows(tmp_path / "a", "points.csv")} == {"inf"}


def test_physics_reaches_the_rules(succeed, compare_file, tmp_path):
    shared = {"softening": 0.3, "integrator": "leapfrog_dkd", "energy_scale": "kinetic"}
    succeed("compare", compare_file(shared, rules=[FREE_FALL]), "--out", "a")
    gravity = build_gravity(softening=0.3)
    policy = build_criterion_policy(free_fall(gravity, eta=1.0))
    rule = build_policy_rule(
        "free fall",
        policy,
        policy.init(0),
        gravity=gravity,
        scheme=build_scheme("direct", gravity, integrator="leapfrog_dkd"),
        t_end=0.2,
        tolerances=(0.1, 0.03),
        energy_scale="kinetic",
        compile="off",
    )
    assert_same_points(report(tmp_path / "a")["points"], compare([rule], systems(), resamples=20, seed=3).points)


# --- rules


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_is_a_rule_in_every_scheme(succeed, compare_file, tmp_path, trained, scheme):
    rule = {"checkpoint": str(trained), "scheme": scheme, "tolerances": [1.0]}
    succeed("compare", compare_file(rules=[rule]), "--out", "a")
    features = build_features("invariant", GRAVITY)
    policy = build_residual_policy(features, p_norm(GRAVITY, eta=0.02), hidden=(4,))
    params = load_checkpoint(trained / "checkpoint.safetensors", policy.init(0), prefix="params.")
    name = f"{scheme}, {trained.name}"
    wanted = by_the_library(policy, params, build_scheme(scheme, GRAVITY), name, (1.0,))
    points = report(tmp_path / "a")["points"]
    assert_same_points(points, compare([wanted], systems(), resamples=20, seed=3).points)
    assert points[0]["failed"] == 0


def test_rules_without_a_name_are_called_by_what_they_are(succeed, compare_file, tmp_path):
    unnamed = [{k: v for k, v in rule.items() if k != "name"} for rule in (FREE_FALL, REVERSIBLE)]
    succeed("compare", compare_file(rules=unnamed), "--out", "a")
    names = list(dict.fromkeys(point["rule"] for point in report(tmp_path / "a")["points"]))
    assert names == ["direct, free_fall", "hairer_soderlind 4, p_norm"]


@pytest.mark.skipif(not available(), reason="needs rebound")
def test_a_peer_is_a_row_like_any_other(succeed, compare_file, tmp_path):
    succeed("compare", compare_file(rules=[FREE_FALL, PEER], return_error=True), "--out", "a")
    point = report(tmp_path / "a")["points"][-1]
    assert (point["rule"], point["tolerance"], point["failed"]) == ("IAS15", 1e-6, 0)
    result = run_rebound(
        systems(),
        **PEER_RULES["rebound_ias15_global"],
        tolerance=1e-6,
        t_end=0.2,
        G=1.0,
        return_error=True,
        max_evaluations=200_000,
    )
    assert point["mean_evaluations"]["value"] == float(result.force_evaluations.double().mean())
    columns = {
        "final_energy_error": result.final_energy_error,
        "mean_energy_error": result.mean_energy_error,
        "max_potential_error": result.max_error_over_potential,
        "max_energy_error": result.max_energy_error,
        "return_error": result.return_error,
        "angular_momentum_error": result.angular_momentum_residual / natural_spin(systems(), GRAVITY),
        "energy_drift": result.drift_slope.abs(),
    }
    for metric, values in columns.items():
        # of two systems the 90 % quantile is the larger: no interpolation
        assert point["errors"][metric]["0.9"]["value"] == float(values.max()), metric


@pytest.mark.skipif(not available(), reason="needs rebound")
def test_a_peer_that_fails_has_a_remedy_of_its_own(aits, compare_file, tmp_path):
    stuck = {"name": "IAS15", "peer": "rebound_ias15", "tolerances": [1e-9]}  # which stops where the three are in line
    limited = {"name": "leapfrog", "peer": "rebound_leapfrog", "tolerances": [1e-3]}
    start = known_orbit("figure_eight")
    rows = torch.cat([start.mass[:, None], start.position, start.velocity], 1)
    numpy.savetxt(tmp_path / "eight.txt", rows)
    file = compare_file(
        systems=["eight.txt"], t_end=6.3, rules=[FREE_FALL, stuck, limited], max_evaluations=4000, resamples=0
    )
    outcome = aits("compare", file, "--out", "a")
    assert outcome.code == 0
    assert "eight.txt: IAS15 at 1e-09" in outcome.out
    assert "1 of 1 failed (1 stalled)" in outcome.out
    said = [line for line in outcome.out.splitlines() if line.startswith("eight.txt, failed: ")]
    assert said == [
        f"eight.txt, failed: stalled (IAS15): {REMEDY_OF_PEER['rebound_ias15']['stalled']}",
        f"eight.txt, failed: evaluation limit (leapfrog): {REMEDY_OF_PEER['rebound_leapfrog']['evaluation limit']}",
        "eight.txt, failed: the file does not say G (eight.txt), and a wrong one does this as well: set G",
    ]
    assert "rebound_ias15_global" in said[0]


def test_a_peer_that_is_not_installed_is_named_and_the_others_run(aits, compare_file, tmp_path, monkeypatch):
    monkeypatch.setattr("aits_func.edge.comparison_run.available", lambda: False)
    outcome = aits("compare", compare_file(rules=[PEER, FREE_FALL], reference="IAS15"), "--out", "a")
    assert outcome.code == 0
    assert outcome.err == (
        "missing: IAS15 needs REBOUND; pip install 'aits_func[rebound]'\n"
        "note: IAS15 was to be the reference; ratios are to free fall instead\n"
    )
    assert "IAS15 was to be" not in outcome.out
    assert {point["rule"] for point in report(tmp_path / "a")["points"]} == {"free fall"}
    assert report(tmp_path / "a")["reference"] == "free fall"  # instead of the one that is missing


# --- with nothing to draw, or to say


PLAIN = {"name": "constant", "criterion": "constant", "dt": 0.01, "tolerances": [1.0]}
FAR = {"mass": [1.0, 1.0], "position": [[0.0, 0.0], [1e6, 0.0]], "velocity": [[0.0, 0.0], [0.0, 1.0]], "G": 1.0}
CLOSED = "no rule reaches any error: every system failed, with every rule and tolerance"


@pytest.mark.usefixtures("real_pictures")
def test_a_comparison_in_which_every_system_fails_prints_its_table_and_draws_that(succeed, compare_file, tmp_path):
    out = succeed("compare", compare_file(max_evaluations=1, rules=[FREE_FALL, PLAIN]), "--out", "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    assert "binaries (2): median force evaluations" in out
    assert out.count("2 of 2 │") == 4  # two rules, two quantiles
    assert CLOSED in out
    assert (tmp_path / "a" / "needs.csv").read_text().startswith("set,rule,metric,quantile,level,bound,evaluations,")
    assert all(point["failed"] == 2 for point in report(tmp_path / "a")["points"])


@pytest.mark.usefixtures("real_pictures")
def test_a_comparison_in_which_every_error_is_0_prints_its_table_and_draws_that(succeed, compare_file, tmp_path):
    (tmp_path / "far.json").write_text(json.dumps(FAR))  # so far apart that nothing moves but on straight lines
    out = succeed("compare", compare_file(systems=["far.json"], rules=[FREE_FALL, PLAIN]), "--out", "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    errors = [point["errors"]["mean_energy_error"]["0.5"]["value"] for point in report(tmp_path / "a")["points"]]
    assert set(errors) == {0.0}
    assert "│ ≤ 2 (1) │" in out


@pytest.mark.usefixtures("real_pictures")
@pytest.mark.parametrize("order", [1, -1])
def test_a_set_of_which_nothing_can_be_drawn_loses_no_other(succeed, compare_file, tmp_path, order):
    sets = [ROUND | {"t_end": 0.01}, {"name": "pythagorean", "t_end": 60.0}][::order]
    config = compare_file(systems=sets, rules=[FREE_FALL, PLAIN], max_evaluations=30)
    out = succeed("compare", config, "--out", "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES
    assert set(json.loads((tmp_path / "a" / "comparison.json").read_text())) == {"binaries", "pythagorean"}
    assert "binaries (2): median force evaluations" in out
    assert "pythagorean (1): median force evaluations" in out
    assert out.count(CLOSED) == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_set_that_cannot_be_compared_loses_no_other_and_the_exit_code_is_1(
    aits, compare_file, tmp_path, monkeypatch, order
):
    def run(plans, item, config, physics, run_set=comparison_run.run_set):
        if item.label == "pythagorean":
            raise RuntimeError("not enough memory:\nyou tried to allocate 99 bytes")
        yield from run_set(plans, item, config, physics)

    monkeypatch.setattr(comparison_run, "run_set", run)
    outcome = aits("compare", compare_file(systems=[ROUND, "pythagorean"][::order], rules=[FREE_FALL]), "--out", "a")
    assert outcome.code == 1
    assert outcome.err == (
        "aits: error: pythagorean could not be compared: not enough memory:\\nyou tried to allocate 99 bytes\n"
    )
    assert "binaries (2): median force evaluations" in outcome.out
    assert set(json.loads((tmp_path / "a" / "comparison.json").read_text())) == {"binaries"}


def test_a_picture_that_cannot_be_drawn_takes_no_table_with_it(aits, compare_file, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("Data cannot be log-scaled")

    monkeypatch.setattr("aits_func.edge.commands.draw_work_precision", fail)
    outcome = aits("compare", compare_file(rules=[FREE_FALL]), "--out", "a")
    assert (outcome.code, outcome.err) == (
        0,
        "warning: a/work_precision.png: could not be drawn: Data cannot be log-scaled; the numbers are in the files\n",
    )
    assert "binaries (2): median force evaluations" in outcome.out


# --- refusals

BAD_RULES = {
    "no rules": ([], "compare needs rules; add at least one [[compare.rules]] with a criterion"),
    "a misspelt key": ([FREE_FALL, {"criteria": "p_norm"}], "rule 2: takes name, scheme, "),
    "its nearest": ([{"criteria": "p_norm"}], "not 'criteria'; did you mean 'criterion'?"),
    "nothing to run": ([{"name": "a"}], "rule 1: needs exactly one of criterion, checkpoint, peer, got none"),
    "two kinds": (
        [FREE_FALL | {"peer": "rebound_ias15"}],
        "rule 1: needs exactly one of criterion, checkpoint, peer, got criterion, peer",
    ),
    "an odd order": ([FREE_FALL | {"order": 3}], "rule 1: order must be one of 2, 4, 6, 8, got 3"),
    "an order of words": ([FREE_FALL | {"order": "four"}], "rule 1: order must be one of 2, 4, 6, 8, got 'four'"),
    "no tolerances": ([FREE_FALL | {"tolerances": []}], "rule 1: tolerances must be a list of numbers > 0, got []"),
    "a tolerance of 0": ([FREE_FALL | {"tolerances": [0.1, 0.0]}], "tolerances must be a list of numbers > 0, got"),
    "one tolerance": ([FREE_FALL | {"tolerances": 0.1}], "tolerances must be a list of numbers > 0, got 0.1"),
    "a true tolerance": ([FREE_FALL | {"tolerances": [True]}], "tolerances must be a list of numbers > 0, got [True]"),
    "another peer": ([{"peer": "nbody6"}], "rule 1: peer must be one of rebound_ias15, "),
    "another scheme": (
        [FREE_FALL | {"scheme": "hairer"}],
        "scheme must be one of direct, implicit_symmetric, hairer_soderlind, time_transformed, got 'hairer'",
    ),
    "another criterion": ([{"criterion": "freefall"}], "got 'freefall'; did you mean 'free_fall'?"),
    "a number as criterion": ([{"criterion": 1}], "rule 1: criterion must be a string, got 1"),
    "a negative eta": ([FREE_FALL | {"eta": -1.0}], "rule 1: eta must be a number > 0, got -1.0"),
    "eta in words": ([FREE_FALL | {"eta": "a"}], "rule 1: eta must be a number > 0, got 'a'"),
    "an infinite p": ([{"criterion": "p_norm", "p": math.inf}], "rule 1: p must be a number > 0, got inf"),
    "other weights": (
        [{"criterion": "pair_norm", "weights": "masses"}],
        "weights must be one of mass_product, root_sum",
    ),
    "a kink in a reversible scheme": (
        [{"criterion": "hut_makino", "scheme": "hairer_soderlind"}],
        "rule 1: compare: the scheme hairer_soderlind is reversible, and this step function is not smooth",
    ),
    "rule 2 of the same name": ([FREE_FALL, FREE_FALL], "two rules are called 'free fall'; give them a name each"),
    "no such checkpoint": (
        [{"checkpoint": "gone"}],
        "gone: cannot read this checkpoint: No such file or directory; check the path",
    ),
    "an order that it has not": ([FREE_FALL | {"order": 4}], "rule 1: "),
    "gadget without softening": ([{"criterion": "gadget"}], "rule 1: gadget: needs a softening length > 0, got 0.0"),
}


@pytest.mark.parametrize(("bad", "complaint"), BAD_RULES.values(), ids=BAD_RULES)
def test_a_bad_rule_is_refused_with_its_place(refuse, compare_file, tmp_path, bad, complaint):
    message = refuse("compare", compare_file(rules=bad), "--out", "a")
    assert complaint in message
    assert "compare.toml: " in message or "gone: " in message
    assert not (tmp_path / "a").exists()


BAD_TABLES = {
    "a reference that is none": ({"reference": "free fal"}, "got 'free fal'; did you mean 'free fall'?"),
    "an unknown key": ({"toleranses": 1}, "[compare]: unknown key 'toleranses'"),
    "another cost": ({"cost": "max"}, "cost must be one of median, mean, got 'max'"),
    "another mode": ({"compile": "always"}, "compile must be one of auto, on, off, got 'always'"),
    "fewer than no resamples": ({"resamples": -1}, "resamples must be >= 0, got -1"),
    "no evaluations": ({"max_evaluations": 0}, "max_evaluations must be >= 1, got 0"),
    "no time for peers": ({"peer_timeout": 0.0}, "peer_timeout must be > 0, got 0.0"),
    "no systems": ({"systems": []}, "systems must name at least one source"),
    "rules that are none": ({"rules": [3]}, "every entry of rules must be a table, got 3"),
    "rules as a table": ({"rules": FREE_FALL}, "rules must be a list, got"),
    "no end": ({"t_end": 0.0}, "t_end must be > 0, got 0.0"),
}


@pytest.mark.parametrize(("changes", "complaint"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_section_is_refused(refuse, compare_file, tmp_path, changes, complaint):
    assert complaint in refuse("compare", compare_file(**changes), "--out", "a")
    assert not (tmp_path / "a").exists()


def test_a_peer_in_an_external_field_is_refused(refuse, compare_file):
    shared = {"field": {"mass": 1.0, "position": [5.0, 0.0]}}
    message = refuse("compare", compare_file(shared, rules=[FREE_FALL, PEER]), "--out", "a")
    assert "rule 2: peers know no external field; leave out the field, or this rule" in message


def test_nothing_but_peers_that_are_not_installed_is_refused(refuse, compare_file, monkeypatch):
    monkeypatch.setattr("aits_func.edge.comparison_run.available", lambda: False)
    message = refuse("compare", compare_file(rules=[PEER]), "--out", "a")
    assert "all rules are peers that are not installed; pip install 'aits_func[rebound]'" in message


def test_a_damaged_checkpoint_is_refused_with_its_file(refuse, compare_file, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"PK\3\4")
    message = refuse("compare", compare_file(rules=[{"checkpoint": "bad.safetensors"}]), "--out", "a")
    assert "bad.safetensors: truncated or not a checkpoint" in message


def test_a_policy_for_another_number_of_bodies_is_refused(refuse, compare_file, trained_on_rich):
    file = compare_file(systems=["figure_eight"], rules=[{"name": "rich", "checkpoint": str(trained_on_rich)}])
    message = refuse("compare", file, "--out", "a")
    assert "rich was trained on systems of another shape than figure_eight (N = 3, D = 2)" in message


def test_a_policy_that_remembers_is_refused_in_a_reversible_scheme(refuse, compare_file, trained_on_rich):
    rule = {"checkpoint": str(trained_on_rich), "scheme": "time_transformed"}
    message = refuse("compare", compare_file(rules=[rule]), "--out", "a")
    assert "rule 1: compare: the scheme time_transformed is reversible, and this step function" in message


def test_a_comparison_needs_a_file_and_a_place(refuse, compare_file, tmp_path):
    assert "arguments are required: config; see aits compare --help" in refuse("compare")
    assert "gone.toml: cannot read this configuration" in refuse("compare", "gone.toml")
    (tmp_path / "file").touch()
    assert "cannot make this run directory" in refuse("compare", compare_file(), "--out", "file/a")
    message = refuse("compare", compare_file(), "--refrence", "x")
    assert message.endswith("did you mean '--reference'?")


def test_the_rules_are_in_a_file_and_no_flag(refuse, compare_file):
    assert "unrecognized arguments: --rules" in refuse("compare", compare_file(), "--rules", "x")


def test_single_precision_is_compared_in_single_precision(succeed, compare_file, tmp_path):
    succeed("compare", compare_file({"dtype": "float32"}, rules=[FREE_FALL]), "--out", "a")
    point = report(tmp_path / "a")["points"][1]
    assert point["failed"] == 0
    # the end error of a leapfrog in steps of 0.03 free-fall times is not below what 6e-8 a step leaves
    assert point["errors"]["max_energy_error"]["0.5"]["value"] > torch.finfo(torch.float32).eps / 10
