"""What sets the Caffe flavour apart, each difference in a case small enough to be done by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.detector.config import CAFFE, DETECTRON2, DetectorConfig
from vilbert_jax.detector.detections import attribute_probabilities, class_probabilities, regressed_boxes
from vilbert_jax.detector.proposals import AnchorOutputs, ProposalHead, propose

GRID = (2, 2)  # cells of a picture of 32 x 32


@functools.partial(jax.jit, static_argnames="config")
def jitted_propose(anchors, sizes, scales, config):
    return propose(anchors, sizes, scales, GRID, config)


def proposed(flavour, boxes, logits=(4.0, 3.0, 2.0, 1.0), deltas=0.0, scale=1 / 8, size=(32, 32), **limits):
    """Boxes that come of one anchor in each of four cells; by default sides of 2 pixels are enough for Caffe."""
    limits = {"max_candidates": 4, "max_proposals": 4} | limits
    config = DetectorConfig.tiny(flavour, num_anchors=1, **limits)
    boxes = np.concatenate([boxes, np.full((4 - len(boxes), 4), -9)])  # of one pixel, or none, after clipping
    anchors = AnchorOutputs(
        jnp.asarray(boxes, jnp.float32), jnp.array([logits]), jnp.full((1, 4, 4), deltas, jnp.float32)
    )
    found = jitted_propose(anchors, jnp.array([size]), jnp.full((1, 2), 1 / scale), config)
    return found.boxes[0][found.mask[0]].tolist()


def test_the_score_of_an_anchor_is_the_softmax_over_its_two_outputs():
    config = DetectorConfig.tiny(CAFFE)
    feature_map = jnp.zeros((1, 1, 1, config.map_width))
    params = jax.tree.map(jnp.zeros_like, ProposalHead(config).init(jax.random.key(0), feature_map)["params"])
    outputs = np.random.default_rng(0).normal(size=24).astype(np.float32)  # 12 backgrounds, then 12 foregrounds
    params["objectness"]["bias"] = jnp.asarray(outputs)
    logits = ProposalHead(config).apply({"params": params}, feature_map).logits[0]
    pairs = jax.nn.softmax(jnp.asarray(outputs.reshape(2, 12)), axis=0)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), pairs[1], rtol=1e-6)
    assert DetectorConfig.tiny(DETECTRON2).num_objectness_outputs == 12


def test_sides_count_both_ends():
    # width 16, center 8 + 4 = 12, corners 8 to either side
    (box,) = proposed(CAFFE, [[0, 0, 15, 15]], deltas=0.25)
    assert box == pytest.approx([12 - 8 * math.exp(0.25)] * 2 + [12 + 8 * math.exp(0.25)] * 2, rel=1e-5)
    assert proposed(CAFFE, [[0, 0, 15, 15]]) == [[0, 0, 16, 16]]
    assert proposed(DETECTRON2, [[0, 0, 15, 15]]) == [[0, 0, 15, 15]]


def test_boxes_end_on_the_last_pixel():
    assert proposed(CAFFE, [[4, 8, 100, 100]]) == [[4, 8, 31, 31]]
    assert proposed(DETECTRON2, [[4, 8, 100, 100]]) == [[4, 8, 32, 32]]


def test_an_overlap_equal_to_the_threshold_suppresses():
    # decoded they end one pixel later: 8 x 20 pixels, and exactly half of that; 7 x 20 and half for the other
    assert proposed(CAFFE, [[0, 0, 6, 18], [0, 0, 6, 8]], proposal_overlap=0.5) == [[0, 0, 7, 19]]
    both = [[0, 0, 7, 20], [0, 0, 7, 10]]
    assert proposed(DETECTRON2, both, proposal_overlap=0.5) == both
    assert proposed(DETECTRON2, both, proposal_overlap=0.49) == both[:1]


def test_overlaps_count_both_ends():
    # 10 x 10 and 10 x 4 pixels overlap by 0.4; without the last pixels 9 x 9 and 9 x 3, by a third
    boxes = [[0, 0, 8, 8], [0, 0, 8, 2]]  # decoded, they end at 9 and 3
    assert len(proposed(CAFFE, boxes, proposal_overlap=0.35)) == 1
    assert len(proposed(DETECTRON2, [[0, 0, 9, 9], [0, 0, 9, 3]], proposal_overlap=0.35)) == 2


def test_the_least_side_is_16_pixels_of_the_raw_picture():
    # at half size it is 8, of which a box decoded to 0..7 has exactly so many and one to 0..6 too few
    fits, too_narrow, too_low = [0, 0, 6, 18], [20, 0, 25, 18], [0, 22, 18, 27]
    assert proposed(CAFFE, [too_narrow, fits, too_low], scale=0.5) == [[0, 0, 7, 19]]
    assert len(proposed(CAFFE, [too_narrow, fits, too_low], scale=0.25)) == 3
    assert proposed(CAFFE, [too_narrow, fits, too_low], scale=1.0) == []
    assert len(proposed(DETECTRON2, [too_narrow, fits, too_low], scale=1.0)) == 3


def test_small_boxes_are_dropped_before_the_best_are_counted():
    thin, first, second = [0, 0, 0, 30], [0, 0, 30, 12], [0, 16, 30, 30]
    later = dataclasses.replace(CAFFE, filter_before_topk=False)
    assert len(proposed(CAFFE, [thin, first, second], scale=0.5, max_candidates=2)) == 2
    assert len(proposed(later, [thin, first, second], scale=0.5, max_candidates=2)) == 1
    assert len(proposed(DETECTRON2, [thin, first, second], max_candidates=2)) == 1
    assert len(proposed(DETECTRON2, [thin, first, second], max_candidates=3)) == 2


def test_anchors_beyond_the_picture_propose_nothing():
    # one cell for 16 x 16 pixels: the other three anchors are not there, however good they look
    assert proposed(DETECTRON2, [[0, 0, 9, 9]] * 4, logits=(1.0, 9.0, 9.0, 9.0), size=(16, 16)) == [[0, 0, 9, 9]]


def test_places_without_a_proposal_are_zeros():
    config = DetectorConfig.tiny(DETECTRON2, num_anchors=1, max_candidates=4, max_proposals=4)
    anchors = AnchorOutputs(jnp.array([[0.0, 0, 9, 9]] * 4), jnp.full((1, 4), 7.0), jnp.zeros((1, 4, 4)))
    found = jitted_propose(anchors, jnp.array([[32, 32]]), jnp.ones((1, 2)), config)
    assert found.mask.tolist() == [[True, False, False, False]]
    assert found.boxes[0, 1:].tolist() == [[0] * 4] * 3
    assert found.logits.tolist() == [[7, 0, 0, 0]]


def test_the_background_is_the_first_class():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.7]]))
    np.testing.assert_allclose(class_probabilities(logits, CAFFE), [[0.1, 0.2, 0.7]], rtol=1e-5)
    np.testing.assert_allclose(class_probabilities(logits, DETECTRON2), [[0.7, 0.1, 0.2]], rtol=1e-5)


def test_no_attribute_is_the_first_and_competes():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.7]]))
    np.testing.assert_allclose(attribute_probabilities(logits, CAFFE), [[0.2, 0.7]], rtol=1e-5)
    np.testing.assert_allclose(attribute_probabilities(logits, DETECTRON2), [[1 / 3, 2 / 3]], rtol=1e-5)


def test_the_background_has_box_deltas_and_weights_are_one():
    boxes, sizes = jnp.array([[[10.0, 10, 19, 19]]]), jnp.array([[99, 99]])
    shift = {"none": [9.0, 9, 9, 9], "first": [0.5, 0, 0, 0], "second": [0, 0.5, 0, 0]}
    caffe = jnp.array([[shift["none"] + shift["first"] + shift["second"]]])
    later = 10 * jnp.array([[shift["first"] + shift["second"]]])
    second = jnp.array([[1]])
    assert regressed_boxes(boxes, caffe, second, sizes, CAFFE).tolist() == [[[10, 15, 20, 25]]]
    assert regressed_boxes(boxes, later, second, sizes, DETECTRON2).tolist() == [[[10, 14.5, 19, 23.5]]]


def test_both_flavours_are_the_same_network_otherwise():
    caffe, later = DetectorConfig.resnet101_c4(CAFFE), DetectorConfig.resnet101_c4(DETECTRON2)
    assert dataclasses.replace(caffe, flavour=DETECTRON2) == later
    assert (caffe.num_objectness_outputs, caffe.num_box_rows) == (24, 1601)
    assert (later.num_objectness_outputs, later.num_box_rows) == (12, 1600)
    assert later.feature_width == 2048
