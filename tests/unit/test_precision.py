"""What is bfloat16 and what is not: read off the traced training step, and measured where rounding would show."""

import dataclasses
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_pretraining as tiny
import toy_training as toy
from jax.extend.core import ClosedJaxpr, Jaxpr

import vilbert_jax as vj
from vilbert_jax.checkpoints.folder import latest_checkpoint, read_contents
from vilbert_jax.errors import InputError
from vilbert_jax.losses import mean
from vilbert_jax.model import init_params
from vilbert_jax.nn.dense import Dense
from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.nn.embeddings import TextEmbeddings
from vilbert_jax.nn.products import product
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.precision import working_copies
from vilbert_jax.training.state import TrainState
from vilbert_jax.training.step import make_train_step

KEY = jax.random.key(0)
STREAM = dataclasses.replace(tiny.STREAM, num_layers=1, dropout_rate=0.1, attention_dropout_rate=0.1)
SMALL = dataclasses.replace(tiny.CONFIG, text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,))
HALF = dataclasses.replace(SMALL, dtype="bfloat16")
# What may be bfloat16: matrix products, and what moves, compares, selects or converts numbers without adding them up.
MAY_BE_HALF = {
    "dot_general", "convert_element_type", "reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "gather",
    "concatenate", "select_n", "copy", "pad", "gt", "eq", "max", "custom_jvp_call", "jit", "custom_vjp_call", "scan",
    "name",
}  # fmt: skip
# Of states, one number with another: the two pooled vectors; where a state is read twice or in places, its gradients.
OF_STATES = {"mul", "add_any", "scatter-add"}


def equations(jaxpr: Jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from equations(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def traced_step(config, param_dtype="float32"):
    model = vj.ViLBERTForPretraining(config)
    optimizer = OptimizerConfig()
    tx = make_optimizer(optimizer, 10)

    def init(key):
        params = init_params(model, key)
        return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))

    def step(state, batch):
        train_step = make_train_step(
            pretraining.make_loss_fn(model, "all"),
            tx,
            KEY,
            loss_weights={"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0},
            learning_rate=make_schedule(optimizer, 10),
            num_microbatches=2,
            param_dtype=param_dtype,
        )
        return train_step(state, batch)

    return jax.make_jaxpr(step)(
        jax.eval_shape(init, KEY), tiny.make_batch(rows=36)
    )  # 36 and 18 are no size of a parameter


def halves(equation):
    return [v.aval for v in (*equation.invars, *equation.outvars) if v.aval.dtype == jnp.bfloat16]


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_only_matrix_products_and_moves_are_bfloat16(param_dtype):
    traced = [e for e in equations(traced_step(HALF, param_dtype).jaxpr) if halves(e) and e.outvars[0].aval.shape]
    names = {e.primitive.name for e in traced}
    assert "dot_general" in names
    assert not names - MAY_BE_HALF - OF_STATES
    states = [e.outvars[0].aval.shape for e in traced if e.primitive.name in OF_STATES]
    assert states
    sums = {*states} & {leaf.shape for leaf in jax.tree.leaves(PARAMS)}
    assert sums == (set() if param_dtype == "float32" else {(32, tiny.WIDTH)})  # the word table is read twice


PARAMS = jax.eval_shape(lambda: init_params(vj.ViLBERTForPretraining(HALF), KEY))


@pytest.mark.parametrize(("param_dtype", "expected"), [("float32", jnp.float32), ("bfloat16", jnp.bfloat16)])
def test_gradients_of_matrices_leave_the_product_in_the_dtype_of_the_parameters(param_dtype, expected):
    """Devices and micro-batches add up what a product wrote."""
    shapes = {leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(PARAMS) if "kernel" in str(path)}
    products = [e for e in equations(traced_step(HALF, param_dtype).jaxpr) if e.primitive.name == "dot_general"]
    of_parameters = [e.outvars[0].aval for e in products if e.outvars[0].aval.shape in shapes]
    assert len(of_parameters) > 20
    assert {v.dtype for v in of_parameters} == {jnp.dtype(expected)}


def test_every_large_product_reads_bfloat16_forward_and_backward():
    products = [e for e in equations(traced_step(HALF).jaxpr) if e.primitive.name == "dot_general"]
    wide = [e for e in products if any(v.aval.dtype != jnp.bfloat16 for v in e.invars)]
    assert len(products) > 60
    assert all(5 in shape for e in wide for shape in [{n for v in (*e.invars, *e.outvars) for n in v.aval.shape}])


def test_float32_has_no_trace_of_it():
    assert not [e for e in equations(traced_step(SMALL).jaxpr) if halves(e)]


ROWS = 4097  # no bfloat16, and adding 1 to 256 gives 256 there


def test_gradients_are_summed_over_rows_in_float32():
    layer = Dense(3, jnp.bfloat16, jnp.bfloat16, jax.nn.initializers.ones)
    x = jnp.ones((ROWS, 2), jnp.bfloat16)
    params = layer.init(KEY, x)["params"]
    gradients = jax.jit(jax.grad(lambda p: layer.apply({"params": p}, x).sum(dtype=jnp.float32)))(params)
    np.testing.assert_array_equal(gradients["kernel"], np.full((2, 3), ROWS))
    np.testing.assert_array_equal(gradients["bias"], np.full(3, ROWS))


def test_gradients_of_embedding_rows_are_summed_in_float32():
    model = vj.ViLBERTForPretraining(dataclasses.replace(HALF, max_text_length=2, num_token_types=1))
    shapes = jax.eval_shape(lambda: init_params(model, KEY))["trunk"]["text_embeddings"]

    table = TextEmbeddings(model.config).bind({"params": jax.tree.map(lambda p: jnp.ones(p.shape), shapes)})
    ids = jnp.full((ROWS, 1), 7)

    def looked_up(tables):
        bound = TextEmbeddings(model.config).bind({"params": tables})
        return bound.word_embeddings(ids).sum(dtype=jnp.float32)

    gradient = jax.jit(jax.grad(looked_up))(table.variables["params"])["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(gradient[7], np.full(tiny.WIDTH, ROWS))
    assert not np.asarray(gradient[:7]).any()


def test_products_of_bfloat16_add_up_in_float32():
    x = jnp.concatenate([jnp.full((1, 1), 256), jnp.ones((1, 256))], axis=1).astype(jnp.bfloat16)
    assert product("I,IO->O", x, jnp.ones((257, 1)), jnp.bfloat16).item() == 512
    assert product("I,IO->O", x, jnp.full((257, 1), 1 + 2**-12), jnp.float32).item() == 512  # the kernel is rounded


@pytest.mark.parametrize("spec", ["I,IO->O", "D,VD->V", "BLNH,BSNH->BNLS"])
def test_gradients_of_products_are_those_of_float32_but_for_rounding(spec):
    shapes = {"I,IO->O": ((2, 3, 8), (8, 5)), "D,VD->V": ((2, 3, 8), (5, 8))}
    a, b = shapes.get(spec, ((2, 3, 4, 8), (2, 6, 4, 8)))
    x, y = (jax.random.normal(jax.random.key(i), shape).astype(jnp.bfloat16) for i, shape in enumerate((a, b)))

    def loss(x, y):
        return (product(spec, x, y, jnp.float32) ** 2).sum()

    ours = jax.grad(loss, (0, 1))(x, y.astype(jnp.float32))
    exact = jax.grad(loss, (0, 1))(x.astype(jnp.float32), y.astype(jnp.float32))
    assert [g.dtype for g in ours] == [jnp.bfloat16, jnp.float32]
    for gradient, expected in zip(ours, exact, strict=True):
        np.testing.assert_allclose(gradient.astype(np.float32), expected, atol=0.01 * np.abs(expected).max())


def test_dropout_scales_without_a_bias():
    x = jax.random.uniform(KEY, (1 << 16,), minval=1, maxval=2).astype(jnp.bfloat16)
    kept = Dropout(0.1).apply({}, x, deterministic=False, rngs={"dropout": KEY})
    assert kept.dtype == jnp.bfloat16
    ratio = (kept.astype(np.float32) / x.astype(np.float32))[kept != 0].mean()
    assert ratio == pytest.approx(1 / 0.9, rel=2e-4)  # divided by bfloat16's 0.9 it is 1.7e-3 too large


def test_losses_and_gradients_of_bfloat16_are_near_those_of_float32():
    batch = jax.tree.map(jnp.asarray, tiny.make_batch())
    params = init_params(vj.ViLBERTForPretraining(SMALL), KEY)

    def gradient(config, params):
        loss_fn = pretraining.make_loss_fn(vj.ViLBERTForPretraining(config), "all")
        loss, gradients = jax.jit(
            jax.value_and_grad(lambda p: sum(mean(term) for term in loss_fn(p, batch, KEY).values()))
        )(params)
        return loss, jnp.concatenate([g.astype(jnp.float32).ravel() for g in jax.tree.leaves(gradients)])

    expected, exact = gradient(SMALL, params)
    for copies in (params, working_copies(params, "bfloat16")):
        loss, found = gradient(HALF, copies)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, expected, rtol=3e-3)
        assert np.linalg.norm(found - exact) < 0.03 * np.linalg.norm(exact)


# --- bfloat16 parameters


def toy_step(param_dtype, num_microbatches=1, loss_fn=toy.loss_fn):
    optimizer = OptimizerConfig(learning_rate=1e-6, warmup_fraction=0.0, schedule="constant", weight_decay=0.0)
    tx = make_optimizer(optimizer, 100)
    params = toy.init_params(KEY)
    step = make_train_step(
        loss_fn,
        tx,
        KEY,
        loss_weights=toy.LOSS_WEIGHTS,
        learning_rate=make_schedule(optimizer, 100),
        num_microbatches=num_microbatches,
        param_dtype=param_dtype,
    )
    return jax.jit(step), TrainState(jnp.int32(0), params, tx.init(params))


def test_losses_read_bfloat16_matrices_and_float32_vectors():
    seen: list[Any] = []

    def loss_fn(params, batch, key):
        seen.append(jax.tree.map(lambda p: p.dtype, params))
        return toy.loss_fn(params, batch, key)

    step, state = toy_step("bfloat16", loss_fn=loss_fn)
    new, _ = step(state, toy.make_batch(0))
    assert seen[0]["trunk"]["text_pooler"] == {"kernel": jnp.bfloat16, "bias": jnp.float32}
    assert {leaf.dtype for leaf in jax.tree.leaves((new.params, new.opt_state.mu, new.opt_state.nu))} == {
        np.dtype("float32")
    }


def test_masters_gather_updates_that_bfloat16_would_lose():
    step, state = toy_step("bfloat16")
    start = np.asarray(state.params["trunk"]["text_pooler"]["kernel"])
    for number in range(30):
        state, _ = step(state, toy.make_batch(number))
    moved = np.asarray(state.params["trunk"]["text_pooler"]["kernel"]) - start
    assert np.abs(moved).max() > 1e-5  # steps of 1e-6 each
    large = np.abs(start) > 0.1
    rounded = [np.asarray(jnp.asarray(p).astype(jnp.bfloat16)) for p in (start, start + moved)]
    assert (rounded[0] == rounded[1])[large].mean() > 0.9


def test_micro_batches_add_up_in_float32():
    """1 + 2**-9 + ... in bfloat16 would stay 1."""

    def loss_fn(params, batch, key):
        del key
        total = (params["alignment_head"]["kernel"][0, 0] * batch["x"].astype(jnp.bfloat16)).astype(jnp.float32).sum()
        return {name: toy.WeightedSum(total, jnp.float32(1 / 8)) for name in toy.LOSS_WEIGHTS}

    step, state = toy_step("bfloat16", num_microbatches=8, loss_fn=loss_fn)
    x = np.array([1.0] + [2.0**-9] * 7, np.float32)
    _, metrics = step(state, {"x": x})
    np.testing.assert_allclose(metrics["grad_norm"], 1.5 * x.sum(dtype=np.float32), rtol=1e-6)


def test_checkpoints_hold_the_masters_and_either_precision_continues(tmp_path):
    short = dataclasses.replace(toy.CONFIG, total_steps=12, param_dtype="bfloat16")
    half = toy.run(tmp_path, dataclasses.replace(short, checkpoint_every=6), dataset=StopAt(6))
    assert half.interrupted
    shapes = read_contents(latest_checkpoint(tmp_path / "checkpoints")).shapes
    assert {dtype for name, (dtype, *_) in shapes.items() if name.startswith("params/")} == {"float32"}
    resumed = toy.run(tmp_path, short).state
    whole = toy.run(tmp_path / "whole", short).state
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)  # bit for bit
    toy.run(tmp_path, dataclasses.replace(short, total_steps=14, param_dtype="float32"))


class StopAt(toy.Batches):
    def __init__(self, at):
        super().__init__(before=lambda step: signal.raise_signal(signal.SIGTERM) if step == at else None)


def test_precisions_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"param_dtype is bfloat16 and model.dtype float32.*Set model.dtype=bfloat16"):
        dataclasses.replace(toy.CONFIG, param_dtype="bfloat16").check_precision("float32")
    with pytest.raises(InputError, match="param_dtype is 'float16'; choose one of float32, bfloat16"):
        dataclasses.replace(toy.CONFIG, param_dtype="float16")
    for param_dtype, dtype in (("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")):
        dataclasses.replace(toy.CONFIG, param_dtype=param_dtype).check_precision(dtype)
