"""How well kept boxes find annotated things: recall, the right class, average precision. Shares are 0..1.

Overlaps are in inclusive pixels, as in the PASCAL VOC development kit, whose average precision this is (2010 and later:
the area under the curve, precision made monotonic).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vilbert_jax.errors import InputError
from vilbert_jax.metrics.boxes import box_iou

OVERLAP = 0.5


class Labelled(NamedTuple):
    """Boxes of one picture with labels: n annotated things, or what a detector found.

    Attributes:
        boxes: [n,4], x1, y1, x2, y2 in pixels.
        classes: [n] int.
        attributes: [n] int.
        confidences: [n] of the classes; of annotated things all 1.
    """

    boxes: np.ndarray
    classes: np.ndarray
    attributes: np.ndarray
    confidences: np.ndarray


def detection_scores(found: Sequence[Labelled], truth: Sequence[Labelled]) -> dict[str, float]:
    """Scores over all pictures.

    ``recall``: share of the things that a box overlaps by at least a half. Of the things so found, as its best box (the
    one that overlaps it most) says: ``class_accuracy`` and ``attribute_accuracy``. ``average_precision``: its mean over
    the classes that occur. ``boxes``: kept ones a picture.

    Args:
        found: of every picture.
        truth: things of the same pictures, in the same order.

    Raises:
        InputError: other numbers of pictures, or no thing at all.
    """
    if len(found) != len(truth) or not sum(len(things.boxes) for things in truth):
        raise InputError(
            f"{len(found)} pictures with boxes and {len(truth)} with things: expected as many, and at least one thing"
        )
    best = [_best_boxes(boxes, things) for boxes, things in zip(found, truth, strict=True)]
    rows = np.concatenate(best)
    hit = rows[:, 0] >= OVERLAP
    return {
        "recall": float(hit.mean()),
        "class_accuracy": _mean(rows[hit, 1]),
        "attribute_accuracy": _mean(rows[hit, 2]),
        "average_precision": float(np.mean(list(average_precisions(found, truth).values()))),
        "boxes": float(np.mean([len(boxes.boxes) for boxes in found])),
    }


def average_precisions(found: Sequence[Labelled], truth: Sequence[Labelled]) -> Mapping[int, float]:
    """Average precision of every class that occurs among the things.

    The boxes of a class are taken by falling confidence. One is right if the thing of its class that it overlaps most,
    by at least a half, was not found before.
    """
    classes = np.unique(np.concatenate([things.classes for things in truth]))
    return {int(label): _average_precision(found, truth, label) for label in classes}


def _best_boxes(boxes: Labelled, things: Labelled) -> np.ndarray:
    """For every thing: overlap of its best box, and whether that names class and attribute right. [n,3]."""
    if not len(boxes.boxes):
        return np.zeros((len(things.boxes), 3))
    overlap = box_iou(things.boxes, boxes.boxes)
    best = overlap.argmax(axis=1)
    right = boxes.classes[best] == things.classes, boxes.attributes[best] == things.attributes
    return np.stack([overlap.max(axis=1), *right], axis=1)


def _average_precision(found: Sequence[Labelled], truth: Sequence[Labelled], label: int) -> float:
    confidences, right = [], []
    for boxes, things in zip(found, truth, strict=True):
        mine, of_class = boxes.classes == label, things.boxes[things.classes == label]
        order = np.argsort(-boxes.confidences[mine], kind="stable")
        confidences.append(boxes.confidences[mine][order])
        right.append(_found_first(boxes.boxes[mine][order], of_class))
    # Within a picture the order stands already; confidences decide between pictures.
    order = np.argsort(-np.concatenate(confidences), kind="stable")
    hits = np.concatenate(right)[order]
    num_things = sum(int((things.classes == label).sum()) for things in truth)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    # Each hit adds a step of recall at the best precision from there on.
    return float(np.maximum.accumulate(precision[::-1])[::-1][hits].sum() / num_things)


def _found_first(boxes: np.ndarray, things: np.ndarray) -> np.ndarray:
    """Which boxes, best first, are the first to find their thing: [n] bool."""
    hits, taken = np.zeros(len(boxes), bool), set()
    if len(boxes) and len(things):
        overlap = box_iou(boxes, things)
        for row, thing in enumerate(overlap.argmax(axis=1)):
            if overlap[row, thing] >= OVERLAP and thing not in taken:
                hits[row] = True
                taken.add(thing)
    return hits


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
