"""What the engine asks of data: batches by number, from iterators that are closed after use."""

import contextlib
from collections.abc import Iterator, Mapping, Sized
from typing import Any, Protocol

from vilbert_jax.errors import InputError

Batch = Mapping[str, Any]


class Dataset(Protocol):
    """Batches by number; ``iterate`` yields this host's rows of the batches from ``first_step`` (0-based) on."""

    def iterate(self, first_step: int, *, workers: int = 0) -> Iterator[Batch]:
        """An iterator over batches, closed after use if it has ``close``."""
        ...


class FiniteDataset(Dataset, Protocol):
    """Each example of ``source`` once.

    Batches hold ``example_index`` [B] int32, the row of the source, and ``example_mask`` [B] bool, False in rows that
    only fill up the last batch.
    """

    @property
    def source(self) -> Sized:
        """The examples; their number counts."""
        ...


@contextlib.contextmanager
def closing(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Closes the iterator at the end, if it can be closed."""
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def next_batch(batches: Iterator[Batch], step: int) -> Batch:
    """The next training batch, that of ``step`` (from 1).

    Raises:
        InputError: there is none.
    """
    try:
        return next(batches)
    except StopIteration:
        raise InputError(
            f"the training data ended before step {step}; it must repeat, or total_steps be less."
        ) from None
