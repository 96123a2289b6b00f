"""From a model to a folder that loads with nothing else at hand."""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vilbert_jax.checkpoints.agreement import Outputs
from vilbert_jax.checkpoints.conversion import Model, abstract_params, heads_of
from vilbert_jax.checkpoints.folder import STATE, shapes_of, write_contents
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.text import Tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves
from vilbert_jax.sharding import agreed

_WRITE_BYTES = 256 << 20  # of copies that Orbax makes while it writes; without a limit, the model once more


def save_pretrained(
    path: str | os.PathLike[str],
    model: Model,
    params: Mapping[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
    contract: FeatureContract | None = None,
    outputs: Outputs | None = None,
    trained_for: TrainedFor | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Saves a model as a folder that ``load_pretrained`` loads with nothing else at hand.

    Args:
        path: the folder, which must not exist or be empty. It appears when it is complete, or not at all.
        model: the model.
        params: its parameters, nested; numpy or JAX arrays, on a mesh or not.
        tokenizer: the vocabulary that it was trained with; without it, it has to be given wherever the model is used.
        contract: of the region features that it was trained with.
        outputs: what each output of an answer head means, in order, by head.
        trained_for: the task that it was trained for and its settings, which a ``Predictor`` takes over.
        provenance: JSON-like; where the parameters come from.

    Raises:
        InputError: the folder holds something, or the parameters, vocabulary or features do not belong to the model.
        OSError: the disk is full, or the folder cannot be written to.
    """
    target = Path(path).expanduser().absolute()
    check_free(target)
    config = model.config
    expected, given = abstract_params(model), named_leaves(params)
    wrong = sorted(p for p in expected.keys() | given.keys() if _shape(expected, p) != _shape(given, p))
    if wrong:
        lines = [f"  {p}: the model has {_shape(expected, p)}, params {_shape(given, p)}" for p in wrong[:10]]
        raise InputError(f"these parameters are not the model's, in {len(wrong)} places:\n" + "\n".join(lines))
    check_vocabulary(config, tokenizer)
    if contract is not None and contract.feature_dim != config.region_feature_dim:
        raise InputError(
            f"the features have {contract.feature_dim} values, the model reads {config.region_feature_dim}."
        )
    identity = {
        "model": config.to_dict(),
        "heads": [*heads_of(model)],
        "features": contract.to_json() if contract else None,
        "vocabulary": tokenizer.fingerprint if tokenizer else None,
        **({"outputs": {head: [*names] for head, names in outputs.items()}} if outputs else {}),
        **({"trained_for": trained_for.to_json()} if trained_for else {}),
    }
    saved_by = {"saved_by": f"vilbert-jax {importlib.metadata.version('vilbert-jax')}"}
    provenance = json.loads(json.dumps({**(provenance or {}), **saved_by}))  # what JSON cannot say shows here
    write_folder(
        target,
        {"params": dict(params)},
        identity=identity,
        provenance=provenance,
        tokenizer_json=tokenizer.to_json() if tokenizer else None,
    )


def check_free(target: Path) -> None:
    """Raises InputError if something is at ``target`` already, other than an empty folder."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} exists already; nothing was written. Give another path, or remove it first.")


def write_folder(target: Path, state: Mapping[str, Any], **contents: Any) -> None:
    """Writes in a folder beside the target, where Orbax has its temporary folder too, and moves it when complete.

    Args:
        target: the checkpoint folder, which must not exist or be empty.
        state: what goes below ``state``: a tree of numpy or JAX arrays, on a mesh or not.
        **contents: identity, provenance and tokenizer_json, as ``folder.write_contents`` takes them.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    part = target.with_name(f".{target.name}.part")
    sizes = [leaf.nbytes for leaf in named_leaves(state).values()]
    is_first = jax.process_index() == 0
    try:
        if is_first:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _check_space(part, sum(sizes))
        agreed(0)  # the other hosts wait for the folder
        context = ocp.Context()
        context.memory.write_concurrent_bytes = max(_WRITE_BYTES, 2 * max(sizes))  # it has to admit the largest array
        context.memory.deepcopy_host_arrays = False  # nothing changes them: this waits until all is written
        with context:
            ocp.save_checkpointables(str(part / target.name), {STATE: state})
        if is_first:
            write_contents(part / target.name, shapes=shapes_of(state), **contents)
            if target.is_dir():
                target.rmdir()  # it is empty
            (part / target.name).rename(target)
    except Exception as error:  # Orbax's storage reports in several ways that it cannot write
        raise OSError(f"{target} could not be written ({type(error).__name__}: {str(error)[:300]})") from error
    finally:
        if is_first:
            shutil.rmtree(part, ignore_errors=True)
    agreed(0)  # no host reads it before it is there


def _check_space(folder: Path, num_bytes: int) -> None:
    """Reserves space and gives it back: on a full disk Orbax would log an error for every array that waits."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)


def check_vocabulary(config: ViLBERTConfig, tokenizer: Tokenizer | None) -> None:
    """Raises InputError if a vocabulary has another size than the model's word table."""
    if tokenizer is not None and tokenizer.vocab_size != config.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} entries, the model's word table {config.vocab_size} rows: give "
            "the vocabulary that the model was trained with."
        )


def _shape(leaves: Mapping[str, Any], path: str) -> Any:
    return [*leaves[path].shape] if path in leaves else "none"
