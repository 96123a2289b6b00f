"""One optimizer step, one evaluation: pure functions of state and batch.

A loss function maps ``(params, batch, dropout key)`` to named ``WeightedSum``s. The objective is the sum over
``loss_weights`` of weight x (sum / weight over the whole global batch); names without a loss weight are only reported.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum, mean
from vilbert_jax.nn.part_keys import part_keys
from vilbert_jax.sharding import BATCH_AXES, batch_sharding, put_batch
from vilbert_jax.training.batches import Batch
from vilbert_jax.training.optimizer import Schedule
from vilbert_jax.training.precision import ParamDType, widened, working_copies
from vilbert_jax.training.state import Params, TrainState

Sums = dict[str, WeightedSum]
LossFn = Callable[[Params, Batch, Array], Sums]
MetricFn = Callable[[Params, Batch], Sums]


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    key: Array,
    *,
    loss_weights: Mapping[str, float],
    learning_rate: Schedule,
    num_microbatches: int = 1,
    param_dtype: ParamDType = "float32",
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns the pure function ``(state, batch) -> (state, metrics)``.

    Dropout is a function of ``key``, the step and the row: a resumed run repeats it, and so do other micro-batches.

    Args:
        loss_fn: see the module.
        tx: from ``make_optimizer``.
        key: root of the dropout keys.
        loss_weights: factor of each loss in the objective.
        learning_rate: only reported; ``tx`` has its own.
        num_microbatches: parts that the batch is worked through in. The gradient is that of the whole batch, the memory
            that of one part; ``loss_fn`` must then treat rows independently of each other.
        param_dtype: of the copies of the parameters that ``loss_fn`` gets, and of the gradients before they are added
            up over micro-batches.

    Returns:
        A step whose metrics are ``loss``, every mean by the name ``loss_fn`` gave it, ``grad_norm`` (before clipping),
        ``update_norm``, ``param_norm`` and ``learning_rate``.

    Raises:
        InputError: while tracing, if the batch does not divide into the micro-batches or a loss weight has no loss.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(key, state.step)
        copies = working_copies(state.params, param_dtype)
        if num_microbatches == 1:
            grads, sums = _gradient(loss_fn, copies, batch, step_key, loss_weights=loss_weights)
        else:
            grads, sums = _accumulated_gradient(
                loss_fn, copies, _split(batch, num_microbatches), step_key, loss_weights
            )
        grads = widened(grads, state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {name: mean(total) for name, total in sums.items()}
        metrics |= {
            "loss": _objective(sums, loss_weights),
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "learning_rate": learning_rate(state.step),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_eval_step(
    metric_fn: MetricFn, mesh: Mesh | None = None, param_shardings: Any = None
) -> Callable[[Params, Batch], Sums]:
    """Compiles ``(params, batch) -> named sums``; with a mesh, for arrays placed on it."""
    if mesh is None:
        return jax.jit(metric_fn)
    replicated = jax.NamedSharding(mesh, jax.P())
    return jax.jit(metric_fn, in_shardings=(param_shardings, batch_sharding(mesh)), out_shardings=replicated)


def evaluate(
    eval_step: Callable[[Params, Batch], Sums], params: Params, batches: Iterable[Batch], mesh: Mesh
) -> dict[str, float]:
    """Means over all examples of ``batches``.

    Sums are added in float64 on the host, so the result does not depend on how the examples were batched. Rows that
    only fill up the last batch must have no weight in the metrics.

    Raises:
        InputError: there is no batch.
    """
    totals: dict[str, np.ndarray] = {}

    def add(sums: Sums) -> None:
        for name, value in jax.device_get(sums).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.array([value.sum, value.weight], np.float64)

    running = None
    for batch in batches:
        previous, running = running, eval_step(params, put_batch(batch, mesh))
        if previous is not None:  # fetched while the next batch runs
            add(previous)
    if running is None:
        raise InputError("the evaluation data has no batches; choose a split with at least one example.")
    add(running)
    return {name: float(total / weight) if weight > 0 else 0.0 for name, (total, weight) in totals.items()}


def _objective(sums: Sums, loss_weights: Mapping[str, float]) -> Array:
    unknown = sorted(set(loss_weights) - set(sums))
    if unknown:
        raise InputError(f"loss_weights names {unknown}, but the losses are {sorted(sums)}; correct the name.")
    return sum((weight * mean(sums[name]) for name, weight in loss_weights.items()), start=jnp.zeros([]))


def _gradient(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    key: Array,
    *,
    loss_weights: Mapping[str, float],
    weights: dict[str, Array] | None = None,
) -> tuple[Params, Sums]:
    """Gradient of the objective on one batch, each sum divided by ``weights`` (default: the batch's own)."""

    def objective(params):
        sums = loss_fn(params, batch, key)
        scaled = sums if weights is None else {name: sums[name]._replace(weight=weights[name]) for name in sums}
        return _objective(scaled, loss_weights), sums

    return jax.grad(objective, has_aux=True)(params)


def _accumulated_gradient(
    loss_fn: LossFn, params: Params, parts: Batch, key: Array, loss_weights: Mapping[str, float]
) -> tuple[Params, Sums]:
    """The gradient of the whole batch, one part ([parts, rows, ...]) at a time.

    A mean over the whole batch needs the whole batch's weights before the first part's gradient. They depend on the
    labels only, so XLA drops everything else of the first pass.
    """
    keys = part_keys(key, *jax.tree.leaves(parts)[0].shape[:2])

    def weigh(carry, part):
        return carry, {name: total.weight for name, total in loss_fn(params, *part).items()}

    weights = jax.tree.map(lambda w: w.sum(0), jax.lax.scan(weigh, None, (parts, keys))[1])

    def accumulate(carry, part):
        return jax.tree.map(
            jnp.add, carry, _gradient(loss_fn, params, *part, loss_weights=loss_weights, weights=weights)
        ), None

    one_part = jax.tree.map(lambda x: x[0], (parts, keys))
    shapes = jax.eval_shape(lambda part: _gradient(loss_fn, params, *part, loss_weights=loss_weights), one_part)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), shapes)
    return jax.lax.scan(accumulate, zeros, (parts, keys))[0]


def _split(batch: Batch, num_parts: int) -> Batch:
    """[B, ...] -> [parts, B / parts, ...]; part i takes rows i, i + parts, ... so that no row changes its device."""
    mesh = jax.sharding.get_abstract_mesh()

    def split(x: Array) -> Array:
        if x.shape[0] % num_parts:
            raise InputError(f"a batch of {x.shape[0]} rows does not divide into num_microbatches={num_parts}.")
        x = jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0)
        return x if mesh.empty else jax.lax.with_sharding_constraint(x, jax.P(None, BATCH_AXES))

    return jax.tree.map(split, dict(batch))
