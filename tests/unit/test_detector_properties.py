"""What must not change what a picture gives: the canvas, the neighbours, the order of boxes, the size of chunks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_detector
from tiny_detector import CONFIG, SHALLOW, golden, pictures, selected

from vilbert_jax.detector.backbone import map_sizes
from vilbert_jax.detector.detections import describe_boxes, detect
from vilbert_jax.detector.heads import RegionHead
from vilbert_jax.detector.pooling import range_maxima
from vilbert_jax.detector.selection import Confident

CANVAS = (224, 256)  # larger than either picture


run = functools.partial(tiny_detector.run, model=SHALLOW)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-3), a, b)


@pytest.fixture(scope="module")
def found():
    return run(pictures([0, 1], CANVAS))


def test_what_lies_beyond_a_picture_is_never_read(found):
    assert_equal(run(pictures([0, 1], CANVAS, beyond=1e4)), found)


def test_proposals_alone_are_the_same(found):
    alone = jax.jit(functools.partial(SHALLOW.apply, method="proposals"))
    assert_close(alone({"params": tiny_detector.params()}, pictures([0, 1], CANVAS)), found[0])


def test_neighbours_do_not_change_a_picture(found):
    swapped = run(pictures([1, 0], CANVAS))
    assert_equal(jax.tree.map(lambda x: x[::-1], swapped), found)


def test_the_canvas_does_not_change_a_picture(found):
    """Other shapes add up in another order, so the last bits may differ; what is chosen may not."""
    closely = run(pictures([0, 1], (208, 208)))
    assert_close(closely, found)
    rule = Confident(min_boxes=5, max_boxes=20)
    kept, others = (selected(*pictures([0, 1], CANVAS)[1:], *outputs, rule) for outputs in (closely, found))
    for name in ("rows", "mask", "classes", "attributes", "num_boxes", "fell_short"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(others, name), err_msg=name)


def test_detections_are_what_the_rule_keeps_of_what_the_network_finds(found):
    rule = Confident(min_boxes=5, max_boxes=20)
    batch = pictures([0, 1], CANVAS)
    whole = jax.jit(functools.partial(detect, SHALLOW, rule=rule))(tiny_detector.params(), batch)
    assert_close(whole, selected(batch.sizes, batch.scales, *found, rule))
    proposals, regions = found
    for picture in range(2):
        rows = whole.rows[picture][whole.mask[picture]]
        boxes = proposals.boxes[picture][rows] * np.tile(batch.scales[picture][::-1], 2)[None]
        np.testing.assert_allclose(whole.boxes[picture][: len(rows)], boxes, atol=1e-2)
        np.testing.assert_allclose(whole.features[picture][: len(rows)], regions.features[picture][rows], atol=1e-4)
    np.testing.assert_allclose(whole.class_probs.sum(axis=-1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def describe():
    return jax.jit(functools.partial(describe_boxes, SHALLOW))


def test_given_boxes_are_described_in_their_order(found, describe):
    batch, proposals, regions = pictures([0, 1], CANVAS), *found
    order = np.random.default_rng(0).permutation(CONFIG.max_proposals)
    per_corner = np.tile(batch.scales[:, ::-1], 2)[:, None]
    boxes = jnp.asarray(np.asarray(proposals.boxes) * per_corner)[:, order]
    mask = jnp.asarray(np.arange(CONFIG.max_proposals)[None] < np.array([[60], [50]]))
    given = describe(tiny_detector.params(), batch, boxes, mask)
    np.testing.assert_array_equal(given.boxes, boxes)
    np.testing.assert_array_equal(given.mask, mask)
    assert given.num_boxes.tolist() == [60, 50]
    assert not given.fell_short.any()
    for picture, num_boxes in ((0, 60), (1, 50)):
        expected = regions.features[picture][order[:num_boxes]]
        np.testing.assert_allclose(given.features[picture, :num_boxes], expected, atol=1e-4)
        logits = regions.class_logits[picture][order[:num_boxes]]
        np.testing.assert_array_equal(given.classes[picture, :num_boxes], logits[:, :-1].argmax(axis=1))


def test_no_boxes_give_no_features():
    maxima = jnp.zeros((2, 1, 1, 10, 13, CONFIG.map_width))
    params = {"params": tiny_detector.params()["region_head"]}
    regions = RegionHead(SHALLOW.config).apply(params, maxima, jnp.zeros((2, 0, 4)), jnp.full((2, 2), 10))
    assert regions.features.shape == (2, 0, CONFIG.feature_width)
    assert regions.class_logits.shape == (2, 0, CONFIG.num_classes + 1)


def test_the_size_of_chunks_changes_nothing():
    maxima = range_maxima(jnp.asarray(golden(0, "res4")), CONFIG.pooling_resolution)
    boxes, sizes = jnp.asarray(golden(0, "proposals"))[None], map_sizes(jnp.asarray(golden(0, "sizes")))
    params = {"params": tiny_detector.params()["region_head"]}
    one_by_one, by_seven, at_once = (
        jax.jit(RegionHead(config).apply)(params, maxima, boxes, sizes)
        for config in (dataclasses.replace(SHALLOW.config, regions_per_chunk=size) for size in (1, 7, 100))
    )
    np.testing.assert_allclose(one_by_one.features, at_once.features, atol=1e-5)
    np.testing.assert_allclose(by_seven.features, at_once.features, atol=1e-5)
    np.testing.assert_array_equal(one_by_one.class_logits.argmax(axis=-1), at_once.class_logits.argmax(axis=-1))


def test_boxes_in_another_order_give_features_in_that_order():
    maxima = range_maxima(jnp.asarray(golden(1, "res4")), CONFIG.pooling_resolution)
    boxes, sizes = jnp.asarray(golden(1, "proposals"))[None], map_sizes(jnp.asarray(golden(1, "sizes")))
    params = {"params": tiny_detector.params()["region_head"]}
    apply = jax.jit(RegionHead(SHALLOW.config).apply)
    order = np.random.default_rng(1).permutation(boxes.shape[1])
    np.testing.assert_allclose(
        apply(params, maxima, boxes[:, order], sizes).features,
        apply(params, maxima, boxes, sizes).features[:, order],
        atol=1e-5,
    )
