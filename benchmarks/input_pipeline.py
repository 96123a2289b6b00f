"""Times shuffled pre-training batches of 256 from a region store, and from an LMDB as the first release reads it.

python benchmarks/input_pipeline.py [--pictures=2000] [--workers=4] [--seconds=20]

Both hold the same made-up pairs (36 regions of 2048 features and 1601 class probabilities, captions of 8 to 16 words)
and go through the same masking, in turns, in one run. The LMDB holds pickled rows of base64 text, as vilbert_beta's
does, and is left out without the package lmdb. The files are in the page cache: this times the processor, not the disk.
"""

import argparse
import base64
import functools
import importlib.util
import pathlib
import pickle
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from turns import machine, spread, table

from tfds_builders.region_store_builder import RegionShard, RegionStoreBuilder
from tfds_builders.scenes import vocabulary
from vilbert_jax.data import PretrainingDataConfig
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.data.pretraining import PretrainingSource, Regions
from vilbert_jax.data.region_codec import RegionRecord, StoredRegions
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.data.text import load_tokenizer

REGIONS, FEATURES, CLASSES = 36, 2048, 1601
BATCH, TOKENS = 256, 36
WIDTH, HEIGHT = 640, 480
# What one H100 would use up, by arithmetic, not measured: a training step of the base model is 6 operations a
# parameter and position, 46e9 a pair at 36 tokens and 37 regions; 40 % of the 990e12 a second that bf16 has in theory.
ACCELERATOR_PAIRS = 0.4 * 990e12 / 46e9
CONTRACT = FeatureContract(
    detector="made up", weights_hash="none", layer="none", colour_order="bgr", resize_rule="none",
    selection_rule="36 boxes", feature_dim=FEATURES, num_classes=CLASSES,
)  # fmt: skip


def record(number: int) -> RegionRecord:
    """Regions with the statistics of public bottom-up features: 30 % zeros, row norms about 67, one class in front."""
    rng = np.random.default_rng(number)
    features = rng.gamma(0.6, 1.8, (REGIONS, FEATURES)) * (rng.random((REGIONS, FEATURES)) > 0.3)
    scores = rng.normal(0, 1.5, (REGIONS, CLASSES))
    scores[np.arange(REGIONS), rng.integers(CLASSES, size=REGIONS)] += 9
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    corners = rng.random((REGIONS, 2)) * [300, 200]
    boxes = np.concatenate([corners, corners + 5 + rng.random((REGIONS, 2)) * [300, 200]], axis=1)
    arrays = (values.astype(np.float32) for values in (boxes, features, probabilities))
    return RegionRecord(str(number), WIDTH, HEIGHT, *arrays)


class Bench(RegionStoreBuilder):
    """The made-up pictures as a region store."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    num_pictures = 0

    def feature_contract(self) -> FeatureContract:
        """Made up."""
        return CONTRACT

    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[RegionShard]]:
        """A shard for every 500 pictures."""
        del dl_manager
        parts = [range(first, min(first + 500, self.num_pictures)) for first in range(0, self.num_pictures, 500)]
        return {"train": [functools.partial(map, record, part) for part in parts]}


class BetaLmdb:
    """Regions from pickled rows of base64 text, decoded as the first release does."""

    contract = CONTRACT

    def __init__(self, path: pathlib.Path):
        self._path, self._transaction = path, None

    def stored(self, image_id: str) -> StoredRegions:
        """Decodes one row."""
        if self._transaction is None:
            import lmdb

            environment = lmdb.open(str(self._path), readonly=True, lock=False, readahead=False)
            self._transaction = environment.begin()
        row = pickle.loads(self._transaction.get(image_id.encode(), b""))
        count = int(row["num_boxes"])
        arrays = {
            name: np.frombuffer(base64.b64decode(row[name]), np.float32).reshape(count, -1)
            for name in ("boxes", "features", "cls_prob")
        }
        return StoredRegions(
            image_id, int(row["image_w"]), int(row["image_h"]), arrays["boxes"], arrays["features"],
            np.ones(count, np.float32), None, arrays["cls_prob"],
        )  # fmt: skip

    def __reduce__(self):
        """Each worker process opens it itself."""
        return BetaLmdb, (self._path,)


def write_lmdb(path: pathlib.Path, count: int) -> None:
    """Writes the made-up pictures as vilbert_beta's conversion script does."""
    import lmdb

    environment = lmdb.open(str(path), map_size=1 << 40)
    for number in range(count):
        regions = record(number)
        row = {"image_id": regions.image_id, "image_w": str(WIDTH), "image_h": str(HEIGHT), "num_boxes": str(REGIONS)}
        for name, values in (
            ("boxes", regions.boxes), ("features", regions.features), ("cls_prob", regions.class_probs)
        ):  # fmt: skip
            row[name] = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
        with environment.begin(write=True) as transaction:
            transaction.put(regions.image_id.encode(), pickle.dumps(row))
    environment.close()


def captions(count: int) -> list[dict[str, bytes]]:
    """One caption a picture, 8 to 16 words."""
    rng, words = np.random.default_rng(0), vocabulary.FILE.read_text().split()[10:]
    texts = (" ".join(rng.choice(words, rng.integers(8, 17))) for _ in range(count))
    return [{"image_id": str(number).encode(), "caption": text.encode()} for number, text in enumerate(texts)]


def examples_a_second(dataset: Dataset[Any], workers: int, seconds: float) -> float:
    """Rate of one reader, after its workers have started."""
    with dataset.iterate(0, workers=workers) as batches:
        for _ in range(2 * max(workers, 1)):
            next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += 1
        return count * BATCH / (time.perf_counter() - start)


def timed(datasets: Mapping[str, Dataset[Any]], workers: int, seconds: float) -> Iterator[tuple[str, float]]:
    """The readers in turns, so that what else the machine does falls on both."""
    for _ in range(3):
        for name, dataset in datasets.items():
            yield name, examples_a_second(dataset, workers, seconds / 6)


def main() -> None:
    """Makes both, times both, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    config = PretrainingDataConfig(
        annotations="made up", regions="made up", vocab=str(vocabulary.FILE), batch_size=BATCH, text_length=TOKENS,
        max_regions=REGIONS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Bench.num_pictures = args.pictures
        builder = Bench(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
        stores: dict[str, Regions] = {"region store": RegionStore(builder.data_dir)}
        files = {"region store": list(pathlib.Path(builder.data_dir).glob("*.array_record*"))}
        if importlib.util.find_spec("lmdb"):
            beta = pathlib.Path(folder, "beta.lmdb")
            write_lmdb(beta, args.pictures)
            stores["LMDB of base64"], files["LMDB of base64"] = BetaLmdb(beta), list(beta.iterdir())
        else:
            print("LMDB of base64: left out, the package lmdb is not installed")
        rows, tokenizer = captions(args.pictures), load_tokenizer(vocabulary.FILE)
        datasets = {
            name: Dataset(PretrainingSource(rows, store, tokenizer, config), batch_size=BATCH, seed=0, shuffle=True)
            for name, store in stores.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in stores}
        for name, rate in timed(datasets, args.workers, args.seconds):
            rates[name].append(rate)
        sizes = {name: sum(file.stat().st_size for file in of) for name, of in files.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    slowest = min(medians.values())
    rows = [
        [name, spread(rates[name], digits=4), f"{rate / slowest:.1f}", f"{sizes[name] / args.pictures:.0f}"]
        for name, rate in medians.items()
    ]
    print(f"{machine()}; {args.workers} worker processes, batches of {BATCH}")
    print(table(["", "pairs/s (range)", "ratio", "bytes a pair"], rows))
    a_core = medians["region store"] / max(args.workers, 1)
    print(
        f"a host with 64 such cores would feed {64 * a_core / ACCELERATOR_PAIRS:.1f} H100s at {ACCELERATOR_PAIRS:.0f} "
        "pairs a second each (arithmetic: benchmarks/input_pipeline.py)"
    )


if __name__ == "__main__":
    main()
