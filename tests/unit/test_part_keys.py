"""Dropout of the parts of a batch is that of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.part_keys import index_in_whole, part_keys

KEY = jax.random.fold_in(jax.random.key(5), 3)


def parts_of(x, num_parts, neighbours=1):
    """Row r of the whole is row r // parts of part r % parts; a row is several neighbours."""
    rows = x.reshape(-1, num_parts, neighbours, *x.shape[1:]).swapaxes(0, 1)
    return rows.reshape(num_parts, -1, *x.shape[1:])


def dropped(key, shape):
    return Dropout(0.4).apply({}, jnp.ones(shape), deterministic=False, rngs={"dropout": key})


@pytest.mark.parametrize(("num_parts", "rows"), [(2, 8), (16, 1)])
@pytest.mark.parametrize(("shape", "neighbours"), [((), 1), ((3, 2, 7), 1), ((5,), 4)])
def test_parts_drop_what_the_whole_batch_drops(num_parts, rows, shape, neighbours):
    parts = jax.lax.map(lambda key: dropped(key, (rows * neighbours, *shape)), part_keys(KEY, num_parts, rows))
    whole = dropped(KEY, (num_parts * rows * neighbours, *shape))
    np.testing.assert_array_equal(parts, parts_of(whole, num_parts, neighbours))


def test_what_has_no_rows_is_dropped_alike_in_every_part():
    parts = jax.vmap(lambda key: dropped(key, (9, 4)))(part_keys(KEY, 2, 8))
    np.testing.assert_array_equal(parts, jnp.stack([dropped(KEY, (9, 4))] * 2))


def test_rows_survive_new_keys():
    part = part_keys(KEY, 4, 2)[3]
    for key in (part, jax.random.fold_in(part, 7), jax.random.split(part, 3)[1]):
        np.testing.assert_array_equal(index_in_whole(key, 4), [6, 7, 14, 15])
    np.testing.assert_array_equal(index_in_whole(KEY, 4), range(4))


def test_other_noise_differs_from_part_to_part():
    keys = part_keys(KEY, 2, 8)
    for draw in (lambda key: jax.random.uniform(key, (64,)), lambda key: jax.random.normal(jax.random.split(key)[0])):
        first, second = jax.vmap(draw)(keys)
        assert not np.any(first == second)
