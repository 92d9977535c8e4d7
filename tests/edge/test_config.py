"""Configuration: who overrides whom, and every mistake named with its place and the nearest right word."""

import dataclasses
import math

import pytest

from aits_func.base.engine import MODES
from aits_func.edge import comparison_run
from aits_func.edge.config import (
    CHOICES,
    MAX_FILE,
    MAX_WEIGHTS,
    RULE_KEYS,
    SOURCE_PRESET,
    CompareConfig,
    InputError,
    SimulateConfig,
    TrainConfig,
    build_config,
    config_from_dict,
    config_to_dict,
    default_of,
    nearest,
    read_toml,
)
from aits_func.learning.network import ACTIVATIONS
from aits_func.loops.objective import LOSS_ON
from aits_func.loops.replay import CONVERGENCE, HISTORY
from aits_func.loops.work_precision import COSTS
from aits_func.physics.compositions import COMPOSITIONS
from aits_func.physics.criteria import CRITERIA
from aits_func.physics.integrators import INTEGRATORS
from aits_func.physics.schemes import SCHEMES
from aits_func.physics.time_transformations import UNITS, WEIGHTS
from aits_func.timestep.energies import ENERGY_SCALES
from aits_func.timestep.features import VOCABULARIES


def train(tables=None, flags=None, **options):
    return build_config(TrainConfig, tables or {}, flags or {}, where="a.toml", **options)


def simulate(tables=None, flags=None, **options):
    return build_config(SimulateConfig, tables or {}, flags or {}, where="a.toml", **options)


def compare(tables=None, flags=None, **options):
    return build_config(CompareConfig, tables or {}, flags or {}, where="a.toml", **options)


def refused(*arguments, build=train, **options):
    with pytest.raises(InputError) as caught:
        build(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("a.toml")
    return message


# --- precedence


@pytest.mark.parametrize(
    ("tables", "flags", "epochs"),
    [
        ({}, {}, default_of(TrainConfig, "epochs")),
        ({"epochs": 2}, {}, 2),
        ({"epochs": 2, "train": {"epochs": 3}}, {}, 3),
        ({"epochs": 2, "train": {"epochs": 3}}, {"epochs": 4}, 4),
        ({"train": {"epochs": 3}}, {"epochs": 4}, 4),
        ({"epochs": 2}, {"epochs": 4}, 4),
    ],
)
def test_defaults_yield_to_shared_keys_to_sections_to_flags(tables, flags, epochs):
    assert train(tables, flags).epochs == epochs


def test_a_base_yields_to_all_of_them_and_overrides_the_defaults():
    base = dataclasses.replace(TrainConfig(), epochs=7, eta=0.5, seed=9)
    config = train({"epochs": 2, "train": {"eta": 0.25}}, base=base)
    assert (config.epochs, config.eta, config.seed) == (2, 0.25, 9)


def test_a_shared_key_reaches_both_sections_and_a_section_only_its_own():
    tables = {"G": 4.0, "n_steps": 2, "train": {"n_steps": 3}, "simulate": {"softening": 0.1}}
    assert (train(tables).G, train(tables).n_steps, train(tables).softening) == (4.0, 3, 0.0)
    assert (simulate(tables).G, simulate(tables).n_steps, simulate(tables).softening) == (4.0, 2, 0.1)


def test_a_shared_key_that_only_one_section_knows_is_left_to_it():
    tables = {"epochs": 3, "t_end": 2.0}
    assert train(tables).epochs == 3
    assert simulate(tables).t_end == 2.0


def test_a_field_is_a_table_above_the_sections_or_in_one():
    field = {"mass": 1.0, "position": [5.0, 0.0]}
    assert train({"field": field}).field == field
    assert train({"field": field, "train": {"field": {}}}).field == {}


def test_the_source_preset_has_the_features_network_optimizer_and_loss_of_the_source_system():
    config = train({"train": {"preset": "source"}})
    for key, value in SOURCE_PRESET.items():
        assert getattr(config, key) == value, key
    # What the preset does not name is what the source had, and the default already.
    assert (config.activation, config.energy_threshold, config.E_lower, config.E_upper) == ("tanh", 2e-4, 1e-6, 1e-4)
    assert (config.features, config.policy, config.hidden) == ("delta_mag", "mlp", (200, 1000, 1000, 200))
    assert (config.optimizer, config.learning_rate, config.weight_decay) == ("adam", 1e-4, 1e-2)


def test_keys_and_flags_override_the_preset_wherever_it_stands():
    config = train({"preset": "source", "train": {"hidden": [8]}}, {"steps_per_epoch": 5})
    assert (config.hidden, config.steps_per_epoch, config.features) == ((8,), 5, "delta_mag")


def test_the_preset_is_of_training_and_does_not_disturb_a_simulation():
    assert simulate({"preset": "source"}) == SimulateConfig()


def test_a_configuration_survives_being_written_as_plain_values():
    config = train({"train": {"hidden": [3, 4], "systems": ["figure_eight", {"kind": "binaries", "count": 2}]}})
    assert config_from_dict(TrainConfig, config_to_dict(config), where="a.toml") == config


def test_the_words_that_a_configuration_takes_are_those_that_the_library_takes():
    choices = {
        "features": VOCABULARIES,
        "loss_on": LOSS_ON,
        "convergence": CONVERGENCE,
        "history": HISTORY,
        "energy_scale": ENERGY_SCALES,
        "activation": tuple(ACTIVATIONS),
        "integrator": tuple(INTEGRATORS),
        "criterion": tuple(CRITERIA),
        "scheme": SCHEMES,
        "weights": WEIGHTS,
        "compile": MODES,
    }
    of_comparison = {"compile": MODES, "cost": COSTS, "scheme": SCHEMES}
    assert set(CHOICES["unit"]) == set(UNITS)  # a key of rules alone
    for build, section, key, words in [
        *((train, "train", key, words) for key, words in choices.items()),
        *((compare, "compare", key, words) for key, words in of_comparison.items()),
        (simulate, "simulate", "compile", MODES),
    ]:
        message = refused({section: {key: "?"}}, build=build)
        assert set(words) == set(message.split("one of ")[1].split(", got")[0].split(", ")), key


# --- what is accepted


@pytest.mark.parametrize("order", sorted(COMPOSITIONS))
def test_every_order_that_there_is_a_composition_for_is_accepted(order):
    tables = {"order": order}
    assert [build(tables).order for build in (train, simulate, compare)] == [order] * 3


@pytest.mark.parametrize("order", [0, 1, 3, 5, 7, 10, -2])
def test_an_order_that_there_is_none_for_is_refused(order):
    for build in (train, simulate, compare):
        assert refused({"order": order}, build=build) == f"a.toml: order must be one of 2, 4, 6, 8, got {order}"


def test_rules_are_a_list_of_tables_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[compare]\nt_end = 2\n[[compare.rules]]\ncriterion = "p_norm"\n[[compare.rules]]\npeer = "x"\n')
    config = compare(read_toml(path))
    assert (config.t_end, config.rules) == (2.0, ({"criterion": "p_norm"}, {"peer": "x"}))
    assert config_from_dict(CompareConfig, config_to_dict(config), where="a.toml") == config
    assert train(read_toml(path)) == TrainConfig()  # no matter to the other sections


def test_rules_that_are_no_tables_are_refused():
    assert refused({"compare": {"rules": {"a": 1}}}, build=compare).startswith("a.toml [compare]: rules must be a list")
    message = refused({"compare": {"rules": ["p_norm"]}}, build=compare)
    assert message == "a.toml [compare]: every entry of rules must be a table, got 'p_norm'"


def test_a_whole_number_does_for_a_float_and_one_name_for_a_list_of_systems():
    config = train({"train": {"eta": 1, "systems": "figure_eight"}})
    assert (config.eta, type(config.eta)) == (1.0, float)
    assert config.systems == ("figure_eight",)


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("seed", 0),
        ("threads", 0),
        ("softening", 0.0),
        ("history_len", 0),
        ("n_steps", 1),
        ("epochs", 1),
        ("steps_per_epoch", 1),
        ("max_retrain_steps", 1),
        ("replay_batch_size", 1),
        ("replay_steps", 1),
        ("min_replay_size", 0),
        ("weight_decay", 0.0),
        ("momentum", 0.0),
        ("clip_norm", 0.0),
        ("fourier_features", 0),
        ("decay_steps", 0),
        ("acceleration_scale", 0.0),
        ("time_scale", 0.0),
    ],
)
def test_the_least_value_is_allowed_and_the_next_below_is_refused(key, least):
    assert getattr(train({"train": {key: least}}), key) == least
    below = least - 1 if isinstance(least, int) else -1e-300
    message = refused({"train": {key: below}})
    assert message == f"a.toml: {key} must be >= {int(least)}, got {below}"


@pytest.mark.parametrize(("key", "least"), [("max_evaluations", 1), ("resamples", 0)])
def test_the_least_values_of_a_comparison_are_kept_too(key, least):
    assert getattr(compare({"compare": {key: least}}), key) == least
    assert f"{key} must be >= {least}, got {least - 1}" in refused({"compare": {key: least - 1}}, build=compare)


@pytest.mark.parametrize("key", ["max_steps", "record_every"])
def test_the_least_values_of_a_simulation_are_kept_too(key):
    least = {"max_steps": 1, "record_every": 0}[key]
    assert getattr(simulate({"simulate": {key: least}}), key) == least
    assert f"{key} must be >= {least}, got {least - 1}" in refused({"simulate": {key: least - 1}}, build=simulate)


@pytest.mark.parametrize(
    ("build", "section", "key", "bound"),
    [
        *((train, "train", key, 0) for key in ("G", "energy_threshold", "E_lower", "length_scale", "speed_scale")),
        *((train, "train", key, 0) for key in ("eta", "p", "dt", "learning_rate")),
        (train, "train", "bound", 1),
        (simulate, "simulate", "t_end", 0),
        (simulate, "simulate", "compare_tolerance", 0),
        (simulate, "simulate", "h", 0),
        (compare, "compare", "t_end", 0),
        (compare, "compare", "peer_timeout", 0),
    ],
)
def test_a_value_that_must_exceed_a_bound_is_refused_at_it(build, section, key, bound):
    message = refused({section: {key: float(bound)}}, build=build)
    assert message == f"a.toml: {key} must be > {bound}, got {float(bound)}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("key", ["learning_rate", "softening", "energy_threshold", "E_upper"])
def test_a_number_that_is_not_finite_is_refused_from_files_and_flags(key, value):
    assert f"{key} must be finite" in refused({"train": {key: value}})
    if isinstance(value, float):
        assert f"{key} must be finite" in refused({}, {key: value})


# --- what belongs together


def test_the_band_must_be_one():
    message = refused({"train": {"E_lower": 1e-4}})
    assert message == "a.toml: E_lower must be < E_upper = 0.0001, got 0.0001"


def test_the_threshold_must_be_above_the_lower_edge_of_the_band():
    assert "energy_threshold must be > E_lower = 1e-06" in refused({"train": {"energy_threshold": 1e-6}})
    assert "E_upper must be <= energy_threshold = 2e-06" in refused({"train": {"energy_threshold": 2e-6}})
    band = {"energy_threshold": 2e-6, "E_upper": 2e-6}
    assert train({"train": band}).energy_threshold == 2e-6


def test_a_band_that_only_failed_samples_are_moved_into_is_refused():
    message = refused({"train": {"loss_on": "failed", "convergence": "band"}})
    assert 'convergence = "band" needs loss_on = "all"' in message


def test_more_threads_than_processors_are_refused_as_torch_would_crash():
    assert "threads must be <= " in refused({"threads": 100_000})


def test_features_and_history_must_fit():
    assert "set history_len >= 1" in refused({"train": {"features": "delta_mag"}})
    assert "set history_len = 0" in refused({"train": {"history_len": 2}})
    assert train({"train": {"features": "delta_mag", "history_len": 1}}).history_len == 1


def test_a_restart_that_leaves_every_trajectory_empty_is_refused():
    table = {"features": "basic", "history_len": 4, "restart_each_epoch": True, "steps_per_epoch": 4}
    assert "set steps_per_epoch > history_len" in refused({"train": table})
    assert train({"train": table | {"steps_per_epoch": 5}}).steps_per_epoch == 5
    assert train({"train": table | {"restart_each_epoch": False}}).steps_per_epoch == 4


@pytest.mark.parametrize("build", [train, simulate, compare])
def test_no_systems_at_all_are_refused(build):
    section = {train: "train", simulate: "simulate", compare: "compare"}[build]
    assert "systems must name at least one" in refused({section: {"systems": []}}, build=build)


def test_layers_without_neurons_are_refused():
    assert "hidden must be layer sizes >= 1, got [4, 0]" in refused({"train": {"hidden": [4, 0]}})


# --- types


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"epochs": "2"}, "epochs must be a whole number, got '2'"),
        ({"eta": "0.1"}, "eta must be a number, got '0.1'"),
        ({"eta": False}, "eta must be a number, got False"),
        ({"device": 0}, "device must be a string, got 0"),
        ({"stop_at_period": 1}, "stop_at_period must be true or false, got 1"),
        ({"hidden": 64}, "hidden must be a list, got 64"),
        ({"hidden": [64, 1.5]}, "every entry of hidden must be a whole number, got 1.5"),
        ({"field": 3}, "field must be a table, got 3"),
        ({"systems": [3]}, "every entry of systems must be a name, a file or a table with a kind, got 3"),
        ({"systems": 3}, "systems must be a list, got 3"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_right_one(table, complaint):
    assert refused({"train": table}) == f"a.toml [train]: {complaint}"


# --- words


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"epoch": 3}, "epochs"),
        ({"learning_rte": 1e-3}, "learning_rate"),
        ({"e_lower": 1e-3}, "E_lower"),
        ({"hiden": [4]}, "hidden"),
        ({"system": []}, "systems"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_right_one(table, word):
    (key,) = table
    assert refused({"train": table}) == f"a.toml [train]: unknown key {key!r}; did you mean {word!r}?"
    assert refused(table) == f"a.toml: unknown key {key!r}; did you mean {word!r}?"


def test_a_key_that_is_like_no_other_is_refused_without_a_guess():
    assert refused({"train": {"zzz": 1}}) == "a.toml [train]: unknown key 'zzz'"


def test_a_mistake_in_the_other_section_is_found_before_anything_runs():
    assert refused({"simulate": {"t_ned": 1.0}}) == "a.toml [simulate]: unknown key 't_ned'; did you mean 't_end'?"
    assert "[train]: unknown key 'epoch'" in refused({"train": {"epoch": 1}}, build=simulate)


def test_a_key_of_the_other_section_is_unknown_in_this_one():
    ending = "unknown key 't_end'; it belongs to [simulate] or [compare]"
    assert refused({"train": {"t_end": 1.0}}).endswith(ending)
    assert refused({"simulate": {"learning_rate": 1e-3}}).endswith("unknown key 'learning_rate'; it belongs to [train]")
    assert refused({"compare": {"epochs": 3}}).endswith("unknown key 'epochs'; it belongs to [train]")
    assert refused({"compare": {"eta": 0.1}}).endswith("unknown key 'eta'; it belongs to [[compare.rules]]")


def test_the_keys_that_are_said_to_belong_to_a_rule_are_those_that_a_rule_takes():
    assert set(RULE_KEYS) == set(comparison_run._KEYS)


@pytest.mark.parametrize(
    ("section", "word"),
    [("trian", "train"), ("simulation", "simulate"), ("comparison", "compare"), ("feild", "field")],
)
def test_an_unknown_section_is_refused_with_the_nearest_right_one(section, word):
    assert refused({section: {}}) == f"a.toml: unknown section [{section}]; did you mean {word!r}?"


def test_a_section_must_be_a_table():
    assert refused({"train": 3}) == "a.toml: train must be a section, written [train]"
    assert refused({"simulate": [{}]}) == "a.toml: simulate must be a section, written [simulate]"


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("preset", "sources", "source"),
        ("dtype", "float46", "float64"),
        ("integrator", "leapfrog", "leapfrog_kdk"),
        ("energy_scale", "kinetics", "kinetic"),
        ("features", "invariants", "invariant"),
        ("normalize_inputs", "automatic", "auto"),
        ("policy", "residuals", "residual"),
        ("policy", "transformations", "transformation"),
        ("scheme", "hairer-soderlind", "hairer_soderlind"),
        ("weights", "mass_products", "mass_product"),
        ("criterion", "freefall", "free_fall"),
        ("activation", "tan", "tanh"),
        ("optimizer", "adamW", "adamw"),
        ("loss_on", "fail", "failed"),
        ("convergence", "batch", "minibatch"),
        ("history", "snap", "snapshot"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_with_the_choices_and_the_nearest(key, value, word):
    message = refused({"train": {key: value}})
    assert message.startswith(f"a.toml: {key} must be one of ")
    assert message.endswith(f"got {value!r}; did you mean {word!r}?")


def test_the_nearest_word_is_only_offered_if_it_is_near():
    assert nearest("apple", ["aple", "pear"]) == "; did you mean 'aple'?"
    assert nearest("xyz", ["aple", "pear"]) == ""


# --- files


def test_a_file_is_read_as_toml(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('G = 2.0\n[train]\nsystems = ["figure_eight"]\n', encoding="utf-8")
    assert read_toml(path) == {"G": 2.0, "train": {"systems": ["figure_eight"]}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[train", "not valid TOML"),
        (b"epochs = 1\nepochs = 2\n", "not valid TOML"),
        (b"epochs = " + b"9" * 5000, "not valid TOML"),
        (b"x = " + b"[" * 100_000, "not valid TOML"),
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
        (b"x = " + b"[" * 17 + b"]" * 17, "nested more than 16 levels deep"),
        (b"epochs = 0x" + b"f" * 5000, "an integer of more than 64 bits"),
        (b"#" * (MAX_FILE + 1), "larger than 0.25 MiB"),
        (b"\n" + b"a." * 257 + b"a = 1", "line 2 has more than 256 points; break it into several"),
    ],
)
def test_what_is_not_toml_is_refused_with_the_file(tmp_path, content, complaint):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no\.toml: cannot read this configuration: No such file"):
        read_toml(tmp_path / "no.toml")
    with pytest.raises(InputError, match="cannot read this configuration: Is a directory"):
        read_toml(tmp_path)


def test_a_file_of_the_greatest_size_with_the_most_points_in_a_line_is_read(tmp_path):
    lines = b"x = [" + b"1.5," * 255 + b"0.5]\n#"
    (tmp_path / "a.toml").write_bytes(lines + b"#" * (MAX_FILE - len(lines)))
    assert len(read_toml(tmp_path / "a.toml")["x"]) == 256


# --- what memory cannot hold


@pytest.mark.parametrize(("key", "most"), [("history_len", 10_000), ("fourier_features", 65_536), ("softening", 1e150)])
def test_the_greatest_value_is_allowed_and_the_next_above_is_refused(key, most):
    options = {"policy": "criterion", "features": "basic"}
    if key != "fourier_features":  # so many are refused by the weights that they make
        assert getattr(train(options | {key: most}), key) == most
    above = most + 1 if isinstance(most, int) else most * 1.01
    assert refused(options | {key: above}).startswith(f"a.toml: {key} must be <= {most}, got ")


@pytest.mark.parametrize("key", ["systems", "hidden"])
def test_a_list_has_at_most_a_thousand_entries(key):
    entry = "pythagorean" if key == "systems" else 1
    assert len(getattr(train({key: [entry] * 1000}), key)) == 1000
    assert refused({key: [entry] * 1001}) == f"a.toml: {key} must have at most 1000 entries, got 1001"


def test_a_network_has_a_greatest_size():
    side = math.isqrt(MAX_WEIGHTS)
    train({"hidden": [side, side - 1]})
    message = refused({"hidden": [side, side + 1]})
    assert message.startswith(f"a.toml: the network must have at most {MAX_WEIGHTS} weights, got about ")
    assert "fourier_features = 60000" in refused({"features": "rich", "history_len": 100, "fourier_features": 60_000})
    train({"hidden": [side, side + 1], "policy": "criterion"})  # which has no network
