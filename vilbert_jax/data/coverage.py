"""Which rows of an annotation set have regions: millions of image ids joined with those of a region store.

Public region features never cover all images (links die), so every training set is a subset, and not everybody's is
the same. The join counts what is missing, and a manifest hash names exactly which pairs are left.
"""

import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np

from vilbert_jax.data.annotations import Rows, id_bytes, row_image_ids
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

_IDS_AT_ONCE = 1 << 18  # bounds the memory of the join; more is no faster


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of an annotation set a region store covers.

    Attributes:
        pairs: rows of the annotation set.
        pairs_used: rows whose image is in the store.
        images: different images that the rows name; ``images_present`` and ``images_absent`` add up to it.
        images_present: those in the store.
        images_absent: those not in the store.
        duplicates: rows that name an image which an earlier row names already.
        manifest: SHA-256 of the image ids of the rows used, in order, each followed by a line feed: what
            ``sha256sum`` says of a file that lists them.
    """

    pairs: int
    pairs_used: int
    images: int
    images_present: int
    images_absent: int
    duplicates: int
    manifest: str

    def __str__(self) -> str:
        """For example ``14,463 of 15,840 (91.3 %)``; a share is never rounded up to all."""
        share = np.floor(1000 * self.pairs_used / max(self.pairs, 1)) / 10
        return f"{self.pairs_used:,} of {self.pairs:,} ({share:.1f} %)"


def keep_covered(
    rows: Any, store: RegionStore, *more: RegionStore, least: float = 0.0, split: str | None = None
) -> tuple[Rows, Coverage]:
    """The rows of an annotation set whose image is in the store, and how many that are.

    Args:
        rows: from ``open_annotations``, or any others with an ``image_id``.
        store: the region store.
        *more: stores that must have the image as well.
        split: what they are called, for rows that do not say.
        least: smallest share of the rows that is accepted; none at all never is.

    Raises:
        InputError: the store has too few of the images; shows how either side names its images.
    """
    image_ids = row_image_ids(rows)
    store_ids = functools.reduce(np.intersect1d, [other.sorted_ids for other in more], store.sorted_ids)
    coverage, used = join(image_ids, store_ids)
    if coverage.pairs_used and coverage.pairs_used >= least * coverage.pairs:
        return (rows if len(used) == len(rows) else UsedRows(rows, used)), coverage
    theirs, ours = (
        " and ".join(repr(image_id.decode()) for image_id in id_bytes(ids[:2]).tolist())
        for ids in (image_ids, store.sorted_ids)
    )
    info = getattr(rows, "dataset_info", None)
    lower = ", or set min_coverage=0 to go on with these few" if coverage.pairs_used else ""
    others = "".join(f"  {other.path} must have them too, and holds {len(other)} images\n" for other in more)
    raise InputError(
        f"split {split or rows.split!r}: the region store has the images of only {coverage} pairs.\n"
        f"  {'the data' if info is None else info.data_dir} names images such as {theirs}\n"
        f"  {store.path} holds images such as {ours}\n{others}"
        f"Use the store that was made from these images, one that names them alike, or a split that it covers{lower}"
    )


class Join(NamedTuple):
    """A coverage and the rows that it counts as used: [pairs_used] int32, ascending."""

    coverage: Coverage
    rows: np.ndarray


def join(image_ids: np.ndarray, store_ids: np.ndarray) -> Join:
    """Finds the rows whose image is in a region store.

    Args:
        image_ids: of every row, from ``annotations.row_image_ids``.
        store_ids: ``RegionStore.sorted_ids``.
    """
    seen = np.zeros(len(store_ids), bool)
    manifest, rows, absent = hashlib.sha256(), [], []
    for start in range(0, len(image_ids), _IDS_AT_ONCE):
        wanted = id_bytes(image_ids[start : start + _IDS_AT_ONCE])
        place, found = _look_up(wanted, store_ids)
        seen[place[found]] = True
        absent.append(np.unique(wanted[~found]))
        rows.append((start + np.flatnonzero(found)).astype(np.int32))
        manifest.update(b"".join(image_id + b"\n" for image_id in wanted[found].tolist()))
    present, num_absent = int(seen.sum()), len(np.unique(np.concatenate(absent))) if absent else 0
    used = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    coverage = Coverage(
        pairs=len(image_ids),
        pairs_used=len(used),
        images=present + num_absent,
        images_present=present,
        images_absent=num_absent,
        duplicates=len(image_ids) - present - num_absent,
        manifest=manifest.hexdigest(),
    )
    return Join(coverage, used)


def _look_up(wanted: np.ndarray, store_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each id in ``store_ids`` [n] int64, and whether it really is there [n] bool."""
    if not len(store_ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    # As wide as the store's, or numpy would widen a copy of the store's for every chunk. An id cut short is not equal.
    short = wanted.astype(store_ids.dtype)
    order = np.argsort(short)  # neighbours are found on the same pages: four times as fast as in the given order
    place = np.empty(len(wanted), np.int64)
    place[order] = np.searchsorted(store_ids, short[order])
    place[place == len(store_ids)] = 0
    return place, store_ids[place] == wanted


class UsedRows:
    """Some rows of an annotation set, as if there were no others. Pickles, and is safe to read from several threads."""

    def __init__(self, rows: Rows, used: np.ndarray) -> None:
        """Takes the opened rows and the numbers [n] int32 of those to use."""
        self._rows, self._used = rows, used

    @property
    def dataset_info(self) -> Any:
        """Of the data set that the rows are some of; None where there is none."""
        return getattr(self._rows, "dataset_info", None)

    def __len__(self) -> int:
        """Number of rows used."""
        return len(self._used)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns one example."""
        return self._rows[int(self._used[index])]
