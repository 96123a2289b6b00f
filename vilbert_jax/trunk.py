"""The trunk of ViLBERT: what it reads, what comes out, and both streams between; layers are in ``vilbert_jax/nn``.

A config with ``num_streams=1`` makes the trunk of the paper's single-stream baseline.

B batch, T text length, R regions (row 0 is the global region), G rows of P pairs, F feature width, W width of the
pooled vectors, Dt and Dv widths of the streams. With one stream, Dt = Dv = W.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.nn.dense import dense
from vilbert_jax.nn.embeddings import RegionEmbeddings, TextEmbeddings
from vilbert_jax.nn.encoder import TwoStreamEncoder
from vilbert_jax.nn.packing import (
    Firsts,
    Masks,
    Places,
    at_places,
    first_places,
    key_masks,
    pair_masks,
    pairs_of,
    to_rows,
)
from vilbert_jax.nn.remat import Remat
from vilbert_jax.nn.single_stream import SingleStreamEncoder
from vilbert_jax.sharding import spread_rows


class Inputs(NamedTuple):
    """What the model reads. Masks are true where there is something to attend to.

    With ``places`` pairs are worked through several to a row, without their padding; masks are then not read, and the
    states of words and regions come out row by row.
    """

    token_ids: Int[Array, "B T"]
    token_types: Int[Array, "B T"]
    text_mask: Bool[Array, "B T"]
    region_features: Float[Array, "B R F"]
    region_boxes: Float[Array, "B R 5"]
    region_mask: Bool[Array, "B R"]
    task_id: Int[Array, "B"] | None = None
    places: Places | None = None


class Begun(NamedTuple):
    """Both streams before their first exchange, in place of ``Inputs``; with task tokens the text is one longer.

    ``Trunk.begin_text`` and ``Trunk.begin_regions`` make the two halves, each without knowing the other. With
    ``places`` the states are those of rows that pairs share (``nn.packing.to_rows``), and masks are not read.
    """

    text: Float[Array, "G Lt Dt"]
    text_mask: Bool[Array, "B T"]
    regions: Float[Array, "G Lr Dv"]
    region_mask: Bool[Array, "B R"]
    places: Places | None = None


class Encoded(NamedTuple):
    """Final states of both streams and their pooled vectors; with task tokens the text is one longer than its input.

    With one stream, ``text_pooled`` stands for the pair and there is no ``regions_pooled``.
    """

    text: Float[Array, "G T Dt"]  # G = B, or rows of pairs
    regions: Float[Array, "G R Dv"]
    text_pooled: Float[Array, "B W"]
    regions_pooled: Float[Array, "B W"] | None


class Trunk(nn.Module):
    """Embeddings, two-stream encoder and poolers: everything but the heads."""

    config: ViLBERTConfig
    remat: Remat = "none"

    def setup(self) -> None:
        """Declares the parts; the token head reads the word table through ``text_embeddings``."""
        self.text_embeddings = TextEmbeddings(self.config)
        self.region_embeddings = RegionEmbeddings(self.config)
        if self.config.num_streams == 1:
            self.encoder = SingleStreamEncoder(self.config, self.remat)
            self.pooler = dense(self.config.pair_width, self.config, name="pooler")
        else:
            self.encoder = TwoStreamEncoder(self.config, self.remat)
            self.text_pooler = dense(self.config.pair_width, self.config, name="text_pooler")
            self.region_pooler = dense(self.config.pair_width, self.config, name="region_pooler")

    def __call__(self, inputs: Inputs | Begun, *, deterministic: bool, pooled_only: bool = False) -> Encoded:
        """Returns the states and pooled vectors: relu (not BERT's tanh) of [CLS] and of the global region.

        With one stream the pooler is BERT's: tanh, of [CLS] alone. With ``pooled_only`` the states returned are those
        of [CLS] and of the global region alone, [G, P, D] of the P pairs of a row: the last layers compute no others.
        """
        if self.config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise InputError("dtype float64 needs jax_enable_x64; without it JAX would compute in float32 silently.")
        inputs = jax.tree.map(jnp.asarray, inputs)  # numpy arrays are welcome
        text, regions, masks = self._begin(inputs, deterministic=deterministic)
        firsts = _firsts(inputs)
        text, regions = self.encoder.finish(
            text, regions, masks, deterministic=deterministic, only=firsts if pooled_only else None
        )
        cls = text if pooled_only else at_places(text, firsts.text)  # [G,P,Dt]
        whole = regions if pooled_only else at_places(regions, firsts.regions)
        cls, whole = (x.reshape(-1, x.shape[-1]) for x in (cls, whole))  # [B,D]
        if self.config.num_streams == 1:
            return Encoded(text, regions, text_pooled=nn.tanh(self.pooler(cls)), regions_pooled=None)
        return Encoded(
            text,
            regions,
            text_pooled=nn.relu(self.text_pooler(cls)),
            regions_pooled=nn.relu(self.region_pooler(whole)),
        )

    def _begin(self, inputs: Inputs | Begun, *, deterministic: bool) -> tuple[Array, Array, Masks]:
        """Both streams before their first exchange, and who sees whom."""
        if isinstance(inputs, Begun):
            return inputs.text, inputs.regions, _masks(inputs)
        if inputs.places is not None:
            return self._begin_rows(inputs, inputs.places, deterministic=deterministic)
        words = (inputs.token_ids, inputs.token_types, inputs.text_mask, inputs.task_id)
        text, text_mask = self.begin_text(*words, deterministic=deterministic)
        seen = (inputs.region_features, inputs.region_boxes, inputs.region_mask)
        regions = self.begin_regions(*seen, deterministic=deterministic)
        return text, regions, key_masks(text_mask, inputs.region_mask)

    def _begin_rows(self, inputs: Inputs, places: Places, *, deterministic: bool) -> tuple[Array, Array, Masks]:
        """The same of pairs that share rows."""
        if inputs.task_id is not None:
            raise InputError("models with task tokens read pairs one to a row: give no Inputs.places.")
        text_length = inputs.token_ids.shape[1]
        self._check_length(text_length)
        masks = _masks(inputs)
        text = self.text_embeddings(
            to_rows(inputs.token_ids, places.text),
            to_rows(inputs.token_types, places.text),
            None,
            (places.text - 1) % text_length,
            deterministic=deterministic,
        )
        regions = self.region_embeddings(
            to_rows(inputs.region_features, places.regions),
            to_rows(inputs.region_boxes, places.regions),
            deterministic=deterministic,
        )
        text = self.encoder.begin_text(spread_rows(text), masks.text, deterministic=deterministic)
        return text, self.encoder.begin_regions(regions, masks.regions, deterministic=deterministic), masks

    def _check_length(self, length: int) -> None:
        longest = self.config.max_text_length
        if length > longest:
            raise InputError(f"text of {length} tokens, but the position table has {longest} rows; shorten the text.")

    def begin_text(
        self,
        token_ids: Int[Array, "B T"],
        token_types: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"],
        task_id: Int[Array, "B"] | None,
        *,
        deterministic: bool,
    ) -> tuple[Float[Array, "B T2 Dt"], Bool[Array, "B T2"]]:
        """The text and its mask before the first exchange; T2 is T, or T + 1 with the task token in second place."""
        if self.config.num_task_embeddings:
            text_mask = jnp.pad(text_mask, ((0, 0), (1, 0)), constant_values=True)
        self._check_length(token_ids.shape[1])
        positions = jnp.arange(token_ids.shape[1])[None]
        text = self.text_embeddings(token_ids, token_types, task_id, positions, deterministic=deterministic)
        text = self.encoder.begin_text(spread_rows(text), text_mask[:, None], deterministic=deterministic)
        return text, text_mask

    def begin_regions(
        self,
        region_features: Float[Array, "B R F"],
        region_boxes: Float[Array, "B R 5"],
        region_mask: Bool[Array, "B R"],
        *,
        deterministic: bool,
    ) -> Float[Array, "B R Dv"]:
        """The regions before the first exchange."""
        regions = self.region_embeddings(region_features, region_boxes, deterministic=deterministic)
        return self.encoder.begin_regions(regions, region_mask[:, None], deterministic=deterministic)

    def fuse(self, encoded: Encoded) -> Float[Array, "B W"]:
        """The pair's one vector: product (the paper) or sum of the pooled vectors, or the only one there is."""
        text, regions = encoded.text_pooled, encoded.regions_pooled
        if regions is None:
            return text
        return text * regions if self.config.fusion == "mul" else text + regions


def _masks(inputs: Inputs | Begun) -> Masks:
    """Who sees whom, whether pairs share rows or not."""
    text_mask, region_mask, places = inputs.text_mask, inputs.region_mask, inputs.places
    if places is None:
        return key_masks(text_mask, region_mask)
    return pair_masks(pairs_of(places.text, text_mask.shape[1]), pairs_of(places.regions, region_mask.shape[1]))


def _firsts(inputs: Inputs | Begun) -> Firsts:
    """Where [CLS] and the global region of every pair stand."""
    (num_pairs, text_length), num_regions = inputs.text_mask.shape, inputs.region_mask.shape[1]
    if inputs.places is None:
        return Firsts(*[jnp.zeros((num_pairs, 1), jnp.int32)] * 2)
    places = inputs.places
    return Firsts(
        first_places(places.text, num_pairs, text_length), first_places(places.regions, num_pairs, num_regions)
    )
