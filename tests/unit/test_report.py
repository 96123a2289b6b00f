"""report.png."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vilbert_jax.errors import InputError
from vilbert_jax.training import report
from vilbert_jax.training.report import read_panels, write_report


def write_metrics(path, steps=60):
    lines = []
    for step in range(1, steps + 1):
        train = {"loss": 3 / step, "token_loss": 2 / step, "alignment_accuracy": 1 - 1 / step, "grad_norm": 1.0}
        train |= {"learning_rate": 1e-4 * step, "param_norm": 5.0, "update_norm": 0.1}
        lines.append({"step": step} | {f"train/{name}": value for name, value in train.items()})
        if step % 20 == 0:
            lines.append({"step": step, "eval/validation/token_loss": 2.5 / step, "eval/blind/token_loss": 4.0 / step})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_panels_join_training_and_evaluation_in_reading_order(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl")
    panels = read_panels(tmp_path / "metrics.jsonl")
    assert list(panels) == ["loss", "token_loss", "alignment_accuracy", "learning_rate", "grad_norm"]
    assert set(panels["token_loss"]) == {"train", "validation", "blind"}
    assert panels["token_loss"]["validation"] == [(20, 2.5 / 20), (40, 2.5 / 40), (60, 2.5 / 60)]
    assert len(panels["loss"]["train"]) == 60


@pytest.mark.parametrize("steps", [1, 60])
def test_a_picture_is_written(tmp_path, steps):
    write_metrics(tmp_path / "metrics.jsonl", steps)
    write_report(tmp_path / "metrics.jsonl", tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width > 1500
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50  # not blank


@pytest.mark.parametrize("whole", [1.0, 100.0])
@pytest.mark.parametrize("reached", [0.02, 0.5, 0.99])
def test_accuracies_lie_inside_their_axis_as_shares_and_in_percent(whole, reached):
    figure = Figure()
    values = whole * np.linspace(0.01, reached, 5)
    report._set_range(figure.add_subplot(), "accuracy", values, 10)
    low, high = figure.axes[0].get_ylim()
    assert low < values.min()
    assert values.max() < high
    assert high <= 1.02 * whole


def test_no_metrics_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no metrics at"):
        write_report(tmp_path / "metrics.jsonl", tmp_path / "report.png")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="log_every"):
        write_report(tmp_path / "metrics.jsonl", tmp_path / "report.png")
