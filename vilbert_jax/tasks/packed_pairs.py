"""Batches of pre-training by pair and by slot, packed or not.

B pairs, G rows of P pairs (G = B without packing), R regions, M predicted words and K predicted regions of a row. The
fields are those of ``vilbert_jax.data.packing.PackedPairs``.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from vilbert_jax.nn.packing import Places, pairs_of

Batch = Mapping[str, Any]

_OF_ROWS = (
    "text_places", "region_places", "masked_positions", "token_labels", "token_label_mask", "masked_regions",
    "region_label_mask", "target_probs", "target_classes",
)  # fmt: skip


def by_pair(batch: Batch) -> dict[str, Any]:
    """The batch with what belongs to pairs as [B, ...], whether they come in rows or not."""
    if "text_places" not in batch:
        return dict(batch)
    return {name: x if name in _OF_ROWS else x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}


def places(batch: Batch) -> Places | None:
    """What stands where in the rows; None without packing."""
    return Places(batch["text_places"], batch["region_places"]) if "text_places" in batch else None


def of_words(values: Array, batch: Batch) -> Array:
    """[B] -> [G, M], or [G, 1] without packing: the value of the pair of each predicted word.

    Args:
        values: one for each pair.
        batch: from ``by_pair``.
    """
    if "text_places" not in batch:
        return values[:, None]
    there = jnp.take_along_axis(batch["text_places"], batch["masked_positions"], axis=1)
    return _of_pairs(values, pairs_of(there, batch["token_ids"].shape[1]))


def of_regions(values: Array, batch: Batch) -> Array:
    """[B] -> [G, K], or [G, 1] without packing: the value of the pair of each predicted region."""
    if "text_places" not in batch:
        return values[:, None]
    return _of_pairs(values, pairs_of(_masked_regions(batch), batch["region_mask"].shape[1]))


def at_regions(values: Array, batch: Batch) -> Array:
    """[B, R, F] -> [G, K, F], or as it is without packing: the values of the predicted regions."""
    if "text_places" not in batch:
        return values
    there, num_slots = _masked_regions(batch), batch["region_mask"].shape[1]
    index = pairs_of(there, num_slots) * (num_slots - 1) + (there - 1) % num_slots - 1  # the global one has no value
    rows = values.reshape(len(there), -1, values.shape[-1])
    return jnp.take_along_axis(rows, jnp.maximum(index, 0)[..., None], axis=1)


def _masked_regions(batch: Batch) -> Array:
    return jnp.take_along_axis(batch["region_places"], batch["masked_regions"], axis=1)


def _of_pairs(values: Array, pair: Array) -> Array:
    return jnp.take_along_axis(values.reshape(len(pair), -1), jnp.maximum(pair, 0), axis=1)
