"""Dropout: how much it drops, that nothing repeats, and that the mesh does not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.nn.dropout import Dropout, hashed_bits
from vilbert_jax.sharding import MeshConfig, batch_sharding, make_mesh


def dropped(x, rate=0.1, seed=0, **kwargs):
    return Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(seed)}, **kwargs)


def test_drops_its_share_and_scales_the_rest():
    y = np.asarray(dropped(jnp.full((64, 1024), 3.0)))
    assert set(np.unique(y)) == {0.0, np.float32(3 / np.float32(0.9))}
    share = (y == 0).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.09 / y.size)
    # rows and columns alike: no row or column is dropped more often than chance has it
    for axis in (0, 1):
        counts = (y == 0).sum(axis)
        assert abs(counts.var() / (0.09 * y.shape[axis]) - 1) < 5 * np.sqrt(2 / len(counts))


def test_nothing_is_dropped_where_there_is_nothing_to_drop():
    x = jnp.ones((4, 4))
    assert Dropout(0.5).apply({}, x, deterministic=True) is x
    assert dropped(x, rate=0.0) is x


@pytest.mark.parametrize("shape", [(40_000,), (8, 5, 10, 100), (2, 20_000)])
def test_bits_are_even_and_independent(shape):
    bits = np.asarray(hashed_bits(jax.random.key(5), shape)).ravel()
    assert len(np.unique(bits)) > len(bits) - 10  # 0.2 collisions are expected
    ones = (bits[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    spread = 0.5 / np.sqrt(len(bits))
    assert np.abs(ones.mean(0) - 0.5).max() < 5 * spread
    for lag in (1, 2, 100, 128, 1000):  # neighbours, and neighbours of other rows
        agree = (ones[lag:] == ones[:-lag]).mean(0)
        assert np.abs(agree - 0.5).max() < 5 * spread * 1.1
    pairs = np.corrcoef(ones.T) - np.eye(32)
    assert np.abs(pairs).max() < 5 / np.sqrt(len(bits))


def test_keys_give_unrelated_noise():
    keys = [jax.random.key(0), jax.random.key(1), *jax.random.split(jax.random.key(0)), jax.random.key(2**31)]
    masks = [np.asarray(hashed_bits(key, (50_000,))) >= 2**31 for key in keys]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs((one == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(one))
    np.testing.assert_array_equal(hashed_bits(keys[0], (3, 4)).ravel(), hashed_bits(keys[0], (12,)))


def test_kept_elements_alone_have_gradients():
    x = jnp.arange(1.0, 101.0)
    grad = jax.grad(lambda x: dropped(x, rate=0.3).sum())(x)
    np.testing.assert_allclose(grad * x, dropped(x, rate=0.3), rtol=1e-6)
    assert 0 < (grad == 0).sum() < 100


def test_noise_does_not_depend_on_the_mesh():
    x = jnp.ones((16, 6, 10))
    alone = jax.jit(dropped)(x)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spread = jax.jit(dropped, in_shardings=batch_sharding(mesh), out_shardings=batch_sharding(mesh))(x)
    np.testing.assert_array_equal(alone, spread)
