"""The Caffe flavour from a file to detections: the tiny detector's weights in its numbering, which mean the same."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_detector
from tiny_detector import SHALLOW, pictures

from vilbert_jax.checkpoints.detectors import load_detector
from vilbert_jax.checkpoints.tensor_files import write_safetensors
from vilbert_jax.detector.backbone import map_sizes
from vilbert_jax.detector.config import CAFFE, DETECTRON2
from vilbert_jax.detector.detections import describe_boxes, detect
from vilbert_jax.detector.pictures import Pictures
from vilbert_jax.detector.pooling import range_maxima
from vilbert_jax.detector.proposals import ProposalHead
from vilbert_jax.detector.selection import ClassAgnostic, Confident

PREDICTOR = "roi_heads.box_predictor"
LOGITS = "proposal_generator.rpn_head.objectness_logits"
RENAMED = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
CONFIG = dataclasses.replace(SHALLOW.config, flavour=CAFFE)
BATCH = pictures([0, 1], (224, 256))
BOXES = np.array(
    [
        [[3, 5, 60, 70], [0, 0, 500, 500], [20.5, 30, 41, 90], [70, 9, 96, 44]],
        [[1, 2, 90, 50], [5, 60, 20, 80], [64, 0, 64, 0], [40, 40, 70, 90]],
    ],
    np.float32,
)


def in_caffe_order(tensors):
    """The same network as a file of the other layout has it, but for the box arithmetic."""
    rng = np.random.default_rng(0)
    tensors = dict(tensors)
    weights = np.tile(np.array(DETECTRON2.box_weights, np.float32), CONFIG.num_classes)
    for kind in ("weight", "bias"):
        foreground = tensors[f"{LOGITS}.{kind}"]
        background = rng.normal(size=foreground.shape).astype(np.float32)
        tensors[f"{LOGITS}.{kind}"] = np.concatenate([background, background + foreground])
        deltas = tensors[f"{PREDICTOR}.bbox_pred.{kind}"]
        deltas = deltas / weights.reshape(-1, *[1] * (deltas.ndim - 1))
        of_background = rng.normal(size=(4, *deltas.shape[1:])).astype(np.float32)
        tensors[f"{PREDICTOR}.bbox_pred.{kind}"] = np.concatenate([of_background, deltas])
    for name in ("cls_score.weight", "cls_score.bias", "cls_embedding.weight", "attr_score.weight", "attr_score.bias"):
        tensors[f"{PREDICTOR}.{name}"] = np.roll(tensors[f"{PREDICTOR}.{name}"], 1, axis=0)  # the last row comes first
    for old, new in RENAMED.items():
        tensors = {name.replace(f"{PREDICTOR}.{old}.", f"{PREDICTOR}.{new}."): x for name, x in tensors.items()}
    return tensors


@functools.partial(jax.jit, static_argnums=0)
def describe(model, params):
    return describe_boxes(model, params, BATCH, BOXES, jnp.ones(BOXES.shape[:2], bool))


@pytest.fixture(scope="module")
def flavours(tmp_path_factory):
    """The same detector in both numberings."""
    tensors = tiny_detector.arrays("tiny_weights")
    tensors = {name: x for name, x in tensors.items() if not re.search(r"res\d\.[1-9]", name)}
    features = np.asarray(describe(SHALLOW, tiny_detector.params()).features)
    weights = np.random.default_rng(0).normal(size=(21, 128)).astype(np.float32)
    tensors[f"{PREDICTOR}.cls_score.weight"] = weights  # all regions are of one class with the golden ones
    tensors[f"{PREDICTOR}.cls_score.bias"] = -weights @ features.mean(axis=(0, 1))
    folder = tmp_path_factory.mktemp("detectors")
    write_safetensors(folder / "later.safetensors", tensors)
    write_safetensors(folder / "caffe.safetensors", in_caffe_order(tensors))
    later = load_detector(folder / "later.safetensors", SHALLOW.config)
    return load_detector(folder / "caffe.safetensors", CONFIG), later


@pytest.fixture(scope="module")
def caffe(flavours):
    return flavours[0]


@pytest.fixture(scope="module")
def described(flavours):
    """Given boxes as both flavours see them."""
    return [jax.device_get(describe(detector.model, detector.params)) for detector in flavours]


def test_given_boxes_are_the_same_things_in_both_flavours(described):
    found, expected = described
    for name in ("boxes", "mask", "features", "class_probs", "class_confidences"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, err_msg=name)
    for name in ("classes", "attributes", "rows", "num_boxes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert len(set(found.classes.ravel().tolist())) > 3


def test_the_probability_of_an_attribute_is_what_no_attribute_leaves_of_it(flavours, described):
    """The only number of given boxes that the flavours disagree about: "none" competes in one of them."""
    found, later = described
    model = SHALLOW.bind({"params": flavours[1].params})
    logits = np.asarray(model.region_head.predict(jnp.asarray(later.features)).attribute_logits, np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    likeliest = exponentials[..., :-1].max(axis=-1)
    np.testing.assert_allclose(found.attribute_confidences, likeliest / exponentials.sum(axis=-1), rtol=1e-4)
    np.testing.assert_allclose(later.attribute_confidences, likeliest / exponentials[..., :-1].sum(axis=-1), rtol=1e-4)


def test_anchors_are_judged_alike(flavours):
    feature_map = jnp.asarray(np.random.default_rng(0).random((1, 3, 4, CONFIG.map_width), np.float32))
    found, expected = (
        ProposalHead(detector.model.config).apply({"params": detector.params["proposal_head"]}, feature_map)
        for detector in flavours
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-4), found, expected)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def moved(box, deltas, size):
    """One box in inclusive pixels, cut off at the last pixel of a picture."""
    (x1, y1, x2, y2), (dx, dy, dw, dh), (height, width) = box, deltas, size
    old_width, old_height = x2 - x1 + 1, y2 - y1 + 1
    x, y = x1 + old_width / 2 + dx * old_width, y1 + old_height / 2 + dy * old_height
    half_width, half_height = old_width * np.exp(dw) / 2, old_height * np.exp(dh) / 2
    corners = np.array([x - half_width, y - half_height, x + half_width, y + half_height])
    return np.clip(corners, 0, [width - 1, height - 1, width - 1, height - 1])


@pytest.mark.parametrize("rule", [ClassAgnostic(min_boxes=5, max_boxes=12), Confident(min_boxes=5, max_boxes=12)])
def test_detections_from_pixels(caffe, rule):
    """Rows, classes and boxes of what is kept, from the network's outputs by loops over one region at a time."""
    proposals, regions = jax.device_get(jax.jit(caffe.model.apply)({"params": caffe.params}, BATCH))
    found = jax.device_get(jax.jit(functools.partial(detect, caffe.model, rule=rule))(caffe.params, BATCH))
    for picture in range(2):
        assert found.mask[picture].sum() >= 5
        to_raw = np.tile(BATCH.scales[picture][::-1], 2)
        for place, row in enumerate(found.rows[picture][found.mask[picture]]):
            probs = softmax(regions.class_logits[picture, row])
            label = 1 + probs[1:].argmax()  # 0 is the background
            deltas = regions.box_deltas[picture, row][4 * label : 4 * label + 4]
            box = proposals.boxes[picture, row]
            box = box if rule.keeps_proposals else moved(box, deltas, BATCH.sizes[picture])
            np.testing.assert_allclose(found.class_probs[picture, place], probs, atol=1e-5)
            assert found.classes[picture, place] == label - 1
            assert found.attributes[picture, place] == regions.attribute_logits[picture, row][1:].argmax()
            np.testing.assert_allclose(found.boxes[picture, place], box * to_raw, atol=1e-2)


def test_boxes_end_at_the_border_and_not_on_the_last_pixel(caffe):
    """Here 40 of 40 pixels are cell 2.5, which is rounded up to 3; pixel 39 is rounded down."""
    side = 40
    pixels = np.random.default_rng(0).normal(scale=50, size=(1, 64, 64, 3)).astype(np.float32)
    small = Pictures(pixels, np.full((1, 2), side, np.int32), np.ones((1, 2), np.float32))
    boxes = jnp.array([[[0, 0, side, side], [0, 0, side + 24, side + 24], [0, 0, side - 1, side - 1]]], jnp.float32)

    @jax.jit
    def features(params):
        model = caffe.model.bind({"params": params})
        given = model.describe(small, boxes).features
        maxima = range_maxima(model.feature_map(small), CONFIG.pooling_resolution)
        return given, model.region_head.features(maxima, boxes, map_sizes(small.sizes))

    given, plain = features(caffe.params)
    np.testing.assert_allclose(given[0, 0], plain[0, 0], atol=1e-5)
    np.testing.assert_allclose(given[0, 1], plain[0, 0], atol=1e-5)
    assert np.abs(given[0, 2] - given[0, 0]).max() > 1e-2
