"""What the plots of a grid have in common: a slide with a panel for each score, intervals, the paper's figures.

Colours are those of Okabe and Ito, which colour-blind people can tell apart.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vilbert_jax.ablation import published
from vilbert_jax.ablation.estimates import Estimate, Results
from vilbert_jax.ablation.grid import Column, Variant

SIZE, DPI = (40 / 3, 7.5), 150  # inches of a 16:9 slide; pixels an inch
BLUE, SKY, ORANGE, GREY, INK, GRID = "#0072B2", "#9FD0EC", "#D55E00", "#8A8F98", "#222222", "#E4E4E4"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 11,
    "ytick.labelsize": 12,
    "text.parse_math": False,
}
_TITLE_WIDTH = 88  # characters of all panels' titles beside each other


def make_panels(columns: Sequence[Column], *, share_y: bool) -> tuple[Figure, list[Axes]]:
    """A slide with a panel for each score: up to four in one row, more in two."""
    figure = Figure(figsize=SIZE, facecolor="white")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12))
    num_rows = 1 if len(columns) <= 4 else 2
    num_columns = -(-len(columns) // num_rows)
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False, sharey=share_y).flat)
    for axes, column in zip(panels, columns, strict=False):
        axes.set_title(textwrap.fill(column.title, _TITLE_WIDTH // num_columns))
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    return figure, panels[: len(columns)]


def name_rows(axes: Axes, titles: Sequence[str]) -> None:
    """Rows 0, 1, ... from top to bottom, with vertical lines behind them."""
    axes.set(ylim=(len(titles) - 0.5, -0.5), yticks=range(len(titles)))
    axes.set_yticklabels(titles)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID)


def few_ticks(axis: Axis) -> None:
    """Three to five round numbers."""
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def draw_interval(axes: Axes, found: Estimate, at: float, *, horizontal: bool, colour: str) -> None:
    """The interval of a mean, where several seeds give one; ``at`` is the place on the other axis."""
    if found.half_width is None:
        return
    x, y = (found.mean, at) if horizontal else (at, found.mean)
    xerr, yerr = (found.half_width, None) if horizontal else (None, found.half_width)
    axes.errorbar(
        x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=colour, elinewidth=1.8, capsize=3, capthick=1.8, zorder=3
    )


def draw_paper(axes: Axes, variant: Variant, column: Column, at: float, *, horizontal: bool) -> float:
    """The paper's figure as a diamond, filled where it is confirmed, where the data are the paper's.

    Returns:
        The figure, or 0 where there is none.
    """
    figure = published.figure(variant.name, column)
    if figure is None or not published.comparable(column):
        return 0.0
    x, y = (figure.value, at) if horizontal else (at, figure.value)
    axes.plot(x, y, **_diamond(figure.confirmed), zorder=5)
    return figure.value


def finish(figure: Figure, title: str, handles: Sequence[Any], columns: Sequence[Column], results: Results) -> None:
    """Adds title and legend; the paper's diamonds are in it where a column has them."""
    handles = list(handles)
    if len(results.seeds) > 1:
        handles.append(Line2D([], [], color=INK, linewidth=1.8, marker="|", label="95 % interval"))
        handles.append(
            Line2D(
                [], [], linestyle="none", marker="o", color="white", markeredgecolor=INK, markersize=5, label="a seed"
            )
        )
    if any(map(published.comparable, columns)):
        handles.append(Line2D([], [], **_diamond(True), label="paper, confirmed"))
        handles.append(Line2D([], [], **_diamond(False), label="paper, recalled"))
    figure.suptitle(title, fontsize=19, x=0.01, ha="left", fontweight="bold", color=INK)
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=12)


def _diamond(confirmed: bool) -> dict[str, Any]:
    face = ORANGE if confirmed else "white"
    return {"linestyle": "none", "marker": "D", "markersize": 7, "color": ORANGE, "markerfacecolor": face}
