"""Random keys for the parts of a batch, so that a batch worked through in parts draws the same dropout as in one go.

JAX's threefry numbers the elements of what it draws and encrypts the numbers. A part's key knows which rows of the
batch the part holds, and numbers its elements as they stand in the whole.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry2x32_p, threefry_prng_impl
from jaxtyping import Array, Key, UInt32

_UINTS = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}


def part_keys(key: Key[Array, ""], num_parts: int, rows: int) -> Key[Array, " num_parts"]:
    """Keys of parts of ``rows`` rows each; part i holds the rows i, i + num_parts, i + 2 num_parts, ... of the batch.

    An array [rows * k, ...] drawn with a part's key is that part's share of the array [num_parts * rows * k, ...] drawn
    with ``key``, k neighbours belonging to one row. Arrays of other shapes are drawn as with ``key``.

    Args:
        key: of the whole batch, of JAX's default kind (threefry).
        num_parts: parts of the batch.
        rows: of one part.
    """
    words = jnp.broadcast_to(jax.random.key_data(key), (num_parts, 2))
    numbers = jnp.arange(num_parts * rows, dtype=jnp.uint32).reshape(rows, num_parts).T
    return jax.random.wrap_key_data(jnp.concatenate([words, numbers], axis=1), impl=_implementation(rows))


def index_in_whole(key: Key[Array, ""], length: int) -> UInt32[Array, " length"]:
    """Where the first axis of something drawn with ``key`` stands in the whole batch's.

    For noise of another kind than ``jax.random``'s. It is 0, 1, 2, ... unless the key is a part's.
    """
    data = jax.random.key_data(key)
    rows = data.size - 2
    if jax.random.key_impl(key) != _implementation(rows) or length % rows:
        return jnp.arange(length, dtype=jnp.uint32)
    return _index(data, length)


def _index(data: UInt32[Array, " words"], length: int) -> UInt32[Array, " length"]:
    numbers = data[2:]
    neighbours = length // len(numbers)
    return (numbers[:, None] * neighbours + jnp.arange(neighbours, dtype=jnp.uint32)[None]).reshape(-1)


@functools.cache
def _implementation(rows: int) -> Any:
    """Keys are [2 + rows] uint32: two words of threefry, and the number that each row has in the whole batch."""
    plain = threefry_prng_impl

    def random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
        if not shape or shape[0] % rows:
            return plain.random_bits(key[:2], bit_width, shape)
        high, low = threefry2x32_p.bind(key[0], key[1], *_numbers(_index(key, shape[0]), shape))
        if bit_width == 64:
            return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)
        return (high ^ low).astype(_UINTS[bit_width])

    def with_rows(words: Array, numbers: Array) -> Array:
        return jnp.concatenate([words, jnp.broadcast_to(numbers, (*words.shape[:-1], rows))], axis=-1)

    def split(key: Array, shape: tuple[int, ...]) -> Array:
        if shape[0] % rows:
            words = plain.split(key[:2], shape)
        else:
            words = jnp.stack(threefry2x32_p.bind(key[0], key[1], *_numbers(_index(key, shape[0]), shape)), axis=-1)
        # A new key is one row's own: what is drawn with it has no rows, so they stay where they are.
        return with_rows(words, jnp.arange(rows, dtype=jnp.uint32))

    def fold_in(key: Array, data: Any) -> Array:
        return with_rows(plain.fold_in(key[:2], data), key[2:])

    def seed(number: Array) -> Array:
        return with_rows(plain.seed(number), jnp.arange(rows, dtype=jnp.uint32))

    name = f"threefry for {rows} rows"
    return define_prng_impl(
        key_shape=(2 + rows,), seed=seed, split=split, random_bits=random_bits, fold_in=fold_in, name=name, tag=name
    )


def _numbers(index: UInt32[Array, " n"], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Numbers of elements, row-major: high and low words of ``index * size + place among the size of one index``."""
    size = math.prod(shape[1:])
    inner = jnp.zeros(shape[1:], jnp.uint32)
    for axis, stride in enumerate(math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))):
        inner += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis)
    high, low = (word.reshape(-1, *[1] * (len(shape) - 1)) for word in _times(index, size))
    low, start = low + inner[None], low
    return high + (low < start), low


def _times(index: UInt32[Array, " n"], size: int) -> tuple[Array, Array]:
    """High and low words of ``index * size``, by halves of words, since 64-bit integers are off by default."""
    if size >= 1 << 32:
        raise NotImplementedError(f"{size} random numbers a row; at most 2**32 - 1 can be told apart")
    a1, a0, b1, b0 = index >> 16, index & 0xFFFF, jnp.uint32(size >> 16), jnp.uint32(size & 0xFFFF)
    middle = a1 * b0 + (a0 * b0 >> 16)
    last = a0 * b1 + (middle & 0xFFFF)
    return a1 * b1 + (middle >> 16) + (last >> 16), index * jnp.uint32(size)
