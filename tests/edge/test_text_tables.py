"""Tables of bodies as programs write them: the right numbers, or a refusal with the remedy that fits; never others."""

import contextlib

import pytest
import torch

from aits_func.edge.initial_condition_files import load_system

MASS, POSITION, VELOCITY = [2.0, 1.0], [[-0.25, 0.0], [0.5, 0.0]], [[0.0, -0.4], [0.0, 0.8]]
PLAIN = "2 -0.25 0 0 -0.4\n1 0.5 0 0 0.8\n"
TURNED = "-0.25 0 0 -0.4 2\n0.5 0 0 0.8 1\n"  # x y vx vy m
IN_SPACE = "2 -0.25 0 7 0 -0.4 8\n1 0.5 0 7 0 0.8 8\n"


def load(tmp_path, text, encoding="utf-8"):
    (tmp_path / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return load_system(tmp_path / "a.txt")


def refused(tmp_path, text):
    with pytest.raises(ValueError, match=r".") as caught:
        load(tmp_path, text)
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
    "blanks": PLAIN,
    "commas": PLAIN.replace(" ", ","),
    "commas and blanks behind them": PLAIN.replace(" ", ", "),
    "blanks around commas": PLAIN.replace(" ", " , "),
    "semicolons": PLAIN.replace(" ", ";"),
    "tabs": PLAIN.replace(" ", "\t"),
    "several tabs to align": PLAIN.replace(" 0 ", "\t\t0 "),
    "blanks and tabs": PLAIN.replace(" ", " \t"),
    "no-break spaces": PLAIN.replace(" ", "\u00a0"),
    "a comma behind every number": PLAIN.replace(" ", ",").replace("\n", ",\n"),
    "a semicolon behind every number": PLAIN.replace(" ", ";").replace("\n", ";\n"),
    "a tab behind every number": PLAIN.replace(" ", "\t").replace("\n", "\t\n"),
    "line ends of Windows": PLAIN.replace("\n", "\r\n"),
    "line ends of an old Mac": PLAIN.replace("\n", "\r"),
    "no line end at the end": PLAIN.rstrip(),
    "blank lines and blanks around": "\n\n  " + PLAIN.replace("\n", "  \n\n"),
    "a byte order mark": "\ufeff" + PLAIN,
    "comments of MATLAB": "% two bodies\n" + PLAIN,
    "comments of C": "// two bodies\n" + PLAIN,
    "comments of Fortran": "! two bodies\n" + PLAIN,
    "comments behind numbers": PLAIN.replace("\n", " # a body\n"),
    "names line by line": "# column 1: x\n# column 2: y\n# column 3: vx\n# column 4: vy\n# column 5: m\n" + TURNED,
    "names line by line from 0": "# 0 x\n# 1 y\n# 2 vx\n# 3 vy\n# 4 m\n# two bodies\n" + TURNED,
    "names line by line in brackets": "# 1. a list\n# (1) x\n# (2) y\n# (3) vx\n# (4) vy\n# (5) m\n" + TURNED,
    "a list of other things": "# 1. stars\n# 2. planets\n" + PLAIN,
    "a sentence above": "# Sun and Earth in SI\n" + PLAIN,  # as many words as columns
    "a sentence that says the standard order": "# rows of mass, position, velocity\n" + PLAIN,
    "units in a sentence": "# m in kg, x, y in m, vx, vy in m/s\n" + PLAIN,
    "a line of signs": "# - - - - -\n" + PLAIN,
    "a body that is a comment": "# 1 0 0 0 1\n" + PLAIN,
    "mathematical minus signs": PLAIN.replace("-", "\u2212"),
    "dashes for minus signs": PLAIN.replace("-", "\u2013"),
    "plus signs": PLAIN.replace(" 0.5", " +0.5"),
    "no zero before the point": PLAIN.replace("0.", "."),
    "nothing behind the point": PLAIN.replace("2 ", "2. "),
    "exponents": "2e0 -2.5E-1 0 0e5 -4e-01\n1 5.0e-01 0 0 8E-1\n",
    "exponents of Fortran": "0.20D+01 -0.25D0 0.D0 0 -.4d0\n1.0Q0 0.5d+00 0 0 0.8D0\n",
    "exponents without a letter": "20.0-1 -2.5-001 0 0 -.4+0\n0.1+1 5.-1 0 0 80.0-2\n",
    "numbers in quotation marks": PLAIN.replace(" ", '","')
    .replace("\n", '"\n')
    .replace("2", '"2', 1)
    .replace("1", '"1', 1),
    "names in a comment": "# m x y vx vy\n" + PLAIN,
    "names in a comment without a blank": "#m x y vx vy\n" + PLAIN,
    "names as the first row": "m x y vx vy\n" + PLAIN,
    "names as the first row, commas": "m,x,y,vx,vy\n" + PLAIN.replace(" ", ","),
    "names with blanks over rows with commas": "# m x y vx vy\n" + PLAIN.replace(" ", ","),
    "names with commas over rows with blanks": "m, x, y, vx, vy\n" + PLAIN,
    "capitals": "# M X Y VX VY\n" + PLAIN,
    "words": "# mass pos_x pos_y vel_x vel_y\n" + PLAIN,
    "other words": "# mass,x position,y position,x velocity,y velocity\n" + PLAIN,
    "derivatives": "# m x y dx/dt dy/dt\n" + PLAIN,
    "underscores": "# m r_x r_y v_x v_y\n" + PLAIN,
    "mass last": "# x y vx vy m\n" + TURNED,
    "mass last, names as the first row": "x y vx vy m\n" + TURNED,
    "vectors by one name, mass last": "# position velocity mass\n" + TURNED,
    "names with numbers": "# 1:x 2:y 3:vx 4:vy 5:m\n" + TURNED,
    "names behind a word": "# columns: x y vx vy m\n" + TURNED,
    "names above another comment": "# x y vx vy m\n# two bodies on circular orbits\n" + TURNED,
    "the nearer of two lists of names": "# m x y vx vy\n# x y vx vy m\n" + TURNED,
    "units behind names": "# x[au] y[au] vx[au/yr] vy[au/yr] m[Msun]\n" + TURNED,
    "units in brackets of their own": "# x (au), y (au), vx (km / s), vy (km / s), m (Msun)\n" + TURNED,
    "units within names": "# x_au y_au vx_km_s vy_km_s mass_msun\n" + TURNED,
    "units below names": "# x y vx vy m\n# au au km/s km/s Msun\n" + TURNED,
    "units in brackets below names": "# x y vx vy m\n# [au] [au] [au yr^-1] [au yr^-1] [kg]\n" + TURNED,
    "the same names behind the rows": PLAIN + "# m x y vx vy\n",
}


@pytest.mark.parametrize("name", READ)
def test_what_says_the_same_bodies_is_read_as_the_same_numbers(tmp_path, name):
    loaded = load(tmp_path, READ[name])
    assert_is_the_binary(loaded)
    assert loaded.notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_that_says_which_it_is_is_read(tmp_path, encoding):
    assert_is_the_binary(load(tmp_path, "# Größe\n" + PLAIN, encoding))
    assert_is_the_binary(load(tmp_path, b"\xfe\xff" + PLAIN.encode("utf-16-be")))


LEFT_OUT = {
    "an index": ("# id m x y vx vy\n1 2 -0.25 0 0 -0.4\n2 1 0.5 0 0 0.8\n", "'id'"),
    "an index of pandas": (",m,x,y,vx,vy\n0,2,-0.25,0,0,-0.4\n1,1,0.5,0,0,0.8\n", "'column 1'"),
    "an index of R": ('"","m","x","y","vx","vy"\n"1",2,-0.25,0,0,-0.4\n"2",1,0.5,0,0,0.8\n', "'column 1'"),
    "names of bodies": ("# name m x y vx vy\nSun 2 -0.25 0 0 -0.4\nEarth 1 0.5 0 0 0.8\n", "'name'"),
    "names of two words between tabs": (
        "name\tm\tx\ty\tvx\tvy\nThe Sun\t2\t-0.25\t0\t0\t-0.4\nEarth\t1\t0.5\t0\t0\t0.8\n",
        "'name'",
    ),
    "an empty cell in a column that is not read": (
        "m\tname\tx\ty\tvx\tvy\n2\t\t-0.25\t0\t0\t-0.4\n1\t\t0.5\t0\t0\t0.8\n",
        "'name'",
    ),
    "names of two words": ('name,m,x,y,vx,vy\n"The, Sun",2,-0.25,0,0,-0.4\nEarth,1,0.5,0,0,0.8\n', "'name'"),
    "pictures at the end": ("x y vx vy m picture\n-0.25 0 0 -0.4 2 a.gif\n0.5 0 0 0.8 1 b.gif\n", "'picture'"),
    "a radius that is not there": ("# m x y vx vy radius\n2 -0.25 0 0 -0.4 nan\n1 0.5 0 0 0.8 -\n", "'radius'"),
    "a radius called r": ("# m x y vx vy r\n2 -0.25 0 0 -0.4 7\n1 0.5 0 0 0.8 7\n", "'r'"),
    "errors": ("# m x x_err y y_err vx vy\n2 -0.25 9 0 9 0 -0.4\n1 0.5 9 0 9 0 0.8\n", "'x_err', 'y_err'"),
    "seven columns, two of them strange": ("# m x y a vx vy b\n" + IN_SPACE, "'a', 'b'"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_columns_that_are_not_known_are_left_out_and_named(tmp_path, name):
    text, names = LEFT_OUT[name]
    loaded = load(tmp_path, text)
    assert_is_the_binary(loaded)
    assert loaded.notes == (f"not read: {names}",)


REFUSED = {
    # name: (text, what the message must say)
    "decimal commas between blanks": ("2 -0,25 0 0 -0,4\n1 0,5 0 0 0,8", "write a point for a decimal comma"),
    "decimal commas between semicolons": (PLAIN.replace(" ", ";").replace(".", ","), "a point for a decimal comma"),
    "decimal commas between tabs": (PLAIN.replace(" ", "\t").replace(".", ","), "a point for a decimal comma"),
    "decimal commas between commas": ("2,-0,25,0,0,-0,4\n1,0,5,0,0,0,8", "write a point for a decimal comma"),
    "decimal commas between commas, all below 1": ("2,0,05,0,0,0,04\n1,1,05,0,0,0,08", "a point for a decimal comma"),
    "decimal commas between commas, nothing below 0": (
        "2,0,25,0,0,0,4\n1,0,5,0,0,0,8",
        "7 whole numbers in a row, or 5 of which two have decimal commas",
    ),
    "decimal commas between commas and blanks": ("2, 0,25, 0, 0, 0,4\n1, 0,5, 0, 0, 0,8", "two have decimal commas"),
    "decimal commas in quotation marks": ('"2","-0,25","0","0","-0,4"\n"1","0,5","0","0","0,8"', "a decimal comma"),
    "commas in one row and blanks in the other": ("2,-0.25,0,0,-0.4\n1 0.5 0 0 0.8", "part all columns by one sign"),
    "commas and blanks in one row": ("2, -0.25,0 ,0  -0.4\n1 0.5 0 0 0.8", "part all columns by one sign"),
    "thousands by commas": ("2,000 -0.25 0 0 -0.4\n1 0.5 0 0 0.8", "write a point for a decimal comma"),
    "thousands by quoted commas": ('"2,000",-0.25,0,0,-0.4\n1,0.5,0,0,0.8', "nothing between thousands"),
    "thousands by blanks": ("2 000 1 000 0 0 1\n1 000 2 000 0 0 1", "nothing between thousands"),
    "thousands by apostrophes": ("2'000 -0.25 0 0 -0.4\n1 0.5 0 0 0.8", "nothing between thousands"),
    "thousands by underscores": ("2_000 -0.25 0 0 -0.4\n1 0.5 0 0 0.8", "nothing between thousands"),
    "thousands by points": ("2.000.000 -0.25 0 0 -0.4\n1 0.5 0 0 0.8", "nothing between thousands"),
    "a unit": ("2kg -0.25 0 0 -0.4\n1 0.5 0 0 0.8", "'2kg': leave out its unit"),
    "per cent": ("2 -0.25 0 0 -40%\n1 0.5 0 0 80%", "what is no number"),
    "what did not fit": ("2 ****** 0 0 -0.4\n1 0.5 0 0 0.8", "write it with a wider one"),
    "numbers without a blank between": ("2 -0.25-1.5 0 0 -0.4\n1 0.5 0 0 0.8", "put a blank between numbers"),
    "hours and minutes": ("2 12:30 0 0 -0.4\n1 0.5 0 0 0.8", "write it as one decimal number"),
    "brackets": ("[2, -0.25, 0, 0, -0.4]\n[1, 0.5, 0, 0, 0.8]", "leave out brackets"),
    "a number that vanishes": ("2 1e-400 0 0 -0.4\n1 0.5 0 0 0.8", "smaller than any double"),
    "a fraction": ("2 -1/4 0 0 -0.4\n1 0.5 0 0 0.8", "line 1 has what is no number"),
    "hexadecimal": ("0x2 -0.25 0 0 -0.4\n1 0.5 0 0 0.8", "line 1 has what is no number"),
    "a missing number": ("2 -0.25 0 0 NA\n1 0.5 0 0 0.8", "line 1 has what is no number ('NA'"),
    "nan": ("2 -0.25 0 0 -0.4\n1 nan 0 0 0.8", "position of body 1 is NaN"),
    "an empty cell": ("2,,0,0,-0.4\n1,0.5,0,0,0.8", "line 1 has what is no number (an empty cell; fill it)"),
    "an empty cell between tabs": ("2\t\t0\t0\t0\t-0.4\n1\t\t0.5\t0\t0\t0.8", "line 1 has 6 columns"),
    "an empty cell between tabs, under names": (
        "m\tx\ty\tvx\tvy\n2\t\t0\t0\t-0.4\n1\t0.5\t0\t0\t0.8",
        "line 2 has what is no number (an empty cell",
    ),
    "an end that is empty in one row": ("2,-0.25,0,0,-0.4,\n1,0.5,0,0,0.8", "line 2 has 5 columns and the first row 6"),
    "quotation marks that do not match": ('"2 -0.25 0 0 -0.4\n1 0.5 0 0 0.8', "quotation marks that do not match"),
    "bars": (PLAIN.replace(" ", "|"), "part columns by blanks, tabs, commas or semicolons"),
    "another encoding": (
        "# Größe\n".encode("latin-1") + PLAIN.encode(),
        "is not UTF-8 text (at byte 4); save it as UTF-8",
    ),
    "UTF-16 without its mark": (PLAIN.encode("utf-16-le"), "save it as UTF-8"),
    "half of UTF-16": (b"\xff\xfe" + PLAIN.encode("utf-16-le")[:-1], "begins like UTF-16 text"),
    "an array": (b"\x93NUMPY\x01\x00", "is a NumPy array; give it the suffix .npy"),
    "JSON": ('{"mass": [2, 1]}', "looks like JSON; give it the suffix .json"),
    "nothing": ("", "is empty"),
    "a line end": ("\n", "has no rows"),
    "a byte order mark alone": ("\ufeff", "has no rows"),
    "names alone": ("m x y vx vy\n", "has no rows"),
    "one body": ("2 -0.25 0 0 -0.4\n", "2 to 4096 bodies are needed, got N = 1"),
    "a first line with N": ("2\n" + PLAIN, "mark with #, lines with the number of bodies and the time"),
    "first lines with N and a time": (" 2\n 0\n" + PLAIN, "mark with #, lines with the number of bodies and the time"),
    "a first line with both": ("2 0.0\n" + PLAIN, "mark with #, lines with the number of bodies and the time"),
    "N, a radius, another order and a picture": (
        "2\n2.5e11\n-0.25 0 0 -0.4 2 a.gif\n0.5 0 0 0.8 1 b.gif\n\nnotes",
        "name the columns in a comment line before the rows, e.g. # x y vx vy m",
    ),
    "words behind the rows": (PLAIN + "the end\n", "line 3 has 2 columns and the first row 5"),
    "a sentence without a mark": ("two bodies on circular orbits\n" + PLAIN, "mark comments with #"),
    "units below the names": ("m x y vx vy\nkg m m m/s m/s\n" + PLAIN, "line 2 has what is no number"),
    "a column too many": (PLAIN.replace("\n", " 1\n"), "line 1 has 6 columns"),
    "no masses": ("-0.25 0 0 -0.4\n0.5 0 0 0.8", "line 1 has 4 columns"),
    "no masses, under names": ("# x y vx vy\n-0.25 0 0 -0.4\n0.5 0 0 0.8", "names no m"),
    "no masses in space, under names": ("# id x y z vx vy vz\n" + IN_SPACE, "names no m"),
    "no masses but GM": ("# GM x y vx vy\n" + PLAIN, "names no m"),
    "names twice": ("# m x x vx vy\n" + PLAIN, "names x twice ('x' and 'x')"),
    "names twice in two words": ("# m mass x y vx vy\n1 " + PLAIN.replace("\n1", "\n1 1"), "names m twice"),
    "a third place without a velocity": ("# m x y z vx vy\n2 -0.25 0 7 0 -0.4\n1 0.5 0 7 0 0.8", "names no vz"),
    "names of fewer columns": ("# m x y vx vy\n" + IN_SPACE, "has 5 names for 7 columns"),
    "names of more columns": ("# m x y z vx vy vz\n" + PLAIN, "has 7 names for 5 columns"),
    "momenta": ("# m x y px py\n" + PLAIN, "names no vx and no vy"),
    "names in French": ("# masse posx1 posy1 vitx vity\n" + PLAIN, "has as many words as there are columns"),
    "names of another form": ("# c1=x c2=y c3=vx c4=vy c5=m\n" + TURNED, "seems to name columns"),
    "names in a sentence": ("# column 1 is x, 2 is y, 3 is vx, 4 is vy, 5 is m\n" + TURNED, "seems to name columns"),
    "numbered components": ("# m x1 x2 v1 v2\n" + PLAIN, "has as many words as there are columns"),
    "indices in brackets": ("# m x[0] x[1] v[0] v[1]\n" + PLAIN, "names x twice"),
    "elements of orbits": ("# m a e i Omega omega M\n" + IN_SPACE, "names m twice"),
    "elements without masses": ("a e i Omega omega M epoch\n" + IN_SPACE, "names no x and no y and no vx"),
    "a control character in a unit": (
        "# m x y vx[au\x0fyr] vy[au/yr]\n" + PLAIN,
        r"in several units (au\x0fyr, au/yr); convert",
    ),
    "several units of length": ("# m x[au] y[km] vx vy\n" + PLAIN, "in several units (au, km); convert them"),
    "a sentence with another order": ("# rows of position, velocity, mass\n" + TURNED, "seems to name columns"),
    "other names behind the rows": (TURNED + "# x y vx vy m\n", "names other columns"),
    "names line by line that are too few": ("# 1: x\n# 2: y\n# 3: vx\n# 4: vy\n" + TURNED, "has 4 names for 5 columns"),
    "names line by line with descriptions": (
        "# 1 x of the body\n# 2 y\n# 3 vx\n# 4 vy\n# 5 m\n" + TURNED,
        "comments name columns one by one, but names no x",
    ),
    "an index and no masses": ("1 0 0 0 1 2 3\n2 1 0 0 1 2 3\n3 2 0 0 1 2 3", "counts the bodies (1, 2, 3, ...)"),
    "an index from 0": ("0 0 0 0 1\n1 1 0 0 1\n2 2 0 0 1\n3 4 0 0 1", "counts the bodies (0, 1, 2, ...)"),
    "two times": (PLAIN + "\n" + PLAIN.replace("0.5", "0.6").replace("-0.25", "-0.3"), "has 2 blocks of 2 rows"),
    "times in a column": ("# t m x y vx vy\n0 2 -0.25 0 0 -0.4\n1 1 0.5 0 0 0.8", "column time goes from 0.0 to 1.0"),
    "several softening lengths": ("# m x y vx vy eps\n2 -0.25 0 0 -0.4 0.1\n1 0.5 0 0 0.8 0.2", "goes from 0.1 to 0.2"),
    "columns for rows": ("2 1 1\n0 1 2\n0 0 0\n0 0 0\n1 2 3", "transpose it"),
    "columns for rows, as many as bodies": (
        "1 .1 .2 .3 .4\n.1 1 .2 .3 .4\n.2 .1 1 .2 .3\n.3 .2 .1 1 .2\n.4 .3 .2 .1 1",
        "may hold 5 bodies in two dimensions, one per row, or 5 bodies in two dimensions, one per column",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_other_bodies_is_refused_with_its_remedy(tmp_path, name):
    text, words = REFUSED[name]
    assert words in refused(tmp_path, text)


def test_rows_that_would_be_refused_for_want_of_names_are_read_with_them(tmp_path):
    rows = "1 0 0 0 1\n2 1 0 0 1\n3 2 0 0 1\n"
    assert load(tmp_path, "# m x y vx vy\n" + rows).system.mass.tolist() == [1.0, 2.0, 3.0]
    assert load(tmp_path, rows.replace("1 0 0", "1.0 0 0")).system.mass.tolist() == [1.0, 2.0, 3.0]  # no index
    square = REFUSED["columns for rows, as many as bodies"][0]
    assert load(tmp_path, "# m x y vx vy\n" + square).system.mass.tolist() == [1.0, 0.1, 0.2, 0.3, 0.4]


def test_whole_numbers_between_commas_that_end_in_0_are_no_decimals(tmp_path):
    rows = "3,1,3,0,0,0,0\n4,-2,-1,0,0,0,0\n5,1,-1,0,0,0,0\n"  # no program writes ,0 behind some numbers and not others
    assert load(tmp_path, rows).system.position.tolist() == [[1.0, 3.0, 0.0], [-2.0, -1.0, 0.0], [1.0, -1.0, 0.0]]
    doubtful = REFUSED["decimal commas between commas, nothing below 0"][0]
    for meant in (
        doubtful.replace(",", " "),
        "# m x y z vx vy vz\n" + doubtful,
        doubtful.replace("2,0,25", "2.0,0,25"),
    ):
        assert load(tmp_path, meant).system.position.tolist() == [[0.0, 25.0, 0.0], [0.0, 5.0, 0.0]]


def test_a_pair_of_equal_pairs_with_nothing_between_them_is_one_system(tmp_path):
    text = PLAIN + PLAIN.replace("0.5", "9.5").replace("-0.25", "9.25")
    assert len(load(tmp_path, text).system.mass) == 4
    assert (
        len(load(tmp_path, text.replace("1 0.5 0 0 0.8\n", "1 0.5 0 0 0.8\n\n").replace("1 9.5", "3 9.5")).system.mass)
        == 4
    )


def test_three_dimensions_are_read_in_any_order(tmp_path):
    loaded = load(tmp_path, "# vz vy vx z y x m\n8 -0.4 0 7 0 -0.25 2\n8 0.8 0 7 0 0.5 1\n")
    assert loaded.system.mass.tolist() == MASS
    assert loaded.system.position.tolist() == [[-0.25, 0.0, 7.0], [0.5, 0.0, 7.0]]
    assert loaded.system.velocity.tolist() == [[0.0, -0.4, 8.0], [0.0, 0.8, 8.0]]


def test_every_order_of_the_names_gives_the_same_bodies(tmp_path):
    draw = torch.Generator().manual_seed(3)
    names, rows = ["m", "x", "y", "vx", "vy"], [[float(f) for f in line.split()] for line in PLAIN.splitlines()]
    for _ in range(20):
        order = torch.randperm(5, generator=draw).tolist()
        lines = [" ".join(str(each[i]) for i in order) for each in (names, *rows)]
        assert_is_the_binary(load(tmp_path, "# " + "\n".join(lines)))


CONSTANTS = {
    "# G = 39.5": {"G": 39.5},
    "# G: 39.5": {"G": 39.5},
    "# g=0.395D2": {"G": 39.5},
    "# gravitational constant = 2": {"G": 2.0},
    "# t = 10": {"time": 10.0},
    "# time: -10.5": {"time": -10.5},
    "# start time = 1e3, softening = 0.5": {"time": 1e3, "softening": 0.5},
    "# eps = 0": {"softening": 0.0},
    "# G=2 t=3 eps=0.1 period=6": {"G": 2.0, "time": 3.0, "softening": 0.1, "period": 6.0},
    "# (G = 1)": {"G": 1.0},
    "# the time is not known": {},
    "# at time = 4": {"time": 4.0},
    "# initial time: 4, end time = 9": {"time": 4.0},
    "# crossing time = 2.8, rotation period = 3": {},
    "# integrate to t = 100": {},
    "# in units where G = 1": {"G": 1.0},
    "# Plummer softening = 0.5": {"softening": 0.5},
    "# cost = 3, weight = 2, N = 2, dt = 4": {},
    "# t: time": {},
    "# softening 0.5": {"softening": 0.5},
    "# softening length 0.5, by Plummer": {"softening": 0.5},
    "# softening 0.5, G 2": {"softening": 0.5, "G": 2.0},
    "# G 2": {},
    "# T 300": {},
    "# G 2V star": {},
    "# period 3 orbit of Jupiter": {},
    "# time = 0 Myr": {"time": 0.0},
    "# time = 0, G = 2": {"time": 0.0, "G": 2.0},
}


@pytest.mark.parametrize("comment", CONSTANTS)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_comment_may_state_constants(tmp_path, comment, place):
    loaded = load(tmp_path, f"{comment}\n{PLAIN}" if place == "before" else f"{PLAIN}{comment}\n")
    assert_is_the_binary(loaded)
    said = {"G": loaded.G, "softening": loaded.softening, "period": loaded.period}
    assert {name: value for name, value in said.items() if value is not None} == {
        name: value for name, value in CONSTANTS[comment].items() if name != "time"
    }
    assert float(loaded.system.time) == CONSTANTS[comment].get("time", 0.0)


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("# G = 4 pi^2", "with something behind it; write the number alone"),
        ("# G = 4*pi**2", "says G = '4*pi**2'; write a number"),
        ("# G = 6,67e-11", "says 'G = 6' with something behind it"),
        ("# time = 0,5", "says 'time = 0' with something behind it"),
        ("# softening: 0,1", "says 'softening: 0' with something behind it"),
        ("# softening 0,1", "says 'softening = 0' with something behind it"),
        ("# softening 0.1 pc", "write the number alone"),
        ("# t = 10 Myr", "write the number alone, in the file's own units"),
        ("# G = -1", "G must be > 0"),
        ("# softening = -1", "softening must be >= 0"),
        ("# G = 1\n# G = 2", "says G = 1, and G = 2 as well; keep one"),
    ],
)
def test_a_constant_that_cannot_be_understood_is_refused(tmp_path, comment, words):
    assert words in refused(tmp_path, f"{comment}\n{PLAIN}")


def test_columns_of_one_time_and_one_softening_are_used(tmp_path):
    loaded = load(tmp_path, "# t m x y vx vy eps\n4 2 -0.25 0 0 -0.4 0.1\n4 1 0.5 0 0 0.8 0.1\n")
    assert_is_the_binary(loaded)
    assert (float(loaded.system.time), loaded.softening) == (4.0, 0.1)
    assert "says time = 4, and time = 5 as well" in refused(
        tmp_path, "# t = 5\n# t m x y vx vy\n4 2 -0.25 0 0 -0.4\n4 1 0.5 0 0 0.8\n"
    )


def test_units_that_are_named_are_reported(tmp_path):
    for name, units in (
        ("units below names", "au au km/s km/s Msun"),
        ("units behind names", "mass in Msun, position in au, velocity in au/yr"),
        ("units within names", "mass in msun, position in au, velocity in km/s"),
        ("names in a comment", ""),
    ):
        assert load(tmp_path, READ[name]).units == units
    assert load(tmp_path, "# units: AU, yr, Msun\n" + PLAIN).units == "AU, yr, Msun"


@pytest.mark.parametrize("text", [*READ.values(), *(text for text, _ in LEFT_OUT.values())])
def test_a_table_that_is_cut_off_is_never_read_as_a_system_of_other_bodies(tmp_path, text):
    for length in range(1, len(text), 3):
        with contextlib.suppress(ValueError):
            system = load(tmp_path, text[:length]).system
            # Nothing can be missing but digits of the last number, a velocity, and what stands behind it.
            assert (system.mass.tolist(), system.position.tolist()) == (MASS, POSITION)
            assert system.velocity.tolist()[0] == VELOCITY[0]
