"""What the backward pass computes again instead of keeping it from the forward pass: memory for time, same numbers."""

from typing import Any, Literal

import jax
from flax import linen as nn

from vilbert_jax.nn.dense import DENSE

Remat = Literal["none", "light", "full"]


def run_layer(layer: nn.Module, *args: Any, remat: Remat, deterministic: bool) -> Any:
    """``layer(*args)``, of which a gradient keeps what ``remat`` says. Dropout repeats itself.

    Args:
        layer: a layer of an encoder.
        *args: arrays, or None.
        remat: ``none`` keeps everything; ``light`` the results of matrix products with parameters, so that scores,
            softmax, dropout, norms and activations are computed again; ``full`` the layer's inputs alone, so that the
            whole layer is.
        deterministic: no dropout.
    """

    def call(layer: Any, *args: Any) -> Any:
        return layer(*args, deterministic=deterministic)

    if remat == "none":
        return call(layer, *args)
    # By name: JAX's policies by kind of operation do not see into products with gradients of their own.
    policy = jax.checkpoint_policies.save_only_these_names(DENSE) if remat == "light" else None
    return nn.remat(call, policy=policy)(layer, *args)
