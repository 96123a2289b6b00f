"""Max-pooling of regions, exactly as the reference rounds it, with static shapes.

Every cell of a pooled region is the maximum over a rectangle of the feature map. Tables of maxima over rectangles whose
sides are powers of two are made once; then a rectangle of any size is the maximum of four of them, which overlap.
I and J powers of two, B pictures, P boxes, h and w cells of the feature map, C channels, R cells of a pooled region.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from vilbert_jax.detector.config import FEATURE_STRIDE


def bin_edges(longest: int, resolution: int) -> np.ndarray:
    """Where the cells of a pooled region begin and end, for regions of every length along one axis.

    Made on the host, in float32 and with a division, as the reference does: exact integers give other edges for some
    lengths, and so does a product with the reciprocal, to which compilers like to turn a division by a constant.

    Args:
        longest: the longest region, in cells of the feature map.
        resolution: R.

    Returns:
        [longest + 1, R, 2] int32: begin and end (exclusive) of each cell, counted from the start of the region.
    """
    side = np.arange(longest + 1, dtype=np.float32)[:, None] / np.float32(resolution)
    cells = np.arange(resolution, dtype=np.float32)[None]
    return np.stack([np.floor(cells * side), np.ceil((cells + 1) * side)], axis=-1).astype(np.int32)


def range_maxima(feature_map: Float[Array, "B h w C"], resolution: int) -> Float[Array, "B I J h w C"]:
    """Maxima over the rectangles of 2**i rows and 2**j columns that start at each cell.

    Args:
        feature_map: values of at least 0; beyond the map they count as 0.
        resolution: R; with the size of the map it says how large a rectangle can be asked for.
    """
    by_rows = _running_maxima(feature_map, 1, _num_levels(feature_map.shape[1], resolution))
    by_both = [_running_maxima(rows, 2, _num_levels(feature_map.shape[2], resolution)) for rows in by_rows]
    return jnp.stack([jnp.stack(levels, axis=1) for levels in by_both], axis=1)


def pool_regions(
    maxima: Float[Array, "B I J h w C"], boxes: Float[Array, "B P 4"], map_sizes: Int[Array, "B 2"], resolution: int
) -> Float[Array, "B P R R C"]:
    """Divides each box into R by R cells and takes the maximum over each.

    Corners are rounded to cells of the map, halves up; both cells that the corners fall on belong to the region. Cells
    that lie outside the picture are 0.

    Args:
        maxima: from ``range_maxima``.
        boxes: in pixels of the network's input, within the canvas.
        map_sizes: rows and columns of the map that belong to the picture.
        resolution: R.
    """
    rows, columns = maxima.shape[3:5]
    cells = jnp.floor(boxes / FEATURE_STRIDE + 0.5).astype(jnp.int32)
    top, bottom = _bins(cells[..., 1], cells[..., 3], map_sizes[:, :1], rows, resolution)
    left, right = _bins(cells[..., 0], cells[..., 2], map_sizes[:, 1:], columns, resolution)
    return jax.vmap(_rectangle_maxima)(maxima, top, bottom, left, right)


def _level(side: int) -> int:
    """The power of two of which two windows cover ``side`` cells."""
    return max((side - 1).bit_length() - 1, 0)


@functools.cache
def _num_levels(longest: int, resolution: int) -> int:
    edges = bin_edges(longest + 1, resolution)
    return _level(int(np.diff(edges, axis=-1).max())) + 1


def _running_maxima(x: Array, axis: int, num_levels: int) -> list[Array]:
    levels = [x]
    for level in range(num_levels - 1):
        last, step = levels[-1], min(1 << level, x.shape[axis])
        padding = [(0, step if i == axis else 0) for i in range(x.ndim)]
        shifted = jax.lax.slice_in_dim(jnp.pad(last, padding), step, None, axis=axis)
        levels.append(jnp.maximum(last, shifted))
    return levels


def _bins(first: Array, last: Array, limit: Array, longest: int, resolution: int) -> tuple[Array, Array]:
    """Begin and end (exclusive) of the pooled cells along one axis, [B, P, R], on the map's cells up to ``limit``."""
    edges = jnp.asarray(bin_edges(longest + 1, resolution))
    length = jnp.clip(last - first + 1, 1, longest + 1)
    absolute = jnp.clip(first[..., None, None] + edges[length], 0, limit[..., None, None])
    return absolute[..., 0], absolute[..., 1]


def _rectangle_maxima(values: Array, top: Array, bottom: Array, left: Array, right: Array) -> Array:
    """Maxima of one picture over the rectangles [top, bottom) x [left, right), [P, R] each; 0 where one is empty."""
    levels = jnp.array([_level(side) for side in range((1 << max(values.shape[:2])) + 1)])
    row_level, column_level = (levels[end - begin] for begin, end in ((top, bottom), (left, right)))
    row_starts = (top, bottom - (1 << row_level))
    column_starts = (left, right - (1 << column_level))
    corners = [
        values[row_level[:, :, None], column_level[:, None, :], row[:, :, None], column[:, None, :]]
        for row in row_starts
        for column in column_starts
    ]
    empty = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]
    return jnp.where(empty[..., None], 0, functools.reduce(jnp.maximum, corners))
