"""One layer of a stream: self-attention, then a feed-forward block. B batch, S positions, D stream width."""

from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.nn.attention import MultiHeadAttention
from vilbert_jax.nn.dense import ACTIVATIONS, dense, residual_norm
from vilbert_jax.nn.packing import at_places


class Mlp(nn.Module):
    """Feed-forward block with residual and norm; ``BertIntermediate`` and ``BertOutput`` of the released code."""

    config: ViLBERTConfig
    stream: StreamConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"], *, deterministic: bool) -> Float[Array, "B S D"]:
        """Returns the block's output, post-norm."""
        hidden = dense(self.stream.mlp_dim, self.config, name="intermediate")(x)
        hidden = ACTIVATIONS[self.stream.activation](hidden)
        rate = self.stream.dropout_rate
        return residual_norm(hidden, x, self.config, dropout_rate=rate, deterministic=deterministic, name="output")


class TransformerLayer(nn.Module):
    """A BERT layer (post-norm); text and region layers differ in their ``stream`` alone."""

    config: ViLBERTConfig
    stream: StreamConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        attention_mask: Bool[Array, "B #S S"],
        only: Int[Array, "B P"] | None = None,
        *,
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        """Returns the new states; rows at masked positions are computed too, but nobody attends to them.

        Args:
            x: states.
            attention_mask: who sees whom.
            only: positions whose new states are wanted (L = P); all when absent. The others are read all the same.
            deterministic: False applies dropout.
        """
        stream, own = self.stream, x
        if only is not None:
            own = at_places(x, only)
            attention_mask = at_places(attention_mask, only) if attention_mask.shape[1] > 1 else attention_mask
        attention = MultiHeadAttention(
            self.config, stream.width, stream.num_heads, stream.attention_dropout_rate, name="attention"
        )
        own = residual_norm(
            attention(own, x, attention_mask, deterministic=deterministic),
            own,
            self.config,
            dropout_rate=stream.dropout_rate,
            deterministic=deterministic,
            name="attention_output",
        )
        return Mlp(self.config, stream, name="mlp")(own, deterministic=deterministic)
