"""Intersection over union: the two RefCOCO+ conventions on the boxes where they differ."""

import numpy as np
import pytest

from vilbert_jax.errors import InputError
from vilbert_jax.metrics import box_iou

# Boxes as x, y, width, height; the values are those of the official evaluator and of ViLBERT's own code.
CASES = [
    ((2, 2, 4, 6), (2, 2, 4, 3), 0.5, 0.571),
    ((7, 3, 1, 8), (7, 3, 1, 8), 0.0, 1.0),
    ((0, 0, 8, 8), (4, 0, 8, 8), 0.3333, 0.3846),
    ((0, 0, 10, 10), (0, 0, 10, 4.9), 0.49, 0.536),
    ((0, 0, 10, 10), (10, 0, 5, 5), 0.0, 0.040),
]


@pytest.mark.parametrize(("a", "b", "official", "vilbert"), CASES)
def test_worked_examples_of_both_rules(a, b, official, vilbert):
    a, b = np.array(a), np.array(b)
    assert box_iou(a, b, rule="xywh") == pytest.approx(official, abs=1e-4)
    a, b = (np.concatenate([x[:2], x[:2] + x[2:]]) for x in (a, b))
    assert box_iou(a, b) == pytest.approx(vilbert, abs=5e-4)


def slow_iou(a, b, rule):
    """One pair of boxes, written out."""
    if rule == "xywh":
        x1, y1 = max(a[0], b[0]), max(a[1], b[1])
        x2, y2 = min(a[0] + a[2] - 1, b[0] + b[2] - 1), min(a[1] + a[3] - 1, b[1] + b[3] - 1)
        shared = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
        return shared / (a[2] * a[3] + b[2] * b[3] - shared)
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("rule", ["xyxy", "xywh"])
def test_all_pairs_agree_with_the_written_out_rule(rule):
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 12, (40, 4)).astype(float)
    boxes[:, 2:] += boxes[:, :2] if rule == "xyxy" else 1
    a, b = boxes[:15], boxes[15:]
    expected = [[slow_iou(x, y, rule) for y in b] for x in a]
    np.testing.assert_array_equal(box_iou(a, b, rule=rule), expected)
    assert np.count_nonzero(expected) > 50


def test_shapes_are_outer_and_dtypes_follow_the_rule():
    a, b = np.zeros((3, 4), np.float32), np.zeros((2, 5, 4), np.float32)
    assert box_iou(a, b).shape == (3, 2, 5)
    assert box_iou(a[0], b).shape == (2, 5)
    assert box_iou(a, a[0]).shape == (3,)
    assert box_iou(a[:0], a).shape == (0, 3)
    assert box_iou(a, b).dtype == np.float32
    assert box_iou(a, b, rule="xywh").dtype == np.float64


def test_boxes_without_area_do_not_divide_by_zero():
    assert box_iou(np.zeros(4), np.zeros(4), rule="xywh") == 0


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"\(2, 5\)"):
        box_iou(np.zeros((2, 5)), np.zeros(4))
    with pytest.raises(InputError, match="'official'"):
        box_iou(np.zeros(4), np.zeros(4), rule="official")  # pyright: ignore[reportArgumentType]
