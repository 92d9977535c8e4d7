"""What the ``systems`` key stands for: names, files and generators, each mistake named with the nearest right word."""

import json
import math

import pytest
import torch

import aits_func as af
from aits_func.base.rng import fold_in
from aits_func.edge.assemble import build_physics
from aits_func.edge.config import InputError, SimulateConfig, TrainConfig, build_config
from aits_func.edge.initial_condition_files import save_system
from aits_func.edge.systems import GENERATORS, array_name, group_by_shape, load_systems
from aits_func.physics.integrators import build_integrator
from aits_func.physics.known_orbits import KNOWN_ORBITS, known_orbit
from aits_func.physics.orbits import two_body_orbit
from aits_func.timestep.policy import build_criterion_policy

PYTHAGOREAN = KNOWN_ORBITS["pythagorean"]


def load(*systems, **keys):
    config = build_config(TrainConfig, {"train": keys | {"systems": list(systems)}}, {}, where="a.toml")
    return load_systems(config, build_physics(config, "a.toml"), "a.toml")


def refused(*systems, **keys):
    with pytest.raises(ValueError, match=r".") as caught:
        load(*systems, **keys)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same(system, other):
    return all(torch.equal(a, b) for a, b in zip(system, other, strict=True))


# --- names


@pytest.mark.parametrize("name", sorted(KNOWN_ORBITS))
def test_every_packaged_orbit_is_a_batch_of_one_with_its_period(name):
    orbit = KNOWN_ORBITS[name]
    (item,) = load(name, G=orbit.G)
    assert item.label == name
    assert same((leaf[0] for leaf in item.systems), known_orbit(name))
    if orbit.period is not None:
        assert item.period.tolist() == [orbit.period]
    elif len(orbit.mass) > 2:
        assert item.period.tolist() == [math.inf]
    assert item.t_end.isnan().all()


def test_a_name_may_stand_in_a_table_with_a_label_and_an_end():
    (item,) = load({"name": "pythagorean", "label": "3, 4, 5", "t_end": 7})
    assert (item.label, item.t_end.tolist()) == ("3, 4, 5", [7.0])
    assert item.systems.mass.tolist() == [list(PYTHAGOREAN.mass)]


@pytest.mark.parametrize(
    ("word", "near"), [("pythagorian", "pythagorean"), ("Figure_Eight", "figure_eight"), ("binary", "binaries")]
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_there_are(word, near):
    message = refused(word)
    assert message.endswith(f"did you mean {near!r}?")
    assert all(name in message for name in (*KNOWN_ORBITS, ".npy", ".txt", ".json"))


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_a_generator_by_its_name_alone_is_told_to_be_a_table(kind):
    message = refused(kind)
    assert f'which needs a table in a configuration file: systems = [{{ kind = "{kind}", count = 32 }}]' in message
    load({"kind": kind, "count": 2})


def test_a_name_like_no_other_is_refused_without_a_guess():
    assert "did you mean" not in refused("qqqq")


@pytest.mark.parametrize("entry", [{}, {"label": "x"}, {"name": "pythagorean", "count": 3}])
def test_a_table_that_says_neither_name_nor_kind_is_refused(entry):
    assert "must be a packaged orbit, a file, or a table with a kind" in refused(entry)


# --- generators


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_a_generator_is_called_with_its_own_arguments(kind):
    (item,) = load({"kind": kind, "count": 3, "seed": 5})
    assert item.label == kind
    assert same(item.systems, GENERATORS[kind](5, 3))


def test_a_list_in_the_file_is_a_range():
    (item,) = load({"kind": "binaries", "count": 3, "seed": 5, "eccentricity": [0.25, 0.25]})
    assert same(item.systems, GENERATORS["binaries"](5, 3, eccentricity=(0.25, 0.25)))


def test_without_a_seed_every_entry_draws_its_own_from_the_key_of_the_run():
    first, second = load({"kind": "binaries"}, {"kind": "binaries"}, seed=3)
    assert same(first.systems, GENERATORS["binaries"](fold_in(3, "systems", 0), 32))
    assert same(second.systems, GENERATORS["binaries"](fold_in(3, "systems", 1), 32))
    assert not same(first.systems, second.systems)


def test_generators_are_given_the_g_of_the_run():
    (item,) = load({"kind": "binaries", "count": 2, "seed": 5}, G=39.5)
    assert same(item.systems, GENERATORS["binaries"](5, 2, G=39.5))


def test_binaries_come_with_their_kepler_periods_and_triples_without():
    two, three = load({"kind": "binaries", "count": 2, "semi_major_axis": [1.5, 1.5]}, {"kind": "free_fall_triple"})
    # a is recovered from r and v, which carry rounding errors of a few 1e-16 each.
    assert two.period.tolist() == pytest.approx([2 * math.pi * math.sqrt(1.5**3 / 2)] * 2, rel=1e-13)
    assert bool((three.period == math.inf).all())


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"kind": "binary"}, "got 'binary'; did you mean 'binaries'?"),
        ({"kind": "freefall_triple"}, "did you mean 'free_fall_triple'?"),
        ({"kind": ["binaries"]}, "kind of systems must be one of binaries, "),
        ({"kind": "binaries", "eccentricty": [0.1, 0.2]}, "not 'eccentricty'; did you mean 'eccentricity'?"),
        ({"kind": "binaries", "name": "x"}, "take seed, count, eccentricity"),
        ({"kind": "binaries", "eccentricity": [0.5, 1.0]}, "eccentricity must be a pair"),
        ({"kind": "binaries", "eccentricity": 0.5}, "eccentricity must be a pair"),
        ({"kind": "binaries", "count": 0}, "count must be a whole number >= 1"),
        ({"kind": "binaries", "count": 10**12}, "systems of kind 'binaries': "),
        ({"kind": "gaussian_cluster", "bodies": 1}, "bodies must be a whole number >= 2, got 1"),
        ({"kind": "gaussian_cluster", "dimensions": 4}, "dimensions must be 2 or 3, got 4"),
        ({"kind": "gaussian_cluster", "seed": "abc"}, "systems of kind 'gaussian_cluster'"),
        ({"kind": "binaries", "label": 3}, "label of an entry of systems must be a string, got 3"),
        ({"kind": "binaries", "label": "a\nb"}, r"at most 200 printable characters, got 'a\nb'"),
        ({"kind": "binaries", "label": "\x1b[2J"}, r"at most 200 printable characters, got '\x1b[2J'"),
        ({"name": "pythagorean", "label": "nul\0"}, r"at most 200 printable characters, got 'nul\x00'"),
        ({"name": "pythagorean", "label": "x" * 201}, "at most 200 printable characters, got 'xxx"),
        ({"kind": "binaries", "count": 2**21 + 1}, "count = 2097153 of bodies = 3 are more than memory may hold"),
        ({"kind": "gaussian_cluster", "count": 300, "bodies": 500}, "count = 300 of bodies = 500 are more than"),
    ],
)
def test_a_mistake_in_a_generator_s_entry_is_named_with_the_file(entry, complaint):
    message = refused(entry)
    assert message.startswith("a.toml: ")
    assert complaint in message


@pytest.mark.parametrize("t_end", [0, -1.0, math.nan, math.inf, "soon", True])
def test_the_end_of_an_entry_must_be_a_positive_number(t_end):
    assert "t_end of an entry of systems must be a number > 0 and finite" in refused(
        {"name": "pythagorean", "t_end": t_end}
    )


# --- files


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".json", ".TXT"])
def test_a_file_is_a_batch_of_one_to_the_bit(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_system(path, known_orbit("pythagorean"))
    (item,) = load(str(path))
    assert item.label == str(path)
    assert array_name(item.label).isprintable()
    assert same((leaf[0] for leaf in item.systems), known_orbit("pythagorean"))


def test_a_file_s_own_period_is_used_and_a_binary_s_is_computed(tmp_path):
    binary = two_body_orbit(mass=[1.0, 1.0], semi_major_axis=2.0, eccentricity=0.5)
    save_system(tmp_path / "a.json", known_orbit("pythagorean"), period=6.5)
    save_system(tmp_path / "b.json", binary)
    told, computed = load(str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert told.period.tolist() == [6.5]
    # As above: a few rounding errors between the elements and the period.
    assert computed.period.item() == pytest.approx(4 * math.pi, rel=1e-13)


def write_json(path, **more):
    rows = {"mass": [1, 1], "position": [[-0.5, 0], [0.5, 0]], "velocity": [[0, -0.5], [0, 0.5]]}
    path.write_text(json.dumps(rows | more))
    return str(path)


def test_a_file_may_have_a_label_an_end_and_a_seed_which_draws_nothing(tmp_path):
    path = write_json(tmp_path / "a.json", G=1)
    entry = {"name": path, "label": "mine", "t_end": 7, "seed": 3}
    (item,) = load(entry)
    assert (item.label, item.t_end.tolist(), item.notes) == ("mine", [7.0], ())
    assert same(item.systems, load(path)[0].systems)
    for seed in (-1, 0.5, "x", True):
        assert "seed of an entry of systems must be a whole number >= 0" in refused(entry | {"seed": seed})


def test_the_softening_of_a_file_is_the_run_s_or_it_is_refused(tmp_path):
    path = write_json(tmp_path / "a.json", G=1, softening=0.5)
    assert refused(path).endswith("has softening = 0.5, the run has softening = 0.0; set softening = 0.5")
    assert refused(path, softening=0.1).endswith("the run has softening = 0.1; set softening = 0.5")
    assert load(path, softening=0.5)[0].notes == ()
    hard = write_json(tmp_path / "b.json", G=1, softening=0)
    assert refused(hard, softening=0.1).endswith(
        "has softening = 0.0, the run has softening = 0.1; set softening = 0.0"
    )
    (tmp_path / "c.txt").write_text("# G = 1, eps = 0.5\n1 0 0 0 0\n1 1 0 0 1\n")
    assert "set softening = 0.5" in refused(str(tmp_path / "c.txt"))


def test_a_file_starts_at_its_time_and_moves_as_it_is_softened(tmp_path):
    (item,) = load(write_json(tmp_path / "a.json", G=1, softening=0.5, time=10), softening=0.5)
    assert item.systems.time.tolist() == [10.0]
    gravity = af.build_gravity(G=1.0, softening=0.5)
    policy = build_criterion_policy(af.constant(dt=0.02))
    integrator = build_integrator("yoshida8", gravity)
    end, _ = af.simulate(policy.init(0), item.systems, policy=policy, gravity=gravity, scheme=integrator, t_end=12.0)
    # REBOUND's IAS15 after a time of 2 with a softening of 0.5, printed to five digits; unsoftened (-0.41119, 0.19619).
    assert end.position[0, 0].tolist() == pytest.approx([0.37038, -0.00932], abs=5e-6)
    assert end.time.tolist() == [12.0]


def test_a_file_that_says_no_g_is_told_which_one_is_assumed(tmp_path):
    path = write_json(tmp_path / "a.json")
    assert load(path)[0].notes == (
        f"{path}: says no G; G = 1 is assumed: set G if it has another in its units, or write G into the file",
    )
    assert "says no G; G = 4.5 is assumed" in load(path, G=4.5)[0].notes[0]
    save_system(tmp_path / "a.npy", known_orbit("pythagorean"))
    assert load(str(tmp_path / "a.npy"))[0].notes[0].endswith("or save it as .txt or .json with a G")
    for known in (write_json(tmp_path / "b.json", G=1), "pythagorean", {"kind": "binaries", "count": 1}):
        assert load(known)[0].notes == ()


def test_units_that_are_named_want_their_g(tmp_path):
    path = write_json(tmp_path / "a.json", units="AU, yr, Msun")
    assert refused(path).endswith(
        f"{path} says units (AU, yr, Msun) and no G; write G into the file, or set G to its value in these units"
    )
    assert "says no G (its units: AU, yr, Msun); G = 39.5 is assumed" in load(path, G=39.5)[0].notes[0]
    assert load(write_json(tmp_path / "b.json", units="AU, yr, Msun", G=39.5), G=39.5)[0].notes == ()
    (tmp_path / "c.txt").write_text("# m x[au] y[au] vx vy\n1 0 0 0 0\n1 1 0 0 1\n")
    assert "says units (position in au) and no G" in refused(str(tmp_path / "c.txt"))


def test_a_file_without_g_that_is_unbound_at_once_is_told_so(tmp_path):
    # Sun and Earth in AU, years and solar masses: G = 39.5; with G = 1 the speed of 6.28 is far above the escape speed.
    rows = "1 0 0 0 0\n3e-6 1 0 0 6.283\n"
    (tmp_path / "a.txt").write_text(rows)
    path = str(tmp_path / "a.txt")
    assumed, unbound = load(path)[0].notes
    assert "G = 1 is assumed" in assumed
    assert unbound.startswith(f"{path} is unbound from its start with G = 1, which its file does not say: set G to")
    assert len(load(path, G=39.5)[0].notes) == 1
    (tmp_path / "b.txt").write_text("# G = 1\n" + rows)
    assert load(str(tmp_path / "b.txt"))[0].notes == ()  # it says so itself
    (tmp_path / "c.txt").write_text("1 0 0 100 0\n1 1 0 100 0.1\n")
    assert len(load(str(tmp_path / "c.txt"))[0].notes) == 1  # bound, in a frame that moves


def test_what_is_not_read_in_a_file_is_noted_with_its_name(tmp_path):
    path = write_json(tmp_path / "a.json", G=1, charge=[1, 2])
    assert load(path)[0].notes == (f"{path}: not read: 'charge'",)


def test_coincident_bodies_are_refused_without_softening_and_allowed_with_it(tmp_path):
    rows = {"mass": [1, 1, 1], "position": [[0, 0], [0, 0], [1, 0]], "velocity": [[0, 1], [0, -1], [0, 0]]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    assert "bodies 0 and 1 are at the same place" in refused(str(path))
    (item,) = load(str(path), softening=0.1)
    assert item.systems.mass.shape == (1, 3)


def test_what_the_dtype_of_the_run_cannot_hold_is_refused(tmp_path):
    rows = {"mass": [1, 1], "position": [[0, 0], [1, 0]], "velocity": [[0, 1e39], [0, 0]]}
    (tmp_path / "large.json").write_text(json.dumps(rows))
    rows["velocity"], rows["position"] = [[0, 1], [0, 0]], [[1, 0], [1 + 1e-9, 0]]
    (tmp_path / "close.json").write_text(json.dumps(rows))
    for name, complaint in (("large.json", "too large for torch.float32"), ("close.json", "at the same place")):
        assert complaint in refused(str(tmp_path / name), dtype="float32")
        load(str(tmp_path / name))


# --- units, energy, field


def test_systems_in_units_with_another_g_are_refused_with_the_right_one(tmp_path):
    path = tmp_path / "a.json"
    save_system(path, known_orbit("pythagorean"), G=4.0)
    for name in (str(path), {"kind": "binaries", "G": 4.0}):
        assert "is in units with G = 4.0, the run has G = 1.0; set G = 4.0" in refused(name)
        load(name, G=4)
    other = next(orbit for orbit in KNOWN_ORBITS.values() if orbit.G != 1)
    assert f"set G = {other.G}" in refused(other.name)
    assert "set G = 1.0" in refused("pythagorean", G=2.0)


def test_a_system_without_energy_is_refused_unless_the_scale_is_kinetic(tmp_path):
    # Two unit masses 1 apart with ½ (1² + 1²) = 1 = G m m / r: parabolic, exactly so in binary.
    rows = {"mass": [1, 1], "position": [[0, 0], [1, 0]], "velocity": [[0, 1], [0, -1]]}
    path = tmp_path / "parabola.json"
    path.write_text(json.dumps(rows))
    message = refused("pythagorean", str(path))
    assert f"{path}: system 0 has total energy 0" in message
    assert 'set energy_scale = "kinetic"' in message
    assert len(load("pythagorean", str(path), energy_scale="kinetic")) == 2


def test_a_field_of_another_dimension_is_refused():
    field = {"mass": 1.0, "position": [9.0, 0.0, 0.0]}
    assert "field position has 3 numbers, but pythagorean (N = 3) has D = 2" in refused("pythagorean", field=field)
    load({"kind": "binaries", "dimensions": 3}, field=field)


# --- what comes out


def test_everything_has_the_dtype_of_the_run():
    for item in load("pythagorean", {"kind": "binaries", "t_end": 2.0}, dtype="float32"):
        for leaf in (*item.systems, item.period, item.t_end):
            assert leaf.dtype == torch.float32


def test_every_set_has_a_label_of_its_own():
    entry = {"kind": "binaries", "count": 1}
    items = load(entry, entry, {**entry, "label": "binaries 2"}, {**entry, "label": "binaries_3"}, entry)
    labels = [item.label for item in items]
    assert labels[:2] == ["binaries", "binaries 2"]
    assert len({array_name(label) for label in labels}) == 5


def test_systems_of_one_shape_are_joined_in_the_order_they_came():
    items = load({"kind": "binaries", "count": 2}, "pythagorean", {"kind": "binaries", "count": 3, "t_end": 2.0})
    two, three = group_by_shape(items)
    assert (two.label, three.label) == ("binaries + binaries 2", "pythagorean")
    assert torch.equal(two.systems.position, torch.cat([items[0].systems.position, items[2].systems.position]))
    assert torch.equal(two.period, torch.cat([items[0].period, items[2].period]))
    assert two.t_end.isnan().tolist() == [True, True, False, False, False]
    assert same(three.systems, items[1].systems)


def test_a_simulation_draws_other_systems_than_the_training_unless_both_name_a_seed():
    for entry, equal in (
        ({"kind": "binaries", "count": 2}, False),
        ({"kind": "binaries", "count": 2, "seed": 3}, True),
    ):
        config = build_config(SimulateConfig, {"simulate": {"systems": [entry]}}, {}, where="a.toml")
        (item,) = load_systems(config, build_physics(config, "a.toml"), "a.toml")
        assert same(item.systems, load(entry)[0].systems) == equal


def test_the_error_of_a_bad_entry_is_an_input_error():
    with pytest.raises(InputError):
        load("qqqq")


def test_the_label_of_a_file_is_printable_whatever_it_is_called(tmp_path):
    path = tmp_path / "two\nlines\x1b[2J.txt"
    save_system(path, known_orbit("pythagorean"))
    assert load(str(path))[0].label == f"{tmp_path}/two\\nlines\\x1b[2J.txt"


def test_a_label_of_the_greatest_length_with_any_printable_character_is_taken():
    label = "../η [red] $x$ ".ljust(200, ".")
    assert load({"name": "pythagorean", "label": label})[0].label == label
    assert "/" not in array_name(label)
