"""ViLBERT in JAX: two-stream vision-and-language BERT, the released model to the last bias.

``import vilbert_jax as vj`` is cheap: every name is imported on first use, so that data-loading worker processes, which
need ``vilbert_jax.data`` alone, never import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vilbert_jax import data, losses, metrics
    from vilbert_jax.checkpoints.pretrained import load_pretrained
    from vilbert_jax.checkpoints.saving import save_pretrained
    from vilbert_jax.config import StreamConfig, ViLBERTConfig
    from vilbert_jax.data.feature_contract import FeatureContract
    from vilbert_jax.data.region_codec import RegionRecord
    from vilbert_jax.data.region_store import RegionStore
    from vilbert_jax.errors import InputError
    from vilbert_jax.model import PretrainingOutput, TaskOutput, ViLBERTForPretraining, ViLBERTForTasks
    from vilbert_jax.predictor.predictor import Predictor
    from vilbert_jax.trunk import Encoded, Inputs

_HOMES = {
    "StreamConfig": "config",
    "ViLBERTConfig": "config",
    "InputError": "errors",
    "Encoded": "trunk",
    "Inputs": "trunk",
    "PretrainingOutput": "model",
    "TaskOutput": "model",
    "ViLBERTForPretraining": "model",
    "ViLBERTForTasks": "model",
    "Predictor": "predictor.predictor",
    "FeatureContract": "data.feature_contract",
    "RegionRecord": "data.region_codec",
    "RegionStore": "data.region_store",
    "load_pretrained": "checkpoints.pretrained",
    "save_pretrained": "checkpoints.saving",
}
_MODULES = ("data", "losses", "metrics")

__all__ = [
    "Encoded",
    "FeatureContract",
    "InputError",
    "Inputs",
    "Predictor",
    "PretrainingOutput",
    "RegionRecord",
    "RegionStore",
    "StreamConfig",
    "TaskOutput",
    "ViLBERTConfig",
    "ViLBERTForPretraining",
    "ViLBERTForTasks",
    "data",
    "load_pretrained",
    "losses",
    "metrics",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"vilbert_jax.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"vilbert_jax.{name}")
    raise AttributeError(f"module 'vilbert_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
