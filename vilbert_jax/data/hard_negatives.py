"""The images that look most like each image: hard negatives of retrieval training.

N images, F feature width, k neighbours. Source: the released ``hard_negative.pkl`` of retrieval_dataset.py, 100 nearest
by mean feature. Its lists hold the image itself; ours hold k others.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tqdm

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import StoredRegions
from vilbert_jax.data.task_regions import mean_feature
from vilbert_jax.errors import InputError
from vilbert_jax.progress import bar_interval

_ROUNDING = 1e-11  # relative error of a distance by matrix product; much more than float64 makes for any F in use


class Store(Protocol):
    """What is needed of a ``RegionStore``."""

    contract: FeatureContract

    @property
    def fingerprint(self) -> str:
        """Tells two stores apart."""
        ...

    def __contains__(self, image_id: object) -> bool:
        """Whether the store has this picture."""
        ...

    def stored(self, image_id: str) -> StoredRegions:
        """The record of one picture."""
        ...


def mean_features(store: Store, image_ids: Sequence[str], *, progress: bool = False) -> np.ndarray:
    """[N,F] float32: the mean over the boxes of each image, the global feature that the model sees.

    One record at a time is read; the result is all the memory it takes.

    Args:
        store: region store.
        image_ids: of the images.
        progress: shows images done and time left.

    Raises:
        InputError: the store lacks images.
    """
    if missing := [image_id for image_id in image_ids if image_id not in store]:
        raise InputError(
            f"the region store lacks {len(missing)} of {len(image_ids)} images, the first is {missing[0]!r}; leave "
            "them out, or use the store that was made from these images"
        )
    means = np.empty((len(image_ids), store.contract.feature_dim), np.float32)
    with _bar(len(image_ids), "features of images", shown=progress) as bar:
        for row, image_id in zip(means, image_ids, strict=True):
            row[:] = mean_feature(store.stored(image_id))
            bar.update()
    return means


def nearest_images(
    features: np.ndarray, k: int = 100, *, rows_at_once: int = 256, progress: bool = False
) -> np.ndarray:
    """The k nearest other images of every image by Euclidean distance, nearest first; the lower index of a tie first.

    Distances of a block of rows come from one matrix product. Whatever its rounding could let in is measured again
    difference by difference, so that the result depends on neither the block size nor the machine's linear algebra.
    Memory: N x F float64 and ``rows_at_once`` x N float64; time N x N x F.

    Args:
        features: [N,F], finite.
        k: how many; all N - 1 others if there are no more.
        rows_at_once: rows of a block.
        progress: shows images done and time left.

    Returns:
        [N, min(k, N - 1)] int32.

    Raises:
        InputError: a feature is not finite, or k is below 1.
    """
    if k < 1 or rows_at_once < 1:
        raise InputError(f"nearest images: k is {k} and rows_at_once {rows_at_once}; both must be at least 1")
    if features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(
            f"nearest images: features have shape {features.shape} and "
            f"{int((~np.isfinite(features)).sum())} values that are not finite; expected [images, width] of numbers"
        )
    points = features.astype(np.float64)
    if len(points):
        # Distances stay, and rounding is smaller near zero. A float32 mean is taken off float32 features exactly.
        points -= points.mean(axis=0).astype(np.float32)
    norms = np.square(points).sum(axis=1)
    k = max(min(k, len(points) - 1), 0)
    nearest = np.empty((len(points), k), np.int32)
    with _bar(len(points), "hard negatives", shown=progress) as bar:
        for start in range(0, len(points) if k else 0, rows_at_once):
            block = slice(start, start + rows_at_once)
            distances = norms[block, None] + norms[None] - 2 * points[block] @ points.T
            slack = 4 * _ROUNDING * (norms[block] + norms.max())
            for row, line in enumerate(distances, start):
                line[row] = np.inf
                limit = np.partition(line, k - 1)[k - 1] + slack[row - start]
                candidates = np.flatnonzero(line <= limit)
                nearest[row] = candidates[np.argsort(_squares(features, row, candidates), kind="stable")[:k]]
                bar.update()
    return nearest


def load_or_find(folder: str | os.PathLike[str], store: Store, image_ids: Sequence[str], k: int = 100) -> np.ndarray:
    """``nearest_images`` of images of a store, with progress bars, kept in a file for the next run.

    The file's name is a hash of the image ids, the store's fingerprint and k: another question is another file, so what
    is found is never of other images.

    Args:
        folder: of the cache; is made if absent.
        store: region store.
        image_ids: of the training split, each once; neighbours are indices into it.
        k: how many.

    Returns:
        [N, min(k, N - 1)] int32, memory-mapped, read-only.

    Raises:
        InputError: an image id occurs twice, or the store lacks images.
    """
    if len(set(image_ids)) < len(image_ids):
        raise InputError(
            f"{len(image_ids) - len(set(image_ids))} of {len(image_ids)} image ids are repetitions; an image would be "
            "its own negative: give each once"
        )
    path = Path(folder) / f"nearest_images_{_key(store, image_ids, k)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.save(file, nearest_images(mean_features(store, image_ids, progress=True), k, progress=True))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _bar(total: int, title: str, *, shown: bool) -> "tqdm.tqdm[Any]":
    return tqdm.tqdm(
        total=total, desc=title, unit=" images", disable=not shown, dynamic_ncols=True, mininterval=bar_interval()
    )


def _squares(features: np.ndarray, row: int, others: np.ndarray) -> np.ndarray:
    """[len(others)] float64 squared distances, each summed alone and in the same order."""
    squares = np.empty(len(others))
    for start in range(0, len(others), 1024):
        part = others[start : start + 1024]
        squares[start : start + 1024] = np.square(features[part].astype(np.float64) - features[row][None]).sum(axis=1)
    return squares


def _key(store: Store, image_ids: Sequence[str], k: int) -> str:
    """Names the store, the ids and k."""
    digest = hashlib.sha256(f"{k}\n{store.fingerprint}\n".encode())
    for image_id in image_ids:
        digest.update(f"{image_id}\n".encode())
    return digest.hexdigest()[:24]
