"""Overlap of boxes, and the accuracy of pointing at one: the official RefCOCO rule and ViLBERT's own."""

from typing import Literal, get_args

import numpy as np

from vilbert_jax.errors import InputError

BoxRule = Literal["xyxy", "xywh"]


def box_iou(a: np.ndarray, b: np.ndarray, rule: BoxRule = "xyxy") -> np.ndarray:
    """Intersection over union of every box of ``a`` with every box of ``b``, in inclusive pixels.

    Both rules count a box from pixel 3 to pixel 3 as one pixel wide.

    * ``"xyxy"``: ViLBERT's rule, for boxes ``x1, y1, x2, y2``: widths are ``x2 - x1 + 1``. Region masking and the
      published RefCOCO+ numbers (correct above 0.5) use it. Computed in the floating type of the boxes.
    * ``"xywh"``: the official RefCOCO rule (MAttNet), for boxes ``x, y, width, height``: the last pixel is
      ``x + width - 1``, and boxes that share only one column or row of pixels do not intersect (the comparison is
      strict). Correct from 0.5 on. Computed in float64.

    Args:
        a: ``[..., 4]`` boxes in pixels.
        b: ``[..., 4]`` boxes in pixels.
        rule: which convention the boxes and the overlap follow.

    Returns:
        ``[*a.shape[:-1], *b.shape[:-1]]`` values in 0..1; boxes of no area have none.

    Raises:
        InputError: a last axis that is not 4 long, or an unknown rule.
    """
    a, b = _boxes(a, b)
    per_b = (..., *[np.newaxis] * (b.ndim - 1), slice(None))  # the axes of b go behind those of a
    return paired_box_iou(a[per_b], b, rule)


def paired_box_iou(a: np.ndarray, b: np.ndarray, rule: BoxRule = "xyxy") -> np.ndarray:
    """Intersection over union of each box of ``a`` with the box of ``b`` at the same place; rules as in ``box_iou``.

    Args:
        a: ``[..., 4]`` boxes in pixels.
        b: ``[..., 4]`` boxes in pixels; the axes before the last broadcast with those of ``a``.
        rule: which convention the boxes and the overlap follow.

    Returns:
        ``[...]`` values in 0..1; boxes of no area have none.

    Raises:
        InputError: a last axis that is not 4 long, or an unknown rule.
    """
    a, b = _boxes(a, b)
    if rule not in get_args(BoxRule):
        raise InputError(f"unknown IoU rule {rule!r}: use 'xyxy' (ViLBERT's) or 'xywh' (the official RefCOCO rule)")
    if rule == "xywh":
        a, b = a.astype(np.float64), b.astype(np.float64)
        area_a, area_b = a[..., 2:].prod(axis=-1), b[..., 2:].prod(axis=-1)
        a, b = (np.concatenate([x[..., :2], x[..., :2] + x[..., 2:] - 1], axis=-1) for x in (a, b))
    else:
        dtype = np.result_type(a, b, np.float32)
        a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
        area_a, area_b = ((x[..., 2:] - x[..., :2] + 1).prod(axis=-1) for x in (a, b))
    last_minus_first = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    meets = (last_minus_first > (0 if rule == "xywh" else -1)).all(axis=-1)
    intersection = np.where(meets, (last_minus_first + 1).prod(axis=-1), 0)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def grounding_correct(predicted: np.ndarray, targets: np.ndarray, rule: BoxRule = "xywh") -> np.ndarray:
    """Whether each predicted box counts as the one the expression means.

    * ``"xywh"``, the official rule (MAttNet's ``eval_dets_utils.py``): IoU of at least 0.5, in float64. The one to
      report. A box one pixel wide or high meets nothing, not even itself.
    * ``"xyxy"``, ViLBERT's (``refer_expression_dataset.py``): IoU *above* 0.5, in float32, where a box given as
      ``x, y, w, h`` has ``x2 = x + w`` and so is one pixel larger. Systematically more lenient; for comparison with
      ViLBERT's published numbers.

    Args:
        predicted: [N,4] boxes in pixels of the picture, in the rule's own convention.
        targets: [N,4], likewise.
        rule: which convention the boxes, the overlap and the threshold follow.

    Returns:
        [N] bool.

    Raises:
        InputError: other shapes, boxes that are not finite or of negative size, or an unknown rule.
    """
    predicted, targets = np.asarray(predicted), np.asarray(targets)
    if predicted.ndim != 2 or predicted.shape != targets.shape:
        raise InputError(
            f"predicted boxes have shape {predicted.shape}, targets {targets.shape}: expected one predicted box for "
            "each target, both [N, 4]"
        )
    dtype = np.float32 if rule == "xyxy" else np.float64
    iou = paired_box_iou(predicted.astype(dtype), targets.astype(dtype), rule)
    for name, boxes in (("predicted", predicted), ("target", targets)):
        _check_sizes(name, boxes, rule)
    return iou > 0.5 if rule == "xyxy" else iou >= 0.5


def grounding_accuracy(predicted: np.ndarray, targets: np.ndarray, rule: BoxRule = "xywh") -> float:
    """The share (0..1) of expressions whose predicted box is right; arguments, rules and errors: ``grounding_correct``.

    RefCOCO+ counts sentences, not objects: N is the number of sentences.

    Raises:
        InputError: also where there is no box at all.
    """
    correct = grounding_correct(predicted, targets, rule)
    if not len(correct):
        raise InputError("no predicted boxes: an accuracy needs at least one expression")
    return float(correct.mean())


def _boxes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape[-1:] != (4,) or b.shape[-1:] != (4,):
        raise InputError(f"boxes have shapes {a.shape} and {b.shape}: the last axis must hold 4 numbers, as in [n, 4]")
    return a, b


def _check_sizes(name: str, boxes: np.ndarray, rule: BoxRule) -> None:
    size = boxes[:, 2:] if rule == "xywh" else boxes[:, 2:] - boxes[:, :2]
    bad = ~np.isfinite(boxes).all(axis=1) | (size < 0).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        expected = "x, y, width, height" if rule == "xywh" else "x1, y1, x2, y2"
        raise InputError(
            f"{name} box {row} is {boxes[row].tolist()}: by the rule {rule!r} a box is {expected}, finite and of no "
            "negative size; convert the boxes, or name the rule that they follow"
        )
