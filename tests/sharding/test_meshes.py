"""ViLBERT computes the same on any mesh: losses, gradients, and a checkpoint carried from one to another."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_pretraining as tiny

import vilbert_jax as vj
from vilbert_jax.losses import mean
from vilbert_jax.model import init_params
from vilbert_jax.sharding import MeshConfig, make_mesh, put_batch, state_shardings
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from vilbert_jax.training.state import TrainState

MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=2, fsdp=1, tensor=4),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
}
MODEL = vj.ViLBERTForPretraining(tiny.CONFIG)
SINGLE_STREAM = vj.ViLBERTForPretraining(dataclasses.replace(tiny.CONFIG, num_streams=1))
KEY = jax.random.key(0)
BATCH = tiny.make_batch(
    seed=2
)  # here float32 gradients of one device are within 2e-6 of float64; not so of every batch


def losses_and_gradients(model, params, batch):
    loss_fn = pretraining.make_loss_fn(model, "all")

    def total(params):
        terms = {name: mean(term) for name, term in loss_fn(params, batch, KEY).items()}
        return sum(terms.values()), terms

    (_, terms), gradients = jax.value_and_grad(total, has_aux=True)(params)
    return terms, gradients


@functools.cache
def one_device(model):
    params = init_params(model, KEY)
    return params, jax.jit(losses_and_gradients, static_argnums=0)(model, params, BATCH)


@pytest.mark.parametrize(
    ("name", "model"), [*((name, MODEL) for name in MESHES), ("all", SINGLE_STREAM)], ids=[*MESHES, "one stream"]
)
def test_losses_and_gradients_agree_with_one_device(name, model):
    params, (expected_losses, expected_gradients) = one_device(model)
    mesh = make_mesh(MESHES[name])
    shardings = state_shardings(params, mesh)
    replicated = [sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings)]
    assert all(replicated) == (name == "data")
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings)
        losses, gradients = jax.jit(losses_and_gradients, static_argnums=0)(model, placed, put_batch(BATCH, mesh))
    for loss, value in expected_losses.items():
        np.testing.assert_allclose(losses[loss], value, rtol=1e-5, err_msg=loss)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradients))
    jax.tree_util.tree_map_with_path(
        # Relative to each array's largest entry; key biases, whose gradient is zero but for rounding, to the largest.
        lambda path, ours, reference: np.testing.assert_allclose(
            ours,
            reference,
            rtol=0,
            atol=1e-5 * (largest if "key" in str(path) and "bias" in str(path) else np.abs(reference).max()),
            err_msg=str(path),
        ),
        gradients,
        expected_gradients,
    )


def test_a_checkpoint_restores_on_every_other_mesh_identically(tmp_path):
    tx = make_optimizer(OptimizerConfig(), total_steps=10)

    def init_state(key):
        params = init_params(MODEL, key)
        return TrainState(jax.numpy.asarray(3, jax.numpy.int32), params, tx.init(params))

    abstract = jax.eval_shape(init_state, KEY)

    def on(name):
        shardings = state_shardings(abstract, make_mesh(MESHES[name]))
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)

    written = jax.jit(init_state, out_shardings=state_shardings(abstract, make_mesh(MESHES["tensor"])))(KEY)
    with Checkpoints(tmp_path, keep=1, identity={}) as checkpoints:
        checkpoints.save(3, written)
        checkpoints.wait()
        for name in MESHES:
            restored = checkpoints.restore(on(name))
            assert restored is not None
            jax.tree.map(np.testing.assert_array_equal, restored, written)
            jax.tree.map(lambda x, a: x.sharding == a.sharding or pytest.fail(str(a)), restored, on(name))
