"""Sizes of the detector, and inputs that it refuses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_detector

from vilbert_jax.checkpoints.frcnn import abstract_detector_params
from vilbert_jax.detector.backbone import map_sizes
from vilbert_jax.detector.config import CAFFE, DetectorConfig
from vilbert_jax.detector.faster_rcnn import subtract_mean
from vilbert_jax.detector.pictures import Pictures
from vilbert_jax.errors import InputError


def test_the_public_network_has_the_published_number_of_parameters():
    params = abstract_detector_params(DetectorConfig.resnet101_c4())
    assert sum(leaf.size for leaf in params.values()) == 65_545_214
    assert {leaf.dtype for leaf in params.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(("size", "cells"), [((600, 800), (38, 50)), ((208, 133), (13, 9)), ((1, 2), (1, 1))])
def test_size_of_the_feature_map(size, cells):
    assert map_sizes(np.array([size])).tolist() == [list(cells)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stem_width", 0), ("blocks", (3, 4, 6)), ("blocks", (3, 4, 0, 3)), ("num_classes", 1.5), ("num_anchors", True),
        ("proposal_overlap", 7), ("proposal_overlap", "0.7"), ("max_proposals", 10**12),
    ],
)  # fmt: skip
def test_sizes_that_no_network_has_are_refused(field, value):
    with pytest.raises(InputError, match=f"detector config: {field} is"):
        DetectorConfig.tiny(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", "mine", "caffe, detectron2: files of a detector"),
        ("name", ["caffe"], "caffe, detectron2"),
        ("resize", "nonsense", "opencv, half_pixel"),
        ("plus_one", "yes", "true or false"),
        ("min_side", "x", "pixels, at least 0"),
        ("min_side", -1, "pixels, at least 0"),
        ("short_side", None, "1 <= short <= long"),
        ("short_side", "600", "1 <= short <= long"),
        ("long_side", 599, "1 <= short <= long"),
        ("box_weights", (1.0, 1.0), "four numbers above 0"),
        ("box_weights", (1.0, 1.0, 0.0, 1.0), "four numbers above 0"),
    ],
)
def test_flavours_that_mean_nothing_are_refused(field, value, expected):
    with pytest.raises(InputError, match=f"flavour: .*{field}.*expected .*{expected}"):
        dataclasses.replace(CAFFE, **{field: value})


def test_a_written_config_with_a_layout_that_no_file_has_is_refused():
    written = DetectorConfig.tiny().to_dict()
    written["flavour"]["name"] = "mine"
    with pytest.raises(InputError, match="flavour: name is 'mine'; expected one of caffe, detectron2"):
        DetectorConfig.from_dict(written)


@pytest.mark.parametrize("damaged", [[], None, {}, {"flavour": []}, {"flavour": {}}], ids=str)
def test_damaged_configs_are_refused(damaged):
    with pytest.raises(InputError, match="detector config: .*written by another version, or is none"):
        DetectorConfig.from_dict(damaged)


def test_the_mean_is_subtracted_in_the_order_of_the_channels():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = [1, 2, 3]
    found = subtract_mean(jnp.asarray(pixels))
    np.testing.assert_allclose(found[1, 2], [-102.9801, -115.9465, -122.7717], rtol=1e-6)
    np.testing.assert_allclose(found[0, 1], [-101.9801, -113.9465, -119.7717], rtol=1e-6)


def pictures(pixels=(1, 32, 32, 3), sizes=(1, 2), scales=(1, 2), dtype=jnp.float32):
    return Pictures(jnp.zeros(pixels, dtype), jnp.full(sizes, 32), jnp.ones(scales))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (pictures(pixels=(32, 32, 3)), r"pixels \(32, 32, 3\).*expected \[B, H, W, 3\]"),
        (pictures(pixels=(1, 32, 32, 4)), "expected"),
        (pictures(sizes=(2, 2)), r"sizes \(2, 2\)"),
        (pictures(scales=(1,)), r"scales \(1,\)"),
        (pictures(dtype=jnp.uint8), "subtract the mean first"),
    ],
    ids=["no batch", "four channels", "sizes of two", "one scale", "bytes"],
)
def test_pictures_that_do_not_fit_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        tiny_detector.MODEL.apply({"params": tiny_detector.params()}, bad, method="feature_map")
