"""How figures of examples look: the picture, its regions and what the model attends to."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

RIGHT, WRONG, QUIET, ATTENDED = "#2a9d5c", "#c8553d", "#8a8f98", "#ffb703"
_POINTED = 1.5  # times an even share
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a price is no formula
}


def draw_picture(axes: Axes, picture: np.ndarray | None, width: float, height: float) -> None:
    """Fills the axes with a picture, or an empty one; afterwards they count in pixels, y downwards.

    Args:
        axes: where to draw.
        picture: [H,W,3] uint8, of any resolution, or None.
        width: of the picture, in pixels of its boxes.
        height: likewise.
    """
    shown = np.full((2, 2, 3), 215, np.uint8) if picture is None else picture
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="lanczos")


def draw_box(axes: Axes, corners: np.ndarray, **style: object) -> None:
    """Outlines a box, corners [4] in pixels."""
    x1, y1, x2, y2 = (float(x) for x in corners)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))  # pyright: ignore[reportArgumentType]


def draw_label(axes: Axes, corner: np.ndarray, text: str, colour: str, *, va: str = "top") -> None:
    """Writes a label into a left corner [2] of a box, the upper one unless ``va`` is ``bottom``."""
    x, y = corner + np.array([2, -2 if va == "bottom" else 2])
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
    axes.text(x, y, text, color="black", fontsize=7, va=va, clip_on=True, bbox=box)


def draw_attention(axes: Axes, boxes: np.ndarray, attention: np.ndarray) -> None:
    """Outlines boxes [n,4] as strongly as they share in ``attention`` [n + 1], whose first is the whole picture.

    Boxes with little more than an even share stay thin: attention that is spread evenly points at nothing.
    """
    share = np.where(attention[1:] * len(attention) > _POINTED, attention[1:] / max(attention.max(), 1e-6), 0)
    for k in np.argsort(share):
        strong = share[k] > 0.5
        colour = ATTENDED if strong else "white"
        draw_box(axes, boxes[k], linewidth=0.8 + 2.4 * share[k], edgecolor=colour, alpha=float(0.35 + 0.65 * share[k]))
        if strong:
            draw_label(axes, boxes[k, :2], f"{attention[k + 1]:.0%}", ATTENDED)
    axes.set_title(f"whole picture {attention[0]:.0%}", fontsize=7, color=QUIET, loc="right", pad=2)


def bar_colour(right: bool, first: bool) -> str:
    """Of a guess: a wrong one matters where it is the model's answer."""
    return RIGHT if right else WRONG if first else QUIET
