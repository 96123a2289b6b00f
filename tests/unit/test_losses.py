import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vilbert_jax import losses

RNG = np.random.default_rng(0)
B, R, C, N = 3, 4, 5, 6


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


MASK = jnp.asarray(RNG.random((B, R)) < 0.5)
DISTRIBUTIONS = jax.nn.softmax(normal(B, R, C))
LABELS = jnp.asarray(RNG.integers(0, C, (B, R)))
NEGATIVES = jnp.asarray(RNG.integers(0, B * R, (B, R, N)))
FEATURES = normal(B, R, C)

MASKED = {
    "token": lambda logits, mask: losses.token_loss(logits, LABELS, mask),
    "kl": lambda logits, mask: losses.region_kl_loss(logits, DISTRIBUTIONS, mask),
    "regression": lambda logits, mask: losses.region_regression_loss(logits, FEATURES, mask),
    "nce": lambda logits, mask: losses.region_nce_loss(logits, FEATURES, mask, NEGATIVES),
}


@pytest.mark.parametrize("loss", MASKED.values(), ids=MASKED.keys())
def test_gradients_and_masking(loss):
    logits = normal(B, R, C)
    check_grads(
        lambda x: losses.mean(loss(jnp.asarray(x), MASK)), (logits,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2
    )
    garbage = jnp.where(MASK[..., None], logits, 1e4)
    np.testing.assert_allclose(losses.mean(loss(garbage, MASK)), losses.mean(loss(logits, MASK)), rtol=1e-6)


@pytest.mark.parametrize("loss", MASKED.values(), ids=MASKED.keys())
def test_nothing_selected_is_zero_with_zero_gradient(loss):
    value, gradient = jax.value_and_grad(lambda x: losses.mean(loss(x, jnp.zeros_like(MASK))))(normal(B, R, C))
    assert value == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("loss", MASKED.values(), ids=MASKED.keys())
def test_sums_and_weights_of_parts_add_up_to_the_whole(loss):
    logits = normal(B, R, C)
    whole = loss(logits, MASK)
    parts = [loss(logits, MASK & (jnp.arange(R) == r)[None]) for r in range(R)]
    np.testing.assert_allclose(sum(part.sum for part in parts), whole.sum, rtol=1e-5)
    assert sum(part.weight for part in parts) == whole.weight


def test_kl_is_zero_at_the_target_and_positive_elsewhere():
    everything = jnp.ones_like(MASK)
    at_target = losses.region_kl_loss(jnp.log(DISTRIBUTIONS), DISTRIBUTIONS, everything)
    np.testing.assert_allclose(at_target.sum, 0, atol=1e-5)
    assert losses.region_kl_loss(normal(B, R, C), DISTRIBUTIONS, everything).sum > 0.1


def test_kl_takes_zero_probabilities():
    one_hot = jax.nn.one_hot(LABELS, C)
    term = losses.region_kl_loss(normal(B, R, C), one_hot, MASK)
    assert np.isfinite(term.sum)


def test_token_loss_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    term = losses.token_loss(logits, jnp.array([[0, 2]]), jnp.array([[True, True]]))
    np.testing.assert_allclose(losses.mean(term), -(np.log(0.5) + np.log(0.8)) / 2, rtol=1e-6)


def test_regression_is_a_mean_over_features_too():
    term = losses.region_regression_loss(FEATURES + 2, FEATURES, MASK)
    np.testing.assert_allclose(losses.mean(term), 4, rtol=1e-5)


def test_alignment_class_zero_is_a_match():
    logits = jnp.array([[9.0, 0.0], [0.0, 9.0]])
    right = losses.alignment_loss(logits, jnp.array([0, 1]), jnp.ones(2, bool))
    assert losses.mean(right) < 1e-3


def test_half_precision_logits_are_summed_in_float32():
    term = losses.token_loss(normal(B, R, C).astype(jnp.bfloat16), LABELS, MASK)
    assert term.sum.dtype == jnp.float32
