"""What training asks of each box: which thing it is to find, how far it has to move, and how much it counts.

P boxes and T annotated things of one picture. Sources: sections 3.1.2 and 3.1.3 of Ren et al. (2015) and, where they
leave something open, ``anchor_target_layer.py`` and ``bbox_transform.py`` of rbgirshick/py-faster-rcnn.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.boxes import overlaps
from vilbert_jax.detector.suppression import reaches
from vilbert_jax.errors import InputError


class Things(NamedTuple):
    """Annotated things of each picture, padded to T of them.

    Attributes:
        boxes: in pixels of the network's input.
        mask: which of the T places hold a thing.
        classes: from 0, background not counted.
        attributes: from 0, "none" not counted.
    """

    boxes: Float[Array, "B T 4"]
    mask: Bool[Array, "B T"]
    classes: Int[Array, "B T"]
    attributes: Int[Array, "B T"]


class Assignment(NamedTuple):
    """What each box of a picture is to learn; boxes that are neither positive nor negative learn nothing.

    Attributes:
        things: place of the thing that the box overlaps most; 0 where it overlaps none.
        positive: the box is to find that thing.
        negative: the box is to find nothing.
    """

    things: Int[Array, "P"]
    positive: Bool[Array, "P"]
    negative: Bool[Array, "P"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching:
    """From which overlap on a box has found a thing.

    Attributes:
        foreground: intersection over union with a thing, 0..1, from which on a box is positive;
        background: below which, with all things, it is negative.
        best_counts: the boxes that overlap a thing most are positive too, however little that is.
    """

    foreground: float
    background: float
    best_counts: bool

    def __post_init__(self):
        """Raises InputError for thresholds that contradict each other."""
        if not 0 < self.background <= self.foreground <= 1:
            raise InputError(
                f"background is {self.background} and foreground {self.foreground}; expected 0 < background <= "
                "foreground <= 1"
            )


ANCHORS = Matching(foreground=0.7, background=0.3, best_counts=True)
REGIONS = Matching(foreground=0.5, background=0.5, best_counts=False)


def assign(
    boxes: Float[Array, "P 4"],
    usable: Bool[Array, "P"],
    things: Float[Array, "T 4"],
    present: Bool[Array, "T"],
    rule: Matching,
    *,
    plus_one: bool,
) -> Assignment:
    """Gives each box of a picture its thing.

    Boxes that reach over the border take part: in pictures as small as those of the embedded data few things have an
    anchor that does not (Ren et al. leave such anchors out).

    Args:
        boxes: in pixels.
        usable: which of them there are; the others learn nothing.
        things: boxes of the things, in pixels.
        present: which places hold a thing.
        rule: from which overlap on a box is positive, below which negative.
        plus_one: boxes are inclusive.
    """
    pairs = usable[:, None] & present[None]
    overlap = jnp.where(pairs, overlaps(boxes, things, plus_one=plus_one), 0)
    highest = overlap.max(axis=1)
    positive = reaches(highest, rule.foreground)
    if rule.best_counts:
        is_best = (overlap == overlap.max(axis=0)[None]) & (overlap > 0)
        positive |= is_best.any(axis=1)
    negative = usable & ~positive & ~reaches(highest, rule.background)
    return Assignment(overlap.argmax(axis=1), positive, negative)


def sampling_weights(assignment: Assignment, num_samples: int, positive_share: float) -> Float[Array, "P"]:
    """How often the reference's sample of a picture would hold each box: between 0 and 1.

    It draws up to ``num_samples * positive_share`` positives and fills up with negatives. Weights in place of a draw
    give the same mean loss without its noise, and a loss that is a function of the picture alone.

    Args:
        assignment: of one picture.
        num_samples: boxes that would be drawn.
        positive_share: of them may be positive, at most; 0..1.
    """
    num_positive, num_negative = assignment.positive.sum(), assignment.negative.sum()
    drawn = jnp.minimum(num_positive, num_samples * positive_share)
    of_positive = drawn / jnp.maximum(num_positive, 1)
    of_negative = jnp.minimum((num_samples - drawn) / jnp.maximum(num_negative, 1), 1)
    return jnp.where(assignment.positive, of_positive, jnp.where(assignment.negative, of_negative, 0))


def encode(
    boxes: Float[Array, "*n 4"],
    targets: Float[Array, "*n 4"],
    mask: Bool[Array, "*n"],
    *,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    plus_one: bool,
) -> Float[Array, "*n 4"]:
    """The deltas that move boxes onto others: what ``boxes.decode`` undoes, up to the +1 that it keeps as Caffe does.

    Args:
        boxes: in pixels.
        targets: in pixels.
        mask: rows that count; the others become 0 and may hold anything.
        weights: what the deltas are multiplied by.
        plus_one: sides are ``x2 - x1 + 1``.
    """
    ones = jnp.array([0, 0, 1, 1], boxes.dtype).reshape(*[1] * (boxes.ndim - 1), 4)  # any box with an area
    boxes, targets = (jnp.where(mask[..., None], x, ones) for x in (boxes, targets))
    (x, y, width, height), (to_x, to_y, to_width, to_height) = (_centred(b, plus_one) for b in (boxes, targets))
    deltas = [(to_x - x) / width, (to_y - y) / height, jnp.log(to_width / width), jnp.log(to_height / height)]
    weighted = jnp.stack([delta * weight for delta, weight in zip(deltas, weights, strict=True)], axis=-1)
    return jnp.where(mask[..., None], weighted, 0)


def _centred(boxes: Array, plus_one: bool) -> tuple[Array, Array, Array, Array]:
    """Centre and sides of boxes."""
    x1, y1, x2, y2 = jnp.unstack(boxes, axis=-1)
    width, height = x2 - x1 + plus_one, y2 - y1 + plus_one
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
