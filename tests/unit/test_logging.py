"""metrics.jsonl, TensorBoard and the check for finite numbers."""

import json

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] generated code

from vilbert_jax.training.logging import MetricLogger, NonFiniteError, check_finite, read_metrics


def open_logger(workdir, first_step=0, active=True):
    return MetricLogger(workdir, first_step=first_step, total_steps=10, batch_size=4, active=active)


def write_steps(workdir, steps, first_step=0):
    with open_logger(workdir, first_step) as log:
        for step in steps:
            log.write(step, {"train/loss": step / 3})


def test_a_value_reads_back_bit_for_bit(tmp_path):
    value = np.float32(1 / 3)
    with open_logger(tmp_path) as log:
        log.write(1, {"train/loss": value})
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "train/loss": float(value)}
    assert np.float32(row["train/loss"]) == value


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with open_logger(tmp_path) as log:
        log.write(1, {"train/loss": 1.0})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "train/loss": 1.0}


def test_after_a_resume_the_file_reads_as_if_never_stopped(tmp_path):
    write_steps(tmp_path / "whole", range(1, 8))
    write_steps(tmp_path / "resumed", range(1, 6))
    write_steps(tmp_path / "resumed", range(4, 8), first_step=3)
    whole, resumed = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed"))
    assert resumed == whole


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 3, "eval/validation/lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    write_steps(tmp_path, [4], first_step=3)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]


def test_a_fresh_start_leaves_nothing_of_an_earlier_run(tmp_path):
    write_steps(tmp_path, range(1, 4))
    write_steps(tmp_path, [1])
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_other_hosts_write_nothing(tmp_path):
    with open_logger(tmp_path / "run", active=False) as log:
        log.write(1, {"train/loss": 1.0})
        log.show(1, 1.0)
        log.flush()
    assert not (tmp_path / "run").exists()


def test_the_bar_shows_loss_speed_and_progress(tmp_path, capsys):
    with open_logger(tmp_path, first_step=6) as log:
        log.advance()
        log.show(7, 1.23456)
    shown = capsys.readouterr().err
    assert "loss 1.2346" in shown
    assert "examples/s" in shown
    assert "7/10" in shown


def tensorboard_events(workdir):
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:  # length (8), its checksum (4), event, its checksum (4)
            size = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_tensorboard_gets_the_same_numbers_and_purges_after_a_resume(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    write_steps(tmp_path, [3], first_step=2)
    events = list(tensorboard_events(tmp_path))
    scalars = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert scalars == [(step, "train/loss", pytest.approx(step / 3)) for step in (1, 2, 3, 3)]
    restarts = [event.step for event in events if event.session_log.status]
    assert restarts[-1] == 3  # what an earlier run wrote from step 3 on is to be ignored


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named(value):
    with pytest.raises(NonFiniteError, match=r"token_loss is .* at step 17\..*last checkpoint is good") as error:
        check_finite(17, {"grad_norm": value, "loss": value, "region_loss": 1.0, "token_loss": value})
    assert (error.value.step, error.value.metric) == (17, "token_loss")


def test_a_gradient_alone_that_is_not_finite_is_named():
    with pytest.raises(NonFiniteError) as error:
        check_finite(3, {"grad_norm": float("nan"), "loss": 1.0, "param_norm": float("nan")})
    assert error.value.metric == "grad_norm"


def test_finite_values_pass():
    check_finite(1, {"loss": 0.0, "fit_loss": -1e30})


def test_a_non_finite_value_never_reaches_the_file(tmp_path):
    with open_logger(tmp_path) as log, pytest.raises(ValueError, match="JSON"):
        log.write(1, {"train/loss": float("nan")})
