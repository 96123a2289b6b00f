"""Whether a converted BERT computes what it computed: transformers' own forward pass against ours.

Needs torch and transformers, which nothing else here does.
"""

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vilbert_jax.checkpoints.conversion import abstract_params, normalised
from vilbert_jax.checkpoints.hf_bert import with_prefix
from vilbert_jax.checkpoints.tensor_files import open_tensors
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import Inputs, ViLBERTForTasks

_ROWS, _LENGTH = 3, 24


def torch_and_transformers() -> tuple[Any, Any]:
    """The two modules; raises InputError if one is not installed."""
    try:
        return importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            "comparing with torch's forward pass needs torch and transformers: pip install transformers, and torch "
            "with --index-url https://download.pytorch.org/whl/cpu; or leave --verify out."
        ) from error


def compare_with_transformers(file: Path, config: ViLBERTConfig, params: Mapping[str, Any]) -> dict[str, float]:
    """Runs a BERT of the transformers library and our text stream, without co-attention, on the same random words.

    Args:
        file: weights of the BERT; its config.json is beside it.
        config: of the model that it was converted to.
        params: its parameters by path; without the masked-word head's if that is not to be compared.

    Returns:
        Largest absolute difference by name: ``hidden states`` (embeddings and every layer), and ``word logits`` with
        the head. Padded positions are not compared.

    Raises:
        InputError: torch or transformers is not installed.
    """
    torch, _ = torch_and_transformers()
    with_head = "token_head/bias" in params
    theirs = _theirs(file, with_head=with_head)
    token_ids, mask = _random_words(config)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.from_numpy(token_ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
            output_hidden_states=True,
        )
    logits, states = _ours(config, params, token_ids, mask, with_head=with_head)
    differences = {
        "hidden states": max(
            _difference(ours, reference.numpy(), mask)
            for ours, reference in zip(states, expected.hidden_states, strict=True)
        )
    }
    if with_head:
        differences["word logits"] = _difference(logits, expected.logits.numpy(), mask)
    return differences


def _theirs(file: Path, *, with_head: bool) -> Any:
    """The BERT in float32. ``from_pretrained`` would take the file it prefers, and knows no ``module.`` in names."""
    torch, transformers = torch_and_transformers()
    config = transformers.BertConfig.from_pretrained(file.parent)
    tensors = with_prefix(normalised(open_tensors(file).tensors))
    state = {name: torch.from_numpy(np.array(tensor.read(()), np.float32)) for name, tensor in tensors.items()}
    if with_head:
        bert = transformers.BertForMaskedLM(config)
    else:
        bert = transformers.BertModel(config, add_pooling_layer=False)
        state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
    bert.load_state_dict(state, strict=False)  # what is missing stays random, and shows as a difference
    return bert.eval()


def _ours(
    config: ViLBERTConfig, params: Mapping[str, Any], token_ids: np.ndarray, mask: np.ndarray, *, with_head: bool
) -> tuple[Any, list[Any]]:
    """Word logits (or another head's, unread) and the states after the embeddings and after every text layer."""
    config = dataclasses.replace(config, use_coattention=False)
    model = ViLBERTForTasks(config, heads=("tokens",) if with_head else ("alignment",))
    # Visual parameters do not matter without co-attention, but have to be there.
    flat = {p: params[p] if p in params else np.zeros(a.shape, a.dtype) for p, a in abstract_params(model).items()}
    apply = functools.partial(model.apply, deterministic=True, capture_intermediates=True, mutable=["intermediates"])
    output, variables = jax.jit(apply)(
        {"params": traverse_util.unflatten_dict(flat, sep="/")}, _inputs(config, token_ids, mask)
    )
    trunk = variables["intermediates"]["trunk"]
    layers = (trunk["encoder"][f"text_layer_{i}"]["__call__"][0] for i in range(config.text.num_layers))
    return next(iter(output.logits.values())), [trunk["text_embeddings"]["__call__"][0], *layers]


def _random_words(config: ViLBERTConfig) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    length = min(_LENGTH, config.max_text_length)
    token_ids = rng.integers(1, config.vocab_size, (_ROWS, length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(2, length + 1, (_ROWS, 1))
    return np.where(mask, token_ids, 0), mask


def _inputs(config: ViLBERTConfig, token_ids: np.ndarray, mask: np.ndarray) -> Inputs:
    rows = len(token_ids)
    return Inputs(
        token_ids=jnp.asarray(token_ids),
        token_types=jnp.zeros(token_ids.shape, jnp.int32),
        text_mask=jnp.asarray(mask),
        region_features=jnp.zeros((rows, 1, config.region_feature_dim)),
        region_boxes=jnp.zeros((rows, 1, 5)),
        region_mask=jnp.ones((rows, 1), bool),
        task_id=jnp.zeros(rows, jnp.int32) if config.num_task_embeddings else None,
    )


def _difference(ours: Any, reference: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours) - reference)[mask].max())
