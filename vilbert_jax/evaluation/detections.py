"""``detections.png``: pictures with the boxes that a detector keeps, and what it takes them for."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vilbert_jax.data.objects import ObjectsSource
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.metrics import box_iou
from vilbert_jax.metrics.detections import OVERLAP, Labelled
from vilbert_jax.tasks.detection import found_in, truth_of
from vilbert_jax.tasks.drawing import QUIET, RIGHT, STYLE, WRONG, draw_box, draw_label, draw_picture
from vilbert_jax.training.prediction import PredictFn

_COLUMNS, _PANEL = 3, (4.6, 3.6)  # inches
_SHOWN = 0.2  # confidence from which on a box is labelled, that of the selection rules
_HEAP = 0.5  # of boxes that overlap by more, the surest one alone is labelled


def show_detections(
    predict_fn: PredictFn, params: Any, held_out: Dataset[ObjectsSource], path: str | os.PathLike[str], *, count: int
) -> None:
    """Draws what a detector finds in the first pictures of a split, at most a batch of them.

    Args:
        predict_fn: from ``tasks.detection.make_predict_fn``.
        params: of the detector.
        held_out: the split, read in order.
        path: of the PNG.
        count: pictures.
    """
    source = held_out.source
    found = found_in({name: np.asarray(array) for name, array in jax.jit(predict_fn)(params, held_out[0]).items()})
    shown = range(min(count, len(found), len(source)))
    draw_detections(
        [source.picture(index) for index in shown],
        found,
        truth_of(source, shown),
        path,
        class_names=source.class_names[1:],
        attribute_names=source.attribute_names,
    )


def draw_detections(
    pictures: Sequence[np.ndarray],
    found: Sequence[Labelled],
    truth: Sequence[Labelled],
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    attribute_names: Sequence[str],
) -> None:
    """Writes the figure: green boxes name a thing's class right, red ones wrong; grey ones are on nothing, or unsure.

    Args:
        pictures: [H,W,3] uint8 each.
        found: the kept boxes of each.
        truth: the things in each.
        path: of the PNG.
        class_names: without the background.
        attribute_names: without "none".
    """
    num_rows = -(-len(pictures) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_COLUMNS * _PANEL[0], num_rows * _PANEL[1]), layout="constrained")
        axes = list(figure.subplots(num_rows, _COLUMNS, squeeze=False).flat)
        for axis, picture, boxes, things in zip(axes, pictures, found, truth, strict=False):
            height, width, _ = picture.shape
            draw_picture(axis, picture, width, height)
            _draw_boxes(axis, boxes, things, class_names, attribute_names)
        for axis in axes:
            axis.set_axis_off()
        figure.savefig(path, dpi=110, format="png")


def _draw_boxes(
    axes: Axes, boxes: Labelled, things: Labelled, class_names: Sequence[str], attribute_names: Sequence[str]
) -> None:
    labelled = _to_label(boxes)
    overlap = box_iou(boxes.boxes, things.boxes)
    on_thing = overlap.max(axis=1, initial=0) >= OVERLAP  # of a picture without things too
    for row in np.argsort(boxes.confidences):  # the surest on top
        sure = row in labelled
        right = on_thing[row] and boxes.classes[row] == things.classes[overlap[row].argmax()]
        colour = (RIGHT if right else WRONG) if sure and on_thing[row] else QUIET
        draw_box(axes, boxes.boxes[row], linewidth=1.8 if sure else 0.7, edgecolor=colour)
        if sure:
            name = f"{attribute_names[int(boxes.attributes[row])]} {class_names[int(boxes.classes[row])]}"
            draw_label(axes, boxes.boxes[row, :2], f"{name} {boxes.confidences[row]:.2f}", colour)


def _to_label(boxes: Labelled) -> set[int]:
    """The surest box of every heap."""
    overlap = box_iou(boxes.boxes, boxes.boxes)
    chosen: list[int] = []
    for row in np.argsort(-boxes.confidences, kind="stable"):
        if boxes.confidences[row] >= _SHOWN and not (overlap[row, chosen] > _HEAP).any():
            chosen.append(int(row))
    return set(chosen)
