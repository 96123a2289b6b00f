"""Made-up pairs of given lengths through the code that reads real ones: what the benchmarks train on."""

import numpy as np
from lengths import NUM_REGIONS, TEXT_LENGTH, Lengths

from tfds_builders.scenes import vocabulary
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data import PretrainingDataConfig
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.packing import PackingConfig, packed
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.data.region_codec import StoredRegions
from vilbert_jax.data.text import load_tokenizer

_CLASSES_KEPT = 32  # as stores keep them
_WIDTH, _HEIGHT = 640, 480


class MadeUpStore:
    """Regions by number of the picture, int8 features and the likeliest classes as a store keeps them."""

    def __init__(self, num_regions: np.ndarray, config: ViLBERTConfig):
        self.contract = FeatureContract(
            detector="made up", weights_hash="none", layer="none", colour_order="bgr", resize_rule="none",
            selection_rule="none", feature_dim=config.region_feature_dim, num_classes=config.region_target_dim,
        )  # fmt: skip
        self._num_regions = num_regions

    def stored(self, image_id: str) -> StoredRegions:
        """A pure function of the number."""
        number = int(image_id)
        rng, count = np.random.default_rng(number), int(self._num_regions[number])
        num_classes = self.contract.num_classes
        kept = min(_CLASSES_KEPT, num_classes)
        corners = rng.random((count, 2)) * [300, 200]
        boxes = np.concatenate([corners, corners + 5 + rng.random((count, 2)) * [300, 200]], axis=1)
        return StoredRegions(
            image_id, _WIDTH, _HEIGHT,
            boxes=boxes.astype(np.float32),
            features=rng.integers(0, 128, (count, self.contract.feature_dim), np.int8),
            scales=np.full(count, 0.02, np.float32),
            class_ids=np.argsort(rng.random((count, num_classes)), axis=1)[:, :kept].astype(np.int16),
            class_probs=-np.sort(-rng.dirichlet(np.full(kept, 0.2), count), axis=1).astype(np.float16),
        )  # fmt: skip


def pairs(lengths: Lengths, config: ViLBERTConfig, batch_size: int) -> PretrainingSource:
    """A pair for every length, half of a batch mismatched. Words are few, but the model's vocabulary is its own."""
    tokenizer = load_tokenizer(vocabulary.FILE)
    words = [word for word in vocabulary.FILE.read_text().split() if tokenizer.encode(word).size == 1]
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": str(number).encode(), "caption": " ".join(rng.choice(words, count)).encode()}
        for number, count in enumerate(lengths.pieces.tolist())
    ]
    data = PretrainingDataConfig(
        annotations="made up", regions="made up", vocab=str(vocabulary.FILE), batch_size=batch_size,
        text_length=TEXT_LENGTH, max_regions=NUM_REGIONS,
    )  # fmt: skip
    return PretrainingSource(rows, MadeUpStore(lengths.regions, config), tokenizer, data)


def padded_batch(source: PretrainingSource, batch_size: int) -> dict[str, np.ndarray]:
    """The first batch, every pair padded to full length: what a model without packing reads."""
    return Dataset(source, batch_size=batch_size, seed=0, shuffle=True)[0]


def training_batch(source: PretrainingSource, batch_size: int, pairs_per_row: int) -> dict[str, np.ndarray]:
    """The same pairs as training reads them, several to a row."""
    rows = packed(source, PackingConfig(batch_size=batch_size, pairs_per_row=pairs_per_row))
    return Dataset(rows, batch_size=batch_size, seed=0, shuffle=True)[0]
