"""Operations of a training step that its real words and regions cost: what a roofline counts.

Matrix products alone; a multiply-add counts as two, and training as three forward passes. M predicted words, R regions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.model_size import forward_flops


def training_flops(config: ViLBERTConfig, batch: Mapping[str, Any]) -> int:
    """Of one step on a padded batch of ``PretrainingDataConfig``, padding and what is not predicted left out."""
    lengths = zip(batch["text_mask"].sum(axis=1).tolist(), batch["region_mask"].sum(axis=1).tolist(), strict=True)
    trunk = sum(forward_flops(config, *pair) for pair in lengths)
    words, regions = int(batch["token_label_mask"].sum()), int(batch["region_label_mask"].sum())
    return 3 * (trunk + head_flops(config, words, regions))


def padded_training_flops(config: ViLBERTConfig, batch: Mapping[str, Any]) -> int:
    """Of one step as the released code does it: every row at full length, logits everywhere."""
    (rows, text_length), slots = np.shape(batch["token_ids"]), np.shape(batch["region_mask"])[1]
    trunk = rows * forward_flops(config, text_length, slots)
    return 3 * (trunk + head_flops(config, rows * text_length, rows * slots))


def head_flops(config: ViLBERTConfig, num_words: int, num_regions: int) -> int:
    """Forward pass of the token and region heads over so many positions."""
    text, regions = config.text.width, config.region_width
    words = num_words * (text * text + text * config.vocab_size)
    return 2 * (words + num_regions * (regions * regions + regions * config.region_target_dim))
