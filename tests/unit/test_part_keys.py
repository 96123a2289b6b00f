"""What is drawn for the parts of a batch is what is drawn for the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.part_keys import _times, part_keys

KEY = jax.random.fold_in(jax.random.key(5), 3)


def parts_of(x, num_parts, neighbours=1):
    """Row r of the whole is row r // parts of part r % parts; a row is several neighbours."""
    rows = x.reshape(-1, num_parts, neighbours, *x.shape[1:]).swapaxes(0, 1)
    return rows.reshape(num_parts, -1, *x.shape[1:])


@pytest.mark.parametrize(("num_parts", "rows"), [(2, 8), (16, 1)])
@pytest.mark.parametrize(("shape", "neighbours"), [((), 1), ((3, 2, 7), 1), ((5,), 4)])
def test_parts_draw_their_rows_of_the_whole_batch(num_parts, rows, shape, neighbours):
    def draw(key, length):
        key = jax.random.fold_in(key, 17)  # as every dropout layer does
        shaped = (length * neighbours, *shape)
        return jax.random.uniform(key, shaped), jax.random.bits(key, shaped, "uint16")

    keys = part_keys(KEY, num_parts, rows)
    for part, whole in zip(jax.vmap(lambda key: draw(key, rows))(keys), draw(KEY, num_parts * rows), strict=True):
        np.testing.assert_array_equal(part, parts_of(whole, num_parts, neighbours))


def test_keys_split_for_rows_are_those_of_the_rows():
    def draw(key, rows):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), (4,)))(jax.random.split(key, rows))

    parts = jax.vmap(lambda key: draw(key, 4))(part_keys(KEY, 2, 4))
    np.testing.assert_array_equal(parts, parts_of(draw(KEY, 8), 2))


@pytest.mark.parametrize("layer", [Dropout(0.4), nn.Dropout(0.4)], ids=["ours", "flax"])
def test_dropout_layers_draw_them(layer):
    x = jnp.ones((8, 3, 5))

    def dropped(key, x):
        return layer.apply({}, x, deterministic=False, rngs={"dropout": key})

    parts = jax.lax.map(lambda key: dropped(key, x[:2]), part_keys(KEY, 4, 2))
    np.testing.assert_array_equal(parts, parts_of(dropped(KEY, x), 4))


def test_what_has_no_rows_is_the_same_in_every_part():
    keys = part_keys(KEY, 2, 8)
    for shape in ((), (3, 16), (9,)):
        parts = jax.vmap(lambda key, shape=shape: jax.random.uniform(key, shape))(keys)
        np.testing.assert_array_equal(parts[0], jax.random.uniform(KEY, shape))
        np.testing.assert_array_equal(parts[0], parts[1])


def test_numbers_beyond_32_bits_are_exact():
    index = np.array([0, 1, 65535, 65536, 2**31, 2**32 - 1], np.uint32)
    for size in (1, 3, 65535, 65536, 2**31 + 7, 2**32 - 1):
        high, low = _times(jnp.asarray(index), size)
        found = np.asarray(high).astype(object) * 2**32 + np.asarray(low).astype(object)
        assert list(found) == [int(i) * size for i in index]
    with pytest.raises(NotImplementedError, match="at most"):
        _times(jnp.asarray(index), 2**32)
