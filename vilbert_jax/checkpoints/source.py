"""What parameters can be read from, once it is open: names, shapes, config, and the values when they are asked for."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vilbert_jax.checkpoints.tensor_files import Index, LazyTensor
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Parameters that can be read, and all that is known about them.

    Attributes:
        origin: what the user named.
        kind: for people.
        config: of the model they belong to; for a BERT, of a model that it fits in, see ``for_model``.
        heads: heads that have parameters here.
        shapes: of every parameter that can be read, by path.
        read: abstract arrays by path -> arrays. A numpy array asks for a numpy array, a ``ShapeDtypeStruct`` with a
            sharding for an array on those devices, of which each host reads its part alone.
        text_only: whether this is a BERT: everything that it has no place for starts fresh.
        refit: number of streams -> the same source as such a model reads it; for a BERT, which fits both.
        states_config: whether the source itself says what shapes do not show (numbers of heads and the like).
        assumed: a line for everything in ``config`` that was assumed.
        unused: names of tensors that are not loaded, by reason.
        files: weights files, for the hash; none for a checkpoint of this project.
        vocab: file that ``load_tokenizer`` reads, where the source has one.
        features: feature contract as JSON, where the source has one.
        outputs: what each output of an answer head means, in order, by head, where the source says so.
        trained_for: ``TrainedFor`` as JSON, where the source has it.
        provenance: JSON-like; where the parameters come from.
    """

    origin: str
    kind: str
    config: ViLBERTConfig
    heads: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    text_only: bool = False
    refit: Callable[[int], "Source"] | None = None
    states_config: bool = True
    assumed: tuple[str, ...] = ()
    unused: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
    vocab: Path | None = None
    features: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trained_for: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def for_model(self, config: ViLBERTConfig) -> "Source":
        """This source under the names of a model of ``config``.

        Raises:
            InputError: it has another number of streams, and so other parameters throughout.
        """
        if self.config.num_streams == config.num_streams:
            return self
        if self.refit is not None:
            return self.refit(config.num_streams)
        raise InputError(other_streams(f"{self.origin} ({self.kind})", self.config.num_streams, config.num_streams))

    def described_provenance(self) -> dict[str, Any]:
        """``provenance`` with the hashes of the files, which have to be read for that."""
        hashes = {path.name: f"sha256:{_sha256(path)}" for path in self.files}
        return {**self.provenance, **({"files": hashes} if hashes else {})}


def other_streams(what: str, theirs: int, ours: int) -> str:
    """The message for parameters of a model with another number of streams; ``what`` are they."""
    count = {1: "one stream", 2: "two streams"}
    return (
        f"{what} has {count[theirs]}, the model config {count[ours]} (num_streams={ours}): they share no parameters. "
        f"Give a config with num_streams={theirs} (in a recipe --config.model.num_streams={theirs}) or another source. "
        "A BERT fits both."
    )


def reader(tensors: Mapping[str, LazyTensor]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """``Source.read`` for tensors in a file, by path."""

    def finite(path: str, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise InputError(
                f"{path}: the file holds values that are not finite ({np.isfinite(values).mean():.1%} are), so the "
                "training diverged or the file is damaged: take an earlier checkpoint, or get the file again"
            )
        return values

    def place(path: str, wanted: Any) -> Any:
        tensor = tensors[path]
        if isinstance(wanted, np.ndarray):
            return finite(path, np.asarray(tensor.read(()), wanted.dtype))
        parts: dict[str, np.ndarray] = {}  # copies on several devices of this host are read once

        def part(index: Index | None) -> np.ndarray:
            if str(index) not in parts:
                # A copy of its own: JAX may use the memory it is given, and the file can change under a memory map.
                parts[str(index)] = finite(path, np.array(tensor.read(index or ()), wanted.dtype, order="C"))
            return parts[str(index)]

        return jax.make_array_from_callback(wanted.shape, wanted.sharding, part)

    return lambda abstract: {path: place(path, wanted) for path, wanted in abstract.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
