"""The two-stream encoder: layers of both streams and the co-attention layers between them, in schedule order.

B batch, T text length, R regions, Dt and Dv widths of the streams.
"""

from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.coattention import CoAttentionLayer
from vilbert_jax.nn.layers import TransformerLayer


class TwoStreamEncoder(nn.Module):
    """Runs ``config.schedule()``. Layers are unrolled: they are unlike, and their names are the checkpoint's."""

    config: ViLBERTConfig

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B T Dt"],
        regions: Float[Array, "B R Dv"],
        text_mask: Bool[Array, "B T"],
        region_mask: Bool[Array, "B R"],
        *,
        deterministic: bool,
    ) -> tuple[Float[Array, "B T Dt"], Float[Array, "B R Dv"]]:
        """Returns the final states of both streams."""
        config = self.config
        for kind, i in config.schedule():
            if kind == "co":
                layer = CoAttentionLayer(config, name=f"co_layer_{i}")
                text, regions = layer(text, regions, text_mask, region_mask, deterministic=deterministic)
            elif kind == "text":
                layer = TransformerLayer(config, config.text, name=f"text_layer_{i}")
                text = layer(text, text_mask, deterministic=deterministic)
            else:
                layer = TransformerLayer(config, config.regions, name=f"region_layer_{i}")
                regions = layer(regions, region_mask, deterministic=deterministic)
        return text, regions
