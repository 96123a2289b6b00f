"""Every output head of the released models.

B batch, S positions, D width of a stream, V vocabulary, C region targets, W width of the pooled vectors, K outputs.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.dense import ACTIVATIONS, dense, layer_norm, logits_layer
from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.products import product, wide

HEAD_DROPOUT_RATE = 0.1  # hard-coded in the released code, as are the next two
WEIGHT_NORM_DROPOUT_RATE = 0.5
PADDED_REGION_LOGIT = -10000.0


def head_dropout(x: Float[Array, "..."], *, deterministic: bool) -> Float[Array, "..."]:
    """The dropout in front of the heads that read a fused or a stream state directly."""
    return Dropout(HEAD_DROPOUT_RATE)(x, deterministic=deterministic)


def _transform(x: Float[Array, "B S D"], config: ViLBERTConfig) -> Float[Array, "B S D"]:
    """``norm(gelu(linear(x)))``. As released, the region head too uses the *text* stream's activation."""
    x = dense(x.shape[-1], config, name="transform")(x)
    return layer_norm(config, name="transform_norm")(ACTIVATIONS[config.text.activation](x))


class TokenHead(nn.Module):
    """Masked language modelling; the output matrix is the word embedding table, the bias its own."""

    config: ViLBERTConfig

    @nn.compact
    def __call__(self, text: Float[Array, "B S D"], word_embeddings: nn.Embed) -> Float[Array, "B S V"]:
        """Returns vocabulary logits for every given position."""
        bias = self.param("bias", nn.initializers.zeros, (self.config.vocab_size,))
        logits = product("D,VD->V", _transform(text, self.config), word_embeddings.embedding, wide(self.config.dtype))
        return logits + jnp.broadcast_to(bias, logits.shape).astype(logits.dtype)


class RegionHead(nn.Module):
    """Masked region modelling: detector classes, or features when those are the objective."""

    config: ViLBERTConfig

    @nn.compact
    def __call__(self, regions: Float[Array, "B S D"]) -> Float[Array, "B S C"]:
        """Returns one row a region, the global one included."""
        return logits_layer(self.config.region_target_dim, self.config, name="logits")(_transform(regions, self.config))


class AnswerHead(nn.Module):
    """Two-layer classifier of vilbert-multi-task (``SimpleClassifier``): linear, gelu, norm, linear."""

    config: ViLBERTConfig
    num_outputs: int

    @nn.compact
    def __call__(self, fused: Float[Array, "B W"]) -> Float[Array, "B K"]:
        """Returns the logits."""
        hidden = ACTIVATIONS["gelu"](dense(2 * self.config.pair_width, self.config, name="hidden")(fused))
        hidden = layer_norm(self.config, name="hidden_norm")(hidden)
        return logits_layer(self.num_outputs, self.config, name="logits")(hidden)


class WeightNormAnswerHead(nn.Module):
    """Two-layer classifier of the original release: weight-normalised linear, relu, dropout, the same again."""

    config: ViLBERTConfig
    num_outputs: int

    @nn.compact
    def __call__(self, fused: Float[Array, "B W"], *, deterministic: bool) -> Float[Array, "B K"]:
        """Returns the logits."""
        hidden = nn.relu(WeightNormDense(self.config, 2 * self.config.pair_width, name="hidden")(fused))
        hidden = Dropout(WEIGHT_NORM_DROPOUT_RATE)(hidden, deterministic=deterministic)
        return WeightNormDense(self.config, self.num_outputs, name="logits")(hidden)


class WeightNormDense(nn.Module):
    """A linear layer whose kernel is ``gain * kernel / norm(kernel)``, the norm over the whole matrix."""

    config: ViLBERTConfig
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B K"]:
        """Returns ``x @ kernel + bias`` with the normalised kernel, in float32 or better."""
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        gain = self.param("gain", lambda _: jnp.linalg.norm(kernel))  # starts as an ordinary linear layer
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel.astype(wide(kernel.dtype))  # the norm is a sum over the whole matrix
        normalised = gain / jnp.linalg.norm(kernel) * kernel
        output_dtype = wide(self.config.dtype)
        y = product("I,IO->O", x.astype(self.config.dtype), normalised.astype(output_dtype), output_dtype)
        return y + bias.astype(output_dtype)[None]


def grounding_logits(logits: Float[Array, "B S 1"], region_mask: Bool[Array, "B S"]) -> Float[Array, "B S"]:
    """One logit a region; padded regions get -10000 added, as released, since their logits enter the loss."""
    return logits[..., 0] + jnp.where(region_mask, 0, PADDED_REGION_LOGIT).astype(logits.dtype)
