"""Data as numpy arrays, without jax: region stores, text, masking, and batches by step."""

from vilbert_jax.data.pipeline import Dataset, make_dataset
from vilbert_jax.data.pretraining import PretrainingDataConfig
from vilbert_jax.data.region_store import FeatureContract, RegionRecord, RegionStore
from vilbert_jax.data.text import Tokenizer, load_tokenizer

__all__ = [
    "Dataset",
    "FeatureContract",
    "PretrainingDataConfig",
    "RegionRecord",
    "RegionStore",
    "Tokenizer",
    "load_tokenizer",
    "make_dataset",
]
