"""The command line in a process of its own: what it ends with when its output cannot be written."""

import os
import subprocess
import sys

import pytest

# As users have it: output is kept back, and what cannot be written is found late.
PLAIN = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def ends(output, *arguments):
    """Exit code and stderr of a command that prints there."""
    command = [sys.executable, "-m", "aits_func", *arguments]
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, env=PLAIN, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_to_a_full_disk_ends_with_1_and_one_line():
    with open("/dev/full", "w") as full:
        assert ends(full, "--help") == (
            1,
            "aits: error: stdout: cannot write to it: No space left on device; print elsewhere\n",
        )


def test_output_that_nobody_reads_ends_with_1_and_one_line():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert ends(pipe, "--help") == (1, "aits: error: stdout: cannot write to it: Broken pipe; print elsewhere\n")


def test_output_that_is_closed_is_nobodys_wish():
    command = [sys.executable, "-m", "aits_func", "train"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, env=PLAIN, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("aits train: error: train needs a TOML file or flags")
