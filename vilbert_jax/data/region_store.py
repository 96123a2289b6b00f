"""Region stores: what a detector saw in each picture, one record a picture, read by image id.

n boxes in one picture, F feature width, C detector classes (background included where there is one).

Builders write through ``region_codec`` and this file's ``write_index``; everything else reads through ``RegionStore``.
A store is a TFDS data set (ArrayRecord) whose folder also holds the feature contract (in TFDS's metadata.json) and an
index from image id to row (two .npy files), which is memory-mapped, so that opening a store of millions of pictures
costs milliseconds and no memory.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import (
    Classifier,
    RegionRecord,
    Storage,
    StoredRegions,
    decode_example,
    decode_record,
)
from vilbert_jax.data.region_files import (
    CLASSIFIER_FILE,
    IDS_FILE,
    ROWS_FILE,
    DamagedError,
    find_folder,
    open_builder,
    read_classifier,
    read_index,
    read_meaning,
)
from vilbert_jax.errors import InputError

_PROBES = 16  # images of a store that its fingerprint reads


def store_metadata(contract: FeatureContract, storage: Storage) -> tfds.core.MetadataDict:
    """TFDS metadata of a region store: the contract and how arrays are stored."""
    return tfds.core.MetadataDict(feature_contract=contract.to_json(), storage=dataclasses.asdict(storage))


def write_index(folder: str | os.PathLike[str], ids_by_split: Mapping[str, Sequence[str]]) -> None:
    """Writes the index from image id to row into the folder of a store that is being built.

    Args:
        folder: where TFDS is writing the data set (before it renames the folder).
        ids_by_split: split name -> image ids in the order of its records.

    Raises:
        InputError: an image id occurs twice.
    """
    ids = np.array([i.encode() for split in sorted(ids_by_split) for i in ids_by_split[split]], dtype=np.bytes_)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise InputError(
            f"image id {ids.tolist()[twice[0]].decode()!r} occurs more than once ({len(twice)} repeated ids in all); "
            "a region store holds one record an image, over all splits"
        )
    np.save(pathlib.Path(folder) / IDS_FILE, ids)
    np.save(pathlib.Path(folder) / ROWS_FILE, order.astype(np.int64))


def write_classifier(folder: str | os.PathLike[str], classifier: Classifier) -> None:
    """Writes the classifier of a store with ``rebuilt`` class probabilities into the folder that is being built."""
    np.savez(pathlib.Path(folder) / CLASSIFIER_FILE, **classifier._asdict())


class RegionStore:
    """Regions by image id: `store[image_id]` is a `RegionRecord` with float32 arrays.

    All splits form one id space. Reading is by row, safe from several threads, and the store pickles as its path, so
    worker processes open it themselves.

    Attributes:
        path: the data-set folder.
        contract: what the features mean.
        storage: how arrays are kept on disk.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens the folder of a region store (`<data_dir>/<name>/<config>`, with or without the version).

        Raises:
            InputError: there is no complete region store at that path.
        """
        self.path = find_folder(path)
        self.contract, self.storage = read_meaning(self.path)
        self._classifier = read_classifier(self.path) if self.storage.class_probs == "rebuilt" else None
        self._ids, self._rows = read_index(self.path)
        self._sources = self._open_sources()
        self._ends = np.cumsum([len(source) for source in self._sources])
        if self._ends[-1] != len(self._ids):
            raise DamagedError(
                self.path, IDS_FILE, f"names {len(self._ids)} images, but there are {self._ends[-1]} records"
            )

    def __getitem__(self, image_id: str) -> RegionRecord:
        """The record of one picture; raises like ``stored``."""
        return decode_record(self.stored(image_id), self.contract.num_classes)

    def stored(self, image_id: str) -> StoredRegions:
        """The record of one picture as it is stored: what batches are made of.

        Raises:
            KeyError: the store has no such picture.
            DamagedError: the record cannot be read, or the index does not belong to the records.
        """
        at = self._find(image_id)
        if at is None:
            raise KeyError(f"image {image_id!r} is not in region store {self.path}")
        row = int(self._rows[at])
        if not 0 <= row < self._ends[-1]:
            raise DamagedError(self.path, ROWS_FILE, f"gives row {row} for {image_id!r}, there are {self._ends[-1]}")
        source = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[source - 1]) if source else 0
        try:
            example = self._sources[source][row - start]
        except (RuntimeError, ValueError, OSError) as error:
            shard, number = self._shard(source, row - start)
            raise DamagedError(
                self.path, shard, f"has a record {number}, image {image_id!r}, that cannot be read ({error})"
            ) from error
        record = decode_example(example, self._classifier)
        if record.image_id != image_id:
            raise DamagedError(
                self.path, ROWS_FILE, f"gives row {row} for {image_id!r}, but that is image {record.image_id!r}"
            )
        return record

    def __contains__(self, image_id: object) -> bool:
        """Whether the store has this picture."""
        return isinstance(image_id, str) and self._find(image_id) is not None

    def __len__(self) -> int:
        """Number of pictures, over all splits."""
        return len(self._ids)

    def __reduce__(self):
        """Pickles as the path."""
        return RegionStore, (self.path,)

    @property
    def sorted_ids(self) -> np.ndarray:
        """All image ids, sorted: [len(self)] fixed-width UTF-8 bytes, memory-mapped."""
        return self._ids

    @property
    def image_ids(self) -> list[str]:
        """All image ids, sorted by their UTF-8 bytes; of millions, ``sorted_ids`` takes less memory."""
        return [image_id.decode() for image_id in self._ids.tolist()]

    @property
    def fingerprint(self) -> str:
        """Hash of the contract, the image ids, and the boxes and features of up to 16 images spread over the store.

        Raises:
            DamagedError: one of these images cannot be read.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.contract.to_json(), sort_keys=True).encode())
        digest.update(b"\n".join(self._ids.tolist()))
        for image_id in self._ids[:: -(-len(self) // _PROBES)].tolist():
            record = self.stored(image_id.decode())
            for values in (record.boxes, record.features, record.scales):
                digest.update(np.ascontiguousarray(values).tobytes())
        return f"sha256:{digest.hexdigest()}"

    def _open_sources(self) -> list[Any]:
        """The records of every split, in the order of the splits' names."""
        builder = open_builder(self.path)
        files = {file.name for file in self.path.iterdir()}
        for split in builder.info.splits.values():
            if absent := sorted({pathlib.Path(name).name for name in split.filenames} - files):
                raise DamagedError(self.path, absent[0], f"is missing ({len(absent)} of {len(split.filenames)} shards)")
        return [
            builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]: TFDS's decorator hides it
            for split in sorted(builder.info.splits)
        ]

    def _shard(self, source: int, row: int) -> tuple[str, int]:
        """The file that holds a row of a split, and the row's number in it."""
        split = self._sources[source].dataset_info.splits[self._sources[source].split]
        ends = np.cumsum(split.shard_lengths)
        shard = int(np.searchsorted(ends, row, side="right"))
        return pathlib.Path(split.filepaths[shard]).name, row - int(ends[shard - 1] if shard else 0)

    def _find(self, image_id: str) -> int | None:
        """Position in the index, or None."""
        if "\0" in image_id:  # numpy ignores zero bytes at the end, so "a\\0" would be found as "a"
            return None
        try:
            wanted = np.bytes_(image_id.encode())
        except UnicodeEncodeError:  # a name of bytes that are no UTF-8; all ids of a store are
            return None
        if len(wanted) > self._ids.dtype.itemsize:  # numpy would widen a copy of the whole index to look for it
            return None
        at = int(np.searchsorted(self._ids, wanted))
        return at if at < len(self._ids) and self._ids[at] == wanted else None
