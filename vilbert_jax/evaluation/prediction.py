"""The predictions of a checkpoint for a whole split and their scores: example by example, or all pairs (retrieval)."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.evaluation.all_pairs import score_all_pairs
from vilbert_jax.evaluation.checkpoint import Loaded
from vilbert_jax.tasks.retrieval import best_images
from vilbert_jax.tasks.task import Predictions, Scored, Task, make_predict_fn
from vilbert_jax.training.batches import closing
from vilbert_jax.training.prediction import make_predict_step, predict_all

SCORES_FOLDER = "scores"  # of all pairs, in the folder of the evaluation


class Outcome(NamedTuple):
    """Predictions by name, one row an example; their scores, None where the split has no labels."""

    predictions: Predictions
    scored: Scored | None


@runtime_checkable
class RanksAllPairs(Protocol):
    """A task whose evaluation scores every text with every image, not its examples one by one."""

    def score_all(self, source: Any, scores: np.ndarray, /) -> Scored:
        """The metrics of scores [captions, images]."""
        ...


def evaluate(
    task: Task, source: Any, loaded: Loaded, mesh: Mesh, *, folder: Path, facts: Any, workers: int = 0
) -> Outcome:
    """Runs the model over a split and scores it.

    Args:
        task: the task.
        source: its examples, from ``task.open``.
        loaded: model and parameters, on the mesh.
        mesh: from ``make_mesh``.
        folder: of the evaluation; the scores of all pairs are kept there, so that a killed evaluation can go on.
        facts: JSON-like, what the evaluation belongs to; one that was killed only goes on with the same.
        workers: processes that read examples.

    Raises:
        InputError: the folder holds the scores of another evaluation.
    """
    if isinstance(task, RanksAllPairs):
        scores = score_all_pairs(
            loaded.model,
            loaded.params,
            [source.caption_tokens(index) for index in range(len(source))],
            source.images,
            mesh=mesh,
            folder=folder / SCORES_FOLDER,
            # The head stands in the scores' own identity; no other setting changes them: folds can be had later.
            identity={**{name: fact for name, fact in facts.items() if name != "settings"}, "checkpoint": loaded.facts},
            task_id=task.data.task_token if loaded.model.config.num_task_embeddings else None,
        )
        return Outcome(best_images(scores), task.score_all(source, scores))
    batch_size = -(-task.data.batch_size // mesh.size) * mesh.size  # the last rows fill up; each example counts once
    batches = Dataset(source, batch_size=batch_size, seed=task.data.seed, shuffle=False)
    shardings = jax.tree.map(lambda x: x.sharding, loaded.params)
    step = make_predict_step(make_predict_fn(task, loaded.model), mesh, shardings)
    with closing(batches.iterate(0, workers=workers)) as examples:
        predictions = predict_all(step, loaded.params, examples, mesh, len(source), progress="evaluating")
    return Outcome(predictions, task.score(source, predictions))
