"""BERT of the transformers library: its parameter names and config keys, beside ours.

The text stream of ViLBERT is BERT, so a BERT gives the text embeddings, the text layers and the masked-word head
(``bert-base-uncased`` in the paper, section 3.1), and nothing else: its pooler and next-sentence head have no
counterpart there. The single stream of the baseline is a BERT with both. Source: ``models/bert`` of
huggingface/transformers.
"""

from collections.abc import Collection, Mapping
from typing import Any

from vilbert_jax.checkpoints.conversion import (
    DECODER,
    WORD_TABLE,
    Table,
    alignment_head,
    bert_layer,
    pooler,
    text_embeddings,
    token_head,
)
from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.errors import InputError

_LAYERS = {1: "trunk/encoder/layer_", 2: "trunk/encoder/text_layer_"}  # by number of streams
_PARTS = {"tokens": token_head, "pooler": pooler, "alignment": alignment_head}  # that a BERT has, or not
_JOINT_PARTS = ("trunk/pooler/", "alignment_head/")  # paths of those that only one stream has a place for
_ARCHITECTURES = {  # by heads
    (): "BertModel",
    ("tokens",): "BertForMaskedLM",
    ("alignment",): "BertForNextSentencePrediction",
    ("tokens", "alignment"): "BertForPreTraining",
}

_BUFFERS = {f"bert.embeddings.{name}_ids": "a constant" for name in ("position", "token_type")}
_NO_PLACE = {  # with two streams
    **{entry.source: "BERT's pooler: ViLBERT has its own, with another activation" for entry in pooler()},
    **{entry.source: "BERT's next-sentence head" for entry in alignment_head()},
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


def in_bert(path: str, num_streams: int = 2) -> bool:
    """Whether a BERT has a place for the parameter at ``path`` of a model with so many streams."""
    own = ("trunk/text_embeddings/", _LAYERS[num_streams], "token_head/")
    joint = _JOINT_PARTS if num_streams == 1 else ()
    return path.startswith((*own, *joint)) and "task_embeddings" not in path


def may_lack(path: str, bert: ViLBERTConfig) -> bool:
    """Whether a BERT need not have what it has a place for in a single-stream model.

    It may come without pooler or next-sentence head, and it may be the first layers of a deeper model.

    Args:
        path: of the parameter; ``in_bert``.
        bert: config of the BERT.
    """
    layer = path.removeprefix(_LAYERS[1]).partition("/")[0]
    return path.startswith(_JOINT_PARTS) or (layer.isdigit() and int(layer) >= bert.text.num_layers)


def parts_in(names: Collection[str]) -> tuple[str, ...]:
    """Which of the parts that not every BERT has (tokens, pooler, alignment) are there.

    Args:
        names: of its tensors, or paths of ours.
    """
    return tuple(
        part for part, entries in _PARTS.items() if any(e.source in names or e.path in names for e in entries())
    )


def bert_table(config: ViLBERTConfig, parts: Collection[str]) -> Table:
    """The table of a BERT whose stream is the text stream of ``config``, or its only one.

    Args:
        config: the model.
        parts: of ``parts_in``; a model with two streams has a place for ``tokens`` alone.
    """
    entries = [*text_embeddings(("word", "position", "token_type"))]
    for i in range(config.text.num_layers):
        entries += bert_layer(f"bert.encoder.layer.{i}", f"{_LAYERS[config.num_streams]}{i}")
    for part in parts if config.num_streams == 1 else {*parts} & {"tokens"}:
        entries += _PARTS[part]()
    ties = {DECODER: WORD_TABLE, _DECODER_BIAS: "cls.predictions.bias"} if "tokens" in parts else {}
    return Table(tuple(entries), ties, _BUFFERS if config.num_streams == 1 else _BUFFERS | _NO_PLACE)


def with_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of a bare ``BertModel`` under the names that models with a head give them."""
    if any(name.startswith("bert.") for name in tensors):
        return dict(tensors)
    return {name if name.startswith("cls.") else f"bert.{name}": tensor for name, tensor in tensors.items()}


def require_bert(fields: Mapping[str, Any], origin: str) -> None:
    """Raises InputError, naming ``origin``, if a ``config.json`` with these fields is another architecture's."""
    kind = fields.get("model_type")
    if kind != "bert":
        raise InputError(
            f"{origin} is a model of type {kind!r}; the text stream of ViLBERT is a BERT: give a folder or hub name "
            "whose config.json says model_type 'bert', such as bert-base-uncased."
        )


def config_from_bert(
    fields: Mapping[str, Any], origin: str, num_streams: int = 2
) -> tuple[ViLBERTConfig, tuple[str, ...]]:
    """The model that a BERT fits in.

    With two streams it is the text stream, beside the paper's visual stream, with co-attention in the last text layers;
    with one it is that stream.

    Args:
        fields: of ``config.json``.
        origin: where it was read, for messages.
        num_streams: of the model.

    Returns:
        The config, and one line for everything that BERT's config does not say.

    Raises:
        InputError: another architecture, or an option that this model does not compute.
    """
    require_bert(fields, origin)
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
    ours["text"] = stream = StreamConfig(**text)
    if num_streams == 1:
        config = ViLBERTConfig.single_stream(**ours)
        return config, (f"{config.region_feature_dim} features and {config.region_target_dim} classes a region",)
    num_co_layers = min(_MAX_CO_LAYERS, stream.num_layers)
    ours["text_co_layers"] = tuple(range(stream.num_layers - num_co_layers, stream.num_layers))
    config = ViLBERTConfig.base(num_co_layers, **ours)
    assumed = (
        f"the visual stream and co-attention of the paper: {num_co_layers} region layers, "
        f"text_co_layers={config.text_co_layers}, {config.region_feature_dim} features and "
        f"{config.region_target_dim} classes a region",
    )
    return config, assumed


def bert_config(config: ViLBERTConfig, parts: Collection[str] = ("tokens",)) -> dict[str, Any]:
    """The ``config.json`` of a model's text stream, or its only one, as a BERT with these parts."""
    ours = config.to_dict()
    heads = tuple(part for part in _PARTS if part in parts and part != "pooler")
    fields: dict[str, Any] = {"architectures": [_ARCHITECTURES[heads]], "model_type": "bert"}
    for key, field in _KEYS.items():
        stream, _, name = field.rpartition(".")
        fields[key] = (ours[stream] if stream else ours)[name]
    return fields | _FIXED
