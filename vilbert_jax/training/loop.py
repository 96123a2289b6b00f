"""The training run as one straight function: what happens, in order."""

import contextlib
import dataclasses
import fcntl
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vilbert_jax.checkpoints.folder import RUN_CHECKPOINTS, Initial
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves
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
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.logging import MetricLogger, check_finite
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import Params, TrainState
from vilbert_jax.training.step import Batch, LossFn, MetricFn, evaluate, make_eval_step, make_train_step


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

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("seed", "num_workers") else 1
            if not least <= value < 2**63:
                raise InputError(f"{field.name} is {value}; it must be at least {least} and below 2**63.")


class Dataset(Protocol):
    """Batches by number; ``iterate`` yields this host's rows of the batches from ``first_step`` (0-based) on."""

    def iterate(self, first_step: int, *, workers: int = 0) -> Iterator[Batch]:
        """An iterator over batches, closed after use if it has ``close``."""
        ...


class Evaluation(NamedTuple):
    """What to measure, and on which examples (each once)."""

    metric_fn: MetricFn
    dataset: Dataset


class TrainResult(NamedTuple):
    """The final state; ``interrupted`` if a signal ended the run early (the state is saved)."""

    state: TrainState
    interrupted: bool


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
    initial_params: Callable[[Params], Initial] | None = None,
    tokenizer_json: str | None = None,
    notes: Mapping[str, Any] | None = None,
    param_axes: AxisTable = PARAM_AXES,
) -> TrainResult:
    """Trains from the newest checkpoint in ``workdir``, or from the start, to ``config.total_steps``.

    SIGTERM and Ctrl-C let the running step finish, save, and return (a second one acts as usual).

    Args:
        config: lengths and intervals.
        workdir: gets checkpoints/, metrics.jsonl and tensorboard/.
        init_params: key -> parameters; traced.
        loss_fn: ``(params, batch, dropout key)`` -> named sums.
        loss_weights: factor of each loss in the objective.
        dataset: training batches.
        evaluations: by name, e.g. "validation"; logged as ``eval/<name>/<metric>``.
        identity: what the parameters belong to; a workdir with another one is refused.
        optimizer: variant, schedule, decay.
        mesh: devices along each axis.
        initial_params: given the fresh parameters, returns those to start from; not called on a resume.
        tokenizer_json: the vocabulary, kept with each checkpoint.
        notes: JSON-like facts by file name, for the workdir; written once the run is known to belong there.
        param_axes: sharding table.

    Raises:
        InputError: the mesh, batch size, checkpoint or a pattern does not fit.
        NonFiniteError: a metric became NaN or infinite; no state from that step on is saved.
    """
    # --- devices
    device_mesh = make_mesh(mesh)
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
    )
    train_step = jax.jit(
        train_step, donate_argnums=0, in_shardings=(shardings, by_batch), out_shardings=(shardings, replicated)
    )
    eval_steps = {
        name: make_eval_step(evaluation.metric_fn, device_mesh, shardings.params)
        for name, evaluation in evaluations.items()
    }

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_StopRequest())
        stack.enter_context(_only_run_in(Path(workdir)))
        stack.enter_context(jax.set_mesh(device_mesh))
        checkpoints = stack.enter_context(
            Checkpoints(
                Path(workdir) / RUN_CHECKPOINTS,
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
                state = state._replace(params=_adopt(initial.params, abstract.params))
                checkpoints.provenance = initial.provenance
        first_step = int(jax.device_get(state.step))
        if first_step > config.total_steps:
            raise InputError(
                f"{workdir} is at step {first_step} already, beyond total_steps={config.total_steps}: raise it, or use "
                "another --workdir."
            )

        if jax.process_index() == 0:
            for name, facts in (notes or {}).items():
                (Path(workdir) / name).write_text(json.dumps(facts, indent=2) + "\n")
        log = stack.enter_context(
            MetricLogger(
                workdir,
                first_step=first_step,
                total_steps=config.total_steps,
                batch_size=config.batch_size,
                active=jax.process_index() == 0,
            )
        )
        batches = stack.enter_context(_closing(dataset.iterate(first_step, workers=config.num_workers)))

        def evaluate_all(step: int, params: Params) -> None:
            for name, eval_step in eval_steps.items():
                if step == first_step and agreed(name in log.evaluated):
                    continue
                with (
                    log.paused(),
                    _closing(evaluations[name].dataset.iterate(0, workers=config.num_workers)) as examples,
                ):
                    means = evaluate(eval_step, params, examples, device_mesh)
                means = {f"eval/{name}/{metric}": value for metric, value in means.items()}
                check_finite(step, means)
                log.write(step, means)

        if first_step and (first_step % config.eval_every == 0 or first_step == config.total_steps):
            evaluate_all(first_step, state.params)  # a run that was stopped here may have had no time for all of it

        # --- loop: update, log, evaluate, save; everything is labelled with the number of completed steps
        unchecked: dict[int, Any] = {}  # metrics of the steps since the last check, still on the devices
        for step in range(first_step + 1, config.total_steps + 1):
            batch = put_batch(_next_batch(batches, step), device_mesh)
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
                    evaluate_all(step, state.params)
            if interrupted:
                return TrainResult(state, interrupted=True)
    return TrainResult(state, interrupted=False)


@contextlib.contextmanager
def _only_run_in(workdir: Path) -> Iterator[None]:
    """Two runs would overwrite each other's checkpoints and metrics; the second one is refused."""
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() > 0:
        yield
        return
    with (workdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is using {workdir}: wait for it, or use another --workdir.") from None
        yield


def _check_batch_size(config: TrainingConfig, shards: int) -> None:
    if config.batch_size % (config.num_microbatches * shards):
        raise InputError(
            f"batch_size {config.batch_size} must be a multiple of num_microbatches x data x fsdp = "
            f"{config.num_microbatches} x {shards}: change it, or the mesh."
        )


def _adopt(params: Params, abstract: Params) -> Params:
    """Places parameters from elsewhere, which must have the same paths and shapes."""
    expected, given = ({name: x.shape for name, x in named_leaves(tree).items()} for tree in (abstract, params))
    wrong = sorted(path for path in expected.keys() | given.keys() if expected.get(path) != given.get(path))
    if wrong:
        path = wrong[0]
        raise InputError(
            f"the initial parameters do not fit the model in {len(wrong)} place(s), first {path}: given "
            f"{given.get(path)}, expected {expected.get(path)}. Start from weights of the same configuration."
        )
    return jax.tree.map(lambda x, a: jax.device_put(x.astype(a.dtype), a.sharding), params, abstract)


def _next_batch(batches: Iterator[Batch], step: int) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise InputError(
            f"the training data ended before step {step}; it must repeat, or total_steps be less."
        ) from None


def _fetch(unchecked: Mapping[int, Any]) -> dict[str, float]:
    """Metrics of the last step, after checking those of all."""
    metrics = {}
    for step, metrics in sorted(jax.device_get(dict(unchecked)).items()):
        check_finite(step, metrics)
    return {name: float(value) for name, value in metrics.items()}


@contextlib.contextmanager
def _closing(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


class _StopRequest:
    """Turns the first SIGTERM or SIGINT into a flag; the second one meets the previous handlers again."""

    def __init__(self):
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
