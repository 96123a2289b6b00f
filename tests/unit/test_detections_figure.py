"""The figure of kept boxes: what a colour says, and pictures with nothing in them."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from vilbert_jax.evaluation.detections import draw_detections
from vilbert_jax.metrics.detections import Labelled
from vilbert_jax.tasks.drawing import QUIET, RIGHT, WRONG

BOX = [10, 10, 50, 40]


def labelled(boxes, classes=(), confidence=0.9):
    count = len(boxes)
    return Labelled(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, int).reshape(-1),
        np.zeros(count, int),
        np.full(count, confidence),
    )


def colours(tmp_path, *pictures):
    """Which of the three are in the figure of pictures, each what was found and what is there."""
    path = tmp_path / "detections.png"
    black = [np.zeros((60, 80, 3), np.uint8)] * len(pictures)
    draw_detections(black, *zip(*pictures, strict=True), path, class_names=("cat", "dog"), attribute_names=("red",))
    with Image.open(path) as figure:
        pixels = {tuple(pixel) for pixel in np.asarray(figure.convert("RGB")).reshape(-1, 3)}
    named = {"right": RIGHT, "wrong": WRONG, "quiet": QUIET}
    return {name for name, colour in named.items() if tuple(round(255 * x) for x in to_rgb(colour)) in pixels}


@pytest.mark.parametrize(
    ("found", "things", "expected"),
    [
        (labelled([BOX], [1]), labelled([[60, 50, 70, 55], BOX], [0, 1]), {"right"}),
        (labelled([BOX], [1]), labelled([[60, 50, 70, 55], BOX], [1, 0]), {"wrong"}),
        (labelled([BOX], [1], confidence=0.1), labelled([BOX], [1]), {"quiet"}),
        (labelled([BOX], [1]), labelled([[60, 50, 70, 55]], [1]), {"quiet"}),
        (labelled([BOX], [1]), labelled([]), {"quiet"}),
        (labelled([]), labelled([BOX], [1]), set()),
        (labelled([]), labelled([]), set()),
    ],
    ids=["right", "wrong", "unsure", "on nothing", "no things", "nothing found", "neither"],
)
def test_the_colour_of_a_box(tmp_path, found, things, expected):
    assert colours(tmp_path, (found, things)) == expected


def test_a_picture_without_things_is_drawn_beside_others(tmp_path):
    found = labelled([BOX], [1])
    assert colours(tmp_path, (found, labelled([])), (found, labelled([BOX], [1]))) == {"right", "quiet"}
