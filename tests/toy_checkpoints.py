"""Untrained models of a few thousand parameters for the data of toy_tasks, saved with all that they need."""

import dataclasses

import numpy as np
import toy_tasks
from flax import traverse_util

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import abstract_params
from vilbert_jax.data.text import load_tokenizer

TEXT, REGIONS = (vj.StreamConfig(width=8, num_layers=count, num_heads=2, mlp_dim=8) for count in (2, 1))
CONFIG = vj.ViLBERTConfig.tiny(
    text=TEXT, regions=REGIONS, text_co_layers=(1,), region_co_layers=(0,), co_width=8, co_num_heads=2,
    vocab_size=5 + len(toy_tasks.WORDS), region_feature_dim=toy_tasks.FEATURE_DIM, region_target_dim=4,
    num_vqa_answers=len(toy_tasks.ANSWERS),
)  # fmt: skip
ONE_STREAM, TASK_TOKENS = {"num_streams": 1}, {"num_task_embeddings": 4}


def make(heads, *, seed=1, **changes):
    """A model with these heads, and parameters that tell inputs apart; without JAX's initialisers, which are slow."""
    model = vj.ViLBERTForTasks(dataclasses.replace(CONFIG, **changes), heads=tuple(heads))
    rng = np.random.default_rng(seed)
    leaves = {
        path: rng.normal(float(path.endswith("scale")), 0.5, leaf.shape).astype(np.float32)
        for path, leaf in sorted(abstract_params(model).items())
    }
    return model, traverse_util.unflatten_dict(leaves, sep="/")


def save(root, name, heads, *, contract=toy_tasks.CONTRACT, trained_for=None, **changes):
    """Saves such a model as ``root / name``, with the vocabulary of ``root``; returns it with its parameters."""
    model, params = make(heads, **changes)
    answers = {"vqa": toy_tasks.ANSWERS} if "vqa" in heads else None
    facts = {"tokenizer": load_tokenizer(root / "vocab.txt"), "contract": contract, "trained_for": trained_for}
    vj.save_pretrained(root / name, model, params, outputs=answers, **facts)
    return model, params
