"""What is read from files of others: bounded in size and depth, and quoted in one printable line."""

import os

import pytest

from aits_func.edge.untrusted import (
    MAX_DEPTH,
    MAX_LINE,
    InputError,
    check_tables,
    one_line,
    printable,
    read_regular_file,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, η and 字", "plain, η and 字"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x9b", r"\x1b[2J\x9b"),
        ("nul\0", r"nul\x00"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_not_printable_is_written_as_an_escape(text, shown):
    assert printable(text) == shown


def test_an_input_error_is_one_printable_line():
    assert str(InputError("a.toml: unknown section [\x1b[31m\n]")) == r"a.toml: unknown section [\x1b[31m\n]"


@pytest.mark.parametrize("length", [MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE + 1, 10**6])
@pytest.mark.parametrize("filler", ["x", "\0"])
def test_a_long_message_keeps_what_is_wrong_and_the_remedy(length, filler):
    line = one_line("what is wrong" + (length - 23) * filler + "the remedy")
    assert len(line) <= MAX_LINE
    assert line.startswith("what is wrong")
    assert line.endswith("the remedy")
    assert line.isprintable()


def test_a_message_of_the_greatest_length_is_left_alone():
    assert one_line("y" * MAX_LINE) == "y" * MAX_LINE


def refused(path, most=10):
    with pytest.raises(InputError) as caught:
        read_regular_file(path, most=most, what="this thing")
    return str(caught.value)


def test_a_file_is_read_up_to_its_bound_and_refused_beyond_it(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert read_regular_file(tmp_path / "a", most=10, what="this thing") == b"0123456789"
    assert refused(tmp_path / "a", most=9).startswith(f"{tmp_path}/a: cannot read this thing: larger than ")


def test_a_file_of_a_terabyte_is_refused_without_being_read(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(2**40)  # a hole; to read it would take more memory than there is
    assert "larger than 1 MiB; name another file" in refused(tmp_path / "a", most=2**20)


@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_what_has_no_end_is_refused_without_being_opened(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    assert "cannot read this thing: not a regular file; copy its contents into one" in refused(tmp_path / path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none", "No such file or directory"),
        (".", "Is a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("nul\0l", "embedded null byte"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_file_is_refused_with_the_reason(tmp_path, path, reason):
    os.symlink("loop", tmp_path / "loop")
    assert refused(tmp_path / path).endswith(f": cannot read this thing: {reason}; check the path")


def nested(depth, kind):
    value = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_tables_may_be_nested_to_the_greatest_depth_and_no_deeper(kind):
    check_tables(nested(MAX_DEPTH, kind), "a.toml")
    with pytest.raises(InputError, match=r"^a\.toml: is nested more than 16 levels deep; "):
        check_tables(nested(MAX_DEPTH + 1, kind), "a.toml")
    with pytest.raises(InputError, match="levels deep"):
        check_tables(nested(100_000, kind), "a.toml")  # deeper than Python could walk


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 16**10_000], ids=["above", "below", "beyond printing"])
def test_an_integer_has_64_bits(number):
    check_tables({"a": [2**63 - 1, -(2**63), True, "x", 1.5]}, "a.toml")
    with pytest.raises(InputError, match=r"^a\.toml: holds an integer of more than 64 bits"):
        check_tables({"a": [{"b": number}]}, "a.toml")
