"""What parameters can come from, recognised by content, and opened: names, shapes, config; values when they are read.

* a checkpoint of this project: a run, one of its checkpoints, or a folder of ``save_pretrained``
* a released ViLBERT, or its single-stream baseline: a file that ``torch.save`` wrote or a safetensors file, or a folder
  of one with its config.json
* a BERT of the transformers library: a folder, or a name on the hub
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from vilbert_jax.checkpoints.conversion import (
    PRETRAINING_HEADS,
    Table,
    abstract_params,
    head_of,
    make_model,
    match,
    normalised,
)
from vilbert_jax.checkpoints.folder import TOKENIZER, find_checkpoint, read_contents, restore_params
from vilbert_jax.checkpoints.hf_bert import bert_table, config_from_bert, parts_in, require_bert, with_prefix
from vilbert_jax.checkpoints.inferred_config import answer_fields, config_from_shapes, is_baseline
from vilbert_jax.checkpoints.released import released_heads, released_table
from vilbert_jax.checkpoints.source import Source, other_streams, reader
from vilbert_jax.checkpoints.tensor_files import LazyTensor, open_tensors
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.hub import hub_folder
from vilbert_jax.paths import named_leaves

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a transformers folder, the preferred one first
_FILE_ENDINGS = (".safetensors", ".bin", ".tar", ".pt", ".pth", ".json")  # no hub name ends like this
_HUB_FILES = ("config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json")
_RELEASED_MARK = "bert.v_embeddings."

_RELEASED_LICENCE = (
    "published by facebookresearch/vilbert-multi-task (MIT) or jiasenlu/vilbert_beta (no licence stated), whose terms "
    "apply to the weights"
)
_BERT_LICENCE = "the terms of the BERT apply; those published by Google are under Apache-2.0"


def open_source(
    source: str | os.PathLike[str], model_config: ViLBERTConfig | str | os.PathLike[str] | None = None
) -> Source:
    """Recognises what ``source`` is and opens it.

    Args:
        source: a file, a folder, or a name on the Hugging Face hub.
        model_config: of a released file, or the path of its JSON; worked out from the shapes when absent, unless a
            JSON of the same name lies beside the file. Kind and size of answer heads come from the file.

    Raises:
        InputError: absent, damaged, of another architecture, or in disagreement with its config; all disagreements of
            names and shapes are listed at once.
    """
    path, origin = Path(source).expanduser(), str(source)
    if not path.exists():
        is_file = path.suffix in _FILE_ENDINGS
        if is_file or path.is_absolute() or origin.startswith((".", "~")) or origin.count("/") > 1:
            raise InputError(f"there is nothing at {origin}: give a weights file, a checkpoint folder, or a hub name.")
        path = _from_hub(origin)
    if path.is_file():
        return _open_file(path, origin, model_config)
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return _open_checkpoint(checkpoint, origin)
    return _open_folder(path, origin, model_config)


def _from_hub(name: str) -> Path:
    def has_weights(folder: Path) -> bool:
        return (folder / "config.json").is_file() and any((folder / weights).is_file() for weights in _WEIGHTS)

    for weights in _WEIGHTS:  # the second, a pickle, only where the first does not exist
        folder = hub_folder(name, (*_HUB_FILES, weights), complete=has_weights, what="checkpoint")
        if has_weights(folder):
            return folder
    raise InputError(
        f"{name} came from the Hugging Face hub or its cache without config.json with {' or '.join(_WEIGHTS)}: it is "
        "no BERT, or could not be downloaded whole. Run once with network access, or give the path of a folder."
    )


def _open_checkpoint(path: Path, origin: str) -> Source:
    contents = read_contents(path)
    if not {"model", "heads"} <= contents.identity.keys():
        raise InputError(f"{origin} is a checkpoint of another model: it names no model config and heads.")
    prefix = "params/"
    shapes = {name.removeprefix(prefix): tuple(s[1:]) for name, s in contents.shapes.items() if name.startswith(prefix)}

    def read(abstract: Mapping[str, Any]) -> dict[str, Any]:
        nested = traverse_util.unflatten_dict(dict(abstract), sep="/")
        return named_leaves(restore_params(path, nested)) if abstract else {}

    vocab = path / TOKENIZER
    step = f" of step {path.name}" if path.name.isdigit() else ""
    return Source(
        origin=origin,
        kind=f"checkpoint of this project{step}",
        config=ViLBERTConfig.from_dict(contents.identity["model"]),
        heads=tuple(contents.identity["heads"]),
        shapes=shapes,
        read=read,
        vocab=vocab if vocab.is_file() else None,
        features=contents.identity.get("features"),
        outputs=contents.identity.get("outputs", {}),
        trained_for=contents.identity.get("trained_for"),
        provenance=contents.provenance,
    )


def _open_folder(path: Path, origin: str, model_config: Any) -> Source:
    config_file = path / "config.json"
    usual = [path / name for name in _WEIGHTS if (path / name).is_file()][:1]
    weights = usual or [file for ending in ("safetensors", "bin") for file in sorted(path.glob(f"*.{ending}"))]
    if not config_file.is_file() or not weights:
        raise InputError(
            f"the folder {origin} is neither a checkpoint of this project (no contents.json, no checkpoints/) nor a "
            f"transformers folder (config.json with {' or '.join(_WEIGHTS)})."
        )
    if len(weights) > 1:
        raise InputError(
            f"the folder {origin} holds {len(weights)} weights files, {weights[0].name}, {weights[1].name}, …: name "
            "one of them. Weights sharded over several files are not read: save them in one file."
        )
    fields = _json(config_file)
    if not fields.keys() & {"v_hidden_size", "regions"} and "model_type" in fields:
        require_bert(fields, origin)
    return _open_file(weights[0], origin, model_config, config_file)


def _open_file(path: Path, origin: str, model_config: Any, config_file: Path | None = None) -> Source:
    """``config_file`` belongs to the file, whatever it is."""
    found = open_tensors(path)
    tensors = normalised(found.tensors)
    if is_baseline(tensors) or any(name.startswith(_RELEASED_MARK) for name in tensors):
        beside = config_file or path.with_suffix(".json")
        if model_config is None and beside.is_file():
            model_config = beside
        return _released(path, origin, tensors, found.left_out, model_config)
    config_file = config_file or path.parent / "config.json"
    if any(name.endswith("embeddings.word_embeddings.weight") for name in tensors) and config_file.is_file():
        return _bert(path, origin, tensors, _json(config_file))
    raise InputError(
        f"{origin} is neither a ViLBERT (no tensor bert.v_embeddings.*), nor its single-stream baseline (none "
        f"bert.image_embeddings.*), nor a BERT with its config.json beside it. It holds {len(tensors)} tensors: "
        f"{', '.join([*tensors][:4])}, …"
    )


def _released(
    path: Path, origin: str, tensors: dict[str, LazyTensor], left_out: tuple[str, ...], model_config: Any
) -> Source:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    num_streams, kind = (1, "released single-stream baseline") if is_baseline(tensors) else (2, "released ViLBERT")
    assumed: tuple[str, ...] = ()
    if model_config is None:
        config, assumed = config_from_shapes(shapes)
    else:
        config = _given_config(model_config, answer_fields(shapes))
    if config.num_streams != num_streams:
        raise InputError(other_streams(f"{origin} ({kind})", num_streams, config.num_streams))
    heads = released_heads(tensors, config)
    table = released_table(config, heads)
    ours = match(origin, tensors, table, abstract_params(make_model(config, heads or PRETRAINING_HEADS)))
    unused = _by_reason(tensors, table) | ({"not a parameter": left_out} if left_out else {})
    return Source(
        origin=origin,
        kind=kind + (" (pre-training)" if set(heads) <= set(PRETRAINING_HEADS) else " (tasks)"),
        config=config,
        heads=heads,
        shapes={name: tensor.shape for name, tensor in ours.items()},
        read=reader(ours),
        states_config=model_config is not None,
        assumed=assumed,
        unused=unused,
        files=(path,),
        provenance={"source": origin, "kind": kind, "licence": _RELEASED_LICENCE},
    )


def _bert(
    path: Path, origin: str, tensors: dict[str, LazyTensor], fields: dict[str, Any], num_streams: int = 2
) -> Source:
    if any(name.startswith("bert.") for name in tensors):
        fields = {"model_type": "bert", **fields}  # configs of 2018 do not say it
    config, assumed = config_from_bert(fields, origin, num_streams)
    named = with_prefix(tensors)
    table = bert_table(config, parts_in(named))
    ours = match(origin, named, table, abstract_params(make_model(config, PRETRAINING_HEADS)))
    with_heads = {head_of(name) for name in ours}
    vocab = next((path.parent / n for n in ("tokenizer.json", "vocab.txt") if (path.parent / n).is_file()), None)
    return Source(
        origin=origin,
        kind="BERT",
        config=config,
        heads=tuple(head for head in PRETRAINING_HEADS if head in with_heads),
        shapes={name: tensor.shape for name, tensor in ours.items()},
        read=reader(ours),
        text_only=True,
        refit=functools.partial(_bert, path, origin, tensors, fields),
        assumed=assumed,
        unused=_by_reason(named, table),
        files=(path,),
        vocab=path.parent if vocab else None,
        provenance={"source": origin, "kind": "BERT", "licence": _BERT_LICENCE},
    )


def _given_config(given: Any, answers: Mapping[str, Any]) -> ViLBERTConfig:
    if isinstance(given, ViLBERTConfig):
        return dataclasses.replace(given, **answers)
    config = ViLBERTConfig.from_json(given)
    stated = _json(Path(given)).keys()  # a JSON of ours says what its answer heads are, a released one does not
    return dataclasses.replace(config, **{name: value for name, value in answers.items() if name not in stated})


def _by_reason(tensors: Mapping[str, Any], table: Table) -> dict[str, tuple[str, ...]]:
    reasons = {**table.unused, **{copy: f"the same as {original}" for copy, original in table.ties.items()}}
    found: dict[str, tuple[str, ...]] = {}
    for name in tensors:
        if name in reasons:
            found[reasons[name]] = (*found.get(reasons[name], ()), name)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds a JSON {type(fields).__name__}, not a model's config.")
    return fields
