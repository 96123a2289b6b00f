"""A run, which is a command that leaves a file behind, and what is left to do of many that need each other."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

RunStatus = Literal["done", "failed", "skipped"]


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
        recipe: what the recipe says with the flags of the command, by dotted key; JSON-able.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    leaves: Path
    needs: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = MappingProxyType({})

    @property
    def log(self) -> Path:
        """What it printed, all attempts in one file."""
        return self.folder / "log.txt"


def unfinished(runs: Sequence[Run], results: Mapping[str, RunStatus]) -> list[Run]:
    """What is left to do: runs that no other one needs and that are not done, and what these need that is not.

    A training that was deleted when everything that needs it was done stays deleted.

    Args:
        runs: with whatever they need among them.
        results: those that are done.
    """
    by_name = {run.name: run for run in runs}
    only_needed = {need for run in runs for need in run.needs}
    waiting = [run.name for run in runs if run.name not in only_needed]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found and results.get(name) != "done":
            found.add(name)
            waiting += by_name[name].needs
    return [run for run in runs if run.name in found]


def lost(waiting: Iterable[Run], results: Mapping[str, RunStatus]) -> list[Run]:
    """Those of the waiting runs that need, at whatever distance, one that failed or was skipped."""
    waiting, gone = list(waiting), {name for name, result in results.items() if result != "done"}
    found: list[Run] = []
    while more := [run for run in waiting if run.name not in gone and gone.intersection(run.needs)]:
        gone |= {run.name for run in more}
        found += more
    return found
