"""Official metric rules, exact, in numpy: one file a family. Shares are 0..1 everywhere except in VQA's summary."""

from vilbert_jax.metrics.boxes import BoxRule, box_iou, grounding_accuracy, grounding_correct, paired_box_iou
from vilbert_jax.metrics.choice import choice_accuracy, choice_correct, vcr_accuracies
from vilbert_jax.metrics.retrieval import (
    TieRule,
    coco_folds,
    mean_rank,
    median_rank,
    ranks,
    recall_at_k,
    retrieval_metrics,
)
from vilbert_jax.metrics.vqa import VQARules, VQAScores, vqa_accuracies, vqa_accuracy

__all__ = [
    "BoxRule",
    "TieRule",
    "VQARules",
    "VQAScores",
    "box_iou",
    "choice_accuracy",
    "choice_correct",
    "coco_folds",
    "grounding_accuracy",
    "grounding_correct",
    "mean_rank",
    "median_rank",
    "paired_box_iou",
    "ranks",
    "recall_at_k",
    "retrieval_metrics",
    "vcr_accuracies",
    "vqa_accuracies",
    "vqa_accuracy",
]
