"""Data sets of a few pictures for tests of the downstream tasks: numbers that can be worked out by hand.

A picture is named by its only noun. The stores keep float16, so that the features read back exactly.
"""

import functools
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.region_store_builder import RegionStoreBuilder
from tfds_builders.sharded_builder import ShardedBuilder
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.data.examples import ExamplesConfig
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord, Storage

FEATURE_DIM = 4
WORDS = (
    "a", "red", "blue", "what", "is", "it", "why", "because", "old", "new", "and", "kite", "lake", "moon", "tree",
    "person", "dog", "?", ".", "zero", "one", "two", "three",
)  # fmt: skip
PAD, UNK, CLS, SEP, MASK = range(5)
CONTRACT = FeatureContract(
    detector="toy", weights_hash="abc", layer="last", colour_order="rgb", resize_rule="none", selection_rule="all",
    feature_dim=FEATURE_DIM,
)  # fmt: skip


class Picture(NamedTuple):
    width: int
    height: int
    boxes: list[list[float]]
    features: list[list[float]]


DETECTED = {
    "kite": Picture(
        40, 20, [[0, 0, 10, 10], [10, 0, 30, 20], [20, 10, 40, 20]], [[1, 2, 0, 0], [3, 0, 0, 0], [2, 4, 3, 0]]
    ),
    "lake": Picture(20, 20, [[5, 5, 15, 15]], [[4, 0, 0, 8]]),
    "moon": Picture(10, 10, [[0, 0, 5, 5], [5, 5, 10, 10]], [[0, 6, 0, 0], [0, 2, 2, 0]]),
    "tree": Picture(
        16, 8, [[0, 0, 4, 4], [4, 0, 8, 4], [8, 0, 12, 4], [12, 0, 16, 8]],
        [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3], [6, 6, 6, 6]],
    ),
}  # fmt: skip
GIVEN = {
    "kite": Picture(40, 20, [[1, 1, 9, 9], [11, 1, 29, 19]], [[0, 0, 0, 1], [0, 0, 0, 3]]),
    "lake": Picture(20, 20, [[6, 6, 14, 14]], [[1, 1, 1, 1]]),
    "moon": Picture(10, 10, [[1, 1, 4, 4]], [[2, 2, 2, 2]]),
    "tree": Picture(16, 8, [[0, 0, 4, 4], [12, 0, 16, 8]], [[1, 0, 0, 0], [0, 1, 0, 0]]),
}
TEXT, TEXTS = tfds.features.Text, functools.partial(tfds.features.Sequence, tfds.features.Text())


def ids_of(text):
    """The ids of words that all stand in the vocabulary."""
    return [5 + WORDS.index(word) for word in text.split()]


def write_vocabulary(folder):
    """A vocab.txt of five special tokens and ``WORDS``."""
    path = pathlib.Path(folder) / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


def write_regions(root, name, pictures, contract=CONTRACT, storage="float16"):
    """A region store ``name`` in the TFDS folder ``root``."""

    def records():
        for image_id, picture in pictures.items():
            arrays = (np.array(x, np.float32) for x in (picture.boxes, picture.features))
            yield RegionRecord(image_id, picture.width, picture.height, *arrays, None)

    class ToyRegions(RegionStoreBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = epath.Path(__file__).parent
        STORAGE = Storage(features=storage)

        def feature_contract(self):
            return contract

        def region_shards(self, dl_manager):
            return {"train": [records]}

    ToyRegions.name = name
    _build(ToyRegions, root)


def write_annotations(root, name, features, splits, metadata=None):
    """An annotation set ``name``: split -> rows, whose values are the features in order."""

    def examples(split, rows):
        for number, row in enumerate(rows):
            yield f"{split}-{number}", dict(zip(features, row, strict=True))

    class ToyAnnotations(ShardedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = epath.Path(__file__).parent

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), metadata=tfds.core.MetadataDict(metadata or {})
            )

        def _shard_iterators_per_split(self, dl_manager):
            return {split: [functools.partial(examples, split, rows)] for split, rows in splits.items()}

        def finish(self, image_ids, counts):
            for split, ids in image_ids.items():
                write_image_ids(self.data_dir, split, np.array([i.encode() for i in ids], np.bytes_))

    ToyAnnotations.name = name
    _build(ToyAnnotations, root)


def _build(kind, root):
    kind(data_dir=root, file_format="array_record").download_and_prepare()


# --- the annotation sets

ANSWERS = ("zero", "one", "two", "red", "blue")
QUESTION_FEATURES = {
    "question_id": np.int64, "image_id": TEXT(), "question": TEXT(), "question_type": TEXT(), "answer_type": TEXT(),
    "answers": TEXTS(), "multiple_choice_answer": TEXT(),
}  # fmt: skip
QUESTIONS = {
    "train": [
        (11, "kite", "what is it ?", "what", "other", ["red"] * 6 + ["old red"] * 3 + ["blue"], "red"),
        (12, "lake", "what is a lake ?", "what", "other", ["old"] * 10, "old"),
    ],
    "validation": [
        (21, "moon", "is it red ?", "is it", "yes/no", ["blue"] * 2 + ["red"] * 8, "red"),
        (22, "tree", "is it two ?", "is it", "number", ["two"] * 5 + ["one"] * 4 + ["zero"], "two"),
        (23, "kite", "is it old ?", "is it", "other", ["old"] * 10, "old"),
    ],
    "test": [(31, "moon", "what is it ?", "", "", [], ""), (32, "tree", "why ?", "", "", [], "")],
    "holey": [(41, "moon", "why ?", "why", "other", ["red"] * 10, "red"),
              (42, "gone", "why ?", "why", "other", ["red"] * 10, "red")],
}  # fmt: skip

CHOICE_FEATURES = {
    "annot_id": TEXT(), "image_id": TEXT(), "question": TEXT(), "answer_choices": TEXTS(), "answer_label": np.int32,
    "rationale_choices": TEXTS(), "rationale_label": np.int32,
}  # fmt: skip
_ANSWER_CHOICES, _REASONS = ["a kite", "red", "blue", "a lake"], ["because", "it is", "why", "it is old"]
CHOICES = {
    "train": [
        ("train-0", "kite", "what is it ?", _ANSWER_CHOICES, 0, _REASONS, 3),
        ("train-1", "lake", "why is it ?", _ANSWER_CHOICES[::-1], 2, _REASONS[::-1], 1),
    ],
    "test": [("test-0", "moon", "what is it ?", _ANSWER_CHOICES, -1, _REASONS, -1)],
}


def tokens(*words):
    return json.dumps(words)


TOKEN_FEATURES = {
    **CHOICE_FEATURES,
    "objects": TEXTS(),
    "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
}
_OBJECTS, _BOXES = ["person", "dog", "person"], np.zeros((3, 4), np.float32)
_TAGGED = tokens("Why", "is", [0], "petting", [1], "?")
_TAGGED_ANSWERS = [tokens([0, 2], "are", "old", "."), tokens([1], "is", "red"), tokens([2]), tokens("a", "kite")]
_TAGGED_REASONS = [tokens([2], "is", "new"), tokens([0]), tokens("it"), tokens([1, 0])]
TAGGED = {
    "train": [
        ("train-0", "kite", _TAGGED, _TAGGED_ANSWERS, 0, _TAGGED_REASONS, 1, _OBJECTS, _BOXES),
        ("train-1", "lake", _TAGGED, _TAGGED_ANSWERS, 1, _TAGGED_REASONS, 0, _OBJECTS, _BOXES),
        ("train-2", "moon", tokens([59]), [tokens([60])] * 4, 0, [tokens("a")] * 4, 0, ["person"] * 61, _BOXES),
    ],
    # the same items in another order
    "turned": [
        ("train-1", "lake", _TAGGED, _TAGGED_ANSWERS, 1, _TAGGED_REASONS, 0, _OBJECTS, _BOXES),
        ("train-0", "kite", _TAGGED, _TAGGED_ANSWERS, 0, _TAGGED_REASONS, 1, _OBJECTS, _BOXES),
    ],
}

EXPRESSION_FEATURES = {
    "sent_id": np.int64, "ref_id": np.int64, "image_id": TEXT(), "sentence": TEXT(),
    "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
}  # fmt: skip
EXPRESSIONS = {
    "train": [
        (1, 1, "kite", "a red kite", np.array([11, 1, 18, 18], np.float32)),
        (2, 2, "tree", "a tree", np.array([0, 0, 4, 4], np.float32)),
    ],
    "validation": [
        (3, 3, "kite", "a blue kite", np.array([11, 1, 18, 18], np.float32)),
        (4, 4, "moon", "a moon", np.array([0, 0, 10, 10], np.float32)),
        (5, 4, "lake", "a lake", np.array([0, 0, 1, 20], np.float32)),
    ],
    "close": [
        (6, 5, "tree", "a tree", np.array([0, 0, 4, 1.9], np.float32)),
        (7, 6, "moon", "a moon", np.array([3.4, 0, 5, 10], np.float32)),
    ],
}

RETRIEVAL_FEATURES = {"image_id": TEXT(), "captions": TEXTS()}
CAPTIONS = {
    "train": [(name, [f"a {name} {number}" for number in ("zero", "one")]) for name in DETECTED],
    "uneven": [("kite", ["a kite"]), ("lake", ["a lake", "blue"])],
    "single": [("kite", ["a kite", "red"])],
}


def write_all(root):
    """Every toy set and store, and the vocabulary."""
    write_regions(root, "toy_regions", DETECTED)
    write_regions(root, "toy_given", GIVEN)
    write_annotations(root, "toy_vqa", QUESTION_FEATURES, QUESTIONS, {"answers": list(ANSWERS)})
    write_annotations(root, "toy_choice", CHOICE_FEATURES, CHOICES, {"choices": 4})
    write_annotations(root, "toy_tagged", TOKEN_FEATURES, TAGGED, {"choices": 4, "text": "tokens"})
    write_annotations(root, "toy_expressions", EXPRESSION_FEATURES, EXPRESSIONS)
    write_annotations(root, "toy_retrieval", RETRIEVAL_FEATURES, CAPTIONS)
    write_vocabulary(root)


def examples_config(root, annotations, **fields):
    """What a task reads of them."""
    defaults = {"regions": "toy_regions", "vocab": str(pathlib.Path(root) / "vocab.txt"), "data_dir": str(root)}
    defaults |= {"batch_size": 2, "text_length": 8, "max_regions": 3}
    return ExamplesConfig(annotations=annotations, **(defaults | fields))
