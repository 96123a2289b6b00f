"""A checkpoint opened for an evaluation: its model, its parameters on the mesh, what is known about it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vilbert_jax.checkpoints.agreement import Outputs, check_data, check_outputs
from vilbert_jax.checkpoints.conversion import fingerprint
from vilbert_jax.checkpoints.pretrained import load_source
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.config import DType
from vilbert_jax.data.examples import Examples
from vilbert_jax.data.feature_contract import NOT_READ_BY_TASKS
from vilbert_jax.errors import InputError
from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.paths import named_leaves
from vilbert_jax.tasks.task import Task, check_fit


class Loaded(NamedTuple):
    """A model for one task."""

    model: ViLBERTForTasks
    params: dict[str, Any]
    facts: Mapping[str, Any]  # for metrics.json: what the checkpoint is and a fingerprint of the parameters


def load_for(
    task: Task,
    checkpoint: str,
    examples: Examples,
    outputs: Outputs,
    *,
    outputs_stated: bool,
    allow_other_features: bool,
    dtype: DType,
) -> Loaded:
    """Loads the heads that a task reads, on the active mesh.

    Args:
        task: the task.
        checkpoint: any source of ``load_pretrained`` that has these heads.
        examples: that it is to be evaluated on.
        outputs: what the outputs of answer heads mean in the data.
        outputs_stated: the user named them for this very checkpoint.
        allow_other_features: go on although it was trained on other region features.
        dtype: of the computation, whatever it was in training: in bfloat16 scores of many pairs are equal.

    Raises:
        InputError: no checkpoint is named, it lacks a head, or it does not belong to the data.
    """
    if not checkpoint:
        raise InputError("--checkpoint is missing: name a run, a checkpoint folder, or a released file")
    source, heads = open_source(checkpoint), task.heads
    if missing := sorted(set(heads) - set(source.heads)):
        raise InputError(
            f"{checkpoint} ({source.kind}) has no {', '.join(missing)} head, only {', '.join(source.heads) or 'none'}: "
            "fine-tune it first with experiments/finetune.py and the same config, then evaluate that run"
        )
    check_fit(source.config, task, examples)
    check_data(
        source,
        tokenizer=examples.tokenizer,
        contract=examples.contract,
        allow_other_features=allow_other_features,
        ignoring=NOT_READ_BY_TASKS,
    )
    check_outputs(source, heads, outputs, stated=outputs_stated)
    model, params = load_source(source, config=dataclasses.replace(source.config, dtype=dtype), heads=heads)
    assert isinstance(model, ViLBERTForTasks)
    mark = fingerprint({path: np.asarray(leaf) for path, leaf in named_leaves(params).items()})
    facts = {"name": checkpoint, "kind": source.kind, "parameters": mark, "dtype": dtype}
    return Loaded(model, params, facts | {"provenance": source.described_provenance()})
