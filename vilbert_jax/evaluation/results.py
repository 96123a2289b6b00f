"""What an evaluation leaves behind: metrics.json, predictions.json; and what keeps it from reporting half a split."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vilbert_jax.data.annotations import Rows
from vilbert_jax.data.coverage import Coverage
from vilbert_jax.data.examples import Examples
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.evaluation.prediction import Outcome
from vilbert_jax.tasks.task import Task, settings

_READING = ("text_length", "truncation", "max_regions", "task_token", "blank_pictures")  # settings that change scores
METRICS, PREDICTIONS = "metrics.json", "predictions.json"


def require_folder(folder: Path) -> None:
    """Raises InputError where results could not be written: an evaluation can take hours. Makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"results cannot go to {folder}: {there} is a file. Name a folder: --output=DIR")
    if not os.access(there, os.W_OK):
        raise InputError(f"results cannot go to {folder}: {there} cannot be written to. Name another: --output=DIR")


def require_whole_split(examples: Examples, *, allow_missing: bool) -> None:
    """Raises InputError where rows of the split have no regions: a score on the rest is not the split's.

    Args:
        examples: the opened split.
        allow_missing: go on; metrics.json then says how many are missing.
    """
    coverage = examples.coverage
    stores = " or ".join(str(store.path) for store in examples.stores)
    if coverage.pairs_used < coverage.pairs and not allow_missing:
        raise InputError(
            f"split {examples.split!r} of {examples.config.annotations!r} has {coverage.pairs:,} rows, and the region "
            f"store {stores} has no image for {coverage.pairs - coverage.pairs_used:,} of them "
            f"({coverage.images_absent:,} images): a score on {coverage} would not be comparable. Add the images to "
            "the store, or set --config.allow_missing=True to score what is there and say so in metrics.json."
        )


def describe(task: Task, examples: Examples) -> dict[str, Any]:
    """What the scores of a split belong to, for metrics.json: task, settings, data, what is missing.

    Args:
        task: a dataclass whose fields besides ``data`` are its settings, such as the rules of its metric.
        examples: the opened split.
    """
    return {
        **settings(task),
        "ties": "the first of equal scores",
        "split": examples.split,
        **describe_data(examples.rows, examples.config.annotations, examples.coverage, examples.stores),
        "vocabulary": examples.tokenizer.fingerprint,
        **{name: getattr(examples.config, name) for name in _READING},
    }


def describe_data(rows: Rows, name: str, coverage: Coverage, stores: Sequence[RegionStore]) -> dict[str, Any]:
    """Which examples are scored, for metrics.json.

    Args:
        rows: annotations of images that the stores have.
        name: what the recipe calls them, for rows that no data set stands behind.
        coverage: of the whole split by the stores.
        stores: of regions.
    """
    info = getattr(rows, "dataset_info", None)
    return {
        "examples_of_split": coverage.pairs,
        "examples_missing": coverage.pairs - coverage.pairs_used,
        "annotations": name if info is None else info.full_name,
        "rows": f"sha256:{coverage.manifest}",
        "regions": [
            {
                "store": str(store.path),
                "images": len(store),
                "fingerprint": store.fingerprint,
                "contract": store.contract.to_json(),
            }
            for store in stores
        ],
    }


@runtime_checkable
class HasLeaderboardFile(Protocol):
    """A task whose leaderboard does not take JSON."""

    def write_leaderboard(self, submission: Any, folder: Path, /) -> None:
        """Writes the file, where the submission has all that it needs."""
        ...


def write_predictions(task: Task, source: Any, folder: Path, outcome: Outcome) -> None:
    """Writes predictions.json, once it is checked, and what else the leaderboard takes.

    A metrics.json of an earlier evaluation goes: it would not belong to these predictions.

    Args:
        task: the task.
        source: the examples of the split.
        folder: where they go; created.
        outcome: predictions of all examples.

    Raises:
        InputError: the leaderboard would refuse the predictions.
    """
    text = json.dumps(task.submission(source, outcome.predictions), ensure_ascii=False)
    task.check_submission(source, json.loads(text))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    write_whole(folder / PREDICTIONS, text)
    if isinstance(task, HasLeaderboardFile):
        task.write_leaderboard(json.loads(text), folder)


def write_metrics(folder: Path, outcome: Outcome, *, facts: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Writes metrics.json: where it is, the evaluation is complete.

    Args:
        folder: where it goes.
        outcome: the scores, where the split has labels.
        facts: from ``describe``.
        checkpoint: what was evaluated.
    """
    scored = outcome.scored
    found = {"metrics": None} if scored is None else {"metrics": scored.metrics, **scored.details}
    write_whole(folder / METRICS, json.dumps({**found, **facts, "checkpoint": checkpoint}, indent=2) + "\n")


def table(metrics: Mapping[str, float]) -> str:
    """The metrics for people, one a line."""
    width = max(map(len, metrics))
    return "\n".join(f"{name:{width}}  {value:8.2f}" for name, value in metrics.items())


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there in whole or not at all, whenever a kill comes."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)
