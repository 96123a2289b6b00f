"""report.png: the curves of a run as small multiples."""

import os
from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

from vilbert_jax.errors import InputError
from vilbert_jax.training.logging import read_metrics

_COLORS = ("#2f6db5", "#d9662b", "#3d8f5f", "#8a5fb0", "#b8476a")  # train, then the evaluation splits
_INK, _FAINT, _LINE, _GRID = "#2b2b2b", "#8c8c8c", "#cccccc", "#e9e9e9"
_HIDDEN = ("update_norm", "param_norm")
_COLUMNS, _PANEL = 3, (4.0, 2.6)  # inches
_FEW = 30  # up to so many points are marked; more are smoothed

Curves = dict[str, list[tuple[float, float]]]  # "train" or the split -> (step, value)


def write_report(metrics: str | os.PathLike[str], png: str | os.PathLike[str]) -> None:
    """Draws one panel per metric, training and evaluation together, each with its last value.

    Training values are those of single steps; the thick line is their running mean.

    Args:
        metrics: a metrics.jsonl.
        png: file to write.

    Raises:
        InputError: the file is missing or holds no metrics.
    """
    panels = read_panels(metrics)
    sources = {source for curves in panels.values() for source in curves}
    sources = sorted(sources, key=lambda name: (name != "train", name))
    colors = {source: _COLORS[i % len(_COLORS)] for i, source in enumerate(sources)}
    last_step = max(step for curves in panels.values() for points in curves.values() for step, _ in points)

    num_rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _PANEL[0], num_rows * _PANEL[1] + 0.5), facecolor="white")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(num_rows, _COLUMNS, squeeze=False).flat)
    for axis, (name, curves) in zip(axes, panels.items(), strict=False):
        _draw(axis, name, curves, colors, last_step)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=colors[source], linewidth=2.4) for source in sources]
    labels = [source.replace("_", " ") for source in sources]
    figure.legend(
        handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, labelcolor=_INK, fontsize=11.5
    )
    figure.savefig(png, dpi=160)


def read_panels(metrics: str | os.PathLike[str]) -> dict[str, Curves]:
    """Metric -> curves, in reading order: total loss, losses, scores, then how the optimizer is doing."""
    try:
        lines = read_metrics(metrics)
    except OSError as error:
        raise InputError(f"no metrics at {metrics} ({error.strerror}); name the metrics.jsonl of a run.") from error
    panels: dict[str, Curves] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for key, value in line.items():
            source, _, name = key.removeprefix("eval/").partition("/")
            if name and name not in _HIDDEN:
                panels[name][source].append((line["step"], value))
    if not panels:
        raise InputError(f"{metrics} has no complete line yet; let the run reach its first log step (log_every).")
    return {name: panels[name] for name in sorted(panels, key=_reading_order)}


def _reading_order(name: str) -> tuple[int, str]:
    fixed = {"loss": 0, "learning_rate": 4, "grad_norm": 5}
    kind = fixed.get(name, 1 if name.endswith("loss") else 2 if "accuracy" in name else 3)
    return kind, name


def _draw(axis: Axes, name: str, curves: Curves, colors: dict[str, str], last_step: float) -> None:
    shown = []  # values that the vertical range must include
    at = 1.0
    for source, points in sorted(curves.items(), key=lambda item: list(colors).index(item[0]), reverse=True):
        steps, values = np.array(points, np.float64).T
        line = values
        if len(values) > _FEW and name != "learning_rate":
            axis.plot(steps, values, color=colors[source], alpha=0.25, linewidth=0.8)
            line = _running_mean(values)
            shown.append(np.quantile(values, [0.005, 0.995]))
        marker = "o" if len(values) <= _FEW else ""
        axis.plot(steps, line, color=colors[source], linewidth=1.8, marker=marker, markersize=3.5)
        shown.append(line)
        if name != "learning_rate":
            text, corner = f"{line[-1]:#.3g}", (at, 1.03)
            axis.annotate(text, corner, xycoords="axes fraction", ha="right", color=colors[source], fontsize=10)
            at -= 0.16
    _set_range(axis, name, np.concatenate(shown), last_step)
    axis.set_title(name.replace("_", " ").replace("/", ", "), loc="left", fontsize=11.5, color=_INK)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(_LINE)
    axis.grid(axis="y", color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, colors=_FAINT, labelsize=9)


def _set_range(axis: Axes, name: str, values: np.ndarray, last_step: float) -> None:
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    whole = 1.0 if high <= 1 else 100.0  # pre-training logs shares, tasks log percent
    low, high = low - margin, high + margin
    if "accuracy" in name:
        low, high = max(low, -0.02 * whole), min(high, 1.02 * whole)
    axis.set_ylim(low, high)
    axis.set_xlim(-0.02 * last_step, 1.02 * last_step)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_major_locator(MaxNLocator(4))


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean with a bell-shaped window of about a twentieth of the run."""
    width = len(values) / 60
    distance = np.arange(-int(3 * width), int(3 * width) + 1)
    window = np.exp(-0.5 * (distance / width) ** 2)
    half = len(window) // 2

    def convolve(x: np.ndarray) -> np.ndarray:
        return np.convolve(x, window)[half : half + len(x)]

    return convolve(values) / convolve(np.ones_like(values))
