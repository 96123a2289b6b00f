"""Builds that are killed, disturbed or run out of disk: nothing opens that is not whole, and the next one is clean."""

import errno
import fcntl
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import slow_store
from etils import epath

from tfds_builders.sole_builder import sole_builder
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

PROGRAM = pathlib.Path(slow_store.__file__)
ROOT = PROGRAM.parents[2]


class Unhindered(slow_store.SlowStore, skip_registration=True):
    """A store made in this process, without waiting."""

    name = "slow_store"
    WAIT = False


def start(data_dir, *more):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(data_dir), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def wait_until_waiting(process):
    assert any(line == "waiting\n" for line in process.stdout)


def finish(process):
    """Lets a process that waits go on; its exit code and what it said on stderr."""
    _, said = process.communicate("go\n", timeout=120)
    return process.returncode, said


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def incomplete(data_dir):
    return [path.name for path in (data_dir / "slow_store").glob("incomplete*")]


def opens(data_dir):
    """Number of records, or None where there is no store to open."""
    if (data_dir / "slow_store" / "1.0.0").exists():
        return len(RegionStore(data_dir / "slow_store"))
    with pytest.raises(InputError, match="no region store"):
        RegionStore(data_dir / "slow_store")
    return None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert finish(start(root))[0] == 0
    assert opens(root) == 3 * slow_store.RECORDS
    return contents(root)


def test_killed_and_run_again_ends_as_if_undisturbed(undisturbed, tmp_path):
    killed = start(tmp_path)
    wait_until_waiting(killed)
    assert opens(tmp_path) is None
    killed.kill()
    assert finish(killed)[0] == -signal.SIGKILL
    assert opens(tmp_path) is None
    (left,) = incomplete(tmp_path)
    assert list((tmp_path / "slow_store" / left).glob("*.array_record*"))
    code, said = finish(start(tmp_path))
    assert code == 0
    assert f"found an interrupted build of {tmp_path / 'slow_store' / '1.0.0'} ({left}), starting clean" in said
    assert not incomplete(tmp_path)
    assert contents(tmp_path) == undisturbed


def test_leftovers_of_another_version_stay(tmp_path):
    other = tmp_path / "slow_store" / "incomplete.ABC123_2.0.0"
    other.mkdir(parents=True)
    Unhindered(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert other.exists()


def test_a_second_process_is_refused_and_disturbs_nothing(undisturbed, tmp_path):
    first = start(tmp_path)
    wait_until_waiting(first)
    before = incomplete(tmp_path)
    code, said = finish(start(tmp_path))
    assert code == 2
    assert f"is being built by process {first.pid} on " in said.splitlines()[-1]
    assert incomplete(tmp_path) == before
    assert finish(first)[0] == 0
    assert contents(tmp_path) == undisturbed


def test_a_store_that_is_complete_needs_no_lock(tmp_path):
    Unhindered(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with sole_builder(epath.Path(tmp_path / "slow_store" / "1.0.0")):
        Unhindered(data_dir=tmp_path, file_format="array_record").download_and_prepare()


@pytest.mark.parametrize("num_bytes", [1, 50_000])  # fails at once, or in the first shard
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, num_bytes):
    code, said = finish(start(tmp_path, str(num_bytes)))
    assert code == 2
    last = said.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'slow_store' / '1.0.0'} could not be written: File too large; ")
    assert "Traceback" not in said
    assert opens(tmp_path) is None
    assert not incomplete(tmp_path)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = tmp_path / "slow_store" / "incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    Unhindered(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert "has no locks (No locks available)" in capsys.readouterr().err
    assert left.exists()  # it may be another process's
    assert opens(tmp_path) == 3 * slow_store.RECORDS


def test_an_object_store_is_refused():
    with (
        pytest.raises(InputError, match="gs://bucket/name/1.0.0 is in an object store"),
        sole_builder(epath.Path("gs://bucket/name/1.0.0")),
    ):
        pass
