"""One conversion from start to end; ``experiments/convert_checkpoint.py`` is its command line."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vilbert_jax.checkpoints.conversion import Model, abstract_params, fingerprint, heads_of, make_model
from vilbert_jax.checkpoints.exporting import export_bert, export_released
from vilbert_jax.checkpoints.hf_bert import in_bert
from vilbert_jax.checkpoints.plan import default_heads, fresh_params, make_plan, placed, summary
from vilbert_jax.checkpoints.saving import check_free, check_vocabulary, save_pretrained
from vilbert_jax.checkpoints.sources import Source, open_source
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.checkpoints.verify import compare_with_transformers, torch_and_transformers
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.data.text import Tokenizer, load_tokenizer
from vilbert_jax.errors import InputError

FORMATS = ("vilbert_jax", "released", "bert")
_DEFAULT_VOCAB = "bert-base-uncased"  # of every released ViLBERT
_SAME = 1e-4  # float32, two libraries
_NOT_KEPT = {"vilbert_jax": (), "bert": ("features", "licence"), "released": ("vocab", "features", "licence")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The flags of ``experiments/convert_checkpoint.py``, described there."""

    input: str
    output: Path
    format: str | None = None
    model_config: str | None = None
    vocab: str | None = None
    features: str | None = None
    fresh: str = ""
    seed: int = 0
    licence: str | None = None
    verify: bool = False


def convert(request: Request, *, say: Callable[[str], None]) -> int:
    """Converts, and says what was found, assumed, used and left out.

    Returns:
        The exit code: 0, or 1 if ``verify`` found a difference.

    Raises:
        InputError: the input cannot be used or the output exists; nothing was written.
        OSError: the output cannot be written; nothing is left of it.
    """
    form = _format(request)
    check_free(request.output)
    source = open_source(request.input, request.model_config)
    config = _config(request, source)
    source = source.for_model(config)
    in_torch = source.text_only or form == "bert"  # where torch has the model as well
    if request.verify and in_torch:
        torch_and_transformers()
    say(describe(source if config is source.config else dataclasses.replace(source, assumed=())))
    model = make_model(config, default_heads(source))
    plan = make_plan(source, model, [name for name in request.fresh.split(",") if name])
    abstract = placed(abstract_params(model))
    vocab = _vocab(request, source, form)
    kept = _kept(request, source, vocab)
    check_vocabulary(config, kept["tokenizer"])
    if plan.fresh:
        say(summary(plan, abstract, request.input))
    params = source.read({path: np.empty(abstract[path].shape, np.float32) for path in plan.loaded})
    params |= {path: np.asarray(leaf) for path, leaf in fresh_params(model, plan, abstract, request.seed).items()}
    written = {path: array for path, array in params.items() if form != "bert" or in_bert(path, config.num_streams)}
    mark = fingerprint(written)
    compared = {path: written[path] for path in (plan.loaded if source.text_only else written) if in_torch}
    kept["provenance"] = source.described_provenance() | ({"licence": request.licence} if request.licence else {})
    what, details = _outcome(form, request.output, model, vocab, kept, len(params) - len(written))
    details = {"fingerprint": f"{mark} (of the parameters; the same in every format)", **details}
    del written  # with the last reference to an array, its memory is freed while it is written
    _write(form, request.output, model, params, kept)
    say("\n".join([f"wrote {what}", *(f"  {label:15}{text}" for label, text in details.items() if text)]))
    return _verify(request, source, config, compared, mark, say) if request.verify else 0


def describe(source: Source) -> str:
    """What was recognised, what is not used and why, what was assumed."""
    millions = sum(int(np.prod(shape)) for shape in source.shapes.values()) / 1e6
    lines = [f"{source.origin}: {source.kind}, {millions:.2f} M parameters, heads: {', '.join(source.heads) or 'none'}"]
    lines += [f"  used      {len(source.shapes):4} tensors"]
    lines += [f"  not used  {len(names):4} ({reason}): {_some(names)}" for reason, names in source.unused.items()]
    lines += [f"  assumed        {line}" for line in source.assumed]
    if source.assumed:
        lines.append("  if that is not so, give the JSON of the model's config: --model_config=FILE")
    return "\n".join(lines)


def _format(request: Request) -> str:
    by_name = "released" if request.output.suffix in (".safetensors", ".bin") else "vilbert_jax"
    if request.format is not None and (request.format == "released") != (by_name == "released"):
        raise InputError(
            f"--format={request.format} and --output={request.output} do not go together: a released file ends in "
            ".safetensors or .bin, the other formats are folders."
        )
    form = request.format or by_name
    surplus = [f"--{name}" for name in _NOT_KEPT[form] if getattr(request, name)]
    if surplus:
        raise InputError(
            f"{request.output}, in format {form}, has no place for {' and '.join(surplus)}: leave that out, or write a "
            "folder of this project (--format=vilbert_jax)."
        )
    return form


def _config(request: Request, source: Source) -> ViLBERTConfig:
    """The config of the model that is written; a BERT does not say what the rest of its ViLBERT is like."""
    if request.model_config is None or not (source.text_only or not source.files):
        return source.config
    if not source.text_only:
        raise InputError(f"{request.input} is a {source.kind}, which holds its own config: leave --model_config out.")
    return ViLBERTConfig.from_json(request.model_config)


def _vocab(request: Request, source: Source, form: str) -> str:
    """Where the vocabulary of the model is; empty: it has none."""
    is_ours = not source.files
    if request.vocab is not None or (source.vocab is None and (form != "vilbert_jax" or is_ours)):
        return request.vocab or ""
    return str(source.vocab or _DEFAULT_VOCAB)


def _tokenizer(vocab: str, request: Request) -> Tokenizer | None:
    try:
        return load_tokenizer(vocab) if vocab else None
    except InputError as error:
        if request.vocab is not None:
            raise
        raise InputError(
            f"{error}. The vocabulary is saved with the model: name it with --vocab, or give an empty --vocab= to save "
            "the model without one."
        ) from error


def _kept(request: Request, source: Source, vocab: str) -> dict[str, Any]:
    """What goes with the parameters into a folder of this project, as ``save_pretrained`` takes it."""
    return {
        "tokenizer": _tokenizer(vocab, request),
        "contract": _contract(request, source),
        "outputs": source.outputs,
        "trained_for": TrainedFor.from_json(source.trained_for, source.origin) if source.trained_for else None,
    }


def _contract(request: Request, source: Source) -> FeatureContract | None:
    if request.features is None:
        return FeatureContract.from_json(dict(source.features)) if source.features else None
    path = Path(request.features)
    if not path.is_file():
        return RegionStore(path).contract
    try:
        return FeatureContract.from_json(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a feature contract: {error}.") from error


def _write(
    form: str,
    output: Path,
    model: Model,
    params: dict[str, np.ndarray],
    kept: Mapping[str, Any],
) -> None:
    if form == "released":
        export_released(output, model.config, heads_of(model), params)
    elif form == "bert":
        export_bert(output, model.config, params, kept["tokenizer"])
    else:
        save_pretrained(output, model, traverse_util.unflatten_dict(params, sep="/"), **kept)


def _outcome(
    form: str, output: Path, model: Model, vocab: str, kept: Mapping[str, Any], num_left: int
) -> tuple[str, dict[str, str]]:
    """What was written and for whom; what went with the parameters, what did not, and what is missing, by label."""
    has = {
        "vocabulary": bool(vocab),
        "feature contract": kept["contract"] is not None,
        "task settings": kept["trained_for"] is not None,
    }
    if form == "vilbert_jax":
        flags = {"vocabulary": "--vocab", "feature contract": "--features"}
        lacks = ", ".join(f"{name} ({flag})" for name, flag in flags.items() if not has[name])
        return f"{output}, for vj.load_pretrained and config.init_from", {"vocabulary": vocab, "saved without": lacks}
    if form == "bert":
        where = "outside the text stream" if model.config.num_streams == 2 else "that no BERT has"
        left = f"{num_left} tensors {where}" if num_left else ""
        return f"{output}, for transformers", {"vocabulary": vocab, "left out": left}
    heads, tasks = heads_of(model), ("vqa", "choice", "grounding", "token_score")  # of both releases' task models
    lacks = ", ".join(head for head in tasks if head not in heads) if set(heads) & set(tasks) else ""
    more = ", ".join(_beyond_baseline(model.config, heads))
    return f"{output} and {output.with_suffix('.json').name}, for the released PyTorch code", {
        "left out": ", ".join(name for name in has if has[name]),
        "lacks heads": lacks and f"{lacks} (the released task model has them: strict loading fails)",
        "has more": more and f"{more} (the released baseline has not: strict loading fails)",
    }


def _beyond_baseline(config: ViLBERTConfig, heads: tuple[str, ...]) -> Iterator[str]:
    """What a single-stream model has that the released baseline has not."""
    if config.num_streams == 1:
        yield from (head for head in heads if head in ("gqa", "binary", "entailment"))
        if "vqa" in heads and config.answer_head != "weight_norm":
            yield f"vqa of kind {config.answer_head}"


def _verify(
    request: Request,
    source: Source,
    config: ViLBERTConfig,
    compared: Mapping[str, np.ndarray],
    mark: str,
    say: Callable[[str], None],
) -> int:
    again = open_source(request.output).for_model(config)
    found = again.read({path: np.empty(shape, np.float32) for path, shape in again.shapes.items()})
    same = fingerprint(found) == mark
    say(f"  {'read again':15}{len(found)} tensors, {'identical' if same else 'DIFFERENT'}")
    if not compared:
        say(f"  {'torch':15}has no ViLBERT to run; tests/parity compares this model with the released one")
        return 0 if same else 1
    (file,) = source.files if source.text_only else again.files
    for name, difference in compare_with_transformers(file, config, compared).items():
        say(f"  {'transformers':15}{name} of {file}: largest difference {difference:.1e}")
        same = same and difference <= _SAME
    return 0 if same else 1


def _some(names: tuple[str, ...]) -> str:
    return names[0] + (", …" if len(names) > 1 else "")
