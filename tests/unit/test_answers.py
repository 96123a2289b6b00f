"""The list of answers: built from annotations, read from every file that is around, and as soft targets."""

import json
import pathlib
import pickle

import numpy as np
import pytest

from vilbert_jax.data.answers import AnswerLabels, build_answer_labels, read_answer_labels
from vilbert_jax.errors import InputError
from vilbert_jax.metrics import vqa_accuracy

ANSWERS = ("yes", "", "2", "café", "sky")


def test_labels_are_places_in_the_list():
    labels = AnswerLabels(ANSWERS)
    assert len(labels) == 5
    assert [labels.index[answer] for answer in ANSWERS] == [0, 1, 2, 3, 4]
    assert "cat" not in labels.index
    assert labels == AnswerLabels(ANSWERS)
    assert pickle.loads(pickle.dumps(labels)) == labels


def test_the_fingerprint_is_of_answers_and_order():
    fingerprint = AnswerLabels(ANSWERS).fingerprint
    assert len(fingerprint) == 64
    assert fingerprint == AnswerLabels(tuple(ANSWERS)).fingerprint
    others = [ANSWERS[::-1], ANSWERS[:-1], ("yes\n", *ANSWERS[1:]), ("yes", " ", *ANSWERS[2:])]
    assert len({fingerprint, *(AnswerLabels(other).fingerprint for other in others)}) == 5
    assert AnswerLabels(("a", "b")).fingerprint != AnswerLabels(("a, b",)).fingerprint


@pytest.mark.parametrize(
    ("answers", "message"),
    [((), "empty"), (("a", 2), "answer 1 .* is 2"), (("a", "b", "a"), "'a' occurs 2 times")],
)
def test_bad_lists(answers, message):
    with pytest.raises(InputError, match=message):
        AnswerLabels(answers)


def test_soft_scores_by_count():
    labels = AnswerLabels(("air", "sky"))
    found, scores = labels.soft_scores(["sky"] * 6 + ["in sky"] * 3 + ["air"])
    assert found.dtype == np.int32
    assert scores.dtype == np.float32
    assert found.tolist() == [0, 1]
    np.testing.assert_array_equal(scores, np.array([0.3, 1.0], np.float32))


@pytest.mark.parametrize(("count", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (10, 1)])
def test_soft_scores_are_the_official_accuracy_of_ten_answers(count, score):
    answers = ["sky"] * count + ["sea"] * (10 - count)
    labels, scores = AnswerLabels(("sky",)).soft_scores(answers)
    assert labels.tolist() == [0]
    assert scores.item() == np.float32(score)
    assert scores.item() == pytest.approx(vqa_accuracy("sky", answers), abs=1e-7)


def test_soft_scores_count_raw_strings():
    labels = AnswerLabels(("2", "yes"))
    found, scores = labels.soft_scores(["Yes", "yes", "two", "2", "2", "yes."])
    assert found.tolist() == [0, 1]
    np.testing.assert_array_equal(scores, np.array([0.6, 0.3], np.float32))


def test_questions_without_labels_stay():
    for answers in (["cat"] * 10, []):
        labels, scores = AnswerLabels(("sky",)).soft_scores(answers)
        assert labels.shape == scores.shape == (0,)
        assert (labels.dtype, scores.dtype) == (np.int32, np.float32)


def test_eleven_answers_are_refused():
    with pytest.raises(InputError, match="11 human answers"):
        AnswerLabels(("sky",)).soft_scores(["sky"] * 11)


def test_building_counts_distinct_questions_of_normalised_answers():
    given = [
        *[("The sky", k) for k in range(8)],
        ("sky.", 8),  # the ninth question of "sky"
        *[("air", k) for k in range(8)],
        ("air", 7),  # the same question again
        *[("zero", k) for k in range(20, 25)],
        *[("None", k) for k in range(25, 30)],
        *[("a", k) for k in range(40, 49)],  # nothing is left of an article
        *[("3,000", k) for k in range(50, 59)],
    ]
    answers, question_ids = zip(*given, strict=True)
    assert build_answer_labels(answers, question_ids).answers == ("0", "", "3000", "sky")
    assert "air" in build_answer_labels(answers, question_ids, min_count=8).index
    backwards = build_answer_labels(answers[::-1], question_ids[::-1])
    assert backwards == build_answer_labels(answers, question_ids)


def test_building_cleans_no_white_space_and_knows_no_unanimity():
    assert build_answer_labels(["Yes"] * 2, [1, 2], min_count=2).answers == ("yes",)
    assert build_answer_labels(["a,\u00a0b"] * 2, [1, 2], min_count=2).answers == ("b",)


def test_building_from_too_little():
    with pytest.raises(InputError, match="none of the 2 answers is right for at least 9 questions"):
        build_answer_labels(["a b", "c"], [1, 2])
    with pytest.raises(InputError, match="2 answers and 1 question ids"):
        build_answer_labels(["a", "b"], [1])


def python_2(entries):
    """A protocol 0 pickle as Python 2 wrote it: byte strings with S, unicode strings with V, labels with I."""
    parts = [b"(dp0\n"] if isinstance(entries, dict) else [b"(lp0\n"]
    for number, entry in enumerate(entries):
        parts.append(b"V" + entry.encode("raw-unicode-escape") if not entry.isascii() else b"S" + repr(entry).encode())
        parts.append(b"\np%d\n" % (number + 1))
        parts.append(b"I%d\ns" % entries[entry] if isinstance(entries, dict) else b"a")
    return b"".join(parts) + b"."


LABELS = {answer: label for label, answer in enumerate(ANSWERS)}
SHUFFLED = dict(sorted(LABELS.items(), key=lambda item: item[0]))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("trainval_label2ans.json", json.dumps(ANSWERS).encode()),
        ("trainval_label2ans.json", b"\xef\xbb\xbf \n" + json.dumps(ANSWERS, ensure_ascii=False).encode()),
        ("trainval_ans2label.json", json.dumps(SHUFFLED).encode()),
        ("trainval_label2ans.pkl", python_2(list(ANSWERS))),
        ("trainval_ans2label.pkl", python_2(SHUFFLED)),
        ("trainval_label2ans.pkl", pickle.dumps(list(ANSWERS), 2)),
        ("trainval_label2ans.pkl", pickle.dumps(ANSWERS)),
        ("trainval_ans2label.pkl", pickle.dumps(SHUFFLED, 0)),
        ("any name", pickle.dumps(SHUFFLED)),
    ],
)
def test_every_kind_of_file(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read_answer_labels(tmp_path / name).answers == ANSWERS
    assert read_answer_labels(str(tmp_path / name)).fingerprint == AnswerLabels(ANSWERS).fingerprint


def test_byte_strings_of_python_2_are_latin_1(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"(lp0\nS'caf\\xe9'\np1\naVna\\u00efve\np2\na.")
    assert read_answer_labels(tmp_path / "a.pkl").answers == ("café", "naïve")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'["yes", "no", "yes"]', "'yes' occurs 2 times"),
        (b'{"yes": 0, "no": 0}', "'yes' and 'no' both have label 0"),
        (b'{"yes": 0, "no": 2}', r"'no' has label 2: the labels of 2 answers must be the whole numbers 0 to 1"),
        (b'{"yes": 1, "no": 2}', "'no' has label 2"),
        (b'{"yes": 0, "no": true}', "'no' has label True"),
        (b'{"yes": 0, "no": -1}', "'no' has label -1"),
        (b'{"0": "yes", "1": "no"}', "'0' has label 'yes'"),
        (b'{"yes": 0, "yes": 1}', "'yes' occurs 2 times"),
        (b"[]", "empty"),
        (b"{}", "empty"),
        (b'["yes", 3]', "answer 1 .* is 3"),
        (b'["yes",', "no valid JSON .*line 1 column"),
        (b'["\xff"]', "no valid JSON"),
        pytest.param(b"[" * 100_000, "no valid JSON", id="deep"),
        (b"", "damaged pickle"),
        (pickle.dumps(5), "found int: expected a list of answers"),
        (pickle.dumps([b"yes"]), "answer 0 .* is b'yes'"),
        (pickle.dumps({0: "yes"}), "0 has label 'yes'"),
        (pickle.dumps({0: 0}), "answer 0 .* is 0"),
        (pickle.dumps(list(ANSWERS))[:-3], "damaged pickle"),
        (python_2(list(ANSWERS))[:-3], "damaged pickle"),
        (
            b"yes\nno\n2\n",
            "a plain text file, which begins with 'yes': expected a JSON list .* a JSON object .* a pickle",
        ),
        ("\n café\r\nno.\n".encode(), "plain text file, which begins with 'café'"),
        (b"cat\ndog\n", "plain text file, which begins with 'cat'"),  # c asks a pickle for a callable
        (b'"yes"', "plain text file"),
        (b"cposix\nsystem\n(S'true'\ntR.", "posix.system, which could run code; it was not run"),
        (pickle.dumps(pathlib.PurePosixPath("a")), "could run code"),
    ],
)
def test_bad_files_are_named(tmp_path, data, message):
    path = tmp_path / "answers"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_answer_labels(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_absent_files(tmp_path):
    with pytest.raises(InputError, match=r"no answer list .*none\.json .*JSON or pickle"):
        read_answer_labels(tmp_path / "none.json")
