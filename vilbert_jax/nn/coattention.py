"""The co-attention layer, ViLBERT's own invention (paper section 2.2, figure 2b).

B batch, T text length, R regions, Dt and Dv widths of the streams.
"""

from flax import linen as nn
from jax import Array
from jaxtyping import Float

from vilbert_jax.config import StreamConfig, ViLBERTConfig
from vilbert_jax.nn.attention import MultiHeadAttention
from vilbert_jax.nn.dense import residual_norm
from vilbert_jax.nn.layers import Mlp
from vilbert_jax.nn.packing import Masks


class CoAttentionLayer(nn.Module):
    """Each stream queries the other, adds what it found to itself, and runs its own feed-forward block.

    Both directions read the states from before the layer. ``BertConnectionLayer`` of the released code, where the
    region stream is "1" and the text stream "2". Attention-probability dropout is, as released, the rate of the stream
    that is *read*: text queries over regions drop at the regions' rate.
    """

    config: ViLBERTConfig

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B T Dt"],
        regions: Float[Array, "B R Dv"],
        masks: Masks,
        *,
        deterministic: bool,
    ) -> tuple[Float[Array, "B T Dt"], Float[Array, "B R Dv"]]:
        """Returns the new text and region states."""
        config = self.config

        def exchange(
            name: str, own: Array, stream: StreamConfig, other: Array, other_mask: Array, other_stream: StreamConfig
        ) -> Array:
            attention = MultiHeadAttention(
                config,
                config.co_width,
                config.co_num_heads,
                other_stream.attention_dropout_rate,
                name=f"{name}_attention",
            )
            own = residual_norm(
                attention(own, other, other_mask, deterministic=deterministic),
                own,
                config,
                dropout_rate=stream.dropout_rate,
                deterministic=deterministic,
                name=f"{name}_attention_output",
            )
            return Mlp(config, stream, name=f"{name}_mlp")(own, deterministic=deterministic)

        return (
            exchange("text", text, config.text, regions, masks.text_over_regions, config.regions),
            exchange("region", regions, config.regions, text, masks.regions_over_text, config.text),
        )
