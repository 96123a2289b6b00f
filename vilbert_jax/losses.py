"""Losses as pure functions: arrays in, a weighted sum out.

B batch, M predicted token positions, V vocabulary, R detected regions (the global region has no loss), C target width,
N negatives. Every loss is a ``WeightedSum``: dividing the total sum by the total weight *after* adding up over devices,
hosts and micro-batches gives the exact mean over the global batch, whatever the split.

Formulas: ``BertForMultiModalPreTraining.forward`` of vilbert.py (facebookresearch/vilbert-multi-task). Where that code
divides by zero because nothing is selected, the mean here is 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


class WeightedSum(NamedTuple):
    """A sum of per-item losses or scores, and how many items it holds (scalars)."""

    sum: Float[Array, ""]
    weight: Float[Array, ""]


def mean(total: WeightedSum) -> Float[Array, ""]:
    """``sum / weight``; 0 where nothing was counted."""
    return total.sum / jnp.where(total.weight > 0, total.weight, 1)


def _masked(values: Float[Array, "*items"], mask: Bool[Array, "*items"]) -> WeightedSum:
    # where, not a product: an infinite loss at an item that does not count must not become NaN
    return WeightedSum(jnp.where(mask, values, 0).sum(), mask.sum(dtype=values.dtype))


def token_loss(logits: Float[Array, "B M V"], labels: Int[Array, "B M"], mask: Bool[Array, "B M"]) -> WeightedSum:
    """Masked language modelling: cross-entropy over the vocabulary at the positions where ``mask`` is true."""
    return _masked(_cross_entropy(logits, labels), mask)


def region_kl_loss(
    logits: Float[Array, "B R C"], targets: Float[Array, "B R C"], mask: Bool[Array, "B R"]
) -> WeightedSum:
    """Masked region modelling of the paper: KL(detector's class distribution || prediction), a mean over regions.

    Source: paper section 3.1; ``visual_target`` 0 of the released code.
    """
    log_predicted = jax.nn.log_softmax(_at_least_float32(logits))
    entropy = jax.scipy.special.xlogy(targets, targets)  # 0 log 0 = 0
    return _masked((entropy - targets * log_predicted).sum(-1), mask)


def region_regression_loss(
    predicted: Float[Array, "B R C"], targets: Float[Array, "B R C"], mask: Bool[Array, "B R"]
) -> WeightedSum:
    """Squared error of the predicted features, a mean over regions and feature columns (``visual_target`` 1)."""
    total = _masked(((_at_least_float32(predicted) - targets) ** 2).sum(-1), mask)
    return WeightedSum(total.sum, total.weight * targets.shape[-1])


def region_nce_loss(
    predicted: Float[Array, "B R C"],
    targets: Float[Array, "B R C"],
    mask: Bool[Array, "B R"],
    negatives: Int[Array, "B R N"],
) -> WeightedSum:
    """Contrastive region loss (``visual_target`` 2): pick the region's own feature among N others.

    Args:
        predicted: region head output.
        targets: the unmasked features of the whole batch.
        mask: regions that count.
        negatives: flat indices into ``targets`` viewed as [B*R, C].
    """
    predicted = _at_least_float32(predicted)
    # Scores of every region with every target first: gathering the negatives' features would cost N times the memory.
    rows = predicted.shape[0] * predicted.shape[1]
    every = jnp.einsum("RC,SC->RS", predicted.reshape(rows, -1), targets.reshape(rows, -1))
    own = jnp.arange(rows)[:, None]
    scores = jnp.take_along_axis(every, jnp.concatenate([own, negatives.reshape(rows, -1)], axis=1), axis=1)
    scores = scores.reshape(*mask.shape, -1)
    return _masked(_cross_entropy(scores, jnp.zeros(mask.shape, jnp.int32)), mask)


def alignment_loss(logits: Float[Array, "B 2"], labels: Int[Array, "B"], mask: Bool[Array, "B"]) -> WeightedSum:
    """Image-text alignment: cross-entropy with class 0 = the pair matches, 1 = mismatched."""
    return _masked(_cross_entropy(logits, labels), mask)


def soft_label_loss(logits: Float[Array, "B K"], targets: Float[Array, "B K"], mask: Bool[Array, "B"]) -> WeightedSum:
    """Sigmoid cross-entropy against soft labels in 0..1, summed over the K labels, a mean over examples.

    VQA and GQA (K answers) and grounding (K region slots, padded ones included): the released code's mean over all
    elements times K.
    """
    return _masked(_sigmoid_cross_entropy(logits, targets).sum(-1), mask)


def one_hot_loss(logits: Float[Array, "B K"], targets: Float[Array, "B K"], mask: Bool[Array, "B"]) -> WeightedSum:
    """Sigmoid cross-entropy against one-hot labels, a mean over examples and labels (NLVR2, SNLI-VE)."""
    return _masked(_sigmoid_cross_entropy(logits, targets).mean(-1), mask)


def choice_loss(logits: Float[Array, "B K"], labels: Int[Array, "B"], mask: Bool[Array, "B"]) -> WeightedSum:
    """Cross-entropy over the K options of an example (VCR, retrieval)."""
    return _masked(_cross_entropy(logits, labels), mask)


def _sigmoid_cross_entropy(logits: Float[Array, "B K"], targets: Float[Array, "B K"]) -> Float[Array, "B K"]:
    logits = _at_least_float32(logits)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def _cross_entropy(logits: Float[Array, "*items K"], labels: Int[Array, "*items"]) -> Float[Array, "*items"]:
    log_predicted = jax.nn.log_softmax(_at_least_float32(logits))
    return -jnp.take_along_axis(log_predicted, labels[..., None], axis=-1)[..., 0]


def _at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
