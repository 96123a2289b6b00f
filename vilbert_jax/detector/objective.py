"""The training objective of the detector: one pass over pictures with annotated things, five losses.

B pictures, N anchors, P regions: the network's own proposals and the things' own boxes. Nothing is drawn at random, so
the loss of a picture is a function of the picture and the parameters alone, in training and in evaluation.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vilbert_jax.detector.backbone import map_sizes, within_grid
from vilbert_jax.detector.boxes import clip
from vilbert_jax.detector.config import Flavour
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.heads import Regions
from vilbert_jax.detector.losses import attribute_loss, box_loss, class_loss, objectness_loss
from vilbert_jax.detector.pictures import Pictures
from vilbert_jax.detector.pooling import pool_regions, range_maxima
from vilbert_jax.detector.proposals import AnchorOutputs, propose
from vilbert_jax.detector.targets import ANCHORS, REGIONS, Assignment, Things, assign, encode, sampling_weights
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.paths import path_name

Sums = dict[str, WeightedSum]

FROZEN = ("anchors", "mean", "variance")  # last parts of the paths of parameters that training leaves as they are
_ANCHOR_TURN, _REGION_TURN = 1 / 9, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """What the losses weigh.

    Attributes:
        num_anchor_samples: anchors of a picture that count as one each (256 for pictures of 600 x 1000).
        positive_share: of them may be positive, at most.
    """

    num_anchor_samples: int = 256
    positive_share: float = 0.5

    def __post_init__(self):
        """Raises InputError for numbers that leave nothing to learn."""
        if self.num_anchor_samples < 1 or not 0 < self.positive_share <= 1:
            raise InputError(
                f"num_anchor_samples is {self.num_anchor_samples} and positive_share {self.positive_share}; expected "
                "at least 1, and a share above 0 and up to 1"
            )


def detection_losses(model: FasterRCNN, params: Any, pictures: Pictures, things: Things, objective: Objective) -> Sums:
    """The losses of a batch; pure.

    ``objectness_loss`` and ``anchor_box_loss`` of the proposal head, ``class_loss``, ``region_box_loss`` and
    ``attribute_loss`` of the region head, and for the reader ``proposal_recall``, the share of things that a proposal
    covers by half, and ``region_accuracy``, the share of regions with a thing that get its class.

    Attributes are predicted from the class that the network itself finds likeliest, as in inference (Anderson et al.
    train with the annotated class).

    Args:
        model: the detector.
        params: its parameters; no gradient reaches those that ``FROZEN`` names.
        pictures: B of them.
        things: in them; boxes in pixels of the canvas.
        objective: what counts how much.
    """
    bound, config = model.bind({"params": _frozen(params)}), model.config
    feature_map = bound.feature_map(pictures)
    grid = feature_map.shape[1], feature_map.shape[2]
    anchors = bound.proposal_head(feature_map)
    proposals = propose(anchors, pictures.sizes, pictures.scales, grid, config)

    true_boxes = clip(jnp.where(things.mask[..., None], things.boxes, 0), pictures.sizes, plus_one=False)
    things = things._replace(boxes=true_boxes)
    boxes = jnp.concatenate([clip(proposals.boxes, pictures.sizes, plus_one=False), true_boxes], axis=1)
    mask = jnp.concatenate([proposals.mask, things.mask], axis=1)
    # All regions at once: XLA differentiates convolutions inside a loop, as inference has one, 20 times slower on CPUs.
    maxima = range_maxima(feature_map, config.pooling_resolution)
    pooled = pool_regions(maxima, boxes, map_sizes(pictures.sizes), config.pooling_resolution)
    regions = bound.region_head.predict(bound.region_head.pooled_features(pooled))

    in_picture = within_grid(map_sizes(pictures.sizes), *grid).reshape(len(boxes), -1)
    usable = jnp.repeat(in_picture, config.num_anchors, axis=1)
    sums = _anchor_losses(anchors, usable, things, objective, config.flavour)
    assigned = _assign_regions(boxes, mask, things, config.flavour)
    sums |= _region_losses(regions, boxes, assigned, things, config.flavour)
    num_proposals = proposals.mask.shape[1]
    return sums | {"proposal_recall": _recall(assigned, things, num_proposals)}


def _frozen(params: Any) -> Any:
    def freeze(path: Any, leaf: Array) -> Array:
        return jax.lax.stop_gradient(leaf) if path_name(path).rsplit("/", 1)[-1] in FROZEN else leaf

    return jax.tree_util.tree_map_with_path(freeze, params)


def _anchor_losses(
    anchors: AnchorOutputs, usable: Array, things: Things, objective: Objective, flavour: Flavour
) -> Sums:
    """Losses of the proposal head."""
    match = functools.partial(assign, anchors.boxes, rule=ANCHORS, plus_one=flavour.plus_one)
    assigned = jax.vmap(lambda usable, boxes, mask: match(usable, boxes, mask))(usable, things.boxes, things.mask)
    weigh = functools.partial(
        sampling_weights, num_samples=objective.num_anchor_samples, positive_share=objective.positive_share
    )
    boxes = jnp.broadcast_to(anchors.boxes[None], anchors.deltas.shape)
    targets = encode(boxes, _boxes_of(things, assigned), assigned.positive, plus_one=flavour.plus_one)
    return {
        "objectness_loss": objectness_loss(anchors.logits, assigned.positive, jax.vmap(weigh)(assigned)),
        "anchor_box_loss": box_loss(anchors.deltas, targets, assigned.positive, turn=_ANCHOR_TURN),
    }


def _assign_regions(boxes: Array, mask: Array, things: Things, flavour: Flavour) -> Assignment:
    match = functools.partial(assign, rule=REGIONS, plus_one=flavour.plus_one)
    return jax.vmap(lambda *arrays: match(*arrays))(boxes, mask, things.boxes, things.mask)


def _region_losses(regions: Regions, boxes: Array, assigned: Assignment, things: Things, flavour: Flavour) -> Sums:
    """Losses of the region head; every region counts as one, for there are few and a good share holds a thing."""
    positive = assigned.positive
    classes, attributes = (
        jnp.take_along_axis(labels, assigned.things, axis=1) for labels in (things.classes, things.attributes)
    )
    rows = regions.box_deltas.reshape(*positive.shape, -1, 4)
    row = (jnp.where(positive, classes, 0) + flavour.background_first)[..., None, None]
    deltas = jnp.take_along_axis(rows, row, axis=2)[:, :, 0]
    targets = encode(
        boxes, _boxes_of(things, assigned), positive, weights=flavour.box_weights, plus_one=flavour.plus_one
    )
    found = regions.class_logits.argmax(axis=-1) == classes + flavour.background_first
    return {
        "class_loss": class_loss(regions.class_logits, classes, positive, positive | assigned.negative, flavour),
        "region_box_loss": box_loss(deltas, targets, positive, turn=_REGION_TURN),
        "attribute_loss": attribute_loss(regions.attribute_logits, attributes, positive, flavour),
        "region_accuracy": _count(found & positive, positive),
    }


def _recall(assigned: Assignment, things: Things, num_proposals: int) -> WeightedSum:
    """Things that one of the first ``num_proposals`` boxes is assigned to."""
    number = jnp.arange(things.mask.shape[1])
    covers = (assigned.things[..., None] == number[None, None]) & assigned.positive[..., None]
    return _count(covers[:, :num_proposals].any(axis=1) & things.mask, things.mask)


def _boxes_of(things: Things, assigned: Assignment) -> Array:
    return jnp.take_along_axis(things.boxes, assigned.things[..., None], axis=1)


def _count(right: Array, mask: Array) -> WeightedSum:
    return WeightedSum(right.sum(dtype=jnp.float32), mask.sum(dtype=jnp.float32))
