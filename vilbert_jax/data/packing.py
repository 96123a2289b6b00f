"""Several pairs of pre-training in one row, so that nothing is computed for padding.

A batch of B pairs becomes G = B / P rows of P pairs. What each pair holds stays as it is, [G, P, ...]; added is what
stands where in a row, and what is predicted is gathered into slots of the row. Lengths of rows are few: the smallest
``Capacity`` that holds the batch. Nothing is ever dropped: a fuller batch is a longer one, and compiles once more.

T text length, S = R + 1 region slots of a pair, Lt, Lr, M and K sizes of a row: text, regions, predicted words and
regions.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.errors import InputError

Batch = Mapping[str, np.ndarray]

_TILE = 8  # sizes are multiples of it: the rows of a tile of a TPU's vector unit
_SAMPLE = 256  # pairs that the lengths are estimated from
_FIRST, _STEP = 1.04, 0.06  # room of the smallest capacity over the mean, and how much more each larger one has
_DEVIATIONS = 3  # room for predicted words and regions, which vary more: standard deviations of a binomial draw

# What a row holds; everything else belongs to a pair.
_SLOTS = ("masked_positions", "token_labels", "token_label_mask")
_REGION_SLOTS = ("region_label_mask", "target_probs", "target_classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How pairs share rows.

    Attributes:
        batch_size: pairs of the global batch.
        pairs_per_row: P, at most; 1 packs nothing. See ``packed``.
        pairs_per_group: pairs of the batch that are arranged together, at most; fewer where a host's share is not made
            of whole groups. Many fill rows better; with few, more hosts arrange a batch alike.
    """

    batch_size: int
    pairs_per_row: int = 1
    pairs_per_group: int = 128

    def __post_init__(self) -> None:
        """Refuses values that cannot work, by name."""
        for name in ("batch_size", "pairs_per_row", "pairs_per_group"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Capacity(NamedTuple):
    """Sizes of a row: Lt, Lr, M, K."""

    text: int
    regions: int
    masked_tokens: int
    masked_regions: int


class PackedPairs:
    """A source of pre-training whose batches are packed.

    Batches hold the fields of ``PretrainingSource.example`` as [G, P, ...], but for those of what is predicted:

    * text_places [G, Lt] int32 and region_places [G, Lr] int32: see ``vilbert_jax.nn.packing.Places``;
    * masked_positions [G, M] int32 (places in the row), token_labels [G, M] int32, token_label_mask [G, M] bool;
    * masked_regions [G, K] int32 (places in the row), region_label_mask [G, K] bool; for class targets target_probs
      [G, K, C or kept classes] and target_classes.

    Filler is 0 and False everywhere. Pairs are put into rows group by group, ``pairs_per_group`` neighbours of the
    global batch at a time, so that any number of hosts arranges them alike.

    Attributes:
        pairs: the source, unpacked.
    """

    def __init__(self, pairs: PretrainingSource, *, pairs_per_row: int, pairs_per_group: int) -> None:
        """Estimates from a sample of the pairs how long rows will be; see ``packed``."""
        self.pairs, self._pairs_per_row, self._pairs_per_group = pairs, pairs_per_row, pairs_per_group
        self._typical = _typical(pairs, pairs_per_row)

    def __len__(self) -> int:
        """Number of image-caption pairs with regions."""
        return len(self.pairs)

    def example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One pair, as ``PretrainingSource.example`` gives it."""
        return self.pairs.example(index, rng)

    def pack(self, batch: Batch) -> dict[str, np.ndarray]:
        """Packs the rows of a batch; a whole number of groups."""
        text_lengths, region_lengths = batch["text_mask"].sum(axis=1), batch["region_mask"].sum(axis=1)
        groups = np.arange(len(text_lengths)).reshape(-1, self._pairs_per_group)
        order = np.concatenate(
            [group[balanced(text_lengths[group], region_lengths[group], self._pairs_per_row)] for group in groups]
        )
        rows = {name: x[order].reshape(-1, self._pairs_per_row, *x.shape[1:]) for name, x in batch.items()}
        return _with_slots(rows, self._capacity(rows))

    def _capacity(self, rows: Batch) -> Capacity:
        """The smallest one that holds the fullest row."""
        masks = (rows["text_mask"], rows["region_mask"], rows["token_label_mask"], rows["region_label_mask"])
        needed = [int(mask.sum(axis=(1, 2)).max()) for mask in masks]
        largest = [mask[0].size for mask in masks]
        for number in itertools.count():
            room = [_up(typical * (_FIRST + _STEP * number)) for typical in self._typical]
            if all(has >= needs for has, needs in zip(room, needed, strict=True)):
                return Capacity(*map(min, room, map(_up, largest)))
        raise AssertionError("unreachable")


def packed(
    pairs: PretrainingSource, config: PackingConfig, *, num_parts: int = 1, host_count: int = 1
) -> PretrainingSource | PackedPairs:
    """The source of packed batches, or the pairs themselves where each has a row of its own.

    Rows hold fewer pairs than asked for where a part of the batch would not be made of whole rows, and none share a row
    whose negatives are drawn from the batch as it stands.

    Args:
        pairs: opened data.
        config: how to pack.
        num_parts: devices along the batch times micro-batches.
        host_count: hosts that share a batch.
    """
    num_shares = math.lcm(num_parts, host_count)
    if config.batch_size % num_shares or pairs.num_negatives:
        return pairs
    pairs_per_row = math.gcd(config.pairs_per_row, config.batch_size // num_shares)
    if pairs_per_row == 1:
        return pairs
    num_rows = config.batch_size // host_count // pairs_per_row
    if config.batch_size > config.pairs_per_group:
        num_rows = math.gcd(num_rows, max(config.pairs_per_group // pairs_per_row, 1))
    return PackedPairs(pairs, pairs_per_row=pairs_per_row, pairs_per_group=num_rows * pairs_per_row)


def balanced(text_lengths: np.ndarray, region_lengths: np.ndarray, pairs_per_row: int) -> np.ndarray:
    """Spreads N pairs evenly over rows: the longest first, each to the row that it leaves emptiest; then by swaps.

    A row's load is that of its fuller stream, as a share of the whole.

    Args:
        text_lengths: [N] positions of each pair's text, at least 1.
        region_lengths: [N] regions of each pair, the global one among them.
        pairs_per_row: P; divides N.

    Returns:
        [N] the pairs in the order of the rows, P to each.
    """
    num_pairs = len(text_lengths)
    num_rows = num_pairs // pairs_per_row
    lengths = np.stack([text_lengths, region_lengths]).astype(np.float64)
    shares = lengths / lengths.sum(axis=1, keepdims=True)  # [2, N]
    loads, counts = np.zeros((2, num_rows)), np.zeros(num_rows, int)
    row_of = np.empty(num_pairs, int)
    for pair in np.argsort(-shares.sum(axis=0), kind="stable"):
        after = np.where(counts < pairs_per_row, (loads + shares[:, pair : pair + 1]).max(axis=0), np.inf)
        row = row_of[pair] = int(after.argmin())
        loads[:, row] += shares[:, pair]
        counts[row] += 1
    for _ in range(num_pairs):  # the last rows to fill up took what was left: the fullest gives something away
        fullest = int(loads.max(axis=0).argmax())
        (given,) = (row_of == fullest).nonzero()
        more = shares[:, None] - shares[:, given, None]  # [2, P, N]: what the row gains by taking each for each
        worst = np.maximum(loads[:, fullest, None, None] + more, loads[:, None, row_of] - more).max(axis=0)
        worst[:, given] = np.inf
        out, taken = np.unravel_index(worst.argmin(), worst.shape)
        if worst[out, taken] >= loads.max() * (1 - 1e-9):
            break
        change = more[:, out, taken]
        loads[:, fullest] += change
        loads[:, row_of[taken]] -= change
        row_of[given[out]], row_of[taken] = row_of[taken], fullest
    return np.argsort(row_of, kind="stable")


def _with_slots(rows: Batch, capacity: Capacity) -> dict[str, np.ndarray]:
    """Adds places, and gathers what is predicted into the slots of the rows."""
    text_mask, region_mask = _flat(rows["text_mask"]), _flat(rows["region_mask"])
    result = {name: x for name, x in rows.items() if name not in (*_SLOTS, *_REGION_SLOTS)}
    result["text_places"] = _places(text_mask, capacity.text)
    result["region_places"] = _places(region_mask, capacity.regions)

    slots, result["token_label_mask"] = _first(_flat(rows["token_label_mask"]), capacity.masked_tokens)
    pair = slots // rows["token_label_mask"].shape[2]
    position = pair * rows["text_mask"].shape[2] + _take(_flat(rows["masked_positions"]), slots)
    result["masked_positions"] = _place_of(text_mask, position) * result["token_label_mask"]
    result["token_labels"] = _take(_flat(rows["token_labels"]), slots) * result["token_label_mask"]

    slots, result["region_label_mask"] = _first(_flat(rows["region_label_mask"]), capacity.masked_regions)
    num_regions = rows["region_label_mask"].shape[2]
    region = slots // num_regions * (num_regions + 1) + slots % num_regions + 1  # the global region stands first
    result["masked_regions"] = _place_of(region_mask, region) * result["region_label_mask"]
    for name in {"target_probs", "target_classes"} & rows.keys():
        result[name] = _take(_flat(rows[name]), slots) * result["region_label_mask"][..., None]
    return result


def _flat(x: np.ndarray) -> np.ndarray:
    """[G, P, N, ...] -> [G, P * N, ...]."""
    return x.reshape(len(x), -1, *x.shape[3:])


def _first(mask: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first ``count`` true elements of each row of [G, N], in order, and where there are so many."""
    order = np.argsort(~mask, axis=1, kind="stable")[:, :count]
    order = np.pad(order, ((0, 0), (0, count - order.shape[1])))
    return order, np.arange(count) < mask.sum(axis=1, keepdims=True)


def _places(mask: np.ndarray, length: int) -> np.ndarray:
    """[G, length] int32: 1 + the index of what stands there, 0 for nothing."""
    index, filled = _first(mask, length)
    return ((index + 1) * filled).astype(np.int32)


def _place_of(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Where the elements [G, n] of a row stand once what the mask leaves out is gone; int32."""
    return _take(mask.cumsum(axis=1, dtype=np.int32) - 1, index)


def _take(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Elements [G, n, ...] of [G, N, ...]."""
    return x[np.arange(len(x))[:, None], index]


def _typical(pairs: PretrainingSource, pairs_per_row: int) -> Capacity:
    """What a row holds on average, with more room for what varies more; of an even sample of the pairs."""
    rng = np.random.default_rng(0)
    sample = np.unique(np.linspace(0, len(pairs) - 1, _SAMPLE).astype(int)).tolist()
    names = ("text_mask", "region_mask", "token_label_mask", "region_label_mask")
    examples = (pairs.example(index, rng) for index in sample)
    counts = np.array([[example[name].sum() for name in names] for example in examples])
    means = counts.mean(axis=0) * pairs_per_row
    return Capacity(*means[:2], *(mean + _DEVIATIONS * math.sqrt(mean) for mean in means[2:]))


def _up(size: float) -> int:
    """The next multiple of the tile."""
    return max(1, math.ceil(size / _TILE)) * _TILE
