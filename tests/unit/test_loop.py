"""The training run as a whole: what it leaves behind, and how it stops and starts again."""

import dataclasses
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vilbert_jax.checkpoints.folder import Initial, latest_checkpoint, read_contents
from vilbert_jax.errors import InputError
from vilbert_jax.sharding import MeshConfig
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.evaluation import MeanEvaluation
from vilbert_jax.training.logging import NonFiniteError
from vilbert_jax.training.optimizer import OptimizerConfig

rows = toy.logged


def states_equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, toy.run(workdir)


def test_a_run_logs_evaluates_and_saves_by_completed_steps(whole):
    workdir, result = whole
    assert int(result.state.step) == 12
    assert not result.interrupted
    train = [row["step"] for row in rows(workdir) if "train/loss" in row]
    evaluated = [row["step"] for row in rows(workdir) if "eval/validation/fit_loss" in row]
    assert train == list(range(1, 13))
    assert evaluated == [4, 8, 12]
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [10, 12]
    assert list((workdir / "tensorboard").iterdir())
    names = [
        "fit_loss",
        "sign_loss",
        "close_accuracy",
        "loss",
        "grad_norm",
        "update_norm",
        "param_norm",
        "learning_rate",
    ]
    assert set(rows(workdir)[0]) == {"step", *(f"train/{name}" for name in names)}


def test_the_loss_falls(whole):
    losses = [row["eval/validation/fit_loss"] for row in rows(whole[0]) if "eval/validation/fit_loss" in row]
    assert losses[0] > losses[1] > losses[2]


def test_the_final_evaluation_is_that_of_the_final_parameters(whole):
    workdir, result = whole
    params = jax.device_get(result.state.params)
    batches = [toy.make_batch(1000), toy.make_batch(1001), toy.make_batch(1002, real=8)]
    sums = [toy.sums(params, batch)["fit_loss"] for batch in batches]
    expected = sum(float(s.sum) for s in sums) / sum(float(s.weight) for s in sums)
    (found,) = [row["eval/validation/fit_loss"] for row in rows(workdir) if row["step"] == 12 and len(row) == 4]
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_first_batch_and_dropout_are_those_of_step_0(whole):
    """Parameters are initialised from the seed alone, so the loss of step 1 can be computed by hand."""
    init_key, dropout_key = jax.random.split(jax.random.key(toy.CONFIG.seed))
    params = toy.init_params(init_key)
    sums = toy.loss_fn(params, toy.make_batch(0), jax.random.fold_in(dropout_key, 0))
    expected = float(sums["fit_loss"].sum / sums["fit_loss"].weight)
    assert rows(whole[0])[0]["train/fit_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_finished_run_is_returned_as_it_is(whole):
    workdir, result = whole
    before = (workdir / "metrics.jsonl").read_bytes()

    def fail(step):
        raise AssertionError("trained again")

    again = toy.run(workdir, dataset=toy.Batches(before=fail))
    assert states_equal(again.state, result.state)
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("kill_at", [4, 6, 9])
def test_killed_and_started_again_the_losses_are_the_same_bit_for_bit(whole, tmp_path, kill_at):
    """Before the first checkpoint, while it is written, and between two of them."""
    script = Path(toy.__file__)
    environment = os.environ | {"PYTHONPATH": str(script.parents[2])}
    killed = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(kill_at)], env=environment, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert max(row["step"] for row in rows(tmp_path)) in (kill_at - 1, kill_at - 2)
    result = toy.run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert states_equal(result.state, whole[1].state)


@pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, 7), (signal.SIGTERM, 8), (signal.SIGINT, 7)])
def test_a_signal_ends_the_run_after_the_step_and_saves(whole, tmp_path, number, at):
    """Step 8 would be evaluated; the evaluation is made up for after the resume."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def send(step):
        if step == at:  # while the batch of that step is prepared
            os.kill(os.getpid(), number)

    result = toy.run(tmp_path, dataset=toy.Batches(before=send))
    assert result.interrupted
    assert int(result.state.step) == at
    assert latest_checkpoint(tmp_path / "checkpoints").name == str(at)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert not toy.run(tmp_path).interrupted
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_second_ctrl_c_is_not_swallowed(tmp_path):
    def send(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path, dataset=toy.Batches(before=send))


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path, log_every):
    config = dataclasses.replace(toy.CONFIG, log_every=log_every, eval_every=100)
    with pytest.raises(NonFiniteError, match="at step 8") as error:
        toy.run(tmp_path, config, dataset=toy.Batches(poison_at=8))
    assert (error.value.step, error.value.metric) == (8, "fit_loss")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]
    assert all(row["step"] < 8 for row in rows(tmp_path))
    assert int(toy.run(tmp_path, config).state.step) == 12  # the checkpoint is good


def test_no_state_is_saved_before_its_losses_were_checked(tmp_path):
    """The poison lies between two log steps, right before a checkpoint."""
    config = dataclasses.replace(toy.CONFIG, log_every=100, eval_every=100, checkpoint_every=2)
    with pytest.raises(NonFiniteError):
        toy.run(tmp_path, config, dataset=toy.Batches(poison_at=3))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_an_evaluation_that_is_not_finite_stops_the_run(tmp_path):
    def metric_fn(params, batch):
        sums = toy.metric_fn(params, batch)
        return {"fit_loss": sums["fit_loss"]._replace(sum=jnp.float32(jnp.nan))}

    with pytest.raises(NonFiniteError, match="eval/validation/fit_loss is nan at step 4"):
        toy.run(tmp_path, evaluations={"validation": MeanEvaluation(metric_fn, toy.Examples())})


def test_a_damaged_last_checkpoint_costs_only_the_steps_since_the_one_before(whole, tmp_path, caplog):
    workdir = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for file in (workdir / "checkpoints" / "12" / "state" / "d").iterdir():
        file.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        result = toy.run(workdir)
    assert "Continuing from step 10" in caplog.text
    assert states_equal(result.state, whole[1].state)
    assert (workdir / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_a_resume_on_another_mesh_gives_the_same_losses_within_rounding(whole, tmp_path):
    def send(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    toy.run(tmp_path, dataset=toy.Batches(before=send))
    toy.run(tmp_path, mesh=MeshConfig(fsdp=4))
    losses = [[row["train/loss"] for row in rows(path) if "train/loss" in row] for path in (tmp_path, whole[0])]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_micro_batches_and_workers_reach_their_place(whole, tmp_path):
    asked = []

    class Watched(toy.Batches):
        def iterate(self, first_step, *, workers=0):
            asked.append((first_step, workers))
            return super().iterate(first_step, workers=workers)

    config = dataclasses.replace(toy.CONFIG, num_microbatches=4, num_workers=2, total_steps=2)
    toy.run(tmp_path, config, dataset=Watched())
    assert asked == [(0, 2)]
    grad_norms = [rows(path)[0]["train/grad_norm"] for path in (tmp_path, whole[0])]
    assert grad_norms[0] == pytest.approx(grad_norms[1], rel=0.2)  # dropout differs, nothing else


def test_the_iterator_is_closed(tmp_path):
    closed = []

    class Closing(toy.Batches):
        def iterate(self, first_step, *, workers=0):
            try:
                yield from super().iterate(first_step, workers=workers)
            finally:
                closed.append(True)

    toy.run(tmp_path, dataclasses.replace(toy.CONFIG, total_steps=2), dataset=Closing())
    assert closed == [True]


SHORT = dataclasses.replace(toy.CONFIG, total_steps=2)


def test_initial_parameters_are_used_once(tmp_path, capsys):
    calls = []

    def take_over(params):
        calls.append(jax.tree.map(lambda x: x.sharding.spec, params)["alignment_head"]["kernel"])
        head = jax.tree.map(lambda x: np.full(x.shape, 0.25), params["alignment_head"])
        return Initial(params | {"alignment_head": head}, {"from": "elsewhere"}, "a table")

    frozen = OptimizerConfig(learning_rate_by_path=((".*", 0.0),))
    result = toy.run(tmp_path, SHORT, initial_params=take_over, optimizer=frozen)
    assert "a table" in capsys.readouterr().out
    assert calls == [jax.P("fsdp", None)]
    kernel = result.state.params["alignment_head"]["kernel"]
    assert kernel.dtype == jnp.float32
    assert kernel.sharding.spec == jax.P("fsdp", None)
    assert (np.asarray(kernel) == 0.25).all()
    toy.run(tmp_path, dataclasses.replace(SHORT, total_steps=3), initial_params=take_over, optimizer=frozen)
    assert len(calls) == 1  # a resume keeps what it has learnt, and where that came from
    assert read_contents(latest_checkpoint(tmp_path / "checkpoints")).provenance == {"from": "elsewhere"}


def test_initial_parameters_that_do_not_fit_are_an_error(tmp_path):
    def wrong(params):
        return Initial(params | {"alignment_head": {"kernel": np.zeros((2, 2)), "bias": np.zeros(toy.CLASSES)}}, {})

    with pytest.raises(
        InputError, match=r"1 place\(s\), first alignment_head/kernel: given \(2, 2\), expected \(8, 6\)"
    ):
        toy.run(tmp_path, SHORT, initial_params=wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": MeshConfig(data=3)}, "does not fit the 8 cpu device"),
        ({"config": dataclasses.replace(SHORT, batch_size=6)}, r"batch_size 6 must be a multiple of .* 1 x 4"),
        ({"config": dataclasses.replace(SHORT, num_microbatches=8)}, "batch_size 16 must be a multiple"),
        ({"optimizer": OptimizerConfig(learning_rate_by_path=(("head", 1.0),))}, "matches none of the 5 parameters"),
        ({"loss_weights": {"fitloss": 1.0}}, "correct the name"),
        ({"param_axes": ()}, "no row of the sharding table"),
        ({"dataset": toy.Examples(), "config": toy.CONFIG}, "training data ended before step 4"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, changes, message):
    config = changes.get("config", SHORT)
    with pytest.raises(InputError, match=message):
        toy.run(tmp_path, config, **{name: value for name, value in changes.items() if name != "config"})


def test_a_workdir_of_another_model_is_refused(whole, tmp_path):
    workdir = Path(shutil.copytree(whole[0], tmp_path / "run"))
    identity = {"model": {"width": toy.WIDTH, "layers": (1, 3)}, "vocabulary": "abc"}
    with pytest.raises(InputError, match=re.escape("model.layers: checkpoint [1, 2], this run [1, 3]")):
        toy.run(workdir, identity=identity)
    assert (workdir / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("field", ["total_steps", "batch_size", "log_every", "checkpoint_every", "num_microbatches"])
def test_intervals_must_be_positive(field):
    with pytest.raises(InputError, match=f"{field} is 0; it must be at least 1"):
        TrainingConfig(**({"total_steps": 1, "batch_size": 1} | {field: 0}))


@pytest.mark.parametrize("field", ["seed", "num_workers", "patience"])
def test_what_may_be_zero_may_not_be_negative(field):
    TrainingConfig(**({"total_steps": 1, "batch_size": 1} | {field: 0}))
    with pytest.raises(InputError, match=f"{field} is -1; it must be at least 0"):
        TrainingConfig(**({"total_steps": 1, "batch_size": 1} | {field: -1}))
