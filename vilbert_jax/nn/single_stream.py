"""The encoder of the paper's single-stream baseline: BERT over words and regions as one sequence (``basebert.py``).

B batch, T text length, R regions, D width.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.layers import TransformerLayer
from vilbert_jax.nn.packing import Firsts, Masks
from vilbert_jax.nn.remat import Remat, run_layer


class SingleStreamEncoder(nn.Module):
    """Every layer attends over the words and the regions at once.

    In the interface of ``TwoStreamEncoder``, so that whatever runs a trunk runs both; words and regions meet in the
    first layer, which leaves nothing to do for either alone.
    """

    config: ViLBERTConfig
    remat: Remat = "none"

    def setup(self) -> None:
        """Declares the layers, ``layer_0`` and so on."""
        self.layer = [TransformerLayer(self.config, self.config.text) for _ in range(self.config.text.num_layers)]

    def begin_text(
        self, text: Float[Array, "B T D"], text_mask: Bool[Array, "B #T T"], *, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """The embedded words as they are."""
        return text

    def begin_regions(
        self, regions: Float[Array, "B R D"], region_mask: Bool[Array, "B #R R"], *, deterministic: bool
    ) -> Float[Array, "B R D"]:
        """The embedded regions as they are."""
        return regions

    def finish(
        self,
        text: Float[Array, "B T D"],
        regions: Float[Array, "B R D"],
        masks: Masks,
        *,
        deterministic: bool,
        only: Firsts | None = None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B S D"]]:
        """All layers over the text with the regions behind it; returns the states of both.

        Args:
            text: embedded.
            regions: embedded.
            masks: who sees whom.
            deterministic: False applies dropout.
            only: the states that are wanted, all when absent; the last layer then computes nothing else.
        """
        length = text.shape[1]
        x = jnp.concatenate([text, regions], axis=1)  # [B,T+R,D]
        of_text = jnp.concatenate([masks.text, masks.text_over_regions], axis=-1)  # [B,T or 1,T+R]
        of_regions = jnp.concatenate([masks.regions_over_text, masks.regions], axis=-1)  # [B,R or 1,T+R]
        mask = of_text if of_text.shape[1] == 1 else jnp.concatenate([of_text, of_regions], axis=1)
        wanted = None if only is None else jnp.concatenate([only.text, length + only.regions], axis=1)
        for layer in self.layer:
            last = wanted if layer is self.layer[-1] else None
            x = run_layer(layer, x, mask, last, remat=self.remat, deterministic=deterministic)
        length = length if only is None else only.text.shape[1]
        return x[:, :length], x[:, length:]
