"""experiments/pretrain.py as a user runs it: from the command line to the pictures, and through every mishap."""

import fcntl
import json
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders import scenes
from tfds_builders.scenes.scenes_dataset_builder import make_configs

ROOT = pathlib.Path(__file__).parents[2]
PRETRAIN = str(ROOT / "experiments" / "pretrain.py")
TINY = f"--config={ROOT / 'configs' / 'tiny.py'}"
SMALLER = (
    "--config.model.text.num_layers=2",
    "--config.model.text_co_layers=(0,1)",
    "--config.model.text.width=16",
    "--config.model.text.mlp_dim=16",
    "--config.model.regions.width=16",
    "--config.model.regions.mlp_dim=16",
    "--config.model.co_width=16",
    "--config.batch_size=8",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=8",
    "--config.log_every=1",
)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The small data sets under their own names, with a handful of pictures in them."""
    folder = tmp_path_factory.mktemp("tfds")
    for config in make_configs("tiny", {"train": 24, "validation": 5, "test": 2}, calibration_scenes=20):
        if config.name in ("captions_tiny", "regions_tiny"):
            builder = scenes.Builder(config=config, data_dir=folder, file_format="array_record", processes=1)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig())
            built = folder / "scenes" / config.name
            built.rename(built.with_name(config.name.replace("tiny", "small")))
    return folder


def run(*flags):
    """Runs the command in this process; returns its exit code."""
    main = runpy.run_path(PRETRAIN)
    with pytest.raises(SystemExit) as exit_info:
        main["cli"].run(main["main"], ["pretrain.py", *flags])
    return exit_info.value.code


def start(data, workdir, *flags):
    """Starts the command in a process of its own, on one device."""
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    own = [flag for flag in SMALLER if "mesh" not in flag]
    arguments = [sys.executable, PRETRAIN, TINY, f"--config.data_dir={data}", f"--workdir={workdir}", *own, *flags]
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)


def output(workdir):
    return pathlib.Path(f"{workdir}.log").read_text()


def logged(workdir):
    """Whole lines only: the file is being written."""
    path = pathlib.Path(workdir, "metrics.jsonl")
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole run of ten steps on an 8-way FSDP mesh, and its workdir."""
    workdir = tmp_path_factory.mktemp("finished")
    code = run(
        TINY, f"--config.data_dir={data}", f"--workdir={workdir}", *SMALLER, "--config.total_steps=10",
        "--config.eval_every=5", "--config.checkpoint_every=4", "--config.optimizer.learning_rate=1e-2",
    )  # fmt: skip
    assert code == 0
    return workdir


def test_a_run_leaves_metrics_checkpoints_and_pictures(finished):
    lines = logged(finished)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    scored = [line for line in lines if "eval/validation/alignment_accuracy" in line]
    assert [line["step"] for line in scored] == [5, 10]
    assert any("eval/blind/words/colour" in line for line in lines)
    steps = sorted(int(path.name) for path in (finished / "checkpoints").iterdir() if path.name.isdigit())
    assert steps == [4, 8, 10]
    for name in ("report.png", "examples.png"):
        pixels = np.asarray(Image.open(finished / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 10, f"{name} is blank"


def test_a_finished_run_ends_at_once_and_reports_again(finished, data, capfd):
    before = logged(finished)
    flags = (TINY, f"--config.data_dir={data}", f"--workdir={finished}", *SMALLER, "--config.total_steps=10")
    assert run(*flags, "--config.optimizer.learning_rate=1e-2") == 0
    assert logged(finished) == before
    assert "alignment accuracy" in capfd.readouterr().out


def test_another_model_in_the_same_workdir_is_refused(finished, data, capfd):
    flags = (TINY, f"--config.data_dir={data}", f"--workdir={finished}", *SMALLER, "--config.model.fusion=sum")
    assert run(*flags) == 2
    message = capfd.readouterr().err
    assert "model.fusion" in message
    assert "--workdir" in message


def test_a_corrupt_last_checkpoint_falls_back_to_the_one_before(finished, data, tmp_path, caplog):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    largest = max((workdir / "checkpoints" / "10").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:-7])
    flags = (TINY, f"--config.data_dir={data}", f"--workdir={workdir}", *SMALLER, "--config.total_steps=10")
    fine = ("--config.eval_every=5", "--config.checkpoint_every=4", "--config.optimizer.learning_rate=1e-2")
    assert run(*flags, *fine) == 0
    assert "checkpoint of step 10 is damaged" in caplog.text
    assert "Continuing from step 8" in caplog.text
    assert logged(workdir) == logged(finished)  # steps 9 and 10 again, to the last bit


def test_a_loss_that_is_not_a_number_stops_the_run(data, tmp_path, capfd):
    flags = (TINY, f"--config.data_dir={data}", f"--workdir={tmp_path}", *SMALLER, "--config.total_steps=10")
    wild = ("--config.optimizer.learning_rate=1e15", "--config.optimizer.weight_decay=0.0")
    assert run(*flags, *wild, "--config.checkpoint_every=1", "--config.log_every=10") == 1
    message = capfd.readouterr().err
    assert "stopped:" in message
    assert "loss is nan at step 2" in message
    assert "Traceback" not in message
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["1"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            [f"--config={ROOT / 'configs' / 'base.py'}"],
            ["tfds_builders/build.py conceptual_captions", "--config=configs/base.py:scenes"],
        ),
        ([TINY, "--config.btach_size=8"], ["--config.btach_size does not exist", "did you mean batch_size"]),
        ([TINY, "--config.optimizer.lr=1"], ["--config.optimizer.lr does not exist"]),
        ([TINY, "--config.batch_size=many"], ["config.batch_size=many"]),
        ([TINY, "--config.batch_size=12"], ["batch_size 12 must be a multiple"]),
        ([TINY, "--config.mesh.tensor=3"], ["mesh data=-1, fsdp=1, tensor=3", "8 cpu device(s)"]),
        ([TINY, "--config.model.vocab_size=7"], ["model.vocab_size is 7", "--config.model.vocab_size="]),
        ([TINY, "--config.masked_losses_on=none"], ["one of all, aligned"]),
        ([TINY, "--config.model.text.mlp_dim=0"], ["text.mlp_dim is 0"]),
        ([TINY, "--config.optimizer.learning_rate=nan"], ["optimizer.learning_rate is nan"]),
        ([TINY, "--config.loss_weights.token_loss=-1.0"], ["loss_weights.token_loss is -1.0"]),
        ([TINY, "--config.annotations=scenes/regions_small"], ["no feature 'caption'"]),
        ([TINY, "--config.eval_split=test[:x]"], ["no slice such as validation[:500]"]),
        ([f"--config={ROOT / 'README.md'}"], ["README.md cannot be used as a config"]),
        ([f"--config={ROOT / 'configs' / 'absent.py'}"], ["absent.py"]),
        ([f"--config={ROOT / 'configs' / 'base.py'}:flickr"], ["choose conceptual_captions", "scenes"]),
        ([], ["--config is missing"]),
        ([TINY, "surplus"], ["arguments not understood: surplus"]),
    ],
    ids=lambda value: value[-1].split("/")[-1] if isinstance(value, list) and value else None,
)
def test_bad_input_is_one_message_and_exit_code_2(flags, expected, data, tmp_path, capfd):
    known = [f"--config.data_dir={data}"] if any(".py" in flag for flag in flags) else []
    assert run(*flags, *known, f"--workdir={tmp_path}") == 2
    message = capfd.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    for words in expected:
        assert words in message
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_second_run_in_the_same_workdir_is_refused(finished, data, capfd):
    with (finished / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(TINY, f"--config.data_dir={data}", f"--workdir={finished}", *SMALLER) == 2
    assert "another run is using" in capfd.readouterr().err


def test_a_workdir_that_cannot_be_made_is_one_message(data, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert run(TINY, f"--config.data_dir={data}", f"--workdir={tmp_path / 'file'}", *SMALLER) == 2
    message = capfd.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message


def test_killed_and_started_again_logs_the_same_losses_bit_for_bit(data, tmp_path):
    steps = ("--config.total_steps=30", "--config.checkpoint_every=3", "--config.eval_every=15")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight = start(data, whole, *steps)
    assert straight.wait(timeout=300) == 0, output(whole)
    kill_at = int(np.random.default_rng(time.time_ns()).integers(2, 25))
    process = start(data, killed, *steps)
    while process.poll() is None and not any(line["step"] >= kill_at for line in logged(killed)):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    again = start(data, killed, *steps)
    assert again.wait(timeout=300) == 0, output(killed)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes(), f"killed at {kill_at}"
    losses = [line["train/loss"] for line in logged(whole) if "train/loss" in line]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_sigterm_saves_and_exits_with_0(data, tmp_path):
    workdir = tmp_path / "run"
    process = start(data, workdir, "--config.total_steps=100000", "--config.checkpoint_every=100000")
    while process.poll() is None and not logged(workdir):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0, output(workdir)
    assert "saved; the same command continues" in output(workdir)
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert saved == [logged(workdir)[-1]["step"]]
