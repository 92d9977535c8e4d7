"""Bodies in NumPy arrays: rows and records are read, and what may be transposed is refused."""

import io
import re

import pytest

from aits_func.edge.initial_condition_files import load_system

np = pytest.importorskip("numpy")

ROWS = np.array([[2, -0.25, 0, 0, -0.4], [1, 0.5, 0, 0, 0.8], [3, 9, 9, 0, 0.1]])
NAMES = ["m", "x", "y", "vx", "vy"]


def load(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    return load_system(tmp_path / "a.npy")


def records(names, columns, kinds=None):
    kinds = kinds or {}
    dtype = [(name, kinds.get(name, float), column.shape[1:]) for name, column in zip(names, columns, strict=True)]
    array = np.zeros(len(columns[0]), dtype=dtype)
    for name, column in zip(names, columns, strict=True):
        array[name] = column
    return array


def assert_are_the_rows(loaded):
    system = loaded.system
    assert system.mass.tolist() == ROWS[:, 0].tolist()
    assert system.position.tolist() == ROWS[:, 1:3].tolist()
    assert system.velocity.tolist() == ROWS[:, 3:].tolist()


@pytest.mark.parametrize(
    "array",
    [
        ROWS,
        np.asfortranarray(ROWS),
        ROWS.astype(">f8"),
        records(NAMES, ROWS.T),
        records(NAMES[::-1], ROWS.T[::-1]),
        records(["velocity", "mass", "position"], [ROWS[:, 3:], ROWS[:, 0], ROWS[:, 1:3]]),
        records(["r", "v", "m"], [ROWS[:, 1:3], ROWS[:, 3:], ROWS[:, 0]]),
        records(NAMES, ROWS.T).view(np.recarray),
    ],
    ids=["rows", "by columns", "other end first", "records", "backwards", "vectors", "short names", "recarray"],
)
def test_rows_and_records_in_any_order_are_the_same_bodies(tmp_path, array):
    loaded = load(tmp_path, array)
    assert_are_the_rows(loaded)
    assert loaded[1:] == (None, None, None, "", ())


def test_fields_that_are_not_known_are_named_and_a_time_is_used(tmp_path):
    more = [np.array([7, 8, 9]), np.array(["a", "b", "c"]), np.full(3, 2.5), np.full(3, 0.1), np.zeros((3, 4))]
    kinds = {"id": int, "name": "U5"}
    array = records(["id", "name", "t", "eps", "spin", *NAMES], [*more, *ROWS.T], kinds)
    loaded = load(tmp_path, array)
    assert_are_the_rows(loaded)
    assert (float(loaded.system.time), loaded.softening) == (2.5, 0.1)
    assert loaded.notes == ("not read: 'id', 'name', 'spin'",)


REFUSED = {
    "three bodies in columns": (ROWS.T, "save the transposed array (array.T), one row per body"),
    "three bodies in columns, in space": (np.ones((7, 3)), "save the transposed array (array.T)"),
    "nine columns": (np.ones((3, 9)), "columns are mass, position, velocity"),
    "five bodies that may be five others": (
        np.random.default_rng(6).random((5, 5)),
        "5 bodies in two dimensions, one per column: transpose it",
    ),
    "five bodies in columns, in space": (
        np.random.default_rng(1).random((7, 5)),
        "may hold 7 bodies in two dimensions, one per row, or 5 bodies in three, one per column",
    ),
    "seven bodies in columns": (
        np.random.default_rng(2).random((5, 7)),
        "may hold 5 bodies in three, one per row, or 7 bodies in two dimensions, one per column",
    ),
    "seven bodies in columns, in space": (np.random.default_rng(3).random((7, 7)), "7 bodies in three, one per column"),
    "columns alone make a system": (
        np.random.default_rng(4).random((7, 5)) * np.array([[1], [-1], [1], [1], [1], [1], [1]]),
        "makes no system of 7 bodies in two dimensions, one per row, but one of 5 bodies in three, one per column",
    ),
    "an index": (np.column_stack([[1, 2, 3], ROWS[:, 1:]]), "the first column counts the bodies (1, 2, 3, ...)"),
    "records without masses": (records(NAMES[1:], ROWS.T[1:]), "names no m"),
    "records in one dimension": (records(["m", "x", "vx"], ROWS.T[[0, 1, 3]]), "names no y and no vy"),
    "records with a place twice": (records([*NAMES, "pos_x"], [*ROWS.T, ROWS[:, 1]]), "names x twice"),
    "records of words": (records(NAMES, ROWS.T, {"x": "U5"}), "field 'x' must hold one number per body"),
    "records of complex numbers": (records(NAMES, ROWS.T, {"x": complex}), "field 'x' must hold one number per body"),
    "records in two rows": (np.stack([records(NAMES, ROWS.T)] * 2), "save one record per body"),
    "records of objects": (records(NAMES, ROWS.T, {"x": object}), "holds objects"),
    "records of several times": (records([*NAMES, "t"], [*ROWS.T, ROWS[:, 0]]), "time goes from 1.0 to 3.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_array_that_does_not_say_its_bodies_is_refused(tmp_path, name):
    array, words = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load(tmp_path, array)
    assert str(caught.value).isprintable()


def test_five_bodies_in_space_are_read_where_their_columns_are_no_bodies(tmp_path):
    rows = np.random.default_rng(5).random((5, 7))
    rows[0, 3] = -1.0  # as a mass of the fourth of seven bodies it cannot be meant
    assert load(tmp_path, rows).system.mass.tolist() == rows[:, 0].tolist()


def test_a_star_at_rest_in_the_origin_with_four_planets_is_read(tmp_path):
    rows = np.random.default_rng(7).random((5, 7))
    rows[0] = [1, 0, 0, 0, 0, 0, 0]  # as masses of seven bodies all but one would be nothing
    assert load(tmp_path, rows).system.mass.tolist() == rows[:, 0].tolist()
    with pytest.raises(ValueError, match="may hold 7 bodies in two dimensions"):
        load(tmp_path, rows.T)


def test_records_that_claim_too_much_are_refused_before_they_are_unpacked(tmp_path):
    buffer = io.BytesIO()
    descr = [("m", "<f8"), ("x", "<f8", (10**8,))]
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": (2,)})
    (tmp_path / "a.npy").write_bytes(buffer.getvalue() + b"1234")
    with pytest.raises(ValueError, match="cut off"):
        load_system(tmp_path / "a.npy")
