"""What a model costs to run, and single-stream models of the size of a two-stream one.

T text length, R region slots (the global region included).
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.errors import InputError

Match = Literal["parameters", "compute"]


def forward_flops(config: ViLBERTConfig, text_length: int, num_regions: int) -> int:
    """Floating-point operations of the trunk for one pair; a multiply-add counts as two, training takes three times it.

    Matrix products alone: embeddings of regions, layers, poolers. Heads are left out (``head_flops``); norms,
    activations and softmax are small beside them.

    Args:
        config: the model.
        text_length: T, task token included.
        num_regions: R.
    """
    regions = (config.region_feature_dim + 5) * config.region_width * num_regions
    if config.num_streams == 1:
        layer = _layer(config.text, text_length + num_regions)
        return 2 * (regions + config.text.num_layers * layer + config.text.width**2)
    layers = {
        "text": _layer(config.text, text_length),
        "region": _layer(config.regions, num_regions),
        "co": _exchange(config, config.text, text_length, config.regions, num_regions)
        + _exchange(config, config.regions, num_regions, config.text, text_length),
        "joint": 0,
    }
    poolers = (config.text.width + config.regions.width) * config.co_width
    return 2 * (regions + sum(layers[kind] for kind, _ in config.schedule()) + poolers)


def head_flops(config: ViLBERTConfig, heads: Iterable[str], num_tokens: int, num_regions: int) -> int:
    """Floating-point operations of output heads for one pair, counted as in ``forward_flops``.

    Args:
        config: the model.
        heads: names of ``vilbert_jax.model.HEADS``; pre-training has ``tokens``, ``regions``, ``alignment``.
        num_tokens: text positions that heads of words are computed at: the predicted ones, where they are known.
        num_regions: the same of regions.

    Raises:
        InputError: for a head that does not exist.
    """
    text, regions, pair = config.text.width, config.region_width, config.pair_width
    hidden = 2 * pair
    products = {
        "tokens": num_tokens * text * (text + config.vocab_size),
        "regions": num_regions * regions * (regions + config.region_target_dim),
        "alignment": pair * 2,
        "vqa": hidden * (pair + config.num_vqa_answers),
        "gqa": hidden * (pair + config.num_gqa_answers),
        "binary": (hidden * hidden + hidden * 2) // 2,  # of two pairs, joined
        "choice": pair,
        "entailment": pair * 3,
        "grounding": num_regions * regions,
        "token_score": num_tokens * text,
    }
    names = list(heads)
    if unknown := sorted(set(names) - products.keys()):
        raise InputError(f"heads {names}: unknown {unknown}; choose from {', '.join(products)}.")
    return 2 * sum(products[name] for name in names)


def matched_single_stream(config: ViLBERTConfig, match: Match, *, text_length: int, num_regions: int) -> ViLBERTConfig:
    """The single-stream model that is nearest to a two-stream one in size.

    The paper's baseline has the depth of the text stream, and so about half of ViLBERT's parameters. Here width, heads
    and feed-forward width stay those of the text stream, which can still start from a BERT, and the depth is changed.

    Args:
        config: with two streams.
        match: ``parameters`` (of pre-training, ``num_parameters``) or ``compute`` (``forward_flops``).
        text_length: T, for the compute.
        num_regions: R, for the compute.

    Raises:
        InputError: the config has one stream.
    """
    if config.num_streams == 1:
        raise InputError("the model to be matched has one stream already; give one with num_streams=2.")

    def flops(model: ViLBERTConfig) -> int:
        return forward_flops(model, text_length, num_regions)

    cost: Callable[[ViLBERTConfig], int] = flops if match == "compute" else ViLBERTConfig.num_parameters

    def deep(num_layers: int) -> ViLBERTConfig:
        return dataclasses.replace(
            config, num_streams=1, text=dataclasses.replace(config.text, num_layers=num_layers), num_task_embeddings=0
        )

    wanted, one, two = cost(config), cost(deep(1)), cost(deep(2))
    return deep(max(1, 1 + round((wanted - one) / (two - one))))


def _layer(stream: StreamConfig, length: int) -> int:
    """Multiply-adds of a self-attention layer over ``length`` positions."""
    projections = 4 * stream.width**2 + 2 * stream.width * stream.mlp_dim
    return length * (projections + 2 * length * stream.width)


def _exchange(config: ViLBERTConfig, own: StreamConfig, length: int, other: StreamConfig, other_length: int) -> int:
    """Multiply-adds of one half of a co-attention layer: the ``own`` stream asks, the ``other`` is read."""
    query_and_output = 2 * own.width * config.co_width * length
    key_and_value = 2 * other.width * config.co_width * other_length
    products = 2 * length * other_length * config.co_width
    return query_and_output + key_and_value + products + 2 * own.width * own.mlp_dim * length
