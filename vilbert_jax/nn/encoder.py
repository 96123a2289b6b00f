"""The two-stream encoder: layers of both streams and the co-attention layers between them, in schedule order.

B batch, T text length, R regions, Dt and Dv widths of the streams.
"""

import itertools
from typing import Any

from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from vilbert_jax.config import LayerKind, ViLBERTConfig
from vilbert_jax.nn.coattention import CoAttentionLayer
from vilbert_jax.nn.layers import TransformerLayer
from vilbert_jax.nn.packing import Firsts, Masks, at_places
from vilbert_jax.nn.remat import Remat, run_layer


class TwoStreamEncoder(nn.Module):
    """Runs ``config.schedule()``. Layers are unrolled: they are unlike, and their names are the checkpoint's.

    Until the first co-attention layer the streams do not know each other, so ``begin_text`` and ``begin_regions`` can
    run once a caption and once an image when every caption meets every image; ``finish`` runs once a pair.
    """

    config: ViLBERTConfig
    remat: Remat = "none"

    def setup(self) -> None:
        """Declares the layers; flax names them after the list and the position: ``text_layer_0``."""
        config = self.config
        self.text_layer = [TransformerLayer(config, config.text) for _ in range(config.text.num_layers)]
        self.region_layer = [TransformerLayer(config, config.regions) for _ in range(config.regions.num_layers)]
        num_co_layers = len(config.text_co_layers) if config.use_coattention else 0
        self.co_layer = [CoAttentionLayer(config) for _ in range(num_co_layers)]

    def begin_text(
        self, text: Float[Array, "B T Dt"], text_mask: Bool[Array, "B #T T"], *, deterministic: bool
    ) -> Float[Array, "B T Dt"]:
        """Text layers before the first co-attention layer; all of them in a model without co-attention."""
        for kind, i in self._begin():
            if kind == "text":
                text = self._run(self.text_layer[i], text, text_mask, deterministic=deterministic)
        return text

    def begin_regions(
        self, regions: Float[Array, "B R Dv"], region_mask: Bool[Array, "B #R R"], *, deterministic: bool
    ) -> Float[Array, "B R Dv"]:
        """Region layers before the first co-attention layer; all of them in a model without co-attention."""
        for kind, i in self._begin():
            if kind == "region":
                regions = self._run(self.region_layer[i], regions, region_mask, deterministic=deterministic)
        return regions

    def finish(
        self,
        text: Float[Array, "B T Dt"],
        regions: Float[Array, "B R Dv"],
        masks: Masks,
        *,
        deterministic: bool,
        only: Firsts | None = None,
    ) -> tuple[Float[Array, "B L Dt"], Float[Array, "B S Dv"]]:
        """The first co-attention layer and everything behind it; nothing in a model without co-attention.

        Args:
            text: begun.
            regions: begun.
            masks: who sees whom.
            deterministic: False applies dropout.
            only: the states that are wanted, all when absent; the last layer of each stream then computes nothing else.
        """
        layers = list(self.config.schedule())[len(self._begin()) :]
        if only and not layers:
            return at_places(text, only.text), at_places(regions, only.regions)
        last = {kind: i for kind, i in layers}  # every stream has a layer behind the last exchange
        for kind, i in layers:
            wanted = only if i == last[kind] else None
            if kind == "co":
                text, regions = self._run(self.co_layer[i], text, regions, masks, deterministic=deterministic)
            elif kind == "text":
                of_text = wanted.text if wanted else None
                text = self._run(self.text_layer[i], text, masks.text, of_text, deterministic=deterministic)
            else:
                of_regions = wanted.regions if wanted else None
                regions = self._run(
                    self.region_layer[i], regions, masks.regions, of_regions, deterministic=deterministic
                )
        return text, regions

    def _run(self, layer: nn.Module, *args: Any, deterministic: bool) -> Any:
        return run_layer(layer, *args, remat=self.remat, deterministic=deterministic)

    def _begin(self) -> list[tuple[LayerKind, int]]:
        """The schedule up to the first co-attention layer."""
        return list(itertools.takewhile(lambda layer: layer[0] != "co", self.config.schedule()))
