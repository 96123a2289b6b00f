"""Models of this project as files that PyTorch code reads: the released ViLBERT's, or transformers' BERT."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vilbert_jax.checkpoints.conversion import to_source
from vilbert_jax.checkpoints.hf_bert import bert_config, bert_table, in_bert, parts_in
from vilbert_jax.checkpoints.released import released_tensors
from vilbert_jax.checkpoints.saving import check_free
from vilbert_jax.checkpoints.tensor_files import write_safetensors, write_torch
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.text import Tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.released_config import from_released, to_released

_WRITERS = {".safetensors": write_safetensors, ".bin": write_torch}


def export_released(path: Path, config: ViLBERTConfig, heads: tuple[str, ...], params: dict[str, np.ndarray]) -> None:
    """Writes a state dict with the released names, and the released JSON config beside it (``NAME.json``).

    Args:
        path: ``.safetensors``, or ``.bin``, which needs torch and loads with any torch since 1.0.
        config: the model.
        heads: its heads.
        params: by path; emptied on the way, so that a large model is not in memory twice.

    Raises:
        InputError: the file exists, its ending is another one, or no released config describes the model.
        OSError: it cannot be written; then nothing is there.
    """
    if path.suffix not in _WRITERS:
        raise InputError(f"{path}: a released file ends in {' or '.join(_WRITERS)}.")
    check_free(path)
    fields = to_released(config)
    if from_released(fields).num_task_embeddings != config.num_task_embeddings:
        raise InputError(
            f"the model has {config.num_task_embeddings} task tokens, a released one has none or "
            f"{from_released(fields).num_task_embeddings}: the released code could not load it."
        )
    beside, text = path.with_suffix(".json"), _json(fields)
    same_already = beside.is_file() and beside.read_text() == text  # the same model in the other format
    if not same_already:
        check_free(beside)
    _WRITERS[path.suffix](path, released_tensors(params, config, heads))
    try:
        beside.write_text(text)
    except OSError:
        path.unlink()
        if not same_already:
            beside.unlink(missing_ok=True)
        raise


def export_bert(path: Path, config: ViLBERTConfig, params: dict[str, np.ndarray], tokenizer: Tokenizer | None) -> None:
    """Writes the text stream, or the only one, as a folder that ``from_pretrained`` of a BERT of transformers reads.

    With two streams that is ``BertForMaskedLM`` or, without that head, ``BertModel``; with one, which has BERT's pooler
    and next-sentence head too, ``BertForPreTraining``, or what there is of it.

    Args:
        path: the folder; must not exist or be empty.
        config: the model.
        params: by path, of the whole model; only what a BERT has is written.
        tokenizer: written beside them, where there is one.

    Raises:
        InputError: the folder holds something, or the model has task tokens, which BERT has not.
        OSError: it cannot be written; then nothing is there.
    """
    check_free(path)
    if config.num_task_embeddings:
        raise InputError("this model has task tokens, which a BERT has not: its text stream cannot be written as one.")
    kept = {name: array for name, array in params.items() if in_bert(name, config.num_streams)}
    parts = parts_in(kept)
    table = bert_table(config, parts)
    tensors = to_source(kept, table)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        # transformers ties what is tied by itself, and names of a repeated tensor would only make the file larger
        write_safetensors(part / "model.safetensors", {n: t for n, t in tensors.items() if n not in table.ties})
        (part / "config.json").write_text(_json(bert_config(config, parts)))
        if tokenizer is not None:
            (part / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
            (part / "tokenizer_config.json").write_text(_json({"tokenizer_class": "BertTokenizer"}))
        if path.is_dir():
            path.rmdir()  # it is empty
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, indent=2) + "\n"
