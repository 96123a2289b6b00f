"""The few parametrised operations every layer is made of, with BERT's initialisation and numerics."""

from collections.abc import Callable

from flax import linen as nn
from jax import Array
from jaxtyping import Float

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.dropout import Dropout

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),  # the tanh form is 4e-4 off
    "relu": nn.relu,
    "swish": nn.swish,
}


def dense(features: int, config: ViLBERTConfig, *, name: str) -> nn.Dense:
    """A linear layer [..., in] -> [..., features] with bias."""
    init = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, dtype=config.dtype, kernel_init=init, name=name)


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
    y = dense(residual.shape[-1], config, name=name)(x)
    y = Dropout(dropout_rate)(y, deterministic=deterministic)
    return layer_norm(config, name=f"{name}_norm")(residual + y)
