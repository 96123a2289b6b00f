"""Twelve images with 1 to 6 boxes and two captions each, in memory: what pre-training examples are made of."""

import numpy as np

from vilbert_jax.data import PretrainingDataConfig, RegionRecord, load_tokenizer
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.data.region_codec import StoredRegions

WORDS = ["a", "red", "blue", "circle", "square", "is", "left", "of", "the", *(f"n{i}" for i in range(40))]
T, R, F, C, M = 10, 4, 6, 5, 3
NUM_IMAGES = 12


def record(number, num_boxes, with_classes=True):
    rng = np.random.default_rng(number)
    corners = rng.uniform(0, 50, (num_boxes, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (num_boxes, 2))], axis=1).astype(np.float32)
    probabilities = rng.dirichlet(np.ones(C), num_boxes).astype(np.float32) if with_classes else None
    features = rng.uniform(1, 2, (num_boxes, F)).astype(np.float32)
    return RegionRecord(f"image{number}", 120, 100, boxes, features, probabilities)


def contract(num_classes=C):
    return FeatureContract(
        detector="test", weights_hash="0", layer="test", colour_order="rgb", resize_rule="none", selection_rule="all",
        feature_dim=F, num_classes=num_classes,
    )  # fmt: skip


class Store(dict):
    """Records by image id, with 1 to 6 boxes."""

    def __init__(self, with_classes=True):
        super().__init__({f"image{i}": record(i, i % 6 + 1, with_classes) for i in range(NUM_IMAGES)})
        self.contract = contract(C if with_classes else 0)

    def stored(self, image_id):
        """Without loss."""
        image_id, width, height, boxes, features, class_probs = self[image_id]
        scales = np.ones(len(boxes), np.float32)
        return StoredRegions(image_id, width, height, boxes, features, scales, None, class_probs)


def pairs(count=2 * NUM_IMAGES):
    """Two captions an image; n0 ... says which."""
    return [{"image_id": f"image{i // 2}".encode(), "caption": f"a red n{i} is left".encode()} for i in range(count)]


def write_vocab(folder):
    """A vocab.txt of all words."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return path


def make_config(vocab):
    return PretrainingDataConfig(
        annotations="toy_captions/small", regions="toy_regions/small", vocab=str(vocab), batch_size=8, text_length=T,
        max_regions=R, max_masked_tokens=M,
    )  # fmt: skip


def source(config, rows=None, store=None):
    rows, store = pairs() if rows is None else rows, Store() if store is None else store
    return PretrainingSource(rows, store, load_tokenizer(config.vocab), config)
