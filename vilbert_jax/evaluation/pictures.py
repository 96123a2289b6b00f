"""``examples.png`` of an evaluation: pictures with what was asked, what the model answered, and the regions it used.

N examples of a split, m region slots in use (slot 0 is the whole picture).
"""

import functools
import os
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vilbert_jax.data.pictures import Picture
from vilbert_jax.tasks.drawing import (
    QUIET,
    RIGHT,
    STYLE,
    WRONG,
    bar_colour,
    draw_attention,
    draw_box,
    draw_label,
    draw_picture,
)
from vilbert_jax.tasks.task import Box, Guess, Predictions, Scored, Shown, Task, TaskSource

Attention = Callable[[Sequence[int]], Sequence[np.ndarray]]

_RIGHT_FROM = 0.5  # of 0..1: some metrics know half-right answers
_WIDTH, _PICTURE_SHARE = 13.0, 1.15 / 2.15  # inches; of a panel, the rest is text
_POINTS = 72  # an inch
_TEXT_WIDTH = _POINTS * _WIDTH / 2 * (1 - _PICTURE_SHARE) - 12  # points
_LEAST_HEIGHT = 190.0  # of a row, points: a picture of 4 x 3
_SHORT_GUESS = 15  # characters that fit before a bar
_THUMBNAIL = 0.47  # of the text's width


class _Panel(NamedTuple):
    """One example and everything that is drawn of it."""

    shown: Shown
    score: float | None  # 0..1, None without labels
    boxes: np.ndarray  # [m,4] corners in pixels, the whole picture first
    attention: np.ndarray | None  # [m]


class _Block(NamedTuple):
    """A part of the text beside a picture; ``draw(axes, y)`` puts its upper edge at y."""

    height: float  # points
    draw: Callable[[Axes, float], None]


def draw_results(
    task: Task,
    source: TaskSource,
    predictions: Predictions,
    scored: Scored | None,
    path: str | os.PathLike[str],
    *,
    picture: Picture,
    attention: Attention | None = None,
    num_examples: int = 8,
) -> None:
    """Writes the figure: right examples first, then as many wrong ones where there are both, spread over the split.

    Args:
        task: says how an example is shown.
        source: the examples of the split.
        predictions: of all of them.
        scored: their scores; None where the split has no labels, then nothing is called right or wrong.
        path: of the PNG.
        picture: image id -> [H,W,3] uint8, or None where there is no picture; then the boxes stand alone.
        attention: indices of examples -> for each [m], the shares that colour its regions, such as
            ``attended_regions``; without it, and where an example has boxes of its own to see, they stay thin.
        num_examples: how many to show, at most.
    """
    right, wrong = _chosen(len(source), scored, num_examples)
    indices = [*right, *wrong]
    if task.data.blank_pictures:
        attention = None  # there was nothing to look at
    attended = attention(indices) if attention and indices else [None] * len(indices)
    panels = []
    for index, shares in zip(indices, attended, strict=True):
        shown = task.show(source, index, predictions)
        score = None if scored is None else float(scored.rows[index])
        panels.append(_Panel(shown, score, source.examples.arrangement(shown.image_id).boxes, shares))
    with matplotlib.rc_context(STYLE):
        figure = _figure(panels, picture, functools.partial(_boxes_of, source))
        figure.suptitle(_title(task, source, scored, len(right), len(wrong)), fontsize=13)
        figure.savefig(path, dpi=110, format="png")


def _chosen(count: int, scored: Scored | None, num_examples: int) -> tuple[list[int], list[int]]:
    """Indices of right and of wrong examples; without scores all of them stand first."""
    is_right = np.ones(count, bool) if scored is None else scored.rows >= _RIGHT_FROM
    right, wrong = np.flatnonzero(is_right), np.flatnonzero(~is_right)
    num_wrong = min(len(wrong), max(num_examples // 2, num_examples - len(right)))
    return _spread(right, num_examples - num_wrong, 0), _spread(wrong, num_wrong, 1)


def _spread(group: np.ndarray, count: int, offset: int) -> list[int]:
    """So many members of a group, evenly; offset 0 and 1 alternate, for neighbours often share a picture."""
    if count >= len(group):
        return group.tolist()
    return group[(2 * np.arange(count) + offset) * (len(group) - 1) // max(2 * count - 1, 1)].tolist()


def _title(task: Task, source: TaskSource, scored: Scored | None, num_right: int, num_wrong: int) -> str:
    what = f"{type(task).__name__} on {source.examples.split}"
    if scored is None:
        return f"{what}: {num_right} of {len(source):,} examples, without labels"
    # Ranking everything has other metrics than the choice of a checkpoint; the first is what its rows count.
    metric = task.metric if task.metric in scored.metrics else next(iter(scored.metrics))
    return f"{what}: {metric} {scored.metrics[metric]:.2f} ({num_right} right and {num_wrong} wrong of {len(source):,})"


def _boxes_of(source: TaskSource, image_id: str) -> np.ndarray:
    return source.examples.arrangement(image_id).boxes


def _figure(panels: Sequence[_Panel], picture: Picture, boxes_of: Callable[[str], np.ndarray]) -> Figure:
    """The panels, down the left half first, so that right ones stand left and wrong ones right."""
    blocks = [_blocks(panel, picture, boxes_of) for panel in panels]
    num_rows = max(-(-len(panels) // 2), 1)
    needed = [sum(block.height for block in column) for column in blocks]
    heights = [max([_LEAST_HEIGHT, *needed[row::num_rows]]) for row in range(num_rows)]
    figure = Figure(figsize=(_WIDTH, (sum(heights) + 14 * num_rows + 30) / _POINTS), layout="constrained")
    ratios = [_PICTURE_SHARE, 1 - _PICTURE_SHARE] * 2
    grid = figure.subplots(num_rows, 4, squeeze=False, width_ratios=ratios, height_ratios=heights)
    for axes in grid.ravel():
        axes.set_axis_off()
    for k, (panel, column) in enumerate(zip(panels, blocks, strict=True)):
        half, row = divmod(k, num_rows)
        left, right = grid[row, 2 * half : 2 * half + 2]
        _draw_picture_of(left, panel, picture(panel.shown.image_id))
        right.set(xlim=(0, 1), ylim=(heights[row], 0))
        y = 0.0
        for block in column:
            block.draw(right, y)
            y += block.height
    return figure


def _draw_picture_of(axes: Axes, panel: _Panel, picture: np.ndarray | None) -> None:
    shown, boxes = panel.shown, panel.boxes
    draw_picture(axes, picture, *boxes[0, 2:])
    axes.set_anchor("N")  # level with the text, also in a row that the text makes higher
    if panel.attention is not None and not shown.boxes:
        draw_attention(axes, boxes[1:], panel.attention)
    else:
        _draw_thin(axes, boxes, picture)
    for box in shown.boxes:
        _draw_marked(axes, box)
    if panel.score is not None:
        colour = RIGHT if panel.score >= _RIGHT_FROM else WRONG
        verdict = {0: "wrong", 100: "right"}.get(round(100 * panel.score), f"{panel.score:.0%} right")
        axes.set_title(verdict, fontsize=9, color=colour, loc="left", pad=2, fontweight="bold")


def _draw_thin(axes: Axes, boxes: np.ndarray, picture: np.ndarray | None) -> None:
    for corners in boxes[1:]:
        draw_box(axes, corners, linewidth=0.6, edgecolor=QUIET if picture is None else "white", alpha=0.6)


def _draw_marked(axes: Axes, box: Box) -> None:
    """A box of the example: what was meant dashed black and white, the model's own in the colour of right or wrong."""
    x1, y1, _, y2 = box.corners
    if box.right is None:
        draw_box(axes, box.corners, linewidth=2.4, edgecolor="black")
        draw_box(axes, box.corners, linewidth=2.4, edgecolor="white", linestyle=(0, (4, 4)))
        draw_label(axes, np.array([x1, y2]), box.text, "white", va="bottom")  # may begin where the other one does
    else:
        colour = RIGHT if box.right else WRONG
        draw_box(axes, box.corners, linewidth=2.4, edgecolor=colour)
        draw_label(axes, np.array([x1, y1]), box.text, colour)


def _blocks(panel: _Panel, picture: Picture, boxes_of: Callable[[str], np.ndarray]) -> list[_Block]:
    """The text beside a picture, from top to bottom."""
    shown, labelled = panel.shown, panel.score is not None
    colours = [bar_colour(guess.right, k == 0) if labelled else QUIET for k, guess in enumerate(shown.guesses)]
    blocks = [_text(shown.text, size=11), _gap(8)]
    pictured = any(guess.image_id for guess in shown.guesses)
    if pictured:
        rows = [[*zip(shown.guesses, colours, strict=True)][k : k + 2] for k in range(0, len(shown.guesses), 2)]
        return blocks + [_thumbnails(row, 2 * k, picture, boxes_of) for k, row in enumerate(rows)]
    draw = _short_guess if all(len(guess.text) <= _SHORT_GUESS for guess in shown.guesses) else _long_guess
    blocks += [draw(guess, colour) for guess, colour in zip(shown.guesses, colours, strict=True)]
    if shown.truth and shown.truth not in [guess.text for guess in shown.guesses]:
        blocks += [_gap(4), _text(f"truth: {shown.truth}", size=8.5, color=RIGHT)]
    return blocks


def _gap(height: float) -> _Block:
    return _Block(height, lambda axes, y: None)


def _text(text: str, *, size: float, x: float = 0.0, **style: Any) -> _Block:
    """Wrapped text that begins at x (0..1) of the width."""
    lines = textwrap.wrap(text, int(_TEXT_WIDTH * (1 - x) / (0.56 * size))) or [""]

    def draw(axes: Axes, y: float) -> None:
        axes.text(x, y, "\n".join(lines), va="top", fontsize=size, **style)

    return _Block(1.25 * size * len(lines), draw)


def _short_guess(guess: Guess, colour: str) -> _Block:
    """Its text before a bar."""

    def draw(axes: Axes, y: float) -> None:
        weight = "bold" if colour == RIGHT else None
        axes.text(0.33, y + 11, guess.text, ha="right", va="center", color=colour, fontweight=weight)
        _bar(axes, y + 11, 0.35, 0.5, guess.share, colour)

    return _Block(22, draw)


def _long_guess(guess: Guess, colour: str) -> _Block:
    """Its text, in several lines, behind a bar."""
    text = _text(guess.text, size=8.5, x=0.31, color=colour, fontweight="bold" if colour == RIGHT else None)

    def draw(axes: Axes, y: float) -> None:
        _bar(axes, y + 6, 0.0, 0.17, guess.share, colour)
        text.draw(axes, y)

    return _Block(text.height + 6, draw)


def _bar(axes: Axes, y: float, x: float, width: float, share: float, colour: str) -> None:
    axes.barh(y, width * share, left=x, height=9, color=colour, alpha=0.85)
    axes.text(x + width * share + 0.01, y, f"{share:.0%}", va="center", fontsize=8, color=QUIET)


def _thumbnails(
    guesses: Sequence[tuple[Guess, str]], first: int, picture: Picture, boxes_of: Callable[[str], np.ndarray]
) -> _Block:
    """Guesses that are pictures, side by side in frames of their colours, numbered from ``first``."""
    height = 0.75 * _THUMBNAIL * _TEXT_WIDTH

    def draw(axes: Axes, y: float) -> None:
        for k, (guess, colour) in enumerate(guesses):
            x = k * (1 - _THUMBNAIL)
            axes.text(x, y, f"{first + k + 1}.  {guess.share:.0%}", va="top", fontsize=8, color=colour)
            points = axes.get_ylim()[0]  # of the axes, downwards
            small = axes.inset_axes((x, 1 - (y + 12 + height) / points, _THUMBNAIL, height / points))
            boxes, shown = boxes_of(guess.image_id), picture(guess.image_id)
            draw_picture(small, shown, *boxes[0, 2:])
            if shown is None:
                _draw_thin(small, boxes, shown)
            small.set(xticks=[], yticks=[])
            for spine in small.spines.values():
                spine.set(color=colour, linewidth=2.5)

    return _Block(height + 16, draw)
