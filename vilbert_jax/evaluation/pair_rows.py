"""Every caption beside every image, in rows that several pairs share.

c captions of T words, m images of S region slots in g rows of P = m / g with Lr region places; c x g rows of pairs.
"""

import jax.numpy as jnp
from jax import Array

from vilbert_jax.nn.packing import Places
from vilbert_jax.trunk import Begun


def every_pair(text: Array, text_mask: Array, regions: Array, region_mask: Array, places: Array) -> Begun:
    """All captions with all images, in c x g rows.

    Args:
        text: [c,T,Dt].
        text_mask: [c,T].
        regions: [g,Lr,Dv], in rows.
        region_mask: [m,S], of the images before that.
        places: [g,Lr], what stands where in the rows.
    """
    (num_captions, length), num_rows, num_images = text_mask.shape, len(places), len(region_mask)
    a_row = num_images // num_rows

    def over_images(x: Array, times: int) -> Array:  # [c, ...] -> [c*times, ...]
        return jnp.repeat(x, times, axis=0)

    def over_captions(x: Array) -> Array:  # [n, ...] -> [c*n, ...]
        return jnp.tile(x, (num_captions, *(1,) * (x.ndim - 1)))

    position = 1 + jnp.arange(a_row * length, dtype=jnp.int32)[None]
    text_places = position * jnp.tile(text_mask, (1, a_row))  # [c,P*T]
    return Begun(
        text=over_images(jnp.tile(text, (1, a_row, 1)), num_rows),
        text_mask=over_images(text_mask, num_images),
        regions=over_captions(regions),
        region_mask=over_captions(region_mask),
        places=Places(over_images(text_places, num_rows), over_captions(places)),
    )
