"""Arithmetic of boxes by hand, and suppression against loops over one box at a time."""

import functools
import math

import detector_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.detector.boxes import are_large_enough, clip, decode, overlaps
from vilbert_jax.detector.suppression import Suppression, exceeds, reaches, suppress, suppress_by_class
from vilbert_jax.errors import InputError

each_kind = pytest.mark.parametrize("plus_one", [False, True])


def decoded(box, deltas, **options):
    return decode(jnp.array(box, jnp.float32), jnp.array(deltas, jnp.float32), **options).tolist()


def test_a_box_that_is_not_moved():
    assert decoded([0, 0, 15, 15], [0, 0, 0, 0], plus_one=False) == [0, 0, 15, 15]
    assert decoded([0, 0, 15, 15], [0, 0, 0, 0], plus_one=True) == [0, 0, 16, 16]  # as Caffe has it


def test_deltas_are_shares_of_sides_that_count_both_ends_or_one():
    deltas = [0.5, 0, math.log(2), 0]
    # width 10, center 5 + 5 = 10, new width 20
    assert decoded([0, 0, 10, 10], deltas, plus_one=False) == pytest.approx([0, 0, 20, 10], abs=1e-5)
    # width 16, center 8 + 8 = 16, new width 32
    assert decoded([0, 0, 15, 15], deltas, plus_one=True) == pytest.approx([0, 0, 32, 16], abs=1e-5)


def test_deltas_are_divided_by_their_weights():
    deltas = [5, 0, 5 * math.log(2), 0]
    moved = decoded([0, 0, 10, 10], deltas, weights=(10, 10, 5, 5), plus_one=False)
    assert moved == pytest.approx([0, 0, 20, 10], abs=1e-5)


def test_growth_is_limited():
    x1, _, x2, _ = decoded([0, 0, 16, 16], [0, 0, 50, 0], plus_one=False)
    assert x2 - x1 == pytest.approx(1000, rel=1e-5)


def test_clipping_ends_at_the_border_or_on_the_last_pixel():
    boxes, sizes = jnp.array([[[-3.0, -4, 50, 60]]]), jnp.array([[20, 30]])
    assert clip(boxes, sizes, plus_one=False).tolist() == [[[0, 0, 30, 20]]]
    assert clip(boxes, sizes, plus_one=True).tolist() == [[[0, 0, 29, 19]]]


def test_least_sides():
    # width 31 or, counted with both ends, 32; height 40 or 41
    boxes, least = jnp.array([[[1.0, 0, 32, 40]]]), jnp.array([[40.0, 32]])
    assert are_large_enough(boxes, least, plus_one=True).item()
    assert not are_large_enough(boxes, least, plus_one=False).item()
    assert not are_large_enough(boxes, least + 2, plus_one=True).item()


def test_a_box_without_area_is_too_small_even_if_nothing_is_asked():
    boxes = jnp.array([[[5.0, 5, 5, 9], [5, 5, 9, 5], [5, 5, 5.5, 5.5]]])
    assert are_large_enough(boxes, jnp.zeros((1, 2)), plus_one=False).tolist() == [[False, False, True]]


@each_kind
def test_overlaps(plus_one):
    boxes = jnp.array([[0, 0, 9, 9], [0, 0, 9, 4], [9, 0, 19, 9], [30, 30, 40, 40]], jnp.float32)
    found = overlaps(boxes, boxes, plus_one=plus_one)
    assert np.diag(found).tolist() == [1, 1, 1, 1]
    assert found[0].tolist() == pytest.approx([1, 50 / 100, 10 / 200, 0] if plus_one else [1, 36 / 81, 0, 0])


def halves(plus_one):
    """Two boxes, one of which is exactly half of the other."""
    return jnp.array([[0, 0, 10, 10], [0, 0, 10, 5]], jnp.float32) - jnp.array([[0, 0, plus_one, plus_one]])


@each_kind
@pytest.mark.parametrize("inclusive", [False, True])
def test_an_overlap_equal_to_the_threshold(plus_one, inclusive):
    rule = Suppression(0.5, inclusive=inclusive, plus_one=plus_one)
    kept, mask = suppress(halves(plus_one), jnp.ones(2, bool), rule, max_kept=2)
    assert mask.tolist() == [True, not inclusive]
    assert kept.tolist() == [0, 0 if inclusive else 1]


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
def test_thresholds_are_compared_as_real_numbers(threshold):
    """Half of them have a nearest float32 above, half below; the references compare with the double."""
    nearest = np.float32(threshold)
    around = np.array([np.nextafter(nearest, np.float32(0)), nearest, np.nextafter(nearest, np.float32(1))])
    assert reaches(jnp.asarray(around), threshold).tolist() == [float(x) >= threshold for x in around]
    assert exceeds(jnp.asarray(around), threshold).tolist() == [float(x) > threshold for x in around]


def random_boxes(seed, num_boxes=40, side=12):
    """Boxes on a coarse grid, so that equal overlaps, also those equal to a threshold, are common."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, side, (num_boxes, 2, 2))
    corners.sort(axis=1)
    corners[:, 1] += 1
    return corners.reshape(num_boxes, 4).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("rule", "max_kept"))
def jitted_suppress(boxes, candidates, rule, max_kept):
    return suppress(boxes, candidates, rule, max_kept=max_kept)


@pytest.mark.parametrize("rule", [Suppression(0.5, False, False), Suppression(0.5, True, True)], ids=str)
def test_suppression_is_the_greedy_one(rule):
    for seed in range(10):
        boxes = random_boxes(seed)
        present = np.random.default_rng(seed).random(len(boxes)) < 0.8
        expected = detector_reference.greedy(
            boxes, np.flatnonzero(present), rule.threshold, inclusive=rule.inclusive, plus_one=rule.plus_one
        )
        for max_kept in (5, 40):
            kept, mask = jitted_suppress(jnp.asarray(boxes), jnp.asarray(present), rule, max_kept)
            assert kept[mask].tolist() == expected[:max_kept]
            assert mask.tolist() == [True] * len(expected[:max_kept]) + [False] * (max_kept - len(expected[:max_kept]))
            assert not kept[~mask].any()


@pytest.mark.parametrize("rule", [Suppression(0.5, False, True), Suppression(0.3, True, True)], ids=str)
def test_suppression_within_each_class_is_the_greedy_one(rule):
    by_class = jax.jit(functools.partial(suppress_by_class, rule=rule))
    for seed in range(5):
        boxes, rng = random_boxes(seed, num_boxes=30), np.random.default_rng(seed)
        scores = rng.integers(0, 20, (30, 7)).astype(np.float32) / 20  # equal ones are common
        present = rng.random(30) < 0.8
        left = by_class(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(present))
        for column in range(7):
            ranking = [i for i in np.argsort(-scores[:, column], kind="stable") if present[i]]
            expected = detector_reference.greedy(
                boxes, ranking, rule.threshold, inclusive=rule.inclusive, plus_one=rule.plus_one
            )
            assert np.flatnonzero(left[:, column]).tolist() == sorted(expected)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, math.nan])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(InputError, match="an overlap is from 0 to 1"):
        Suppression(threshold, inclusive=False, plus_one=False)
