"""Captions in blocks of like length, images sharing rows: little padding in few shapes. numpy only.

S region slots (slot 0 is the global region), T text length; P images share a row of Lr region places, g rows a step.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_MAX_BUCKETS = 8  # of caption lengths: so many compiled programs at most
_IMAGES_A_ROW = 2  # at most: a large one beside a small one fills rows already, and attention grows with their length
_TILE = 8  # the places of a row are a multiple of it, as accelerators like them


class Layout(NamedTuple):
    """How images stand in the steps."""

    rows: list[np.ndarray]  # of each step [g,P] int64, numbers of images, -1 for none
    num_slots: int  # S
    num_places: int  # Lr


def without_repeats(captions: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[list[int]]]:
    """The different captions in order of first appearance, and where each stands."""
    members: dict[bytes, list[int]] = {}
    for k, ids in enumerate(captions):
        members.setdefault(np.asarray(ids, np.int32).tobytes(), []).append(k)
    return [np.asarray(captions[where[0]], np.int32) for where in members.values()], list(members.values())


def blocks_of_like_size(sizes: Sequence[int], per_block: int) -> list[tuple[int, np.ndarray]]:
    """Blocks of at most ``per_block`` things of like size, each with the size that it is padded to."""
    edges = bucket_edges(sizes, per_block, _MAX_BUCKETS)
    bucket = np.searchsorted(edges, sizes)
    blocks = []
    for k, edge in enumerate(edges):
        inside = np.flatnonzero(bucket == k)
        blocks += [(edge, inside[start : start + per_block]) for start in range(0, len(inside), per_block)]
    return blocks


def bucket_edges(sizes: Sequence[int], per_block: int, max_buckets: int) -> list[int]:
    """Upper edges of at most ``max_buckets`` buckets that pad as little as possible in all.

    Every size is padded to the next edge, which is one of the sizes, and the last block of a bucket is filled up to
    ``per_block`` rows, so few things are in few buckets. Found by dynamic programming over the sizes.
    """
    values, counts = np.unique(np.asarray(sizes), return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j], edges[j]: the best of the j smallest values with the buckets so far
    cost, edges = [0.0] + [np.inf] * len(values), [[] for _ in range(len(values) + 1)]
    for _ in range(min(max_buckets, len(values))):
        longer_cost, longer_edges = list(cost), list(edges)
        for j in range(1, len(values) + 1):
            totals = [
                cost[i] + float(values[j - 1] * math.ceil((below[j] - below[i]) / per_block) * per_block)
                for i in range(j)
            ]
            i = int(np.argmin(totals))
            if totals[i] < cost[j]:
                longer_cost[j], longer_edges[j] = totals[i], [*edges[i], int(values[j - 1])]
        cost, edges = longer_cost, longer_edges
    return edges[-1]


def padded_captions(captions: Sequence[np.ndarray], length: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [rows,T] int32 and their mask [rows,T] bool, T = ``length``; copies of the last caption fill up."""
    captions = [*captions, *[captions[-1]] * (rows - len(captions))]
    token_ids = np.zeros((rows, length), np.int32)
    for row, ids in zip(token_ids, captions, strict=True):
        row[: len(ids)] = ids
    return token_ids, np.arange(length)[None] < np.array([[len(ids)] for ids in captions])


def stacked_images(batch: list[Mapping[str, np.ndarray]], num_slots: int) -> dict[str, np.ndarray]:
    """Fields of images cut or padded to S = ``num_slots``."""

    def fitted(name: str, length: int) -> np.ndarray:
        first = batch[0][name]
        out = np.zeros((len(batch), length, *first.shape[1:]), np.result_type(*(image[name].dtype for image in batch)))
        for row, image in zip(out, batch, strict=True):
            field = image[name][:length]
            row[: len(field)] = field
        return out

    return {
        "stored_features": fitted("stored_features", num_slots - 1),
        "feature_scales": fitted("feature_scales", num_slots - 1),
        "global_feature": np.stack([image["global_feature"] for image in batch]),
        "region_boxes": fitted("region_boxes", num_slots),
        "region_mask": fitted("region_mask", num_slots),
    }


def mixed_blocks(sizes: Sequence[int], per_block: int) -> list[np.ndarray]:
    """As few blocks of at most ``per_block`` things as can be, large and small ones dealt out evenly."""
    num_blocks = math.ceil(len(sizes) / per_block)
    order = np.argsort(-np.asarray(sizes), kind="stable")
    blocks = [order[k::num_blocks] for k in range(num_blocks)]
    return [np.sort(block) for block in blocks]


def balanced_rows(sizes: Sequence[int], num_rows: int, per_row: int) -> np.ndarray:
    """Spreads things over rows of at most ``per_row``: the largest first, each to the row that it leaves emptiest.

    Returns:
        [num_rows, per_row] int64, numbers of the things; -1 where a row has fewer.
    """
    rows, loads, counts = np.full((num_rows, per_row), -1), np.zeros(num_rows), np.zeros(num_rows, int)
    for thing in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        row = int(np.where(counts < per_row, loads, np.inf).argmin())
        rows[row, counts[row]] = thing
        loads[row] += sizes[thing]
        counts[row] += 1
    return rows


def num_places(sizes: Sequence[int], rows: Iterable[np.ndarray]) -> int:
    """What the fullest of all rows needs; ``rows`` [G,P] are numbers among ``sizes``, -1 for nothing."""
    sized = np.append(np.asarray(sizes), 0)  # what is not there has no size
    fullest = max(int(sized[of].sum(axis=1).max()) for of in rows)
    return math.ceil(fullest / _TILE) * _TILE


def region_places(masks: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """What stands where in the rows, [G,length] int32, as ``vilbert_jax.nn.packing.Places`` counts it.

    Args:
        masks: [G * P, S] bool, of the images in the order of the rows.
        rows: [G,P], below 0 where there is no image.
        length: places of a row.
    """
    result = np.zeros((len(rows), length), np.int32)
    for places, used in zip(result, (masks & (rows >= 0).reshape(-1, 1)).reshape(len(rows), -1), strict=True):
        there = np.flatnonzero(used)  # pair * S + slot
        places[: len(there)] = 1 + there
    return result


def num_slots_in_use(image: Mapping[str, np.ndarray]) -> int:
    """Slots up to the last one in use."""
    used = np.flatnonzero(image["region_mask"])
    return int(used[-1]) + 1 if len(used) else 1


def layout_of(
    num_slots: Sequence[int],
    blocks: Sequence[np.ndarray],
    captions_per_step: int,
    images_per_step: int,
    num_shards: int,
) -> Layout:
    """As many images to a row as rows can be spread over the devices with."""
    per_row = max(
        count
        for count in range(1, _IMAGES_A_ROW + 1)
        if images_per_step % count == 0 and captions_per_step * images_per_step // count % num_shards == 0
    )
    sizes = np.asarray(num_slots)
    rows = []
    for block in blocks:
        of_block = balanced_rows(sizes[block].tolist(), images_per_step // per_row, per_row)
        rows.append(np.where(of_block >= 0, block[of_block], -1))
    return Layout(rows, int(sizes.max()), num_places(num_slots, rows))
