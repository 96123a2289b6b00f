"""Dropout whose noise is a hash of the position: no array of random numbers is ever stored.

``flax.linen.Dropout`` draws 32 random bits an element with threefry, which on a CPU takes a tenth of a training step.
Here two rounds of an integer hash of (element, key) decide; XLA fuses them with the multiplication, and a mask depends
on shape and key alone, not on how the array is spread over devices or cut into micro-batches.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from vilbert_jax.nn.part_keys import index_in_whole
from vilbert_jax.nn.products import wide


class Dropout(nn.Module):
    """Sets each element to zero with probability ``rate`` and divides the others by ``1 - rate``.

    Takes a key from the rng stream ``dropout``, as ``flax.linen.Dropout`` does.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, deterministic: bool) -> Float[Array, "*shape"]:
        """Returns ``x`` itself where ``deterministic`` or where the rate is 0."""
        if deterministic or self.rate == 0:
            return x
        bits = hashed_bits(self.make_rng("dropout"), x.shape)
        kept = bits >= jnp.uint32(round(self.rate * 2**32))
        scaled = x.astype(wide(x.dtype)) / (1 - self.rate)  # 0.9 in bfloat16 would make everything 0.2 % too large
        return jnp.where(kept, scaled, 0).astype(x.dtype)


def hashed_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """[*shape] uint32, for each element a hash of its number and the key.

    Two rounds of C. Wellons' ``lowbias32``, the two words of the key added before each: one flipped bit of element or
    key flips every bit of the result with probability 1/2 to within about 1e-3. Not for cryptography.
    """
    first, second = jax.random.key_data(key).reshape(-1)[:2]
    x = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        index = index_in_whole(key, shape[0]) if axis == 0 else jnp.arange(shape[axis], dtype=jnp.uint32)
        x += jax.lax.broadcast_in_dim(index * jnp.uint32(stride), shape, (axis,))
    return _mixed(_mixed(x + first) + second)


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
