"""Predictions of a whole split, one row an example, on any mesh.

Official scores compare strings or rank whole galleries, so they are computed on the host from all predictions. A
prediction should therefore be small: an answer's number and its probability, not the logits of all answers.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from vilbert_jax.errors import InputError
from vilbert_jax.progress import bar_interval
from vilbert_jax.sharding import batch_sharding, put_batch
from vilbert_jax.training.batches import Batch
from vilbert_jax.training.state import Params

PredictFn = Callable[[Params, Batch], Mapping[str, Array]]


class BatchPredictions(NamedTuple):
    """What is predicted for one global batch, on every device and host."""

    values: Mapping[str, Array]  # [B, ...] each
    example_index: Int[Array, "B"]
    example_mask: Bool[Array, "B"]


PredictStep = Callable[[Params, Batch], BatchPredictions]


def make_predict_step(predict_fn: PredictFn, mesh: Mesh, param_shardings: Any) -> PredictStep:
    """Compiles ``predict_fn`` for arrays placed on ``mesh``; the result is replicated.

    Args:
        predict_fn: ``(params, batch)`` -> named arrays [B, ...], row i for row i of the batch.
        mesh: from ``make_mesh``.
        param_shardings: of the parameters, in their structure.

    Raises:
        InputError: when first called, if an array has another first dimension than the batch, or there is none.
    """

    def predict(params: Params, batch: Batch) -> BatchPredictions:
        rows, values = batch["example_index"].shape[0], predict_fn(params, batch)
        wrong = {name: value.shape for name, value in values.items() if value.shape[:1] != (rows,)}
        if wrong or not values:
            found = ", ".join(f"{name} has shape {shape}" for name, shape in wrong.items()) or "there is none"
            raise InputError(f"predictions need the batch's {rows} rows as first dimension, but {found}: correct it.")
        # Which example a row is travels along: with several hosts, each knows its own rows of the batch only.
        return BatchPredictions(values, batch["example_index"], batch["example_mask"])

    shardings = (param_shardings, batch_sharding(mesh))
    return jax.jit(predict, in_shardings=shardings, out_shardings=jax.NamedSharding(mesh, jax.P()))


def predict_all(
    predict_step: PredictStep,
    params: Params,
    batches: Iterable[Batch],
    mesh: Mesh,
    num_examples: int,
    progress: str | None = None,
) -> dict[str, np.ndarray]:
    """Predictions of every example, in the order of ``example_index``, whatever batches they came in.

    Args:
        predict_step: from ``make_predict_step``.
        params: placed as the step was compiled for.
        batches: this host's rows of the batches, with ``example_index`` and ``example_mask``; each example of
            0 .. num_examples - 1 once. Rows whose mask is False are dropped.
        mesh: from ``make_mesh``.
        num_examples: size N of the split.
        progress: if given, the title of a progress bar (examples done, time left).

    Returns:
        Numpy arrays [N, ...] by name, of the dtypes that were predicted; the same on every host.

    Raises:
        InputError: an example came twice or never, or there is none.
    """
    if num_examples < 1:
        raise InputError("there is nothing to predict; choose a split with at least one example.")
    predictions: dict[str, np.ndarray] = {}
    done = np.zeros(num_examples, bool)
    bar = tqdm.tqdm(
        total=num_examples,
        desc=progress,
        unit="example",
        disable=progress is None or jax.process_index() > 0,
        dynamic_ncols=True,
        mininterval=bar_interval(),
    )

    def add(predicted: BatchPredictions) -> None:
        values, index, mask = jax.device_get(predicted)
        rows = index[mask]
        _check_rows(rows, done)
        done[rows] = True
        for name, value in values.items():
            if name not in predictions:
                predictions[name] = np.empty((num_examples, *value.shape[1:]), value.dtype)
            predictions[name][rows] = value[mask]
        bar.update(len(rows))

    with bar:
        running = None
        for batch in batches:
            previous, running = running, predict_step(params, put_batch(batch, mesh))
            if previous is not None:  # fetched while the next batch runs
                add(previous)
        if running is not None:
            add(running)
    if not done.all():
        missing = np.flatnonzero(~done)
        raise InputError(
            f"{len(missing)} of {num_examples} examples were not predicted, first number {missing[0]}: the batches "
            "must hold each example of the split."
        )
    return predictions


def _check_rows(rows: np.ndarray, done: np.ndarray) -> None:
    """Raises InputError if a row lies outside the split or came before, in this batch or an earlier one."""
    outside = rows[(rows < 0) | (rows >= len(done))]
    if len(outside):
        raise InputError(
            f"the batches hold example number {outside[0]}, but the split has {len(done)} examples (from 0): give "
            "num_examples and batches of the same split."
        )
    values, counts = np.unique(rows, return_counts=True)
    repeated = values[(counts > 1) | done[values]]
    if len(repeated):
        raise InputError(
            f"example number {repeated[0]} came twice: use the batches of an evaluation split, which hold each example "
            "once, and mask the rows that fill up the last one."
        )
