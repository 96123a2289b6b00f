"""Regions as model inputs."""

import numpy as np

from vilbert_jax.data.transforms import pad_rows, region_row, relative_boxes


def test_relative_boxes_are_fractions_of_the_image():
    boxes = np.array([[0, 0, 200, 100], [50, 25, 150, 75]], np.float32)
    locations = relative_boxes(boxes, width=200, height=100)
    # x by the width, y by the height, and the share of the area; no + 1 anywhere.
    np.testing.assert_allclose(locations, [[0, 0, 1, 1, 1], [0.25, 0.25, 0.75, 0.75, 0.25]])
    assert locations.dtype == np.float32


def test_region_row_puts_the_global_region_first_and_pads():
    features = np.array([[1, 2], [3, 4]], np.float32)
    locations = np.full((2, 5), 0.5, np.float32)
    row = region_row(
        features.astype(np.int8), np.array([2, 3], np.float32), locations, np.array([False, True]), 2, num_slots=5
    )
    assert row.stored_features.tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert row.stored_features.dtype == np.int8
    assert row.feature_scales.tolist() == [2, 3, 0, 0]
    assert row.region_visible.tolist() == [True, False, False, False]
    assert row.num_pooled == 2
    assert row.region_boxes.tolist() == [[0, 0, 1, 1, 1], [0.5] * 5, [0.5] * 5, [0] * 5, [0] * 5]
    assert row.region_mask.tolist() == [True, True, True, False, False]
    assert row.feature_scales.dtype == row.region_boxes.dtype == np.float32
    assert row.region_mask.dtype == bool


def test_a_full_row_has_no_padding():
    row = region_row(np.ones((4, 2)), np.ones(4), np.ones((4, 5)), np.zeros(4, bool), 4, num_slots=5)
    assert row.region_mask.all()
    assert row.region_visible.all()


def test_pad_rows_keeps_the_dtype():
    padded = pad_rows(np.array([True, True]), 4)
    assert padded.tolist() == [True, True, False, False]
    assert padded.dtype == bool
    assert pad_rows(np.ones((2, 3), np.float32), 3).shape == (3, 3)
