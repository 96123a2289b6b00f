"""The training step: its numbers, micro-batches, meshes; and exact evaluation."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.sharding import MeshConfig, batch_sharding, make_mesh, put_batch, state_shardings
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import TrainState
from vilbert_jax.training.step import evaluate, make_eval_step, make_train_step

OPTIMIZER = OptimizerConfig(learning_rate=0.01, clip="none")
KEY = jax.random.key(7)


def without_dropout(params, batch, key):
    del key
    return toy.sums(params, batch)


def make_state(step: int = 0) -> TrainState:
    # A distinct kernel, so that no gradient vanishes by symmetry.
    params = toy.init_params(jax.random.key(0))
    params["alignment_head"]["kernel"] = jax.random.normal(jax.random.key(1), (toy.WIDTH, toy.CLASSES))
    return TrainState(jnp.int32(step), params, make_optimizer(OPTIMIZER, 100).init(params))


def make_step(loss_fn=without_dropout, num_microbatches: int = 1, loss_weights=toy.LOSS_WEIGHTS):
    return make_train_step(
        loss_fn,
        make_optimizer(OPTIMIZER, 100),
        KEY,
        loss_weights=loss_weights,
        learning_rate=make_schedule(OPTIMIZER, 100),
        num_microbatches=num_microbatches,
    )


def uneven_batch(rows: int = 16):
    """Every micro-batch holds another number of examples that count, one of them almost none."""
    batch = toy.make_batch(5, rows)
    batch["example_mask"] = np.arange(rows) % 4 < np.arange(rows) // 4 + 1
    return batch


def gradient(state: TrainState):
    """After one update from zero, mu is (1 - b1) x gradient."""
    return jax.tree.map(lambda m: np.asarray(m) / (1 - OPTIMIZER.b1), state.opt_state.mu)


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_metrics_are_the_objective_the_means_and_the_norms():
    state, batch = make_state(), uneven_batch()
    new, metrics = jax.jit(make_step())(state, batch)
    sums = {name: (float(total.sum), float(total.weight)) for name, total in toy.sums(state.params, batch).items()}
    means = {name: total / weight for name, (total, weight) in sums.items()}
    expected = means | {
        "loss": means["fit_loss"] + 0.5 * means["sign_loss"],
        "learning_rate": 0.01 * 1 / 10,
        "param_norm": np.sqrt(sum((np.asarray(p) ** 2).sum() for p in jax.tree.leaves(new.params))),
        "grad_norm": np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient(new)))),
        "update_norm": np.sqrt(
            sum(
                ((np.asarray(a) - b) ** 2).sum()
                for a, b in zip(*map(jax.tree.leaves, (new.params, state.params)), strict=True)
            )
        ),
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    assert int(new.step) == 1


def test_a_score_without_a_loss_weight_has_no_gradient():
    batch = uneven_batch()
    only = jax.jit(make_step(loss_weights={"fit_loss": 1.0}))(make_state(), batch)[0]

    def fit_loss(params):
        total = toy.sums(params, batch)["fit_loss"]
        return total.sum / total.weight

    assert_trees_close(gradient(only), jax.grad(fit_loss)(make_state().params), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("num_microbatches", [2, 4, 8])
def test_micro_batches_give_the_gradient_and_metrics_of_the_whole_batch(num_microbatches):
    state, batch = make_state(), uneven_batch()
    whole, whole_metrics = jax.jit(make_step())(state, batch)
    parts, parts_metrics = jax.jit(make_step(num_microbatches=num_microbatches))(state, batch)
    assert_trees_close(gradient(parts), gradient(whole), rtol=1e-5, atol=1e-7)
    assert set(parts_metrics) == set(whole_metrics)
    assert_trees_close(parts_metrics, whole_metrics, rtol=1e-5)


def test_micro_batches_of_a_batch_on_a_mesh_stay_on_their_devices():
    mesh, state, batch = make_mesh(MeshConfig()), make_state(), uneven_batch(32)
    shardings = state_shardings(state, mesh)
    expected, _ = jax.jit(make_step())(state, batch)
    with jax.set_mesh(mesh):
        step = jax.jit(
            make_step(num_microbatches=2),
            in_shardings=(shardings, batch_sharding(mesh)),
            out_shardings=(shardings, None),
        )
        compiled = step.lower(state, batch).compile()
        new, _ = compiled(jax.device_put(state, shardings), put_batch(batch, mesh))
    assert_trees_close(gradient(new), gradient(expected), rtol=1e-5, atol=1e-7)
    assert re.search("all-reduce", str(compiled.as_text()))  # of the gradients
    assert not re.search("all-gather|all-to-all|collective-permute", str(compiled.as_text()))  # of the rows


def test_counting_the_weights_first_costs_no_forward_pass():
    def dots(num_microbatches):
        lowered = jax.jit(make_step(num_microbatches=num_microbatches)).lower(make_state(), uneven_batch())
        return len(re.findall(r" dot\(", str(lowered.compile().as_text())))

    assert dots(1) > 0
    assert dots(4) == dots(1)


def test_micro_batches_need_the_memory_of_one():
    def temporary_bytes(num_microbatches):
        shapes = jax.eval_shape(lambda: (make_state(), uneven_batch(1 << 14)))
        compiled: Any = jax.jit(make_step(num_microbatches=num_microbatches)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # the batch itself, cut into parts, is part of it
    assert temporary_bytes(16) < 0.6 * temporary_bytes(1)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_dropout_is_a_function_of_the_step(num_microbatches):
    step, batch = jax.jit(make_step(toy.loss_fn, num_microbatches)), uneven_batch()
    losses = [float(step(make_state(at), batch)[1]["loss"]) for at in (3, 3, 4)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("num_microbatches", [2, 8])
def test_micro_batches_draw_the_dropout_of_the_whole_batch(num_microbatches):
    state, batch = make_state(), uneven_batch()
    whole, whole_metrics = jax.jit(make_step(toy.loss_fn))(state, batch)
    parts, parts_metrics = jax.jit(make_step(toy.loss_fn, num_microbatches))(state, batch)
    assert_trees_close(gradient(parts), gradient(whole), rtol=1e-5, atol=1e-7)
    assert_trees_close(parts_metrics, whole_metrics, rtol=1e-5)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_nothing_that_counts_gives_zero_loss_and_zero_gradient(num_microbatches):
    batch = toy.make_batch(5, real=0)
    new, metrics = jax.jit(make_step(num_microbatches=num_microbatches))(make_state(), batch)
    assert float(metrics["loss"]) == 0
    assert float(metrics["grad_norm"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new.params))


@pytest.mark.parametrize(
    "config", [MeshConfig(), MeshConfig(fsdp=8), MeshConfig(tensor=8), MeshConfig(data=2, fsdp=2, tensor=2)]
)
def test_every_mesh_gives_the_loss_and_gradient_of_one_device(config):
    state, batch, mesh = make_state(), uneven_batch(), make_mesh(config)
    expected, expected_metrics = jax.jit(make_step(toy.loss_fn))(state, batch)
    shardings = state_shardings(state, mesh)
    with jax.set_mesh(mesh):
        step = jax.jit(make_step(toy.loss_fn), out_shardings=(shardings, None))
        new, metrics = step(jax.device_put(state, shardings), put_batch(batch, mesh))
    assert_trees_close(gradient(new), gradient(expected), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-6)


def test_a_loss_weight_without_a_loss_is_an_error():
    with pytest.raises(
        InputError, match=r"\['fitloss'\], but the losses are \['close_accuracy', 'fit_loss', 'sign_loss'\]"
    ):
        make_step(loss_weights={"fitloss": 1.0})(make_state(), uneven_batch())


def test_a_batch_that_does_not_divide_into_micro_batches_is_an_error():
    with pytest.raises(InputError, match="16 rows does not divide into num_microbatches=3"):
        make_step(num_microbatches=3)(make_state(), uneven_batch())


def evaluation(batches, metric_fn=toy.metric_fn):
    mesh = make_mesh(MeshConfig())
    params = make_state().params
    return evaluate(make_eval_step(metric_fn, mesh, state_shardings(params, mesh)), params, batches, mesh)


def test_evaluation_counts_each_example_once_however_they_are_batched():
    examples = toy.make_batch(9, rows=40)
    padding = toy.make_batch(10, rows=8)
    padding["example_mask"][:] = False

    def batches(size):
        padded = {name: np.concatenate([value, padding[name]]) for name, value in examples.items()}
        starts = range(0, 40, size)
        return [{name: value[start : start + size] for name, value in padded.items()} for start in starts]

    assert [len(b["ids"]) for b in batches(16)] == [16, 16, 16]
    expected = {name: float(t.sum) / float(t.weight) for name, t in toy.sums(make_state().params, examples).items()}
    for size in (8, 16):
        found = evaluation(batches(size))
        assert found == pytest.approx(expected, rel=1e-6)


def test_evaluation_adds_up_in_float64():
    def count(params, batch):
        del params
        return {"count": WeightedSum(batch["x"].sum(), jnp.float32(0.5))}

    batches = [{"x": np.full(8, value, np.float32)} for value in (2.0**21, 0.125)]  # 2**24 + 1 is no float32
    assert evaluation(batches, count) == {"count": 2.0**24 + 1}


def test_evaluation_of_nothing_is_an_error():
    with pytest.raises(InputError, match="no batches"):
        evaluation([])


def test_a_metric_that_never_counted_is_zero():
    assert set(evaluation([toy.make_batch(3, real=0)]).values()) == {0.0}
