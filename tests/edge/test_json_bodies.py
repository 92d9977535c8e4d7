"""Bodies in JSON: every form that says the same bodies gives the same numbers, and no key is dropped without a word."""

import json

import pytest
import torch

from aits_func.edge.initial_condition_files import load_system
from aits_func.physics.known_orbits import KNOWN_ORBITS

MASS, POSITION, VELOCITY = [2.0, 1.0], [[-0.25, 0.0], [0.5, 0.0]], [[0.0, -0.4], [0.0, 0.8]]
LISTS = {"mass": MASS, "position": POSITION, "velocity": VELOCITY}
FIRST = {"mass": 2.0, "position": [-0.25, 0.0], "velocity": [0.0, -0.4]}
SECOND = {"mass": 1.0, "position": [0.5, 0.0], "velocity": [0.0, 0.8]}
FLAT = [
    {"m": 2.0, "x": -0.25, "y": 0, "vx": 0, "vy": -0.4},
    {"vy": 0.8, "vx": 0, "y": 0, "x": 0.5, "m": 1},
]
AXES = [
    {"mass": 2, "position": {"x": -0.25, "y": 0}, "velocity": {"vx": 0, "vy": -0.4}},
    {"mass": 1, "position": {"y": 0, "x": 0.5}, "velocity": {"x": 0, "y": 0.8}},
]


def load(tmp_path, content, encoding="utf-8"):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "a.json").write_bytes(text.encode(encoding))
    return load_system(tmp_path / "a.json")


def refused(tmp_path, content):
    with pytest.raises(ValueError, match=r".") as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("load_system: ")
    return message


def assert_is_the_binary(loaded):
    system = loaded.system
    assert system.mass.tolist() == MASS
    assert system.position.tolist() == POSITION
    assert system.velocity.tolist() == VELOCITY


READ = {
    "lists": LISTS,
    "lists by short names": {"m": MASS, "r": POSITION, "v": VELOCITY},
    "lists by other names": {"masses": MASS, "positions": POSITION, "velocities": VELOCITY},
    "lists by letters alone": {"m": MASS, "x": POSITION, "v": VELOCITY},
    "capitals": {"Mass": MASS, "Position": POSITION, "Velocity": VELOCITY},
    "a list per axis": {"m": MASS, "x": [-0.25, 0.5], "y": [0, 0], "vx": [0, 0], "vy": [-0.4, 0.8]},
    "bodies": {"bodies": [FIRST, SECOND]},
    "particles": {"particles": [FIRST, SECOND]},
    "bodies alone": [FIRST, SECOND],
    "bodies by their names": {"bodies": {"Sun": FIRST, "Earth": SECOND}},
    "bodies of numbers": {"bodies": FLAT},
    "bodies of numbers alone": FLAT,
    "bodies of axes": {"bodies": AXES},
    "bodies with units": [
        {"m (kg)": 2, "x [m]": -0.25, "y [m]": 0, "vx [m/s]": 0, "vy [m/s]": -0.4},
        {"m (kg)": 1, "x [m]": 0.5, "y [m]": 0, "vx [m/s]": 0, "vy [m/s]": 0.8},
    ],
    "words that describe": LISTS | {"name": ["a", "b"], "description": "a binary", "source": "mine", "note": None},
    "bodies with names": {"bodies": [FIRST | {"name": "a"}, SECOND | {"name": "b", "id": 2}]},
    "constants that are not known": LISTS | {"G": None, "softening": None, "time": None, "units": None},
}


@pytest.mark.parametrize("name", READ)
def test_every_form_of_the_same_bodies_gives_the_same_numbers(tmp_path, name):
    loaded = load(tmp_path, READ[name])
    assert_is_the_binary(loaded)
    assert (loaded.G, loaded.period, loaded.softening, loaded.notes) == (None, None, None, ())
    assert float(loaded.system.time) == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_that_says_which_it_is_is_read(tmp_path, encoding):
    assert_is_the_binary(load(tmp_path, json.dumps(LISTS), encoding))


@pytest.mark.parametrize("form", [LISTS, {"bodies": FLAT}])
def test_constants_units_and_the_time_are_used(tmp_path, form):
    stated = {"G": 39.5, "period": 6, "softening": 0.5, "time": -10.0, "units": {"length": "AU", "mass": "Msun"}}
    for names in (
        stated,
        {{"softening": "eps", "time": "t", "G": "g"}.get(key, key.upper()): value for key, value in stated.items()},
        {"gravitational constant": 39.5, "period": 6, "softening_length": 0.5, "start time": -10.0}
        | {"units": "length in AU, mass in Msun"},
    ):
        loaded = load(tmp_path, names | form)
        assert_is_the_binary(loaded)
        assert loaded[1:] == (39.5, 6.0, 0.5, "length in AU, mass in Msun", ())
        assert float(loaded.system.time) == -10


def test_a_time_and_a_softening_of_all_bodies_are_used(tmp_path):
    loaded = load(tmp_path, [body | {"t": 4, "eps": 0.5} for body in FLAT])
    assert_is_the_binary(loaded)
    assert (float(loaded.system.time), loaded.softening) == (4.0, 0.5)


def test_keys_that_are_not_known_are_named(tmp_path):
    loaded = load(tmp_path, LISTS | {"energy": -1.0, "charge": [1, 2], "name": {"a": 1}})
    assert_is_the_binary(loaded)
    assert loaded.notes == ("not read: 'energy', 'charge', 'name'",)
    loaded = load(tmp_path, {"tracers": [], "bodies": [FIRST | {"radius": 1, "r": 2}, SECOND | {"spin": 0}]})
    assert_is_the_binary(loaded)
    assert loaded.notes == ("not read: 'tracers', 'radius of the bodies', 'r of the bodies', 'spin of the bodies'",)
    (note,) = load(tmp_path, LISTS | {f"key {number}": number for number in range(100)}).notes
    assert note.endswith("'key 7' and 92 more")


def test_three_dimensions_are_read_in_every_form(tmp_path):
    orbit = KNOWN_ORBITS["outer_solar_system"]
    x, v = zip(*orbit.position, strict=True), zip(*orbit.velocity, strict=True)
    axes = dict(zip(("x", "y", "z", "vx", "vy", "vz"), (*x, *v), strict=True))
    bodies = [
        dict(zip(("m", *axes), (m, *p, *q), strict=True))
        for m, p, q in zip(orbit.mass, orbit.position, orbit.velocity, strict=True)
    ]
    for content in ({"m": orbit.mass, **axes}, bodies):
        system = load(tmp_path, content).system
        for got, want in (
            (system.mass, orbit.mass),
            (system.position, orbit.position),
            (system.velocity, orbit.velocity),
        ):
            assert torch.equal(got, torch.tensor(want, dtype=torch.float64))


REFUSED = {
    # name: (content, what the message must say)
    "rows alone": ([[2, -0.25, 0, 0, -0.4], [1, 0.5, 0, 0, 0.8]], "or a list of bodies"),
    "no bodies": ({"bodies": []}, "a body names no m"),
    "bodies that are rows": ({"bodies": [[2, 0, 0, 0, 1]]}, "bodies[0] must be an object"),
    "bodies that are a number": ({"bodies": 2}, "bodies must be a list"),
    "a body without a velocity": ({"bodies": [FLAT[0], {"m": 1, "x": 0.5, "y": 0, "vx": 0}]}, "bodies[1] has no vy"),
    "bodies without velocities": ([{"m": 1, "x": 0, "y": 0}, {"m": 1, "x": 1, "y": 0}], "names no vx and no vy"),
    "bodies without masses": ([{k: v for k, v in body.items() if k != "m"} for body in FLAT], "a body names no m"),
    "bodies of two and three dimensions": ([FLAT[0], FLAT[1] | {"z": 0, "vz": 0}], "bodies[0] has no z and no vz"),
    "a third place without a velocity": ([body | {"z": 0} for body in FLAT], "names no vz"),
    "a mass twice": ([FLAT[0] | {"mass": 3}, FLAT[1]], "bodies[0].mass says m again"),
    "a place twice": ([FIRST | {"x": 3}, SECOND], "bodies[0].x says x again"),
    "a place of one number": ([FIRST | {"position": [1]}, SECOND], "must have 2 or 3 numbers, got 1"),
    "a place of words": ([FIRST | {"position": ["1", "2"]}, SECOND], "bodies[0].position[0] must be a number"),
    "a place of angles": ([FIRST | {"position": {"r": 1, "phi": 0}}, SECOND], "has the key 'r'"),
    "a mass of words": ([FIRST | {"mass": "2"}, SECOND], "bodies[0].mass must be a number, got a string"),
    "times of several bodies": ([FLAT[0] | {"t": 0}, FLAT[1] | {"t": 1}], "its column time goes from 0.0 to 1.0"),
    "several softening lengths": ([FLAT[0] | {"eps": 0}, FLAT[1] | {"eps": 1}], "its column softening goes from 0.0"),
    "bodies and lists": ({"bodies": FLAT, "mass": MASS}, "has a list of bodies and mass besides; keep one"),
    "masses twice": (LISTS | {"m": MASS}, "has 'mass' and 'm' for the same thing"),
    "places twice": (LISTS | {"x": [0, 1], "y": [0, 1]}, "has 'position' and 'x' for the same thing"),
    "a list per axis, one missing": ({"m": MASS, "x": [0, 1], "vx": [0, 0], "vy": [1, 1]}, "has 'x' and no y"),
    "a list per axis, one shorter": (
        {"m": MASS, "x": [0, 1], "y": [0], "vx": [0, 0], "vy": [1, 1]},
        "the lists x, y differ in length",
    ),
    "one key twice": ('{"mass": [9, 9], ' + json.dumps(LISTS)[1:], "has the key 'mass' twice; keep one"),
    "one constant by two names": (LISTS | {"eps": 0.1, "softening": 0.2}, "says softening twice"),
    "two times": ({"time": 1, "bodies": [body | {"t": 2} for body in FLAT]}, "says time = 2, and time = 1 as well"),
    "decimal commas": (
        '{"mass": [2, 1], "position": [[-0,25, 0], [0,5, 0]], "velocity": [[0, -0,4], [0, 0,8]]}',
        "write a point for a decimal comma",
    ),
    "comments": ('{"mass": [2, 1], // masses\n' + json.dumps(LISTS)[1:], "without comments"),
    "a body per line": ("\n".join(map(json.dumps, FLAT)), "write one object, or one list of bodies"),
    "a number that vanishes": (json.dumps(LISTS).replace("0.5", "1e-400"), "smaller than any double"),
    "several systems": ([LISTS, LISTS], "bodies[0].mass must be a number, got a list"),
    "a softening below 0": (LISTS | {"softening": -0.1}, "softening must be >= 0 and finite, got -0.1"),
    "a softening of words": (LISTS | {"softening": "plummer"}, "softening must be a number, got a string"),
    "softening lengths": (LISTS | {"softening": [0.1, 0.1]}, "softening must be a number, got a list"),
    "a time of words": (LISTS | {"time": "2000-01-01"}, "time must be a number, got a string"),
    "no time": (LISTS | {"time": float("inf")}, "time must be finite, got inf"),
    "units that are numbers": (LISTS | {"units": {"length": 1.5e11}}, "units must be words, or an object of words"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_said_once_and_clearly_is_refused(tmp_path, name):
    content, words = REFUSED[name]
    assert words in refused(tmp_path, content)
