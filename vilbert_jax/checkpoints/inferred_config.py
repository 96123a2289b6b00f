"""The model config of a released ViLBERT file, or of the single-stream baseline, from the shapes of its tensors.

Shapes show every width, depth and vocabulary. They do not show numbers of heads, where co-attention layers stand,
activations or the fusion: those are taken from the released configs, and said to be.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]

BASELINE_MARK = "bert.image_embeddings."  # what no other model's tensors are called

_TEXT_HEAD_WIDTH = 64  # of every BERT
_REGION_HEAD_WIDTH = 128  # 1024 features in 8 heads, in every released config


def config_from_shapes(shapes: Shapes) -> tuple[ViLBERTConfig, tuple[str, ...]]:
    """Works out the config of a released model.

    Args:
        shapes: by released name, linear weights [out, in].

    Returns:
        The config, and one line for everything that was assumed.

    Raises:
        InputError: a tensor that decides about the config is missing, or a number of heads cannot be guessed.
    """
    if is_baseline(shapes):
        return _single_stream(shapes)
    region_width = _size(shapes, "bert.v_embeddings.image_embeddings.weight", 0)
    num_regions, num_co = (_count(shapes, f"bert.encoder.{kind}.") for kind in ("v_layer", "c_layer"))
    text = _text_stream(shapes)
    num_text = text.num_layers
    co_width = _size(shapes, "bert.t_pooler.dense.weight", 0)
    feature_dim = _size(shapes, "bert.v_embeddings.image_embeddings.weight", 1)
    target_dim = _size(shapes, "cls.imagePredictions.decoder.weight", 0)
    if num_co > min(num_text, num_regions):
        raise InputError(
            f"the file has {num_co} co-attention layers, and {num_text} text and {num_regions} region layers: where "
            "they stand cannot be guessed. Give --model_config."
        )
    regions = StreamConfig(
        width=region_width,
        num_layers=num_regions,
        num_heads=_num_heads("regions.num_heads", region_width, _REGION_HEAD_WIDTH),
        mlp_dim=_size(shapes, "bert.encoder.v_layer.0.intermediate.dense.weight", 0),
    )
    config = ViLBERTConfig(
        text=text,
        regions=regions,
        num_task_embeddings=shapes.get("bert.embeddings.task_embeddings.weight", (0,))[0],
        region_feature_dim=feature_dim,
        region_target_dim=target_dim,
        region_objective="regression" if target_dim == feature_dim else "kl",
        co_width=co_width,
        co_num_heads=_num_heads("co_num_heads", co_width, _REGION_HEAD_WIDTH),
        text_co_layers=tuple(range(num_text - num_co, num_text)),
        region_co_layers=tuple(range(num_co)),
        **_table_fields(shapes),
        **answer_fields(shapes),
    )
    assumed = (
        _heads_line(text),
        f"regions.num_heads={regions.num_heads}, co_num_heads={config.co_num_heads} ({_REGION_HEAD_WIDTH} features)",
        f"text_co_layers={config.text_co_layers}, region_co_layers={config.region_co_layers}",
        'activations "gelu", fusion "mul", co-attention on, dropout rates 0.1',
        *(['region_objective "regression" (it may be "nce")'] if target_dim == feature_dim else []),
    )
    return config, assumed


def is_baseline(names: Collection[str]) -> bool:
    """Whether tensors with these names are those of the single-stream baseline."""
    return any(name.startswith(BASELINE_MARK) for name in names)


def _single_stream(shapes: Shapes) -> tuple[ViLBERTConfig, tuple[str, ...]]:
    text = _text_stream(shapes)
    config = ViLBERTConfig.single_stream(
        text=text,
        region_feature_dim=_size(shapes, f"{BASELINE_MARK}image_embeddings.weight", 1),
        region_target_dim=_size(shapes, "cls.imagePredictions.decoder.weight", 0),
        **_table_fields(shapes),
        **answer_fields(shapes),
    )
    return config, (_heads_line(text), 'activation "gelu", dropout rates 0.1')


def _text_stream(shapes: Shapes) -> StreamConfig:
    """BERT's stream, which is the text stream of two."""
    width = _size(shapes, "bert.embeddings.word_embeddings.weight", 1)
    return StreamConfig(
        width=width,
        num_layers=_count(shapes, "bert.encoder.layer."),
        num_heads=_num_heads("text.num_heads", width, _TEXT_HEAD_WIDTH),
        mlp_dim=_size(shapes, "bert.encoder.layer.0.intermediate.dense.weight", 0),
    )


def _heads_line(text: StreamConfig) -> str:
    return f"text.num_heads={text.num_heads} ({_TEXT_HEAD_WIDTH} features a head)"


def _table_fields(shapes: Shapes) -> dict[str, int]:
    tables = {"vocab_size": "word", "max_text_length": "position", "num_token_types": "token_type"}
    return {field: _size(shapes, f"bert.embeddings.{name}_embeddings.weight", 0) for field, name in tables.items()}


def answer_fields(shapes: Shapes) -> dict[str, Any]:
    """The config fields about answer heads, which no released JSON has."""
    fields: dict[str, Any] = {}
    for layer, kind in (("logit_fc.3.weight", "mlp"), ("main.3.weight_v", "weight_norm")):
        if f"vil_prediction.{layer}" in shapes:
            fields |= {"answer_head": kind, "num_vqa_answers": _size(shapes, f"vil_prediction.{layer}", 0)}
    if "vil_prediction_gqa.logit_fc.3.weight" in shapes:
        fields["num_gqa_answers"] = _size(shapes, "vil_prediction_gqa.logit_fc.3.weight", 0)
    return fields


def _size(shapes: Shapes, name: str, axis: int) -> int:
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
        found = "missing" if shape is None else f"of shape {[*shape]}, not a matrix"
        raise InputError(f"the model config cannot be worked out from the file: {name} is {found}.")
    return shape[axis]


def _count(shapes: Shapes, prefix: str) -> int:
    numbers = {int(found[1]) for name in shapes if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))}
    return max(numbers, default=-1) + 1


def _num_heads(name: str, width: int, head_width: int) -> int:
    if width % head_width:
        raise InputError(
            f"{name} cannot be guessed: shapes do not show it, and {width} is no multiple of the usual {head_width} "
            "features a head. Give --model_config with the JSON the model was trained with."
        )
    return width // head_width
