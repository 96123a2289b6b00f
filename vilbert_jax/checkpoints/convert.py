"""One conversion from start to end; ``experiments/convert_checkpoint.py`` is its command line."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vilbert_jax.checkpoints.conversion import Model, abstract_params, fingerprint, heads_of, make_model
from vilbert_jax.checkpoints.exporting import export_bert, export_released
from vilbert_jax.checkpoints.hf_bert import in_bert
from vilbert_jax.checkpoints.pretrained import (
    check_free,
    check_vocabulary,
    default_heads,
    fresh_params,
    make_plan,
    placed,
    save_pretrained,
    summary,
)
from vilbert_jax.checkpoints.sources import Source, open_source
from vilbert_jax.checkpoints.verify import compare_with_transformers
from vilbert_jax.data.region_store import FeatureContract, RegionStore
from vilbert_jax.data.text import Tokenizer, load_tokenizer
from vilbert_jax.errors import InputError

FORMATS = ("vilbert_jax", "released", "bert")
_DEFAULT_VOCAB = "bert-base-uncased"  # of every released ViLBERT
_SAME = 1e-4  # float32, two libraries


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
    say(describe(source))
    model = make_model(source.config, default_heads(source))
    plan = make_plan(source, model, [name for name in request.fresh.split(",") if name])
    abstract = placed(abstract_params(model))
    tokenizer, contract = _vocabulary(request, source, form), _contract(request, source)
    check_vocabulary(model.config, tokenizer)
    if plan.fresh:
        say(summary(plan, abstract, request.input))
    params = source.read({path: np.empty(abstract[path].shape, np.float32) for path in plan.loaded})
    params |= {path: np.asarray(leaf) for path, leaf in fresh_params(model, plan, abstract, request.seed).items()}
    mark = fingerprint({path: array for path, array in params.items() if form != "bert" or in_bert(path)})
    in_text = {path: params[path] for path in plan.loaded} if source.text_only else {}
    provenance = source.described_provenance() | ({"licence": request.licence} if request.licence else {})
    _write(form, request.output, model, params, tokenizer, contract, provenance)
    say(f"wrote {request.output}   fingerprint {mark}")
    if form == "released" and (lacking := _lacking(model)):
        say(f"heads that the released task model has and this one has not: {', '.join(lacking)}")
    return _verify(request, source, in_text, mark, say) if request.verify else 0


def describe(source: Source) -> str:
    """What was recognised, what is not used and why, what was assumed."""
    millions = sum(int(np.prod(shape)) for shape in source.shapes.values()) / 1e6
    lines = [f"{source.origin}: {source.kind}, {millions:.2f} M parameters, heads: {', '.join(source.heads) or 'none'}"]
    lines += [f"  used      {len(source.shapes):4} tensors"]
    lines += [f"  not used  {len(names):4} {reason}: {_some(names)}" for reason, names in source.unused.items()]
    lines += [f"  assumed        {line}" for line in source.assumed]
    if source.assumed and not source.text_only:
        lines.append("  if that is not so, give the JSON the model was trained with: --model_config=FILE")
    return "\n".join(lines)


def _format(request: Request) -> str:
    by_name = "released" if request.output.suffix in (".safetensors", ".bin") else "vilbert_jax"
    if request.format is not None and (request.format == "released") != (by_name == "released"):
        raise InputError(
            f"--format={request.format} and --output={request.output} do not go together: a released file ends in "
            ".safetensors or .bin, the other formats are folders."
        )
    return request.format or by_name


def _vocabulary(request: Request, source: Source, form: str) -> Tokenizer | None:
    name = request.vocab
    if name is None:
        is_ours = not source.files
        if source.vocab is None and (form != "vilbert_jax" or is_ours):
            return None
        name = str(source.vocab or _DEFAULT_VOCAB)
    if not name:
        return None
    try:
        return load_tokenizer(name)
    except InputError as error:
        if request.vocab is not None:
            raise
        raise InputError(
            f"{error}. The vocabulary is saved with the model: name it with --vocab, or give an empty --vocab= to save "
            "the model without one."
        ) from error


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
    tokenizer: Tokenizer | None,
    contract: FeatureContract | None,
    provenance: Mapping[str, Any],
) -> None:
    if form == "released":
        export_released(output, model.config, heads_of(model), params)
    elif form == "bert":
        export_bert(output, model.config, params, tokenizer)
    else:
        nested = traverse_util.unflatten_dict(params, sep="/")
        save_pretrained(output, model, nested, tokenizer=tokenizer, contract=contract, provenance=provenance)


def _lacking(model: Model) -> list[str]:
    released = ("vqa", "choice", "grounding", "token_score")  # of both releases
    has_tasks = set(heads_of(model)) & set(released)
    return [head for head in released if has_tasks and head not in heads_of(model)]


def _verify(
    request: Request, source: Source, in_text: Mapping[str, np.ndarray], mark: str, say: Callable[[str], None]
) -> int:
    again = open_source(request.output)
    found = again.read({path: np.empty(shape, np.float32) for path, shape in again.shapes.items()})
    same = fingerprint(found) == mark
    say(f"read back: {len(found)} parameters, {'identical' if same else 'DIFFERENT'}")
    if source.text_only:
        for name, difference in compare_with_transformers(source.files[0].parent, source.config, in_text).items():
            say(f"transformers' own forward pass, {name}: largest difference {difference:.1e}")
            same = same and difference <= _SAME
    else:
        say("torch ships no ViLBERT to run beside it; that the model is the released one, tests/parity shows")
    return 0 if same else 1


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
