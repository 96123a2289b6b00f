"""Computing pooled positions alone gives what computing all of them gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.model import init_params

STREAM = vj.StreamConfig(width=16, num_layers=3, num_heads=2, mlp_dim=20)
CONFIG = vj.ViLBERTConfig(
    text=STREAM,
    regions=dataclasses.replace(STREAM, width=8, num_layers=2),
    vocab_size=32,
    max_text_length=12,
    region_feature_dim=6,
    region_target_dim=5,
    co_width=16,
    co_num_heads=2,
    text_co_layers=(1, 2),
    region_co_layers=(0, 1),
    initializer_range=0.4,
)


def inputs():
    rng = np.random.default_rng(0)
    return vj.Inputs(
        token_ids=jnp.asarray(rng.integers(1, 32, (2, 5)), jnp.int32),
        token_types=jnp.zeros((2, 5), jnp.int32),
        text_mask=jnp.asarray([[True] * 5, [True] * 3 + [False] * 2]),
        region_features=jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32),
        region_boxes=jnp.asarray(rng.random((2, 4, 5)), jnp.float32),
        region_mask=jnp.asarray([[True] * 4, [True] * 2 + [False] * 2]),
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_streams": 1}, {"use_coattention": False}, {"text_co_layers": (0,), "region_co_layers": (1,)}],
    ids=["two streams", "one stream", "no co-attention", "one exchange"],
)
def test_pooled_positions_are_those_of_the_whole_model(changes):
    model = vj.ViLBERTForTasks(dataclasses.replace(CONFIG, **changes), ("alignment", "choice"))
    params = init_params(model, jax.random.key(0))
    whole = model.apply({"params": params}, inputs(), deterministic=True)
    alone = model.apply({"params": params}, inputs(), deterministic=True, pooled_only=True)
    for head in model.heads:
        np.testing.assert_allclose(alone.logits[head], whole.logits[head], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone.encoded.text, whole.encoded.text[:, :1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alone.encoded.regions, whole.encoded.regions[:, :1], rtol=1e-5, atol=1e-5)


def test_last_layers_compute_pooled_positions_alone():
    model = vj.ViLBERTForTasks(CONFIG, ("alignment",))
    params = init_params(model, jax.random.key(0))

    def flops(pooled_only):
        def run(params, inputs):
            return model.apply({"params": params}, inputs, deterministic=True, pooled_only=pooled_only).logits

        return jax.jit(run).lower(params, inputs()).cost_analysis()["flops"]

    assert flops(True) < 0.9 * flops(False)
