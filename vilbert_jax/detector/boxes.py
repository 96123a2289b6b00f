"""Arithmetic of boxes ``x1, y1, x2, y2``: regression, clipping, size, overlap. B pictures, P boxes."""

import math

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

MAX_LOG_GROWTH = math.log(1000 / 16)  # a regressed side is at most so much longer than the box it started from


def decode(
    boxes: Float[Array, "*n 4"],
    deltas: Float[Array, "*n 4"],
    *,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    plus_one: bool,
) -> Float[Array, "*n 4"]:
    """Moves and scales boxes as a network asks.

    Args:
        boxes: in pixels.
        deltas: dx, dy as shares of the sides and dw, dh as logarithms of growth, all of them times ``weights``.
        weights: what the deltas are divided by.
        plus_one: sides are ``x2 - x1 + 1``; the corners are half a side from the centre all the same, as in Caffe.

    Returns:
        Boxes in pixels, not clipped.
    """
    x1, y1, x2, y2 = jnp.unstack(boxes, axis=-1)
    dx, dy, dw, dh = (d / w for d, w in zip(jnp.unstack(deltas, axis=-1), weights, strict=True))
    width, height = x2 - x1 + plus_one, y2 - y1 + plus_one
    center_x, center_y = x1 + 0.5 * width + dx * width, y1 + 0.5 * height + dy * height
    half_width = 0.5 * width * jnp.exp(jnp.minimum(dw, MAX_LOG_GROWTH))
    half_height = 0.5 * height * jnp.exp(jnp.minimum(dh, MAX_LOG_GROWTH))
    corners = (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height)
    return jnp.stack(corners, axis=-1)


def clip(boxes: Float[Array, "B P 4"], sizes: Int[Array, "B 2"], *, plus_one: bool) -> Float[Array, "B P 4"]:
    """Cuts boxes off at the border of their picture.

    Args:
        boxes: in pixels.
        sizes: height and width of each picture.
        plus_one: the last pixel is ``W - 1``; otherwise the border is ``W``.
    """
    height, width = jnp.unstack(sizes.astype(boxes.dtype) - plus_one, axis=-1)
    largest = jnp.stack([width, height, width, height], axis=-1)
    return jnp.clip(boxes, 0, largest[:, None])


def are_large_enough(
    boxes: Float[Array, "B P 4"], min_sides: Float[Array, "B 2"], *, plus_one: bool
) -> Bool[Array, "B P"]:
    """Whether both sides of a box are above 0 and not below the least height and width for its picture."""
    width = boxes[..., 2] - boxes[..., 0] + plus_one
    height = boxes[..., 3] - boxes[..., 1] + plus_one
    fits = (height >= min_sides[:, :1]) & (width >= min_sides[:, 1:])
    return fits & (height > 0) & (width > 0)


def overlaps(boxes: Float[Array, "P 4"], others: Float[Array, "Q 4"], *, plus_one: bool) -> Float[Array, "P Q"]:
    """Intersection over union of each box with each other one, 0..1; two boxes without area give nan."""
    ax1, ay1, ax2, ay2 = (side[:, None] for side in jnp.unstack(boxes, axis=-1))
    bx1, by1, bx2, by2 = (side[None, :] for side in jnp.unstack(others, axis=-1))
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1) + plus_one, 0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1) + plus_one, 0)
    area = (ax2 - ax1 + plus_one) * (ay2 - ay1 + plus_one)
    other_area = (bx2 - bx1 + plus_one) * (by2 - by1 + plus_one)
    return width * height / (area + other_area - width * height)
