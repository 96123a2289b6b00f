"""The plots of a grid of experiments, each the size of a slide: models, lines over depth and data, differences.

Intervals are 95 % intervals of the mean over seeds, small dots are single seeds.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vilbert_jax.ablation.estimates import (
    Results,
    estimate,
    is_percentage,
    less_is_better,
    same_runs,
    without_pretraining,
)
from vilbert_jax.ablation.grid import Column, Variant, group_columns
from vilbert_jax.ablation.panels import (
    BLUE,
    DPI,
    GREY,
    GRID,
    INK,
    ORANGE,
    SKY,
    STYLE,
    draw_interval,
    draw_paper,
    few_ticks,
    finish,
    make_panels,
    name_rows,
)

MODELS, DEPTH, DATA = "models", "depth", "data"  # groups that have plots of their own
DIFFERENCES = "differences"  # the plot of all others
_KINDS = {True: (BLUE, "with"), False: (SKY, "without")}  # pre-trained or not
_OUTLIER = 3.0  # times the median extent: the axis goes no further, and an arrow stands for a mean out there


def draw_plots(
    folder: Path, variants: Sequence[Variant], columns: Sequence[Column], results: Results, reference: Variant
) -> dict[str, str]:
    """Writes the plots for which there are values, and removes those of earlier values for which there are none now.

    Args:
        folder: where the PNGs go.
        variants: of the grid; a name in the groups ``depth`` and ``data`` ends with its place on the axis: ``depth_4``.
        columns: of the grid.
        results: its values.
        reference: the variant that those of groups without a plot of their own are compared with.

    Returns:
        Group, or ``DIFFERENCES`` -> file name.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            MODELS: _models(variants, columns, results),
            DEPTH: _lines(
                [variant for variant in variants if variant.group == DEPTH], columns, results,
                title="Depth of the exchange", label="co-attention layers",
            ),
            DATA: _lines(
                [variant for variant in variants if variant.group == DATA], columns, results,
                title="Share of the pre-training data", label="% of the pre-training pairs",
            ),
            DIFFERENCES: _differences(variants, columns, results, reference),
        }  # fmt: skip
        for name, figure in figures.items():
            path, part = folder / f"ablation-{name}.png", folder / f".ablation-{name}.png.part"
            if figure is None:
                path.unlink(missing_ok=True)
            else:  # without a version in it: the same bytes
                figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})
                part.replace(path)
    return {name: f"ablation-{name}.png" for name, figure in figures.items() if figure is not None}


# --- models: bars


def _models(variants: Sequence[Variant], columns: Sequence[Column], results: Results) -> Figure | None:
    """A panel a score, a row a model, a bar with pre-training and one without, as far as there are any."""
    members = [variant for variant in variants if variant.group == MODELS]
    plain = {variant: without_pretraining(variant, variants) for variant in members}
    rows = [
        (variant.title, variant, plain[variant]) if variant.pretrained else (variant.title, None, variant)
        for variant in members
        if variant not in plain.values()
    ]
    scored = [c for c in group_columns(MODELS, columns) if is_percentage(c)]
    shown = [c for c in scored if any(results.scores(variant, c) for variant in members)]
    if not shown:
        return None
    kinds = [
        kind for kind in _KINDS if any(results.scores(v, c) for v in members if v.pretrained == kind for c in shown)
    ]
    rows = [row for row in rows if any(variant and variant.pretrained in kinds for variant in row[1:])]
    figure, panels = make_panels(shown, share_y=True)
    for axes, column in zip(panels, shown, strict=True):
        ends = [1.0]
        for place, (_, *pair) in enumerate(rows):
            for variant in (variant for variant in pair if variant and variant.pretrained in kinds):
                y = place if len(kinds) == 1 else place - 0.2 if variant.pretrained else place + 0.2
                scores = [*results.scores(variant, column).values()]
                ends.append(_bar(axes, y, scores, _KINDS[variant.pretrained][0]))
                ends.append(draw_paper(axes, variant, column, y, horizontal=True))
        axes.set_xlim(0, 1.3 * max(ends))  # numbers stand on the right
        name_rows(axes, [title for title, *_ in rows])
        few_ticks(axes.xaxis)
    handles = [Patch(color=colour, label=f"{label} pre-training") for colour, label in map(_KINDS.__getitem__, kinds)]
    how = " and ".join(_KINDS[kind][1] for kind in kinds)
    finish(figure, f"Models, {how} pre-training, percent", handles, shown, results)
    return figure


def _bar(axes: Axes, y: float, scores: Sequence[float], colour: str) -> float:
    """Draws mean, interval and seeds, and the number at the right edge; returns where the rest ends."""
    found = estimate(scores)
    if found is None:
        return 0.0
    axes.barh(y, found.mean, height=0.36, color=colour)
    draw_interval(axes, found, y, horizontal=True, colour=INK)
    axes.scatter(scores, np.full(len(scores), y), s=14, color="white", edgecolors=INK, linewidths=0.7, zorder=4)
    axes.text(1.0, y, f"{found.mean:.1f}", transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=11)
    return max([found.mean + (found.half_width or 0.0), *scores])


# --- depth and data: lines


def _lines(
    variants: Sequence[Variant], columns: Sequence[Column], results: Results, *, title: str, label: str
) -> Figure | None:
    """A panel a score, over the number that the variants' names end with."""
    numbers = {variant: re.search(r"\d+$", variant.name) for variant in variants}
    at = {variant: int(match.group()) for variant, match in numbers.items() if match}
    shown = [c for c in columns if is_percentage(c) and sum(bool(results.scores(variant, c)) for variant in at) > 1]
    if not shown:
        return None
    first, last = min(at.values()), max(at.values())
    figure, panels = make_panels(shown, share_y=False)
    for axes, column in zip(panels, shown, strict=True):
        line = []
        for variant, x in sorted(at.items(), key=lambda item: item[1]):
            scores = [*results.scores(variant, column).values()]
            found = estimate(scores)
            draw_paper(axes, variant, column, x, horizontal=False)
            if found is not None:
                line.append((x, found.mean))
                draw_interval(axes, found, x, horizontal=False, colour=BLUE)
                places = np.full(len(scores), x)
                axes.scatter(places, scores, s=16, color="white", edgecolors=BLUE, linewidths=0.9, zorder=4)
        axes.plot(*np.transpose(line), color=BLUE, linewidth=2.4, marker="o")
        axes.set_xticks(sorted(at.values()))
        axes.set_xlim(first - 0.08 * (last - first), last + 0.08 * (last - first))
        axes.margins(y=0.12)
        few_ticks(axes.yaxis)
        axes.grid(axis="y", color=GRID)
        axes.set_xlabel(label, fontsize=11)
    handles = [Line2D([], [], color=BLUE, marker="o", linewidth=2.4, label="mean")]
    finish(figure, f"{title}, percent", handles, shown, results)
    return figure


# --- differences: a forest


def _differences(
    variants: Sequence[Variant], columns: Sequence[Column], results: Results, reference: Variant
) -> Figure | None:
    """A panel a score, a row a variant: by how much it differs from the reference with the same seed."""
    rows = [
        variant
        for variant in variants
        if variant.group not in (MODELS, DEPTH, DATA)
        and variant.pretrained == reference.pretrained  # its own effect would hide all others
        and not same_runs(variant, reference)
    ]
    shown = [c for c in columns if any(results.differences(variant, reference, c) for variant in rows)]
    if not shown:
        return None
    figure, panels = make_panels(shown, share_y=True)
    for axes, column in zip(panels, shown, strict=True):
        differences = [[*results.differences(variant, reference, column).values()] for variant in rows]
        low, high = _range(differences)
        for y, values in enumerate(differences):
            _point(axes, y, values, (low, high), column)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        name_rows(axes, [variant.title for variant in rows])
        few_ticks(axes.xaxis)
        if less_is_better(column):
            axes.set_xlabel("a loss: less is better", fontsize=11)
    colours = ((BLUE, "better"), (ORANGE, "worse"), (GREY, "interval holds zero"))
    handles = [Line2D([], [], color=colour, marker="o", linewidth=2.4, label=label) for colour, label in colours]
    finish(figure, f"Differences to: {reference.title}, same seed", handles, (), results)
    return figure


def _point(axes: Axes, y: float, values: Sequence[float], ends: tuple[float, float], column: Column) -> None:
    """Draws one difference; one that lies beyond the ends of the axis as an arrow with its number."""
    found = estimate(values)
    if found is None:
        return
    colour = {1: BLUE, -1: ORANGE, 0: GREY}[-found.sign if less_is_better(column) else found.sign]
    if ends[0] <= found.mean <= ends[1]:
        draw_interval(axes, found, y, horizontal=True, colour=colour)
        axes.scatter(values, np.full(len(values), y), s=14, color="white", edgecolors=colour, linewidths=0.9, zorder=4)
        axes.plot(found.mean, y, marker="o", color=colour, markersize=8, zorder=3)
        return
    edge, marker, away, align = (ends[0], "<", 9, "left") if found.mean < ends[0] else (ends[1], ">", -9, "right")
    axes.plot(edge, y, marker=marker, color=colour, markersize=9)
    axes.annotate(
        f"{found.mean:+.{column.digits}f}", (edge, y), (away, 0), textcoords="offset points", ha=align, va="center",
        fontsize=10, color=colour,
    )  # fmt: skip


def _range(differences: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Ends of the axis: zero and all intervals, but no mean that is several times further out than the others are."""
    found = [(one.mean, one.half_width or 0.0) for one in map(estimate, differences) if one is not None]
    furthest = _OUTLIER * float(np.median([abs(mean) + width for mean, width in found])) or 1.0
    near = [(mean, width) for mean, width in found if abs(mean) <= furthest]
    low = min([0.0, *(max(mean - width, -furthest) for mean, width in near)])
    high = max([0.0, *(min(mean + width, furthest) for mean, width in near)])
    room = 0.8 * (high - low) or 1.0  # that an arrow and its number need
    if any(mean < -furthest for mean, _ in found):
        low = min(low, -room)
    if any(mean > furthest for mean, _ in found):
        high = max(high, room)
    return (low, high) if low < high else (-1.0, 1.0)
