"""The official VQA evaluator, both versions: every worked example, its accidents, and whole splits."""

import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.errors import InputError
from vilbert_jax.metrics import vqa_accuracies, vqa_accuracy
from vilbert_jax.metrics.vqa import clean_space, digit_article, punctuation
from vilbert_jax.metrics.vqa_words import CONTRACTIONS, NUMBER_WORDS, PUNCTUATION

# Text, after punctuation, after punctuation and digit_article: what the official code gives.
NORMALISED = [
    ("Yes", "Yes", "yes"),
    ("the cat", "the cat", "cat"),
    ("Two dogs", "Two dogs", "2 dogs"),
    ("ten", "ten", "10"),
    ("eleven", "eleven", "eleven"),
    ("None", "None", "0"),
    ("no one", "no one", "no 1"),
    ("a", "a", ""),
    ("The", "The", ""),
    ("?", " ", ""),
    ("black/white", "black white", "black white"),
    ("black / white", "black  white", "black white"),
    ("red, white", "red white", "red white"),
    ("red,white", "red white", "red white"),
    ("3,000", "3000", "3000"),
    ("3,000-4,000", "30004000", "30004000"),
    ("1,5 - 2", "15  2", "15 2"),
    ("5.", "5", "5"),
    (".5", ".5", ".5"),
    ("3.5", "3.5", "3.5"),
    ("x.5", "x.5", "x.5"),
    ("a.b", "ab", "ab"),
    ("12:30 p.m.", "12:30 pm", "12:30 pm"),
    ("U.S. flag", "US flag", "us flag"),
    ("T-shirt", "T shirt", "t shirt"),
    ("twenty-one", "twenty one", "twenty 1"),
    ("what?", "what ", "what"),
    ('"stop"', " stop ", "stop"),
    ("dont know", "dont know", "don't know"),
    ("Don't know", "Don't know", "don't know"),
    ("Im here", "Im here", "im here"),
    ("somebody'd", "somebody'd", "somebodyd"),
    ("oclock", "oclock", "o'clock"),
    ("o clock", "o clock", "o clock"),
    ("c++", "c  ", "c"),
    ("c ++", "c ", "c"),
    ("50%", "50%", "50%"),
    ("$5", "$5", "$5"),
    ("at&t", "at&t", "at&t"),
    ("'red'", "'red'", "'red'"),
    ("", "", ""),
    ("1,a,2", "1 a 2", "1 2"),  # a comma between digit and letter groups nothing
    ("the one a", "the one a", "1"),
]


@pytest.mark.parametrize(("text", "without_marks", "normalised"), NORMALISED)
def test_worked_examples_of_normalisation(text, without_marks, normalised):
    assert punctuation(text) == without_marks
    assert digit_article(punctuation(text)) == normalised


# Ten human answers, prediction, score by the rules of 2021 and of 2017.
SCORED = [
    ({"yes": 10}, "Yes", 0, 1),
    ({"two": 10}, "two", 1, 0),
    ({"two": 7, "2": 3}, "two", 1, 0.9),
    ({"two": 9, "2": 1}, "2", 1, 0.3),
    ({"red": 3, "blue": 7}, "red", 0.9, 0.9),
    ({"red": 2, "blue": 8}, "Red.", 0.6, 0.6),
    ({"red": 1, "blue": 9}, "red", 0.3, 0.3),
    ({"red": 4, "blue": 6}, "red", 1, 1),
    ({"blue": 10}, "red", 0, 0),
    ({"": 10}, "", 1, 1),
    ({"": 9, "x": 1}, "the", 1, 1),  # nothing is left of an article
    ({" yes": 8, "yes\n": 2}, "yes", 1, 0),  # equal once cleaned; in 2017 human answers are never cleaned
    ({" yes": 8, "yes": 2}, "yes", 1, 0.6),
    ({"a\tb": 10}, "a\tb", 1, 0),
]


@pytest.mark.parametrize(("counts", "prediction", "current", "published"), SCORED)
def test_worked_examples_of_scores(counts, prediction, current, published):
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert vj.metrics.vqa_accuracy(prediction, answers) == pytest.approx(current, abs=1e-12)
    assert vj.metrics.vqa_accuracy(prediction, answers, rules="2017") == pytest.approx(published, abs=1e-12)


def test_clean_space():
    assert clean_space("\n a\tb\nc \t") == "a b c"
    assert clean_space("a  b") == "a  b"


def test_at_most_32_periods_go():
    assert punctuation("a." * 40) == "a" * 32 + "a." * 8
    assert punctuation("." * 32) == ""
    assert punctuation(".5" * 40) == ".5" * 40  # none of them counts


def test_digits_are_those_of_unicode():
    assert punctuation("٣,٤/٥") == "٣٤٥"  # grouped, so that marks leave no blank
    assert punctuation("x.٥") == "x.٥"
    assert punctuation("²,³") == "² ³"  # superscripts are no decimal digits
    assert digit_article("٣") == "٣"


def test_lower_case_of_a_dotted_capital_i_is_that_of_python_3():
    assert digit_article("İ") == "i\u0307"
    assert digit_article("İ") != "i"


def test_every_mark_by_itself_and_beside_a_blank():
    assert len(PUNCTUATION) == len(set(PUNCTUATION)) == 21
    for mark in PUNCTUATION:
        assert punctuation(f"a{mark}b") == "a b"
        assert punctuation(f"a{mark} b{mark}c") == "a bc"
        assert punctuation(f"a {mark}b") == "a b"
    for other in "':&%$#*^~|":
        assert punctuation(f"a{other} b") == f"a{other} b"


def test_tables_have_the_official_number_of_entries_and_one_pass_is_enough():
    assert len(CONTRACTIONS) == 120
    assert len(NUMBER_WORDS) == 12
    restored = {key for key, value in CONTRACTIONS.items() if len(value) >= len(key)}
    assert set(CONTRACTIONS) - restored == {"somebody'd"}
    assert all(CONTRACTIONS.get(value, value) == value for value in CONTRACTIONS.values())
    assert CONTRACTIONS["yall'd've"] == "y'all'd've"
    assert CONTRACTIONS["'ow'sat"] == "'ow's'at"
    letters = str.maketrans("", "", "'")
    assert all(key.translate(letters) == value.translate(letters) for key, value in CONTRACTIONS.items())


@pytest.mark.parametrize("rules", ["2017", "2021"])
def test_a_single_human_answer_scores_nothing(rules):
    assert vqa_accuracy("yes", ["yes"], rules=rules) == 0


def slow_score(prediction, answers):
    """The score of processed strings, record by record as officially."""
    records = [{"answer": answer, "answer_id": number} for number, answer in enumerate(answers, 1)]
    per_record = []
    for record in records:
        others = [other for other in records if other != record]
        per_record.append(min(1, len([other for other in others if other["answer"] == prediction]) / 3))
    return sum(per_record) / len(per_record)


@pytest.mark.parametrize("rules", ["2017", "2021"])
def test_scores_agree_with_the_rule_written_out(rules):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        answers = rng.choice(["red", "blue", "sky", "sea"], rng.integers(1, 12)).tolist()
        score = vqa_accuracy("red", answers, rules=rules)
        assert score == pytest.approx(slow_score("red", answers), abs=1e-12)
        seen.add(round(score, 6))
    assert len(seen) > 10


SPLIT = {
    "predictions": ["Yes", "two", "2", "Red.", "cat"],
    "answers": [["yes"] * 10, ["two"] * 10, ["two"] * 9 + ["2"], ["red"] * 2 + ["blue"] * 8, ["dog"] * 7 + ["cat"] * 3],
    "answer_types": ["yes/no", "number", "number", "other", "other"],
    "question_types": ["is the", "how many", "how many", "what color", "none of the above"],
}


def test_a_whole_split():
    scored = vqa_accuracies(**SPLIT)
    assert scored.scores.dtype == np.float64
    np.testing.assert_allclose(scored.scores, [0, 1, 1, 0.6, 0.9], rtol=0, atol=1e-12)
    assert scored.summary == {
        "overall": 70.0,
        "per_answer_type": {"yes/no": 0.0, "number": 100.0, "other": 75.0},
        "per_question_type": {"is the": 0.0, "how many": 100.0, "what color": 60.0, "none of the above": 90.0},
    }
    scored = vqa_accuracies(**SPLIT, rules="2017")
    np.testing.assert_allclose(scored.scores, [1, 0, 0.3, 0.6, 0.9], rtol=0, atol=1e-12)
    assert scored.summary["overall"] == 56.0
    assert scored.summary["per_answer_type"] == {"yes/no": 100.0, "number": 15.0, "other": 75.0}


def test_rounding_comes_last():
    """Three questions, one of them right: 33.33, not the mean of rounded scores."""
    scored = vqa_accuracies(["a b", "x", "x"], [["a b"] * 10] * 3, ["other"] * 3, ["what"] * 3)
    assert scored.summary["overall"] == scored.summary["per_answer_type"]["other"] == 33.33


def test_questions_do_not_influence_each_other():
    """The official code overwrites the annotations and remembers words; here order and repetition change nothing."""
    given = [list(answers) for answers in SPLIT["answers"]]
    first = vqa_accuracies(**SPLIT)
    backwards = vqa_accuracies(**{name: values[::-1] for name, values in SPLIT.items()})
    np.testing.assert_array_equal(backwards.scores[::-1], first.scores)
    np.testing.assert_array_equal(vqa_accuracies(**SPLIT).scores, first.scores)
    assert SPLIT["answers"] == given
    single = zip(SPLIT["predictions"], SPLIT["answers"], strict=True)
    assert first.scores.tolist() == [vqa_accuracy(*question) for question in single]
    assert len(NUMBER_WORDS) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yes", []), "withheld"),
        (("yes", "yes"), "expected a sequence of texts"),
        ((b"yes", ["yes"]), r"b'yes'.*decode"),
        (("yes", ["yes", b"no"]), r"b'no'.*decode"),
        (("yes", ["yes"], "2015"), "'2015'.*'2021'.*'2017'"),
    ],
)
def test_bad_questions(arguments, message):
    with pytest.raises(InputError, match=message):
        vqa_accuracy(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": ["yes"]}, "1 predictions, answers of 5 questions, 5 answer types and 5 question types"),
        (dict.fromkeys(SPLIT, ()), "at least one question"),
        ({"answers": [*SPLIT["answers"][:3], [], ["x"]]}, r"question number 3 .*withheld"),
        ({"rules": "2020"}, "'2020'"),
    ],
)
def test_bad_splits(change, message):
    with pytest.raises(InputError, match=message):
        vqa_accuracies(**{**SPLIT, **change})
