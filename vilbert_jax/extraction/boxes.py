"""Boxes from elsewhere, before anything is computed with them."""

from typing import Any

import numpy as np

from vilbert_jax.errors import InputError


def checked_boxes(boxes: Any, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Boxes that a picture can have, [n, 4] float32: x1, y1, x2, y2 in pixels.

    Args:
        boxes: what should be such; they may reach over the picture's border.
        where: where they come from, for messages.
        size: height and width of the picture; without it only the boxes themselves are looked at.

    Raises:
        InputError: there are none, of another shape, not finite, without area, or one lies outside of the picture.
    """
    try:
        array = np.asarray(boxes, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {boxes!r:.80} are no boxes ({error}); expected [n, 4] numbers") from error
    if array.ndim != 2 or array.shape[1] != 4 or not len(array):
        raise InputError(f"{where}: boxes have shape {array.shape}; expected [n, 4] with at least one box")
    wrong = ~np.isfinite(array).all(axis=1) | (array[:, 2:] <= array[:, :2]).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{where}: box {row} is {array[row].tolist()}; expected x1 < x2 and y1 < y2, in pixels")
    if size is not None:
        height, width = size
        outside = (array[:, :2] >= (width, height)).any(axis=1) | (array[:, 2:] <= 0).any(axis=1)
        if outside.any():
            row = int(np.argmax(outside))
            raise InputError(
                f"{where}: box {row}, {array[row].tolist()}, lies outside of the picture of {width} x {height}; boxes "
                "are in pixels of the picture as it is displayed"
            )
    return array
