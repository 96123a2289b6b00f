"""Accuracy of the official VQA evaluator (``vqaEval.py`` of GT-Vision-Lab/VQA), in the two versions that matter.

* ``"2021"`` (commit a013f00, the current one): white space is cleaned everywhere; then, unless the human answers are
  all equal, prediction and answers are normalised alike. Ten ``yes`` and the prediction ``Yes``: 0.
* ``"2017"`` (commit a4f1afd, current when ViLBERT was published): the prediction is always normalised, the human
  answers only lose their punctuation, and that only if they are not all equal. Ten ``two`` and the prediction
  ``two``: 0, because the prediction becomes ``2``.

Accidents of the official code are kept, since a score that differs in the last digit is another metric.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vilbert_jax.errors import InputError
from vilbert_jax.metrics.vqa_words import ARTICLES, CONTRACTIONS, NUMBER_WORDS, PUNCTUATION

VQARules = Literal["2017", "2021"]

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32  # officially re.UNICODE, which is 32, stands where the largest count of deletions belongs


class VQAScores(NamedTuple):
    """What ``vqa_accuracies`` found.

    Attributes:
        scores: [N] float64, 0..1, not rounded.
        summary: in percent with two decimals: ``overall``, and dicts ``per_answer_type`` and ``per_question_type``.
    """

    scores: np.ndarray
    summary: dict[str, Any]


def clean_space(text: str) -> str:
    """Makes every newline and tab one blank, then strips both ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def punctuation(text: str) -> str:
    """Takes 21 punctuation marks out of an answer, and periods that no digit follows.

    All occurrences of a mark vanish if one of them has a blank beside it, or if the text has digit, comma, digit
    anywhere; else they become blanks. ``'``, ``:``, ``%``, ``$``, ``&`` and others are no marks. Of the periods the
    first 32 go. Digits are those of Unicode, as in Python 3 (officially also Python 2, which knew ASCII digits only).
    """
    grouped = _DIGIT_COMMA_DIGIT.search(text) is not None
    without = text
    for mark in PUNCTUATION:
        if mark in text:
            vanishes = grouped or f"{mark} " in text or f" {mark}" in text
            without = without.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", without, count=_MAX_PERIODS)


def digit_article(text: str) -> str:
    """Lower-cases, writes zero to ten as digits, drops articles, restores apostrophes, and joins with single blanks.

    The result may be empty. Lower case is Python 3's: ``İ`` becomes ``i`` and a combining dot, two characters (Python
    2: ``i`` alone).
    """
    numbered = (NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str], rules: VQARules = "2021") -> float:
    """Official accuracy of the answer to one question.

    The mean over the human answers of ``min(1, matches / 3)``, where the matches are sought among the *other* human
    answers. So a question with a single human answer scores 0.

    Args:
        prediction: the answer to be scored.
        answers: those of the humans (ten in VQA), as in the annotation file; each stands for a record with an
            ``answer_id`` of its own.
        rules: version of the evaluator, see the module; say in every report which one it was.

    Returns:
        0..1, not rounded.

    Raises:
        InputError: no human answers, anything that is not text, or unknown rules.
    """
    _check_rules(rules)
    _check_question(prediction, answers, "the question")
    return _accuracy(prediction, answers, rules)


def vqa_accuracies(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    answer_types: Sequence[str],
    question_types: Sequence[str],
    rules: VQARules = "2021",
) -> VQAScores:
    """Official accuracies of a whole split.

    Args:
        predictions: N answers to be scored.
        answers: N times the human answers, see ``vqa_accuracy``.
        answer_types: N, such as ``yes/no``, ``number``, ``other``.
        question_types: N, the first words of the question.
        rules: version of the evaluator.

    Returns:
        A score for each question, and the summary as the official evaluator prints it: means times 100, rounded to two
        decimals at the end.

    Raises:
        InputError: sequences of different lengths, no question at all, and as ``vqa_accuracy`` for a single question.
    """
    _check_rules(rules)
    lengths = [len(predictions), len(answers), len(answer_types), len(question_types)]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise InputError(
            "found {} predictions, answers of {} questions, {} answer types and {} question types: expected one of "
            "each for every question, and at least one question".format(*lengths)
        )
    scores = []
    for number, (prediction, given) in enumerate(zip(predictions, answers, strict=True)):
        _check_question(prediction, given, f"question number {number} (from 0)")
        scores.append(_accuracy(prediction, given, rules))
    summary = {
        "overall": _percent(scores),
        "per_answer_type": _percent_per(answer_types, scores),
        "per_question_type": _percent_per(question_types, scores),
    }
    return VQAScores(np.array(scores), summary)


def _accuracy(prediction: str, answers: Sequence[str], rules: VQARules) -> float:
    prediction = clean_space(prediction)
    if rules == "2021":
        answers = [clean_space(answer) for answer in answers]
        if len(set(answers)) > 1:
            answers = [digit_article(punctuation(answer)) for answer in answers]
            prediction = digit_article(punctuation(prediction))
    else:
        prediction = digit_article(punctuation(prediction))
        if len(set(answers)) > 1:
            answers = [punctuation(answer) for answer in answers]
    equal = [answer == prediction for answer in answers]
    matches = equal.count(True)
    return _mean([min(1.0, (matches - own) / 3) for own in equal])


def _check_rules(rules: str) -> None:
    if rules not in get_args(VQARules):
        raise InputError(f"unknown VQA rules {rules!r}: use '2021' (the evaluator of today) or '2017'")


def _check_question(prediction: object, answers: Sequence[object], which: str) -> None:
    if isinstance(answers, str | bytes) or not len(answers):
        raise InputError(
            f"{which} has the human answers {answers!r}: expected a sequence of texts, ten in VQA; questions whose "
            "answers are withheld cannot be scored"
        )
    for text in (prediction, *answers):
        if not isinstance(text, str):
            raise InputError(f"{which} has {text!r} among prediction and answers: expected text (decode bytes first)")


def _percent_per(types: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    by_type: dict[str, list[float]] = {}
    for name, score in zip(types, scores, strict=True):
        by_type.setdefault(name, []).append(score)
    return {name: _percent(of_type) for name, of_type in by_type.items()}


def _percent(scores: Sequence[float]) -> float:
    return round(_mean(scores, scale=100), 2)


def _mean(values: Sequence[float], scale: float = 1) -> float:
    total = 0.0
    for value in values:  # plain addition in order, as officially; sum() compensates from Python 3.12 on
        total += value
    return scale * total / len(values)
