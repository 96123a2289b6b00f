"""Official metric rules, exact, in numpy."""

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
    a, b = np.asarray(a), np.asarray(b)
    if a.shape[-1:] != (4,) or b.shape[-1:] != (4,):
        raise InputError(f"boxes have shapes {a.shape} and {b.shape}: the last axis must hold 4 numbers, as in [n, 4]")
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
    per_b = (..., *[np.newaxis] * (b.ndim - 1))  # the axes of b go behind those of a
    a, area_a = a[(*per_b, slice(None))], np.asarray(area_a)[per_b]
    last_minus_first = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    meets = (last_minus_first > (0 if rule == "xywh" else -1)).all(axis=-1)
    intersection = np.where(meets, (last_minus_first + 1).prod(axis=-1), 0)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
