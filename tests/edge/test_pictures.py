"""Pictures of numbers that no axis has room for: they are drawn without these, and without a warning."""

import itertools
import math

import pytest
import torch

pytest.importorskip("matplotlib")

from aits_func.edge.comparison_run import SetComparison
from aits_func.edge.config import TrainConfig
from aits_func.edge.pictures import draw_training, draw_work_precision
from aits_func.edge.systems import SystemSet
from aits_func.loops.compare import summarise
from aits_func.loops.rules import Outcome, RunStatistics
from aits_func.physics.initial_conditions import binaries

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


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in place of files; laid out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figures = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        figures.append(figure)

    monkeypatch.setattr("aits_func.edge.pictures._save", keep)
    return figures


def shown_labels(axis):
    """The boxes of the labels of an axis that are not empty."""
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    low, high = sorted(axis.get_view_interval())
    inside = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]
    return [label.get_window_extent() for label in inside]


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_epochs_are_whole_numbers_and_a_single_one_is_seen(drawn, tmp_path, epochs):
    draw_training(tmp_path / "a.png", [EPOCH | {"epoch": number} for number in range(epochs)], TrainConfig())
    for axis in drawn[0].axes:
        low, high = axis.get_xlim()
        shown = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == int(tick) for tick in shown)
        curves = [line for line in axis.lines if len(line.get_xdata()) == epochs and line.get_linestyle() == "-"]
        assert curves
        assert all((line.get_marker() == "o") == (epochs == 1) for line in curves)


@pytest.mark.parametrize("span", [1.05, 1.3, 2.0, 3.0, 9.0, 12.0, 40.0, 1e5])
@pytest.mark.parametrize("start", [1.2, 70.0])
def test_labels_of_costs_do_not_meet(drawn, tmp_path, start, span):
    outcomes = []
    for tolerance, cost in ((1.0, start), (0.1, start * span)):
        spent, error = torch.full((2,), 100 * cost).long(), torch.full((2,), 1e-3 * tolerance, dtype=torch.float64)
        outcomes.append(Outcome("a", tolerance, RunStatistics(spent < 0, spent, spent, *([error] * 7), error.sum())))
    systems = SystemSet("pairs", binaries(0, 2), torch.ones(2), torch.ones(2))
    results = [SetComparison(systems, summarise(outcomes, resamples=0))] * 3
    draw_work_precision(tmp_path / "a.png", results)
    for axis in drawn[0].axes:
        boxes = sorted((box.x0, box.x1) for box in shown_labels(axis.xaxis))
        assert boxes  # at least one number, or nobody knows what an evaluation costs
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(boxes))
