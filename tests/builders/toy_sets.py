"""Small data sets for tests: region stores of three shards, and captions."""

import functools
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.region_store_builder import RegionStoreBuilder
from tfds_builders.sharded_builder import ShardedBuilder
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Classifier, RegionRecord, Storage

NAMES = ("background", "cat", "dog", "cow", "$5 hat")
CONTRACT = FeatureContract(
    detector="toy", weights_hash="abc", layer="last", colour_order="rgb", resize_rule="none", selection_rule="all",
    feature_dim=64, num_classes=5, class_names=NAMES,
)  # fmt: skip
STORAGE = Storage(num_classes=3)
PER_SHARD = 40
TEST, FIRST, SECOND = (f"toy_store-{name}" for name in (
    "test.array_record-00000-of-00001", "train.array_record-00000-of-00002", "train.array_record-00001-of-00002"
))  # fmt: skip
CLASSIFIER = Classifier(np.zeros((64, 5), np.float32), np.zeros(5, np.float32))


def make_record(image_id):
    random = np.random.default_rng(list(image_id.encode()))
    n = int(random.integers(1, 5))
    low, extent = random.uniform(0, 40, (n, 2)), random.uniform(1, 40, (n, 2))
    features = random.normal(size=(n, 64)).astype(np.float32)
    features[:, :16] = 0
    probabilities = random.dirichlet(np.ones(5), n).astype(np.float32)
    return RegionRecord(image_id, 100, 80, np.hstack([low, low + extent]).astype(np.float32), features, probabilities)


def records(name):
    return (make_record(f"{name}-{k:03d}") for k in range(PER_SHARD))


class ToyStore(RegionStoreBuilder, skip_registration=True):
    """Three shards in two splits."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # this module is in no package
    STORAGE = STORAGE

    def feature_contract(self):
        return CONTRACT

    def feature_classifier(self):
        return CLASSIFIER

    def region_shards(self, dl_manager):
        first, second, test = (functools.partial(records, name) for name in ("a", "b", "c"))
        return {"train": [first, second], "test": [test]}


class RebuiltStore(ToyStore, skip_registration=True):
    """The same without stored class probabilities."""

    name = "toy_store"
    STORAGE = Storage(class_probs="rebuilt")


class ToyCaptions(ShardedBuilder, skip_registration=True):
    """Two captions an image."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        text = tfds.features.Text()
        features = {"image_id": text, "caption": text, "words": tfds.features.Sequence(np.int32)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), metadata=tfds.core.MetadataDict(origin="made up")
        )

    def _shard_iterators_per_split(self, dl_manager):
        def examples():
            for k in range(30):
                yield k, {"image_id": f"a-{k // 2:03d}", "caption": f"a cat, számú {k}", "words": list(range(k % 3))}

        return {"train": [examples]}

    def finish(self, image_ids, counts):
        for split, ids in image_ids.items():
            write_image_ids(self.data_dir, split, np.array([i.encode() for i in ids], np.bytes_))


def flip(file, at=None):
    """Changes one bit, by default in the middle of the records."""
    content = bytearray(file.read_bytes())
    content[len(content) // 8 if at is None else at] ^= 4
    file.write_bytes(content)


def truncate(file, size):
    file.write_bytes(file.read_bytes()[:size])


def without_checksums(folder):
    (folder / "checksums.json").unlink()


def build(kind, root):
    made = kind(data_dir=root, file_format="array_record")
    made.download_and_prepare()
    return pathlib.Path(made.data_dir)


def bad(lines):
    """What `build.py verify` said: file -> its problems."""
    found = {}
    for line in lines:
        if line.startswith("bad: "):
            _, file, problem = line.split(": ", 2)
            found.setdefault(file, []).append(problem)
    return found
