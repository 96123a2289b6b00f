"""Parameter names of the released PyTorch checkpoints and of this package, side by side.

The only place that knows the released names. Source: state dicts of facebookresearch/vilbert-multi-task and
jiasenlu/vilbert_beta, whose pre-training models have the same keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS

PRETRAINING_HEADS = ("tokens", "regions", "alignment")


class Entry(NamedTuple):
    """One tensor: its released name, its path here, and whether it is transposed on the way (either way)."""

    source: str
    path: str
    transpose: bool


def released_names(config: ViLBERTConfig, heads: Sequence[str] = PRETRAINING_HEADS) -> list[Entry]:
    """The table for one model: every parameter of the trunk and of the given heads, exactly once.

    Args:
        config: the model.
        heads: head names of ``ViLBERTForTasks``; the default is ``ViLBERTForPretraining``.
    """
    return [*_trunk(config), *(entry for head in heads for entry in _head(head, config))]


def ignored_sources(config: ViLBERTConfig, heads: Sequence[str] = PRETRAINING_HEADS) -> dict[str, str]:
    """Released names that a checkpoint may hold and that are not loaded, each with its reason."""
    reasons = {"cls.predictions.decoder.weight": "tied: equals bert.embeddings.word_embeddings.weight"}
    for k in range(len(config.text_co_layers)):
        for dense in ("q_dense1", "q_dense2"):
            for leaf in ("weight", "bias"):
                reasons[f"bert.encoder.c_layer.{k}.biOutput.{dense}.{leaf}"] = "dead: no forward pass calls it"
        if not config.use_coattention:
            reasons |= {entry.source: "co-attention is off" for entry in _co_layer(k)}
    for head in HEADS:
        if head not in heads:
            reasons |= {entry.source: f"head {head} was not asked for" for entry in _head(head, config)}
    return reasons


def params_from_released(
    state: Mapping[str, np.ndarray], config: ViLBERTConfig, heads: Sequence[str] = PRETRAINING_HEADS
) -> dict[str, Any]:
    """Builds the params dict of a model from a released state dict.

    Args:
        state: arrays by released name; linear weights (out, in).
        config: the model they belong to.
        heads: see ``released_names``.

    Returns:
        Nested params for ``ViLBERTForPretraining`` or ``ViLBERTForTasks``, in the dtype of the arrays given.

    Raises:
        InputError: naming all keys that are missing and all that nothing uses.
    """
    table = released_names(config, heads)
    ignored = ignored_sources(config, heads)
    missing = [entry.source for entry in table if entry.source not in state]
    unused = sorted(state.keys() - {entry.source for entry in table} - ignored.keys())
    if missing or unused:
        raise InputError(
            "this checkpoint does not fit the model config:\n  missing: "
            f"{', '.join(missing) or 'nothing'}\n  not understood: {', '.join(unused) or 'nothing'}"
        )
    flat = {entry.path: state[entry.source].T if entry.transpose else state[entry.source] for entry in table}
    return traverse_util.unflatten_dict(flat, sep="/")


def params_to_released(
    params: Mapping[str, Any], config: ViLBERTConfig, heads: Sequence[str] = PRETRAINING_HEADS
) -> dict[str, np.ndarray]:
    """The inverse of ``params_from_released``, without the tied and dead entries.

    Args:
        params: nested params of the model, or gradients of the same structure.
        config: the model.
        heads: see ``released_names``.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    arrays = {entry.source: np.asarray(flat[entry.path]) for entry in released_names(config, heads)}
    transposed = {entry.source for entry in released_names(config, heads) if entry.transpose}
    return {source: array.T if source in transposed else array for source, array in arrays.items()}


def _linear(source: str, path: str) -> Iterator[Entry]:
    yield Entry(f"{source}.weight", f"{path}/kernel", transpose=True)
    yield Entry(f"{source}.bias", f"{path}/bias", transpose=False)


def _norm(source: str, path: str) -> Iterator[Entry]:
    yield Entry(f"{source}.weight", f"{path}/scale", transpose=False)
    yield Entry(f"{source}.bias", f"{path}/bias", transpose=False)


def _trunk(config: ViLBERTConfig) -> Iterator[Entry]:
    tables = ["word", "position", "token_type", *(["task"] if config.num_task_embeddings else [])]
    for table in tables:
        path = f"trunk/text_embeddings/{table}_embeddings/embedding"
        yield Entry(f"bert.embeddings.{table}_embeddings.weight", path, transpose=False)
    yield from _norm("bert.embeddings.LayerNorm", "trunk/text_embeddings/norm")
    yield from _linear("bert.v_embeddings.image_embeddings", "trunk/region_embeddings/features")
    yield from _linear("bert.v_embeddings.image_location_embeddings", "trunk/region_embeddings/boxes")
    yield from _norm("bert.v_embeddings.LayerNorm", "trunk/region_embeddings/norm")
    for i in range(config.text.num_layers):
        yield from _layer(f"bert.encoder.layer.{i}", f"trunk/encoder/text_layer_{i}")
    for i in range(config.regions.num_layers):
        yield from _layer(f"bert.encoder.v_layer.{i}", f"trunk/encoder/region_layer_{i}")
    if config.use_coattention:
        for k in range(len(config.text_co_layers)):
            yield from _co_layer(k)
    yield from _linear("bert.t_pooler.dense", "trunk/text_pooler")
    yield from _linear("bert.v_pooler.dense", "trunk/region_pooler")


def _layer(source: str, path: str) -> Iterator[Entry]:
    for name in ("query", "key", "value"):
        yield from _linear(f"{source}.attention.self.{name}", f"{path}/attention/{name}")
    yield from _linear(f"{source}.attention.output.dense", f"{path}/attention_output")
    yield from _norm(f"{source}.attention.output.LayerNorm", f"{path}/attention_output_norm")
    yield from _mlp(source, "intermediate", "output", f"{path}/mlp")


def _mlp(source: str, intermediate: str, output: str, path: str) -> Iterator[Entry]:
    yield from _linear(f"{source}.{intermediate}.dense", f"{path}/intermediate")
    yield from _linear(f"{source}.{output}.dense", f"{path}/output")
    yield from _norm(f"{source}.{output}.LayerNorm", f"{path}/output_norm")


def _co_layer(k: int) -> Iterator[Entry]:
    source, path = f"bert.encoder.c_layer.{k}", f"trunk/encoder/co_layer_{k}"
    # Released projections are named for the stream they read, 1 = regions and 2 = text; ours for the stream that asks.
    for stream, own, other, prefix in (("text", 2, 1, "t"), ("region", 1, 2, "v")):
        attention = f"{path}/{stream}_attention"
        yield from _linear(f"{source}.biattention.query{own}", f"{attention}/query")
        yield from _linear(f"{source}.biattention.key{other}", f"{attention}/key")
        yield from _linear(f"{source}.biattention.value{other}", f"{attention}/value")
        yield from _linear(f"{source}.biOutput.dense{own}", f"{attention}_output")
        yield from _norm(f"{source}.biOutput.LayerNorm{own}", f"{attention}_output_norm")
        yield from _mlp(source, f"{prefix}_intermediate", f"{prefix}_output", f"{path}/{stream}_mlp")


def _classifier(source: str, path: str) -> Iterator[Entry]:
    yield from _linear(f"{source}.logit_fc.0", f"{path}/hidden")
    yield from _norm(f"{source}.logit_fc.2", f"{path}/hidden_norm")
    yield from _linear(f"{source}.logit_fc.3", f"{path}/logits")


def _weight_norm_classifier(source: str, path: str) -> Iterator[Entry]:
    for index, layer in ((0, "hidden"), (3, "logits")):
        yield Entry(f"{source}.main.{index}.weight_v", f"{path}/{layer}/kernel", transpose=True)
        yield Entry(f"{source}.main.{index}.weight_g", f"{path}/{layer}/gain", transpose=False)
        yield Entry(f"{source}.main.{index}.bias", f"{path}/{layer}/bias", transpose=False)


def _head(head: str, config: ViLBERTConfig) -> Iterator[Entry]:
    match head:
        case "tokens":
            yield Entry("cls.predictions.bias", "token_head/bias", transpose=False)
            yield from _linear("cls.predictions.transform.dense", "token_head/transform")
            yield from _norm("cls.predictions.transform.LayerNorm", "token_head/transform_norm")
        case "regions":
            yield from _linear("cls.imagePredictions.transform.dense", "region_head/transform")
            yield from _norm("cls.imagePredictions.transform.LayerNorm", "region_head/transform_norm")
            yield from _linear("cls.imagePredictions.decoder", "region_head/logits")
        case "alignment":
            yield from _linear("cls.bi_seq_relationship", "alignment_head")
        case "vqa" if config.answer_head == "weight_norm":
            yield from _weight_norm_classifier("vil_prediction", "vqa_head")
        case "vqa":
            yield from _classifier("vil_prediction", "vqa_head")
        case "gqa":
            yield from _classifier("vil_prediction_gqa", "gqa_head")
        case "binary":
            yield from _classifier("vil_binary_prediction", "binary_head")
        case "choice":
            yield from _linear("vil_logit", "choice_head")
        case "entailment":
            yield from _linear("vil_tri_prediction", "entailment_head")
        case "grounding":
            yield from _linear("vision_logit", "grounding_head")
        case "token_score":
            yield from _linear("linguisic_logit", "token_score_head")
