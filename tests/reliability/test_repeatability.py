"""The repeatability campaign in its short form; and one bit that differs is seen."""

import shutil

import pytest
import torch

from reliability import repeatability
from reliability.repeatability import campaign, differences, fingerprint, here, one_update, same_bits


def test_the_same_bits_come_back_and_what_may_differ_agrees_to_rounding():
    for finding in campaign(short=True):
        assert finding.held, (finding.promise, finding.broken)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler: nothing is compiled")
def test_a_compiled_training_is_itself_bit_for_bit():
    assert len(set(here("on"))) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing is run on one")
def test_an_update_on_a_gpu_is_that_on_the_cpu_within_rounding():
    finding = differences("a GPU against the CPU", (one_update("off", "cuda"), one_update("off")))
    assert finding.held, finding.broken


def test_a_single_bit_changes_the_fingerprint():
    numbers = torch.linspace(0, 1, 9, dtype=torch.float64)
    other = numbers.clone()
    other[4] = torch.nextafter(other[4], torch.tensor(1.0, dtype=torch.float64))
    assert not same_bits("bits", [fingerprint([numbers]), fingerprint([other])]).held


def test_a_training_that_draws_from_somewhere_else_is_seen(monkeypatch):
    drawn = iter(range(1, 1000))
    honest = repeatability.af.generalize_on_trajectory

    def careless(*args, seed, **options):
        return honest(*args, seed=next(drawn), **options)

    monkeypatch.setattr(repeatability.af, "generalize_on_trajectory", careless)
    assert not same_bits("looks", repeatability.looks()).held


def test_more_than_rounding_apart_is_seen():
    numbers = torch.ones(3, dtype=torch.float64)
    assert not differences("a pair", ([numbers], [numbers * (1 + 1e-9)])).held
