"""The training run as one straight function: what happens, in order."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vilbert_jax.checkpoints.folder import RUN_BEST, RUN_CHECKPOINTS, Initial
from vilbert_jax.errors import InputError
from vilbert_jax.sharding import (
    PARAM_AXES,
    AxisTable,
    MeshConfig,
    agreed,
    any_host,
    batch_sharding,
    make_mesh,
    num_batch_shards,
    put_batch,
    state_shardings,
)
from vilbert_jax.signals import StopRequest
from vilbert_jax.training.batches import Dataset, closing, next_batch
from vilbert_jax.training.best import BestCheckpoint, Selection, check_selection
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.evaluation import Evaluation
from vilbert_jax.training.logging import MetricLogger, check_finite
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import Params, TrainState, adopt
from vilbert_jax.training.step import LossFn, make_train_step
from vilbert_jax.training.workdir import only_run_in, write_notes


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how often; steps are completed optimizer steps, from 1.

    Attributes:
        total_steps: length of the run and of the learning-rate schedule.
        batch_size: rows a step, of all hosts.
        seed: root of parameter initialisation and dropout.
        log_every: steps between lines of metrics.jsonl. Finiteness is checked for every step, logged or not.
        eval_every: steps between evaluations; there is always one at the end.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        keep_checkpoints: newest checkpoints to keep.
        num_microbatches: parts a batch is worked through in, to save memory.
        num_workers: processes that prepare batches; 0 uses threads.
        patience: evaluations in a row without a better value of the selected metric after which the run stops; 0 is
            never.
    """

    total_steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    num_microbatches: int = 1
    num_workers: int = 0
    patience: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("seed", "num_workers", "patience") else 1
            if not least <= value < 2**63:
                raise InputError(f"{field.name} is {value}; it must be at least {least} and below 2**63.")


class TrainResult(NamedTuple):
    """The final state, which is saved.

    Attributes:
        state: after the last step; the best parameters, if the run selects, are in the work directory.
        interrupted: a signal ended the run; starting again continues it.
        stopped_early: ``patience`` ran out before ``total_steps``.
    """

    state: TrainState
    interrupted: bool
    stopped_early: bool = False


def train(
    config: TrainingConfig,
    *,
    workdir: str | Path,
    init_params: Callable[[Array], Params],
    loss_fn: LossFn,
    loss_weights: Mapping[str, float],
    dataset: Dataset,
    evaluations: Mapping[str, Evaluation],
    identity: Mapping[str, Any],
    optimizer: OptimizerConfig,
    mesh: MeshConfig,
    selection: Selection | None = None,
    initial_params: Callable[[Params], Initial] | None = None,
    tokenizer_json: str | None = None,
    notes: Mapping[str, Any] | None = None,
    param_axes: AxisTable = PARAM_AXES,
) -> TrainResult:
    """Trains from the newest checkpoint in ``workdir``, or from the start, to ``config.total_steps``.

    SIGTERM and Ctrl-C let the running step finish, save, and return (a second one acts as usual).

    Args:
        config: lengths and intervals.
        workdir: gets checkpoints/, metrics.jsonl and tensorboard/, and with ``selection`` best/.
        init_params: key -> parameters; traced.
        loss_fn: ``(params, batch, dropout key)`` -> named sums.
        loss_weights: factor of each loss in the objective.
        dataset: training batches.
        evaluations: by name, e.g. "validation"; logged as ``eval/<name>/<metric>``.
        identity: what the parameters belong to; a workdir with another one is refused.
        optimizer: variant, schedule, decay.
        mesh: devices along each axis.
        selection: the metric whose highest value decides which parameters go to best/, and when patience ends.
        initial_params: given the fresh parameters, returns those to start from; not called on a resume.
        tokenizer_json: the vocabulary, kept with each checkpoint.
        notes: JSON-like facts by file name, for the workdir; written once the run is known to belong there.
        param_axes: sharding table.

    Raises:
        InputError: the mesh, batch size, checkpoint, selection or a pattern does not fit.
        NonFiniteError: a metric became NaN or infinite; no state from that step on is saved.
    """
    # --- devices
    workdir = Path(workdir)
    device_mesh = make_mesh(mesh)
    _check_batch_size(config, num_batch_shards(device_mesh))
    check_selection(selection, evaluations, patience=config.patience)
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
    )
    train_step = jax.jit(
        train_step, donate_argnums=0, in_shardings=(shardings, by_batch), out_shardings=(shardings, replicated)
    )
    measures = {name: evaluation.compile(device_mesh, shardings.params) for name, evaluation in evaluations.items()}

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        stack.enter_context(only_run_in(workdir))
        stack.enter_context(jax.set_mesh(device_mesh))
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir / RUN_CHECKPOINTS,
                keep=config.keep_checkpoints,
                identity=identity,
                tokenizer_json=tokenizer_json,
            )
        )

        # --- where to start: 1. this workdir's checkpoint, 2. initial_params, 3. scratch
        state = checkpoints.restore(abstract)
        if state is None:
            state = jax.jit(init_state, out_shardings=shardings)(init_key)
            if initial_params is not None:
                initial = initial_params(state.params)
                if jax.process_index() == 0:
                    print(initial.summary)
                state = state._replace(params=adopt(initial.params, abstract.params))
                checkpoints.provenance = initial.provenance
        first_step = int(jax.device_get(state.step))
        if first_step > config.total_steps:
            raise InputError(
                f"{workdir} is at step {first_step} already, beyond total_steps={config.total_steps}: raise it, or use "
                "another --workdir."
            )

        best = None
        if selection is not None:
            best = BestCheckpoint(
                workdir / RUN_BEST,
                selection,
                identity=identity,
                abstract_params=abstract.params,
                tokenizer_json=tokenizer_json,
            )
        write_notes(workdir, notes or {})
        log = stack.enter_context(
            MetricLogger(
                workdir,
                first_step=first_step,
                total_steps=config.total_steps,
                batch_size=config.batch_size,
                active=jax.process_index() == 0,
            )
        )
        batches = stack.enter_context(closing(dataset.iterate(first_step, workers=config.num_workers)))

        def evaluate_all(step: int, params: Params) -> bool:
            """Whether patience has run out."""
            for name, measure in measures.items():
                if step == first_step and agreed(name in log.evaluated):
                    continue
                with log.paused():
                    values = measure(params, config.num_workers)
                    metrics = {f"eval/{name}/{metric}": value for metric, value in values.items()}
                    check_finite(step, metrics)
                    if best and name == best.selection.evaluation:  # kept before the evaluation counts as done
                        best.offer(step, params, values, checkpoints.provenance)
                log.write(step, metrics)
            waited = best.num_evaluations_since(step, config.eval_every) if best else 0
            return 0 < config.patience <= waited and step < config.total_steps

        interrupted = stopped_early = False
        if first_step and (first_step % config.eval_every == 0 or first_step == config.total_steps):
            # A run that was stopped here may have had no time for all of it.
            stopped_early = evaluate_all(first_step, state.params)

        # --- loop: update, log, evaluate, save; everything is labelled with the number of completed steps
        unchecked: dict[int, Any] = {}  # metrics of the steps since the last check, still on the devices
        for step in range(first_step + 1, config.total_steps + 1):
            if interrupted or stopped_early:
                break
            batch = put_batch(next_batch(batches, step), device_mesh)
            # An implicit transfer would stall the devices at every step; it is an error instead. Only compiling, at the
            # first step, may read constants back from the device.
            guard = jax.transfer_guard("allow" if step == first_step + 1 else "disallow")
            with jax.profiler.StepTraceAnnotation("train", step_num=step), guard:
                state, unchecked[step] = train_step(state, batch)
            if step - 1 in unchecked:  # at most one step ahead of the devices, so batches do not pile up on them
                jax.block_until_ready(unchecked[step - 1])
            log.advance()

            is_last = step == config.total_steps
            to_log = is_last or step % config.log_every == 0
            to_evaluate = is_last or step % config.eval_every == 0
            to_save = is_last or step % config.checkpoint_every == 0
            # Hosts must stop at the same step, so several hosts ask each other, at log steps only.
            interrupted = stop.requested if jax.process_count() == 1 else to_log and any_host(stop.requested)
            interrupted = interrupted and not is_last

            if to_log or to_evaluate or to_save or interrupted:
                metrics = _fetch(unchecked)
                unchecked.clear()
                if to_log:
                    log.show(step, metrics["loss"])
                    log.write(step, {f"train/{name}": value for name, value in metrics.items()})
                if to_save or interrupted:  # before the evaluation, which a resumed run makes up for
                    log.flush()  # a line that is not on disk before the checkpoint would be missing after a kill
                    checkpoints.save(step, state)
                if to_evaluate and not interrupted:
                    stopped_early = evaluate_all(step, state.params)
                if stopped_early:
                    log.flush()
                    checkpoints.save(step, state)
    if stopped_early and best and jax.process_index() == 0:
        print(f"stopped early at step {int(jax.device_get(state.step))} with patience={config.patience}: {best}.")
    return TrainResult(state, interrupted, stopped_early)


def _check_batch_size(config: TrainingConfig, shards: int) -> None:
    if config.batch_size % (config.num_microbatches * shards):
        raise InputError(
            f"batch_size {config.batch_size} must be a multiple of num_microbatches x data x fsdp = "
            f"{config.num_microbatches} x {shards}: change it, or the mesh."
        )


def _fetch(unchecked: Mapping[int, Any]) -> dict[str, float]:
    """Metrics of the last step, after checking those of all."""
    metrics = {}
    for step, metrics in sorted(jax.device_get(dict(unchecked)).items()):
        check_finite(step, metrics)
    return {name: float(value) for name, value in metrics.items()}
