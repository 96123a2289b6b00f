"""Anchors for a detector that is trained here. Loaded checkpoints bring their own, which no formula gives."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from vilbert_jax.detector.config import FEATURE_STRIDE
from vilbert_jax.errors import InputError


def make_anchors(sides: Sequence[float], ratios: Sequence[float] = (1.0,)) -> Float32[np.ndarray, "A 4"]:
    """Boxes around the middle of the first cell of a feature map, side after side, within each ratio after ratio.

    Args:
        sides: square roots of the areas, in pixels of the network's input.
        ratios: heights over widths.

    Raises:
        InputError: no side or no ratio, or one that is not above 0.
    """
    for name, values in (("sides", sides), ("ratios", ratios)):
        if not len(values) or not all(np.isfinite(value) and value > 0 for value in values):
            raise InputError(f"anchors: {name} is {tuple(values)}; expected at least one number, all above 0")
    middle = FEATURE_STRIDE / 2
    halves = [(side / ratio**0.5 / 2, side * ratio**0.5 / 2) for side, ratio in itertools.product(sides, ratios)]
    return np.array([(middle - x, middle - y, middle + x, middle + y) for x, y in halves], np.float32)
