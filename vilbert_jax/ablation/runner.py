"""A graph of runs side by side on one machine: what is ready runs where cores or GPUs are free, through every kill."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from vilbert_jax.ablation import leash
from vilbert_jax.ablation.attempts import Attempt
from vilbert_jax.ablation.machine import gpu_names, num_tpu_chips
from vilbert_jax.ablation.progress import RunsBar
from vilbert_jax.ablation.records import Records
from vilbert_jax.ablation.runs import Run, RunStatus, lost, unfinished
from vilbert_jax.errors import InputError
from vilbert_jax.signals import StopRequest

_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"  # most runs compile what another one has compiled
_POLL_SECONDS = 0.1
_SHOWN = 150  # characters of what a run said
_COMMAND = "$ python"  # how an attempt begins in the log


class Slot(NamedTuple):
    """The part of the machine that a run has to itself.

    Attributes:
        cores: processor cores; empty where processes cannot be bound to them.
        gpus: value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
        num_gpus: how many these are.
    """

    cores: tuple[int, ...]
    gpus: str | None
    num_gpus: int = 0


class _Running(NamedTuple):
    run: Run
    slot: Slot
    process: subprocess.Popen[bytes]
    attempt: Attempt


def make_slots(parallel: int, gpus: str, *, num_runs: int) -> list[Slot]:
    """Divides the machine among runs that work side by side.

    Small models gain little from many threads, and runs that compete for cores lose a lot.

    Args:
        parallel: number of slots, no more than there are cores; 0: one a GPU, or else one a core.
        gpus: numbers of GPUs, ``0,1,2,3``, of which each slot gets one, or ``0,1;2,3`` for two each; empty: they are
            left alone.
        num_runs: no more slots than runs are made.

    Raises:
        InputError: there are no such GPUs, more slots than GPUs, or several runs would take the same GPUs or TPU chips.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    num_cores = len(cores) or os.cpu_count() or 1
    shares = _shares(gpus)
    if not 0 <= parallel <= (len(shares) or parallel):
        most = f", and gpus={gpus!r} are for {len(shares)}" if shares else ""
        raise InputError(f"parallel is {parallel}{most}: it is how many runs work side by side, 0 for as many as can")
    num_gpus = 0 if shares else len(gpu_names())
    if num_gpus and parallel != 1:
        raise InputError(
            f"this machine has {num_gpus} GPUs, of which every run would take all: name those that they may use, "
            "--config.gpus=0,1 (one each), or set --config.parallel=1, or JAX_PLATFORMS=cpu to use none"
        )
    if parallel != 1 and (num_chips := num_tpu_chips()):
        raise InputError(
            f"this machine has {num_chips} TPU chips, of which every run would take all: set --config.parallel=1, or "
            "JAX_PLATFORMS=cpu to use none"
        )
    count = max(min(parallel or len(shares) or num_cores, len(shares) or num_cores, num_runs), 1)
    slots = [Slot(tuple(cores[k::count] or cores), None, num_gpus) for k in range(count)]
    return [
        slot._replace(gpus=share, num_gpus=share.count(",") + 1) for slot, share in zip(slots, shares, strict=False)
    ] or slots


def _shares(gpus: str) -> list[str]:
    """The GPUs of each slot, from a setting like ``0,1`` or ``0,1;2,3``."""
    shares = [re.sub(r"\s*,\s*", ",", share.strip()) for share in gpus.split(";" if ";" in gpus else ",")]
    shares = [share for share in shares if share]
    numbers = [number for share in shares for number in share.split(",")]
    there = len(gpu_names())
    if not all(re.fullmatch("[0-9]+", number) for number in numbers) or len({*map(int, numbers)}) < len(numbers):
        raise InputError(f"gpus is {gpus!r}; expected numbers, each once: 0,1,2,3 (one a run) or 0,1;2,3 (two a run)")
    if there and (beyond := [number for number in numbers if int(number) >= there]):
        raise InputError(f"gpus is {gpus!r}, but there is no GPU {beyond[0]}: this machine has 0 to {there - 1}")
    return shares


def run_all(
    runs: Sequence[Run], *, slots: Sequence[Slot], title: str, folder: Path, records: Records
) -> dict[str, RunStatus]:
    """Runs what is left to do; to be called from the main thread, since children end with the thread they come from.

    Of the runs that could start, the first in order does. A run that fails does not keep others from running, but what
    needs it is skipped.

    SIGINT and SIGTERM are passed on once to what is running, which saves and stops; a second one kills.

    Args:
        runs: in order of preference; what a run needs is among them.
        slots: one run each at a time.
        title: of the progress bar.
        folder: where the commands are run.
        records: locked.

    Returns:
        What became of each run, by name; nothing of one that was deleted when all that needs it was done.

    Raises:
        KeyboardInterrupt: it was asked to stop, and everything has stopped.
    """
    results = records.results(runs)
    waiting = unfinished(runs, results)
    runs = [run for run in runs if run.name in results or run in waiting]
    free = list(slots)
    running: list[_Running] = []
    bar = RunsBar(runs, parallel=len(slots), title=title, seconds_by_kind=records.seconds_by_kind)
    with bar, StopRequest() as stop, _killed_at_the_end(running):
        asked = False
        while True:
            ended = [child for child in running if child.process.poll() is not None]
            for child in ended:
                running.remove(child)
                free.append(child.slot)
                if (status := _end(child, records, stopped=asked)) != "stopped":
                    results[child.run.name] = status
            if just_asked := stop.requested and not asked:
                asked = True
                for child in running:
                    child.process.terminate()
            if not asked:
                _skip(waiting, results)
                while free and (run := _ready(waiting, results)):
                    waiting.remove(run)
                    running.append(_start(run, free.pop(0), folder, records))
            if not running:
                break
            elapsed = {child.run.name: time.time() - child.attempt.started for child in running}
            note = "stopping, once more to kill" if asked else ""
            bar.show(set(results), elapsed, note=note, now=just_asked or bool(ended))
            time.sleep(_POLL_SECONDS)
        bar.show(set(results), {}, now=True)
    if asked:
        raise KeyboardInterrupt
    return results


def failures(runs: Sequence[Run], results: Mapping[str, RunStatus]) -> list[str]:
    """Lines that name every run that failed, with its log and the last it said; none if none did."""
    failed = [run for run in runs if results.get(run.name) == "failed"]
    skipped = sum(results.get(run.name) == "skipped" for run in runs)
    if not failed:
        return []
    needing = f", and {skipped} that need them were not run" if skipped else ""
    lines = [f"{len(failed)} of {len(runs)} runs failed{needing}:"]
    lines += [f"  {run.name}: see {run.log} ({_last_words(run.log)})" for run in failed]
    return [*lines, "The same command tries them again and keeps what is done."]


def _last_words(log: Path) -> str:
    """Where the last attempt names its error that line, which more may follow; or else its last one."""
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    said = [line.rpartition("\r")[2].strip() for line in lines]  # of a progress bar its last state
    start = max((k for k, line in enumerate(said) if line.startswith(_COMMAND)), default=0)
    errors = [line for line in said[start:] if line.startswith(("error:", "stopped:"))]
    return next((line[:_SHOWN] for line in [*reversed(errors), *reversed(said)] if line), "it said nothing")


def _ready(waiting: Sequence[Run], results: Mapping[str, RunStatus]) -> Run | None:
    return next((run for run in waiting if all(results.get(need) == "done" for need in run.needs)), None)


def _skip(waiting: list[Run], results: dict[str, RunStatus]) -> None:
    """Gives up what needs a run that failed, and what needs that."""
    for run in lost(waiting, results):
        waiting.remove(run)
        results[run.name] = "skipped"


def _start(run: Run, slot: Slot, folder: Path, records: Records) -> _Running:
    attempt = records.begin(run, max(len(slot.cores), 1), slot.num_gpus)
    launcher = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), ",".join(map(str, slot.cores))]
    environment = {_PROGRAMS: str(records.folder / "compiled_programs"), **os.environ}
    if slot.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpus
    with run.log.open("a") as log:
        print(_COMMAND, shlex.join(run.command), file=log, flush=True)
        process = subprocess.Popen(
            [*launcher, *run.command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches us alone: a second signal would keep it from saving
        )
    return _Running(run, slot, process, attempt)


def _end(child: _Running, records: Records, *, stopped: bool) -> Literal["done", "failed", "stopped"]:
    fine = child.process.returncode == 0 and child.run.leaves.is_file()
    status = "done" if fine else "stopped" if stopped else "failed"
    records.end(child.attempt, status)
    return status


@contextlib.contextmanager
def _killed_at_the_end(running: Sequence[_Running]) -> Iterator[None]:
    """Whatever happens, nothing goes on unattended."""
    try:
        yield
    finally:
        for child in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
