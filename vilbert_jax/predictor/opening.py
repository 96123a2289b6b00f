"""A checkpoint opened for a predictor: its model, and whether a detector, a store, a list of answers belong to it."""

import dataclasses
import itertools
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from vilbert_jax.checkpoints.agreement import SIZES, outputs_of
from vilbert_jax.checkpoints.pretrained import load_source
from vilbert_jax.checkpoints.source import Source
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.config import DType, ViLBERTConfig
from vilbert_jax.data.answers import AnswerLabels, read_answer_labels
from vilbert_jax.data.feature_contract import NOT_READ_BY_TASKS, FeatureContract
from vilbert_jax.data.text import Tokenizer, load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.predictor.checks import check_number, check_path
from vilbert_jax.predictor.programs import PAIR_HEADS
from vilbert_jax.predictor.texts import TextReader
from vilbert_jax.tasks.task import name_of
from vilbert_jax.tasks.vcr import VCR

_MADE_BY = {  # what gives a checkpoint a head
    "vqa": "fine-tune with configs/vqa.py",
    "gqa": "load a released multi-task file",
    "grounding": "fine-tune with configs/refcoco_plus.py",
    "choice": "fine-tune with configs/flickr30k.py",
    "alignment": "pre-train, or load a released pre-training file",
    "tokens": "pre-train, or load a released pre-training file",
}

_LEAST = {"task_token": 0, "max_regions": 1, "text_length": 3}  # settings that are numbers
_logger = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A checkpoint ready for use."""

    origin: str
    config: ViLBERTConfig
    params: Mapping[str, Any]
    heads: tuple[str, ...]
    tokenizer: Tokenizer
    answers: Mapping[str, AnswerLabels]  # by head, where they are known
    settings: TrainedFor  # those of its training where it says them, and what the user gave instead

    def head(self, purpose: str, *choices: str) -> str:
        """The first of these heads that the checkpoint has.

        Raises:
            InputError: it has none of them; ``purpose`` says what they are for.
        """
        found = next((head for head in choices if head in self.heads), None)
        if found is None:
            ways = "; or ".join(f"for {head}, {_MADE_BY[head]}" for head in choices)
            raise InputError(
                f"{self.origin} cannot {purpose}: that takes the head {' or '.join(choices)}, and it has "
                f"{', '.join(self.heads) or 'none'}. Name a checkpoint that has one ({ways})"
            )
        return found

    def pair_head(self) -> str:
        """The head that says how well a text fits a picture.

        Raises:
            InputError: it has none, or one that was trained to compare other things.
        """
        head = self.head("say how well a text fits a picture", *PAIR_HEADS)
        if head == "choice" and self.settings.task == name_of(VCR):
            raise InputError(
                f"{self.origin} was trained for VCR ({self.settings.task}): its choice head judges the answer to a "
                "question, two texts, and what it says of one text means nothing. Name a checkpoint whose choice head "
                f"compares captions ({_MADE_BY['choice']}), or one with the head alignment ({_MADE_BY['alignment']})"
            )
        return head

    def labels(self, head: str) -> AnswerLabels:
        """What the outputs of an answer head are.

        Raises:
            InputError: nobody said it.
        """
        if head not in self.answers:
            raise InputError(
                f"{self.origin} has a {head} head, but does not say which answer each of its outputs is: give the list "
                "that came with it, answer_labels=FILE"
            )
        return self.answers[head]

    def text_reader(self) -> TextReader:
        """Reads texts as the checkpoint's training did.

        Raises:
            InputError: its texts are longer than the model reads.
        """
        settings = self.settings
        return TextReader(self.tokenizer, self.config.max_text_length, settings.text_length, settings.truncation)

    def task_token(self, given: int | None) -> int | None:
        """The number of the task, ``given`` or the usual one; None for a model without task tokens.

        Raises:
            InputError: it has task tokens and there is no number, or one that it does not have.
        """
        given_settings({"task_token": given})
        token = self.settings.task_token if given is None else given
        count = self.config.num_task_embeddings
        if token is None and count:
            raise InputError(
                f"{self.origin} reads a task token and has {count} of them: say which task it is, task_token=NUMBER, "
                "as in its training"
            )
        if token is not None and not 0 <= token < count:
            remedy = f"has task tokens 0 to {count - 1}" if count else "has no task tokens: leave it out"
            raise InputError(f"task_token is {token}, but {self.origin} {remedy}")
        return token


def given_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not None.

    Raises:
        InputError: one could belong to no checkpoint.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for name, value in given.items():
        check_number(name, value, least=_LEAST[name])
    return given


def open_checkpoint(
    checkpoint: str | os.PathLike[str],
    *,
    vocab: str | os.PathLike[str] | None,
    answer_labels: str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
    dtype: DType,
    contracts: Mapping[str, FeatureContract],
    allow_other_features: bool,
) -> Opened:
    """Loads a checkpoint with all its heads.

    Args:
        checkpoint: any source of ``load_pretrained``, but no BERT.
        vocab: what ``load_tokenizer`` takes; not needed where the checkpoint has its vocabulary.
        answer_labels: what ``read_answer_labels`` takes, or a checkpoint folder of this project; likewise.
        settings: fields of ``TrainedFor`` to use instead of what the checkpoint says.
        dtype: of the computation.
        contracts: of the features that the model is to read, by where they come from.
        allow_other_features: contracts may differ from that of the checkpoint, in all but the width of features.

    Raises:
        InputError: it cannot be read, or what it is to be used with does not belong to it.
    """
    check_path("checkpoint", checkpoint)
    source = open_source(checkpoint)
    if source.text_only:
        raise InputError(
            f"{source.origin} is a BERT, which has never seen a picture: name a run, a checkpoint of this project or a "
            "released ViLBERT file"
        )
    for what, contract in contracts.items():
        _check_features(source, what, contract, allow_other_features)
    if not allow_other_features:
        _check_agreement(contracts)
    known = TrainedFor.from_json(source.trained_for or {}, source.origin)
    known = dataclasses.replace(known, **settings)
    tokenizer = _tokenizer(source, vocab)
    answers = _answers(source, answer_labels)
    model, params = load_source(source, config=dataclasses.replace(source.config, dtype=dtype))
    opened = Opened(source.origin, model.config, params, source.heads, tokenizer, answers, known)
    if known.task_token is not None:
        opened.task_token(None)  # refuses one that there is not
    return opened


def _check_features(source: Source, what: str, contract: FeatureContract, allow_other_features: bool) -> None:
    wanted = source.config.region_feature_dim
    if contract.feature_dim != wanted:
        raise InputError(
            f"{what} gives {contract.feature_dim} features a region, {source.origin} reads {wanted}: they cannot be "
            "used together; give the detector or the regions that it was trained with"
        )
    if source.features is None:
        _logger.warning(
            "%s does not say which features it was trained on: if %s gives others of the same width, its results are "
            "worth nothing",
            source.origin,
            what,
        )
        return
    trained_on = FeatureContract.from_json(dict(source.features))
    if contract.selection_rule != trained_on.selection_rule:
        _logger.warning(
            "%s was trained on boxes by the rule %r, %s gives %r: scores may differ",
            source.origin,
            trained_on.selection_rule,
            what,
            contract.selection_rule,
        )
    if allow_other_features:
        return
    if differences := contract.differences(trained_on, ignoring=NOT_READ_BY_TASKS):
        raise InputError(
            f"{source.origin} was trained on other region features (there) than {what} gives (here):\n  "
            + "\n  ".join(differences)
            + "\nGive the detector or the regions that it was trained with, or allow_other_features to go on "
            "regardless: the results may be worth nothing."
        )


def _check_agreement(contracts: Mapping[str, FeatureContract]) -> None:
    """A released file says nothing of its features; what goes into it must still mean the same everywhere."""
    for (here, one), (there, other) in itertools.combinations(contracts.items(), 2):
        if differences := one.differences(other, ignoring=NOT_READ_BY_TASKS):
            raise InputError(
                f"the features that {here} gives (here) and those of {there} (there) do not mean the same:\n  "
                + "\n  ".join(differences)
                + "\nGive one of them, or allow_other_features to go on regardless."
            )


def _tokenizer(source: Source, vocab: str | os.PathLike[str] | None) -> Tokenizer:
    if vocab is not None:
        check_path("vocab", vocab)
    own = None if source.vocab is None else load_tokenizer(source.vocab)
    given = None if vocab is None else load_tokenizer(os.fspath(vocab))
    if own is None and given is None:
        raise InputError(
            f"{source.origin} ({source.kind}) comes without its vocabulary: give it; that of the released files is "
            "vocab=bert-base-uncased"
        )
    if own is not None and given is not None and own.fingerprint != given.fingerprint:
        raise InputError(f"{source.origin} was trained with another vocabulary than {vocab}: leave vocab out")
    tokenizer = own or given
    assert tokenizer is not None
    if tokenizer.vocab_size != source.config.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} entries, the word table of {source.origin} "
            f"{source.config.vocab_size} rows: give the vocabulary that it was trained with"
        )
    return tokenizer


def _answers(source: Source, given: str | os.PathLike[str] | None) -> dict[str, AnswerLabels]:
    answers = {head: AnswerLabels(tuple(names)) for head, names in source.outputs.items() if head in SIZES}
    if given is None:
        return answers
    check_path("answer_labels", given)
    heads = [head for head in SIZES if head in source.heads]
    if not heads:
        raise InputError(f"answer_labels is {str(given)!r}, but {source.origin} has no head that answers: leave it out")
    path, head = pathlib.Path(given).expanduser(), heads[0]
    labels = AnswerLabels(outputs_of(path, head)) if path.is_dir() else read_answer_labels(path)
    size = getattr(source.config, SIZES[head])
    if len(labels) != size:
        raise InputError(
            f"the {head} head of {source.origin} has {size} answers, the list {given} {len(labels)}: give the one that "
            "came with it"
        )
    if head in answers and answers[head].fingerprint != labels.fingerprint:
        raise InputError(
            f"{source.origin} says which answers its {head} head gives, and {given} says something else: leave "
            "answer_labels out"
        )
    return {**answers, head: labels}
