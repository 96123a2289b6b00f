"""The same training on one device and on eight, whatever the mesh and the micro-batches, with dropout."""

import dataclasses
import functools
import math
import re
import signal

import jax
import numpy as np
import pytest
import tiny_pretraining as tiny

import vilbert_jax as vj
from vilbert_jax.model import init_params
from vilbert_jax.paths import named_leaves
from vilbert_jax.sharding import MeshConfig, make_mesh, param_spec, put_batch
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.logging import read_metrics
from vilbert_jax.training.loop import train
from vilbert_jax.training.optimizer import OptimizerConfig
from vilbert_jax.training.program import make_program

STEPS, ROWS = 20, 64
STREAM = dataclasses.replace(tiny.STREAM, num_layers=1, dropout_rate=0.1, attention_dropout_rate=0.1)
MODEL = vj.ViLBERTForPretraining(
    dataclasses.replace(
        tiny.CONFIG, text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,), initializer_range=0.1
    )
)
CONFIG = TrainingConfig(
    total_steps=STEPS, batch_size=ROWS, seed=4, log_every=1, eval_every=STEPS, checkpoint_every=STEPS
)
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor": MeshConfig(data=1, fsdp=2, tensor=4),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
}


def batch_of(step):
    """Four batches in turn, whose micro-batches hold unequal numbers of things to predict."""
    batch = tiny.make_batch(rows=ROWS, seed=step % 4)
    batch["token_label_mask"] &= (np.arange(ROWS) % 8 < 2)[:, None]
    batch["region_label_mask"] &= (np.arange(ROWS) % 8 > 4)[:, None]
    return batch


def parts():
    return dict(
        init_params=functools.partial(init_params, MODEL),
        loss_fn=pretraining.make_loss_fn(MODEL, "all"),
        loss_weights={"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0},
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )


def run(device_mesh, num_microbatches=1):
    config = dataclasses.replace(CONFIG, num_microbatches=num_microbatches)
    program = make_program(config, device_mesh=device_mesh, **parts())
    losses, batches = [], [put_batch(batch_of(step), device_mesh) for step in range(4)]
    with jax.set_mesh(device_mesh):
        state = program.init()
        compiled = program.step.lower(state, batches[0]).compile()
        for step in range(STEPS):
            state, metrics = compiled(state, batches[step % 4])
            losses.append([metrics[name] for name in ("loss", "token_loss", "region_loss", "alignment_loss")])
    return np.array(jax.device_get(losses)), state, compiled


def reduced_numbers(text):
    """How many numbers the program's all-reduces and reduce-scatters give."""
    found = re.findall(r"= (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\(", text)
    shapes = [shape for shapes in found for shape in re.findall(r"f32\[([\d,]*)\]", shapes)]
    return sum(math.prod(int(size) for size in shape.split(",") if size) for shape in shapes)


@functools.cache
def one_device():
    losses, state, _ = run(make_mesh(MeshConfig(), devices=jax.devices()[:1]))
    assert losses[-1, 0] < 0.9 * losses[0, 0]  # it learns, so errors would add up
    assert len({*losses[:, 0]}) == STEPS
    return losses, state


def test_dropout_counts():
    """Else the tests below would not see masks that depend on the mesh."""
    batch, params = batch_of(0), one_device()[1].params
    loss_fn = jax.jit(pretraining.make_loss_fn(MODEL, "all"))
    a, b = (float(loss_fn(params, batch, jax.random.key(seed))["token_loss"].sum) for seed in (0, 1))
    assert abs(a / b - 1) > 1e-3


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_give_the_losses_of_one(name):
    expected, _ = one_device()
    mesh = make_mesh(MESHES[name])
    losses, state, compiled = run(mesh)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)

    params, moments = named_leaves(state.params), [named_leaves(tree) for tree in state.opt_state[1:]]
    for path, param in params.items():
        assert param.sharding.spec == param_spec(path, param.shape, mesh.shape)
        for moment in moments:
            assert moment[path].sharding == param.sharding, path
            assert moment[path].addressable_shards[0].data.shape == param.addressable_shards[0].data.shape
    whole = sum(p.nbytes for p in params.values())
    held = sum(p.addressable_shards[0].data.nbytes for p in params.values())
    assert held == whole if name == "data" else held < 0.6 * whole

    # the state's memory is given back to it, all of it
    bytes_held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == bytes_held
    if name in ("data", "fsdp"):  # what devices add up is gradients, and not states of the network
        assert reduced_numbers(compiled.as_text()) < 1.1 * whole / 4


@pytest.mark.parametrize(("name", "num_microbatches"), [("all", 4), ("tensor", 8), ("one", 8)])
def test_micro_batches_give_the_losses_of_the_whole_batch(name, num_microbatches):
    mesh = make_mesh(MESHES[name]) if name in MESHES else make_mesh(MeshConfig(), devices=jax.devices()[:1])
    np.testing.assert_allclose(run(mesh, num_microbatches)[0], one_device()[0], rtol=1e-5)


class Stopping:
    """Batches; asks the run to stop, as a job scheduler does, while it prepares the batch of one step."""

    def __init__(self, at):
        self.at = at

    def iterate(self, first_step, *, workers=0):
        del workers
        for step in range(first_step, STEPS):
            if step + 1 == self.at:
                signal.raise_signal(signal.SIGTERM)
            yield batch_of(step)


def test_a_run_stopped_on_one_mesh_goes_on_on_another_with_the_same_losses(tmp_path):
    """Twice, with other micro-batches too."""
    for mesh, stop_at, num_microbatches in (("tensor", 7, 1), ("fsdp", 13, 2), ("all", None, 4)):
        config = dataclasses.replace(CONFIG, num_microbatches=num_microbatches)
        common = dict(workdir=tmp_path, dataset=Stopping(stop_at), evaluations={}, identity={}, mesh=MESHES[mesh])
        result = train(config, **common, **parts())
        assert result.interrupted == (stop_at is not None)
        assert int(result.state.step) == (stop_at or STEPS)
    losses = {line["step"]: line["train/loss"] for line in read_metrics(tmp_path / "metrics.jsonl")}
    np.testing.assert_allclose([losses[step + 1] for step in range(STEPS)], one_device()[0][:, 0], rtol=1e-5)
