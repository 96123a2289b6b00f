"""Where numbers go: metrics.jsonl, TensorBoard and the progress bar."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import SupportsFloat

import tqdm
from tensorboardX import SummaryWriter

from vilbert_jax.errors import InputError
from vilbert_jax.progress import bar_interval

METRICS_FILE = "metrics.jsonl"

_DERIVED = ("loss", "grad_norm", "update_norm", "param_norm", "learning_rate")


class NonFiniteError(RuntimeError):
    """A metric became NaN or infinite.

    Attributes:
        step: the first step (completed steps) at which one did.
        metric: its name; of several, a single loss before the total and the norms, which only follow from it.
    """

    def __init__(self, step: int, metric: str, value: float):
        super().__init__(
            f"{metric} is {value} at step {step}. Nothing was saved since the last check, so the last checkpoint is "
            "good. Lower the learning rate, or clip gradients, or look at that step's batch."
        )
        self.step = step
        self.metric = metric


def check_finite(step: int, metrics: Mapping[str, SupportsFloat]) -> None:
    """Raises NonFiniteError if a metric is NaN or infinite."""
    bad = [name for name, value in metrics.items() if not math.isfinite(float(value))]
    if bad:
        metric = min(bad, key=lambda name: _DERIVED.index(name) if name in _DERIVED else -1)
        raise NonFiniteError(step, metric, float(metrics[metric]))


class MetricLogger:
    """Writes the metrics of a run; a context manager. On hosts other than the first it does nothing.

    ``metrics.jsonl`` has one object a line: ``{"step": 20, "train/loss": 1.5, ...}``. After a resume the lines beyond
    the restored step are cut, so that the file reads as if the run had never stopped.

    Args:
        workdir: created if absent.
        first_step: completed steps at the start.
        total_steps: end of the progress bar.
        batch_size: examples a step, of all hosts.
        active: True on the host that writes.

    Attributes:
        evaluated: names of the evaluations of ``first_step`` that the file already holds.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], *, first_step: int, total_steps: int, batch_size: int, active: bool
    ):
        self.evaluated: set[str] = set()
        self._active = active
        self._batch_size = batch_size
        self._window = (first_step, time.perf_counter())
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            disable=not active,
            dynamic_ncols=True,
            mininterval=bar_interval(),
        )
        if not active:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        kept = _cut_after(workdir / METRICS_FILE, first_step)
        names = (key.split("/") for row in kept if row["step"] == first_step for key in row)
        self.evaluated = {name for kind, name, *_ in (n for n in names if len(n) > 2) if kind == "eval"}
        self._file = (workdir / METRICS_FILE).open("a")
        # The suffix keeps a run that is resumed within the same second from overwriting its own events.
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=first_step + 1, filename_suffix=f".{first_step}"
        )

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._active:
            self._file.close()
            self._board.close()

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        self._bar.update()

    def show(self, step: int, loss: float) -> None:
        """Puts the loss and the speed since the last call on the progress bar."""
        (before, then), now = self._window, time.perf_counter()
        speed = (step - before) * self._batch_size / max(now - then, 1e-9)
        self._window = (step, now)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {speed:.1f} examples/s", refresh=False)
        if self._active:
            self._board.add_scalar("train/examples_per_second", speed, step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what runs inside (an evaluation) out of the speed."""
        start = time.perf_counter()
        yield
        step, then = self._window
        self._window = (step, then + time.perf_counter() - start)

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Appends one line; values are exact (a float32 reads back bit for bit).

        Args:
            step: completed steps.
            metrics: finite values by full name, such as ``train/loss``.
        """
        if not self._active:
            return
        line = {"step": step} | {name: float(value) for name, value in metrics.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, float(value), step)

    def flush(self) -> None:
        """Makes everything so far survive a kill; to be called before a checkpoint."""
        if self._active:
            self._board.flush()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        InputError: another line is damaged.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text().splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
                rows[-1]["step"]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{path}, line {number} is no metrics line: delete it, or move the file away."
                ) from None
    return rows


def last_metrics(path: str | os.PathLike[str], prefix: str) -> dict[str, float]:
    """The newest value of every metric whose name starts with ``prefix``, by the rest of its name."""
    found: dict[str, float] = {}
    for row in read_metrics(path):
        found |= {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return found


def _cut_after(path: Path, step: int) -> list[dict[str, float]]:
    if not path.exists():
        return []
    kept = [row for row in read_metrics(path) if row["step"] <= step]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in kept))
    part.replace(path)
    return kept
