"""BERT of the transformers library: its parameter names and config keys, beside ours.

The text stream of ViLBERT is BERT, so a BERT gives the text embeddings, the text layers and the masked-word head
(``bert-base-uncased`` in the paper, section 3.1), and nothing else: its pooler and next-sentence head have no
counterpart here. Source: ``models/bert`` of huggingface/transformers.
"""

from collections.abc import Mapping
from typing import Any

from vilbert_jax.checkpoints.conversion import DECODER, WORD_TABLE, Table, bert_layer, text_embeddings, token_head
from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.errors import InputError

_PATHS = ("trunk/text_embeddings/", "trunk/encoder/text_layer_", "token_head/")

_NO_POOLER = "BERT's pooler: ViLBERT has its own, with another activation"
_NO_NEXT_SENTENCE = "BERT's next-sentence head"
_BUFFER = "a constant"
_UNUSED = {
    "bert.pooler.dense.weight": _NO_POOLER,
    "bert.pooler.dense.bias": _NO_POOLER,
    "cls.seq_relationship.weight": _NO_NEXT_SENTENCE,
    "cls.seq_relationship.bias": _NO_NEXT_SENTENCE,
    "bert.embeddings.position_ids": _BUFFER,
    "bert.embeddings.token_type_ids": _BUFFER,
}
_DECODER_BIAS = "cls.predictions.decoder.bias"

_KEYS = {  # of config.json -> our field
    "hidden_size": "text.width",
    "num_hidden_layers": "text.num_layers",
    "num_attention_heads": "text.num_heads",
    "intermediate_size": "text.mlp_dim",
    "hidden_act": "text.activation",
    "hidden_dropout_prob": "text.dropout_rate",
    "attention_probs_dropout_prob": "text.attention_dropout_rate",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_text_length",
    "type_vocab_size": "num_token_types",
    "initializer_range": "initializer_range",
}
_DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}
_FIXED = {  # key -> what this model computes, which is also the default of transformers
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pad_token_id": 0,
}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "swish", "silu": "swish"}
_MAX_CO_LAYERS = 6  # of the paper's model


def in_bert(path: str) -> bool:
    """Whether a BERT has the parameter at ``path``."""
    return path.startswith(_PATHS) and "task_embeddings" not in path


def bert_table(config: ViLBERTConfig, *, with_head: bool) -> Table:
    """The table of a BERT whose text stream is that of ``config``, with or without the masked-word head."""
    entries = [*text_embeddings(("word", "position", "token_type"))]
    for i in range(config.text.num_layers):
        entries += bert_layer(f"bert.encoder.layer.{i}", f"trunk/encoder/text_layer_{i}")
    ties = {}
    if with_head:
        entries += token_head()
        ties = {DECODER: WORD_TABLE, _DECODER_BIAS: "cls.predictions.bias"}
    return Table(tuple(entries), ties, _UNUSED)


def with_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of a bare ``BertModel`` under the names that models with a head give them."""
    if any(name.startswith("bert.") for name in tensors):
        return dict(tensors)
    return {name if name.startswith("cls.") else f"bert.{name}": tensor for name, tensor in tensors.items()}


def config_from_bert(fields: Mapping[str, Any], origin: str) -> tuple[ViLBERTConfig, tuple[str, ...]]:
    """The ViLBERT that a BERT's text stream fits in: the paper's visual stream, co-attention in the last text layers.

    Args:
        fields: of ``config.json``.
        origin: where it was read, for messages.

    Returns:
        The config, and one line for everything that BERT's config does not say.

    Raises:
        InputError: another architecture, or an option that this model does not compute.
    """
    kind = fields.get("model_type")
    if kind != "bert":
        raise InputError(
            f"{origin} is a model of type {kind!r}; the text stream of ViLBERT is a BERT: give a folder or hub name "
            "whose config.json says model_type 'bert', such as bert-base-uncased."
        )
    problems = [f"{key}: missing" for key in _KEYS if key not in fields and key not in _DEFAULTS]
    problems += [
        f"{key} is {fields[key]!r}, this model has {value!r}"
        for key, value in _FIXED.items()
        if fields.get(key, value) not in (value, None)
    ]
    activation = fields.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        problems.append(f"hidden_act is {activation!r}, this model has {', '.join(_ACTIVATIONS)}")
    if problems:
        raise InputError(f"the BERT {origin} cannot be used:\n  " + "\n  ".join(problems))
    ours: dict[str, Any] = {}
    text: dict[str, Any] = {}
    for key, field in _KEYS.items():
        stream, _, name = field.rpartition(".")
        (text if stream else ours)[name] = fields.get(key, _DEFAULTS.get(key))
    text["activation"] = _ACTIVATIONS[activation]
    stream = StreamConfig(**text)
    num_co_layers = min(_MAX_CO_LAYERS, stream.num_layers)
    ours["text"] = stream
    ours["text_co_layers"] = tuple(range(stream.num_layers - num_co_layers, stream.num_layers))
    config = ViLBERTConfig.base(num_co_layers, **ours)
    assumed = (
        f"the visual stream and co-attention of the paper: {num_co_layers} region layers, "
        f"text_co_layers={config.text_co_layers}, {config.region_feature_dim} features and "
        f"{config.region_target_dim} classes a region",
    )
    return config, assumed


def bert_config(config: ViLBERTConfig) -> dict[str, Any]:
    """The ``config.json`` of the text stream as a ``BertForMaskedLM``."""
    ours = config.to_dict()
    fields: dict[str, Any] = {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
    for key, field in _KEYS.items():
        stream, _, name = field.rpartition(".")
        fields[key] = (ours[stream] if stream else ours)[name]
    return fields | _FIXED
