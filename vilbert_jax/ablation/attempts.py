"""How long every attempt at a run took, and on what machine: ``runs.jsonl``.

The file has a line when an attempt starts and one when it ends; nothing but times and machines is lost with it.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vilbert_jax.ablation.runs import Run
from vilbert_jax.errors import InputError

FILE = "runs.jsonl"
_NUMBER = float | int
_KINDS = {
    "run": str, "started": _NUMBER, "cores": int, "seconds": _NUMBER | None, "status": str, "gpus": int, "machine": str,
}  # fmt: skip


class Attempt(NamedTuple):
    """One start of a run.

    Attributes:
        run: name of the run.
        started: seconds since 1970.
        cores: processor cores it had.
        seconds: until its end; None while it runs.
        status: ``done``, ``failed``, ``stopped`` or ``killed``; empty while it runs.
        gpus: GPUs it had.
        machine: what it ran on, in a line.
    """

    run: str
    started: float
    cores: int
    seconds: float | None = None
    status: str = ""
    gpus: int = 0
    machine: str = ""


class Attempts:
    """The attempts at the runs of a folder.

    Args:
        folder: of all runs.
        machine: what new attempts run on, in a line.
    """

    def __init__(self, folder: Path, *, machine: str = ""):
        self._folder, self._machine = folder, machine
        self._found = {(a.run, a.started): a for a in _read(folder / FILE)}

    def begin(self, run: str, cores: int, gpus: int) -> Attempt:
        """Notes that an attempt starts."""
        return self._write(Attempt(run, time.time(), cores, gpus=gpus, machine=self._machine))

    def end(self, attempt: Attempt, status: str) -> None:
        """Notes how it ended."""
        self._write(attempt._replace(seconds=time.time() - attempt.started, status=status))

    def close_killed(self) -> None:
        """Ends the attempts that a kill left open; only where no other process may be at them."""
        path = self._folder / FILE
        if path.exists() and not (text := path.read_text()).endswith(
            "\n"
        ):  # what follows must not continue a torn line
            path.write_text(text[: text.rfind("\n") + 1])
        for attempt in [a for a in self._found.values() if a.seconds is None]:
            log = self._folder / attempt.run / "log.txt"  # its last sign of life
            seconds = max(log.stat().st_mtime - attempt.started, 0.0) if log.exists() else 0.0
            self._write(attempt._replace(seconds=seconds, status="killed"))

    def last_status(self) -> dict[str, str]:
        """How the last attempt at each run ended, by name."""
        return {attempt.run: attempt.status for attempt in self._found.values()}

    def seconds_by_kind(self, runs: Mapping[str, Run]) -> dict[tuple[str, ...], float]:
        """Mean seconds of the runs that are done, all attempts together, by kind and by every beginning of it."""
        spent: dict[str, float] = {}
        for attempt in self._found.values():
            spent[attempt.run] = spent.get(attempt.run, 0.0) + (attempt.seconds or 0.0)
        finished = {a.run for a in self._found.values() if a.status == "done"} & runs.keys()
        kinds: dict[tuple[str, ...], list[float]] = {}
        for name in sorted(finished):
            kind = runs[name].kind
            for length in range(len(kind) + 1):
                kinds.setdefault(kind[:length], []).append(spent[name])
        return {kind: sum(seconds) / len(seconds) for kind, seconds in kinds.items()}

    def core_seconds(self) -> float:
        """Time of all attempts on each of their cores, the failed and killed ones included."""
        return sum((a.seconds or 0.0) * a.cores for a in self._found.values())

    def gpu_seconds(self) -> float:
        """The same of GPUs."""
        return sum((a.seconds or 0.0) * a.gpus for a in self._found.values())

    def wall_seconds(self) -> float:
        """Time in which at least one run was running."""
        total, reached = 0.0, 0.0
        for attempt in sorted(self._found.values(), key=lambda a: a.started):
            end = attempt.started + (attempt.seconds or 0.0)
            total += max(end - max(attempt.started, reached), 0.0)
            reached = max(reached, end)
        return total

    def machines(self) -> list[str]:
        """What the attempts ran on, as far as it is known, the first one first."""
        return list(dict.fromkeys(a.machine for a in self._found.values() if a.machine))

    def _write(self, attempt: Attempt) -> Attempt:
        self._found[attempt.run, attempt.started] = attempt
        with (self._folder / FILE).open("a") as file:
            file.write(json.dumps(attempt._asdict()) + "\n")
        return attempt


def _read(path: Path) -> list[Attempt]:
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines(keepends=True)
        return [_attempt(json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): move it away; only times are in it.") from error


def _attempt(fields: Any) -> Attempt:
    if not isinstance(fields, dict) or not all(isinstance(fields[key], _KINDS.get(key, ())) for key in fields):
        raise ValueError(f"found {fields!r}")
    return Attempt(**fields)
