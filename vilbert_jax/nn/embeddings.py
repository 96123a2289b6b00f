"""From token ids and detector output to the first states of the two streams.

B batch, T text length, R regions (row 0 is the global region), F detector feature width, Dt and Dv stream widths.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.nn.dense import dense, exact_dense, layer_norm
from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.products import wide

PADDING_ID = 0
_REGION_TYPE = 1


def without_row_zero(table: nn.Embed, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """Rows of a table; no gradient passes to its first one."""
    rows = table(ids)
    return jnp.where((ids == PADDING_ID)[..., None], jax.lax.stop_gradient(rows), rows)


class TextEmbeddings(nn.Module):
    """BERT's input layer, ``norm(word + position + token type)``, with an optional task token after [CLS]."""

    config: ViLBERTConfig

    def setup(self) -> None:
        """Declares the tables; they are attributes because the token head is tied to the word table."""
        config = self.config

        def table(rows: int) -> nn.Embed:
            init = nn.initializers.normal(config.initializer_range)
            return nn.Embed(rows, config.text.width, dtype=wide(config.dtype), embedding_init=init)

        self.word_embeddings = table(config.vocab_size)
        self.position_embeddings = table(config.max_text_length)
        self.token_type_embeddings = table(config.num_token_types)
        if config.num_task_embeddings:
            self.task_embeddings = table(config.num_task_embeddings)
        self.norm = layer_norm(config, name="norm")
        self.dropout = Dropout(config.text.dropout_rate)

    def __call__(
        self,
        token_ids: Int[Array, "B T"],
        token_types: Int[Array, "B T"],
        task_id: Int[Array, "B"] | None,
        positions: Int[Array, "#B T"],
        *,
        deterministic: bool,
    ) -> Float[Array, "B T2 Dt"]:
        """Returns [B, T, Dt], or [B, T + 1, Dt] with the task token in second place.

        Raises:
            InputError: the task id does not fit the config.
        """
        # The released tables have padding_idx 0, in the baseline all of them: looking up row 0 trains nothing. The tied
        # decoder still trains word 0.
        words = without_row_zero(self.word_embeddings, token_ids)
        look_up = nn.Embed.__call__ if self.config.num_streams == 2 else without_row_zero
        x = words + look_up(self.position_embeddings, positions)
        x += look_up(self.token_type_embeddings, token_types)
        if self.config.num_task_embeddings:
            if task_id is None:
                raise InputError("this model has task tokens; give Inputs.task_id, an int32 array of shape [batch].")
            x = jnp.concatenate([x[:, :1], self.task_embeddings(task_id)[:, None], x[:, 1:]], axis=1)
        elif task_id is not None:
            raise InputError("Inputs.task_id was given, but this model has no task tokens (num_task_embeddings is 0).")
        return self.dropout(self.norm(x), deterministic=deterministic)


class RegionEmbeddings(nn.Module):
    """``norm(linear(feature) + linear(box))``; regions have no order, so no position embedding.

    Dropout is, as released (``BertImageEmbeddings``), the *text* stream's rate. With one stream every region also gets
    row 1 of a token-type table of its own (``basebert.py``); the other rows exist in released files and are never read.
    """

    config: ViLBERTConfig

    @nn.compact
    def __call__(
        self, features: Float[Array, "B R F"], boxes: Float[Array, "B R 5"], *, deterministic: bool
    ) -> Float[Array, "B R Dv"]:
        """Returns the first region states.

        Raises:
            InputError: if the features are not as wide as the config says.
        """
        if features.shape[-1] != self.config.region_feature_dim:
            raise InputError(
                f"region features are {features.shape[-1]} wide, the model expects {self.config.region_feature_dim}; "
                "were they made by another detector?"
            )
        config, width = self.config, self.config.region_width
        x = dense(width, config, name="features")(features) + exact_dense(width, config, name="boxes")(boxes)
        if config.num_streams == 1:
            init = nn.initializers.normal(config.initializer_range)
            dtype = wide(config.dtype)
            types = nn.Embed(
                config.num_token_types, width, dtype=dtype, embedding_init=init, name="token_type_embeddings"
            )
            x += types(jnp.array([[_REGION_TYPE]]))  # [1,1,Dv]
        x = layer_norm(self.config, name="norm")(x)
        return Dropout(self.config.text.dropout_rate)(x, deterministic=deterministic)
