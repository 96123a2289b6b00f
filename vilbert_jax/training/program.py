"""The compiled half of a training run: what lives where, and the functions that make and change it.

``train`` runs this program and ``--plan`` reads it, so that a plan is about the very step that will run.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from vilbert_jax.errors import InputError
from vilbert_jax.sharding import PARAM_AXES, AxisTable, batch_sharding, num_batch_shards, state_shardings
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import Params, TrainState
from vilbert_jax.training.step import LossFn, make_train_step


class TrainProgram(NamedTuple):
    """What a run does on its devices. Trace ``step`` under ``jax.set_mesh(device_mesh)``.

    Attributes:
        device_mesh: data x fsdp x tensor.
        abstract: the state as ``ShapeDtypeStruct``s with shardings.
        shardings: of the state, in its structure.
        init: makes the first state, each array where it belongs; a function of the seed.
        step: jitted ``(state, batch) -> (state, metrics)``; gives the memory of the old state to the new one.
    """

    device_mesh: Mesh
    abstract: TrainState
    shardings: TrainState
    init: Callable[[], TrainState]
    step: jax.stages.Wrapped


def make_program(
    config: TrainingConfig,
    *,
    init_params: Callable[[Array], Params],
    loss_fn: LossFn,
    loss_weights: Mapping[str, float],
    optimizer: OptimizerConfig,
    device_mesh: Mesh,
    param_axes: AxisTable = PARAM_AXES,
) -> TrainProgram:
    """Builds the functions of a run; nothing is compiled and no array is made before they are called.

    Args:
        config: seed, total_steps, batch_size, num_microbatches and param_dtype count.
        init_params: key -> parameters; traced.
        loss_fn: ``(params, batch, dropout key)`` -> named sums.
        loss_weights: factor of each loss in the objective.
        optimizer: variant, schedule, decay.
        device_mesh: from ``make_mesh``.
        param_axes: sharding table.

    Raises:
        InputError: the batch size does not fit the mesh, or a pattern matches no parameter.
    """
    _check_batch_size(config, num_batch_shards(device_mesh))
    by_batch, replicated = batch_sharding(device_mesh), jax.NamedSharding(device_mesh, jax.P())

    # --- shapes first, then where they live, then arrays: no array is ever unsharded
    tx = make_optimizer(optimizer, config.total_steps)
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed))

    def init_state(key: Array) -> TrainState:
        params = init_params(key)
        return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))

    abstract = jax.eval_shape(init_state, init_key)
    shardings = state_shardings(abstract, device_mesh, param_axes)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)

    # --- compiled functions
    train_step = make_train_step(
        loss_fn,
        tx,
        dropout_key,
        loss_weights=loss_weights,
        learning_rate=make_schedule(optimizer, config.total_steps),
        num_microbatches=config.num_microbatches,
        param_dtype=config.param_dtype,
    )
    return TrainProgram(
        device_mesh,
        abstract,
        shardings,
        init=functools.partial(jax.jit(init_state, out_shardings=shardings), init_key),
        step=jax.jit(
            train_step, donate_argnums=0, in_shardings=(shardings, by_batch), out_shardings=(shardings, replicated)
        ),
    )


def _check_batch_size(config: TrainingConfig, shards: int) -> None:
    if config.batch_size % (config.num_microbatches * shards):
        raise InputError(
            f"batch_size {config.batch_size} must be a multiple of num_microbatches x data x fsdp = "
            f"{config.num_microbatches} x {shards}: change it, or the mesh."
        )
