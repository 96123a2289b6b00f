"""The three rules of selection where the reference values do not reach: too few, none, equal, absent, bad settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.detector.selection import Best, Candidates, ClassAgnostic, Confident
from vilbert_jax.errors import InputError

NUM_BOXES = 6


def candidates(confidences, mask=None, boxes=None):
    """Six boxes that do not touch, each with a share of the first of two objects."""
    confidences = np.array(confidences, np.float32)
    probs = np.stack([1 - confidences, confidences, np.zeros_like(confidences)], axis=1)
    corner = 20 * np.arange(NUM_BOXES, dtype=np.float32)
    apart = np.stack([corner, corner, corner + 9, corner + 9], axis=1)
    boxes = jnp.asarray(apart if boxes is None else boxes)
    mask = np.ones(NUM_BOXES, bool) if mask is None else np.array(mask)
    return Candidates(boxes, boxes, jnp.asarray(probs), jnp.asarray(mask))


@functools.partial(jax.jit, static_argnames="rule")
def jitted_select(candidates, rule):
    return rule.select(candidates)


def selected(rule, *args, **options):
    """Rows kept, what the rule counts, whether it fell short."""
    found = jitted_select(candidates(*args, **options), rule)
    assert found.mask.tolist() == sorted(found.mask.tolist(), reverse=True)
    assert not found.rows[~found.mask].any()
    return found.rows[found.mask].tolist(), found.num_boxes.item(), found.fell_short.item()


CONFIDENT = Confident(min_boxes=2, max_boxes=4, confidence=0.5)


def test_as_many_as_asked_for_keep_the_order_of_the_proposals():
    assert selected(CONFIDENT, [0.6, 0.1, 0.9, 0.5, 0.2, 0.3]) == ([0, 2, 3], 3, False)


def test_too_many_are_the_best_in_falling_order():
    assert selected(CONFIDENT, [0.6, 0.7, 0.9, 0.5, 0.8, 0.3]) == ([2, 4, 1, 0], 4, False)


def test_too_few_are_filled_up_with_the_best_of_the_rest():
    assert selected(CONFIDENT, [0.1, 0.2, 0.9, 0.3, 0.2, 0.2]) == ([2, 3], 2, False)


def test_where_nothing_is_confident_the_best_are_kept_and_it_says_so():
    assert selected(CONFIDENT, [0.1, 0.2, 0.4, 0.3, 0.2, 0.2]) == ([2, 3], 2, True)


def test_equal_confidences_keep_the_order_of_the_proposals():
    assert selected(CONFIDENT, [0.7] * 6) == ([0, 1, 2, 3], 4, False)


def test_absent_rows_are_not_chosen_and_suppress_nothing():
    boxes = np.array([[0, 0, 9, 9]] * NUM_BOXES, np.float32)
    mask = [False, True, True, False, False, False]
    assert selected(CONFIDENT, [0.9, 0.6, 0.7, 0.9, 0.9, 0.9], mask, boxes) == ([2, 1], 2, False)
    assert selected(Best(max_boxes=2), [0.9, 0.6, 0.7, 0.9, 0.9, 0.9], mask, boxes) == ([2, 1], 1, False)
    rule = ClassAgnostic(min_boxes=1, max_boxes=4)
    assert selected(rule, [0.9, 0.6, 0.7, 0.9, 0.9, 0.9], mask, boxes) == ([2], 1, False)


@pytest.mark.parametrize("rule", [CONFIDENT, Best(max_boxes=4), ClassAgnostic(min_boxes=2, max_boxes=4)], ids=str)
def test_a_picture_without_proposals(rule):
    assert selected(rule, [0.9] * 6, [False] * 6) == ([], 0, True)


def test_fewer_proposals_than_the_least_number():
    """All are kept, and it is said."""
    rule = Confident(min_boxes=10, max_boxes=36, confidence=0.5)
    assert selected(rule, [0.1, 0.2, 0.9, 0.3, 0.2, 0.2]) == ([2, 3, 1, 4, 5, 0], 6, True)
    assert selected(Best(max_boxes=7), [0.1, 0.2, 0.9, 0.3, 0.2, 0.2]) == ([2, 3, 1, 4, 5, 0], 6, True)


@pytest.mark.parametrize(
    "rule", [Confident(min_boxes=1, max_boxes=10**12), ClassAgnostic(min_boxes=1, max_boxes=10**12)], ids=str
)
def test_no_more_places_than_proposals(rule):
    probs = [0.1, 0.2, 0.9, 0.3, 0.25, 0.2]
    few = dataclasses.replace(rule, max_boxes=6)
    assert selected(rule, probs) == selected(few, probs)


def test_always_the_same_number_of_which_some_are_no_object():
    boxes = np.array([[0, 0, 9, 9]] * 2 + [[20 * i, 0, 20 * i + 9, 9] for i in range(1, 5)], np.float32)
    # the second lies on the first, which is better; rows of no object follow in the order of the proposals
    assert selected(Best(max_boxes=5), [0.9, 0.8, 0.0, 0.3, 0.4, 0.0], boxes=boxes) == ([0, 4, 3, 1, 2], 3, False)
    assert selected(Best(max_boxes=5, confidence=0.35), [0.9, 0.8, 0, 0.3, 0.4, 0], boxes=boxes) == (
        [0, 4, 1, 2, 3],
        2,
        False,
    )


def stacked(*overlaps):
    """Boxes of which each overlaps the first by so much, and then some that touch nothing."""
    boxes = [[0, 0, 100, 100], *([0, 0, 100, 100 * overlap] for overlap in overlaps)]
    apart = [[0, 200 * i, 10, 200 * i + 10] for i in range(1, NUM_BOXES + 1 - len(boxes))]
    return np.array(boxes + apart, np.float32)


def test_overlaps_are_tried_until_enough_are_left():
    boxes, confidences = stacked(0.45, 0.65, 0.95, 0.95, 0.95), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    # the third overlaps the second by 45 / 65 = 0.69
    for least, rows in ((1, [0]), (2, [0, 1]), (3, [0, 1, 2])):
        rule = ClassAgnostic(min_boxes=least, max_boxes=3, overlaps=(0.3, 0.5, 0.7))
        assert selected(rule, confidences, boxes=boxes) == (rows, len(rows), False)


def test_where_no_overlap_leaves_enough_the_last_counts_and_it_says_so():
    boxes, confidences = stacked(0.95, 0.95, 0.95, 0.95, 0.95), [0.4, 0.8, 0.7, 0.6, 0.5, 0.9]
    rule = ClassAgnostic(min_boxes=2, max_boxes=3, overlaps=(0.3, 0.5))
    assert selected(rule, confidences, boxes=boxes) == ([5], 1, True)


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (Confident, {"min_boxes": 40}, "min_boxes is 40 and max_boxes 36"),
        (Confident, {"min_boxes": 0}, "min_boxes is 0"),
        (Confident, {"confidence": 1.5}, "confidence is 1.5"),
        (Best, {"max_boxes": 0}, "max_boxes 0"),
        (Best, {"confidence": float("nan")}, "confidence is nan"),
        (ClassAgnostic, {"overlaps": ()}, "overlaps is empty"),
        (ClassAgnostic, {"overlaps": (0.5, 5)}, "threshold is 5"),
        (Confident, {"overlap": -1}, "threshold is -1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(rule, settings, message):
    with pytest.raises(InputError, match=message):
        rule(**settings)
