"""Metrics as they are read back: line by line, ours alone, and in memory that grows with the epochs."""

import json
import os
import tracemalloc

import pytest

from aits_func.edge.config import InputError
from aits_func.edge.tracking import MAX_LINE, JsonlTracker, read_metrics

OURS = {
    "epoch": 0,
    "seconds": 0.25,
    "collect_status": "complete",
    "collect_accepted": 6,
    "collect_rejected": 1,
    "collect_updates": 1,
    "replay_iterations": 2,
    "replay_pass_rate": 1.0,
    "replay_band_rate": 0.5,
    "replay_mean_energy_error": 1e-6,
    "replay_max_energy_error": None,
    "replay_mean_dt": 1e-3,
}


def write(path, *lines):
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def test_lines_of_ours_come_back_as_they_are(tmp_path):
    lines = [OURS | {"epoch": number, "compile_seconds": 0.5} for number in range(3)]
    assert read_metrics(write(tmp_path / "a", *lines)) == lines
    assert read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 50_000,
        b"[]",
        b'{"epoch": 0}',
        b"9" * 5000,
        OURS | {"epoch": True},
        OURS | {"epoch": -1},
        OURS | {"epoch": 1.0},
        OURS | {"epoch": 2**63},
        OURS | {"seconds": None},
        OURS | {"seconds": "long"},
        OURS | {"compile_seconds": "long"},
        OURS | {"collect_accepted": "6"},
        OURS | {"replay_iterations": None},
        OURS | {"replay_pass_rate": "all"},
        OURS | {"replay_mean_dt": 2**70},
        OURS | {"more": [[1]]},
        OURS | {"more": {"a": 1}},
        {key: value for key, value in OURS.items() if key != "replay_max_energy_error"},
        {key: value for key, value in OURS.items() if key != "seconds"},
    ],
)
def test_a_line_that_is_not_ours_is_left_out(tmp_path, line):
    other = OURS | {"epoch": 7}
    assert read_metrics(write(tmp_path / "a", line, other)) == [other]


def test_a_last_line_without_its_end_counts_if_it_is_whole(tmp_path):
    text = json.dumps(OURS).encode()
    (tmp_path / "a").write_bytes(text)
    assert read_metrics(tmp_path / "a") == [OURS]
    (tmp_path / "a").write_bytes(text[:-1])
    assert read_metrics(tmp_path / "a") == []


def test_a_line_that_is_too_long_is_left_out_and_so_is_what_it_ends_with(tmp_path):
    text = json.dumps(OURS).encode()
    path = write(tmp_path / "a", b" " * (MAX_LINE - len(text) - 1) + text)
    assert read_metrics(path) == [OURS]
    for blanks in (MAX_LINE - len(text), MAX_LINE - len(text) + 1, MAX_LINE + 1, 2 * MAX_LINE + 2):
        assert read_metrics(write(path, b" " * blanks + text)) == []


def test_of_an_epoch_that_is_there_twice_the_later_line_counts(tmp_path):
    path = write(tmp_path / "a", OURS | {"epoch": 1}, OURS, OURS | {"seconds": 9.0})
    assert read_metrics(path) == [OURS | {"seconds": 9.0}, OURS | {"epoch": 1}]


def test_epochs_to_come_are_left_out(tmp_path):
    lines = [OURS | {"epoch": number} for number in range(5)]
    path = write(tmp_path / "a", *lines)
    assert read_metrics(path, before=3) == lines[:3]
    JsonlTracker(path, keep_before=2)
    assert read_metrics(path) == lines[:2]


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = write(tmp_path / "a", OURS)
    with open(path, "ab") as file:
        file.truncate(50 * 2**20)  # a hole: one line without an end
    tracemalloc.start()
    assert read_metrics(path) == [OURS]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # a line and the buffers of a file


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "not a regular file"), (".", "Is a directory")):
        with pytest.raises(InputError) as caught:
            read_metrics(tmp_path / name)
        assert f"cannot read these metrics: {reason}" in str(caught.value)
