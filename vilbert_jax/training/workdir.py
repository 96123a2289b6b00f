"""The folder of a run: one run at a time works in it, and facts about the run lie there."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vilbert_jax.errors import InputError


@contextlib.contextmanager
def only_run_in(workdir: Path) -> Iterator[None]:
    """Makes the folder and locks it: two runs would overwrite each other's checkpoints and metrics.

    Raises:
        InputError: another run holds it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() > 0:
        yield
        return
    with (workdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is using {workdir}: wait for it, or use another --workdir.") from None
        yield


def write_notes(workdir: Path, notes: Mapping[str, Any]) -> None:
    """Writes JSON-like facts, by file name."""
    if jax.process_index() == 0:
        for name, facts in notes.items():
            (workdir / name).write_text(json.dumps(facts, indent=2) + "\n")
