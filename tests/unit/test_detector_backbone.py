"""The sum that ends a block: a relu, written so that XLA stores it."""

import jax
import jax.numpy as jnp
import numpy as np

from vilbert_jax.detector.backbone import _rectified_sum


def arrays():
    """Also sums of exactly 0, of rounding alone, zeros of both signs and large numbers."""
    rng = np.random.default_rng(0)
    y, shortcut = rng.normal(size=(2, 5000)).astype(np.float32)
    y[:6], shortcut[:6] = [0.0, -0.0, 1.5, -1.5, 1e30, -1e30], [0.0, 0.0, -1.5, 1.5, -1e30, 1.0]
    y[6:8], shortcut[6:8] = [1.0, -1.0], [-np.float32(1 - 2**-24), np.float32(1 - 2**-24)]
    return jnp.asarray(y), jnp.asarray(shortcut)


def relu_of_sum(y, shortcut):
    return jax.nn.relu(y + shortcut)


def test_values_are_those_of_relu_to_the_last_bit():
    np.testing.assert_array_equal(_rectified_sum(*arrays()), relu_of_sum(*arrays()))


def test_gradients_are_those_of_relu():
    weights = jnp.arange(5000.0)

    def gradients(function):
        return jax.grad(lambda y, shortcut: (function(y, shortcut) * weights).sum(), argnums=(0, 1))(*arrays())

    for found, expected in zip(gradients(_rectified_sum), gradients(relu_of_sum), strict=True):
        assert (np.asarray(expected) != 0).any()
        np.testing.assert_array_equal(found, expected)
