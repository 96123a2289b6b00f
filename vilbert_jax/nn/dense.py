"""The few parametrised operations every layer is made of, with BERT's initialisation and numerics.

What bfloat16 means here: matrix products read and write it and add up in float32. Everything else is float32 in
between: biases, dropout, residuals, norms, and the sums of gradients over rows. docs/precision.md has the whole list.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Float

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.products import product, wide

DENSE = "dense"  # what ``nn/remat.py`` calls the results of products with parameters


def _in_float32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: function(x.astype(wide(x.dtype))).astype(x.dtype)


def _gelu(x: Array) -> Array:
    """The exact form; the tanh form is 4e-4 off. Jax's own is written with erfc, which takes XLA half again as long."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _in_float32(_gelu),
    "relu": nn.relu,
    "swish": _in_float32(nn.swish),
}


class Dense(nn.Module):
    """A linear layer [..., in] -> [..., features] with bias.

    Attributes:
        features: outputs.
        dtype: that the product is computed in.
        output_dtype: of the result.
        kernel_init: initialiser.
    """

    features: int
    dtype: DTypeLike
    output_dtype: DTypeLike
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "*batch K"]) -> Float[Array, "*batch D"]:
        """Returns ``x @ kernel + bias``."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = checkpoint_name(product("I,IO->O", x.astype(self.dtype), kernel, self.output_dtype), DENSE)
        # As float32, so that the bias's gradient, a sum over all rows, is one of float32 numbers.
        y = y.astype(wide(self.dtype)) + bias.reshape((1,) * (y.ndim - 1) + (-1,)).astype(wide(self.dtype))
        return y.astype(self.output_dtype)


def dense(features: int, config: ViLBERTConfig, *, name: str) -> Dense:
    """A linear layer inside the network."""
    init = nn.initializers.normal(config.initializer_range)
    return Dense(features, config.dtype, config.dtype, init, name=name)


def logits_layer(features: int, config: ViLBERTConfig, *, name: str) -> Dense:
    """The last layer of a head: logits are never rounded to bfloat16, whose steps at 8 are 0.06 wide."""
    init = nn.initializers.normal(config.initializer_range)
    return Dense(features, config.dtype, wide(config.dtype), init, name=name)


def exact_dense(features: int, config: ViLBERTConfig, *, name: str) -> Dense:
    """A linear layer in float32 or better, for inputs that bfloat16 would spoil: of a place it keeps two digits."""
    init = nn.initializers.normal(config.initializer_range)
    return Dense(features, wide(config.dtype), wide(config.dtype), init, name=name)


def layer_norm(config: ViLBERTConfig, *, name: str) -> nn.LayerNorm:
    """BERT's LayerNorm: biased variance, epsilon 1e-12 inside the root, statistics in float32 or better."""
    return nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, dtype=config.dtype, name=name)


def residual_norm(
    x: Float[Array, "*batch K"],
    residual: Float[Array, "*batch D"],
    config: ViLBERTConfig,
    *,
    dropout_rate: float,
    deterministic: bool,
    name: str,
) -> Float[Array, "*batch D"]:
    """BERT's output block, ``norm(residual + dropout(dense(x)))``, with parameters ``<name>`` and ``<name>_norm``."""
    y = dense(residual.shape[-1], config, name=name)(x).astype(wide(config.dtype))
    y = Dropout(dropout_rate)(y, deterministic=deterministic)
    return layer_norm(config, name=f"{name}_norm")(residual + y)
