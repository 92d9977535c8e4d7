"""Numbers in text: Python's own reading is the oracle for what it reads, and Fortran's rules for the rest."""

import math

import pytest
import torch

from aits_func.edge.written_numbers import is_number, read_number, trouble


def test_every_double_is_read_as_python_writes_it():
    bits = torch.randint(-(2**63), 2**63 - 1, (2000,), generator=torch.Generator().manual_seed(1))
    for value in bits.view(torch.float64).tolist():
        if math.isfinite(value):
            for text in (repr(value), f"{value:+.17e}", f"{value:.17E}"):
                assert read_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("-.5", -0.5),
        ("+5.", 5.0),
        ("0.10D+01", 1.0),
        ("1d-3", 1e-3),
        ("-2.5Q0", -2.5),
        ("1.234-101", 1.234e-101),
        ("-1.5+100", -1.5e100),
        ("1.0-10", 1e-10),
        ("0.0", 0.0),
        ("0e-999", 0.0),
        ("5e-324", 5e-324),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
    ],
)
def test_what_fortran_and_others_write_is_read(text, value):
    assert is_number(text)
    assert read_number(text) == value


def test_nan_is_a_number_here_which_is_refused_later():
    assert math.isnan(read_number("NaN"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "one",
            "0,5",
            "1.000,5",
            "1,000",
            "1 000",
            "1_000",
            "1'000",
            "05",
            "-007",
            "1e",
            "e5",
            ".",
            "-",
            "+-1",
        ),
        *(
            "1..2",
            "1.2.3",
            "0x1p3",
            "1/2",
            "1e5.5",
            "1.0-1.5",
            "2020-10",
            "12:30",
            "٣",
            "1e-400",
            "1.5-400",
            "1D",
            "***",
        ),
        *("1.0f", "1j", "(1)", "[1", "5%", "1e5kg", "--1", "1-", "nan5", "infinit"),
    ],
)
def test_what_may_be_another_number_is_none(text):
    with pytest.raises(ValueError, match=r".") as caught:
        read_number(text)
    assert str(caught.value) == trouble(text)
