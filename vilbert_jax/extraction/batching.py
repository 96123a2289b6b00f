"""Work in another order than its results: read ahead in threads, grouped into batches, put back in order.

Plain Python; everything is lazy and holds a bounded number of items.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(function: Callable[[T], U], items: Iterable[T], *, num_threads: int, num_ahead: int) -> Iterator[U]:
    """``map`` in threads: results in order, at most ``num_ahead`` of them waiting or being made.

    An exception of the function comes where its result would have. Threads end when the iterator is closed.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="reading")
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        pending: collections.deque[Future[U]] = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= num_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def in_groups(
    items: Iterable[T], kind: Callable[[T], Hashable], *, size: int, window: int
) -> Iterator[list[tuple[int, T]]]:
    """Groups of up to ``size`` items of one kind, each item with its number.

    A group is passed on when it is full, or when ``window`` items came since its first one, so that a rare kind holds
    nothing up for long; at the end all are.
    """
    waiting: dict[Hashable, list[tuple[int, T]]] = {}  # by first number: a group's place is that of its first item
    for number, item in enumerate(items):
        group = waiting.setdefault(kind(item), [])
        group.append((number, item))
        if len(group) == size:
            yield waiting.pop(kind(item))
        oldest = next(iter(waiting), None)
        if oldest is not None and number - waiting[oldest][0][0] >= window:
            yield waiting.pop(oldest)
    yield from waiting.values()


def in_order(results: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Numbered results, from 0 on without gaps, by their numbers; holds those that came early."""
    early: dict[int, T] = {}
    due = itertools.count()
    number = next(due)
    for found, result in results:
        early[found] = result
        while number in early:
            yield early.pop(number)
            number = next(due)
    assert not early, f"results {sorted(early)} came without result {number}"
