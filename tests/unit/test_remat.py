"""Computing again instead of keeping: the same losses and gradients in less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_pretraining as tiny
import toy_training as toy

import vilbert_jax as vj
from vilbert_jax.errors import InputError
from vilbert_jax.losses import mean
from vilbert_jax.model import init_params
from vilbert_jax.nn.part_keys import part_keys
from vilbert_jax.tasks import pretraining

STREAM = dataclasses.replace(tiny.STREAM, num_layers=1, dropout_rate=0.2, attention_dropout_rate=0.2)
CONFIG = dataclasses.replace(tiny.CONFIG, text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,))
KEY = jax.random.key(1)


def value_and_gradient(config, remat, batch):
    loss_fn = pretraining.make_loss_fn(vj.ViLBERTForPretraining(config, remat), "all")

    def objective(params):
        key = part_keys(KEY, 2, 16)[1]  # as of a micro-batch
        return sum(mean(term) for term in loss_fn(params, batch, key).values())

    params = jax.eval_shape(lambda: init_params(vj.ViLBERTForPretraining(config), KEY))
    return jax.jit(jax.value_and_grad(objective)).lower(params)


@pytest.mark.parametrize(
    "config",
    [CONFIG, dataclasses.replace(CONFIG, num_streams=1), dataclasses.replace(CONFIG, dtype="bfloat16")],
    ids=["two streams", "one stream", "bfloat16"],
)
def test_losses_gradients_and_dropout_stay_the_same(config):
    batch = jax.tree.map(jnp.asarray, tiny.make_batch())
    params = jax.jit(lambda: init_params(vj.ViLBERTForPretraining(config), KEY))()
    expected_loss, expected = value_and_gradient(config, "none", batch).compile()(params)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    # bfloat16 rounds in other places where XLA fuses other operations
    rtol, atol = (1e-6, 2e-6) if config.dtype == "float32" else (2e-3, 2e-2)
    for remat in ("light", "full"):
        loss, gradients = value_and_gradient(config, remat, batch).compile()(params)
        np.testing.assert_allclose(loss, expected_loss, rtol=rtol)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol * largest), gradients, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_less_is_kept_and_more_computed(dtype):
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tiny.make_batch(rows=16, text=12, regions=24)))
    config = dataclasses.replace(
        CONFIG, text=dataclasses.replace(STREAM, num_layers=3), text_co_layers=(2,), dtype=dtype
    )
    loss_fns = {
        remat: pretraining.make_loss_fn(vj.ViLBERTForPretraining(config, remat), "all")
        for remat in ("none", "light", "full")
    }
    params = jax.eval_shape(lambda: init_params(vj.ViLBERTForPretraining(config), KEY))
    kept, products = {}, {}
    for remat, loss_fn in loss_fns.items():

        def objective(params, batch, loss_fn=loss_fn):
            return sum(mean(term) for term in loss_fn(params, batch, KEY).values())

        traced = jax.make_jaxpr(lambda p, b, f=objective: jax.vjp(lambda q: f(q, b), p))(params, batch)
        kept[remat] = sum(v.aval.size * v.aval.dtype.itemsize for v in traced.jaxpr.outvars)
        products[remat] = jax.jit(jax.grad(objective)).lower(params, batch).as_text().count("dot_general")
    assert kept["none"] > 1.5 * kept["light"] > 1.5 * 1.5 * kept["full"]
    assert products["none"] < products["light"] < products["full"]


def test_parameters_have_the_same_names():
    shapes = [
        jax.eval_shape(lambda remat=remat: init_params(vj.ViLBERTForPretraining(CONFIG, remat), KEY))
        for remat in ("none", "light", "full")
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_other_names_are_refused():
    with pytest.raises(InputError, match="remat is 'all'; choose one of none, light, full"):
        dataclasses.replace(toy.CONFIG, remat="all")
