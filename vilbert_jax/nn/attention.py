"""Scaled dot-product attention with several heads, for self- and co-attention.

B batch, L queries, S keys, N heads, H head size, Dq and Dk widths of the two inputs, W = N * H.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.dense import dense
from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.products import product, wide


def attend(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    attention_mask: Bool[Array, "B #L S"],
    dropout: Callable[[Array], Array],
) -> tuple[Float[Array, "B L N H"], Float[Array, "B N L S"]]:
    """Context of every query and the probabilities it was mixed with (after dropout, as the released code shows them).

    Scores and softmax are float32 even when the inputs are bfloat16: rounded scores cost three times the error. Masked
    keys get the lowest finite score, which for any query that sees a key is exactly the released additive -10000.
    """
    dtype = wide(query.dtype)
    scores = product("BLNH,BSNH->BNLS", query, key, dtype) / query.shape[-1] ** 0.5
    scores = jnp.where(attention_mask[:, None], scores, jnp.finfo(dtype).min)
    probs = dropout(jax.nn.softmax(scores))
    return product("BNLS,BSNH->BLNH", probs.astype(value.dtype), value, value.dtype), probs


class MultiHeadAttention(nn.Module):
    """``queries`` attend over ``keys``: self-attention when they are the same array, co-attention when not.

    The probabilities are sown as ``intermediates/.../attention_probs`` [B, N, L, S]: apply the model with
    ``mutable=["intermediates"]`` to get them; otherwise they are never kept.
    """

    config: ViLBERTConfig
    width: int
    num_heads: int
    dropout_rate: float

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "B L Dq"],
        keys: Float[Array, "B S Dk"],
        attention_mask: Bool[Array, "B #L S"],
        *,
        deterministic: bool,
    ) -> Float[Array, "B L W"]:
        """Returns the concatenated contexts of all heads; head n owns columns n*H to (n+1)*H."""

        def project(name: str, x: Array) -> Array:
            y = dense(self.width, self.config, name=name)(x)
            return y.reshape(*y.shape[:-1], self.num_heads, -1)  # [B,*,N*H] -> [B,*,N,H]

        dropout = functools.partial(Dropout(self.dropout_rate), deterministic=deterministic)
        context, probs = attend(
            project("query", queries), project("key", keys), project("value", keys), attention_mask, dropout
        )
        self.sow("intermediates", "attention_probs", probs)
        return context.reshape(*context.shape[:-2], self.width)  # [B,L,N,H] -> [B,L,N*H]
