"""The five losses of the detector against plain numpy, and against what they must not read."""

import jax
import numpy as np
import pytest

from vilbert_jax.detector.config import CAFFE, DETECTRON2
from vilbert_jax.detector.losses import attribute_loss, box_loss, class_loss, objectness_loss

RNG = np.random.default_rng(0)
MASK = np.array([[True, False, True], [False, True, True]])
POSITIVE = np.array([[True, False, False], [False, True, False]])
CLASSES = np.array([[1, 0, 3], [2, 3, 0]], np.int32)


def cross_entropy(logits, label):
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def places(mask):
    return [(row, column) for row, column in zip(*np.nonzero(mask), strict=True)]


def test_objectness():
    logits, weights = RNG.normal(size=(2, 3)).astype(np.float32), np.array([[1, 0.25, 0], [0.5, 1, 0]], np.float32)
    found = objectness_loss(logits, POSITIVE, weights)
    probs = 1 / (1 + np.exp(-logits))
    expected = -(weights * np.where(POSITIVE, np.log(probs), np.log(1 - probs))).sum()
    np.testing.assert_allclose(found, [expected, 2.75], rtol=1e-5)
    far = objectness_loss(np.full((2, 3), 1e4, np.float32), POSITIVE, weights)
    assert np.isfinite(far.sum)


def test_boxes():
    """Quadratic below the turn, linear above it, where it has the same value and slope."""
    deltas = np.array([[[0.1, -0.3, 2, 0], [9, 9, 9, 9], [0, 0, 0, 0.5]]], np.float32)
    targets = np.zeros_like(deltas)
    mask = np.array([[True, False, True]])
    found = box_loss(deltas, targets, mask, turn=0.5)
    expected = (0.01 + 0.09) / 2 / 0.5 + (2 - 0.25) + (0.5 - 0.25)
    np.testing.assert_allclose(found, [expected, 2], rtol=1e-6)
    slopes = jax.grad(lambda x: box_loss(x, targets, mask, turn=0.5).sum)(deltas)
    np.testing.assert_allclose(slopes[0], [[0.2, -0.6, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], atol=1e-6)


@pytest.mark.parametrize(("flavour", "background", "first"), [(CAFFE, 0, 1), (DETECTRON2, 4, 0)])
def test_classes_count_from_behind_or_before_the_background(flavour, background, first):
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    found = class_loss(logits, CLASSES, POSITIVE, MASK, flavour)
    labels = np.where(POSITIVE, CLASSES + first, background)
    expected = sum(cross_entropy(logits[place], labels[place]) for place in places(MASK))
    np.testing.assert_allclose(found, [expected, 4], rtol=1e-5)


@pytest.mark.parametrize(("flavour", "kept", "first"), [(CAFFE, slice(0, 5), 1), (DETECTRON2, slice(0, 4), 0)])
def test_none_competes_with_attributes_where_it_does_in_inference(flavour, kept, first):
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    found = attribute_loss(logits, CLASSES, POSITIVE, flavour)
    expected = sum(cross_entropy(logits[place][kept], CLASSES[place] + first) for place in places(POSITIVE))
    np.testing.assert_allclose(found, [expected, 2], rtol=1e-5)


def test_rows_that_do_not_count_may_hold_anything():
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    other = np.where(POSITIVE[..., None], logits, np.inf).astype(np.float32)
    for array in (logits, other):
        found = attribute_loss(array, CLASSES, POSITIVE, DETECTRON2)
        assert np.isfinite(found.sum)
    np.testing.assert_array_equal(found, attribute_loss(logits, CLASSES, POSITIVE, DETECTRON2))
    nothing = box_loss(other[..., :4], logits[..., :4], np.zeros((2, 3), bool), turn=1.0)
    np.testing.assert_array_equal(nothing, [0, 0])
