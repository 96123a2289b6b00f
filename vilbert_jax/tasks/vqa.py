"""VQA v2: a question about a picture, answered from a fixed list of answers.

B batch, T text length, K answers of the vocabulary, A different labels of one question, N questions.
Paper section 3.2; soft targets and head as ``vqa_dataset.py`` and ``task_utils.py`` of the released code.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax import losses
from vilbert_jax.checkpoints.agreement import outputs_of
from vilbert_jax.data.answers import AnswerLabels, read_answer_labels
from vilbert_jax.data.examples import Examples, ExamplesConfig, text_of, texts_of
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.metrics import VQARules, vqa_accuracies
from vilbert_jax.tasks.submission_checks import checked_entries, require
from vilbert_jax.tasks.task import Batch, Guess, Logits, Predictions, Scored, Shown, text_inputs
from vilbert_jax.trunk import Inputs

NUM_TOP_ANSWERS = 8  # the released code writes as many
_MAX_LABELS = 10  # a question has ten answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQA:
    """The task.

    Attributes:
        data: what the examples are made of.
        rules: version of the official evaluator, ``2021`` or ``2017`` (when ViLBERT was published).
        answer_labels: the answers in the order of the head's outputs: a file that ``read_answer_labels`` reads, or a
            checkpoint folder of this project; empty: those of the data set.
    """

    data: ExamplesConfig
    rules: VQARules = "2021"
    answer_labels: str = ""

    heads = ("vqa",)
    metric = "accuracy"

    def open(self, split: str, *, training: bool) -> "Questions":
        """The questions of a split.

        Raises:
            InputError: the data are missing, or nothing says which answers there are.
        """
        del training  # sees the same as an evaluation
        examples = self.data.open(split, ("question_id", "question", "answers"))
        return Questions(examples, self._labels(examples))

    def outputs(self, source: "Questions") -> dict[str, tuple[str, ...]]:
        """The answers, in order."""
        return {"vqa": source.labels.answers}

    def inputs(self, batch: Batch) -> Inputs:
        """One row a question."""
        return text_inputs(batch)

    def loss(self, logits: Logits, batch: Batch) -> WeightedSum:
        """Sigmoid cross-entropy against the soft targets, a sum over answers."""
        targets = _dense_targets(batch, logits["vqa"].shape[-1])
        return losses.soft_label_loss(logits["vqa"], targets, batch["example_mask"])

    def predict(self, logits: Logits, batch: Batch) -> dict[str, Array]:
        """``labels`` [B,8] int32, the best answers, and ``shares`` [B,8] float32, their sigmoids."""
        del batch
        values, labels = jax.lax.top_k(logits["vqa"], min(NUM_TOP_ANSWERS, logits["vqa"].shape[-1]))
        return {"labels": labels.astype(jnp.int32), "shares": jax.nn.sigmoid(values.astype(jnp.float32))}

    def score(self, source: "Questions", predictions: Predictions) -> Scored | None:
        """The official accuracy, overall and by type, and ``soft_accuracy``, that of the soft targets."""
        rows = (source.examples.rows[k] for k in range(len(source)))  # a test split has half a million
        facts = [(texts_of(row["answers"]), text_of(row["answer_type"]), text_of(row["question_type"])) for row in rows]
        answers, answer_types, question_types = ([*column] for column in zip(*facts, strict=True))
        if not any(answers):
            return None
        best = predictions["labels"][:, 0]
        scored = vqa_accuracies(
            [source.labels.answers[label] for label in best],
            answers,
            answer_types=answer_types,
            question_types=question_types,
            rules=self.rules,
        )
        soft = [dict(zip(*source.labels.soft_scores(given), strict=True)).get(int(label), 0.0)
                for given, label in zip(answers, best, strict=True)]  # fmt: skip
        by_type = {f"accuracy/{kind}": value for kind, value in scored.summary["per_answer_type"].items()}
        overall = {"accuracy": scored.summary["overall"], "soft_accuracy": 100 * float(np.mean(soft))}
        details = {"per_question_type": scored.summary["per_question_type"]}
        return Scored(scored.scores, {**overall, **by_type}, details)

    def submission(self, source: "Questions", predictions: Predictions) -> list[dict[str, Any]]:
        """The leaderboard's list: every question of the split with one answer."""
        return [
            {"question_id": int(source.examples.rows[k]["question_id"]), "answer": source.labels.answers[label]}
            for k, label in enumerate(predictions["labels"][:, 0])
        ]

    def check_submission(self, source: "Questions", submission: Any) -> None:
        """Raises InputError unless there is one answer, a text, for every question of the split."""
        wanted = [(int(source.examples.rows[k]["question_id"]),) for k in range(len(source))]
        for where, entry in checked_entries(submission, ("question_id",), wanted):
            require(isinstance(entry.get("answer"), str), where, entry, "answer", "text")

    def show(self, source: "Questions", index: int, predictions: Predictions) -> Shown:
        """The question and the best four answers."""
        row = source.examples.rows[index]
        counts = dict(zip(*np.unique(texts_of(row["answers"]), return_counts=True), strict=True))
        top = zip(predictions["labels"][index][:4], predictions["shares"][index], strict=False)
        guesses = [(source.labels.answers[label], float(share)) for label, share in top]
        return Shown(
            image_id=text_of(row["image_id"]),
            text=text_of(row["question"]),
            truth=", ".join(sorted(map(str, counts), key=lambda answer: -counts[answer])[:3]),
            guesses=tuple(Guess(answer, share, counts.get(answer, 0) > 0) for answer, share in guesses),
        )

    def _labels(self, examples: Examples) -> AnswerLabels:
        if self.answer_labels:
            path = pathlib.Path(self.answer_labels).expanduser()
            if path.is_dir():
                return AnswerLabels(outputs_of(path, "vqa"))
            return read_answer_labels(path)
        if "answers" not in examples.metadata:
            raise InputError(
                f"data set {self.data.annotations!r} does not say which answers there are: set "
                "--config.answer_labels to a file that lists them in order, or to a checkpoint"
            )
        return AnswerLabels(tuple(examples.metadata["answers"]))


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of one split."""

    examples: Examples
    labels: AnswerLabels

    def __len__(self) -> int:
        """N."""
        return len(self.examples)

    def require_labels(self) -> None:
        """Raises InputError for a split whose human answers are withheld."""
        self.examples.require_labels(lambda row: len(row["answers"]) > 0)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One question: text and region fields, target_labels [A] int32 and target_scores [A] float32, 0 in padding.

        A question none of whose answers is in the vocabulary has no target, and stays.
        """
        del rng
        row = self.examples.rows[index]
        arrangement = self.examples.arrangement(text_of(row["image_id"]))
        labels, scores = self.labels.soft_scores(texts_of(row["answers"]))
        target_labels, target_scores = np.zeros(_MAX_LABELS, np.int32), np.zeros(_MAX_LABELS, np.float32)
        target_labels[: len(labels)], target_scores[: len(labels)] = labels, scores
        return {
            **{name: values[0] for name, values in self.examples.text_fields(text_of(row["question"])).items()},
            **self.examples.region_fields(arrangement),
            "target_labels": target_labels,
            "target_scores": target_scores,
        }


def _dense_targets(batch: Batch, num_answers: int) -> Array:
    """[B,K] float32 from labels [B,A] and their scores; padding adds nothing to answer 0."""
    spread = functools.partial(jax.nn.one_hot, num_classes=num_answers)
    return jnp.einsum("bak,ba->bk", spread(batch["target_labels"]), jnp.asarray(batch["target_scores"]))
