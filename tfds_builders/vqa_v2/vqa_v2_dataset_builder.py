"""TFDS builder of VQA v2: questions and answers; the regions of their images are a region store."""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders import archived_files
from tfds_builders.archived_files import FoundFile
from tfds_builders.manual_files import manual_folder, report_absent_split, report_rows
from tfds_builders.sharded_builder import ShardedBuilder
from tfds_builders.vqa_v2.official_files import INSTRUCTIONS, OFFICIAL_FILES, PUBLISHED_ANSWERS, PUBLISHED_QUESTIONS
from tfds_builders.vqa_v2.questions import Question, Split, read_split
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.data.answers import build_answer_labels, read_answer_labels
from vilbert_jax.errors import InputError

_QUESTIONS_A_SHARD = 20_000
_LABELLED = ("train", "validation")  # what the answer vocabulary is made from
_MIN_QUESTIONS = 9  # of an answer in the vocabulary


class Builder(ShardedBuilder):
    """One example a question, sorted by question_id; the answer vocabulary is in the metadata."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def __init__(self, *, answers: str | None = None, **kwargs: Any):
        """Takes the arguments of `tfds.core.DatasetBuilder`, and a file of answer labels, in place of made ones."""
        self._answers_file = answers
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {
            "question_id": np.int64,
            "image_id": text(),
            "question": text(),
            "question_type": text(),
            "answer_type": text(),
            "answers": tfds.features.Sequence(text()),
            "multiple_choice_answer": text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                image_id="COCO id as a decimal number", published_questions=PUBLISHED_QUESTIONS
            ),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        # Read before anything else: a mistake in its name should not cost the minutes that reading questions takes.
        given = None if self._answers_file is None else read_answer_labels(self._answers_file).answers
        found = _find(manual_folder(dl_manager), labels_given=given is not None)
        splits: dict[str, Split] = {}
        for split, (questions, annotations) in found.items():
            splits[split] = read_split(questions, annotations)
            report_rows(split, len(splits[split].questions), PUBLISHED_QUESTIONS[split], "questions", questions)
        _refuse_shared(splits)
        assert isinstance(self.info.metadata, dict)  # as _info made it
        self.info.metadata.update(
            answers=list(_make_answers(splits) if given is None else given),
            answers_from="train and validation" if self._answers_file is None else epath.Path(self._answers_file).name,
            files={
                split: {kind: note._asdict() for kind, note in read.files.items()} for split, read in splits.items()
            },
        )
        return {split: list(_shards(read.questions)) for split, read in splits.items()}

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the image id of every question."""
        del counts
        for split, of_rows in image_ids.items():
            write_image_ids(self.data_dir, split, np.array([image_id.encode() for image_id in of_rows], np.bytes_))


def _find(folder: epath.Path, *, labels_given: bool) -> dict[str, tuple[FoundFile, FoundFile | None]]:
    """Split -> its questions and annotations, for the splits whose questions are there.

    Raises:
        InputError: no questions at all, questions that lack their annotations or annotations that lack their questions,
            or no training or validation questions although answer labels are to be made of them.
    """
    found = {}
    for split, files in OFFICIAL_FILES.items():
        questions = archived_files.find(folder, files.questions)
        annotations = files.annotations and archived_files.find(folder, files.annotations)
        if files.annotations and (questions is None) != (annotations is None):
            have, lack = (files.annotations, files.questions) if questions is None else files
            assert lack is not None
            raise InputError(
                f"{folder} has {have.name}, but not {lack.name}, nor {lack.archive}; the {split} split needs both. "
                f"{INSTRUCTIONS}"
            )
        if questions is not None:
            found[split] = questions, annotations
    if not found:
        raise InputError(f"{folder} has no questions of VQA v2. {INSTRUCTIONS}")
    absent = [split for split in OFFICIAL_FILES if split not in found]
    unlabelled = [OFFICIAL_FILES[split].questions.name for split in _LABELLED if split in absent]
    if unlabelled and not labels_given:
        raise InputError(
            f"{folder} has no {' and no '.join(unlabelled)}; answer labels are made from the training and the "
            "validation questions together: add the file with its annotations, or give the labels with --answers=FILE"
        )
    for split in absent:
        report_absent_split(split, OFFICIAL_FILES[split].questions.name, folder)
    return found


def _refuse_shared(splits: Mapping[str, Split]) -> None:
    """Raises InputError if a question is in both labelled splits: its files are not what their names say."""
    train, validation = ([q.question_id for q in splits[s].questions] if s in splits else [] for s in _LABELLED)
    if shared := sorted(set(train).intersection(validation)):
        raise InputError(
            f"question_id {shared[0]} is in the training and in the validation questions ({len(shared):,} such): one "
            "file has the other's name; download them again"
        )


def _make_answers(splits: Mapping[str, Split]) -> Sequence[str]:
    """The answer vocabulary of the labelled splits, by label."""
    questions = [question for split in _LABELLED for question in splits[split].questions]
    right = [question.multiple_choice_answer for question in questions]
    try:
        labels = build_answer_labels(right, [q.question_id for q in questions], min_count=_MIN_QUESTIONS)
    except InputError as error:  # whose advice is for those who call it
        raise InputError(
            f"no answer is that of {_MIN_QUESTIONS} questions among the {len(questions):,} of train and validation: "
            "give the labels with --answers=FILE"
        ) from error
    count = len(labels.answers)
    print(f"{count:,} answers are those of {_MIN_QUESTIONS} questions or more", file=sys.stderr)
    whole = all(len(splits[split].questions) == PUBLISHED_QUESTIONS[split] for split in _LABELLED)
    if whole and count != PUBLISHED_ANSWERS:
        print(f"warning: of the published files they are {PUBLISHED_ANSWERS:,}", file=sys.stderr)
    return labels.answers


def _shards(questions: Sequence[Question]) -> Iterator[Any]:
    """One function a shard; they pickle, so that Beam workers can run them."""
    for start in range(0, len(questions), _QUESTIONS_A_SHARD):
        yield functools.partial(_examples, questions[start : start + _QUESTIONS_A_SHARD])


def _examples(questions: Sequence[Question]) -> Iterator[tuple[int, dict[str, Any]]]:
    for question in questions:
        example = question._asdict() | {"image_id": str(question.image_id), "answers": list(question.answers)}
        yield question.question_id, example
