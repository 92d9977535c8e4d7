"""Pictures of numbers that no axis has room for: they are drawn without these, and without a warning."""

import math

import pytest

pytest.importorskip("matplotlib")

from aits_func.edge.config import TrainConfig
from aits_func.edge.pictures import draw_training

EPOCH = {
    "epoch": 0,
    "replay_pass_rate": 1.0,
    "replay_band_rate": 0.5,
    "replay_mean_energy_error": 1e-6,
    "replay_max_energy_error": 1e-5,
    "replay_mean_dt": 1e-3,
}
NASTY = (None, math.nan, math.inf, 1e308, -1e308, 1e101, 5e-324, -5e-324, 0, -1.0, 2**63 - 1)


@pytest.mark.usefixtures("real_pictures")
@pytest.mark.parametrize("key", [key for key in EPOCH if key != "epoch"])
def test_a_training_is_drawn_whatever_its_metrics_hold(tmp_path, key):
    lines = [EPOCH | {"epoch": number, key: value} for number, value in enumerate((*NASTY, EPOCH[key]))]
    draw_training(tmp_path / "a.png", lines, TrainConfig())  # warnings are errors in these tests
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("real_pictures")
@pytest.mark.parametrize("value", [1e100, 1e-100, 1e308])
def test_a_training_of_one_extreme_number_is_drawn(tmp_path, value):
    line = dict.fromkeys(EPOCH, value) | {"epoch": 0}
    draw_training(tmp_path / "a.png", [line], TrainConfig())
    assert (tmp_path / "a.png").stat().st_size > 0
