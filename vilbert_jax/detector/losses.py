"""The five losses of a detector with attributes: arrays in, a weighted sum out; means are taken elsewhere.

B pictures, P boxes, K classes (background included), M attributes. Sources: Ren et al. (2015), section 3.1.2;
Anderson et al. (2018), section 3.1, for attributes.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.config import Flavour
from vilbert_jax.losses import WeightedSum


def objectness_loss(
    logits: Float[Array, "B P"], is_object: Bool[Array, "B P"], weights: Float[Array, "B P"]
) -> WeightedSum:
    """Is there an object at the anchor? Sigmoid cross-entropy, a weighted mean over anchors."""
    losses = jax.nn.softplus(jnp.where(is_object, -logits, logits))
    return WeightedSum((losses * weights).sum(), weights.sum())


def box_loss(
    deltas: Float[Array, "B P 4"], targets: Float[Array, "B P 4"], mask: Bool[Array, "B P"], *, turn: float
) -> WeightedSum:
    """Smooth L1 distance, summed over the four deltas, a mean over the boxes that count.

    Ren et al. divide by the number of anchor locations and multiply by a factor that makes up for it. A mean over the
    positives says how far off one of them is.

    Args:
        deltas: from the network.
        targets: from ``encode``.
        mask: boxes that have a target.
        turn: distance from which on the loss grows linearly (1 / sigma^2 in the reference: 1/9 for anchors, 1 for
            regions).
    """
    distance = jnp.abs(deltas - targets)
    losses = jnp.where(distance < turn, 0.5 * distance**2 / turn, distance - 0.5 * turn).sum(axis=-1)
    return _masked(losses, mask)


def class_loss(
    logits: Float[Array, "B P K"], classes: Int[Array, "B P"], positive: Bool[Array, "B P"], mask: Bool[Array, "B P"],
    flavour: Flavour,
) -> WeightedSum:  # fmt: skip
    """What is in the region? Cross-entropy with the background as one of the classes.

    Args:
        logits: in the flavour's order.
        classes: from 0, background not counted.
        positive: regions that hold a thing; in the others it is background.
        mask: regions that count.
        flavour: of the network.
    """
    background = 0 if flavour.background_first else logits.shape[-1] - 1
    labels = jnp.where(positive, classes + flavour.background_first, background)
    return _masked(_cross_entropy(logits, labels), mask)


def attribute_loss(
    logits: Float[Array, "B P M"], attributes: Int[Array, "B P"], mask: Bool[Array, "B P"], flavour: Flavour
) -> WeightedSum:
    """What is the thing in the region like? Cross-entropy; "none" competes where it does in the flavour's inference.

    Args:
        logits: in the flavour's order, "none" included.
        attributes: from 0, "none" not counted.
        mask: regions that hold a thing.
        flavour: of the network.
    """
    first = int(flavour.background_first)
    if not flavour.none_competes:
        logits, first = (logits[..., 1:] if flavour.background_first else logits[..., :-1]), 0
    return _masked(_cross_entropy(logits, attributes + first), mask)


def _masked(losses: Array, mask: Array) -> WeightedSum:
    return WeightedSum(jnp.where(mask, losses, 0).sum(), mask.sum(dtype=losses.dtype))


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
