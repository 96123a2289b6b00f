"""Multiple choice: VCR's three accuracies.

N items, C choices. Source: ``eval_q2ar.py`` of rowanz/r2c.
"""

import numpy as np

from vilbert_jax.errors import InputError


def choice_correct(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the choice with the highest score is the right one; of equal scores the first counts as chosen.

    Args:
        scores: [N,C] one score a choice, higher is better: logits or probabilities.
        labels: [N] integers 0..C-1, the right choice.

    Returns:
        [N] bool.

    Raises:
        InputError: other shapes, a score that is NaN, or a label that names no choice (-1 is "unknown").
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or not scores.shape[1] or labels.shape != scores.shape[:1]:
        raise InputError(f"scores have shape {scores.shape}, labels {labels.shape}: expected [N, C] and [N]")
    if labels.dtype.kind not in "iu" and labels.size:
        raise InputError(f"labels are {labels.dtype}: expected integers, the index of the right choice")
    outside = (labels < 0) | (labels >= scores.shape[1])
    if outside.any():
        row = int(outside.argmax())
        raise InputError(
            f"item {row} has label {labels[row]}, but there are {scores.shape[1]} choices, from 0 on; items whose "
            "answer is withheld cannot be scored: leave them out, or write a submission file instead"
        )
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise InputError(f"item {row} has scores {scores[row].tolist()}: NaN has no rank; look for it in the model")
    return scores.argmax(axis=1) == labels


def choice_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share (0..1) of items whose best choice is the right one; arguments and errors: ``choice_correct``.

    Raises:
        InputError: also where there is no item at all.
    """
    return _share(choice_correct(scores, labels))


def vcr_accuracies(
    answer_scores: np.ndarray, answer_labels: np.ndarray, rationale_scores: np.ndarray, rationale_labels: np.ndarray
) -> dict[str, float]:
    """VCR's accuracies; row k of all four arrays is the same question.

    Args:
        answer_scores: [N,C] of the answers, given the question.
        answer_labels: [N] the right answers.
        rationale_scores: [N,C] of the rationales, given the question and its *right* answer.
        rationale_labels: [N] the right rationales.

    Returns:
        ``q_to_a``, ``qa_to_r``, and ``q_to_ar`` (both right for the same question), 0..1.

    Raises:
        InputError: as ``choice_accuracy``, or not as many rationale items as answer items.
    """
    answer, rationale = choice_correct(answer_scores, answer_labels), choice_correct(rationale_scores, rationale_labels)
    if len(answer) != len(rationale):
        raise InputError(
            f"{len(answer)} questions have answer scores and {len(rationale)} have rationale scores: Q->AR needs both "
            "for each question, in the same order"
        )
    return {"q_to_a": _share(answer), "qa_to_r": _share(rationale), "q_to_ar": _share(answer & rationale)}


def _share(correct: np.ndarray) -> float:
    if not len(correct):
        raise InputError("no items: an accuracy needs at least one")
    return float(correct.mean())
