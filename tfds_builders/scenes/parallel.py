"""An ordered map over worker processes, for work that is a pure function of each item."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

_CHUNK = 32
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def available_processes() -> int:
    """Processors this process may use, at most 8: beyond that writing is the limit."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, 8)


def map_ordered(function: Callable[[A], B], items: Sequence[A], processes: int) -> Iterator[B]:
    """Yields function(item) for every item in order; `function` and items must pickle.

    With one process, or few items, everything happens here. Workers are spawned, not forked, because the caller may
    have threads (JAX has), and use one thread each, because there is one of them a processor.
    """
    if processes <= 1 or len(items) <= _CHUNK:
        yield from map(function, items)
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool = concurrent.futures.ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        # All workers start while the work is handed out, so this is when they inherit the environment.
        results: Iterable[B] = pool.map(function, items, chunksize=_CHUNK)
        _restore(before)
        yield from results
    finally:
        _restore(before)
        pool.shutdown(wait=True, cancel_futures=True)


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
