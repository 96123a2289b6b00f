"""Regions of an image as model inputs: relative locations, the global region in front, padding.

n boxes of an image, S = R + 1 slots (slot 0 is the global region), F feature width.
"""

from typing import NamedTuple

import numpy as np

WHOLE_IMAGE = np.array([0, 0, 1, 1, 1], np.float32)


class RegionRow(NamedTuple):
    """The regions of one example as they travel to the device, which turns them into ``Inputs`` (``tasks/regions.py``).

    Features stay as they are stored, at a quarter of their size in float32: hosts and links have less to do.
    """

    stored_features: np.ndarray  # [R,F] int8, float16 or float32, 0 in padding
    feature_scales: np.ndarray  # [R] float32; times these the stored features are the features
    region_visible: np.ndarray  # [R] bool, False = hidden from the model, or padding
    num_pooled: np.ndarray  # [] int32; the global feature is the sum of the visible ones divided by it
    region_boxes: np.ndarray  # [S,5] float32, 0 in padding
    region_mask: np.ndarray  # [S] bool, True = a region


def relative_boxes(boxes: np.ndarray, width: int | float, height: int | float) -> np.ndarray:
    """Boxes [n,4] (x1, y1, x2, y2 in pixels) as [n,5] float32: corners and area as fractions of the image.

    ``x1/W, y1/H, x2/W, y2/H, (x2 - x1)(y2 - y1)/(W H)``, without the + 1 of inclusive pixels.
    """
    corners = boxes / np.array([width, height, width, height], np.float32)
    area = (corners[:, 2:] - corners[:, :2]).prod(axis=1, keepdims=True)
    return np.concatenate([corners, area], axis=1, dtype=np.float32)


def pad_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Returns ``rows`` [n, ...] with zeros behind, [length, ...]; n is at most ``length``."""
    padded = np.zeros((length, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def region_row(
    features: np.ndarray,
    scales: np.ndarray,
    locations: np.ndarray,
    hidden: np.ndarray,
    num_pooled: int,
    *,
    num_slots: int,
) -> RegionRow:
    """Puts the global region in front of an image's regions and pads to S slots.

    Args:
        features: [n,F] as stored, n at most S - 1.
        scales: [n] float32.
        locations: [n,5] float32 of ``relative_boxes``.
        hidden: [n] bool, regions that the model must not see.
        num_pooled: divisor of the global feature.
        num_slots: S.
    """
    num_used = len(features) + 1
    region_boxes = np.zeros((num_slots, 5), np.float32)
    region_boxes[0], region_boxes[1:num_used] = WHOLE_IMAGE, locations
    return RegionRow(
        stored_features=pad_rows(features, num_slots - 1),
        feature_scales=pad_rows(scales, num_slots - 1),
        region_visible=pad_rows(~hidden, num_slots - 1),
        num_pooled=np.array(num_pooled, np.int32),
        region_boxes=region_boxes,
        region_mask=np.arange(num_slots) < num_used,
    )
