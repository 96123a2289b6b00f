"""The progress bar over runs of unequal length."""

import time
from collections.abc import Callable, Mapping, Sequence

import tqdm

from vilbert_jax.ablation.runs import Run
from vilbert_jax.progress import bar_interval

SecondsByKind = Mapping[tuple[str, ...], float]

_ALMOST = 0.95  # a running run that takes longer than others of its kind did


class RunsBar:
    """One bar: share of the work done, time left, what is running. A context manager.

    A run counts as much as runs of its kind have taken, and a running one as its share of that: runs of seconds and
    runs of hours mix. Before any run is done all count alike, and no time left is shown.

    Args:
        runs: all of them.
        parallel: how many run at a time.
        title: in front.
        seconds_by_kind: what the runs that are done took.
    """

    def __init__(self, runs: Sequence[Run], *, parallel: int, title: str, seconds_by_kind: Callable[[], SecondsByKind]):
        self._runs, self._parallel, self._title = runs, parallel, title
        self._seconds_by_kind = seconds_by_kind
        self._bar = tqdm.tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| {desc}", dynamic_ncols=True)
        self._shown = 0.0

    def __enter__(self) -> "RunsBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, finished: set[str], running: Mapping[str, float], *, note: str = "", now: bool = False) -> None:
        """Draws the bar, if it is time to.

        Args:
            finished: names of the runs that need no more work.
            running: seconds that the running ones have run, by name.
            note: instead of the time left.
            now: even if it was drawn a moment ago.
        """
        if not now and time.monotonic() - self._shown < bar_interval():
            return
        self._shown = time.monotonic()
        share, left = progress(self._runs, finished, running, self._seconds_by_kind(), self._parallel)
        self._bar.n = share
        rest = note or (f"{_duration(left)} left" if left else "")
        parts = [f"{len(finished)} of {len(self._runs)} runs", *([rest] if rest else []), ", ".join(running)]
        self._bar.set_description_str(f"{self._title}: " + "; ".join(filter(None, parts)))


def progress(
    runs: Sequence[Run],
    finished: set[str],
    running: Mapping[str, float],
    seconds_by_kind: SecondsByKind,
    parallel: int,
) -> tuple[float, float | None]:
    """Share of the work that is done, and the seconds left, None while nothing tells.

    Args:
        runs: all of them.
        finished: names of those that need no more work.
        running: seconds so far, by name.
        seconds_by_kind: what runs took.
        parallel: how many run at a time.
    """
    total = done = longest = 0.0
    for run in runs:
        expected = _expected(run, seconds_by_kind)
        share = 1.0 if run.name in finished else min(running.get(run.name, 0.0) / expected, _ALMOST)
        if not seconds_by_kind and run.name not in finished:
            share = 0.0
        total += expected
        done += share * expected
        longest = max(longest, (1 - share) * expected)
    left = max((total - done) / parallel, longest) if seconds_by_kind else None
    return (done / total if total else 1.0), left


def _expected(run: Run, seconds_by_kind: SecondsByKind) -> float:
    """What runs took that are most like this one; the same for all while none is done."""
    for length in range(len(run.kind), -1, -1):
        if run.kind[:length] in seconds_by_kind:
            return max(seconds_by_kind[run.kind[:length]], 1e-9)
    return 1.0


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min" if minutes else "< 1 min"
