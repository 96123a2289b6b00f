"""Random keys for the parts of a batch, so that a batch worked through in parts has the same dropout as in one go.

A part's key is the whole batch's, followed by the number that each row of the part has in the whole. ``nn.dropout``
hashes these numbers; what ``jax.random`` draws with such a key is another for every part.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jaxtyping import Array, Key, UInt32

_WORDS = 2  # of a threefry key


def part_keys(key: Key[Array, ""], num_parts: int, rows: int) -> Key[Array, " num_parts"]:
    """Keys of parts of ``rows`` rows each; part i holds the rows i, i + num_parts, i + 2 num_parts, ... of the batch.

    Args:
        key: of the whole batch, of JAX's default kind (threefry).
        num_parts: parts of the batch.
        rows: of one part.
    """
    words = jnp.broadcast_to(jax.random.key_data(key), (num_parts, _WORDS))
    numbers = jnp.arange(num_parts * rows, dtype=jnp.uint32).reshape(rows, num_parts).T
    return jax.random.wrap_key_data(jnp.concatenate([words, numbers], axis=1), impl=_implementation(rows))


def index_in_whole(key: Key[Array, ""], length: int) -> UInt32[Array, " length"]:
    """Where the first axis of something drawn with ``key`` stands in the whole batch's.

    It is 0, 1, 2, ... unless the key is a part's. Of a part with R rows it is that of a whole with as many neighbours
    to a row, ``length / R``; what does not divide so has no rows, and counts from 0.
    """
    numbers = jax.random.key_data(key)[_WORDS:]
    rows = len(numbers)
    if jax.random.key_impl(key) != _implementation(rows) or length % rows:
        return jnp.arange(length, dtype=jnp.uint32)
    neighbours = length // rows
    return (numbers[:, None] * neighbours + jnp.arange(neighbours, dtype=jnp.uint32)[None]).reshape(-1)


@functools.cache
def _implementation(rows: int) -> Any:
    """Of keys [2 + rows] uint32; new keys made from one keep its rows."""
    plain = threefry_prng_impl

    def own(key: Array) -> Array:
        return plain.fold_in(key[:_WORDS], key[_WORDS])  # the first row's number tells the parts apart

    def with_rows(words: Array, numbers: Array) -> Array:
        return jnp.concatenate([words, jnp.broadcast_to(numbers, (*words.shape[:-1], rows))], axis=-1)

    def seed(number: Array) -> Array:
        return with_rows(plain.seed(number), jnp.arange(rows, dtype=jnp.uint32))

    def fold_in(key: Array, data: Any) -> Array:
        return with_rows(plain.fold_in(key[:_WORDS], data), key[_WORDS:])

    def split(key: Array, shape: tuple[int, ...]) -> Array:
        return with_rows(plain.split(own(key), shape), key[_WORDS:])

    def random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
        return plain.random_bits(own(key), bit_width, shape)

    name = f"threefry for {rows} rows"
    return define_prng_impl(
        key_shape=(_WORDS + rows,),
        seed=seed,
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name=name,
        tag=name,
    )
