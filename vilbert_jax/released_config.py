"""The JSON configs of the released code and ours: one table, read in both directions.

Source: ``BertConfig`` in ``vilbert/vilbert.py`` of facebookresearch/vilbert-multi-task, and in ``basebert.py`` for the
single-stream baseline, whose JSON files (``bert_base_baseline.json``) hold BERT's keys alone.
"""

from collections.abc import Mapping
from typing import Any, get_args

from vilbert_jax.config import RegionObjective, StreamConfig, ViLBERTConfig
from vilbert_jax.errors import InputError

_NUM_TASK_EMBEDDINGS = 20  # hard-coded in the released code
_OFF = (None, False, 0)

_Keys = dict[str, tuple[str, Any]]

# Released key -> our field, and the released BertConfig constructor's default for a JSON that leaves the key out.
_BERT_KEYS: _Keys = {
    "hidden_size": ("text.width", 768),
    "num_hidden_layers": ("text.num_layers", 12),
    "num_attention_heads": ("text.num_heads", 12),
    "intermediate_size": ("text.mlp_dim", 3072),
    "hidden_act": ("text.activation", "gelu"),
    "hidden_dropout_prob": ("text.dropout_rate", 0.1),
    "attention_probs_dropout_prob": ("text.attention_dropout_rate", 0.1),
    "max_position_embeddings": ("max_text_length", 512),
    "type_vocab_size": ("num_token_types", 2),
    "initializer_range": ("initializer_range", 0.02),
}
_REGION_KEYS: _Keys = {  # constants of the released baseline; its JSON has them here where they differ
    "v_feature_size": ("region_feature_dim", 2048),
    "v_target_size": ("region_target_dim", 1601),
}
_TWO_STREAM_KEYS: _Keys = {
    "v_hidden_size": ("regions.width", 768),
    "v_num_hidden_layers": ("regions.num_layers", 3),
    "v_num_attention_heads": ("regions.num_heads", 12),
    "v_intermediate_size": ("regions.mlp_dim", 3072),
    "v_hidden_act": ("regions.activation", "gelu"),
    "v_hidden_dropout_prob": ("regions.dropout_rate", 0.1),
    "v_attention_probs_dropout_prob": ("regions.attention_dropout_rate", 0.1),
    "bi_hidden_size": ("co_width", 1024),
    "bi_num_attention_heads": ("co_num_heads", 16),
    "v_biattention_id": ("region_co_layers", (0, 1)),
    "t_biattention_id": ("text_co_layers", (10, 11)),
    "with_coattention": ("use_coattention", True),
    "fusion_method": ("fusion", "mul"),
    "visual_target": ("region_objective", 0),  # there an index, here a name
    "num_negative": ("num_negatives", 128),
    "task_specific_tokens": ("num_task_embeddings", False),  # there a switch, here the table's length
}

# Keys the released model never reads, or that only choose what its forward call returns.
_DEAD_KEYS = {
    "v_initializer_range",
    "bi_intermediate_size",
    "bi_attention_type",
    "pooling_method",
    "objective",
    "visualization",
}

_UNSUPPORTED = {
    "dynamic_attention": "dynamic_attention: text-gated visual self-attention is not supported; no released "
    "checkpoint uses it.",
    "fixed_t_layer": "fixed_t_layer: freeze layers with a learning-rate multiplier of 0 for text_layer_0, … instead.",
    "fixed_v_layer": "fixed_v_layer: freeze layers with a learning-rate multiplier of 0 for region_layer_0, … instead.",
    "fast_mode": "fast_mode: it is a way of calling the model, not a model; set it to false.",
    "in_batch_pairs": "in_batch_pairs: no released script uses it; set it to false.",
}


def from_released(fields: Mapping[str, Any]) -> ViLBERTConfig:
    """Translates the keys of a released JSON; keys it lacks take the released constructor's defaults.

    A JSON of BERT's keys without one that two streams alone have describes the single-stream baseline.

    Raises:
        InputError: naming every key that is unknown or asks for an unsupported option; or it is the config of a model
            of the transformers library.
    """
    if "model_type" in fields:
        raise InputError(
            f"this is the config of a {fields['model_type']!r} of the transformers library, which says nothing about "
            "regions: as weights, name its folder; as the config of a ViLBERT, give a released JSON, such as "
            "bert_base_6layer_6conect.json (bert_base_baseline.json for one stream), or one that to_dict() made."
        )
    is_baseline = _is_baseline(fields)
    keys = _BERT_KEYS | _REGION_KEYS | ({} if is_baseline else _TWO_STREAM_KEYS)
    switch = fields.get("task_specific_tokens", False)
    problems = [] if isinstance(switch, bool) else [f"task_specific_tokens={switch!r}: must be true or false"]
    problems += [reason for key, reason in _UNSUPPORTED.items() if fields.get(key) not in _OFF]
    if fields.get("model", "bert") != "bert":
        problems.append(
            f"model={fields['model']!r}: only the BERT text stream exists; the released RoBERTa path "
            "never applied its position offset."
        )
    known = keys.keys() | _UNSUPPORTED.keys() | _DEAD_KEYS | {"vocab_size", "model"}
    objective = fields.get("visual_target", 0)
    if type(objective) is not int or objective not in range(len(get_args(RegionObjective))):
        problems.append(f"visual_target={objective!r}: must be 0 (KL), 1 (regression) or 2 (NCE)")
    problems += [f"{key}: not a released key" for key in fields if key not in known and not key.startswith("_")]
    if "vocab_size" not in fields:
        problems.append("vocab_size: missing")
    if problems:
        raise InputError("this model config cannot be used:\n  " + "\n  ".join(problems))
    ours: dict[str, Any] = {"text": {}, "regions": {}, "vocab_size": fields["vocab_size"]}
    for key, (path, default) in keys.items():
        stream, _, name = path.rpartition(".")
        (ours[stream] if stream else ours)[name] = fields.get(key, default)
    if is_baseline:
        del ours["regions"]
        return ViLBERTConfig.single_stream(**ours | {"text": StreamConfig(**ours["text"])})
    ours["region_objective"] = get_args(RegionObjective)[ours["region_objective"]]
    ours["num_task_embeddings"] = _NUM_TASK_EMBEDDINGS if ours["num_task_embeddings"] else 0
    return ViLBERTConfig.from_dict(ours)


def to_released(config: ViLBERTConfig) -> dict[str, Any]:
    """The released JSON keys of a config (answer heads and dtype have none).

    Raises:
        InputError: a single-stream model whose region head does not predict classes, which has no key.
    """
    is_baseline = config.num_streams == 1
    if is_baseline and config.region_objective != "kl":
        raise InputError(
            f"region_objective is {config.region_objective!r}; the released single-stream baseline predicts classes "
            "(kl) and has no config key to say otherwise."
        )
    ours = config.to_dict()
    released = {"vocab_size": config.vocab_size}
    for key, (path, default) in (_BERT_KEYS | _REGION_KEYS | ({} if is_baseline else _TWO_STREAM_KEYS)).items():
        stream, _, name = path.rpartition(".")
        value = (ours[stream] if stream else ours)[name]
        if not (is_baseline and key in _REGION_KEYS and value == default):
            released[key] = value
    if not is_baseline:
        released["visual_target"] = get_args(RegionObjective).index(config.region_objective)
        released["task_specific_tokens"] = config.num_task_embeddings > 0
    return released


def _is_baseline(fields: Mapping[str, Any]) -> bool:
    two_streams = _TWO_STREAM_KEYS.keys() | _UNSUPPORTED.keys() | _DEAD_KEYS | {"model"}
    return not fields.keys() & two_streams and bool(fields.keys() & _BERT_KEYS.keys())
