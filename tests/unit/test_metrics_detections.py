"""Scores of kept boxes, by hand."""

import numpy as np
import pytest

from vilbert_jax.errors import InputError
from vilbert_jax.metrics.detections import Labelled, average_precisions, detection_scores

A, B = [0, 0, 9, 9], [20, 20, 29, 29]  # 10 by 10 in inclusive pixels
LOWER_HALF, TOO_LITTLE = [0, 5, 9, 9], [0, 6, 9, 9]  # overlaps 0.5 and 0.4 with A


def labelled(boxes, classes, attributes=None, confidences=None):
    count = len(boxes)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    attributes = np.zeros(count, int) if attributes is None else np.array(attributes)
    confidences = np.ones(count) if confidences is None else np.array(confidences)
    return Labelled(boxes, np.array(classes, int), attributes, confidences)


def test_recall_and_the_labels_of_best_boxes():
    truth = [labelled([A, B], [1, 2], [0, 3]), labelled([A], [1], [1])]
    found = [labelled([LOWER_HALF, A, B], [7, 1, 1], [3, 2, 3]), labelled([TOO_LITTLE], [1], [1])]
    scores = detection_scores(found, truth)
    assert scores["recall"] == pytest.approx(2 / 3)
    assert scores["class_accuracy"] == pytest.approx(1 / 2)  # A by its best box, not by the first; B is no 1
    assert scores["attribute_accuracy"] == pytest.approx(1 / 2)
    assert scores["boxes"] == pytest.approx(2)


def test_an_overlap_of_one_half_is_enough():
    truth = [labelled([A], [1])]
    assert detection_scores([labelled([LOWER_HALF], [1])], truth)["recall"] == 1
    assert detection_scores([labelled([TOO_LITTLE], [1])], truth)["recall"] == 0


def test_average_precision_by_hand():
    """By falling confidence: hit, miss, hit of three things: (1 + 2/3) / 3."""
    truth = [labelled([A, B], [1, 1]), labelled([A], [1])]
    found = [labelled([B, A], [1, 1], confidences=[0.3, 0.9]), labelled([B], [1], confidences=[0.5])]
    assert average_precisions(found, truth) == {1: pytest.approx((1 + 2 / 3) / 3)}


def test_precision_counts_as_the_best_from_there_on():
    """Miss, hit, hit of two things: both steps of recall at 2/3, though the first hit comes at 1/2."""
    truth = [labelled([A, B], [4, 4])]
    found = [labelled([[50, 50, 60, 60], A, B], [4, 4, 4], confidences=[0.9, 0.8, 0.7])]
    assert average_precisions(found, truth) == {4: pytest.approx(2 / 3)}


def test_a_thing_is_found_once_and_by_its_class():
    truth = [labelled([A, B], [1, 2])]
    found = [labelled([A, A, A], [1, 1, 2], confidences=[0.9, 0.8, 0.7])]
    assert average_precisions(found, truth) == {1: pytest.approx(1), 2: 0}
    assert detection_scores(found, truth)["average_precision"] == pytest.approx(0.5)


def test_pictures_without_boxes_or_things_count():
    truth = [labelled([A], [1]), labelled([], [])]
    scores = detection_scores([labelled([], []), labelled([B], [1])], truth)
    assert scores == {"recall": 0, "class_accuracy": 0, "attribute_accuracy": 0, "average_precision": 0, "boxes": 0.5}


def test_the_order_of_boxes_does_not_matter():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (4, 12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (4, 12, 2))], axis=2)
    confidences = rng.permutation(48).reshape(4, 12) / 48
    truth = [labelled(b[:5], rng.integers(0, 2, 5), rng.integers(0, 2, 5)) for b in boxes]
    found = [
        labelled(b + rng.normal(0, 3, b.shape), rng.integers(0, 2, 12), None, c)
        for b, c in zip(boxes, confidences, strict=True)
    ]
    mixed = [Labelled(*(array[order] for array in row)) for row in found for order in [rng.permutation(12)]]
    assert detection_scores(found, truth) == detection_scores(mixed, truth)


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="2 pictures with boxes and 1 with things"):
        detection_scores([labelled([], []), labelled([], [])], [labelled([A], [1])])
    with pytest.raises(InputError, match="at least one thing"):
        detection_scores([labelled([A], [1])], [labelled([], [])])
