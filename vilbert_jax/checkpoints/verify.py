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
from vilbert_jax.checkpoints.hf_bert import parts_in, with_prefix
from vilbert_jax.checkpoints.tensor_files import open_tensors
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.trunk import Inputs

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
    """Runs a BERT of the transformers library and our text stream, or only one, on the same random words.

    With two streams co-attention is off, with one the only region is masked. Of a model that is deeper than the BERT
    the layers that came from it are run.

    Args:
        file: weights of the BERT; its config.json is beside it.
        config: of the model that it was converted to.
        params: its parameters by path, without those of parts that are not to be compared.

    Returns:
        Largest absolute difference by name: ``hidden states`` (embeddings and every layer), ``word logits`` with the
        masked-word head; with one stream ``pooled``, and ``alignment logits`` with that head. Padded positions are not
        compared.

    Raises:
        InputError: torch or transformers is not installed.
    """
    bert = _bert(file)
    config = dataclasses.replace(
        config, use_coattention=False, text=dataclasses.replace(config.text, num_layers=bert.config.num_hidden_layers)
    )
    token_ids, mask = _random_words(config)
    expected = _theirs(bert, token_ids, mask)
    found = _ours(config, params, token_ids, mask)
    return {
        name: max(_difference(*pair, mask) for pair in zip(arrays, expected[name], strict=True))
        for name, arrays in found.items()
    }


def _bert(file: Path) -> Any:
    """The BERT in float32. ``from_pretrained`` would take the file it prefers, and knows no ``module.`` in names."""
    torch, transformers = torch_and_transformers()
    tensors = with_prefix(normalised(open_tensors(file).tensors))
    state = {name: torch.from_numpy(np.array(tensor.read(()), np.float32)) for name, tensor in tensors.items()}
    bert = transformers.BertForPreTraining(transformers.BertConfig.from_pretrained(file.parent))
    bert.load_state_dict(state, strict=False)  # what is missing stays random, and shows as a difference
    return bert.eval()


def _theirs(bert: Any, token_ids: np.ndarray, mask: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Everything that can be compared, by name."""
    torch, _ = torch_and_transformers()
    with torch.no_grad():
        output = bert(
            input_ids=torch.from_numpy(token_ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
            output_hidden_states=True,
        )
        pooled = bert.bert.pooler(output.hidden_states[-1])
    return {
        "hidden states": [state.numpy() for state in output.hidden_states],
        "word logits": [output.prediction_logits.numpy()],
        "pooled": [pooled.numpy()],
        "alignment logits": [output.seq_relationship_logits.numpy()],
    }


def _ours(
    config: ViLBERTConfig, params: Mapping[str, Any], token_ids: np.ndarray, mask: np.ndarray
) -> dict[str, list[Any]]:
    """The same of our model, as far as there are parameters for it."""
    parts = parts_in(params)
    model = ViLBERTForTasks(config, heads=tuple(part for part in parts if part != "pooler") or ("alignment",))
    # Parameters that are not there do not matter, but have to be given: the visual ones, those of the head in need.
    flat = {p: params[p] if p in params else np.zeros(a.shape, a.dtype) for p, a in abstract_params(model).items()}
    apply = functools.partial(model.apply, deterministic=True, capture_intermediates=True, mutable=["intermediates"])
    output, variables = jax.jit(apply)(
        {"params": traverse_util.unflatten_dict(flat, sep="/")}, _inputs(config, token_ids, mask)
    )
    trunk, length = variables["intermediates"]["trunk"], token_ids.shape[1]
    layer = "layer" if config.num_streams == 1 else "text_layer"
    layers = [trunk["encoder"][f"{layer}_{i}"]["__call__"][0][:, :length] for i in range(config.text.num_layers)]
    found = {"hidden states": [trunk["text_embeddings"]["__call__"][0], *layers]}
    if "tokens" in parts:
        found["word logits"] = [output.logits["tokens"]]
    if "pooler" in parts:
        found["pooled"] = [output.encoded.text_pooled]
    if "alignment" in parts:
        found["alignment logits"] = [output.logits["alignment"]]
    return found


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
        region_mask=jnp.full((rows, 1), config.num_streams == 2),
        task_id=jnp.zeros(rows, jnp.int32) if config.num_task_embeddings else None,
    )


def _difference(ours: Any, reference: np.ndarray, mask: np.ndarray) -> float:
    """The largest one; of states and logits at positions, where there is a word."""
    differences = np.abs(np.asarray(ours) - reference)
    return float(differences[mask].max() if differences.ndim == 3 else differences.max())
