"""VCR: four answers to a question about a picture (Q->A), four reasons for the right answer (QA->R), both (Q->AR).

B batch, K = 4 choices, T text length, N examples of a split. Paper section 3.2; files and rules: Zellers et al. 2019,
``vcr_dataset.py`` of the released code.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jax import Array

from vilbert_jax.data.examples import Examples, ExamplesConfig, text_of, texts_of
from vilbert_jax.data.person_names import NAMES, read_names
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.metrics import choice_correct, vcr_accuracies
from vilbert_jax.tasks.choice import choice_loss, option_inputs, option_logits, repeated, shares
from vilbert_jax.tasks.regions import task_features
from vilbert_jax.tasks.submission_checks import checked_entries, require_distribution
from vilbert_jax.tasks.task import Batch, Guess, Logits, Predictions, Scored, Shown
from vilbert_jax.tasks.vcr_leaderboard import NUM_CHOICES, has_all_passes, write_csv
from vilbert_jax.trunk import Inputs

Passes = Literal["answer", "rationale", "both"]

_FEATURES = ("annot_id", "question", "answer_choices", "answer_label", "rationale_choices", "rationale_label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VCR:
    """The task.

    Attributes:
        data: what the examples are made of; with ``given_regions``, annotated boxes stand behind the detected ones.
        passes: ``answer`` is Q->A, ``rationale`` QA->R; ``both`` trains one model on both, as the paper does, and
            scores Q->AR.
        names: CSV file whose column ``name`` has the names that persons get; empty: a list of this project.
        answer_predictions: predictions.json of an evaluation of Q->A on the same split; with it an evaluation of QA->R
            also scores Q->AR, and its predictions are complete for the leaderboard.
    """

    data: ExamplesConfig
    passes: Passes = "answer"
    names: str = ""
    answer_predictions: str = ""

    heads = ("choice",)

    def __post_init__(self) -> None:
        """Raises InputError for a pass that does not exist, or answers of other predictions beside its own."""
        if self.passes not in get_args(Passes):
            raise InputError(f"passes is {self.passes!r}; use one of {', '.join(get_args(Passes))}")
        if self.answer_predictions and self.passes != "rationale":
            raise InputError(
                f"answer_predictions is set, but passes is {self.passes!r}, which predicts answers itself: set "
                "--config.passes=rationale, or leave answer_predictions empty"
            )

    @property
    def metric(self) -> str:
        """Q->AR where both are asked."""
        return {"answer": "answer_accuracy", "rationale": "rationale_accuracy", "both": "joint_accuracy"}[self.passes]

    def open(self, split: str, *, training: bool) -> "Choices":
        """The questions of a split; unlabelled ones ask for reasons after each of the four answers."""
        del training  # sees the same as an evaluation
        given = "beside" if self.data.given_regions else "none"
        examples = self.data.open(split, _FEATURES, given=given)
        names = read_names(pathlib.Path(self.names).expanduser()) if self.names else NAMES
        return Choices(examples, _questions(examples, self.passes), names)

    def outputs(self, source: "Choices") -> dict[str, tuple[str, ...]]:
        """One logit a pair means nothing else."""
        del source
        return {}

    def inputs(self, batch: Batch) -> Inputs:
        """Four rows an example."""
        region_fields = (task_features(batch), batch["region_boxes"], batch["region_mask"])
        return option_inputs(batch, *(repeated(x, NUM_CHOICES) for x in region_fields))

    def loss(self, logits: Logits, batch: Batch) -> WeightedSum:
        """Cross-entropy over the four choices."""
        return choice_loss(option_logits(logits, "choice", NUM_CHOICES), batch["labels"], batch)

    def predict(self, logits: Logits, batch: Batch) -> dict[str, Array]:
        """``shares`` [B,4] float32: softmax over the choices."""
        del batch
        return {"shares": shares(option_logits(logits, "choice", NUM_CHOICES))}

    def score(self, source: "Choices", predictions: Predictions) -> Scored | None:
        """Accuracies of the passes, and of both together where both are there."""
        labels = source.labels()
        if (labels < 0).all():
            return None
        kinds = np.array([question.kind for question in source.questions])
        right = choice_correct(predictions["shares"], labels)
        metrics = {f"{kind}_accuracy": 100 * float(right[kinds == kind].mean()) for kind in np.unique(kinds)}
        of_answers, of_reasons = kinds == "answer", kinds == "rationale"
        if self.passes == "both" or self.answer_predictions:
            rows = [question.row for question in source.questions if question.kind == "rationale"]
            answers = predictions["shares"][of_answers] if self.passes == "both" else self._answers(source, rows)
            answer_labels = np.array([int(source.examples.rows[row]["answer_label"]) for row in rows])
            reasons = predictions["shares"][of_reasons]
            joint = vcr_accuracies(answers, answer_labels, reasons, labels[of_reasons])["q_to_ar"]
            metrics["joint_accuracy"] = 100 * joint
        return Scored(right.astype(np.float64), metrics)

    def submission(self, source: "Choices", predictions: Predictions) -> list[dict[str, Any]]:
        """One entry an item, in file order: ``annot_id`` and the probabilities of each pass.

        ``answer``: [4]; ``rationale``: [4] after the right answer, or, where that is not known,
        ``rationale_conditioned_on_a0`` to ``a3``. ``tasks/vcr_leaderboard.py`` writes the leaderboard's CSV of it.
        """
        entries: dict[int, dict[str, Any]] = {}
        for question, row in zip(source.questions, predictions["shares"], strict=True):
            item = source.examples.rows[question.row]
            entry = entries.setdefault(question.row, {"annot_id": text_of(item["annot_id"])})
            entry[_pass_name(question, item)] = [float(share) for share in row]
        if self.answer_predictions:
            for entry, shares_of_item in zip(entries.values(), self._answers(source, [*entries]), strict=True):
                entry["answer"] = [float(share) for share in shares_of_item]
        return list(entries.values())

    def check_submission(self, source: "Choices", submission: Any) -> None:
        """Raises InputError unless every item has four probabilities for each pass that was asked for.

        Passes that were not, such as those of another evaluation, are checked where they are there.
        """
        needed: dict[str, set[str]] = {}
        for question in source.questions:
            item = source.examples.rows[question.row]
            needed.setdefault(text_of(item["annot_id"]), set()).add(_pass_name(question, item))
        more = {"answer"} if self.answer_predictions else set()
        for where, entry in checked_entries(submission, ("annot_id",), [(annot_id,) for annot_id in needed]):
            for name in sorted(needed[entry["annot_id"]] | more | (entry.keys() - {"annot_id"})):
                require_distribution(where, entry, name, NUM_CHOICES)

    def write_leaderboard(self, submission: list[dict[str, Any]], folder: pathlib.Path) -> None:
        """Writes leaderboard.csv where the entries have all five passes of an unlabelled split; else one is removed."""
        (folder / "leaderboard.csv").unlink(missing_ok=True)  # it would be of another evaluation
        if has_all_passes(submission):
            write_csv(submission, folder / "leaderboard.csv")

    def show(self, source: "Choices", index: int, predictions: Predictions) -> Shown:
        """The question and its four choices."""
        query, choices = source.texts(index)
        question = source.questions[index]
        label = int(source.examples.rows[question.row][f"{question.kind}_label"])
        order = np.argsort(-predictions["shares"][index], kind="stable")
        return Shown(
            image_id=source.examples.image_id(question.row),
            text=" - ".join(query),
            truth=choices[label] if label >= 0 else "",
            guesses=tuple(Guess(choices[k], float(predictions["shares"][index][k]), k == label) for k in order),
        )

    def _answers(self, source: "Choices", rows: Sequence[int]) -> np.ndarray:
        """[len(rows),4] float64: what an evaluation of Q->A predicted for these items."""
        path = pathlib.Path(self.answer_predictions).expanduser()
        try:
            entries = json.loads(path.read_text("utf-8"))
            known = {entry["annot_id"]: np.array(entry["answer"], np.float64).reshape(NUM_CHOICES) for entry in entries}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"answer_predictions {path} cannot be used ({error!r}): give the predictions.json of an evaluation "
                "with configs/vcr_qa.py"
            ) from error
        ids = [text_of(source.examples.rows[row]["annot_id"]) for row in rows]
        if missing := [item for item in ids if item not in known]:
            raise InputError(
                f"answer_predictions {path} lacks {len(missing)} of {len(ids)} items, first {missing[0]!r}: evaluate "
                "Q->A on the same split"
            )
        return np.stack([known[item] for item in ids])


class Question(NamedTuple):
    """One row of a source."""

    row: int  # of the annotations
    kind: Literal["answer", "rationale"]
    answer: int  # that reasons are asked for; -1 in an ``answer`` row


@dataclasses.dataclass(frozen=True)
class Choices:
    """The four-way questions of one split."""

    examples: Examples
    questions: tuple[Question, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """N."""
        return len(self.questions)

    def require_labels(self) -> None:
        """Raises InputError for a split whose right choices are withheld."""
        self.examples.require_labels(lambda row: min(row["answer_label"], row["rationale_label"]) >= 0)

    def labels(self) -> np.ndarray:
        """[N] int64: the right choice of each row, -1 where it is not known."""
        labels: dict[int, tuple[int, int]] = {}  # each row is read once, and none is kept
        for number in dict.fromkeys(question.row for question in self.questions):
            row = self.examples.rows[number]
            labels[number] = int(row["answer_label"]), int(row["rationale_label"])
        return np.array([labels[question.row][question.kind == "rationale"] for question in self.questions])

    def texts(self, index: int) -> tuple[list[str], list[str]]:
        """The question (and an answer, for reasons) and the four choices, tags replaced by names."""
        question = self.questions[index]
        row = self.examples.rows[question.row]
        spell = self._speller(row)
        query = [spell(row["question"])]
        if question.kind == "rationale":
            query.append(spell(row["answer_choices"][question.answer]))
        return query, [spell(choice) for choice in row[f"{question.kind}_choices"]]

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One row: text fields [4,T], region fields, labels [] int32 (-1 where it is not known)."""
        del rng  # names belong to the item, not to the draw
        question = self.questions[index]
        row = self.examples.rows[question.row]
        query, choices = self.texts(index)
        encode = self.examples.tokenizer.encode
        separator = np.array([self.examples.tokenizer.sep_id], np.int32)
        pieces = [part for text in query for part in (separator, encode(text))][1:]  # between a question and its answer
        return {
            **self.examples.pair_fields(np.concatenate(pieces), [encode(choice) for choice in choices]),
            **self.examples.region_fields(self.examples.arrangement(text_of(row["image_id"]))),
            "labels": np.array(row[f"{question.kind}_label"], np.int32),
        }

    def _speller(self, row: Any) -> Any:
        """Token list -> text: a person gets a name of its own, anything else is called by its class.

        Names are drawn by ``annot_id`` and the seed: the same in every text of an item, in every epoch and run.
        """
        if self.examples.metadata.get("text") != "tokens":
            return text_of
        objects = texts_of(row["objects"])
        key = hashlib.sha256(f"{self.examples.config.seed} {text_of(row['annot_id'])}".encode()).digest()
        order = np.random.default_rng(list(key)).permutation(len(self.names))
        people = [k for k, name in enumerate(objects) if name == "person"]
        called = dict(enumerate(objects)) | {k: self.names[order[place % len(order)]] for place, k in enumerate(people)}

        def spell(tokens: str | bytes) -> str:
            words = json.loads(text_of(tokens))
            return " ".join(word if isinstance(word, str) else " and ".join(called[k] for k in word) for word in words)

        return spell


def _pass_name(question: Question, item: Any) -> str:
    """The key of an entry of the submission; reasons are asked for after each answer where the right one is unknown."""
    if question.kind == "rationale" and int(item["answer_label"]) < 0:
        return f"rationale_conditioned_on_a{question.answer}"
    return question.kind


def _questions(examples: Examples, passes: Passes) -> tuple[Question, ...]:
    rows = range(len(examples))
    questions: list[Question] = []
    if passes != "rationale":
        questions += [Question(row, "answer", -1) for row in rows]
    if passes != "answer":
        for row in rows:
            label = int(examples.rows[row]["answer_label"])
            answers: Sequence[int] = [label] if label >= 0 else range(NUM_CHOICES)
            questions += [Question(row, "rationale", answer) for answer in answers]
    return tuple(questions)
