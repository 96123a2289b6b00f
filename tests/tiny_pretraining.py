"""A pre-training model and batch small enough for every test that needs a whole one."""

import numpy as np

import vilbert_jax as vj

WIDTH = 16
STREAM = vj.StreamConfig(
    width=WIDTH, num_layers=2, num_heads=4, mlp_dim=32, dropout_rate=0.0, attention_dropout_rate=0.0
)
CONFIG = vj.ViLBERTConfig(
    text=STREAM,
    regions=STREAM,
    vocab_size=32,
    max_text_length=12,
    region_feature_dim=8,
    region_target_dim=16,
    co_width=WIDTH,
    co_num_heads=4,
    text_co_layers=(0, 1),
    region_co_layers=(0, 1),
    initializer_range=0.3,
)


def make_batch(rows=16, text=10, regions=6, masked=3, seed=0):
    """Random but well-formed: every row has words, regions, and an uneven number of things to predict."""
    rng = np.random.default_rng(seed)
    slots = regions + 1
    boxes = rng.uniform(0, 1, (rows, slots, 5)).astype(np.float32)
    boxes[:, 0] = [0, 0, 1, 1, 1]
    features = rng.uniform(0, 1, (rows, regions, CONFIG.region_feature_dim)).astype(np.float32)
    selected = rng.random((rows, regions)) < 0.4
    hidden = selected & (rng.random((rows, regions)) < 0.9)
    region_mask = np.arange(slots)[None] < rng.integers(2, slots + 1, (rows, 1))
    targets = rng.dirichlet(np.ones(CONFIG.region_target_dim), (rows, regions)).astype(np.float32)
    return {
        "token_ids": rng.integers(5, CONFIG.vocab_size, (rows, text)).astype(np.int32),
        "token_types": np.zeros((rows, text), np.int32),
        "text_mask": np.arange(text)[None] < rng.integers(4, text + 1, (rows, 1)),
        "stored_features": features,
        "feature_scales": np.ones((rows, regions), np.float32),
        "region_visible": ~hidden & region_mask[:, 1:],
        "num_pooled": np.full(rows, regions, np.int32),
        "region_boxes": boxes,
        "region_mask": region_mask,
        "masked_positions": rng.integers(1, 4, (rows, masked)).astype(np.int32),
        "token_labels": rng.integers(5, CONFIG.vocab_size, (rows, masked)).astype(np.int32),
        "token_label_mask": np.arange(masked)[None] < rng.integers(0, masked + 1, (rows, 1)),
        "target_probs": targets,
        "region_label_mask": selected,
        "alignment_labels": rng.integers(0, 2, rows).astype(np.int32),
        "example_mask": np.ones(rows, bool),
        "example_index": np.arange(rows, dtype=np.int32),
    }
