"""What a folder of runs remembers: which run is done and by which commands, and how long every attempt took.

Each run's folder has ``run.json``: its command, those of the runs that it builds on, and whether it is done. The folder
of all has ``runs.jsonl``: a line when an attempt starts and one when it ends.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vilbert_jax.errors import InputError

Result = Literal["done", "failed", "skipped"]

RECORD, ATTEMPTS = "run.json", "runs.jsonl"
_SHOWN = 5  # changed runs that an error describes


class Run(NamedTuple):
    """A command that leaves a file behind when it is done.

    Attributes:
        name: its folder below the folder of all runs; for people too.
        command: arguments of Python. It goes on where a kill stopped it.
        folder: where it works; ``log.txt`` there gets what it prints.
        leaves: file that is there when it is done: a training that is asked to stop saves and exits like one that is
            done, and must not be used.
        needs: names of the runs that must be done before.
        kind: from general to special, such as a recipe and a model; runs of one kind take about the same time.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    leaves: Path
    needs: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """What it printed, all attempts in one file."""
        return self.folder / "log.txt"


class Attempt(NamedTuple):
    """One start of a run.

    Attributes:
        run: name of the run.
        started: seconds since 1970.
        cores: processor cores it had.
        seconds: until its end; None while it runs.
        status: ``done``, ``failed``, ``stopped`` or ``killed``; empty while it runs.
    """

    run: str
    started: float
    cores: int
    seconds: float | None = None
    status: str = ""


class Records:
    """The memory of a folder of runs.

    Args:
        folder: of all runs; made if absent.
        runs: all runs of the plan, by name.
    """

    def __init__(self, folder: Path, runs: Mapping[str, Run]):
        self.folder = folder
        self._runs = runs
        self._attempts = {(a.run, a.started): a for a in _read(folder / ATTEMPTS)}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process from running the same runs, and closes attempts that a kill left open.

        Raises:
            InputError: another process runs them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"the runs of {self.folder} are run by another process: wait for it, or use another --workdir."
                ) from None
            _cut_torn_line(self.folder / ATTEMPTS)
            for attempt in [a for a in self._attempts.values() if a.seconds is None]:
                log = self.folder / attempt.run / "log.txt"  # its last sign of life
                seconds = max(log.stat().st_mtime - attempt.started, 0.0) if log.exists() else 0.0
                self._write(attempt._replace(seconds=seconds, status="killed"))
            yield

    def results(self, runs: Iterable[Run]) -> dict[str, Result]:
        """Those of the runs that are done, by name."""
        records = {run: _record(run.folder) for run in runs if run.leaves.is_file()}
        return {run.name: "done" for run, record in records.items() if record and record["done"]}

    def require_unchanged(self, runs: Sequence[Run]) -> None:
        """Raises InputError where a run was begun by other commands than it would be run by now; says what changed."""
        changed = []
        for run in runs:
            before, now = _record(run.folder), self._identity(run)
            if before is not None and before["commands"] != now:
                changed.append(f"{run.folder}: {_difference(before['commands'], now)}")
        if changed:
            more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
            raise InputError(
                f"{len(changed)} runs of {self.folder} were begun with other commands than this config gives:\n  "
                + "\n  ".join(changed[:_SHOWN] + more)
                + "\nPut the config back, use another --workdir, or delete these folders to run them again."
            )

    def begin(self, run: Run, cores: int) -> Attempt:
        """Notes that an attempt starts."""
        run.folder.mkdir(parents=True, exist_ok=True)
        self._note(run, done=False)
        attempt = Attempt(run.name, time.time(), cores)
        self._write(attempt)
        return attempt

    def end(self, attempt: Attempt, status: str) -> None:
        """Notes how it ended."""
        if status == "done":
            self._note(self._runs[attempt.run], done=True)
        self._write(attempt._replace(seconds=time.time() - attempt.started, status=status))

    def seconds_by_kind(self) -> dict[tuple[str, ...], float]:
        """Mean seconds of the runs that are done, all attempts together, by kind and by every beginning of it."""
        spent: dict[str, float] = {}
        for attempt in self._attempts.values():
            spent[attempt.run] = spent.get(attempt.run, 0.0) + (attempt.seconds or 0.0)
        finished = {a.run for a in self._attempts.values() if a.status == "done"} & self._runs.keys()
        kinds: dict[tuple[str, ...], list[float]] = {}
        for name in sorted(finished):
            kind = self._runs[name].kind
            for length in range(len(kind) + 1):
                kinds.setdefault(kind[:length], []).append(spent[name])
        return {kind: sum(seconds) / len(seconds) for kind, seconds in kinds.items()}

    def core_seconds(self) -> float:
        """Time of all attempts on each of their cores, the failed and killed ones included."""
        return sum((a.seconds or 0.0) * a.cores for a in self._attempts.values())

    def wall_seconds(self) -> float:
        """Time in which at least one run was running."""
        total, reached = 0.0, 0.0
        for attempt in sorted(self._attempts.values(), key=lambda a: a.started):
            end = attempt.started + (attempt.seconds or 0.0)
            total += max(end - max(attempt.started, reached), 0.0)
            reached = max(reached, end)
        return total

    def _identity(self, run: Run) -> dict[str, list[str]]:
        """The commands of the run and of all that it builds on, by name, wherever the folder lies."""
        commands: dict[str, list[str]] = {}
        waiting = [run.name]
        while waiting:
            known = self._runs[waiting.pop()]
            commands[known.name] = [part.replace(str(self.folder), "WORKDIR") for part in known.command]
            waiting += [name for name in known.needs if name not in commands]
        return dict(sorted(commands.items()))

    def _note(self, run: Run, *, done: bool) -> None:
        part = run.folder / f".{RECORD}.part"
        part.write_text(json.dumps({"done": done, "commands": self._identity(run)}, indent=2) + "\n")
        os.replace(part, run.folder / RECORD)

    def _write(self, attempt: Attempt) -> None:
        self._attempts[attempt.run, attempt.started] = attempt
        with (self.folder / ATTEMPTS).open("a") as file:
            file.write(json.dumps(attempt._asdict()) + "\n")


def _record(folder: Path) -> Any:
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        record["done"] = bool(record["done"])
        record["commands"] = dict(record["commands"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: delete {folder} to run it again.") from None
    return record


def _difference(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> str:
    """What of two sets of commands differs, in a line."""
    parts = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, ()), now.get(name, ())
        gone, added = ([x for x in a if x not in b] for a, b in ((old, new), (new, old)))
        if gone or added:
            parts.append(f"{name} had {' '.join(gone) or 'nothing'}, now {' '.join(added) or 'nothing'}")
        elif list(old) != list(new):
            parts.append(f"{name} had its arguments in another order")
    return "; ".join(parts)


def _read(path: Path) -> list[Attempt]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    try:
        return [Attempt(**json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): move it away; only times are in it.") from error


def _cut_torn_line(path: Path) -> None:
    """A kill may have cut the last line short; what follows must not continue it."""
    if path.exists() and not (text := path.read_text()).endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])
