"""Ctrl-C and SIGTERM: one exception however often they come, and an end at once while nothing has begun."""

import os
import signal
import subprocess
import sys

import pytest

from aits_func.edge import signals


@pytest.fixture
def _taken_over():
    """The handlers of a process of our own, in this one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.take_over()
    signals.loaded()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_taken_over")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_exception_with_its_exit_code(number, code):
    with pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), number)
    assert signals.exit_code(caught.value) == code


@pytest.mark.usefixtures("_taken_over")
def test_a_second_signal_does_not_disturb_the_care_for_the_first():
    cared = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
            cared.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert cared


@pytest.mark.usefixtures("_taken_over")
def test_a_signal_long_after_one_that_a_library_swallowed_is_an_exception_again(monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(signals, "_GRACE", 0.0)  # as if the time had passed
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_where_nobody_has_taken_over_nothing_is_changed():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signals.loaded()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def process(text, *, ignored=False):
    """A process that does this, with Ctrl-C as a terminal has it, or ignored as a job in the background has it."""
    handler = "SIG_IGN" if ignored else "default_int_handler"
    head = f"import os, signal\nfrom aits_func.edge import signals\nsignal.signal(signal.SIGINT, signal.{handler})\n"
    done = subprocess.run([sys.executable, "-c", head + text], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_while_libraries_are_loaded_a_signal_ends_the_process_at_once(name, code):
    kill = f"os.kill(os.getpid(), signal.{name})"
    text = f"signals.take_over()\ntry:\n    {kill}\nexcept BaseException:\n    print('an exception can be lost')\n"
    assert process(text) == (code, "", "aits: interrupted\n")


def test_a_signal_that_is_ignored_stays_so():
    text = "signals.take_over()\nsignals.loaded()\nos.kill(os.getpid(), signal.SIGINT)\nprint('goes on')\n"
    assert process(text, ignored=True) == (0, "goes on\n", "")


def test_when_the_work_is_over_nothing_is_interrupted():
    text = "signals.take_over()\nsignals.ignore()\nfor n in (2, 15):\n    os.kill(os.getpid(), n)\nprint('done')\n"
    assert process(text) == (0, "done\n", "")
