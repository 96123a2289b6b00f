"""``--plan``: from a program's main to a printed plan."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any, cast

from ml_collections import ConfigDict

from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.planning.devices import prepare_devices
from vilbert_jax.planning.job import Job
from vilbert_jax.planning.plan import Data, make_plan
from vilbert_jax.planning.rates import parse_rates
from vilbert_jax.planning.reading import opened, sample, storage
from vilbert_jax.planning.words import describe
from vilbert_jax.training.config import TrainingConfig

Main = Callable[[ConfigDict, Callable[..., None]], Any]  # recipe, what to call in place of ``train``


def print_plan(main: Main, config: ConfigDict, rates: str = "") -> None:
    """Prints what the run of a recipe would cost. Nothing is trained and no workdir is made.

    Args:
        main: prepares a run as for training, then calls its second argument as it would call ``train``.
        config: the recipe.
        rates: see ``rates.parse_rates``.

    Raises:
        InputError: what training would raise before its first step, or the rates are not understood.
    """
    stated = parse_rates(rates)
    prepare_devices(cast(ConfigDict, config.mesh).to_dict())

    def job_of(settings: Mapping[str, Any]) -> Job:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(settings)
        jobs: list[Job] = []

        def note(training: TrainingConfig, **given: Any) -> None:
            jobs.append(Job(training, given, given["dataset"][0]))

        with contextlib.redirect_stdout(io.StringIO()):  # what a run says when it starts
            main(changed, note)
        return jobs[0]

    print(describe(make_plan(job_of, _data_of, stated)))


def _data_of(job: Job) -> Data:
    dataset = job.given["dataset"]
    assert isinstance(dataset, Dataset)
    source, rows, stores = opened(dataset.source)
    evaluated = sum(len(evaluation.dataset.source) for evaluation in job.given["evaluations"].values())
    return Data(sample(source, job.model, job.heads), storage(rows, stores), len(source), evaluated)
