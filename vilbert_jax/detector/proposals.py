"""Where objects may be: anchors, their logits and deltas, and the few hundred boxes that come of them.

B pictures, h and w cells of the feature map, A anchors a cell, N = h * w * A, P proposals.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.backbone import map_sizes, within_grid
from vilbert_jax.detector.boxes import are_large_enough, clip, decode
from vilbert_jax.detector.config import FEATURE_STRIDE, DetectorConfig
from vilbert_jax.detector.suppression import Suppression, suppress


class AnchorOutputs(NamedTuple):
    """What the network says about each anchor of each cell; row, column, anchor, the last one fastest.

    Attributes:
        boxes: the anchors in pixels, the same for every picture.
        logits: log odds that there is an object.
        deltas: how the anchor would have to move to fit it.
    """

    boxes: Float[Array, "N 4"]
    logits: Float[Array, "B N"]
    deltas: Float[Array, "B N 4"]


class Proposals(NamedTuple):
    """Boxes that may hold an object, the likeliest first.

    Attributes:
        boxes: in pixels of the network's input; zeros where there is none.
        logits: log odds that there is an object; zeros where there is none.
        mask: which places hold a box; they come first.
    """

    boxes: Float[Array, "B P 4"]
    logits: Float[Array, "B P"]
    mask: Bool[Array, "B P"]


class ProposalHead(nn.Module):
    """The network on the feature map that judges anchors.

    The anchors are a parameter: checkpoints hold them, and no formula gives those of Caffe. They start as boxes without
    size, of which nothing is proposed, so that training has to set them.
    """

    config: DetectorConfig

    @nn.compact
    def __call__(self, feature_map: Float[Array, "B h w C"]) -> AnchorOutputs:
        """Judges every anchor, those beyond a picture's valid size too."""
        config = self.config
        batch, rows, columns, _ = feature_map.shape
        anchors = self.param("anchors", nn.initializers.zeros, (config.num_anchors, 4))
        hidden = nn.relu(_convolution(config.rpn_width, 3, "conv")(feature_map))
        logits = _convolution(config.num_objectness_outputs, 1, "objectness")(hidden)
        if config.flavour.two_way_rpn:  # the softmax over a pair is the sigmoid of the difference
            background, foreground = jnp.split(logits, 2, axis=-1)
            logits = foreground - background
        deltas = _convolution(4 * config.num_anchors, 1, "anchor_deltas")(hidden)
        y, x = (FEATURE_STRIDE * jnp.arange(side, dtype=anchors.dtype) for side in (rows, columns))
        y, x = jnp.meshgrid(y, x, indexing="ij")
        shifts = jnp.stack([x, y, x, y], axis=-1)[:, :, None]
        return AnchorOutputs(
            boxes=(shifts + anchors[None, None]).reshape(-1, 4),
            logits=logits.reshape(batch, -1),
            deltas=deltas.reshape(batch, -1, 4),
        )


def _convolution(features: int, kernel_size: int, name: str) -> nn.Conv:
    return nn.Conv(features, (kernel_size, kernel_size), precision=jax.lax.Precision.HIGHEST, name=name)


def rank_anchors(
    anchors: AnchorOutputs,
    sizes: Int[Array, "B 2"],
    scales: Float[Array, "B 2"],
    grid: tuple[int, int],
    config: DetectorConfig,
) -> Proposals:
    """The likeliest boxes, up to ``config.max_candidates``, before any is suppressed.

    Args:
        anchors: from ``ProposalHead``.
        sizes: height and width of each picture in pixels of the network's input.
        scales: raw pixels for one pixel of the network's input, vertically and horizontally.
        grid: h, w of the feature map.
        config: limits and flavour.

    Returns:
        Boxes of anchors; those outside the mask, which may lie between the others, hold any box.
    """
    flavour = config.flavour
    shape = anchors.deltas.shape
    boxes = decode(jnp.broadcast_to(anchors.boxes[None], shape), anchors.deltas, plus_one=flavour.plus_one)
    boxes = clip(boxes, sizes, plus_one=flavour.plus_one)
    is_large = are_large_enough(boxes, flavour.min_side / scales, plus_one=flavour.plus_one)
    in_picture = jnp.repeat(within_grid(map_sizes(sizes), *grid).reshape(shape[0], -1), config.num_anchors, axis=1)
    ranked = in_picture & is_large if flavour.filter_before_topk else in_picture
    logits = jnp.where(ranked, anchors.logits, -jnp.inf)
    best, order = jax.lax.top_k(logits, min(config.max_candidates, shape[1]))
    mask = jnp.take_along_axis(ranked & is_large, order, axis=1)
    return Proposals(jnp.take_along_axis(boxes, order[..., None], axis=1), best, mask)


def propose(
    anchors: AnchorOutputs,
    sizes: Int[Array, "B 2"],
    scales: Float[Array, "B 2"],
    grid: tuple[int, int],
    config: DetectorConfig,
) -> Proposals:
    """The likeliest boxes, without those that a likelier one covers; arguments as of ``rank_anchors``.

    Not differentiable on purpose: where boxes are is fixed before they are classified, as in the reference.
    """
    flavour = config.flavour
    rule = Suppression(config.proposal_overlap, inclusive=flavour.nms_inclusive, plus_one=flavour.plus_one)

    def choose(ranked: Proposals) -> Proposals:
        kept, mask = suppress(ranked.boxes, ranked.mask, rule, max_kept=config.max_proposals)
        boxes, logits = ranked.boxes[kept], ranked.logits[kept]
        return Proposals(jnp.where(mask[:, None], boxes, 0), jnp.where(mask, logits, 0), mask)

    anchors = jax.tree.map(jax.lax.stop_gradient, anchors)
    return jax.vmap(choose)(rank_anchors(anchors, sizes, scales, grid, config))
