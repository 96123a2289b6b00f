"""Max-pooling of regions against loops over one cell at a time, and its rounding."""

import functools

import detector_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.detector.pooling import bin_edges, pool_regions, range_maxima

RESOLUTION = 14


@functools.partial(jax.jit, static_argnames="resolution")
def pooled(feature_map, boxes, sizes, resolution=RESOLUTION):
    return pool_regions(range_maxima(feature_map, resolution), boxes, sizes, resolution)


@pytest.mark.parametrize("resolution", [14, 3])  # with 3 cells, one of them is up to 10 cells of the map long
def test_regions_of_any_place_and_size(resolution):
    rng = np.random.default_rng(resolution)
    feature_map = rng.random((2, 23, 27, 5), np.float32)
    sizes = np.array([[23, 27], [17, 9]], np.int32)
    corners = rng.uniform(0, 1, (2, 40, 2, 2))
    corners.sort(axis=2)
    boxes = (corners * 16 * sizes[:, None, None, ::-1]).reshape(2, 40, 4).astype(np.float32)
    boxes[:, 0] = np.array([[0, 0, 27 * 16, 23 * 16], [0, 0, 9 * 16, 17 * 16]])  # all of it
    boxes[:, 1] = [40, 24, 40, 24]  # no area: one cell; and both sides end on a half
    found = pooled(jnp.asarray(feature_map), jnp.asarray(boxes), jnp.asarray(sizes), resolution)
    for picture in range(2):
        for row, box in enumerate(boxes[picture]):
            expected = detector_reference.roi_pool(feature_map[picture], box, sizes[picture], resolution)
            np.testing.assert_array_equal(found[picture, row], expected)


def test_what_lies_beyond_a_picture_is_not_pooled():
    feature_map = np.zeros((1, 23, 27, 5), np.float32)
    feature_map[:, 4:] = feature_map[:, :, 6:] = 1
    box = jnp.array([[[0, 0, 400.0, 300.0]]])
    sizes = jnp.array([[4, 6]], jnp.int32)
    assert not pooled(jnp.asarray(feature_map), box, sizes).any()


def test_halves_are_rounded_up():
    """62.5 cells, for one, are 63; rounding to even would make them 62."""
    feature_map = jnp.arange(8, dtype=jnp.float32)[None, None, :, None]
    boxes = jnp.array([[[40.0, 0, 40, 0], [24, 0, 24, 0], [39.9, 0, 39.9, 0]]])  # 2.5, 1.5 and almost 2.5 cells
    found = pooled(feature_map, boxes, jnp.array([[1, 8]], jnp.int32))
    assert found.max(axis=(2, 3, 4)).tolist() == [[3, 2, 2]]


def test_edges_are_those_of_float32_arithmetic():
    """Not those of whole numbers: they differ for these lengths, of up to 129."""
    edges = bin_edges(129, RESOLUTION)
    cells = np.arange(RESOLUTION)
    lengths = np.arange(130)[:, None]
    exact = np.stack([cells * lengths // RESOLUTION, -(-(cells + 1) * lengths // RESOLUTION)], axis=-1)
    unlike = np.flatnonzero((edges != exact).any(axis=(1, 2)))
    assert unlike.tolist() == [57, 62, 114, 121, 124]
    assert edges.dtype == np.int32
