"""ViLBERT: the trunk and the two models made from it. Composition only; the layers are in ``vilbert_jax/nn``.

A config with ``num_streams=1`` makes the same models of the paper's single-stream baseline.

B batch, T text length, R regions (row 0 is the global region), M predicted positions, V vocabulary, F feature width,
C region targets, W width of the pooled vectors. With one stream, Dt = Dv = W.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.nn.dense import dense, logits_layer
from vilbert_jax.nn.embeddings import RegionEmbeddings, TextEmbeddings
from vilbert_jax.nn.encoder import TwoStreamEncoder
from vilbert_jax.nn.heads import (
    AnswerHead,
    RegionHead,
    TokenHead,
    WeightNormAnswerHead,
    grounding_logits,
    head_dropout,
)
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

HEADS = (
    "vqa", "gqa", "choice", "binary", "entailment", "grounding", "token_score", "tokens", "regions", "alignment",
)  # fmt: skip


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


class PretrainingOutput(NamedTuple):
    """What ``ViLBERTForPretraining`` returns; alignment class 0 = the pair matches."""

    token_logits: Float[Array, "G M V"]  # G = B, or rows of pairs
    region_logits: Float[Array, "G K C"]
    alignment_logits: Float[Array, "B 2"]
    encoded: Encoded


class TaskOutput(NamedTuple):
    """What ``ViLBERTForTasks`` returns: logits by head name."""

    logits: dict[str, Array]
    encoded: Encoded


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


class ViLBERTForPretraining(nn.Module):
    """ViLBERT with its three pre-training heads (paper section 2.2; ``BertForMultiModalPreTraining``).

    Attributes:
        config: the model.
        remat: what a gradient keeps (``nn/remat.py``); no part of what the model is.
    """

    config: ViLBERTConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        *,
        deterministic: bool,
        masked_positions: Int[ArrayLike, "B M"] | None = None,
        masked_regions: Int[ArrayLike, "B K"] | None = None,
    ) -> PretrainingOutput:
        """Runs the model.

        Args:
            inputs: one batch. With ``places`` B counts rows here and in the logits of words and regions.
            deterministic: False applies dropout and needs the rng ``dropout``.
            masked_positions: text positions to compute vocabulary logits for, as indices into ``token_ids``, or with
                ``places`` into the row; all when absent. Training gives the masked ones: these logits are the largest
                array there is, 2.2 GB for the paper's batch.
            masked_regions: the same for regions, counted from the global one.

        Returns:
            Logits of the three heads; among all regions there is a row for the global one too, which no loss reads.
        """
        config = self.config
        trunk = Trunk(config, self.remat, name="trunk")
        encoded = trunk(inputs, deterministic=deterministic)
        text, regions = encoded.text, encoded.regions
        if masked_positions is not None:
            # The task token stands in second place; [CLS], the only word before it, is never masked.
            shift = 1 if config.num_task_embeddings else 0
            text = jnp.take_along_axis(text, jnp.asarray(masked_positions)[..., None] + shift, axis=1)
        if masked_regions is not None:
            regions = jnp.take_along_axis(regions, jnp.asarray(masked_regions)[..., None], axis=1)
        pair = _dropped(trunk.fuse(encoded), config, deterministic=deterministic)
        return PretrainingOutput(
            token_logits=TokenHead(config, name="token_head")(text, trunk.text_embeddings.word_embeddings),
            region_logits=RegionHead(config, name="region_head")(regions),
            alignment_logits=logits_layer(2, config, name="alignment_head")(pair),
            encoded=encoded,
        )


class ViLBERTForTasks(nn.Module):
    """ViLBERT with downstream heads (``VILBertForVLTasks``); only the named heads exist and run.

    Attributes:
        config: the model.
        heads: any of ``vqa`` and ``gqa`` [B, answers], ``choice`` [B] (VCR, retrieval: one logit a pair), ``binary``
            [B/2, 2] (NLVR2: rows 2k and 2k+1 are the two pictures of one statement), ``entailment`` [B, 3],
            ``grounding`` [B, R] (one logit a region), ``token_score`` [B, T], and the pre-training heads ``tokens``
            [B, T, V], ``regions`` [B, R, C], ``alignment`` [B, 2].
        remat: as of ``ViLBERTForPretraining``.
    """

    config: ViLBERTConfig
    heads: tuple[str, ...]
    remat: Remat = "none"

    @nn.compact
    def __call__(self, inputs: Inputs | Begun, *, deterministic: bool, pooled_only: bool = False) -> TaskOutput:
        """Runs the trunk once, or what is left of it, and every head on it.

        Args:
            inputs: one batch.
            deterministic: False applies dropout and needs the rng ``dropout``.
            pooled_only: see ``Trunk``; for heads that judge a pair as a whole.

        Raises:
            InputError: for a head name that does not exist, an odd batch with the ``binary`` head, or packed pairs.
        """
        config = self.config
        unknown = sorted(set(self.heads) - set(HEADS))
        if unknown or not self.heads:
            raise InputError(f"heads {list(self.heads)}: unknown {unknown}; choose from {', '.join(HEADS)}.")
        if isinstance(inputs, Inputs) and inputs.places is not None:
            raise InputError("the heads of tasks read pairs one to a row: give no Inputs.places.")
        trunk = Trunk(config, self.remat, name="trunk")
        encoded = trunk(inputs, deterministic=deterministic, pooled_only=pooled_only)
        pair = _dropped(trunk.fuse(encoded), config, deterministic=deterministic)
        region_mask = jnp.asarray(inputs.region_mask)

        def logits(head: str) -> Array:
            match head:
                case "vqa" if config.answer_head == "weight_norm":
                    answer = WeightNormAnswerHead(config, config.num_vqa_answers, name="vqa_head")
                    return answer(pair, deterministic=deterministic)
                case "vqa":
                    return AnswerHead(config, config.num_vqa_answers, name="vqa_head")(pair)
                case "gqa":
                    return AnswerHead(config, config.num_gqa_answers, name="gqa_head")(pair)
                case "choice":
                    return logits_layer(1, config, name="choice_head")(pair)[:, 0]
                case "binary":
                    return AnswerHead(config, 2, name="binary_head")(_pair_rows(pair))
                case "entailment":
                    return logits_layer(3, config, name="entailment_head")(pair)
                case "grounding":
                    regions = head_dropout(encoded.regions, deterministic=deterministic)
                    return grounding_logits(logits_layer(1, config, name="grounding_head")(regions), region_mask)
                case "token_score":
                    text = head_dropout(encoded.text, deterministic=deterministic)
                    return logits_layer(1, config, name="token_score_head")(text)[..., 0]
                case "tokens":
                    table = trunk.text_embeddings.word_embeddings
                    return TokenHead(config, name="token_head")(encoded.text, table)
                case "regions":
                    return RegionHead(config, name="region_head")(encoded.regions)
                case _:
                    return logits_layer(2, config, name="alignment_head")(pair)

        return TaskOutput(logits={head: logits(head) for head in self.heads}, encoded=encoded)


def init_params(model: ViLBERTForPretraining | ViLBERTForTasks, key: Array) -> dict[str, Any]:
    """Fresh parameters, as BERT initialises them; all of them float32."""
    config = model.config
    inputs = Inputs(  # shapes alone matter; two rows, because the binary head judges pairs
        token_ids=jnp.zeros((2, 2), jnp.int32),
        token_types=jnp.zeros((2, 2), jnp.int32),
        text_mask=jnp.ones((2, 2), bool),
        region_features=jnp.zeros((2, 2, config.region_feature_dim)),
        region_boxes=jnp.zeros((2, 2, 5)),
        region_mask=jnp.ones((2, 2), bool),
        task_id=jnp.zeros(2, jnp.int32) if config.num_task_embeddings else None,
    )
    return dict(model.init(key, inputs, deterministic=True)["params"])


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


def _dropped(pair: Float[Array, "B W"], config: ViLBERTConfig, *, deterministic: bool) -> Float[Array, "B W"]:
    """The pair's vector as the heads read it; the single-stream baseline has no dropout there."""
    return pair if config.num_streams == 1 else head_dropout(pair, deterministic=deterministic)


def _pair_rows(fused: Float[Array, "B W"]) -> Float[Array, "B2 W2"]:
    if fused.shape[0] % 2:
        raise InputError(
            f"the binary head judges two pictures together, rows 2k and 2k+1; a batch of {fused.shape[0]} is odd."
        )
    return fused.reshape(-1, 2 * fused.shape[1])  # [B,W] -> [B/2,2W]
