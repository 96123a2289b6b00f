"""A compact two-stream ViLBERT in plain PyTorch: what the JAX model's time and memory are compared with.

It works as the released code does: rows padded to full length, vocabulary logits for all words, class logits for all
regions. Attention is ``scaled_dot_product_attention``: on a CPU at the base sizes 0.5 to 0.8 of the time of an explicit
softmax without dropout and about 1.1 of it with; on GPUs one kernel. LayerNorm is the native one. Shapes and branches
depend on no values: ``torch.compile`` takes the model as one graph, under autocast too. Nothing here imports JAX: a
process can hold PyTorch alone.

B batch, T text length, S region slots (slot 0 is the global region), L queries, K keys, D width of a stream (Dt, Dv of
either), W of the projections, F of the features, V vocabulary, C region targets. Source: ``vilbert.py`` of
facebookresearch/vilbert-multi-task. Parameters are named as in ``vilbert_jax``, less some levels.
"""

# torch is optional, and types are checked without it.
# pyright: reportMissingImports=false

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.errors import InputError

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}
HEAD_DROPOUT_RATE = 0.1  # hard-coded in the released code


class Batch(NamedTuple):
    """What the released data loader hands over; ``prepare`` makes it."""

    token_ids: Tensor  # [B,T] int64
    token_types: Tensor  # [B,T] int64
    text_mask: Tensor  # [B,T] bool
    region_features: Tensor  # [B,S,F]
    region_boxes: Tensor  # [B,S,5]
    region_mask: Tensor  # [B,S] bool
    token_labels: Tensor  # [B,T] int64, -1 where nothing is predicted
    region_targets: Tensor  # [B,R,C] class distributions
    region_selected: Tensor  # [B,R] bool
    alignment_labels: Tensor  # [B] int64, 0 = the pair matches, 1 = it does not, -1 = no example


class Logits(NamedTuple):
    """Of the three heads."""

    tokens: Tensor  # [B,T,V]
    regions: Tensor  # [B,S,C]
    alignment: Tensor  # [B,2]


def norm(width: int) -> nn.LayerNorm:
    """BERT's."""
    return nn.LayerNorm(width, eps=1e-12)


class TextEmbeddings(nn.Module):
    """Words, positions and token types; looking word 0 up trains nothing, as released."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        width = config.text.width
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_text_length, width)
        self.token_type_embeddings = nn.Embedding(config.num_token_types, width)
        self.norm, self.dropout = norm(width), nn.Dropout(config.text.dropout_rate)

    def forward(self, token_ids: Tensor, token_types: Tensor) -> Tensor:
        """[B,T,Dt]."""
        positions = self.position_embeddings.weight[: token_ids.shape[1]]
        return self.dropout(
            self.norm(self.word_embeddings(token_ids) + positions + self.token_type_embeddings(token_types))
        )


class RegionEmbeddings(nn.Module):
    """Features and boxes; the dropout rate is, as released, that of the text."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        width = config.regions.width
        self.features, self.boxes = nn.Linear(config.region_feature_dim, width), nn.Linear(5, width)
        self.norm, self.dropout = norm(width), nn.Dropout(config.text.dropout_rate)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """[B,S,Dv]."""
        return self.dropout(self.norm(self.features(features) + self.boxes(boxes)))


class Attention(nn.Module):
    """States of width ``own`` ask those of width ``other``: self-attention where both are the same."""

    def __init__(self, own: int, other: int, width: int, num_heads: int, dropout_rate: float):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(own, width), nn.Linear(other, width), nn.Linear(other, width)
        self.num_heads, self.dropout_rate = num_heads, dropout_rate

    def forward(self, own: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """[B,L,W] of states [B,L,D], others [B,K,D] and the others' mask [B,K]."""
        projected = self.query(own), self.key(other), self.value(other)
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in projected)
        rate = self.dropout_rate if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :], dropout_p=rate)
        return found.transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """Attention and feed-forward block, post-norm: a layer of a stream, or one direction of a co-attention layer."""

    def __init__(self, stream: StreamConfig, other: StreamConfig, width: int, num_heads: int):
        super().__init__()
        # Probabilities drop, as released, at the rate of the stream that is read.
        self.attention = Attention(stream.width, other.width, width, num_heads, other.attention_dropout_rate)
        self.attention_output = nn.Linear(width, stream.width)
        self.intermediate = nn.Linear(stream.width, stream.mlp_dim)
        self.output = nn.Linear(stream.mlp_dim, stream.width)
        self.attention_output_norm, self.output_norm = norm(stream.width), norm(stream.width)
        self.activation, self.dropout = ACTIVATIONS[stream.activation], nn.Dropout(stream.dropout_rate)

    def forward(self, own: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """The new states."""
        own = self.attention_output_norm(own + self.dropout(self.attention_output(self.attention(own, other, mask))))
        return self.output_norm(own + self.dropout(self.output(self.activation(self.intermediate(own)))))


class CoLayer(nn.Module):
    """Each stream asks the other."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        self.text = Layer(config.text, config.regions, config.co_width, config.co_num_heads)
        self.region = Layer(config.regions, config.text, config.co_width, config.co_num_heads)

    def forward(self, text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The new words and regions, both from the states before the layer."""
        return self.text(text, regions, region_mask), self.region(regions, text, text_mask)


class TokenHead(nn.Module):
    """Vocabulary logits; the output matrix is the word table."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        self.transform, self.transform_norm = nn.Linear(config.text.width, config.text.width), norm(config.text.width)
        self.activation, self.bias = ACTIVATIONS[config.text.activation], nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, text: Tensor, table: Tensor) -> Tensor:
        """[B,T,V]."""
        return F.linear(self.transform_norm(self.activation(self.transform(text))), table, self.bias)


class RegionHead(nn.Module):
    """Logits of the detector's classes; the activation is, as released, that of the text."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        width = config.regions.width
        self.transform, self.transform_norm = nn.Linear(width, width), norm(width)
        self.activation, self.logits = ACTIVATIONS[config.text.activation], nn.Linear(width, config.region_target_dim)

    def forward(self, regions: Tensor) -> Tensor:
        """[B,S,C]."""
        return self.logits(self.transform_norm(self.activation(self.transform(regions))))


class TorchViLBERT(nn.Module):
    """ViLBERT with its three pre-training heads."""

    def __init__(self, config: ViLBERTConfig):
        super().__init__()
        if config.num_streams != 2 or config.num_task_embeddings or config.region_objective != "kl":
            raise InputError(
                f"the PyTorch model has two streams, no task tokens and the kl objective; the config says num_streams "
                f"{config.num_streams}, num_task_embeddings {config.num_task_embeddings} and region_objective "
                f"{config.region_objective!r}: use 2, 0 and 'kl'."
            )
        self.schedule, self.fusion = list(config.schedule()), config.fusion
        self.text_embeddings, self.region_embeddings = TextEmbeddings(config), RegionEmbeddings(config)
        text, regions = config.text, config.regions
        num_co_layers = len(config.text_co_layers) if config.use_coattention else 0
        self.text_layer, self.region_layer = (
            nn.ModuleList(Layer(stream, stream, stream.width, stream.num_heads) for _ in range(stream.num_layers))
            for stream in (text, regions)
        )
        self.co_layer = nn.ModuleList(CoLayer(config) for _ in range(num_co_layers))
        self.text_pooler = nn.Linear(text.width, config.co_width)
        self.region_pooler = nn.Linear(regions.width, config.co_width)
        self.token_head, self.region_head = TokenHead(config), RegionHead(config)
        self.alignment_head = nn.Linear(config.co_width, 2)
        self.head_dropout = nn.Dropout(HEAD_DROPOUT_RATE)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Final states of words [B,T,Dt] and regions [B,S,Dv]."""
        text = self.text_embeddings(batch.token_ids, batch.token_types)
        regions = self.region_embeddings(batch.region_features, batch.region_boxes)
        for kind, i in self.schedule:
            if kind == "text":
                text = self.text_layer[i](text, text, batch.text_mask)
            elif kind == "region":
                regions = self.region_layer[i](regions, regions, batch.region_mask)
            else:
                text, regions = self.co_layer[i](text, regions, batch.text_mask, batch.region_mask)
        return text, regions

    def align(self, text: Tensor, regions: Tensor) -> Tensor:
        """[B,2] from the final states; with ``encode`` all that scoring pairs needs."""
        text, regions = F.relu(self.text_pooler(text[:, 0])), F.relu(self.region_pooler(regions[:, 0]))
        return self.alignment_head(self.head_dropout(text * regions if self.fusion == "mul" else text + regions))

    def forward(self, batch: Batch) -> Logits:
        """Logits at all positions."""
        text, regions = self.encode(batch)
        tokens = self.token_head(text, self.text_embeddings.word_embeddings.weight)
        return Logits(tokens, self.region_head(regions), self.align(text, regions))


RENAMED = (
    ("^trunk/(encoder/)?", ""), ("_layer_", "_layer/"), (r"(co_layer/\d+/(text|region))_", r"\1/"), ("/mlp/", "/"),
    ("/(kernel|scale|embedding)$", "/weight"), ("/", "."),
)  # fmt: skip


def state_dict(params: Mapping[str, Any], path: str = "") -> dict[str, Tensor]:
    """Copies of the JAX model's parameters, or of anything in their shape, under this model's names."""
    if not isinstance(params, Mapping):
        array = np.asarray(params)
        name = path
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        return {name: torch.tensor(array.T if path.endswith("/kernel") else array)}
    found = {}
    for key, value in params.items():
        found |= state_dict(value, f"{path}/{key}" if path else key)
    return found


def from_params(config: ViLBERTConfig, params: Mapping[str, Any]) -> TorchViLBERT:
    """The model with the parameters of ``ViLBERTForPretraining``; float64 where the config says so, else float32.

    Raises:
        InputError: the config is not of a model that can be compared.
        RuntimeError: a parameter is missing, left over or misshaped; PyTorch's own, naming each.
    """
    model = TorchViLBERT(config).to(torch.float64 if config.dtype == "float64" else torch.float32)
    model.load_state_dict(state_dict(params))
    return model
