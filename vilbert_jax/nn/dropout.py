"""Dropout whose noise is a hash of the position: no array of random numbers is ever stored.

``flax.linen.Dropout`` draws 32 random bits an element with threefry, which on a CPU takes a tenth of a training step.
Here two rounds of an integer hash of (element, key) decide; XLA fuses them with the multiplication, and a mask depends
on shape and key alone, not on how the array is spread over devices.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float


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
        return jnp.where(kept, x / (1 - self.rate), 0)


def hashed_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """[*shape] uint32, for each element a hash of its number and the key.

    Two rounds of C. Wellons' ``lowbias32``, the two words of the key added before each: one flipped bit of element or
    key flips every bit of the result with probability 1/2 to within about 1e-3. Not for cryptography.
    """
    first, second = jax.random.key_data(key).reshape(-1)[-2:]
    x = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        x += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return _mixed(_mixed(x + first) + second)


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
