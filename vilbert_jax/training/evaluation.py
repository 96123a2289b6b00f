"""What a run measures on held-out examples: means of named sums, or a score of all predictions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh

from vilbert_jax.training.batches import Dataset, FiniteDataset, closing
from vilbert_jax.training.prediction import PredictFn, make_predict_step, predict_all
from vilbert_jax.training.state import Params
from vilbert_jax.training.step import MetricFn, evaluate, make_eval_step

Measure = Callable[[Params, int], dict[str, float]]  # parameters, worker processes for the data -> metrics by name
ScoreFn = Callable[[dict[str, np.ndarray]], Mapping[str, float]]


class Evaluation(Protocol):
    """A measurement that a run repeats."""

    def compile(self, mesh: Mesh, param_shardings: Any) -> Measure:
        """Returns the measurement of parameters placed on ``mesh``; the same values on every host."""
        ...


class MeanEvaluation(NamedTuple):
    """Means of named sums over the examples; see ``step.evaluate``.

    Attributes:
        metric_fn: ``(params, batch)`` -> named ``WeightedSum``s.
        dataset: each example once; rows that fill up the last batch must have no weight.
    """

    metric_fn: MetricFn
    dataset: Dataset

    def compile(self, mesh: Mesh, param_shardings: Any) -> Measure:
        """See ``Evaluation``."""
        eval_step = make_eval_step(self.metric_fn, mesh, param_shardings)

        def measure(params: Params, workers: int) -> dict[str, float]:
            with closing(self.dataset.iterate(0, workers=workers)) as batches:
                return evaluate(eval_step, params, batches, mesh)

        return measure


class PredictionEvaluation(NamedTuple):
    """A score of the predictions of all examples, computed on the host; see ``prediction.predict_all``.

    Attributes:
        predict_fn: ``(params, batch)`` -> named arrays [B, ...], row i for row i of the batch.
        score: predictions [N, ...] by name, row n for example n of the source -> metrics by name.
        dataset: each example once, with its number and mask.
    """

    predict_fn: PredictFn
    score: ScoreFn
    dataset: FiniteDataset

    def compile(self, mesh: Mesh, param_shardings: Any) -> Measure:
        """See ``Evaluation``."""
        predict_step = make_predict_step(self.predict_fn, mesh, param_shardings)

        def measure(params: Params, workers: int) -> dict[str, float]:
            with closing(self.dataset.iterate(0, workers=workers)) as batches:
                predictions = predict_all(predict_step, params, batches, mesh, len(self.dataset.source))
            return {name: float(value) for name, value in self.score(predictions).items()}

        return measure
