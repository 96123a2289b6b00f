"""Many runs side by side on one machine, and a table of what came out; experiments/compare_tasks.py uses both."""

import concurrent.futures
import json
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
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path
    done: Path


class Cell(NamedTuple):
    """One number of a table: the entry ``metric`` of a metrics.json."""

    row: str
    column: str
    metrics: Path
    metric: str


def run_all(runs: Sequence[Run], *, parallel: int, title: str, folder: Path) -> None:
    """Runs what is not done yet, so many at a time, with a progress bar.

    Args:
        runs: independent of each other.
        parallel: how many at a time.
        title: of the bar.
        folder: where the commands are run.

    Raises:
        InputError: a command failed; names its log. The other runs are finished first.
    """
    missing = [run for run in runs if not run.done.is_file()]
    failed: list[Run] = []
    bar = tqdm.tqdm(
        total=len(runs), initial=len(runs) - len(missing), desc=title, unit="run", dynamic_ncols=True,
        mininterval=bar_interval(),
    )  # fmt: skip
    with bar, concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        running = {pool.submit(_run, run, folder): run for run in missing}
        for future in concurrent.futures.as_completed(running):
            bar.update()
            if not future.result():
                failed.append(running[future])
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


def _run(run: Run, folder: Path) -> bool:
    run.log.parent.mkdir(parents=True, exist_ok=True)
    for command in run.commands:
        with run.log.open("a") as log:
            print("$ python", *command, file=log, flush=True)
            process = subprocess.run(
                [sys.executable, *command], cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if process.returncode:
            return False
    return run.done.is_file()
