"""Runs of several real processes over loopback: the same numbers, one set of files, and a clean end when one dies."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import host_worker
import pytest
import toy_training as toy

from vilbert_jax.checkpoints.folder import find_damage, read_contents

WORKER = pathlib.Path(__file__).with_name("host_worker.py")
ROOT = pathlib.Path(__file__).parents[2]
STEPS, KILLED_AT = 20, 16  # checkpoints after 7, 14 and 20; saving the second waits for the first


class Ended(NamedTuple):
    """How the processes of a run ended, by process."""

    codes: list[int]
    printed: list[dict]  # what the worker tells of its result; empty for nothing
    said: list[str]


def run(workdir, processes=2, devices=8, each=None, **settings) -> Ended:
    """Runs the worker in ``processes`` processes with ``devices`` together; ``each`` has settings of single ones."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests", ROOT / "tests" / "unit")),
    }
    shared = {"coordinator": f"localhost:{port}", "processes": processes, "workdir": str(workdir), "steps": STEPS}
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps({**shared, "process": k, **settings, **(each or {}).get(k, {})})],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(processes)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    printed = [json.loads(out[out.find("{") :]) if "{" in out else {} for out, _ in outputs]  # Gloo writes there too
    return Ended([process.returncode for process in running], printed, [err for _, err in outputs])


def losses(workdir):
    return {row["step"]: row["train/loss"] for row in toy.logged(workdir) if "train/loss" in row}


def files(workdir):
    return sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file())


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in this process, on all eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    host_worker.train_toy({"workdir": workdir, "steps": STEPS}, lambda step: None)
    return workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run in two processes, and how it ended."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The run in two processes of which the second was killed, and how it ended."""
    workdir = tmp_path_factory.mktemp("killed")
    ended = run(workdir, at=KILLED_AT, who=1, signal=signal.SIGKILL)
    return workdir, ended


def test_two_processes_train_as_one(alone, whole):
    workdir, ended = whole
    assert ended.codes == [0, 0], ended.said
    ours, expected = toy.logged(workdir), toy.logged(alone)
    assert [row.keys() for row in ours] == [row.keys() for row in expected]
    for row, other in zip(ours, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="a minute or two to compile; LONG_TESTS=1 runs it")
def test_vilbert_trains_on_two_processes_as_on_one(tmp_path):
    settings = {"model": "vilbert", "steps": 20}
    ended = run(tmp_path / "two", **settings)
    assert ended.codes == [0, 0], ended.said
    host_worker.train_vilbert({"workdir": tmp_path / "one", **settings}, lambda step: None)
    expected = losses(tmp_path / "one")
    assert len(expected) == 20
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-5)


def test_what_is_written_once_is_written_once(alone, whole):
    workdir, ended = whole
    mine = {name for name in files(workdir) if not name.startswith(("checkpoints/", "best/", "tensorboard/"))}
    assert mine == {".lock", "metrics.jsonl", "notes.json"}
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert saved(workdir) == [14, 20]
    for folder in (workdir / "checkpoints" / "20", next((workdir / "best").iterdir())):
        assert find_damage(folder) is None
        assert {name.split("/")[1] for name in read_contents(folder).files} >= {"ocdbt.process_0", "ocdbt.process_1"}
    assert [path.name for path in (workdir / "best").iterdir()] == [path.name for path in (alone / "best").iterdir()]
    assert [result.get("step") for result in ended.printed] == [STEPS, None]
    assert "step/s" not in ended.said[1]  # one progress bar


def test_when_a_process_is_killed_the_other_ends_with_a_reason(killed):
    workdir, (codes, _, said) = killed
    assert codes == [1, -signal.SIGKILL]
    message = said[0].splitlines()[-1]
    assert message.startswith("stopped: process 1 on ")
    assert "ended without a word" in message
    assert "start all processes again with the same command" in message
    assert "Traceback" not in said[0]
    assert saved(workdir)[0] == 7


def test_a_killed_run_continues_bit_for_bit(killed, whole):
    workdir, _ = killed
    ended = run(workdir)
    assert ended.codes == [0, 0], ended.said
    assert (workdir / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert ended.printed[0]["total"] == whole[1].printed[0]["total"]
    assert saved(workdir) == [14, 20]


def test_a_signal_to_one_process_stops_all_and_other_numbers_of_processes_continue(alone, tmp_path):
    ended = run(tmp_path, at=10, who=1, signal=signal.SIGTERM)
    assert ended.codes == [0, 0], ended.said
    stopped = ended.printed[0]
    assert stopped["interrupted"]
    assert stopped["step"] in (10, 11)  # the vote of one step is read at the next
    assert saved(tmp_path) == [7, stopped["step"]]
    ended = run(tmp_path, processes=4)
    assert ended.codes == [0, 0, 0, 0], ended.said
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-5)


def test_processes_that_run_something_else_are_named(tmp_path):
    codes, _, said = run(tmp_path, each={1: {"recipe": {"optimizer": {"learning_rate": 0.1}}}})
    assert set(codes) <= {1, 2}
    assert 2 in codes
    message = said[codes.index(2)]
    assert message.startswith("error: the processes of this run do not run the same; compared with process 0 on ")
    assert "process 1 on " in message
    assert "recipe.optimizer.learning_rate is 0.1, not None" in message
    assert not (tmp_path / "metrics.jsonl").exists()


def test_processes_that_do_not_find_each_other_say_so(tmp_path):
    codes, _, said = run(tmp_path, processes=1, each={0: {"processes": 2, "process": 1}}, timeout=1)
    assert codes == [2]
    assert "error: the processes of this run did not find each other (config.hosts: process 1 of 2" in said[0]
    assert "within 1 seconds" in said[0]
    assert "docs/scaling.md" in said[0]
