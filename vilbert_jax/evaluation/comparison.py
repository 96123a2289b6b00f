"""Many runs side by side on one machine, and a table of what came out; experiments/compare_tasks.py uses both."""

import concurrent.futures
import json
import os
import queue
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tqdm

from vilbert_jax.errors import InputError
from vilbert_jax.training.logging import bar_interval


class Run(NamedTuple):
    """Commands that leave a file behind when they are done.

    Attributes:
        name: for people.
        commands: arguments of Python, in order; each starts again where a kill stopped it.
        log: file that gets what they print.
        done: the file.
        leaves: file that each command but the last leaves behind when it is done: training that is asked to stop saves
            and exits like one that is done, and must not be scored. Empty: exit codes tell enough.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path
    done: Path
    leaves: tuple[Path, ...] = ()


class Cell(NamedTuple):
    """One number of a table: the entry ``metric`` of a metrics.json."""

    row: str
    column: str
    metrics: Path
    metric: str


def run_all(runs: Sequence[Run], *, parallel: int, title: str, folder: Path) -> None:
    """Runs what is not done yet, so many at a time, with a progress bar.

    Where the system allows it, each run has its share of the processor cores to itself: small models gain little from
    many threads, and runs that compete for cores lose a lot.

    Args:
        runs: independent of each other.
        parallel: how many at a time.
        title: of the bar.
        folder: where the commands are run.

    Raises:
        InputError: a command failed; names its log. The other runs are finished first.
    """
    missing = [run for run in runs if not run.done.is_file()]
    parallel = max(min(parallel, len(missing)), 1)
    shares = _shares_of_cores(parallel)
    failed: list[Run] = []
    bar = tqdm.tqdm(
        total=len(runs), initial=len(runs) - len(missing), desc=title, unit="run", dynamic_ncols=True,
        mininterval=bar_interval(),
    )  # fmt: skip
    with bar, concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        running = {pool.submit(_run, run, folder, shares): run for run in missing}
        try:
            for future in concurrent.futures.as_completed(running):
                bar.update()
                if not future.result():
                    failed.append(running[future])
        except KeyboardInterrupt:  # the commands got it as well, and save
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} runs failed, first {failed[0].name}: see {failed[0].log}. The same command "
            "tries them again and keeps what is done."
        )


def markdown_table(cells: Sequence[Cell], *, corner: str) -> str:
    """The mean of every (row, column), and with several seeds the lowest and the highest value behind it."""
    values: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        metrics: Mapping[str, float] = json.loads(cell.metrics.read_text())["metrics"]
        values.setdefault((cell.row, cell.column), []).append(metrics[cell.metric])
    rows, columns = (list(dict.fromkeys(key[k] for key in values)) for k in (0, 1))
    lines = [[corner, *columns], *([row, *(_shown(values.get((row, column))) for column in columns)] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns) + 1)]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    ruled = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], ruled, *aligned[1:]])


def _shown(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _shares_of_cores(count: int) -> queue.SimpleQueue[set[int]]:
    """Sets of cores that nobody else has; empty where processes cannot be bound to cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for k in range(count):
        shares.put(set(cores[k::count]) or set(cores))
    return shares


def _run(run: Run, folder: Path, shares: queue.SimpleQueue[set[int]]) -> bool:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    cores = shares.get()
    try:
        left = [*run.leaves, run.done] if run.leaves else [None] * (len(run.commands) - 1) + [run.done]
        return all(
            _finished(command, folder, run.log, cores) and (file is None or file.is_file())
            for command, file in zip(run.commands, left, strict=True)
        )
    finally:
        shares.put(cores)


def _finished(command: Sequence[str], folder: Path, log: Path, cores: set[int]) -> bool:
    with log.open("a") as file:
        print("$ python", *command, file=file, flush=True)
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        if cores:
            os.sched_setaffinity(process.pid, cores)  # before XLA counts them
        return process.wait() == 0
