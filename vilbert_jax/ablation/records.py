"""What a folder of runs remembers: which run is done, by which command, and built on what.

Each run's folder has ``run.json``: its command, what its recipe said with the flags of the command, when it was done,
and when the runs that it builds on were, which tells whether they are still the same.
"""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert_jax.ablation.attempts import Attempt, Attempts
from vilbert_jax.ablation.runs import Run, RunStatus, lost, unfinished
from vilbert_jax.errors import InputError

RECORD = "run.json"
_CHECKPOINTS = "checkpoints"  # where a training keeps what it goes on from
_DATA_DIR = "--config.data_dir="
_SHOWN = 5  # changed runs that an error describes, and changed entries of a recipe
_LISTED = 60  # runs that it names: more than are built on one pre-training


class Records:
    """The memory of a folder of runs.

    Args:
        folder: of all runs; made if absent.
        runs: all runs of the plan, by name.
        machine: what new attempts run on, in a line.

    Attributes:
        folder: as given.
        attempts: times and machines.
    """

    def __init__(self, folder: Path, runs: Mapping[str, Run], *, machine: str = ""):
        self.folder = folder
        self.attempts = Attempts(folder, machine=machine)
        self._runs = runs

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
            self.attempts.close_killed()
            yield

    def results(self, runs: Iterable[Run]) -> dict[str, RunStatus]:
        """Those of the runs that are done, by name."""
        return {run.name: "done" for run in runs if _when_done(run) is not None}

    def outcomes(self, runs: Sequence[Run]) -> dict[str, RunStatus]:
        """What became of the runs so far, by name: those that are done, that failed at last, and that need these."""
        results = self.results(runs)
        last = self.attempts.last_status()
        for run in runs:
            if run.name not in results and last.get(run.name) == "failed" and run.folder.is_dir():
                results[run.name] = "failed"
        for run in lost([run for run in runs if run.name not in results], results):
            results[run.name] = "skipped"
        return results

    def require_unchanged(self, wanted: Sequence[Run]) -> None:
        """Raises InputError where what is there does not fit what it would be by now, and says what to do.

        A run was made by another command or recipe, or what it is built on was; or what it is built on was made again
        since, or has gone and would be; or the same run is there under another name. A run that is not done and has no
        checkpoint starts from nothing, and may change.

        Args:
            wanted: those of the runs that are to be done now, with what they need.
        """
        done = {name: _when_done(run) for name, run in self._runs.items()}
        records = {name: record for name, run in self._runs.items() if (record := _record(run.folder))}
        begun = {name for name in records if records[name]["done"] is not None or _has_checkpoint(self._runs[name])}
        to_do = {run.name for run in unfinished(wanted, {name: "done" for name in done if done[name] is not None})}
        changed = {
            name: what for name in begun if (what := _difference(records[name], self._description(self._runs[name])))
        }
        other = {need for need, when in done.items() if when is None and need in to_do} | changed.keys()
        stale = {
            name
            for name in begun - changed.keys()
            for need, when in records[name]["built_on"].items()
            if need in other or done.get(need) not in (None, when)
        }
        problems = []
        if changed:
            problems += [
                f"{len(changed)} runs of {self.folder} were begun with other commands or recipes than those of now:",
                *_shortened([f"  {self._runs[n].folder}: {changed[n]}" for n in self._runs if n in changed], _SHOWN),
                "Put config and recipes back, use another --workdir, or delete these folders to run them again.",
            ]
        if stale:
            problems += [
                f"{len(stale)} runs of {self.folder} are built on others that changed, or were or would be made again:",
                *_shortened([f"  {self._runs[name].folder}" for name in self._runs if name in stale], _LISTED),
                "Delete these folders too, to run them again.",
            ]
        problems += self._renamed([run for run in wanted if run.name in to_do - begun])
        if problems:
            raise InputError("\n".join(problems))

    def begin(self, run: Run, cores: int, gpus: int) -> Attempt:
        """Notes that an attempt starts."""
        run.folder.mkdir(parents=True, exist_ok=True)
        self._note(run, done=None)
        return self.attempts.begin(run.name, cores, gpus)

    def end(self, attempt: Attempt, status: str) -> None:
        """Notes how it ended."""
        if status == "done":
            self._note(self._runs[attempt.run], done=time.time())
        self.attempts.end(attempt, status)

    def seconds_by_kind(self) -> dict[tuple[str, ...], float]:
        """Mean seconds of the runs that are done, by kind."""
        return self.attempts.seconds_by_kind(self._runs)

    def _renamed(self, runs: Sequence[Run]) -> list[str]:
        """Says which of the runs are there already, named after a variant that the plan has no more or elsewhere."""
        # Runs lie three or four folders deep; what they wrote themselves is not searched.
        paths = [path for depth in ("*/*/*/", "*/*/*/*/") for path in self.folder.glob(depth + RECORD)]
        folders = {path.parent for path in paths} - {run.folder for run in self._runs.values()}
        known = {
            tuple(record["command"][:-1]): folder
            for folder in sorted(folders)
            if (record := _record(folder)) and record["done"] is not None
        }
        again = [
            f"  {run.folder} would do again what {known[key]} has done"
            for run in runs
            if (key := tuple(self._description(run)["command"][:-1])) in known
        ]
        if not again:
            return []
        return [
            f"{len(again)} runs of {self.folder} are done under other names:",
            *_shortened(again, _SHOWN),
            "Runs are named after the first variant and column that need them: put new ones behind those that they",
            "share runs with and rename none, or delete the old folders.",
        ]

    def _description(self, run: Run) -> dict[str, Any]:
        """What makes a run the one that it is, wherever its folder and the data lie."""
        inside = re.compile(re.escape(str(self.folder)) + r"(?=/|$)")  # and not a folder whose name begins alike
        command = [inside.sub("WORKDIR", part) for part in run.command]
        command = [f"{_DATA_DIR}DATA_DIR" if part.startswith(_DATA_DIR) else part for part in command]
        return {"command": command, "recipe": dict(run.recipe)}

    def _note(self, run: Run, *, done: float | None) -> None:
        built_on: dict[str, float | None] = {}
        for need in run.needs:
            record = _record(self._runs[need].folder) or {"built_on": {}, "done": None}
            built_on |= {**record["built_on"], need: record["done"]}
        part = run.folder / f".{RECORD}.part"
        part.write_text(json.dumps({"done": done, "built_on": built_on, **self._description(run)}, indent=2) + "\n")
        os.replace(part, run.folder / RECORD)


def is_begun(run: Run) -> bool:
    """Whether anything is remembered of the run."""
    return (run.folder / RECORD).is_file()


def _record(folder: Path) -> Any:
    """What run.json says; None where a run was not begun."""
    path = folder / RECORD
    if not path.is_file():
        return None
    kinds = {"done": float | None, "built_on": dict, "command": list, "recipe": dict}
    try:
        record = json.loads(path.read_text())
        if all(isinstance(record[key], kind) for key, kind in kinds.items()):
            return record | {"command": [str(part) for part in record["command"]]}
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} is damaged, or of another version: delete {folder} to run it again.")


def _when_done(run: Run) -> float | None:
    """Seconds since 1970; None while it is not done, or where its result is gone."""
    record = _record(run.folder) if run.leaves.is_file() else None
    return None if record is None else record["done"]


def _has_checkpoint(run: Run) -> bool:
    folder = run.folder / _CHECKPOINTS
    return folder.is_dir() and any(folder.iterdir())


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two descriptions of a run differs, in a line; empty if nothing does."""
    old, new = before["command"], now["command"]
    gone, added = ([x for x in a if x not in b] for a, b in ((old, new), (new, old)))
    if gone or added:
        return f"had {' '.join(gone) or 'nothing'}, now {' '.join(added) or 'nothing'}"
    if old != new:
        return "had its arguments in another order"
    old, new = ({key: json.dumps(value) for key, value in one["recipe"].items()} for one in (before, now))
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    shown = [f"{key} was {old.get(key, 'absent')}, now {new.get(key, 'absent')}" for key in keys]
    return ", ".join(_shortened(shown, _SHOWN))


def _shortened(parts: Sequence[str], length: int) -> list[str]:
    return [*parts[:length], *([f"and {len(parts) - length} more"] if len(parts) > length else [])]
