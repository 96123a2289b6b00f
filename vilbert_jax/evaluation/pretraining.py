"""Held-out scores of a pre-training: of a run while it trains, or of any checkpoint by itself.

What is masked, and which captions are exchanged, is a pure function of the seed and the pair: a model that was trained
under one recipe can be scored on data that another one masked.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from vilbert_jax.checkpoints.agreement import check_data
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, fingerprint
from vilbert_jax.checkpoints.pretrained import load_source
from vilbert_jax.checkpoints.sources import Source, open_source
from vilbert_jax.config import DType, ViLBERTConfig
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.data.pretraining import PretrainingDataConfig, PretrainingSource
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.evaluation.results import METRICS, describe_data, write_whole
from vilbert_jax.model import ViLBERTForPretraining
from vilbert_jax.paths import named_leaves
from vilbert_jax.progress import bar_interval
from vilbert_jax.sharding import num_batch_shards
from vilbert_jax.tasks import pretraining
from vilbert_jax.tasks.pretraining import MaskedLossesOn
from vilbert_jax.training.evaluation import MeanEvaluation
from vilbert_jax.training.logging import last_metrics

HeldOut = Dataset[PretrainingSource]

_SETTINGS = (  # of the data, that change scores
    "region_masking", "region_mask_rate", "token_mask_rate", "max_masked_tokens", "mismatch_rate", "region_targets",
    "num_nce_negatives", "seed",
)  # fmt: skip
_SEEING = "validation/"  # what a run's log puts before the scores that metrics.json gives without a prefix


class Loaded(NamedTuple):
    """A pre-trained model, its parameters on the mesh, and what is known about it, for metrics.json."""

    model: ViLBERTForPretraining
    params: dict[str, Any]
    facts: Mapping[str, Any]


def evaluations(
    model: ViLBERTForPretraining, held_out: HeldOut, masked_losses_on: MaskedLossesOn
) -> dict[str, MeanEvaluation]:
    """What is measured: ``validation``, and ``blind``, the same without the picture."""
    metric_fn = pretraining.make_metric_fn(model, masked_losses_on, held_out.source.word_groups)
    blind = pretraining.without_picture(metric_fn)
    return {"validation": MeanEvaluation(metric_fn, held_out), "blind": MeanEvaluation(blind, held_out)}


def majority(config: ViLBERTConfig, held_out: HeldOut, masked_losses_on: MaskedLossesOn) -> dict[str, float]:
    """``majority/region_accuracy``, of the most frequent class; empty for a model that predicts no classes."""
    if config.region_objective != "kl":
        return {}
    share = pretraining.majority_region_class(held_out.iterate(), masked_losses_on, config.region_target_dim)
    return {"majority/region_accuracy": share}


def logged_scores(metrics_file: Path) -> dict[str, float]:
    """The newest scores that a run has logged, under the names that metrics.json gives them."""
    return _renamed(last_metrics(metrics_file, "eval/"))


def open_pretraining(checkpoint: str) -> Source:
    """Opens what can be scored: any source of ``load_pretrained`` with the heads of pre-training.

    Raises:
        InputError: nothing is named, it cannot be read, or it lacks a head.
    """
    if not checkpoint:
        raise InputError("--checkpoint is missing: name a pre-training run, a checkpoint folder, or a released file")
    source = open_source(checkpoint)
    if missing := sorted(set(PRETRAINING_HEADS) - set(source.heads)):
        raise InputError(
            f"{checkpoint} ({source.kind}) has no {', '.join(missing)} head, only {', '.join(source.heads) or 'none'}: "
            "scores of pre-training need all of its heads. Name a run of experiments/pretrain.py or a released "
            "pre-training checkpoint; experiments/evaluate.py scores tasks"
        )
    return source


def open_held_out(config: PretrainingDataConfig, split: str, mesh: Mesh) -> HeldOut:
    """The pairs of a split that have regions, each once, in batches that divide over the mesh.

    Raises:
        InputError: data are missing, or the batch does not divide although the scores depend on its size.
    """
    shards = num_batch_shards(mesh)
    batch_size = -(-config.batch_size // shards) * shards  # the last rows fill up; each pair counts once
    if config.num_nce_negatives and batch_size != config.batch_size:
        raise InputError(
            f"batch_size {config.batch_size} must be a multiple of data x fsdp = {shards}: the nce objective draws "
            "negatives from the whole batch, so that another size would be another loss. Change it, or the mesh"
        )
    return Dataset(config.open(split), batch_size=batch_size, seed=config.seed, shuffle=False)


def load(
    source: Source,
    data: PretrainingSource,
    config: PretrainingDataConfig,
    *,
    allow_other_features: bool,
    dtype: DType,
) -> Loaded:
    """Loads the model on the active mesh.

    Args:
        source: from ``open_pretraining``.
        data: that it is to be scored on.
        config: what ``data`` was opened with.
        allow_other_features: go on although it was trained on other region features.
        dtype: of the computation, whatever it was in training.

    Raises:
        InputError: it does not belong to the data.
    """
    check_data(source, tokenizer=data.tokenizer, contract=data.contract, allow_other_features=allow_other_features)
    pretraining.check_fit(source.config, data, config.text_length, num_microbatches=1)
    model, params = load_source(source, config=dataclasses.replace(source.config, dtype=dtype), heads=PRETRAINING_HEADS)
    assert isinstance(model, ViLBERTForPretraining)
    mark = fingerprint({path: np.asarray(leaf) for path, leaf in named_leaves(params).items()})
    facts = {"name": source.origin, "kind": source.kind, "parameters": mark, "dtype": dtype}
    return Loaded(model, params, facts | {"provenance": source.described_provenance()})


def measure(
    loaded: Loaded, held_out: HeldOut, mesh: Mesh, masked_losses_on: MaskedLossesOn, *, workers: int = 0
) -> dict[str, float]:
    """All scores of a model, with progress bars.

    Args:
        loaded: model and parameters, on the mesh.
        held_out: from ``open_held_out``.
        mesh: from ``make_mesh``.
        masked_losses_on: pairs whose masked words and regions count.
        workers: processes that read pairs.

    Returns:
        Losses, and accuracies in 0..1: those of ``pretraining.make_metric_fn`` by name, the same without the picture as
        ``blind/...``, and ``majority``'s.
    """
    shardings = jax.tree.map(lambda x: x.sharding, loaded.params)
    measured: dict[str, float] = {}
    for name, evaluation in evaluations(loaded.model, held_out, masked_losses_on).items():
        shown = evaluation._replace(dataset=_WithBar(held_out, name))
        values = shown.compile(mesh, shardings)(loaded.params, workers)
        measured |= {f"{name}/{metric}": value for metric, value in values.items()}
    return _renamed(measured) | majority(loaded.model.config, held_out, masked_losses_on)


def describe(
    config: PretrainingDataConfig, data: PretrainingSource, split: str, masked_losses_on: MaskedLossesOn
) -> dict[str, Any]:
    """What the scores belong to, for metrics.json: settings of the objectives, data, what is missing."""
    assert data.coverage is not None
    assert isinstance(data.regions, RegionStore)
    settings = {"masked_losses_on": masked_losses_on, **{name: getattr(config, name) for name in _SETTINGS}}
    return {
        "task": pretraining.__name__,
        "settings": settings | ({"batch_size": config.batch_size} if config.num_nce_negatives else {}),
        "split": split,
        **describe_data(data.rows, config.annotations, data.coverage, [data.regions]),
        "vocabulary": data.tokenizer.fingerprint,
        "text_length": config.text_length,
        "max_regions": config.max_regions,
    }


def write_scores(
    folder: Path, metrics: Mapping[str, float], *, facts: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> None:
    """Writes metrics.json: where it is, the evaluation is complete.

    Args:
        folder: where it goes; created.
        metrics: from ``measure``.
        facts: from ``describe``.
        checkpoint: what was scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {"metrics": dict(metrics), **facts, "checkpoint": checkpoint}
    write_whole(folder / METRICS, json.dumps(found, indent=2) + "\n")


class _WithBar(NamedTuple):
    """The batches of a split with a progress bar."""

    held_out: HeldOut
    title: str

    def iterate(self, first_step: int, *, workers: int = 0) -> Iterator[Any]:
        with self.held_out.iterate(first_step, workers=workers) as batches:
            yield from tqdm.tqdm(
                batches, total=len(self.held_out), desc=self.title, unit="batch", dynamic_ncols=True,
                mininterval=bar_interval(),
            )  # fmt: skip


def _renamed(measured: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(_SEEING): value for name, value in measured.items()}
