"""Regions on the device: from the compact arrays of a batch to what the model reads and predicts.

B batch, S = R + 1 slots (slot 0 is the global region), R regions, F feature width, C classes, K classes kept a region.
A batch of pre-training holds the fields of ``vilbert_jax.data.transforms.RegionRow``, one of a downstream task those of
``vilbert_jax.data.task_regions.TaskRegions``. Decoding here, inside the compiled step, keeps
hosts, worker queues and the link to the device at a quarter of the float32 bytes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Batch = Mapping[str, Any]


def decoded_features(batch: Batch) -> Array:
    """[B,R,F] float32: features of all regions, hidden ones included. Not for the model's eyes."""
    return jnp.asarray(batch["stored_features"]).astype(jnp.float32) * batch["feature_scales"][..., None]


def visible_features(batch: Batch) -> Array:
    """[B,S,F] float32: what the model may see. Hidden regions are zero; the global one is the mean of the visible."""
    shown = decoded_features(batch) * jnp.asarray(batch["region_visible"])[..., None]
    pooled = shown.sum(axis=1, keepdims=True) / jnp.asarray(batch["num_pooled"])[:, None, None]
    return jnp.concatenate([pooled, shown], axis=1)


def task_features(batch: Batch) -> Array:
    """[...,S,F] float32: the global region and the detected ones, of a batch with the fields of ``TaskRegions``."""
    scales, pooled = jnp.asarray(batch["feature_scales"]), jnp.asarray(batch["global_feature"])
    features = jnp.asarray(batch["stored_features"]).astype(jnp.float32) * scales[..., None]
    return jnp.concatenate([pooled[..., None, :], features], axis=-2)


def class_targets(batch: Batch, num_classes: int) -> Array:
    """[B,R,C] float32: the detector's class distribution; what a store did not keep is spread over the other classes.

    Padding has no distribution; it is zero, or spread evenly.
    """
    kept = jnp.asarray(batch["target_probs"]).astype(jnp.float32)
    if "target_classes" not in batch:
        return kept
    others = num_classes - kept.shape[-1]
    rest = jnp.maximum(1 - kept.sum(-1, keepdims=True), 0) / max(others, 1)
    spread = jnp.broadcast_to(rest, (*kept.shape[:-1], num_classes))
    classes = jnp.asarray(batch["target_classes"]).astype(jnp.int32)
    # vmap says that rows are apart: a scatter over the whole batch would gather it on every device of a mesh first.
    return jax.vmap(jax.vmap(lambda row, where, values: row.at[where].set(values)))(spread, classes, kept)
