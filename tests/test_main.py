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


def test_a_warning_is_one_line_that_names_no_source_file():
    # The command line itself warns seldom; so one is given in its stead.
    script = (
        "import sys, warnings\n"
        "from aits_func import __main__\n"
        "from aits_func.edge import cli\n"
        "cli.main = lambda: warnings.warn('a step runs eagerly', RuntimeWarning) or 0\n"
        "__main__.program()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: a step runs eagerly\n"
