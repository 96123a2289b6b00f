"""The runner killed, interrupted and started again: nothing runs twice at once, and the values are the same."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import fake_grid
import pytest

from vilbert_jax.ablation.plan import read_values
from vilbert_jax.ablation.report import CSV, MARKDOWN, Facts, write_results
from vilbert_jax.errors import InputError

PATIENCE = 60  # seconds after which a test gives up


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


def start(root, folder, *flags):
    """The runner as a process of its own, in a process group of its own as under a shell."""
    command = [sys.executable, fake_grid.__file__, str(root), str(folder), *flags]
    with (folder.parent / "runner.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def attempts(folder):
    path = folder / "runs.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def bytes_of(folder, plan, results):
    """The tables of a grid, with facts that do not depend on the clock."""
    grid = fake_grid.GRID
    values, _ = read_values(plan, grid.columns, results)
    write_results(folder, grid.variants, grid.columns, values, Facts("", [], 0.0, 0.0, 0.0, {}, "two"))
    return [(folder / name).read_bytes() for name in (MARKDOWN, CSV)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return fake_grid.write_mains(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def untouched(root, tmp_path_factory):
    """The tables of a grid that nobody disturbed."""
    folder = tmp_path_factory.mktemp("untouched")
    return bytes_of(folder, *fake_grid.run_grid(root, folder, parallel=4))


def test_killed_twice_at_random_it_ends_with_the_same_table(root, untouched, tmp_path):
    folder, dice = tmp_path / "grid", random.Random(0)
    for kill, first, last in ((os.kill, 1, 8), (os.killpg, 11, 18)):
        runner, lines = start(root, folder), dice.randint(first, last)
        until(lambda lines=lines: len(attempts(folder)) >= lines, "the runner")
        kill(runner.pid, signal.SIGKILL)
        runner.wait()
    plan, results = fake_grid.run_grid(root, folder)
    assert set(results.values()) == {"done"}
    assert bytes_of(folder, plan, results) == untouched
    assert not list(folder.rglob("collision"))
    ended = [a for a in attempts(folder) if a["seconds"] is not None]
    assert sorted(a["run"] for a in ended if a["status"] == "done") == sorted(plan.runs)
    assert {a["status"] for a in ended} <= {"done", "killed"}


@pytest.mark.skipif(sys.platform != "linux", reason="children end with their parent on Linux alone")
def test_what_a_killed_runner_has_started_ends_with_it(root, tmp_path):
    folder = tmp_path / "grid"
    runner = start(root, folder)
    pids = until(lambda: _children(runner.pid), "a child")
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    until(lambda: not any(_runs(pid) for pid in pids), "the children to end")


def _children(pid):
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _runs(pid):
    status = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_trainings_save_once_and_the_rest_is_done_later(root, untouched, tmp_path, number):
    folder = tmp_path / "grid"
    runner = start(root, folder)
    until(lambda: list(folder.rglob("started")), "a training")
    os.killpg(runner.pid, number)  # as a terminal does: whoever is in the group gets it
    assert runner.wait(PATIENCE) == 130
    asked = [path.read_text().split() for path in folder.rglob("signals")]
    assert asked
    assert all(signals == [str(signal.SIGTERM.value)] for signals in asked)
    assert "stopped" in {a["status"] for a in attempts(folder)}
    plan, results = fake_grid.run_grid(root, folder)
    assert set(results.values()) == {"done"}
    assert bytes_of(folder, plan, results) == untouched


def test_a_second_runner_is_refused(root, tmp_path):
    folder = tmp_path / "grid"
    runner = start(root, folder)
    until(lambda: attempts(folder), "the runner")
    with pytest.raises(InputError, match="are run by another process"):
        fake_grid.run_grid(root, folder)
    os.kill(runner.pid, signal.SIGTERM)
    assert runner.wait(PATIENCE) == 130


def test_asked_twice_it_kills(root, tmp_path):
    folder = tmp_path / "grid"
    runner = start(root, folder, "stubborn=True", "steps=100000")
    until((folder / "seed0" / "two" / "pretraining" / "started").exists, "a training")
    runner.send_signal(signal.SIGINT)
    until(lambda: "once more to kill" in (tmp_path / "runner.log").read_text(), "it to say so")
    assert runner.poll() is None
    pids = _children(runner.pid)
    assert pids
    runner.send_signal(signal.SIGINT)
    assert runner.wait(PATIENCE) == 130
    until(lambda: not any(_runs(pid) for pid in pids), "the children to end")
