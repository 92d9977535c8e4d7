"""Files of initial conditions: round trips to the bit, constants kept, and every bad file named in one line."""

import io
import json
import os
import pickle
import re
import sys
import tracemalloc

import pytest
import torch

from aits_func.base.check import make_system
from aits_func.base.tree import take
from aits_func.edge import initial_condition_files as files
from aits_func.edge.initial_condition_files import LoadedSystem, load_system, save_system
from aits_func.physics.initial_conditions import gaussian_cluster
from aits_func.physics.known_orbits import KNOWN_ORBITS, known_orbit

np = pytest.importorskip("numpy")

SUFFIXES = (".npy", ".txt", ".json")
GOOD = {"mass": [1, 2.5], "position": [[0, 0], [1.0, 0]], "velocity": [[0, 1], [0, -1]]}
ROWS = [[1.0, 0.0, 0.0, 0.0, 1.0], [2.5, 1.0, 0.0, 0.0, -1.0]]


def array_bytes(value, **kwargs):
    buffer = io.BytesIO()
    np.save(buffer, value, **kwargs)
    return buffer.getvalue()


def header_bytes(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archive_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, rows=np.array(ROWS))
    return buffer.getvalue()


def changed(**fields):
    return json.dumps(GOOD | fields).encode()


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_is_saved_is_loaded_to_the_bit(tmp_path, suffix, dimensions):
    system = take(gaussian_cluster(3, 1, bodies=5, dimensions=dimensions, mass_range=(0.1, 2.0)), 0)
    save_system(tmp_path / f"a{suffix}", system)
    loaded = load_system(tmp_path / f"a{suffix}")
    assert isinstance(loaded, LoadedSystem)
    assert loaded[1:] == (None, None, None, "", ())
    for name, leaf in loaded.system._asdict().items():
        assert leaf.dtype == torch.float64
        assert torch.equal(leaf, getattr(system, name)), name


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_single_precision_survives_the_way_through_a_file(tmp_path, suffix):
    system = known_orbit("moth_1")
    single = system._replace(**{name: leaf.float() for name, leaf in system._asdict().items()})
    save_system(tmp_path / f"a{suffix}", single)
    loaded = load_system(tmp_path / f"a{suffix}", dtype=torch.float32).system
    assert loaded.velocity.dtype == torch.float32
    assert torch.equal(loaded.velocity, single.velocity)


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_constants_and_the_time_are_kept(tmp_path, suffix):
    orbit = KNOWN_ORBITS["outer_solar_system"]
    system = known_orbit(orbit.name)._replace(time=torch.tensor(-2448908.1, dtype=torch.float64))
    path = tmp_path / f"sun{suffix}"
    save_system(path, system, G=orbit.G, period=3.5, softening=1e-3)
    loaded = load_system(path)
    assert loaded[1:] == (orbit.G, 3.5, 1e-3, "", ())
    for name, leaf in loaded.system._asdict().items():
        assert torch.equal(leaf, getattr(system, name)), name


def test_what_is_saved_starts_with_no_work_done(tmp_path):
    system = known_orbit("figure_eight")._replace(work=torch.tensor(0.5, dtype=torch.float64))
    save_system(tmp_path / "a.json", system)
    assert float(load_system(tmp_path / "a.json").system.work) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("bodies", [5, 7])
def test_bodies_that_a_reader_could_take_for_others_survive_the_way_through_a_file(
    tmp_path, suffix, dimensions, bodies
):
    # All numbers positive, so that rows and columns change places without notice; and masses that count.
    draw = torch.Generator().manual_seed(bodies)
    position, velocity = torch.rand(2, bodies, dimensions, generator=draw, dtype=torch.float64)
    for mass in (torch.rand(bodies, generator=draw, dtype=torch.float64), torch.arange(bodies).double()):
        system = make_system(mass, position, velocity)
        save_system(tmp_path / f"a{suffix}", system)
        for name, leaf in load_system(tmp_path / f"a{suffix}").system._asdict().items():
            assert torch.equal(leaf, getattr(system, name)), name


@pytest.mark.parametrize("dtype", ["int16", ">f8", "float32", "longdouble", "uint8"])
def test_arrays_of_any_number_type_and_order_are_read(tmp_path, dtype):
    rows = np.abs(np.asfortranarray(np.array(ROWS[:2]))).astype(dtype)
    (tmp_path / "a.npy").write_bytes(array_bytes(rows))
    assert load_system(str(tmp_path / "a.npy")).system.mass.tolist() == rows[:, 0].astype(float).tolist()


BAD = {
    # name: (file name, contents, what the message must say)
    "empty array file": ("a.npy", b"", "is empty"),
    "empty text file": ("a.txt", b"", "is empty"),
    "empty JSON file": ("a.json", b"", "is empty"),
    "array cut off": ("a.npy", array_bytes(np.array(ROWS))[:-8], "cut off"),
    "array cut off in its header": ("a.npy", array_bytes(np.array(ROWS))[:20], "cut off"),
    "array that claims a petabyte": ("a.npy", header_bytes((25 * 10**12, 5)) + b"1234", "cut off"),
    "array that claims 4 GB": ("a.npy", header_bytes((10**8, 5)) + b"1234", "cut off"),
    "array that claims less than nothing": ("a.npy", header_bytes((-2, 5)) + b"1234", "damaged"),
    "header of brackets": ("a.npy", b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000, "damaged"),
    "header of garbage": ("a.npy", b"\x93NUMPY" + bytes(range(256)) * 4, "damaged"),
    "array with an appendix": ("a.npy", array_bytes(np.array(ROWS)) + b"x", "goes on after the array"),
    "object array": ("a.npy", array_bytes(np.array([[Bomb()] * 5] * 2), allow_pickle=True), "holds objects"),
    "pickle in disguise": ("a.npy", pickle.dumps(Bomb()), "not a NumPy array"),
    "archive in disguise": ("a.npy", archive_bytes(), "not a NumPy array"),
    "text in disguise": ("a.npy", b"1 0 0 0 1\n2 1 0 0 1\n", "not a NumPy array"),
    "array of words": ("a.npy", array_bytes(np.array([["a"] * 5] * 2)), "must hold numbers"),
    "array of truths": ("a.npy", array_bytes(np.ones((2, 5), dtype=bool)), "must hold numbers"),
    "complex array": ("a.npy", array_bytes(np.ones((2, 5), dtype=complex)), "must hold numbers"),
    "record array": ("a.npy", array_bytes(np.zeros(2, dtype=[("m", float)])), "names no x and no y"),
    "flat array": ("a.npy", array_bytes(np.ones(5)), "shape"),
    "number alone": ("a.npy", array_bytes(np.array(1.0)), "shape"),
    "batch of arrays": ("a.npy", array_bytes(np.ones((3, 2, 5))), "shape"),
    "array of no rows": ("a.npy", array_bytes(np.ones((0, 5))), "shape"),
    "array of six columns": ("a.npy", array_bytes(np.ones((2, 6))), "5 columns"),
    "array with NaN": ("a.npy", array_bytes(np.array([ROWS[0], [1, np.nan, 0, 0, 0]])), "position of body 1 is NaN"),
    "array beyond double": ("a.npy", array_bytes(np.array(ROWS, "longdouble") * np.longdouble("1e400")), "infinite"),
    "text of six columns": ("a.txt", b"1 2 3 4 5 6\n1 2 3 4 5 6", "line 1 has 6 columns"),
    "text of many columns": ("a.txt", b"1 " * 1000, "more than 64 columns"),
    "ragged text": ("a.txt", b"1 0 0 0 1\n1 0 0 1 0 0 1\n", "line 2 has 7 columns and the first row 5"),
    "text with a hole": ("a.txt", b"1,,0,0,1\n2,1,0,0,1\n", "line 1 has what is no number"),
    "text with words": ("a.txt", b"two bodies here\n1 0 0 0 1\n2 1 0 0 1", "line 1 has what is no number"),
    "text of comments": ("a.txt", b"# nothing\n\n", "has no rows"),
    "text with NaN": ("a.txt", b"1 0 0 0 1\nnan 1 0 0 1", "mass of body 1 is NaN"),
    "text with infinity": ("a.txt", b"1 0 0 0 1\n1 1 0 0 1e999", "velocity of body 1 is NaN or infinite"),
    "binary text": ("a.txt", bytes(range(256)), "is not UTF-8 text"),
    "text of null characters": ("a.txt", b"\0" * 100, "null characters"),
    "one body": ("a.txt", b"1 0 0 0 1", "2 to 4096 bodies"),
    "too many bodies in text": ("a.txt", b"1 0 0 0 1\n" * 4097, "holds more than 4096 bodies"),
    "too many small bodies": ("a.npy", array_bytes(np.ones((590_000, 7), dtype="int8")), "2 to 4096 bodies"),
    "impossible shape": ("a.npy", header_bytes((2**63, 5)) + b"1234", "damaged"),
    "too many bodies": ("a.npy", array_bytes(np.ones((5000, 5))), "2 to 4096 bodies"),
    "negative mass": ("a.txt", b"-1 0 0 0 1\n2 1 0 0 1", "mass must be >= 0"),
    "no mass at all": ("a.txt", b"0 0 0 0 1\n0 1 0 0 1", "at least one body must have mass"),
    "coincident bodies": ("a.txt", b"1 0 0 0 1\n2 0 0 0 1", "bodies 0 and 1 are at the same place"),
    "binary JSON": ("a.json", b"\xff\xff\x00\x01", "is not UTF-8 text"),
    "JSON cut off": ("a.json", changed()[:-5], "not valid JSON"),
    "words": ("a.json", b"hello", "not valid JSON"),
    "JSON nested deep": ("a.json", b"[" * 200_000, "nested too deeply"),
    "JSON nested deep in another key": (
        "a.json",
        changed()[:-1] + b', "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "nested too deeply",
    ),
    "list in JSON": ("a.json", json.dumps(ROWS).encode(), "must hold an object"),
    "null in JSON": ("a.json", b"null", "must hold an object"),
    "no velocity": ("a.json", b'{"mass": [1, 1], "position": [[0, 0], [1, 0]]}', "has no velocity"),
    "mass a number": ("a.json", changed(mass=1.0), "mass must be a list"),
    "mass of lists": ("a.json", changed(mass=[[1], [2]]), "mass[0] must be a number, got a list"),
    "mass of words": ("a.json", changed(mass=["1", "2"]), "mass[0] must be a number, got a string"),
    "mass of truths": ("a.json", changed(mass=[True, True]), "mass[0] must be a number"),
    "no masses": ("a.json", changed(mass=[], position=[], velocity=[]), "position must have one row"),
    "flat position": ("a.json", changed(position=[0, 1]), "position[0] must be a list"),
    "ragged position": ("a.json", changed(position=[[0, 0], [1, 0, 0]]), "position must have one row"),
    "more places than masses": ("a.json", changed(position=[[0, 0], [1, 0], [2, 0]]), "position must have one row"),
    "one dimension": ("a.json", changed(position=[[0], [1]], velocity=[[0], [0]]), "position must have one row"),
    "velocity of other dimension": ("a.json", changed(velocity=[[0, 0, 0], [1, 0, 0]]), "velocity must have one row"),
    "null in velocity": ("a.json", changed(velocity=[[0, None], [0, 0]]), "velocity[0][1] must be a number, got null"),
    "NaN in JSON": ("a.json", changed(mass=[float("nan"), 1.0]), "mass of body 0 is NaN"),
    "integer beyond double": ("a.json", changed(mass=[10**400, 1]), "mass of body 0 is NaN or infinite"),
    "integer of 5000 digits": ("a.json", changed().replace(b"2.5", b"9" * 5000), "not valid JSON"),
    "G of zero": ("a.json", changed(G=0), "G must be > 0"),
    "G a word": ("a.json", changed(G="1"), "G must be a number"),
    "G not a number": ("a.json", changed(G=float("nan")), "G must be > 0"),
    "negative period": ("a.json", changed(period=-1), "period must be > 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file, contents, words = BAD[name]
    (tmp_path / file).write_bytes(contents)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load_system(tmp_path / file)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(tmp_path))
    assert message.startswith(f"load_system: {str(tmp_path / file)!r}")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing.json", "no such file"),
        ("folder.npy", "is a directory"),
        ("pipe.txt", "is not a regular file"),
        ("closed.txt", "cannot be read"),
        ("under/closed.txt/x.txt", "cannot be found"),
        ("nul\0l.txt", "cannot be found"),
        ("x" * 300 + ".txt", "cannot be found"),
        ("two\nlines.txt", "no such file"),
        ("system.csv", "got '.csv'; tables of text are read as .txt: rename it"),
        ("run.npz", "got '.npz'; save the one array that is wanted with numpy.save"),
        ("system.xlsx", "suffix must be one of .npy, .txt, .json, got '.xlsx'; write it as one of them"),
        ("system", "suffix must be one of .npy, .txt, .json"),
        (".npy", "suffix must be one of .npy, .txt, .json"),
    ],
)
def test_a_path_that_leads_to_no_file_is_refused_in_one_line(tmp_path, path, words):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "under").mkdir()
    (tmp_path / "under" / "closed.txt").write_text("1")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "closed.txt").write_text("1 0 0 0 1\n")
    (tmp_path / "closed.txt").chmod(0)
    if path == "closed.txt" and os.access(tmp_path / path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load_system(tmp_path / path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_beyond_the_bound_is_refused_before_it_is_parsed(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    save_system(path, known_orbit("figure_eight"))
    monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size)
    load_system(path)
    monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(ValueError, match="is larger than"):
        load_system(path)


def test_random_damage_never_ends_in_anything_but_a_system_or_a_value_error(tmp_path):
    draw = torch.Generator().manual_seed(7)
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        save_system(path, known_orbit("pythagorean"))
        whole, messages = path.read_bytes(), []
        for _ in range(150):
            data = bytearray(whole)
            for place in torch.randint(len(data), (3,), generator=draw).tolist():
                data[place] = int(torch.randint(256, (), generator=draw))
            path.write_bytes(data)
            try:
                system = load_system(path).system
            except ValueError as error:
                messages.append(str(error))
            else:
                assert system.position.isfinite().all()
        assert messages, f"no damage to {path.suffix} was noticed, so this tests nothing"
        assert not any("\n" in message for message in messages)


def test_coincident_bodies_are_read_where_softening_parts_them(tmp_path):
    (tmp_path / "a.txt").write_bytes(BAD["coincident bodies"][1])
    assert load_system(tmp_path / "a.txt", softening=0.1).system.mass.tolist() == [1.0, 2.0]


def test_bodies_may_coincide_where_the_file_itself_softens_them(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"# softening = 0.1\n" + BAD["coincident bodies"][1])
    assert load_system(tmp_path / "a.txt").softening == 0.1


def test_a_mass_that_the_dtype_makes_nothing_of_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 0 0 0 1\n1e-60 1 0 0 1")
    assert load_system(tmp_path / "a.txt").system.mass[1] == 1e-60
    with pytest.raises(ValueError, match=r"mass is too small for torch\.float32, which would make it 0"):
        load_system(tmp_path / "a.txt", dtype=torch.float32)


def test_numbers_that_overflow_the_dtype_asked_for_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1e300 0 0 0 1\n1 1 0 0 1")
    assert load_system(tmp_path / "a.txt").system.mass[0] == 1e300
    with pytest.raises(ValueError, match=r"mass is too large for torch\.float32"):
        load_system(tmp_path / "a.txt", dtype=torch.float32)


def test_bodies_that_single_precision_cannot_tell_apart_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 1 0 0 1\n1 1.000000001 0 0 1")
    load_system(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="are at the same place"):
        load_system(tmp_path / "a.txt", dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, "float64"])
def test_a_dtype_that_holds_no_fractions_is_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match="dtype must be a floating-point one"):
        load_system(tmp_path / "a.txt", dtype=dtype)


@pytest.mark.parametrize(
    ("file", "change", "constants", "words"),
    [
        ("a.csv", {}, {}, "suffix must be one of"),
        ("no/such/folder/a.txt", {}, {}, "cannot be written"),
        ("a.txt", {"mass": torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)}, {}, "mass must be >= 0"),
        ("a.txt", {"mass": torch.full((3,), torch.nan, dtype=torch.float64)}, {}, "mass must be finite"),
        ("a.txt", {"mass": torch.ones(2, 3, dtype=torch.float64)}, {}, "one system is needed, got a batch"),
        ("a.txt", {}, {"G": -1.0}, "G must be > 0"),
        ("a.npy", {}, {"G": 1.0, "period": 1.0}, ".npy cannot hold G and period"),
        ("a.npy", {"time": torch.tensor(3.0, dtype=torch.float64)}, {}, ".npy cannot hold time"),
        ("a.txt", {}, {"softening": -1.0}, "softening must be >= 0"),
        ("a.json", {}, {"G": float("nan")}, "G must be > 0"),
        ("a.json", {}, {"period": 0.0}, "period must be > 0"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(tmp_path, file, change, constants, words):
    system = known_orbit("figure_eight")._replace(**change)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        save_system(tmp_path / file, system, **constants)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_halfway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    save_system(path, known_orbit("figure_eight"))
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        save_system(path, known_orbit("moth_1"))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_without_numpy_only_npy_fails_and_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.npy").write_bytes(array_bytes(np.array(ROWS)))
    monkeypatch.setitem(sys.modules, "numpy", None)
    for act in (
        lambda: load_system(tmp_path / "a.npy"),
        lambda: save_system(tmp_path / "b.npy", known_orbit("moth_1")),
    ):
        with pytest.raises(ImportError, match=re.escape("pip install 'aits_func[cli]'")):
            act()
    for suffix in (".txt", ".json"):
        save_system(tmp_path / f"a{suffix}", known_orbit("moth_1"))
        assert load_system(tmp_path / f"a{suffix}").system.mass.tolist() == [1.0, 1.0, 1.0]


def test_an_array_as_python_2_wrote_it_is_read_in_silence(tmp_path):
    data = array_bytes(np.array(ROWS)).replace(b"'shape': (2, 5)", b"'shape': (2L, 5)")
    length = int.from_bytes(data[8:10], "little") + 1  # by the L
    (tmp_path / "a.npy").write_bytes(data[:8] + length.to_bytes(2, "little") + data[10:])
    assert load_system(tmp_path / "a.npy").system.mass.tolist() == [1.0, 2.5]


def test_four_thousand_bodies_and_a_hundred_thousand_lines_without_any_are_read(tmp_path):
    rows = "".join(f"1 {number} 0 0 1\n" for number in range(files.MAX_BODIES))
    (tmp_path / "a.txt").write_text(100_000 * "\n" + rows)
    assert len(load_system(tmp_path / "a.txt").system.mass) == files.MAX_BODIES


def test_an_array_of_too_many_bodies_is_refused_before_it_is_unpacked(tmp_path):
    data = array_bytes(np.ones((590_000, 7), dtype="int8"))
    (tmp_path / "a.npy").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"4096 bodies are needed, got N = 590000"):
        load_system(tmp_path / "a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(data)  # the file, its copy and the array; as lists of Python's floats it is forty times that
