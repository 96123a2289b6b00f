"""Parameter names of the released PyTorch checkpoints and of this package, side by side.

The only place that knows the released names. Source: state dicts of facebookresearch/vilbert-multi-task and
jiasenlu/vilbert_beta, whose pre-training models have the same keys, and of their single-stream baseline
(``basebert.py``), whose trunk has names of its own: BERT's.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vilbert_jax.checkpoints.conversion import (
    DECODER,
    PRETRAINING_HEADS,
    WORD_TABLE,
    Entry,
    Table,
    abstract_params,
    alignment_head,
    bert_layer,
    linear,
    make_model,
    mlp,
    norm,
    pooler,
    text_embeddings,
    to_source,
    token_head,
)
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.model import HEADS


def released_table(config: ViLBERTConfig, heads: tuple[str, ...] = PRETRAINING_HEADS) -> Table:
    """The table for one model: every parameter of the trunk and of the given heads, exactly once.

    Args:
        config: the model.
        heads: head names of ``ViLBERTForTasks``; the default is ``ViLBERTForPretraining``.
    """
    unused = {name: "dead: no forward pass calls it" for name in _dead(config)}
    if _lacks_co_layers(config):
        unused |= {e.source: "co-attention is off" for k in range(len(config.text_co_layers)) for e in _co_layer(k)}
    trunk = _trunk(config) if config.num_streams == 2 else _single_stream_trunk(config)
    entries = (*trunk, *(entry for head in heads for entry in _head(head, config)))
    return Table(entries, {DECODER: WORD_TABLE}, unused)


def released_heads(names: Mapping[str, Any], config: ViLBERTConfig) -> tuple[str, ...]:
    """The heads that a released state dict has tensors of."""
    return tuple(head for head in HEADS if any(entry.source in names for entry in _head(head, config)))


def released_tensors(
    params: dict[str, np.ndarray], config: ViLBERTConfig, heads: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The state dict that the released code loads strictly: live tensors, the tied decoder, zeros for dead tensors.

    Args:
        params: by path; emptied on the way.
        config: the model.
        heads: its heads.
    """
    written = to_source(params, released_table(config, heads))
    whole = dataclasses.replace(config, use_coattention=True)
    shapes = _dead(config)
    if _lacks_co_layers(config):  # the released model creates these layers all the same
        ours = abstract_params(make_model(whole, heads))
        for entry in (entry for k in range(len(config.text_co_layers)) for entry in _co_layer(k)):
            shape = ours[entry.path].shape
            shapes[entry.source] = shape[::-1] if entry.transpose else shape
    return written | {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _dead(config: ViLBERTConfig) -> dict[str, tuple[int, ...]]:
    """Tensors of released files that nothing computes with, by name, with their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(len(config.text_co_layers) if config.num_streams == 2 else 0):
        for stream, width in ((1, config.regions.width), (2, config.text.width)):
            name = f"bert.encoder.c_layer.{k}.biOutput.q_dense{stream}"
            shapes |= {f"{name}.weight": (width, config.co_width), f"{name}.bias": (width,)}
    return shapes


def _lacks_co_layers(config: ViLBERTConfig) -> bool:
    return config.num_streams == 2 and not config.use_coattention


def _trunk(config: ViLBERTConfig) -> Iterator[Entry]:
    tables = ("word", "position", "token_type", *(["task"] if config.num_task_embeddings else []))
    yield from text_embeddings(tables)
    yield from linear("bert.v_embeddings.image_embeddings", "trunk/region_embeddings/features")
    yield from linear("bert.v_embeddings.image_location_embeddings", "trunk/region_embeddings/boxes")
    yield from norm("bert.v_embeddings.LayerNorm", "trunk/region_embeddings/norm")
    for i in range(config.text.num_layers):
        yield from bert_layer(f"bert.encoder.layer.{i}", f"trunk/encoder/text_layer_{i}")
    for i in range(config.regions.num_layers):
        yield from bert_layer(f"bert.encoder.v_layer.{i}", f"trunk/encoder/region_layer_{i}")
    if config.use_coattention:
        for k in range(len(config.text_co_layers)):
            yield from _co_layer(k)
    yield from linear("bert.t_pooler.dense", "trunk/text_pooler")
    yield from linear("bert.v_pooler.dense", "trunk/region_pooler")


def _single_stream_trunk(config: ViLBERTConfig) -> Iterator[Entry]:
    source, path = "bert.image_embeddings", "trunk/region_embeddings"
    yield from text_embeddings(("word", "position", "token_type"))
    yield from linear(f"{source}.image_embeddings", f"{path}/features")
    yield from linear(f"{source}.image_location_embeddings", f"{path}/boxes")
    yield Entry(f"{source}.token_type_embeddings.weight", f"{path}/token_type_embeddings/embedding", transpose=False)
    yield from norm(f"{source}.LayerNorm", f"{path}/norm")
    for i in range(config.text.num_layers):
        yield from bert_layer(f"bert.encoder.layer.{i}", f"trunk/encoder/layer_{i}")
    yield from pooler()


def _co_layer(k: int) -> Iterator[Entry]:
    source, path = f"bert.encoder.c_layer.{k}", f"trunk/encoder/co_layer_{k}"
    # Released projections are named for the stream they read, 1 = regions and 2 = text; ours for the stream that asks.
    for stream, own, other, prefix in (("text", 2, 1, "t"), ("region", 1, 2, "v")):
        attention = f"{path}/{stream}_attention"
        yield from linear(f"{source}.biattention.query{own}", f"{attention}/query")
        yield from linear(f"{source}.biattention.key{other}", f"{attention}/key")
        yield from linear(f"{source}.biattention.value{other}", f"{attention}/value")
        yield from linear(f"{source}.biOutput.dense{own}", f"{attention}_output")
        yield from norm(f"{source}.biOutput.LayerNorm{own}", f"{attention}_output_norm")
        yield from mlp(source, f"{prefix}_intermediate", f"{prefix}_output", f"{path}/{stream}_mlp")


def _classifier(source: str, path: str) -> Iterator[Entry]:
    yield from linear(f"{source}.logit_fc.0", f"{path}/hidden")
    yield from norm(f"{source}.logit_fc.2", f"{path}/hidden_norm")
    yield from linear(f"{source}.logit_fc.3", f"{path}/logits")


def _weight_norm_classifier(source: str, path: str) -> Iterator[Entry]:
    for index, layer in ((0, "hidden"), (3, "logits")):
        yield Entry(f"{source}.main.{index}.weight_v", f"{path}/{layer}/kernel", transpose=True)
        yield Entry(f"{source}.main.{index}.weight_g", f"{path}/{layer}/gain", transpose=False)
        yield Entry(f"{source}.main.{index}.bias", f"{path}/{layer}/bias", transpose=False)


def _head(head: str, config: ViLBERTConfig) -> Iterator[Entry]:
    match head:
        case "tokens":
            yield from token_head()
        case "regions":
            yield from linear("cls.imagePredictions.transform.dense", "region_head/transform")
            yield from norm("cls.imagePredictions.transform.LayerNorm", "region_head/transform_norm")
            yield from linear("cls.imagePredictions.decoder", "region_head/logits")
        case "alignment" if config.num_streams == 1:
            yield from alignment_head()
        case "alignment":
            yield from linear("cls.bi_seq_relationship", "alignment_head")
        case "vqa" if config.answer_head == "weight_norm":
            yield from _weight_norm_classifier("vil_prediction", "vqa_head")
        case "vqa":
            yield from _classifier("vil_prediction", "vqa_head")
        case "gqa":
            yield from _classifier("vil_prediction_gqa", "gqa_head")
        case "binary":
            yield from _classifier("vil_binary_prediction", "binary_head")
        case "choice":
            yield from linear("vil_logit", "choice_head")
        case "entailment":
            yield from linear("vil_tri_prediction", "entailment_head")
        case "grounding":
            yield from linear("vision_logit", "grounding_head")
        case "token_score":
            yield from linear("linguisic_logit", "token_score_head")
