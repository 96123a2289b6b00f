"""A region store of three shards that stops before the last one; run as a program: slow_store.py DATA_DIR [BYTES].

It prints "waiting" there and goes on with the next line of its input. BYTES limits the size of any file it writes.
"""

import functools
import resource
import sys

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.region_store_builder import RegionStoreBuilder
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord, Storage
from vilbert_jax.errors import InputError

BOXES, FEATURES, RECORDS = 3, 256, 50
CONTRACT = FeatureContract(
    detector="made up",
    weights_hash="none",
    layer="none",
    colour_order="rgb",
    resize_rule="none",
    selection_rule="three boxes",
    background="absent",
    feature_dim=FEATURES,
)


def records(shard, wait):
    if wait and shard == 2:
        print("waiting", flush=True)
        sys.stdin.readline()
    for number in range(RECORDS):
        random = np.random.default_rng([shard, number])
        corner = random.uniform(0, 50, (BOXES, 2)).astype(np.float32)
        features = random.normal(size=(BOXES, FEATURES)).astype(np.float32)
        yield RegionRecord(f"image-{shard}-{number}", 100, 100, np.hstack([corner, corner + 9]), features, None)


class SlowStore(RegionStoreBuilder, skip_registration=True):
    """Three shards in two splits."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # this module is in no package
    STORAGE = Storage(features="float16")
    WAIT = True

    def feature_contract(self):
        return CONTRACT

    def region_shards(self, dl_manager):
        a, b, c = (functools.partial(records, shard, self.WAIT) for shard in range(3))
        return {"train": [a, b], "test": [c]}


if __name__ == "__main__":
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    try:
        SlowStore(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
