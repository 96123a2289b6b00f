"""What each way of storing region features and class probabilities costs: bytes, decoding time, pre-training losses.

python benchmarks/region_storage.py --checkpoint=runs/tiny

Losses are those of a model trained on the scenes data (make demo leaves one) on the same held-out pairs, masked alike,
once with the detector's exact float32 output and once with every storage; the difference is in per cent. Bytes are of
ArrayRecord files: of the scenes' records (344 features, 73 classes, 3 to 12 regions), and of made-up ones of the
paper's size (36 regions, 2048 features, 1601 classes; benchmarks/input_pipeline.py says with which statistics).
"targets" is how far the stored class distributions of the latter are from the exact ones, whose tail is heavy: they
have 3.3 nats of entropy.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from input_pipeline import CONTRACT, REGIONS, record

from tfds_builders import embedded
from tfds_builders.region_store_builder import RegionStoreBuilder
from tfds_builders.scenes import vocabulary
from tfds_builders.scenes.classifier import TEMPERATURE
from tfds_builders.scenes.regions import feature_contract, fitted_classifier, region_record
from vilbert_jax.checkpoints.pretrained import load_pretrained
from vilbert_jax.data import PretrainingDataConfig
from vilbert_jax.data.annotations import data_folder, open_annotations
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.data.region_codec import (
    Classifier,
    RegionRecord,
    Storage,
    StoredRegions,
    decode_example,
    decode_record,
    encode_record,
)
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.losses import WeightedSum, mean
from vilbert_jax.tasks import pretraining

ANNOTATIONS, SPLIT = "scenes/captions_small", "validation"
RELEASED_BYTES = REGIONS * (CONTRACT.feature_dim + CONTRACT.num_classes) * 4 * 4 / 3  # float32 as base64
STORAGES = {
    "float16, float16": Storage(features="float16", class_probs="float16"),
    "float16, top 32": Storage(features="float16", class_probs="top_k", num_classes=32),
    "int8, float16": Storage(features="int8", class_probs="float16"),
    "int8, top 100": Storage(features="int8", class_probs="top_k", num_classes=100),
    "int8, top 32": Storage(features="int8", class_probs="top_k", num_classes=32),
    "int8, top 16": Storage(features="int8", class_probs="top_k", num_classes=16),
    "int8, top 8": Storage(features="int8", class_probs="top_k", num_classes=8),
    "int8, rebuilt": Storage(features="int8", class_probs="rebuilt"),
}


class Stored:
    """Records in memory, each through one storage and back; None keeps them exact."""

    def __init__(self, records: dict[str, RegionRecord], storage: Storage | None, classifier: Classifier):
        self.contract, self._records, self._storage = feature_contract(), records, storage
        self._classifier = classifier if storage and storage.class_probs == "rebuilt" else None

    def stored(self, image_id: str) -> StoredRegions:
        """One record."""
        exact = self._records[image_id]
        if self._storage is None:
            scales = np.ones(len(exact.boxes), np.float32)
            return StoredRegions(*exact[:5], scales, None, exact.class_probs)
        example = encode_record(exact, self.contract, self._storage)
        return decode_example({**example, "image_id": image_id.encode()}, self._classifier)


def held_out_losses(
    model: Any, params: Any, store: Stored, rows: Any, config: PretrainingDataConfig
) -> dict[str, float]:
    """The three losses over all pairs."""
    source = PretrainingSource(rows, store, load_tokenizer(config.vocab), config)
    metric_fn = jax.jit(pretraining.make_metric_fn(model, "all"))
    totals: dict[str, WeightedSum] = {}
    with Dataset(source, batch_size=config.batch_size, seed=0, shuffle=False).iterate() as batches:
        for batch in batches:
            for name, term in metric_fn(params, batch).items():
                old = totals.get(name, WeightedSum(jnp.zeros([]), jnp.zeros([])))
                totals[name] = WeightedSum(old.sum + term.sum, old.weight + term.weight)
    return {name: float(mean(total)) for name, total in totals.items() if name.endswith("_loss")}


def bytes_a_record(records: Iterable[RegionRecord], contract: FeatureContract, storage: Storage) -> float:
    """Size on disk."""
    records = list(records)
    builder_class = type(
        "Sizes",
        (RegionStoreBuilder,),
        {
            "__module__": __name__,
            "VERSION": tfds.core.Version("1.0.0"),
            "STORAGE": storage,
            "pkg_dir_path": pathlib.Path(__file__).parent,
            "feature_contract": lambda self: contract,
            "feature_classifier": lambda self: Classifier(np.zeros((1, 1)), np.zeros(1)),
            "region_shards": lambda self, dl_manager: {"train": [lambda: iter(records)]},
        },
        skip_registration=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        builder = builder_class(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
        return sum(f.stat().st_size for f in pathlib.Path(builder.data_dir).glob("*.array_record*")) / len(records)


def decode_microseconds(storage: Storage) -> float:
    """Time to decode one record of the paper's size, read and parsed already, to what a batch holds."""
    classifier = None
    if storage.class_probs == "rebuilt":
        weights = np.random.default_rng(0).standard_normal((CONTRACT.feature_dim, CONTRACT.num_classes), np.float32)
        classifier = Classifier(weights, np.zeros(CONTRACT.num_classes, np.float32))
    example = {**encode_record(record(0), CONTRACT, storage), "image_id": b"0"}
    times = []
    for _ in range(50):
        start = time.perf_counter()
        decode_example(example, classifier)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e6


def target_divergence(storage: Storage, count: int = 10) -> float:
    """Nats between the class distributions of made-up records and what is kept of them, on average over regions."""
    if storage.class_probs == "rebuilt":
        return 0.0  # but for the rounding of the features
    divergences = []
    for number in range(count):
        exact = record(number)
        stored = decode_example({**encode_record(exact, CONTRACT, storage), "image_id": b"0"})
        kept = decode_record(stored, CONTRACT.num_classes).class_probs
        assert exact.class_probs is not None
        assert kept is not None
        p, q = exact.class_probs.astype(np.float64), np.maximum(kept.astype(np.float64), 1e-8)
        divergences.append((p * np.log(p / q)).sum(axis=1).mean())
    return float(np.mean(divergences))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a pre-training run on scenes")
    parser.add_argument("--records", type=int, default=200, help="records to measure bytes with")
    args = parser.parse_args()
    model, params = load_pretrained(args.checkpoint)
    embedded.ensure([ANNOTATIONS], data_folder(""))
    rows = open_annotations(ANNOTATIONS, SPLIT, data_dir="", hint="")
    config = PretrainingDataConfig(
        annotations=ANNOTATIONS, regions="exact", vocab=str(vocabulary.FILE), batch_size=100, max_regions=12
    )
    detector = fitted_classifier(processes=4)
    ids = sorted({rows[i]["image_id"].decode() for i in range(len(rows))})
    records = {image_id: region_record(image_id, detector) for image_id in ids}
    classifier = Classifier(detector.weights / TEMPERATURE, detector.bias / TEMPERATURE)
    exact = held_out_losses(model, params, Stored(records, None, classifier), rows, config)
    print(f"{len(rows)} held-out pairs; exact losses: " + ", ".join(f"{k} {v:.4f}" for k, v in exact.items()))
    names = [*exact]
    columns = f"{'targets, nats':>15}{'bytes, scenes':>15}{'bytes, 36x2048':>16}{'smaller':>9}{'decode µs':>11}"
    print(f"{'features, classes':18}" + "".join(f"{name + ' %':>18}" for name in names) + columns)
    for label, storage in STORAGES.items():
        losses = held_out_losses(model, params, Stored(records, storage, classifier), rows, config)
        deltas = "".join(f"{100 * (losses[name] / exact[name] - 1):18.3f}" for name in names)
        scenes = bytes_a_record([*records.values()][: args.records], feature_contract(), storage)
        paper = bytes_a_record((record(i) for i in range(args.records)), CONTRACT, storage)
        costs = f"{scenes:15.0f}{paper:16.0f}{RELEASED_BYTES / paper:9.1f}{decode_microseconds(storage):11.1f}"
        print(f"{label:18}{deltas}{target_divergence(storage):15.3f}{costs}")


if __name__ == "__main__":
    main()
