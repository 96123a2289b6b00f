"""Data as numpy arrays, without jax: region stores, text, masking, and batches by step."""

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.pictures import pictures_in
from vilbert_jax.data.pipeline import Dataset, make_dataset
from vilbert_jax.data.pretraining import PretrainingDataConfig
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.data.region_store import RegionStore
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
    "pictures_in",
]
