"""The training run as one straight function: what happens, in order."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from vilbert_jax import hosts
from vilbert_jax.checkpoints.folder import RUN_BEST, RUN_CHECKPOINTS, Initial
from vilbert_jax.errors import InputError
from vilbert_jax.sharding import (
    PARAM_AXES,
    AxisTable,
    MeshConfig,
    agreed,
    make_mesh,
    put_batch,
)
from vilbert_jax.signals import StopRequest
from vilbert_jax.training.batches import Dataset, closing, next_batch
from vilbert_jax.training.best import BestCheckpoint, Selection, check_selection
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.evaluation import Evaluation
from vilbert_jax.training.logging import MetricLogger, check_finite
from vilbert_jax.training.optimizer import OptimizerConfig
from vilbert_jax.training.program import make_program
from vilbert_jax.training.state import Params, TrainState, adopt
from vilbert_jax.training.step import LossFn
from vilbert_jax.training.votes import StopVote, same_sizes
from vilbert_jax.training.workdir import only_run_in, write_notes


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
        InputError: the mesh, batch size, checkpoint, selection or a pattern does not fit, or the hosts differ.
        NonFiniteError: a metric became NaN or infinite; no state from that step on is saved.
    """
    # --- devices, shardings and compiled functions
    workdir = Path(workdir)
    check_selection(selection, evaluations, patience=config.patience)
    program = make_program(
        config,
        init_params=init_params,
        loss_fn=loss_fn,
        loss_weights=loss_weights,
        optimizer=optimizer,
        device_mesh=make_mesh(mesh),
        param_axes=param_axes,
    )
    device_mesh, abstract, param_shardings = program.device_mesh, program.abstract, program.shardings.params
    measures = {name: evaluation.compile(device_mesh, param_shardings) for name, evaluation in evaluations.items()}

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        hosts.require_same({"identity": identity})
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
            state = program.init()
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
        read = stack.enter_context(closing(dataset.iterate(first_step, workers=config.num_workers)))
        batches = same_sizes(read, device_mesh)

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

        vote = StopVote(device_mesh)
        interrupted = stopped_early = False
        if first_step and (first_step % config.eval_every == 0 or first_step == config.total_steps):
            # A run that was stopped here may have had no time for all of it.
            stopped_early = evaluate_all(first_step, state.params)

        # --- loop: update, log, evaluate, save; everything is labelled with the number of completed steps
        unchecked: dict[int, Any] = {}  # metrics of the steps since the last check, still on the devices
        compiled: set[tuple[tuple[int, ...], ...]] = set()  # shapes of batches
        for step in range(first_step + 1, config.total_steps + 1):
            if interrupted or stopped_early:
                break
            batch = put_batch(next_batch(batches, step), device_mesh)
            # An implicit transfer would stall the devices at every step; it is an error instead. Only compiling, for
            # the first batch of its shapes, may read constants back from the device.
            shapes = tuple(x.shape for x in jax.tree.leaves(batch))
            guard = jax.transfer_guard("disallow" if shapes in compiled else "allow")
            compiled.add(shapes)
            with jax.profiler.StepTraceAnnotation("train", step_num=step), guard:
                state, unchecked[step] = program.step(state, batch)
            if step - 1 in unchecked:  # at most one step ahead of the devices, so batches do not pile up on them
                jax.block_until_ready(unchecked[step - 1])
            log.advance()

            is_last = step == config.total_steps
            to_log = is_last or step % config.log_every == 0
            to_evaluate = is_last or step % config.eval_every == 0
            to_save = is_last or step % config.checkpoint_every == 0
            interrupted = vote.asked(stop.requested) and not is_last

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


def _fetch(unchecked: Mapping[int, Any]) -> dict[str, float]:
    """Metrics of the last step, after checking those of all."""
    metrics = {}
    for step, metrics in sorted(jax.device_get(dict(unchecked)).items()):
        check_finite(step, metrics)
    return {name: float(value) for name, value in metrics.items()}
