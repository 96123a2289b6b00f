"""Which numbers are bfloat16 in training; docs/precision.md has the whole list.

``model.dtype`` is what the network computes in, ``param_dtype`` what its gradient is taken with respect to. A state
holds float32 parameters in every case, and so do checkpoints: with bfloat16 parameters they are the master copies.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from vilbert_jax.training.state import Params

ParamDType = Literal["float32", "bfloat16"]


def working_copies(params: Params, param_dtype: ParamDType) -> Params:
    """The parameters that a step computes with, made of the master copies and sharded alike.

    Vectors (biases, norms) are one in a thousand and stay as they are: steps of 1/128 around 1 are no norm's scale.
    """
    if param_dtype == "float32":
        return params
    return jax.tree.map(lambda p: p.astype(jnp.bfloat16) if p.ndim > 1 else p, params)


def widened(gradients: Params, params: Params) -> Params:
    """The gradients in the dtypes of the master copies."""
    return jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)
