"""The two models made from the trunk: ViLBERT with its pre-training heads, and with those of downstream tasks.

B batch, T text length, R regions (row 0 is the global region), G rows of pairs, M predicted positions, K predicted
regions, V vocabulary, C region targets, W width of the pooled vectors.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.nn.dense import logits_layer
from vilbert_jax.nn.heads import (
    AnswerHead,
    RegionHead,
    TokenHead,
    WeightNormAnswerHead,
    grounding_logits,
    head_dropout,
)
from vilbert_jax.nn.remat import Remat
from vilbert_jax.trunk import Begun, Encoded, Inputs, Trunk

HEADS = (
    "vqa", "gqa", "choice", "binary", "entailment", "grounding", "token_score", "tokens", "regions", "alignment",
)  # fmt: skip


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


def _dropped(pair: Float[Array, "B W"], config: ViLBERTConfig, *, deterministic: bool) -> Float[Array, "B W"]:
    """The pair's vector as the heads read it; the single-stream baseline has no dropout there."""
    return pair if config.num_streams == 1 else head_dropout(pair, deterministic=deterministic)


def _pair_rows(fused: Float[Array, "B W"]) -> Float[Array, "B2 W2"]:
    if fused.shape[0] % 2:
        raise InputError(
            f"the binary head judges two pictures together, rows 2k and 2k+1; a batch of {fused.shape[0]} is odd."
        )
    return fused.reshape(-1, 2 * fused.shape[1])  # [B,W] -> [B/2,2W]
