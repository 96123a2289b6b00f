"""What tasks share that choose one of K texts for a picture: the model judges every pair, a softmax compares them.

B batch, K options of an example, T text length.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vilbert_jax import losses
from vilbert_jax.losses import WeightedSum
from vilbert_jax.tasks.task import Batch, Logits
from vilbert_jax.trunk import Inputs


def option_inputs(batch: Batch, features: Array, boxes: Any, mask: Any) -> Inputs:
    """One row a pair: texts [B,K,T] of the batch with their regions.

    Args:
        batch: has token_ids, token_types and text_mask.
        features: [B,K,S,F].
        boxes: [B,K,S,5].
        mask: [B,K,S] bool.
    """

    def flat(x: Any) -> Array:
        return jnp.asarray(x).reshape(-1, *x.shape[2:])

    return Inputs(
        token_ids=flat(batch["token_ids"]),
        token_types=flat(batch["token_types"]),
        text_mask=flat(batch["text_mask"]),
        region_features=flat(features),
        region_boxes=flat(boxes),
        region_mask=flat(mask),
    )


def repeated(x: Any, num_options: int) -> Array:
    """[B, ...] -> [B,K, ...]: the same picture for every option."""
    x = jnp.asarray(x)
    return jnp.broadcast_to(x[:, None], (x.shape[0], num_options, *x.shape[1:]))


def option_logits(logits: Logits, head: str, num_options: int) -> Array:
    """[B,K] float: how well each pair fits; of the alignment head, matching minus not matching.

    The difference orders pairs as the probability of a match does, which in float32 is 1 for many of them.
    """
    pairs = logits[head]
    scores = pairs[:, 0] - pairs[:, 1] if head == "alignment" else pairs
    return scores.reshape(-1, num_options)


def choice_loss(scores: Array, labels: Array, batch: Batch) -> WeightedSum:
    """Cross-entropy over the options [B,K]; an example with label -1 does not count."""
    known = jnp.asarray(batch["example_mask"]) & (labels >= 0)
    return losses.choice_loss(scores, jnp.maximum(labels, 0), known)


def shares(scores: Array) -> Array:
    """[B,K] float32: softmax over the options."""
    return jax.nn.softmax(scores.astype(jnp.float32))
