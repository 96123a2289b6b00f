"""Brings a raw record into the one convention of region stores: pixels, inside the picture, background first."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from tfds_builders.region_features.dump import Background, RawRecord, Traits
from tfds_builders.region_features.image_sizes import ImageSizes
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.errors import InputError

_ROUNDING = 0.01  # pixels outside the picture that are float32 rounding and not counted
_LARGEST_SUM = 1.01  # of probabilities that were float16 once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How to read what the format leaves open.

    Attributes:
        traits: what the format tells.
        background: where the background is among the class probabilities of the dump.
        image_sizes: sizes that the dump lacks, or that replace its own.
        max_outside: share of the picture's side by which a box may lie outside and is clipped; beyond, it is refused.
        numbers_as_ids: image ids become the number they end with: COCO_val2014_000000000042 is 42.
        widths: F and C of the dump's first record, C 0 without class probabilities; the others must agree.
    """

    traits: Traits
    background: Background
    image_sizes: ImageSizes | None = None
    max_outside: float = 0.05
    numbers_as_ids: bool = False
    widths: tuple[int, int] | None = None


def decide_background(traits: Traits, flag: str | None) -> Background:
    """Where the background is: what the format tells, else what --background says.

    Raises:
        InputError: neither tells, or both and not the same.
    """
    if flag not in (None, "first", "last", "absent"):
        raise InputError(f"--background is {flag!r}; use first, last or absent")
    if traits.background is None and flag is None:
        raise InputError(
            f"a {traits.format} does not tell where the background class is among the class probabilities: say "
            "--background=first (Caffe, X-152), --background=last (detectron2 ports), or --background=absent where its "
            "column was dropped"
        )
    if traits.background is not None and flag not in (None, traits.background):
        raise InputError(f"--background={flag}, but in a {traits.format} it is {traits.background}; leave the flag out")
    return traits.background or flag  # pyright: ignore[reportReturnType]: checked above


def normalise(raw: RawRecord, rules: Rules) -> tuple[RegionRecord, int]:
    """The record as stores keep it, and the number of its boxes that were clipped.

    Raises:
        InputError: naming file and record: no boxes, NaN, shapes that do not fit, an unknown size, boxes far outside.
    """
    where = raw.where if raw.image_id in raw.where else f"{raw.where}, image {raw.image_id!r}"
    image_id = stored_id(raw, rules)
    if not len(raw.boxes):
        raise InputError(f"{where}: no boxes; leave the picture out or give it one box of the whole picture")
    arrays = {"boxes": raw.boxes, "features": raw.features}
    if raw.class_probs is not None:
        arrays["class probabilities"] = raw.class_probs
    _check_arrays(arrays, where)
    if rules.widths not in (None, widths(raw)):
        raise InputError(
            f"{where}: features and class probabilities are {' and '.join(map(str, widths(raw)))} wide, in the first "
            f"record {' and '.join(map(str, rules.widths))}; import dumps of different detectors apart"
        )
    width, height = _size(raw, rules, where)
    boxes = np.asarray(raw.boxes, np.float64)
    if rules.traits.box_units == "fractions":
        boxes = boxes * [width, height, width, height]
    boxes, clipped = _clip(boxes, width, height, rules.max_outside, where)
    probabilities = None if raw.class_probs is None else _probabilities(raw.class_probs, rules.background, where)
    return RegionRecord(image_id, width, height, boxes, np.asarray(raw.features, np.float32), probabilities), clipped


def stored_id(raw: RawRecord, rules: Rules) -> str:
    """The image id under which a record is stored.

    Raises:
        InputError: ids are to be numbers and this one does not end with one.
    """
    if not rules.numbers_as_ids:
        return raw.image_id
    found = re.search(r"(\d+)(\.\w+)?$", raw.image_id)
    if not found:
        raise InputError(
            f"{raw.where}: image id {raw.image_id!r} does not end with a number; leave --image_ids=numbers out"
        )
    return str(int(found[1]))


def widths(raw: RawRecord) -> tuple[int, int]:
    """F and C of a record; C is 0 without class probabilities."""
    return raw.features.shape[1], 0 if raw.class_probs is None else raw.class_probs.shape[1]


def _check_arrays(arrays: Mapping[str, np.ndarray], where: str) -> None:
    count = len(arrays["boxes"])
    for name, values in arrays.items():
        if values.ndim != 2 or len(values) != count or not values.shape[1]:
            raise InputError(f"{where}: {name} have shape {values.shape} for {count} boxes; expected one row a box")
        if not np.isfinite(values).all():
            row = int(np.argmax(~np.isfinite(values).all(axis=1)))
            raise InputError(f"{where}: {name} hold NaN or infinity in row {row}; extract the picture again")


def _size(raw: RawRecord, rules: Rules, where: str) -> tuple[int, int]:
    if rules.image_sizes is not None:
        return rules.image_sizes.get((raw.image_id, stored_id(raw, rules)), where)
    if raw.width is None or raw.height is None:
        raise InputError(
            f"{where}: a {rules.traits.format} does not tell the picture's size: give it with --image_sizes=FILE, JSON "
            '{"image id": [width, height]} or lines of image id, width, height with tabs between'
        )
    if raw.width < 1 or raw.height < 1:
        raise InputError(f"{where}: the picture is {raw.width} x {raw.height}; expected positive numbers")
    return raw.width, raw.height


def _clip(boxes: np.ndarray, width: int, height: int, max_outside: float, where: str) -> tuple[np.ndarray, int]:
    sides = np.array([width, height])
    outside = np.maximum(-boxes[:, :2], boxes[:, 2:] - sides)
    absurd = (outside > max_outside * sides).any(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
    absurd |= ((boxes[:, 2:] < 0) | (boxes[:, :2] > sides)).any(1)
    if absurd.any():
        row = int(np.argmax(absurd))
        raise InputError(
            f"{where}: box {row} is {boxes[row].tolist()} in a picture of {width} x {height}; expected x1, y1, x2, y2 "
            f"at most {max_outside:.0%} outside: check the format and the picture's size (--image_sizes replaces it, "
            "--max_outside allows more)"
        )
    return np.clip(boxes, 0, np.tile(sides, 2)).astype(np.float32), int((outside > _ROUNDING).any(1).sum())


def _probabilities(values: np.ndarray, background: Background, where: str) -> np.ndarray:
    probabilities = np.asarray(values, np.float32)
    largest = float(probabilities.sum(axis=1, dtype=np.float64).max())
    if probabilities.min() < 0 or largest > _LARGEST_SUM:
        raise InputError(
            f"{where}: class probabilities begin at {probabilities.min():g} and add up to {largest:g}; "
            "expected a softmax"
        )
    return np.roll(probabilities, 1, axis=1) if background == "last" else probabilities
