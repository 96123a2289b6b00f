"""Which thing each box is to find, by cases worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.detector.anchors import make_anchors
from vilbert_jax.detector.boxes import decode
from vilbert_jax.detector.targets import ANCHORS, REGIONS, Assignment, Matching, assign, encode, sampling_weights
from vilbert_jax.errors import InputError

# Boxes of 10 by 10 shifted to the right by k overlap the first thing by (10 - k) / (10 + k).
THINGS = np.array([[0, 0, 10, 10], [100, 0, 110, 10], [0, 0, 0, 0]], np.float32)
PRESENT = np.array([True, True, False])


def shifted(*amounts):
    return np.array([[k, 0, 10 + k, 10] for k in amounts], np.float32)


def assigned(boxes, rule, usable=None, things=THINGS, present=PRESENT):
    usable = np.ones(len(boxes), bool) if usable is None else np.array(usable)
    arrays = (jnp.asarray(x) for x in (boxes, usable, things, present))
    return Assignment(*(np.asarray(x) for x in assign(*arrays, rule, plus_one=False)))


def test_thresholds_of_anchors():
    """0, 1, 2, 5, 6 to the right: overlaps 1, .818, .667, .333, .25; between the thresholds nothing is learned."""
    found = assigned(shifted(0, 1, 2, 5, 6, 100), ANCHORS)
    assert found.positive.tolist() == [True, True, False, False, False, True]
    assert found.negative.tolist() == [False, False, False, False, True, False]
    assert found.things[[0, 1, 5]].tolist() == [0, 0, 1]


def test_an_overlap_equal_to_a_threshold_belongs_to_the_upper_side():
    """10 x 7 inside 10 x 10 covers 0.7 of it; 10 x 3 covers 0.3. As real numbers, float32's 0.7 is below 0.7."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7.00001], [0, 0, 10, 6.9999], [0, 0, 10, 3.00001], [0, 0, 10, 2.9999]])
    found = assigned(boxes.astype(np.float32), ANCHORS)
    assert found.positive.tolist() == [True, True, False, False, False]
    assert found.negative.tolist() == [False, False, False, False, True]
    half = np.array([[0, 0, 10, 5], [0, 0, 10, 4.9999]], np.float32)
    found = assigned(half, REGIONS)
    assert found.positive.tolist() == [True, False]
    assert found.negative.tolist() == [False, True]


def test_the_best_anchors_of_a_thing_count_however_little_they_overlap():
    """The second thing's best are two of equal overlap, one third; without the rule they would be ignored."""
    boxes = np.concatenate([shifted(0, 95, 105, 106), [[50, 50, 60, 60]]]).astype(np.float32)
    found = assigned(boxes, ANCHORS)
    assert found.positive.tolist() == [True, True, True, False, False]
    assert found.things[1:3].tolist() == [1, 1]
    assert not assigned(boxes, REGIONS).positive[1:].any()


def test_a_thing_that_no_box_overlaps_has_no_best_box():
    found = assigned(np.array([[50, 50, 60, 60]], np.float32), ANCHORS)
    assert not found.positive.any()
    assert found.negative.all()


def test_what_is_not_there_takes_no_part():
    """Neither a padded thing (though a box lies on its zeros), nor a box that is not usable, not even as the best."""
    boxes = np.concatenate([shifted(0, 3), [[0, 0, 0, 0]]]).astype(np.float32)
    found = assigned(boxes, ANCHORS, usable=[False, True, True])
    assert found.positive.tolist() == [False, True, False]  # the best of those that are there
    assert found.negative.tolist() == [False, False, True]
    garbage = THINGS.copy()
    garbage[2] = [0, 0, 10, 10]
    for a, b in zip(found, assigned(boxes, ANCHORS, usable=[False, True, True], things=garbage), strict=True):
        np.testing.assert_array_equal(a, b)
    nothing = assigned(boxes, ANCHORS, present=np.zeros(3, bool))
    assert not nothing.positive.any()
    assert nothing.negative.all()


def test_a_box_learns_the_thing_that_it_overlaps_most():
    things = np.array([[0, 0, 10, 10], [2, 0, 12, 10]], np.float32)
    found = assigned(shifted(0.5, 1.5), REGIONS, things=things, present=np.array([True, True]))
    assert found.things.tolist() == [0, 1]


@pytest.mark.parametrize(("foreground", "background"), [(0.3, 0.7), (0.5, 0), (1.1, 0.3)])
def test_thresholds_that_contradict_each_other_are_refused(foreground, background):
    with pytest.raises(InputError, match="background is .* and foreground"):
        Matching(foreground=foreground, background=background, best_counts=False)


@pytest.mark.parametrize(
    ("num_positive", "num_negative", "of_positive", "of_negative"),
    [(2, 100, 1, 6 / 100), (10, 100, 4 / 10, 4 / 100), (2, 3, 1, 1), (0, 16, 0, 8 / 16), (10, 0, 4 / 10, 0)],
)
def test_weights_are_the_shares_that_a_sample_would_hold(num_positive, num_negative, of_positive, of_negative):
    kinds = np.repeat([0, 1, 2], [num_positive, num_negative, 5])
    assignment = Assignment(jnp.zeros(len(kinds), int), jnp.asarray(kinds == 0), jnp.asarray(kinds == 1))
    weights = np.asarray(sampling_weights(assignment, 8, 0.5))
    expected = np.array([of_positive, of_negative, 0], np.float32)[kinds]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


BOXES = np.array([[10, 20, 30, 60], [0, 0, 16, 16]], np.float32)
TARGETS = np.array([[12, 16, 32, 96], [8, 4, 12, 8]], np.float32)


def test_deltas_by_hand():
    found = encode(BOXES, TARGETS, np.array([True, True]), weights=(10.0, 10.0, 5.0, 5.0), plus_one=False)
    expected = [
        [10 * 2 / 20, 10 * 16 / 40, 0, 5 * np.log(2)],
        [10 * 2 / 16, -10 * 2 / 16, 5 * np.log(1 / 4), 5 * np.log(1 / 4)],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    back = decode(BOXES, found, weights=(10.0, 10.0, 5.0, 5.0), plus_one=False)
    np.testing.assert_allclose(back, TARGETS, atol=1e-4)


def test_in_inclusive_pixels_decoding_ends_one_pixel_further_as_in_caffe():
    deltas = encode(BOXES, TARGETS, np.array([True, True]), plus_one=True)
    np.testing.assert_allclose(decode(BOXES, deltas, plus_one=True), TARGETS + np.array([[0, 0, 1, 1]]), atol=1e-4)


def test_rows_that_do_not_count_are_zero_whatever_they_hold():
    boxes = np.stack([BOXES[0], np.zeros(4, np.float32), np.full(4, np.nan, np.float32)])
    found = encode(boxes, boxes, np.array([True, False, False]), plus_one=False)
    np.testing.assert_array_equal(found, np.zeros((3, 4)))


def test_anchors_by_hand():
    found = make_anchors((4, 8), (1.0, 4.0))
    np.testing.assert_allclose(found, [[6, 6, 10, 10], [7, 4, 9, 12], [4, 4, 12, 12], [6, 0, 10, 16]])
    assert found.dtype == np.float32


@pytest.mark.parametrize(("sides", "ratios"), [((), (1.0,)), ((0.0,), (1.0,)), ((8.0,), (np.nan,)), ((8.0,), ())])
def test_anchors_without_size_are_refused(sides, ratios):
    with pytest.raises(InputError, match="anchors: (sides|ratios) is"):
        make_anchors(sides, ratios)
