"""VCR's three accuracies."""

import numpy as np
import pytest

from vilbert_jax.errors import InputError
from vilbert_jax.metrics import choice_accuracy, choice_correct, vcr_accuracies

SCORES = np.array([[0, 3, 1, 2], [5, 5, 0, 0], [0, 5, 5, 0], [-np.inf, -4, -3, -5]], np.float32)


def test_the_first_of_equal_scores_is_chosen():
    assert choice_correct(SCORES, np.array([1, 0, 1, 2])).tolist() == [True, True, True, True]
    assert choice_correct(SCORES, np.array([1, 1, 2, 3])).tolist() == [True, False, False, False]
    assert choice_accuracy(SCORES, np.array([1, 0, 2, 3])) == 0.5


def test_both_must_be_right_for_the_same_question():
    answers, rationales = np.array([1, 0, 0, 0]), np.array([1, 1, 1, 0])
    expected = {"q_to_a": 0.5, "qa_to_r": 0.5, "q_to_ar": 0.25}
    assert vcr_accuracies(SCORES, answers, SCORES, rationales) == expected
    assert vcr_accuracies(SCORES, answers, SCORES[[2, 3, 0, 1]], np.array([0, 0, 1, 0]))["q_to_ar"] == 0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (SCORES, [0, 1, -1, 2], "item 2 has label -1.*withheld"),
        (SCORES, [0, 4, 1, 2], "item 1 has label 4, but there are 4 choices"),
        (SCORES, [0, 1], r"\(4, 4\), labels \(2,\)"),
        (SCORES[0], [0, 1, 2, 3], r"\(4,\), labels"),
        (SCORES, [0.0, 1, 2, 3], "labels are float64"),
        (np.where(SCORES == 3, np.nan, SCORES), [0, 1, 2, 2], "item 0 .*NaN"),
        (np.zeros((0, 4)), [], "at least one"),
    ],
)
def test_bad_input(scores, labels, message):
    with pytest.raises(InputError, match=message):
        choice_accuracy(scores, np.array(labels))


def test_the_two_halves_must_be_of_the_same_questions():
    with pytest.raises(InputError, match="4 questions have answer scores and 3"):
        vcr_accuracies(SCORES, np.zeros(4, int), SCORES[:3], np.zeros(3, int))
