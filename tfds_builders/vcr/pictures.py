"""Sizes of VCR's pictures and the boxes of their annotated things, from the JSON file beside each picture."""

import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from tfds_builders.manual_files import parse_json, shown
from vilbert_jax.errors import InputError

_FIELDS = ("boxes", "width", "height", "names")


class Picture(NamedTuple):
    """What is annotated in a picture with n things.

    Attributes:
        boxes: [n, 4] float32: x1, y1, x2, y2 in pixels.
        width: in pixels.
        height: in pixels.
        names: class of each thing.
    """

    boxes: np.ndarray
    width: int
    height: int
    names: list[str]


UNKNOWN = Picture(np.zeros((0, 4), np.float32), 0, 0, [])


def read_picture(path: epath.Path, where: str) -> Picture:
    """Reads one file of metadata.

    Args:
        path: the file.
        where: file and line of the question that names it, for messages.

    Raises:
        InputError: the file is missing or cannot be used.
    """
    if not path.exists():
        raise InputError(f"{where}: {path} is missing; unpack vcr1images.zip again")
    place = f"{where}: {path}"
    fields = parse_json(path.read_bytes(), place)
    if not isinstance(fields, dict) or not fields.keys() >= set(_FIELDS):
        found = ", ".join(fields) or "nothing" if isinstance(fields, dict) else shown(fields)
        raise InputError(f"{place}: expected an object with {', '.join(_FIELDS)}; found {found}")
    for side in ("width", "height"):
        if type(fields[side]) is not int or not 0 < fields[side] < 2**31:
            raise InputError(f"{place}: {side} is {shown(fields[side])}; expected a number of pixels")
    boxes, names = fields["boxes"], fields["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{place}: names is {shown(names)}; expected a list of class names")
    if not isinstance(boxes, list) or len(boxes) != len(names):
        found = len(boxes) if isinstance(boxes, list) else shown(boxes)
        raise InputError(f"{place}: boxes is {found}; expected one for each of {len(names)} names")
    for number, box in enumerate(boxes):
        if not _is_box(box):
            raise InputError(f"{place}: boxes[{number}] is {shown(box)}; expected x1, y1, x2, y2 and a score")
    corners = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
    return Picture(corners, fields["width"], fields["height"], names)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) not in (4, 5):
        return False
    if not all(type(value) in (int, float) and math.isfinite(value) for value in box):
        return False
    x1, y1, x2, y2 = box[:4]
    return x1 <= x2 and y1 <= y2
