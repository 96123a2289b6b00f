"""What a ViLBERT is made of: frozen dataclasses, presets, the order in which layers run, parameter counts.

Sources: the released ``config/bert_*.json`` files of facebookresearch/vilbert-multi-task; Lu et al., NeurIPS 2019.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args

from vilbert_jax.errors import InputError

Activation = Literal["gelu", "relu", "swish"]
Fusion = Literal["mul", "sum"]
RegionObjective = Literal["kl", "regression", "nce"]
AnswerHead = Literal["mlp", "weight_norm"]
DType = Literal["float32", "bfloat16", "float64"]
LayerKind = Literal["text", "region", "co", "joint"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One transformer stream: width, depth and dropout of its layers."""

    width: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    activation: Activation = "gelu"
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1

    def num_layer_parameters(self) -> int:
        """Parameters of one self-attention layer with its feed-forward block."""
        attention = 4 * _dense(self.width, self.width) + 2 * self.width
        return attention + self.num_mlp_parameters()

    def num_mlp_parameters(self) -> int:
        """Parameters of the feed-forward block and the norm behind it."""
        return _dense(self.width, self.mlp_dim) + _dense(self.mlp_dim, self.width) + 2 * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViLBERTConfig:
    """The whole model; every field changes the function it computes or the parameters it has.

    With ``num_streams=1`` it is the paper's single-stream baseline, one BERT over words and regions as one sequence
    (``basebert.py`` of the released code). ``text`` then describes that stream; ``regions``, the ``co`` fields,
    ``use_coattention`` and ``fusion`` are not read.

    Attributes:
        num_streams: 2, or 1 for the baseline.
        text: the text stream (BERT).
        regions: the visual stream.
        vocab_size: rows of the word embedding table.
        max_text_length: rows of the position table; longer inputs are refused.
        num_token_types: segment ids that exist.
        num_task_embeddings: rows of the task-token table; 0 means the model has no task token (the paper's model).
        region_feature_dim: width of the detector features.
        region_target_dim: outputs of the region head: detector classes for ``kl``, ``region_feature_dim`` otherwise.
        co_width: width of the co-attention projections and of the poolers.
        co_num_heads: heads of the co-attention layers.
        text_co_layers: text layer before which co-attention layer k runs.
        region_co_layers: region layer before which co-attention layer k runs.
        use_coattention: off leaves the co-attention layers out; the streams then only meet in the fused pooled vector.
        fusion: how the two pooled vectors become one.
        region_objective: what masked regions predict; it fixes the meaning of ``region_target_dim``.
        num_negatives: negatives of the ``nce`` objective.
        answer_head: ``mlp`` is vilbert-multi-task's classifier, ``weight_norm`` the original release's.
        num_vqa_answers: outputs of the ``vqa`` head.
        num_gqa_answers: outputs of the ``gqa`` head.
        initializer_range: standard deviation of the normal that initialises kernels and embeddings.
        dtype: computation dtype; parameters are created in float32.
    """

    text: StreamConfig
    regions: StreamConfig
    vocab_size: int
    region_feature_dim: int
    region_target_dim: int
    co_width: int
    co_num_heads: int
    text_co_layers: tuple[int, ...]
    region_co_layers: tuple[int, ...]
    num_streams: int = 2
    max_text_length: int = 512
    num_token_types: int = 2
    num_task_embeddings: int = 0
    use_coattention: bool = True
    fusion: Fusion = "mul"
    region_objective: RegionObjective = "kl"
    num_negatives: int = 128
    answer_head: AnswerHead = "mlp"
    num_vqa_answers: int = 3129
    num_gqa_answers: int = 1533
    initializer_range: float = 0.02
    dtype: DType = "float32"

    def __post_init__(self):
        """Refuses configurations that no model can be built from.

        Raises:
            InputError: naming the field, its value and what is allowed.
        """
        _check_types(self)
        if self.num_streams not in (1, 2):
            raise InputError(f"num_streams is {self.num_streams}; it must be 2, or 1 for the single-stream baseline.")
        if self.num_streams == 1 and self.num_task_embeddings:
            raise InputError(
                f"num_streams is 1 and num_task_embeddings {self.num_task_embeddings}: the single-stream baseline has "
                "no task tokens; set num_task_embeddings to 0."
            )
        if self.num_streams == 1 and self.num_token_types < 2:
            raise InputError("num_streams is 1 and num_token_types 1: regions have the second type; set it to 2.")
        self._check_stream("text", self.text)
        if self.num_streams == 2:
            self._check_stream("regions", self.regions)
            self._check_coattention()
        _require_member("region_objective", self.region_objective, get_args(RegionObjective))
        _require_member("answer_head", self.answer_head, get_args(AnswerHead))
        _require_member("dtype", self.dtype, get_args(DType))
        if self.region_objective != "kl" and self.region_target_dim != self.region_feature_dim:
            raise InputError(
                f"region_objective {self.region_objective!r} predicts region features, so region_target_dim "
                f"({self.region_target_dim}) must equal region_feature_dim ({self.region_feature_dim})."
            )

    def _check_stream(self, name: str, stream: StreamConfig) -> None:
        _check_types(stream, prefix=f"{name}.")
        _require_divisible(f"{name}.width", stream.width, f"{name}.num_heads", stream.num_heads)
        _require_member(f"{name}.activation", stream.activation, get_args(Activation))
        for rate in (stream.dropout_rate, stream.attention_dropout_rate):
            if not 0 <= rate < 1:
                raise InputError(f"a dropout rate of {name} is {rate}; it must be at least 0 and below 1.")

    def _check_coattention(self) -> None:
        _require_divisible("co_width", self.co_width, "co_num_heads", self.co_num_heads)
        _require_member("fusion", self.fusion, get_args(Fusion))
        if len(self.text_co_layers) != len(self.region_co_layers):
            raise InputError(
                f"text_co_layers {self.text_co_layers} and region_co_layers {self.region_co_layers} must be equally "
                "long: co-attention layer k runs before text layer text_co_layers[k] and region layer "
                "region_co_layers[k]."
            )
        for name, indices, num_layers in (
            ("text_co_layers", self.text_co_layers, self.text.num_layers),
            ("region_co_layers", self.region_co_layers, self.regions.num_layers),
        ):
            if list(indices) != sorted(indices) or not all(0 <= i < num_layers for i in indices):
                raise InputError(f"{name} {indices} must be in ascending order and name layers 0 to {num_layers - 1}.")

    # --- presets

    @classmethod
    def base(cls, num_co_layers: int = 6, **overrides: Any) -> Self:
        """The paper's model: BERT-base text stream; region and co-attention layers, 6 each unless told otherwise."""
        text = StreamConfig(width=768, num_layers=12, num_heads=12, mlp_dim=3072)
        return cls(**_released_defaults(text, num_co_layers) | overrides)

    @classmethod
    def large(cls, num_co_layers: int = 6, **overrides: Any) -> Self:
        """The released BERT-large variant; the visual stream is the one of ``base``."""
        text = StreamConfig(width=1024, num_layers=24, num_heads=16, mlp_dim=4096)
        return cls(**_released_defaults(text, num_co_layers) | overrides)

    @classmethod
    def single_stream(cls, **overrides: Any) -> Self:
        """The paper's baseline at the size of BERT-base (``bert_base_baseline.json``): 113.5 M parameters."""
        fields: dict[str, Any] = dict(num_streams=1, answer_head="weight_norm")
        return cls.base(**fields | overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """A model with every part of ``base`` that trains on a CPU in minutes."""
        fields: dict[str, Any] = dict(
            text=StreamConfig(width=128, num_layers=3, num_heads=4, mlp_dim=256),
            regions=StreamConfig(width=128, num_layers=2, num_heads=4, mlp_dim=256),
            vocab_size=30522,
            max_text_length=64,
            region_feature_dim=2048,
            region_target_dim=1601,
            co_width=128,
            co_num_heads=4,
            text_co_layers=(1, 2),
            region_co_layers=(0, 1),
        )
        return cls(**fields | overrides)

    # --- structure

    @property
    def region_width(self) -> int:
        """Width of the region states."""
        return self.regions.width if self.num_streams == 2 else self.text.width

    @property
    def pair_width(self) -> int:
        """Width of the vector that stands for a pair of text and image."""
        return self.co_width if self.num_streams == 2 else self.text.width

    def schedule(self) -> Iterator[tuple[LayerKind, int]]:
        """Layers in the order they run: each stream up to its co-attention layer, then the exchange, and so on.

        Text runs before regions where the two are independent. Source: ``BertEncoder.forward`` of vilbert.py. With one
        stream every layer is a joint one.
        """
        if self.num_streams == 1:
            for i in range(self.text.num_layers):
                yield "joint", i
            return
        stops = [*zip(self.text_co_layers, self.region_co_layers, strict=True)]
        stops.append((self.text.num_layers, self.regions.num_layers))
        text_start = region_start = 0
        for k, (text_stop, region_stop) in enumerate(stops):
            for i in range(text_start, text_stop):
                yield "text", i
            for i in range(region_start, region_stop):
                yield "region", i
            if self.use_coattention and k < len(self.text_co_layers):
                yield "co", k
            text_start, region_start = text_stop, region_stop

    def num_parameters(self) -> int:
        """Parameters of ``ViLBERTForPretraining``; the word table, tied to the decoder, counts once."""
        text, regions = self.text.width, self.region_width
        tables = self.vocab_size + self.max_text_length + self.num_token_types + self.num_task_embeddings
        embeddings = tables * text + 2 * text + _dense(self.region_feature_dim, regions) + _dense(5, regions)
        embeddings += 2 * regions
        layers = self.text.num_layers * self.text.num_layer_parameters()
        if self.num_streams == 1:
            embeddings += self.num_token_types * text
            poolers = _dense(text, text)
        else:
            layers += self.regions.num_layers * self.regions.num_layer_parameters()
            poolers = _dense(text, self.co_width) + _dense(regions, self.co_width)
            if self.use_coattention:
                attention = 3 * (_dense(text, self.co_width) + _dense(regions, self.co_width))
                attention += _dense(self.co_width, text) + _dense(self.co_width, regions) + 2 * (text + regions)
                mlps = self.text.num_mlp_parameters() + self.regions.num_mlp_parameters()
                layers += len(self.text_co_layers) * (attention + mlps)
        token_head = _dense(text, text) + 2 * text + self.vocab_size
        region_head = _dense(regions, regions) + 2 * regions + _dense(regions, self.region_target_dim)
        return embeddings + layers + poolers + token_head + region_head + _dense(self.pair_width, 2)

    # --- exchange

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict (JSON types), the inverse of ``from_dict``."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Builds the config from nested plain dicts.

        Raises:
            InputError: for names that are not fields and for fields that are missing.
        """
        given = dict(fields)
        for stream in ("text", "regions"):
            if isinstance(given.get(stream), Mapping):
                given[stream] = _build(StreamConfig, given[stream], prefix=f"{stream}.")
        for name in ("text_co_layers", "region_co_layers"):
            if isinstance(given.get(name), list):
                given[name] = tuple(given[name])
        return _build(cls, given)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> "ViLBERTConfig":
        """Reads a released ``config/*.json``, or a JSON that ``to_dict`` wrote.

        Raises:
            InputError: if the file is absent or not JSON, or uses an option that is not supported here.
        """
        try:
            fields = json.loads(pathlib.Path(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a model config: {error}.") from error
        if not isinstance(fields, dict):
            raise InputError(f"{path} holds a JSON {type(fields).__name__}, not an object with a model's fields.")
        if "text" in fields:
            return cls.from_dict(fields)
        from vilbert_jax.released_config import from_released  # here, since that file builds on this one

        return from_released(fields)


def _released_defaults(text: StreamConfig, num_co_layers: int) -> dict[str, Any]:
    return dict(
        text=text,
        regions=StreamConfig(width=1024, num_layers=num_co_layers, num_heads=8, mlp_dim=1024),
        vocab_size=30522,
        region_feature_dim=2048,
        region_target_dim=1601,
        co_width=1024,
        co_num_heads=8,
        text_co_layers=tuple(range(text.num_layers - num_co_layers, text.num_layers)),
        region_co_layers=tuple(range(num_co_layers)),
    )


def _dense(fan_in: int, fan_out: int) -> int:
    return (fan_in + 1) * fan_out


def _build(cls: Any, fields: Mapping[str, Any], prefix: str = "") -> Any:
    declared = {f.name: f for f in dataclasses.fields(cls)}
    required = {n for n, f in declared.items() if f.default is dataclasses.MISSING}
    unknown, missing = sorted(fields.keys() - declared.keys()), sorted(required - fields.keys())
    if unknown or missing:
        raise InputError(
            f"model config: unknown fields {[prefix + n for n in unknown]}, missing fields "
            f"{[prefix + n for n in missing]}; {cls.__name__} has {', '.join(declared)}."
        )
    return cls(**fields)


def _check_types(config: Any, prefix: str = "") -> None:
    """Sizes are integers of at least 1 (counts that may be absent, 0), switches booleans, rates finite numbers."""
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if field.type is int:
            least = 0 if field.name in ("num_task_embeddings", "num_negatives") else 1
            fine, expected = is_int and value >= least, f"an integer of at least {least}"
        elif field.type is float:
            fine, expected = (is_int or isinstance(value, float)) and 0 <= value < math.inf, "a number of at least 0"
        elif field.type is bool:
            fine, expected = isinstance(value, bool), "true or false"
        elif field.type is StreamConfig:
            fine, expected = isinstance(value, StreamConfig), "the fields of a stream"
        elif field.type == tuple[int, ...]:
            fine = isinstance(value, tuple) and all(isinstance(i, int) for i in value)
            expected = "a list of layer numbers"
        else:  # names: checked against their choices
            continue
        if not fine:
            raise InputError(f"model config: {name} is {value!r}; it must be {expected}.")


def _require_divisible(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        raise InputError(f"{name} ({value}) must be a multiple of {divisor_name} ({divisor}).")


def _require_member(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
