"""The scores that the ViLBERT paper reports for the cells of its tables, and how sure we are of each.

Source: Lu, Batra, Parikh, Lee, NeurIPS 2019 (arXiv 1908.02265): the main table, the one of depths, the one of shares of
the pre-training data. Percent, as printed. A figure is *confirmed* where independent public text quotes it, and
*recalled* where it was written down from memory of the paper and contradicts nothing that is confirmed: look a recalled
one up before a claim rests on it.
"""

import pathlib
from typing import NamedTuple

from vilbert_jax.ablation.grid import Column


class Figure(NamedTuple):
    """One number of the paper.

    Attributes:
        value: percent.
        measure: data set, split and metric.
        confirmed: independent public text quotes it; otherwise it is recalled.
    """

    value: float
    measure: str
    confirmed: bool


MEASURES = (  # of every row, in the order of the paper's tables
    "VQA v2 test-dev",
    "VCR val Q->A", "VCR val QA->R", "VCR val Q->AR",
    "RefCOCO+ val", "RefCOCO+ testA", "RefCOCO+ testB",
    "Flickr30k R@1", "Flickr30k R@5", "Flickr30k R@10",
    "Flickr30k zero-shot R@1", "Flickr30k zero-shot R@5", "Flickr30k zero-shot R@10",
)  # fmt: skip
# By the names that configs/ablation.py gives to the same models. The paper has no retrieval by one stream; its
# zero-shot row without pre-training is zero by construction.
_ROWS: dict[str, tuple[float, ...]] = {
    "two_stream": (70.55, 72.42, 74.47, 54.04, 72.34, 78.52, 62.61, 58.20, 84.90, 91.52, 31.86, 61.12, 72.80),
    "two_stream_scratch": (68.93, 69.26, 71.01, 49.48, 68.61, 75.97, 58.44, 45.50, 76.78, 85.02, 0.0, 0.0, 0.0),
    "single_stream": (68.85, 71.09, 73.93, 52.73, 69.21, 75.32, 61.02),
    "single_stream_scratch": (65.90, 68.15, 68.89, 47.27, 65.64, 72.02, 56.04),
    "depth_2": (69.92, 72.44, 74.80, 54.40, 71.74, 78.61, 62.28, 55.68, 84.26, 90.56, 26.14, 56.04, 68.80),
    "depth_4": (70.22, 72.45, 74.00, 53.82, 72.07, 78.53, 63.14, 55.38, 84.10, 90.62, 26.28, 54.34, 66.08),
    "depth_8": (70.47, 72.33, 74.15, 53.79, 71.66, 78.29, 62.43, 58.78, 85.60, 91.42, 32.80, 63.38, 74.62),
    "data_25": (69.82, 71.61, 73.00, 52.66, 69.90, 76.83, 60.99, 53.08, 80.80, 88.52, 20.40, 48.54, 62.06),
    "data_50": (70.30, 71.88, 73.60, 53.03, 71.16, 77.35, 61.57, 54.84, 83.62, 90.10, 26.76, 56.26, 68.80),
}
# Reported of the full model alone, by the test servers.
_TESTED = {"VQA v2 test-std": 70.92, "VCR test Q->A": 73.3, "VCR test QA->R": 74.6, "VCR test Q->AR": 54.8}
# Cells that are the same model as one above. The paper's own masking leaves regions readable that overlap a hidden one.
_SAME = {
    "depth_6": "two_stream",
    "data_100": "two_stream",
    "masking_released": "two_stream",
    "data_0": "two_stream_scratch",
}
_CONFIRMED = {
    *(("two_stream", measure) for measure in (*MEASURES, *_TESTED)),
    ("two_stream_scratch", "VQA v2 test-dev"),
    ("two_stream_scratch", "VCR val Q->AR"),
    ("two_stream_scratch", "RefCOCO+ testA"),
    ("two_stream_scratch", "RefCOCO+ testB"),
    ("two_stream_scratch", "Flickr30k R@1"),
    ("depth_2", "Flickr30k zero-shot R@1"),
    ("depth_8", "Flickr30k zero-shot R@1"),
}


def figures(variant: str) -> dict[str, Figure]:
    """All that the paper reports of a variant, by measure; empty where it has no such model.

    Args:
        variant: name as in configs/ablation.py.
    """
    row = _SAME.get(variant, variant)
    values = dict(zip(MEASURES, _ROWS.get(row, ()), strict=False)) | (_TESTED if row == "two_stream" else {})
    return {measure: Figure(value, measure, (row, measure) in _CONFIRMED) for measure, value in values.items()}


def figure(variant: str, column: Column) -> Figure | None:
    """The paper's figure for one cell of the grid, or None where there is none.

    Args:
        variant: name as in configs/ablation.py.
        column: its recipe and metric say which of the paper's numbers corresponds; its split only matters for
            RefCOCO+, where the paper has three. A recipe on the embedded data gets the figure of the task it imitates:
            see ``comparable``.
    """
    measure = measure_of(column)
    return None if measure is None else figures(variant).get(measure)


def measure_of(column: Column) -> str | None:
    """The entry of MEASURES that a column corresponds to, or None."""
    recipe, metric = pathlib.PurePath(column.recipe.split(":")[0]).stem, column.metric
    if recipe == "vqa" and metric == "accuracy":
        return "VQA v2 test-dev"
    if recipe in ("vcr_qa", "vcr_qar"):
        passes = {"answer_accuracy": "Q->A", "rationale_accuracy": "QA->R", "joint_accuracy": "Q->AR"}
        return f"VCR val {passes[metric]}" if metric in passes else None
    if recipe == "refcoco_plus" and metric in ("accuracy", "accuracy_vilbert_rule"):
        split = column.split.split("[")[0]
        return f"RefCOCO+ {split if split in ('testA', 'testB') else 'val'}"
    direction, _, recall = metric.partition("/recall@")
    if direction == "caption_to_image" and recall in ("1", "5", "10"):
        names = {"flickr30k": "Flickr30k", "zero_shot_flickr30k": "Flickr30k zero-shot"}
        return f"{names[recipe]} R@{recall}" if recipe in names else None
    return None


def comparable(column: Column) -> bool:
    """The column is scored on the paper's data set; otherwise only the direction of a difference can be compared."""
    return ":" not in column.recipe and measure_of(column) is not None
