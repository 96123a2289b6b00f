"""What parameters can come from, recognised by content, and opened: names, shapes, config; values when they are read.

* a checkpoint of this project: a run, one of its checkpoints, or a folder of ``save_pretrained``
* a released ViLBERT: a file that ``torch.save`` wrote or a safetensors file, or a folder of one with its config.json
* a BERT of the transformers library: a folder, or a name on the hub
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vilbert_jax.checkpoints.conversion import (
    PRETRAINING_HEADS,
    Table,
    abstract_params,
    make_model,
    match,
    normalised,
)
from vilbert_jax.checkpoints.folder import TOKENIZER, find_checkpoint, read_contents, restore_params
from vilbert_jax.checkpoints.hf_bert import bert_table, config_from_bert, with_prefix
from vilbert_jax.checkpoints.inferred_config import answer_fields, config_from_shapes
from vilbert_jax.checkpoints.released import released_heads, released_table
from vilbert_jax.checkpoints.tensor_files import Index, LazyTensor, open_tensors
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.hub import hub_folder
from vilbert_jax.paths import named_leaves

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a transformers folder, the preferred one first
_FILE_ENDINGS = (".safetensors", ".bin", ".tar", ".pt", ".pth", ".json")  # no hub name ends like this
_HUB_FILES = ("config.json", "tokenizer.json", "vocab.txt", "tokenizer_config.json")
_RELEASED_MARK, _BASELINE_MARK = "bert.v_embeddings.", "bert.image_embeddings."

_RELEASED_LICENCE = (
    "published by facebookresearch/vilbert-multi-task (MIT) or jiasenlu/vilbert_beta (no licence stated), whose terms "
    "apply to the weights"
)
_BERT_LICENCE = "the terms of the BERT apply; those published by Google are under Apache-2.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Parameters that can be read, and all that is known about them.

    Attributes:
        origin: what the user named.
        kind: for people.
        config: of the model they belong to; for a BERT, of a ViLBERT that it fits in.
        heads: heads that have parameters here.
        shapes: of every parameter that can be read, by path.
        read: abstract arrays by path -> arrays. A numpy array asks for a numpy array, a ``ShapeDtypeStruct`` with a
            sharding for an array on those devices, of which each host reads its part alone.
        text_only: whether this is a BERT: everything outside the text stream starts fresh.
        states_config: whether the source itself says what shapes do not show (numbers of heads and the like).
        assumed: a line for everything in ``config`` that was assumed.
        unused: names of tensors that are not loaded, by reason.
        files: weights files, for the hash; none for a checkpoint of this project.
        vocab: file that ``load_tokenizer`` reads, where the source has one.
        features: feature contract as JSON, where the source has one.
        outputs: what each output of an answer head means, in order, by head, where the source says so.
        provenance: JSON-like; where the parameters come from.
    """

    origin: str
    kind: str
    config: ViLBERTConfig
    heads: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    text_only: bool = False
    states_config: bool = True
    assumed: tuple[str, ...] = ()
    unused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    vocab: Path | None = None
    features: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def described_provenance(self) -> dict[str, Any]:
        """``provenance`` with the hashes of the files, which have to be read for that."""
        hashes = {path.name: f"sha256:{_sha256(path)}" for path in self.files}
        return {**self.provenance, **({"files": hashes} if hashes else {})}


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
    if "v_hidden_size" in fields or "regions" in fields:
        return _open_file(weights[0], origin, model_config or config_file)
    return _bert(weights[0], origin, fields)


def _open_file(path: Path, origin: str, model_config: Any) -> Source:
    found = open_tensors(path)
    tensors = normalised(found.tensors)
    if any(name.startswith(_BASELINE_MARK) for name in tensors):
        raise InputError(f"{origin} is the single-stream baseline; this model has two streams.")
    if any(name.startswith(_RELEASED_MARK) for name in tensors):
        beside = path.with_suffix(".json")
        if model_config is None and beside.is_file():
            model_config = beside
        return _released(path, origin, tensors, found.left_out, model_config)
    config_file = path.parent / "config.json"
    if any(name.endswith("embeddings.word_embeddings.weight") for name in tensors) and config_file.is_file():
        return _bert(path, origin, _json(config_file))
    raise InputError(
        f"{origin} is neither a ViLBERT (no tensor bert.v_embeddings.*) nor a BERT with its config.json beside it. It "
        f"holds {len(tensors)} tensors: {', '.join([*tensors][:4])}, …"
    )


def _released(
    path: Path, origin: str, tensors: dict[str, LazyTensor], left_out: tuple[str, ...], model_config: Any
) -> Source:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assumed: tuple[str, ...] = ()
    if model_config is None:
        config, assumed = config_from_shapes(shapes)
    else:
        config = _given_config(model_config, answer_fields(shapes))
    heads = released_heads(tensors, config)
    table = released_table(config, heads)
    ours = match(origin, tensors, table, abstract_params(make_model(config, heads or PRETRAINING_HEADS)))
    unused = _by_reason(tensors, table) | ({"not a parameter": left_out} if left_out else {})
    return Source(
        origin=origin,
        kind="released ViLBERT" + (" (pre-training)" if set(heads) <= set(PRETRAINING_HEADS) else " (tasks)"),
        config=config,
        heads=heads,
        shapes={name: tensor.shape for name, tensor in ours.items()},
        read=_reader(ours),
        states_config=model_config is not None,
        assumed=assumed,
        unused=unused,
        files=(path,),
        provenance={"source": origin, "kind": "released ViLBERT", "licence": _RELEASED_LICENCE},
    )


def _bert(path: Path, origin: str, fields: Mapping[str, Any]) -> Source:
    config, assumed = config_from_bert(fields, origin)
    tensors = with_prefix(normalised(open_tensors(path).tensors))
    with_head = any(name.startswith("cls.predictions.") for name in tensors)
    table = bert_table(config, with_head=with_head)
    ours = match(origin, tensors, table, abstract_params(make_model(config, PRETRAINING_HEADS)))
    vocab = next((path.parent / n for n in ("tokenizer.json", "vocab.txt") if (path.parent / n).is_file()), None)
    return Source(
        origin=origin,
        kind="BERT",
        config=config,
        heads=("tokens",) if with_head else (),
        shapes={name: tensor.shape for name, tensor in ours.items()},
        read=_reader(ours),
        text_only=True,
        assumed=assumed,
        unused=_by_reason(tensors, table),
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


def _reader(tensors: Mapping[str, LazyTensor]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def place(tensor: LazyTensor, wanted: Any) -> Any:
        if isinstance(wanted, np.ndarray):
            return np.asarray(tensor.read(()), wanted.dtype)
        parts: dict[str, np.ndarray] = {}  # copies on several devices of this host are read once

        def part(index: Index | None) -> np.ndarray:
            if str(index) not in parts:
                # A copy of its own: JAX may use the memory it is given, and the file can change under a memory map.
                parts[str(index)] = np.array(tensor.read(index or ()), wanted.dtype, order="C")
            return parts[str(index)]

        return jax.make_array_from_callback(wanted.shape, wanted.sharding, part)

    return lambda abstract: {path: place(tensors[path], wanted) for path, wanted in abstract.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds a JSON {type(fields).__name__}, not a model's config.")
    return fields


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
