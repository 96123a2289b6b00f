"""The fixed list of answers that a VQA head chooses from: built, read from the released files, and as soft targets.

The order of the list belongs to the weights of a head. A head from elsewhere only works with the list that came with it
(the released code's order is that of a Python 2 dict); a checkpoint of this project carries its own.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError
from vilbert_jax.metrics.vqa import digit_article, punctuation

_NUM_ANSWERS = 10  # that a question has at most
_SCORES = np.array([0, 0.3, 0.6, 0.9, 1], np.float32)  # by how many people gave the answer; more than 4 count as 4


@dataclasses.dataclass(frozen=True)
class AnswerLabels:
    """Answers and their labels: the label of an answer is its place in ``answers``.

    Attributes:
        answers: the answers, each once; the empty text may be one of them.

    Raises:
        InputError: no answers, one that is no text, or one that occurs twice.
    """

    answers: tuple[str, ...]

    def __post_init__(self):
        if not self.answers:
            raise InputError("the list of answers is empty: a head needs at least one answer")
        for label, answer in enumerate(self.answers):
            if not isinstance(answer, str):
                raise InputError(f"answer {label} (from 0) is {answer!r}: expected text")
        if len(self.index) < len(self.answers):
            answer, count = collections.Counter(self.answers).most_common(1)[0]
            raise InputError(f"the answer {answer!r} occurs {count} times in the list: each answer has one label")

    def __len__(self) -> int:
        """Number of answers."""
        return len(self.answers)

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """Answer to label."""
        return {answer: label for label, answer in enumerate(self.answers)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the answers in order, in hexadecimal: equal if and only if two heads' outputs mean the same."""
        return hashlib.sha256(json.dumps(self.answers).encode()).hexdigest()

    def soft_scores(self, answers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Soft target of a question: its human answers as they are in the file, counted without any normalisation.

        An answer that 1, 2, 3 or more people gave scores 0.3, 0.6, 0.9 or 1, which for ten answers is the mean of
        ``min(1, n / 3)`` over the ten ways to leave one person out (``compute_softscore.py`` of
        hengyuan-hu/bottom-up-attention-vqa).

        Args:
            answers: at most ten.

        Returns:
            ``labels`` [k] int32, ascending, and ``scores`` [k] float32, for the k different answers that have a label;
            k may be 0, and such a question still counts.

        Raises:
            InputError: more than ten answers.
        """
        if len(answers) > _NUM_ANSWERS:
            raise InputError(
                f"a question has {len(answers)} human answers ({answers[0]!r}, ...): soft scores are defined for at "
                f"most {_NUM_ANSWERS}"
            )
        counts = collections.Counter(self.index[answer] for answer in answers if answer in self.index)
        labels = sorted(counts)
        return np.array(labels, np.int32), _SCORES[[min(counts[label], len(_SCORES) - 1) for label in labels]]


def build_answer_labels(
    multiple_choice_answers: Sequence[str], question_ids: Sequence[int], min_count: int = 9
) -> AnswerLabels:
    """The answers that are right for enough questions, the most frequent first, then in alphabetical order.

    Which answers (3,129 of train and validation *together*) is decided as in ``compute_softscore.py``; their order, a
    matter of chance there, is ours.

    Args:
        multiple_choice_answers: the most frequent human answer of each question, as in the annotation files.
        question_ids: of the same questions; one that occurs twice counts once for an answer.
        min_count: questions that an answer needs.

    Raises:
        InputError: not one id an answer, or no answer is frequent enough.
    """
    if len(multiple_choice_answers) != len(question_ids):
        raise InputError(
            f"{len(multiple_choice_answers)} answers and {len(question_ids)} question ids: expected one id an answer"
        )
    raw: dict[str, set[int]] = collections.defaultdict(set)
    for answer, question_id in zip(multiple_choice_answers, question_ids, strict=True):
        raw[answer].add(question_id)
    questions: dict[str, set[int]] = collections.defaultdict(set)
    for answer, ids in raw.items():  # normalises each text once
        questions[_normalised(answer)] |= ids
    kept = [answer for answer, ids in questions.items() if len(ids) >= min_count]
    if not kept:
        raise InputError(
            f"none of the {len(questions)} answers is right for at least {min_count} questions: give more questions, "
            "or lower min_count"
        )
    return AnswerLabels(tuple(sorted(kept, key=lambda answer: (-len(questions[answer]), answer))))


def read_answer_labels(path: str | os.PathLike[str]) -> AnswerLabels:
    """Reads a list of answers from a file; its content says of which kind it is.

    * JSON: a list of answers in order, or an object from answer to label;
    * a pickle of the same, such as the released ``trainval_label2ans.pkl`` and ``trainval_ans2label.pkl`` (Python 2,
      protocol 0, byte and unicode strings mixed; bytes are read as Latin-1). Nothing in it is run.

    Raises:
        InputError: no such file, a damaged one, other content, or labels that are not 0, 1, 2, ..., each once.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"no answer list {path} ({error.strerror}): give a JSON or pickle file of answers") from error
    content = _parsed(data, str(path))
    try:
        return AnswerLabels(_in_order(content) if isinstance(content, dict) else _listed(content))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _normalised(answer: str) -> str:
    return digit_article(punctuation(answer)).replace(",", "")


def _parsed(data: bytes, where: str) -> Any:
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith((b"[", b"{")):  # with which no pickle starts
        if line := _first_line_of_plain_text(text):
            raise InputError(
                f"{where}: a plain text file, which begins with {line[:40]!r}: expected a JSON list of the answers in "
                "order, a JSON object from answer to label, or a pickle of either. Write the answers as JSON, "
                '["yes", "no", ...], in the order of the outputs of the head'
            )
        return restricted_pickle.loads(data, where)
    try:
        return json.loads(text, object_pairs_hook=functools.partial(_without_repeats, where))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: no valid JSON ({error}); copy the file again") from error


def _first_line_of_plain_text(data: bytes) -> str:
    """The first line of a text that is no pickle; empty for anything else.

    A pickle of protocol 0 is text too: a list or dict begins with a parenthesis, any pickle ends with a full stop.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ""
    readable = all(character.isprintable() or character in "\n\r\t" for character in text)
    return text.splitlines()[0] if readable and text and not text.startswith("(") and not text.endswith(".") else ""


def _without_repeats(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(key for key, _ in pairs)
    if len(counts) < len(pairs):
        answer, count = counts.most_common(1)[0]
        raise InputError(f"{where}: the answer {answer!r} occurs {count} times: each answer has one label")
    return dict(pairs)


def _listed(content: Any) -> tuple[str, ...]:
    if not isinstance(content, list | tuple):
        raise InputError(f"found {type(content).__name__}: expected a list of answers, or a dict from answer to label")
    return tuple(content)


def _in_order(labels: dict[Any, Any]) -> tuple[Any, ...]:
    answers: list[Any] = [None] * len(labels)
    taken: dict[int, Any] = {}
    for answer, label in labels.items():
        if type(label) is not int or not 0 <= label < len(labels):
            raise InputError(
                f"the answer {answer!r} has label {label!r}: the labels of {len(labels)} answers must be the whole "
                f"numbers 0 to {len(labels) - 1}, each once"
            )
        if label in taken:
            raise InputError(f"the answers {taken[label]!r} and {answer!r} both have label {label}: expected one each")
        taken[label] = answers[label] = answer
    return tuple(answers)
