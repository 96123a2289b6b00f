"""What the examples of a run hold, and what reading them asks of disks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.packing import PackedPairs
from vilbert_jax.data.pipeline import Source
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.model_size import forward_flops, head_flops

SAMPLE = 1000


class Sample(NamedTuple):
    """Real lengths of some examples, means over them. An example may hold several pairs of text and picture.

    Attributes:
        num_examples: that were looked at.
        num_pairs: a text beside a picture, of one example.
        text_length: real word pieces of a pair.
        num_slots: text positions of a pair, padding included.
        num_regions: real regions of a pair, the global one included.
        num_region_slots: region positions of a pair, padding included.
        predicted_tokens: words of a pair that are to be predicted; None where no words are.
        predicted_regions: the same of regions.
        flops: of the forward pass of one example over its real positions, heads included.
        padded_flops: the same with padding, as evaluations compute it.
    """

    num_examples: int
    num_pairs: float
    text_length: float
    num_slots: int
    num_regions: float
    num_region_slots: int
    predicted_tokens: float | None
    predicted_regions: float | None
    flops: float
    padded_flops: float


class Storage(NamedTuple):
    """Files that a run reads.

    Attributes:
        regions: bytes of the region stores.
        num_pictures: that they hold.
        annotations: bytes of the annotations' files, all splits.
        bytes_per_example: mean of what one example reads.
    """

    regions: int
    num_pictures: int
    annotations: int
    bytes_per_example: float


def sample(source: Source, config: ViLBERTConfig, heads: Iterable[str], *, limit: int = SAMPLE) -> Sample:
    """Reads up to ``limit`` examples spread evenly over a source; always the same ones.

    Args:
        source: examples with text_mask [..., T] and region_mask [..., S], and in pre-training token_label_mask [M] and
            region_label_mask [R].
        config: the model.
        heads: of the model, by name.
        limit: examples to read.
    """
    rng, heads = np.random.default_rng(0), tuple(heads)
    rows = np.unique(np.linspace(0, len(source) - 1, limit).astype(int)).tolist()
    lengths: list[np.ndarray] = []
    predicted: list[list[int]] = []
    num_slots = num_region_slots = num_pairs = flops = 0
    for row in rows:
        example = source.example(row, rng)
        text, regions = np.asarray(example["text_mask"]), np.asarray(example["region_mask"])
        num_slots, num_region_slots = text.shape[-1], regions.shape[-1]
        pairs = np.stack(np.broadcast_arrays(text.sum(-1), regions.sum(-1)), axis=-1).reshape(-1, 2)
        num_pairs += len(pairs)
        lengths.append(pairs)
        if "token_label_mask" in example:
            predicted.append([int(example[name].sum()) for name in ("token_label_mask", "region_label_mask")])
        for pair in pairs.tolist():
            flops += _forward(config, heads, pair, predicted[-1] if predicted else pair)
    text_length, num_regions = np.concatenate(lengths).mean(axis=0).tolist()
    predicted_tokens, predicted_regions = np.mean(predicted, axis=0).tolist() if predicted else (None, None)
    padded, pairs_each = (num_slots, num_region_slots), num_pairs / len(rows)
    chosen = np.ceil(np.mean(predicted, axis=0)).astype(int).tolist() if predicted else padded
    return Sample(
        num_examples=len(rows),
        num_pairs=pairs_each,
        text_length=text_length,
        num_slots=num_slots,
        num_regions=num_regions,
        num_region_slots=num_region_slots,
        predicted_tokens=predicted_tokens,
        predicted_regions=predicted_regions,
        flops=flops / len(rows),
        padded_flops=pairs_each * _forward(config, heads, padded, chosen),
    )


def opened(source: Any) -> tuple[Source, Any, list[RegionStore]]:
    """The examples of a source one by one, the annotations and the region stores behind them."""
    source = source.pairs if isinstance(source, PackedPairs) else source
    if isinstance(source, PretrainingSource):
        stores = [source.regions] if isinstance(source.regions, RegionStore) else []
        return source, source.rows, stores
    return source, source.examples.rows, [*source.examples.stores]


def storage(rows: Any, stores: Iterable[RegionStore]) -> Storage:
    """Sizes of the files behind opened data.

    Args:
        rows: annotations; what no data set on disk stands behind counts nothing.
        stores: of regions; an example reads one record of each.
    """
    opened = list(stores)
    sizes = [_size(store.path) for store in opened]
    info = getattr(rows, "dataset_info", None)
    annotations = _size(Path(info.data_dir)) if info else 0
    num_rows = sum(split.num_examples for split in info.splits.values()) if info else 1
    records = sum(size / len(store) for size, store in zip(sizes, opened, strict=True))
    return Storage(sum(sizes), sum(map(len, opened)), annotations, records + annotations / num_rows)


def _forward(config: ViLBERTConfig, heads: tuple[str, ...], lengths: Sequence[int], predicted: Sequence[int]) -> int:
    text, regions = lengths
    trunk = forward_flops(config, text + bool(config.num_task_embeddings), regions)
    return trunk + head_flops(config, heads, predicted[0], predicted[1])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
