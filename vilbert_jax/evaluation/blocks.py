"""Captions and images in blocks of like size: little padding in few shapes. numpy only.

S region slots (slot 0 is the global region), T text length.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

_MAX_BUCKETS = 4  # of caption lengths, and of region numbers: 16 compiled programs at most


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


def stacked_images(batch: list[Mapping[str, np.ndarray]], num_slots: int, rows: int) -> dict[str, np.ndarray]:
    """Fields of images cut or padded to S = ``num_slots``; copies of the last image fill up the rows."""
    batch = batch + batch[-1:] * (rows - len(batch))

    def fitted(name: str, length: int) -> np.ndarray:
        first = batch[0][name]
        out = np.zeros((rows, length, *first.shape[1:]), np.result_type(*(image[name].dtype for image in batch)))
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


def num_slots_in_use(image: Mapping[str, np.ndarray]) -> int:
    """Slots up to the last one in use."""
    used = np.flatnonzero(image["region_mask"])
    return int(used[-1]) + 1 if len(used) else 1
