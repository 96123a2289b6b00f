"""Draws the boxes of one region record, and beside it what they are."""

import os
from collections.abc import Sequence
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord

_LINES_A_COLUMN = 25
_MOST_LINES = 2 * _LINES_A_COLUMN  # beside the picture; the last one counts the boxes that have none
_COLUMN = 2.3  # inches
_NAME = 24  # characters of a class's name
_HEIGHT = 6.0  # inches
_BLANK = 245  # grey of a picture that is not there
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601


def draw(
    record: RegionRecord, contract: FeatureContract, path: str | os.PathLike[str], *, picture: np.ndarray | None
) -> None:
    """Writes the figure; boxes are numbered from the most certain one.

    Args:
        record: what is drawn.
        contract: of its store; gives the classes names.
        path: where the figure goes; its ending says the format, for example .png.
        picture: [H, W, 3] uint8 of any size, or None for a blank one.
    """
    order, lines = describe(record, contract.class_names)
    colours = _colours(record)
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1} more"]
    columns = -(-len(lines) // _LINES_A_COLUMN)
    shape = float(np.clip(record.width / record.height, 0.4, 2.5))
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 8}):
        figure = Figure(figsize=(_HEIGHT * shape + _COLUMN * columns + 0.3, _HEIGHT + 0.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[_HEIGHT * shape, _COLUMN * columns])
        for axes in (left, right):
            axes.set_axis_off()
        _draw_boxes(left, record, order, colours, picture)
        _draw_lines(right, lines, colours[order], columns)
        # Written as it is: matplotlib reads "$" as the start of a formula.
        title = f"{record.image_id}   {record.width} x {record.height}, {len(record.boxes)} boxes".replace("$", r"\$")
        figure.suptitle(title, fontsize=11)
        figure.savefig(path, dpi=130)


def describe(record: RegionRecord, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The order in which boxes are numbered, and a line for each in that order: its best class, or its size."""
    if record.class_probs is None:
        extent = record.boxes[:, 2:] - record.boxes[:, :2]
        order = np.argsort(-extent.prod(axis=1), kind="stable")
        return order, [f"{width:.0f} x {height:.0f}" for width, height in extent[order].tolist()]
    best, probability = record.class_probs.argmax(axis=1), record.class_probs.max(axis=1)
    order = np.argsort(-probability, kind="stable")
    return order, [f"{class_name(int(best[k]), names)[:_NAME]} {probability[k]:.2f}" for k in order.tolist()]


def class_name(number: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where names are not known."""
    return names[number] if names else f"class {number}"


def _colours(record: RegionRecord) -> np.ndarray:
    """[n,4]: one colour a class, so that boxes on one thing look alike; without classes one a box."""
    kinds = np.arange(len(record.boxes)) if record.class_probs is None else record.class_probs.argmax(axis=1)
    _, number = np.unique(kinds, return_inverse=True)
    return np.asarray(matplotlib.colormaps["turbo"](0.08 + 0.84 * number / max(number.max(), 1)))


def _draw_boxes(
    axes: Axes, record: RegionRecord, order: np.ndarray, colours: np.ndarray, picture: np.ndarray | None
) -> None:
    blank = np.full((1, 1, 3), _BLANK, np.uint8)
    axes.imshow(blank if picture is None else picture, extent=(0, record.width, record.height, 0))
    for number, k in reversed(list(enumerate(order.tolist(), start=1))):  # the most certain on top
        x1, y1, x2, y2 = record.boxes[k].tolist()
        size = (x2 - x1, y2 - y1)
        axes.add_patch(Rectangle((x1, y1), *size, fill=False, linewidth=2.6, edgecolor="white", alpha=0.6))
        axes.add_patch(Rectangle((x1, y1), *size, fill=False, linewidth=1.4, edgecolor=colours[k]))
        _write_number(axes, x1, y1, number, colours[k], "top")
    axes.set(xlim=(0, record.width), ylim=(record.height, 0))


def _draw_lines(axes: Axes, lines: Sequence[str], colours: np.ndarray, columns: int) -> None:
    axes.set(xlim=(0, columns), ylim=(_LINES_A_COLUMN, 0))
    for k, line in enumerate(lines):
        column, row = divmod(k, _LINES_A_COLUMN)
        if len(lines) == len(colours) or k < len(lines) - 1:  # not the line that counts the rest
            _write_number(axes, column, row + 0.5, k + 1, colours[k], "center")
        axes.text(column + 0.13, row + 0.5, line.replace("$", r"\$"), va="center")


def _write_number(
    axes: Axes, x: float, y: float, number: int, colour: np.ndarray, place: Literal["top", "center"]
) -> None:
    ink = "black" if colour[:3] @ _LUMINANCE > 0.5 else "white"
    axes.text(x, y, str(number), fontsize=6.5, color=ink, va=place,
              bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0})  # fmt: skip
