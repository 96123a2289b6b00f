"""Batches by step: ``dataset[step]`` is a pure function of (seed, step, example), whoever reads it.

Knows no task. Order, masking and negatives come from counters, not from a state, so resuming needs no iterator state
and another number of hosts, workers or devices changes nothing.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from vilbert_jax.errors import InputError

Batch = dict[str, np.ndarray]

# Purposes of random numbers: each has its own stream for one (seed, position).
_ORDER, _EXAMPLE, _BATCH = range(3)


@runtime_checkable
class Source(Protocol):
    """Examples by row. Pickles, and is safe to read from several threads."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def example(self, index: int, rng: np.random.Generator, /) -> Mapping[str, np.ndarray]:
        """Returns fields of fixed shapes and dtypes, a pure function of (index, rng)."""
        ...


@runtime_checkable
class BatchFields(Protocol):
    """A source whose batches also hold fields that depend on the place in the global batch."""

    def batch_fields(
        self, rows: range, batch_size: int, generators: Iterable[np.random.Generator], /
    ) -> Mapping[str, np.ndarray]:
        """Returns fields [len(rows), ...] for these rows of the global batch; one generator a row."""
        ...


@runtime_checkable
class Packs(Protocol):
    """A source that arranges what its batches hold."""

    def pack(self, batch: Batch, /) -> Batch:
        """Returns the batch in another order and form: a pure function of it, whatever host or worker asks."""
        ...


S = TypeVar("S", bound=Source)
S_co = TypeVar("S_co", bound=Source, covariant=True)


@runtime_checkable
class DataConfig(Protocol[S_co]):
    """What ``make_dataset`` needs of a config."""

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        ...

    @property
    def seed(self) -> int:
        """Decides order, masking and negatives."""
        ...

    def open(self, split: str, /) -> S_co:
        """Returns the examples of a split."""
        ...


def make_dataset(
    config: DataConfig[S], split: str = "train", host_index: int = 0, host_count: int = 1, workers: int = 0
) -> "Dataset[S]":
    """Opens a split: ``train`` or a slice of it is endless and shuffled, any other is read once in order.

    Args:
        config: opens its source and holds ``batch_size`` (of the global batch) and ``seed``.
        split: name of the split.
        host_index: this host, from 0.
        host_count: number of hosts that share each batch.
        workers: processes that ``iterate`` reads with, 0 for threads.

    Raises:
        InputError: what the config opens is missing, or the batch does not divide over the hosts.
    """
    placement = {"host_index": host_index, "host_count": host_count, "workers": workers}
    return Dataset(
        config.open(split),
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=split.partition("[")[0] == "train",
        **placement,
    )


class Dataset(Generic[S]):
    """Batches of a source, by step.

    A batch holds the fields of the examples stacked, and besides ``example_mask`` [rows] bool (False only in rows that
    fill up the last evaluation batch; those hold other examples of the split) and ``example_index`` [rows] int32 (row
    of the source). ``rows`` is this host's share of the batch, the contiguous rows from ``host_index * rows`` on.

    With ``shuffle`` the stream of examples is endless, in a new global order every epoch, and has no length. Otherwise
    it holds each example once, in order, and ``len`` counts its batches.

    Attributes:
        source: the examples.
        batch_size: rows of the global batch.
        rows: range of this host's rows in the global batch.
    """

    def __init__(
        self,
        source: S,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        host_index: int = 0,
        host_count: int = 1,
        workers: int = 0,
    ) -> None:
        """Arguments as in ``make_dataset``.

        Raises:
            InputError: the source is empty, the batch does not divide over the hosts, or the seed is negative.
        """
        if not len(source):
            raise InputError("the data set has no examples: build it again, or choose another split")
        if batch_size < 1 or host_count < 1 or batch_size % host_count:
            raise InputError(
                f"batch_size {batch_size} does not divide over {host_count} hosts: use a multiple of {host_count}"
            )
        if not 0 <= host_index < host_count:
            raise InputError(f"host_index is {host_index}; with {host_count} hosts it is in 0..{host_count - 1}")
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}; it must be in 0..2**64 - 1")
        rows = batch_size // host_count
        self.source, self.batch_size, self.rows = source, batch_size, range(host_index * rows, (host_index + 1) * rows)
        self._seed, self._shuffle, self._workers = seed, shuffle, workers

    def __len__(self) -> int:
        """Number of batches of an evaluation split.

        Raises:
            TypeError: the data set is endless.
        """
        if self._shuffle:
            raise TypeError("a shuffled data set is endless and has no length; len(dataset.source) counts its examples")
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """Returns this host's rows of the batch of ``step``, counted from 0.

        Raises:
            IndexError: a negative step, or one behind the end of an evaluation split.
        """
        if step < 0 or (not self._shuffle and step >= len(self)):
            raise IndexError(f"step {step} is outside the data set")
        positions = [step * self.batch_size + row for row in self.rows]
        batch: Batch = {}
        for row, position in enumerate(positions):
            example = self.source.example(self._index(position), _generator(self._seed, position, _EXAMPLE))
            if not batch:
                batch = {name: np.empty((len(positions), *np.shape(x)), x.dtype) for name, x in example.items()}
            for name, values in example.items():
                batch[name][row] = values
        if isinstance(self.source, BatchFields):
            generators = (_generator(self._seed, position, _BATCH) for position in positions)
            batch.update(self.source.batch_fields(self.rows, self.batch_size, generators))
        batch["example_mask"] = np.array([self._shuffle or position < len(self.source) for position in positions])
        batch["example_index"] = np.array([self._index(position) for position in positions], np.int32)
        return self.source.pack(batch) if isinstance(self.source, Packs) else batch

    def iterate(self, first_step: int = 0, *, workers: int | None = None, prefetch: int = 4) -> "BatchIterator":
        """Reads ahead from ``first_step`` on: the same batches as ``dataset[step]``, bit for bit.

        Args:
            first_step: step of the first batch.
            workers: processes that read; 0 reads in threads of this process; None means the data set's own number.
            prefetch: batches to keep ready, at least 1.

        Returns:
            An iterator to be closed after use; ``with`` does so, and so does its end.
        """
        workers = self._workers if workers is None else workers
        if workers < 0 or prefetch < 1:
            raise InputError(f"workers is {workers} and prefetch {prefetch}: they must be at least 0 and 1")
        return BatchIterator(self, first_step, sys.maxsize if self._shuffle else len(self), workers, prefetch)

    def _index(self, position: int) -> int:
        """Row of the source at a position of the stream."""
        epoch, place = divmod(position, len(self.source))
        return int(_epoch_order(len(self.source), self._seed, epoch)[place]) if self._shuffle else place


class BatchIterator(Iterator[Batch]):
    """Batches in order of steps, read ahead by Grain in threads or in worker processes. A context manager."""

    def __init__(self, dataset: Dataset[Any], first_step: int, end_step: int, workers: int, prefetch: int) -> None:
        """Starts reading; see ``Dataset.iterate``."""
        # As multiprocessing itself checks, but before anything is started that would wait for these processes.
        if workers and getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                "each worker process imports the main script again, which starts workers of its own: put what the "
                "script does under `if __name__ == '__main__':`"
            )
        # Here, since Grain imports jax and takes seconds; reading by step needs neither.
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain reads its options from absl's flags, which only absl programs parse
            flags.FLAGS.mark_as_parsed()
        steps = grain.MapDataset.range(first_step, max(end_step, first_step)).map(dataset.__getitem__)
        if workers:
            # Workers read one batch at a time; what is ready waits in their queues.
            batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)).mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=-(-prefetch // workers)),
                worker_init_fn=_live_and_die_with_parent,
            )
        else:
            options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
            batches = steps.to_iter_dataset(options)
        self._reading: list[Any] = [iter(batches)]  # empty once closed
        # Also runs when the program ends, while the modules that closing needs are still there.
        weakref.finalize(self, _close, self._reading)

    def __next__(self) -> Batch:
        """Returns the next batch; none after the end, an error or ``close``, as generators do."""
        if not self._reading:
            raise StopIteration
        try:
            return next(self._reading[0])
        except BaseException:  # the end, an error of the source, Ctrl-C
            self.close()
            raise

    def close(self) -> None:
        """Ends threads and processes. May be called twice."""
        _close(self._reading)

    def __enter__(self) -> "BatchIterator":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes."""
        self.close()


def _generator(seed: int, position: int, purpose: int) -> np.random.Generator:
    """The random numbers of one place in the stream of examples; a counter-based generator needs no warm-up."""
    return np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, purpose]))


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: a permutation [num_examples] int32. Kept, since every row of a batch looks it up."""
    return _generator(seed, epoch, _ORDER).permutation(np.arange(num_examples, dtype=np.int32))


def _close(reading: list[Any]) -> None:
    while reading:
        reading.pop().close()


def _live_and_die_with_parent(worker: int, num_workers: int) -> None:
    """Set-up of a worker process: signals go to the parent, and when that ends, however it ends, so does the worker."""
    del worker, num_workers
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the parent closes the workers
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(0)

        threading.Thread(target=follow, daemon=True).start()
