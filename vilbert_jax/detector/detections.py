"""From the network's outputs to what is stored of a picture. B pictures, P regions, K kept, C objects, A attributes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.boxes import clip, decode
from vilbert_jax.detector.config import Flavour
from vilbert_jax.detector.faster_rcnn import FasterRCNN, to_canvas, to_raw
from vilbert_jax.detector.heads import Regions
from vilbert_jax.detector.pictures import Pictures
from vilbert_jax.detector.proposals import Proposals
from vilbert_jax.detector.selection import Candidates, Selection, SelectionRule


class Detections(NamedTuple):
    """Regions of each picture, as a region store has them; rows beyond the mask have no meaning.

    Attributes:
        boxes: in raw pixels.
        mask: which rows hold a region; they come first.
        features: of the proposal, also where the box was moved.
        class_probs: background first, adding up to 1.
        classes: likeliest object, from 0, background not counted.
        class_confidences: its probability.
        attributes: likeliest attribute, from 0, "none" not counted.
        attribute_confidences: its probability.
        rows: places among all proposals or given boxes.
        num_boxes: see ``Selection``.
        fell_short: see ``Selection``.
    """

    boxes: Float[Array, "B K 4"]
    mask: Bool[Array, "B K"]
    features: Float[Array, "B K F"]
    class_probs: Float[Array, "B K C1"]
    classes: Int[Array, "B K"]
    class_confidences: Float[Array, "B K"]
    attributes: Int[Array, "B K"]
    attribute_confidences: Float[Array, "B K"]
    rows: Int[Array, "B K"]
    num_boxes: Int[Array, "B"]
    fell_short: Bool[Array, "B"]


def detect(model: FasterRCNN, params: Any, pictures: Pictures, rule: SelectionRule) -> Detections:
    """The regions of pictures that a rule keeps; pure, for ``jax.jit`` with ``model`` and ``rule`` held fixed.

    Args:
        model: the detector.
        params: its parameters.
        pictures: B of them.
        rule: which regions are kept, and whether as proposed or as regressed.
    """
    proposals, regions = model.bind({"params": params})(pictures)
    return select_detections(pictures, proposals, regions, rule, model.config.flavour)


def describe_boxes(
    model: FasterRCNN, params: Any, pictures: Pictures, boxes: Float[Array, "B P 4"], mask: Bool[Array, "B P"]
) -> Detections:
    """Given boxes with features, classes and attributes, all of them in their order: nothing is proposed or selected.

    Args:
        model: the detector.
        params: its parameters.
        pictures: B of them.
        boxes: in raw pixels; features are those of the part inside the picture.
        mask: which rows hold a box.
    """
    canvas_boxes = to_canvas(jnp.where(mask[..., None], boxes, 0), pictures.scales)
    regions = model.bind({"params": params}).describe(pictures, canvas_boxes)
    rows = jnp.broadcast_to(jnp.arange(mask.shape[1])[None], mask.shape)
    everything = Selection(rows, mask, mask.sum(axis=1), jnp.zeros(len(mask), bool))
    class_probs = class_probabilities(regions.class_logits, model.config.flavour)
    return _gather(everything, boxes, regions, class_probs, model.config.flavour)


def select_detections(
    pictures: Pictures, proposals: Proposals, regions: Regions, rule: SelectionRule, flavour: Flavour
) -> Detections:
    """The regions that a rule keeps.

    Args:
        pictures: B of them.
        proposals: P boxes each.
        regions: what the network says about them.
        rule: which are kept, and whether as proposed or as regressed.
        flavour: of the network.
    """
    class_probs = class_probabilities(regions.class_logits, flavour)
    classes = class_probs[..., 1:].argmax(axis=-1)
    regressed = regressed_boxes(proposals.boxes, regions.box_deltas, classes, pictures.sizes, flavour)
    proposed, regressed = (to_raw(boxes, pictures.scales) for boxes in (proposals.boxes, regressed))
    selection = jax.vmap(rule.select)(Candidates(proposed, regressed, class_probs, proposals.mask))
    return _gather(selection, proposed if rule.keeps_proposals else regressed, regions, class_probs, flavour)


def class_probabilities(logits: Float[Array, "*n K"], flavour: Flavour) -> Float[Array, "*n K"]:
    """Softmax over all classes, background moved to the front."""
    probs = jax.nn.softmax(logits, axis=-1)
    return probs if flavour.background_first else jnp.roll(probs, 1, axis=-1)


def attribute_probabilities(logits: Float[Array, "*n M"], flavour: Flavour) -> Float[Array, "*n A"]:
    """Probabilities of attributes, "none" left out: after the softmax or, where it does not compete, before it."""
    kept = slice(1, None) if flavour.background_first else slice(None, -1)
    if flavour.none_competes:
        return jax.nn.softmax(logits, axis=-1)[..., kept]
    return jax.nn.softmax(logits[..., kept], axis=-1)


def regressed_boxes(
    boxes: Float[Array, "B P 4"],
    box_deltas: Float[Array, "B P D"],
    classes: Int[Array, "B P"],
    sizes: Int[Array, "B 2"],
    flavour: Flavour,
) -> Float[Array, "B P 4"]:
    """Boxes as a class of each moves them, cut off at the picture's border.

    Args:
        boxes: in pixels of the canvas.
        box_deltas: from the network.
        classes: from 0, background not counted.
        sizes: height and width of each picture in the canvas.
        flavour: of the network.
    """
    rows = box_deltas.reshape(*boxes.shape[:2], -1, 4)
    chosen = (classes + flavour.background_first)[..., None, None]
    deltas = jnp.take_along_axis(rows, chosen, axis=2)[:, :, 0]
    moved = decode(boxes, deltas, weights=flavour.box_weights, plus_one=flavour.plus_one)
    return clip(moved, sizes, plus_one=flavour.plus_one)


def _gather(selection: Selection, boxes: Array, regions: Regions, class_probs: Array, flavour: Flavour) -> Detections:
    def take(x: Array) -> Array:
        return jnp.take_along_axis(x, selection.rows[..., None], axis=1)

    class_probs = take(class_probs)
    attribute_probs = attribute_probabilities(take(regions.attribute_logits), flavour)
    return Detections(
        boxes=take(boxes),
        mask=selection.mask,
        features=take(regions.features),
        class_probs=class_probs,
        classes=class_probs[..., 1:].argmax(axis=-1),
        class_confidences=class_probs[..., 1:].max(axis=-1),
        attributes=attribute_probs.argmax(axis=-1),
        attribute_confidences=attribute_probs.max(axis=-1),
        rows=selection.rows,
        num_boxes=selection.num_boxes,
        fell_short=selection.fell_short,
    )
