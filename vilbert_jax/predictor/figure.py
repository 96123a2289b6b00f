"""``answer.png``: a picture with the regions that the model used, and what it answered beside it.

n regions of the picture, m = n + 1 with the whole picture in front.
"""

import os
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vilbert_jax.predictor.results import Attention, Candidate
from vilbert_jax.tasks.drawing import ATTENDED, QUIET, STYLE, draw_attention, draw_box, draw_label, draw_picture

_PICTURE_WIDTH, _TEXT_WIDTH, _POINTS = 6.0, 4.2, 72  # inches, inches, points an inch
_LEAST_HEIGHT, _MOST_HEIGHT = 2.4, 9.0  # inches; the picture of a strip is small
_SIZE = 9.5  # points of text
_CHARACTERS = int(_TEXT_WIDTH * _POINTS / (0.56 * _SIZE))
_LINE, _MIDDLE, _BELOW = 1.3 * _SIZE, 0.48 * _SIZE, 6.0  # points: a line, the middle of its letters, below a text
_QUESTION_SIZE, _BELOW_QUESTION = 11.0, 10.0  # points
_QUESTION_LINE = 1.3 * _QUESTION_SIZE
_BAR, _FULL = 0.3, 0.21  # of the width: bars with their labels; a full bar
_LABEL_WIDTH, _LABEL_HEIGHT = 4.6, 11.5  # points, of a character and of a label with its margins
_RIM = 1.2  # points that a dark line is wider than the one on it


class Bar(NamedTuple):
    """One line of the answer."""

    text: str
    share: float  # 0..1, length of its bar
    label: str  # of the number that it stands for


class Shown(NamedTuple):
    """What there is to see.

    Attributes:
        picture: [H,W,3] uint8, or None where there are regions alone.
        question: what the model was asked.
        bars: its answers, best first; one of no text and no label parts two lists.
        attention: the regions that it looked at, where the answer is no box.
        candidates: boxes, best first, where the answer is one; as many as there are bars have their scores.
        size: width and height of the picture, in pixels of the boxes.
    """

    picture: np.ndarray | None
    question: str
    bars: tuple[Bar, ...]
    attention: Attention | None
    candidates: tuple[Candidate, ...]
    size: tuple[float, float]


def draw_answer(path: str | os.PathLike[str], shown: Shown) -> None:
    """Writes the figure, a PNG.

    Raises:
        OSError: it cannot be written.
    """
    width, height = shown.size
    question = textwrap.wrap(shown.question, int(_CHARACTERS * _SIZE / _QUESTION_SIZE)) or [""]
    lines = [textwrap.wrap(bar.text, int(_CHARACTERS * (1 - _BAR) - 6)) or [""] for bar in shown.bars]
    top = _QUESTION_LINE * len(question) + _BELOW_QUESTION
    needed = top + sum(_LINE * len(wrapped) + _BELOW for wrapped in lines)
    tall = np.clip(_PICTURE_WIDTH * height / width + 0.3, _LEAST_HEIGHT, _MOST_HEIGHT)
    tall = max(float(tall), needed / _POINTS + 0.3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_PICTURE_WIDTH + _TEXT_WIDTH, tall), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[_PICTURE_WIDTH, _TEXT_WIDTH])
        for axes in (left, right):
            axes.set_axis_off()
        _draw_left(left, shown)
        _spread_labels(left, max(width / _PICTURE_WIDTH, height / tall) / _POINTS, width, height)
        right.set(xlim=(0, 1), ylim=(tall * _POINTS, 0))
        right.text(0, 0, "\n".join(question), va="top", fontsize=_QUESTION_SIZE, fontweight="bold")
        _draw_bars(right, shown.bars, lines, top=top)
        figure.savefig(path, dpi=110, format="png")


def _draw_left(axes: Axes, shown: Shown) -> None:
    draw_picture(axes, shown.picture, *shown.size)
    axes.set_anchor("N")
    if shown.attention is not None:
        draw_attention(axes, shown.attention.boxes[1:], shown.attention.shares)
        axes.set_title("attention of the text", fontsize=7, color=QUIET, loc="left", pad=2)
    quiet = QUIET if shown.picture is None else "white"
    for candidate in reversed(shown.candidates):
        if candidate.region:
            draw_box(axes, np.array(candidate.box), linewidth=0.6, edgecolor=quiet, alpha=0.6)
    for place, candidate in reversed([*enumerate(shown.candidates[: len(shown.bars)])]):
        colour, width = (ATTENDED, 2.6) if place == 0 else (quiet, 1.2)
        draw_box(axes, np.array(candidate.box), linewidth=width, edgecolor=colour)
        name = candidate.region or "whole picture"
        draw_label(axes, np.array(candidate.box[:2]), f"{name}: {candidate.score:.0%}", colour)
    for outline in axes.patches:  # seen on any ground
        faint = 0.45 * (outline.get_alpha() or 1)
        rim = withStroke(linewidth=outline.get_linewidth() + _RIM, foreground="black", alpha=faint)
        outline.set_path_effects([rim])


def _spread_labels(axes: Axes, scale: float, width: float, height: float) -> None:
    """Moves labels into the picture and off one another, by steps of their height; ``scale``: its pixels a point.

    The best one, which was drawn last, is placed first.
    """
    taken: list[tuple[float, float, float]] = []  # left, right, top
    step = _LABEL_HEIGHT * scale
    for number, label in enumerate(reversed(axes.texts)):
        wide = (_LABEL_WIDTH * len(label.get_text()) + 4) * scale
        left, top = label.get_position()
        left, top = max(min(left, width - wide), 0), max(min(top, height - step), 0)
        tops = (top + step * k for k in sorted(range(-number, number + 1), key=abs))
        free = (
            y
            for y in tops
            if 0 <= y <= height - step
            and all(left >= right or left + wide <= start or abs(y - other) >= step for start, right, other in taken)
        )
        top = next(free, top)
        label.set_position((left, top))
        taken.append((left, left + wide, top))


def _draw_bars(axes: Axes, bars: Sequence[Bar], lines: Sequence[Sequence[str]], *, top: float) -> None:
    is_first = True
    for bar, wrapped in zip(bars, lines, strict=True):
        middle = top + _MIDDLE
        if bar.label:
            colour = ATTENDED if is_first else QUIET
            axes.barh(middle, _FULL * bar.share, height=_SIZE, color=colour, alpha=0.9)
            axes.text(_FULL * bar.share + 0.01, middle, bar.label, va="center", fontsize=8, color=QUIET)
        weight = "bold" if is_first and bar.label else None
        axes.text(_BAR + 0.02, top, "\n".join(wrapped), va="top", fontsize=_SIZE, fontweight=weight)
        is_first = not bar.label
        top += _LINE * len(wrapped) + _BELOW
