"""What the hosts of a run agree on at every step, without the devices waiting for it.

Asking and waiting for the answer at every step would stall the devices. So questions are put to the devices behind a
step, and answers are read one step later, when they have long been there. All hosts must ask the same questions in the
same order. A host by itself asks nobody.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from vilbert_jax.training.batches import Batch


class Largest:
    """The largest of the hosts' numbers, element by element.

    Args:
        mesh: of all devices of the run.
    """

    def __init__(self, mesh: Mesh):
        self._by_device = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
        self._largest = jax.jit(lambda x: x.max(axis=0), out_shardings=jax.NamedSharding(mesh, jax.P()))

    def ask(self, numbers: Sequence[int]) -> jax.Array:
        """[len(numbers)] int32, to be read later."""
        mine = np.tile(np.asarray(numbers, np.int32), (jax.local_device_count(), 1))
        return self._largest(jax.make_array_from_process_local_data(self._by_device, mine))


class StopVote:
    """Asks all hosts at every step whether one of them is to stop.

    Hosts must leave the loop at the same step, or one waits for the other for ever. A preemption notice leaves some 30
    seconds, so asking at log steps only would be too late.

    Args:
        mesh: of all devices of the run.
    """

    def __init__(self, mesh: Mesh):
        self._votes = Largest(mesh)
        self._counted: jax.Array | None = None

    def asked(self, flag: bool) -> bool:
        """Votes for this step; whether a host voted to stop at the step before. A host by itself decides at once.

        Args:
            flag: this host's vote. All hosts must call at the same steps.
        """
        if jax.process_count() == 1:
            return flag
        previous, self._counted = self._counted, self._votes.ask([flag])
        return previous is not None and bool(jax.device_get(previous)[0])


def same_sizes(batches: Iterator[Batch], mesh: Mesh) -> Iterator[Batch]:
    """The batches of this host, filled up with zeros to the size that the second axis of a field has on any host.

    Packed rows are as long as a host's fullest one. Reads one batch ahead.

    Args:
        batches: of this host, the same fields in all.
        mesh: of all devices of the run.
    """
    if jax.process_count() == 1:
        yield from batches
        return
    largest, waiting = Largest(mesh), None
    for batch in batches:
        sizes = largest.ask([value.shape[1] if value.ndim > 1 else 0 for _, value in sorted(batch.items())])
        if waiting is not None:
            yield _filled_up(*waiting)
        waiting = batch, sizes
    if waiting is not None:
        yield _filled_up(*waiting)


def _filled_up(batch: Batch, sizes: jax.Array) -> Batch:
    by_name = dict(zip(sorted(batch), jax.device_get(sizes).tolist(), strict=True))

    def fill_up(name: str, value: np.ndarray) -> np.ndarray:
        missing = by_name[name] - value.shape[1] if value.ndim > 1 else 0
        return np.pad(value, [(0, 0), (0, missing), *[(0, 0)] * (value.ndim - 2)]) if missing else value

    return {name: fill_up(name, value) for name, value in batch.items()}
