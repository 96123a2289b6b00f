"""Regions of an image as downstream tasks read them: all visible, given boxes beside detected ones, the global region.

n boxes of an image, R regions at most, S = R + 1 slots (slot 0 is the global region), m slots in use, F feature width.
Source: the released readers ``vqa_dataset.py``, ``vcr_dataset.py`` and ``refer_expression_dataset.py``.
"""

from typing import NamedTuple

import numpy as np

from vilbert_jax.data.region_codec import StoredRegions
from vilbert_jax.data.transforms import WHOLE_IMAGE, pad_rows, relative_boxes
from vilbert_jax.errors import InputError


class TaskRegions(NamedTuple):
    """The regions of one image as they travel to the device; ``tasks/regions.py`` decodes them there.

    The global feature is the mean over all boxes of the image, those that R cuts off included, so the host makes it.
    """

    stored_features: np.ndarray  # [R,F] int8, float16 or float32, 0 in padding
    feature_scales: np.ndarray  # [R] float32; times these the stored features are the features
    global_feature: np.ndarray  # [F] float32
    region_boxes: np.ndarray  # [S,5] float32, 0 in padding
    region_mask: np.ndarray  # [S] bool, True = a region


class Arrangement(NamedTuple):
    """The regions of one image in their slots."""

    regions: TaskRegions
    boxes: np.ndarray  # [m,4] float32, x1, y1, x2, y2 in pixels of the slots in use; the whole picture first


def arrange(detected: StoredRegions, *, max_regions: int) -> Arrangement:
    """Detected regions alone: the first R of them, in the order of the store."""
    return _arrangement([_part(detected, max_regions)], mean_feature(detected), max_regions)


def arrange_with_candidates(detected: StoredRegions, given: StoredRegions, *, max_regions: int) -> Arrangement:
    """Training on referring expressions: detected regions, then the annotated boxes of the image, cut to R.

    The global feature is that of the detected regions, as in evaluation, where there are no annotated boxes.
    """
    _check_same_image(detected, given)
    kept = _part(detected, max_regions)
    return _arrangement([kept, _part(given, max_regions - len(kept.boxes))], mean_feature(detected), max_regions)


def arrange_with_given(detected: StoredRegions, given: StoredRegions, *, max_regions: int) -> Arrangement:
    """VCR: the given boxes are all kept, as far as R allows, detected regions before them fill what is left.

    The global feature is the mean of both global features, weighted by the numbers of boxes, the global one counted.
    """
    _check_same_image(detected, given)
    last = _part(given, max_regions)
    first = _part(detected, max_regions - len(last.boxes))
    weights = np.array([len(detected.boxes) + 1, len(given.boxes) + 1], np.float32)
    means = np.stack([mean_feature(detected), mean_feature(given)])
    return _arrangement([first, last], weights @ means / weights.sum(), max_regions)


def blanked(regions: TaskRegions) -> TaskRegions:
    """The same slots with nothing in them: a task without the picture. The number of boxes is hidden as well."""
    empty = TaskRegions(*(np.zeros_like(field) for field in regions))
    empty.region_mask[:] = True
    return empty


def mean_feature(stored: StoredRegions) -> np.ndarray:
    """[F] float32: the mean over the boxes of an image, its global feature."""
    return (stored.scales @ stored.features.astype(np.float32)) / np.float32(len(stored.features))


def _part(stored: StoredRegions, count: int) -> StoredRegions:
    return stored._replace(boxes=stored.boxes[:count], features=stored.features[:count], scales=stored.scales[:count])


def _arrangement(parts: list[StoredRegions], global_feature: np.ndarray, max_regions: int) -> Arrangement:
    width, height = parts[0].width, parts[0].height
    boxes = np.concatenate([part.boxes for part in parts]).astype(np.float32)
    if len({part.features.dtype for part in parts}) > 1:  # stores that keep features differently
        parts = [
            part._replace(features=part.features * part.scales[:, None], scales=np.ones_like(part.scales))
            for part in parts
        ]
    num_used = len(boxes) + 1
    region_boxes = np.zeros((max_regions + 1, 5), np.float32)
    region_boxes[0], region_boxes[1:num_used] = WHOLE_IMAGE, relative_boxes(boxes, width, height)
    regions = TaskRegions(
        stored_features=pad_rows(np.concatenate([part.features for part in parts]), max_regions),
        feature_scales=pad_rows(np.concatenate([part.scales for part in parts]), max_regions),
        global_feature=global_feature.astype(np.float32),
        region_boxes=region_boxes,
        region_mask=np.arange(max_regions + 1) < num_used,
    )
    whole = np.array([[0, 0, width, height]], np.float32)
    return Arrangement(regions, np.concatenate([whole, boxes]))


def _check_same_image(detected: StoredRegions, given: StoredRegions) -> None:
    sizes = [(stored.width, stored.height) for stored in (detected, given)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"image {detected.image_id!r} is {sizes[0][0]} x {sizes[0][1]} pixels in the store of detected regions and "
            f"{sizes[1][0]} x {sizes[1][1]} in that of given boxes: the two were made from different pictures; extract "
            "both from the same files"
        )
