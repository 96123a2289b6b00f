"""The folder of a run: one run at a time works in it, and facts about the run lie there."""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vilbert_jax import hosts
from vilbert_jax.errors import InputError

_LOCK = ".lock"
_SEEN_WITHIN = 30.0  # seconds; network file systems show each other's files late


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """Makes the folder and locks it: two runs would overwrite each other's checkpoints and metrics.

    The first host holds the lock for all of its run; the others see by what it wrote there that they share the folder.

    Raises:
        InputError: another run holds it, or a host has another folder of this name.
    """
    if jax.process_index() > 0:
        _require_shared(workdir, hosts.told_by_first())
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is using {workdir}: wait for it, or use another --workdir.") from None
        lock.truncate(0)
        lock.write(mark := secrets.token_hex(8))
        lock.flush()
        os.fsync(lock.fileno())
        hosts.told_by_first(mark)
        yield


def _require_shared(workdir: Path, mark: str) -> None:
    deadline = time.monotonic() + _SEEN_WITHIN
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if (workdir / _LOCK).read_text() == mark:
                return
        time.sleep(0.2)
    raise InputError(
        f"{workdir.absolute()} of {hosts.name()} is not the folder of process 0: all processes save into one folder. "
        "Give a --workdir on a file system that all hosts share."
    )


def write_notes(workdir: Path, notes: Mapping[str, Any]) -> None:
    """Writes JSON-like facts, by file name."""
    if jax.process_index() == 0:
        for name, facts in notes.items():
            (workdir / name).write_text(json.dumps(facts, indent=2) + "\n")
