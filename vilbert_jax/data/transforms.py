"""Regions of an image as model inputs: relative locations, the global region in front, padding.

n boxes of an image, S slots (slot 0 is the global region), F feature width.
"""

from typing import NamedTuple

import numpy as np

_WHOLE_IMAGE = np.array([0, 0, 1, 1, 1], np.float32)


class RegionRow(NamedTuple):
    """The regions of one example."""

    region_features: np.ndarray  # [S,F] float32, 0 in padding
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


def region_row(global_feature: np.ndarray, features: np.ndarray, locations: np.ndarray, *, num_slots: int) -> RegionRow:
    """Puts the global region in front of an image's regions and pads to S slots.

    Args:
        global_feature: [F] float32; its location is the whole image.
        features: [n,F] float32, n at most S - 1.
        locations: [n,5] float32 of ``relative_boxes``.
        num_slots: S.
    """
    num_used = len(features) + 1
    region_features = np.zeros((num_slots, features.shape[1]), np.float32)
    region_features[0], region_features[1:num_used] = global_feature, features
    region_boxes = np.zeros((num_slots, 5), np.float32)
    region_boxes[0], region_boxes[1:num_used] = _WHOLE_IMAGE, locations
    return RegionRow(region_features, region_boxes, np.arange(num_slots) < num_used)
