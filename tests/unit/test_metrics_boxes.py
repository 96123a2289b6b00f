"""Pointing at boxes: the two RefCOCO+ rules, thresholds included, and overlap of pairs."""

import numpy as np
import pytest

from vilbert_jax.errors import InputError
from vilbert_jax.metrics import box_iou, grounding_accuracy, grounding_correct, paired_box_iou

# Predicted and true box as x, y, width, height; whether each rule counts it.
CASES = [
    ((2, 2, 4, 6), (2, 2, 4, 3), True, True),  # exactly half: enough officially
    ((7, 3, 1, 8), (7, 3, 1, 8), False, True),  # one pixel wide: officially it does not even meet itself
    ((0, 0, 8, 8), (4, 0, 8, 8), False, False),
    ((0, 0, 10, 10), (0, 0, 10, 4.9), False, True),
    ((0, 0, 10, 10), (10, 0, 5, 5), False, False),  # touching
    ((0, 0, 10, 10), (9, 0, 10, 10), False, False),  # one column shared
    ((3, 3, 0, 0), (3, 3, 0, 0), False, True),  # no area; one pixel by ViLBERT's rule
    ((3, 3, 0, 0), (0, 0, 9, 9), False, False),
    ((5, 5, 20, 30), (5, 5, 20, 30), True, True),
]


def corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def test_both_rules_on_the_boxes_where_they_differ():
    predicted, targets = (np.array([case[k] for case in CASES], np.float64) for k in (0, 1))
    official = grounding_correct(predicted, targets)
    assert official.tolist() == [case[2] for case in CASES]
    vilbert = grounding_correct(corners(predicted), corners(targets), rule="xyxy")
    assert vilbert.tolist() == [case[3] for case in CASES]
    assert grounding_accuracy(predicted, targets, rule="xywh") == pytest.approx(2 / 9)
    assert grounding_accuracy(corners(predicted), corners(targets), rule="xyxy") == pytest.approx(5 / 9)


def test_exactly_half_is_not_enough_for_vilbert():
    predicted, target = np.array([[0, 0, 3, 3]]), np.array([[0, 0, 3, 1]])  # 16 pixels and 8 of them
    assert paired_box_iou(predicted, target).tolist() == [0.5]
    assert not grounding_correct(predicted, target, rule="xyxy").any()


def test_vilberts_rule_is_decided_in_float32():
    predicted, target = np.array([[0, 0, 3, 3]], np.float64), np.array([[0, 0, 3, 1 + 1e-9]], np.float64)
    assert paired_box_iou(predicted, target) > 0.5
    assert not grounding_correct(predicted, target, rule="xyxy").any()
    predicted, target = np.array([[0, 0, 4, 4]], np.float64), np.array([[0, 0, 4, 2 - 1e-9]], np.float64)
    assert not grounding_correct(predicted, target, rule="xywh").any()


@pytest.mark.parametrize("rule", ["xyxy", "xywh"])
def test_pairs_are_the_diagonal_of_all_pairs(rule):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 30, 4))
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    np.testing.assert_array_equal(paired_box_iou(a, b, rule), np.diagonal(box_iou(a, b, rule)))
    np.testing.assert_array_equal(paired_box_iou(a[0], b, rule), box_iou(a[0], b, rule))


@pytest.mark.parametrize(
    ("predicted", "targets", "rule", "message"),
    [
        (np.zeros((2, 4)), np.zeros((3, 4)), "xywh", r"\(2, 4\), targets \(3, 4\)"),
        (np.zeros(4), np.zeros(4), "xywh", "one predicted box for each target"),
        (np.zeros((2, 5)), np.zeros((2, 5)), "xywh", r"\(2, 5\)"),
        (np.zeros((0, 4)), np.zeros((0, 4)), "xywh", "at least one expression"),
        (np.zeros((1, 4)), np.zeros((1, 4)), "vilbert", "'vilbert'"),
        (np.array([[0, 0, 1, 1], [9, 9, 5, 5]]), np.zeros((2, 4)), "xyxy", "predicted box 1 is .*x1, y1, x2, y2"),
        (np.zeros((1, 4)), np.array([[0, 0, -1, 5]]), "xywh", "target box 0 is .*x, y, width, height"),
        (np.array([[0, 0, np.nan, 5]]), np.zeros((1, 4)), "xywh", "predicted box 0 .*finite"),
        (np.zeros((1, 4)), np.array([[0, 0, np.inf, 5]]), "xywh", "target box 0 .*finite"),
    ],
)
def test_bad_boxes(predicted, targets, rule, message):
    with pytest.raises(InputError, match=message):
        grounding_accuracy(predicted, targets, rule)
