"""What fine-tuning and evaluation need to know of a task. A task is one file of this folder and one recipe in configs/.

B batch, N examples of a split, K outputs of a head. A recipe names the class of its task (``config.task``), whose
fields are keys of the recipe; docs/add_a_task.md builds one from nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.examples import Examples, ExamplesConfig
from vilbert_jax.losses import WeightedSum
from vilbert_jax.model import TaskOutput, ViLBERTForTasks
from vilbert_jax.tasks.fit import misfits, require_fit
from vilbert_jax.tasks.regions import task_features
from vilbert_jax.trunk import Inputs

Batch = Mapping[str, Any]
Logits = Mapping[str, Array]
Predictions = Mapping[str, np.ndarray]  # one row an example, in the order of the source


class TaskSource(Protocol):
    """The examples of one split, as ``vilbert_jax.data.Dataset`` reads them."""

    @property
    def examples(self) -> Examples:
        """The opened data."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def example(self, index: int, rng: np.random.Generator, /) -> dict[str, np.ndarray]:
        """Fields of one example, without the leading axis B; a pure function of (index, rng)."""
        ...


class Scored(NamedTuple):
    """What an evaluation found."""

    rows: np.ndarray  # [N] float64, score of each example in 0..1
    metrics: dict[str, float]  # in percent where they are shares, as papers print them
    details: Mapping[str, Any] = {}  # JSON-like, for metrics.json alone


class Guess(NamedTuple):
    """One of a model's guesses for an example."""

    text: str
    share: float  # 0..1, how sure the model is
    right: bool
    image_id: str = ""  # where the guess is a picture


class Box(NamedTuple):
    """A box to draw."""

    corners: np.ndarray  # [4], x1, y1, x2, y2 in pixels
    text: str
    right: bool | None  # None for what was asked for, else whether the model's box is right


class Shown(NamedTuple):
    """One example for people."""

    image_id: str
    text: str  # what the model was asked
    truth: str
    guesses: tuple[Guess, ...]  # best first
    boxes: tuple[Box, ...] = ()


def text_inputs(batch: Batch) -> Inputs:
    """One row an example: its text [B,T] and its regions."""
    return Inputs(
        token_ids=batch["token_ids"],
        token_types=batch["token_types"],
        text_mask=batch["text_mask"],
        region_features=task_features(batch),
        region_boxes=batch["region_boxes"],
        region_mask=batch["region_mask"],
    )


class Task(Protocol):
    """A downstream task: what the model reads, what it costs to be wrong, and how being right is counted.

    A dataclass; its fields besides ``data`` are JSON-like keys of the recipe, and metrics.json repeats them.

    Attributes:
        data: what the examples are made of.
        metric: the entry of ``Scored.metrics`` that chooses the best checkpoint; higher is better.
    """

    @property
    def data(self) -> ExamplesConfig:
        """See the class."""
        ...

    @property
    def metric(self) -> str:
        """See the class."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads of ``ViLBERTForTasks`` that the task reads."""
        ...

    def open(self, split: str, *, training: bool) -> TaskSource:
        """The examples of a split; ``training`` may add what only training sees, such as hard negatives."""
        ...

    def outputs(self, source: Any) -> dict[str, tuple[str, ...]]:
        """What each output of an answer head means, in order, by head; empty for heads of fixed meaning."""
        ...

    def inputs(self, batch: Batch) -> Inputs:
        """What the model reads of a batch; its rows may be more than B, as many for every example."""
        ...

    def loss(self, logits: Logits, batch: Batch) -> WeightedSum:
        """What training minimises the mean of."""
        ...

    def predict(self, logits: Logits, batch: Batch) -> dict[str, Array]:
        """What is kept of the logits of each example, [B, ...] by name."""
        ...

    def score(self, source: Any, predictions: Predictions) -> Scored | None:
        """The official metrics; None where the split has no labels."""
        ...

    def submission(self, source: Any, predictions: Predictions) -> Any:
        """What the leaderboard takes, as JSON."""
        ...

    def check_submission(self, source: Any, submission: Any) -> None:
        """Raises InputError, naming the first offending entry, if a leaderboard would refuse it.

        Args:
            source: the examples of the split.
            submission: plain JSON values, such as a file that was read back.
        """
        ...

    def show(self, source: Any, index: int, predictions: Predictions) -> Shown:
        """One example and what the model made of it."""
        ...


LOSS = "task_loss"


def make_loss_fn(task: Task, model: ViLBERTForTasks) -> Callable[[Any, Batch, Array], dict[str, WeightedSum]]:
    """Returns ``(params, batch, dropout key) -> {LOSS: sum}``, for the training step."""

    def loss_fn(params: Any, batch: Batch, dropout_key: Array) -> dict[str, WeightedSum]:
        output = _apply(task, model, params, batch, deterministic=False, rngs={"dropout": dropout_key})
        return {LOSS: task.loss(output.logits, batch)}

    return loss_fn


def make_predict_fn(task: Task, model: ViLBERTForTasks) -> Callable[[Any, Batch], dict[str, Array]]:
    """Returns ``(params, batch) -> predictions [B, ...] by name``."""

    def predict_fn(params: Any, batch: Batch) -> dict[str, Array]:
        return task.predict(_apply(task, model, params, batch, deterministic=True).logits, batch)

    return predict_fn


def make_score_fn(task: Task, source: TaskSource) -> Callable[[Predictions], dict[str, float]]:
    """Returns ``predictions -> metrics``, for the evaluations of a run.

    Raises:
        InputError: when called, if labels are missing that ``CanLackLabels`` did not find missing before.
    """

    def score_fn(predictions: Predictions) -> dict[str, float]:
        scored = task.score(source, predictions)
        if scored is None:
            raise source.examples.without_labels()
        return scored.metrics

    return score_fn


def check_fit(config: ViLBERTConfig, task: Task, examples: Examples) -> None:
    """Raises InputError, naming every field of the model that does not fit the examples, and the value that would."""
    problems = misfits(config, examples.contract, examples.tokenizer, task.data.text_length)
    if config.num_task_embeddings and not 0 <= task.data.task_token < config.num_task_embeddings:
        problems.append(
            f"task_token is {task.data.task_token}, the model has task tokens 0..{config.num_task_embeddings - 1}"
        )
    require_fit(problems)


@runtime_checkable
class CanLackLabels(Protocol):
    """A source whose test splits come without labels."""

    def require_labels(self) -> None:
        """Raises InputError if this one does."""
        ...


def require_labels(*sources: TaskSource) -> None:
    """Raises InputError if one of the sources comes without labels."""
    for source in sources:
        if isinstance(source, CanLackLabels):
            source.require_labels()


def name_of(kind: type) -> str:
    """The class of a task as a recipe names it, ``module:Class``."""
    return f"{kind.__module__}:{kind.__name__}"


def settings(task: Task) -> dict[str, Any]:
    """``task``, as a recipe names it, and ``settings``: all fields of the dataclass but ``data``."""
    fields = [field.name for field in dataclasses.fields(cast(Any, task)) if field.name != "data"]
    return {
        "task": name_of(type(task)),
        "settings": {name: getattr(task, name) for name in fields},
    }


def trained_for(config: ViLBERTConfig, task: Task) -> TrainedFor:
    """What a checkpoint says of the task besides its identity: with these settings it gives the task's results."""
    data = task.data
    return TrainedFor(
        task=name_of(type(task)),
        text_length=data.text_length,
        truncation=data.truncation,
        max_regions=data.max_regions,
        task_token=data.task_token if config.num_task_embeddings else None,
        whole_image=settings(task)["settings"].get("whole_image", True),
    )


def identity(
    config: ViLBERTConfig, task: Task, examples: Examples, outputs: Mapping[str, Any], init_from: str
) -> dict[str, Any]:
    """What a checkpoint of a fine-tuning run belongs to; a run on anything else must not continue it.

    ``trained_for`` stands beside that, for whoever uses the checkpoint; a run may continue with other lengths.
    """
    return {
        **({"init_from": init_from} if init_from else {}),
        **settings(task),
        "model": config.to_dict(),
        "heads": [*task.heads],
        "features": examples.contract.to_json(),
        "vocabulary": examples.tokenizer.fingerprint,
        "pairs": examples.coverage.manifest,
        "blank_pictures": task.data.blank_pictures,
        "outputs": {head: [*names] for head, names in outputs.items()},
        "trained_for": trained_for(config, task).to_json(),
    }


def model_inputs(task: Task, model: ViLBERTForTasks, batch: Batch) -> Inputs:
    """What the model reads of a batch, with the token of the task where the model has task tokens."""
    inputs = task.inputs(batch)
    if model.config.num_task_embeddings:
        inputs = inputs._replace(task_id=jnp.full(inputs.token_ids.shape[0], task.data.task_token, jnp.int32))
    return inputs


def _apply(task: Task, model: ViLBERTForTasks, params: Any, batch: Batch, **options: Any) -> TaskOutput:
    output = model.apply({"params": params}, model_inputs(task, model, batch), **options)
    assert isinstance(output, TaskOutput)
    return output
