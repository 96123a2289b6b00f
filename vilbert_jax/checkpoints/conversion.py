"""Tables of parameter names, and what is done with them in either direction.

A table lists every tensor of one kind of source beside its path here. ``match`` checks a source against its table,
both ways; ``to_source`` goes back.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vilbert_jax.checkpoints.tensor_files import Index, LazyTensor
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS, ViLBERTForPretraining, ViLBERTForTasks, init_params
from vilbert_jax.paths import named_leaves

Model = ViLBERTForPretraining | ViLBERTForTasks

PRETRAINING_HEADS = ("tokens", "regions", "alignment")


class Entry(NamedTuple):
    """One tensor: its name in the source, its path here, and whether it is transposed on the way (either way).

    PyTorch writes kernels as [out, in] or, of convolutions, [out, in, height, width]; ours are [in, out] and
    [height, width, in, out].
    """

    source: str
    path: str
    transpose: bool


class Table(NamedTuple):
    """Everything a source of one kind may hold.

    Attributes:
        entries: what is loaded; each name and each path once.
        ties: names that repeat another tensor of the source, by the name that they must equal.
        unused: names that are not loaded, each with the reason.
    """

    entries: tuple[Entry, ...]
    ties: Mapping[str, str]
    unused: Mapping[str, str]


def linear(source: str, path: str) -> Iterator[Entry]:
    """A PyTorch linear layer, weight [out, in], and a dense layer here, kernel [in, out]."""
    yield Entry(f"{source}.weight", f"{path}/kernel", transpose=True)
    yield Entry(f"{source}.bias", f"{path}/bias", transpose=False)


def norm(source: str, path: str) -> Iterator[Entry]:
    """A layer norm."""
    yield Entry(f"{source}.weight", f"{path}/scale", transpose=False)
    yield Entry(f"{source}.bias", f"{path}/bias", transpose=False)


def mlp(source: str, intermediate: str, output: str, path: str) -> Iterator[Entry]:
    """BERT's feed-forward block, whose two halves have names of their own there."""
    yield from linear(f"{source}.{intermediate}.dense", f"{path}/intermediate")
    yield from linear(f"{source}.{output}.dense", f"{path}/output")
    yield from norm(f"{source}.{output}.LayerNorm", f"{path}/output_norm")


def bert_layer(source: str, path: str) -> Iterator[Entry]:
    """A self-attention layer as every BERT names it."""
    for name in ("query", "key", "value"):
        yield from linear(f"{source}.attention.self.{name}", f"{path}/attention/{name}")
    yield from linear(f"{source}.attention.output.dense", f"{path}/attention_output")
    yield from norm(f"{source}.attention.output.LayerNorm", f"{path}/attention_output_norm")
    yield from mlp(source, "intermediate", "output", f"{path}/mlp")


def text_embeddings(tables: tuple[str, ...]) -> Iterator[Entry]:
    """BERT's embedding tables and the norm behind them."""
    for name in tables:
        path = f"trunk/text_embeddings/{name}_embeddings/embedding"
        yield Entry(f"bert.embeddings.{name}_embeddings.weight", path, transpose=False)
    yield from norm("bert.embeddings.LayerNorm", "trunk/text_embeddings/norm")


def token_head() -> Iterator[Entry]:
    """BERT's masked-word head; its decoder is the word table."""
    yield Entry("cls.predictions.bias", "token_head/bias", transpose=False)
    yield from linear("cls.predictions.transform.dense", "token_head/transform")
    yield from norm("cls.predictions.transform.LayerNorm", "token_head/transform_norm")


def pooler() -> Iterator[Entry]:
    """BERT's pooler, which a single-stream model has too."""
    yield from linear("bert.pooler.dense", "trunk/pooler")


def alignment_head() -> Iterator[Entry]:
    """BERT's next-sentence head, the alignment head of a single-stream model: class 0 is "belongs together" in both."""
    yield from linear("cls.seq_relationship", "alignment_head")


WORD_TABLE = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"


def make_model(config: ViLBERTConfig, heads: tuple[str, ...]) -> Model:
    """The model with these heads: the three of pre-training make ``ViLBERTForPretraining``."""
    if set(heads) == set(PRETRAINING_HEADS):
        return ViLBERTForPretraining(config)
    return ViLBERTForTasks(config, heads=heads)


def heads_of(model: Model) -> tuple[str, ...]:
    """The names of a model's heads."""
    return tuple(model.heads) if isinstance(model, ViLBERTForTasks) else PRETRAINING_HEADS


def abstract_params(model: Model) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter of a model, by path."""
    return _abstract_params(model.config, heads_of(model))


@functools.lru_cache(maxsize=8)  # tracing takes half a second, and every load asks several times
def _abstract_params(config: ViLBERTConfig, heads: tuple[str, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    model = make_model(config, heads)
    return named_leaves(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))


def head_of(path: str) -> str | None:
    """The head that a parameter belongs to; None for the trunk."""
    name = path.partition("/")[0].removesuffix("_head")
    aliases = {"token": "tokens", "region": "regions"}
    return aliases.get(name, name) if aliases.get(name, name) in HEADS else None


def normalised(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tensors under today's names: without DataParallel's ``module.``, LayerNorm's ``gamma`` and ``beta`` renamed.

    Raises:
        InputError: two tensors would get one name.
    """
    wrapped = all(name.startswith("module.") for name in tensors)
    renamed: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("module.") if wrapped else name
        for old, new in ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")):
            plain = plain.removesuffix(old) + new if plain.endswith(old) else plain
        if plain in renamed:
            raise InputError(f"the file holds {plain} twice, once as {name}: it was merged from two models")
        renamed[plain] = tensor
    return renamed


def match(
    origin: str, tensors: Mapping[str, LazyTensor], table: Table, expected: Mapping[str, Any]
) -> dict[str, LazyTensor]:
    """Checks a source against its table and gives its tensors our names and orientation.

    Args:
        origin: the source, for messages.
        tensors: by name, from ``normalised``.
        table: for the source's config and heads.
        expected: ``abstract_params`` of that model, or more.

    Returns:
        By path; transposed where the table says so, and still in the file.

    Raises:
        InputError: naming at once every tensor that is missing, not understood, misshaped, not of a float type, or
            unequal to the one it is tied to.
    """
    tensors = dict(tensors)
    for copy, original in table.ties.items():
        if original not in tensors and copy in tensors:
            tensors[original] = tensors[copy]
    known = {entry.source for entry in table.entries} | table.unused.keys() | table.ties.keys()
    missing = [e.source for e in table.entries if e.source not in tensors]
    unknown = [f"{name} {[*tensors[name].shape]}" for name in sorted(tensors.keys() - known)]
    misshaped, not_floats = [], []
    for entry in (e for e in table.entries if e.source in tensors):
        found, wanted = tensors[entry.source], expected[entry.path].shape
        wanted = tuple(wanted[axis] for axis in _our_axes(len(wanted))) if entry.transpose else wanted
        if found.shape != wanted:
            misshaped.append(f"{entry.source}: {[*found.shape]} in the file, {[*wanted]} by the config")
        if not found.is_float:
            not_floats.append(f"{entry.source}: {found.dtype}")
    problems = {"missing": missing, "not understood": unknown, "misshaped": misshaped, "not floats": not_floats}
    if not any(problems.values()):
        problems["not tied"] = _untied(tensors, table)
    if any(problems.values()):
        lines = [f"  {what}: {item}" for what, items in problems.items() for item in items]
        raise InputError(f"{origin} does not fit the model config, in {len(lines)} places:\n" + "\n".join(lines))
    return {e.path: _transposed(tensors[e.source]) if e.transpose else tensors[e.source] for e in table.entries}


def to_source(params: dict[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """The tensors of a source from parameters, the inverse of ``match``; ties are written, unused ones are not.

    Args:
        params: by path; emptied on the way, so that a large model is not in memory twice.
        table: for the model they belong to.

    Returns:
        C-contiguous arrays by source name, in the order of the table.
    """
    found = {}
    for entry in table.entries:
        array = np.asarray(params.pop(entry.path))
        array = array.transpose(_our_axes(array.ndim)) if entry.transpose else array
        found[entry.source] = np.require(array, requirements="C")
    return found | {copy: found[original] for copy, original in table.ties.items() if original in found}


def fingerprint(params: Mapping[str, np.ndarray]) -> str:
    """Hash of parameters by path: equal in every file format that holds the same model."""
    digest = hashlib.sha256()
    for path in sorted(params):
        array = np.ascontiguousarray(params[path], dtype=np.float32)
        digest.update(f"{path}{[*params[path].shape]}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:32]


def _untied(tensors: Mapping[str, LazyTensor], table: Table) -> list[str]:
    both = [(copy, original) for copy, original in table.ties.items() if copy in tensors and original in tensors]
    return [
        f"{copy} differs from {original}, which this model uses in its place"
        for copy, original in both
        if tensors[copy].shape != tensors[original].shape
        or not np.array_equal(tensors[copy].read(()), tensors[original].read(()))
    ]


def _our_axes(num_axes: int) -> tuple[int, ...]:
    """Where the axes of a kernel [out, in, ...] are in ours, [..., in, out]."""
    return (num_axes - 1, num_axes - 2, *range(num_axes - 2))


def _transposed(tensor: LazyTensor) -> LazyTensor:
    num_axes = len(tensor.shape)
    our_axes, their_axes = _our_axes(num_axes), (*range(2, num_axes), 1, 0)

    def read(index: Index) -> np.ndarray:
        theirs = tuple(index[axis] for axis in our_axes) if index else ()
        return tensor.read(theirs).transpose(their_axes)

    return LazyTensor(tuple(tensor.shape[axis] for axis in their_axes), tensor.dtype, read)
