"""Names of columns: every way to write one, every order of them, and sentences that are no names."""

import itertools

import pytest

from aits_func.edge.columns import COMPONENTS, are_units, component, default_columns, read_comment, read_names, vector

WAYS = {
    "m": ("m", "M", "mass", "Mass", "masses", "mass [kg]", "Mass (M_sun)", "m_kg", "mass_msun", '"m"', " m "),
    "x": (
        "x",
        "X",
        "pos_x",
        "posx",
        "x_pos",
        "position x",
        "Position.X",
        "r_x",
        "rx",
        "x [au]",
        "x_km",
        "x/km",
        "coord_x",
    ),
    "vy": (
        "vy",
        "VY",
        "v_y",
        "vel_y",
        "vely",
        "velocity-y",
        "y_vel",
        "ydot",
        "dy/dt",
        "vy [km/s]",
        "vy_km_s",
        "vy_kms",
    ),
    "vz": ("vz", "z_velocity", "dzdt", "v.z", "vz_au_per_yr", "vz(1)"),
    "time": ("t", "time", "t [yr]", "time_myr"),
    "softening": ("eps", "epsilon", "softening", "eps_au"),
    "": (
        "",
        "id",
        "name",
        "r",
        "v",
        "px",
        "gm",
        "mu",
        "x_err",
        "x1",
        "vr",
        "x_s",
        "m_x",
        "speed",
        "radius",
        "a",
        "x^2",
        "logm",
        "m (log10)",
        "x [deg]",
        "vx [mas/yr]",
    ),
}


@pytest.mark.parametrize(("what", "name"), [(what, name) for what, names in WAYS.items() for name in names])
def test_a_name_means_one_thing_however_it_is_written(what, name):
    assert component(name) == what


def test_whole_vectors_have_names_of_their_own():
    assert [vector(name) for name in ("position", "Pos", "r [km]", "x")] == ["position"] * 4
    assert [vector(name) for name in ("velocity", "v", "vel (km/s)")] == ["velocity"] * 3
    assert [vector(name) for name in ("m", "mass", "pos_x", "radius", "")] == [""] * 5


@pytest.mark.parametrize("D", [2, 3])
def test_every_order_is_obeyed(D):
    names = [part for part in COMPONENTS if D == 3 or "z" not in part]
    for order in itertools.islice(itertools.permutations(names), 0, None, 41):
        columns = read_names(order)
        found = [order[place] for place in (columns.mass, *columns.position, *columns.velocity)]
        assert found == names
        assert read_comment(" ".join(order), len(names)) == columns
    assert read_names(names) == default_columns(1 + 2 * D)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "Sun and Earth",
        "Kepler 16 A b c",
        "= = = = =",
        "2 0 0 0 1",
        "5 bodies",
        "kg m m m/s m/s",
        "plan x, part m",
        "r v",
    ],
)
def test_a_comment_that_is_no_list_of_names_means_nothing(comment):
    assert read_comment(comment, 5) is None


def test_a_line_of_units_is_one():
    assert are_units("kg m m m/s m/s")
    assert are_units("[au] [au] [au yr^-1]")
    for text in ("", "m", "m x y", "units of length", "1 2 3"):
        assert not are_units(text)
